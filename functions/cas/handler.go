package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store      *store.Store
	keys       *kmskey.Key
	signing    *kmskey.Signing
	signer     *casigner.Signer
	worker     *caorder.Worker
	revocation string // URL below which what CAs publish is, without a slash at the end
	directory  string // URL below which their ACME directories are
	log        *slog.Logger
	now        func() time.Time
}

func (h *handler) routes() *wire.API {
	const all, one = "/apiv1/users/{user_id}/cas", "/apiv1/users/{user_id}/cas/{ca_id}"
	rule := func(a access.Action, object string) wire.Rule {
		return wire.Rule{Type: "cas", Action: a, Object: object}
	}
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: all, ID: "list-cas", Rule: rule(access.Read, ""), Summary: "List private CAs", Description: "Newest first.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: all, ID: "create-ca", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create a private CA", Description: "A root; with parent_id one that another of your CAs signs; with external one whose certificate is signed elsewhere: fetch its csr, have it signed, post the certificate.",
	}, h.create)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: all + "/import", ID: "import-ca", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Import a private CA", Description: "Its certificate with those above it up to the root, and its key as encrypted PKCS#8 (openssl pkcs8 -topk8).",
	}, h.importCA)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one, ID: "get-ca", Rule: rule(access.Read, "ca_id"), Summary: "Get a private CA",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "PUT", Path: one, ID: "update-ca", Rule: rule(access.Write, "ca_id"),
		Summary: "Change a private CA", Description: "Its name, its profiles and which of them is the default. What is absent stays. Its certificate cannot be changed: rotate the CA.",
	}, h.update)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one, ID: "delete-ca", Rule: rule(access.Write, "ca_id"), Status: 204,
		Summary: "Delete a private CA", Description: "With its key, for good. Refused while accounts, certificates or CAs rest on it, unless force is true. What it has published last stays until it lapses, and nothing it signed can be revoked any more.",
	}, h.delete)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/rotate", ID: "rotate-ca", Rule: rule(access.Write, "ca_id"), Status: 201,
		Summary: "Rotate a private CA", Description: "Makes a CA of the same subject with a new key, signed as this one was, which takes its place: accounts, certificates and ACME clients go on with it. This one signs nothing but CRLs from then on. A new root comes with a certificate by the old one (link_certificate_pem), for those who trust that.",
	}, h.rotate)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/csr", ID: "get-ca-request", Rule: rule(access.Write, "ca_id"),
		Summary: "Get a CA's certification request", Description: "For another CA that is to sign its certificate (PKCS#10).",
	}, h.csr)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/certificate", ID: "install-ca-certificate", Rule: rule(access.Write, "ca_id"),
		Summary: "Give a CA a certificate that was signed elsewhere", Description: "With those above it, up to the root. It may be another than the CA has (cross-signed), for the same key and subject.",
	}, h.install)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/issue", ID: "issue-from-ca", Rule: rule(access.Write, "ca_id"),
		Summary: "Issue a certificate from a private CA", Description: "At once. By names it is a managed certificate, whose key is kept here for export; by csr you keep the key, and the certificate is one of the CA's ledger alone, with id 0, unless managed is true. Needs the permission `certs.write` too. error.params.refused lists everything that is refused, and why.",
	}, h.issue)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/preview", ID: "preview-issue", Rule: rule(access.Read, "ca_id"),
		Summary: "Ask what a private CA would certify", Description: "Nothing is signed. With name_constraints it tells what a CA below this one with these constraints could certify.",
	}, h.preview)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/certificates", ID: "list-ca-certificates", Rule: rule(access.Read, "ca_id"),
		Summary: "List what a private CA has signed", Description: "Newest first. For the next page give the last serial number as before.",
	}, h.ledger)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/certificates/{serial}", ID: "get-ca-certificate", Rule: rule(access.Read, "ca_id"),
		Summary: "Get a certificate that a private CA has signed",
	}, h.entry)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/certificates/{serial}/revoke", ID: "revoke-ca-certificate", Rule: rule(access.Write, "ca_id"),
		Summary: "Revoke a certificate of a private CA", Description: "OCSP says so at once, and the CRL within seconds. One that has expired can be revoked; of one that an imported CA signed before, give the certificate.",
	}, h.revoke)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/crl", ID: "publish-crl", Rule: rule(access.Write, "ca_id"),
		Summary: "Publish a private CA's CRL now", Description: "It is published by itself after each revocation and once a day.",
	}, h.publish)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/health", ID: "check-ca", Rule: rule(access.Read, "ca_id"),
		Summary: "Check a private CA's health", Description: "Expiry, CRL, OCSP, parameters, chain and constraints, as findings with a severity.",
	}, h.health)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/acme-bindings", ID: "list-acme-bindings", Rule: rule(access.Read, "ca_id"),
		Summary: "List external account bindings of a CA's ACME server",
	}, h.bindings)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/acme-bindings", ID: "create-acme-binding", Rule: rule(access.Write, "ca_id"), Status: 201,
		Summary: "Mint an external account binding", Description: "What certbot, lego, cert-manager and acme.sh want to register at the CA's ACME directory (RFC 8555 §7.3.4). Names given here need no challenge. It works as long as the API key that it was minted with. Needs the permission `certs.write` too.",
	}, h.bind)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one + "/acme-bindings/{kid}", ID: "delete-acme-binding", Rule: rule(access.Write, "ca_id"), Status: 204,
		Summary: "Delete an external account binding", Description: "Accounts that were made with it order nothing any more.",
	}, h.unbind)
	return a
}

