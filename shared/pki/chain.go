package pki

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Chain is a certificate and the CA certificates above it, each signed by the next. It has one at least.
type Chain []*x509.Certificate

// Bounds of a chain. A certificate of a hundred of the longest names takes 36 kB of PEM.
const (
	maxChain     = 64 << 10
	maxChained   = 10
	maxCAModulus = 8192 // bits; a signature by a larger RSA key takes long to verify
)

// certificateLabel is the label of a certificate in PEM.
const certificateLabel = "CERTIFICATE"

// skew is how far the CA's clock may run before ours.
const skew = 5 * time.Minute

// ErrUnfit is the error of a chain that is not what was asked for, or no chain at all.
var ErrUnfit = errors.New("the CA's chain is not what was asked for")

// ErrOtherKey is an ErrUnfit: the certificate is for another key. A CA may give two orders for the same names as one.
var ErrOtherKey = fmt.Errorf("%w: the certificate is for another key", ErrUnfit)

func unfit(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnfit, fmt.Sprintf(format, args...))
}

// ParseChain reads a chain of certificates in PEM with nothing else in it (RFC 8555 §9.1).
func ParseChain(text []byte) (Chain, error) {
	if len(text) > maxChain {
		return nil, unfit("it is longer than %d bytes", maxChain)
	}
	blocks, err := readPEM(text, maxChained, certificateLabel)
	if err != nil {
		return nil, unfit("it is not 1 to %d certificates in PEM and nothing else", maxChained)
	}
	chain := make(Chain, len(blocks))
	for i, der := range blocks {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, unfit("certificate %d cannot be read: %.200q", i+1, err.Error())
		}
	}
	return chain, nil
}

// Check compares a chain with what was asked for: the key, exactly the names, valid now, each certificate
// signed by the next. Whether a root is trusted, and whether the CAs' own certificates are in date, is for
// those who rely on it: CAs have served an expired root for the sake of old clients.
func (c Chain) Check(public crypto.PublicKey, names []string, now time.Time) error {
	leaf := c[0]
	switch {
	case !Same(leaf.PublicKey, public):
		return ErrOtherKey
	case leaf.IsCA:
		return unfit("the certificate is a CA's")
	case now.Add(skew).Before(leaf.NotBefore):
		return unfit("the certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return unfit("the certificate ended at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case len(leaf.EmailAddresses) > 0 || len(leaf.URIs) > 0:
		return unfit("the certificate has names that were not asked for")
	}
	if err := compare(leafNames(leaf), names); err != nil {
		return err
	}
	for i, signer := range c[1:] {
		if err := signs(signer, c[i]); err != nil {
			return unfit("certificate %d is not signed by the next: %.200q", i+1, err.Error())
		}
	}
	return nil
}

func leafNames(leaf *x509.Certificate) []string {
	var names []string
	for _, name := range leaf.DNSNames {
		names = append(names, strings.ToLower(name))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func compare(got, wanted []string) error {
	for _, name := range wanted {
		if !slices.Contains(got, name) {
			return unfit("the certificate lacks the name %.100q", name)
		}
	}
	for _, name := range got {
		if !slices.Contains(wanted, name) {
			return unfit("the certificate has the name %.100q, which was not asked for", name)
		}
	}
	return nil
}

func signs(signer, signed *x509.Certificate) error {
	if key, ok := signer.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxCAModulus {
		return fmt.Errorf("its RSA key has more than %d bits", maxCAModulus)
	}
	if !bytes.Equal(signed.RawIssuer, signer.RawSubject) {
		return errors.New("its subject is not the issuer")
	}
	return signed.CheckSignatureFrom(signer)
}

// PEM is the whole chain.
func (c Chain) PEM() []byte {
	var text []byte
	for _, certificate := range c {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: certificateLabel, Bytes: certificate.Raw})...)
	}
	return text
}

// Leaf is the chain without what is above the certificate, CAs what is above it.
func (c Chain) Leaf() Chain { return c[:1] }

// CAs is what is above the certificate; it may be empty.
func (c Chain) CAs() Chain { return c[1:] }

// Facts are what is kept of a certificate beside the certificate.
type Facts struct {
	Names       []string
	KeyType     KeyType // empty for one that no key of ours has
	Serial      string  // hex, upper case, two digits for each byte
	NotBefore   time.Time
	NotAfter    time.Time
	Fingerprint string // SHA-256 of the DER, hex
	Issuer      string // RFC 4514
	ARI         string // its id for renewal information; empty if it has none
}

// Facts are those of the chain's first certificate.
func (c Chain) Facts() Facts {
	leaf := c[0]
	fingerprint := sha256.Sum256(leaf.Raw)
	kind, err := Strength(leaf.PublicKey)
	if err != nil {
		kind = ""
	}
	return Facts{
		Names: leafNames(leaf), KeyType: kind, Serial: fmt.Sprintf("%X", serial(leaf)), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		Fingerprint: hex.EncodeToString(fingerprint[:]), Issuer: leaf.Issuer.String(), ARI: ARICertID(leaf),
	}
}

// serial is the number without a sign byte; zero, which no CA may use, is one byte.
func serial(c *x509.Certificate) []byte {
	if bytes := c.SerialNumber.Bytes(); len(bytes) > 0 {
		return bytes
	}
	return []byte{0}
}

// ARICertID is a certificate's id for renewal information (RFC 9773 §4.1): the key identifier of its
// authority and the content of its serial number in DER. It is empty if the certificate names no authority.
func ARICertID(c *x509.Certificate) string {
	if len(c.AuthorityKeyId) == 0 {
		return ""
	}
	number := serial(c)
	if number[0]&0x80 != 0 { // DER keeps the sign
		number = append([]byte{0}, number...)
	}
	return base64.RawURLEncoding.EncodeToString(c.AuthorityKeyId) + "." + base64.RawURLEncoding.EncodeToString(number)
}
