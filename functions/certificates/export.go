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
	Format string `query:"format" enum:"json,zip,pkcs12" default:"json"`
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
	case binary[in.Format] != "" && !strings.HasPrefix(in.Accept, binary[in.Format]):
		// API Gateway hands binary answers out as base64 text to whoever asks for another type first.
		return nil, problem.NotAcceptable.New("Send Accept: %s.", binary[in.Format])
	case in.Format == "pkcs12" && c.CallersKey:
		return nil, problem.Conflict.New("A PKCS#12 holds the key, which you keep. Export as json or zip.")
	}
	e, err := h.open(ctx, c)
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "exported", c, slog.String("format", in.Format), slog.String("serial", c.Current.Serial), slog.Bool("key", e.Key.Exists()))
	switch in.Format {
	case "zip":
		archive, password, err := e.Zip()
		return file(archive, password, "application/zip", fmt.Sprintf("cert-%d.zip", e.ID), err)
	case "pkcs12":
		password := export.NewPassword()
		text, err := e.PKCS12(password)
		return file(text, password, "application/x-pkcs12", fmt.Sprintf("cert-%d.pfx", e.ID), err)
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
	if len(m.Key.DataKey) == 0 {
		return e, problem.Conflict.New("Only the devices that the key was sealed to have it: that was the certificate's policy. Renew it to have a key that can be exported.")
	}
	der, err := h.keys.Open(ctx, kmskey.Certificate(c.User, c.ID), m.Key)
	if err != nil {
		return e, err
	}
	defer clear(der)
	e.Key, err = pki.ParseKey(der)
	return e, err
}

// binary is the types of answers that are no text.
var binary = map[string]string{"zip": "application/zip", "pkcs12": "application/x-pkcs12"}

// file is an answer to be saved; the password is of the PKCS#12 in it, empty for none.
func file(text []byte, password, contentType, name string, err error) (*huma.StreamResponse, error) {
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		ctx.SetHeader("Content-Type", contentType)
		ctx.SetHeader("Content-Disposition", `attachment; filename="`+name+`"`)
		if password != "" {
			ctx.SetHeader("X-Export-Password", password)
		}
		_, _ = ctx.BodyWriter().Write(text) // the client has gone
	}}, nil
}
