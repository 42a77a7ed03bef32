// Package casigner signs for private CAs: certificates, CRLs, and the keys of OCSP responders.
//
// Nothing is signed that is not recorded: the serial number and the certificate as it is to be signed are in the
// CA's ledger before its key is used, and so is a CRL's number. A process that is killed in between leaves an entry
// of which nobody knows whether it was signed; it can be revoked like any other. Each signature leaves an audit line.
//
// A key that is wrapped is opened once and kept in memory for some minutes, with the CA as it was read then. That
// nothing was changed since is a condition of the write that records the next signature.
package casigner

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// Signer signs for the CAs of a deployment.
type Signer struct {
	Store   *store.Store
	Keys    *kmskey.Key     // under which wrapped keys are
	Signing *kmskey.Signing // keys that never leave KMS
	Bucket  *bucket.Bucket  // of what is published; nil where nothing is
	Log     *slog.Logger
	Now     func() time.Time

	mu   sync.Mutex
	open map[int64]opened // by the CA that was asked for, in whose place it stands
}

// opened is a CA with its key, as they are kept in memory.
type opened struct {
	ca    ca.CA
	key   crypto.Signer // nil of a key in KMS, which is opened for each request
	until time.Time
}

// How long, and how many, CAs are kept in memory with their keys.
const keptFor, keptMost = 5 * time.Minute, 64

// Issued is a certificate that was signed.
type Issued struct {
	CA          ca.CA // that signed it
	Entry       ca.Entry
	Certificate *x509.Certificate
	Chain       [][]byte // DER: the certificate, then the CAs up to the root
	Warnings    []string
}

// PEM is the certificate with those above it, as whoever uses it sends them.
func (i Issued) PEM() string { return ca.PEM(i.Chain[0]) + i.CA.PEM(i.Entry.At) }

// Facts are those of the certificate.
func (i Issued) Facts() pki.Facts { return pki.Chain{i.Certificate}.Facts() }

// Issue has the user's CA certify what is asked for, or the one that has taken its place. by is who asks, for the
// ledger and the audit line; certificate is the managed certificate that it is for, 0 for none.
func (s *Signer) Issue(ctx context.Context, user, id int64, r ca.Request, by string, certificate int64) (Issued, error) {
	return s.IssueOnce(ctx, user, id, r, by, certificate, func(Issued) (*store.Idempotency, error) { return nil, nil })
}

// IssueOnce is Issue that stores the idempotency record which once makes of the certificate; store.ErrConflict if
// there is one. A certificate that was signed for nothing stays intended in the ledger.
func (s *Signer) IssueOnce(ctx context.Context, user, id int64, r ca.Request, by string, certificate int64, once func(Issued) (*store.Idempotency, error)) (Issued, error) {
	var tried int64 // the CA in whose ledger the serial number may be
	for try := 0; ; try++ {
		at, kept, err := s.load(ctx, user, id, try > 0)
		if err != nil {
			return Issued{}, err
		}
		plan, err := at.ca.Plan(r, s.Now())
		if err != nil && kept { // it may have been changed since
			continue
		}
		if err != nil {
			return Issued{}, err
		}
		if n, ok := ca.ParseSerial(r.Serial); ok && at.ca.ID != tried {
			plan.Template.SerialNumber = n
		}
		tried = at.ca.ID
		issued, err := s.Sign(ctx, at.ca, at.key, plan, r.Public, by, certificate)
		if errors.Is(err, store.ErrConflict) && try < 3 {
			continue
		}
		if err != nil {
			return issued, err
		}
		record, err := once(issued)
		if err != nil {
			return issued, err
		}
		return issued, s.Store.Complete(ctx, issued.Entry, record)
	}
}

// Find finds an entry of the ledger of the user's CA, or of one that has taken its place; store.ErrNotFound if there is
// none, or the user has no such CA.
func (s *Signer) Find(ctx context.Context, user, id int64, serial string) (ca.CA, ca.Entry, error) {
	for c, err := range s.Store.LineOfCA(ctx, user, id) {
		if err != nil {
			return c, ca.Entry{}, err
		}
		if e, err := s.Store.Entry(ctx, c.ID, serial); !errors.Is(err, store.ErrNotFound) {
			return c, e, err
		}
	}
	return ca.CA{}, ca.Entry{}, store.ErrNotFound
}

// Signed is what was signed under a serial number by the user's CA, or one that has taken its place; store.ErrNotFound
// if nothing is known to be that is still good.
func (s *Signer) Signed(ctx context.Context, user, id int64, serial string) (Issued, error) {
	c, e, err := s.Find(ctx, user, id, serial)
	if err == nil && (len(e.Tail) == 0 || !e.RevokedAt.IsZero()) {
		err = store.ErrNotFound
	}
	if err != nil {
		return Issued{}, err
	}
	parsed, err := x509.ParseCertificate(e.DER())
	return Issued{CA: c, Entry: e, Certificate: parsed, Chain: append([][]byte{e.DER()}, c.Chain...)}, err
}

// Missing is the problem of a CA that the user does not have.
func Missing(id int64) error { return problem.NotFound.New("There is no CA %d.", id) }

