package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	legoacme "github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/acme/api"
	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/challenge/http01"
	"github.com/go-acme/lego/v5/lego"
	"github.com/go-acme/lego/v5/registration"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/pki"
)

// legoUser is lego's idea of who has an account.
type legoUser struct {
	key crypto.Signer
	at  *legoacme.ExtendedAccount
}

func (u *legoUser) GetEmail() string                           { return "ann@example.test" }
func (u *legoUser) GetRegistration() *legoacme.ExtendedAccount { return u.at }
func (u *legoUser) GetPrivateKey() crypto.Signer               { return u.key }

func (w *world) lego(b acmeserver.Binding) *lego.Client {
	w.Helper()
	u := &legoUser{key: newKey()}
	config := lego.NewConfig(u)
	config.CADirURL, config.HTTPClient = w.at("directory"), w.server.Client()
	c, err := lego.NewClient(config)
	w.must(err)
	if _, err := c.Registration.Register(w.Context(), registration.RegisterOptions{TermsOfServiceAgreed: true}); err == nil {
		w.Error("an account without a binding")
	}
	u.at, err = c.Registration.RegisterWithExternalAccountBinding(w.Context(), registration.RegisterEABOptions{
		TermsOfServiceAgreed: true, Kid: b.ID, HmacEncoded: w.secret().BindingText(b.ID),
	})
	w.must(err)
	c, err = lego.NewClient(config)
	w.must(err)
	return c
}

