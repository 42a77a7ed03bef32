package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/work"
)

type renewals struct {
	store *store.Store
	send  func(context.Context, work.Order, time.Duration) error
	ca    *acme.Clients
	now   func() time.Time
	log   *slog.Logger

	mu     sync.Mutex
	silent map[string]int // how often each CA did not answer in this run, by directory
}

// Limits of a run. What is left is found by the next.
const (
	most    = 2000
	atOnce  = 8
	reserve = 15 * time.Second
	// A CA that did not answer so often is not asked any more in this run, so that it does not use up its time.
	patience = 3
)

// run looks at everything that is due. One certificate's failure does not keep the others waiting.
func (r *renewals) run(ctx context.Context) error {
	until := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		until, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
		defer cancel()
	}
	r.silent = map[string]int{}
	// In this order: what is opened now has its word sent with it.
	orders, err := r.store.DueOrders(ctx, r.now(), most)
	reminded := each(ctx, until, r, orders, r.remind)
	rollouts, err2 := r.store.DueRollouts(ctx, r.now(), most)
	carried := each(ctx, until, r, rollouts, r.carry)
	devices, err3 := r.store.DueRewraps(ctx, r.now(), most)
	carried += each(ctx, until, r, devices, r.rewrap)
	certificates, err4 := r.store.DueRenewals(ctx, r.now(), most)
	looked := each(ctx, until, r, certificates, r.renew)
	r.log.LogAttrs(ctx, slog.LevelInfo, "renewals", slog.Int("due", len(certificates)), slog.Int("looked_at", looked), slog.Int("orders", len(orders)), slog.Int("reminded", reminded), slog.Int("rollouts", carried))
	return errors.Join(err, err2, err3, err4)
}

// each calls do for what is due, some at a time, until the time is up, and tells for how many.
func each[D any](ctx, until context.Context, r *renewals, due []D, do func(context.Context, D) error) (done int) {
	var group sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, d := range due {
		slots <- struct{}{}
		if until.Err() != nil {
			break
		}
		done++
		group.Go(func() {
			defer func() { <-slots }()
			if err := do(ctx, d); err != nil {
				r.log.LogAttrs(ctx, slog.LevelError, "renewals", slog.Any("due", d), slog.String("error", err.Error()))
			}
		})
	}
	group.Wait()
	return done
}

// remind sends the issuer word of an open issue.
func (r *renewals) remind(ctx context.Context, d store.Due) error {
	return r.send(ctx, work.Order{User: d.User, Certificate: d.Certificate}, 0)
}

// carry sends the issuer word of what is on its way to devices.
func (r *renewals) carry(ctx context.Context, d store.DueRollout) error {
	return r.send(ctx, work.Order{User: d.User, Certificate: d.Certificate, Rollout: true, CA: d.CA}, 0)
}

// rewrap sends the issuer word of a device that has another key.
func (r *renewals) rewrap(ctx context.Context, d store.DueDevice) error {
	return r.send(ctx, work.Order{User: d.User, Rollout: true, Device: d.Device}, 0)
}

// renew opens an issue for a certificate that is due, or notes when to look again.
func (r *renewals) renew(ctx context.Context, d store.Due) error {
	c, err := r.store.Certificate(ctx, d.User, d.Certificate)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := r.now()
	if c.RenewAt.IsZero() || now.Before(c.RenewAt) || c.Issuing > 0 {
		return nil // changed since the index was read
	}
	look := func(at time.Time) error {
		later := c
		later.RenewAt = at
		_, err := r.store.UpdateCertificate(ctx, c, later, nil, nil)
		return settled(err)
	}
	switch {
	case !c.AutoRenew, !c.RevokedAt.IsZero(): // not for the index, where it would stand before others for ever
		return look(time.Time{})
	case c.Failure.Limited(now):
		return look(c.Failure.RetryAt)
	}
	at, replaces := r.when(ctx, c, now)
	if now.Before(at) {
		return look(at)
	}
	id, err := r.store.NextIssueID(ctx)
	if err != nil {
		return err
	}
	renewing := c
	renewing.UpdatedAt = now
	open := certificate.NewOrder(id, replaces, now)
	if _, err := r.store.UpdateCertificate(ctx, c, renewing, &open, nil); err != nil {
		return settled(err)
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "renewal opened", slog.Int64("user", c.User), slog.Int64("certificate", c.ID), slog.Time("not_after", c.Current.NotAfter))
	// A crash here leaves an open issue that the next run finds.
	return r.send(ctx, work.Order{User: d.User, Certificate: d.Certificate}, 0)
}

// settled is no error for a certificate that somebody else changed at the same time: it is still in the index
// if it is still due.
func settled(err error) error {
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// when tells when a certificate is to be looked at or renewed: as its CA says (RFC 9773), and by its lifetime
// where the CA does not say, or cannot be asked. replaces is for the order.
func (r *renewals) when(ctx context.Context, c certificate.Certificate, now time.Time) (at time.Time, replaces string) {
	own := c.Current.DueAt(rand.Float64())
	if c.Current.ARI == "" || !now.Before(c.Current.NotAfter) { // RFC 9773 §4.3: not after it has expired
		return own, c.Current.ARI
	}
	a, err := r.store.ACMEAccount(ctx, c.User, c.Account)
	if err != nil {
		return own, c.Current.ARI
	}
	window, known, err := r.ask(ctx, a.Directory, c.Current.ARI)
	if errors.Is(err, acme.ErrNoRenewalInfo) {
		return own, ""
	}
	if err != nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "renewal information", slog.Int64("certificate", c.ID), slog.String("error", fmt.Sprint(err)))
	}
	var silent *acme.Unreachable
	switch {
	case errors.As(err, &silent), errors.Is(err, errSilent): // it may have something urgent to say
		return earlier(own, now.Add(certificate.LookEvery/24+rand.N(certificate.LookEvery/24))), c.Current.ARI
	case err != nil || !known:
		return earlier(own, now.Add(certificate.LookEvery)), c.Current.ARI
	}
	return c.Current.ByWindow(window.Start, window.End, window.RetryAfter, now, rand.Float64()), c.Current.ARI
}

var errSilent = errors.New("the CA did not answer before in this run")

// ask asks a CA, unless it does not answer.
func (r *renewals) ask(ctx context.Context, directory, ari string) (acme.Window, bool, error) {
	r.mu.Lock()
	silent := r.silent[directory] >= patience
	r.mu.Unlock()
	if silent {
		return acme.Window{}, false, errSilent
	}
	window, known, err := r.ca.At(directory).RenewalInfo(ctx, ari)
	var unreachable *acme.Unreachable
	if errors.As(err, &unreachable) {
		r.mu.Lock()
		r.silent[directory]++
		r.mu.Unlock()
	}
	return window, known, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
