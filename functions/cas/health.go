package main

import (
	"context"
	"crypto/x509"
	"errors"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// HealthReport is the findings about a CA.
type HealthReport struct {
	Status    string       `json:"status" enum:"ok,warning,critical" doc:"The worst of the findings; info counts for nothing."`
	CheckedAt int64        `json:"checked_at" doc:"Epoch milliseconds."`
	Findings  []ca.Finding `json:"findings"`
}

type healthResponse struct{ Body wire.Data[HealthReport] }

// health reads what relying parties would get, and checks it as they would.
func (h *handler) health(ctx context.Context, in *Path) (*healthResponse, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	now := h.now()
	published, err := h.published(ctx, c)
	if err != nil {
		return nil, err
	}
	findings := notNull(c.Check(published, now))
	status := "ok"
	for _, f := range findings {
		switch {
		case f.Severity == ca.Critical:
			status = "critical"
		case f.Severity == ca.Warning && status == "ok":
			status = "warning"
		}
	}
	return &healthResponse{wire.Data[HealthReport]{Data: HealthReport{status, now.UnixMilli(), findings}}}, nil
}

func (h *handler) published(ctx context.Context, c ca.CA) (p ca.Published, err error) {
	if len(c.Chain) == 0 {
		return p, nil
	}
	object, err := h.signer.Bucket.Get(ctx, casigner.CRLObject(c.ID))
	if err != nil && !errors.Is(err, bucket.ErrNotFound) {
		return p, err
	}
	if err == nil {
		if p.CRL, err = x509.ParseRevocationList(object.Body); err != nil {
			p.CRL, p.CRLFailure = nil, "what is published is no CRL."
		}
	}
	stands, err := h.store.CRLOf(ctx, c.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return p, err
	}
	if stands.Failure != "" {
		p.CRLFailure = stands.Failure
	}
	signer, err := h.store.OCSPSigner(ctx, c.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return p, err
	}
	p.OCSPNotAfter = signer.NotAfter
	return p, nil
}
