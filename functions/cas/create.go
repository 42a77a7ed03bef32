package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// newCA is contract §10.1; empty strings mean absent.
type newCA struct {
	Name         string       `json:"name" minLength:"1" maxLength:"128"`
	Algorithm    string       `json:"algorithm,omitempty" maxLength:"16" doc:"ECDSA (if absent), RSA or ED25519."`
	KeySize      int          `json:"key_size,omitempty" minimum:"0" maximum:"4096" doc:"Bits: 256 or 384; 2048, 3072 or 4096."`
	Curve        *string      `json:"curve_name,omitempty" nullable:"true" maxLength:"16" doc:"prime256v1 or secp384r1."`
	KeyType      string       `json:"key_type,omitempty" maxLength:"32" doc:"In place of the three: ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096 or ed25519."`
	Custody      string       `json:"key_custody,omitempty" maxLength:"16" doc:"WRAPPED (if absent): the key is kept encrypted by a data key of KMS. KMS: it is made in KMS and never leaves it."`
	CommonName   *string      `json:"common_name,omitempty" nullable:"true" maxLength:"256" doc:"The name, if absent."`
	Organization *string      `json:"organization,omitempty" nullable:"true" maxLength:"256"`
	Unit         *string      `json:"organizational_unit,omitempty" nullable:"true" maxLength:"256"`
	Country      *string      `json:"country,omitempty" nullable:"true" maxLength:"8"`
	State        *string      `json:"state,omitempty" nullable:"true" maxLength:"512"`
	Locality     *string      `json:"locality,omitempty" nullable:"true" maxLength:"512"`
	ValidDays    int          `json:"valid_days,omitempty" minimum:"0" maximum:"14600" doc:"3650 of a root, 1825 below one, if absent. It never outlives the parent."`
	PathLen      *int         `json:"max_path_length,omitempty" nullable:"true" minimum:"0" maximum:"10" doc:"How many CAs may follow below it. If absent, no limit of a root, 0 below one."`
	KeyUsage     string       `json:"key_usage,omitempty" maxLength:"128" doc:"keyCertSign,cRLSign, or absent."`
	Parent       wire.ID      `json:"parent_id,omitempty" doc:"A CA of yours that signs it."`
	External     bool         `json:"external,omitempty" doc:"Its certificate is signed elsewhere."`
	Constraints  *Constraints `json:"name_constraints,omitempty" doc:"Of what it may certify."`
	Profiles     []ca.Profile `json:"profiles,omitempty" maxItems:"20" doc:"Of your own."`
	Default      string       `json:"default_profile,omitempty" maxLength:"64" doc:"Of requests that name none: server, if absent."`
}

type createRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body newCA
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// ca checks what is asked for.
func (b newCA) ca(user int64) (c ca.CA, err error) {
	if err := wire.CheckName(b.Name); err != nil {
		return c, err
	}
	c = ca.CA{User: user, Name: b.Name, CommonName: value(b.CommonName), Days: b.ValidDays, PathLen: ca.NoPathLen, Parent: int64(b.Parent), Default: b.Default}
	if c.CommonName == "" {
		c.CommonName = b.Name
	}
	if len([]rune(c.CommonName)) > 64 || wire.CheckName(c.CommonName) != nil {
		return c, problem.InvalidArgument.New("common_name must be at most 64 printable characters. It is the name, if absent.").With("field", "common_name")
	}
	subject, err := pki.Subject{Organization: value(b.Organization), Unit: value(b.Unit), Country: value(b.Country), State: value(b.State), Locality: value(b.Locality)}.Normalize()
	if err != nil {
		return c, err
	}
	c.Subject = subject
	if c.KeyType, err = b.keyType(); err != nil {
		return c, err
	}
	switch strings.ToUpper(b.Custody) {
	case "", string(ca.Wrapped):
		c.Custody = ca.Wrapped
	case string(ca.InKMS):
		c.Custody = ca.InKMS
		if c.KeyType == pki.Ed25519 {
			return c, problem.InvalidArgument.New("key_custody: KMS signs no CRL by an Ed25519 key, since it takes 4,096 bytes at most. Choose ECDSA or RSA.").With("field", "key_custody")
		}
	default:
		return c, problem.InvalidArgument.New("key_custody must be WRAPPED or KMS.").With("field", "key_custody")
	}
	if b.External && b.Parent != 0 {
		return c, problem.InvalidArgument.New("external: a CA that parent_id signs is not signed elsewhere.").With("field", "external")
	}
	if err := checkUsage(b.KeyUsage); err != nil {
		return c, err
	}
	below := b.Parent != 0
	if c.Days == 0 {
		c.Days = 3650
		if below {
			c.Days = 1825
		}
	}
	if below {
		c.PathLen = 0
	}
	if b.PathLen != nil {
		c.PathLen = *b.PathLen
	}
	if c.Constraints, err = b.Constraints.constraints(); err != nil {
		return c, err
	}
	if b.External && !c.Constraints.Empty() {
		return c, problem.InvalidArgument.New("name_constraints: whoever signs the CA's certificate sets them.").With("field", "name_constraints")
	}
	if conflicts := c.Constraints.Conflicts(); len(conflicts) > 0 {
		return c, problem.InvalidArgument.New("name_constraints: %s.", strings.Join(conflicts, "; ")).With("field", "name_constraints")
	}
	if c.Profiles, err = ca.CheckProfiles(b.Profiles); err != nil {
		return c, err
	}
	_, err = c.Profile("")
	return c, err
}

// checkUsage takes the one set of key usages that a CA has.
func checkUsage(text string) error {
	if text == "" {
		return nil
	}
	seen := map[string]bool{}
	for u := range strings.SplitSeq(text, ",") {
		seen[strings.ToLower(strings.TrimSpace(u))] = true
	}
	if !seen["keycertsign"] || !seen["crlsign"] || len(seen) > 2 {
		return problem.InvalidArgument.New("key_usage: a CA has keyCertSign,cRLSign, and no other.").With("field", "key_usage")
	}
	return nil
}

// keyType is key_type, or what the contract's three fields say.
func (b newCA) keyType() (pki.KeyType, error) {
	if b.KeyType != "" {
		return pki.ParseKeyType(b.KeyType)
	}
	curve := strings.ToLower(value(b.Curve))
	switch name := strings.ToLower(b.Algorithm); name {
	case "", "ecdsa", "ec":
		t, ok := curves[curve]
		bySize, sized := map[int]pki.KeyType{256: pki.ECDSAP256, 384: pki.ECDSAP384}[b.KeySize]
		switch {
		case curve == "" && b.KeySize == 0:
			return pki.ECDSAP256, nil
		case curve == "" && sized:
			return bySize, nil
		case ok && (b.KeySize == 0 || sized && bySize == t):
			return t, nil
		}
		return "", problem.InvalidArgument.New("curve_name must be prime256v1 or secp384r1, and key_size 256 or 384 with it.").With("field", "curve_name")
	case "rsa":
		if b.KeySize == 0 {
			return pki.RSA3072, nil
		}
		t, err := pki.ParseKeyType("rsa-" + strconv.Itoa(b.KeySize))
		if err != nil {
			return "", problem.InvalidArgument.New("key_size must be 2048, 3072 or 4096 for RSA.").With("field", "key_size")
		}
		return t, nil
	case "ed25519":
		return pki.Ed25519, nil
	}
	return "", problem.InvalidArgument.New("algorithm must be ECDSA, RSA or ED25519.").With("field", "algorithm")
}

func (h *handler) create(ctx context.Context, in *createRequest) (*idempotency.Answer[CA], error) {
	c, err := in.Body.ca(in.User)
	if err != nil {
		return nil, err
	}
	var parent *ca.CA
	if c.Parent != 0 {
		above, err := h.ca(ctx, in.User, c.Parent)
		if err != nil {
			return nil, err
		}
		parent = &above
		if err := h.dry(c, parent); err != nil { // before a key is made
			return nil, err
		}
	}
	return idempotency.Do(ctx, h.store, &in.Header, "create-ca", in.Body, h.now(),
		func(seal func(CA) (*store.Idempotency, error)) (CA, error) {
			return h.found(ctx, c, parent, in.Body.External, nil, seal)
		})
}

