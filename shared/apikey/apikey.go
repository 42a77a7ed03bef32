// Package apikey is a user's API keys: minting, rolling, and whether a token may still be used.
//
// A key's status is derived from its facts and the time. Its token exists once, in the answer that
// minted it; the record holds the SHA-256 digest. Rolling a key gives a new token while the old one
// goes on working until grace has passed since the first use of the new one: a lost answer locks
// nobody out, and a second roll before that first use replaces only the token that was lost.
package apikey

import (
	"net/netip"
	"slices"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/token"
)

// Bounds of a key. Lifetimes are those of the contract, §6.1.
const (
	DefaultLifetime = 30 * 24 * time.Hour
	DefaultGrace    = 300 * time.Second
	MaxPerUser      = 200  // live and lapsed together; lapsed ones make room
	MaxPermissions  = 2048 // bytes, encoded: the scope must fit API Gateway's authorizer context
	// KeptAfterExpiry is how long a lapsed key stays in lists before the table drops it.
	KeptAfterExpiry = 30 * 24 * time.Hour
)

// Status is what a key is at a moment.
type Status string

// A deleted key has no status: its record is gone.
const (
	Active  Status = "active"
	Expired Status = "expired"
)

// Key is the record. It never holds a token.
type Key struct {
	User, ID     int64
	Name         string
	Permissions  access.Permissions
	CIDRs        []string // where it may be used from; empty for anywhere
	Digest       []byte
	Previous     Previous
	Creator      string // the principal that made it
	CreatedAt    time.Time
	ExpiresAt    time.Time
	LastUsedAt   time.Time // zero if never; at most a minute late
	LastUsedFrom string    // address
}

// Previous is the token that a roll replaced, while it still works.
type Previous struct {
	Digest []byte        // empty when there is none
	Grace  time.Duration // how long it works after the first use of the new token
	Ends   time.Time     // zero until that first use
}

// New makes a key and its token.
func New(user, id int64, name string, permissions access.Permissions, creator string, now time.Time, lifetime time.Duration) (Key, token.Token) {
	t := token.Mint(token.APIKey, user, id)
	digest := t.Digest()
	return Key{
		User: user, ID: id, Name: name, Permissions: permissions, Creator: creator, Digest: digest[:],
		CreatedAt: now, ExpiresAt: now.Add(lifetime),
	}, t
}

// Status tells whether the key can be used at now.
func (k Key) Status(now time.Time) Status {
	if now.Before(k.ExpiresAt) {
		return Active
	}
	return Expired
}

// Verdict is what Admit says of a token.
type Verdict int

// The verdicts. FirstUse lets the token in and asks for the mark that starts the grace. Superseded lets
// the token before in, while its grace runs.
const (
	Refused Verdict = iota
	Admitted
	FirstUse
	Superseded
)

// Admit decides whether t is this key's token at now. Both comparisons are made always, in constant
// time.
func (k Key) Admit(t token.Token, now time.Time) Verdict {
	current, previous := t.Matches(k.Digest), t.Matches(k.Previous.Digest)
	pending := len(k.Previous.Digest) > 0 && k.Previous.Ends.IsZero()
	switch {
	case k.Status(now) != Active:
		return Refused
	case current && pending:
		return FirstUse
	case current:
		return Admitted
	case previous && pending:
		return Admitted
	case previous && now.Before(k.Previous.Ends):
		return Superseded
	}
	return Refused
}

// AdmitsFrom reports whether the key may be used from an address, as text.
func AdmitsFrom(cidrs []string, address string) bool {
	if len(cidrs) == 0 {
		return true
	}
	from, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	from = from.Unmap().WithZone("")
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil && p.Contains(from) {
			return true
		}
	}
	return false
}

// Within reports whether every address that ranges let in is one that the limits let in. No ranges let
// in every address.
func Within(ranges, limits []string) bool {
	if len(limits) == 0 {
		return true
	}
	for _, r := range ranges {
		inner, err := netip.ParsePrefix(r)
		if err != nil || !slices.ContainsFunc(limits, func(l string) bool {
			outer, err := netip.ParsePrefix(l)
			return err == nil && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
		}) {
			return false
		}
	}
	return len(ranges) > 0
}

// Roll gives the key a new token and returns it. Until that is used for the first time the old one
// works, and grace beyond it. A token whose grace runs already ends with the next roll.
func (k *Key) Roll(grace time.Duration) token.Token {
	t := token.Mint(token.APIKey, k.User, k.ID)
	digest := t.Digest()
	old := k.Digest
	if unused := len(k.Previous.Digest) > 0 && k.Previous.Ends.IsZero(); unused {
		old = k.Previous.Digest
	}
	k.Previous = Previous{Digest: old, Grace: grace}
	k.Digest = digest[:]
	return t
}

// MarkFirstUse starts the grace at now.
func (k *Key) MarkFirstUse(now time.Time) {
	k.Previous.Ends = now.Add(k.Previous.Grace)
}

// NeedsMark reports whether the last use is old enough to be written again: one write a minute.
func NeedsMark(last, now time.Time) bool { return now.Sub(last) >= time.Minute }

// Prefix is the public part of the key's tokens.
func (k Key) Prefix() string { return token.Public(token.APIKey, k.User, k.ID) }
