package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// leafRequest is contract §10.3, and more.
type leafRequest struct {
	Domain       string   `json:"domain_name,omitempty" maxLength:"1012" doc:"The first name. It may be absent with a csr, and where the profile certifies no names."`
	Names        []string `json:"sans,omitempty" maxItems:"200" doc:"More names, of any kind that the profile certifies: DNS names, IP addresses, e-mail addresses, URIs; 100 at most."`
	CommonName   string   `json:"common_name,omitempty" maxLength:"256" doc:"The first name, if absent."`
	Organization string   `json:"organization,omitempty" maxLength:"256"`
	Unit         string   `json:"organizational_unit,omitempty" maxLength:"256"`
	Country      string   `json:"country,omitempty" maxLength:"8"`
	State        string   `json:"state,omitempty" maxLength:"512"`
	Locality     string   `json:"locality,omitempty" maxLength:"512"`
	Seconds      int64    `json:"validity_seconds,omitempty" minimum:"0" maximum:"3153600000" doc:"The profile's, if absent. It never outlives the CA."`
	Profile      string   `json:"profile,omitempty" maxLength:"64" doc:"server, client, both, smime, code_signing, or one of the CA's own; the CA's default, if absent."`
	CSR          string   `json:"csr,omitempty" maxLength:"65536" doc:"Certification request (PEM, or base64 of DER), if you keep the key. Its names are used if there are none in the request."`
	KeyType      string   `json:"key_type,omitempty" maxLength:"32" doc:"Of a key that is made here: ecdsa-p256 (if absent), ecdsa-p384, rsa-2048, rsa-3072, rsa-4096, ed25519."`
	Managed      *bool    `json:"managed,omitempty" doc:"Whether it is kept among your certificates. true if absent and there is no csr, and then it must not be false."`
	AutoRenew    bool     `json:"auto_renew,omitempty" doc:"Of a managed one."`
	Policy       string   `json:"key_dist_policy,omitempty" maxLength:"32" doc:"HYBRID (if absent), MASTER_ONLY or DEVICE_REQUIRED."`
	Export       *bool    `json:"server_decrypt_export,omitempty" doc:"May the key be exported? true if absent."`
	Device       wire.ID  `json:"device_id,omitempty" doc:"A device that is to have it; needs the permission devices.write."`
}

// Issued is a certificate record with what was signed.
type Issued struct {
	record.Certificate
	Warnings []string `json:"warnings" doc:"What was done otherwise than asked for."`
}

type issueLeafRequest struct {
	Path
	idempotency.Header
	Body leafRequest
}

func (h *handler) issue(ctx context.Context, in *issueLeafRequest) (*idempotency.Answer[Issued], error) {
	answer, err := h.issueTo(ctx, in)
	if err != nil { // of a CA that is not there, nothing else matters
		if _, gone := h.ca(ctx, in.User, in.ID); gone != nil {
			return nil, gone
		}
	}
	return answer, err
}

