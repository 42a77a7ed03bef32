package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acmekey"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type updateRequest struct {
	Path
	Body certificateChange
}

type certificateChange struct {
	Action      string   `json:"action,omitempty" maxLength:"32" doc:"verify_domain, or absent."`
	Policy      string   `json:"key_dist_policy,omitempty" maxLength:"32"`
	Export      *bool    `json:"server_decrypt_export,omitempty"`
	AutoRenew   *bool    `json:"auto_renew,omitempty"`
	DNSProvider *wire.ID `json:"dns_provider_id,omitempty" doc:"0 for none."`

	Rollout *record.Rollout `json:"rollout,omitempty" doc:"From the next issue on."`
}

func (h *handler) update(ctx context.Context, in *updateRequest) (*response, error) {
	before, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	switch in.Body.Action {
	case "":
	case "verify_domain":
		return &response{Status: 204}, h.verify(ctx, before)
	default:
		return nil, problem.InvalidArgument.New("action: this path only knows verify_domain.").With("field", "action")
	}
	after := before
	if in.Body.Policy != "" {
		var ok bool
		if after.Policy, ok = certificate.ParsePolicy(in.Body.Policy); !ok {
			return nil, errPolicy
		}
	}
	if in.Body.Export != nil {
		after.Export = *in.Body.Export
	}
	if in.Body.AutoRenew != nil {
		h.autoRenew(&after, *in.Body.AutoRenew)
	}
	if in.Body.DNSProvider != nil {
		after.DNSProvider = int64(*in.Body.DNSProvider)
		if err := h.dnsProvider(ctx, in.User, after.DNSProvider); err != nil {
			return nil, err
		}
	}
	if r := in.Body.Rollout; r != nil {
		after.Rollout = certificate.Rollout{Percent: r.Percent, Wait: time.Duration(r.Seconds) * time.Second, Failures: r.Failures}
	}
	after.UpdatedAt = h.now()
	after, err = h.store.UpdateCertificate(ctx, before, after, nil, nil)
	if err != nil {
		return nil, changed(err)
	}
	h.audit(ctx, "changed", after)
	if after.Policy != before.Policy || after.Export != before.Export {
		h.delivery().Begin(ctx, after.ID)
	}
	return answer(after, record.Of(after, h.now())), nil
}

// autoRenew turns renewal on or off.
func (h *handler) autoRenew(c *certificate.Certificate, on bool) {
	c.AutoRenew = on
	switch {
	case !on:
		c.RenewAt = time.Time{}
	case c.RenewAt.IsZero() && c.Current.Issue > 0 && c.Issuing == 0 && c.RevokedAt.IsZero():
		c.RenewAt = h.now() // the next run looks whether it is due
		if c.Failure.Limited(c.RenewAt) {
			c.RenewAt = c.Failure.RetryAt
		}
	}
}

func (h *handler) dnsProvider(ctx context.Context, user, id int64) error {
	if id == 0 {
		return nil
	}
	_, err := h.store.DNSProvider(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("There is no DNS provider %d.", id)
	}
	return err
}

// changed is the answer to a change that met another.
func changed(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return problem.Conflict.New("The certificate was changed at the same time. Read it again.")
	}
	return err
}

// verify looks whether each name's challenges are delegated (contract §7.5). A private CA asks for none.
func (h *handler) verify(ctx context.Context, c certificate.Certificate) error {
	if c.CA != 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	failed := make([]error, len(c.Names))
	slots := make(chan struct{}, 8)
	var group sync.WaitGroup
	for i, name := range c.Names {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			failed[i] = h.delegated(ctx, "_acme-challenge."+strings.TrimPrefix(name, "*."))
		})
	}
	group.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// delegated tells of a name whether a CNAME leads from it.
func (h *handler) delegated(ctx context.Context, record string) error {
	target, err := h.resolver.LookupCNAME(ctx, record+".")
	var dns *net.DNSError
	if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
		unanswered := problem.Unavailable.New("DNS does not answer for %s; try again.", record)
		unanswered.RetryAfter, unanswered.Cause = 5*time.Second, err
		return unanswered.With("record", record)
	}
	if err != nil || strings.EqualFold(strings.TrimSuffix(target, "."), record) {
		return problem.Conflict.New("There is no CNAME at %s that leads elsewhere.", record).With("record", record)
	}
	return nil
}

type issueRequest struct {
	Path
	idempotency.Header
	Body *struct {
		ValiditySeconds int64 `json:"validity_seconds,omitempty" minimum:"0" maximum:"3153600000" doc:"For private CAs; a public CA decides itself."`
	} `required:"false"`
}

// issueResponse is the certificate that a private CA issued, or nothing while a public one is at it.
type issueResponse struct {
	Status   int
	Replayed string                  `header:"Idempotency-Replayed" doc:"true if this is the answer of an earlier request."`
	Body     *wire.Data[Certificate] `doc:"Of a private CA only."`
}

