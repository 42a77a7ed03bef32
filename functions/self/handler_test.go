package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

type world struct {
	*functiontest.Function
	t        *testing.T
	store    *store.Store
	delivery *delivery.Worker
	worker   *caorder.Worker
	ca       ca.CA
	now      time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: storetest.New(t).Store, now: storetest.Now()}
	clock, keys, log := func() time.Time { return w.now }, awstest.Key(t), slog.New(slog.DiscardHandler)
	w.delivery = &delivery.Worker{Store: w.store, Keys: keys, Log: log, Now: clock}
	h := &handler{store: w.store, bundles: &bundle.Maker{Store: w.store, Keys: keys, Delivery: w.delivery, Log: log}, log: log, now: clock}
	w.Function = functiontest.New(t, h.routes(), "")
	signer := catest.Signer(t, w.store, clock)
	w.worker = &caorder.Worker{Store: w.store, Keys: keys, Signer: signer, Log: log, Now: clock}
	w.ca = catest.Root(t, signer, 1)
	return w
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// device registers one, and gives it as a caller.
func (w *world) device(user int64) (device.Device, access.Caller) {
	id := must(w.store.NextDeviceID(w.t.Context()))
	family, _ := session.NewFamily(user, id, "", w.now)
	d := device.Device{User: user, ID: id, PublicID: fmt.Sprint("d", id), Key: []byte(fmt.Sprintf("%032d", id)), CreatedAt: w.now, UpdatedAt: w.now}
	d = must(w.store.RegisterDevice(w.t.Context(), store.Registration{After: d, Family: family}))
	return d, access.Caller{Kind: access.Device, User: user, ID: id, ExpiresAt: w.now.Add(time.Hour)}
}

