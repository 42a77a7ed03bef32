package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
	"cjj365.cc/bb/shared/work"
)

// newCertificate is both dialects of contract §7.4: domain and acme_account_id, or domain_name and acct_id.
type newCertificate struct {
	Domain       string   `json:"domain,omitempty" maxLength:"1012" doc:"DNS name; *.example.com for a wildcard. It may be absent with a csr."`
	DomainName   string   `json:"domain_name,omitempty" maxLength:"1012" doc:"The same."`
	Names        []string `json:"sans,omitempty" maxItems:"200" doc:"More names; a certificate has 100 at most."`
	ACMEAccount  wire.ID  `json:"acme_account_id,omitempty" doc:"Issues at once."`
	Account      wire.ID  `json:"acct_id,omitempty" doc:"Issues by a POST to the certificate's issues."`
	DNSProvider  wire.ID  `json:"dns_provider_id,omitempty" doc:"That proves control of the names. A private CA needs none."`
	KeyType      string   `json:"key_type,omitempty" maxLength:"32" doc:"ecdsa (P-256), rsa (2048), ecdsa-p384, rsa-3072, rsa-4096, ed25519; the account's if absent."`
	CSR          string   `json:"csr,omitempty" maxLength:"65536" doc:"Certification request (PEM, or base64 of DER), if you keep the key."`
	Profile      string   `json:"profile,omitempty" maxLength:"64" pattern:"^[A-Za-z0-9._-]*$" doc:"ACME profile, such as shortlived, or profile of the private CA, such as server."`
	AutoRenew    *bool    `json:"auto_renew,omitempty" doc:"true if absent."`
	Policy       string   `json:"key_dist_policy,omitempty" maxLength:"32" doc:"HYBRID (if absent), MASTER_ONLY or DEVICE_REQUIRED."`
	Export       *bool    `json:"server_decrypt_export,omitempty" doc:"May the key be exported? If absent true with acme_account_id, false with acct_id."`
	Organization string   `json:"organization,omitempty" maxLength:"256"`
	Unit         string   `json:"organizational_unit,omitempty" maxLength:"256"`
	Country      string   `json:"country,omitempty" maxLength:"8"`
	State        string   `json:"state,omitempty" maxLength:"512"`
	Locality     string   `json:"locality,omitempty" maxLength:"512"`
	Action       string   `json:"action,omitempty" maxLength:"32" doc:"create, or absent."`
}

// CreateRequest is a create's request.
type CreateRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body newCertificate
}

type createAtAccountRequest struct {
	CreateRequest
	Account int64 `path:"account_id" minimum:"1" maximum:"9007199254740991"`
}

func (h *handler) createAtAccount(ctx context.Context, in *createAtAccountRequest) (*idempotency.Answer[Certificate], error) {
	for field, given := range map[string]wire.ID{"acme_account_id": in.Body.ACMEAccount, "acct_id": in.Body.Account} {
		if given != 0 && int64(given) != in.Account {
			return nil, problem.InvalidArgument.New("%s is not the account of the path.", field).With("field", field)
		}
	}
	if in.Body.ACMEAccount == 0 {
		in.Body.Account = wire.ID(in.Account)
	}
	return h.create(ctx, &in.CreateRequest)
}

