package store_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
)

func (w *world) webhook(t *testing.T) webhook.Endpoint {
	t.Helper()
	id, err := w.NextWebhookID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := webhook.Endpoint{
		User: w.user.ID, ID: id, Name: "hook", URL: "https://hooks.example.org/x", Types: []webhook.Type{webhook.CertificateIssued}, Disabled: webhook.ByOwner,
		Secret: sealed.Secret{DataKey: []byte("k"), Nonce: []byte("n"), Text: []byte("t")}, PreviousEnds: w.now, CreatedAt: w.now, UpdatedAt: w.now,
	}
	if err := w.CreateWebhook(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// order makes a certificate with an open issue, leased by "worker".
func (w *world) order(t *testing.T, name string) (certificate.Certificate, certificate.Order) {
	t.Helper()
	account := acmeaccount.Account{User: w.user.ID, ID: 1, Name: "a", CreatedAt: w.now}
	if err := w.CreateACMEAccount(t.Context(), account, nil); err != nil && !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	id, err := w.NextCertificateID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := certificate.NewOrder(id, "", w.now)
	c, err := w.CreateCertificate(t.Context(), certificate.Certificate{User: w.user.ID, ID: id, Names: []string{name}, Account: 1, CreatedAt: w.now}, nil, &open, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := w.LeaseOrder(t.Context(), id, "worker", w.now)
	if err != nil {
		t.Fatal(err)
	}
	return c, o
}

// close ends an issue, with a certificate of the lifetime or without one.
func (w *world) close(t *testing.T, c certificate.Certificate, o certificate.Order, lifetime time.Duration) error {
	t.Helper()
	outcome := certificate.Issue{ID: o.IssueID, Certificate: c.ID, Number: o.Issue, State: certificate.Unissued, StartedAt: w.now, CompletedAt: w.now}
	var m *store.Material
	if lifetime > 0 {
		outcome.State, m = certificate.Succeeded, &store.Material{Chain: []byte("chain")}
		c.Current = certificate.Issued{Issue: o.Issue, Serial: "1", NotBefore: w.now, NotAfter: w.now.Add(lifetime)}
	}
	_, err := w.CloseOrder(t.Context(), o, c, outcome, m)
	return err
}

// due lists what is due at a time, events by their type.
func (w *world) due(t *testing.T, at time.Time) (events []webhook.Type, notices []store.DueNotice) {
	t.Helper()
	list, err := w.DueEvents(t.Context(), at, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		e, err := w.Event(t.Context(), d.User, d.ID)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e.Type)
	}
	if notices, err = w.DueNotices(t.Context(), at, 100); err != nil {
		t.Fatal(err)
	}
	return events, notices
}

func TestAWebhookIsReadAsWritten(t *testing.T) {
	w := newWorld(t)
	e := w.webhook(t)
	if got, err := w.Webhook(t.Context(), e.User, e.ID); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("webhook\n got %+v, %v\nwant %+v", got, err, e)
	}
	if _, err := w.Webhook(t.Context(), e.User+1, e.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another user's: %v", err)
	}
	changed := e
	changed.URL, changed.UpdatedAt = "https://other.example.org", w.now.Add(time.Second)
	won, _ := race(5, func(int) error { return w.ChangeWebhook(t.Context(), changed, e.UpdatedAt, nil) })
	if won != 1 {
		t.Errorf("%d of the same change won", won)
	}
	if err := w.DisableWebhook(t.Context(), e, webhook.Gone, w.now); err != nil { // its URL is another one by now
		t.Fatal(err)
	}
	if got, err := w.Webhook(t.Context(), e.User, e.ID); err != nil || !reflect.DeepEqual(got, changed) {
		t.Errorf("webhook\n got %+v, %v\nwant %+v", got, err, changed)
	}
	won, _ = race(25, func(int) error {
		id, err := w.NextWebhookID(t.Context())
		if err != nil {
			return err
		}
		return w.CreateWebhook(t.Context(), webhook.Endpoint{User: w.user.ID, ID: id}, nil)
	})
	if won != webhook.MaxPerUser-1 {
		t.Errorf("%d more webhooks were made", won)
	}
	if err := w.CreateWebhook(t.Context(), webhook.Endpoint{User: w.user.ID, ID: 999}, nil); !errors.Is(err, problem.Conflict) {
		t.Errorf("one too many: %v", err)
	}
	if err := errors.Join(w.DeleteWebhook(t.Context(), e.User, e.ID), w.CreateWebhook(t.Context(), webhook.Endpoint{User: w.user.ID, ID: 999}, nil)); err != nil {
		t.Errorf("in place of one that is deleted: %v", err)
	}
}

// The event is there if and only if what it tells is.
func TestAnIssueAndItsEventAreOneTransaction(t *testing.T) {
	w := newWorld(t)
	c, o := w.order(t, "a.example.org")
	stale := o
	stale.Lease = "another worker"
	changed := c
	changed.Revision++
	for name, err := range map[string]error{
		"without the lease": w.close(t, c, stale, 90*24*time.Hour), "of a changed certificate": w.close(t, changed, o, 90*24*time.Hour),
		"of a deleted one": w.close(t, certificate.Certificate{User: c.User, ID: c.ID + 7, Names: c.Names}, o, 90*24*time.Hour),
	} {
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("closed %s: %v", name, err)
		}
	}
	far := w.now.Add(1000 * 24 * time.Hour)
	if events, notices := w.due(t, far); len(events)+len(notices) != 0 {
		t.Fatalf("events %v and notices %v of what did not happen", events, notices)
	}
	won, _ := race(4, func(int) error { return w.close(t, c, o, 90*24*time.Hour) })
	events, notices := w.due(t, far)
	if won != 1 || !slices.Equal(events, []webhook.Type{webhook.CertificateIssued}) || !slices.Equal(notices, []store.DueNotice{{Subject: webhook.OfCertificates, User: c.User, ID: c.ID}}) {
		t.Errorf("closed %d times: events %v, notices %v", won, events, notices)
	}
	if n, err := w.Notice(t.Context(), webhook.OfCertificates, c.User, c.ID); err != nil || !n.At.Equal(w.now.Add(60*24*time.Hour)) {
		t.Errorf("notice at %v, %v", n.At, err)
	}

	// Renewed: the notice is the new certificate's. Failed: it stays.
	for _, lifetime := range []time.Duration{6 * 24 * time.Hour, 0} {
		c, err := w.Certificate(t.Context(), c.User, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		open := certificate.NewOrder(99, "", w.now)
		if c, err = w.UpdateCertificate(t.Context(), c, c, &open, nil); err != nil {
			t.Fatal(err)
		}
		o, err := w.LeaseOrder(t.Context(), c.ID, "worker", w.now)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.close(t, c, o, lifetime); err != nil {
			t.Fatal(err)
		}
		if n, err := w.Notice(t.Context(), webhook.OfCertificates, c.User, c.ID); err != nil || !n.At.Equal(w.now.Add(5*24*time.Hour)) {
			t.Errorf("notice at %v, %v", n.At, err)
		}
	}
	events, _ = w.due(t, far)
	slices.Sort(events)
	if !slices.Equal(events, []webhook.Type{webhook.CertificateFailed, webhook.CertificateIssued, webhook.CertificateRenewed}) {
		t.Errorf("events %v", events)
	}
}

func TestAnAPIKeysNoticesComeAndGoWithIt(t *testing.T) {
	w := newWorld(t)
	id, err := w.NextAPIKeyID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, _ := apikey.New(w.user.ID, id, "ci", "certs:*:read", "test", w.now, 20*24*time.Hour)
	for range 2 { // the second time it exists: nothing is written
		_ = w.CreateAPIKey(t.Context(), k, w.maker, nil, w.now)
	}
	short := w.key(t) // an hour: no notice
	if _, notices := w.due(t, w.now.Add(6*24*time.Hour-time.Millisecond)); len(notices) != 0 {
		t.Errorf("early: %v", notices)
	}
	if _, notices := w.due(t, w.now.Add(6*24*time.Hour)); !slices.Equal(notices, []store.DueNotice{{Subject: webhook.OfAPIKeys, User: k.User, ID: k.ID}}) {
		t.Errorf("due %v", notices)
	}
	if err := errors.Join(w.DeleteAPIKey(t.Context(), k.User, k.ID), w.DeleteAPIKey(t.Context(), short.User, short.ID)); err != nil {
		t.Fatal(err)
	}
	if _, notices := w.due(t, w.now.Add(1000*24*time.Hour)); len(notices) != 0 {
		t.Errorf("of a deleted key: %v", notices)
	}
}

func TestANoticeIsGivenOnce(t *testing.T) {
	w := newWorld(t)
	id, err := w.NextAPIKeyID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, _ := apikey.New(w.user.ID, id, "ci", "certs:*:read", "test", w.now, 20*24*time.Hour)
	if err := w.CreateAPIKey(t.Context(), k, w.maker, nil, w.now); err != nil {
		t.Fatal(err)
	}
	for _, left := range []time.Duration{14, 7, 1} {
		now := k.ExpiresAt.Add(-left * 24 * time.Hour)
		n, err := w.Notice(t.Context(), webhook.OfAPIKeys, k.User, k.ID)
		if err != nil || !n.At.Equal(now) || n.Name != "ci" || !n.ExpiresAt.Equal(k.ExpiresAt) {
			t.Fatalf("notice %+v, %v", n, err)
		}
		won, _ := race(4, func(int) error {
			e, err := webhook.NewEvent(k.User, webhook.APIKeyExpiring, now, nil)
			if err != nil {
				return err
			}
			return w.GiveNotice(t.Context(), n, &e, now)
		})
		if won != 1 {
			t.Errorf("%d days: given %d times", left, won)
		}
	}
	events, notices := w.due(t, k.ExpiresAt.Add(time.Hour))
	if len(events) != 3 || len(notices) != 0 {
		t.Errorf("events %v, notices %v", events, notices)
	}
}

func TestAnEventIsHandedOutOnce(t *testing.T) {
	w := newWorld(t)
	c, o := w.order(t, "a.example.org")
	if err := w.close(t, c, o, 0); err != nil {
		t.Fatal(err)
	}
	due, err := w.DueEvents(t.Context(), w.now, 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("%v, %v", due, err)
	}
	e, err := w.Event(t.Context(), due[0].User, due[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	endpoints := make([]webhook.Endpoint, webhook.MaxPerUser)
	for i := range endpoints {
		endpoints[i] = webhook.Endpoint{User: e.User, ID: int64(i + 1)}
	}
	won, errs := race(4, func(int) error { return w.Deliver(t.Context(), e, endpoints, w.now) })
	if won != 1 {
		t.Errorf("handed out %d times: %v", won, errors.Join(errs...))
	}
	deliveries, err := w.DueDeliveries(t.Context(), w.now, 100)
	if left, _ := w.due(t, w.now); err != nil || len(deliveries) != len(endpoints) || len(left) != 0 {
		t.Errorf("%d deliveries, %v; still due %v", len(deliveries), err, left)
	}
	for _, d := range deliveries {
		if got, err := w.Delivery(t.Context(), d.Endpoint, d.Event); err != nil || got.User != e.User || got.State() != webhook.Pending || got.Type != e.Type {
			t.Errorf("%+v, %v", got, err)
		}
	}

	// What nobody wants is forgotten.
	c, o = w.order(t, "b.example.org")
	if err := w.close(t, c, o, 0); err != nil {
		t.Fatal(err)
	}
	if due, err = w.DueEvents(t.Context(), w.now, 10); err != nil || len(due) != 1 {
		t.Fatalf("%v, %v", due, err)
	}
	if e, err = w.Event(t.Context(), due[0].User, due[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := w.Deliver(t.Context(), e, nil, w.now); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Event(t.Context(), e.User, e.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an event that nobody wants: %v", err)
	}
}

// delivery makes a delivery that is due.
func (w *world) delivery(t *testing.T, endpoint int64, at time.Time) webhook.Delivery {
	t.Helper()
	e, err := webhook.NewEvent(w.user.ID, webhook.CertificateIssued, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.DeliverTo(t.Context(), e, endpoint, at)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOneWorkerHasADelivery(t *testing.T) {
	w := newWorld(t)
	d := w.delivery(t, 5, w.now)
	lease := func(at time.Time) (webhook.Delivery, error) {
		return w.LeaseDelivery(context.Background(), 5, d.Event, at)
	}
	won, _ := race(8, func(int) error { _, err := lease(w.now); return err })
	if won != 1 {
		t.Errorf("%d workers have it", won)
	}
	if err := w.ReplayDelivery(t.Context(), 5, d.Event, w.now); !errors.Is(err, store.ErrConflict) {
		t.Errorf("replayed while it is made: %v", err)
	}
	// The first worker is killed, or slow: when its lease ends another takes over, and it can no longer store.
	slow, err := w.Delivery(t.Context(), 5, d.Event)
	if err != nil {
		t.Fatal(err)
	}
	later := w.now.Add(webhook.LeaseFor)
	if _, err := lease(later.Add(-time.Millisecond)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("before the lease ends: %v", err)
	}
	second, err := lease(later)
	if err != nil || second.Attempts != 2 || !second.LastAt.Equal(later) {
		t.Fatalf("%+v, %v", second, err)
	}
	if slow.Succeed(200, later); !errors.Is(w.SaveDelivery(t.Context(), slow), store.ErrConflict) {
		t.Error("a worker without the lease stored its outcome")
	}
	second.Fail(503, "The receiver answered 503.", later, 0)
	if err := w.SaveDelivery(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Delivery(t.Context(), 5, d.Event); err != nil || !reflect.DeepEqual(got, second) {
		t.Errorf("delivery\n got %+v, %v\nwant %+v", got, err, second)
	}
	if err := w.SaveDelivery(t.Context(), second); !errors.Is(err, store.ErrConflict) {
		t.Errorf("stored twice: %v", err)
	}
	if _, err := lease(second.NextAt.Add(-time.Millisecond)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("before it is due again: %v", err)
	}
	// Replayed, it is as new, and when it has ended nobody gets it.
	if err := w.ReplayDelivery(t.Context(), 5, d.Event, later); err != nil {
		t.Fatal(err)
	}
	third, err := lease(later)
	if err != nil || third.Attempts != 3 || !third.Since.Equal(later) || third.Error != "" || third.StatusCode != 0 {
		t.Fatalf("%+v, %v", third, err)
	}
	third.Succeed(204, later)
	if err := w.SaveDelivery(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	if _, err := lease(later.Add(1000 * time.Hour)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("after it was delivered: %v", err)
	}
	if err := w.ReplayDelivery(t.Context(), 5, "evt_none", later); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("replay of none: %v", err)
	}
}

func TestDeliveriesAreDueInTheirOrderAndListedNewestFirst(t *testing.T) {
	w := newWorld(t)
	var events []string
	for i := range 7 {
		events = append(events, w.delivery(t, 5, w.now.Add(time.Duration(i)*time.Minute)).Event)
	}
	w.delivery(t, 6, w.now)
	due, err := w.DueDeliveries(t.Context(), w.now.Add(3*time.Minute), 100)
	got := []string{}
	for _, d := range due {
		if d.Endpoint == 5 {
			got = append(got, d.Event)
		}
	}
	if err != nil || !slices.Equal(got, events[:4]) {
		t.Errorf("due %v, %v; want %v", got, err, events[:4])
	}
	if most, err := w.DueDeliveries(t.Context(), w.now.Add(time.Hour), 3); err != nil || len(most) != 3 {
		t.Errorf("%d of 3, %v", len(most), err)
	}
	slices.Reverse(events)
	for limit := 1; limit < 9; limit++ {
		var all []string
		for before := ""; ; {
			page, err := w.Deliveries(t.Context(), 5, before, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				all = append(all, d.Event)
			}
			if len(page) < limit {
				break
			}
			before = page[limit-1].Event
		}
		if !slices.Equal(all, events) {
			t.Errorf("by %d: %v", limit, all)
		}
	}
}

// What is not due is not read, however much there is of it.
func TestWhatIsDueCostsWhatIsDue(t *testing.T) {
	w := newWorld(t)
	metered, meter := w.Metered()
	for i := range 200 {
		w.delivery(t, int64(i%3), w.now.Add(time.Duration(i)*time.Hour))
	}
	due, err := metered.DueDeliveries(t.Context(), w.now.Add(2*time.Hour), 100)
	if err != nil || len(due) != 3 || meter.Items.Load() != 3 {
		t.Errorf("%d due, %d read, %v", len(due), meter.Items.Load(), err)
	}
	if notices, err := metered.DueNotices(t.Context(), w.now, 100); err != nil || len(notices) != 0 || meter.Items.Load() != 3 {
		t.Errorf("%v, %v", notices, err)
	}
}
