package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/courier"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/webhook"
)

const day = 24 * time.Hour

// receiver is somebody's server. It keeps what it gets, and answers what answer says.
type receiver struct {
	URL    string
	mu     sync.Mutex
	got    []received
	answer func(n int) int // to the nth request; 0 for no answer before the client gives up
}

type received struct {
	header http.Header
	body   []byte
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{answer: func(int) int { return 200 }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.mu.Lock()
		r.got = append(r.got, received{request.Header, body})
		status := r.answer(len(r.got))
		r.mu.Unlock()
		if status == 0 {
			<-request.Context().Done()
			return
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

func (r *receiver) received() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// event is what a receiver makes of a request.
type event struct {
	ID, Type string
	Data     map[string]any
}

// read checks a request as docs/api.md tells receivers to, apart from the code that signs, and reads it.
func (r received) read(t *testing.T, secret string, now time.Time) event {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	timestamp, err := strconv.ParseInt(r.header.Get("webhook-timestamp"), 10, 64)
	if age := now.Unix() - timestamp; err != nil || age > 300 || age < -300 {
		t.Errorf("a timestamp %d s old, %v", age, err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(bytes.Join([][]byte{[]byte(r.header.Get("webhook-id")), []byte(r.header.Get("webhook-timestamp")), r.body}, []byte(".")))
	if !slices.Contains(strings.Split(r.header.Get("webhook-signature"), " "), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))) {
		t.Errorf("the signature %q is not by the secret", r.header.Get("webhook-signature"))
	}
	var e event
	if err := json.Unmarshal(r.body, &e); err != nil || e.ID != r.header.Get("webhook-id") {
		t.Fatalf("%s: %v", r.body, err)
	}
	return e
}

func TestMain(m *testing.M) { awstest.Main(m) }

// world is the function over tables of its own, at a time that the test sets.
type world struct {
	*store.Store
	*notices
	keys  *kmskey.Key
	user  user.User
	maker access.Caller
	at    time.Time
	logs  bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Store: storetest.New(t).Store, keys: awstest.Key(t), at: storetest.Now().UTC()}
	now := func() time.Time { return w.at }
	w.notices = &notices{
		store: w.Store, now: now, log: slog.New(slog.NewJSONHandler(&w.logs, nil)),
		courier: &courier.Courier{Store: w.Store, Keys: w.keys, Client: webhook.Client(egress.Guard{AllowPrivate: true, AllowLoopback: true}), Now: now},
	}
	var err error
	if w.user, err = w.CreateUser(t.Context(), user.User{Email: "ann@example.org", State: user.Active, CreatedAt: w.at}); err != nil {
		t.Fatal(err)
	}
	login, _ := session.New(w.user.ID, 5, w.user.Email, w.at)
	if err := w.CreateSession(t.Context(), w.user, login, nil); err != nil {
		t.Fatal(err)
	}
	w.maker = access.Caller{Kind: access.Session, User: w.user.ID, ID: 5}
	if err := w.CreateACMEAccount(t.Context(), acmeaccount.Account{User: w.user.ID, ID: 1}, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// webhook makes an endpoint and gives its secret as its owner has it.
func (w *world) webhook(t *testing.T, url string, types ...webhook.Type) (webhook.Endpoint, string) {
	t.Helper()
	id, err := w.NextWebhookID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	secret := webhook.NewSecret()
	e := webhook.Endpoint{User: w.user.ID, ID: id, Name: "x", URL: url, Types: types, CreatedAt: w.at, UpdatedAt: w.at}
	if e.Secret, err = w.keys.Seal(t.Context(), kmskey.Webhook(e.User, e.ID), secret.Key()); err != nil {
		t.Fatal(err)
	}
	if err := w.CreateWebhook(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	return e, secret.Reveal()
}

// issue gives a certificate, new if id is 0, a chain of the lifetime; none if that is 0.
func (w *world) issue(t *testing.T, id int64, lifetime time.Duration) int64 {
	t.Helper()
	open := certificate.NewOrder(1, "", w.at)
	var c certificate.Certificate
	var err error
	if id == 0 {
		if id, err = w.NextCertificateID(t.Context()); err == nil {
			c, err = w.CreateCertificate(t.Context(), certificate.Certificate{
				User: w.user.ID, ID: id, Names: []string{fmt.Sprintf("c%d.example.org", id)}, Account: 1, AutoRenew: true, CreatedAt: w.at,
			}, nil, &open, nil)
		}
	} else if c, err = w.Certificate(t.Context(), w.user.ID, id); err == nil {
		c, err = w.UpdateCertificate(t.Context(), c, c, &open, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	o, err := w.LeaseOrder(t.Context(), id, "worker", w.at)
	if err != nil {
		t.Fatal(err)
	}
	outcome := certificate.Issue{
		Certificate: id, Number: o.Issue, State: certificate.Unissued, CompletedAt: w.at,
		Failure: certificate.Failure{Step: certificate.AtPropagate, Kind: "propagation", What: "The record is not seen.", Name: c.Domain(), Permanent: true},
	}
	var m *store.Material
	if lifetime > 0 {
		m = &store.Material{Chain: []byte("chain")}
		outcome.State, outcome.Failure = certificate.Succeeded, certificate.Failure{}
		c.Current = certificate.Issued{Issue: o.Issue, Serial: "04a1", NotBefore: w.at, NotAfter: w.at.Add(lifetime)}
	}
	if _, err := w.CloseOrder(t.Context(), o, c, outcome, m); err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) mustRun(t *testing.T) {
	t.Helper()
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// only gives the one delivery to an endpoint.
func (w *world) only(t *testing.T, e webhook.Endpoint) webhook.Delivery {
	t.Helper()
	list, err := w.Deliveries(t.Context(), e.ID, "", 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d deliveries, %v", len(list), err)
	}
	return list[0]
}

func TestWhoeverWantsAnEventGetsItSignedAndOnce(t *testing.T) {
	w := newWorld(t)
	all, some, other := newReceiver(t), newReceiver(t), newReceiver(t)
	_, secret := w.webhook(t, all.URL)
	_, renewedSecret := w.webhook(t, some.URL, webhook.CertificateRenewed)
	w.webhook(t, other.URL, webhook.APIKeyExpiring)
	id := w.issue(t, 0, 90*day)
	w.mustRun(t)
	w.issue(t, id, 90*day)
	w.mustRun(t)
	w.issue(t, id, 0)
	for range 3 {
		w.mustRun(t)
	}
	var types []string
	for _, r := range all.received() {
		e := r.read(t, secret, w.at)
		types = append(types, e.Type)
		if e.Data["id"] != float64(id) || e.Data["domain_name"] != fmt.Sprintf("c%d.example.org", id) || e.Data["serial_number"] != "04a1" || e.Data["auto_renew"] != true {
			t.Errorf("%s", r.body)
		}
		if failure, _ := e.Data["error"].(map[string]any); (e.Type == "certificate.failed") != (failure["kind"] == "propagation") {
			t.Errorf("%s", r.body)
		}
	}
	if !slices.Equal(types, []string{"certificate.issued", "certificate.renewed", "certificate.failed"}) {
		t.Errorf("one that wants everything got %v", types)
	}
	if got := some.received(); len(got) != 1 || got[0].read(t, renewedSecret, w.at).Type != "certificate.renewed" {
		t.Errorf("one that wants renewals got %d", len(got))
	}
	if got := other.received(); len(got) != 0 {
		t.Errorf("one that wants other things got %d", len(got))
	}
	if strings.Contains(w.logs.String(), secret) || strings.Contains(w.logs.String(), all.URL) {
		t.Error("a secret or a URL is logged")
	}
}

func TestARefusedEventIsTriedForThreeDays(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t)
	r.answer = func(int) int { return 503 }
	e, secret := w.webhook(t, r.URL)
	w.issue(t, 0, 90*day)
	began := w.at
	w.mustRun(t)
	for d := w.only(t, e); d.State() == webhook.Pending; d = w.only(t, e) {
		if n := len(r.received()); int64(n) != d.Attempts || d.StatusCode != 503 || d.Error != "The receiver answered 503." {
			t.Fatalf("%d requests, %+v", n, d)
		}
		w.at = d.NextAt.Add(-time.Millisecond)
		w.mustRun(t) // not yet
		w.at = d.NextAt
		w.mustRun(t)
		if last := r.received()[d.Attempts]; last.read(t, secret, w.at).ID != d.Event || string(last.body) != string(r.received()[0].body) {
			t.Error("another event, or the same in other words")
		}
	}
	d, tried := w.only(t, e), w.at.Sub(began)
	if d.State() != webhook.Failed || d.Attempts < 14 || d.Attempts > 20 || tried > 72*time.Hour || tried < 60*time.Hour {
		t.Errorf("%s after %d attempts in %v", d.State(), d.Attempts, tried)
	}
	w.at = w.at.Add(day)
	w.mustRun(t)
	if int64(len(r.received())) != d.Attempts {
		t.Error("it goes on")
	}

	// Replayed by its owner, it is tried again as if it were new.
	well := len(r.received()) + 2
	r.answer = func(n int) int {
		if n < well {
			return 503
		}
		return 200
	}
	if err := w.ReplayDelivery(t.Context(), e.ID, d.Event, w.at); err != nil {
		t.Fatal(err)
	}
	w.mustRun(t)
	if d = w.only(t, e); d.State() != webhook.Pending || d.NextAt.Sub(w.at) > time.Minute {
		t.Fatalf("replayed: %+v", d)
	}
	w.at = d.NextAt
	w.mustRun(t)
	if d = w.only(t, e); d.State() != webhook.Delivered || d.StatusCode != 200 || d.Error != "" || !d.DeliveredAt.Equal(w.at) {
		t.Errorf("in the end: %+v", d)
	}
}

func TestAKilledRunsDeliveriesAreMadeByALaterOne(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t)
	e, _ := w.webhook(t, r.URL)
	w.issue(t, 0, 90*day)
	killed, kill := context.WithCancel(t.Context())
	r.answer = func(n int) int {
		if n == 1 { // it is killed while the receiver answers
			kill()
			return 0
		}
		return 200
	}
	_ = w.run(killed)
	if d := w.only(t, e); d.State() != webhook.Pending || d.Attempts != 1 || len(r.received()) != 1 {
		t.Fatalf("killed: %+v", d)
	}
	w.at = w.at.Add(webhook.LeaseFor - time.Second)
	w.mustRun(t)
	if len(r.received()) != 1 {
		t.Error("tried while the first may be at work")
	}
	w.at = w.at.Add(time.Second)
	w.mustRun(t)
	if d := w.only(t, e); d.State() != webhook.Delivered || d.Attempts != 2 {
		t.Errorf("later: %+v", d)
	}
	// Killed between the transactions.
	w.issue(t, 0, 90*day)
	if _, err := w.handOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mustRun(t)
	if len(r.received()) != 3 {
		t.Errorf("%d requests", len(r.received()))
	}
}

func TestRunsAtOnceDeliverOnce(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t)
	_, secret := w.webhook(t, r.URL)
	const events = 20
	for range events {
		w.issue(t, 0, 90*day)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := w.run(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.mustRun(t)
	ids := map[string]int{}
	for _, got := range r.received() {
		ids[got.read(t, secret, w.at).ID]++
	}
	if len(ids) != events || len(r.received()) != events {
		t.Errorf("%d requests of %d events", len(r.received()), len(ids))
	}
}

func TestAReceiverThatIsGoneIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t)
	r.answer = func(int) int { return http.StatusGone }
	e, _ := w.webhook(t, r.URL)
	for range 3 {
		w.issue(t, 0, 90*day)
	}
	w.mustRun(t)
	w.issue(t, 0, 90*day)
	w.at = w.at.Add(time.Hour)
	w.mustRun(t)
	got, err := w.Webhook(t.Context(), e.User, e.ID)
	if err != nil || got.Disabled != webhook.Gone || len(r.received()) != 1 {
		t.Errorf("%q, %v, after %d requests", got.Disabled, err, len(r.received()))
	}
	list, err := w.Deliveries(t.Context(), e.ID, "", 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d deliveries, %v", len(list), err)
	}
	for _, d := range list {
		if d.State() != webhook.Failed || d.Error == "" {
			t.Errorf("%+v", d)
		}
	}
	// One that is deleted with deliveries on their way.
	r2 := newReceiver(t)
	e2, _ := w.webhook(t, r2.URL)
	w.issue(t, 0, 90*day)
	if _, err := w.handOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteWebhook(t.Context(), e2.User, e2.ID); err != nil {
		t.Fatal(err)
	}
	w.mustRun(t)
	if due, err := w.DueDeliveries(t.Context(), w.at.Add(100*day), 10); err != nil || len(due) != 0 || len(r2.received()) != 0 {
		t.Errorf("due %v, %v", due, err)
	}
}

func TestAPrivateAddressIsNotCalled(t *testing.T) {
	w := newWorld(t)
	w.courier.Client = webhook.Client(egress.Guard{})
	canary := newReceiver(t)
	for _, url := range []string{canary.URL, "https" + strings.TrimPrefix(canary.URL, "http"), "https://169.254.169.254/latest/meta-data/", "https://[::1]/", "https://localhost/"} {
		e, _ := w.webhook(t, url)
		w.issue(t, 0, 90*day)
		w.mustRun(t)
		list, err := w.Deliveries(t.Context(), e.ID, "", 1)
		if err != nil || len(list) != 1 || list[0].Error != "The URL leads to an address that is not public." || list[0].StatusCode != 0 {
			t.Errorf("%s: %+v, %v", url, list, err)
		}
	}
	// A public receiver that sends us on.
	w.courier.Client = webhook.Client(egress.Guard{AllowPrivate: true, AllowLoopback: true})
	redirector := httptest.NewServer(http.RedirectHandler(canary.URL, http.StatusPermanentRedirect))
	defer redirector.Close()
	e, _ := w.webhook(t, redirector.URL)
	w.issue(t, 0, 90*day)
	w.mustRun(t)
	if list, err := w.Deliveries(t.Context(), e.ID, "", 1); err != nil || len(list) != 1 || list[0].StatusCode != 308 || list[0].State() != webhook.Pending {
		t.Errorf("a redirect: %+v, %v", list, err)
	}
	own := 0 // what the canary's own webhook, allowed by now, got of that event
	for _, got := range canary.received() {
		if got.header.Get("Webhook-Id") != "" {
			own++
		}
	}
	if own != 1 {
		t.Errorf("the canary was called %d times", own)
	}
}

func TestASilentReceiverHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	w.courier.Client.Timeout = 300 * time.Millisecond
	silent, good := newReceiver(t), newReceiver(t)
	silent.answer = func(int) int { return 0 }
	e, _ := w.webhook(t, silent.URL)
	w.webhook(t, good.URL)
	for range 10 {
		w.issue(t, 0, 90*day)
	}
	w.mustRun(t)
	if len(silent.received()) != 1 || len(good.received()) != 10 {
		t.Errorf("the silent one got %d, the good one %d of 10", len(silent.received()), len(good.received()))
	}
	list, err := w.Deliveries(t.Context(), e.ID, "", 20)
	if err != nil || len(list) != 10 {
		t.Fatal(len(list), err)
	}
	tried := int64(0)
	for _, d := range list {
		tried += d.Attempts
		if d.State() != webhook.Pending || !d.NextAt.After(w.at) || d.Error == "" {
			t.Errorf("%+v", d)
		}
	}
	if tried != 1 {
		t.Errorf("%d attempts are counted", tried)
	}
	// When it answers again, it gets everything.
	silent.answer = func(int) int { return 200 }
	w.at = w.at.Add(time.Minute)
	w.mustRun(t)
	if len(silent.received()) != 11 {
		t.Errorf("%d requests in the end", len(silent.received()))
	}
}

func TestNoticesOfExpiry(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t)
	_, secret := w.webhook(t, r.URL, webhook.CertificateExpiring, webhook.APIKeyExpiring)
	began := w.at
	key := func(name string, lifetime time.Duration) apikey.Key {
		id, err := w.NextAPIKeyID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		k, _ := apikey.New(w.user.ID, id, name, "certs:*:read", "test", w.at, lifetime)
		if err := w.CreateAPIKey(t.Context(), k, w.maker, nil, w.at); err != nil {
			t.Fatal(err)
		}
		return k
	}
	long, deleted := key("long", 40*day), key("deleted", 40*day)
	key("week", 7*day)
	key("hour", time.Hour)
	lasting, renewed, revoked, gone, short := w.issue(t, 0, 40*day), w.issue(t, 0, 40*day), w.issue(t, 0, 40*day), w.issue(t, 0, 40*day), w.issue(t, 0, 6*day)
	got := map[string][]float64{}
	seen := 0
	for days := 0; days <= 60; days++ {
		w.at = began.Add(time.Duration(days)*day + time.Minute)
		switch days {
		case 20:
			w.issue(t, renewed, 40*day)
			c, err := w.Certificate(t.Context(), w.user.ID, revoked)
			if err != nil {
				t.Fatal(err)
			}
			after := c
			after.RevokedAt = w.at
			_, err = w.UpdateCertificate(t.Context(), c, after, nil, nil)
			if err2 := w.DeleteAPIKey(t.Context(), deleted.User, deleted.ID); err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if _, err := w.DeleteCertificate(t.Context(), w.user.ID, gone, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		w.mustRun(t)
		w.mustRun(t)
		for _, request := range r.received()[seen:] {
			seen++
			e := request.read(t, secret, w.at)
			name := fmt.Sprint(e.Type, " ", e.Data["id"])
			if e.Type == "api_key.expiring" {
				name = fmt.Sprint("key ", e.Data["name"])
				if e.Data["name"] == "long" && e.Data["expires_at"] != float64(long.ExpiresAt.UnixMilli()) {
					t.Errorf("%s", request.body)
				}
			}
			got[name] = append(got[name], e.Data["days_left"].(float64))
		}
	}
	want := map[string][]float64{
		"key long": {30, 14, 7, 1}, "key deleted": {30}, "key week": {1},
		fmt.Sprint("certificate.expiring ", lasting): {30, 14, 7, 1}, fmt.Sprint("certificate.expiring ", short): {1},
		fmt.Sprint("certificate.expiring ", renewed): {30, 30, 14, 7, 1}, // renewed after 20 days, and not again in 60
		fmt.Sprint("certificate.expiring ", revoked): {30}, fmt.Sprint("certificate.expiring ", gone): {30},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	// After an outage of weeks one notice is given, of what is left.
	seen = len(r.received())
	w.issue(t, lasting, 40*day)
	w.at = w.at.Add(35 * day)
	w.mustRun(t)
	late := r.received()[seen:]
	if len(late) == 0 || late[len(late)-1].read(t, secret, w.at).Data["days_left"] != float64(5) {
		t.Errorf("%d late", len(late))
	}
	if _, err := w.Notice(t.Context(), webhook.OfCertificates, w.user.ID, short); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a notice of what has expired: %v", err)
	}
}

func TestASecretIsRolledWithoutAGap(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t)
	e, old := w.webhook(t, r.URL)
	next := webhook.NewSecret()
	rolled := e
	rolled.Previous, rolled.PreviousEnds, rolled.UpdatedAt = e.Secret, w.at.Add(webhook.SecretOverlap), w.at.Add(time.Second)
	var err error
	if rolled.Secret, err = w.keys.Seal(t.Context(), kmskey.Webhook(e.User, e.ID), next.Key()); err != nil {
		t.Fatal(err)
	}
	if err := w.ChangeWebhook(t.Context(), rolled, e.UpdatedAt, nil); err != nil {
		t.Fatal(err)
	}
	w.issue(t, 0, 90*day)
	w.mustRun(t)
	got := r.received()[0]
	got.read(t, old, w.at)
	got.read(t, next.Reveal(), w.at)
	w.at = w.at.Add(webhook.SecretOverlap)
	w.issue(t, 0, 90*day)
	w.mustRun(t)
	got = r.received()[1]
	got.read(t, next.Reveal(), w.at)
	if strings.Contains(got.header.Get("Webhook-Signature"), " ") {
		t.Error("the old secret still signs")
	}
	// A secret copied from another user's webhook does not open: nothing is sent, and it is tried again.
	stolen := rolled
	stolen.User, stolen.ID = e.User, e.ID+1
	if err := w.CreateWebhook(t.Context(), stolen, nil); err != nil {
		t.Fatal(err)
	}
	w.issue(t, 0, 90*day)
	w.mustRun(t)
	if len(r.received()) != 3 {
		t.Errorf("%d requests", len(r.received()))
	}
	if d := w.only(t, stolen); d.State() != webhook.Pending || d.Attempts != 0 || d.Error != "The webhook's secret could not be read." {
		t.Errorf("%+v", d)
	}
}