func (h *handler) issueTo(ctx context.Context, in *issueLeafRequest) (*idempotency.Answer[Issued], error) {
	if err := needsCertificates(ctx); err != nil {
		return nil, err
	}
	var on *device.Device
	if id := int64(in.Body.Device); id != 0 {
		if need := (access.Need{Type: "devices", Action: access.Write, ID: id}); !allows(ctx, need) {
			return nil, problem.Lacking("devices.write")
		}
		d, err := h.delivery().ActiveDevice(ctx, in.User, id)
		if err != nil {
			return nil, err
		}
		on = &d
	}
	r, csr, err := in.Body.request()
	if err != nil {
		return nil, err
	}
	managed := csr == nil
	if in.Body.Managed != nil {
		managed = *in.Body.Managed
	}
	switch {
	case csr == nil && len(r.Names) == 0:
		return nil, problem.MissingField.New("domain_name: name what the certificate is for. A profile that certifies no names, such as code_signing, needs a csr.").With("field", "domain_name")
	case !managed && csr == nil:
		return nil, problem.InvalidArgument.New("managed: the key of a certificate by names is kept here, and so is the certificate.").With("field", "managed")
	case managed && len(r.Names) == 0:
		return nil, problem.InvalidArgument.New("managed: a certificate without names is none that can be managed here. Send a csr, and managed false.").With("field", "managed")
	case managed && r.CommonName != "" && r.CommonName != r.Names[0]:
		return nil, problem.InvalidArgument.New("common_name: of a managed certificate it is the first name.").With("field", "common_name")
	case managed:
		answer, err := h.issueManaged(ctx, in, r, csr)
		if err == nil && on != nil { // repeated under the same Idempotency-Key, this is as well
			if left := h.delivery().Assign(ctx, *on, answer.Body.Data.ID); left != nil {
				h.log.WarnContext(ctx, "a certificate was issued and not assigned", "certificate", answer.Body.Data.ID, "device", on.ID, "error", left.Error())
				answer.Body.Data.Warnings = append(answer.Body.Data.Warnings, "It was not assigned to the device. Assign it by POST to the device's certificates.")
			}
		}
		return answer, err
	case on != nil:
		return nil, problem.InvalidArgument.New("device_id: a device can have a certificate that is kept here. Leave out managed, or the csr.").With("field", "device_id")
	}
	now := h.now()
	return idempotency.DoAlone(ctx, h.store, &in.Header, "issue-from-ca", struct {
		ID   int64
		Body leafRequest
	}{in.ID, in.Body}, now, func(seal func(Issued) (*store.Idempotency, error)) (Issued, error) {
		var made Issued
		_, err := h.signer.IssueOnce(ctx, in.User, in.ID, r, principal(ctx), 0, func(i casigner.Issued) (*store.Idempotency, error) {
			made = unmanaged(i, r, in.User, now)
			return seal(made)
		})
		return made, err
	})
}

// needsCertificates asks for the second permission of issuing.
func needsCertificates(ctx context.Context) error {
	if need := (access.Need{Type: "certs", Action: access.Write}); !allows(ctx, need) {
		return problem.Lacking(need.String())
	}
	return nil
}

func allows(ctx context.Context, need access.Need) bool {
	caller, _ := access.FromContext(ctx)
	return caller.Allow(need)
}

// request checks what is asked for. csr is the request (PKCS#10, DER) of a caller who keeps the key.
func (b leafRequest) request() (r ca.Request, csr []byte, err error) {
	r = ca.Request{CommonName: b.CommonName, Profile: b.Profile, Validity: time.Duration(b.Seconds) * time.Second}
	if b.CommonName != "" && wire.CheckName(b.CommonName) != nil {
		return r, nil, problem.InvalidArgument.New("common_name must be printable.").With("field", "common_name")
	}
	if r.Subject, err = (pki.Subject{Organization: b.Organization, Unit: b.Unit, Country: b.Country, State: b.State, Locality: b.Locality}).Normalize(); err != nil {
		return r, nil, err
	}
	typed := b.Names
	if b.Domain != "" {
		typed = slices.Insert(slices.Clone(typed), 0, b.Domain)
	}
	var refused []ca.Refused
	if r.Names, refused = ca.Names(typed); len(refused) > 0 {
		return r, nil, ca.Refuse(refused)
	}
	if b.CSR == "" {
		return r, nil, nil
	}
	if b.KeyType != "" {
		return r, nil, problem.InvalidArgument.New("key_type goes with a key that is made here; a csr has one.").With("field", "key_type")
	}
	asked, err := pki.Any.ParseRequest(b.CSR)
	if err != nil {
		return r, nil, err
	}
	names, refused := ca.Names(slices.Concat(asked.Names, asked.Others))
	if len(refused) > 0 {
		return r, nil, ca.Refuse(refused)
	}
	switch {
	case len(r.Names) == 0:
		r.Names = names
	case len(names) > 0 && !slices.Equal(slices.Sorted(slices.Values(names)), slices.Sorted(slices.Values(r.Names))):
		return r, nil, problem.InvalidArgument.New("csr: its names are not those of domain_name and sans.").With("field", "csr")
	}
	if r.CommonName == "" {
		r.CommonName = asked.CommonName
	}
	r.Public = asked.Public
	return r, asked.DER, nil
}

