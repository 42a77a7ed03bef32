package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/dnssolver"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store *store.Store
	keys  *kmskey.Key
	guard egress.Guard
	now   func() time.Time
}

// tries is how many probes a user may have made: they send to whatever address a provider names.
var tries = store.Limit{Most: 20, Window: time.Minute}

func (h *handler) routes() *wire.API {
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/apiv1/users/{user_id}/dns-providers/{provider_id}/test", ID: "test-dns-provider",
		Rule:    wire.Rule{Type: "dns_providers", Action: access.Write, Object: "provider_id"},
		Summary: "Try a DNS provider", Description: "Sets a TXT record of its own below the domain, waits until it can be seen, removes it, and says which step failed. No running order is disturbed.",
	}, h.test)
	return a
}

type request struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"provider_id" minimum:"1" maximum:"9007199254740991"`
	Body struct {
		Domain string `json:"domain" minLength:"1" maxLength:"1012" doc:"A name that the provider should be able to prove control of."`
	}
}

type result struct {
	OK           bool   `json:"ok"`
	Step         string `json:"step" doc:"Which step failed: configure, present, propagate or cleanup; empty if none did."`
	Error        string `json:"error" doc:"Why; empty if nothing failed."`
	Permanent    bool   `json:"permanent" doc:"Trying again is of no use before something is changed."`
	Milliseconds int64  `json:"milliseconds"`
}

type response struct{ Body wire.Data[result] }

// budget is how long a probe may take, before up to 8 s of cleaning up: the gateway gives up after 29 s.
const budget = 18 * time.Second

func (h *handler) test(ctx context.Context, in *request) (*response, error) {
	domain, err := pki.Public.Name(in.Body.Domain)
	if err != nil {
		return nil, err
	}
	p, err := h.store.DNSProvider(ctx, in.User, in.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.NotFound.New("There is no DNS provider %d.", in.ID)
	}
	if err != nil {
		return nil, err
	}
	if err := h.store.Count(ctx, fmt.Sprintf("dns-probe#%d", in.User), tries, h.now()); err != nil {
		return nil, err
	}
	secrets, err := h.keys.Open(ctx, kmskey.DNSProvider(p.User, p.ID), p.Secrets)
	if err != nil {
		return nil, err
	}
	defer clear(secrets)
	config, err := p.Config.WithSecrets(secrets)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	solver, err := dnssolver.New(config, h.guard)
	if err == nil {
		err = solver.Probe(ctx, domain)
	}
	r := result{OK: err == nil, Milliseconds: time.Since(start).Milliseconds()}
	var failed *dnssolver.Error
	if errors.As(err, &failed) {
		r.Step, r.Error, r.Permanent = string(failed.Step), failed.What, failed.Permanent
	} else if err != nil {
		return nil, err
	}
	return &response{wire.Data[result]{Data: r}}, nil
}