func (h *handler) issue(ctx context.Context, in *issueRequest) (*issueResponse, error) {
	validity := time.Duration(0)
	if in.Body != nil {
		validity = time.Duration(in.Body.ValiditySeconds) * time.Second
	}
	type request struct{ ID, Validity int64 }
	var asked any = in.ID
	if validity != 0 {
		asked = request{in.ID, int64(validity)}
	}
	answer, err := idempotency.Do(ctx, h.store, &in.Header, "issue-certificate", asked, h.now(),
		func(seal func(struct{}) (*store.Idempotency, error)) (struct{}, error) {
			once, err := seal(struct{}{})
			if err != nil {
				return struct{}{}, err
			}
			return struct{}{}, h.openIssue(ctx, in.User, in.ID, validity, once)
		})
	if errors.Is(err, store.ErrConflict) {
		if c, err := h.store.Certificate(ctx, in.User, in.ID); err == nil && c.Issuing > 0 {
			return nil, errIssuing
		}
	}
	if err != nil {
		return nil, changed(err)
	}
	c, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	if c.CA == 0 {
		return &issueResponse{Status: 204, Replayed: answer.Replayed}, nil
	}
	shown, err := h.issuePrivate(ctx, in.User, in.ID, answer.Replayed != "")
	if err != nil {
		return nil, err
	}
	return &issueResponse{200, answer.Replayed, &wire.Data[Certificate]{Data: shown}}, nil
}

func (h *handler) openIssue(ctx context.Context, user, id int64, validity time.Duration, once *store.Idempotency) error {
	c, err := h.store.Certificate(ctx, user, id)
	if err != nil {
		return missing(err, id)
	}
	if c.DNSProvider == 0 && c.CA == 0 {
		return problem.MissingField.New("The certificate names no DNS provider that proves control of the names. PUT dns_provider_id first.").With("field", "dns_provider_id")
	}
	if c.Issuing > 0 {
		return store.ErrConflict // maybe by an earlier request under the same Idempotency-Key
	}
	now := h.now()
	if c.Failure.Limited(now) {
		// Asking all the same would be counted, and put the end of the limit off.
		limited := problem.RateLimited.New("The CA wants no other try before %s: %s", c.Failure.RetryAt.UTC().Format(time.RFC3339), c.Failure.What)
		limited.RetryAfter = c.Failure.RetryAt.Sub(now)
		return limited.With("retry_after", problem.Seconds(limited.RetryAfter))
	}
	open, err := h.newOrder(ctx, c, now)
	if err != nil {
		return err
	}
	after := c
	after.UpdatedAt = now
	if c.CA != 0 {
		if validity != 0 {
			after.Validity = validity
		}
		if err := h.cas.Look(ctx, after, nil); err != nil {
			return err
		}
	}
	if err := h.count(ctx, c, now); err != nil {
		return err
	}
	after, err = h.store.UpdateCertificate(ctx, c, after, open, once)
	if err != nil {
		return err
	}
	h.audit(ctx, "issue opened", after)
	if c.CA == 0 {
		h.send(ctx, after)
	}
	return nil
}

// orderLimit is how many orders a user may open by the API; what renews itself is not counted. Let's Encrypt lets an
// account have 300 in three hours.
var orderLimit = store.Limit{Most: 600, Window: time.Hour}

// count counts an order at a public CA against the limit. A private one may issue as it can.
func (h *handler) count(ctx context.Context, c certificate.Certificate, now time.Time) error {
	if c.CA != 0 {
		return nil
	}
	return h.store.Count(ctx, fmt.Sprintf("order#%d", c.User), orderLimit, now)
}

var errIssuing = problem.Conflict.New("The certificate is being issued. Wait for it with GET ?wait=20.")

type issuesRequest struct {
	Path
	wire.Paging
}

// Issue is one attempt as the API shows it (contract §7.8). Times are epoch seconds.
type Issue struct {
	ID          int64                `json:"id"`
	Certificate int64                `json:"cert_record_id"`
	Number      int64                `json:"issue_attempt_number"`
	Status      string               `json:"status" enum:"PROCESSING,SUCCESS,FAILED"`
	Order       string               `json:"acme_order_id" doc:"Its URL at the CA."`
	Serial      string               `json:"serial_number"`
	StartedAt   int64                `json:"started_at"`
	CompletedAt int64                `json:"completed_at" doc:"0 while open."`
	Message     string               `json:"error_message"`
	Failure     *record.IssueFailure `json:"error,omitempty"`
}

type issuesResponse struct{ Body wire.List[Issue] }

