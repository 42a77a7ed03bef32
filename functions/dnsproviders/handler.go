package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store *store.Store
	keys  *kmskey.Key
	guard egress.Guard
	log   *slog.Logger
	now   func() time.Time
}

func (h *handler) routes() *wire.API {
	const providers, provider = "/apiv1/users/{user_id}/dns-providers", "/apiv1/users/{user_id}/dns-providers/{provider_id}"
	rule := func(a access.Action, object string) wire.Rule {
		return wire.Rule{Type: "dns_providers", Action: a, Object: object}
	}
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: providers, ID: "list-dns-providers", Rule: rule(access.Read, ""),
		Summary: "List DNS providers", Description: "Newest first, secrets as ***.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: providers, ID: "create-dns-provider", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create a DNS provider", Description: "Which kinds there are, and what config each takes: /apiv1/dns-providers/catalog. Secrets are kept encrypted and never shown.",
	}, h.create)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: provider, ID: "get-dns-provider", Rule: rule(access.Read, "provider_id"),
		Summary: "Get a DNS provider", Description: "Secrets as ***.",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "PUT", Path: provider, ID: "update-dns-provider", Rule: rule(access.Write, "provider_id"),
		Summary: "Change a DNS provider", Description: "config replaces the one before; a secret that is absent or *** stays, unless the address that it is sent to changes.",
	}, h.update)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: provider, ID: "delete-dns-provider", Rule: rule(access.Write, "provider_id"), Status: 204,
		Summary: "Delete a DNS provider", Description: "Refused while certificates use it.",
	}, h.delete)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/apiv1/dns-providers/catalog", ID: "list-dns-provider-kinds",
		Summary: "List the kinds of DNS providers", Description: "Each with the JSON Schema (2020-12) of its config.",
	}, h.catalogue)
	return a
}

