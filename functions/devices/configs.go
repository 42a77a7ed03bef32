package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/installconfig"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

func (h *handler) config(ctx context.Context, in *Path) (*bundle.ConfigResponse, error) {
	if _, err := h.delivery.Device(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	c, err := h.store.InstallConfig(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return bundle.AnswerConfig(c), nil
}

// list is JSON that is checked by what reads it.
type list json.RawMessage

// Schema describes it as an array of items.
func (list) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}}
}

func (l *list) UnmarshalJSON(b []byte) error {
	*l = append((*l)[:0], b...)
	return nil
}

func (l list) MarshalJSON() ([]byte, error) { return json.RawMessage(l).MarshalJSON() }

type putConfigRequest struct {
	Path
	IfMatch string `header:"If-Match" maxLength:"64"`
	Body    struct {
		Items    list     `json:"installs" doc:"Items of the form that GET answers with; what is left out has its default."`
		Note     string   `json:"change_note,omitempty" maxLength:"1024"`
		Script   *string  `json:"after_update_script,omitempty" nullable:"true" maxLength:"32768" doc:"null, empty or absent for none."`
		Expected *wire.ID `json:"expected_version,omitempty" doc:"The version that is in place; 0 for none."`
	}
}

func (h *handler) putConfig(ctx context.Context, in *putConfigRequest) (*bundle.ConfigResponse, error) {
	items, err := installconfig.Parse(json.RawMessage(in.Body.Items))
	if err != nil {
		return nil, err
	}
	expected, err := in.expected()
	if err != nil {
		return nil, err
	}
	d, err := h.delivery.ActiveDevice(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	return h.change(ctx, d, in.Body.Note, false, func(before installconfig.Config) ([]installconfig.Item, string, error) {
		if expected >= 0 && expected != before.Version {
			return nil, "", problem.Conflict.New("The install config is at version %d. Read it again.", before.Version).With("version", before.Version)
		}
		script := ""
		if in.Body.Script != nil {
			script = *in.Body.Script
		}
		return items, script, nil
	})
}

// expected is the version that must be in place; -1 for any.
func (in *putConfigRequest) expected() (int64, error) {
	if in.Body.Expected != nil {
		return int64(*in.Body.Expected), nil
	}
	if in.IfMatch == "" || in.IfMatch == "*" {
		return -1, nil
	}
	n, err := strconv.ParseInt(strings.Trim(strings.TrimPrefix(in.IfMatch, "W/"), `"`), 10, 64)
	if err != nil || n < 0 {
		return 0, problem.InvalidArgument.New("If-Match: the ETag of an install config is its version in quotes.").With("field", "If-Match")
	}
	return n, nil
}

// change stores what edit makes of a device's install config, as its next version. What makes no difference makes no
// version, unless there is always to be one: agents skip what is not above their own.
func (h *handler) change(ctx context.Context, d device.Device, note string, always bool, edit func(before installconfig.Config) ([]installconfig.Item, string, error)) (*bundle.ConfigResponse, error) {
	caller, _ := access.FromContext(ctx)
	for range 10 {
		before, err := h.store.InstallConfig(ctx, d.ID)
		if err != nil {
			return nil, err
		}
		items, script, err := edit(before)
		if err != nil {
			return nil, err
		}
		if err := installconfig.CheckScript(script); err != nil {
			return nil, err
		}
		if !always && before.Version > 0 && before.Same(items, script) {
			return bundle.AnswerConfig(before), nil
		}
		if !always { // what was there before is there again
			if err := h.own(ctx, d.User, items, installconfig.References(before.Items)); err != nil {
				return nil, err
			}
		}
		now := h.now()
		after := installconfig.Config{
			ID: before.ID, Device: d.ID, Version: before.Version + 1, Items: items, Script: script, Note: note, UpdatedBy: caller.Principal(),
			CreatedAt: before.CreatedAt, UpdatedAt: now,
		}
		if before.Version == 0 {
			after.CreatedAt = now
			if after.ID, err = h.store.NextInstallConfigID(ctx); err != nil {
				return nil, err
			}
		}
		err = h.store.PutInstallConfig(ctx, before, after, now)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, gone(err)
		}
		h.audit(ctx, "has an install config", d, slog.Int64("version", after.Version))
		return bundle.AnswerConfig(after), nil
	}
	return nil, errBusy
}

// own refuses items about certificates and CAs that are not the user's. Those that were there before may be gone
// meanwhile.
func (h *handler) own(ctx context.Context, user int64, items []installconfig.Item, before []installconfig.Object) error {
	for _, object := range installconfig.References(items) {
		if slices.Contains(before, object) {
			continue
		}
		var err error
		if object.Type == "ca" {
			_, err = h.findCA(ctx, user, object.ID)
		} else {
			_, err = h.findCertificate(ctx, user, object.ID)
		}
		if errors.Is(err, problem.NotFound) {
			return problem.InvalidArgument.New("installs: there is no %s %d.", map[string]string{"ca": "CA", "cert": "certificate"}[object.Type], object.ID).With("field", "installs")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type restoreRequest struct {
	Path
	Body struct {
		Version wire.ID `json:"version"`
		Note    string  `json:"change_note,omitempty" maxLength:"1024"`
	}
}

func (h *handler) restoreConfig(ctx context.Context, in *restoreRequest) (*bundle.ConfigResponse, error) {
	d, err := h.delivery.ActiveDevice(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	old, err := h.store.InstallConfigVersion(ctx, in.ID, int64(in.Body.Version))
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.NotFound.New("There is no version %d.", in.Body.Version)
	}
	if err != nil {
		return nil, err
	}
	return h.change(ctx, d, in.Body.Note, true, func(installconfig.Config) ([]installconfig.Item, string, error) {
		return old.Items, old.Script, nil
	})
}

// Version is a version of an install config. Its time is epoch seconds.
type Version struct {
	ID        int64        `json:"id"`
	Version   int64        `json:"version"`
	Items     bundle.Items `json:"installs"`
	Script    string       `json:"after_update_script"`
	Note      string       `json:"change_note"`
	UpdatedBy string       `json:"updated_by"`
	CreatedAt int64        `json:"created_at"`
}

// largestPage is how many bytes a page may have before it is cut: Lambda answers with 6 MB at most.
const largestPage = 3 << 20

type configsResponse struct{ Body wire.List[Version] }

func (h *handler) configs(ctx context.Context, in *listOnRequest) (*configsResponse, error) {
	if _, err := h.delivery.Device(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	current, err := h.store.InstallConfig(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	page, err := h.store.InstallConfigs(ctx, in.ID, current.Version, in.Offset, in.Limit)
	if err != nil {
		return nil, err
	}
	all := []Version{}
	for size, i := 0, 0; i < len(page) && (i == 0 || size < largestPage); i++ {
		c := page[i]
		shown := bundle.OfConfig(c)
		all = append(all, Version{c.ID, c.Version, shown.Items, c.Script, c.Note, c.UpdatedBy, record.Seconds(c.UpdatedAt)})
		size += len(shown.JSON) + len(c.Script)
	}
	return &configsResponse{wire.List[Version]{Data: all, Meta: wire.Meta{Total: int(current.Version), Offset: in.Offset, Limit: in.Limit}}}, nil
}
