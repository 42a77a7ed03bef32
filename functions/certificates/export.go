package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/pki/export"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"

	"github.com/danielgtaylor/huma/v2"
)

type exportRequest struct {
	Path
	Format string `query:"format" enum:"json,zip" default:"json"`
	Accept string `header:"Accept"`
}

// export hands out the certificate in place with its key. Each time leaves an audit line.
func (h *handler) export(ctx context.Context, in *exportRequest) (*huma.StreamResponse, error) {
	c, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	switch {
	case c.Current.Issue == 0:
		return nil, errNotIssued
	case !c.CallersKey && !c.Exportable():
		return nil, problem.ExportForbidden.New("The certificate's policy keeps its key from being exported. PUT server_decrypt_export or key_dist_policy to change that.")
	case in.Format == "zip" && !strings.HasPrefix(in.Accept, "application/zip"):
		// API Gateway hands binary answers out as base64 text to whoever asks for another type first.
		return nil, problem.NotAcceptable.New("Send Accept: application/zip.")
	}
	e, err := h.open(ctx, c)
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "exported", c, slog.String("format", in.Format), slog.String("serial", c.Current.Serial), slog.Bool("key", e.Key.Exists()))
	if in.Format == "zip" {
		return zipped(e)
	}
	parts, err := e.Parts()
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/json")
		wire.Encode(ctx.BodyWriter(), wire.Data[export.Parts]{Data: parts})
	}}, nil
}

// open reads the chain and opens the key.
func (h *handler) open(ctx context.Context, c certificate.Certificate) (export.Certificate, error) {
	e := export.Certificate{ID: c.ID, Domain: c.Domain()}
	m, err := h.store.Material(ctx, c.ID, c.Current.Issue)
	if errors.Is(err, store.ErrNotFound) {
		return e, problem.Conflict.New("The certificate was renewed at this moment. Export it again.")
	}
	if err != nil {
		return e, err
	}
	if e.Chain, err = pki.ParseChain(m.Chain); err != nil {
		return e, err
	}
	if m.Key.Empty() {
		return e, nil
	}
	der, err := h.keys.Open(ctx, kmskey.Certificate(c.User, c.ID), m.Key)
	if err != nil {
		return e, err
	}
	defer clear(der)
	e.Key, err = pki.ParseKey(der)
	return e, err
}

func zipped(e export.Certificate) (*huma.StreamResponse, error) {
	archive, password, err := e.Zip()
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", "application/zip")
		ctx.SetHeader("Content-Disposition", fmt.Sprintf(`attachment; filename="cert-%d.zip"`, e.ID))
		if password != "" {
			ctx.SetHeader("X-Export-Password", password)
		}
		_, _ = ctx.BodyWriter().Write(archive) // the client has gone
	}}, nil
}
