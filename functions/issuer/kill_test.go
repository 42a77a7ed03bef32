package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/shared/certificate"
)

// A story is an order from its opening to its end.
type story struct {
	name      string
	begin     func(*rig) certificate.Certificate // opens the issue
	successes int                                // of the certificate, at the end
}

var stories = []story{
	{"a first issue, of a name and its wildcard", func(r *rig) certificate.Certificate {
		name := domain()
		return r.create(certificate.Certificate{Names: []string{name, "*." + name}})
	}, 1},
	{"a renewal", func(r *rig) certificate.Certificate {
		c := r.create(certificate.Certificate{})
		r.finish(c)
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
	}, 2},
	{"an issue that waits, since the DNS provider is down at first", func(r *rig) certificate.Certificate {
		var once sync.Once
		r.fault = func(name string, _ *http.Request) (status int) {
			if name == present {
				once.Do(func() { status = http.StatusServiceUnavailable })
			}
			return status
		}
		return r.create(certificate.Certificate{})
	}, 1},
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
	var steps []call
	for _, c := range r.calls {
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
