package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
)

// finalize hands the request in, and meanwhile removes the records, which nobody looks at any more. It is stored
// before: a worker that has lost its lease must not finalize what another one, or another certificate, has.
func (s *issue) finalize(ctx context.Context) error {
	s.order.Step, s.order.Last, s.order.Waits = certificate.AtFinalize, certificate.Failure{}, time.Time{}
	csr, _, err := s.request(ctx)
	if err != nil {
		return err
	}
	if err := s.save(ctx); err != nil {
		return err
	}
	var forgetting sync.WaitGroup
	forgetting.Go(func() { s.forget(ctx, cleanUpTime, none) })
	defer forgetting.Wait()
	o, err := s.ca.Finalize(ctx, s.by, s.atCA, csr)
	if acme.Is(err, "unauthorized") { // of names it may pass; a request that is not the order's does not
		f, _ := s.failure(err)
		f.Permanent = true
		return &refusal{Failure: f, cause: err}
	}
	// Finalized by a worker that was killed before it could know, or said to be ready by a replica that is ahead.
	if s.notReady++; acme.Is(err, "orderNotReady") && s.notReady < 10 {
		return s.look(ctx, 0, s.notReady)
	}
	if err != nil {
		return err
	}
	s.atCA = o
	return nil
}

// invalid ends an order that the CA has given up, with the CA's reason.
func (s *issue) invalid(ctx context.Context) error {
	if p := s.atCA.Problem; p != nil {
		return &refusal{Failure: certificate.Failure{Step: s.order.Step, Kind: p.Kind(), What: p.Error(), Name: p.Name(), Permanent: acme.Permanent(p)}, over: true}
	}
	for _, at := range s.atCA.Authorizations {
		z, err := s.ca.Authorization(ctx, s.by, at)
		if err != nil {
			continue // the order is over, whatever this one is
		}
		if z.Status != acme.Valid && z.Status != acme.Pending {
			return refused(z)
		}
	}
	return &refusal{Failure: certificate.Failure{Kind: "order", What: "The CA gave the order up and does not say why."}, over: true}
}

// download fetches the chain, believes nothing of it that can be checked, and puts it in place of the one
// before.
func (s *issue) download(ctx context.Context) error {
	s.order.Step = certificate.AtDownload
	text, err := s.ca.Certificate(ctx, s.by, s.atCA)
	if err != nil {
		f, known := s.failure(err)
		if !known {
			return err
		}
		f.Permanent = false // the certificate exists
		return &refusal{Failure: f, cause: err}
	}
	_, public, err := s.request(ctx)
	if err != nil {
		return err
	}
	chain, err := pki.ParseChain(text)
	if err == nil {
		err = chain.Check(public, s.certificate.Names, s.now())
	}
	if err != nil {
		return &refusal{Failure: certificate.Failure{
			Step: certificate.AtDownload, Kind: "bad-chain", What: "What the CA sent is not the certificate that was ordered: " + err.Error(), Permanent: !errors.Is(err, pki.ErrOtherKey),
		}, cause: err, over: true}
	}
	s.forget(ctx, cleanUpTime/3, none) // of a worker that was killed after it had finalized
	return s.succeed(ctx, chain)
}

func (s *issue) succeed(ctx context.Context, chain pki.Chain) error {
	leaf := chain.Facts()
	issued := certificate.Issued{
		Issue: s.order.Issue, Serial: leaf.Serial, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Fingerprint: leaf.Fingerprint, ARI: leaf.ARI,
	}
	outcome := s.outcome(certificate.Succeeded)
	outcome.Serial, outcome.NotAfter = issued.Serial, issued.NotAfter
	material := &store.Material{Chain: chain.PEM(), Key: s.order.Key}
	before := int64(0)
	c, err := s.close(ctx, outcome, material, func(c *certificate.Certificate) {
		before = c.Current.Issue
		c.Current, c.Failure, c.Tries, c.RevokedAt, c.Reason = issued, certificate.Failure{}, 0, time.Time{}, 0
		c.RenewAt = time.Time{}
		if c.AutoRenew {
			c.RenewAt = issued.FirstLook(s.now(), mathrand.Float64())
		}
	})
	if err != nil {
		return err
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "certificate issued", s.attributes(
		slog.String("serial", issued.Serial), slog.Time("not_after", issued.NotAfter), slog.Int("names", len(c.Names)))...)
	if before > 0 { // a crash before this leaves one chain and key too many, which goes with the certificate
		return s.store.DropMaterial(ctx, c.ID, before)
	}
	return nil
}

// fail closes an issue that failed for good. What is in place stays.
func (s *issue) fail(ctx context.Context, f certificate.Failure) error {
	s.forget(ctx, max(reserve/3, min(cleanUpTime, time.Until(s.until)-reserve)), none)
	outcome := s.outcome(certificate.Unissued)
	outcome.Failure = f
	_, err := s.close(ctx, outcome, nil, func(c *certificate.Certificate) {
		c.Failure = f
		c.Tries++
		if c.AutoRenew && c.RevokedAt.IsZero() { // whoever revoked it says when there is to be another
			c.RenewAt = c.RetryAt(s.now(), mathrand.Float64())
		}
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil // deleted, or closed by another worker
	}
	if err != nil {
		return err
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "certificate not issued", s.attributes(slog.String("kind", f.Kind), slog.String("error", f.What))...)
	return nil
}

func (s *issue) outcome(state certificate.IssueState) certificate.Issue {
	return certificate.Issue{
		ID: s.order.IssueID, Certificate: s.order.Certificate, Number: s.order.Issue, State: state, Order: s.order.URL,
		StartedAt: s.order.StartedAt, CompletedAt: s.now(),
	}
}

// close ends the issue together with what changes of the certificate. A change that its owner made meanwhile
// is kept: the certificate is read again and changed anew.
func (s *issue) close(ctx context.Context, outcome certificate.Issue, m *store.Material, change func(*certificate.Certificate)) (certificate.Certificate, error) {
	for try := 0; ; try++ {
		c, err := s.store.Certificate(ctx, s.order.User, s.order.Certificate)
		if err != nil {
			return c, fmt.Errorf("close the issue: %w", err)
		}
		change(&c)
		c.UpdatedAt = s.now()
		c, err = s.store.CloseOrder(ctx, s.order, c, outcome, m)
		if !errors.Is(err, store.ErrConflict) || try == 5 {
			return c, err
		}
		if current, err := s.store.Order(ctx, s.order.Certificate); err != nil || current.Lease != s.order.Lease {
			return c, store.ErrConflict
		}
	}
}
