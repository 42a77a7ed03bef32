// Package ca is private CAs: what one is, what it certifies, and what it has certified.
//
// A CA has a key, which is either wrapped by a data key of KMS or never leaves KMS, and a chain of certificates of
// which the first is its own. What it may certify is said by the constraints of the chain, by its profiles, and by
// Plan, which holds all of that against a request. Package casigner signs what was planned.
//
// Every signature has an Entry in the CA's ledger, under a serial number that begins with the time: the ledger is in
// the order of time, a serial number says where its entry lies, and 104 of its 152 bits are random.
package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/sealed"
)

// CA is one CA of a user.
type CA struct {
	User, ID int64
	Name     string

	KeyType pki.KeyType
	Custody Custody
	Key     sealed.Secret // PKCS#8, DER; of a wrapped key
	KMSKey  string        // id in KMS; of one that never leaves it
	Public  []byte        // SubjectPublicKeyInfo, DER

	Subject     pki.Subject // of its own certificate, as asked for
	CommonName  string
	RawSubject  []byte          // DER, of one that is to have another's subject to the byte; of one that is created
	Usages      Usages          // that its certificates are limited to; of one that is created
	PathLen     int             // that was asked for; NoPathLen for none
	Days        int             // of validity that were asked for
	Constraints pki.Constraints // of one that is created; later they are its certificate's

	Chain    [][]byte // DER: its own certificate, then those above it up to the root; empty until it has one
	Cross    [][]byte // DER: another chain, for those who trust the root that the chain's took the place of; empty for none
	Parent   int64    // another CA of the user that signed its certificate; 0 for none
	Former   int64    // the CA that it took the place of; 0 for none
	Next     int64    // the CA that took its place; 0 for none
	Imported bool
	LastCRL  int64 // number of the last CRL that one signed before it was imported; of one that is created

	Profiles   []Profile // templates of the user's, beside the built-in ones
	Default    string    // profile of requests that name none
	Revocation string    // URL below which its CRL, its certificate and its OCSP responder are
	Directory  string    // URL below which its ACME resources are

	RevokedAt     time.Time // when a certificate of the chain was revoked that a CA here signed; zero for never
	RevokedSerial string    // of that certificate

	Uses      int64 // accounts, certificates and CAs that rest on it
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64

	parsed *parsed
}

// Count is what is counted of a CA apart from it, since it changes with every signature.
type Count struct {
	Issued   int64
	LastUsed time.Time
}

// NoPathLen is the path length of a CA without a limit.
const NoPathLen = -1

// Custody is where a key is.
type Custody string

// The kinds of custody.
const (
	Wrapped Custody = "WRAPPED" // in the table, encrypted under a data key of KMS (AES-256-GCM)
	InKMS   Custody = "KMS"     // in KMS alone
)

// Status is where a CA stands.
type Status string

// The statuses.
const (
	Pending Status = "PENDING" // it waits for its certificate from outside
	Active  Status = "ACTIVE"
	Rotated Status = "ROTATED" // another CA has taken its place; it still signs CRLs
	Revoked Status = "REVOKED" // its certificate is, or one above it; it still signs CRLs
	Expired Status = "EXPIRED" // its certificate has, or one above it
)

// Status derives it from the facts.
func (c CA) Status(now time.Time) Status {
	switch {
	case len(c.Chain) == 0:
		return Pending
	case c.Next != 0:
		return Rotated
	case !c.RevokedAt.IsZero():
		return Revoked
	case !now.Before(c.Ends()):
		return Expired
	}
	return Active
}

// parsed is a chain that was parsed once, for a CA that signs again and again.
type parsed struct {
	chain       pki.Chain
	constraints []pki.Constraints
	usages      []Usages
	pem         string
	crossPEM    string
	crossEnds   time.Time
}

func (c CA) parse() *parsed {
	if c.parsed != nil {
		return c.parsed
	}
	p := &parsed{pem: PEM(c.Chain...), crossPEM: PEM(c.Cross...)}
	parse := func(der []byte) *x509.Certificate {
		one, err := x509.ParseCertificate(der)
		if err != nil { // it was checked before it was stored
			panic(fmt.Sprintf("CA %d: %v", c.ID, err))
		}
		return one
	}
	for _, der := range c.Chain {
		one := parse(der)
		p.chain, p.constraints, p.usages = append(p.chain, one), append(p.constraints, pki.ConstraintsOf(one)), append(p.usages, UsagesOf(one))
	}
	for i, der := range c.Cross {
		if end := parse(der).NotAfter; i == 0 || end.Before(p.crossEnds) {
			p.crossEnds = end
		}
	}
	return p
}