// issue opens an issue and has the CA sign it; of id 0, of a certificate that is made for it.
func (w *world) issue(id int64) certificate.Certificate {
	w.t.Helper()
	ctx := context.Background()
	w.now = w.now.Add(time.Minute)
	open := certificate.NewOrder(must(w.store.NextIssueID(ctx)), "", w.now)
	if id == 0 {
		c := certificate.Certificate{
			User: 1, ID: must(w.store.NextCertificateID(ctx)), CA: w.ca.ID, Names: []string{"a.example"}, KeyType: "ecdsa-p256", Policy: certificate.Hybrid, Export: true,
			CreatedAt: w.now, UpdatedAt: w.now, Revision: 1,
		}
		must(w.store.CreateCertificate(ctx, c, nil, &open, nil))
		id = c.ID
	} else {
		c := must(w.store.Certificate(ctx, 1, id))
		must(w.store.UpdateCertificate(ctx, c, c, &open, nil))
	}
	c, _, err := w.worker.Issue(ctx, id, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

const self = "/apiv1/devices/self/"

func notify(events ...map[string]any) string {
	return string(must(json.Marshal(map[string]any{"schema": "certctrl.device.notify.v1", "events": events})))
}

// What a device reports is kept by issue: of one before it counts for nothing.
func TestReports(t *testing.T) {
	w := newWorld(t)
	d, caller := w.device(1)
	first := w.issue(0)
	if err := w.delivery.Assign(t.Context(), d, first.ID); err != nil {
		t.Fatal(err)
	}
	state := func() device.State { return must(w.store.Assignment(t.Context(), first.ID, d.ID)).State() }
	if state() != device.Told {
		t.Errorf("%s", state())
	}
	w.Want(t, 200, caller, "GET", fmt.Sprintf("%scertificates/%d/deploy-materials", self, first.ID), "")
	if state() != device.Fetched {
		t.Errorf("fetched: %s", state())
	}
	w.Want(t, 204, caller, "POST", self+"notify", notify(map[string]any{"type": "cert.failed", "cert_id": first.ID, "error": "disk full"}))
	if a := must(w.store.Assignment(t.Context(), first.ID, d.ID)); a.State() != device.Failed || a.Report.Error != "disk full" {
		t.Errorf("failed: %+v", a)
	}
	w.Want(t, 204, caller, "POST", self+"notify", notify(map[string]any{"type": "cert.installed", "cert_id": fmt.Sprint(first.ID), "fingerprint_sha256": first.Current.Fingerprint}))
	if state() != device.Installed {
		t.Errorf("installed: %s", state())
	}
	second := w.issue(first.ID)
	if state() != device.Told {
		t.Errorf("after the renewal: %s", state())
	}
	w.Want(t, 204, caller, "POST", self+"notify", notify(map[string]any{"type": "cert.installed", "cert_id": first.ID, "fingerprint_sha256": first.Current.Fingerprint}))
	if state() != device.Told {
		t.Errorf("a late report of the first: %s", state())
	}
	w.Want(t, 204, caller, "POST", self+"notify", notify(map[string]any{"type": "cert.installed", "cert_id": first.ID, "fingerprint_sha256": second.Current.Fingerprint}))
	if a := must(w.store.Assignment(t.Context(), first.ID, d.ID)); a.State() != device.Installed || !a.Done() {
		t.Errorf("%+v", a)
	}
	w.Want(t, 204, caller, "POST", self+"notify", notify(map[string]any{"type": "cert.installed", "cert_id": 999}, map[string]any{"type": "x", "cert_id": map[string]int{}, "version": 7}, map[string]any{"type": 7}))
}

func TestBadNotifications(t *testing.T) {
	w := newWorld(t)
	d, caller := w.device(1)
	c := w.issue(0)
	if err := w.delivery.Assign(t.Context(), d, c.ID); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{`{}`, `{"events":[]}`, `{"events":7}`, `{"events":[7]}`, `[]`,
		notify(map[string]any{"type": "agent_version", "version": "a\nb"}), notify(map[string]any{"type": "agent_version", "version": 7}), notify(map[string]any{"type": "cert.installed", "cert_id": c.ID, "fingerprint_sha256": "xyz"})} {
		w.Want(t, 400, caller, "POST", self+"notify", body)
	}
	w.Want(t, 204, caller, "POST", self+"notify", notify(map[string]any{"type": "agent_version", "version": "v1"}))
	if head := must(w.store.Head(t.Context(), d.ID)); head.Agent != "v1" || head.SeenAt.IsZero() {
		t.Errorf("%+v", head)
	}
}

// A device asks about itself, while it is active, and about nothing that is not on it.
func TestWhoAsks(t *testing.T) {
	w := newWorld(t)
	d, caller := w.device(1)
	other, stranger := w.device(2)
	c := w.issue(0)
	if err := w.delivery.Assign(t.Context(), d, c.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.store.AssignCA(t.Context(), w.ca, d.ID, w.now); err != nil {
		t.Fatal(err)
	}
	paths := []string{fmt.Sprintf("certificates/%d", c.ID), fmt.Sprintf("certificates/%d/deploy-materials", c.ID), fmt.Sprintf("certificates/%d/bundle", c.ID), fmt.Sprintf("cas/%d/bundle", w.ca.ID)}
	_, second := w.device(1) // of the same user
	impostor := caller
	impostor.User = 2
	for _, path := range paths {
		w.Want(t, 200, caller, "GET", self+path, "")
		w.Want(t, 404, stranger, "GET", self+path, "")
		w.Want(t, 404, second, "GET", self+path, "")
		w.Want(t, 403, impostor, "GET", self+path, "")
		w.Want(t, 403, functiontest.Key(1, "*", w.now), "GET", self+path, "")
	}
	var r bundle.Record
	w.Want(t, 200, caller, "GET", self+paths[0], "").Into(t, &r)
	if r.PEM == "" || r.Chain == "" || r.Full != r.PEM+r.Chain || r.Cert != r.Full || r.DER != "" || r.Serial != c.Current.Serial {
		t.Errorf("%+v", r)
	}
	if _, err := w.store.RevokeDevice(t.Context(), d, w.now); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, "install-config") {
		if a := w.Want(t, 403, caller, "GET", self+path, ""); a.Error.Code != 5022 {
			t.Errorf("%s: %s", path, a.Body)
		}
	}
	if other.ID == d.ID {
		t.Error("two devices have one id")
	}
}
