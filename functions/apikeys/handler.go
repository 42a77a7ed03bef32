package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store *store.Store
	log   *slog.Logger
	now   func() time.Time
}

func (h *handler) routes() *wire.API {
	const keys, key = "/apiv1/users/{user_id}/apikeys", "/apiv1/users/{user_id}/apikeys/{apikey_id}"
	rule := func(a access.Action, object string) wire.Rule {
		return wire.Rule{Type: "apikeys", Action: a, Object: object}
	}
	roll := rule(access.Write, "apikey_id")
	roll.Self = true

	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: keys, ID: "list-api-keys", Rule: rule(access.Read, ""),
		Summary: "List API keys", Description: "newest first, metadata only.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: keys, ID: "create-api-key", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create an API key", Description: "The answer holds the token, once. A key grants no more than its maker holds, and a key made by a key lives no longer than that.",
	}, h.create)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: key, ID: "get-api-key", Rule: rule(access.Read, "apikey_id"),
		Summary: "Get an API key", Description: "Metadata only.",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: key, ID: "delete-api-key", Rule: rule(access.Write, "apikey_id"), Status: 204,
		Summary: "Delete (revoke) an API key", Description: "The next request with its token is refused.",
	}, h.delete)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: key + "/roll", ID: "roll-api-key", Rule: roll,
		Summary: "Give an API key a new token", Description: "The token before works until grace_seconds after the first use of the new one. The key's expiry stays. A further roll replaces a token that was never used; if it was, the token before ends at once. A key may roll itself without a permission, and another key only if it holds as much and lives as long.",
	}, h.roll)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/apiv1/permissions/catalog", ID: "list-permissions",
		Summary: "List the permissions that an API key can be given",
	}, h.catalogue)
	return a
}

// path is the path parameters of one key.
type path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"apikey_id" minimum:"1" maximum:"9007199254740991"`
}

// Metadata is a key as lists show it.
type Metadata struct {
	ID           int64             `json:"id"`
	User         int64             `json:"user_id"`
	Name         string            `json:"name"`
	Prefix       string            `json:"prefix" doc:"The public part of the token."`
	Status       apikey.Status     `json:"status" enum:"active,expired"`
	Permissions  []wire.Permission `json:"permissions"`
	AllowedCIDRs []string          `json:"allowed_cidrs" doc:"Where the key may be used from; empty for anywhere."`
	ExpiresIn    int64             `json:"expires_in_seconds" doc:"The lifetime it was given."`
	CreatedAt    int64             `json:"created_at" doc:"Epoch milliseconds."`
	ExpiresAt    int64             `json:"expires_at" doc:"Epoch milliseconds."`
	LastUsedAt   int64             `json:"last_used_at" doc:"Epoch milliseconds, at most a minute late; 0 if never."`
	LastUsedFrom string            `json:"last_used_ip" doc:"Address of the last use; empty if never."`
	CreatedBy    string            `json:"created_by" doc:"The session or API key that made it."`
}

func (h *handler) show(k apikey.Key) Metadata {
	m := Metadata{
		ID: k.ID, User: k.User, Name: k.Name, Prefix: k.Prefix(), Status: k.Status(h.now()), Permissions: []wire.Permission{}, AllowedCIDRs: []string{},
		ExpiresIn: int64(k.ExpiresAt.Sub(k.CreatedAt) / time.Second), CreatedAt: k.CreatedAt.UnixMilli(), ExpiresAt: k.ExpiresAt.UnixMilli(),
		LastUsedFrom: k.LastUsedFrom, CreatedBy: k.Creator,
	}
	for _, p := range k.Permissions.List() {
		m.Permissions = append(m.Permissions, wire.Permission(p))
	}
	m.AllowedCIDRs = append(m.AllowedCIDRs, k.CIDRs...)
	if !k.LastUsedAt.IsZero() {
		m.LastUsedAt = k.LastUsedAt.UnixMilli()
	}
	return m
}

type listRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
}

type listResponse struct{ Body wire.List[Metadata] }

func (h *handler) list(ctx context.Context, in *listRequest) (*listResponse, error) {
	keys, err := h.store.APIKeys(ctx, in.User)
	if err != nil {
		return nil, err
	}
	return &listResponse{wire.Page(keys, in.Paging, h.show)}, nil
}

type getResponse struct{ Body wire.Data[Metadata] }

func (h *handler) get(ctx context.Context, in *path) (*getResponse, error) {
	k, err := h.store.APIKey(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	return &getResponse{wire.Data[Metadata]{Data: h.show(k)}}, nil
}

func (h *handler) delete(ctx context.Context, in *path) (*struct{}, error) {
	if err := h.store.DeleteAPIKey(ctx, in.User, in.ID); err != nil {
		return nil, missing(err, in.ID)
	}
	h.audit(ctx, "deleted", in.User, in.ID)
	return nil, nil
}

// missing turns the store's ErrNotFound into the answer. Another user's key looks the same: it is not
// under the caller's path.
func missing(err error, id int64) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("There is no API key %d.", id)
	}
	return err
}

// audit writes the line that each change of a key leaves.
func (h *handler) audit(ctx context.Context, change string, user, id int64) {
	caller, _ := access.FromContext(ctx)
	h.log.LogAttrs(ctx, slog.LevelInfo, "API key "+change,
		slog.Int64("user", user), slog.Int64("id", id), slog.String("principal", caller.Principal()))
}

type catalogueResponse struct{ Body wire.List[catalogueEntry] }

type catalogueEntry struct {
	Type        string          `json:"obtype"`
	IDs         []string        `json:"obid" doc:"What obid may be."`
	Actions     []access.Action `json:"actions"`
	Description string          `json:"description"`
}

func (h *handler) catalogue(context.Context, *struct{}) (*catalogueResponse, error) {
	entries := make([]catalogueEntry, len(access.Catalogue))
	for i, e := range access.Catalogue {
		entries[i] = catalogueEntry{e.Type, []string{"*", "<id>"}, e.Actions, e.Description}
	}
	return &catalogueResponse{wire.List[catalogueEntry]{Data: entries, Meta: wire.Meta{Total: len(entries), Limit: len(entries)}}}, nil
}
