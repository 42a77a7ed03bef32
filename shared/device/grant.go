package device

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"time"
)

// Grant is one device authorization (RFC 8628): a device asks, a person approves, and the device registers itself with
// a code. Of the device code and the registration code only a digest is stored; the second is derived from the first,
// so that each poll can answer with it.
type Grant struct {
	ID        string // digest of the registration code, hex
	UserCode  string // XXXX-XXXX
	Interval  time.Duration
	CreatedAt time.Time
	ExpiresAt time.Time // of the device code and the user code
	PolledAt  time.Time
	User      int64 // who decided; 0 before
	Approved  bool
	DecidedAt time.Time
	PublicID  string // of the device that registered with it; empty before
	Device    int64  // that device
	Revision  int64
}

// Lifetimes.
const (
	RegistrationLifetime = 10 * time.Minute // of a registration code, from the approval on
	GrantKept            = time.Hour        // after its end: a lapsed code is told from one that never was
)

// GrantStatus is where a grant stands.
type GrantStatus string

// The statuses.
const (
	GrantPending  GrantStatus = "PENDING"
	GrantApproved GrantStatus = "APPROVED"
	GrantDenied   GrantStatus = "DENIED"
	GrantIssued   GrantStatus = "ISSUED" // a device has registered with it
	GrantExpired  GrantStatus = "EXPIRED"
)

// Status derives it.
func (g Grant) Status(now time.Time) GrantStatus {
	switch {
	case g.DecidedAt.IsZero() && !now.Before(g.ExpiresAt):
		return GrantExpired
	case g.DecidedAt.IsZero():
		return GrantPending
	case !g.Approved:
		return GrantDenied
	case g.PublicID != "":
		return GrantIssued
	case !now.Before(g.DecidedAt.Add(RegistrationLifetime)):
		return GrantExpired
	}
	return GrantApproved
}

// Left is how long the registration code is still good for.
func (g Grant) Left(now time.Time) time.Duration {
	return g.DecidedAt.Add(RegistrationLifetime).Sub(now)
}

// Admits tells whether the grant registers a device of a user's: once, and the same device again within the code's
// lifetime, because an answer may be lost.
func (g Grant) Admits(user int64, publicID string, now time.Time) bool {
	return g.Approved && g.User == user && g.Left(now) > 0 && (g.PublicID == "" || g.PublicID == publicID)
}

// TooSoon tells whether a poll comes earlier than a device of good will sends it. Agents poll every interval exactly,
// and do not slow down.
func (g Grant) TooSoon(now time.Time) bool {
	return !g.PolledAt.IsZero() && now.Sub(g.PolledAt) < g.Interval-time.Second
}

// userCodeAlphabet has no vowels and nothing that looks like something else (RFC 8628 §6.1): 34 bits in 8 characters.
const userCodeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// NewGrant makes a grant with its device code.
func NewGrant(interval, expires time.Duration, now time.Time) (Grant, string) {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	code := "dc_" + base64.RawURLEncoding.EncodeToString(secret)
	id, _ := GrantID(RegistrationCode(code)) // of that form
	return Grant{ID: id, UserCode: newUserCode(), Interval: interval, CreatedAt: now, ExpiresAt: now.Add(expires)}, code
}

func newUserCode() string {
	code := make([]byte, 0, 9)
	var random [32]byte
	for len(code) < 9 {
		rand.Read(random[:]) // never fails
		for _, r := range random {
			if len(code) == 4 {
				code = append(code, '-')
			}
			if n := int(r >> 3); n < len(userCodeAlphabet) && len(code) < 9 {
				code = append(code, userCodeAlphabet[n])
			}
		}
	}
	return string(code)
}

// ParseUserCode reads what a person typed: in any case, with or without the hyphen.
func ParseUserCode(text string) (string, bool) {
	text = strings.ToUpper(strings.ReplaceAll(strings.TrimSpace(text), " ", "-"))
	if len(text) == 8 {
		text = text[:4] + "-" + text[4:]
	}
	if len(text) != 9 || text[4] != '-' {
		return "", false
	}
	for i, c := range []byte(text) {
		if i != 4 && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return "", false
		}
	}
	return text, true
}

// RegistrationCode is the registration code of a device code's grant.
func RegistrationCode(deviceCode string) string {
	mac := hmac.New(sha256.New, []byte(deviceCode))
	mac.Write([]byte("registration code"))
	return "rc_" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// ErrCode says that a text is no code of ours.
var ErrCode = errors.New("not a code")

// GrantID is the id of the grant of a registration code.
func GrantID(registrationCode string) (string, error) {
	if len(registrationCode) != 46 || !strings.HasPrefix(registrationCode, "rc_") {
		return "", ErrCode
	}
	digest := sha256.Sum256([]byte(registrationCode))
	return hex.EncodeToString(digest[:]), nil
}

// GrantOf is the id of the grant of a device code.
func GrantOf(deviceCode string) (string, error) {
	if len(deviceCode) != 46 || !strings.HasPrefix(deviceCode, "dc_") {
		return "", ErrCode
	}
	return GrantID(RegistrationCode(deviceCode))
}
