package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// budget bounds how many requests are held at a time, over all processes. It counts those that begin within a window as
// long as the longest is held: as many as that are held at a time, and at the turn of a window up to twice as many. Who is
// answered before its time gives its place back; a process that dies takes its place with it for the rest of the window.
// A device has few places, so that one does not take those of all.
type budget struct {
	store *store.Store
	limit store.Limit

	mu   sync.Mutex
	full time.Time // until when it is known that no more may begin
}

const heldPolls = "held-polls"

func newBudget(s *store.Store, most int) *budget {
	return &budget{store: s, limit: store.Limit{Most: int64(most), Window: longest}}
}

// perDevice is how many requests of a device may be held at a time.
const perDevice = 3

// take takes a place for a while, or tells the device to come back later.
func (b *budget) take(ctx context.Context, device int64, wait time.Duration, now time.Time) error {
	b.mu.Lock()
	full := b.full
	b.mu.Unlock()
	if now.Before(full) {
		return later(full.Sub(now))
	}
	// Who waits a shorter time begins more often.
	own := store.Limit{Most: perDevice * int64(longest/min(wait, longest)), Window: longest}
	if err := b.store.Count(ctx, fmt.Sprintf("%s#%d", heldPolls, device), own, now); err != nil {
		return err
	}
	err := b.store.Count(ctx, heldPolls, b.limit, now)
	var refused *problem.Error
	if errors.Is(err, problem.RateLimited) && errors.As(err, &refused) {
		b.mu.Lock()
		b.full = now.Add(refused.RetryAfter)
		b.mu.Unlock()
		return later(refused.RetryAfter)
	}
	return err
}

// giveBack frees a place that was taken at a time. That it is not does no harm: the count lapses.
func (b *budget) giveBack(ctx context.Context, device int64, taken time.Time) {
	_ = b.store.Uncount(ctx, heldPolls, b.limit, taken)
	_ = b.store.Uncount(ctx, fmt.Sprintf("%s#%d", heldPolls, device), b.limit, taken)
}

// later is the answer when there is no place. Those who come back at once would all come at the same time.
func later(wait time.Duration) error {
	wait += rand.N(longest)
	p := problem.RateLimited.New("Too many devices wait at the moment. Ask again in %d seconds, or without wait.", problem.Seconds(wait))
	p.RetryAfter = wait
	return p.With("retry_after", problem.Seconds(wait))
}
