package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki/export"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
	"cjj365.cc/bb/shared/work"
)

type handler struct {
	store    *store.Store
	keys     *kmskey.Key
	queue    *work.Queue
	ca       *acme.Clients
	cas      *caorder.Worker  // private CAs
	signer   *casigner.Signer // theirs
	resolver *net.Resolver
	log      *slog.Logger
	now      func() time.Time
}

func (h *handler) routes() *wire.API {
	const certificates, one = "/apiv1/users/{user_id}/certificates", "/apiv1/users/{user_id}/certificates/{certificate_id}"
	const ofAccount = "/apiv1/users/{user_id}/acme-accounts/{account_id}/certificates"
	rule := func(a access.Action, object string) wire.Rule {
		return wire.Rule{Type: "certs", Action: a, Object: object}
	}
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: certificates, ID: "list-certificates", Rule: rule(access.Read, ""),
		Summary: "List certificates", Description: "Newest first, metadata only.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: certificates, ID: "create-certificate", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create a certificate", Description: "With acme_account_id it is issued at once, by a private CA before the answer; with acct_id by a POST to its issues. Progress: GET with ?wait=20.",
	}, h.create)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one, ID: "get-certificate", Rule: rule(access.Read, "certificate_id"),
		Summary: "Get a certificate", Description: "With wait, the answer comes when an open issue has got on, or after that many seconds.",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "PUT", Path: one, ID: "update-certificate", Rule: rule(access.Write, "certificate_id"),
		Summary: "Change a certificate", Description: "What is absent stays. With action verify_domain nothing changes: each name's _acme-challenge must lead somewhere by CNAME; 204 if it does.",
		NoContent: true,
	}, h.update)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: one, ID: "delete-certificate", Rule: rule(access.Write, "certificate_id"), Status: 204,
		Summary: "Delete a certificate", Description: "With its key and history; it is taken off its devices. It is not revoked by that.",
	}, h.delete)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/issues", ID: "list-issues", Rule: rule(access.Read, "certificate_id"),
		Summary: "List a certificate's issues", Description: "Newest first.",
	}, h.issues)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/histories", ID: "list-issue-histories", Rule: rule(access.Read, "certificate_id"),
		Summary: "List a certificate's issues", Description: "The same as issues.",
	}, h.issues)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/issues", ID: "issue-certificate", Rule: rule(access.Write, "certificate_id"),
		Summary: "Issue or renew a certificate", Description: "With a new key. A private CA has issued when the answer comes. At a public CA the work goes on in the background (204), and what is in place stays until it is done.",
		NoContent: true,
	}, h.issue)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/export", ID: "export-certificate", Rule: rule(access.Read, "certificate_id"),
		Summary: "Export a certificate with its private key", Description: "As JSON; with format=zip as an archive (PEM, DER, PKCS#12), with format=pkcs12 as that alone. For these Accept must be application/zip or application/x-pkcs12, and X-Export-Password of the answer has the password of the PKCS#12.",
		JSON: wire.Data[export.Parts]{}, Files: []string{"application/zip", "application/x-pkcs12"},
		FileHeaders: map[string]string{"X-Export-Password": "Of the PKCS#12.", "Content-Disposition": "Names the file."},
	}, h.export)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/revoke", ID: "revoke-certificate", Rule: rule(access.Write, "certificate_id"),
		Summary: "Revoke a certificate", Description: "At its CA, for a reason of RFC 5280.",
	}, h.revoke)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: one + "/rollout", ID: "get-rollout", Rule: rule(access.Read, "certificate_id"),
		Summary: "How far the devices are", Description: "How many of the certificate's devices have been told of the issue in place, have installed it, or could not.",
	}, h.rollout)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: one + "/rollout", ID: "control-rollout", Rule: rule(access.Write, "certificate_id"),
		Summary: "Stop a staged roll-out, or go on with it", Description: "continue has all devices have it now; stop leaves those that have not been told with what they have.",
	}, h.controlRollout)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: ofAccount, ID: "list-account-certificates", Rule: rule(access.Read, ""),
		Summary: "List an account's certificates", Description: "Newest first, metadata only.",
	}, h.listOfAccount)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: ofAccount, ID: "create-account-certificate", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create a certificate at an account",
	}, h.createAtAccount)
	return a
}

