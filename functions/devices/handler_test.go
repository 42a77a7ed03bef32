package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/nacl/box"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/signal"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

type world struct {
	*functiontest.Function
	t       *testing.T
	handler *handler
	store   *store.Store
	worker  *caorder.Worker
	ca      ca.CA
	session access.Caller
	now     time.Time
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: storetest.New(t).Store, now: storetest.Now()}
	clock := func() time.Time { return w.now }
	keys, log := awstest.Key(t), slog.New(slog.DiscardHandler)
	root := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	d := &delivery.Worker{Store: w.store, Keys: keys, Log: log, Now: clock}
	w.handler = &handler{
		store: w.store, delivery: d, bundles: &bundle.Maker{Store: w.store, Keys: keys, Delivery: d, Log: log}, log: log, now: clock,
		tokens: &devicetoken.Signer{Root: func(context.Context) (crypto.Signer, error) { return root, nil }, Publish: w.store.PublishTokenKey},
	}
	w.Function = functiontest.New(t, w.handler.routes(), "")
	w.session = functiontest.Session(1, w.now)
	signer := catest.Signer(t, w.store, clock)
	w.worker = &caorder.Worker{Store: w.store, Keys: keys, Signer: signer, Log: log, Now: clock}
	w.ca = catest.Root(t, signer, 1)
	return w
}

// pair is a device's own keys.
type pair struct{ public, private *[32]byte }

func newPair() pair {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return pair{public, private}
}

func (p pair) body(publicID string, more map[string]any) string {
	body := map[string]any{"device_public_id": publicID, "dev_pk": base64.StdEncoding.EncodeToString(p.public[:]), "platform": "linux", "ip": "unknown"}
	for name, value := range more {
		body[name] = value
	}
	return string(must(json.Marshal(body)))
}

const devices = "/apiv1/users/1/devices"

func (w *world) key(permissions access.Permissions) access.Caller {
	return functiontest.Key(1, permissions, w.now)
}

// register registers a device by API key.
func (w *world) register(publicID string, p pair) Registered {
	w.t.Helper()
	var made Registered
	w.Want(w.t, 200, w.key("ForDeviceAuthenticate:*:authenticate"), "POST", "/apiv1/me/devices", p.body(publicID, nil)).Into(w.t, &made)
	return made
}