// unmanaged is the record of a certificate that only the CA's ledger knows.
func unmanaged(i casigner.Issued, r ca.Request, user int64, now time.Time) Issued {
	facts := i.Facts()
	made := Issued{Certificate: record.Certificate{
		User: user, Domain: domain(r), Names: notNull(r.Names), Status: "ISSUED", Verified: true, SelfSigned: true, CA: i.CA.ID, Validity: int64(r.Validity / time.Second),
		Serial: facts.Serial, Fingerprint: facts.Fingerprint, NotBefore: facts.NotBefore.Unix(), NotAfter: facts.NotAfter.Unix(), Profile: i.Entry.Profile,
		Organization: r.Subject.Organization, Unit: r.Subject.Unit, Country: r.Subject.Country, State: r.Subject.State, Locality: r.Subject.Locality,
		Policy: string(certificate.Hybrid), CreatedAt: now.Unix(), UpdatedAt: now.Unix(), Attempts: 1, Cert: i.PEM(),
	}, Warnings: notNull(i.Warnings)}
	return made
}

func domain(r ca.Request) string {
	if len(r.Names) > 0 {
		return r.Names[0]
	}
	return r.CommonName
}

func notNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// issueManaged makes a certificate and issues it at once.
func (h *handler) issueManaged(ctx context.Context, in *issueLeafRequest, r ca.Request, csr []byte) (*idempotency.Answer[Issued], error) {
	now := h.now()
	c := certificate.Certificate{
		User: in.User, CA: in.ID, Names: r.Names, Profile: r.Profile, Validity: r.Validity, Subject: certificate.Subject(r.Subject), CallersKey: csr != nil,
		AutoRenew: in.Body.AutoRenew, Policy: certificate.Hybrid, Export: true, CreatedAt: now, UpdatedAt: now, Revision: 1,
	}
	if csr == nil {
		t, err := pki.ParseKeyType(in.Body.KeyType)
		switch {
		case in.Body.KeyType == "":
			t = pki.ECDSAP256
		case err != nil:
			return nil, err
		}
		c.KeyType = string(t)
	}
	if in.Body.Export != nil {
		c.Export = *in.Body.Export
	}
	if in.Body.Policy != "" {
		var ok bool
		if c.Policy, ok = certificate.ParsePolicy(in.Body.Policy); !ok {
			return nil, problem.InvalidArgument.New("key_dist_policy must be HYBRID, MASTER_ONLY or DEVICE_REQUIRED.").With("field", "key_dist_policy")
		}
	}
	if err := h.worker.Look(ctx, c, csr); err != nil {
		return nil, err
	}
	var issued casigner.Issued
	answer, err := idempotency.Do(ctx, h.store, &in.Header, "issue-from-ca", struct {
		ID   int64
		Body leafRequest
	}{in.ID, in.Body}, now, func(seal func(Issued) (*store.Idempotency, error)) (Issued, error) {
		var err error
		if c.ID, err = h.store.NextCertificateID(ctx); err != nil {
			return Issued{}, err
		}
		issue, err := h.store.NextIssueID(ctx)
		if err != nil {
			return Issued{}, err
		}
		open := certificate.NewOrder(issue, "", now)
		expected := c
		expected.Issues, expected.Issuing = 1, 1
		made := Issued{Certificate: record.Of(expected, now)}
		once, err := seal(made)
		if err != nil {
			return made, err
		}
		if _, err := h.store.CreateCertificate(ctx, c, csr, &open, once); err != nil {
			return made, err
		}
		h.log.LogAttrs(ctx, slog.LevelInfo, "certificate created", slog.Int64("user", c.User), slog.Int64("id", c.ID), slog.String("principal", principal(ctx)), slog.String("domain", c.Domain()))
		return made, nil
	})
	if err != nil {
		return nil, err
	}
	// The certificate and its open issue are stored. A crash from here on leaves them to the issuer.
	id := answer.Body.Data.ID
	if answer.Replayed == "" {
		if c, issued, err = h.worker.Issue(ctx, id, principal(ctx)); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
	}
	if answer.Replayed != "" || err != nil { // another worker has it, or had
		if err := h.worker.Await(ctx, id, principal(ctx)); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
		if c, err = h.store.Certificate(ctx, in.User, id); errors.Is(err, store.ErrNotFound) {
			err = problem.NotFound.New("The certificate %d that this request made is gone.", id)
		}
		if err != nil {
			return nil, err
		}
		switch c.Status(h.now()) {
		case certificate.Issuing:
			p := problem.Conflict.New("The certificate %d that this request made is still being issued. Try again in a moment.", id)
			p.RetryAfter = time.Second
			return nil, p
		case certificate.Failed:
			return nil, problem.InvalidArgument.New("The certificate %d that this request made was not issued. %s", id, c.Failure.What)
		}
	}
	answer.Body.Data = Issued{Certificate: record.Of(c, h.now()), Warnings: notNull(issued.Warnings)}
	if len(issued.Chain) > 0 {
		answer.Body.Data.Cert = issued.PEM()
	} else if c.Current.Issue > 0 {
		m, err := h.store.Material(ctx, c.ID, c.Current.Issue)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		answer.Body.Data.Cert = string(m.Chain)
	}
	return answer, nil
}