func leaf(t *testing.T, bundle []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(bundle)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLego(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	c := w.lego(w.bind("lab.test", "10.0.0.0/8"))

	// What the binding covers, without any solver.
	got, err := c.Certificate.Obtain(ctx, certificate.ObtainRequest{Domains: []string{"a.lab.test", "*.lab.test", "10.1.2.3"}, KeyType: certcrypto.EC256, Bundle: true})
	w.must(err)
	first := leaf(t, got.Certificate)
	if !slices.Equal(first.DNSNames, []string{"a.lab.test", "*.lab.test"}) || len(first.IPAddresses) != 1 {
		t.Errorf("%v %v", first.DNSNames, first.IPAddresses)
	}

	// Renewal information, and a renewal that says what it replaces.
	info, err := c.Certificate.GetRenewalInfo(ctx, first)
	w.must(err)
	if at := info.ShouldRenewAt(w.now(), 0); at != nil {
		t.Errorf("to be renewed at %s", at)
	}
	id, err := api.MakeARICertID(first)
	w.must(err)
	if id != certificateID(first) {
		t.Errorf("%s, %s", id, certificateID(first))
	}
	again := certificate.ObtainRequest{Domains: []string{"a.lab.test"}, KeyType: certcrypto.RSA2048, Bundle: true, ReplacesCertID: id, Profile: "both"}
	got, err = c.Certificate.Obtain(ctx, again)
	w.must(err)
	if second := leaf(t, got.Certificate); !slices.Equal(second.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("%v", second.ExtKeyUsage)
	}
	replaced, err := w.tables.Store.Replaced(ctx, w.ca.ID, id)
	if err != nil || !replaced {
		t.Errorf("%v %v", replaced, err)
	}

	// Other names by http-01.
	port := freePort(t)
	w.h.prober.httpPort = port
	w.names.add(t, "web.test. 60 IN A 127.0.0.1")
	w.names.add(t, "www.web.test. 60 IN A 127.0.0.1")
	w.must(c.Challenge.SetHTTP01Provider(http01.NewProviderServer("127.0.0.1", port)))
	got, err = c.Certificate.Obtain(ctx, certificate.ObtainRequest{Domains: []string{"web.test", "www.web.test", "b.lab.test"}, KeyType: certcrypto.EC384, Bundle: true})
	w.must(err)
	if third := leaf(t, got.Certificate); len(third.DNSNames) != 3 {
		t.Errorf("%v", third.DNSNames)
	}
	_, err = c.Certificate.Obtain(ctx, certificate.ObtainRequest{Domains: []string{"nowhere.test"}, KeyType: certcrypto.EC256})
	var p *legoacme.ProblemDetails
	if err == nil || errors.As(err, &p) && p.Type != namespace+"dns" {
		t.Errorf("a name that is not: %v", err)
	}

	// Revocation, as lego does it: by the account.
	w.must(c.Certificate.Revoke(ctx, got.Certificate))
	e, err := w.tables.Store.Entry(ctx, w.ca.ID, ca.SerialText(leaf(t, got.Certificate).SerialNumber))
	if err != nil || e.RevokedAt.IsZero() {
		t.Errorf("%+v %v", e, err)
	}
	if info, err = c.Certificate.GetRenewalInfo(ctx, leaf(t, got.Certificate)); err != nil || info.ShouldRenewAt(w.now(), 0) == nil {
		t.Errorf("%+v %v", info, err)
	}

	// Its key, and its end.
	w.must(c.Registration.KeyRollover(ctx, newKey()))
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestOurOwnClient(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	b := w.bind("lab.test")
	key, err := acme.NewKey()
	w.must(err)
	c := &acme.Client{HTTP: w.server.Client(), URL: w.at("directory")}
	_, err = c.Register(ctx, key, "ann@example.test", nil)
	if p, ok := errors.AsType[*acme.Problem](err); !ok || p.Kind() != "externalAccountRequired" {
		t.Errorf("%v", err)
	}
	url, err := c.Register(ctx, key, "ann@example.test", &acme.ExternalAccount{KeyID: b.ID, MAC: w.secret().BindingKey(b.ID)})
	w.must(err)
	by := acme.Account{URL: url, Key: key}
	w.must(c.SetContact(ctx, by, ""))
	o, err := c.NewOrder(ctx, by, acme.Wish{Names: []string{"a.lab.test", "*.lab.test"}, Profile: "server"})
	w.must(err)
	for _, at := range o.Authorizations {
		if a, err := c.Authorization(ctx, by, at); err != nil || a.Status != acme.Valid {
			t.Errorf("%+v %v", a, err)
		}
	}
	certKey := newKey()
	csr, err := pki.NewRequest(certKey, []string{"a.lab.test", "*.lab.test"}, pki.Subject{})
	w.must(err)
	done, err := c.Finalize(ctx, by, o, csr)
	w.must(err)
	if done, err = c.Order(ctx, by, o.URL); err != nil || done.Status != acme.Valid {
		t.Fatalf("%+v %v", done, err)
	}
	chain, err := c.Certificate(ctx, by, done)
	w.must(err)
	got := leaf(t, chain)
	if window, known, err := c.RenewalInfo(ctx, certificateID(got)); err != nil || !known || !window.Start.After(w.now().Add(24*time.Hour)) {
		t.Errorf("%+v %v %v", window, known, err)
	}
	if lost, found, err := c.LostOrder(ctx, by, []string{"a.lab.test", "*.lab.test"}); err != nil {
		t.Errorf("%+v %v %v", lost, found, err)
	}
	w.must(c.Revoke(ctx, by, got.Raw, 4))

	// Names that need a challenge, by dns-01.
	o, err = c.NewOrder(ctx, by, acme.Wish{Names: []string{"*.web.test"}})
	w.must(err)
	a, err := c.Authorization(ctx, by, o.Authorizations[0])
	w.must(err)
	challenge, ok := a.DNS01()
	if !ok || a.Name() != "*.web.test" {
		t.Fatalf("%+v", a)
	}
	w.must(c.Accept(ctx, by, challenge)) // nothing is there yet
	if a, err = c.Authorization(ctx, by, o.Authorizations[0]); err != nil || a.Status != acme.Invalid || a.Challenges[0].Problem.Kind() != "dns" {
		t.Errorf("%+v %v", a, err)
	}
}