// certificate makes one and issues it at once; not with the policy empty.
func (w *world) certificate(name string, policy certificate.Policy) certificate.Certificate {
	w.t.Helper()
	ctx := w.t.Context()
	c := certificate.Certificate{
		User: 1, ID: must(w.store.NextCertificateID(ctx)), CA: w.ca.ID, Names: []string{name}, KeyType: "ecdsa-p256", Policy: policy, Export: true,
		CreatedAt: w.now, UpdatedAt: w.now, Revision: 1,
	}
	if policy == "" {
		c.Policy = certificate.Hybrid
		return must(w.store.CreateCertificate(ctx, c, nil, nil, nil))
	}
	open := certificate.NewOrder(must(w.store.NextIssueID(ctx)), "", w.now)
	must(w.store.CreateCertificate(ctx, c, nil, &open, nil))
	c, _, err := w.worker.Issue(ctx, c.ID, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// renew issues a certificate once more.
func (w *world) renew(id int64) certificate.Certificate {
	w.t.Helper()
	ctx := w.t.Context()
	w.now = w.now.Add(time.Minute)
	c := must(w.store.Certificate(ctx, 1, id))
	open := certificate.NewOrder(must(w.store.NextIssueID(ctx)), "", w.now)
	must(w.store.UpdateCertificate(ctx, c, c, &open, nil))
	c, _, err := w.worker.Issue(ctx, id, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// signals are the types of a device's signals.
func (w *world) signals(id int64) (types []string) {
	for _, s := range must(w.store.Signals(w.t.Context(), id, 0, 100, w.now)) {
		types = append(types, string(s.Type))
	}
	return types
}

// open opens what a bundle seals.
func (w *world) open(p pair, b bundle.Material) bool {
	sealed := must(base64.StdEncoding.DecodeString(b.DataKey))
	_, ok := box.OpenAnonymous(nil, sealed, p.public, p.private)
	return ok
}

func TestRegistration(t *testing.T) {
	w := newWorld(t)
	p := newPair()
	first := w.register("device-1", p)
	if first.Device.ID == 0 || first.Device.Status != "ACTIVE" || first.Session.ExpiresIn != 3600 || first.Device.By != 3 {
		t.Errorf("%+v", first)
	}
	if again := w.register("device-1", p); again.Device.ID != first.Device.ID || again.Session.RefreshToken == first.Session.RefreshToken {
		t.Errorf("again: %+v", again)
	}
	if other := w.register("device-2", p); other.Device.ID == first.Device.ID {
		t.Errorf("another: %+v", other)
	}
	// A key that may register takes over nothing that it did not register; one that may change devices does.
	other := w.key("ForDeviceAuthenticate:*:authenticate")
	other.ID = 9
	w.Want(t, 403, other, "POST", "/apiv1/me/devices", newPair().body("device-1", nil))
	other.Permissions = access.Permissions(fmt.Sprintf("ForDeviceAuthenticate:*:authenticate;devices:%d:write", first.Device.ID))
	var taken Registered
	w.Want(t, 200, other, "POST", "/apiv1/me/devices", p.body("device-1", map[string]any{"refresh_token": "rt_stale"})).Into(t, &taken)
	if id, err := w.store.RegisteredBy(t.Context(), 1, 9); taken.Device.ID != first.Device.ID || taken.Device.By != 9 || id != first.Device.ID || err != nil {
		t.Errorf("taken over: %+v, %d, %v", taken, id, err)
	}
	// A session may register again what is there, and nothing new without a code.
	w.Want(t, 200, w.session, "POST", devices, p.body("device-1", nil))
	w.Want(t, 400, w.session, "POST", devices, p.body("device-3", nil))
	// By the refresh token, which is used up.
	var made Registered
	w.Want(t, 200, w.session, "POST", devices, p.body("device-2", nil)).Into(t, &made)
	proof := map[string]any{"user_id": 1, "refresh_token": made.Session.RefreshToken}
	var next Registered
	w.Want(t, 200, access.Caller{}, "POST", "/apiv1/device/registration", p.body("device-2", proof)).Into(t, &next)
	if next.Device.ID != made.Device.ID || next.Session.RefreshToken == made.Session.RefreshToken {
		t.Errorf("by refresh token: %+v", next)
	}
	w.now = w.now.Add(time.Hour)
	if a := w.Want(t, 401, access.Caller{}, "POST", "/apiv1/device/registration", p.body("device-2", proof)); a.Error.Code != 10003 {
		t.Errorf("spent: %s", a.Body)
	}
	w.Want(t, 401, access.Caller{}, "POST", "/apiv1/device/registration", p.body("device-1", map[string]any{"user_id": "1", "refresh_token": next.Session.RefreshToken}))
	var listed []Device
	w.Want(t, 200, w.session, "GET", devices, "").Into(t, &listed)
	if len(listed) != 2 || listed[0].PublicID != "device-2" {
		t.Errorf("%+v", listed)
	}
}

func TestBadRegistrations(t *testing.T) {
	w := newWorld(t)
	key := w.key("devices:*:write")
	good := newPair()
	for body, code := range map[string]int{
		`{}`:                       5008,
		`{"device_public_id":"a"}`: 5008,
		`{"dev_pk":"AAAA"}`:        5008,
		`{"device_public_id":"a\u0007b","dev_pk":"` + strings.Repeat("A", 43) + `="}`: 5000,
		`{"device_public_id":"a","dev_pk":"AAAA"}`:                                    5000,
		`{"device_public_id":"a","dev_pk":"` + strings.Repeat("A", 43) + `="}`:        5000, // of low order
		`{"device_public_id":"` + strings.Repeat("a", 65) + `","dev_pk":"x"}`:         5000,
		good.body("a", map[string]any{"name": "a\nb"}):                                5000,
		good.body("a", map[string]any{"name": 7}):                                     5009,
	} {
		if a := w.Want(t, 400, key, "POST", devices, body); a.Error.Code != code {
			t.Errorf("%s: %s", body, a.Body)
		}
	}
	w.Want(t, 400, access.Caller{}, "POST", "/apiv1/device/registration", good.body("a", map[string]any{"registration_code": "rc_" + strings.Repeat("x", 43)}))
	w.Want(t, 400, access.Caller{}, "POST", "/apiv1/device/registration", good.body("a", map[string]any{"user_id": 1}))
	w.Want(t, 403, w.key("devices:*:read"), "POST", devices, good.body("a", nil))
	if _, total, err := w.store.Devices(t.Context(), 1, device.Active, 0, 10); total != 0 || err != nil {
		t.Errorf("%d devices, %v", total, err)
	}
}

// approve makes a grant that a user has approved, and gives its code.
func (w *world) approve(user int64) string {
	g, code := device.NewGrant(5*time.Second, 15*time.Minute, w.now)
	if err := w.store.CreateGrant(w.t.Context(), g); err != nil {
		w.t.Fatal(err)
	}
	g.User, g.Approved, g.DecidedAt = user, true, w.now
	if err := w.store.UpdateGrant(w.t.Context(), g); err != nil {
		w.t.Fatal(err)
	}
	return device.RegistrationCode(code)
}

// A code registers one device, however many try at once.
func TestACodeIsForOneDevice(t *testing.T) {
	w := newWorld(t)
	code := w.approve(1)
	proof := map[string]any{"user_id": 1, "registration_code": code}
	w.Want(t, 403, access.Caller{}, "POST", "/apiv1/device/registration", newPair().body("x", map[string]any{"user_id": 2, "registration_code": code})) // a session of user 1 comes along
	var group sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		group.Go(func() {
			statuses[i] = w.Call(t, access.Caller{}, "POST", "/apiv1/device/registration", newPair().body(fmt.Sprint("d", i), proof)).Status
		})
	}
	group.Wait()
	if got := slices.Sorted(slices.Values(statuses)); got[0] != 200 || got[1] != 400 {
		t.Errorf("%v", statuses)
	}
	at := slices.Index(statuses, 200)
	w.Want(t, 200, access.Caller{}, "POST", "/apiv1/device/registration", newPair().body(fmt.Sprint("d", at), proof)) // the answer was lost
	w.now = w.now.Add(device.RegistrationLifetime)
	w.Want(t, 400, access.Caller{}, "POST", "/apiv1/device/registration", newPair().body(fmt.Sprint("d", at), proof))
}

func TestRevocation(t *testing.T) {
	w := newWorld(t)
	p := newPair()
	d := w.register("d", p).Device
	c := w.certificate("a.example", certificate.Hybrid)
	one := fmt.Sprintf("%s/%d", devices, d.ID)
	w.Want(t, 204, w.session, "POST", one+"/certificates", fmt.Sprintf(`{"cert_id":%d}`, c.ID))
	w.Want(t, 403, w.key("ForDeviceAuthenticate:*:authenticate"), "DELETE", one, "")
	other := w.key("ForDeviceAuthenticate:*:revoke")
	other.ID = 4
	w.Want(t, 403, other, "DELETE", one, "") // it registered none
	w.Want(t, 204, w.key("ForDeviceAuthenticate:*:revoke"), "DELETE", one, "")
	w.Want(t, 204, w.session, "DELETE", one, "")
	if a := must(w.store.Assignments(t.Context(), c.ID)); len(a) != 0 {
		t.Errorf("still on it: %+v", a)
	}
	w.Want(t, 409, w.session, "POST", one+"/certificates", fmt.Sprintf(`{"cert_id":%d}`, c.ID))
	w.Want(t, 409, w.session, "PUT", one+"/install-config", `{"installs":[]}`)
	var listed []Device
	w.Want(t, 200, w.session, "GET", devices, "").Into(t, &listed)
	if len(listed) != 0 {
		t.Errorf("%+v", listed)
	}
	w.Want(t, 200, w.session, "GET", devices+"?status=REVOKED", "").Into(t, &listed)
	if len(listed) != 1 || listed[0].Status != "REVOKED" {
		t.Errorf("%+v", listed)
	}
	// Registered again, it is another device, with nothing of the first.
	again := w.register("d", p).Device
	if again.ID == d.ID || again.Certificates != 0 {
		t.Errorf("%+v", again)
	}
}

// Everything on a device is sealed to its new key, and it is told.
func TestAnotherKey(t *testing.T) {
	w := newWorld(t)
	old, fresh := newPair(), newPair()
	d := w.register("d", old).Device
	c := w.certificate("a.example", certificate.Hybrid)
	one := fmt.Sprintf("%s/%d", devices, d.ID)
	w.Want(t, 204, w.session, "POST", one+"/certificates", fmt.Sprintf(`{"certificate_id":"%d"}`, c.ID))
	var b bundle.Material
	at := fmt.Sprintf("%s/certificates/%d/bundle?pack=download", one, c.ID)
	a := w.Want(t, 200, w.session, "GET", at, "")
	if a.Into(t, &b); !w.open(old, b) || w.open(fresh, b) || a.Header.Get("Content-Disposition") != fmt.Sprintf(`attachment; filename="cert_%d_bundle.json"`, c.ID) {
		t.Errorf("%+v, %v", b, a.Header)
	}
	w.register("d", fresh)
	b = bundle.Material{}
	if w.Want(t, 200, w.session, "GET", at, "").Into(t, &b); !w.open(fresh, b) || w.open(old, b) {
		t.Errorf("%+v", b)
	}
	if got := w.signals(d.ID); !slices.Equal(got, []string{"cert.updated", "cert.updated"}) {
		t.Errorf("%v", got)
	}
	w.register("d", fresh)
	if got := w.signals(d.ID); len(got) != 2 {
		t.Errorf("told though nothing changed: %v", got)
	}
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	p := newPair()
	d := w.register("d", p).Device
	one := fmt.Sprintf("%s/%d", devices, d.ID)
	assign := func(id int64) string {
		w.Want(t, 204, w.session, "POST", one+"/certificates", fmt.Sprintf(`{"cert_id":%d}`, id))
		return fmt.Sprintf("%s/certificates/%d/bundle", one, id)
	}
	var b bundle.Material

	// MASTER_ONLY: the key itself, or nothing.
	master := w.certificate("m.example", certificate.MasterOnly)
	at := assign(master.ID)
	if w.Want(t, 200, w.session, "GET", at, "").Into(t, &b); b.Scheme != "plaintext" || b.Plain == "" || b.Certificate == "" || b.DataKey != "" {
		t.Errorf("%+v", b)
	}
	change := func(id int64, policy certificate.Policy, export bool) {
		before := must(w.store.Certificate(t.Context(), 1, id))
		after := before
		after.Policy, after.Export, after.UpdatedAt = policy, export, w.now
		must(w.store.UpdateCertificate(t.Context(), before, after, nil, nil))
		if err := w.handler.delivery.Run(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	change(master.ID, certificate.MasterOnly, false)
	if a := w.Want(t, 403, w.session, "GET", at, ""); a.Error.Key != "EXPORT_FORBIDDEN" {
		t.Errorf("%s", a.Body)
	}
	change(master.ID, certificate.Hybrid, false)
	b = bundle.Material{}
	if w.Want(t, 200, w.session, "GET", at, "").Into(t, &b); b.Scheme != "aes256gcm" || !w.open(p, b) || b.Plain != "" {
		t.Errorf("%+v", b)
	}
	if got := w.signals(d.ID); len(got) != 2 { // assigned, and told when it can have the key again
		t.Errorf("%v", got)
	}

	// DEVICE_REQUIRED: once a device has its wrap nobody else opens the key, and another device waits for the next issue.
	bound := w.certificate("b.example", certificate.DeviceRequired)
	at = assign(bound.ID)
	b = bundle.Material{}
	if w.Want(t, 200, w.session, "GET", at, "").Into(t, &b); !w.open(p, b) {
		t.Errorf("%+v", b)
	}
	if m := must(w.store.Material(t.Context(), bound.ID, 1)); len(m.Key.DataKey) != 0 || m.Key.Empty() {
		t.Error("the server keeps a copy of the data key")
	}
	late := newPair()
	second := w.register("late", late).Device
	w.Want(t, 204, w.session, "POST", fmt.Sprintf("%s/%d/certificates", devices, second.ID), fmt.Sprintf(`{"cert_id":%d}`, bound.ID))
	waits := fmt.Sprintf("%s/%d/certificates/%d/bundle", devices, second.ID, bound.ID)
	if a := w.Want(t, 409, w.session, "GET", waits, ""); a.Error.Key != "WRAP_PENDING" || a.Error.Code != 40902 || !strings.Contains(a.Body, "WRAP_PENDING") {
		t.Errorf("%s", a.Body)
	}
	w.renew(bound.ID)
	if w.Want(t, 200, w.session, "GET", waits, "").Into(t, &b); !w.open(late, b) {
		t.Errorf("%+v", b)
	}
	if w.Want(t, 200, w.session, "GET", at, "").Into(t, &b); !w.open(p, b) {
		t.Errorf("%+v", b)
	}
	if m := must(w.store.Material(t.Context(), bound.ID, 2)); len(m.Key.DataKey) != 0 {
		t.Error("the server keeps a copy of the second data key")
	}

	// What is not issued yet is on the device, and told of when it is.
	none := w.certificate("n.example", "")
	at = assign(none.ID)
	if a := w.Want(t, 409, w.session, "GET", at, ""); a.Error.Key != "NOT_ISSUED" {
		t.Errorf("%s", a.Body)
	}
	before := len(w.signals(d.ID))
	w.renew(none.ID)
	if got := w.signals(d.ID); len(got) != before+1 {
		t.Errorf("%v", got)
	}
	w.Want(t, 200, w.session, "GET", at, "")
}

// The chains and keys that no device is to have any more are gone, and not before.
func TestAStagedRolloutKeepsWhatTheRestHas(t *testing.T) {
	w := newWorld(t)
	c := w.certificate("a.example", certificate.Hybrid)
	before := must(w.store.Certificate(t.Context(), 1, c.ID))
	after := before
	after.Rollout = certificate.Rollout{Percent: 25, Wait: time.Hour, Failures: 0}
	must(w.store.UpdateCertificate(t.Context(), before, after, nil, nil))
	pairs := map[int64]pair{}
	for i := range 4 {
		p := newPair()
		d := w.register(fmt.Sprint("d", i), p).Device
		pairs[d.ID] = p
		w.Want(t, 204, w.session, "POST", fmt.Sprintf("%s/%d/certificates", devices, d.ID), fmt.Sprintf(`{"cert_id":%d}`, c.ID))
	}
	has := func() (issues []int64) {
		for _, a := range must(w.store.Assignments(t.Context(), c.ID)) {
			issues = append(issues, a.Issue)
			var b bundle.Material
			w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/certificates/%d/bundle", devices, a.Device, c.ID), "").Into(t, &b)
			if !w.open(pairs[a.Device], b) {
				t.Errorf("device %d: %+v", a.Device, b)
			}
		}
		slices.Sort(issues)
		return issues
	}
	w.renew(c.ID)
	if got := has(); !slices.Equal(got, []int64{1, 1, 1, 2}) {
		t.Fatalf("the first stage: %v", got)
	}
	run := func() {
		if err := w.handler.delivery.Run(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	}
	run()
	w.now = w.now.Add(59 * time.Minute)
	run()
	if got := has(); !slices.Equal(got, []int64{1, 1, 1, 2}) {
		t.Fatalf("too soon: %v", got)
	}
	// The first device reports a failure: the rest keeps what it has.
	for _, a := range must(w.store.Assignments(t.Context(), c.ID)) {
		if a.Issue == 2 {
			if err := w.store.NoteReport(t.Context(), a, device.Report{Issue: 2, Error: "disk full", At: w.now, Ever: true}); err != nil {
				t.Fatal(err)
			}
			if err := w.store.WakeRollout(t.Context(), c.ID, 2, w.now); err != nil {
				t.Fatal(err)
			}
		}
	}
	if due := must(w.store.DueRollouts(t.Context(), w.now, 10)); len(due) != 1 || due[0].Certificate != c.ID {
		t.Errorf("due: %+v", due)
	}
	w.now = w.now.Add(time.Hour)
	run()
	run()
	if got := has(); !slices.Equal(got, []int64{1, 1, 1, 2}) || must(w.store.Rollout(t.Context(), c.ID)).Stage() != device.Stopped {
		t.Fatalf("after a failure: %v", got)
	}
	if due := must(w.store.DueRollouts(t.Context(), w.now.Add(24*time.Hour), 10)); len(due) != 0 {
		t.Errorf("a stopped one is due: %+v", due)
	}
	// The next issue begins anew, with everybody who does not have it.
	w.renew(c.ID)
	w.now = w.now.Add(2 * time.Hour)
	run()
	if got := has(); !slices.Equal(got, []int64{3, 3, 3, 3}) {
		t.Fatalf("the next issue: %v", got)
	}
	for issue, want := range map[int64]bool{1: false, 2: false, 3: true} {
		if _, err := w.store.Material(t.Context(), c.ID, issue); (err == nil) != want {
			t.Errorf("chain and key of issue %d: %v", issue, err)
		}
	}
}

// A device that does not install what it was told of is told of to its owner, once.
func TestNotInstalled(t *testing.T) {
	w := newWorld(t)
	c := w.certificate("a.example", certificate.Hybrid)
	d := w.register("d", newPair()).Device
	w.Want(t, 204, w.session, "POST", fmt.Sprintf("%s/%d/certificates", devices, d.ID), fmt.Sprintf(`{"cert_id":%d}`, c.ID))
	w.renew(c.ID)
	r := must(w.store.Rollout(t.Context(), c.ID))
	if r.Stage() != device.All || !r.NextAt.Equal(w.now.Add(device.Overdue)) {
		t.Fatalf("%+v", r)
	}
	w.now = w.now.Add(device.Overdue)
	if err := w.handler.delivery.Run(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Rollout(t.Context(), c.ID); err == nil {
		t.Error("the roll-out is still there")
	}
	var told Detail
	w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d", devices, d.ID), "").Into(t, &told)
	if len(told.Assignments) != 1 || told.Assignments[0].UpToDate || told.Assignments[0].State != "TOLD" || told.Assignments[0].Desired != 2 {
		t.Errorf("%+v", told)
	}
}

func TestInstallConfigs(t *testing.T) {
	w := newWorld(t)
	d := w.register("d", newPair()).Device
	c := w.certificate("a.example", "")
	at := fmt.Sprintf("%s/%d/install-config", devices, d.ID)
	var got bundle.Config
	w.Want(t, 200, w.session, "GET", at, "").Into(t, &got)
	if got.ID != 0 || got.Version != 0 || got.Hash != "" || got.JSON != "[]" {
		t.Errorf("%+v", got)
	}
	item := func(more string) string {
		return fmt.Sprintf(`{"installs":[{"id":"c","type":"copy","ob_type":"cert","ob_id":%d,"from":["private.key"],"to":["/k"]}%s]}`, c.ID, more)
	}
	w.Want(t, 200, w.session, "PUT", at, item("")).Into(t, &got)
	if got.Version != 1 || got.ID == 0 || got.Hash == "" || len(got.Items) != 1 || !got.Items[0].Enabled {
		t.Errorf("%+v", got)
	}
	w.Want(t, 200, w.session, "PUT", at, item("")).Into(t, &got)
	if got.Version != 1 {
		t.Errorf("the same made version %d", got.Version)
	}
	w.Want(t, 409, w.session, "PUT", at, item(`,{"type":"exec","cmd":"x"}`), `If-Match: "7"`)
	w.Want(t, 200, w.session, "PUT", at, item(`,{"id":"e","type":"exec","ob_type":"ca","ob_id":0,"cmd":["a","b"]}`), `If-Match: "1"`)
	w.Want(t, 400, w.session, "PUT", at, `{"installs":[{"type":"copy","ob_type":"cert","ob_id":999,"from":["private.key"],"to":["/k"]}]}`)
	w.Want(t, 400, w.session, "PUT", at, `{"installs":"x"}`)
	w.Want(t, 400, w.session, "PUT", at, `{}`)
	w.Want(t, 403, w.key("devices:*:read"), "PUT", at, item(""))
	// By patches, as automation does.
	patch := "/apiv1/me/install-config-update/d"
	own := w.key("ForDeviceAuthenticate:*:authenticate")
	w.Want(t, 200, own, "POST", patch, fmt.Sprintf(`[{"ob_type":"cert","ob_id":%d,"enabled":false}]`, c.ID))
	w.Want(t, 200, own, "POST", patch, `{"after_update_script":"echo\r\n"}`)
	w.Want(t, 404, own, "POST", patch, `[{"ob_type":"ca","ob_id":77,"enabled":false}]`)
	w.Want(t, 200, w.key(access.Permissions(fmt.Sprintf("devices:%d:write", d.ID))), "POST", patch, `[]`) // narrowed to the device; a version as well
	w.Want(t, 400, own, "POST", patch, fmt.Sprintf(`[{"ob_type":"cert","ob_id":%d,"cmd":"rm -rf /"}]`, c.ID))
	w.Want(t, 400, own, "POST", patch, `{}`)
	other := own
	other.ID = 9 // it did not register the device
	w.Want(t, 403, other, "POST", patch, `{"after_update_script":"echo pwned"}`)
	w.Want(t, 404, own, "POST", "/apiv1/me/install-config-update/nobody", `[]`)
	w.Want(t, 200, w.session, "GET", at, "").Into(t, &got)
	if got.Version != 5 || got.Items[0].Enabled || got.Script != "echo\r\n" {
		t.Errorf("%+v", got)
	}
	// Two writers at a time: each change makes a version of its own, and one signal.
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			w.Want(t, 200, w.session, "PUT", at, fmt.Sprintf(`{"installs":[],"after_update_script":"%d"}`, i))
		})
	}
	group.Wait()
	w.Want(t, 200, w.session, "GET", at, "").Into(t, &got)
	if got.Version != 13 {
		t.Errorf("version %d", got.Version)
	}
	last := int64(0)
	for _, s := range must(w.store.Signals(t.Context(), d.ID, 0, 100, w.now)) {
		if s.Type != signal.InstallUpdated || s.Ref.Version != last+1 {
			t.Errorf("%+v after version %d", s, last)
		}
		last = s.Ref.Version
	}
	if last != 13 {
		t.Errorf("told of %d versions", last)
	}
	// What an item is about may be gone: other changes go on, and restoring makes a version of the same.
	w.Want(t, 200, w.session, "PUT", at, item(""))
	must(w.store.DeleteCertificate(t.Context(), 1, c.ID, w.now))
	w.Want(t, 200, own, "POST", patch, `{"after_update_script":"x"}`)
	w.Want(t, 200, w.session, "POST", at+"/restore", `{"version":14}`).Into(t, &got)
	if got.Version != 16 {
		t.Errorf("restored as version %d", got.Version)
	}
	w.Want(t, 200, w.session, "POST", at+"/restore", `{"version":"16"}`).Into(t, &got)
	if got.Version != 17 {
		t.Errorf("the same restored as version %d", got.Version)
	}
	var page []Version
	if a := w.Want(t, 200, w.session, "GET", at+"-histories?offset=2&limit=3", ""); a.Meta.Total != 17 {
		t.Errorf("%s", a.Body)
	} else if a.Into(t, &page); len(page) != 3 || page[0].Version != 15 {
		t.Errorf("%+v", page)
	}
}

func TestTheKeysOwnCertificates(t *testing.T) {
	w := newWorld(t)
	c := w.certificate("a.example", certificate.Hybrid)
	d := w.register("d", newPair()).Device
	own := w.key(access.Permissions(fmt.Sprintf("ForDeviceAuthenticate:*:authenticate;certs:%d:read", c.ID)))
	w.Want(t, 200, own, "POST", "/apiv1/me/certificate-assign", `{"device_public_id":"d"}`)
	if got := w.signals(d.ID); !slices.Equal(got, []string{"cert.updated"}) {
		t.Errorf("%v", got)
	}
	w.Want(t, 404, own, "POST", "/apiv1/me/certificate-assign", `{"device_public_id":"x"}`)
	w.Want(t, 400, w.key("ForDeviceAuthenticate:*:authenticate;certs:*:read"), "POST", "/apiv1/me/certificate-assign", `{"device_public_id":"d"}`)
	w.Want(t, 403, w.key("certs:*:read"), "POST", "/apiv1/me/certificate-assign", `{"device_public_id":"d"}`)
}

// The page: a device or certificate of another user is refused to an API key. A session learns that there is none.
func TestThingsOfOthers(t *testing.T) {
	w := newWorld(t)
	c := w.certificate("a.example", certificate.Hybrid)
	d := w.register("d", newPair()).Device
	const theirs = "/apiv1/users/2/devices"
	key, session := functiontest.Key(2, "devices:*:write;certs:*:write;cas:*:write", w.now), functiontest.Session(2, w.now)
	var own Registered
	w.Want(t, 200, key, "POST", theirs, newPair().body("theirs", nil)).Into(t, &own)
	foreign, mine := fmt.Sprintf("%s/%d", theirs, d.ID), fmt.Sprintf("%s/%d", theirs, own.Device.ID)
	for _, tc := range []struct{ method, path, body string }{
		{"POST", foreign + "/certificates", fmt.Sprintf(`{"cert_id":%d}`, c.ID)}, {"POST", mine + "/certificates", fmt.Sprintf(`{"cert_id":%d}`, c.ID)},
		{"POST", mine + "/cas", fmt.Sprintf(`{"ca_id":%d}`, w.ca.ID)}, {"GET", foreign, ""}, {"DELETE", foreign, ""}, {"GET", foreign + "/install-config", ""},
		{"GET", fmt.Sprintf("%s/certificates/%d/bundle", mine, c.ID), ""}, {"GET", fmt.Sprintf("%s/certificates/%d/bundle", foreign, c.ID), ""},
		{"DELETE", fmt.Sprintf("%s/certificates/%d", mine, c.ID), ""}, {"GET", fmt.Sprintf("%s/cas/%d/bundle", mine, w.ca.ID), ""},
	} {
		if a := w.Want(t, 403, key, tc.method, tc.path, tc.body); a.Error.Code != 4003 {
			t.Errorf("%s %s: %s", tc.method, tc.path, a.Body)
		}
		if a := w.Want(t, 404, session, tc.method, tc.path, tc.body); a.Error.Code != 4001 {
			t.Errorf("%s %s: %s", tc.method, tc.path, a.Body)
		}
	}
	for _, path := range []string{theirs + "/999", mine + "/certificates/999"} {
		if a := w.Want(t, 404, key, "GET", path, ""); a.Error.Code != 4001 {
			t.Errorf("%s: %s", path, a.Body)
		}
	}
	if a := w.Want(t, 403, w.key("devices:*:write"), "POST", fmt.Sprintf("%s/%d/certificates", devices, d.ID), fmt.Sprintf(`{"cert_id":%d}`, c.ID)); a.Error.Params["required"] != "certs.read" {
		t.Errorf("%s", a.Body)
	}
}

// Changes of different things of one device at once: each has its signal, at a time of its own, and each signal knows
// the one before it, so that a reader at any place can tell whether it has missed one.
func TestChangesOfOneDeviceAtOnce(t *testing.T) {
	w := newWorld(t)
	d := w.register("d", newPair()).Device
	var certificates []certificate.Certificate
	for i := range 12 {
		certificates = append(certificates, w.certificate(fmt.Sprintf("c%d.example", i), certificate.Hybrid))
	}
	one := fmt.Sprintf("%s/%d", devices, d.ID)
	var passed atomic.Int64
	clock := func() time.Time { return w.now.Add(time.Duration(passed.Add(1)) * time.Millisecond) }
	w.handler.now, w.handler.delivery.Now = clock, clock
	var group sync.WaitGroup
	for _, c := range certificates {
		group.Go(func() {
			w.Want(t, 204, w.session, "POST", one+"/certificates", fmt.Sprintf(`{"cert_id":%d}`, c.ID))
			w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/certificates/%d", one, c.ID), "")
		})
	}
	group.Go(func() { w.Want(t, 204, w.session, "POST", one+"/cas", fmt.Sprintf(`{"ca_id":%d}`, w.ca.ID)) })
	group.Go(func() { w.Want(t, 200, w.session, "PUT", one+"/install-config", `{"installs":[]}`) })
	group.Wait()
	last := int64(0)
	all := must(w.store.Signals(t.Context(), d.ID, 0, 100, w.now))
	for _, s := range all {
		if s.Last != last || s.At <= last {
			t.Errorf("%+v after %d", s, last)
		}
		last = s.At
	}
	head := must(w.store.Head(t.Context(), d.ID))
	if len(all) != 2*len(certificates)+2 || head.Last != last || head.Certificates != 0 || head.CAs != 1 {
		t.Errorf("%d signals, %+v", len(all), head)
	}
}

// A certificate whose roll-out waits keeps the chains of its issues; however many, it can be deleted, and is taken off.
func TestDeletionOfManyIssues(t *testing.T) {
	w := newWorld(t)
	c := w.certificate("a.example", certificate.Hybrid)
	before := must(w.store.Certificate(t.Context(), 1, c.ID))
	after := before
	after.Rollout = certificate.Rollout{Percent: 10, Wait: 24 * time.Hour}
	must(w.store.UpdateCertificate(t.Context(), before, after, nil, nil))
	var ids []int64
	for i := range 2 {
		d := w.register(fmt.Sprint("d", i), newPair()).Device
		ids = append(ids, d.ID)
		w.Want(t, 204, w.session, "POST", fmt.Sprintf("%s/%d/certificates", devices, d.ID), fmt.Sprintf(`{"cert_id":%d}`, c.ID))
	}
	for range 60 {
		w.renew(c.ID)
	}
	must(w.store.DeleteCertificate(t.Context(), 1, c.ID, w.now))
	w.handler.delivery.Begin(t.Context(), c.ID)
	for _, id := range ids {
		if got := w.signals(id); got[len(got)-1] != "cert.unassigned" {
			t.Errorf("device %d: %v", id, got)
		}
	}
	if left := must(w.store.Assignments(t.Context(), c.ID)); len(left) != 0 {
		t.Errorf("%+v", left)
	}
}
