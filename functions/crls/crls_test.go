package main

import (
	"context"
	"crypto/x509"
	"log/slog"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

type world struct {
	*crls
	t   *testing.T
	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: storetest.Now()}
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	s := storetest.New(t).Store
	w.crls = &crls{store: s, signer: catest.Signer(t, s, clock), log: slog.New(slog.DiscardHandler), now: clock}
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) tick() {
	w.t.Helper()
	if err := w.run(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) published(id int64) *x509.RevocationList {
	w.t.Helper()
	object, err := w.signer.Bucket.Get(context.Background(), casigner.CRLObject(id))
	if err != nil {
		return nil
	}
	crl, err := x509.ParseRevocationList(object.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return crl
}

// A CA whose function was killed after it was stored gets its first CRL and its OCSP signer; then a CRL each day, and
// not one more.
func TestASchedule(t *testing.T) {
	w := newWorld(t)
	root := catest.Root(t, w.signer, 1)
	w.tick()
	first := w.published(root.ID)
	signer, err := w.store.OCSPSigner(context.Background(), root.ID)
	if first == nil || err != nil {
		t.Fatalf("%v, %v", first, err)
	}
	for range 3 {
		w.pass(time.Hour)
		w.tick()
	}
	if again := w.published(root.ID); again.Number.Cmp(first.Number) != 0 {
		t.Error("published again within the day")
	}
	for range 6 {
		w.pass(24 * time.Hour)
		w.tick()
	}
	last := w.published(root.ID)
	if got := last.Number.Int64() - first.Number.Int64(); got != 6 || !last.NextUpdate.After(w.now.Add(4*24*time.Hour)) {
		t.Errorf("%d more, until %v", got, last.NextUpdate)
	}
	renewed, err := w.store.OCSPSigner(context.Background(), root.ID)
	if err != nil || string(renewed.Certificate) == string(signer.Certificate) {
		t.Errorf("the OCSP signer was not renewed: %v", err)
	}
}

// A revocation whose process was killed before it published is published by the next run.
func TestARevocationIsPublished(t *testing.T) {
	w := newWorld(t)
	root := catest.Root(t, w.signer, 1)
	w.tick()
	ctx := context.Background()
	key, err := pki.NewKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := w.signer.Issue(ctx, 1, root.ID, ca.Request{Names: []string{"a.example"}, Public: key.Public()}, "test", 0)
	if err == nil {
		err = w.store.RevokeEntry(ctx, 1, issued.Entry, 1, w.now)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute)
	w.tick()
	if got := w.published(root.ID).RevokedCertificateEntries; len(got) != 1 {
		t.Errorf("%d revoked", len(got))
	}
	before := w.published(root.ID).Number
	w.pass(time.Minute)
	w.tick()
	if w.published(root.ID).Number.Cmp(before) != 0 {
		t.Error("published twice for one revocation")
	}
}

// Publishers at the same time: numbers are given once, and what is published last has the highest.
func TestPublishersAtOnce(t *testing.T) {
	w := newWorld(t)
	root := catest.Root(t, w.signer, 1)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := w.signer.Publish(context.Background(), 1, root.ID); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	stands, err := w.store.CRLOf(context.Background(), root.ID)
	if got := w.published(root.ID).Number.Int64(); err != nil || got != 8 || stands.Published != 8 || stands.Number != 8 {
		t.Errorf("published %d, %+v, %v", got, stands, err)
	}
}

// One CA that cannot sign keeps no other waiting, and is tried again later.
func TestACAThatCannotSign(t *testing.T) {
	w := newWorld(t)
	broken := catest.Root(t, w.signer, 1)
	fine := catest.Root(t, w.signer, 1)
	ctx := context.Background()
	after := broken
	after.Key.Text = append([]byte{}, fine.Key.Text...)
	if _, err := w.store.UpdateCA(ctx, broken, after, nil); err != nil {
		t.Fatal(err)
	}
	w.tick()
	if w.published(fine.ID) == nil || w.published(broken.ID) != nil {
		t.Error("the wrong one is published")
	}
	stands, err := w.store.CRLOf(ctx, broken.ID)
	if err != nil || stands.Failure == "" || !stands.Due.After(w.now) {
		t.Errorf("%+v, %v", stands, err)
	}
	if due, err := w.store.DueCRLs(ctx, w.now, 10); err != nil || len(due) != 0 {
		t.Errorf("%v, %v", due, err)
	}
	// Deleted: nothing is due any more.
	if _, err := w.store.DeleteCA(ctx, 1, broken.ID, false, w.now); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Hour)
	w.tick()
}