type previewRequest struct {
	Path
	Body struct {
		Names       []string     `json:"names,omitempty" maxItems:"200" doc:"Names of any kind."`
		CommonName  string       `json:"common_name,omitempty" maxLength:"256"`
		Profile     string       `json:"profile,omitempty" maxLength:"64"`
		Seconds     int64        `json:"validity_seconds,omitempty" minimum:"0" maximum:"3153600000"`
		Constraints *Constraints `json:"name_constraints,omitempty" doc:"Of a CA that might be made below this one."`
	}
}

// Preview is what a CA would say to a request.
type Preview struct {
	Allowed   []string     `json:"allowed" doc:"Names that it would certify."`
	Refused   []ca.Refused `json:"refused"`
	Profile   string       `json:"profile"`
	NotBefore int64        `json:"not_before" doc:"Epoch seconds."`
	NotAfter  int64        `json:"not_after"`
	Warnings  []string     `json:"warnings"`
	Conflicts []string     `json:"constraint_conflicts" doc:"Of the given constraints, with each other and with the CA's."`
}

type previewResponse struct{ Body wire.Data[Preview] }

func (h *handler) preview(ctx context.Context, in *previewRequest) (*previewResponse, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	names, refused := ca.Names(in.Body.Names)
	plan, more, err := c.Look(ca.Request{Names: names, CommonName: in.Body.CommonName, Profile: in.Body.Profile, Validity: time.Duration(in.Body.Seconds) * time.Second}, h.now())
	if err != nil {
		return nil, err
	}
	refused = append(refused, more...)
	conflicts := []string{}
	if in.Body.Constraints != nil {
		below, err := in.Body.Constraints.constraints()
		if err != nil {
			return nil, err
		}
		conflicts = append(below.Conflicts(), below.Within(pki.ConstraintsOf(c.Certificate()))...)
		for _, name := range names {
			if reason := ca.Violation(below, name); reason != "" {
				refused = append(refused, ca.Refused{Name: name, Field: "sans", Why: "by the name constraints given " + reason})
			}
		}
	}
	shown := Preview{
		Allowed: []string{}, Refused: notNull(refused), Profile: plan.Profile, NotBefore: plan.Template.NotBefore.Unix(), NotAfter: plan.Template.NotAfter.Unix(),
		Warnings: notNull(plan.Warnings), Conflicts: notNull(conflicts),
	}
	for _, name := range names {
		if !slices.ContainsFunc(refused, func(r ca.Refused) bool { return r.Name == name }) {
			shown.Allowed = append(shown.Allowed, name)
		}
	}
	return &previewResponse{wire.Data[Preview]{Data: shown}}, nil
}
