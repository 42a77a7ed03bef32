package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
)

// Profile is what certificates of one kind are for, and how far a request may go. A list of names holds what may
// stand in the certificate, it and what is below it, as name constraints have it; "*" is any, and an empty list none.
type Profile struct {
	_        struct{} `additionalProperties:"false"` // a limit that is misspelt would be none
	Name     string   `json:"name" dynamodbav:"name" minLength:"1" maxLength:"64" pattern:"^[a-z0-9][a-z0-9_.-]*$"`
	Usages   []string `json:"usages" dynamodbav:"usages" maxItems:"10" doc:"Extended key usages: serverAuth, clientAuth, emailProtection, codeSigning, or an OID."`
	DNS      []string `json:"dns,omitempty" dynamodbav:"dns,omitempty" maxItems:"100" doc:"DNS names that may be certified, each with what is below it; * for any."`
	IP       []string `json:"ip,omitempty" dynamodbav:"ip,omitempty" maxItems:"100" doc:"Addresses that may be, as CIDR; * for any."`
	Email    []string `json:"email,omitempty" dynamodbav:"email,omitempty" maxItems:"100" doc:"E-mail addresses or their domains; * for any."`
	URI      []string `json:"uri,omitempty" dynamodbav:"uri,omitempty" maxItems:"100" doc:"Hosts of URIs; * for any."`
	NoWild   bool     `json:"no_wildcards,omitempty" dynamodbav:"no_wildcards,omitempty"`
	MaxNames int      `json:"max_names,omitempty" dynamodbav:"max_names,omitempty" minimum:"0" maximum:"100" doc:"0 for 100."`
	Seconds  int64    `json:"validity_seconds,omitempty" dynamodbav:"validity_seconds,omitempty" minimum:"0" maximum:"3153600000" doc:"Validity of requests that name none; 0 for 90 days or max_validity_seconds."`
	Most     int64    `json:"max_validity_seconds,omitempty" dynamodbav:"max_validity_seconds,omitempty" minimum:"0" maximum:"3153600000" doc:"0 for 825 days."`
	Policies []string `json:"policies,omitempty" dynamodbav:"policies,omitempty" maxItems:"5" doc:"Certificate policies (OIDs) that the certificates assert."`
	KeyTypes []string `json:"key_types,omitempty" dynamodbav:"key_types,omitempty" maxItems:"6" doc:"Types that keys may have; empty for all."`
}

const day = 24 * time.Hour

// Validity of profiles that say none. Apple's systems take no longer certificate than 825 days from a private CA.
const usualValidity, longestValidity, leastValidity = 90 * day, 825 * day, 5 * time.Minute

var anything = []string{"*"}

// Builtin are the profiles that every CA has.
var Builtin = []Profile{
	{Name: "server", Usages: []string{"serverAuth"}, DNS: anything, IP: anything},
	{Name: "client", Usages: []string{"clientAuth"}, DNS: anything, IP: anything, Email: anything, URI: anything},
	{Name: "both", Usages: []string{"serverAuth", "clientAuth"}, DNS: anything, IP: anything},
	{Name: "smime", Usages: []string{"emailProtection"}, Email: anything},
	{Name: "code_signing", Usages: []string{"codeSigning"}},
}

