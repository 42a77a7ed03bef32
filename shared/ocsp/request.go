// Package ocsp is the online certificate status protocol (RFC 6960) as a responder speaks it: a Request that
// a client sends, and the answer, which is a signed list of Statuses or an unsigned Refusal. Its functions
// are pure: they read and write DER and reach nothing.
//
// golang.org/x/crypto/ocsp does neither nonces (RFC 9654) nor requests for several certificates, and signs
// with no Ed25519 key; the tests hold it, and OpenSSL, against this package.
package ocsp

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // the hashes of a CertID
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a request.
const (
	MaxRequest      = 8 << 10 // bytes of DER
	MaxCertificates = 16
	maxSerial       = 21  // octets: RFC 5280 (§4.1.2.2) has 20, and DER may put a zero before them
	maxNonce        = 128 // octets (RFC 9654 §2.1)
)

// ErrMalformed is the error of what is no request. Its answer is Refusal(MalformedRequest).
var ErrMalformed = errors.New("not an OCSP request")

func malformed(reason string) error { return fmt.Errorf("%w: %s", ErrMalformed, reason) }

// Request is what a client asks. Who it says it is, and its signature, are passed over: the answer is the
// same for everybody.
type Request struct {
	Certificates []CertID // at least one
	Nonce        []byte   // nil for none
}

// CertID names a certificate by its issuer and serial number.
type CertID struct {
	// Hash is zero for one that is not known here. Such a request is read all the same: what else it asks
	// for is answered, and this certificate is unknown.
	Hash           crypto.Hash
	IssuerNameHash []byte
	IssuerKeyHash  []byte
	Serial         *big.Int

	raw []byte // as the client wrote it, since clients compare bytes
}

var hashes = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA1:   {1, 3, 14, 3, 2, 26},
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

func explicit(n uint8) tag.Tag { return tag.Tag(n).ContextSpecific().Constructed() }

// ParseRequest reads a request (RFC 6960 §4.1.1).
func ParseRequest(der []byte) (Request, error) {
	if len(der) > MaxRequest {
		return Request{}, malformed("it is too long")
	}
	input := cryptobyte.String(bytes.Clone(der))
	var request, tbs, list, extensions cryptobyte.String
	var extended bool
	if !input.ReadASN1(&request, tag.SEQUENCE) || !input.Empty() || !request.ReadASN1(&tbs, tag.SEQUENCE) ||
		!request.SkipOptionalASN1(explicit(0)) || !request.Empty() {
		return Request{}, malformed("it is no sequence of a request and its signature")
	}
	var version int
	if !tbs.ReadOptionalASN1Integer(&version, explicit(0), 0) || version != 0 {
		return Request{}, malformed("its version is not 1")
	}
	if !tbs.SkipOptionalASN1(explicit(1)) || !tbs.ReadASN1(&list, tag.SEQUENCE) || !tbs.ReadOptionalASN1(&extensions, &extended, explicit(2)) || !tbs.Empty() {
		return Request{}, malformed("it has no list of certificates, or something after it")
	}
	var r Request
	for !list.Empty() {
		if len(r.Certificates) == MaxCertificates {
			return Request{}, malformed("it asks for too many certificates")
		}
		id, err := readSingle(&list)
		if err != nil {
			return Request{}, err
		}
		r.Certificates = append(r.Certificates, id)
	}
	if len(r.Certificates) == 0 {
		return Request{}, malformed("it asks for no certificate")
	}
	if extended {
		var err error
		if r.Nonce, err = readExtensions(extensions, true); err != nil {
			return Request{}, err
		}
	}
	return r, nil
}

func readSingle(list *cryptobyte.String) (CertID, error) {
	var single, raw, extensions cryptobyte.String
	var extended bool
	if !list.ReadASN1(&single, tag.SEQUENCE) || !single.ReadASN1Element(&raw, tag.SEQUENCE) ||
		!single.ReadOptionalASN1(&extensions, &extended, explicit(0)) || !single.Empty() {
		return CertID{}, malformed("a part of its list cannot be read")
	}
	if extended {
		if _, err := readExtensions(extensions, false); err != nil {
			return CertID{}, err
		}
	}
	return readCertID(raw)
}

