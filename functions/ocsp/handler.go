package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/ocsp"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store *store.Store
	keys  *kmskey.Key
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	signers map[int64]signer
}

// signer is what signs a CA's answers, as it is kept in memory.
type signer struct {
	issuer      ocsp.Issuer
	certificate *x509.Certificate
	key         crypto.Signer
	until       time.Time
}

// How long, and how many, signers are kept in memory. An answer may be kept by who asked for as long as validFor, and
// by caches between for cachedFor, after which a revocation shows.
const (
	keptFor, keptMost = 5 * time.Minute, 256
	validFor          = time.Hour
	cachedFor         = time.Minute
)

var (
	errGone  = errors.New("there is no such CA")
	errLater = errors.New("the CA's signer is not made yet")
)

// ServeHTTP takes /<CA>/ocsp, of a POST, and /<CA>/ocsp/<base64>, of a GET (RFC 6960, appendix A.1). No mux: the base64
// may have slashes, two of them next to each other too.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	digits, rest, _ := strings.Cut(strings.TrimPrefix(gateway.Below("/pki", r.URL.Path), "/"), "/")
	id, err := strconv.ParseInt(digits, 10, 64)
	what, encoded, _ := strings.Cut(rest, "/")
	if err != nil || id <= 0 || what != "ocsp" {
		wire.Fail(w, r, problem.NotFound.New("There is no such path."))
		return
	}
	var der []byte
	switch {
	case r.Method == http.MethodPost && encoded == "":
		if der, err = io.ReadAll(http.MaxBytesReader(w, r.Body, ocsp.MaxRequest)); err != nil {
			wire.Fail(w, r, problem.TooLarge.New("An OCSP request may have %d bytes.", ocsp.MaxRequest))
			return
		}
	case (r.Method == http.MethodGet || r.Method == http.MethodHead) && encoded != "":
		der, err = decode(encoded)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		wire.Fail(w, r, problem.MethodNotAllowed.New("Send an OCSP request by POST, or by GET as base64 in the path."))
		return
	}
	answer, good := h.answer(r.Context(), id, der, err)
	header := w.Header()
	header.Set("Content-Type", "application/ocsp-response")
	if good && r.Method != http.MethodPost {
		sum := sha256.Sum256(answer)
		now := h.now().UTC()
		header.Set("Cache-Control", fmt.Sprintf("public, max-age=%d, no-transform, must-revalidate", int(cachedFor.Seconds())))
		header.Set("Last-Modified", now.Format(http.TimeFormat))
		header.Set("Expires", now.Add(cachedFor).Format(http.TimeFormat))
		header.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	}
	_, _ = w.Write(answer) // the client has gone
}

// decode reads a request in a path: base64, percent-encoded or not.
func decode(encoded string) ([]byte, error) {
	if len(encoded) > 2*ocsp.MaxRequest {
		return nil, ocsp.ErrMalformed
	}
	if strings.Contains(encoded, "%") {
		plain, err := url.PathUnescape(encoded)
		if err != nil {
			return nil, err
		}
		encoded = plain
	}
	encoded = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/", " ", "+").Replace(encoded), "=")
	return base64.RawStdEncoding.DecodeString(encoded)
}

// answer makes the answer; good tells that it says something of a certificate.
func (h *handler) answer(ctx context.Context, id int64, der []byte, unreadable error) (answer []byte, good bool) {
	if unreadable != nil {
		return ocsp.Refusal(ocsp.MalformedRequest), false
	}
	request, err := ocsp.ParseRequest(der)
	if err != nil {
		return ocsp.Refusal(ocsp.MalformedRequest), false
	}
	answer, err = h.respond(ctx, id, request)
	switch {
	case err == nil:
		return answer, true
	case errors.Is(err, errGone):
		return ocsp.Refusal(ocsp.Unauthorized), false // RFC 5019 §2.2.3: nothing is known here
	case errors.Is(err, errLater), errors.Is(err, problem.Unavailable):
		return ocsp.Refusal(ocsp.TryLater), false
	}
	h.log.LogAttrs(ctx, slog.LevelError, "OCSP", slog.Int64("ca", id), slog.String("error", err.Error()))
	return ocsp.Refusal(ocsp.InternalError), false
}

func (h *handler) respond(ctx context.Context, id int64, request ocsp.Request) ([]byte, error) {
	by, err := h.signer(ctx, id)
	if err != nil {
		return nil, err
	}
	now := h.now()
	statuses := make([]ocsp.Status, len(request.Certificates))
	ours := false
	for i, asked := range request.Certificates {
		statuses[i] = ocsp.Status{ID: asked, State: ocsp.Unknown, ThisUpdate: now, NextUpdate: now.Add(validFor)}
		if !by.issuer.Issued(asked) {
			continue
		}
		ours = true
		e, err := h.store.Entry(ctx, id, ca.SerialText(asked.Serial))
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		case !e.RevokedAt.IsZero():
			statuses[i].State, statuses[i].RevokedAt, statuses[i].Reason = ocsp.Revoked, e.RevokedAt, e.Reason
		default:
			statuses[i].State = ocsp.Good
		}
	}
	if !ours {
		return nil, errGone
	}
	return ocsp.Respond(statuses, request.Nonce, now, by.key, by.certificate)
}

// signer finds what signs a CA's answers.
func (h *handler) signer(ctx context.Context, id int64) (signer, error) {
	now := h.now()
	h.mu.Lock()
	kept, found := h.signers[id]
	h.mu.Unlock()
	if found && now.Before(kept.until) {
		return kept, nil
	}
	there, err := h.store.OCSPSigner(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		if _, err := h.store.OwnerOfCA(ctx, id); errors.Is(err, store.ErrNotFound) {
			return kept, errGone
		}
		return kept, errLater
	}
	if err != nil {
		return kept, err
	}
	if !now.Before(there.NotAfter) {
		return kept, errLater
	}
	issuer, err := x509.ParseCertificate(there.Issuer)
	if err != nil {
		return kept, err
	}
	kept = signer{issuer: ocsp.IssuerOf(issuer), until: now.Add(keptFor)}
	if there.NotAfter.Before(kept.until) {
		kept.until = there.NotAfter
	}
	if kept.certificate, err = x509.ParseCertificate(there.Certificate); err != nil {
		return kept, err
	}
	der, err := h.keys.Open(ctx, kmskey.OCSPSigner(there.User, there.CA), there.Key)
	if err != nil {
		return kept, err
	}
	defer clear(der)
	key, err := pki.ParseKey(der)
	if err != nil {
		return kept, err
	}
	kept.key = key.Signer()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.signers == nil || len(h.signers) >= keptMost {
		h.signers = map[int64]signer{}
	}
	h.signers[id] = kept
	return kept, nil
}
