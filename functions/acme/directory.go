package main

import (
	"bytes"
	"context"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/store"
)

// directory says where everything is (RFC 8555 §7.1.1).
func (h *handler) directory(q *request) (answer, error) {
	at, err := h.active(q.Context(), q.ca)
	if err != nil {
		return answer{}, err
	}
	profiles := map[string]string{}
	for _, p := range offered(at) {
		profiles[p.Name] = strings.Join(p.Usages, ", ")
	}
	return answer{body: map[string]any{
		"newNonce": q.at("new-nonce"), "newAccount": q.at("new-account"), "newOrder": q.at("new-order"), "revokeCert": q.at("revoke-cert"),
		"keyChange": q.at("key-change"), "renewalInfo": q.at("renewal-info"),
		"meta": map[string]any{"externalAccountRequired": true, "profiles": profiles},
	}}, nil
}

// offered are the profiles of a CA for what ACME has identifiers for.
func offered(c ca.CA) (some []ca.Profile) {
	for _, p := range slices.Concat(c.Profiles, ca.Builtin) {
		if len(p.DNS)+len(p.IP) > 0 {
			some = append(some, p)
		}
	}
	return some
}

// newNonce answers with a nonce (RFC 8555 §7.2).
func (h *handler) newNonce(status int) answering {
	return func(q *request) (answer, error) {
		return answer{status: status, nonce: q.server.secret.Nonce(h.now())}, nil
	}
}

// mostFormer is how many CAs may have taken each other's place: as many as a user may have.
const mostFormer = 100

// active is the CA that signs: the last of those that took a CA's place.
func (h *handler) active(ctx context.Context, c ca.CA) (ca.CA, error) {
	if c.Next == 0 {
		return c, nil
	}
	last, err := h.store.LastOfLine(ctx, c.User, c.Next)
	if errors.Is(err, store.ErrNotFound) {
		err = casigner.Missing(c.Next)
	}
	return last, err
}

// errNotOurs says that no CA of a line signed a certificate, as far as its ledger goes.
var errNotOurs = errors.New("not a certificate of this CA")

// find looks for a certificate in the ledgers of a CA, of those that took its place and of those whose place it took.
// Certificates of CAs and of what signs for them are no business of ACME.
func (h *handler) find(ctx context.Context, c ca.CA, authority []byte, serial *big.Int) (ca.CA, ca.Entry, error) {
	look := func(c ca.CA) (ca.Entry, error) {
		own := c.Certificate()
		if own == nil || !bytes.Equal(own.SubjectKeyId, authority) {
			return ca.Entry{}, store.ErrNotFound
		}
		e, err := h.store.Entry(ctx, c.ID, ca.SerialText(serial))
		if err == nil && (e.Profile == ca.OfCA || e.Profile == ca.OfOCSP || e.OfCA()) {
			err = store.ErrNotFound
		}
		return e, err
	}
	former := c
	for range mostFormer {
		if e, err := look(former); !errors.Is(err, store.ErrNotFound) {
			return former, e, err
		}
		if former.Former == 0 {
			break
		}
		var err error
		if former, err = h.store.CA(ctx, c.User, former.Former); errors.Is(err, store.ErrNotFound) {
			break
		} else if err != nil {
			return former, ca.Entry{}, err
		}
	}
	if c.Next == 0 {
		return c, ca.Entry{}, errNotOurs
	}
	for next, err := range h.store.LineOfCA(ctx, c.User, c.Next) {
		if errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			return next, ca.Entry{}, err
		}
		if e, err := look(next); !errors.Is(err, store.ErrNotFound) {
			return next, e, err
		}
	}
	return c, ca.Entry{}, errNotOurs
}

// renewalPoll is when a client should ask again for renewal information (RFC 9773 §4.3).
const renewalPoll = 6 * time.Hour

// renewalInfo says when a certificate should be renewed (RFC 9773 §4). One that was revoked, or whose CA is no longer
// the one that signs or ends before it, should be at once.
func (h *handler) renewalInfo(q *request) (answer, error) {
	missing := refuse(malformed, "There is no certificate of this id.").with(http.StatusNotFound)
	authority, serial, ok := acmeserver.ParseCertificateID(q.PathValue("certificate"))
	if !ok {
		return answer{}, missing
	}
	of, e, err := h.find(q.Context(), q.ca, authority, serial)
	if errors.Is(err, errNotOurs) {
		return answer{}, missing
	}
	if err != nil {
		return answer{}, err
	}
	certificate, err := parsed(e)
	if err != nil {
		return answer{}, err
	}
	if certificate == nil {
		return answer{}, missing
	}
	start, end := acmeserver.Window(certificate.NotBefore, certificate.NotAfter)
	if !e.RevokedAt.IsZero() || of.Next != 0 || of.Certificate().NotAfter.Before(certificate.NotAfter) {
		start, end = acmeserver.AtOnce(h.now())
	}
	return answer{retryAfter: renewalPoll, body: map[string]any{
		"suggestedWindow": map[string]any{"start": start.Format(time.RFC3339), "end": end.Format(time.RFC3339)},
	}}, nil
}
