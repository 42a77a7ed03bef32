package casigner

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// Keys of what a CA publishes.
func CRLObject(id int64) string         { return fmt.Sprintf("%d/ca.crl", id) }
func CertificateObject(id int64) string { return fmt.Sprintf("%d/ca.crt", id) }

// Types of what is published (RFC 2585 §4), and for how long a cache may keep it: a revocation is to be seen in
// minutes.
const (
	crlType, certificateType = "application/pkix-crl", "application/pkix-cert"
	crlCaching               = "public, max-age=60"
	certificateCaching       = "public, max-age=3600"
)

const numberMetadata = "crl-number"

// ErrOwnRoot is the answer to who wants a root's own certificate revoked.
var ErrOwnRoot = problem.Conflict.New("A root cannot revoke itself: nobody would ask it. Have it removed wherever it is trusted, and delete the CA.")

// Revoke revokes an entry of a CA's ledger and publishes the CRL that says so; if that fails, the schedule will.
// store.ErrConflict if it is revoked already, store.ErrNotFound if it or the CA is gone. An OCSP signer is followed by
// another: nobody asks whether it is revoked.
func (s *Signer) Revoke(ctx context.Context, user int64, e ca.Entry, reason int, by string) error {
	if e.OfCA() {
		c, err := s.Store.CA(ctx, user, e.CA)
		if err != nil {
			return err
		}
		if bytes.Equal(c.Certificate().Raw, e.DER()) {
			return ErrOwnRoot
		}
	}
	if err := s.Store.RevokeEntry(ctx, user, e, reason, s.Now()); err != nil {
		return err
	}
	s.Log.LogAttrs(ctx, slog.LevelInfo, "CA revokes", slog.Int64("user", user), slog.Int64("ca", e.CA), slog.String("serial", e.Serial),
		slog.Any("names", e.Names), slog.Int("reason", reason), slog.Int64("certificate", e.Certificate), slog.String("principal", by))
	err := error(nil)
	if e.Profile == ca.OfOCSP {
		err = s.RenewOCSPSigner(ctx, user, e.CA)
	}
	if err == nil { // in this order: what is published is not due any more
		err = s.publishSoon(ctx, user, e.CA)
	}
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "CRL or OCSP signer left to the schedule", slog.Int64("ca", e.CA), slog.String("error", err.Error()))
	}
	return nil
}

// atOnceEvery is how often revocations publish a CRL: many at a time would each list all the others.
const atOnceEvery = time.Second

