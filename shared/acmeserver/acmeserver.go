// Package acmeserver is the ACME server (RFC 8555) of a private CA, without HTTP and without the table: accounts,
// the bindings that let one make an account, orders with their authorizations, nonces, and renewal information
// (RFC 9773).
//
// An account is made with a binding (§7.3.4), which a user mints: its id is the kid, its HMAC key is derived from the
// CA's secret and stored nowhere. The binding names what its accounts may be issued without a challenge. An account
// works as long as its binding is there, and the API key that minted it.
//
// An order holds its authorizations. What it stands at is derived from them, from the lease of who issues it, and
// from what was issued.
package acmeserver

import (
	"crypto/rand"
	"encoding/base64"
	"time"
)

// NewID draws the id of an account, an order or a binding. It is one word of letters and digits: a kid that began with a
// hyphen would be an option to a shell's command.
func NewID() string { return rand.Text() }

// NewToken draws the token of a challenge (RFC 8555 §8.3). It is the base64url of bytes, and not just of its alphabet:
// certbot decodes it, and shows what it encodes to.
func NewToken() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// Status is where an account, an order, an authorization or a challenge stands (RFC 8555 §7.1.6).
type Status string

// The statuses.
const (
	Pending     Status = "pending"
	Ready       Status = "ready"
	Processing  Status = "processing"
	Valid       Status = "valid"
	Invalid     Status = "invalid"
	Deactivated Status = "deactivated"
	Expired     Status = "expired"
)

// Problem is why a challenge or an order failed: the name of an error type of RFC 8555 §6.7, and a sentence.
type Problem struct {
	Kind   string `dynamodbav:"kind"`
	Detail string `dynamodbav:"detail"`
}

// Account is an account at a CA.
type Account struct {
	User, CA      int64
	ID            string
	Key           []byte // JWK of its public key (RFC 7517)
	Thumbprint    string // of the key, RFC 7638
	Contacts      []string
	Binding       string
	CreatedAt     time.Time
	DeactivatedAt time.Time
	Revision      int64
}

// Status derives it from the facts.
func (a Account) Status() Status {
	if !a.DeactivatedAt.IsZero() {
		return Deactivated
	}
	return Valid
}

// Principal is who asks, in a CA's ledger and its log.
func (a Account) Principal() string { return "acme/" + a.ID }
