package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
)

func TestACertificateIsIssued(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("lab.test", "10.0.0.0/8"))
	csr, key := makeCSR("a.lab.test", "*.lab.test", "10.1.2.3")
	o := c.order("ready", "10.1.2.3", "*.lab.test", "a.lab.test")
	done := c.want("200", o.Finalize, map[string]string{"csr": csr})
	leaf := c.download(done)
	if !slices.Equal(names(leaf), []string{"a.lab.test", "*.lab.test", "10.1.2.3"}) || leaf.Subject.CommonName != "a.lab.test" {
		t.Errorf("%v %s", names(leaf), leaf.Subject)
	}
	if public := key.Public().(*ecdsa.PublicKey); !public.Equal(leaf.PublicKey) {
		t.Error("another key")
	}
	e, err := w.tables.Store.Entry(t.Context(), w.ca.ID, ca.SerialText(leaf.SerialNumber))
	if err != nil || e.By != "acme/"+c.kid[len(c.kid)-26:] || e.Certificate != 0 {
		t.Errorf("%+v %v", e, err)
	}
	// A client that lost the answer asks again, and there is still one.
	if again := c.want("200", o.Finalize, map[string]string{"csr": csr}); again.Certificate != done.Certificate {
		t.Errorf("%s", again)
	}
	other, _ := makeCSR("a.lab.test", "*.lab.test", "10.1.2.3")
	c.want("403 orderNotReady", o.Finalize, map[string]string{"csr": other})
	if signed, intended := w.entries(w.ca.ID); signed != 1 || intended != 0 {
		t.Errorf("%d signed, %d intended", signed, intended)
	}
	if o := c.want("200", o.header.Get("Location"), nil); o.Status != "valid" || o.Certificate != done.Certificate {
		t.Errorf("%s", o)
	}
}

func TestTheLifetimeAndTheProfileAreThoseAskedFor(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	end := w.now().Add(36 * time.Hour).UTC().Truncate(time.Second)
	o := c.want("201", c.at("new-order"), map[string]any{"identifiers": identifiers("a.test"), "notAfter": end.Format(time.RFC3339), "profile": "client"})
	csr, _ := makeCSR("a.test")
	leaf := c.download(c.want("200", o.Finalize, map[string]string{"csr": csr}))
	if !leaf.NotAfter.Equal(end) || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("%s, want %s; %v", leaf.NotAfter, end, leaf.ExtKeyUsage)
	}
}

func TestBadCSRs(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	o := c.order("ready", "a.test", "b.test")
	make := func(key crypto.Signer, template x509.CertificateRequest) string {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		w.must(err)
		return base64.RawURLEncoding.EncodeToString(der)
	}
	both := x509.CertificateRequest{DNSNames: []string{"a.test", "b.test"}}
	short, _ := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	good := make(newKey(), both)
	broken := good[:len(good)-8] + "AAAAAAAA"
	for name, csr := range map[string]string{
		"nothing":                "",
		"no base64url":           "?",
		"base64 with padding":    base64.StdEncoding.EncodeToString([]byte("abcd")),
		"no PKCS#10":             "AAAA",
		"a broken signature":     broken,
		"a name too few":         make(newKey(), x509.CertificateRequest{DNSNames: []string{"a.test"}}),
		"a name too many":        make(newKey(), x509.CertificateRequest{DNSNames: []string{"a.test", "b.test", "c.test"}}),
		"another name":           make(newKey(), x509.CertificateRequest{DNSNames: []string{"a.test", "c.test"}}),
		"another common name":    make(newKey(), x509.CertificateRequest{Subject: pkix.Name{CommonName: "c.test"}, DNSNames: []string{"a.test", "b.test"}}),
		"an e-mail address":      make(newKey(), x509.CertificateRequest{DNSNames: []string{"a.test", "b.test"}, EmailAddresses: []string{"ann@a.test"}}),
		"a CA":                   make(newKey(), x509.CertificateRequest{DNSNames: both.DNSNames, ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}}),
		"RSA of 1024 bits":       make(short, both),
		"P-521":                  make(p521, both),
		"the key of the account": make(c.key, both),
	} {
		if r := c.post(o.Finalize, map[string]string{"csr": csr}); r.problem() != "400 badCSR" {
			t.Errorf("%s: %s", name, r)
		}
	}
	// None of them did the order any harm.
	c.download(c.want("200", o.Finalize, map[string]string{"csr": good}))
	d := w.register(w.bind())
	d.want("403 orderNotReady", d.order("pending", "a.test").Finalize, map[string]string{"csr": good})
}

