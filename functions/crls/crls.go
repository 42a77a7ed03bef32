package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

type crls struct {
	store  *store.Store
	signer *casigner.Signer
	log    *slog.Logger
	now    func() time.Time
}

// Limits of a run. What is left is found by the next.
const (
	most    = 1000
	atOnce  = 8
	reserve = 15 * time.Second
)

// run publishes what is due. One CA's failure does not keep the others waiting.
func (c *crls) run(ctx context.Context) error {
	until := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		until, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
		defer cancel()
	}
	due, err := c.store.DueCRLs(ctx, c.now(), most)
	var group sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	done := 0
	for _, d := range due {
		slots <- struct{}{}
		if until.Err() != nil {
			break
		}
		done++
		group.Go(func() {
			defer func() { <-slots }()
			c.publish(ctx, d)
		})
	}
	group.Wait()
	c.log.LogAttrs(ctx, slog.LevelInfo, "crls", slog.Int("due", len(due)), slog.Int("published", done))
	return err
}

// publish publishes one CA's CRL. A failure is noted, and tried again after some minutes: meanwhile it would stand
// before others in the index.
func (c *crls) publish(ctx context.Context, d store.DueCA) {
	err := c.signer.RenewOCSPSigner(ctx, d.User, d.CA)
	if err == nil || errors.Is(err, store.ErrConflict) { // somebody else did
		_, err = c.signer.Publish(ctx, d.User, d.CA)
	}
	if err == nil || errors.Is(err, store.ErrNotFound) { // deleted since the index was read
		return
	}
	c.log.LogAttrs(ctx, slog.LevelError, "CRL not published", slog.Int64("user", d.User), slog.Int64("ca", d.CA), slog.String("error", err.Error()))
	why := "Something here failed; it is tried again."
	var p *problem.Error
	if errors.As(err, &p) {
		why = p.What
	}
	if err := c.store.FailedCRL(ctx, d.CA, why, c.now().Add(time.Minute+rand.N(4*time.Minute))); err != nil {
		c.log.LogAttrs(ctx, slog.LevelError, "CRL not published", slog.Int64("ca", d.CA), slog.String("error", err.Error()))
	}
}
