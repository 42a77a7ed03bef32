// Package session is a user's logins: the session itself, and the refresh tokens that renew it.
//
// A session slides: each use within Sliding keeps it, up to Hard after the login. A refresh family is
// the line of refresh tokens that one login began; each is used once (contract §4). The lost answer
// is the hard case: within ReplayWindow of a rotation, while no successor has been used, the spent
// token gets another pair. A spent token shown later is taken for stolen and ends the family.
package session

import (
	"bytes"
	"slices"
	"time"

	"cjj365.cc/bb/shared/token"
)

// Lifetimes (contract §2.9, §4).
const (
	Sliding         = 24 * time.Hour
	Hard            = 7 * 24 * time.Hour
	AccessLifetime  = time.Hour // of a session that a refresh token renews
	RefreshLifetime = 30 * 24 * time.Hour
	ReplayWindow    = 120 * time.Second
	// MaxPerUser bounds logins. Each has one or two items, and one transaction must end them all.
	MaxPerUser = 40
	maxSpent   = 64 // spent tokens that a family remembers
)

// Session is one login.
type Session struct {
	User, ID   int64
	Email      string
	Digest     []byte
	Family     int64     // of the refresh tokens that renew it; 0 if none do
	CreatedAt  time.Time // when the user authenticated
	ExpiresAt  time.Time
	HardEnd    time.Time
	LastUsedAt time.Time
}

// New makes a session and its token. id is random: sessions are not counted.
func New(user, id int64, email string, now time.Time) (Session, token.Token) {
	t := token.Mint(token.Session, user, id)
	digest := t.Digest()
	return Session{
		User: user, ID: id, Email: email, Digest: digest[:],
		CreatedAt: now, ExpiresAt: now.Add(Sliding), HardEnd: now.Add(Hard), LastUsedAt: now,
	}, t
}

// Admits reports whether t is this session's token and the session lives at now.
func (s Session) Admits(t token.Token, now time.Time) bool {
	return t.Matches(s.Digest) && now.Before(s.ExpiresAt) && now.Before(s.HardEnd)
}

// Slide is when the session ends if it is used at now. Refreshed sessions do not slide: their
// refresh token renews them.
func (s Session) Slide(now time.Time) time.Time {
	if s.Family != 0 {
		return s.ExpiresAt
	}
	if end := now.Add(Sliding); end.Before(s.HardEnd) {
		return end
	}
	return s.HardEnd
}

// Family is the line of refresh tokens of one login.
type Family struct {
	User, ID  int64
	Email     string
	Session   int64    // the session that the newest pair belongs to
	Current   [][]byte // digests of tokens not used yet: one, or more after a lost answer
	Spent     []Spent  // oldest first
	AuthTime  time.Time
	ExpiresAt time.Time
	Revoked   bool
	Revision  int64 // counts rotations; the condition of each write
}

// Spent is a used refresh token.
type Spent struct {
	Digest []byte
	At     time.Time // when its use, or that of a sibling, ended it
	Lost   bool      // it was never used: a sibling was. Showing it later is no theft.
}

// NewFamily makes a family and its first token.
func NewFamily(user, id int64, email string, now time.Time) (Family, token.Token) {
	f := Family{User: user, ID: id, Email: email, AuthTime: now, ExpiresAt: now.Add(RefreshLifetime)}
	return f, f.mint(nil)
}

// Outcome is what became of a refresh token that was shown.
type Outcome int

// The outcomes. Rotated gives a pair. Replayed is refused as already rotated; Stolen as well, and
// the family has ended. Dead is an ended family. Unknown is no token of the family.
const (
	Unknown Outcome = iota
	Rotated
	Replayed
	Stolen
	Dead
)

// Rotate uses up t and returns its successor if the outcome is Rotated.
func (f *Family) Rotate(t token.Token, now time.Time) (token.Token, Outcome) {
	digest := t.Digest()
	current := slices.ContainsFunc(f.Current, t.Matches)
	spent := slices.IndexFunc(f.Spent, func(s Spent) bool { return t.Matches(s.Digest) })
	switch {
	case !current && spent < 0:
		return token.Token{}, Unknown
	case f.Revoked || !now.Before(f.ExpiresAt):
		return token.Token{}, Dead
	case current:
		for _, d := range f.Current {
			f.Spent = append(f.Spent, Spent{Digest: d, At: now, Lost: !bytes.Equal(d, digest[:])})
		}
		f.Spent = f.Spent[max(0, len(f.Spent)-maxSpent):]
		f.ExpiresAt = now.Add(RefreshLifetime)
		return f.mint(nil), Rotated
	case f.unusedSince(spent) && now.Sub(f.Spent[spent].At) < ReplayWindow:
		return f.mint(f.Current), Rotated
	case f.Spent[spent].Lost || now.Sub(f.Spent[spent].At) < ReplayWindow:
		return token.Token{}, Replayed
	}
	f.Revoked = true
	f.Revision++
	return token.Token{}, Stolen
}

// unusedSince reports whether the spent token at i is the one whose use gave the current ones.
func (f *Family) unusedSince(i int) bool {
	last := f.Spent[len(f.Spent)-1]
	return !f.Spent[i].Lost && f.Spent[i].At.Equal(last.At)
}

// mint adds a token beside siblings, of which the newest few are kept.
func (f *Family) mint(siblings [][]byte) token.Token {
	t := token.Mint(token.Refresh, f.User, f.ID)
	digest := t.Digest()
	siblings = siblings[max(0, len(siblings)-7):]
	f.Current = append(slices.Clone(siblings), digest[:])
	f.Revision++
	return t
}
