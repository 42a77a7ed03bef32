package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/courier"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store   *store.Store
	keys    *kmskey.Key
	guard   egress.Guard
	courier *courier.Courier
	log     *slog.Logger
	now     func() time.Time
}

func (h *handler) routes() *wire.API {
	const webhooks, one = "/apiv1/users/{user_id}/webhooks", "/apiv1/users/{user_id}/webhooks/{webhook_id}"
	rule := func(a access.Action, object string) wire.Rule {
		return wire.Rule{Type: "webhooks", Action: a, Object: object}
	}
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: webhooks, ID: "list-webhooks", Rule: rule(access.Read, ""),
		Summary: "List webhooks", Description: "Newest first, without secrets.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: webhooks, ID: "create-webhook", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create a webhook", Description: "Notices are sent to its URL, signed with the secret, which is shown this once.",
	}, h.create)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one, ID: "get-webhook", Rule: rule(access.Read, "webhook_id"),
		Summary: "Get a webhook",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "PUT", Path: one, ID: "update-webhook", Rule: rule(access.Write, "webhook_id"),
		Summary: "Change a webhook", Description: "What is absent stays.",
	}, h.update)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one, ID: "delete-webhook", Rule: rule(access.Write, "webhook_id"), Status: 204,
		Summary: "Delete a webhook", Description: "What is on its way to it is not sent any more.",
	}, h.delete)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/test", ID: "test-webhook", Rule: rule(access.Write, "webhook_id"),
		Summary: "Send a test event now", Description: "Of the type webhook.test, whatever the webhook wants. The answer says what the receiver answered; it is not tried again.",
	}, h.test)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/roll-secret", ID: "roll-webhook-secret", Rule: rule(access.Write, "webhook_id"),
		Summary: "Give a webhook a new secret", Description: "It is shown this once. For 24 hours deliveries carry a signature by each of the two.",
	}, h.roll)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/deliveries", ID: "list-webhook-deliveries", Rule: rule(access.Read, "webhook_id"),
		Summary: "List what was sent to a webhook", Description: "The newest event first, for 30 days. The next page begins at meta.next, given as before.",
	}, h.deliveries)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/deliveries/{delivery_id}/replay", ID: "replay-webhook-delivery", Rule: rule(access.Write, "webhook_id"),
		Summary: "Send a delivery again now", Description: "With the same webhook-id. The answer says what the receiver answered; if it did not take it, it is tried again for three days.",
	}, h.replay)
	return a
}

