package main

import (
	"context"
	"errors"
	"log/slog"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// needs asks for the second permission of an operation, on the thing that a device is to have.
func needs(ctx context.Context, objectType string, id int64) error {
	caller, _ := access.FromContext(ctx)
	if !caller.Allow(access.Need{Type: objectType, Action: access.Read, ID: id}) {
		return problem.Lacking(access.Need{Type: objectType, Action: access.Read}.String())
	}
	return nil
}

type listOnRequest struct {
	Path
	wire.Paging
}

type certificatesResponse struct{ Body wire.List[OnDevice] }

func (h *handler) certificates(ctx context.Context, in *listOnRequest) (*certificatesResponse, error) {
	if _, err := h.delivery.Device(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	ids, err := h.store.CertificatesOn(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	some := ids[min(in.Offset, len(ids)):min(in.Offset+in.Limit, len(ids))]
	found, err := h.store.CertificatesByID(ctx, in.User, some)
	if err != nil {
		return nil, err
	}
	truths, err := h.store.AssignmentsOn(ctx, in.ID, some)
	if err != nil {
		return nil, err
	}
	all := []OnDevice{}
	for _, c := range found {
		if a, ok := truths[c.ID]; ok {
			all = append(all, OnDevice{record.Of(c, h.now()), truth(a)})
		}
	}
	return &certificatesResponse{wire.List[OnDevice]{Data: all, Meta: wire.Meta{Total: len(ids), Offset: in.Offset, Limit: in.Limit}}}, nil
}

type assignRequest struct {
	Path
	Body struct {
		Certificate wire.ID `json:"cert_id,omitempty"`
		Alias       wire.ID `json:"certificate_id,omitempty" doc:"The same as cert_id."`
	}
}

func (h *handler) assign(ctx context.Context, in *assignRequest) (*struct{}, error) {
	id := int64(in.Body.Certificate)
	if id == 0 {
		id = int64(in.Body.Alias)
	}
	if id == 0 {
		return nil, problem.MissingField.New("cert_id: which certificate?").With("field", "cert_id")
	}
	if err := needs(ctx, "certs", id); err != nil {
		return nil, err
	}
	d, err := h.delivery.ActiveDevice(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, h.assignTo(ctx, d, id)
}

// assignTo puts a certificate of the user's on a device.
func (h *handler) assignTo(ctx context.Context, d device.Device, id int64) error {
	if _, err := h.findCertificate(ctx, d.User, id); err != nil {
		return err
	}
	if err := h.delivery.Assign(ctx, d, id); err != nil {
		return gone(err)
	}
	h.audit(ctx, "has a certificate assigned", d, slog.Int64("certificate", id))
	return nil
}

func (h *handler) findCertificate(ctx context.Context, user, id int64) (certificate.Certificate, error) {
	c, err := h.store.Certificate(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return c, delivery.Foreign(ctx, problem.NotFound.New("There is no certificate %d.", id), func() (int64, error) { return h.store.OwnerOfCertificate(ctx, id) })
	}
	return c, err
}

// OnePath is the path parameters of a certificate on a device.
type OnePath struct {
	Path
	Certificate int64 `path:"certificate_id" minimum:"1" maximum:"9007199254740991"`
}

func (h *handler) certificate(ctx context.Context, in *OnePath) (*certificateResponse, error) {
	if _, err := h.delivery.Device(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	c, err := h.findCertificate(ctx, in.User, in.Certificate)
	if err != nil {
		return nil, err
	}
	a, err := h.store.Assignment(ctx, in.Certificate, in.ID)
	if err != nil {
		return nil, notOn(err, "Certificate", in.Certificate)
	}
	return &certificateResponse{wire.Data[OnDevice]{Data: OnDevice{record.Of(c, h.now()), truth(a)}}}, nil
}

func notOn(err error, what string, id int64) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("%s %d is not assigned to this device.", what, id)
	}
	return err
}

func (h *handler) unassign(ctx context.Context, in *OnePath) (*struct{}, error) {
	d, err := h.delivery.Device(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	if _, err := h.findCertificate(ctx, in.User, in.Certificate); err != nil {
		return nil, err
	}
	if d.Status() == device.Revoked {
		return nil, h.store.Drop(ctx, in.Certificate, in.ID)
	}
	if err := h.store.Unassign(ctx, in.Certificate, in.ID, h.now()); err != nil {
		return nil, notOn(err, "Certificate", in.Certificate)
	}
	h.audit(ctx, "has a certificate unassigned", d, slog.Int64("certificate", in.Certificate))
	return nil, nil
}

type bundleRequest struct {
	OnePath
	bundle.Packed
}

func (h *handler) bundle(ctx context.Context, in *bundleRequest) (*bundle.MaterialResponse, error) {
	if err := needs(ctx, "certs", in.Certificate); err != nil {
		return nil, err
	}
	if _, err := h.delivery.ActiveDevice(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	if _, err := h.findCertificate(ctx, in.User, in.Certificate); err != nil {
		return nil, err
	}
	found, err := h.bundles.Find(ctx, in.User, in.ID, in.Certificate)
	if err != nil {
		return nil, err
	}
	caller, _ := access.FromContext(ctx)
	m, plain, err := h.bundles.Material(ctx, found, caller.Principal())
	if err != nil {
		return nil, err
	}
	return bundle.AnswerMaterial(in.Packed, in.Certificate, m, plain), nil
}

type casResponse struct{ Body wire.List[bundle.TrustedCA] }

func (h *handler) cas(ctx context.Context, in *listOnRequest) (*casResponse, error) {
	if _, err := h.delivery.Device(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	ids, err := h.store.CAsOn(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	all := []bundle.TrustedCA{}
	for _, id := range ids[min(in.Offset, len(ids)):min(in.Offset+in.Limit, len(ids))] {
		c, err := h.store.CA(ctx, in.User, id)
		if errors.Is(err, store.ErrNotFound) { // deleted, and on its way off the device
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, bundle.OfCA(c, h.now()))
	}
	return &casResponse{wire.List[bundle.TrustedCA]{Data: all, Meta: wire.Meta{Total: len(ids), Offset: in.Offset, Limit: in.Limit}}}, nil
}

type assignCARequest struct {
	Path
	Body struct {
		CA wire.ID `json:"ca_id"`
	}
}

func (h *handler) assignCA(ctx context.Context, in *assignCARequest) (*struct{}, error) {
	id := int64(in.Body.CA)
	if err := needs(ctx, "cas", id); err != nil {
		return nil, err
	}
	d, err := h.delivery.ActiveDevice(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	c, err := h.findCA(ctx, in.User, id)
	if err != nil {
		return nil, err
	}
	if len(c.Chain) == 0 {
		return nil, problem.NotIssued.New("CA %d has no certificate yet that a device could trust.", id)
	}
	err = h.store.AssignCA(ctx, c, d.ID, h.now())
	switch {
	case errors.Is(err, store.ErrAssigned):
		return nil, nil
	case errors.Is(err, store.ErrFull):
		if _, err := h.store.CAOn(ctx, id, d.ID); !errors.Is(err, store.ErrNotFound) {
			return nil, err // it is on it already
		}
		return nil, problem.Conflict.New("A device may have %d CAs. Take one off that it needs no more.", device.MaxAssigned)
	case err != nil:
		return nil, gone(err)
	}
	h.audit(ctx, "has a CA assigned", d, slog.Int64("ca", id))
	return nil, nil
}

func (h *handler) findCA(ctx context.Context, user, id int64) (ca.CA, error) {
	c, err := h.store.CA(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return c, delivery.Foreign(ctx, problem.NotFound.New("There is no CA %d.", id), func() (int64, error) { return h.store.OwnerOfCA(ctx, id) })
	}
	return c, err
}

// CAPath is the path parameters of a CA on a device.
type CAPath struct {
	Path
	CA int64 `path:"ca_id" minimum:"1" maximum:"9007199254740991"`
}

func (h *handler) unassignCA(ctx context.Context, in *CAPath) (*struct{}, error) {
	d, err := h.delivery.Device(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	c, err := h.findCA(ctx, in.User, in.CA)
	if err != nil {
		return nil, err
	}
	if d.Status() == device.Revoked {
		return nil, h.store.DropCA(ctx, in.CA, in.ID)
	}
	if err := h.store.UnassignCA(ctx, in.CA, c.Name, c.Serial(), in.ID, h.now()); err != nil {
		return nil, notOn(err, "CA", in.CA)
	}
	h.audit(ctx, "has a CA unassigned", d, slog.Int64("ca", in.CA))
	return nil, nil
}

type caBundleRequest struct {
	CAPath
	bundle.Packed
}

func (h *handler) caBundle(ctx context.Context, in *caBundleRequest) (*bundle.CAResponse, error) {
	if _, err := h.delivery.Device(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	c, err := h.findCA(ctx, in.User, in.CA)
	if err != nil {
		return nil, err
	}
	if _, err := h.store.CAOn(ctx, in.CA, in.ID); err != nil {
		return nil, notOn(err, "CA", in.CA)
	}
	return bundle.AnswerCA(in.Packed, c, h.now()), nil
}