func TestEightFinalizesMakeOneCertificate(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	csr, _ := makeCSR("a.test")
	o := c.order("ready", "a.test")
	answers := make(chan reply, 8)
	for range cap(answers) {
		go func() { answers <- c.post(o.Finalize, map[string]string{"csr": csr}) }()
	}
	for range cap(answers) {
		if r := <-answers; r.status != 200 || r.Status != "valid" && (r.Status != "processing" || r.header.Get("Retry-After") == "") {
			t.Errorf("%s", r)
		}
	}
	c.download(c.want("200", o.header.Get("Location"), nil))
	if signed, intended := w.entries(w.ca.ID); signed != 1 || intended != 0 {
		t.Errorf("%d signed, %d intended", signed, intended)
	}
}

// leave makes an order as a process leaves it that is killed while it has the certificate signed.
func (c *client) leave(o reply, csr string) acmeserver.Order {
	c.Helper()
	url := o.header.Get("Location")
	order, err := c.tables.Store.ServerOrder(c.Context(), c.ca.ID, url[len(url)-26:], c.now())
	c.must(err)
	order.CSR, _ = base64.RawURLEncoding.DecodeString(csr)
	order.StartedAt, order.LeaseEnds, order.Drawn = c.now(), c.now().Add(acmeserver.Lease), ca.SerialText(ca.NewSerial(c.now()))
	order, err = c.tables.Store.ChangeServerOrder(c.Context(), order)
	c.must(err)
	return order
}

func TestAnOrderIsFinishedAfterAKill(t *testing.T) {
	for _, killed := range []string{"before it was signed", "after it was signed", "while it was signed", "after it was signed, and then the CA was rotated"} {
		t.Run(killed, func(t *testing.T) {
			w := newWorld(t)
			c := w.register(w.bind("*"))
			csr, key := makeCSR("a.test")
			o := c.order("ready", "a.test")
			left := c.leave(o, csr)
			principal := "acme/" + c.kid[len(c.kid)-26:]
			want := ""
			w.advance(time.Second)
			ask := ca.Request{Names: []string{"a.test"}, Public: key.Public(), Serial: left.Drawn}
			if strings.HasPrefix(killed, "after") {
				issued, err := w.h.signer.Issue(t.Context(), ann, w.ca.ID, ask, principal, 0)
				w.must(err)
				want = issued.Entry.Serial
			}
			// Others of the same CA are not taken for it.
			_, err := w.h.signer.Issue(t.Context(), ann, w.ca.ID, ca.Request{Names: []string{"a.test"}, Public: newKey().Public()}, principal, 0)
			w.must(err)
			if killed == "while it was signed" {
				plan, err := w.ca.Plan(ask, w.now())
				w.must(err)
				signer, err := w.h.signer.Key(t.Context(), w.ca)
				w.must(err)
				_, err = w.h.signer.Sign(t.Context(), w.ca, signer, plan, key.Public(), principal, 0) // and not completed
				w.must(err)
			}
			if r := c.want("200", o.Finalize, map[string]string{"csr": csr}); r.Status != "processing" { // the lease runs
				t.Errorf("%s", r)
			}
			other, _ := makeCSR("a.test")
			c.want("403 orderNotReady", o.Finalize, map[string]string{"csr": other})
			w.advance(acmeserver.Lease)
			if r := c.want("200", o.header.Get("Location"), nil); r.Status != "ready" {
				t.Errorf("%s", r)
			}
			c.want("400 badCSR", o.Finalize, map[string]string{"csr": other})
			if strings.HasSuffix(killed, "rotated") {
				w.newCA(&w.ca)
			}
			leaf := c.download(c.want("200", o.Finalize, map[string]string{"csr": csr}))
			if got := ca.SerialText(leaf.SerialNumber); want != "" && got != want {
				t.Errorf("a second certificate, %s after %s", got, want)
			}
			if public := key.Public().(*ecdsa.PublicKey); !public.Equal(leaf.PublicKey) {
				t.Error("another key")
			}
			if signed, _ := w.entries(w.ca.ID); signed != 2 {
				t.Errorf("%d signed", signed)
			}
		})
	}
}

func TestARotatedCASignsByItsSuccessor(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	before, _ := c.issue("a.test")
	next := w.newCA(&w.ca)
	after, _ := c.issue("a.test")
	if string(before.AuthorityKeyId) == string(after.AuthorityKeyId) || string(after.AuthorityKeyId) != string(next.Certificate().SubjectKeyId) {
		t.Errorf("%x, %x", before.AuthorityKeyId, after.AuthorityKeyId)
	}
	c.want("200", c.at("revoke-cert"), map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(before.Raw)})
	c.want("200", c.at("revoke-cert"), map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(after.Raw)})
}

func TestACAWithoutACertificateOrAtItsEndSignsNothing(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	o := c.order("ready", "a.test")
	csr, _ := makeCSR("a.test")
	w.late.Store(int64(3651 * 24 * time.Hour))
	c.want("403 unauthorized", c.at("new-order"), map[string]any{"identifiers": identifiers("a.test")})
	c.want("404 malformed", o.Finalize, map[string]string{"csr": csr}) // the order has lapsed
}
