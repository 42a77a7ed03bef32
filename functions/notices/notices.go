package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cjj365.cc/bb/shared/courier"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
)

type notices struct {
	store   *store.Store
	courier *courier.Courier
	now     func() time.Time
	log     *slog.Logger
}

// Limits of a run. What is left is found by the next.
const (
	most    = 1000             // of each kind
	atOnce  = 8                // notices, events, endpoints
	share   = 20 * time.Second // of a run, for one endpoint: the deliveries to a slow one do not hold up the others
	reserve = 15 * time.Second // in which no attempt is begun: one takes up to webhook.Timeout
)

// run does everything that is due. One thing's failure does not keep the others waiting.
func (n *notices) run(ctx context.Context) error {
	until := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		until, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
		defer cancel()
	}
	given, err := n.give(until)
	handed, err2 := n.handOut(until)
	tried, err3 := n.deliver(ctx, until)
	n.log.LogAttrs(ctx, slog.LevelInfo, "notices", slog.Int("given", given), slog.Int("events", handed), slog.Int("attempts", tried))
	return errors.Join(err, err2, err3)
}

// each calls do for every thing of a list, atOnce at a time, until the time is up. What another run did
// meanwhile is no failure.
func each[T any](until context.Context, n *notices, list []T, do func(T) error) {
	var group sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, thing := range list {
		slots <- struct{}{}
		if until.Err() != nil {
			break
		}
		group.Go(func() {
			defer func() { <-slots }()
			err := do(thing)
			if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound) {
				n.log.LogAttrs(until, slog.LevelError, "notices", slog.Any("due", thing), slog.String("error", err.Error()))
			}
		})
	}
	group.Wait()
}

// give turns each notice that is due into an event.
func (n *notices) give(ctx context.Context) (int, error) {
	due, err := n.store.DueNotices(ctx, n.now(), most)
	each(ctx, n, due, func(d store.DueNotice) error {
		notice, err := n.store.Notice(ctx, d.Subject, d.User, d.ID)
		if err != nil {
			return err
		}
		now := n.now()
		if now.Before(notice.At) {
			return nil // given since the index was read
		}
		event, err := n.expiring(ctx, notice, now)
		if err != nil {
			return err
		}
		return n.store.GiveNotice(ctx, notice, event, now)
	})
	return len(due), err
}

// expiring is the event of a notice; nil if it is no longer true, and no other is to follow.
func (n *notices) expiring(ctx context.Context, notice webhook.Notice, now time.Time) (*webhook.Event, error) {
	if !now.Before(notice.ExpiresAt) {
		return nil, nil
	}
	left := webhook.DaysLeft(notice.ExpiresAt, now)
	kind, data := webhook.APIKeyExpiring, any(webhook.APIKey{
		User: notice.User, ID: notice.ID, Name: notice.Name, ExpiresAt: notice.ExpiresAt.UnixMilli(), DaysLeft: left,
	})
	if notice.Subject == webhook.OfCertificates {
		c, err := n.store.Certificate(ctx, notice.User, notice.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (!c.RevokedAt.IsZero() || !c.Current.NotAfter.Equal(notice.ExpiresAt)) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		of := webhook.OfCertificate(c)
		of.DaysLeft = &left
		kind, data = webhook.CertificateExpiring, of
	}
	e, err := webhook.NewEvent(notice.User, kind, now, data)
	return &e, err
}

// handOut makes a delivery of each event for each webhook that wants it.
func (n *notices) handOut(ctx context.Context) (int, error) {
	due, err := n.store.DueEvents(ctx, n.now(), most)
	each(ctx, n, due, func(d store.DueEvent) error {
		e, err := n.store.Event(ctx, d.User, d.ID)
		if err != nil {
			return err
		}
		all, err := n.store.Webhooks(ctx, d.User)
		if err != nil {
			return err
		}
		wanting := all[:0]
		for _, w := range all {
			if w.Wants(e.Type) {
				wanting = append(wanting, w)
			}
		}
		return n.store.Deliver(ctx, e, wanting, n.now())
	})
	return len(due), err
}

// endpoint is one webhook and what is due to it.
type endpoint struct {
	User, ID int64
	events   []string
}

// deliver makes the deliveries that are due: some webhooks at a time, and of each one after the other.
func (n *notices) deliver(ctx, until context.Context) (int, error) {
	due, err := n.store.DueDeliveries(ctx, n.now(), most)
	var endpoints []*endpoint
	byID := map[int64]*endpoint{}
	for _, d := range due {
		if byID[d.Endpoint] == nil {
			byID[d.Endpoint] = &endpoint{User: d.User, ID: d.Endpoint}
			endpoints = append(endpoints, byID[d.Endpoint])
		}
		byID[d.Endpoint].events = append(byID[d.Endpoint].events, d.Event)
	}
	var attempts atomic.Int64
	each(until, n, endpoints, func(e *endpoint) error {
		tried, err := n.serve(ctx, until, e)
		attempts.Add(int64(tried))
		return err
	})
	return int(attempts.Load()), err
}

// serve makes what is due to one webhook, and puts the rest off when it does not answer or takes too long.
func (n *notices) serve(ctx, until context.Context, e *endpoint) (tried int, err error) {
	route, err := n.courier.To(ctx, e.User, e.ID)
	if errors.Is(err, store.ErrNotFound) {
		each(until, n, e.events, func(event string) error { return n.store.DropDelivery(ctx, e.ID, event) })
		return 0, nil
	}
	if err != nil {
		n.putOff(ctx, until, e, e.events, "The webhook's secret could not be read.")
		return 0, err
	}
	ends := n.now().Add(share)
	for i, event := range e.events {
		if until.Err() != nil {
			return tried, nil
		}
		if !n.now().Before(ends) {
			n.putOff(ctx, until, e, e.events[i:], "The receiver takes long to answer other deliveries.")
			return tried, nil
		}
		d, err := route.Deliver(ctx, event)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return tried, err
		}
		tried++
		n.log.LogAttrs(ctx, slog.LevelInfo, "delivery", slog.Int64("user", e.User), slog.Int64("webhook", e.ID), slog.String("event", event),
			slog.String("type", string(d.Type)), slog.String("state", string(d.State())), slog.Int("status", d.StatusCode), slog.String("error", d.Error))
		if d.State() != webhook.Delivered && d.StatusCode == 0 {
			n.putOff(ctx, until, e, e.events[i+1:], "The receiver did not answer another delivery.")
			return tried, nil
		}
	}
	return tried, nil
}

func (n *notices) putOff(ctx, until context.Context, e *endpoint, events []string, why string) {
	each(until, n, events, func(event string) error { return n.courier.PutOff(ctx, e.ID, event, why) })
}
