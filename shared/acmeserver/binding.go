package acmeserver

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
)

// Binding lets whoever has its HMAC key make accounts.
type Binding struct {
	User, CA    int64
	ID          string // the kid
	Name        string
	APIKey      int64    // that minted it; 0 for a session
	Names       []string // as ParseNames gives them; what its accounts are issued without a challenge
	Profile     string   // of the CA, that its accounts get; empty to let them choose
	MaxAccounts int64    // 0 for no limit
	Accounts    int64    // made so far
	CreatedAt   time.Time
	ExpiresAt   time.Time // when it makes no more accounts; those it made go on. Zero for never
}

// Anything is the name that stands for all.
const Anything = "*"

// MaxBindings is how many a CA may have.
const MaxBindings = 1000

// Status of a binding.
const (
	BindingActive  = "ACTIVE"
	BindingExpired = "EXPIRED"
	BindingUsed    = "USED"
)

// Status tells whether the binding makes accounts.
func (b Binding) Status(now time.Time) string {
	switch {
	case !b.ExpiresAt.IsZero() && !now.Before(b.ExpiresAt):
		return BindingExpired
	case b.MaxAccounts > 0 && b.Accounts >= b.MaxAccounts:
		return BindingUsed
	}
	return BindingActive
}

// ParseNames puts what a user typed into the form that is stored: * alone for anything; DNS names, each with what is
// below it (.example.org for that only); ranges of addresses. They are permitted entries of pki.Constraints.
func ParseNames(typed []string) ([]string, error) {
	if slices.Contains(typed, Anything) {
		return []string{Anything}, nil
	}
	limits, err := constraints(typed).Normalize()
	if err != nil {
		if p, ok := errors.AsType[*problem.Error](err); ok {
			return nil, p.With("field", "names")
		}
		return nil, err
	}
	return slices.Concat(limits.PermittedDNS, limits.PermittedIP), nil
}

func constraints(names []string) (k pki.Constraints) {
	for _, name := range names {
		_, ofPrefix := netip.ParsePrefix(name)
		_, ofAddress := netip.ParseAddr(name)
		if ofPrefix == nil || ofAddress == nil {
			k.PermittedIP = append(k.PermittedIP, name)
		} else {
			k.PermittedDNS = append(k.PermittedDNS, name)
		}
	}
	return k
}

// Covers tells whether a name, a wildcard too, needs no challenge.
func (b Binding) Covers(name string) bool {
	if slices.Contains(b.Names, Anything) {
		return true
	}
	k := constraints(b.Names)
	// Constraints permit everything of a kind of which they list nothing; here that is nothing.
	if address, err := netip.ParseAddr(name); err == nil {
		return len(k.PermittedIP) > 0 && len(k.Violations(pki.AltNames{IP: []netip.Addr{address}})) == 0
	}
	return len(k.PermittedDNS) > 0 && len(k.Violations(pki.AltNames{DNS: []string{name}})) == 0
}
