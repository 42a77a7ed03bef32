package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// now is when the certificates of these tests are a day old.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// authority signs certificates; its parent is nil for a root.
type authority struct {
	key         Key
	certificate *x509.Certificate
	parent      *authority
}

func sign(t testing.TB, template *x509.Certificate, public crypto.PublicKey, by *authority, self Key) *x509.Certificate {
	t.Helper()
	parent, signer := template, self
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer.Signer())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	k := newKey(t, ECDSAP256)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &authority{k, sign(t, template, k.Public(), parent, k), parent}
}

func (a *authority) chain(leaf *x509.Certificate) Chain {
	chain := Chain{leaf}
	for ; a.parent != nil; a = a.parent {
		chain = append(chain, a.certificate)
	}
	return chain
}

func leafTemplate(names ...string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(0x04a1b2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 0, 89), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func TestAChainIsWhatWasAskedFor(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	intermediate := newAuthority(t, "Intermediate", root)
	stranger := newAuthority(t, "Intermediate", root) // of the same name
	renamed := *intermediate.certificate
	renamed.Subject, renamed.RawSubject = pkix.Name{CommonName: "Renamed"}, nil
	alias := sign(t, &renamed, intermediate.key.Public(), root, Key{}) // of the same key
	key, other := newKey(t, ECDSAP256), newKey(t, ECDSAP256)
	wanted := []string{"example.org", "*.example.org"}
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		template := leafTemplate(slices.Clone(wanted)...)
		change(template)
		return sign(t, template, key.Public(), intermediate, Key{})
	}
	good := leaf(func(*x509.Certificate) {})
	plain := func(chain ...*x509.Certificate) Chain { return chain }
	with := func(change func(*x509.Certificate)) Chain { return intermediate.chain(leaf(change)) }
	for _, c := range []struct {
		name  string
		chain Chain
		want  string // what the refusal says; empty for none
	}{
		{"with its intermediate", intermediate.chain(good), ""},
		{"with its root", append(intermediate.chain(good), root.certificate), ""},
		{"alone", plain(good), ""},
		{"names in another order", with(func(c *x509.Certificate) { slices.Reverse(c.DNSNames) }), ""},
		{"a clock that is four minutes fast", with(func(c *x509.Certificate) { c.NotBefore = now.Add(4 * time.Minute) }), ""},

		{"another key", intermediate.chain(sign(t, leafTemplate(wanted...), other.Public(), intermediate, Key{})), "another key"},
		{"a name less", with(func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] }), `lacks the name "*.example.org"`},
		{"a name more", with(func(c *x509.Certificate) { c.DNSNames = append(slices.Clone(c.DNSNames), "evil.example") }), `has the name "evil.example"`},
		{"an address more", with(func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }), `has the name "192.0.2.1"`},
		{"an e-mail address", with(func(c *x509.Certificate) { c.EmailAddresses = []string{"ann@example.org"} }), "not asked for"},
		{"a URI", with(func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "example.org"}} }), "not asked for"},
		{"not yet valid", with(func(c *x509.Certificate) { c.NotBefore = now.Add(6 * time.Minute) }), "not valid before 2026-11-24T12:06:00Z"},
		{"no longer valid", with(func(c *x509.Certificate) { c.NotAfter = now }), "ended at 2026-11-24T12:00:00Z"},
		{"a CA", with(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "is a CA's"},
		{"signed by another of the name", stranger.chain(good), "certificate 1 is not signed by the next"},
		{"signed by the key under another name", plain(good, alias), "its subject is not the issuer"},
		{"without the link", plain(good, root.certificate), "certificate 1 is not signed by the next"},
		{"in the wrong order", plain(good, root.certificate, intermediate.certificate), "certificate 1 is not signed"},
		{"the leaf twice", plain(good, good), "certificate 1 is not signed"},
		{"something behind it", append(intermediate.chain(good), stranger.certificate), "certificate 2 is not signed"},
	} {
		read, err := ParseChain(c.chain.PEM())
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		err = read.Check(key.Public(), wanted, now)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := intermediate.chain(good).Check(nil, wanted, now); err == nil {
		t.Error("no key is as good as another")
	}
}

