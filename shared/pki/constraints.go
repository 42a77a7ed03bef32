package pki

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"

	"cjj365.cc/bb/shared/problem"
)

// Constraints are the names that certificates below a CA may have (RFC 5280 §4.2.1.10). Where nothing of a kind
// is permitted, all of that kind is; what is excluded is so in any case. An entry is
//
//	DNS     example.org, itself and all below it; .example.org, what is below it only
//	IP      10.0.0.0/8, or an address for itself alone
//	e-mail  ann@example.org; example.org, the addresses of that host; .example.org, those of all hosts below it
//	URI     example.org, that host; .example.org, all hosts below it
//
// A CA's certificate is read by many: crypto/x509 takes the host of an e-mail address or URI for itself and all
// below it, OpenSSL and the RFC for itself alone. crypto/x509 finds *.example.org excluded by a.example.org,
// OpenSSL does not. Here a name is good only if it is for both. An entry that they read apart in other ways,
// such as an empty one or *.example.org, is refused by Normalize.
//
// Constraints bind the alternative names. OpenSSL applies them to a common name too where there are no DNS
// names beside it, and to an e-mail address in the subject.
type Constraints struct {
	PermittedDNS, ExcludedDNS     []string
	PermittedIP, ExcludedIP       []string // CIDR
	PermittedEmail, ExcludedEmail []string
	PermittedURI, ExcludedURI     []string
}

// MaxConstraints is how many entries each list may have.
const MaxConstraints = 100

// AltNames are the names of a certificate by kind.
type AltNames struct {
	DNS    []string
	IP     []netip.Addr
	Emails []string
	URIs   []string
}

// Violation is a name that may not stand below a CA, and why, as the end of a sentence.
type Violation struct {
	Name, Reason string
}

// A kind is one of the four with its entries.
type kind struct {
	label, plural, field string
	permitted, excluded  *[]string
	// entry is an entry as it stands in a certificate, or what is wrong with it.
	entry func(typed string) (entry, reason string)
	// covers tells whether an entry covers a name, or all that another entry does: the narrow way is what every
	// verifier sees covered, the other what any does.
	covers func(entry, inner string, narrow bool) bool
}

func (k *Constraints) kinds() [4]kind {
	return [...]kind{
		{"DNS", "DNS names", "dns", &k.PermittedDNS, &k.ExcludedDNS, hostEntry, coversDNS},
		{"IP", "IP addresses", "ip", &k.PermittedIP, &k.ExcludedIP, prefixEntry, coversIP},
		{"email", "e-mail addresses", "email", &k.PermittedEmail, &k.ExcludedEmail, emailEntry, coversEmail},
		{"URI", "URIs", "uri", &k.PermittedURI, &k.ExcludedURI, hostEntry, coversHost},
	}
}

// Empty tells whether everything is permitted.
func (k Constraints) Empty() bool {
	for _, kind := range k.kinds() {
		if len(*kind.permitted) > 0 || len(*kind.excluded) > 0 {
			return false
		}
	}
	return true
}

// Normalize is what a user typed as it stands in a certificate, each entry once. A problem names the entry that
// will not do.
func (k Constraints) Normalize() (Constraints, error) {
	var written Constraints
	to := written.kinds()
	for i, kind := range k.kinds() {
		var err error
		if *to[i].permitted, err = kind.normalize("permitted", *kind.permitted); err != nil {
			return Constraints{}, err
		}
		if *to[i].excluded, err = kind.normalize("excluded", *kind.excluded); err != nil {
			return Constraints{}, err
		}
	}
	return written, nil
}

func (k kind) normalize(list string, typed []string) ([]string, error) {
	field := list + "_" + k.field
	if len(typed) > MaxConstraints {
		return nil, problem.InvalidArgument.New("A CA can have %d %s %s, not %d.", MaxConstraints, list, k.plural, len(typed)).With("field", field).With("limit", MaxConstraints)
	}
	var entries []string
	for _, t := range typed {
		entry, reason := "", "it is too long"
		if len(t) <= 2*maxTyped {
			entry, reason = k.entry(t)
		}
		if reason != "" {
			return nil, problem.InvalidArgument.New("%.100q cannot stand among the %s %s: %s.", t, list, k.plural, reason).
				With("field", field).With("name", printable(t))
		}
		if !slices.Contains(entries, entry) {
			entries = append(entries, entry)
		}
	}
	return entries, nil
}

