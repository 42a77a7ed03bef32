package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// budget bounds how many requests are held at a time, over all processes. It counts those that begin within a window as
// long as the longest is held: at most twice as many are held at once as may begin in one. Who is answered before its time
// gives its place back; a process that dies takes its place with it for the rest of the window.
type budget struct {
	store *store.Store
	limit store.Limit

	mu   sync.Mutex
	full time.Time // until when it is known that no more may begin
}

const heldPolls = "held-polls"

func newBudget(s *store.Store, most int) *budget {
	return &budget{store: s, limit: store.Limit{Most: int64(max(1, most/2)), Window: longest}}
}

// take takes a place, or tells the device to come back later.
func (b *budget) take(ctx context.Context, now time.Time) error {
	b.mu.Lock()
	full := b.full
	b.mu.Unlock()
	if now.Before(full) {
		return later(full.Sub(now))
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
func (b *budget) giveBack(ctx context.Context, taken time.Time) {
	_ = b.store.Uncount(ctx, heldPolls, b.limit, taken)
}

// later is the answer when there is no place. Those who come back at once would all come at the same time.
func later(wait time.Duration) error {
	wait += rand.N(longest)
	p := problem.RateLimited.New("Too many devices wait at the moment. Ask again in %d seconds, or without wait.", problem.Seconds(wait))
	p.RetryAfter = wait
	return p.With("retry_after", problem.Seconds(wait))
}
