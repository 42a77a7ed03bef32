// Package export is the files in which an owner takes a certificate away: parts of a JSON answer, a ZIP and
// a PKCS#12 (contract §7.10). The issuer has no part in it, and so not in archive/zip and go-pkcs12.
//
// The ZIP has these entries, in this order. Their names are fixed, so that nothing of a caller's becomes a
// path.
//
//	private.key       PKCS#8, PEM
//	certificate.pem   the certificate
//	chain.pem         the CAs above it, if there are any
//	fullchain.pem     both
//	certificate.der   the certificate
//	bundle.pfx        PKCS#12 of key, certificate and CAs, with the password that goes with the ZIP
//	meta.json         id, names, serial number, times
//
// Where the caller keeps the key there is no private.key and no bundle.pfx.
package export

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"cjj365.cc/bb/shared/pki"
)

// Certificate is what is exported. It prints without its key.
type Certificate struct {
	ID     int64
	Domain string
	Chain  pki.Chain
	Key    pki.Key // the zero Key if the caller keeps it
}

// errOtherKey keeps a key from being handed out with a certificate that it is not of.
var errOtherKey = errors.New("export: the key is not the certificate's")

func (c Certificate) check() error {
	if c.Key.Exists() && !pki.Same(c.Key.Public(), c.Chain[0].PublicKey) {
		return errOtherKey
	}
	return nil
}

// Parts are the members of the JSON answer. They hold the key in the clear and print as [redacted].
type Parts struct {
	Cert      string `json:"cert" doc:"The certificate and the CAs above it, PEM"`
	PrivKey   string `json:"privkey" doc:"Base64 of the private key's PEM (PKCS#8); empty if you keep the key"`
	Chain     string `json:"chain" doc:"The CAs above it, PEM; may be empty"`
	FullChain string `json:"fullchain" doc:"The same as cert"`
	Domain    string `json:"domain_name"`
	Serial    string `json:"serial_number"`
	NotBefore int64  `json:"not_before" doc:"Seconds since 1970"`
	NotAfter  int64  `json:"not_after" doc:"Seconds since 1970"`
}

// Format prints Parts, whatever the verb.
func (Parts) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// LogValue is what slog shows of Parts.
func (Parts) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Parts gives the members of the JSON answer.
func (c Certificate) Parts() (Parts, error) {
	if err := c.check(); err != nil {
		return Parts{}, err
	}
	facts, all := c.Chain.Facts(), string(c.Chain.PEM())
	parts := Parts{
		Cert: all, Chain: string(c.Chain.CAs().PEM()), FullChain: all,
		Domain: c.Domain, Serial: facts.Serial, NotBefore: facts.NotBefore.Unix(), NotAfter: facts.NotAfter.Unix(),
	}
	if c.Key.Exists() {
		parts.PrivKey = base64.StdEncoding.EncodeToString(c.Key.PEM())
	}
	return parts, nil
}

// meta is meta.json.
type meta struct {
	ID          int64       `json:"cert_id"`
	Domain      string      `json:"domain_name"`
	Domains     []string    `json:"domains"`
	KeyType     pki.KeyType `json:"key_type"`
	Serial      string      `json:"serial_number"`
	Fingerprint string      `json:"fingerprint_sha256"`
	Issuer      string      `json:"issuer"`
	NotBefore   int64       `json:"not_before"` // seconds, as everywhere in certificates
	NotAfter    int64       `json:"not_after"`
}

// Modes of what is unpacked.
const (
	secret fs.FileMode = 0o600
	public fs.FileMode = 0o644
)

// Zip gives the archive and the password of its bundle.pfx, which is not in it; no password where there is
// no key. Its entries bear the time from which the certificate is valid.
func (c Certificate) Zip() (archive []byte, password string, err error) {
	if err := c.check(); err != nil {
		return nil, "", err
	}
	facts := c.Chain.Facts()
	about, err := json.MarshalIndent(meta{
		c.ID, c.Domain, facts.Names, facts.KeyType, facts.Serial, facts.Fingerprint, facts.Issuer, facts.NotBefore.Unix(), facts.NotAfter.Unix(),
	}, "", "  ")
	if err != nil {
		return nil, "", fmt.Errorf("export: %w", err)
	}
	var key, bundle []byte
	if c.Key.Exists() {
		key, password = c.Key.PEM(), NewPassword()
		if bundle, err = c.PKCS12(password); err != nil {
			return nil, "", err
		}
	}
	var buffer bytes.Buffer
	w := zip.NewWriter(&buffer)
	for _, entry := range []struct {
		name string
		mode fs.FileMode
		data []byte
	}{
		{"private.key", secret, key},
		{"certificate.pem", public, c.Chain.Leaf().PEM()},
		{"chain.pem", public, c.Chain.CAs().PEM()},
		{"fullchain.pem", public, c.Chain.PEM()},
		{"certificate.der", public, c.Chain[0].Raw},
		{"bundle.pfx", secret, bundle},
		{"meta.json", public, append(about, '\n')},
	} {
		if len(entry.data) == 0 {
			continue
		}
		header := &zip.FileHeader{Name: entry.name, Method: zip.Deflate, Modified: zipTime(facts.NotBefore)}
		header.SetMode(entry.mode)
		file, err := w.CreateHeader(header)
		if err == nil {
			_, err = file.Write(entry.data)
		}
		if err != nil {
			return nil, "", fmt.Errorf("export: write %s: %w", entry.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", fmt.Errorf("export: %w", err)
	}
	return buffer.Bytes(), password, nil
}

// zipTime brings a time into the years that a ZIP can say.
func zipTime(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 1980 || t.Year() > 2105 {
		return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return t
}

// passwordAlphabet has 64 characters, so that six random bits choose one.
const passwordAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// NewPassword draws the password of a PKCS#12: 40 characters, 240 bits (contract §22.8).
func NewPassword() string {
	password := make([]byte, 40)
	rand.Read(password) // never fails
	for i, b := range password {
		password[i] = passwordAlphabet[b%byte(len(passwordAlphabet))]
	}
	return string(password)
}

// errNoKey is the error of a PKCS#12 without a key.
var errNoKey = errors.New("export: there is no key for the PKCS#12")

// PKCS12 gives key, certificate and CAs in one file, encrypted with PBES2 and AES-256 as OpenSSL 3 does it
// by default (RFC 7292, RFC 8018). Its 2048 rounds suffice for a password of NewPassword and for no weaker
// one. It bears no friendly name: go-pkcs12 writes that in trust stores only.
func (c Certificate) PKCS12(password string) ([]byte, error) {
	if !c.Key.Exists() {
		return nil, errNoKey
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	file, err := pkcs12.Modern2023.Encode(c.Key.Signer(), c.Chain[0], []*x509.Certificate(c.Chain.CAs()), password)
	if err != nil {
		return nil, fmt.Errorf("export: write the PKCS#12: %w", err)
	}
	return file, nil
}