// hostEntry is a host or what is below it.
func hostEntry(typed string) (entry, reason string) {
	if below, ok := strings.CutPrefix(typed, "*."); ok {
		return "", fmt.Sprintf("it has an asterisk. Write %.100q for all names below", "."+below)
	}
	host, dotted := strings.CutPrefix(typed, ".")
	if len(host) > maxTyped {
		return "", "it is too long"
	}
	host, reason = toASCII(host)
	if reason == "" {
		reason = Private.flaw(host, false)
	}
	if reason == "" && dotted {
		host = "." + host
	}
	return host, reason
}

func prefixEntry(typed string) (entry, reason string) {
	prefix, err := netip.ParsePrefix(typed)
	if err != nil {
		address, err := netip.ParseAddr(typed)
		if err != nil || address.Zone() != "" {
			return "", "it is no range of addresses such as 192.0.2.0/24 or 2001:db8::/32"
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	switch {
	case prefix.Addr().Is4In6():
		return "", "it is an IPv4 address in IPv6, which verifiers read apart. Write it as IPv4"
	case prefix != prefix.Masked():
		return "", fmt.Sprintf("it has bits beyond the prefix. Write %s", prefix.Masked())
	}
	return prefix.String(), ""
}

// localShape is a dot-atom (RFC 5322 §3.2.3). The asterisk is an atom too, but people mean all by it. Quotes and
// backslashes, which crypto/x509 takes away and OpenSSL compares, are none.
var localShape = regexp.MustCompile("^[A-Za-z0-9!#$%&'+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'+/=?^_`{|}~-]+)*$")

const maxLocal = 64 // RFC 5321 §4.5.3.1.1

// emailEntry leaves the case of what stands before the @, which counts (RFC 5280 §7.5).
func emailEntry(typed string) (entry, reason string) {
	local, host, full := strings.Cut(typed, "@")
	switch {
	case !full:
		return hostEntry(typed)
	case len(local) > maxLocal || !localShape.MatchString(local):
		return "", "what stands before its @ is no plain name. For all addresses of a host write the host"
	case strings.HasPrefix(host, "."):
		return "", "it has an empty label"
	}
	host, reason = hostEntry(host)
	return local + "@" + host, reason
}

// coversHost compares hosts, and entries with a leading dot.
func coversHost(entry, inner string, narrow bool) bool {
	switch {
	case entry == "": // crypto/x509 finds all names in it, OpenSSL none
		return !narrow
	case inner == entry:
		return true
	case strings.HasPrefix(entry, "."):
		return strings.HasSuffix(inner, entry)
	}
	return !narrow && strings.HasSuffix(inner, "."+entry)
}

func coversDNS(entry, inner string, narrow bool) bool {
	if entry == "" || coversHost(entry, inner, false) {
		return true
	}
	// A wildcard that covers an excluded name would speak for it (CVE-2025-61727).
	parent, wildcard := strings.CutPrefix(inner, "*.")
	_, above, below := strings.Cut(entry, ".")
	return !narrow && wildcard && below && parent == above && entry[0] != '.'
}

func coversEmail(entry, inner string, narrow bool) bool {
	if strings.Contains(entry, "@") {
		return inner == entry
	}
	return coversHost(entry, inner[strings.LastIndexByte(inner, '@')+1:], narrow)
}

func coversIP(entry, inner string, narrow bool) bool {
	outer, err := netip.ParsePrefix(entry)
	if err != nil {
		return !narrow
	}
	prefix, err := netip.ParsePrefix(inner)
	if err != nil {
		return !narrow
	}
	return outer.Bits() <= prefix.Bits() && outer.Contains(prefix.Addr())
}

// ConstraintsOf are those of a CA's certificate as they stand there; nobody has checked them. Those of other
// kinds, such as directory names, are not among them: UnderstoodConstraints tells.
func ConstraintsOf(c *x509.Certificate) Constraints {
	return Constraints{
		PermittedDNS: lower(c.PermittedDNSDomains), ExcludedDNS: lower(c.ExcludedDNSDomains),
		PermittedIP: prefixes(c.PermittedIPRanges), ExcludedIP: prefixes(c.ExcludedIPRanges),
		PermittedEmail: lower(c.PermittedEmailAddresses), ExcludedEmail: lower(c.ExcludedEmailAddresses),
		PermittedURI: lower(c.PermittedURIDomains), ExcludedURI: lower(c.ExcludedURIDomains),
	}
}

var nameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// UnderstoodConstraints tells whether a certificate has no other name constraints than ConstraintsOf gives, critical or
// not: a CA must not certify in spite of those that crypto/x509 passes over.
func UnderstoodConstraints(c *x509.Certificate) bool {
	// GeneralName (RFC 5280 §4.2.1.6): rfc822Name, dNSName, uniformResourceIdentifier, iPAddress.
	understood := []tag.Tag{tag.Tag(1).ContextSpecific(), tag.Tag(2).ContextSpecific(), tag.Tag(6).ContextSpecific(), tag.Tag(7).ContextSpecific()}
	for _, e := range c.Extensions {
		if !e.Id.Equal(nameConstraints) {
			continue
		}
		value := cryptobyte.String(e.Value)
		var lists cryptobyte.String
		if !value.ReadASN1(&lists, tag.SEQUENCE) || !value.Empty() {
			return false
		}
		for !lists.Empty() {
			var subtrees, subtree, base cryptobyte.String
			var which, kind tag.Tag
			if !lists.ReadAnyASN1(&subtrees, &which) {
				return false
			}
			for !subtrees.Empty() {
				if !subtrees.ReadASN1(&subtree, tag.SEQUENCE) || !subtree.ReadAnyASN1(&base, &kind) || !slices.Contains(understood, kind) {
					return false
				}
				if !subtree.Empty() { // minimum and maximum must be absent (RFC 5280 §4.2.1.10)
					return false
				}
			}
		}
	}
	return true
}

// lower leaves what stands before an @ as it is.
func lower(entries []string) []string {
	var written []string
	for _, e := range entries {
		at := strings.LastIndexByte(e, '@') + 1
		written = append(written, e[:at]+strings.ToLower(e[at:]))
	}
	return written
}

func prefixes(ranges []*net.IPNet) []string {
	var written []string
	for _, r := range ranges {
		address, _ := netip.AddrFromSlice(r.IP)
		ones, _ := r.Mask.Size()
		written = append(written, netip.PrefixFrom(address, ones).Masked().String())
	}
	return written
}

// Apply writes normalized constraints to the template of a CA's certificate. They are critical, as RFC 5280 has
// it: who cannot read them must not trust the CA.
func (k Constraints) Apply(template *x509.Certificate) {
	ranges := func(entries []string) []*net.IPNet {
		var nets []*net.IPNet
		for _, e := range entries {
			if prefix, err := netip.ParsePrefix(e); err == nil {
				nets = append(nets, &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())})
			}
		}
		return nets
	}
	template.PermittedDNSDomainsCritical = !k.Empty()
	template.PermittedDNSDomains, template.ExcludedDNSDomains = k.PermittedDNS, k.ExcludedDNS
	template.PermittedIPRanges, template.ExcludedIPRanges = ranges(k.PermittedIP), ranges(k.ExcludedIP)
	template.PermittedEmailAddresses, template.ExcludedEmailAddresses = k.PermittedEmail, k.ExcludedEmail
	template.PermittedURIDomains, template.ExcludedURIDomains = k.PermittedURI, k.ExcludedURI
}

