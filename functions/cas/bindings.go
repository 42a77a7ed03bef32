package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acmesecret"
	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// Binding is an external account binding as the API shows it. Times are epoch milliseconds, 0 for none.
type Binding struct {
	ID          string   `json:"eab_kid"`
	Key         string   `json:"eab_hmac_key,omitempty" doc:"base64url; shown once, when it is minted."`
	CA          int64    `json:"ca_id"`
	Name        string   `json:"name"`
	APIKey      int64    `json:"apikey_id" doc:"The API key that it was minted with, and works as long as; 0 for a session."`
	Names       []string `json:"names" doc:"What is issued without a challenge: a DNS name with all below it, a range of addresses; * for anything."`
	Profile     string   `json:"profile" doc:"Of the CA; empty to let the client choose."`
	MaxAccounts int64    `json:"max_accounts" doc:"0 for no limit."`
	Accounts    int64    `json:"account_count"`
	Status      string   `json:"status" enum:"ACTIVE,EXPIRED,USED" doc:"Of anything but ACTIVE no more accounts can be made. Of the binding alone: it works only as long as its API key does."`
	Directory   string   `json:"acme_directory_url"`
	CreatedAt   int64    `json:"created_at"`
	ExpiresAt   int64    `json:"expires_at"`
}

func (h *handler) showBinding(c ca.CA, b acmeserver.Binding) Binding {
	shown := Binding{
		ID: b.ID, CA: b.CA, Name: b.Name, APIKey: b.APIKey, Names: notNull(b.Names), Profile: b.Profile, MaxAccounts: b.MaxAccounts, Accounts: b.Accounts,
		Status: b.Status(h.now()), Directory: c.Directory + "/directory", CreatedAt: b.CreatedAt.UnixMilli(),
	}
	if !b.ExpiresAt.IsZero() {
		shown.ExpiresAt = b.ExpiresAt.UnixMilli()
	}
	return shown
}

type bindingsRequest struct {
	Path
	wire.Paging
}

type bindingsResponse struct{ Body wire.List[Binding] }

func (h *handler) bindings(ctx context.Context, in *bindingsRequest) (*bindingsResponse, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	all, err := h.store.Bindings(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &bindingsResponse{wire.Page(all, in.Paging, func(b acmeserver.Binding) Binding { return h.showBinding(c, b) })}, nil
}

type bindRequest struct {
	Path
	idempotency.Header
	Body struct {
		Name        string   `json:"name" minLength:"1" maxLength:"128"`
		Names       []string `json:"names,omitempty" maxItems:"100" doc:"What is issued without a challenge: a DNS name with all below it, a range of addresses; * for anything. Other names need http-01 or dns-01."`
		Profile     string   `json:"profile,omitempty" maxLength:"64" doc:"Of the CA; absent to let the client choose."`
		MaxAccounts int64    `json:"max_accounts,omitempty" minimum:"0" maximum:"1000000" doc:"How many accounts may be made with it; 0 for no limit."`
		Seconds     int64    `json:"expires_in_seconds,omitempty" minimum:"0" maximum:"315360000" doc:"Until when accounts can be made with it; 0 for ever. They go on."`
	}
}

func (h *handler) bind(ctx context.Context, in *bindRequest) (*idempotency.Answer[Binding], error) {
	if err := needsCertificates(ctx); err != nil {
		return nil, err
	}
	if err := wire.CheckName(in.Body.Name); err != nil {
		return nil, err
	}
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	now := h.now()
	b := acmeserver.Binding{User: in.User, CA: in.ID, Name: in.Body.Name, Profile: in.Body.Profile, MaxAccounts: in.Body.MaxAccounts, CreatedAt: now}
	if b.Names, err = acmeserver.ParseNames(in.Body.Names); err != nil {
		return nil, err
	}
	if b.Profile != "" {
		if _, err := c.Profile(b.Profile); err != nil {
			return nil, err
		}
	}
	if in.Body.Seconds > 0 {
		b.ExpiresAt = now.Add(time.Duration(in.Body.Seconds) * time.Second)
	}
	caller, _ := access.FromContext(ctx)
	if caller.Kind == access.APIKey {
		b.APIKey = caller.ID
	}
	return idempotency.Do(ctx, h.store, &in.Header, "create-acme-binding", struct {
		ID   int64
		Body any
	}{in.ID, in.Body}, now, func(seal func(Binding) (*store.Idempotency, error)) (Binding, error) {
		secret, err := acmesecret.Open(ctx, h.store, h.keys, in.User, in.ID)
		if errors.Is(err, store.ErrNotFound) {
			return Binding{}, casigner.Missing(in.ID)
		}
		if err != nil {
			return Binding{}, err
		}
		b.ID = secret.NewBindingID()
		shown := h.showBinding(c, b)
		shown.Key = secret.BindingText(b.ID)
		once, err := seal(shown)
		if err != nil {
			return shown, err
		}
		err = h.store.CreateBinding(ctx, b, once)
		if errors.Is(err, store.ErrNotFound) {
			err = casigner.Missing(in.ID)
		}
		if err != nil {
			return shown, err
		}
		h.audit(ctx, "ACME binding minted", c, slog.String("kid", b.ID), slog.Any("names", b.Names), slog.Int64("apikey", b.APIKey))
		return shown, nil
	})
}

type unbindRequest struct {
	Path
	Binding string `path:"kid" maxLength:"64"`
}

func (h *handler) unbind(ctx context.Context, in *unbindRequest) (*struct{}, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	err = h.store.DeleteBinding(ctx, in.ID, in.Binding)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.NotFound.New("CA %d has no ACME binding of this id.", in.ID)
	}
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "ACME binding deleted", c, slog.String("kid", in.Binding))
	return nil, nil
}
