package main

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type notifyRequest struct {
	Body struct {
		Schema string  `json:"schema,omitempty" maxLength:"128" doc:"certctrl.device.notify.v1"`
		Events []event `json:"events" minItems:"1" maxItems:"200"`
	}
}

// event is what one event says. Events of other types have other fields, which are not looked at.
type event struct {
	Type        string  `json:"type,omitempty" maxLength:"128" doc:"agent_version, cert.installed or cert.failed."`
	Agent       string  `json:"agent,omitempty" maxLength:"128"`
	Version     string  `json:"version,omitempty" maxLength:"128" doc:"Of the agent."`
	PublicID    string  `json:"device_public_id,omitempty" maxLength:"256"`
	Certificate wire.ID `json:"cert_id,omitempty" doc:"Of cert.installed and cert.failed."`
	Fingerprint string  `json:"fingerprint_sha256,omitempty" maxLength:"95" doc:"Of the certificate that it is about: SHA-256 of its DER, hexadecimal. The issue that the device is to have, if absent."`
	Error       string  `json:"error,omitempty" maxLength:"1024" doc:"Of cert.failed."`
}

func (h *handler) notify(ctx context.Context, in *notifyRequest) (*struct{}, error) {
	head, err := h.self(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range in.Body.Events {
		var err error
		switch e.Type {
		case "agent_version":
			err = h.version(ctx, head, e.Version)
		case "cert.installed", "cert.failed":
			err = h.report(ctx, head, e)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (h *handler) version(ctx context.Context, head device.Head, version string) error {
	if strings.ContainsFunc(version, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return problem.InvalidArgument.New("version: it must be printable.").With("field", "version")
	}
	return h.store.NoteAgent(ctx, head.Device, version, h.now())
}

// report stores what a device did with a certificate. A failure has a staged roll-out looked at at once.
func (h *handler) report(ctx context.Context, head device.Head, e event) error {
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
	report := device.Report{Issue: a.Issue, Fingerprint: print, Installed: e.Type == "cert.installed", Error: e.Error, At: h.now(), Ever: true}
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
