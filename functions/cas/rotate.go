package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

type rotateCARequest struct {
	Path
	idempotency.Header
	Body *rotation `required:"false"`
}

type rotation struct {
	Name      string `json:"name,omitempty" maxLength:"128" doc:"That of the CA, if absent."`
	KeyType   string `json:"key_type,omitempty" maxLength:"32" doc:"That of the CA, if absent."`
	Custody   string `json:"key_custody,omitempty" maxLength:"16" doc:"That of the CA, if absent."`
	ValidDays int    `json:"valid_days,omitempty" minimum:"0" maximum:"14600" doc:"Those of the CA, if absent."`
}

// rotate makes a successor. Nothing of the CA changes before the successor is stored, in one transaction with that.
func (h *handler) rotate(ctx context.Context, in *rotateCARequest) (*idempotency.Answer[CA], error) {
	old, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	own := "The CA's own, to the byte" // an imported one may have a common name that nobody could ask for
	var asked rotation
	if in.Body != nil {
		asked = *in.Body
	}
	want := newCA{
		Name: cmp.Or(asked.Name, old.Name), CommonName: &own, Custody: cmp.Or(asked.Custody, string(old.Custody)), KeyType: cmp.Or(asked.KeyType, string(old.KeyType)),
		ValidDays: cmp.Or(asked.ValidDays, old.Days),
	}
	c, err := want.ca(in.User)
	if err != nil {
		return nil, err
	}
	c.CommonName, c.Subject, c.PathLen, c.Parent, c.Former, c.Profiles, c.Default = old.CommonName, old.Subject, old.PathLength(), old.Parent, old.ID, old.Profiles, old.Default
	return idempotency.Do(ctx, h.store, &in.Header, "rotate-ca", struct {
		ID   int64
		Body any
	}{in.ID, in.Body}, h.now(),
		func(seal func(CA) (*store.Idempotency, error)) (CA, error) {
			if status := old.Status(h.now()); status == ca.Rotated || status == ca.Pending {
				return CA{}, problem.Conflict.New("CA %d is %s, and cannot be rotated.", old.ID, status)
			}
			own := old.Certificate()
			c.Constraints, c.RawSubject, c.Usages = pki.ConstraintsOf(own), own.RawSubject, ca.UsagesOf(own)
			var parent *ca.CA
			if old.Parent != 0 {
				above, err := h.store.LastOfLine(ctx, in.User, old.Parent)
				if errors.Is(err, store.ErrNotFound) {
					err = problem.Conflict.New("CA %d, which signed this one, is gone. Create a new CA.", old.Parent)
				}
				if err != nil {
					return CA{}, err
				}
				parent, c.Parent = &above, above.ID
			}
			if old.Status(h.now()) == ca.Expired && old.Root() { // it signs nothing any more, its successor neither
				return CA{}, problem.Conflict.New("The root's certificate has expired: there is nobody left who would trust what it says of a successor. Create a new CA.")
			}
			external := old.Parent == 0 && !old.Root()
			if external {
				c.Constraints = pki.Constraints{}
			}
			made, err := h.found(ctx, c, parent, external, &old, seal)
			if err == nil {
				h.signer.Forget(old.ID)
				h.audit(ctx, "rotated", old, slog.Int64("successor", made.ID))
			}
			return made, err
		})
}