// dry plans a CA's certificate for a key that is not made yet.
func (h *handler) dry(c ca.CA, parent *ca.CA) error {
	key, err := pki.NewKey(pki.ECDSAP256)
	if err != nil {
		return err
	}
	if c.Public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return err
	}
	_, err = c.Own(parent, h.now())
	return err
}

// found makes a CA: its key, its certificate, and its first CRL and OCSP signer. former is the CA whose place it
// takes; nil for none.
//
// The certificate is in the ledger of who signs it before it is signed. A crash before the CA is stored leaves that
// entry, and of a key in KMS the key, which has the CA's id for a tag; of a wrapped key nothing, so that nobody can
// use what was signed. A crash after it leaves the CRL and the OCSP signer to the schedule.
func (h *handler) found(ctx context.Context, c ca.CA, parent *ca.CA, external bool, former *ca.CA, seal func(CA) (*store.Idempotency, error)) (made CA, err error) {
	now := h.now()
	if c.Custody == ca.InKMS {
		if err := h.store.Count(ctx, fmt.Sprintf("signingkey#%d", c.User), signingKeyLimit, now); err != nil {
			return made, err
		}
	}
	if c.ID, err = h.store.NextCAID(ctx); err != nil {
		return made, err
	}
	c.CreatedAt, c.UpdatedAt = now, now
	h.address(&c)
	key, err := h.makeKey(ctx, &c)
	if err != nil {
		return made, err
	}
	stored := false
	defer func() {
		if !stored && c.Custody == ca.InKMS {
			if err := h.signing.Delete(context.WithoutCancel(ctx), c.KMSKey); err != nil {
				h.keyLeft(ctx, c, err)
			}
		}
	}()
	var signed []ca.Entry
	if !external {
		if signed, err = h.certify(ctx, &c, key, parent, former); err != nil {
			return made, err
		}
	}
	count := ca.Count{}
	for _, e := range signed {
		if e.CA == c.ID {
			count = ca.Count{Issued: 1, LastUsed: e.At}
		}
	}
	takes := former
	if external { // once it has its certificate
		takes = nil
	}
	if takes != nil {
		c.Uses = 1
	}
	made = show(c, count, now)
	once, err := seal(made)
	if err != nil {
		return made, err
	}
	if c, err = h.store.CreateCA(ctx, c, signed, takes, once); err != nil {
		if errors.Is(err, store.ErrConflict) && once == nil {
			err = problem.Conflict.New("The CA that signs, or is rotated, was changed at the same time. Try again.")
		}
		// A transaction whose answer was lost may have stored the CA: its key stays. The runbook says how to find one in vain.
		stored = !errors.Is(err, store.ErrConflict) && !errors.Is(err, problem.Conflict)
		if stored && c.Custody == ca.InKMS {
			h.keyLeft(ctx, c, err)
		}
		return made, err
	}
	stored = true
	h.audit(ctx, "created", c, slog.String("subject", c.CommonName), slog.String("key_type", string(c.KeyType)), slog.String("custody", string(c.Custody)), slog.Int64("parent", c.Parent))
	if !external {
		h.open(ctx, c)
	}
	return made, nil
}

// signingKeyLimit is how many keys a user may have made in KMS, which keeps one that is deleted for a month and has room for
// 100,000 in an account.
var signingKeyLimit = store.Limit{Most: 50, Window: 24 * time.Hour}

