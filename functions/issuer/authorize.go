package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/dnssolver"
	"cjj365.cc/bb/shared/kmskey"
)

// proof is one name's authorization and the record that answers it.
type proof struct {
	authorization acme.Authorization
	challenge     acme.Challenge
	record        certificate.Record
}

// authorize proves control of the order's names: records set, seen, checked by the CA.
func (s *issue) authorize(ctx context.Context) error {
	proofs, err := s.proofs(ctx)
	if err != nil {
		return s.at(certificate.AtPresent, err)
	}
	if err := s.present(ctx, proofs); err != nil {
		return s.at(certificate.AtPresent, err)
	}
	if err := s.propagate(ctx, proofs); err != nil {
		return s.at(certificate.AtPropagate, err)
	}
	return s.at(certificate.AtValidate, s.validate(ctx, proofs))
}

// proofs reads the authorizations that are still to be done.
func (s *issue) proofs(ctx context.Context) ([]proof, error) {
	var proofs []proof
	for _, at := range s.atCA.Authorizations {
		z, err := s.ca.Authorization(ctx, s.by, at)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(s.certificate.Names, z.Name()) && !slices.Contains(s.certificate.Names, "*."+name(z)) {
			// The CA would have us set a record for a name that nobody asked for.
			return nil, &refusal{Failure: certificate.Failure{Kind: "bad-authorization", What: "The CA asks to prove control of a name that was not ordered.", Permanent: true}}
		}
		switch z.Status {
		case acme.Valid: // proven before, or for another order
			continue
		case acme.Pending:
		default:
			return nil, refused(z)
		}
		c, ok := z.DNS01()
		if !ok {
			return nil, &refusal{Failure: certificate.Failure{
				Kind: "no-dns-01", What: "The CA offers no dns-01 challenge for this name.", Name: z.Name(), Permanent: true,
			}}
		}
		keyAuth, err := s.by.KeyAuthorization(c.Token)
		if err != nil {
			return nil, err
		}
		proofs = append(proofs, proof{z, c, certificate.Record{Name: name(z), KeyAuth: keyAuth}})
	}
	return proofs, nil
}

// refused says why an authorization is over.
func refused(z acme.Authorization) error {
	f := certificate.Failure{Kind: "authorization", What: "The CA gave this name up: its authorization is " + string(z.Status) + ".", Name: z.Name(), Permanent: false}
	for _, c := range z.Challenges {
		if c.Problem != nil {
			f.Kind, f.What, f.Permanent = c.Problem.Kind(), c.Problem.Error(), acme.Permanent(c.Problem)
			if c.Type == "dns-01" {
				f.Record, _ = dnssolver.Record(z.Identifier.Value, "")
			}
		}
	}
	return &refusal{Failure: f, over: true}
}

// present sets the records. They are noted before, so that whoever takes over knows what to remove.
func (s *issue) present(ctx context.Context, proofs []proof) error {
	if len(proofs) == 0 {
		return nil
	}
	if err := s.openSolver(ctx); err != nil {
		return err
	}
	noted := len(s.order.Records)
	for _, p := range proofs {
		if !slices.Contains(s.order.Records, p.record) {
			s.order.Records = append(s.order.Records, p.record)
		}
	}
	if len(s.order.Records) != noted || s.order.Step != certificate.AtPresent {
		s.order.Step = certificate.AtPresent
		if err := s.save(ctx); err != nil {
			return err
		}
	}
	for _, p := range proofs {
		if p.challenge.Status != acme.Pending { // the CA checks it already
			continue
		}
		if err := s.dns.Present(ctx, p.record.Name, p.record.KeyAuth); err != nil {
			return s.about(p, err)
		}
	}
	return nil
}

