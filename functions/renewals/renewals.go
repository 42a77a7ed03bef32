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
}

// Limits of a run. What is left is found by the next.
const (
	pageSize = 100
	maxPages = 20
	atOnce   = 8
	reserve  = 15 * time.Second
)

// run looks at everything that is due. One certificate's failure does not keep the others waiting.
func (r *renewals) run(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
		defer cancel()
	}
	// In this order: what is opened now has its word sent with it.
	sent, err2 := r.each(ctx, r.store.DueOrders, r.remind)
	renewed, err := r.each(ctx, r.store.DueRenewals, r.renew)
	r.log.LogAttrs(ctx, slog.LevelInfo, "renewals", slog.Int("looked_at", renewed), slog.Int("reminded", sent))
	return errors.Join(err, err2)
}

// each calls do for what a list of due things holds, some at a time. A thing that do has dealt with is due
// no longer, or later; so the next page is read from the start until one brings nothing new.
func (r *renewals) each(ctx context.Context, due func(context.Context, time.Time, int) ([]store.Due, error), do func(context.Context, store.Due) error) (int, error) {
	seen := map[store.Due]bool{}
	for range maxPages {
		list, err := due(ctx, r.now(), pageSize)
		if err != nil {
			return len(seen), err
		}
		fresh := list[:0:0]
		for _, d := range list {
			if !seen[d] {
				seen[d] = true
				fresh = append(fresh, d)
			}
		}
		if len(fresh) == 0 {
			break
		}
		var group sync.WaitGroup
		slots := make(chan struct{}, atOnce)
		for _, d := range fresh {
			slots <- struct{}{}
			group.Go(func() {
				defer func() { <-slots }()
				if err := do(ctx, d); err != nil {
					r.log.LogAttrs(ctx, slog.LevelError, "renewals", slog.Int64("user", d.User), slog.Int64("certificate", d.Certificate), slog.String("error", err.Error()))
				}
			})
		}
		group.Wait()
		if len(list) < pageSize || ctx.Err() != nil {
			break
		}
	}
	return len(seen), ctx.Err()
}

// remind sends the issuer word of an open issue.
func (r *renewals) remind(ctx context.Context, d store.Due) error {
	return r.send(ctx, work.Order{User: d.User, Certificate: d.Certificate}, 0)
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
	if c.RenewAt.IsZero() || now.Before(c.RenewAt) || !c.AutoRenew || c.Issuing > 0 {
		return nil // changed since the index was read
	}
	at, replaces := r.when(ctx, c, now)
	if now.Before(at) {
		later := c
		later.RenewAt = at
		_, err := r.store.UpdateCertificate(ctx, c, later, nil)
		return settled(err)
	}
	id, err := r.store.NextIssueID(ctx)
	if err != nil {
		return err
	}
	renewing := c
	renewing.UpdatedAt = now
	open := certificate.NewOrder(id, replaces, now)
	if _, err := r.store.UpdateCertificate(ctx, c, renewing, &open); err != nil {
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
	if c.Current.ARI == "" {
		return own, ""
	}
	a, err := r.store.ACMEAccount(ctx, c.User, c.Account)
	if err != nil {
		return own, c.Current.ARI
	}
	window, known, err := r.ca.At(a.Directory).RenewalInfo(ctx, c.Current.ARI)
	if err != nil {
		r.log.LogAttrs(ctx, slog.LevelWarn, "renewal information", slog.Int64("certificate", c.ID), slog.String("error", fmt.Sprint(err)))
	}
	if err != nil || !known {
		if now.Before(own) {
			return earlier(own, now.Add(certificate.LookEvery)), c.Current.ARI
		}
		return own, c.Current.ARI
	}
	return c.Current.ByWindow(window.Start, window.End, window.RetryAfter, now, rand.Float64()), c.Current.ARI
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