func (h *handler) create(ctx context.Context, in *CreateRequest) (*idempotency.Answer[Certificate], error) {
	now := h.now()
	at, atOnce, err := in.Body.account()
	if err != nil {
		return nil, err
	}
	account, err := h.account(ctx, in.User, at)
	if err != nil {
		return nil, err
	}
	c, csr, err := in.Body.certificate(account, now)
	if err != nil {
		return nil, err
	}
	c.Export = atOnce
	if in.Body.Export != nil {
		c.Export = *in.Body.Export
	}
	if c.KeyType == "" && !c.CallersKey {
		if c.KeyType = account.KeyType; c.KeyType == "" {
			c.KeyType = string(pki.ECDSAP256)
		}
	}
	if c.CA != 0 {
		if err := h.cas.Look(ctx, c, csr); err != nil {
			return nil, err
		}
	}
	if c.DNSProvider == 0 && atOnce && c.CA == 0 {
		return nil, problem.MissingField.New("dns_provider_id: name the DNS provider that proves control of the names.").With("field", "dns_provider_id")
	}
	made, err := idempotency.Do(ctx, h.store, &in.Header, "create-certificate", in.Body, now,
		func(seal func(Certificate) (*store.Idempotency, error)) (Certificate, error) {
			var err error
			if c.ID, err = h.store.NextCertificateID(ctx); err != nil {
				return Certificate{}, err
			}
			var open *certificate.Order
			expected := c
			if atOnce {
				if err := h.count(ctx, c, now); err != nil {
					return Certificate{}, err
				}
				if open, err = h.newOrder(ctx, c, now); err != nil {
					return Certificate{}, err
				}
				expected.Issues, expected.Issuing = 1, 1
			}
			answer := record.Of(expected, now)
			once, err := seal(answer)
			if err != nil {
				return Certificate{}, err
			}
			if _, err = h.store.CreateCertificate(ctx, c, csr, open, once); err != nil {
				return Certificate{}, taken(err, c)
			}
			h.audit(ctx, "created", c, slog.String("domain", c.Domain()))
			if atOnce && c.CA == 0 {
				h.send(ctx, c)
			}
			return answer, nil
		})
	if err != nil || !atOnce || c.CA == 0 {
		return made, err
	}
	// The certificate and its open issue are stored. A crash from here on leaves them to the issuer.
	made.Body.Data, err = h.issuePrivate(ctx, c.User, made.Body.Data.ID, made.Replayed != "")
	return made, err
}

// issuePrivate has a private CA finish an issue that was opened, while the caller waits. Of a request that is
// repeated, it shows what came of the first.
func (h *handler) issuePrivate(ctx context.Context, user, id int64, replayed bool) (Certificate, error) {
	caller, _ := access.FromContext(ctx)
	if replayed {
		if err := h.cas.Await(ctx, id, caller.Principal()); err != nil && !errors.Is(err, store.ErrConflict) {
			return Certificate{}, missing(err, id)
		}
	} else {
		if c, _, err := h.cas.Issue(ctx, id, caller.Principal()); err == nil {
			return record.Of(c, h.now()), nil
		} else if !errors.Is(err, store.ErrConflict) { // the issuer has it
			return Certificate{}, missing(err, id)
		}
	}
	_, shown, err := h.read(ctx, user, id)
	return shown, err
}

func taken(err error, c certificate.Certificate) error {
	if errors.Is(err, store.ErrNameTaken) {
		return problem.AlreadyExists.New("ACME account %d has a certificate for %s already. Renew that one, or delete it.", c.Account, c.Domain())
	}
	return err
}

// account is the account that a request names, and whether it is in the dialect that issues at once.
func (b newCertificate) account() (id int64, atOnce bool, err error) {
	if b.Action != "" && b.Action != "create" {
		return 0, false, problem.InvalidArgument.New("action: this path only knows create.").With("field", "action")
	}
	switch {
	case b.ACMEAccount != 0 && b.Account != 0 && b.Account != b.ACMEAccount:
		return 0, false, problem.InvalidArgument.New("acme_account_id and acct_id name two accounts.").With("field", "acct_id")
	case b.ACMEAccount != 0:
		return int64(b.ACMEAccount), true, nil
	case b.Account != 0:
		return int64(b.Account), false, nil
	}
	return 0, false, problem.MissingField.New("acme_account_id: name the account at the CA.").With("field", "acme_account_id")
}

