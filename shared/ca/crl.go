package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"time"
)

// noCheck is id-pkix-ocsp-nocheck (RFC 6960 §4.2.2.2.1).
var noCheck = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: asn1.NullBytes}}

// Revocation is a certificate in a CRL.
type Revocation struct {
	Serial   string
	At       time.Time
	Reason   int
	NotAfter time.Time
}

// Lifetime of a CRL, and how old one gets before there is another: four could fail before relying parties notice.
const CRLFor, CRLEvery = 5 * day, day

// keptAfterExpiry is how long a revoked certificate stays in the CRLs after its end, or after a revocation that came
// later: it must have been in one at least (RFC 5280 §3.3).
const keptAfterExpiry = 30 * day

// ListedUntil is until when a revoked certificate is in the CRLs.
func (r Revocation) ListedUntil() time.Time {
	until := r.NotAfter
	if r.At.After(until) {
		until = r.At
	}
	return until.Add(keptAfterExpiry)
}

// CRL makes a full CRL (RFC 5280 §5): with authority key identifier, number and next update.
func (c CA) CRL(number int64, revoked []Revocation, now time.Time, key crypto.Signer) ([]byte, time.Time, error) {
	own := c.Certificate()
	now = now.UTC().Truncate(time.Second)
	next := now.Add(CRLFor)
	list := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: now, NextUpdate: next}
	for _, r := range revoked {
		if now.After(r.ListedUntil()) {
			continue
		}
		serial, ok := ParseSerial(r.Serial)
		if !ok {
			continue
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: r.At.UTC().Truncate(time.Second), ReasonCode: r.Reason, // 0 is left out (§5.3.1)
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, own, key)
	return der, next, err
}

// reasons are those of RFC 5280 §5.3.1 that a CA may give, by name in lower case. A certificate that is on hold may
// be released, and 7 is not used; removal belongs to delta CRLs.
var reasons = map[string]int{
	"unspecified": 0, "keycompromise": 1, "cacompromise": 2, "affiliationchanged": 3, "superseded": 4, "cessationofoperation": 5,
	"privilegewithdrawn": 9, "aacompromise": 10,
}

// ParseReason reads a reason's name in any case; empty for unspecified.
func ParseReason(name string) (int, bool) {
	if name == "" {
		return 0, true
	}
	reason, ok := reasons[strings.ToLower(name)]
	return reason, ok
}

// KnownReason tells whether a number is a reason that may be given.
func KnownReason(n int) bool {
	for _, known := range reasons {
		if n == known {
			return true
		}
	}
	return false
}
