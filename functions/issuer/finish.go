package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/closing"
	"cjj365.cc/bb/shared/pki"
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

func (s *issue) closer() closing.Closer {
	return closing.Closer{Store: s.store, Keys: s.keys, Log: s.log, Now: s.now}
}

func (s *issue) succeed(ctx context.Context, chain pki.Chain) error {
	_, err := s.closer().Succeed(ctx, s.order, chain)
	return err
}

// fail closes an issue that failed for good. What is in place stays.
func (s *issue) fail(ctx context.Context, f certificate.Failure) error {
	s.forget(ctx, max(reserve/3, min(cleanUpTime, time.Until(s.until)-reserve)), none)
	return s.closer().Fail(ctx, s.order, f)
}
