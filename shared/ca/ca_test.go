package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/pki"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// At least 64 bits are random (CA/Browser Forum, Baseline Requirements §7.1), the number is positive and of 20 octets at
// most (RFC 5280 §4.1.2.2), and it tells its time.
func TestSerialNumbers(t *testing.T) {
	seen := map[string]bool{}
	random := [13]byte{}
	for i := range 2000 {
		at := now.Add(time.Duration(i) * time.Millisecond)
		n := NewSerial(at)
		text := SerialText(n)
		if n.Sign() <= 0 || len(n.Bytes()) != 19 || seen[text] {
			t.Fatalf("%s", text)
		}
		seen[text] = true
		if got, ours := SerialTime(n); !ours || !got.Equal(at) {
			t.Fatalf("%s: %v, %v", text, got, ours)
		}
		if again, ok := ParseSerial(strings.ToLower(text)); !ok || again.Cmp(n) != 0 {
			t.Fatalf("%s: %v", text, again)
		}
		for j, b := range n.Bytes()[6:] {
			random[j] |= b
		}
	}
	if random != [13]byte(bytes.Repeat([]byte{0xff}, 13)) {
		t.Errorf("bits that are never set: %x", random)
	}
	for _, other := range []*big.Int{big.NewInt(0), big.NewInt(7), new(big.Int).Lsh(big.NewInt(1), 159)} {
		if _, ours := SerialTime(other); ours {
			t.Errorf("%v is none of ours", other)
		}
	}
	for _, text := range []string{"", "0", "xx", "001", strings.Repeat("00", 21)} {
		if n, ok := ParseSerial(text); ok {
			t.Errorf("%q: %v", text, n)
		}
	}
	if n, ok := ParseSerial("01:A2"); !ok || n.Int64() != 0x1a2 {
		t.Errorf("%v", n)
	}
}

// root is a CA with a key that is in the clear.
func root(t testing.TB, change ...func(*CA)) (CA, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := CA{User: 1, ID: 7, Name: "root", CommonName: "Root", KeyType: pki.ECDSAP256, PathLen: NoPathLen, Days: 100, Revocation: "http://pki.example/7", Directory: "https://pki.example/7/acme"}
	for _, ch := range change {
		ch(&c)
	}
	if c.Public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	plan, err := c.Own(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	plan.Template.SerialNumber = NewSerial(now)
	der, err := x509.CreateCertificate(rand.Reader, plan.Template, plan.Template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c.Chain = [][]byte{der}
	return c, key
}

// An entry gives back what was signed, and takes nothing else.
func TestAnEntryIsTheCertificate(t *testing.T) {
	c, key := root(t)
	own := c.Certificate()
	e := Entry{TBS: own.RawTBSCertificate}
	if e.DER() != nil || e.Status(now) != "INTENDED" {
		t.Error("signed before it was")
	}
	if err := e.Complete(own.Raw); err != nil || !bytes.Equal(e.DER(), own.Raw) {
		t.Errorf("%v", err)
	}
	other, _ := root(t)
	for name, der := range map[string][]byte{"another": other.Chain[0], "more after it": append(slices.Clone(own.Raw), 0), "nothing": nil, "no DER": []byte("x")} {
		if err := (&Entry{TBS: own.RawTBSCertificate}).Complete(der); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	if got := Split(append(slices.Clone(own.Raw), other.Chain[0]...)); len(got) != 2 || !bytes.Equal(got[0], own.Raw) || !bytes.Equal(got[1], other.Chain[0]) {
		t.Errorf("%d", len(got))
	}
	// The CRL: what is long over is not in it, whatever was revoked late is.
	list := []Revocation{
		{Serial: "01", At: now.Add(-90 * day), NotAfter: now.Add(-60 * day)}, {Serial: "02", At: now, NotAfter: now.Add(-60 * day), Reason: 1}, {Serial: "03", At: now.Add(-90 * day), NotAfter: now.Add(day)},
	}
	der, next, err := c.CRL(5, list, now, key)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil || crl.CheckSignatureFrom(own) != nil || len(crl.RevokedCertificateEntries) != 2 || crl.Number.Int64() != 5 || !crl.NextUpdate.Equal(next) || len(crl.AuthorityKeyId) == 0 {
		t.Errorf("%+v, %v", crl, err)
	}
}

func TestStatus(t *testing.T) {
	c, _ := root(t)
	rotated := c
	rotated.Next = 8
	for want, got := range map[Status]Status{
		Pending: CA{}.Status(now), Active: c.Status(now), Rotated: rotated.Status(now), Expired: c.Status(now.Add(101 * day)),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Names in the form that certificates have; each that will not do, and why.
func TestNames(t *testing.T) {
	for typed, want := range map[string]string{
		"A.Example": "a.example", "a.example.": "a.example", "printer": "printer", "Bücher.example": "xn--bcher-kva.example", "*.a.example": "*.a.example",
		"::ffff:10.0.0.1": "10.0.0.1", "2001:DB8::1": "2001:db8::1", "Ann@Example.ORG": "Ann@example.org", "spiffe://corp.example/x": "spiffe://corp.example/x",
		"https://10.0.0.1/x": "https://10.0.0.1/x",
	} {
		if got, refused := Names([]string{typed, typed}); len(refused) > 0 || !slices.Equal(got, []string{want}) {
			t.Errorf("%q: %v, %v", typed, got, refused)
		}
	}
	for _, typed := range []string{
		"", ".", "a..b", "-a.example", "a_b.example", "*.", "*", "a.*.example", "10.0.0.256", "fe80::1%eth0", "a.example\n", "a\x00.example", "ann@", "@example.org", `"a b"@example.org`, "ann@*.example.org",
		"ann@10.0.0.1", "ünn@example.org", "http://", "http://user@h.example/", "http://H.example/", "http://h.example/ü", "http://h.example/\r\n", "://x", strings.Repeat("a", 2000),
	} {
		if got, refused := Names([]string{typed}); len(refused) != 1 || refused[0].Why == "" || strings.ContainsAny(refused[0].Name, "\x00\n\r") {
			t.Errorf("%q: %v, %v", typed, got, refused)
		}
	}
}

// FuzzNames: what is taken is its own form, and a certificate can have it.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a.example", "Ann@Example.org", "https://h.example/x?y#z", "10.0.0.1", "*.x", "xn--bcher-kva.example"} {
		f.Add(s)
	}
	c, key := root(f, func(*CA) {})
	f.Fuzz(func(t *testing.T, typed string) {
		names, refused := Names([]string{typed})
		if len(refused) > 0 {
			return
		}
		again, refused := Names(names)
		if len(refused) > 0 || !slices.Equal(names, again) {
			t.Fatalf("%q: %v, then %v %v", typed, names, again, refused)
		}
		plan, refused, err := c.Look(Request{Names: names, Profile: "client", Public: mustKey.Public()}, now)
		if err != nil || len(refused) > 0 {
			t.Fatalf("%q: %v %v", typed, refused, err)
		}
		plan.Template.SerialNumber = big.NewInt(1)
		der, err := x509.CreateCertificate(rand.Reader, plan.Template, c.Certificate(), mustKey.Public(), key)
		if err != nil {
			t.Fatalf("%q: %v", typed, err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil || len(parsed.DNSNames)+len(parsed.IPAddresses)+len(parsed.EmailAddresses)+len(parsed.URIs) != 1 || !slices.Equal(namesOf(parsed), names) {
			t.Fatalf("%q: %v %v", typed, namesOf(parsed), err)
		}
	})
}

var mustKey = func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}()