func (h *handler) issues(ctx context.Context, in *issuesRequest) (*issuesResponse, error) {
	c, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	issues, err := h.store.Issues(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if len(issues) > 0 && c.Issuing == issues[0].Number {
		if open, err := h.store.Order(ctx, in.ID); err == nil {
			issues[0].Order = open.URL
		}
	}
	return &issuesResponse{wire.Page(issues, in.Paging, func(i certificate.Issue) Issue {
		return Issue{
			ID: i.ID, Certificate: i.Certificate, Number: i.Number, Status: string(i.State), Order: i.Order, Serial: i.Serial,
			StartedAt: record.Seconds(i.StartedAt), CompletedAt: record.Seconds(i.CompletedAt), Message: i.Failure.What, Failure: record.FailureOf(i.Failure),
		}
	})}, nil
}

// reasons are those of RFC 5280 §5.3.1 that a subscriber may give (RFC 8555 §7.6), by name.
var reasons = map[string]int{
	"unspecified": 0, "keycompromise": 1, "affiliationchanged": 3, "superseded": 4, "cessationofoperation": 5,
}

type revokeRequest struct {
	Path
	Body *struct {
		Reason string `json:"reason,omitempty" maxLength:"32" doc:"unspecified (if absent), keyCompromise, affiliationChanged, superseded or cessationOfOperation."`
	} `required:"false"`
}

func (h *handler) revoke(ctx context.Context, in *revokeRequest) (*response, error) {
	name := "unspecified"
	if in.Body != nil && in.Body.Reason != "" {
		name = in.Body.Reason
	}
	reason, ok := reasons[strings.ToLower(name)]
	if !ok {
		return nil, problem.InvalidArgument.New("reason must be unspecified, keyCompromise, affiliationChanged, superseded or cessationOfOperation.").With("field", "reason")
	}
	c, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	if c.Current.Issue == 0 {
		return nil, errNotIssued
	}
	if c.RevokedAt.IsZero() {
		leaf, err := h.leaf(ctx, c)
		if err != nil {
			return nil, err
		}
		if c.CA != 0 {
			c, err = h.revokePrivate(ctx, c, leaf, reason)
		} else if err = h.revokeAtCA(ctx, c, leaf, reason); err == nil {
			c, err = h.noteRevoked(ctx, c, reason)
		}
		if err != nil {
			return nil, err
		}
		h.audit(ctx, "revoked", c, slog.String("serial", c.Current.Serial), slog.Int("reason", reason))
	}
	return answer(c, record.Of(c, h.now())), nil
}

var errNotIssued = problem.NotIssued.New("The certificate has not been issued yet.")

func (h *handler) leaf(ctx context.Context, c certificate.Certificate) (*x509.Certificate, error) {
	m, err := h.store.Material(ctx, c.ID, c.Current.Issue)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.Conflict.New("The certificate was renewed at this moment. Read it again.")
	}
	if err != nil {
		return nil, err
	}
	chain, err := pki.ParseChain(m.Chain)
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

// revokePrivate revokes in the ledger of the private CA that signed the certificate: the certificate's own, or the one
// that took its place. The store marks the certificate with it, also if the entry was revoked before.
func (h *handler) revokePrivate(ctx context.Context, c certificate.Certificate, leaf *x509.Certificate, reason int) (certificate.Certificate, error) {
	caller, _ := access.FromContext(ctx)
	_, e, err := h.signer.Find(ctx, c.User, c.CA, ca.SerialText(leaf.SerialNumber))
	if err == nil {
		err = h.signer.Revoke(ctx, c.User, e, reason, caller.Principal())
	}
	if errors.Is(err, store.ErrNotFound) {
		return c, problem.Conflict.New("The CA that signed the certificate is gone, and with it what it revoked.")
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return c, err
	}
	c, err = h.store.Certificate(ctx, c.User, c.ID)
	return c, missing(err, c.ID)
}

// revokeAtCA revokes at the CA. It may be repeated: what is revoked already is no error.
func (h *handler) revokeAtCA(ctx context.Context, c certificate.Certificate, leaf *x509.Certificate, reason int) error {
	a, err := h.account(ctx, c.User, c.Account)
	if err != nil {
		return err
	}
	by, err := acmekey.Open(ctx, h.keys, a)
	if err != nil {
		return err
	}
	err = h.ca.At(a.Directory).Revoke(ctx, by, leaf.Raw, reason)
	if err != nil && acmekey.OfTheCA(err) {
		failed := problem.Conflict.New("The certificate is not revoked: %s. Try again.", strings.TrimRight(err.Error(), ". "))
		failed.Cause = err
		return failed
	}
	return err
}

// noteRevoked notes that the certificate in place is revoked. A renewal that came between has put another
// in place, which is not.
func (h *handler) noteRevoked(ctx context.Context, c certificate.Certificate, reason int) (certificate.Certificate, error) {
	issue := c.Current.Issue
	for range 5 {
		after := c
		after.Revoke(reason, h.now())
		after, err := h.store.UpdateCertificate(ctx, c, after, nil, nil)
		if !errors.Is(err, store.ErrConflict) {
			return after, err
		}
		if c, err = h.store.Certificate(ctx, c.User, c.ID); err != nil {
			return c, missing(err, c.ID)
		}
		if c.Current.Issue != issue {
			return c, nil
		}
	}
	return c, changed(store.ErrConflict)
}