// Path is the path parameters of one webhook.
type Path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"webhook_id" minimum:"1" maximum:"9007199254740991"`
}

// Webhook is a webhook as the API shows it.
type Webhook struct {
	ID        int64          `json:"id"`
	User      int64          `json:"user_id"`
	Name      string         `json:"name"`
	URL       string         `json:"url"`
	Types     []webhook.Type `json:"events" doc:"Types of events that it wants; empty for all."`
	Enabled   bool           `json:"enabled"`
	Disabled  string         `json:"disabled_reason" enum:",owner,gone" doc:"gone if the receiver answered 410; empty if it is enabled."`
	CreatedAt int64          `json:"created_at" doc:"Epoch milliseconds."`
	UpdatedAt int64          `json:"updated_at" doc:"Epoch milliseconds."`
}

func show(e webhook.Endpoint) Webhook {
	shown := Webhook{
		ID: e.ID, User: e.User, Name: e.Name, URL: e.URL, Types: e.Types, Enabled: e.Disabled == "", Disabled: e.Disabled,
		CreatedAt: e.CreatedAt.UnixMilli(), UpdatedAt: e.UpdatedAt.UnixMilli(),
	}
	if shown.Types == nil {
		shown.Types = []webhook.Type{}
	}
	return shown
}

// withSecret is the one answer that shows a secret.
type withSecret struct {
	Webhook
	Secret string `json:"secret" doc:"whsec_ and base64 of the key of the signatures. It is not shown again."`
}

type listRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
}

type listResponse struct{ Body wire.List[Webhook] }

func (h *handler) list(ctx context.Context, in *listRequest) (*listResponse, error) {
	all, err := h.store.Webhooks(ctx, in.User)
	if err != nil {
		return nil, err
	}
	return &listResponse{wire.Page(all, in.Paging, show)}, nil
}

type response struct{ Body wire.Data[Webhook] }

func (h *handler) get(ctx context.Context, in *Path) (*response, error) {
	e, err := h.store.Webhook(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	return &response{wire.Data[Webhook]{Data: show(e)}}, nil
}

// Settings are what of a webhook can be changed.
type Settings struct {
	Name    *string         `json:"name,omitempty" minLength:"1" maxLength:"128"`
	URL     *string         `json:"url,omitempty" minLength:"1" maxLength:"2048" doc:"https, at a public address. It gets POST requests; redirects are not followed."`
	Types   *[]webhook.Type `json:"events,omitempty" maxItems:"20" doc:"certificate.issued, certificate.renewed, certificate.failed, certificate.expiring, api_key.expiring; empty or absent at creation for all."`
	Enabled *bool           `json:"enabled,omitempty"`
}

// apply takes over what a request gives.
func (h *handler) apply(s Settings, e *webhook.Endpoint) error {
	if s.Name != nil {
		if err := wire.CheckName(*s.Name); err != nil {
			return err
		}
		e.Name = *s.Name
	}
	if s.URL != nil {
		if err := h.guard.CheckURL(*s.URL); err != nil {
			return problem.InvalidArgument.New("url: %v", err).With("field", "url")
		}
		e.URL = *s.URL
	}
	if s.Types != nil {
		for _, t := range *s.Types {
			if !webhook.Known(t) {
				return problem.InvalidArgument.New("events: there is no type %.64q. There are %v.", t, webhook.Types).With("field", "events")
			}
		}
		types := slices.Sorted(slices.Values(*s.Types))
		e.Types = slices.Compact(types)
	}
	if s.Enabled != nil {
		e.Disabled = webhook.ByOwner
		if *s.Enabled {
			e.Disabled = ""
		}
	}
	return nil
}

type createRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body Settings
}

func (h *handler) create(ctx context.Context, in *createRequest) (*idempotency.Answer[withSecret], error) {
	now := h.now()
	e := webhook.Endpoint{User: in.User, CreatedAt: now, UpdatedAt: now}
	switch {
	case in.Body.Name == nil:
		return nil, problem.MissingField.New("name: give the webhook a name.").With("field", "name")
	case in.Body.URL == nil:
		return nil, problem.MissingField.New("url: say where notices are to be sent.").With("field", "url")
	}
	if err := h.apply(in.Body, &e); err != nil {
		return nil, err
	}
	return idempotency.Do(ctx, h.store, &in.Header, "create-webhook", in.Body, now,
		func(seal func(withSecret) (*store.Idempotency, error)) (withSecret, error) {
			var err error
			if e.ID, err = h.store.NextWebhookID(ctx); err != nil {
				return withSecret{}, err
			}
			secret := webhook.NewSecret()
			if e.Secret, err = h.keys.Seal(ctx, kmskey.Webhook(e.User, e.ID), secret.Key()); err != nil {
				return withSecret{}, err
			}
			shown := withSecret{show(e), secret.Reveal()}
			once, err := seal(shown)
			if err != nil {
				return withSecret{}, err
			}
			if err := h.store.CreateWebhook(ctx, e, once); err != nil {
				return withSecret{}, err
			}
			h.audit(ctx, "created", e.User, e.ID)
			return shown, nil
		})
}

type updateRequest struct {
	Path
	Body Settings
}

func (h *handler) update(ctx context.Context, in *updateRequest) (*response, error) {
	e, err := h.store.Webhook(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	before := e.UpdatedAt
	if err := h.apply(in.Body, &e); err != nil {
		return nil, err
	}
	e.UpdatedAt = h.after(before)
	if err := h.store.ChangeWebhook(ctx, e, before, nil); err != nil {
		return nil, changed(err)
	}
	h.audit(ctx, "changed", e.User, e.ID)
	return &response{wire.Data[Webhook]{Data: show(e)}}, nil
}

// after is now, and later than before: two changes within a millisecond would look like one.
func (h *handler) after(before time.Time) time.Time {
	now := h.now()
	if !now.Truncate(time.Millisecond).After(before) {
		return before.Add(time.Millisecond)
	}
	return now
}

func (h *handler) delete(ctx context.Context, in *Path) (*struct{}, error) {
	if err := h.store.DeleteWebhook(ctx, in.User, in.ID); err != nil {
		return nil, missing(err, in.ID)
	}
	h.audit(ctx, "deleted", in.User, in.ID)
	return nil, nil
}

type rollRequest struct {
	Path
	idempotency.Header
}

func (h *handler) roll(ctx context.Context, in *rollRequest) (*idempotency.Answer[withSecret], error) {
	now := h.now()
	answer, err := idempotency.Do(ctx, h.store, &in.Header, "roll-webhook-secret", in.ID, now,
		func(seal func(withSecret) (*store.Idempotency, error)) (withSecret, error) {
			e, err := h.store.Webhook(ctx, in.User, in.ID)
			if err != nil {
				return withSecret{}, missing(err, in.ID)
			}
			before := e.UpdatedAt
			secret := webhook.NewSecret()
			e.Previous, e.PreviousEnds, e.UpdatedAt = e.Secret, now.Add(webhook.SecretOverlap), h.after(before)
			if e.Secret, err = h.keys.Seal(ctx, kmskey.Webhook(e.User, e.ID), secret.Key()); err != nil {
				return withSecret{}, err
			}
			shown := withSecret{show(e), secret.Reveal()}
			once, err := seal(shown)
			if err != nil {
				return withSecret{}, err
			}
			if err := h.store.ChangeWebhook(ctx, e, before, once); err != nil {
				return withSecret{}, err
			}
			h.audit(ctx, "secret rolled", e.User, e.ID)
			return shown, nil
		})
	return answer, changed(err)
}

func changed(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return problem.Conflict.New("The webhook was changed at the same time. Read it again.")
	}
	return err
}

func missing(err error, id int64) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("There is no webhook %d.", id)
	}
	return err
}

// audit writes the line that each change of a webhook leaves. The URL may hold a password of the receiver's.
func (h *handler) audit(ctx context.Context, change string, user, id int64) {
	caller, _ := access.FromContext(ctx)
	h.log.LogAttrs(ctx, slog.LevelInfo, "webhook "+change,
		slog.Int64("user", user), slog.Int64("id", id), slog.String("principal", caller.Principal()))
}