// Violations are those of the names that may not stand below a CA with these constraints.
func (k Constraints) Violations(names AltNames) []Violation {
	if k.Empty() {
		return nil
	}
	var found []Violation
	kinds := k.kinds()
	judge := func(kind kind, name, comparable string, readable bool) {
		reason := "it cannot be compared with the CA's constraints, or verifiers read it apart"
		if readable {
			reason = kind.violation(comparable)
		}
		if reason != "" {
			found = append(found, Violation{name, reason})
		}
	}
	for _, name := range names.DNS {
		comparable := strings.ToLower(name)
		judge(kinds[0], name, comparable, !slices.Contains(strings.Split(comparable, "."), ""))
	}
	for _, address := range names.IP {
		plain := address.Unmap()
		judge(kinds[1], address.String(), fmt.Sprintf("%s/%d", plain, plain.BitLen()), plain.IsValid() && plain.Zone() == "")
	}
	for _, name := range names.Emails {
		comparable, reason := emailEntry(name)
		judge(kinds[2], name, comparable, reason == "" && strings.Contains(name, "@") && comparable == lower([]string{name})[0])
	}
	for _, name := range names.URIs {
		host, readable := hostOf(name)
		judge(kinds[3], name, host, readable)
	}
	return found
}

func (k kind) violation(name string) string {
	for _, e := range *k.excluded {
		if k.covers(e, name, false) {
			return fmt.Sprintf("excluded by %s:%s", k.label, e)
		}
	}
	if len(*k.permitted) == 0 || slices.ContainsFunc(*k.permitted, func(e string) bool { return k.covers(e, name, true) }) {
		return ""
	}
	return fmt.Sprintf("not within the permitted %s %s", k.plural, some(*k.permitted))
}