func readCertID(raw cryptobyte.String) (CertID, error) {
	id := CertID{Serial: new(big.Int), raw: raw}
	var content, algorithm, name, key, serial, number cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !raw.ReadASN1(&content, tag.SEQUENCE) || !content.ReadASN1(&algorithm, tag.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&oid) ||
		!content.ReadASN1(&name, tag.OCTET_STRING) || !content.ReadASN1(&key, tag.OCTET_STRING) ||
		!content.ReadASN1Element(&serial, tag.INTEGER) || !content.Empty() {
		return CertID{}, malformed("a CertID cannot be read")
	}
	element := serial
	if !element.ReadASN1(&number, tag.INTEGER) || len(number) > maxSerial || !serial.ReadASN1Integer(id.Serial) {
		return CertID{}, malformed("a serial number is not as DER has it, or is too long")
	}
	for hash, known := range hashes {
		if oid.Equal(known) {
			id.Hash = hash
		}
	}
	if id.Hash != 0 {
		// The parameters are NULL or left out (RFC 5754 §2).
		var null cryptobyte.String
		if !algorithm.Empty() && (!algorithm.ReadASN1(&null, tag.NULL) || !null.Empty() || !algorithm.Empty()) {
			return CertID{}, malformed("a hash algorithm has parameters")
		}
		if len(name) != id.Hash.Size() || len(key) != id.Hash.Size() {
			return CertID{}, malformed("a hash does not have the length of its algorithm")
		}
	}
	id.IssuerNameHash, id.IssuerKeyHash = name, key
	return id, nil
}

// readExtensions finds the nonce among the extensions of a request. Others are passed over unless they are
// critical; the extensions of a single certificate have no nonce.
func readExtensions(explicit cryptobyte.String, nonced bool) ([]byte, error) {
	var list cryptobyte.String
	if !explicit.ReadASN1(&list, tag.SEQUENCE) || !explicit.Empty() || list.Empty() {
		return nil, malformed("its extensions cannot be read")
	}
	var nonce []byte
	var seen []asn1.ObjectIdentifier
	for !list.Empty() {
		var extension, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&extension, tag.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&oid) ||
			extension.PeekASN1Tag(tag.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
			!extension.ReadASN1(&value, tag.OCTET_STRING) || !extension.Empty() {
			return nil, malformed("an extension cannot be read")
		}
		if slices.ContainsFunc(seen, oid.Equal) {
			return nil, malformed("it has an extension twice")
		}
		seen = append(seen, oid)
		switch {
		case nonced && oid.Equal(oidNonce):
			var octets cryptobyte.String
			if !value.ReadASN1(&octets, tag.OCTET_STRING) || !value.Empty() || len(octets) == 0 || len(octets) > maxNonce {
				return nil, malformed("its nonce does not have 1 to 128 octets (RFC 9654)")
			}
			nonce = octets
		case critical:
			return nil, malformed("it has a critical extension that is not known here")
		}
	}
	return nonce, nil
}

// Issuer is a CA as CertIDs name it.
type Issuer struct {
	names, keys map[crypto.Hash][]byte
}

// IssuerOf computes the hashes of a CA once. The name and the key are those of its own certificate, whatever
// other certificates it has.
func IssuerOf(c *x509.Certificate) Issuer {
	issuer := Issuer{map[crypto.Hash][]byte{}, map[crypto.Hash][]byte{}}
	for hash := range hashes {
		issuer.names[hash] = digest(hash, c.RawSubject)
		issuer.keys[hash] = digest(hash, publicKey(c))
	}
	return issuer
}

// Issued tells whether a CertID names this CA.
func (i Issuer) Issued(id CertID) bool {
	return id.Hash != 0 && bytes.Equal(id.IssuerNameHash, i.names[id.Hash]) && bytes.Equal(id.IssuerKeyHash, i.keys[id.Hash])
}

// IssuedBy tells the same of one CertID and a CA's certificate.
func (c CertID) IssuedBy(issuer *x509.Certificate) bool { return IssuerOf(issuer).Issued(c) }

func digest(hash crypto.Hash, content []byte) []byte {
	h := hash.New()
	h.Write(content)
	return h.Sum(nil)
}

// publicKey is what a key's hash is over: the BIT STRING of SubjectPublicKeyInfo without its tag, its length
// and the count of unused bits (RFC 6960 §4.1.1).
func publicKey(c *x509.Certificate) []byte {
	input := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var info, bits cryptobyte.String
	if !input.ReadASN1(&info, tag.SEQUENCE) || !info.SkipASN1(tag.SEQUENCE) || !info.ReadASN1(&bits, tag.BIT_STRING) || !bits.Skip(1) {
		return nil // crypto/x509 has read it
	}
	return bits
}
