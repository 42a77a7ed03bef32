package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// A story is an order from its opening to its end.
type story struct {
	name      string
	begin     func(*rig) certificate.Certificate  // opens the issue
	successes int                                 // of the certificate, at the end
	end       func(*rig, certificate.Certificate) // what is to hold besides; nil for nothing
}

var stories = []story{
	{name: "a first issue, of a name and its wildcard", successes: 1, begin: func(r *rig) certificate.Certificate {
		name := domain()
		return r.create(certificate.Certificate{Names: []string{name, "*." + name}})
	}},
	{name: "a renewal", successes: 2, begin: func(r *rig) certificate.Certificate {
		c := r.create(certificate.Certificate{})
		r.finish(c)
		return r.second(c)
	}},
	{name: "a renewal of a certificate on two devices", successes: 2, begin: func(r *rig) certificate.Certificate {
		c := r.create(certificate.Certificate{})
		r.finish(c)
		for range 2 {
			r.assign(c)
		}
		return r.second(c)
	}, end: (*rig).checkTold},
	{name: "an issue that waits, since the DNS provider is down at first", successes: 1, begin: func(r *rig) certificate.Certificate {
		var once sync.Once
		r.fault = func(name string, _ *http.Request) (status int) {
			if name == present {
				once.Do(func() { status = http.StatusServiceUnavailable })
			}
			return status
		}
		return r.create(certificate.Certificate{})
	}},
}

// second opens the renewal of a certificate, and forgets the calls of the first issue.
func (r *rig) second(c certificate.Certificate) certificate.Certificate {
	r.start() // the next invocation begins as the first did
	c = r.renew(c)
	r.set(func() {
		clear(r.counts)
		clear(r.answers)
		r.calls = nil
		// What is in place can be used at every moment.
		r.hold = func(name string) {
			if strings.HasPrefix(name, "dynamodb") {
				if _, err := r.inPlace(c); err != nil {
					r.t.Errorf("at %s: %v", name, err)
				}
			}
		}
	})
	return c
}

// assign registers a device and puts a certificate on it.
func (r *rig) assign(c certificate.Certificate) {
	r.t.Helper()
	ctx, now := context.Background(), storetest.Now()
	id := must(r.tables.Store.NextDeviceID(ctx))
	family, _ := session.NewFamily(c.User, id, "", now)
	d := device.Device{User: c.User, ID: id, PublicID: fmt.Sprint("d", id), Key: []byte(fmt.Sprintf("%032d", id)), CreatedAt: now, UpdatedAt: now}
	d = must(r.tables.Store.RegisterDevice(ctx, store.Registration{After: d, Family: family}))
	w := &delivery.Worker{Store: r.tables.Store, Keys: r.aws.keys, Log: slog.New(slog.DiscardHandler), Now: time.Now}
	if err := w.Assign(ctx, d, c.ID); err != nil {
		r.t.Fatal(err)
	}
}

// checkTold has the schedule carry on what is on its way to a certificate's devices. Each must then have the issue in
// place, with its key sealed to it, and have been told of it once; and of the issue before nothing is kept.
func (r *rig) checkTold(c certificate.Certificate) {
	r.t.Helper()
	ctx := context.Background()
	for range 2 {
		if err := r.message(fmt.Sprintf(`{"user":%d,"certificate":%d,"rollout":true}`, c.User, c.ID)); err != nil {
			r.t.Errorf("the roll-out: %v", err)
		}
	}
	c = r.read(c)
	all := must(r.tables.Store.Assignments(ctx, c.ID))
	if len(all) != 2 {
		r.t.Errorf("it is on %d devices", len(all))
	}
	for _, a := range all {
		told := must(r.tables.Store.Signals(ctx, a.Device, 0, 10, time.Now()))
		if a.Issue != c.Current.Issue || len(a.Wrap) != 80 || len(told) != 2 || told[1].Ref.Serial != c.Current.Serial || !told[1].Ref.Ready {
			r.t.Errorf("device %d has issue %d of %d, and was told %+v", a.Device, a.Issue, c.Current.Issue, told)
		}
	}
	if _, err := r.tables.Store.Material(ctx, c.ID, c.Current.Issue-1); !errors.Is(err, store.ErrNotFound) {
		r.t.Errorf("the chain and key before: %v", err)
	}
}

