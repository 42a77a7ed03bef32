package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
)

// Usages are extended key usages. In a CA's certificate they limit those of the certificates below it, for
// crypto/x509, OpenSSL, NSS and Windows, though RFC 5280 §4.2.1.12 does not say so.
type Usages struct {
	Known []x509.ExtKeyUsage
	Other []asn1.ObjectIdentifier
}

// UsagesOf are those of a certificate.
func UsagesOf(c *x509.Certificate) Usages { return Usages{c.ExtKeyUsage, c.UnknownExtKeyUsage} }

// allow tells whether certificates below may have all of some usages.
func (u Usages) allow(wanted Usages) bool {
	if len(u.Known)+len(u.Other) == 0 || slices.Contains(u.Known, x509.ExtKeyUsageAny) {
		return true
	}
	for _, k := range wanted.Known {
		if !slices.Contains(u.Known, k) {
			return false
		}
	}
	for _, o := range wanted.Other {
		if !slices.ContainsFunc(u.Other, o.Equal) {
			return false
		}
	}
	return true
}
