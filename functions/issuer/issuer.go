package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/acmekey"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/dnssolver"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/work"
)

// issuer works on open issues.
type issuer struct {
	store *store.Store
	keys  *kmskey.Key
	queue *work.Queue
	ca    *acme.Clients
	cas   *caorder.Worker // private CAs
	guard egress.Guard
	now   func() time.Time
	log   *slog.Logger

	delivery *delivery.Worker // to devices
}

// issue is one open issue while a worker has it.
type issue struct {
	*issuer
	certificate certificate.Certificate
	account     acmeaccount.Account
	order       certificate.Order
	ca          *acme.Client
	by          acme.Account
	key         pki.Key                     // of the certificate; zero until it is made or opened
	solvers     map[int64]*dnssolver.Solver // by DNS provider
	atCA        acme.Order
	gotOn       bool      // something was done that the next worker need not do again
	until       time.Time // when the invocation ends
	patient     time.Time // until when this worker waits for the CA; zero before it does
	notReady    int       // how often the CA said so of an order that it had said to be ready
}

// wait is what a step returns for "not yet": look again then, which is no failure.
type wait struct {
	time.Duration
	why certificate.Failure // zero if there is nothing to say
}

func (w *wait) Error() string { return "not yet: " + w.why.What }

// refusal is a failure with its place.
type refusal struct {
	certificate.Failure
	cause error
	over  bool // the CA has given the order up; another try needs another order
	end   bool // the issue is over, though its cause may pass
}

func (r *refusal) Error() string { return r.What }
func (r *refusal) Unwrap() error { return r.cause }

// reserve is how long before the end of an invocation an order is put down, so that there is time to store it.
const reserve = 20 * time.Second

// work goes on with a certificate's open issue as far as it gets. It returns an error only for what is wrong
// with us: the message comes again then. A refusal by a CA or a DNS provider is an outcome.
func (i *issuer) work(ctx context.Context, job work.Order) error {
	o, err := i.store.LeaseOrder(ctx, job.Certificate, rand.Text(), i.now())
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
		return nil // done, or another's, or not before its time: what is left of it is found again when it is due
	case err != nil:
		return err
	}
	if o.Tries == 1 {
		if err := i.delivery.Hurry(ctx, o.Certificate); err != nil { // they are told later, that is all
			i.log.LogAttrs(ctx, slog.LevelWarn, "devices ask no more often", slog.Int64("certificate", o.Certificate), slog.String("error", err.Error()))
		}
	}
	s := &issue{issuer: i, order: o}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		s.until = deadline
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
		defer cancel()
	}
	err = s.run(ctx)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && s.gotOn && !lost(err) { // out of time, and not out of luck
		err = &wait{Duration: 2 * time.Second}
	}
	return s.put(context.WithoutCancel(ctx), err)
}