// Path is the path parameters of one CA.
type Path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"ca_id" minimum:"1" maximum:"9007199254740991"`
}

type listRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
}

type listResponse struct{ Body wire.List[CA] }

func (h *handler) list(ctx context.Context, in *listRequest) (*listResponse, error) {
	cas, err := h.store.CAs(ctx, in.User)
	if err != nil {
		return nil, err
	}
	page := wire.Page(cas, in.Paging, func(c ca.CA) CA { return show(c, ca.Count{}, h.now()) })
	failed := make([]error, len(page.Data))
	var counting sync.WaitGroup
	for i := range page.Data {
		counting.Go(func() {
			var count ca.Count
			count, failed[i] = h.store.CountOfCA(ctx, page.Data[i].ID)
			page.Data[i].count(count)
		})
	}
	counting.Wait()
	return &listResponse{page}, errors.Join(failed...)
}

type response struct{ Body wire.Data[CA] }

func (h *handler) answer(ctx context.Context, c ca.CA) (*response, error) {
	count, err := h.store.CountOfCA(ctx, c.ID)
	return &response{wire.Data[CA]{Data: show(c, count, h.now())}}, err
}

func (h *handler) get(ctx context.Context, in *Path) (*response, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	return h.answer(ctx, c)
}

// ca reads one of the user's CAs.
func (h *handler) ca(ctx context.Context, user, id int64) (ca.CA, error) {
	c, err := h.store.CA(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		err = casigner.Missing(id)
	}
	return c, err
}

type updateCARequest struct {
	Path
	Body struct {
		Name     *string       `json:"name,omitempty" minLength:"1" maxLength:"128"`
		Profiles *[]ca.Profile `json:"profiles,omitempty" maxItems:"20" doc:"All of them: those that are missing are removed."`
		Default  *string       `json:"default_profile,omitempty" maxLength:"64"`
	}
}

func (h *handler) update(ctx context.Context, in *updateCARequest) (*response, error) {
	before, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	after := before
	if in.Body.Name != nil {
		if err := wire.CheckName(*in.Body.Name); err != nil {
			return nil, err
		}
		after.Name = *in.Body.Name
	}
	if in.Body.Profiles != nil {
		if after.Profiles, err = ca.CheckProfiles(*in.Body.Profiles); err != nil {
			return nil, err
		}
	}
	if in.Body.Default != nil {
		after.Default = *in.Body.Default
	}
	if _, err := after.Profile(""); err != nil {
		return nil, err
	}
	after.UpdatedAt = h.now()
	after, err = h.store.UpdateCA(ctx, before, after, nil)
	if err != nil {
		return nil, changed(err)
	}
	h.audit(ctx, "changed", after)
	return h.answer(ctx, after)
}

// changed is the answer to a change that met another.
func changed(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return problem.Conflict.New("The CA was changed at the same time. Read it again.")
	}
	return err
}

type deleteRequest struct {
	Path
	Force bool `query:"force" doc:"Though accounts, certificates or CAs rest on it."`
}

// delete removes a CA. Its key in KMS goes after it: a crash in between leaves a key that nobody uses, tagged with the
// CA's id.
func (h *handler) delete(ctx context.Context, in *deleteRequest) (*struct{}, error) {
	c, err := h.store.DeleteCA(ctx, in.User, in.ID, in.Force, h.now())
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("%d accounts, certificates or CAs rest on CA %d. Delete them first, or delete it with ?force=true.", c.Uses, in.ID).With("uses", c.Uses)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, casigner.Missing(in.ID)
	}
	if err != nil {
		return nil, err
	}
	h.signer.Forget(in.ID)
	if err := h.store.DeleteACMEServer(ctx, in.ID); err != nil {
		h.log.LogAttrs(ctx, slog.LevelWarn, "ACME server left", slog.Int64("ca", c.ID), slog.String("error", err.Error()))
	}
	h.audit(ctx, "deleted", c, slog.Bool("force", in.Force), slog.Int64("uses", c.Uses))
	h.delivery().BeginCA(ctx, c.ID)
	if c.Custody == ca.InKMS {
		if err := h.signing.Delete(ctx, c.KMSKey); err != nil {
			h.keyLeft(ctx, c, err)
		}
	}
	return nil, nil
}

// delivery tells devices what has changed.
func (h *handler) delivery() *delivery.Worker {
	return &delivery.Worker{Store: h.store, Keys: h.keys, Log: h.log, Now: h.now}
}

// keyLeft tells of a key in KMS that no CA has any more, or maybe none: the runbook says what to do.
func (h *handler) keyLeft(ctx context.Context, c ca.CA, err error) {
	h.log.LogAttrs(ctx, slog.LevelError, "key left in KMS", slog.Int64("ca", c.ID), slog.String("key", c.KMSKey), slog.String("error", err.Error()))
}

// address says where what a CA publishes will be, and its ACME server.
func (h *handler) address(c *ca.CA) {
	c.Revocation, c.Directory = fmt.Sprintf("%s/%d", h.revocation, c.ID), fmt.Sprintf("%s/%d/acme", h.directory, c.ID)
}

// audit writes the line that each change of a CA leaves.
func (h *handler) audit(ctx context.Context, change string, c ca.CA, more ...slog.Attr) {
	h.log.LogAttrs(ctx, slog.LevelInfo, "CA "+change, append([]slog.Attr{
		slog.Int64("user", c.User), slog.Int64("id", c.ID), slog.String("principal", principal(ctx)),
	}, more...)...)
}

func principal(ctx context.Context) string {
	caller, _ := access.FromContext(ctx)
	return caller.Principal()
}
