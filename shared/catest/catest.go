// Package catest gives a test a private CA.
package catest

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
)

// Signer signs for the CAs of a store.
func Signer(t testing.TB, s *store.Store, now func() time.Time) *casigner.Signer {
	t.Helper()
	return &casigner.Signer{Store: s, Keys: awstest.Key(t), Signing: awstest.Signing(t), Bucket: awstest.Bucket(t), Log: slog.New(slog.DiscardHandler), Now: now}
}

// Root makes a root of the user's, changed as wanted before it is signed.
func Root(t testing.TB, s *casigner.Signer, user int64, change ...func(*ca.CA)) ca.CA {
	t.Helper()
	made, err := root(t.Context(), s, user, change)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func root(ctx context.Context, s *casigner.Signer, user int64, change []func(*ca.CA)) (ca.CA, error) {
	now := s.Now()
	id, err := s.Store.NextCAID(ctx)
	if err != nil {
		return ca.CA{}, err
	}
	c := ca.CA{
		User: user, ID: id, Name: "root", CommonName: "Root", KeyType: pki.ECDSAP256, Custody: ca.Wrapped, PathLen: ca.NoPathLen, Days: 3650, CreatedAt: now, UpdatedAt: now,
		Revocation: fmt.Sprintf("http://pki.example.test/pki/%d", id), Directory: fmt.Sprintf("https://pki.example.test/pki/%d/acme", id),
	}
	for _, ch := range change {
		ch(&c)
	}
	key, err := pki.NewKey(c.KeyType)
	if err != nil {
		return c, err
	}
	if c.Public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return c, err
	}
	if c.Key, err = s.Keys.Seal(ctx, kmskey.CA(user, id), key.DER()); err != nil {
		return c, err
	}
	plan, err := c.Own(nil, now)
	if err != nil {
		return c, err
	}
	issued, err := s.SignOwn(ctx, c, key.Signer(), plan, "test")
	if err != nil {
		return c, err
	}
	c.Chain = issued.Chain
	return s.Store.CreateCA(ctx, c, []ca.Entry{issued.Entry}, nil, nil)
}