// run takes the steps. The CA's word for where the order stands decides which comes next.
func (s *issue) run(ctx context.Context) error {
	tired := s.order.Tries > certificate.MaxTries
	if tired || s.now().Sub(s.order.StartedAt) > certificate.MaxAge {
		last := s.order.Last
		if last.What == "" {
			last.What, last.Kind, last.Permanent = "The issue was tried too often without getting on.", "tries", tired
		}
		return &refusal{Failure: last, end: true}
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.certificate.CA != 0 {
		return s.private(ctx)
	}
	if err := s.register(ctx); err != nil {
		return s.at(certificate.AtAccount, err)
	}
	err := s.open(ctx)
	if acme.Is(err, "accountDoesNotExist") { // the CA has forgotten the account, and with it its orders
		s.by.URL, s.order.Asked, s.order.URL = "", false, ""
		if err := s.register(ctx); err != nil {
			return s.at(certificate.AtAccount, err)
		}
		err = s.open(ctx)
	}
	if err != nil {
		return s.at(certificate.AtOrder, err)
	}
	for looks := 0; ; {
		var err error
		switch s.atCA.Status {
		case acme.Pending:
			err = s.authorize(ctx)
		case acme.Ready:
			err = s.finalize(ctx)
		case acme.Processing:
			err = s.look(ctx, s.atCA.RetryAfter, looks)
			looks++
		case acme.Valid:
			return s.download(ctx)
		default:
			return s.invalid(ctx)
		}
		if err != nil {
			return err
		}
	}
}

func (s *issue) load(ctx context.Context) error {
	var err error
	if s.certificate, err = s.store.Certificate(ctx, s.order.User, s.order.Certificate); err != nil {
		return fmt.Errorf("certificate %d: %w", s.order.Certificate, err)
	}
	if s.certificate.CA != 0 {
		return nil
	}
	if s.account, err = s.store.ACMEAccount(ctx, s.order.User, s.certificate.Account); err != nil {
		return fmt.Errorf("ACME account %d: %w", s.certificate.Account, err)
	}
	s.ca = s.issuer.ca.At(s.account.Directory)
	s.by, err = acmekey.Open(ctx, s.keys, s.account)
	return err
}

// private has a private CA issue: a renewal, or what a function was killed at.
func (s *issue) private(ctx context.Context) error {
	_, _, err := s.cas.Run(ctx, s.order, "issuer")
	if f, permanent := caorder.Failure(err, s.now()); permanent {
		return &refusal{Failure: f, cause: err}
	}
	return err
}

func (s *issue) register(ctx context.Context) error {
	if s.by.URL != "" {
		return nil
	}
	url, err := acmekey.Register(ctx, s.keys, s.ca, s.account, s.by)
	why := ""
	if err != nil && acmekey.OfTheCA(err) {
		why = err.Error()
	}
	if err == nil || why != "" {
		if err := s.store.RegisterACMEAccount(ctx, s.account.User, s.account.ID, s.account.URL, url, why, s.now()); err != nil {
			return fmt.Errorf("ACME account %d: %w", s.account.ID, err)
		}
	}
	s.by.URL = url
	if acme.Is(err, "unauthorized") { // of a name it may pass, of an account's binding it does not
		return &refusal{Failure: certificate.Failure{Step: certificate.AtAccount, Kind: "unauthorized", What: why, Permanent: true}, cause: err}
	}
	return err
}

// open makes the key and opens the order, each stored before it is used, or reads the order that there is.
func (s *issue) open(ctx context.Context) error {
	if s.order.URL != "" {
		err := s.look(ctx, 0, 0)
		var p *acme.Problem
		// Not found may be a replica that is behind. Twice is an order that the CA no longer has: it has forgotten the
		// account, which another order has registered anew.
		if errors.As(err, &p) && p.Status == http.StatusNotFound && s.order.Last.Kind == p.Kind() {
			f, _ := s.failure(err)
			return &refusal{Failure: f, cause: err, over: true}
		}
		return err
	}
	lost := s.order.Asked
	if !lost {
		if err := s.makeKey(ctx); err != nil {
			return err
		}
		s.order.Asked, s.order.Step = true, certificate.AtOrder
		if err := s.save(ctx); err != nil {
			return err
		}
	}
	var err error
	found := false
	if lost {
		if s.atCA, found, err = s.ca.LostOrder(ctx, s.by, s.certificate.Names); err != nil {
			return err
		}
	}
	if !found {
		s.atCA, err = s.ca.NewOrder(ctx, s.by, acme.Wish{Names: s.certificate.Names, Profile: s.certificate.Profile, Replaces: s.order.Replaces})
		if err != nil {
			return err
		}
	}
	s.order.URL, s.order.Step = s.atCA.URL, certificate.AtPresent
	return s.progress(ctx)
}

// makeKey makes the key of this issue, unless the caller keeps one.
func (s *issue) makeKey(ctx context.Context) (err error) {
	if s.certificate.CallersKey {
		return nil
	}
	if s.key, err = pki.NewKey(pki.KeyType(s.certificate.KeyType)); err != nil {
		return err
	}
	der := s.key.DER()
	defer clear(der)
	s.order.Key, err = s.keys.Seal(ctx, kmskey.Certificate(s.order.User, s.order.Certificate), der)
	return err
}

// openKey opens the key that an earlier worker made.
func (s *issue) openKey(ctx context.Context) error {
	if s.key.Exists() {
		return nil
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "certificate key read", s.attributes(slog.String("principal", "issuer"))...)
	der, err := s.keys.Open(ctx, kmskey.Certificate(s.order.User, s.order.Certificate), s.order.Key)
	if err != nil {
		return err
	}
	defer clear(der)
	s.key, err = pki.ParseKey(der)
	return err
}

// request is the certification request, the caller's or one by the issue's key, and its public key.
func (s *issue) request(ctx context.Context) ([]byte, crypto.PublicKey, error) {
	if s.certificate.CallersKey {
		der, err := s.store.Request(ctx, s.order.Certificate)
		if err != nil {
			return nil, nil, fmt.Errorf("the caller's request: %w", err)
		}
		r, err := pki.Public.ParseRequestDER(der)
		return r.DER, r.Public, err
	}
	if err := s.openKey(ctx); err != nil {
		return nil, nil, err
	}
	// A public CA certifies names and nothing else of a subject.
	der, err := pki.NewRequest(s.key.Signer(), s.certificate.Names, pki.Subject{})
	return der, s.key.Public(), err
}

// look reads the order after a while, which grows with the looks before.
func (s *issue) look(ctx context.Context, after time.Duration, looks int) (err error) {
	if after > 0 || s.atCA.URL != "" {
		if err := s.rest(ctx, after, looks, "The CA makes the certificate."); err != nil {
			return err
		}
	}
	s.atCA, err = s.ca.Order(ctx, s.by, s.order.URL)
	return err
}

// Bounds of waiting for a CA: the longest that a worker sleeps, beyond which an order is put down and taken up
// again, and the longest at all. Some CAs ask to be left alone for a day about what takes them a minute.
const patience, maxRest = 60 * time.Second, 15 * time.Minute

// rest waits as the CA asks, or a moment that grows with each look in vain. why is for people, should it be long.
func (s *issue) rest(ctx context.Context, asked time.Duration, look int, why string) error {
	if asked == 0 {
		asked = min(5*time.Second, 100*time.Millisecond<<min(look, 8))
	}
	asked = min(asked, maxRest)
	if why != "" { // the CA
		now := s.now()
		if s.order.Waits.IsZero() {
			s.order.Waits = now
		}
		if s.patient.IsZero() {
			s.patient = now.Add(seeingTime)
		}
		if now.After(s.patient) {
			asked = max(asked, s.longer(), patience+1)
		}
	}
	if asked > patience || left(ctx) < asked+5*time.Second {
		w := &wait{Duration: asked}
		if why != "" {
			w.why = certificate.Failure{Step: s.order.Step, Kind: "waiting", What: why}
		}
		return w
	}
	timer := time.NewTimer(asked)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// longer is for how long an order is put down that has waited for a while: half as long again, up to five minutes.
func (s *issue) longer() time.Duration {
	return min(5*time.Minute, max(15*time.Second, s.now().Sub(s.order.Waits)/2))
}

// left is how much of a worker's time is left.
func left(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return time.Hour
	}
	return time.Until(deadline)
}

// save stores the order under this worker's lease, which begins anew.
func (s *issue) save(ctx context.Context) error {
	s.order.LeaseEnds = s.now().Add(certificate.LeaseFor)
	if err := s.store.SaveOrder(ctx, s.order); err != nil {
		return fmt.Errorf("save order: %w", err)
	}
	return nil
}

// progress is save after the order got on: there is one at the CA. What comes after that may be repeated any
// number of times, so that only the end is progress.
func (s *issue) progress(ctx context.Context) error {
	s.order.Tries, s.order.Last, s.gotOn = 1, certificate.Failure{}, true
	return s.save(ctx)
}

// at says at which step an error came.
func (s *issue) at(step certificate.Step, err error) error {
	var w *wait
	var r *refusal
	if errors.As(err, &w) || errors.As(err, &r) {
		return err
	}
	s.order.Step = step
	return err
}

// put ends a worker's turn: the order waits for its next try, or is closed because it failed for good. What is
// wrong with us is returned, after the order has been released.
func (s *issue) put(ctx context.Context, err error) error {
	if lost(err) {
		s.letGo(ctx)
		return nil
	}
	var w *wait
	if errors.As(err, &w) {
		s.order.Tries-- // waiting is no failure; an issue has its age
		if s.order.Last = w.why; w.why.What != "" {
			s.order.Last.At = s.now()
		}
		return s.later(ctx, w.Duration)
	}
	f, known := s.failure(err)
	r := &refusal{}
	errors.As(err, &r)
	if f.Permanent || r.end {
		return s.fail(ctx, f)
	}
	s.order.Last = f
	after := max(certificate.Backoff(s.order.Tries, mathrand.Float64()), min(acme.Wait(err), time.Hour))
	var d *dnssolver.Error
	if errors.As(err, &d) {
		after = max(after, min(d.RetryAfter, time.Hour))
	}
	if r.over {
		if s.order.Orders+1 >= certificate.MaxOrders {
			return s.fail(ctx, f)
		}
		after = s.again()
	}
	if stored := s.later(ctx, after); stored != nil {
		return stored
	}
	if !known {
		return err
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "order waits", s.attributes(slog.String("error", f.What), slog.Duration("for", after))...)
	return nil
}

// lost tells whether an order is no longer this worker's.
func lost(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
}

// letGo leaves an order that is lost: another worker needs its records, and of one that was deleted nobody does.
func (s *issue) letGo(ctx context.Context) {
	if _, err := s.store.Order(ctx, s.order.Certificate); errors.Is(err, store.ErrNotFound) {
		s.forget(ctx, reserve/2, none)
	}
}

// again has the next try open another order, in place of one that the CA has given up. It returns how long
// to wait before. The records stay noted, and are removed when the next ones are set.
func (s *issue) again() time.Duration {
	s.order.Orders++
	s.order.Waits = time.Time{}
	s.order.Asked, s.order.URL, s.order.Key, s.order.Step, s.order.Tries = false, "", sealed.Secret{}, certificate.AtOrder, 0
	return certificate.Backoff(3+2*s.order.Orders, mathrand.Float64())
}

// later releases the order until after, and sends word for then. If the word is lost, the schedule finds the
// order by its time.
func (s *issue) later(ctx context.Context, after time.Duration) error {
	s.order.NextAt = s.now().Add(after)
	if err := s.store.ReleaseOrder(ctx, s.order); err != nil {
		if lost(err) {
			s.letGo(ctx)
			return nil
		}
		return err
	}
	if err := s.queue.Send(ctx, work.Order{User: s.order.User, Certificate: s.order.Certificate}, after); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "left to the schedule", s.attributes(slog.String("error", err.Error()))...)
	}
	return nil
}

