package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store   *store.Store
	bundles *bundle.Maker
	log     *slog.Logger
	now     func() time.Time
}

func (h *handler) routes() *wire.API {
	const self = "/apiv1/devices/self"
	rule := wire.Rule{Device: true}
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: self + "/install-config", ID: "get-own-install-config", Rule: rule, Summary: "What the device is to install",
	}, h.config)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: self + "/certificates/{certificate_id}", ID: "get-own-certificate", Rule: rule, Summary: "A certificate on the device",
	}, h.certificate)
	for _, at := range []struct{ path, id string }{{"/deploy-materials", "get-own-materials"}, {"/bundle", "get-own-bundle"}} {
		wire.Register(a, wire.Operation{
			Method: "GET", Path: self + "/certificates/{certificate_id}" + at.path, ID: at.id, Rule: rule,
			Summary: "What the device makes a certificate's key of", Description: "Sealed to the device, unless the certificate's policy is MASTER_ONLY.",
		}, h.materials)
	}
	wire.Register(a, wire.Operation{
		Method: "GET", Path: self + "/cas/{ca_id}/bundle", ID: "get-own-ca", Rule: rule, Summary: "A CA on the device",
	}, h.ca)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: self + "/notify", ID: "notify", Rule: rule, Status: 204,
		Summary: "What the device has to say", Description: "Its agent's version, and of certificates that it installed them, or could not. Types that are not known are ignored.",
	}, h.notify)
	return a
}

// self is the device that asks, if it is active.
func (h *handler) self(ctx context.Context) (device.Head, error) {
	caller, _ := access.FromContext(ctx)
	if caller.Kind != access.Device {
		return device.Head{}, problem.LacksPermission.New("API key lacks required permission")
	}
	head, err := h.store.Head(ctx, caller.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && (head.Revoked || head.User != caller.User) {
		return head, problem.Forbidden.New("The device is not active. Log in again.")
	}
	return head, err
}

func (h *handler) config(ctx context.Context, _ *struct{}) (*bundle.ConfigResponse, error) {
	head, err := h.self(ctx)
	if err != nil {
		return nil, err
	}
	c, err := h.store.InstallConfig(ctx, head.Device)
	if err != nil {
		return nil, err
	}
	return bundle.AnswerConfig(c), nil
}

// Path is the path parameter of a certificate.
type Path struct {
	ID int64 `path:"certificate_id" minimum:"1" maximum:"9007199254740991"`
}

type certificateResponse struct{ Body wire.Data[bundle.Record] }

func (h *handler) certificate(ctx context.Context, in *Path) (*certificateResponse, error) {
	head, err := h.self(ctx)
	if err != nil {
		return nil, err
	}
	found, err := h.bundles.Find(ctx, head.User, head.Device, in.ID)
	if err != nil {
		return nil, err
	}
	r, err := found.Record(h.now())
	if err != nil {
		return nil, err
	}
	if found.Material.Key.Empty() { // there is nothing else to fetch
		h.fetched(ctx, found.Assignment)
	}
	return &certificateResponse{wire.Data[bundle.Record]{Data: r}}, nil
}

// fetched notes what the device has fetched. It does not matter to the answer.
func (h *handler) fetched(ctx context.Context, a device.Assignment) {
	if a.Fetched == a.Issue {
		return
	}
	if err := h.store.NoteFetched(ctx, a, h.now()); err != nil {
		h.log.WarnContext(ctx, "that a device fetched a certificate was not noted", "device", a.Device, "certificate", a.Certificate, "error", err.Error())
	}
}

type materialsRequest struct {
	Path
	bundle.Packed
}

func (h *handler) materials(ctx context.Context, in *materialsRequest) (*bundle.MaterialResponse, error) {
	head, err := h.self(ctx)
	if err != nil {
		return nil, err
	}
	found, err := h.bundles.Find(ctx, head.User, head.Device, in.ID)
	if err != nil {
		return nil, err
	}
	caller, _ := access.FromContext(ctx)
	m, plain, err := h.bundles.Material(ctx, found, caller.Principal())
	if err != nil {
		return nil, err
	}
	h.fetched(ctx, found.Assignment)
	return bundle.AnswerMaterial(in.Packed, in.ID, m, plain), nil
}

type caRequest struct {
	ID int64 `path:"ca_id" minimum:"1" maximum:"9007199254740991"`
	bundle.Packed
}

func (h *handler) ca(ctx context.Context, in *caRequest) (*bundle.CAResponse, error) {
	head, err := h.self(ctx)
	if err != nil {
		return nil, err
	}
	missing := problem.NotFound.New("CA %d is not assigned to this device.", in.ID)
	if _, err := h.store.CAOn(ctx, in.ID, head.Device); errors.Is(err, store.ErrNotFound) {
		return nil, missing
	} else if err != nil {
		return nil, err
	}
	c, err := h.store.CA(ctx, head.User, in.ID)
	if errors.Is(err, store.ErrNotFound) { // deleted, and on its way off the device
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	return bundle.AnswerCA(in.Packed, c, h.now()), nil
}
