// Package courier makes deliveries of webhooks: it takes one from the table for a while, sends it, and stores
// what came of it. Whoever is killed on the way leaves a delivery that is due again when its lease ends; the
// receiver may then get it twice.
package courier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
)

// Courier makes deliveries.
type Courier struct {
	Store  *store.Store
	Keys   *kmskey.Key
	Client *http.Client // webhook.Client
	Now    func() time.Time
}

// Route is the way to one endpoint, its secrets opened.
type Route struct {
	courier  *Courier
	endpoint webhook.Endpoint
	secrets  []webhook.Secret
}

// To reads an endpoint and opens its secrets; store.ErrNotFound if there is none.
func (c *Courier) To(ctx context.Context, user, id int64) (*Route, error) {
	e, err := c.Store.Webhook(ctx, user, id)
	if err != nil {
		return nil, err
	}
	r := &Route{courier: c, endpoint: e}
	if e.Disabled != "" {
		return r, nil
	}
	secrets := []sealed.Secret{e.Secret}
	if c.Now().Before(e.PreviousEnds) {
		secrets = append(secrets, e.Previous)
	}
	for _, s := range secrets {
		key, err := c.Keys.Open(ctx, kmskey.Webhook(user, id), s)
		if err != nil {
			return nil, fmt.Errorf("open the secret of webhook %d: %w", id, err)
		}
		r.secrets = append(r.secrets, webhook.SecretOf(key))
	}
	return r, nil
}

// Deliver makes one attempt at a delivery that is due and says how it stands then. store.ErrConflict if it is
// not due, or another worker has it.
func (r *Route) Deliver(ctx context.Context, event string) (webhook.Delivery, error) {
	c := r.courier
	d, err := c.Store.LeaseDelivery(ctx, r.endpoint.ID, event, c.Now())
	if err != nil {
		return d, err
	}
	e, err := c.Store.Event(ctx, r.endpoint.User, event)
	switch {
	case errors.Is(err, store.ErrNotFound):
		d.End(0, "The event is no longer kept.")
	case err != nil:
		return d, err
	case r.endpoint.Disabled != "":
		d.End(0, "The webhook is disabled.")
	default:
		r.attempt(ctx, e, &d)
	}
	if d.StatusCode == http.StatusGone && r.endpoint.Disabled == "" {
		if err := c.Store.DisableWebhook(ctx, r.endpoint, webhook.Gone, c.Now()); err != nil {
			return d, err
		}
		r.endpoint.Disabled = webhook.Gone
	}
	// A crash before this leaves the lease.
	return d, c.Store.SaveDelivery(ctx, d)
}

func (r *Route) attempt(ctx context.Context, e webhook.Event, d *webhook.Delivery) {
	c := r.courier
	status, why := webhook.Send(ctx, c.Client, r.endpoint.URL, e, r.secrets, c.Now())
	switch now := c.Now(); {
	case why == "":
		d.Succeed(status, now)
	case status == http.StatusGone:
		d.End(status, "The receiver answered 410: the webhook is disabled.")
	default:
		d.Fail(status, why, now, rand.Float64())
	}
}

// PutOff puts a delivery off that was due and not tried, for a reason that holds for all of the endpoint's.
func (c *Courier) PutOff(ctx context.Context, endpoint int64, event, why string) error {
	d, err := c.Store.Delivery(ctx, endpoint, event)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := c.Now()
	if d.NextAt.IsZero() || now.Before(d.NextAt) {
		return nil // done, or being worked on
	}
	d.Fail(d.StatusCode, why, now, rand.Float64())
	if err := c.Store.PutOffDelivery(ctx, d, now); !errors.Is(err, store.ErrConflict) {
		return err
	}
	return nil
}
