package main

import (
	"crypto/x509"
	"encoding/base64"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
)

func text(c *x509.Certificate) string { return base64.RawURLEncoding.EncodeToString(c.Raw) }

func TestWhoMayRevoke(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("lab.test"))
	stranger := w.register(w.bind("other.test"))
	leaf, key := c.issue("a.lab.test")
	second, secondKey := c.issue("c.lab.test")
	to := w.at("revoke-cert")

	stranger.want("403 unauthorized", to, map[string]any{"certificate": text(leaf)})
	(&client{world: w, key: newKey()}).want("403 unauthorized", to, map[string]any{"certificate": text(leaf)})
	(&client{world: w, key: secondKey}).want("403 unauthorized", to, map[string]any{"certificate": text(leaf)})
	(&client{world: w, key: c.key}).want("403 unauthorized", to, map[string]any{"certificate": text(leaf)}) // an account's key is no certificate's
	for _, reason := range []int{-1, 6, 7, 8, 11, 1000} {
		c.want("400 badRevocationReason", to, map[string]any{"certificate": text(leaf), "reason": reason})
	}
	c.want("400 malformed", to, map[string]any{"certificate": text(leaf), "reason": "keyCompromise"})
	c.want("400 malformed", to, map[string]any{"certificate": "AAAA"})
	c.want("400 malformed", to, map[string]any{})
	c.want("400 malformed", to, map[string]any{"certificate": text(w.ca.Certificate())})
	lab := w.ca
	w.ca = w.newCA(nil)
	elsewhere, _ := w.register(w.bind("*")).issue("a.lab.test")
	w.ca = lab
	c.want("400 malformed", to, map[string]any{"certificate": text(elsewhere)})

	// A CRL is published once a second: the clock has to go on.
	revoke := func(by *client, certificate *x509.Certificate, reason int) {
		t.Helper()
		w.advance(2 * time.Second)
		by.want("200", to, map[string]any{"certificate": text(certificate), "reason": reason})
	}
	revoke(c, leaf, 4)
	c.want("400 alreadyRevoked", to, map[string]any{"certificate": text(leaf)})
	(&client{world: w, key: key}).want("400 alreadyRevoked", to, map[string]any{"certificate": text(leaf), "reason": 1})
	revoke(&client{world: w, key: secondKey}, second, 1)
	for certificate, reason := range map[*x509.Certificate]int{leaf: 4, second: 1} {
		e, err := w.tables.Store.Entry(t.Context(), w.ca.ID, ca.SerialText(certificate.SerialNumber))
		if err != nil || e.RevokedAt.IsZero() || e.Reason != reason {
			t.Errorf("%+v %v", e, err)
		}
	}

	// Whoever may be issued all of the names may revoke (RFC 8555 §7.6), what ACME issued.
	third, _ := c.issue("d.lab.test")
	colleague := w.register(w.bind("lab.test"))
	revoke(colleague, third, 0)
	managed, err := w.h.signer.Issue(t.Context(), ann, w.ca.ID, ca.Request{Names: []string{"e.lab.test"}, Public: newKey().Public()}, "user/1", 5)
	w.must(err)
	colleague.want("403 unauthorized", to, map[string]any{"certificate": text(managed.Certificate)})
}

func certificateID(c *x509.Certificate) string {
	return acmeserver.CertificateID(c.AuthorityKeyId, c.SerialNumber)
}

func TestRenewalInformation(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	leaf, _ := c.issue("a.test")
	ask := func(c *x509.Certificate) reply { return w.send("GET", w.at("renewal-info/"+certificateID(c)), "", nil) }
	r := ask(leaf)
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	near := func(a, b time.Time) bool { return a.Sub(b).Abs() <= 2*time.Second }
	if r.status != 200 || r.header.Get("Retry-After") != "21600" || !near(r.Window.End, leaf.NotBefore.Add(lifetime*2/3)) || !near(r.Window.Start, r.Window.End.Add(-lifetime/20)) {
		t.Errorf("%s %v", r, r.header)
	}
	end := w.now().Add(4 * 24 * time.Hour).UTC().Truncate(time.Second)
	o := c.want("201", c.at("new-order"), map[string]any{"identifiers": identifiers("a.test"), "notAfter": end.Format(time.RFC3339)})
	csr, _ := makeCSR("a.test")
	short := c.download(c.want("200", o.Finalize, map[string]string{"csr": csr}))
	if r := ask(short); !near(r.Window.End, short.NotBefore.Add(short.NotAfter.Sub(short.NotBefore)/2)) {
		t.Errorf("%s", r)
	}
	past := func(why string, c *x509.Certificate) {
		t.Helper()
		if r := ask(c); r.status != 200 || !r.Window.End.Before(w.now()) || !r.Window.Start.Before(r.Window.End) {
			t.Errorf("%s: %s", why, r)
		}
	}
	c.want("200", c.at("revoke-cert"), map[string]any{"certificate": text(leaf)})
	past("revoked", leaf)
	w.newCA(&w.ca)
	past("its CA was rotated", short)

	unknown := *leaf
	unknown.SerialNumber = ca.NewSerial(w.now())
	for _, id := range []string{certificateID(&unknown), certificateID(w.ca.Certificate()), "x", "AAAA", "AAAA.AAAA", "AAAA." + "A", certificateID(leaf) + "=", "." + "AA"} {
		if r := w.send("GET", w.at("renewal-info/"+id), "", nil); r.problem() != "404 malformed" {
			t.Errorf("%s: %s", id, r)
		}
	}
}

func TestACertificateIsReplacedOnce(t *testing.T) {
	w := newWorld(t)
	b := w.bind("*")
	c, other := w.register(b), w.register(b)
	leaf, _ := c.issue("a.test")
	order := map[string]any{"identifiers": identifiers("a.test"), "replaces": certificateID(leaf)}
	other.want("400 malformed", c.at("new-order"), order)
	first, second := c.want("201", c.at("new-order"), order), c.want("201", c.at("new-order"), order) // none is finalized yet
	csr, _ := makeCSR("a.test")
	c.download(c.want("200", first.Finalize, map[string]string{"csr": csr}))
	c.want("409 alreadyReplaced", c.at("new-order"), order)
	c.download(c.want("200", second.Finalize, map[string]string{"csr": csr}))
}
