// Package devicetoken is the access tokens of devices: JWTs (RFC 7519) signed with ES256, of the profile of RFC 9068.
//
// The root of them is a P-256 key in KMS, which signs no tokens: at a device's every hour that would be most of what
// a fleet costs. It signs certificates for keys that live in the memory of one process, for an hour, and those sign
// the tokens. A token brings the certificate of its key along (x5c, RFC 7515 §4.1.6), and names the root (kid). Who has
// the root's public key, which lies in the credential table, verifies a token without asking anybody.
//
// What of a token is not said by the root is not believed: not alg, not x5c before the root's signature on it has been
// verified, and jku, jwk and x5u not at all.
package devicetoken

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Lifetimes.
const (
	Lifetime  = time.Hour // of a token (contract §1)
	signerFor = time.Hour // that a key signs
	skew      = 5 * time.Minute
)

// The words that a token of ours has: whoever verifies another kind of token does not take it for theirs.
const (
	algorithm = "ES256"
	mediaType = "at+jwt"
	audience  = "bb:devices"
	commonOf  = "BB device tokens"
)

// MaxLength is that of the longest token that is looked at, in bytes.
const MaxLength = 2048

// Claims is what a token says.
type Claims struct {
	User, Device int64
	ID           string // of the token (jti)
	IssuedAt     time.Time
	ExpiresAt    time.Time
}

type header struct {
	Alg  string          `json:"alg"`
	Typ  string          `json:"typ"`
	Kid  string          `json:"kid"`
	X5C  []string        `json:"x5c"`
	Crit json.RawMessage `json:"crit,omitempty"`
}

// payload is the claims in JSON. Agents read sub as a string and device_id as a number (contract §1).
type payload struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   string `json:"sub"`
	Device    int64  `json:"device_id"`
	ID        string `json:"jti"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	ExpiresAt int64  `json:"exp"`
}

// Looks tells whether a bearer token is a JWT rather than one of our own tokens: those have no dots.
func Looks(text string) bool { return strings.Count(text, ".") == 2 }

// KeyID names a root by its public key.
func KeyID(root *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(root)
	if err != nil {
		return "", fmt.Errorf("name a key: %w", err)
	}
	digest := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(digest[:16]), nil
}

// ErrInvalid is the only thing that is said of a token that is not valid.
var ErrInvalid = errors.New("the device token is not valid")

// ErrExpired says that a token was valid.
var ErrExpired = errors.New("the device token has expired")

// Parsed is a token whose signature has not been verified.
type Parsed struct {
	header    header
	signed    string // what the signature is of
	payload   []byte
	signature []byte
}

// Parse takes a token apart. Its error is ErrInvalid.
func Parse(text string) (Parsed, error) {
	parts := strings.Split(text, ".")
	if len(text) > MaxLength || len(parts) != 3 || strings.ContainsAny(text, "\r\n") { // base64 skips those
		return Parsed{}, ErrInvalid
	}
	var p Parsed
	head, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
	if err != nil || json.Unmarshal(head, &p.header) != nil {
		return Parsed{}, ErrInvalid
	}
	h := p.header
	if h.Alg != algorithm || h.Typ != mediaType || len(h.Kid) != 22 || len(h.X5C) != 1 || h.Crit != nil {
		return Parsed{}, ErrInvalid
	}
	if p.payload, err = base64.RawURLEncoding.Strict().DecodeString(parts[1]); err != nil {
		return Parsed{}, ErrInvalid
	}
	if p.signature, err = base64.RawURLEncoding.Strict().DecodeString(parts[2]); err != nil || len(p.signature) != 64 {
		return Parsed{}, ErrInvalid
	}
	p.signed = text[:len(parts[0])+1+len(parts[1])]
	return p, nil
}

// Root names the root that the token says it is from.
func (p Parsed) Root() string { return p.header.Kid }

// Verify checks that the token is of the root and valid at now. Its error is ErrInvalid or ErrExpired.
func (p Parsed) Verify(root *ecdsa.PublicKey, now time.Time) (Claims, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(p.header.X5C[0])
	if err != nil {
		return Claims{}, ErrInvalid
	}
	c, err := x509.ParseCertificate(der)
	if err != nil || c.SignatureAlgorithm != x509.ECDSAWithSHA256 || c.Subject.CommonName != commonOf || c.IsCA {
		return Claims{}, ErrInvalid
	}
	digest := sha256.Sum256(c.RawTBSCertificate)
	if !ecdsa.VerifyASN1(root, digest[:], c.Signature) {
		return Claims{}, ErrInvalid
	}
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return Claims{}, ErrInvalid
	}
	digest = sha256.Sum256([]byte(p.signed))
	r, s := new(big.Int).SetBytes(p.signature[:32]), new(big.Int).SetBytes(p.signature[32:])
	if !ecdsa.Verify(key, digest[:], r, s) {
		return Claims{}, ErrInvalid
	}
	return claims(p.payload, now)
}

// claims reads what a verified token says.
func claims(text []byte, now time.Time) (Claims, error) {
	var p payload
	if err := json.Unmarshal(text, &p); err != nil {
		return Claims{}, ErrInvalid
	}
	user, err := strconv.ParseInt(p.Subject, 10, 64)
	if err != nil || user <= 0 || p.Device <= 0 || p.Issuer != "bb" || p.Audience != audience || p.ExpiresAt <= 0 {
		return Claims{}, ErrInvalid
	}
	c := Claims{User: user, Device: p.Device, ID: p.ID, IssuedAt: time.Unix(p.IssuedAt, 0), ExpiresAt: time.Unix(p.ExpiresAt, 0)}
	if now.Add(skew).Before(time.Unix(p.NotBefore, 0)) || c.ExpiresAt.Sub(c.IssuedAt) > Lifetime {
		return Claims{}, ErrInvalid
	}
	if !now.Before(c.ExpiresAt) {
		return Claims{}, ErrExpired
	}
	return c, nil
}