// certificate checks what is asked for at an account. csr is the request (PKCS#10, DER) of a caller who keeps the key.
func (b newCertificate) certificate(a acmeaccount.Account, now time.Time) (c certificate.Certificate, csr []byte, err error) {
	c = certificate.Certificate{
		User: a.User, Account: a.ID, CA: a.CA, Validity: a.Validity, DNSProvider: int64(b.DNSProvider), Profile: b.Profile, AutoRenew: true, Policy: certificate.Hybrid,
		CreatedAt: now, UpdatedAt: now, Revision: 1,
	}
	if c.CA != 0 {
		c.DNSProvider = 0 // nobody has to be convinced
	}
	if b.Domain != "" && b.DomainName != "" && !strings.EqualFold(b.Domain, b.DomainName) {
		return c, nil, problem.InvalidArgument.New("domain and domain_name differ.").With("field", "domain")
	}
	if b.Domain == "" {
		b.Domain = b.DomainName
	}
	if csr, err = b.names(&c); err != nil {
		return c, nil, err
	}
	if c.CA == 0 {
		if err := pki.CheckCovered(c.Names); err != nil {
			return c, nil, err
		}
	}
	if b.AutoRenew != nil {
		c.AutoRenew = *b.AutoRenew
	}
	if b.Policy != "" {
		var ok bool
		if c.Policy, ok = certificate.ParsePolicy(b.Policy); !ok {
			return c, nil, errPolicy
		}
	}
	subject, err := pki.Subject{Organization: b.Organization, Unit: b.Unit, Country: b.Country, State: b.State, Locality: b.Locality}.Normalize()
	c.Subject = certificate.Subject(subject)
	return c, csr, err
}

var errPolicy = problem.InvalidArgument.New("key_dist_policy must be HYBRID, MASTER_ONLY or DEVICE_REQUIRED.").With("field", "key_dist_policy")

// names takes the names from the request's fields or from its CSR; given both, they must agree.
func (b newCertificate) names(c *certificate.Certificate) (csr []byte, err error) {
	if b.Domain != "" || len(b.Names) > 0 || b.CSR == "" {
		if b.Domain == "" && len(b.Names) == 0 {
			return nil, problem.MissingField.New("domain: name what the certificate is for.").With("field", "domain")
		}
		if c.Names, err = rules(*c).Names(b.Domain, b.Names); err != nil {
			return nil, err
		}
	}
	if b.CSR == "" {
		if b.KeyType != "" {
			t, err := pki.ParseKeyType(b.KeyType)
			if err != nil {
				return nil, err
			}
			c.KeyType = string(t)
		}
		return nil, nil
	}
	if b.KeyType != "" {
		return nil, problem.InvalidArgument.New("key_type goes with a key that is made here; a csr has one.").With("field", "key_type")
	}
	request, err := rules(*c).ParseRequest(b.CSR)
	if err != nil {
		return nil, err
	}
	c.CallersKey = true
	if c.Names == nil {
		c.Names = request.Names
		return request.DER, nil
	}
	if !slices.Equal(slices.Sorted(slices.Values(c.Names)), slices.Sorted(slices.Values(request.Names))) {
		return nil, problem.InvalidArgument.New("csr: its names are not those of domain and sans.").With("field", "csr")
	}
	return request.DER, nil
}

// rules are which names a certificate may have.
func rules(c certificate.Certificate) pki.Rules {
	if c.CA != 0 {
		return pki.Private
	}
	return pki.Public
}

// account reads the account that a certificate is to be issued by.
func (h *handler) account(ctx context.Context, user, id int64) (acmeaccount.Account, error) {
	a, err := h.store.ACMEAccount(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return a, problem.NotFound.New("There is no ACME account %d.", id)
	}
	return a, err
}

func (h *handler) newOrder(ctx context.Context, c certificate.Certificate, now time.Time) (*certificate.Order, error) {
	id, err := h.store.NextIssueID(ctx)
	if err != nil {
		return nil, err
	}
	o := certificate.NewOrder(id, c.Current.ARI, now)
	return &o, nil
}

// send sends the issuer word. If that fails the schedule finds the open issue within a minute.
func (h *handler) send(ctx context.Context, c certificate.Certificate) {
	if err := h.queue.Send(ctx, work.Order{User: c.User, Certificate: c.ID}, 0); err != nil {
		h.log.LogAttrs(ctx, slog.LevelWarn, "left to the schedule", slog.Int64("certificate", c.ID), slog.String("error", err.Error()))
	}
}
