package ocsp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	oracle "golang.org/x/crypto/ocsp"
)

var now = time.Now().Truncate(time.Second)

// authority is a CA, or a responder that it lets answer.
type authority struct {
	key         crypto.Signer
	certificate *x509.Certificate
}

func newKey(t testing.TB, algorithm string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch algorithm {
	case "P-256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var serials = int64(1000)

func (a authority) sign(t testing.TB, template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	serials++
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(serials)
	}
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(time.Hour)
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func newCA(t testing.TB, algorithm string) authority {
	t.Helper()
	ca := authority{key: newKey(t, algorithm)}
	ca.certificate = ca.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA of " + algorithm}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, ca.key)
	return ca
}

// responder is one to which the CA has delegated (RFC 6960 §4.2.2.2).
func (a authority) responder(t testing.TB, algorithm string) authority {
	t.Helper()
	key := newKey(t, algorithm)
	return authority{key, a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "responder"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}, // no check
	}, key)}
}

func (a authority) leaf(t testing.TB, serial *big.Int) *x509.Certificate {
	t.Helper()
	return a.sign(t, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "leaf"}}, newKey(t, "P-256"))
}

func asked(t testing.TB, der []byte) Request {
	t.Helper()
	request, err := ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

var algorithms = []string{"P-256", "P-384", "RSA", "Ed25519"}

func TestRequestsOfTheOracleAreRead(t *testing.T) {
	for _, algorithm := range algorithms {
		ca, other := newCA(t, algorithm), newCA(t, algorithm)
		for hash := range hashes {
			for _, serial := range []*big.Int{big.NewInt(1), big.NewInt(127), big.NewInt(128), new(big.Int).Lsh(big.NewInt(1), 159)} {
				leaf := ca.leaf(t, serial)
				der, err := oracle.CreateRequest(leaf, ca.certificate, &oracle.RequestOptions{Hash: hash})
				if err != nil {
					t.Fatal(err)
				}
				request := asked(t, der)
				if len(request.Certificates) != 1 || request.Nonce != nil {
					t.Fatalf("%s, %s: %+v", algorithm, hash, request)
				}
				id := request.Certificates[0]
				if id.Hash != hash || id.Serial.Cmp(serial) != 0 || !id.IssuedBy(ca.certificate) || id.IssuedBy(other.certificate) || !IssuerOf(ca.certificate).Issued(id) {
					t.Errorf("%s, %s: %+v", algorithm, hash, id)
				}
			}
		}
	}
}

// A certificate is asked for by the name and the key of its issuer: one alone is not enough.
func TestAnIssuerIsANameAndAKey(t *testing.T) {
	ca := newCA(t, "P-256")
	renamed := authority{key: ca.key}
	renamed.certificate = renamed.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "another"}, IsCA: true, BasicConstraintsValid: true}, ca.key)
	renewed := authority{key: ca.key}
	renewed.certificate = renewed.sign(t, &x509.Certificate{Subject: ca.certificate.Subject, IsCA: true, BasicConstraintsValid: true}, ca.key)
	der, err := oracle.CreateRequest(ca.leaf(t, nil), ca.certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := asked(t, der).Certificates[0]
	if id.IssuedBy(renamed.certificate) || !id.IssuedBy(renewed.certificate) {
		t.Error("a CA is told from another by its key alone, or not found by a second certificate")
	}
	id.Hash = 0
	if id.IssuedBy(ca.certificate) || (Issuer{}).Issued(CertID{}) {
		t.Error("an unknown hash is taken for a match")
	}
}

