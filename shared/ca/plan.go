package ca

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
)

// Request is what a certificate is asked for.
type Request struct {
	Names      []string // in the form that Names gives
	CommonName string   // empty for the first name, where it fits
	Subject    pki.Subject
	Public     crypto.PublicKey // of the key to be certified; nil when only looked at
	Profile    string           // empty for the CA's default
	Validity   time.Duration    // 0 for the profile's
	NotAfter   time.Time        // in place of Validity; zero for none
	KeyType    pki.KeyType      // of one that is made later, when only looked at; empty if it is not known
	Serial     string           // to be signed under; empty for another
}

// Refused is one thing that a CA does not certify.
type Refused struct {
	Name  string `json:"name" doc:"The name refused; empty if it is about a field."`
	Field string `json:"field" doc:"The field refused; sans of a name."`
	Why   string `json:"why"`
}

// Plan is a certificate that may be signed.
type Plan struct {
	Template *x509.Certificate
	Profile  string
	Names    []string
	Warnings []string // what was done otherwise than asked for
}

// backdate is how far a certificate begins before it is made, at most: clocks differ. Of a short one it is a twelfth.
const backdate = 5 * time.Minute

// Names puts names of any kind into the form that certificates have, each once.
func Names(typed []string) ([]string, []Refused) {
	var names []string
	var refused []Refused
	if len(typed) > 2*pki.MaxNames {
		return nil, []Refused{{Field: "sans", Why: fmt.Sprintf("a certificate can have %d names", pki.MaxNames)}}
	}
	for _, t := range typed {
		name, err := oneName(t)
		if err != nil {
			refused = append(refused, Refused{printable(t), "sans", err.Error()})
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > pki.MaxNames {
		refused = append(refused, Refused{Field: "sans", Why: fmt.Sprintf("a certificate can have %d names, not %d", pki.MaxNames, len(names))})
	}
	return names, refused
}

func oneName(typed string) (string, error) {
	if len(typed) > 1012 {
		return "", fmt.Errorf("it is too long")
	}
	switch KindOf(typed) {
	case Email:
		return emailName(typed)
	case URI:
		return uriName(typed)
	}
	name, err := pki.Private.Name(typed)
	if p, ok := err.(*problem.Error); ok {
		_, reason, _ := strings.Cut(p.What, "cannot stand in a certificate: ")
		return "", fmt.Errorf("it cannot stand in a certificate: %s", strings.TrimSuffix(reason, "."))
	}
	return name, err
}

// emailName is an address as RFC 5280 §4.2.1.6 has it: ASCII, the host in lower case.
func emailName(typed string) (string, error) {
	local, host, _ := cutLast(typed, "@")
	parsed, err := mail.ParseAddress(typed)
	if err != nil || parsed.Address != typed || parsed.Name != "" || len(typed) > 254 || strings.ContainsAny(local, `"\ `) || !ascii(local) {
		return "", fmt.Errorf("it is no e-mail address that a certificate can have")
	}
	host, err = pki.Public.Name(host)
	if err != nil || strings.HasPrefix(host, "*.") {
		return "", fmt.Errorf("its host is no DNS name")
	}
	return local + "@" + host, nil
}

// uriName is a URI with a scheme and a host, as RFC 5280 §4.2.1.6 wants it.
func uriName(typed string) (string, error) {
	parsed, err := url.Parse(typed)
	if err != nil || parsed.Scheme == "" || parsed.Host == "" || parsed.User != nil || !ascii(typed) || parsed.String() != typed || strings.ContainsAny(typed, " \t\r\n") {
		return "", fmt.Errorf("it is no URI that a certificate can have: a scheme, a host, and ASCII only")
	}
	host := parsed.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return typed, nil
	}
	if name, err := pki.Private.Name(host); err != nil || name != host {
		return "", fmt.Errorf("its host is no DNS name in lower case")
	}
	return typed, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < 0x21 || c > 0x7e })
}

func printable(name string) string {
	if len(name) > 253 {
		name = name[:253]
	}
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f || c == '\u202e' || c == '\ufeff' {
			return '\ufffd'
		}
		return c
	}, strings.ToValidUTF8(name, "\ufffd"))
}

// Refuse is the answer to a request of which some things are refused.
func Refuse(refused []Refused) error {
	first := refused[0]
	what := first.Why
	if first.Name != "" {
		what = fmt.Sprintf("%.100q: %s", first.Name, first.Why)
	}
	if more := len(refused) - 1; more > 0 {
		what += fmt.Sprintf(" (and %d more, see refused)", more)
	}
	return problem.InvalidArgument.New("The CA does not certify this: %s.", strings.TrimSuffix(what, ".")).With("refused", refused).With("field", first.Field)
}

