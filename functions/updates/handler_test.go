package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/installconfig"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/signal"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

type world struct {
	*functiontest.Function
	t       testing.TB
	handler *handler
	store   *store.Store
	now     time.Time
	rests   int
	during  func() // what happens while a request rests
}

const idle = 960 * time.Second

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, store: storetest.New(t).Store, now: storetest.Now()}
	w.handler = &handler{
		store: w.store, budget: newBudget(w.store, 8), idle: idle, log: slog.New(slog.DiscardHandler), now: func() time.Time { return w.now },
		rest: func(_ context.Context, d time.Duration) bool {
			w.rests++
			w.now = w.now.Add(d)
			if w.during != nil {
				w.during()
			}
			return true
		},
	}
	w.Function = functiontest.New(t, w.handler.routes(), "")
	return w
}

// device registers one, by an API key if by is not 0.
func (w *world) device(user, by int64) device.Device {
	w.t.Helper()
	ctx := context.Background()
	id, err := w.store.NextDeviceID(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	family, _ := session.NewFamily(user, id, "", w.now)
	d, err := w.store.RegisterDevice(ctx, store.Registration{
		After: device.Device{User: user, ID: id, PublicID: fmt.Sprint("d", id), Key: make([]byte, 32), By: by, CreatedAt: w.now, UpdatedAt: w.now}, Family: family,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// tell gives a device a signal: another install config.
func (w *world) tell(id int64) {
	w.t.Helper()
	before, err := w.store.InstallConfig(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	after := installconfig.Config{ID: id, Device: id, Version: before.Version + 1, CreatedAt: w.now, UpdatedAt: w.now}
	if err := w.store.PutInstallConfig(context.Background(), before, after, w.now); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) caller(d device.Device) access.Caller {
	return access.Caller{Kind: access.Device, User: d.User, ID: d.ID, ExpiresAt: w.now.Add(time.Hour)}
}

const path = "/apiv1/devices/self/updates"

func (w *world) poll(d device.Device, query string, headers ...string) functiontest.Answer {
	w.t.Helper()
	return w.Call(w.t, w.caller(d), "GET", path+query, "", headers...)
}

func interval(t testing.TB, a functiontest.Answer) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(a.Header.Get("X-Poll-Interval"))
	if err != nil {
		t.Fatalf("%d %v", a.Status, a.Header)
	}
	return time.Duration(n) * time.Second
}

func versions(t testing.TB, a functiontest.Answer) (all []int64) {
	t.Helper()
	var u Updates
	if a.Status == http.StatusOK {
		a.Into(t, &u)
	}
	for _, s := range u.Signals {
		all = append(all, s.Ref.Version)
	}
	return all
}

func TestAnswers(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	a := w.poll(d, "")
	if a.Status != 204 || a.Header.Get("ETag") != `"0-0"` || a.Body != "" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("no history: %d %v", a.Status, a.Header)
	}
	for range 3 {
		w.tell(d.ID) // at one time: the signals' times rise all the same
	}
	a = w.poll(d, "?limit=2")
	var first Updates
	if a.Into(t, &first); a.Status != 200 || len(first.Signals) != 2 || a.Header.Get("ETag") != `"`+first.Cursor+`"` || first.Signals[1].At <= first.Signals[0].At || first.Cursor != fmt.Sprintf("%d-0", first.Signals[1].At) {
		t.Errorf("%d %s %v", a.Status, a.Body, a.Header)
	}
	for _, header := range []string{`If-None-Match: "` + first.Cursor + `"`, "If-None-Match: W/\"" + first.Cursor + `"`, "If-None-Match: " + first.Cursor} {
		if got := versions(t, w.poll(d, "?cursor=0-0", header)); !slices.Equal(got, []int64{3}) { // the header wins
			t.Errorf("%s: %v", header, got)
		}
	}
	last := w.poll(d, "?cursor="+first.Cursor)
	end := strings.Trim(last.Header.Get("ETag"), `"`)
	if a := w.poll(d, "?cursor="+end); a.Status != 204 || strings.Trim(a.Header.Get("ETag"), `"`) != end {
		t.Errorf("at the end: %d %v", a.Status, a.Header)
	}
	for query, want := range map[string]int{"?cursor=x": 400, "?cursor=5": 400, "?limit=x": 400, "?wait=x": 400, "?limit=0&cursor=" + end: 204, "?limit=1000&cursor=" + end: 204, "?limit=99999999999999999999&cursor=" + end: 204} {
		if a := w.poll(d, query); a.Status != want {
			t.Errorf("%s: %d %s", query, a.Status, a.Body)
		}
	}
}

func TestWhoIsTold(t *testing.T) {
	w := newWorld(t)
	d, other := w.device(1, 3), w.device(2, 0)
	w.tell(d.ID)
	if got := versions(t, w.poll(other, "")); got != nil {
		t.Errorf("another device is told: %v", got)
	}
	stranger := w.caller(d)
	stranger.User = 2
	w.Want(t, 403, stranger, "GET", path, "")
	key := func(permissions access.Permissions) access.Caller { return functiontest.Key(1, permissions, w.now) } // of id 3
	bound := access.Permissions(fmt.Sprintf("devices:%d:read", d.ID))
	w.Want(t, 200, key(bound), "GET", path, "")
	if a := w.Want(t, 403, key(access.Permissions(fmt.Sprintf("devices:%d:read", other.ID))), "GET", path, ""); a.Error.Code != 4003 {
		t.Errorf("%s", a.Body)
	}
	w.Want(t, 403, key("ForDeviceAuthenticate:*:revoke"), "GET", path, "")
	w.Want(t, 200, key("ForDeviceAuthenticate:*:authenticate"), "GET", path, "") // it registered one
	w.Want(t, 403, key("certs:*:write"), "GET", path, "")
	second := w.device(1, 3)
	if a := w.Want(t, 400, key("devices:*:read"), "GET", path, ""); a.Error.Code != 5000 || !strings.Contains(a.Error.What, "device_id claim missing") {
		t.Errorf("%s", a.Body)
	}
	w.Want(t, 400, key(access.Permissions(fmt.Sprintf("devices:%d:read;devices:%d:read", d.ID, second.ID))), "GET", path, "")
	w.Want(t, 200, key(bound), "GET", path, "")
	if _, err := w.store.RevokeDevice(t.Context(), second, w.now); err != nil {
		t.Fatal(err)
	}
	w.Want(t, 200, key("devices:*:read"), "GET", path, "")
	if a := w.Want(t, 403, w.caller(second), "GET", path, ""); a.Error.Code != 5022 {
		t.Errorf("%s", a.Body)
	}
}

// The server sets the cadence: often while something is being done for the device, and seldom else, and not all at once.
func TestHowOften(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	if got := interval(t, w.poll(d, "")); got < soon || got > soon*3/2 {
		t.Errorf("just registered: %v", got)
	}
	w.now = w.now.Add(device.BusyFor)
	seen := map[time.Duration]bool{}
	for range 50 {
		got := interval(t, w.poll(d, ""))
		if seen[got] = true; got < idle*7/8 || got > idle*9/8 {
			t.Fatalf("idle: %v", got)
		}
	}
	if len(seen) < 10 {
		t.Errorf("a fleet does not part: %v", seen)
	}
	if err := w.store.HurryDevice(t.Context(), d.ID, w.now); err != nil {
		t.Fatal(err)
	}
	if got := interval(t, w.poll(d, "")); got > soon*3/2 {
		t.Errorf("an issue is open: %v", got)
	}
	w.now = w.now.Add(device.BusyFor)
	w.tell(d.ID)
	if got := interval(t, w.poll(d, "")); got > soon*3/2 {
		t.Errorf("just told: %v", got)
	}
}

func TestARequestIsHeld(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	begin := w.now
	if a := w.poll(d, "?wait=30"); a.Status != 204 || w.now.Sub(begin) != longest || w.rests != 20 {
		t.Errorf("%d after %v and %d looks", a.Status, w.now.Sub(begin), w.rests)
	}
	w.during = func() {
		if w.rests == 23 {
			w.tell(d.ID)
		}
	}
	begin = w.now
	if a := w.poll(d, "?wait=5"); a.Status != 200 || w.now.Sub(begin) != 3*time.Second {
		t.Errorf("%d after %v", a.Status, w.now.Sub(begin))
	}
	// What is there already is not waited for, nor is a resync.
	w.rests = 0
	if a := w.poll(d, "?wait=20"); a.Status != 200 || w.rests != 0 {
		t.Errorf("%d after %d rests", a.Status, w.rests)
	}
	// Revoked while it waits.
	w.during = func() {
		if w.rests == 2 {
			if _, err := w.store.RevokeDevice(t.Context(), d, w.now); err != nil {
				t.Fatal(err)
			}
		}
	}
	head, _ := w.store.Head(t.Context(), d.ID)
	if a := w.poll(d, fmt.Sprintf("?wait=20&cursor=%d-0", head.Last)); a.Status != 403 || w.rests != 2 {
		t.Errorf("%d after %d rests", a.Status, w.rests)
	}
}

// Beyond the budget a request is refused with a time to come back at, and never answered at once with nothing.
func TestTheBudget(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	w.handler.rest = func(context.Context, time.Duration) bool { return false } // the caller is gone at once
	held := 0
	for range 10 {
		a := w.poll(d, "?wait=20")
		if a.Status == 204 {
			held++
			continue
		}
		after, err := strconv.Atoi(a.Header.Get("Retry-After"))
		if a.Status != 429 || err != nil || after < 1 || after > 41 || a.Error.Params["retry_after"] != float64(after) || a.Error.Code != 5013 {
			t.Fatalf("%d %s %v", a.Status, a.Body, a.Header)
		}
	}
	if held != perDevice {
		t.Errorf("%d of one device were held", held)
	}
	for range 5 { // of other devices: 8 in all
		if a := w.poll(w.device(1, 0), "?wait=20"); a.Status != 204 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	if a := w.poll(w.device(1, 0), "?wait=20"); a.Status != 429 || a.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d %s", a.Status, a.Body)
	}
	if a := w.poll(d, ""); a.Status != 204 {
		t.Errorf("without wait: %d", a.Status)
	}
	w.now = w.now.Add(longest)
	if a := w.poll(d, "?wait=20"); a.Status != 204 {
		t.Errorf("in the next window: %d %s", a.Status, a.Body)
	}
	// Who is answered before its time gives its place back.
	w.now = w.now.Add(longest)
	cursor := "0-0"
	w.handler.rest = func(context.Context, time.Duration) bool { w.tell(d.ID); return true }
	for range 10 {
		head, _ := w.store.Head(t.Context(), d.ID)
		if cursor = signal.Cursor(head.Last).String(); w.poll(d, "?wait=20&cursor="+cursor).Status != 200 {
			t.Fatal("a place that was given back is taken")
		}
	}
}

// That a device was seen is noted now and then.
func TestLastSeen(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	seen := func() time.Time {
		head, err := w.store.Head(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		return head.SeenAt
	}
	w.poll(d, "")
	first := seen()
	if !first.Equal(w.now.UTC()) {
		t.Errorf("%v", first)
	}
	w.now = w.now.Add(device.SeenEvery - time.Millisecond)
	if w.poll(d, ""); !seen().Equal(first) {
		t.Error("noted too often")
	}
	w.now = w.now.Add(time.Hour)
	if w.poll(d, ""); !seen().Equal(w.now.UTC()) {
		t.Error("not noted")
	}
}

// Two readers of a device at random places, while signals come and old ones are forgotten: each signal is seen at least
// once and in order by who reads on, and a reader is told to begin anew exactly when it has missed something.
func TestCursorsAgainstAModel(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	steps := 4000
	if testing.Short() {
		steps = 1500
	}
	random := rand.New(rand.NewPCG(1, 2))
	type sent struct{ at, version int64 }
	var all []sent
	type reader struct {
		cursor signal.Cursor
		next   int // in all
	}
	readers := [2]reader{}
	resyncs := 0
	for step := range steps {
		if random.IntN(100) < 60 {
			w.now = w.now.Add(time.Duration(random.IntN(3)) * time.Millisecond)
			if step%1000 == 999 {
				w.now = w.now.Add(20 * 24 * time.Hour)
			}
			w.tell(d.ID)
			head, err := w.store.Head(t.Context(), d.ID)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sent{head.Last, int64(len(all) + 1)})
			continue
		}
		r := &readers[random.IntN(2)]
		if r == &readers[1] && random.IntN(100) < 98 { // it is offline most of the time
			continue
		}
		if random.IntN(200) == 0 {
			*r = reader{}
		}
		limit, query := 1+random.IntN(100), ""
		if r.cursor != 0 {
			query = "&cursor=" + r.cursor.String()
		}
		a := w.poll(d, fmt.Sprintf("?limit=%d%s", limit, query))
		switch a.Status {
		case http.StatusNoContent:
			if r.next != len(all) && r.cursor != 0 {
				t.Fatalf("step %d: nothing, though %d are unread", step, len(all)-r.next)
			}
		case http.StatusConflict:
			resyncs++
			if a.Error.Code != 40901 || a.Error.Params["action"] != "full_resync" || r.cursor == 0 {
				t.Fatalf("step %d: %s", step, a.Body)
			}
			// What it has not read must indeed be gone: the one after its cursor.
			if kept, err := w.store.Signals(t.Context(), d.ID, signal.Cursor(all[r.next].at-1), 1, w.now); err != nil || len(kept) > 0 && kept[0].At == all[r.next].at {
				t.Fatalf("step %d: told to begin anew though %v is kept, %v", step, all[r.next], err)
			}
			*r = reader{}
		case http.StatusOK:
			var u Updates
			a.Into(t, &u)
			if len(u.Signals) == 0 || len(u.Signals) > limit {
				t.Fatalf("step %d: %d signals of %d", step, len(u.Signals), limit)
			}
			if r.cursor == 0 { // from the start of what is kept
				r.next = int(u.Signals[0].Ref.Version) - 1
			}
			for _, s := range u.Signals {
				if want := all[r.next]; s.At != want.at || s.Ref.Version != want.version {
					t.Fatalf("step %d: %+v, want %+v", step, s, want)
				}
				r.next++
			}
			if err := json.Unmarshal([]byte(strconv.FormatInt(u.Signals[len(u.Signals)-1].At, 10)), (*int64)(&r.cursor)); err != nil || u.Cursor != r.cursor.String() {
				t.Fatalf("step %d: cursor %s, %v", step, u.Cursor, err)
			}
		default:
			t.Fatalf("step %d: %d %s", step, a.Status, a.Body)
		}
	}
	kept, err := w.store.Signals(t.Context(), d.ID, 0, 5000, w.now)
	if err != nil || len(kept) > signal.Most+100 {
		t.Errorf("%d signals are kept, %v", len(kept), err)
	}
	if !testing.Short() && resyncs == 0 {
		t.Error("no reader ever missed anything: the test tests nothing")
	}
	t.Logf("%d signals, %d resyncs", len(all), resyncs)
}

// What was given "0-0" has missed what came since and has lapsed; who has no cursor begins with what there is, and is
// held if that is nothing.
func TestWhenAllHasLapsed(t *testing.T) {
	w := newWorld(t)
	d := w.device(1, 0)
	w.tell(d.ID)
	w.now = w.now.Add(signal.Kept + time.Hour)
	if a := w.poll(d, "?cursor=0-0"); a.Status != 409 {
		t.Errorf("given 0-0: %d", a.Status)
	}
	w.rests = 0
	a := w.poll(d, "?wait=20")
	if head, _ := w.store.Head(t.Context(), d.ID); a.Status != 204 || w.rests != 20 || a.Header.Get("ETag") != quoted(signal.Cursor(head.Last)) {
		t.Errorf("without a cursor: %d after %d rests, %v", a.Status, w.rests, a.Header)
	}
}