// Profile finds one of the CA's profiles; empty for its default.
func (c CA) Profile(name string) (Profile, error) {
	if name == "" {
		name = c.Default
	}
	if name == "" {
		name = "server"
	}
	names := []string{}
	for _, p := range slices.Concat(c.Profiles, Builtin) {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, problem.InvalidArgument.New("profile: this CA has none of that name. It has %s.", strings.Join(names, ", ")).With("field", "profile")
}

func (p Profile) most() time.Duration {
	if p.Most == 0 {
		return longestValidity
	}
	return time.Duration(p.Most) * time.Second
}

func (p Profile) usual() time.Duration {
	if p.Seconds == 0 {
		return min(usualValidity, p.most())
	}
	return time.Duration(p.Seconds) * time.Second
}

// usages are the extended key usages that have names, by name in lower case.
var usages = map[string]x509.ExtKeyUsage{
	"serverauth": x509.ExtKeyUsageServerAuth, "clientauth": x509.ExtKeyUsageClientAuth, "emailprotection": x509.ExtKeyUsageEmailProtection,
	"codesigning": x509.ExtKeyUsageCodeSigning,
}

var oidShape = regexp.MustCompile(`^[0-2](\.(0|[1-9][0-9]{0,8})){1,15}$`)

// reserved are usages that nobody is certified for by a profile: any usage at all, the signing of OCSP answers, and time
// stamping, which wants its extension critical (RFC 3161 §2.3).
var reserved = []string{"2.5.29.37.0", "1.3.6.1.5.5.7.3.9", "1.3.6.1.5.5.7.3.8"}

// usages are the extended key usages as certificates have them.
func (p Profile) usages() (parsed Usages) {
	for _, u := range p.Usages {
		if known, ok := usages[strings.ToLower(u)]; ok {
			parsed.Known = append(parsed.Known, known)
			continue
		}
		parsed.Other = append(parsed.Other, parseOID(u))
	}
	return parsed
}

// apply puts the usages and policies into a certificate.
func (p Profile) apply(c *x509.Certificate) {
	u := p.usages()
	c.ExtKeyUsage, c.UnknownExtKeyUsage = u.Known, u.Other
	for _, p := range p.Policies {
		if oid, err := x509.ParseOID(p); err == nil { // its shape was checked
			c.Policies = append(c.Policies, oid)
		}
	}
}

// validOID tells of a text with an OID's shape: below 0 and 1 there are 40 arcs.
func validOID(text string) bool {
	if !oidShape.MatchString(text) {
		return false
	}
	second, _ := strconv.Atoi(strings.Split(text, ".")[1])
	return text[0] == '2' || second < 40
}

func parseOID(text string) (oid asn1.ObjectIdentifier) {
	for arc := range strings.SplitSeq(text, ".") {
		n, _ := strconv.Atoi(arc) // its shape was checked
		oid = append(oid, n)
	}
	return oid
}

// CheckProfiles checks a user's templates and puts them into the one form that is stored.
func CheckProfiles(profiles []Profile) ([]Profile, error) {
	bad := func(p Profile, format string, args ...any) error {
		e := problem.InvalidArgument.New(format, args...)
		e.What = "profile " + strconv.Quote(p.Name) + ": " + e.What
		return e.With("field", "profiles").With("profile", p.Name)
	}
	if len(profiles) > 20 {
		return nil, problem.InvalidArgument.New("profiles: a CA may have 20 of its own.").With("field", "profiles")
	}
	seen := map[string]bool{}
	for _, p := range Builtin {
		seen[p.Name] = true
	}
	checked := make([]Profile, len(profiles))
	for i, p := range profiles {
		if seen[p.Name] {
			return nil, bad(p, "there is one of this name already.")
		}
		seen[p.Name] = true
		if len(p.Usages) == 0 {
			return nil, bad(p, "name at least one of its usages, such as serverAuth.")
		}
		for _, u := range p.Usages {
			_, named := usages[strings.ToLower(u)]
			if !named && !oidShape.MatchString(u) || slices.Contains(reserved, u) {
				return nil, bad(p, "%.60q is no usage that a certificate can have here.", u)
			}
			if !named && !validOID(u) {
				return nil, bad(p, "%.60q is no object identifier.", u)
			}
		}
		for _, oid := range p.Policies {
			if !validOID(oid) {
				return nil, bad(p, "%.60q is no object identifier.", oid)
			}
		}
		limits, err := p.limits().Normalize()
		if err != nil {
			return nil, bad(p, "%s", err.Error())
		}
		p = p.with(limits)
		if p.usual() > p.most() {
			return nil, bad(p, "validity_seconds is more than max_validity_seconds.")
		}
		if p.usual() < leastValidity {
			return nil, bad(p, "validity_seconds and max_validity_seconds are %d at least.", int(leastValidity.Seconds()))
		}
		for j, t := range p.KeyTypes {
			kind, err := pki.ParseKeyType(t)
			if err != nil {
				return nil, bad(p, "%.60q is no key type.", t)
			}
			p.KeyTypes[j] = string(kind)
		}
		checked[i] = p
	}
	return checked, nil
}

func isAny(list []string) bool { return slices.Contains(list, "*") }

// limits are the lists that are no "*", as what is permitted.
func (p Profile) limits() pki.Constraints {
	some := func(list []string) []string {
		if isAny(list) {
			return nil
		}
		return list
	}
	return pki.Constraints{PermittedDNS: some(p.DNS), PermittedIP: some(p.IP), PermittedEmail: some(p.Email), PermittedURI: some(p.URI)}
}

func (p Profile) with(k pki.Constraints) Profile {
	put := func(list *[]string, checked []string) {
		if isAny(*list) {
			*list = anything
		} else {
			*list = checked
		}
	}
	put(&p.DNS, k.PermittedDNS)
	put(&p.IP, k.PermittedIP)
	put(&p.Email, k.PermittedEmail)
	put(&p.URI, k.PermittedURI)
	return p
}

// refusal is why a name may not stand in a certificate of the profile; empty if it may.
func (p Profile) refusal(name string) string {
	kind := KindOf(name)
	list := map[string][]string{DNS: p.DNS, IP: p.IP, Email: p.Email, URI: p.URI}[kind]
	switch {
	case len(list) == 0:
		return "the profile " + p.Name + " certifies no " + kindNames[kind]
	case p.NoWild && strings.HasPrefix(name, "*."):
		return "the profile " + p.Name + " certifies no wildcards"
	case isAny(list):
		return ""
	}
	if reason := Violation(p.limits(), name); reason != "" {
		return "by the profile " + p.Name + " " + reason
	}
	return ""
}

// The kinds of names, as package pki's constraints know them.
const DNS, IP, Email, URI = "dns", "ip", "email", "uri"

var kindNames = map[string]string{DNS: "DNS names", IP: "IP addresses", Email: "e-mail addresses", URI: "URIs"}

// KindOf tells what a name is, by its looks: an URI has a scheme, an e-mail address an @, an address parses as one.
func KindOf(name string) string {
	switch {
	case strings.Contains(name, "://"):
		return URI
	case strings.Contains(name, "@"):
		return Email
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return IP
	}
	return DNS
}
