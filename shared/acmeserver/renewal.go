package acmeserver

import (
	"encoding/base64"
	"math/big"
	"strings"
	"time"
)

// ParseCertificateID reads a certificate's id (RFC 9773 §4.1): its authority key identifier, a dot, and its serial
// number as DER has it, in base64url. Each certificate has one spelling.
func ParseCertificateID(id string) (authority []byte, serial *big.Int, ok bool) {
	const most = 200
	if len(id) > most {
		return nil, nil, false
	}
	first, second, found := strings.Cut(id, ".")
	if !found {
		return nil, nil, false
	}
	authority, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil || len(authority) == 0 {
		return nil, nil, false
	}
	content, err := base64.RawURLEncoding.Strict().DecodeString(second)
	if err != nil || len(content) == 0 || content[0]&0x80 != 0 {
		return nil, nil, false
	}
	serial = new(big.Int).SetBytes(content)
	if CertificateID(authority, serial) != id {
		return nil, nil, false
	}
	return authority, serial, true
}

// CertificateID is a certificate's id.
func CertificateID(authority []byte, serial *big.Int) string {
	content := serial.Bytes()
	if len(content) == 0 || content[0]&0x80 != 0 { // DER numbers have a sign
		content = append([]byte{0}, content...)
	}
	return base64.RawURLEncoding.EncodeToString(authority) + "." + base64.RawURLEncoding.EncodeToString(content)
}

// Window is when a certificate should be renewed (RFC 9773 §4.2): a twentieth of its lifetime, up to two thirds of it,
// or to its half if it lives ten days or less.
func Window(notBefore, notAfter time.Time) (start, end time.Time) {
	const short = 10 * 24 * time.Hour
	lifetime := notAfter.Sub(notBefore)
	end = notBefore.Add(lifetime / 3 * 2)
	if lifetime <= short {
		end = notBefore.Add(lifetime / 2)
	}
	return end.Add(-lifetime / 20).UTC().Truncate(time.Second), end.UTC().Truncate(time.Second)
}

// AtOnce is the window of a certificate that should have been renewed already.
func AtOnce(now time.Time) (start, end time.Time) {
	now = now.UTC().Truncate(time.Second)
	return now.Add(-2 * time.Hour), now.Add(-time.Hour)
}