// load reads the CA that stands in a CA's place, with its key, from memory unless anew is wanted; kept tells that it is
// from there.
func (s *Signer) load(ctx context.Context, user, id int64, anew bool) (o opened, kept bool, err error) {
	now := s.Now()
	s.mu.Lock()
	o, kept = s.open[id]
	s.mu.Unlock()
	if kept = kept && !anew && o.ca.User == user && now.Before(o.until); !kept {
		last, err := s.Store.LastOfLine(ctx, user, id)
		if errors.Is(err, store.ErrNotFound) {
			s.Forget(id)
			return o, false, Missing(id)
		}
		if err != nil {
			return o, false, err
		}
		before := o
		o = opened{ca: last.Parsed(), until: now.Add(keptFor)}
		switch {
		case last.Custody != ca.Wrapped:
		case now.Before(before.until) && before.ca.ID == last.ID && before.ca.Revision == last.Revision:
			o.key, o.until = before.key, before.until
		default:
			if o.key, err = s.Key(ctx, last); err != nil {
				return o, false, err
			}
		}
		s.keep(id, o)
	}
	if o.key == nil {
		o.key, err = s.Key(ctx, o.ca)
	}
	return o, kept, err
}

func (s *Signer) keep(id int64, o opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil || len(s.open) >= keptMost {
		s.open = map[int64]opened{}
	}
	s.open[id] = o
}

// Forget drops a CA from memory.
func (s *Signer) Forget(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}

// Key opens a CA's key.
func (s *Signer) Key(ctx context.Context, c ca.CA) (crypto.Signer, error) {
	if c.Custody == ca.InKMS {
		public, err := c.PublicKey()
		if err != nil {
			return nil, err
		}
		return s.Signing.Signer(ctx, c.KMSKey, public), nil
	}
	der, err := s.Keys.Open(ctx, kmskey.CA(c.User, c.ID), c.Key)
	if err != nil {
		return nil, fmt.Errorf("open the key of CA %d: %w", c.ID, err)
	}
	defer clear(der)
	key, err := pki.ParseKey(der)
	if err != nil {
		return nil, fmt.Errorf("open the key of CA %d: %w", c.ID, err)
	}
	return key.Signer(), nil
}

// recording is a key that records what it is to sign before it signs.
type recording struct {
	key    crypto.Signer
	record func(message []byte) error
}

func (r *recording) Public() crypto.PublicKey { return r.key.Public() }

// SignMessage is what crypto/x509 calls with the whole of what is to be signed (crypto.MessageSigner).
func (r *recording) SignMessage(random io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	if err := r.record(message); err != nil {
		return nil, err
	}
	return crypto.SignMessage(r.key, random, message, o)
}

// Sign would sign what is not known.
func (r *recording) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a digest alone cannot be recorded")
}

// Sign signs a plan by a CA of the user's and its key. It is recorded before; whoever calls must see to it that
// the entry is completed. store.ErrConflict if the CA was changed since it was read.
func (s *Signer) Sign(ctx context.Context, c ca.CA, key crypto.Signer, plan ca.Plan, public crypto.PublicKey, by string, certificate int64) (Issued, error) {
	return s.sign(ctx, c, key, c.Certificate(), plan, public, by, certificate, func(e ca.Entry) error { return s.Store.Intend(ctx, c, e) })
}

// SignOwn is Sign of a new root's own certificate, by a CA that is not stored yet.
func (s *Signer) SignOwn(ctx context.Context, c ca.CA, key crypto.Signer, plan ca.Plan, by string) (Issued, error) {
	return s.sign(ctx, c, key, plan.Template, plan, key.Public(), by, 0, func(e ca.Entry) error { return s.Store.Record(ctx, e) })
}

func (s *Signer) sign(ctx context.Context, c ca.CA, key crypto.Signer, signer *x509.Certificate, plan ca.Plan, public crypto.PublicKey, by string, certificate int64, record func(ca.Entry) error) (Issued, error) {
	now := s.Now()
	template := *plan.Template
	if template.SerialNumber == nil {
		template.SerialNumber = ca.NewSerial(now)
	}
	e := ca.Entry{
		CA: c.ID, Serial: ca.SerialText(template.SerialNumber), Names: plan.Names, Profile: plan.Profile, By: by, Certificate: certificate,
		At: now, NotAfter: template.NotAfter,
	}
	recorded := &recording{key, func(tbs []byte) error {
		e.TBS = tbs
		if err := record(e); err != nil {
			return err
		}
		s.Log.LogAttrs(ctx, slog.LevelInfo, "CA signs", slog.Int64("user", c.User), slog.Int64("ca", c.ID), slog.String("serial", e.Serial), slog.String("profile", e.Profile),
			slog.Any("names", e.Names), slog.String("subject", template.Subject.String()), slog.Time("not_after", e.NotAfter), slog.Int64("certificate", certificate), slog.String("principal", by))
		return nil
	}}
	der, err := x509.CreateCertificate(rand.Reader, &template, signer, public, recorded)
	if err != nil {
		return Issued{}, fmt.Errorf("CA %d signs %s: %w", c.ID, e.Serial, err)
	}
	if err := e.Complete(der); err != nil {
		return Issued{}, fmt.Errorf("CA %d signs %s: %w", c.ID, e.Serial, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, fmt.Errorf("CA %d signs %s: %w", c.ID, e.Serial, err)
	}
	return Issued{CA: c, Entry: e, Certificate: parsed, Chain: append([][]byte{der}, c.Chain...), Warnings: plan.Warnings}, nil
}
