package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
)

// A DNS provider that does not answer when records are to be removed keeps no issue open.
func TestADNSProviderThatHangsOnRemoval(t *testing.T) {
	t.Parallel()
	slot(t)
	r := newRig(t, options{})
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	r.hold = func(name string) {
		if name == cleanup {
			<-over
		}
	}
	r.fault = func(name string, _ *http.Request) int {
		if name == present {
			return http.StatusForbidden
		}
		return 0
	}
	c := r.create(certificate.Certificate{Names: []string{domain(), domain(), domain()}})
	if err := r.deliver(c); err != nil {
		t.Errorf("the message fails: %v", err)
	}
	if c = r.read(c); c.Issuing != 0 || c.Status(time.Now()) != certificate.Failed || c.Failure.Kind != "dns-provider" {
		t.Errorf("%s, issuing %d, %+v", c.Status(time.Now()), c.Issuing, c.Failure)
	}
}

// Of several records those that are set already are not set again by the next worker.
func TestRecordsThatAreSetStaySet(t *testing.T) {
	t.Parallel()
	slot(t)
	r := newRig(t, options{})
	down := true
	r.fault = func(name string, _ *http.Request) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		if down && name == present && r.counts[present] == 3 {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	c := r.create(certificate.Certificate{Names: []string{domain(), domain(), domain()}})
	if err := r.deliver(c); err != nil {
		t.Fatal(err)
	}
	r.set(func() { down = false })
	r.finish(c)
	r.checkIssued(c, 1)
	if got := r.asked(present); got != 4 {
		t.Errorf("%d records set for three names, one of them twice", got)
	}
}

// A record that nobody can see: the failure names it and the server, and the next try sets it anew.
func TestARecordThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	slot(t)
	r := newRig(t, options{})
	c := r.create(certificate.Certificate{DNSProvider: r.provider("httpreq", map[string]any{
		"endpoint": r.httpreq, "username": httpUser, "password": httpPassword, "propagation_timeout_seconds": 5,
	})})
	r.fault = func(name string, _ *http.Request) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		if name == present && r.counts[present] == 1 {
			return http.StatusOK // the provider says that it is set
		}
		return 0
	}
	if err := r.deliver(c); err != nil {
		t.Fatal(err)
	}
	o := must(r.tables.Store.Order(t.Context(), c.ID))
	want := failure{step: certificate.AtPropagate, kind: "propagation", says: "does not have the TXT record", about: c.Names[0], record: "_acme-challenge." + c.Names[0] + "."}
	if !want.fits(o.Last) || o.Last.Permanent {
		t.Errorf("waits for %+v", o.Last)
	}
	r.finish(c)
	r.checkIssued(c, 1)
	if r.asked(present) != 2 || r.answered(newOrder) != 1 {
		t.Errorf("%d records set, %d orders", r.asked(present), r.answered(newOrder))
	}
}

// What the CA does not find for a moment, or what something in front of it answers, passes, and above all when the
// certificate is there.
func TestACAThatIsConfusedForAMoment(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"acme POST /certZ", "acme POST /my-order", "acme POST /authZ", finalize, newOrder} {
		for _, kind := range []string{"urn:ietf:params:acme:error:malformed", ""} {
			t.Run(at+" "+kind, func(t *testing.T) {
				t.Parallel()
				slot(t)
				r := newRig(t, options{})
				var once sync.Once
				r.refuse = func(name string) (p *acme.Problem) {
					if name == at {
						once.Do(func() { p = &acme.Problem{Type: kind, Status: 404, Detail: "not found"} })
					}
					return p
				}
				c := r.create(certificate.Certificate{})
				r.finish(c)
				r.checkIssued(c, 1)
				if r.answered(newOrder) != 1 {
					t.Errorf("%d orders", r.answered(newOrder))
				}
			})
		}
	}
}

// A CA that cannot be reached is the CA's failure, not ours: the message does not fail, and says so.
func TestACAThatCannotBeReached(t *testing.T) {
	t.Parallel()
	slot(t)
	r := newRig(t, options{})
	down := true
	r.hold = func(name string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if down && name == newOrder {
			panic(http.ErrAbortHandler)
		}
	}
	c := r.create(certificate.Certificate{})
	if err := r.deliver(c); err != nil {
		t.Errorf("the message fails: %v", err)
	}
	if o := must(r.tables.Store.Order(t.Context(), c.ID)); o.Last.Kind != "connection" || o.Last.Permanent {
		t.Errorf("waits for %+v", o.Last)
	}
	r.set(func() { down = false })
	r.finish(c)
	r.checkIssued(c, 1)
}