// openSolver opens the credentials of the certificate's DNS provider.
func (s *issue) openSolver(ctx context.Context) error {
	if s.dns != nil {
		return nil
	}
	if s.certificate.DNSProvider == 0 {
		return &refusal{Failure: certificate.Failure{
			Step: certificate.AtPresent, Kind: "no-dns-provider", What: "The certificate names no DNS provider that could answer the CA. Set dns_provider_id.", Permanent: true,
		}}
	}
	p, err := s.store.DNSProvider(ctx, s.certificate.User, s.certificate.DNSProvider)
	if err != nil {
		return fmt.Errorf("DNS provider %d: %w", s.certificate.DNSProvider, err)
	}
	secrets, err := s.keys.Open(ctx, kmskey.DNSProvider(p.User, p.ID), p.Secrets)
	if err != nil {
		return fmt.Errorf("DNS provider %d: %w", p.ID, err)
	}
	defer clear(secrets)
	config, err := p.Config.WithSecrets(secrets)
	if err != nil {
		return fmt.Errorf("DNS provider %d: %w", p.ID, err)
	}
	s.dns, err = dnssolver.New(config, s.guard)
	return err
}

// about names what a DNS provider's error is about.
func (s *issue) about(p proof, err error) error {
	f, known := s.failure(err)
	if !known {
		return err
	}
	f.Name = p.authorization.Name()
	f.Record, _ = dnssolver.Record(p.record.Name, p.record.KeyAuth)
	return &refusal{Failure: f, cause: err}
}

// propagate waits until the records can be seen.
func (s *issue) propagate(ctx context.Context, proofs []proof) error {
	if len(proofs) == 0 {
		return nil
	}
	timeout, _ := s.dns.Timeout()
	until := s.now().Add(timeout)
	for _, p := range proofs {
		if p.challenge.Status != acme.Pending {
			continue
		}
		fqdn, value := dnssolver.Record(p.record.Name, p.record.KeyAuth)
		for look := 0; ; look++ {
			seen, where, err := s.dns.Propagated(ctx, fqdn, value)
			if err != nil {
				return s.about(p, err)
			}
			if seen {
				break
			}
			if s.now().After(until) {
				return &refusal{Failure: certificate.Failure{
					Step: certificate.AtPropagate, Kind: "propagation", Name: p.authorization.Name(), Record: fqdn,
					What: fmt.Sprintf("The record was set, and after %v %s still does not show it.", timeout, where),
				}}
			}
			if err := s.rest(ctx, 0, look); err != nil {
				return err
			}
		}
	}
	return nil
}

// validate has the CA check the records, and waits for its verdict.
func (s *issue) validate(ctx context.Context, proofs []proof) error {
	s.order.Step, s.order.Last = certificate.AtValidate, certificate.Failure{}
	if err := s.save(ctx); err != nil {
		return err
	}
	for _, p := range proofs {
		if p.challenge.Status == acme.Pending {
			if err := s.ca.Accept(ctx, s.by, p.challenge); err != nil {
				return err
			}
		}
	}
	for _, p := range proofs {
		for look := 0; ; look++ {
			z, err := s.ca.Authorization(ctx, s.by, p.authorization.URL)
			if err != nil {
				return err
			}
			if z.Status == acme.Valid {
				break
			}
			if z.Status != acme.Pending {
				return refused(z)
			}
			if err := s.rest(ctx, z.RetryAfter, look); err != nil {
				return err
			}
		}
	}
	for look := 0; ; look++ { // an order may follow its authorizations with a delay
		o, err := s.ca.Order(ctx, s.by, s.order.URL)
		if err != nil {
			return err
		}
		if s.atCA = o; o.Status != acme.Pending {
			return nil
		}
		if err := s.rest(ctx, o.RetryAfter, look); err != nil {
			return err
		}
	}
}

// forget removes the records that were set. What cannot be removed is logged: it harms nobody, and the
// certificate is worth more.
func (s *issue) forget(ctx context.Context) {
	if len(s.order.Records) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.openSolver(ctx); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "records stay at the DNS provider", s.attributes(slog.String("error", err.Error()))...)
		return
	}
	var failed []error
	for _, r := range s.order.Records {
		if err := s.dns.CleanUp(ctx, r.Name, r.KeyAuth); err != nil {
			failed = append(failed, err)
		}
	}
	if err := errors.Join(failed...); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "records stay at the DNS provider", s.attributes(slog.String("error", err.Error()))...)
	}
	s.order.Records = nil
}