// Constrains is why a name may not stand below the CA; empty if it may. Each CA of the chain has its say.
func (c CA) Constrains(name string) string {
	p := c.parse()
	for i, constraints := range p.constraints {
		if reason := Violation(constraints, name); reason != "" {
			if i == 0 {
				return "by the CA's name constraints " + reason
			}
			return fmt.Sprintf("by the name constraints of %q above the CA %s", p.chain[i].Subject.CommonName, reason)
		}
	}
	return ""
}

// Violation is why a name may not stand below a CA with the constraints; empty if it may.
func Violation(k pki.Constraints, name string) string {
	var names pki.AltNames
	switch KindOf(name) {
	case IP:
		names.IP = []netip.Addr{netip.MustParseAddr(name)}
	case Email:
		names.Emails = []string{name}
	case URI:
		names.URIs = []string{name}
	default:
		names.DNS = []string{name}
	}
	for _, v := range k.Violations(names) {
		return v.Reason
	}
	return ""
}

// Look holds a request against the CA: the plan, and everything that is refused. With anything refused there is
// no certificate by it.
func (c CA) Look(r Request, now time.Time) (Plan, []Refused, error) {
	c = c.Parsed()
	switch c.Status(now) {
	case Pending:
		return Plan{}, nil, problem.Conflict.New("The CA has no certificate yet. Have its request (GET csr) signed, and POST the certificate.")
	case Expired:
		return Plan{}, nil, problem.Conflict.New("The CA's certificate, or one above it, has expired. Rotate it, or make another CA.")
	case Revoked:
		return Plan{}, nil, problem.Conflict.New("The CA's certificate, or one above it, is revoked since %s. Rotate it, or make another CA.", c.RevokedAt.Format(time.DateOnly))
	case Rotated:
		return Plan{}, nil, problem.Conflict.New("CA %d has taken this one's place.", c.Next)
	}
	profile, err := c.Profile(r.Profile)
	if err != nil {
		return Plan{}, nil, err
	}
	own := c.Certificate()
	plan := Plan{Profile: profile.Name, Names: r.Names}
	refused := c.refuse(r, profile)

	validity := r.Validity
	switch {
	case !r.NotAfter.IsZero():
		validity = r.NotAfter.Sub(now.Truncate(time.Second)) + time.Second
	case validity == 0:
		validity = profile.usual()
	}
	switch {
	case validity < leastValidity:
		refused = append(refused, Refused{Field: "validity_seconds", Why: fmt.Sprintf("it is %d at least", int(leastValidity.Seconds()))})
	case validity > profile.most():
		refused = append(refused, Refused{Field: "validity_seconds", Why: fmt.Sprintf("the profile %s allows %d at most", profile.Name, int64(profile.most().Seconds()))})
	}
	begin := now.Add(-min(backdate, validity/12))
	end := begin.Add(validity - time.Second) // its last second counts (RFC 5280 §4.1.2.5)
	if !r.NotAfter.IsZero() {
		begin, end = now.Add(-max(0, min(backdate, validity/12, profile.most()-validity))), r.NotAfter
	}
	if begin.Before(own.NotBefore) {
		begin = own.NotBefore
	}
	if first := c.Ends(); end.After(first) {
		end = first
		plan.Warnings = append(plan.Warnings, "The certificate ends with its CA's, before it was asked to.")
	}
	template := &x509.Certificate{
		Subject: subject(r.Subject, r.CommonName), NotBefore: begin.UTC().Truncate(time.Second), NotAfter: end.UTC().Truncate(time.Second),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		CRLDistributionPoints: []string{c.CRLURL()}, OCSPServer: []string{c.OCSPURL()}, IssuingCertificateURL: []string{c.CertificateURL()},
	}
	profile.apply(template)
	if r.Public != nil {
		kind, _ := pki.Strength(r.Public) // weak ones are among the refused
		signsOnly := slices.Equal(template.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning})
		switch {
		case strings.HasPrefix(string(kind), "rsa") && !signsOnly:
			template.KeyUsage |= x509.KeyUsageKeyEncipherment
		case strings.HasPrefix(string(kind), "ecdsa") && slices.Contains(template.ExtKeyUsage, x509.ExtKeyUsageEmailProtection):
			template.KeyUsage |= x509.KeyUsageKeyAgreement // or nobody could encrypt to it
		}
		if template.SubjectKeyId, err = keyID(r.Public); err != nil {
			return plan, nil, err
		}
	}
	// OpenSSL holds constraints of DNS names against a common name that looks like one, and so does an address.
	if first := domainOf(r.Names); template.Subject.CommonName == "" && len(first) <= 64 {
		template.Subject.CommonName = first
	}
	setNames(template, r.Names)
	plan.Template = template
	return plan, refused, nil
}

