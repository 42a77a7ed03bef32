package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/installconfig"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// mine finds a device that the caller may change by its public id: any of its user's with devices.write, and with
// ForDeviceAuthenticate what the key registered.
func (h *handler) mine(ctx context.Context, publicID string) (device.Device, error) {
	caller, _ := access.FromContext(ctx)
	d, err := h.store.DeviceByPublicID(ctx, caller.User, publicID)
	if errors.Is(err, store.ErrNotFound) {
		return d, problem.NotFound.New("There is no device %q.", publicID)
	}
	if err != nil {
		return d, err
	}
	if !caller.Allow(access.Need{Type: "devices", Action: access.Write, ID: d.ID}) && (caller.Kind != access.APIKey || d.By != caller.ID) {
		return d, problem.Lacking("devices.write")
	}
	return d, nil
}

type assignMineRequest struct {
	Body struct {
		PublicID string `json:"device_public_id" minLength:"1" maxLength:"64"`
	}
}

// Assigned says what was assigned.
type Assigned struct {
	Message      string  `json:"message"`
	Status       string  `json:"status"`
	Certificates []int64 `json:"cert_ids"`
}

type assignedResponse struct{ Body wire.Data[Assigned] }

func (h *handler) assignMine(ctx context.Context, in *assignMineRequest) (*assignedResponse, error) {
	caller, _ := access.FromContext(ctx)
	ids := []int64{}
	for _, p := range caller.Permissions.List() {
		if p.Type == "certs" && p.ID != access.Any && !slices.Contains(ids, p.ID) {
			ids = append(ids, p.ID)
		}
	}
	if len(ids) == 0 {
		return nil, problem.InvalidArgument.New("The API key names no certificate. Make one with a permission on certs that has an obid.")
	}
	d, err := h.mine(ctx, in.Body.PublicID)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := h.assignTo(ctx, d, id); err != nil {
			return nil, err
		}
	}
	what := "certificates"
	if len(ids) == 1 {
		what = "certificate"
	}
	return &assignedResponse{wire.Data[Assigned]{Data: Assigned{fmt.Sprintf("%d %s assigned", len(ids), what), "assigned", ids}}}, nil
}

type patchRequest struct {
	PublicID string `path:"device_public_id" maxLength:"64"`
	Body     patches
}

// patches is a list of patches, or an object with it.
type patches json.RawMessage

// Schema describes both.
func (patches) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "An array of patches, or {\"patches\": [...], \"after_update_script\": string or null}."}
}

func (p *patches) UnmarshalJSON(b []byte) error {
	*p = append((*p)[:0], b...)
	return nil
}

// Patched says what was changed.
type Patched struct {
	Message string `json:"message"`
	Version int64  `json:"version"`
}

type patchedResponse struct{ Body wire.Data[Patched] }

func (h *handler) patchConfig(ctx context.Context, in *patchRequest) (*patchedResponse, error) {
	list, script, err := installconfig.ParsePatches(json.RawMessage(in.Body))
	if err != nil {
		return nil, err
	}
	d, err := h.mine(ctx, in.PublicID)
	if err != nil {
		return nil, err
	}
	matched := 0
	changed, err := h.change(ctx, d, "by /me/install-config-update", true, func(before installconfig.Config) ([]installconfig.Item, string, error) {
		items, n, err := installconfig.Apply(before.Items, list)
		if err != nil {
			return nil, "", err
		}
		if matched = n; n == 0 && len(list) > 0 {
			return nil, "", problem.NotFound.New("No item of the install config is about that ob_type and ob_id.")
		}
		text := before.Script
		if script != nil {
			text = script.Text
		}
		return items, text, nil
	})
	if err != nil {
		return nil, err
	}
	what := "items"
	if matched == 1 {
		what = "item"
	}
	return &patchedResponse{wire.Data[Patched]{Data: Patched{fmt.Sprintf("updated %d %s", matched, what), changed.Body.Data.Version}}}, nil
}