// Let's Encrypt gives two orders for the same names as one, so that one of two certificates gets the other's.
func TestACertificateForAnotherKeyIsOrderedAnew(t *testing.T) {
	t.Parallel()
	slot(t)
	r := newRig(t, options{})
	other := r.create(certificate.Certificate{})
	r.finish(other)
	theirs := must(r.inPlace(other)).PEM()
	var once sync.Once
	r.returned = func(name string, response *http.Response) {
		if name == "acme POST /certZ" {
			once.Do(func() {
				response.Body.Close()
				response.Body = io.NopCloser(bytes.NewReader(theirs))
				response.ContentLength = int64(len(theirs))
				response.Header.Del("Content-Length")
			})
		}
	}
	before := r.answered(newOrder)
	c := r.create(certificate.Certificate{})
	r.finish(c)
	r.checkIssued(c, 1)
	if got := r.answered(newOrder) - before; got != 2 {
		t.Errorf("%d orders", got)
	}
}

// Revoked while a renewal is open that fails: nothing renews it any more.
func TestARevokedCertificateIsNotRenewedAfterAFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tables: fresh(t)})
	c := r.create(certificate.Certificate{})
	r.finish(c)
	c = r.renew(c)
	r.refuse = func(name string) *acme.Problem {
		r.mu.Lock()
		defer r.mu.Unlock()
		if name == newOrder {
			return &acme.Problem{Type: "urn:ietf:params:acme:error:caa", Status: 403}
		}
		return nil
	}
	before := r.read(c)
	revoked := before
	revoked.RevokedAt = time.Now()
	must(r.tables.Store.UpdateCertificate(t.Context(), before, revoked, nil, nil))
	r.finish(c)
	if c = r.read(c); c.Status(time.Now()) != certificate.Revoked || !c.RenewAt.IsZero() || c.Failure.Kind != "caa" {
		t.Errorf("%s, looked at %v, %+v", c.Status(time.Now()), c.RenewAt, c.Failure)
	}
	r.schedule()
	if got := r.read(c).Issuing; got != 0 {
		t.Errorf("issuing %d", got)
	}
}

// acmeDNS is the update call of an acme-dns server, which keeps an account's last two values: there is none to be had
// as a package. challtestsrv shows them.
func (r *rig) acmeDNS(subdomain, fulldomain string) *httptest.Server {
	var mu sync.Mutex
	var values []string
	tell := func(path string, body any) {
		response, err := http.Post(r.dns.Management+path, "application/json", bytes.NewReader(must(json.Marshal(body))))
		if err != nil {
			r.t.Error(err)
			return
		}
		response.Body.Close()
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		var update struct{ Subdomain, TXT string }
		if request.URL.Path != "/update" || json.NewDecoder(request.Body).Decode(&update) != nil || update.Subdomain != subdomain {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		values = append(slices.DeleteFunc(values, func(v string) bool { return v == update.TXT }), update.TXT)
		values = values[max(0, len(values)-2):]
		tell("/clear-txt", map[string]string{"host": fulldomain + "."})
		for _, v := range values {
			tell("/set-txt", map[string]string{"host": fulldomain + ".", "value": v})
		}
		fmt.Fprintf(w, `{"txt":%q}`, update.TXT)
	}))
	r.t.Cleanup(server.Close)
	return server
}

// Five names that all lead to one acme-dns account are proved two at a time.
func TestMoreNamesThanAnAcmeDNSAccountHolds(t *testing.T) {
	t.Parallel()
	slot(t)
	r := newRig(t, options{})
	fulldomain := "account." + domain()
	server := r.acmeDNS("account", fulldomain)
	names := []string{domain(), domain(), domain(), domain()}
	names = append(names, "*."+names[0])
	for _, name := range names[:4] {
		response, err := http.Post(r.dns.Management+"/set-cname", "application/json", bytes.NewReader(must(json.Marshal(map[string]string{"host": "_acme-challenge." + name, "target": fulldomain}))))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	c := r.create(certificate.Certificate{Names: names, DNSProvider: r.provider("acme-dns", map[string]any{
		"api_url": server.URL, "username": "user", "password": "password", "subdomain": "account", "fulldomain": fulldomain, "propagation_timeout_seconds": 10,
	})})
	if err := r.deliver(c); err != nil {
		t.Fatal(err)
	}
	if got := r.read(c); got.Status(time.Now()) != certificate.Valid || r.answered(newOrder) != 1 {
		t.Errorf("%s, %d orders, %+v", got.Status(time.Now()), r.answered(newOrder), got.Failure)
	}
}