// Plan is Look for what is to be signed: anything refused is an error.
func (c CA) Plan(r Request, now time.Time) (Plan, error) {
	plan, refused, err := c.Look(r, now)
	if err == nil && len(refused) > 0 {
		err = Refuse(refused)
	}
	return plan, err
}

func (c CA) refuse(r Request, profile Profile) (refused []Refused) {
	for _, name := range r.Names {
		why := profile.refusal(name)
		if why == "" {
			why = c.Constrains(name)
		}
		if why != "" {
			refused = append(refused, Refused{name, "sans", why})
		}
	}
	most := profile.MaxNames
	if most == 0 {
		most = pki.MaxNames
	}
	nameless := len(profile.DNS)+len(profile.IP)+len(profile.Email)+len(profile.URI) == 0
	switch {
	case len(r.Names) > most:
		refused = append(refused, Refused{Field: "sans", Why: fmt.Sprintf("the profile %s allows %d names, not %d", profile.Name, most, len(r.Names))})
	case len(r.Names) == 0 && !nameless:
		refused = append(refused, Refused{Field: "sans", Why: "give at least one name"})
	case nameless && r.CommonName == "":
		refused = append(refused, Refused{Field: "common_name", Why: "the profile " + profile.Name + " needs one"})
	}
	if len([]rune(r.CommonName)) > 64 {
		refused = append(refused, Refused{Field: "common_name", Why: "it has more than 64 characters"})
	}
	// A verifier that knows no SANs takes the common name for one.
	if !nameless && r.CommonName != "" && !slices.Contains(r.Names, r.CommonName) && looksLikeName(r.CommonName) {
		refused = append(refused, Refused{Field: "common_name", Why: "it looks like a name, and is not among the names"})
	}
	if cn, err := pki.Private.Name(r.CommonName); err == nil && !slices.Contains(r.Names, cn) {
		why := c.Constrains(cn)
		if why == "" && len(profile.DNS) > 0 && slices.Contains(profile.usages().Known, x509.ExtKeyUsageServerAuth) {
			why = profile.refusal(cn)
		}
		if why != "" {
			refused = append(refused, Refused{Field: "common_name", Why: why})
		}
	}
	p, wanted := c.parse(), profile.usages()
	for i, limit := range p.usages {
		if !limit.allow(wanted) {
			refused = append(refused, Refused{Field: "profile", Why: fmt.Sprintf("%q certifies for other usages than the profile %s has", p.chain[i].Subject.CommonName, profile.Name)})
		}
	}
	kind := r.KeyType
	if r.Public != nil {
		var err error
		if kind, err = pki.Strength(r.Public); err != nil {
			refused = append(refused, Refused{Field: "csr", Why: "its key is too weak, or of a kind that is not known here"})
		}
	}
	if kind != "" && len(profile.KeyTypes) > 0 && !slices.Contains(profile.KeyTypes, string(kind)) {
		refused = append(refused, Refused{Field: "key_type", Why: "the profile " + profile.Name + " allows " + strings.Join(profile.KeyTypes, ", ")})
	}
	if r.Public != nil {
		if der, err := x509.MarshalPKIXPublicKey(r.Public); err == nil && bytes.Equal(der, c.Public) {
			refused = append(refused, Refused{Field: "csr", Why: "its key is the CA's own"})
		}
	}
	return refused
}

// domainOf is the first name if it may be a common name.
func domainOf(names []string) string {
	if len(names) == 0 || KindOf(names[0]) == IP || KindOf(names[0]) == URI {
		return ""
	}
	return names[0]
}

func looksLikeName(s string) bool {
	return !strings.ContainsAny(s, " ") && (strings.ContainsAny(s, ".@:"))
}

func subject(s pki.Subject, commonName string) pkix.Name {
	field := func(v string) []string {
		if v == "" {
			return nil
		}
		return []string{v}
	}
	return pkix.Name{
		Organization: field(s.Organization), OrganizationalUnit: field(s.Unit), Country: field(s.Country), Province: field(s.State), Locality: field(s.Locality),
		CommonName: commonName,
	}
}

func setNames(c *x509.Certificate, names []string) {
	for _, name := range names {
		switch KindOf(name) {
		case IP:
			c.IPAddresses = append(c.IPAddresses, netip.MustParseAddr(name).AsSlice())
		case Email:
			c.EmailAddresses = append(c.EmailAddresses, name)
		case URI:
			if u, err := url.Parse(name); err == nil {
				c.URIs = append(c.URIs, u)
			}
		default:
			c.DNSNames = append(c.DNSNames, name)
		}
	}
}

// keyID is a subject key identifier by RFC 7093 §2, method 1.
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}
