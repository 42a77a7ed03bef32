// Package pki is what a certificate is made of: a key, names, a request for them, and the chain that a CA
// gives in return. Its functions are pure: they read and write the standard forms and reach nothing.
//
// A Key is written as PKCS#8 (RFC 5958). Names are what DNS has: lower case, A-labels, no trailing dot. A
// Request is PKCS#10 (RFC 2986), whether made here or by a caller who keeps the key. A Chain is PEM
// (RFC 7468), the certificate first.
//
// All of them are read from strangers: a reader refuses by length before it looks, accepts one form only,
// and what it accepts it would write the same.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"cjj365.cc/bb/shared/problem"
)

// KeyType is an algorithm with its size, in one spelling.
type KeyType string

// The key types there are. P-521 and RSA above 4096 are none: public CAs take neither.
const (
	ECDSAP256 KeyType = "ecdsa-p256"
	ECDSAP384 KeyType = "ecdsa-p384"
	RSA2048   KeyType = "rsa-2048"
	RSA3072   KeyType = "rsa-3072"
	RSA4096   KeyType = "rsa-4096"
	Ed25519   KeyType = "ed25519"
)

// KeyTypes are all of them, the usual one first.
var KeyTypes = []KeyType{ECDSAP256, ECDSAP384, RSA2048, RSA3072, RSA4096, Ed25519}

// otherNames are the short names that a caller may use.
var otherNames = map[string]KeyType{
	"ecdsa": ECDSAP256, "ec-p256": ECDSAP256, "ec-p384": ECDSAP384, "rsa": RSA2048,
}

// ParseKeyType reads a key type in any case: one of KeyTypes, ecdsa (P-256), ec-p256, ec-p384 or rsa (2048).
func ParseKeyType(s string) (KeyType, error) {
	lower := KeyType(strings.ToLower(s))
	if t, ok := otherNames[string(lower)]; ok {
		return t, nil
	}
	if slices.Contains(KeyTypes, lower) {
		return lower, nil
	}
	return "", problem.InvalidArgument.New("key_type must be ecdsa, rsa, ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519.").With("field", "key_type")
}

func (t KeyType) String() string { return string(t) }

// Key is a private key. It prints as [redacted]; the zero Key is none.
type Key struct {
	// A function, since fmt calls no methods on the unexported fields of what holds a Key, and looks behind
	// pointers where the verb is a wrong one.
	open func() *key
}

type key struct {
	kind   KeyType
	signer crypto.Signer
	der    []byte // PKCS#8
}

// NewKey draws a key. RSA 4096 takes seconds of a whole core; ECDSA and Ed25519 take none.
func NewKey(t KeyType) (Key, error) {
	var signer crypto.Signer
	var err error
	switch t {
	case ECDSAP256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		signer, err = rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		signer, err = rsa.GenerateKey(rand.Reader, 4096)
	case Ed25519:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		return Key{}, fmt.Errorf("make a key: there is no key type %.20q", string(t))
	}
	if err != nil {
		return Key{}, fmt.Errorf("make a key: %w", err)
	}
	return keyOf(signer)
}

func keyOf(signer crypto.Signer) (Key, error) {
	kind, err := Strength(signer.Public())
	if err != nil {
		return Key{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return Key{}, fmt.Errorf("encode a key: %w", err)
	}
	k := &key{kind, signer, der}
	return Key{func() *key { return k }}, nil
}

// keyLabel is the label of PKCS#8 in PEM.
const keyLabel = "PRIVATE KEY"

// maxKey is more than twice the PEM of an RSA key of 4096 bits.
const maxKey = 8 << 10

// ErrNoKey is all that ParseKey says of what is no private key: whatever it was given may hold one.
var ErrNoKey = errors.New("not a private key in PKCS#8 of a type that is used here")

// ParseKey reads a private key as DER or PEM wrote it.
func ParseKey(text []byte) (Key, error) {
	if len(text) > maxKey {
		return Key{}, ErrNoKey
	}
	der := text
	if isPEM(text) {
		blocks, err := readPEM(text, 1, keyLabel)
		if err != nil {
			return Key{}, ErrNoKey
		}
		der = blocks[0]
	}
	if rest, err := asn1.Unmarshal(der, new(asn1.RawValue)); err != nil || len(rest) > 0 { // x509 passes over what follows
		return Key{}, ErrNoKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, ErrNoKey
	}
	signer, ok := parsed.(crypto.Signer) // crypto/ecdh keys are none
	if !ok {
		return Key{}, ErrNoKey
	}
	k, err := keyOf(signer)
	if err != nil {
		return Key{}, ErrNoKey
	}
	return k, nil
}

// Exists tells a key from the zero Key.
func (k Key) Exists() bool { return k.open != nil }

// Type is the key's type.
func (k Key) Type() KeyType { return k.open().kind }

// Signer signs with the key.
func (k Key) Signer() crypto.Signer { return k.open().signer }

// Public is its public key.
func (k Key) Public() crypto.PublicKey { return k.open().signer.Public() }

// DER is the key in PKCS#8, in the clear. The caller may overwrite it.
func (k Key) DER() []byte { return slices.Clone(k.open().der) }

// PEM is the same as text.
func (k Key) PEM() []byte { return pem.EncodeToMemory(&pem.Block{Type: keyLabel, Bytes: k.open().der}) }

// Format prints a Key, whatever the verb.
func (Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// LogValue is what slog shows of a Key.
func (Key) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText keeps a Key out of JSON; an answer that shows it calls PEM.
func (Key) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }
