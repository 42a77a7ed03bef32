package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/local/pebble"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
)

func key(t pki.KeyType) pki.Key { return must(pki.NewKey(t)) }

// What is ordered is what is issued, by one delivery and one order.
func TestWhatIsIssued(t *testing.T) {
	t.Parallel()
	one, csrName := domain(), domain()
	csrKey := key(pki.ECDSAP256)
	hundred := make([]string, pki.MaxNames)
	for i := range hundred {
		hundred[i] = fmt.Sprintf("h%d.%s", i, domain())
	}
	for _, test := range []struct {
		name string
		c    certificate.Certificate
		fits func(pki.Chain) bool
	}{
		{"an ECDSA P-256 key", certificate.Certificate{}, func(c pki.Chain) bool { return c.Facts().KeyType == pki.ECDSAP256 }},
		{"an ECDSA P-384 key", certificate.Certificate{KeyType: string(pki.ECDSAP384)}, func(c pki.Chain) bool {
			k, ok := c[0].PublicKey.(*ecdsa.PublicKey)
			return ok && k.Params().BitSize == 384
		}},
		{"an RSA key", certificate.Certificate{KeyType: string(pki.RSA2048)}, func(c pki.Chain) bool {
			k, ok := c[0].PublicKey.(*rsa.PublicKey)
			return ok && k.N.BitLen() == 2048
		}},
		{"a wildcard with its base", certificate.Certificate{Names: []string{"*." + one, one}}, func(c pki.Chain) bool { return len(c[0].DNSNames) == 2 }},
		{"the profile shortlived", certificate.Certificate{Profile: pebble.Shortlived}, func(c pki.Chain) bool {
			return c[0].NotAfter.Sub(c[0].NotBefore) <= 6*24*time.Hour
		}},
		{"the profile classic", certificate.Certificate{Profile: pebble.Classic}, func(c pki.Chain) bool {
			return c[0].NotAfter.Sub(c[0].NotBefore) > 80*24*time.Hour
		}},
		{"a request whose key the caller keeps", certificate.Certificate{Names: []string{csrName}, CallersKey: true}, func(c pki.Chain) bool {
			return pki.Same(c[0].PublicKey, csrKey.Public())
		}},
		{"a hundred names", certificate.Certificate{Names: hundred}, func(c pki.Chain) bool { return len(c[0].DNSNames) == pki.MaxNames }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			slot(t)
			r := newRig(t, options{})
			var csr []byte
			if test.c.CallersKey {
				csr = must(pki.NewRequest(csrKey.Signer(), []string{csrName}, pki.Subject{}))
			}
			c := r.createBy(test.c, csr)
			if err := r.deliver(c); err != nil {
				t.Fatal(err)
			}
			r.checkIssued(c, 1)
			if chain, err := r.inPlace(c); err != nil || !test.fits(chain) {
				t.Errorf("the chain: %v, %v", err, chain)
			}
			if r.answered(newOrder) != 1 {
				t.Errorf("%d orders", r.answered(newOrder))
			}
			c = r.read(c)
			if c.Current.ARI == "" || !c.RenewAt.After(time.Now()) || !c.RenewAt.Before(c.Current.NotAfter) {
				t.Errorf("ARI id %q, looked at %v", c.Current.ARI, c.RenewAt)
			}
		})
	}
}

// A real DNS server takes the record by a signed update, and another one under an alias.
func TestByDynamicUpdate(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	knot := r.dns.Knot
	if knot == nil {
		t.Skip("Knot is not installed")
	}
	settings := map[string]any{
		"nameserver": knot.Address, "tsig_key_name": strings.TrimSuffix(knot.Key.Name, "."), "tsig_algorithm": strings.TrimSuffix(knot.Key.Algorithm, "."), "tsig_secret": knot.Key.Secret,
	}
	for _, names := range [][]string{{"www.example.com"}, {"example.org", "*.example.org"}, {"delegated.example.net"}} {
		c := r.create(certificate.Certificate{Names: names, DNSProvider: r.provider("rfc2136", settings)})
		if err := r.deliver(c); err != nil {
			t.Fatal(err)
		}
		r.checkIssued(c, 1)
	}
	// The same key with another secret.
	settings["tsig_secret"] = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32))
	c := r.create(certificate.Certificate{Names: []string{"other.example.com"}, DNSProvider: r.provider("rfc2136", settings)})
	r.checkFailed(c, failure{step: certificate.AtPresent, kind: "dns-provider", says: "refused TSIG key", about: "other.example.com", record: "_acme-challenge.other.example.com."})
}

// failure is what people are told.
type failure struct {
	step          certificate.Step
	kind, says    string
	about, record string
}

func (f failure) fits(got certificate.Failure) bool {
	return got.Step == f.step && got.Kind == f.kind && strings.Contains(got.What, f.says) && got.Name == f.about && got.Record == f.record && !got.At.IsZero()
}

// checkFailed: one delivery is enough to know that it failed for good, and nothing is left over.
func (r *rig) checkFailed(c certificate.Certificate, want failure) {
	r.t.Helper()
	if err := r.deliver(c); err != nil {
		r.t.Errorf("the message fails: %v", err)
	}
	c = r.read(c)
	if got := c.Status(time.Now()); got != certificate.Failed || c.Issuing != 0 || !c.Failure.Permanent || !want.fits(c.Failure) {
		r.t.Errorf("status %s, issuing %d, failure %+v, want %+v", got, c.Issuing, c.Failure, want)
	}
	issues := must(r.tables.Store.Issues(context.Background(), c.ID))
	if len(issues) != 1 || issues[0].State != certificate.Unissued || issues[0].Failure.What != c.Failure.What {
		r.t.Errorf("history %+v", issues)
	}
	if _, err := r.tables.Store.Order(context.Background(), c.ID); !errors.Is(err, store.ErrNotFound) {
		r.t.Errorf("the open issue is left: %v", err)
	}
	r.checkNoRecords(c)
}

func TestWhatFailsForGoodIsClosedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.checkFailed(r.create(certificate.Certificate{Names: []string{"www.blocked.example"}}),
		failure{step: certificate.AtOrder, kind: "rejectedIdentifier", says: "rejectedIdentifier", about: "www.blocked.example"})
	r.checkFailed(r.create(certificate.Certificate{Profile: "imaginary"}), failure{step: certificate.AtOrder, kind: "invalidProfile", says: "imaginary"})
	name := domain()
	wrong := map[string]any{"endpoint": r.httpreq, "username": httpUser, "password": "not " + httpPassword}
	r.checkFailed(r.create(certificate.Certificate{Names: []string{name}, DNSProvider: r.provider("httpreq", wrong)}),
		failure{step: certificate.AtPresent, kind: "dns-provider", says: "401", about: name, record: "_acme-challenge." + name + "."})
	if strings.Contains(r.log.String(), "not "+httpPassword) {
		t.Error("the log holds the provider's password")
	}
}

// What may pass waits, says why, and goes on with the same order.
func TestADNSProviderThatIsDownForAWhile(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	down := true
	r.fault = func(name string, _ *http.Request) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		if down && name == present {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	c := r.create(certificate.Certificate{})
	if err := r.deliver(c); err != nil {
		t.Errorf("the message fails: %v", err)
	}
	o := must(r.tables.Store.Order(t.Context(), c.ID))
	if o.URL == "" || o.Lease != "" || !o.NextAt.After(time.Now()) || o.Last.Kind != "dns-provider" || o.Last.Permanent || o.Last.Name != c.Names[0] {
		t.Errorf("while it is down: %+v", o)
	}
	if got := r.read(c).Status(time.Now()); got != certificate.Issuing {
		t.Errorf("while it is down: %s", got)
	}
	// Its time has not come, so a message that comes early does nothing.
	asked := r.asked(present)
	if err := r.deliver(c); err != nil || r.asked(present) != asked {
		t.Errorf("early: %v, %d requests", err, r.asked(present)-asked)
	}
	if got := r.asked("sqs SendMessage"); got != 1 {
		t.Errorf("%d messages sent for later", got)
	}
	r.set(func() { down = false })
	r.elapse(c)
	if err := r.deliver(c); err != nil {
		t.Fatal(err)
	}
	r.checkIssued(c, 1)
	if issues := must(r.tables.Store.Issues(t.Context(), c.ID)); issues[0].Order != o.URL || r.answered(newOrder) != 1 {
		t.Errorf("issued by %s, waited at %s", issues[0].Order, o.URL)
	}
}

// What the CA refuses for good ends the issue at once; what may pass is tried again, and not before the CA
// wants it. A rate limit that lasts is the first, with the time from which on it is of use again.
func TestTheCAsRefusals(t *testing.T) {
	t.Parallel()
	const urn = "urn:ietf:params:acme:error:"
	for _, test := range []struct {
		kind       string
		status     int
		retryAfter time.Duration
		wait       time.Duration // the least before the next try; 0 for none: it ends
		retryAt    time.Duration // from which on another issue is of use; 0 if the CA does not say
	}{
		{"caa", 403, 0, 0, 0},
		{"rejectedIdentifier", 403, 0, 0, 0},
		{"malformed", 400, time.Minute, 0, 0},
		{"rateLimited", 429, 2 * time.Hour, 0, 2 * time.Hour},
		{"rateLimited", 429, 0, 0, time.Hour},
		{"rateLimited", 429, 70 * time.Second, 70 * time.Second, 0},
		{"serverInternal", 500, 100 * time.Second, 100 * time.Second, 0},
		{"serverInternal", 503, 0, 5 * time.Second, 0},
	} {
		t.Run(fmt.Sprint(test.kind, " ", test.status, " ", test.retryAfter), func(t *testing.T) {
			t.Parallel()
			slot(t)
			r := newRig(t, options{})
			refused := true
			r.refuse = func(name string) *acme.Problem {
				r.mu.Lock()
				defer r.mu.Unlock()
				if refused && name == newOrder {
					return &acme.Problem{Type: urn + test.kind, Detail: "for a test", Status: test.status, RetryAfter: test.retryAfter}
				}
				return nil
			}
			c := r.create(certificate.Certificate{})
			began := time.Now().Add(-time.Second)
			if test.wait == 0 {
				r.checkFailed(c, failure{step: certificate.AtOrder, kind: test.kind, says: "for a test"})
				c = r.read(c)
				if at := c.Failure.RetryAt; test.retryAt == 0 && !at.IsZero() || test.retryAt > 0 && at.Before(began.Add(test.retryAt)) {
					t.Errorf("of use again at %v", at)
				}
				if !c.RenewAt.Equal(c.Failure.RetryAt) {
					t.Errorf("the schedule tries again at %v, the CA says %v", c.RenewAt, c.Failure.RetryAt)
				}
				return
			}
			if err := r.deliver(c); err != nil {
				t.Fatal(err)
			}
			o := must(r.tables.Store.Order(t.Context(), c.ID))
			if o.NextAt.Before(began.Add(test.wait)) || o.Last.Kind != test.kind || o.Last.Permanent {
				t.Errorf("next try at %v, for %+v", o.NextAt, o.Last)
			}
			r.set(func() { refused = false })
			r.finish(c)
			r.checkIssued(c, 1)
		})
	}
}

// A limit of the CA's that has ended: the schedule opens another issue, for a first one too.
func TestALimitThatEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tables: fresh(t)})
	limited := true
	r.refuse = func(name string) *acme.Problem {
		r.mu.Lock()
		defer r.mu.Unlock()
		if limited && name == newOrder {
			return &acme.Problem{Type: "urn:ietf:params:acme:error:rateLimited", Status: 429, RetryAfter: 3 * time.Hour}
		}
		return nil
	}
	c := r.create(certificate.Certificate{})
	r.finish(c)
	r.schedule()
	if got := r.read(c); got.Issuing != 0 {
		t.Errorf("issuing %d under the limit", got.Issuing)
	}
	r.set(func() { limited = false })
	r.due(c) // looked at, and put off: the limit lasts
	r.schedule()
	if got := r.read(c); got.Issuing != 0 || !got.RenewAt.Equal(got.Failure.RetryAt) {
		t.Errorf("issuing %d, looked at %v, the limit ends %v", got.Issuing, got.RenewAt, got.Failure.RetryAt)
	}
	r.change(fmt.Sprintf("CERTIFICATES#%d", c.User), fmt.Sprintf("CERTIFICATE#%016d", c.ID), "SET failure.retry_at = :n", time.Now().UnixMilli())
	r.due(c)
	r.schedule()
	if got := r.read(c); got.Issuing != 2 {
		t.Fatalf("issuing %d when the limit has ended", got.Issuing)
	}
	r.finish(c)
	if got := r.read(c); got.Status(time.Now()) != certificate.Valid || !got.Failure.At.IsZero() {
		t.Errorf("%s, %+v", got.Status(time.Now()), got.Failure)
	}
	r.messages()
}