// failure is what people are told of an error, and whether it is one of theirs, the CA's or the DNS provider's.
func (s *issue) failure(err error) (certificate.Failure, bool) {
	f := certificate.Failure{At: s.now(), Step: s.order.Step}
	var r *refusal
	var p *acme.Problem
	var u *acme.Unreachable
	var d *dnssolver.Error
	switch {
	case errors.As(err, &r):
		f = r.Failure
		f.At = s.now()
		if f.Step == "" {
			f.Step = s.order.Step
		}
	case errors.As(err, &p):
		f.Kind, f.What, f.Name, f.Permanent = p.Kind(), p.Error(), p.Name(), acme.Permanent(err)
		if acme.Is(p, "rateLimited") {
			f.RetryAt = f.At.Add(cmp.Or(p.RetryAfter, time.Hour))
		}
	case errors.As(err, &u):
		f.Kind, f.What = "connection", u.Error()
	case errors.As(err, &d):
		f.Kind, f.What, f.Permanent = "dns-provider", d.Error(), d.Permanent
	default:
		f.Kind, f.What = "internal", "Something here failed; it is tried again."
		return f, false
	}
	f.What = short(f.What)
	return f, true
}

// short bounds what is kept of a failure: it stands in the certificate's item, and so in every page of a list.
func short(what string) string {
	const most = 600
	if len(what) <= most {
		return what
	}
	return strings.ToValidUTF8(what[:most], "") + "…"
}

func (s *issue) attributes(more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{
		slog.Int64("user", s.order.User), slog.Int64("certificate", s.order.Certificate), slog.Int64("issue", s.order.Issue),
		slog.String("step", string(s.order.Step)), slog.Int("tries", s.order.Tries),
	}, more...)
}

// name is how an authorization is called: the name validated, without a wildcard's asterisk.
func name(z acme.Authorization) string {
	return strings.ToLower(strings.TrimPrefix(z.Identifier.Value, "*."))
}