// Parsed is the CA with its chain parsed once and for all.
func (c CA) Parsed() CA {
	c.parsed = c.parse()
	return c
}

// Certificate is the CA's own certificate; nil until it has one.
func (c CA) Certificate() *x509.Certificate {
	if len(c.Chain) == 0 {
		return nil
	}
	return c.parse().chain[0]
}

// Serial is the serial number of the CA's own certificate, as its record has it; empty until it has one.
func (c CA) Serial() string {
	if len(c.Chain) == 0 {
		return ""
	}
	return SerialText(c.Certificate().SerialNumber)
}

// PEM is what follows a certificate that the CA signed, as text: the chain, or while it is valid the one that those
// too can follow who trust the root before. Who trusts the chain's root knows it, and needs no certificate of it.
func (c CA) PEM(now time.Time) string {
	p := c.parse()
	if now.Before(p.crossEnds) {
		return p.crossPEM
	}
	return p.pem
}

// Link is the certificate for a root's key by the root that it took the place of; nil if there is none.
func (c CA) Link() []byte {
	if len(c.Cross) == 0 || !c.Root() {
		return nil
	}
	return c.Cross[0]
}

// Certificates are the chain.
func (c CA) Certificates() pki.Chain { return c.parse().chain }

// Split takes certificates apart that stand one after the other (DER).
func Split(ders []byte) (chain [][]byte) {
	rest := cryptobyte.String(ders)
	for !rest.Empty() {
		var one cryptobyte.String
		if !rest.ReadASN1Element(&one, asn1.SEQUENCE) {
			return nil
		}
		chain = append(chain, one)
	}
	return chain
}

// PublicKey is the CA's public key.
func (c CA) PublicKey() (crypto.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(c.Public)
	if err != nil {
		return nil, fmt.Errorf("CA %d: %w", c.ID, err)
	}
	return public, nil
}

// Root tells whether the CA's certificate is signed by its own key.
func (c CA) Root() bool { return len(c.Chain) == 1 && selfSigned(c.Certificate()) }

func selfSigned(c *x509.Certificate) bool {
	return string(c.RawIssuer) == string(c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// Addresses of what a CA publishes (RFC 5280 §4.2.1.13 and §4.2.2.1).
func (c CA) CRLURL() string         { return c.Revocation + "/ca.crl" }
func (c CA) OCSPURL() string        { return c.Revocation + "/ocsp" }
func (c CA) CertificateURL() string { return c.Revocation + "/ca.crt" }

// A serial number has 19 bytes: milliseconds since 1970 in 6, and 13 that are random. The first is 1 from
// 2004 to 2039 and below 128 for millennia, so the number is positive (RFC 5280 §4.1.2.2).
const serialBytes, timeBytes = 19, 6

// NewSerial draws a serial number.
func NewSerial(now time.Time) *big.Int {
	var b [serialBytes]byte
	rand.Read(b[:])
	ms := uint64(now.UnixMilli())
	for i := range timeBytes {
		b[i] = byte(ms >> (8 * (timeBytes - 1 - i)))
	}
	return new(big.Int).SetBytes(b[:])
}

// SerialText is a serial number as it is written here: upper-case hexadecimal, two digits for each byte.
func SerialText(n *big.Int) string {
	b := n.Bytes()
	if len(b) == 0 {
		b = []byte{0}
	}
	return strings.ToUpper(hex.EncodeToString(b))
}

// ParseSerial reads a serial number in hexadecimal, in any case, with or without colons.
func ParseSerial(text string) (*big.Int, bool) {
	text = strings.ReplaceAll(text, ":", "")
	if len(text) == 0 || len(text) > 40 || len(text)%2 != 0 {
		return nil, false
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, false
	}
	return new(big.Int).SetBytes(b), true
}

// SerialTime is when a serial number was drawn; false of one that was not drawn here.
func SerialTime(n *big.Int) (time.Time, bool) {
	b := n.Bytes()
	if len(b) != serialBytes {
		return time.Time{}, false
	}
	var ms uint64
	for _, x := range b[:timeBytes] {
		ms = ms<<8 | uint64(x)
	}
	return time.UnixMilli(int64(ms)).UTC(), true
}