// publishSoon publishes a CRL that is due, unless another process has in the moment that it waits. What it leaves the
// schedule does, once a minute.
func (s *Signer) publishSoon(ctx context.Context, user, id int64) error {
	stands, err := s.Store.CRLOf(ctx, id)
	if err != nil {
		return err
	}
	if rest := atOnceEvery - s.Now().Sub(stands.ThisUpdate); rest > 0 {
		timer := time.NewTimer(min(rest, atOnceEvery) + rand.N(atOnceEvery/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		if stands, err = s.Store.CRLOf(ctx, id); err != nil {
			return err
		}
	}
	if stands.Due.After(s.Now()) {
		return nil
	}
	_, err = s.Publish(ctx, user, id)
	return err
}

// Publish makes a CA's CRL and puts it and the CA's certificate where everybody can read them.
func (s *Signer) Publish(ctx context.Context, user, id int64) (store.CRL, error) {
	c, err := s.Store.CA(ctx, user, id)
	if err != nil {
		return store.CRL{}, err
	}
	now := s.Now()
	if !now.Before(c.Certificate().NotAfter) { // nobody asks for the CRL of a CA that has expired (RFC 5280 §6.3.3)
		stands, err := s.Store.NumberCRL(ctx, id)
		if err != nil {
			return stands, err
		}
		stands.ThisUpdate, stands.NextUpdate = now, now
		return stands, s.Store.PublishedCRL(ctx, stands, now.Add(365*24*time.Hour))
	}
	key, err := s.Key(ctx, c)
	if err != nil {
		return store.CRL{}, err
	}
	stands, err := s.Store.NumberCRL(ctx, id) // before the list is read: what is revoked after that makes another due
	if err != nil {
		return stands, err
	}
	revoked, err := s.Store.Revocations(ctx, id)
	if err != nil {
		return stands, err
	}
	der, next, err := c.CRL(stands.Number, revoked, now, key)
	if err != nil {
		return stands, fmt.Errorf("CRL %d of CA %d: %w", stands.Number, id, err)
	}
	s.Log.LogAttrs(ctx, slog.LevelInfo, "CA signs CRL", slog.Int64("user", user), slog.Int64("ca", id), slog.Int64("number", stands.Number), slog.Int("revoked", len(revoked)))
	if _, err := s.Bucket.Put(ctx, CertificateObject(id), c.Chain[0], bucket.Options{ContentType: certificateType, CacheControl: certificateCaching}, ""); err != nil {
		return stands, err
	}
	if err := s.putCRL(ctx, id, stands.Number, der); err != nil {
		return stands, err
	}
	stands.Published, stands.ThisUpdate, stands.NextUpdate = stands.Number, now, next
	due := now.Add(ca.CRLEvery)
	// A process that was killed when it made the CA left no OCSP signer: that is the schedule's to make, when the CRL is due.
	if _, err := s.Store.OCSPSigner(ctx, id); errors.Is(err, store.ErrNotFound) {
		due = now
	} else if err != nil {
		return stands, err
	}
	return stands, s.Store.PublishedCRL(ctx, stands, due)
}

// putCRL puts a CRL in the place of one with a lower number.
func (s *Signer) putCRL(ctx context.Context, id, number int64, der []byte) error {
	options := bucket.Options{ContentType: crlType, CacheControl: crlCaching, Metadata: map[string]string{numberMetadata: strconv.FormatInt(number, 10)}}
	for range 10 {
		there, err := s.Bucket.Get(ctx, CRLObject(id))
		match := there.ETag
		switch {
		case errors.Is(err, bucket.ErrNotFound):
			match = bucket.Absent
		case err != nil:
			return err
		}
		if published, _ := strconv.ParseInt(there.Metadata[numberMetadata], 10, 64); published >= number {
			return nil
		}
		if _, err = s.Bucket.Put(ctx, CRLObject(id), der, options, match); !errors.Is(err, bucket.ErrChanged) {
			return err
		}
	}
	return fmt.Errorf("CRL %d of CA %d: others are published all the time", number, id)
}

// RenewOCSPSigner makes the key and certificate that sign a CA's OCSP answers, unless those there are good for long
// enough, and not revoked.
func (s *Signer) RenewOCSPSigner(ctx context.Context, user, id int64) error {
	c, err := s.Store.CA(ctx, user, id)
	if err != nil {
		return err
	}
	now := s.Now()
	if !now.Before(c.Certificate().NotAfter) {
		return nil
	}
	there, err := s.Store.OCSPSigner(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && now.Add(ca.OCSPSignerFor*2/3).Before(there.NotAfter) && bytes.Equal(there.Issuer, c.Chain[0]) {
		switch e, err := s.entryOf(ctx, id, there.Certificate); {
		case errors.Is(err, store.ErrNotFound), err == nil && e.RevokedAt.IsZero():
			return nil
		case err != nil:
			return err
		}
	}
	key, err := s.Key(ctx, c)
	if err != nil {
		return err
	}
	made, err := pki.NewKey(pki.ECDSAP256)
	if err != nil {
		return err
	}
	plan, err := c.OCSPSigner(made.Public(), now)
	if err != nil {
		return err
	}
	issued, err := s.Sign(ctx, c, key, plan, made.Public(), "ocsp", 0)
	if err != nil {
		return err
	}
	der := made.DER()
	defer clear(der)
	kept, err := s.Keys.Seal(ctx, kmskey.OCSPSigner(user, id), der)
	if err != nil {
		return err
	}
	if err := s.Store.Complete(ctx, issued.Entry, nil); err != nil {
		return err
	}
	return s.Store.KeepOCSPSigner(ctx, c, store.OCSPSigner{
		User: user, CA: id, Certificate: issued.Chain[0], Issuer: c.Chain[0], Key: kept, NotAfter: issued.Certificate.NotAfter,
	})
}

// entryOf is the entry of a certificate that a CA signed.
func (s *Signer) entryOf(ctx context.Context, id int64, der []byte) (ca.Entry, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return ca.Entry{}, err
	}
	return s.Store.Entry(ctx, id, ca.SerialText(c.SerialNumber))
}