// Path is the path parameters of one certificate.
type Path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"certificate_id" minimum:"1" maximum:"9007199254740991"`
}

// ListRequest is a list's request.
type ListRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
	Detail string `query:"detail" doc:"Ignored in lists."`
}

type listResponse struct{ Body wire.List[Certificate] }

func (h *handler) list(ctx context.Context, in *ListRequest) (*listResponse, error) {
	page, total, err := h.store.Certificates(ctx, in.User, in.Offset, in.Limit)
	if err != nil {
		return nil, err
	}
	return h.page(page, total, in.Paging), nil
}

func (h *handler) page(page []certificate.Certificate, total int, p wire.Paging) *listResponse {
	all := make([]Certificate, len(page))
	for i, c := range page {
		all[i] = record.Of(c, h.now())
	}
	return &listResponse{wire.List[Certificate]{Data: all, Meta: wire.Meta{Total: total, Offset: p.Offset, Limit: p.Limit}}}
}

type listOfAccountRequest struct {
	ListRequest
	Account int64 `path:"account_id" minimum:"1" maximum:"9007199254740991"`
}

func (h *handler) listOfAccount(ctx context.Context, in *listOfAccountRequest) (*listResponse, error) {
	if _, err := h.account(ctx, in.User, in.Account); err != nil {
		return nil, err
	}
	page, total, err := h.store.AccountCertificates(ctx, in.User, in.Account, in.Offset, in.Limit)
	if err != nil {
		return nil, err
	}
	return h.page(page, total, in.Paging), nil
}

type getRequest struct {
	Path
	Detail string `query:"detail" enum:"most,least" default:"least" doc:"most adds cert and csr."`
	Wait   int    `query:"wait" minimum:"0" maximum:"20" default:"0" doc:"Seconds."`
}

type response struct {
	Status int
	ETag   string `header:"ETag" doc:"Changes with the certificate."`
	Body   *wire.Data[Certificate]
}

// get reads a certificate, once a second for as long as the caller waits for an open issue.
func (h *handler) get(ctx context.Context, in *getRequest) (*response, error) {
	until := h.now().Add(time.Duration(in.Wait) * time.Second)
	var first *Certificate
	for {
		c, shown, err := h.read(ctx, in.User, in.ID)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = &shown
		}
		if c.Issuing > 0 && state(shown) == state(*first) && h.now().Before(until) && h.rest(ctx) {
			continue
		}
		if in.Detail == "most" {
			if err := h.detail(ctx, c, &shown); err != nil {
				return nil, err
			}
		}
		return answer(c, shown), nil
	}
}

func answer(c certificate.Certificate, shown Certificate) *response {
	return &response{Status: 200, ETag: `"` + strconv.FormatInt(c.Revision, 10) + `"`, Body: &wire.Data[Certificate]{Data: shown}}
}

// rest waits a second; false when the caller is gone.
func (h *handler) rest(ctx context.Context) bool {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// read reads a certificate and, while an issue is open, how far that is.
func (h *handler) read(ctx context.Context, user, id int64) (certificate.Certificate, Certificate, error) {
	for look := 0; ; look++ {
		c, err := h.store.Certificate(ctx, user, id)
		if err != nil {
			return c, Certificate{}, missing(err, id)
		}
		shown := record.Of(c, h.now())
		if c.Issuing == 0 {
			return c, shown, nil
		}
		o, err := h.store.Order(ctx, id)
		if gone := errors.Is(err, store.ErrNotFound); gone && look == 5 {
			return c, shown, nil // a table that was restored without its orders
		} else if gone || err == nil && o.Issue != c.Issuing {
			continue // closed between the two reads: what was read of the certificate is over
		}
		if err == nil {
			shown.Progress = record.ProgressOf(o)
		}
		return c, shown, err
	}
}

// detail adds the heavy fields.
func (h *handler) detail(ctx context.Context, c certificate.Certificate, shown *Certificate) error {
	if c.CallersKey {
		der, err := h.store.Request(ctx, c.ID)
		if err != nil {
			return missing(err, c.ID) // deleted between the two reads
		}
		shown.CSR = pemOf("CERTIFICATE REQUEST", der)
	}
	if c.Current.Issue == 0 {
		return nil
	}
	m, err := h.store.Material(ctx, c.ID, c.Current.Issue)
	if errors.Is(err, store.ErrNotFound) { // replaced between the two reads
		return problem.Conflict.New("The certificate was renewed at this moment. Read it again.")
	}
	shown.Cert = string(m.Chain)
	return err
}

func (h *handler) delete(ctx context.Context, in *Path) (*struct{}, error) {
	c, err := h.store.DeleteCertificate(ctx, in.User, in.ID, h.now())
	if err != nil {
		return nil, missing(err, in.ID)
	}
	h.audit(ctx, "deleted", c)
	h.delivery().Begin(ctx, c.ID)
	return nil, nil
}

// delivery tells devices what has changed.
func (h *handler) delivery() *delivery.Worker {
	return &delivery.Worker{Store: h.store, Keys: h.keys, Log: h.log, Now: h.now}
}

func missing(err error, id int64) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("There is no certificate %d.", id)
	}
	return err
}

// audit writes the line that each change of a certificate leaves.
func (h *handler) audit(ctx context.Context, change string, c certificate.Certificate, more ...slog.Attr) {
	caller, _ := access.FromContext(ctx)
	h.log.LogAttrs(ctx, slog.LevelInfo, "certificate "+change, append([]slog.Attr{
		slog.Int64("user", c.User), slog.Int64("id", c.ID), slog.String("principal", caller.Principal()),
	}, more...)...)
}
