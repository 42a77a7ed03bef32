package acmeserver

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"
)

// SecretSize is the length of a secret in bytes.
const SecretSize = 32

// Secret is what a CA's ACME server keeps to itself: from it come the keys of bindings and of nonces. It prints as
// [redacted].
type Secret struct {
	// A function, since fmt calls no methods on the unexported fields of what holds a Secret.
	open func() []byte
}

// NewSecret draws a secret.
func NewSecret() Secret {
	b := make([]byte, SecretSize)
	rand.Read(b)
	return Secret{func() []byte { return b }}
}

// ParseSecret is the secret that Bytes gave.
func ParseSecret(b []byte) (Secret, error) {
	if len(b) != SecretSize {
		return Secret{}, errors.New("a secret of the wrong length")
	}
	b = slices.Clone(b)
	return Secret{func() []byte { return b }}, nil
}

// Bytes is the secret in the clear, to be sealed. The caller may overwrite it.
func (s Secret) Bytes() []byte { return slices.Clone(s.open()) }

// Format prints a Secret, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// LogValue is what slog shows of a Secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText keeps a Secret out of JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// derive gives the key of a purpose. No purpose is the beginning of another's name: "eab:" is followed by a kid.
func (s Secret) derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, s.open(), nil, purpose, sha256.Size)
	if err != nil { // the length is one that HKDF has
		panic(err)
	}
	return key
}

// BindingKey is the HMAC key of a binding (RFC 8555 §7.3.4).
func (s Secret) BindingKey(kid string) []byte { return s.derive("eab:" + kid) }

// BindingText is the same as clients are given it, in base64url.
func (s Secret) BindingText(kid string) string {
	return base64.RawURLEncoding.EncodeToString(s.BindingKey(kid))
}

// NewBindingID draws the id of a binding whose key does not begin with a hyphen, which certbot would take for an
// option.
func (s Secret) NewBindingID() string {
	for {
		if id := NewID(); s.BindingText(id)[0] != '-' {
			return id
		}
	}
}

// A nonce is the time it was made, random bytes, and a MAC of both: it is known to be ours without being stored. What
// is stored is that it was used.
const (
	nonceTime, nonceRandom, nonceMAC = 8, 16, 16
	nonceLife                        = time.Hour
	nonceSkew                        = time.Minute // by which clocks of two processes may differ
)

// Nonce makes a nonce (RFC 8555 §6.5).
func (s Secret) Nonce(now time.Time) string {
	var b [nonceTime + nonceRandom]byte
	binary.BigEndian.PutUint64(b[:], uint64(now.UnixMilli()))
	rand.Read(b[nonceTime:])
	return base64.RawURLEncoding.EncodeToString(s.authenticate(b[:]))
}

func (s Secret) authenticate(b []byte) []byte {
	mac := hmac.New(sha256.New, s.derive("nonce"))
	mac.Write(b)
	return append(slices.Clip(b), mac.Sum(nil)[:nonceMAC]...)
}

// CheckNonce tells whether a nonce was made with the secret within its time, and when that ends. Each nonce has one
// spelling: with two, it could be used twice.
func (s Secret) CheckNonce(nonce string, now time.Time) (ends time.Time, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != nonceTime+nonceRandom+nonceMAC || base64.RawURLEncoding.EncodeToString(b) != nonce {
		return time.Time{}, false
	}
	if !hmac.Equal(s.authenticate(b[:nonceTime+nonceRandom]), b) {
		return time.Time{}, false
	}
	made := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	ends = made.Add(nonceLife)
	return ends, !made.After(now.Add(nonceSkew)) && now.Before(ends)
}