func TestASignerMustBeACA(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	server := newKey(t, ECDSAP256)
	signer := &authority{server, sign(t, leafTemplate("server.example"), server.Public(), root, Key{}), root}
	key := newKey(t, ECDSAP256)
	leaf := sign(t, leafTemplate("example.org"), key.Public(), signer, Key{})
	if err := (Chain{leaf, signer.certificate}).Check(key.Public(), []string{"example.org"}, now); !errors.Is(err, ErrUnfit) {
		t.Errorf("a server signs: %v", err)
	}
}

func TestAddressesOfAPrivateCA(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	key := newKey(t, ECDSAP256)
	template := leafTemplate("nas.local")
	template.IPAddresses = []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")}
	names, err := Private.Names("nas.local", []string{"2001:DB8:0::1", "::ffff:192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := (Chain{sign(t, template, key.Public(), root, Key{})}).Check(key.Public(), names, now); err != nil {
		t.Error(err)
	}
}

func TestAChainIsNothingElse(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	key := newKey(t, ECDSAP256)
	text := root.chain(sign(t, leafTemplate("example.org"), key.Public(), root, Key{})).PEM()
	join := func(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
	for name, good := range map[string][]byte{
		"CRLF": bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")), "blank lines": join("\n", string(text), "\n\n", string(text), "\n"),
		"without the last newline": bytes.TrimSpace(text), "ten": bytes.Repeat(text, 10),
	} {
		if _, err := ParseChain(good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken := strings.Replace(string(text), "\nM", "\n!", 1)
	block, _ := pem.Decode(text)
	trailing := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: append(block.Bytes, 0)})
	for name, bad := range map[string][]byte{
		"nothing": {}, "blank": []byte("\n\n"), "text": []byte("a chain"), "text before it": join("subject=x\n", string(text)), "text behind it": join(string(text), "x"),
		"text between": join(string(text), "x\n", string(text)), "eleven": bytes.Repeat(text, 11), "a key": key.PEM(), "a key behind it": join(string(text), string(key.PEM())),
		"a broken one before it": join(broken, string(text)), "a broken one behind it": join(string(text), broken), "trailing bytes": trailing,
		"half": text[:len(text)/2], "no certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
		"headers": bytes.Replace(text, []byte("-----\n"), []byte("-----\nA: b\n\n"), 1), "the trusted form": bytes.ReplaceAll(text, []byte("CERTIFICATE"), []byte("TRUSTED CERTIFICATE")),
	} {
		if chain, err := ParseChain(bad); !errors.Is(err, ErrUnfit) || chain != nil || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHugeChainsAreRefusedAtOnce(t *testing.T) {
	for name, text := range map[string]string{
		"100 MB":          strings.Repeat("A", 100<<20),
		"1 MB of PEM":     strings.Repeat("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 1<<14),
		"64 kB of begins": strings.Repeat("-----BEGIN CERTIFICATE-----\n", maxChain/28),
		"64 kB of blanks": strings.Repeat("\n", maxChain),
	} {
		huge := []byte(text)
		inTime(t, name, func() {
			if _, err := ParseChain(huge); err == nil {
				t.Errorf("%s: accepted", name)
			}
			if _, err := ParseKey(huge); err == nil {
				t.Errorf("%s: accepted as a key", name)
			}
		})
	}
}

func TestFactsAreWhatOpenSSLSees(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	key := newKey(t, ECDSAP384)
	for _, number := range []int64{1, 0x04a1b2, 0x87654321} {
		template := leafTemplate("example.org", "*.example.org")
		template.SerialNumber = big.NewInt(number)
		chain := Chain{sign(t, template, key.Public(), root, Key{}), root.certificate}
		facts := chain.Facts()
		output := string(openssl(t, chain.PEM(), "x509", "-noout", "-serial", "-fingerprint", "-sha256", "-issuer", "-nameopt", "RFC2253", "-dates", "-dateopt", "iso_8601"))
		fingerprint := strings.ToUpper(facts.Fingerprint)
		var colons []string
		for pair := range slices.Chunk([]byte(fingerprint), 2) {
			colons = append(colons, string(pair))
		}
		for _, want := range []string{
			"serial=" + facts.Serial + "\n", "Fingerprint=" + strings.Join(colons, ":") + "\n", "issuer=" + facts.Issuer + "\n",
			"notBefore=" + facts.NotBefore.Format("2006-01-02 15:04:05Z") + "\n", "notAfter=" + facts.NotAfter.Format("2006-01-02 15:04:05Z") + "\n",
		} {
			if !strings.Contains(output, want) {
				t.Errorf("openssl does not see %q in\n%s", want, output)
			}
		}
		if !slices.Equal(facts.Names, template.DNSNames) || facts.KeyType != ECDSAP384 || facts.ARI != ARICertID(chain[0]) {
			t.Errorf("facts %+v", facts)
		}
	}
}

func TestOpenSSLVerifiesTheChain(t *testing.T) {
	root := newAuthority(t, "Root", nil)
	intermediate := newAuthority(t, "Intermediate", root)
	key := newKey(t, Ed25519)
	chain := intermediate.chain(sign(t, leafTemplate("example.org"), key.Public(), intermediate, Key{}))
	folder := t.TempDir()
	for name, text := range map[string][]byte{"root": Chain{root.certificate}.PEM(), "cas": chain.CAs().PEM(), "leaf": chain.Leaf().PEM()} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openssl(t, nil, "verify", "-attime", fmt.Sprint(now.Unix()), "-CAfile", filepath.Join(folder, "root"), "-untrusted", filepath.Join(folder, "cas"), filepath.Join(folder, "leaf"))
}

// The certificate and the id are those of RFC 9773, appendix A and §4.1.
func TestARICertID(t *testing.T) {
	text, err := os.ReadFile("testdata/rfc9773.pem")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ParseChain(text)
	if err != nil {
		t.Fatal(err)
	}
	if id := ARICertID(chain[0]); id != "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE" {
		t.Errorf("id %q", id)
	}
	if facts := chain.Facts(); facts.Serial != "87654321" {
		t.Errorf("serial %q", facts.Serial)
	}
	root := newAuthority(t, "Root", nil)
	if id := ARICertID(root.certificate); id != "" {
		t.Errorf("a root, which names no authority, has the id %q", id)
	}
}

// FuzzChain: a chain that is accepted is the same when it is written, and checking it, or taking its facts,
// ends.
func FuzzChain(f *testing.F) {
	root := newAuthority(f, "Root", nil)
	intermediate := newAuthority(f, "Intermediate", root)
	key := newKey(f, ECDSAP256)
	chain := intermediate.chain(sign(f, leafTemplate("example.org"), key.Public(), intermediate, Key{}))
	f.Add(chain.PEM())
	f.Add(chain.Leaf().PEM())
	f.Add(append([]byte("x\n"), chain.PEM()...))
	f.Fuzz(func(t *testing.T, text []byte) {
		read, err := ParseChain(text)
		if err != nil {
			if !errors.Is(err, ErrUnfit) || strings.ContainsAny(err.Error(), "\r\n\x1b") {
				t.Fatalf("says %q", err)
			}
			return
		}
		again, err := ParseChain(read.PEM())
		if err != nil || !slices.EqualFunc(read, again, func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) }) {
			t.Fatalf("is read otherwise when written: %v", err)
		}
		if err := read.Check(key.Public(), []string{"example.org"}, now); err == nil && !Same(read[0].PublicKey, key.Public()) {
			t.Fatal("fits another key")
		}
		read.Facts()
	})
}
