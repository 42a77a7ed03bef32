package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// signingTime is how long the signing of a certificate may take. It ends before the order's lease does: whoever takes
// the order up then is alone.
const signingTime = acmeserver.Lease - 10*time.Second

// finalize has the certificate signed (RFC 8555 §7.4), and answers when it is.
//
// The order is leased before, with the CSR. A process that is killed leaves it so; when the lease has ended, a finalize
// with the same CSR goes on. So is the serial number to be signed under, by which that one finds in the CA's ledger what
// was signed: an order has one certificate.
func (h *handler) finalize(q *request) (answer, error) {
	var asked struct {
		CSR string `json:"csr"`
	}
	if err := q.decode(&asked); err != nil {
		return answer{}, err
	}
	der, ok := decodeBase64(asked.CSR)
	if !ok {
		return answer{}, refuse(badCSR, "The csr is no PKCS#10 in base64url without padding.")
	}
	o, err := h.owned(q)
	if err != nil {
		return answer{}, err
	}
	// A client that lost the answer asks again.
	again := func(o acmeserver.Order) bool {
		status := o.Status(h.now())
		return bytes.Equal(o.CSR, der) && (status == acmeserver.Valid || status == acmeserver.Processing)
	}
	if again(o) {
		return h.showOrder(q, o), nil
	}
	if status := o.Status(h.now()); status != acmeserver.Ready {
		return answer{}, refuse(orderNotReady, "The order is %s.", status)
	}
	if len(o.CSR) > 0 && !bytes.Equal(o.CSR, der) {
		return answer{}, refuse(badCSR, "The order was finalized with another CSR. Use that, or make another order.")
	}
	if _, err := h.binding(q, q.account.Binding); err != nil {
		return answer{}, err
	}
	request, err := h.checkCSR(q, o, der)
	if err != nil {
		return answer{}, err
	}
	now := h.now()
	if o.StartedAt.IsZero() {
		o.CSR, o.StartedAt = der, now
	}
	before := o.Drawn
	o.Drawn, o.LeaseEnds = ca.SerialText(ca.NewSerial(now)), now.Add(acmeserver.Lease)
	o, err = h.store.ChangeServerOrder(q.Context(), o)
	if errors.Is(err, store.ErrConflict) { // another finalize was first
		if o, err = h.owned(q); err == nil && again(o) {
			return h.showOrder(q, o), nil
		}
		if err == nil {
			err = refuse(orderNotReady, "The order is %s.", o.Status(h.now()))
		}
	}
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(q.Context(), signingTime)
	defer cancel()
	entry, err := h.issue(ctx, q, o, request, before)
	if err != nil {
		return answer{}, h.failed(q, o, err)
	}
	o, err = h.change(q.Context(), o, func(o *acmeserver.Order) {
		if o.Serial == "" {
			o.Issuer, o.Serial = entry.CA, entry.Serial
		}
	})
	if err != nil { // the lease ends, and the next finalize finds the certificate in the ledger
		return answer{}, err
	}
	return h.showOrder(q, o), nil
}

// checkCSR holds a CSR to the order and to the CA.
func (h *handler) checkCSR(q *request, o acmeserver.Order, der []byte) (ca.Request, error) {
	csr, err := pki.Private.ParseRequestDER(der)
	if err != nil {
		return ca.Request{}, refuse(badCSR, "%s", refusalOf(err).detail)
	}
	asked, ordered := slices.Sorted(slices.Values(csr.Names)), slices.Sorted(slices.Values(o.Names()))
	if !slices.Equal(asked, ordered) {
		return ca.Request{}, refuse(badCSR, "The CSR is for %d names that are not just those of the order.", len(asked))
	}
	if pki.Same(csr.Public, q.key) { // RFC 8555 §11.1
		return ca.Request{}, refuse(badCSR, "The key of the account must not be a certificate's.")
	}
	now := h.now()
	request := requestOf(o, csr.Names)
	request.Public = csr.Public
	at, err := h.active(q.Context(), q.ca)
	if err != nil {
		return request, err
	}
	_, refused, err := at.Look(request, now)
	if err == nil && len(refused) > 0 {
		err = refuse(badCSR, "The CA does not certify this: %s.", refused[0].Why)
	}
	return request, err
}

// issue has the certificate signed, unless the process that held the lease before had, under the serial number that it
// had drawn.
func (h *handler) issue(ctx context.Context, q *request, o acmeserver.Order, r ca.Request, before string) (ca.Entry, error) {
	if before != "" {
		signed, err := h.signer.Signed(ctx, q.ca.User, q.ca.ID, before)
		if !errors.Is(err, store.ErrNotFound) {
			return signed.Entry, err
		}
	}
	r.Serial = o.Drawn
	issued, err := h.signer.Issue(ctx, q.ca.User, q.ca.ID, r, q.account.Principal(), 0)
	return issued.Entry, err
}

// failed ends an order that the CA refused, and takes the lease off one that only met a trouble that passes: it can be
// finalized again. It gives the error back.
func (h *handler) failed(q *request, o acmeserver.Order, err error) error {
	p, ok := errors.AsType[*problem.Error](err)
	final := ok && (p.Kind == problem.InvalidArgument || p.Kind == problem.Conflict || p.Kind == problem.NotFound)
	// The request may be over its time, and this has to be written all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), store.Budget)
	defer cancel()
	if _, noted := h.change(ctx, o, func(o *acmeserver.Order) {
		if final {
			o.Error = &acmeserver.Problem{Kind: rejectedIdentifier, Detail: printable(p.What)}
		} else {
			o.LeaseEnds = h.now()
		}
	}); noted != nil {
		h.log.LogAttrs(ctx, slog.LevelError, "an ACME order is left to its lease", slog.Int64("ca", o.CA), slog.String("order", o.ID), slog.String("error", noted.Error()))
	}
	return err
}

// parsed is the certificate of an entry; nil if it is not known to have been signed.
func parsed(e ca.Entry) (*x509.Certificate, error) {
	der := e.DER()
	if der == nil {
		return nil, nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate %s of CA %d: %w", e.Serial, e.CA, err)
	}
	return c, nil
}

// certificate gives the chain, the root included (RFC 8555 §7.4.2).
func (h *handler) certificate(q *request) (answer, error) {
	o, err := h.owned(q)
	if err != nil {
		return answer{}, err
	}
	missing := refuse(malformed, "The order has no certificate.").with(http.StatusNotFound)
	if o.Serial == "" {
		return answer{}, missing
	}
	e, err := h.store.Entry(q.Context(), o.Issuer, o.Serial)
	if errors.Is(err, store.ErrNotFound) || err == nil && e.DER() == nil {
		return answer{}, missing
	}
	if err != nil {
		return answer{}, err
	}
	c, err := h.store.CA(q.Context(), q.ca.User, o.Issuer)
	if errors.Is(err, store.ErrNotFound) {
		return answer{}, casigner.Missing(o.Issuer)
	}
	if err != nil {
		return answer{}, err
	}
	return answer{kind: "application/pem-certificate-chain", text: ca.PEM(e.DER()) + c.PEM(e.At)}, nil
}