func TestTheOracleReadsResponses(t *testing.T) {
	nonce := bytes.Repeat([]byte{7}, 32)
	for _, algorithm := range []string{"P-256", "P-384", "RSA"} { // the oracle knows no Ed25519; OpenSSL does
		ca := newCA(t, algorithm)
		leaf := ca.leaf(t, nil)
		delegate := ca.responder(t, algorithm)
		for hash := range hashes {
			der, err := oracle.CreateRequest(leaf, ca.certificate, &oracle.RequestOptions{Hash: hash})
			if err != nil {
				t.Fatal(err)
			}
			id := asked(t, der).Certificates[0]
			for _, status := range []Status{
				{ID: id, State: Good, ThisUpdate: now, NextUpdate: now.Add(time.Hour)},
				{ID: id, State: Good, ThisUpdate: now},
				{ID: id, State: Unknown, ThisUpdate: now},
				{ID: id, State: Revoked, RevokedAt: now.Add(-time.Minute), ThisUpdate: now, NextUpdate: now.Add(time.Hour)},
				{ID: id, State: Revoked, RevokedAt: now.Add(-time.Minute), Reason: 1, ThisUpdate: now},
				{ID: id, State: Revoked, RevokedAt: now.In(time.FixedZone("", 3600)), Reason: 10, ThisUpdate: now.In(time.FixedZone("", -3600))},
			} {
				for _, signer := range []authority{ca, delegate} {
					response, err := Respond([]Status{status}, nonce, now, signer.key, signer.certificate)
					if err != nil {
						t.Fatal(err)
					}
					got, err := oracle.ParseResponse(response, ca.certificate)
					if err != nil {
						t.Errorf("%s, %s: %v", algorithm, hash, err)
						continue
					}
					states := map[int]State{oracle.Good: Good, oracle.Revoked: Revoked, oracle.Unknown: Unknown}
					key := digest(crypto.SHA1, publicKey(signer.certificate))
					if states[got.Status] != status.State || got.SerialNumber.Cmp(leaf.SerialNumber) != 0 || got.IssuerHash != hash ||
						!got.ProducedAt.Equal(now) || !got.ThisUpdate.Equal(status.ThisUpdate) || !got.NextUpdate.Equal(status.NextUpdate) ||
						!bytes.Equal(got.ResponderKeyHash, key) || !got.Certificate.Equal(signer.certificate) {
						t.Errorf("%s, %s: %+v is read as %+v", algorithm, hash, status, got)
					}
					if status.State == Revoked && (!got.RevokedAt.Equal(status.RevokedAt) || got.RevocationReason != status.Reason) {
						t.Errorf("%s, %s: revoked at %v for %d, not at %v for %d", algorithm, hash, got.RevokedAt, got.RevocationReason, status.RevokedAt, status.Reason)
					}
					if !bytes.Contains(response, id.raw) || !bytes.Contains(response, append([]byte{4, 34, 4, 32}, nonce...)) {
						t.Errorf("%s, %s: the CertID is not there as it was asked, or the nonce", algorithm, hash)
					}
				}
			}
		}
	}
}

