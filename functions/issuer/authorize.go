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
	name, keyAuth string // of the record
}

// pending tells whether the CA has not begun to check.
func (p proof) pending() bool { return p.challenge.Status == acme.Pending }

// authorize proves control of the order's names: records set, seen, checked by the CA. Where a DNS provider holds
// few records at a time, so many names are proved at a time.
func (s *issue) authorize(ctx context.Context) error {
	proofs, err := s.proofs(ctx)
	if err != nil {
		return s.at(certificate.AtPresent, err)
	}
	if len(proofs) > 0 {
		solver, err := s.solver(ctx, s.certificate.DNSProvider)
		if err != nil {
			return s.at(certificate.AtPresent, err)
		}
		// Of an order before, which the CA gave up.
		s.forget(ctx, cleanUpTime, func(r certificate.Record) bool { return s.needed(r, proofs) })
		atOnce := solver.AtOnce()
		if atOnce == 0 {
			atOnce = len(proofs)
		}
		for some := range slices.Chunk(proofs, atOnce) {
			if err := s.present(ctx, solver, some); err != nil {
				return s.at(certificate.AtPresent, err)
			}
			if err := s.propagate(ctx, solver, some); err != nil {
				return s.at(certificate.AtPropagate, err)
			}
			if err := s.validate(ctx, some); err != nil {
				return s.at(certificate.AtValidate, err)
			}
		}
	}
	for look := 0; ; look++ { // an order may follow its authorizations with a delay
		if s.atCA, err = s.ca.Order(ctx, s.by, s.order.URL); err != nil {
			return s.at(certificate.AtValidate, err)
		}
		if s.atCA.Status != acme.Pending {
			return nil
		}
		if err := s.rest(ctx, s.atCA.RetryAfter, look, "The CA has checked the names and does not go on yet."); err != nil {
			return s.at(certificate.AtValidate, err)
		}
	}
}