// asked again and again, and not equally often each time: not every one of them is a step.
var polls = []string{"acme POST /authZ", "acme POST /my-order"}

func poll(name string) bool { return name == polls[0] || name == polls[1] }

// steps are the calls of a story that nothing disturbs: the table of steps.
func (s story) steps(t *testing.T) []call {
	r := newRig(t, options{})
	c := s.begin(r)
	r.finish(c)
	r.checkIssued(c, s.successes)
	if r.reused() {
		return s.steps(t)
	}
	calls := slices.Clone(r.calls)
	if s.end != nil {
		s.end(r, c)
	}
	var steps []call
	for _, c := range calls {
		if !poll(c.name) || c.nth <= 3 {
			steps = append(steps, c)
		}
	}
	return steps
}

// Killed at any call, before it arrives or after it was answered, an order is carried on by the next delivery
// to the one certificate that it was for. With -short each call is killed at one of the two moments.
func TestAKilledIssuerLeavesAnOrderThatTheNextGoesOnWith(t *testing.T) {
	t.Parallel()
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for i, step := range s.steps(t) {
				t.Logf("step %2d: %s", i+1, step)
				for _, m := range []moment{before, after} {
					if testing.Short() && i%2 != int(m) {
						continue
					}
					t.Run(fmt.Sprintf("%d, %s %s", i+1, m, step), func(t *testing.T) {
						t.Parallel()
						slot(t)
						s.killedAt(t, step, m)
					})
				}
			}
		})
	}
}

// slots bound how many orders run at a time, on a machine of two processors.
var slots = make(chan struct{}, 16)

func slot(t testing.TB) {
	slots <- struct{}{}
	t.Cleanup(func() { <-slots })
}

func (s story) killedAt(t *testing.T, step call, m moment) {
	r := newRig(t, options{})
	c := s.begin(r)
	r.set(func() { r.strike = func(c call) (moment, bool) { return m, c == step } })
	for delivery := 0; delivery < 3 && !r.killed(); delivery++ {
		err := r.deliver(c)
		if r.killed() != errors.Is(err, lambda.ErrCrashed) {
			t.Fatalf("delivery: %v", err)
		}
		if !r.killed() {
			r.elapse(c)
		}
	}
	if !r.killed() && r.reused() {
		s.killedAt(t, step, m)
		return
	}
	if !r.killed() && !poll(step.name) {
		t.Errorf("%s was never called", step)
	}
	r.set(func() { r.strike, r.struck = nil, false })
	// The queue brings the message again, while the dead one's lease lasts: nothing happens to the order.
	if err := r.deliver(c); err != nil {
		t.Errorf("a delivery under the dead one's lease: %v", err)
	}
	r.finish(c)
	r.checkIssued(c, s.successes)
	if s.end != nil {
		s.end(r, c)
	}
	if got := r.answered(newOrder); got != 1 {
		t.Errorf("the CA opened %d orders", got)
	}
	if got := r.answered(finalize); got != 1 {
		t.Errorf("the CA finalized %d orders", got)
	}
	if got := r.answered(register); got > 2 {
		t.Errorf("%d registrations", got)
	}
}

// reused tells whether the CA took an authorization of an order before for this one, so that there are fewer steps.
// Pebble does that with one renewal in a hundred when it is told to do it with none.
func (r *rig) reused() bool {
	issues := must(r.tables.Store.Issues(context.Background(), r.last))
	return r.asked(accept) == 0 && issues[0].State == certificate.Succeeded
}

func (r *rig) killed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.struck
}
