package pki

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/net/idna"

	"cjj365.cc/bb/shared/problem"
)

// MaxNames is how many names a certificate may have; public CAs take no more.
const MaxNames = 100

// Bounds of a name (RFC 1035 §2.3.4), and of one as it may be typed: each character of a U-label takes at
// least one byte of the A-label and four of UTF-8 at most.
const (
	maxName  = 253
	maxLabel = 63
	maxTyped = 4 * maxName
)

// Rules say which names a CA certifies.
type Rules struct {
	SingleLabels bool // names such as printer, that stand in no public zone
	Addresses    bool // IP addresses (RFC 8738)
	Others       bool // in a request: e-mail addresses and URIs, a common name that is no name, or none at all
}

// The rules there are.
var (
	Public  = Rules{}
	Private = Rules{SingleLabels: true, Addresses: true}
	Any     = Rules{SingleLabels: true, Addresses: true, Others: true}
)

// Names are the names of a certificate, the domain first, each once, as DNS has them. The domain may be
// empty if there are others. A problem names the one that will not do.
func (r Rules) Names(domain string, sans []string) ([]string, error) {
	// What is far beyond the limit is not read: names that are repeated do not count.
	if len(sans) > 2*MaxNames {
		return nil, tooMany(len(sans))
	}
	if domain != "" {
		sans = slices.Insert(slices.Clone(sans), 0, domain)
	}
	var names []string
	for _, san := range sans {
		name, err := r.Name(san)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0:
		return nil, problem.MissingField.New("Give at least one name for the certificate.")
	case len(names) > MaxNames:
		return nil, tooMany(len(names))
	}
	return names, nil
}

// CheckCovered refuses names that a wildcard among them covers, as Let's Encrypt does.
func CheckCovered(names []string) error {
	for _, name := range names {
		if _, parent, ok := strings.Cut(name, "."); ok && !strings.HasPrefix(name, "*.") && slices.Contains(names, "*."+parent) {
			return badName(name, "*."+parent+" covers it. Leave it out")
		}
	}
	return nil
}

func tooMany(n int) error {
	return problem.InvalidArgument.New("A certificate can have %d names, not %d.", MaxNames, n).With("limit", MaxNames)
}

// Name is one name as DNS has it: lower case, A-labels, without the trailing dot. What it returns it
// returns for itself.
func (r Rules) Name(typed string) (string, error) {
	if len(typed) > maxTyped {
		return "", badName(typed, "it is too long")
	}
	if address, err := netip.ParseAddr(typed); err == nil {
		if !r.Addresses || address.Zone() != "" {
			return "", badName(typed, "it is an IP address")
		}
		return address.Unmap().String(), nil
	}
	host, wildcard := strings.CutPrefix(typed, "*.")
	host, reason := toASCII(host)
	if reason == "" {
		reason = r.flaw(host, wildcard)
	}
	if reason != "" {
		return "", badName(typed, reason)
	}
	if wildcard {
		host = "*." + host
	}
	return host, nil
}

// toASCII maps a name as people type it to the one that is looked up (UTS #46, non-transitional, with the
// rules for bidirectional and joining characters). The profile is Lookup and not Registration, because a
// certificate must have the name that clients look up, and they map Bücher.example to xn--bcher-kva.example
// where Registration refuses its capital.
func toASCII(typed string) (host, reason string) {
	for _, c := range typed {
		if c <= unicode.MaxASCII && !ldh(unicode.ToLower(c)) && c != '.' {
			return "", fmt.Sprintf("it has the character %q", c)
		}
	}
	host, err := idna.Lookup.ToASCII(typed)
	if err == nil {
		// An A-label that stands for no U-label, or for another one, is seen when it is mapped again.
		var again string
		if again, err = idna.Lookup.ToASCII(host); err == nil && again == host {
			return strings.TrimSuffix(host, "."), ""
		}
	}
	return "", "it is no valid internationalized name (IDNA), or a label has hyphens at an end or in its third and fourth place"
}

func ldh(c rune) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' }

// isNumber tells of a last label whether resolvers take the whole for an IPv4 address.
func isNumber(label string) bool {
	hex, ok := strings.CutPrefix(label, "0x")
	if ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return label != "" && strings.Trim(label, "0123456789") == ""
}

// flaw is what is wrong with a name in lower-case ASCII; empty if nothing is.
func (r Rules) flaw(host string, wildcard bool) string {
	labels := strings.Split(host, ".")
	switch {
	case host == "":
		return "it is empty"
	case len(host) > maxName || wildcard && len("*.")+len(host) > maxName:
		return fmt.Sprintf("it has more than %d characters", maxName)
	case isNumber(labels[len(labels)-1]):
		return "it ends in a number, like an IP address"
	case len(labels) < 2 && wildcard:
		return "a wildcard needs two labels after its asterisk, as in *.example.org"
	case len(labels) < 2 && !r.SingleLabels:
		return "it needs two labels at least, as in example.org"
	}
	for _, label := range labels {
		switch {
		case label == "":
			return "it has an empty label"
		case len(label) > maxLabel:
			return fmt.Sprintf("it has a label of more than %d characters", maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, func(c rune) bool { return !ldh(c) }):
			// Whatever package idna thinks of it.
			return "it has a label that no host name has"
		}
	}
	return ""
}

func badName(name, reason string) error {
	return problem.InvalidArgument.New("%.100q cannot stand in a certificate: %s.", name, reason).With("name", printable(name))
}

// printable is a name as a stranger sent it, shortened, with nothing that moves a terminal's cursor or
// breaks a line.
func printable(name string) string {
	if len(name) > maxName {
		name = name[:maxName]
	}
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return unicode.ReplacementChar
		}
		return c
	}, name)
}