// The CA does not see a record, though we do: it gives the order up, and another is opened a while later. When
// it never sees it the issue ends, before the CA counts too many failures.
func TestAnOrderThatTheCAGivesUp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		blind  int // orders for which the CA sees nothing
		orders int
	}{{1, 2}, {2, 3}, {99, certificate.MaxOrders}} {
		t.Run(fmt.Sprint(test.blind), func(t *testing.T) {
			t.Parallel()
			slot(t)
			r := newRig(t, options{})
			c := r.create(certificate.Certificate{})
			r.hold = func(name string) {
				if name == accept && r.answered(newOrder) <= test.blind {
					r.clear(c.Names[0])
				}
			}
			r.finish(c)
			if got := r.answered(newOrder); got != test.orders {
				t.Errorf("%d orders, want %d", got, test.orders)
			}
			if test.blind < certificate.MaxOrders {
				r.checkIssued(c, 1)
				return
			}
			c = r.read(c)
			if c.Status(time.Now()) != certificate.Failed || c.Failure.Name != c.Names[0] || c.Failure.Record != "_acme-challenge."+c.Names[0]+"." || c.Failure.Permanent {
				t.Errorf("%s, %+v", c.Status(time.Now()), c.Failure)
			}
			r.checkNoRecords(c)
		})
	}
}

