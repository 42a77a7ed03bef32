package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type importCARequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body struct {
		Name        string       `json:"name" minLength:"1" maxLength:"128"`
		Certificate string       `json:"certificate_pem" minLength:"1" maxLength:"65536" doc:"The CA's, then those above it up to the root (PEM)."`
		Key         string       `json:"private_key_pem" minLength:"1" maxLength:"16384" doc:"ENCRYPTED PRIVATE KEY (PKCS#8, PEM)."`
		Password    string       `json:"private_key_password" minLength:"1" maxLength:"1024"`
		LastCRL     int64        `json:"last_crl_number,omitempty" minimum:"0" maximum:"4503599627370496" doc:"Number of the last CRL that it signed: the next is higher."`
		Profiles    []ca.Profile `json:"profiles,omitempty" maxItems:"20"`
		Default     string       `json:"default_profile,omitempty" maxLength:"64"`
	}
}

func (h *handler) importCA(ctx context.Context, in *importCARequest) (*idempotency.Answer[CA], error) {
	now := h.now()
	if err := wire.CheckName(in.Body.Name); err != nil {
		return nil, err
	}
	c := ca.CA{User: in.User, Name: in.Body.Name, Custody: ca.Wrapped, Imported: true, LastCRL: in.Body.LastCRL, Default: in.Body.Default, CreatedAt: now, UpdatedAt: now}
	var err error
	if c.Profiles, err = ca.CheckProfiles(in.Body.Profiles); err != nil {
		return nil, err
	}
	if _, err := c.Profile(""); err != nil {
		return nil, err
	}
	key, err := pki.ParseEncryptedKey([]byte(in.Body.Key), []byte(in.Body.Password))
	if err != nil {
		return nil, err
	}
	if c.Public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, err
	}
	if err := h.accept(ctx, &c, in.Body.Certificate); err != nil {
		return nil, err
	}
	c.KeyType = key.Type()
	own := c.Certificate()
	c.CommonName, c.PathLen = own.Subject.CommonName, c.PathLength()
	c.Days = int(own.NotAfter.Sub(own.NotBefore).Hours() / 24)
	first := func(values []string) string {
		if len(values) == 0 {
			return ""
		}
		return values[0]
	}
	c.Subject = pki.Subject{
		Organization: first(own.Subject.Organization), Unit: first(own.Subject.OrganizationalUnit), Country: first(own.Subject.Country),
		State: first(own.Subject.Province), Locality: first(own.Subject.Locality),
	}
	answer, err := idempotency.Do(ctx, h.store, &in.Header, "import-ca", in.Body, now,
		func(seal func(CA) (*store.Idempotency, error)) (CA, error) {
			var err error
			if c.ID, err = h.store.NextCAID(ctx); err != nil {
				return CA{}, err
			}
			h.address(&c)
			if err := h.keep(ctx, &c, key); err != nil {
				return CA{}, err
			}
			made := show(c, ca.Count{}, now)
			once, err := seal(made)
			if err != nil {
				return made, err
			}
			if c, err = h.store.CreateCA(ctx, c, nil, nil, once); err != nil {
				return made, err
			}
			h.audit(ctx, "imported", c, slog.String("subject", c.CommonName), slog.String("fingerprint", made.Fingerprint))
			h.open(ctx, c)
			return made, nil
		})
	if errors.Is(err, store.ErrConflict) {
		err = problem.AlreadyExists.New("A CA of yours was imported with this key. Delete it first.")
	}
	return answer, err
}

// accept takes certificates for a CA's chain. None may be revoked by a CA here.
func (h *handler) accept(ctx context.Context, c *ca.CA, text string) error {
	chain, err := pki.ParseChain([]byte(text))
	if err != nil {
		return problem.InvalidArgument.New("certificate_pem: it must be the CA's certificate and those above it, 1 to 10 in PEM and nothing else.").With("field", "certificate_pem")
	}
	if err := c.Accept(chain, h.now()); err != nil {
		return err
	}
	theirs, err := h.store.CAs(ctx, c.User)
	if err != nil {
		return err
	}
	for i, one := range chain[:len(chain)-1] {
		for _, signer := range theirs {
			if !bytes.Equal(signer.Public, chain[i+1].RawSubjectPublicKeyInfo) {
				continue
			}
			e, err := h.store.Entry(ctx, signer.ID, ca.SerialText(one.SerialNumber))
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err == nil && !e.RevokedAt.IsZero() {
				return problem.InvalidArgument.New("certificate_pem: the chain cannot be used: certificate %d was revoked by CA %d.", i+1, signer.ID).With("field", "certificate_pem")
			}
		}
	}
	return nil
}

// Request is a CA's certification request.
type Request struct {
	CSR string `json:"csr_pem" doc:"PKCS#10."`
}

type csrResponse struct{ Body wire.Data[Request] }

func (h *handler) csr(ctx context.Context, in *Path) (*csrResponse, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	key, err := h.signer.Key(ctx, c)
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "signs request", c, slog.String("subject", c.CommonName))
	der, err := c.CSR(key)
	if err != nil {
		return nil, err
	}
	out := &csrResponse{}
	out.Body.Data.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return out, nil
}

type installRequest struct {
	Path
	Body struct {
		Certificate string `json:"certificate_pem" minLength:"1" maxLength:"65536" doc:"The CA's, then those above it up to the root (PEM)."`
	}
}

func (h *handler) install(ctx context.Context, in *installRequest) (*response, error) {
	before, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	after := before
	if err := h.accept(ctx, &after, in.Body.Certificate); err != nil {
		return nil, err
	}
	after.UpdatedAt = h.now()
	var former *ca.CA
	if len(before.Chain) == 0 && before.Former != 0 {
		old, err := h.store.CA(ctx, in.User, before.Former)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil && old.Next == 0 {
			former = &old
		} else {
			after.Former = 0
		}
	}
	if after, err = h.store.UpdateCA(ctx, before, after, former); err != nil {
		return nil, changed(err)
	}
	h.signer.Forget(after.ID)
	h.audit(ctx, "given a certificate", after, slog.String("serial", ca.SerialText(after.Certificate().SerialNumber)))
	h.open(ctx, after)
	return h.answer(ctx, after)
}
