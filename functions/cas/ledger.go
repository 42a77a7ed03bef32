package main

import (
	"context"
	"errors"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// Entry is a certificate of a CA's ledger. Times are epoch seconds, 0 for none.
type Entry struct {
	Serial      string   `json:"serial_number"`
	CA          int64    `json:"ca_id" doc:"That signed it: the CA of the path, or one that took its place."`
	Status      string   `json:"status" enum:"INTENDED,ISSUED,EXPIRED,REVOKED" doc:"INTENDED: it was to be signed, and maybe was, by a process that was killed."`
	Names       []string `json:"names"`
	Profile     string   `json:"profile" doc:"ca and ocsp are what the CA signs for itself."`
	Principal   string   `json:"principal" doc:"Who asked for it."`
	Certificate int64    `json:"cert_record_id" doc:"0 if it is not managed."`
	CreatedAt   int64    `json:"created_at"`
	NotAfter    int64    `json:"not_after"`
	RevokedAt   int64    `json:"revoked_at"`
	Reason      int      `json:"revocation_reason" doc:"RFC 5280 §5.3.1."`
	PEM         string   `json:"certificate_pem" doc:"Empty in lists, and if it is not known to have been signed."`
}

func showEntry(e ca.Entry, now time.Time) Entry {
	return Entry{
		Serial: e.Serial, CA: e.CA, Status: e.Status(now), Names: notNull(e.Names), Profile: e.Profile, Principal: e.By, Certificate: e.Certificate,
		CreatedAt: record.Seconds(e.At), NotAfter: record.Seconds(e.NotAfter), RevokedAt: record.Seconds(e.RevokedAt), Reason: e.Reason,
	}
}

type ledgerRequest struct {
	Path
	Before string `query:"before" maxLength:"60" doc:"Serial number, of which only older ones are listed."`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20"`
}

type ledgerResponse struct {
	Body struct {
		Data []Entry `json:"data"`
		Meta struct {
			Total int64  `json:"total" doc:"How many were signed, those forgotten included: an entry lapses 400 days after its certificate."`
			Limit int    `json:"limit"`
			Next  string `json:"next" doc:"For before, of the next page; empty if this is the last."`
		} `json:"meta"`
	}
}

func (h *handler) ledger(ctx context.Context, in *ledgerRequest) (*ledgerResponse, error) {
	if _, err := h.ca(ctx, in.User, in.ID); err != nil {
		return nil, err
	}
	before := ""
	if in.Before != "" {
		serial, err := serialOf(in.Before)
		if err != nil {
			return nil, err
		}
		before = serial
	}
	entries, err := h.store.Entries(ctx, in.ID, before, in.Limit)
	if err != nil {
		return nil, err
	}
	count, err := h.store.CountOfCA(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &ledgerResponse{}
	out.Body.Data = []Entry{}
	for _, e := range entries {
		out.Body.Data = append(out.Body.Data, showEntry(e, h.now()))
	}
	out.Body.Meta.Total, out.Body.Meta.Limit = count.Issued, in.Limit
	if len(entries) == in.Limit {
		out.Body.Meta.Next = entries[len(entries)-1].Serial
	}
	return out, nil
}

func serialOf(text string) (string, error) {
	n, ok := ca.ParseSerial(text)
	if !ok {
		return "", problem.InvalidArgument.New("A serial number is hexadecimal, two digits for each byte.").With("field", "serial")
	}
	return ca.SerialText(n), nil
}

// EntryPath is the path parameters of one certificate of a ledger.
type EntryPath struct {
	Path
	Serial string `path:"serial" maxLength:"60"`
}

type entryResponse struct{ Body wire.Data[Entry] }

func (h *handler) entry(ctx context.Context, in *EntryPath) (*entryResponse, error) {
	e, err := h.find(ctx, in)
	if err != nil {
		return nil, err
	}
	return h.answerEntry(e), nil
}

func (h *handler) answerEntry(e ca.Entry) *entryResponse {
	shown := showEntry(e, h.now())
	if der := e.DER(); der != nil {
		shown.PEM = ca.PEM(der)
	}
	return &entryResponse{wire.Data[Entry]{Data: shown}}
}

func (h *handler) find(ctx context.Context, in *EntryPath) (ca.Entry, error) {
	if _, err := h.ca(ctx, in.User, in.ID); err != nil {
		return ca.Entry{}, err
	}
	serial, err := serialOf(in.Serial)
	if err != nil {
		return ca.Entry{}, err
	}
	_, e, err := h.signer.Find(ctx, in.User, in.ID, serial)
	if errors.Is(err, store.ErrNotFound) {
		err = problem.NotFound.New("CA %d has signed no certificate %s.", in.ID, serial)
	}
	return e, err
}

type revokeEntryRequest struct {
	EntryPath
	Body *struct {
		Reason      string `json:"reason,omitempty" maxLength:"32" doc:"unspecified (if absent), keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn or aACompromise."`
		Certificate string `json:"certificate_pem,omitempty" maxLength:"65536" doc:"Of one that an imported CA signed before it was imported."`
	} `required:"false"`
}

func (h *handler) revoke(ctx context.Context, in *revokeEntryRequest) (*entryResponse, error) {
	name, text := "", ""
	if in.Body != nil {
		name, text = in.Body.Reason, in.Body.Certificate
	}
	reason, ok := ca.ParseReason(name)
	if !ok {
		return nil, problem.InvalidArgument.New("reason must be unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn or aACompromise.").With("field", "reason")
	}
	e, err := h.find(ctx, &in.EntryPath)
	if errors.Is(err, problem.NotFound) && text != "" {
		e, err = h.foreign(ctx, in, text)
	}
	if err != nil {
		return nil, err
	}
	err = h.signer.Revoke(ctx, in.User, e, reason, principal(ctx)) // of one that is revoked, what a crash left undone
	if errors.Is(err, store.ErrNotFound) {
		return nil, casigner.Missing(e.CA)
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return nil, err
	}
	if e, err = h.find(ctx, &in.EntryPath); err != nil {
		return nil, err
	}
	return h.answerEntry(e), nil
}

// foreign enters a certificate into the ledger that an imported CA signed before.
func (h *handler) foreign(ctx context.Context, in *revokeEntryRequest, text string) (ca.Entry, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return ca.Entry{}, err
	}
	chain, err := pki.ParseChain([]byte(text))
	if err != nil {
		return ca.Entry{}, problem.InvalidArgument.New("certificate_pem: it is no certificate in PEM.").With("field", "certificate_pem")
	}
	serial, err := serialOf(in.Serial)
	if err != nil {
		return ca.Entry{}, err
	}
	leaf := chain[0]
	if own := c.Certificate(); own == nil || ca.SerialText(leaf.SerialNumber) != serial || string(leaf.RawIssuer) != string(own.RawSubject) || leaf.CheckSignatureFrom(own) != nil {
		return ca.Entry{}, problem.InvalidArgument.New("certificate_pem: CA %d has not signed it, or it has another serial number.", in.ID).With("field", "certificate_pem")
	}
	if c.Root() && string(leaf.Raw) == string(c.Chain[0]) {
		return ca.Entry{}, casigner.ErrOwnRoot
	}
	e, err := ca.Foreign(in.ID, leaf, principal(ctx), h.now())
	if err != nil {
		return e, err
	}
	if err := h.store.RecordForeign(ctx, e); err != nil && !errors.Is(err, store.ErrConflict) {
		return e, err
	}
	return e, nil
}

// CRL is what a CA's CRL stands at. Times are epoch seconds, 0 for none.
type CRL struct {
	Number     int64  `json:"crl_number"`
	ThisUpdate int64  `json:"this_update"`
	NextUpdate int64  `json:"next_update"`
	Revoked    int64  `json:"revocations" doc:"How many there have been."`
	URL        string `json:"crl_url"`
}

type crlResponse struct{ Body wire.Data[CRL] }

func (h *handler) publish(ctx context.Context, in *Path) (*crlResponse, error) {
	c, err := h.ca(ctx, in.User, in.ID)
	if err != nil {
		return nil, err
	}
	if len(c.Chain) == 0 {
		return nil, problem.Conflict.New("The CA has no certificate yet, and nothing that it could revoke.")
	}
	stands, err := h.signer.Publish(ctx, in.User, in.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, casigner.Missing(in.ID)
	}
	if err != nil {
		return nil, err
	}
	return &crlResponse{wire.Data[CRL]{Data: CRL{
		stands.Published, record.Seconds(stands.ThisUpdate), record.Seconds(stands.NextUpdate), stands.Revoked, c.CRLURL(),
	}}}, nil
}