// A message that cannot be read fails, again and again, until the queue puts it among the dead letters. An
// order that is tried too often closes; other orders go on beside both.
func TestPoison(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{parallel: 2})
	for _, body := range []string{"", "{", "null", `{"certificate":-1}`, `{"certificate":"1"}`, `[]`} {
		if err := r.message(body); err == nil || !strings.Contains(err.Error(), "m1") {
			t.Errorf("%q: %v", body, err)
		}
	}
	if err := r.message(`{"user":1,"certificate":999999999}`); err != nil {
		t.Errorf("a certificate that is gone: %v", err)
	}
	r.fault = func(name string, request *http.Request) int {
		if strings.HasPrefix(request.Host, "never") {
			return 0
		}
		if name == accept {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	bad := r.create(certificate.Certificate{})
	var deliveries int
	for ; deliveries < 3*certificate.MaxTries; deliveries++ {
		if err := r.deliver(bad); err != nil {
			t.Errorf("delivery %d: %v", deliveries, err)
		}
		if _, err := r.tables.Store.Order(t.Context(), bad.ID); errors.Is(err, store.ErrNotFound) {
			break
		}
		r.elapse(bad)
	}
	c := r.read(bad)
	// The cause may pass: the schedule opens another issue, an hour later at first.
	if c.Status(time.Now()) != certificate.Failed || c.Failure.Permanent || c.Failure.What == "" || c.RenewAt.Before(time.Now().Add(50*time.Minute)) {
		t.Errorf("after %d deliveries: %s, %+v, tried again %v", deliveries, c.Status(time.Now()), c.Failure, c.RenewAt)
	}
	if deliveries > 2*certificate.MaxTries {
		t.Errorf("it took %d deliveries", deliveries)
	}
	r.checkNoRecords(c)
	r.set(func() { r.fault = nil })
	good := r.create(certificate.Certificate{})
	if err := r.deliver(good); err != nil {
		t.Error(err)
	}
	r.checkIssued(good, 1)
}

// An order that kills its worker each time comes to an end too: a try is counted before it is made.
func TestAnOrderThatAlwaysKillsItsWorkerComesToAnEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	c := r.create(certificate.Certificate{})
	r.strike = func(c call) (moment, bool) { return before, c.name == accept }
	for try := 0; ; try++ {
		if try > 2*certificate.MaxTries {
			t.Fatal("it has no end")
		}
		_ = r.deliver(c)
		if _, err := r.tables.Store.Order(t.Context(), c.ID); errors.Is(err, store.ErrNotFound) {
			break
		}
		r.set(func() { r.struck = false })
		r.elapse(c)
	}
	if c = r.read(c); c.Status(time.Now()) != certificate.Failed || c.Failure.Kind != "tries" {
		t.Errorf("%s, %+v", c.Status(time.Now()), c.Failure)
	}
	r.checkNoRecords(c)
}

// A CA that binds accounts to its own, as ZeroSSL and Google do.
func TestExternalAccountBinding(t *testing.T) {
	t.Parallel()
	mac := bytes.Repeat([]byte{7}, 32)
	binding := must(startPebble(pebble.Options{ExternalAccounts: map[string]string{"kid-1": base64.RawURLEncoding.EncodeToString(mac)}}))
	r := newRig(t, options{ca: binding})
	c := r.create(certificate.Certificate{Account: r.account("kid-1", mac)})
	if err := r.deliver(c); err != nil {
		t.Fatal(err)
	}
	r.checkIssued(c, 1)
	unbound := r.account("", nil)
	r.checkFailed(r.create(certificate.Certificate{Account: unbound}), failure{step: certificate.AtAccount, kind: "externalAccountRequired", says: "externalAccountRequired"})
	if a := must(r.tables.Store.ACMEAccount(t.Context(), r.user, unbound)); a.URL != "" || !strings.Contains(a.Failure, "externalAccountRequired") {
		t.Errorf("the account: %q, %q", a.URL, a.Failure)
	}
	r.checkFailed(r.create(certificate.Certificate{Account: r.account("kid-1", bytes.Repeat([]byte{8}, 32))}), failure{step: certificate.AtAccount, kind: "unauthorized"})
}

// A CA that has forgotten the account, as a test server does when it starts again.
func TestAnAccountThatTheCAHasForgottenIsRegisteredAgain(t *testing.T) {
	t.Parallel()
	o := pebble.Options{Dir: filepath.Join(scratch, "forgetful")}
	first := must(startPebble(o))
	r := newRig(t, options{ca: first})
	account := r.account("", nil)
	c := r.create(certificate.Certificate{Account: account})
	r.finish(c)
	r.checkIssued(c, 1)
	before := must(r.tables.Store.ACMEAccount(t.Context(), r.user, account)).URL
	// One order is open there and has its URL, one is not opened yet.
	down := true
	r.fault = func(name string, _ *http.Request) int {
		if r.mu.Lock(); down && name == present {
			defer r.mu.Unlock()
			return http.StatusServiceUnavailable
		}
		r.mu.Unlock()
		return 0
	}
	open, second := r.create(certificate.Certificate{Account: account}), r.create(certificate.Certificate{Account: account})
	for _, c := range []certificate.Certificate{open, second} {
		if err := r.deliver(c); err != nil {
			t.Fatal(err)
		}
	}
	r.set(func() { down = false })
	r.setCA(must(startPebble(pebble.Options{})))
	first.Stop()
	r.finish(open)
	r.checkIssued(open, 1)
	// Another one was open at the CA, whose account was registered anew for the first: the CA does not know it.
	r.finish(second)
	r.checkIssued(second, 1)
	other := r.create(certificate.Certificate{Account: account})
	r.finish(other)
	r.checkIssued(other, 1)
	if now := must(r.tables.Store.ACMEAccount(t.Context(), r.user, account)).URL; now == "" || now == before {
		t.Errorf("the account's URL was %q and is %q", before, now)
	}
}

