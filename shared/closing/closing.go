// Package closing ends the open issue of a certificate: with the chain that a CA gave, or with why it gave none.
package closing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
)

// Closer closes issues.
type Closer struct {
	Store *store.Store
	Keys  *kmskey.Key // opens what is sealed to devices
	Log   *slog.Logger
	Now   func() time.Time
}

// Succeed puts a chain and the issue's key in the place of those before, and returns the certificate as it is then.
// store.ErrConflict if the order is no longer the worker's, store.ErrNotFound if the certificate is gone.
func (cl Closer) Succeed(ctx context.Context, o certificate.Order, chain pki.Chain) (certificate.Certificate, error) {
	leaf := chain.Facts()
	issued := certificate.Issued{
		Issue: o.Issue, Serial: leaf.Serial, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Fingerprint: leaf.Fingerprint, ARI: leaf.ARI,
	}
	outcome := cl.outcome(o, certificate.Succeeded)
	outcome.Serial, outcome.NotAfter = issued.Serial, issued.NotAfter
	c, err := cl.close(ctx, o, outcome, &store.Material{Chain: chain.PEM(), Key: o.Key}, func(c *certificate.Certificate) {
		c.Current, c.Failure, c.Tries, c.RevokedAt, c.Reason = issued, certificate.Failure{}, 0, time.Time{}, 0
		if c.CA != 0 { // nobody need be asked when it is due
			c.Current.ARI = ""
		}
		c.RenewAt = time.Time{}
		if c.AutoRenew {
			c.RenewAt = c.Current.FirstLook(cl.Now(), rand.Float64())
		}
	})
	if err != nil {
		return c, err
	}
	cl.Log.LogAttrs(ctx, slog.LevelInfo, "certificate issued", attributes(o,
		slog.String("serial", issued.Serial), slog.Time("not_after", issued.NotAfter), slog.Int("names", len(c.Names)))...)
	delivery := delivery.Worker{Store: cl.Store, Keys: cl.Keys, Log: cl.Log, Now: cl.Now}
	delivery.Begin(ctx, c.ID)
	return c, nil
}

// Fail closes an issue that failed for good. What is in place stays. It is no error if the issue is gone.
func (cl Closer) Fail(ctx context.Context, o certificate.Order, f certificate.Failure) error {
	outcome := cl.outcome(o, certificate.Unissued)
	outcome.Failure = f
	_, err := cl.close(ctx, o, outcome, nil, func(c *certificate.Certificate) {
		c.Failure = f
		c.Tries++
		if c.AutoRenew && c.RevokedAt.IsZero() { // whoever revoked it says when there is to be another
			c.RenewAt = c.RetryAt(cl.Now(), rand.Float64())
		}
	})
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return nil // deleted, or closed by another worker
	}
	if err != nil {
		return err
	}
	cl.Log.LogAttrs(ctx, slog.LevelWarn, "certificate not issued", attributes(o, slog.String("kind", f.Kind), slog.String("error", f.What))...)
	return nil
}

func (cl Closer) outcome(o certificate.Order, state certificate.IssueState) certificate.Issue {
	return certificate.Issue{
		ID: o.IssueID, Certificate: o.Certificate, Number: o.Issue, State: state, Order: o.URL, StartedAt: o.StartedAt, CompletedAt: cl.Now(),
	}
}

// close ends the issue together with what changes of the certificate. A change that its owner made meanwhile
// is kept: the certificate is read again and changed anew.
func (cl Closer) close(ctx context.Context, o certificate.Order, outcome certificate.Issue, m *store.Material, change func(*certificate.Certificate)) (certificate.Certificate, error) {
	for try := 0; ; try++ {
		c, err := cl.Store.Certificate(ctx, o.User, o.Certificate)
		if err != nil {
			return c, fmt.Errorf("close the issue: %w", err)
		}
		change(&c)
		c.UpdatedAt = cl.Now()
		c, err = cl.Store.CloseOrder(ctx, o, c, outcome, m)
		if !errors.Is(err, store.ErrConflict) || try == 5 {
			return c, err
		}
		if current, err := cl.Store.Order(ctx, o.Certificate); err != nil || current.Lease != o.Lease {
			return c, store.ErrConflict
		}
	}
}

func attributes(o certificate.Order, more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{
		slog.Int64("user", o.User), slog.Int64("certificate", o.Certificate), slog.Int64("issue", o.Issue), slog.String("step", string(o.Step)), slog.Int("tries", o.Tries),
	}, more...)
}