// A reason of 0 is left out (RFC 5280 §5.3.1), and so is what there is none of.
func TestWhatIsLeftOut(t *testing.T) {
	ca := newCA(t, "Ed25519") // whose signatures have one length
	der, err := oracle.CreateRequest(ca.leaf(t, nil), ca.certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := asked(t, der).Certificates[0]
	length := func(reason int, nonce []byte, next time.Time) int {
		response, err := Respond([]Status{{id, Revoked, now, reason, now, next}}, nonce, now, ca.key, ca.certificate)
		if err != nil {
			t.Fatal(err)
		}
		return len(response)
	}
	least := length(0, nil, time.Time{})
	if got := length(1, nil, time.Time{}); got != least+5 {
		t.Errorf("a reason takes %d bytes", got-least)
	}
	if got := length(0, nil, now); got != least+19 {
		t.Errorf("the next update takes %d bytes", got-least)
	}
	if got := length(0, []byte{1}, time.Time{}); got != least+22 {
		t.Errorf("a nonce of one octet takes %d bytes", got-least)
	}
}

func TestRefusals(t *testing.T) {
	for code, want := range map[int][]byte{
		MalformedRequest: oracle.MalformedRequestErrorResponse,
		InternalError:    oracle.InternalErrorErrorResponse,
		TryLater:         oracle.TryLaterErrorResponse,
		SigRequired:      oracle.SigRequredErrorResponse,
		Unauthorized:     oracle.UnauthorizedErrorResponse,
		0:                oracle.InternalErrorErrorResponse,
		4:                oracle.InternalErrorErrorResponse,
		261:              oracle.InternalErrorErrorResponse,
	} {
		if got := Refusal(code); !bytes.Equal(got, want) {
			t.Errorf("%d: %x", code, got)
		}
	}
}

func TestResponsesThatAreNotMade(t *testing.T) {
	ca := newCA(t, "P-256")
	p521 := newCA(t, "P-521")
	der, err := oracle.CreateRequest(ca.leaf(t, nil), ca.certificate, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := asked(t, der).Certificates[0]
	good := Status{ID: id, State: Good, ThisUpdate: now}
	for name, c := range map[string]struct {
		statuses    []Status
		producedAt  time.Time
		key         crypto.Signer
		certificate *x509.Certificate
	}{
		"no status":             {nil, now, ca.key, ca.certificate},
		"another's certificate": {[]Status{good}, now, ca.key, newCA(t, "P-256").certificate},
		"P-521":                 {[]Status{good}, now, p521.key, p521.certificate},
		"no CertID":             {[]Status{{State: Good, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"no time":               {[]Status{{ID: id, State: Good}}, now, ca.key, ca.certificate},
		"no time of revocation": {[]Status{{ID: id, State: Revoked, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"no such state":         {[]Status{{ID: id, State: 3, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"reason 7":              {[]Status{{ID: id, State: Revoked, RevokedAt: now, Reason: 7, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"reason 8":              {[]Status{{ID: id, State: Revoked, RevokedAt: now, Reason: 8, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"reason 11":             {[]Status{{ID: id, State: Revoked, RevokedAt: now, Reason: 11, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"reason -1":             {[]Status{{ID: id, State: Revoked, RevokedAt: now, Reason: -1, ThisUpdate: now}}, now, ca.key, ca.certificate},
		"the year 10000":        {[]Status{good}, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), ca.key, ca.certificate},
	} {
		if response, err := Respond(c.statuses, nil, c.producedAt, c.key, c.certificate); err == nil || response != nil {
			t.Errorf("%s: made", name)
		}
	}
}

// Parts of requests, as bytes.

func tlv(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	switch n := len(content); {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 0x100:
		return append([]byte{tag, 0x81, byte(n)}, content...)
	default:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
}

func hexed(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

var (
	sha1OID  = hexed("06 05 2b0e03021a")
	nonceOID = hexed("06 09 2b0601050507300102")
	otherOID = hexed("06 03 2a0304")
	yes      = hexed("01 01 ff")
	hash20   = make([]byte, 20)
)

func certID(algorithm, name, key, serial []byte) []byte {
	return tlv(0x30, tlv(0x30, algorithm), tlv(4, name), tlv(4, key), serial)
}

var (
	plainID = certID(append(bytes.Clone(sha1OID), 5, 0), hash20, hash20, []byte{2, 1, 1})
	single  = tlv(0x30, plainID)
)

// of is a request for the parts of its TBSRequest.
func of(parts ...[]byte) []byte { return tlv(0x30, tlv(0x30, parts...)) }

func listOf(parts ...[]byte) []byte { return of(tlv(0x30, parts...)) }

func with(extensions ...[]byte) []byte {
	return of(tlv(0x30, single), tlv(0xa2, tlv(0x30, extensions...)))
}

func nonceOf(n int) []byte { return tlv(0x30, nonceOID, tlv(4, tlv(4, make([]byte, n)))) }

var requests = []struct {
	name   string
	der    []byte
	reason string // empty for a request that is read
}{
	{"as usual", of(tlv(0x30, single)), ""},
	{"16 certificates", listOf(bytes.Repeat(single, 16)), ""},
	{"version 1, said", of(hexed("a003020100"), tlv(0x30, single)), ""},
	{"a requestor", of(tlv(0xa1, tlv(0x82, []byte("example.org"))), tlv(0x30, single)), ""},
	{"a signature", tlv(0x30, tlv(0x30, tlv(0x30, single)), tlv(0xa0, tlv(0x30, tlv(3, []byte{0})))), ""},
	{"a nonce of 1 octet", with(nonceOf(1)), ""},
	{"a nonce of 128 octets", with(nonceOf(128)), ""},
	{"a critical nonce", with(tlv(0x30, nonceOID, yes, tlv(4, tlv(4, hash20)))), ""},
	{"another extension", with(tlv(0x30, otherOID, tlv(4, []byte{1})), nonceOf(16)), ""},
	{"an extension of one certificate", listOf(tlv(0x30, plainID, tlv(0xa0, tlv(0x30, tlv(0x30, otherOID, tlv(4)))))), ""},
	{"no parameters", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, []byte{2, 1, 1}))), ""},
	{"an unknown hash", listOf(tlv(0x30, certID(otherOID, hash20[:3], nil, []byte{2, 1, 1}))), ""},
	{"a serial of 20 octets and a zero", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, tlv(2, []byte{0, 0x80}, make([]byte, 19))))), ""},
	{"a negative serial", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, []byte{2, 1, 0x80}))), ""},

	{"nothing", nil, "no sequence"},
	{"text", []byte("GET / HTTP/1.1"), "no sequence"},
	{"8 KB and more", make([]byte, MaxRequest+1), "too long"},
	{"a response", Refusal(TryLater), "no sequence"},
	{"trailing bytes", append(of(tlv(0x30, single)), 0), "no sequence"},
	{"bytes after the signature", tlv(0x30, tlv(0x30, tlv(0x30, single)), tlv(0xa0, tlv(0x30)), []byte{5, 0}), "no sequence"},
	{"an indefinite length", append([]byte{0x30, 0x80}, append(tlv(0x30, tlv(0x30, single)), 0, 0)...), "no sequence"},
	{"cut short", of(tlv(0x30, single))[:40], "no sequence"},
	{"version 2", of(hexed("a003020101"), tlv(0x30, single)), "version"},
	{"a version of two integers", of(hexed("a006020100020100"), tlv(0x30, single)), "version"},
	{"no list", of(), "no list"},
	{"an empty list", of(tlv(0x30)), "no certificate"},
	{"17 certificates", listOf(bytes.Repeat(single, 17)), "too many"},
	{"bytes after the list", of(tlv(0x30, single), []byte{5, 0}), "no list"},
	{"bytes after a CertID", listOf(tlv(0x30, plainID, []byte{5, 0})), "part of its list"},
	{"bytes in a CertID", listOf(tlv(0x30, tlv(0x30, tlv(0x30, sha1OID), tlv(4, hash20), tlv(4, hash20), []byte{2, 1, 1}, []byte{5, 0}))), "CertID"},
	{"a serial of 22 octets", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, tlv(2, []byte{1}, make([]byte, 21))))), "serial"},
	{"a serial that begins with zeros", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, []byte{2, 2, 0, 1}))), "serial"},
	{"a serial of no octets", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, []byte{2, 0}))), "serial"},
	{"a serial that is no integer", listOf(tlv(0x30, certID(sha1OID, hash20, hash20, []byte{4, 1, 1}))), "CertID"},
	{"parameters", listOf(tlv(0x30, certID(append(bytes.Clone(sha1OID), 2, 1, 1), hash20, hash20, []byte{2, 1, 1}))), "parameters"},
	{"a short hash", listOf(tlv(0x30, certID(sha1OID, hash20[:19], hash20, []byte{2, 1, 1}))), "length"},
	{"a long hash", listOf(tlv(0x30, certID(sha1OID, hash20, make([]byte, 32), []byte{2, 1, 1}))), "length"},
	{"an empty nonce", with(nonceOf(0)), "nonce"},
	{"a nonce of 129 octets", with(nonceOf(129)), "nonce"},
	{"a nonce without its own tag", with(tlv(0x30, nonceOID, tlv(4, hash20))), "nonce"},
	{"bytes after a nonce", with(tlv(0x30, nonceOID, tlv(4, tlv(4, hash20), []byte{0}))), "nonce"},
	{"two nonces", with(nonceOf(16), nonceOf(16)), "twice"},
	{"a critical extension", with(tlv(0x30, otherOID, yes, tlv(4, []byte{1}))), "critical"},
	{"a critical extension of one certificate", listOf(tlv(0x30, plainID, tlv(0xa0, tlv(0x30, tlv(0x30, otherOID, yes, tlv(4)))))), "critical"},
	{"a critical nonce of one certificate", listOf(tlv(0x30, plainID, tlv(0xa0, tlv(0x30, tlv(0x30, nonceOID, yes, tlv(4, tlv(4, hash20))))))), "critical"},
	{"a bool that is neither", with(tlv(0x30, otherOID, hexed("010101"), tlv(4, []byte{1}))), "extension"},
	{"no extensions in their place", with(), "extensions"},
	{"bytes after the extensions", of(tlv(0x30, single), tlv(0xa2, tlv(0x30, nonceOf(16)), []byte{5, 0})), "extensions"},
}

func TestRequests(t *testing.T) {
	for _, c := range requests {
		request, err := ParseRequest(c.der)
		if c.reason == "" && (err != nil || len(request.Certificates) == 0) ||
			c.reason != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.reason) || request.Certificates != nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if request := asked(t, with(nonceOf(128))); len(request.Nonce) != 128 {
		t.Errorf("a nonce of 128 octets has %d", len(request.Nonce))
	}
	for serial, want := range map[string]string{"020101": "1", "020180": "-128", "02020080": "128", "020100": "0"} {
		request := asked(t, listOf(tlv(0x30, certID(sha1OID, hash20, hash20, hexed(serial)))))
		if request.Certificates[0].Serial.String() != want {
			t.Errorf("serial %s is read as %s", serial, request.Certificates[0].Serial)
		}
	}
}

// FuzzRequest: what is read is within the bounds, the oracle reads its first certificate alike, it is read the
// same from the parts that are answered, and the answer can be read.
func FuzzRequest(f *testing.F) {
	for _, c := range requests {
		f.Add(c.der)
	}
	ca := newCA(f, "P-256")
	f.Fuzz(func(t *testing.T, der []byte) {
		before := bytes.Clone(der)
		request, err := ParseRequest(der)
		if !bytes.Equal(der, before) {
			t.Fatal("the request was written to")
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) || len(err.Error()) > 200 {
				t.Fatalf("says %v", err)
			}
			return
		}
		if n := len(request.Certificates); n < 1 || n > MaxCertificates || len(der) > MaxRequest || len(request.Nonce) > 128 || request.Nonce != nil && len(request.Nonce) == 0 {
			t.Fatalf("is beyond the bounds: %+v", request)
		}
		first := request.Certificates[0]
		if other, err := oracle.ParseRequest(der); err == nil {
			if other.HashAlgorithm != first.Hash || other.SerialNumber.Cmp(first.Serial) != 0 ||
				!bytes.Equal(other.IssuerNameHash, first.IssuerNameHash) || !bytes.Equal(other.IssuerKeyHash, first.IssuerKeyHash) {
				t.Fatalf("the oracle reads %+v, not %+v", other, first)
			}
		}
		var list [][]byte
		var statuses []Status
		for _, id := range request.Certificates {
			list = append(list, tlv(0x30, id.raw))
			statuses = append(statuses, Status{ID: id, ThisUpdate: now})
		}
		again, err := ParseRequest(listOf(list...))
		if err != nil || fmt.Sprint(again.Certificates) != fmt.Sprint(request.Certificates) {
			t.Fatalf("is read otherwise again: %+v, %v", again, err)
		}
		response, err := Respond(statuses[:1], request.Nonce, now, ca.key, ca.certificate)
		if err != nil {
			t.Fatal(err)
		}
		got, err := oracle.ParseResponse(response, ca.certificate)
		if first.Hash != 0 && (err != nil || got.Status != oracle.Unknown || got.SerialNumber.Cmp(first.Serial) != 0) {
			t.Fatalf("the oracle reads the answer as %+v, %v", got, err)
		}
	})
}

// openssl runs OpenSSL 3 in a directory and returns what it says.
func openssl(t *testing.T, directory string, arguments ...string) string {
	t.Helper()
	if version, err := exec.Command("openssl", "version").Output(); err != nil || !strings.HasPrefix(string(version), "OpenSSL 3") {
		t.Skip("skipped: there is no OpenSSL 3")
	}
	command := exec.Command("openssl", arguments...)
	command.Dir = directory
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

func write(t *testing.T, directory, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func asPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestOpenSSLAsksAndVerifies(t *testing.T) {
	for _, algorithm := range algorithms {
		for _, hash := range []string{"sha1", "sha256", "sha384", "sha512"} {
			directory := t.TempDir()
			ca := newCA(t, algorithm)
			responder := ca.responder(t, algorithm)
			write(t, directory, "ca.pem", asPEM(ca.certificate))
			write(t, directory, "responder.pem", asPEM(responder.certificate))
			ask := []string{"ocsp", "-issuer", "ca.pem"}
			for _, name := range []string{"good.pem", "revoked.pem", "unspecified.pem", "unknown.pem"} {
				write(t, directory, name, asPEM(ca.leaf(t, nil)))
				ask = append(ask, "-"+hash, "-cert", name)
			}
			openssl(t, directory, append(ask, "-nonce", "-reqout", "request.der")...)
			der, err := os.ReadFile(filepath.Join(directory, "request.der"))
			if err != nil {
				t.Fatal(err)
			}
			request := asked(t, der)
			if len(request.Certificates) != 4 || len(request.Nonce) < 16 {
				t.Fatalf("%s: %+v", algorithm, request)
			}
			var statuses []Status
			for i, status := range []Status{{State: Good}, {State: Revoked, Reason: 1, RevokedAt: now.Add(-time.Minute)}, {State: Revoked, RevokedAt: now}, {State: Unknown}} {
				if !request.Certificates[i].IssuedBy(ca.certificate) {
					t.Errorf("%s, %s: the issuer is not found", algorithm, hash)
				}
				status.ID, status.ThisUpdate, status.NextUpdate = request.Certificates[i], now.Add(-time.Minute), now.Add(time.Hour)
				statuses = append(statuses, status)
			}
			for name, signer := range map[string]authority{"a delegate": responder, "the CA": ca} {
				response, err := Respond(statuses, request.Nonce, now, signer.key, signer.certificate)
				if err != nil {
					t.Fatal(err)
				}
				write(t, directory, "response.der", response)
				// OpenSSL compares nonces with a request that it reads, and tells states for one that it makes.
				said := openssl(t, directory, "ocsp", "-reqin", "request.der", "-respin", "response.der", "-CAfile", "ca.pem")
				said += openssl(t, directory, append(ask, "-respin", "response.der", "-no_nonce", "-CAfile", "ca.pem")...)
				for _, want := range []string{
					"Response verify OK", "good.pem: good", "revoked.pem: revoked", "Reason: keyCompromise", "unspecified.pem: revoked", "unknown.pem: unknown",
				} {
					if !strings.Contains(said, want) {
						t.Errorf("%s with %s by %s: openssl does not say %q but\n%s", algorithm, hash, name, want, said)
					}
				}
				if strings.Count(said, "Response verify OK") != 2 || strings.Count(said, "Reason") != 1 || strings.Contains(said, "WARNING") || strings.Contains(said, "rror") {
					t.Errorf("%s with %s by %s: openssl says\n%s", algorithm, hash, name, said)
				}
				text := openssl(t, directory, "ocsp", "-respin", "response.der", "-resp_text", "-noverify")
				nonce := strings.ToUpper(hex.EncodeToString(request.Nonce))
				if !strings.Contains(text, nonce) || !strings.Contains(text, "Responder Id: "+strings.ToUpper(hex.EncodeToString(digest(crypto.SHA1, publicKey(signer.certificate))))) {
					t.Errorf("%s: openssl sees no nonce %s or another responder in\n%s", algorithm, nonce, text)
				}
				openssl(t, directory, append(ask, "-respin", "response.der", "-no_nonce", "-VAfile", "responder.pem", "-CAfile", "ca.pem")...)
			}
		}
	}
}

// OpenSSL compares nonces, and does not take the answer of one to whom nothing was delegated: the tests above
// would see it if those passed.
func TestOpenSSLRefuses(t *testing.T) {
	directory := t.TempDir()
	ca := newCA(t, "P-256")
	write(t, directory, "ca.pem", asPEM(ca.certificate))
	write(t, directory, "leaf.pem", asPEM(ca.leaf(t, nil)))
	ask := []string{"ocsp", "-issuer", "ca.pem", "-cert", "leaf.pem"}
	openssl(t, directory, append(ask, "-nonce", "-reqout", "request.der")...)
	der, err := os.ReadFile(filepath.Join(directory, "request.der"))
	if err != nil {
		t.Fatal(err)
	}
	request := asked(t, der)
	key := newKey(t, "P-256")
	undelegated := authority{key, ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "no responder"}}, key)}
	for name, c := range map[string]struct {
		nonce  []byte
		signer authority
	}{
		"Nonce Verify error":        {bytes.Repeat([]byte{1}, 16), ca},
		"missing ocspsigning usage": {request.Nonce, undelegated},
	} {
		response, err := Respond([]Status{{ID: request.Certificates[0], State: Good, ThisUpdate: now}}, c.nonce, now, c.signer.key, c.signer.certificate)
		if err != nil {
			t.Fatal(err)
		}
		write(t, directory, "response.der", response)
		command := exec.Command("openssl", "ocsp", "-reqin", "request.der", "-respin", "response.der", "-CAfile", "ca.pem")
		command.Dir = directory
		output, _ := command.CombinedOutput()
		if !strings.Contains(string(output), name) {
			t.Errorf("openssl does not say %q but\n%s", name, output)
		}
	}
}
