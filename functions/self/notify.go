package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type notifyRequest struct {
	Body struct {
		Schema string      `json:"schema,omitempty" maxLength:"128" doc:"certctrl.device.notify.v1"`
		Events []someEvent `json:"events" minItems:"1" maxItems:"200"`
	}
}

// someEvent is an event of any type: those that are not known have fields of their own, which are nobody's business.
type someEvent json.RawMessage

// Schema describes the fields of those that are known.
func (someEvent) Schema(huma.Registry) *huma.Schema {
	text := func(what string) *huma.Schema { return &huma.Schema{Description: what} }
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true, Properties: map[string]*huma.Schema{
		"type": text("agent_version, cert.installed or cert.failed."), "version": text("Of the agent."), "cert_id": text("Of cert.installed and cert.failed."),
		"fingerprint_sha256": text("Of the certificate that it is about: SHA-256 of its DER, hexadecimal. The issue that the device is to have, if absent."),
		"error":              text("Of cert.failed."),
	}}
}

// UnmarshalJSON keeps it as it is.
func (e *someEvent) UnmarshalJSON(b []byte) error {
	*e = append((*e)[:0], b...)
	return nil
}

// event is what an event of a known type says.
type event struct {
	Version     string  `json:"version"`
	Certificate wire.ID `json:"cert_id"`
	Fingerprint string  `json:"fingerprint_sha256"`
	Error       string  `json:"error"`
}

// longest is how much of a text is kept.
const longest = 1024

func (h *handler) notify(ctx context.Context, in *notifyRequest) (*struct{}, error) {
	head, err := h.self(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range in.Body.Events {
		var of struct{ Type string }
		if json.Unmarshal(e, &of) != nil {
			continue
		}
		var known event
		switch of.Type {
		case "agent_version", "cert.installed", "cert.failed":
			if json.Unmarshal(e, &known) != nil {
				return nil, problem.TypeConvert.New("events: a value of %s has the wrong type.", of.Type).With("field", "events")
			}
		}
		var err error
		switch of.Type {
		case "agent_version":
			err = h.version(ctx, head, known.Version)
		case "cert.installed", "cert.failed":
			err = h.report(ctx, head, known, of.Type == "cert.installed")
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (h *handler) version(ctx context.Context, head device.Head, version string) error {
	if len(version) > 128 || strings.ContainsFunc(version, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return problem.InvalidArgument.New("version: printable, 128 bytes at most.").With("field", "version")
	}
	return h.store.NoteAgent(ctx, head.Device, version, h.now())
}

// report stores what a device did with a certificate. A failure has a staged roll-out looked at at once.
func (h *handler) report(ctx context.Context, head device.Head, e event, installed bool) error {
	found, err := h.bundles.Find(ctx, head.User, head.Device, int64(e.Certificate))
	if errors.Is(err, problem.NotFound) || errors.Is(err, problem.NotIssued) {
		return nil // taken off meanwhile: the device need not say it again
	}
	if err != nil {
		return err
	}
	r, err := found.Record(h.now())
	if err != nil {
		return err
	}
	print := strings.ToLower(strings.ReplaceAll(e.Fingerprint, ":", ""))
	if raw, err := hex.DecodeString(print); print != "" && (err != nil || len(raw) != 32) {
		return problem.InvalidArgument.New("fingerprint_sha256: 64 hexadecimal digits.").With("field", "fingerprint_sha256")
	}
	a := found.Assignment
	report := device.Report{Issue: a.Issue, Fingerprint: print, Installed: installed, Error: strings.ToValidUTF8(e.Error[:min(len(e.Error), longest)], ""), At: h.now(), Ever: true}
	if print == "" && a.Fetched != a.Issue { // it has not got this one yet, so it speaks of one before
		return nil
	}
	if print == "" {
		report.Fingerprint = r.Fingerprint
	} else if print != strings.ToLower(r.Fingerprint) { // of an issue before
		report.Issue = 0
	}
	if report.Issue == 0 && a.Report.Issue == a.Issue {
		return nil // what is known is newer
	}
	if err := h.store.NoteReport(ctx, a, report); err != nil {
		return err
	}
	if report.Installed || report.Issue == 0 {
		return nil
	}
	h.log.LogAttrs(ctx, slog.LevelWarn, "certificate not installed", slog.Int64("user", head.User), slog.Int64("device", head.Device), slog.Int64("certificate", a.Certificate), slog.Int64("issue", a.Issue))
	err = h.store.WakeRollout(ctx, a.Certificate, a.Issue, h.now())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
