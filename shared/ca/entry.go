package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Entry is one signature in a CA's ledger. It is written with what is to be signed before the key is used, and
// completed after: an entry without a certificate may have been signed, by a process that was killed.
type Entry struct {
	CA          int64
	Serial      string // upper-case hexadecimal
	TBS         []byte // TBSCertificate, DER (RFC 5280 §4.1)
	Tail        []byte // what follows it in the certificate; empty until signed
	Names       []string
	Profile     string
	By          string // who asked: a principal, or what acted by itself
	Certificate int64  // the managed certificate that it belongs to; 0 for none
	At          time.Time
	NotAfter    time.Time
	RevokedAt   time.Time
	Reason      int // of the revocation, RFC 5280 §5.3.1
}

// Profiles of what a CA signs for itself.
const (
	OfCA   = "ca"
	OfOCSP = "ocsp"
)

// imported is the profile of what a CA signed before it was imported.
const imported = "imported"

// OfCA tells whether it is a CA that was certified.
func (e Entry) OfCA() bool {
	if e.Profile != OfCA && e.Profile != imported {
		return false
	}
	c, err := x509.ParseCertificate(e.DER())
	return err == nil && c.IsCA
}

// DER is the certificate; nil if it is not known to have been signed.
func (e Entry) DER() []byte {
	if len(e.Tail) == 0 {
		return nil
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(e.TBS)
		b.AddBytes(e.Tail)
	})
	return b.BytesOrPanic()
}

// Complete takes the part of a signed certificate that follows what was to be signed.
func (e *Entry) Complete(certificate []byte) error {
	whole := cryptobyte.String(certificate)
	var inner, tbs cryptobyte.String
	if !whole.ReadASN1(&inner, asn1.SEQUENCE) || !whole.Empty() || !inner.ReadASN1Element(&tbs, asn1.SEQUENCE) {
		return errors.New("what was signed is no certificate")
	}
	if string(tbs) != string(e.TBS) {
		return errors.New("what was signed is not what was recorded")
	}
	e.Tail = inner
	return nil
}

// Status is where a certificate of the ledger stands.
func (e Entry) Status(now time.Time) string {
	switch {
	case !e.RevokedAt.IsZero():
		return "REVOKED"
	case len(e.Tail) == 0:
		return "INTENDED"
	case !now.Before(e.NotAfter):
		return "EXPIRED"
	}
	return "ISSUED"
}

// Foreign is the entry of a certificate that a CA signed before it was imported here.
func Foreign(id int64, c *x509.Certificate, by string, now time.Time) (Entry, error) {
	e := Entry{CA: id, Serial: SerialText(c.SerialNumber), TBS: c.RawTBSCertificate, Profile: imported, By: by, At: now, NotAfter: c.NotAfter.UTC()}
	if err := e.Complete(c.Raw); err != nil {
		return e, fmt.Errorf("certificate %s: %w", e.Serial, err)
	}
	e.Names = namesOf(c)
	return e, nil
}

func namesOf(c *x509.Certificate) []string {
	names := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	names = append(names, c.EmailAddresses...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	return names
}
