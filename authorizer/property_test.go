package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/token"
)

// forward passes a request on to the real table.
func forward(w http.ResponseWriter, r *http.Request, endpoint string) {
	target, err := url.Parse(endpoint)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	httputil.NewSingleHostReverseProxy(target).ServeHTTP(w, r)
}

// model is what a key should be, told without the code's own state: each token with the time it dies.
type model struct {
	key     apikey.Key
	expires time.Time
	deleted bool
	tokens  []*modelToken
}

type modelToken struct {
	token token.Token
	dead  bool
	dies  time.Time     // zero while nothing says so
	used  bool          // at least once
	old   *modelToken   // which its first use ends
	grace time.Duration // after which
}

func (m *model) lives(t *modelToken, now time.Time) bool {
	return !m.deleted && now.Before(m.expires) && !t.dead && (t.dies.IsZero() || now.Before(t.dies))
}

// TestNoSequenceLetsADeadTokenIn plays random sequences of create, roll, use, delete and the passing of
// time, and after each step holds the authorizer's answer for every token there ever was against the
// model's.
func TestNoSequenceLetsADeadTokenIn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BB_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("BB_SEED=%d plays this sequence again", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	var keys []*model
	use := func(m *model, mt *modelToken) {
		want := unauthorized
		if m.lives(mt, w.now) {
			want = allowed
			if !mt.used && mt.old != nil && !mt.old.dead {
				mt.old.dies = w.now.Add(mt.grace)
			}
			mt.used = true
		}
		if got, _ := w.ask(t, "GET/apiv1/me", bearer(mt.token)); got != want {
			t.Fatalf("key %d, token %p: %s, want %s", m.key.ID, mt, got, want)
		}
	}
	for range 700 {
		var m *model
		if len(keys) > 0 {
			m = keys[random.IntN(len(keys))]
		}
		switch n := random.IntN(10); {
		case m == nil || n == 0 && len(keys) < 12:
			lifetime := time.Duration(1+random.IntN(20)) * time.Hour
			k, tok := w.key(t, lifetime)
			keys = append(keys, &model{key: k, expires: w.now.Add(lifetime), tokens: []*modelToken{{token: tok}}})
		case n <= 2:
			w.roll(t, m, time.Duration(random.IntN(600))*time.Second)
		case n == 3 && random.IntN(10) == 0:
			if err := w.store.DeleteAPIKey(t.Context(), m.key.User, m.key.ID); (err == nil) == m.deleted {
				t.Fatalf("delete key %d: %v", m.key.ID, err)
			}
			m.deleted = true
		case n <= 5:
			w.now = w.now.Add(time.Duration(random.IntN(400)) * time.Second)
		default:
			use(m, m.tokens[max(0, len(m.tokens)-1-random.IntN(3))]) // the newest are the interesting ones
		}
		// The dead of a random key stay dead. Asking for the living would be using them.
		if m != nil {
			for _, mt := range m.tokens {
				if !m.lives(mt, w.now) {
					use(m, mt)
				}
			}
		}
	}
}

func (w *world) roll(t *testing.T, m *model, grace time.Duration) {
	t.Helper()
	before, err := w.store.APIKey(t.Context(), m.key.User, m.key.ID)
	if m.deleted {
		if err == nil {
			t.Fatalf("key %d is there after its deletion", m.key.ID)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	after := before
	fresh := &modelToken{token: after.Roll(grace), grace: grace}
	if err := w.store.RollAPIKey(t.Context(), before, after, w.maker, nil); err != nil {
		t.Fatal(err)
	}
	current := m.tokens[len(m.tokens)-1]
	if current.old != nil && !current.used { // never used: replaced, and the one before stays
		current.dead = true
		fresh.old = current.old
	} else {
		if current.old != nil { // its grace ends with the next roll
			current.old.dead = true
		}
		fresh.old = current
	}
	m.tokens = append(m.tokens, fresh)
}

// TestRevocationIsImmediate uses one key 200 times a second, deletes it in the middle, and looks at
// every request that began after the deletion returned.
func TestRevocationIsImmediate(t *testing.T) {
	const rounds, rate, before, after = 12, 200, 60, 60
	w := newWorld(t)
	for round := range rounds {
		k, key := w.key(t, time.Hour)
		payload := request(t, "GET/apiv1/me", bearer(key))
		var deleted atomic.Bool
		var let, late atomic.Int64
		var wait sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		for sent := 0; late.Load() < after; sent++ {
			if sent == before {
				wait.Go(func() {
					if err := w.store.DeleteAPIKey(t.Context(), k.User, k.ID); err != nil {
						t.Error(err)
					}
					deleted.Store(true)
				})
			}
			<-tick.C
			wait.Go(func() {
				afterDelete := deleted.Load()
				_, err := w.Invoke(context.Background(), payload)
				if afterDelete {
					late.Add(1)
				}
				if err == nil && afterDelete {
					t.Errorf("round %d: a request that began after DELETE returned was let in", round)
				}
				if err == nil {
					let.Add(1)
				}
			})
		}
		tick.Stop()
		wait.Wait()
		if let.Load() == 0 {
			t.Errorf("round %d: no request was let in before the DELETE", round)
		}
	}
}