// certify signs a CA's certificate, by its parent or by its own key, and for a root that takes another's place one by
// that. It returns the entries to be completed.
func (h *handler) certify(ctx context.Context, c *ca.CA, key crypto.Signer, parent, former *ca.CA) ([]ca.Entry, error) {
	plan, err := c.Own(parent, h.now())
	if err != nil {
		return nil, err
	}
	by := principal(ctx)
	if parent != nil {
		above, err := h.signer.Key(ctx, *parent)
		if err != nil {
			return nil, err
		}
		issued, err := h.signer.Sign(ctx, *parent, above, plan, key.Public(), by, 0)
		if err != nil {
			return nil, signing(err)
		}
		c.Chain = issued.Chain
		if len(parent.Cross) > 0 {
			c.Cross = append([][]byte{issued.Chain[0]}, parent.Cross...)
		}
		return []ca.Entry{issued.Entry}, nil
	}
	issued, err := h.signer.SignOwn(ctx, *c, key, plan, by)
	if err != nil {
		return nil, err
	}
	c.Chain = issued.Chain
	signed := []ca.Entry{issued.Entry}
	if former == nil {
		return signed, nil
	}
	old, err := h.signer.Key(ctx, *former)
	if err != nil {
		return nil, err
	}
	link := plan
	template := *plan.Template
	if end := former.Certificate().NotAfter; end.Before(template.NotAfter) {
		template.NotAfter = end
	}
	template.CRLDistributionPoints, template.OCSPServer, template.IssuingCertificateURL = []string{former.CRLURL()}, []string{former.OCSPURL()}, []string{former.CertificateURL()}
	template.Policies = ca.AnyPolicy
	template.AuthorityKeyId = former.Certificate().SubjectKeyId // crypto/x509 leaves it out, since the names are the same
	link.Template = &template
	linked, err := h.signer.Sign(ctx, *former, old, link, key.Public(), by, 0)
	if err != nil {
		return nil, signing(err)
	}
	above := former.Chain
	if len(former.Cross) > 0 {
		above = former.Cross
	}
	c.Cross = append([][]byte{linked.Chain[0]}, above...)
	return append(signed, linked.Entry), nil
}

// signing is the answer when the CA that signs was changed since it was read.
func signing(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return problem.Conflict.New("The CA that signs was changed at the same time. Try again.")
	}
	return err
}

// makeKey makes a CA's key, in KMS or sealed into the CA.
func (h *handler) makeKey(ctx context.Context, c *ca.CA) (crypto.Signer, error) {
	var signer crypto.Signer
	if c.Custody == ca.InKMS {
		id, public, err := h.signing.Create(ctx, specs[c.KeyType], c.User, c.ID)
		if err != nil {
			return nil, err
		}
		c.KMSKey = id
		signer = h.signing.Signer(ctx, id, public)
	} else {
		key, err := pki.NewKey(c.KeyType)
		if err != nil {
			return nil, err
		}
		if err := h.keep(ctx, c, key); err != nil {
			return nil, err
		}
		signer = key.Signer()
	}
	var err error
	c.Public, err = x509.MarshalPKIXPublicKey(signer.Public())
	return signer, err
}

var specs = map[pki.KeyType]kmskey.SigningSpec{
	pki.ECDSAP256: kmskey.ECDSAP256, pki.ECDSAP384: kmskey.ECDSAP384, pki.RSA2048: kmskey.RSA2048, pki.RSA3072: kmskey.RSA3072, pki.RSA4096: kmskey.RSA4096,
}

func (h *handler) keep(ctx context.Context, c *ca.CA, key pki.Key) (err error) {
	der := key.DER()
	defer clear(der)
	c.Key, err = h.keys.Seal(ctx, kmskey.CA(c.User, c.ID), der)
	return err
}

// open publishes a CA's first CRL and makes its OCSP signer. What fails the schedule does, within a minute.
func (h *handler) open(ctx context.Context, c ca.CA) {
	err := h.signer.RenewOCSPSigner(ctx, c.User, c.ID)
	if err == nil { // in this order: what is published is not due any more
		_, err = h.signer.Publish(ctx, c.User, c.ID)
	}
	if err != nil {
		h.log.LogAttrs(ctx, slog.LevelWarn, "CRL or OCSP signer left to the schedule", slog.Int64("ca", c.ID), slog.String("error", err.Error()))
	}
}
