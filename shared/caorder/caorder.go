// Package caorder issues managed certificates from private CAs.
//
// It works on the same orders as the issuer does at ACME CAs, in one step: the key is stored, the CA signs, the
// chain is put in place. A function does so while its caller waits. If it is killed, the order is still open, and
// the schedule has the issuer finish it.
package caorder

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/closing"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// Worker issues from private CAs.
type Worker struct {
	Store  *store.Store
	Keys   *kmskey.Key
	Signer *casigner.Signer
	Log    *slog.Logger
	Now    func() time.Time
}

// Request is what a certificate asks of its CA. public is nil when it is only looked at.
func Request(c certificate.Certificate, public crypto.PublicKey) ca.Request {
	return ca.Request{Names: c.Names, Subject: pki.Subject(c.Subject), Public: public, KeyType: pki.KeyType(c.KeyType), Profile: c.Profile, Validity: c.Validity}
}

// Look refuses what the certificate's CA would refuse, before anything is stored. csr is the request of a caller who
// keeps the key (PKCS#10, DER); nil for a key that is made here, or a request that was looked at before.
func (w *Worker) Look(ctx context.Context, c certificate.Certificate, csr []byte) error {
	var public crypto.PublicKey
	if csr != nil {
		r, err := pki.Any.ParseRequestDER(csr)
		if err != nil {
			return err
		}
		public = r.Public
	}
	at, err := w.Store.LastOfLine(ctx, c.User, c.CA)
	if errors.Is(err, store.ErrNotFound) {
		return casigner.Missing(c.CA)
	}
	if err != nil {
		return err
	}
	_, err = at.Plan(Request(c, public), w.Now())
	return err
}

// Issue finishes the open issue of a certificate that was just opened, and returns the certificate as it is then
// with what was signed. by is who asked. store.ErrConflict if another worker has it.
func (w *Worker) Issue(ctx context.Context, id int64, by string) (certificate.Certificate, casigner.Issued, error) {
	o, err := w.Store.LeaseOrder(ctx, id, rand.Text(), w.Now())
	if err != nil {
		return certificate.Certificate{}, casigner.Issued{}, err
	}
	c, issued, err := w.Run(ctx, o, by)
	if err == nil {
		return c, issued, nil
	}
	rest := context.WithoutCancel(ctx)
	if f, permanent := Failure(err, w.Now()); permanent {
		return c, issued, errors.Join(err, w.closer().Fail(rest, o, f))
	}
	// Left to the issuer, which the schedule sends word.
	if saved, found := w.Store.Order(rest, id); found == nil && saved.Lease == o.Lease {
		saved.NextAt = w.Now().Add(certificate.Backoff(saved.Tries, 0))
		err = errors.Join(err, w.Store.ReleaseOrder(rest, saved))
	}
	return c, issued, err
}

// How long Await waits for another worker, and how often it looks.
const waitFor, lookEvery = 3 * time.Second, 100 * time.Millisecond

// Await sees to it that an issue ends: as Issue does, or by waiting a while for the worker that has it. It is nil when
// the issue has ended, however; store.ErrConflict if it is still open.
func (w *Worker) Await(ctx context.Context, id int64, by string) error {
	limit := time.NewTimer(waitFor)
	defer limit.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		_, _, err := w.Issue(ctx, id, by)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return err
		case <-tick.C:
		}
	}
}

// Failure is a CA's refusal as an issue keeps it; false if the error may pass.
func Failure(err error, now time.Time) (certificate.Failure, bool) {
	var p *problem.Error
	if !errors.As(err, &p) || p.Status >= 500 || p.Status == problem.RateLimited.Status {
		return certificate.Failure{}, false
	}
	return certificate.Failure{At: now, Step: certificate.AtFinalize, Kind: "rejectedIdentifier", What: p.What, Permanent: true}, true
}

func (w *Worker) closer() closing.Closer {
	return closing.Closer{Store: w.Store, Keys: w.Keys, Log: w.Log, Now: w.Now}
}

// Run finishes an order that the caller has leased.
func (w *Worker) Run(ctx context.Context, o certificate.Order, by string) (certificate.Certificate, casigner.Issued, error) {
	c, err := w.Store.Certificate(ctx, o.User, o.Certificate)
	if err != nil {
		return c, casigner.Issued{}, fmt.Errorf("certificate %d: %w", o.Certificate, err)
	}
	issued, err := w.sign(ctx, c, &o, by)
	if err != nil {
		return c, issued, err
	}
	chain, err := pki.ParseChain([]byte(issued.PEM()))
	if err != nil {
		return c, issued, err
	}
	if c, err = w.closer().Succeed(ctx, o, chain); err != nil {
		return c, issued, err
	}
	// It may have been revoked before it was in its place, and was not marked then.
	e, err := w.Store.Entry(ctx, issued.Entry.CA, issued.Entry.Serial)
	if err != nil || e.RevokedAt.IsZero() {
		return c, issued, err
	}
	if err := w.Store.RevokeEntry(ctx, c.User, e, e.Reason, w.Now()); err != nil && !errors.Is(err, store.ErrConflict) {
		return c, issued, err
	}
	c, err = w.Store.Certificate(ctx, c.User, c.ID)
	return c, issued, err
}

// sign has the CA sign, unless it has for an earlier worker. The serial number is stored before, so that this one finds
// what was signed.
func (w *Worker) sign(ctx context.Context, c certificate.Certificate, o *certificate.Order, by string) (casigner.Issued, error) {
	if o.Serial != "" {
		if issued, err := w.Signer.Signed(ctx, c.User, c.CA, o.Serial); !errors.Is(err, store.ErrNotFound) {
			return issued, err
		}
	}
	public, err := w.key(ctx, c, o)
	if err != nil {
		return casigner.Issued{}, err
	}
	o.Serial = ca.SerialText(ca.NewSerial(w.Now()))
	o.Step, o.LeaseEnds = certificate.AtFinalize, w.Now().Add(certificate.LeaseFor)
	if err := w.Store.SaveOrder(ctx, *o); err != nil {
		return casigner.Issued{}, err
	}
	r := Request(c, public)
	r.Serial = o.Serial
	return w.Signer.Issue(ctx, c.User, c.CA, r, by, c.ID)
}

// key makes the issue's key, or opens the one that an earlier worker made, or takes that of the
// caller's request.
func (w *Worker) key(ctx context.Context, c certificate.Certificate, o *certificate.Order) (crypto.PublicKey, error) {
	if c.CallersKey {
		der, err := w.Store.Request(ctx, c.ID)
		if err != nil {
			return nil, fmt.Errorf("the caller's request: %w", err)
		}
		r, err := pki.Private.ParseRequestDER(der)
		return r.Public, err
	}
	if !o.Key.Empty() {
		der, err := w.Keys.Open(ctx, kmskey.Certificate(o.User, o.Certificate), o.Key)
		if err != nil {
			return nil, err
		}
		defer clear(der)
		key, err := pki.ParseKey(der)
		if err != nil {
			return nil, err
		}
		return key.Public(), nil
	}
	key, err := pki.NewKey(pki.KeyType(c.KeyType))
	if err != nil {
		return nil, err
	}
	der := key.DER()
	defer clear(der)
	o.Key, err = w.Keys.Seal(ctx, kmskey.Certificate(o.User, o.Certificate), der)
	return key.Public(), err
}