// Path is the path parameters of one provider.
type Path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"provider_id" minimum:"1" maximum:"9007199254740991"`
}

// Provider is a DNS provider as the API shows it.
type Provider struct {
	ID           int64          `json:"id"`
	User         int64          `json:"user_id"`
	Name         string         `json:"name"`
	Kind         string         `json:"kind"`
	Config       map[string]any `json:"config" doc:"Secrets as ***."`
	Certificates int64          `json:"certificate_count"`
	CreatedAt    int64          `json:"created_at" doc:"Epoch milliseconds."`
	UpdatedAt    int64          `json:"updated_at" doc:"Epoch milliseconds."`
}

func show(p dnsprovider.Provider) Provider {
	return Provider{
		ID: p.ID, User: p.User, Name: p.Name, Kind: p.Config.Kind(), Config: p.Config.Redacted(), Certificates: p.Certificates,
		CreatedAt: p.CreatedAt.UnixMilli(), UpdatedAt: p.UpdatedAt.UnixMilli(),
	}
}

type listRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
}

type listResponse struct{ Body wire.List[Provider] }

func (h *handler) list(ctx context.Context, in *listRequest) (*listResponse, error) {
	providers, err := h.store.DNSProviders(ctx, in.User)
	if err != nil {
		return nil, err
	}
	return &listResponse{wire.Page(providers, in.Paging, show)}, nil
}

type response struct{ Body wire.Data[Provider] }

func (h *handler) get(ctx context.Context, in *Path) (*response, error) {
	p, err := h.store.DNSProvider(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	return &response{wire.Data[Provider]{Data: show(p)}}, nil
}

type createRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body newProvider
}

type newProvider struct {
	Name   string         `json:"name" minLength:"1" maxLength:"128"`
	Kind   string         `json:"kind" maxLength:"32" doc:"One of the catalogue."`
	Config map[string]any `json:"config" doc:"As the kind's schema has it."`
}

func (h *handler) create(ctx context.Context, in *createRequest) (*idempotency.Answer[Provider], error) {
	now := h.now()
	if err := wire.CheckName(in.Body.Name); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(in.Body.Config)
	if err != nil {
		return nil, err
	}
	config, err := dnsprovider.Parse(in.Body.Kind, raw, h.guard)
	if err != nil {
		return nil, err
	}
	return idempotency.Do(ctx, h.store, &in.Header, "create-dns-provider", in.Body, now,
		func(seal func(Provider) (*store.Idempotency, error)) (Provider, error) {
			p := dnsprovider.Provider{User: in.User, Name: in.Body.Name, Config: config, CreatedAt: now, UpdatedAt: now}
			var err error
			if p.ID, err = h.store.NextDNSProviderID(ctx); err != nil {
				return Provider{}, err
			}
			if err := h.keep(ctx, &p); err != nil {
				return Provider{}, err
			}
			once, err := seal(show(p))
			if err != nil {
				return Provider{}, err
			}
			if err := h.store.CreateDNSProvider(ctx, p, once); err != nil {
				return Provider{}, err
			}
			h.audit(ctx, "created", p.User, p.ID)
			return show(p), nil
		})
}

// keep seals the secrets of a provider's config.
func (h *handler) keep(ctx context.Context, p *dnsprovider.Provider) (err error) {
	secrets := p.Config.Secrets()
	defer clear(secrets)
	p.Secrets, err = h.keys.Seal(ctx, kmskey.DNSProvider(p.User, p.ID), secrets)
	return err
}

type updateRequest struct {
	Path
	Body providerChange
}

type providerChange struct {
	Name   *string        `json:"name,omitempty" minLength:"1" maxLength:"128"`
	Kind   string         `json:"kind,omitempty" maxLength:"32" doc:"With config; the one before if absent."`
	Config map[string]any `json:"config,omitempty"`
}

func (h *handler) update(ctx context.Context, in *updateRequest) (*response, error) {
	p, err := h.store.DNSProvider(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	before := p.UpdatedAt
	if in.Body.Name != nil {
		if err := wire.CheckName(*in.Body.Name); err != nil {
			return nil, err
		}
		p.Name = *in.Body.Name
	}
	if in.Body.Config != nil {
		if err := h.merge(ctx, &p, in.Body.Kind, in.Body.Config); err != nil {
			return nil, err
		}
	} else if in.Body.Kind != "" && in.Body.Kind != p.Config.Kind() {
		return nil, problem.MissingField.New("config: another kind needs a config of its own.").With("field", "config")
	}
	// Two changes within a millisecond would look like one.
	p.UpdatedAt = h.now()
	if !p.UpdatedAt.Truncate(time.Millisecond).After(before) {
		p.UpdatedAt = before.Add(time.Millisecond)
	}
	err = h.store.ChangeDNSProvider(ctx, p, before)
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("The DNS provider was changed at the same time. Read it again.")
	}
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "changed", p.User, p.ID)
	return &response{wire.Data[Provider]{Data: show(p)}}, nil
}

// merge puts a new config in place of the one before, whose secrets it may keep.
func (h *handler) merge(ctx context.Context, p *dnsprovider.Provider, kind string, given map[string]any) error {
	raw, err := json.Marshal(given)
	if err != nil {
		return err
	}
	secrets, err := h.keys.Open(ctx, kmskey.DNSProvider(p.User, p.ID), p.Secrets)
	if err != nil {
		return err
	}
	defer clear(secrets)
	old, err := p.Config.WithSecrets(secrets)
	if err != nil {
		return err
	}
	if kind == "" {
		kind = old.Kind()
	}
	if p.Config, err = old.Merge(kind, raw, h.guard); err != nil {
		return err
	}
	return h.keep(ctx, p)
}

func (h *handler) delete(ctx context.Context, in *Path) (*struct{}, error) {
	err := h.store.DeleteDNSProvider(ctx, in.User, in.ID)
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("Certificates use this DNS provider. Give them another one first.")
	}
	if err != nil {
		return nil, missing(err, in.ID)
	}
	h.audit(ctx, "deleted", in.User, in.ID)
	return nil, nil
}

type kindEntry struct {
	Kind   string         `json:"kind"`
	Title  string         `json:"title"`
	Schema map[string]any `json:"schema" doc:"JSON Schema of config."`
}

type catalogueResponse struct{ Body wire.List[kindEntry] }

func (h *handler) catalogue(context.Context, *struct{}) (*catalogueResponse, error) {
	entries := make([]kindEntry, len(dnsprovider.Kinds))
	for i, k := range dnsprovider.Kinds {
		entries[i] = kindEntry{k.Name, k.Title, k.Schema()}
	}
	return &catalogueResponse{wire.List[kindEntry]{Data: entries, Meta: wire.Meta{Total: len(entries), Limit: len(entries)}}}, nil
}

func missing(err error, id int64) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("There is no DNS provider %d.", id)
	}
	return err
}

// audit writes the line that each change of a provider leaves.
func (h *handler) audit(ctx context.Context, change string, user, id int64) {
	caller, _ := access.FromContext(ctx)
	h.log.LogAttrs(ctx, slog.LevelInfo, "DNS provider "+change,
		slog.Int64("user", user), slog.Int64("id", id), slog.String("principal", caller.Principal()))
}