// some are the first entries of a list, for a sentence.
func some(entries []string) string {
	const enough = 5
	if len(entries) > enough {
		return fmt.Sprintf("%s and %d more", strings.Join(entries[:enough], ", "), len(entries)-enough)
	}
	return strings.Join(entries, ", ")
}

var uriShape = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9.-]+)(:[0-9]*(/.*)?|(/[^:]*)?)$`)

// hostOf is the host of a URI, if every verifier finds the same one. crypto/x509 refuses a URI without a host,
// or with an address for one, below any constraints at all. OpenSSL ends the host at the first colon or else
// slash, and takes user names for a part of it.
func hostOf(uri string) (string, bool) {
	match := uriShape.FindStringSubmatch(uri)
	if match == nil {
		return "", false
	}
	if _, err := url.Parse(uri); err != nil {
		return "", false
	}
	host, reason := hostEntry(match[1])
	return host, reason == "" && !strings.HasPrefix(host, ".") && host == strings.ToLower(match[1])
}

// Conflicts are findings about entries that have no effect.
func (k Constraints) Conflicts() []string {
	var found []string
	for _, kind := range k.kinds() {
		found = append(found, repeated(kind, "permitted", *kind.permitted)...)
		found = append(found, repeated(kind, "excluded", *kind.excluded)...)
		found = append(found, shut(kind, *kind.permitted, *kind.excluded, "")...)
	}
	return found
}

// Within are findings about a CA with these constraints below one with others: what it permits must be permitted
// there. A kind of which it permits nothing in particular is left to the parent.
func (k Constraints) Within(parent Constraints) []string {
	var found []string
	above := parent.kinds()
	for i, kind := range k.kinds() {
		allowed := *above[i].permitted
		for _, e := range *kind.permitted {
			if len(allowed) > 0 && !slices.ContainsFunc(allowed, func(a string) bool { return kind.covers(a, e, true) }) {
				found = append(found, fmt.Sprintf("permitted %s:%s is not within the permitted %s of the CA above, %s", kind.label, e, kind.plural, some(allowed)))
			}
		}
		found = append(found, shut(kind, *kind.permitted, *above[i].excluded, " of the CA above")...)
	}
	return found
}

func repeated(k kind, list string, entries []string) []string {
	var found []string
	for i, e := range entries {
		for j, other := range entries {
			// Of two that are alike, the second is told.
			if i != j && k.covers(other, e, true) && (j < i || !k.covers(e, other, true)) {
				found = append(found, fmt.Sprintf("%s %s:%s is within %s:%s already", list, k.label, e, k.label, other))
				break
			}
		}
	}
	return found
}

func shut(k kind, permitted, excluded []string, whose string) []string {
	var found []string
	for _, e := range permitted {
		if i := slices.IndexFunc(excluded, func(x string) bool { return k.covers(x, e, false) }); i >= 0 {
			found = append(found, fmt.Sprintf("permitted %s:%s is wholly excluded by %s:%s%s", k.label, e, k.label, excluded[i], whose))
		}
	}
	return found
}
