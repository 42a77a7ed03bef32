package acmeserver

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Identifier is what a certificate is to name (RFC 8555 §9.7.7, RFC 8738).
type Identifier struct {
	Type  string `json:"type" dynamodbav:"type"`
	Value string `json:"value" dynamodbav:"value"`
}

// Types of identifiers and of challenges.
const (
	DNS    = "dns"
	IP     = "ip"
	HTTP01 = "http-01"
	DNS01  = "dns-01"
)

// IdentifierOf is the identifier of a name as a certificate has it.
func IdentifierOf(name string) Identifier {
	if _, err := netip.ParseAddr(name); err == nil {
		return Identifier{IP, name}
	}
	return Identifier{DNS, name}
}

// Challenge is one way to show that a name is the account's.
type Challenge struct {
	Type        string
	Token       string
	ValidatedAt time.Time
	Error       *Problem
}

// Status derives it from the facts.
func (c Challenge) Status() Status {
	switch {
	case c.Error != nil:
		return Invalid
	case !c.ValidatedAt.IsZero():
		return Valid
	}
	return Pending
}

// Authorization is what an account must show to be issued one name.
type Authorization struct {
	Name          string // as the certificate has it, a wildcard with its asterisk
	Challenges    []Challenge
	DeactivatedAt time.Time
}

// Authorize is the authorization of a name for an order of an account with a binding. What the binding covers is valid
// from the start, with every challenge that there could be: acme.sh looks for the one of the kind that it was told.
func Authorize(name string, b Binding, now time.Time) Authorization {
	types := []string{HTTP01, DNS01}
	switch {
	case IdentifierOf(name).Type == IP: // RFC 8738 §7
		types = []string{HTTP01}
	case strings.HasPrefix(name, "*."): // RFC 8555 §8.3
		types = []string{DNS01}
	}
	a := Authorization{Name: name}
	covered := b.Covers(name)
	for _, t := range types {
		c := Challenge{Type: t, Token: NewToken()}
		if covered {
			c.ValidatedAt = now
		}
		a.Challenges = append(a.Challenges, c)
	}
	return a
}

// Identifier is that of the authorization, which has no asterisk (RFC 8555 §7.1.4); Wildcard tells of it.
func (a Authorization) Identifier() Identifier {
	return IdentifierOf(strings.TrimPrefix(a.Name, "*."))
}

// Wildcard tells whether it is for a wildcard.
func (a Authorization) Wildcard() bool { return strings.HasPrefix(a.Name, "*.") }

// Challenge finds the challenge of a type.
func (a Authorization) Challenge(kind string) (*Challenge, bool) {
	i := slices.IndexFunc(a.Challenges, func(c Challenge) bool { return c.Type == kind })
	if i < 0 {
		return nil, false
	}
	return &a.Challenges[i], true
}

// Status derives it from the challenges: one that is valid is enough, and one that failed ends it (RFC 8555 §7.1.6).
func (a Authorization) Status(expires, now time.Time) Status {
	has := func(s Status) bool {
		return slices.ContainsFunc(a.Challenges, func(c Challenge) bool { return c.Status() == s })
	}
	switch {
	case !a.DeactivatedAt.IsZero():
		return Deactivated
	case has(Invalid):
		return Invalid
	case !now.Before(expires):
		return Expired
	case has(Valid):
		return Valid
	}
	return Pending
}

// Shown are the challenges that belong to what it stands at: of a decided one those that decided it.
func (a Authorization) Shown() []Challenge {
	var decided []Challenge
	for _, c := range a.Challenges {
		if c.Status() != Pending {
			decided = append(decided, c)
		}
	}
	if len(decided) > 0 {
		return decided
	}
	return a.Challenges
}

// OrderLifetime is how long an order, its authorizations and the address of its certificate are there.
const OrderLifetime = 7 * 24 * time.Hour

// MaxIdentifiers is how many an order may have.
const MaxIdentifiers = 100

// Order is a certificate that an account asks for.
type Order struct {
	User, CA       int64
	ID             string
	Account        string
	Authorizations []Authorization
	Profile        string
	NotAfter       time.Time // as asked for; zero for the profile's
	Replaces       string    // id of the certificate that it replaces (RFC 9773 §5); empty for none
	ReplacesUntil  time.Time // the end of that one
	CreatedAt      time.Time
	ExpiresAt      time.Time

	CSR       []byte    // PKCS#10, DER, from the first finalize on
	StartedAt time.Time // of that
	LeaseEnds time.Time // until when whoever issues it is left alone
	Issuer    int64     // the CA that signed: the order's or the one that took its place
	Serial    string    // of the certificate; empty until there is one
	Drawn     string    // serial number that whoever issues it signs under
	Error     *Problem  // why it ended without one

	Revision int64
}

// Lease is how long an order is left to whoever issues it, longer than that may go on.
const Lease = 35 * time.Second

// Names are those that the certificate is to have.
func (o Order) Names() []string {
	names := make([]string, len(o.Authorizations))
	for i, a := range o.Authorizations {
		names[i] = a.Name
	}
	return names
}

// Status derives it from the facts. An order whose lease ended without a certificate is ready again: who issued it
// was killed.
func (o Order) Status(now time.Time) Status {
	switch {
	case o.Error != nil:
		return Invalid
	case o.Serial != "":
		return Valid
	case now.Before(o.LeaseEnds):
		return Processing
	case !now.Before(o.ExpiresAt):
		return Invalid
	}
	status := Ready
	for _, a := range o.Authorizations {
		switch a.Status(o.ExpiresAt, now) {
		case Valid:
		case Pending:
			status = Pending
		default:
			return Invalid
		}
	}
	return status
}