func (s *issue) needed(r certificate.Record, proofs []proof) bool {
	return slices.ContainsFunc(proofs, func(p proof) bool { return p.name == r.Name && p.keyAuth == r.KeyAuth })
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
		proofs = append(proofs, proof{z, c, name(z), keyAuth})
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

// Times that a worker keeps for storing an order, or gives to one thing.
const (
	presentTime = 40 * time.Second // the least that is left when a record is set
	saveEvery   = 10 * time.Second // while records are set
	seeingTime  = 60 * time.Second // of one worker; then the order is put down and looked at later
	cleanUpTime = 60 * time.Second
)

// present sets the records. They are noted before, so that whoever takes over knows what to remove, and which
// are set is noted now and then, so that many names at a slow provider come to an end in several invocations.
func (s *issue) present(ctx context.Context, solver *dnssolver.Solver, proofs []proof) error {
	noted := len(s.order.Records)
	for _, p := range proofs {
		if s.record(p) == nil {
			s.order.Records = append(s.order.Records, certificate.Record{Name: p.name, KeyAuth: p.keyAuth, Provider: s.certificate.DNSProvider})
		}
	}
	if len(s.order.Records) != noted || s.order.Step != certificate.AtPresent {
		s.order.Step = certificate.AtPresent
		if err := s.save(ctx); err != nil {
			return err
		}
	}
	if solver.AtOnce() > 0 && slices.ContainsFunc(proofs, func(p proof) bool { return !s.record(p).Set }) {
		s.unset(proofs) // one that is set may drive another one out
	}
	saved := s.now()
	for i, p := range proofs {
		record := s.record(p)
		if !p.pending() || record.Set {
			continue
		}
		if left(ctx) < presentTime && s.gotOn {
			return &wait{2 * time.Second, certificate.Failure{
				Step: certificate.AtPresent, Kind: "present", What: fmt.Sprintf("%d of %d records are set.", i, len(proofs)), Name: p.authorization.Name(),
			}}
		}
		if err := solver.Present(ctx, p.name, p.keyAuth); err != nil {
			return s.about(p, err)
		}
		record.Set, s.gotOn, s.order.Waits, s.order.Tries = true, true, time.Time{}, 1
		if s.now().Sub(saved) > saveEvery {
			saved = s.now()
			if err := s.save(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// unset has records set and looked for anew.
func (s *issue) unset(proofs []proof) {
	for _, p := range proofs {
		if r := s.record(p); r != nil {
			r.Set, r.Seen = false, false
		}
	}
}

// record is what is noted of a proof's record at the certificate's DNS provider; nil for nothing.
func (s *issue) record(p proof) *certificate.Record {
	for i := range s.order.Records {
		if r := &s.order.Records[i]; r.Name == p.name && r.KeyAuth == p.keyAuth && r.Provider == s.certificate.DNSProvider {
			return r
		}
	}
	return nil
}

// solver opens the credentials of a DNS provider, once.
func (s *issue) solver(ctx context.Context, id int64) (*dnssolver.Solver, error) {
	if opened := s.solvers[id]; opened != nil {
		return opened, nil
	}
	if id == 0 {
		return nil, &refusal{Failure: certificate.Failure{
			Step: certificate.AtPresent, Kind: "no-dns-provider", What: "The certificate names no DNS provider that could answer the CA. Set dns_provider_id.", Permanent: true,
		}}
	}
	p, err := s.store.DNSProvider(ctx, s.order.User, id)
	if err != nil {
		return nil, fmt.Errorf("DNS provider %d: %w", id, err)
	}
	secrets, err := s.keys.Open(ctx, kmskey.DNSProvider(p.User, p.ID), p.Secrets)
	if err != nil {
		return nil, fmt.Errorf("DNS provider %d: %w", id, err)
	}
	defer clear(secrets)
	config, err := p.Config.WithSecrets(secrets)
	if err != nil {
		return nil, fmt.Errorf("DNS provider %d: %w", id, err)
	}
	opened, err := dnssolver.New(config, s.guard)
	if err != nil {
		return nil, err
	}
	if s.solvers == nil {
		s.solvers = map[int64]*dnssolver.Solver{}
	}
	s.solvers[id] = opened
	return opened, nil
}

// about names what a DNS provider's error is about.
func (s *issue) about(p proof, err error) error {
	f, known := s.failure(err)
	if !known {
		return err
	}
	f.Name = p.authorization.Name()
	f.Record, _ = dnssolver.Record(p.name, p.keyAuth)
	return &refusal{Failure: f, cause: err}
}

// propagate waits until the records can be seen, from the time when they were first looked for, whichever
// worker that was.
func (s *issue) propagate(ctx context.Context, solver *dnssolver.Solver, proofs []proof) error {
	unseen := func(p proof) bool { return p.pending() && !s.record(p).Seen }
	if !slices.ContainsFunc(proofs, unseen) {
		return nil
	}
	if s.order.Waits.IsZero() {
		s.order.Waits = s.now()
	}
	timeout := solver.Timeout()
	until, patience := s.order.Waits.Add(timeout), s.now().Add(seeingTime)
	for i, p := range proofs {
		if !unseen(p) {
			continue
		}
		if left(ctx) < presentTime && s.gotOn {
			return &wait{2 * time.Second, certificate.Failure{
				Step: certificate.AtPropagate, Kind: "propagation", What: fmt.Sprintf("%d of %d records are seen.", i, len(proofs)), Name: p.authorization.Name(),
			}}
		}
		fqdn, value := dnssolver.Record(p.name, p.keyAuth)
		for look := 0; ; look++ {
			seen, where, err := solver.Propagated(ctx, fqdn, value)
			if seen {
				s.record(p).Seen, s.gotOn = true, true
				break
			}
			if err != nil {
				var d *dnssolver.Error
				if !errors.As(err, &d) || d.Permanent || ctx.Err() != nil {
					return s.about(p, err)
				}
				where = d.What // a question that got no answer is asked again
			}
			if s.order.Step != certificate.AtPropagate { // to be seen: it may take minutes
				s.order.Step = certificate.AtPropagate
				if err := s.save(ctx); err != nil {
					return err
				}
			}
			f := certificate.Failure{Step: certificate.AtPropagate, Kind: "propagation", Name: p.authorization.Name(), Record: fqdn}
			now := s.now()
			if now.After(until) {
				s.order.Waits = time.Time{}
				s.unset(proofs)
				f.What = fmt.Sprintf("The record was set, and cannot be seen after %v: %s.", timeout, where)
				return &refusal{Failure: f}
			}
			f.What = fmt.Sprintf("The record was set and is looked for: %s.", where)
			if now.After(patience) {
				return &wait{min(s.longer(), until.Sub(now)+time.Second), f}
			}
			if err := s.rest(ctx, 0, look, ""); err != nil {
				var w *wait
				if errors.As(err, &w) {
					w.why = f
				}
				return err
			}
		}
	}
	s.order.Waits = time.Time{}
	return nil
}

// validate has the CA check the records, and waits for its verdict.
func (s *issue) validate(ctx context.Context, proofs []proof) error {
	s.order.Step, s.order.Last = certificate.AtValidate, certificate.Failure{}
	if err := s.save(ctx); err != nil {
		return err
	}
	for _, p := range proofs {
		if p.pending() {
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
			if err := s.rest(ctx, z.RetryAfter, look, "The CA has not checked "+z.Name()+" yet."); err != nil {
				return err
			}
		}
	}
	s.order.Waits = time.Time{}
	return nil
}

// forget removes records, but those that are to be kept. What cannot be removed stays noted, and is logged when
// the order ends: it harms nobody, and the certificate is worth more.
func (s *issue) forget(ctx context.Context, budget time.Duration, keep func(certificate.Record) bool) {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	var left []certificate.Record
	var failed []error
	for _, r := range s.order.Records {
		if keep(r) {
			left = append(left, r)
			continue
		}
		solver, err := s.solver(ctx, r.Provider)
		if err == nil {
			err = solver.CleanUp(ctx, r.Name, r.KeyAuth)
		}
		if err != nil {
			left, failed = append(left, r), append(failed, err)
		}
	}
	s.order.Records = left
	if err := errors.Join(failed...); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "records stay at the DNS provider", s.attributes(slog.Int("records", len(failed)), slog.String("error", short(err.Error())))...)
	}
}

func none(certificate.Record) bool { return false }
