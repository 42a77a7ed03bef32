package ocsp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// State is what a responder says of a certificate. What was never said is Unknown, and not Good.
type State int

// The states there are (RFC 6960 §2.2).
const (
	Unknown State = iota
	Good
	Revoked
)

// Status is the answer for one certificate.
type Status struct {
	ID         CertID // as a Request had it
	State      State
	RevokedAt  time.Time // of Revoked
	Reason     int       // of Revoked: a CRLReason of RFC 5280 (§5.3.1)
	ThisUpdate time.Time
	NextUpdate time.Time // zero if newer information is there at all times
}

// The answers that are not signed (RFC 6960 §4.2.1).
const (
	MalformedRequest = 1
	InternalError    = 2
	TryLater         = 3
	SigRequired      = 5
	Unauthorized     = 6
)

// Refusal is an answer without a status. Anybody can forge one: a client takes it for no answer.
func Refusal(code int) []byte {
	switch code {
	case MalformedRequest, InternalError, TryLater, SigRequired, Unauthorized:
	default: // 0 would be a success
		code = InternalError
	}
	return []byte{0x30, 3, 0x0a, 1, byte(code)}
}

var (
	oidBasic           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidEd25519         = asn1.ObjectIdentifier{1, 3, 101, 112}
)

// algorithmOf is how a key signs, and the AlgorithmIdentifier that says so: RSA has NULL parameters, the others
// have none (RFC 4055 §5, RFC 5758 §3.2, RFC 8410 §3).
func algorithmOf(public crypto.PublicKey) (oid asn1.ObjectIdentifier, hash crypto.Hash, null bool, err error) {
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			return oidECDSAWithSHA256, crypto.SHA256, false, nil
		case elliptic.P384():
			return oidECDSAWithSHA384, crypto.SHA384, false, nil
		}
	case *rsa.PublicKey:
		return oidSHA256WithRSA, crypto.SHA256, true, nil
	case ed25519.PublicKey:
		return oidEd25519, 0, false, nil
	}
	return nil, 0, false, fmt.Errorf("sign an OCSP response: not with a %T of its size", public)
}

// Respond signs statuses: a BasicOCSPResponse (RFC 6960 §4.2.1) of the responder with this certificate, which
// goes with it. The nonce is the request's, nil for none.
func Respond(statuses []Status, nonce []byte, producedAt time.Time, signer crypto.Signer, certificate *x509.Certificate) ([]byte, error) {
	if len(statuses) == 0 {
		return nil, errors.New("make an OCSP response: it has no status")
	}
	if key, ok := certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(signer.Public()) {
		return nil, errors.New("make an OCSP response: the certificate is for another key than the signer's")
	}
	oid, hash, null, err := algorithmOf(signer.Public())
	if err != nil {
		return nil, err
	}
	for _, status := range statuses {
		if err := status.check(); err != nil {
			return nil, err
		}
	}
	var tbs cryptobyte.Builder
	addResponseData(&tbs, statuses, nonce, producedAt, certificate)
	data, err := tbs.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make an OCSP response: %w", err)
	}
	signature, err := crypto.SignMessage(signer, rand.Reader, data, hash)
	if err != nil {
		return nil, fmt.Errorf("sign an OCSP response: %w", err)
	}
	var response cryptobyte.Builder
	sequence(&response, func(response *cryptobyte.Builder) {
		response.AddASN1Enum(0) // successful
		response.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidBasic)
				b.AddASN1(tag.OCTET_STRING, func(b *cryptobyte.Builder) {
					sequence(b, func(basic *cryptobyte.Builder) {
						basic.AddBytes(data)
						sequence(basic, func(b *cryptobyte.Builder) {
							if b.AddASN1ObjectIdentifier(oid); null {
								b.AddASN1NULL()
							}
						})
						basic.AddASN1BitString(signature)
						basic.AddASN1(explicit(0), func(b *cryptobyte.Builder) {
							sequence(b, func(b *cryptobyte.Builder) { b.AddBytes(certificate.Raw) })
						})
					})
				})
			})
		})
	})
	der, err := response.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make an OCSP response: %w", err)
	}
	return der, nil
}

// check keeps the zero time off the wire, and reasons that are none: 7 is not used, and 8 stands in delta CRLs
// only.
func (s Status) check() error {
	switch {
	case s.ID.raw == nil:
		return errors.New("make an OCSP response: a status is for no CertID of a request")
	case s.State != Good && s.State != Revoked && s.State != Unknown:
		return fmt.Errorf("make an OCSP response: there is no state %d", s.State)
	case s.ThisUpdate.IsZero():
		return errors.New("make an OCSP response: a status has no time")
	case s.State == Revoked && s.RevokedAt.IsZero():
		return errors.New("make an OCSP response: a revocation has no time")
	case s.State == Revoked && (s.Reason < 0 || s.Reason > 10 || s.Reason == 7 || s.Reason == 8):
		return fmt.Errorf("make an OCSP response: there is no reason %d to revoke", s.Reason)
	}
	return nil
}

func sequence(b *cryptobyte.Builder, add func(*cryptobyte.Builder)) { b.AddASN1(tag.SEQUENCE, add) }

// addResponseData names the responder by its key: two certificates of one responder can have one name. The
// hash is SHA-1 by the standard, and only finds the certificate, which is checked otherwise.
func addResponseData(b *cryptobyte.Builder, statuses []Status, nonce []byte, producedAt time.Time, certificate *x509.Certificate) {
	sequence(b, func(b *cryptobyte.Builder) {
		b.AddASN1(explicit(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(digest(crypto.SHA1, publicKey(certificate))) })
		b.AddASN1GeneralizedTime(producedAt.UTC())
		sequence(b, func(b *cryptobyte.Builder) {
			for _, status := range statuses {
				status.add(b)
			}
		})
		if nonce == nil {
			return
		}
		b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
			sequence(b, func(b *cryptobyte.Builder) {
				sequence(b, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidNonce)
					b.AddASN1(tag.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(nonce) })
				})
			})
		})
	})
}

func (s Status) add(b *cryptobyte.Builder) {
	sequence(b, func(b *cryptobyte.Builder) {
		b.AddBytes(s.ID.raw)
		switch s.State {
		case Good:
			b.AddASN1(tag.Tag(0).ContextSpecific(), func(*cryptobyte.Builder) {})
		case Revoked:
			b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
				b.AddASN1GeneralizedTime(s.RevokedAt.UTC())
				if s.Reason == 0 { // RFC 5280 (§5.3.1): unspecified is said by saying nothing
					return
				}
				b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(s.Reason)) })
			})
		case Unknown:
			b.AddASN1(tag.Tag(2).ContextSpecific(), func(*cryptobyte.Builder) {})
		}
		b.AddASN1GeneralizedTime(s.ThisUpdate.UTC())
		if !s.NextUpdate.IsZero() {
			b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(s.NextUpdate.UTC()) })
		}
	})
}