// Deleted at any step, the worker stops and takes back its records.
func TestACertificateDeletedWhileItsOrderIsOpen(t *testing.T) {
	t.Parallel()
	for _, at := range []string{newOrder, present, accept, finalize, "acme POST /certZ"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			slot(t)
			r := newRig(t, options{})
			c := r.create(certificate.Certificate{})
			var once sync.Once
			r.hold = func(name string) {
				if name == at {
					once.Do(func() {
						if _, err := r.tables.Store.DeleteCertificate(context.Background(), c.User, c.ID, time.Now()); err != nil {
							t.Error(err)
						}
					})
				}
			}
			if err := r.deliver(c); err != nil {
				t.Errorf("the message fails: %v", err)
			}
			r.checkNoRecords(c)
			if _, err := r.tables.Store.Certificate(t.Context(), c.User, c.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the certificate: %v", err)
			}
			if _, err := r.tables.Store.Order(t.Context(), c.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the order: %v", err)
			}
			if _, err := r.tables.Store.Material(t.Context(), c.ID, 1); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the material: %v", err)
			}
		})
	}
}

// A worker whose lease ran out while it hung must not take away what the next one needs, nor store anything.
func TestAWorkerThatLostItsLeaseLeavesTheOrderAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{parallel: 2})
	c := r.create(certificate.Certificate{})
	reached, release := make(chan struct{}), make(chan struct{})
	second, goOn := make(chan struct{}), make(chan struct{})
	var presents int
	r.hold = func(name string) {
		if name != present && name != accept {
			return
		}
		r.mu.Lock()
		presents++
		n := presents
		r.mu.Unlock()
		switch {
		case name == present && n == 1: // the first worker hangs
			close(reached)
			<-release
		case name == accept && n == 3: // the second has set its record, and the CA will look for it in a moment
			close(second)
			<-goOn
		}
	}
	var workers sync.WaitGroup
	workers.Go(func() {
		if err := r.deliver(c); err != nil {
			t.Errorf("the first: %v", err)
		}
	})
	<-reached
	r.elapse(c)
	secondDone := make(chan struct{})
	workers.Go(func() {
		defer close(secondDone)
		if err := r.deliver(c); err != nil {
			t.Errorf("the second: %v", err)
		}
	})
	<-second
	close(release)
	// The first is over when its record is there once more and its process asks for work: it takes the next message.
	for len(r.records(c.Names[0])) == 0 {
	}
	if err := r.message(`{"user":1,"certificate":999999999}`); err != nil {
		t.Error(err)
	}
	if got := r.asked(cleanup); got != 0 {
		t.Errorf("the first removed %d records that the second needs", got)
	}
	close(goOn)
	workers.Wait()
	<-secondDone
	r.checkIssued(c, 1)
	if r.answered(newOrder) != 1 || r.answered(finalize) != 1 {
		t.Errorf("%d orders, %d finalized", r.answered(newOrder), r.answered(finalize))
	}
}

// The same message twice at the same time, as SQS may deliver it.
func TestAMessageThatComesEightTimesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{parallel: 8})
	c := r.create(certificate.Certificate{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := r.deliver(c); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r.finish(c)
	r.checkIssued(c, 1)
	if r.answered(newOrder) != 1 || r.answered(present) != 1 {
		t.Errorf("%d orders, %d records set", r.answered(newOrder), r.answered(present))
	}
}
