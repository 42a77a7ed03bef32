package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"cjj365.cc/bb/shared/acmesecret"
	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

type handler struct {
	store  *store.Store
	keys   *kmskey.Key
	signer *casigner.Signer
	prober prober
	log    *slog.Logger
	now    func() time.Time

	known sync.Map // *server by the id of its CA
}

// server is what never changes of a CA's ACME server.
type server struct {
	user   int64
	secret acmeserver.Secret
}

// base is the path below which API Gateway's custom domain has the API; it leaves it in the path of a request.
const base = "/pki"

// routes are all below the id of a CA.
func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	route := func(path string, methods map[string]http.HandlerFunc) {
		for method, f := range methods {
			mux.HandleFunc(method+" /{ca}/acme/"+path, f)
		}
		mux.HandleFunc("/{ca}/acme/"+path, func(w http.ResponseWriter, r *http.Request) {
			h.fail(w, r, refuse(malformed, "%s cannot be done here.", r.Method).with(http.StatusMethodNotAllowed))
		})
	}
	post := func(path string, by signer, f answering) {
		route(path, map[string]http.HandlerFunc{"POST": h.signed(by, f)})
	}
	// These two and renewal information may be read without a signature (RFC 8555 §6.3, RFC 9773 §4.1).
	route("directory", map[string]http.HandlerFunc{"GET": h.open(h.directory), "POST": h.signed(byAccount, asGet(h.directory))})
	route("new-nonce", map[string]http.HandlerFunc{
		"HEAD": h.open(h.newNonce(http.StatusOK)), "GET": h.open(h.newNonce(http.StatusNoContent)), "POST": h.signed(byAccount, asGet(h.newNonce(http.StatusNoContent))),
	})
	route("renewal-info/{certificate}", map[string]http.HandlerFunc{"GET": h.open(h.renewalInfo)})
	post("new-account", byKey, h.newAccount)
	post("account/{account}", byAccount, h.account)
	post("account/{account}/orders", byAccount, asGet(h.orders))
	post("key-change", byAccount, h.keyChange)
	post("new-order", byAccount, h.newOrder)
	post("order/{order}", byAccount, asGet(h.order))
	post("order/{order}/finalize", byAccount, h.finalize)
	post("authz/{order}/{n}", byAccount, h.authorization)
	post("challenge/{order}/{n}/{type}", byAccount, h.challenge)
	post("cert/{order}", byAccount, asGet(h.certificate))
	post("revoke-cert", byEither, h.revoke)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, refuse(malformed, "There is nothing at this address.").with(http.StatusNotFound))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, below := strings.CutPrefix(r.URL.Path, base+"/"); below {
			r = r.Clone(r.Context())
			r.URL.Path, r.URL.RawPath = "/"+path, ""
		}
		mux.ServeHTTP(w, r)
	})
}

// signer says who may have signed a request (RFC 8555 §6.2).
type signer int

const (
	byAccount signer = iota // kid
	byKey                   // jwk
	byEither
)

// request is one to a CA's ACME server, checked as far as its signature goes.
type request struct {
	*http.Request
	ca     ca.CA
	server *server
	url    string // of the resource

	account acmeserver.Account // whose kid it has; the zero one of a request with a jwk
	key     crypto.PublicKey   // that signed; nil of an open request
	payload []byte             // empty of a POST-as-GET
}

// at is the URL of another resource of the server.
func (q *request) at(parts ...string) string { return q.ca.Directory + "/" + strings.Join(parts, "/") }

// decode reads the payload.
func (q *request) decode(into any) error {
	if err := json.Unmarshal(q.payload, into); err != nil {
		return refuse(malformed, "The payload is not the JSON object that it should be.")
	}
	return nil
}

// answer is what is sent back. A body is JSON unless it is text.
type answer struct {
	status     int // 0 for 200
	location   string
	up         string // the resource above (RFC 8555 §7.1)
	nonce      string
	retryAfter time.Duration
	body       any
	text       string
	kind       string // content type of a text
}

type answering func(q *request) (answer, error)

// asGet is for a resource that is only read: its payload is empty (RFC 8555 §6.3).
func asGet(f answering) answering {
	return func(q *request) (answer, error) {
		if len(q.payload) > 0 {
			return answer{}, refuse(malformed, "This is read only: send an empty payload.")
		}
		return f(q)
	}
}

// open answers a request without a signature.
func (h *handler) open(f answering) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := h.load(w, r)
		if err == nil {
			var a answer
			if a, err = f(q); err == nil {
				a.write(w)
				return
			}
		}
		h.fail(w, r, err)
	}
}

// signed answers a signed request. Whatever comes of it, the answer has another nonce.
func (h *handler) signed(by signer, f answering) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, err := h.load(w, r)
		if err == nil {
			w.Header().Set("Replay-Nonce", q.server.secret.Nonce(h.now()))
			err = h.verify(q, w, by)
		}
		if err == nil {
			var a answer
			if a, err = f(q); err == nil {
				a.write(w)
				return
			}
		}
		h.fail(w, r, err)
	}
}

// load finds the CA of a request. What it answers is never kept by caches (RFC 8555 §6.5.1), and names the directory
// (§7.1).
func (h *handler) load(w http.ResponseWriter, r *http.Request) (*request, error) {
	w.Header().Set("Cache-Control", "no-store")
	missing := refuse(malformed, "There is no such CA.").with(http.StatusNotFound)
	text := r.PathValue("ca")
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id <= 0 || strconv.FormatInt(id, 10) != text {
		return nil, missing
	}
	s, err := h.server(r.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	c, err := h.store.CA(r.Context(), s.user, id)
	if errors.Is(err, store.ErrNotFound) {
		h.known.Delete(id)
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	// The URL as clients sign it has the host and base path of the directory, whatever lies in between.
	url := c.Directory + strings.TrimPrefix(r.URL.Path, "/"+text+"/acme")
	if r.URL.RawQuery != "" {
		url += "?" + r.URL.RawQuery
	}
	q := &request{Request: r, ca: c, server: s, url: url}
	w.Header().Set("Link", "<"+q.at("directory")+`>;rel="index"`)
	return q, nil
}

// server finds out whose a CA is, and opens its secret; neither ever changes.
func (h *handler) server(ctx context.Context, id int64) (*server, error) {
	if s, ok := h.known.Load(id); ok {
		return s.(*server), nil
	}
	user, err := h.store.OwnerOfCA(ctx, id)
	if err != nil {
		return nil, err
	}
	secret, err := acmesecret.Open(ctx, h.store, h.keys, user, id)
	if err != nil {
		return nil, err
	}
	s := &server{user, secret}
	h.known.Store(id, s)
	return s, nil
}

// maxBody bounds a request: a CSR with a hundred names, twice in base64.
const maxBody = 64 << 10

// verify checks a signed request: first what costs nothing, then the signature, and only then the nonce is used up.
func (h *handler) verify(q *request, w http.ResponseWriter, by signer) error {
	if kind, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || kind != "application/jose+json" {
		return refuse(malformed, "Send application/jose+json (RFC 8555 §6.2).").with(http.StatusUnsupportedMediaType)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		return refuse(malformed, "The body has more than %d bytes.", maxBody).with(http.StatusRequestEntityTooLarge)
	}
	s, err := parseJWS(body, algorithms)
	switch {
	case err != nil:
		return err
	case by == byAccount && s.kid == "":
		return refuse(malformed, "Sign this with an account: kid, not jwk.")
	case by == byKey && s.jwk == nil:
		return refuse(malformed, "Sign this with the key itself: jwk, not kid.")
	case s.url != q.url:
		return refuse(unauthorized, "The url that was signed is not this resource's, %s.", q.url)
	}
	ends, ours := q.server.secret.CheckNonce(s.nonce, h.now())
	if !ours {
		return refuse(badNonce, "The nonce is not one of ours, or too old. Take the one of this answer.")
	}
	if s.jwk != nil {
		if q.key, err = s.publicKey(); err != nil {
			return err
		}
	} else if err := h.signatory(q, s.kid); err != nil {
		return err
	}
	if q.payload, err = s.verify(q.key); err != nil {
		return err
	}
	err = h.store.SpendNonce(q.Context(), s.nonce, ends)
	if errors.Is(err, store.ErrConflict) {
		return refuse(badNonce, "The nonce was used before. Take the one of this answer.")
	}
	return err
}

// signatory finds the account of a kid.
func (h *handler) signatory(q *request, kid string) error {
	missing := refuse(accountDoesNotExist, "There is no such account at this CA.")
	id, ok := strings.CutPrefix(kid, q.at("account")+"/")
	if !ok || !isID(id) {
		return missing
	}
	a, err := h.store.ServerAccount(q.Context(), q.ca.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		return missing
	}
	if err != nil {
		return err
	}
	if a.Status() != acmeserver.Valid {
		return refuse(unauthorized, "The account was deactivated.")
	}
	q.account = a
	q.key, err = parseKey(a.Key)
	return err
}

// isID tells what may be an id of acmeserver.NewID, before it stands in a key of the table.
func isID(text string) bool {
	return len(text) > 0 && len(text) < 64 && !strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'A' || c > 'Z') && (c < '0' || c > '9')
	})
}

func (a answer) write(w http.ResponseWriter) {
	header := w.Header()
	if a.location != "" {
		header.Set("Location", a.location)
	}
	if a.nonce != "" {
		header.Set("Replay-Nonce", a.nonce)
	}
	if a.up != "" {
		header.Add("Link", "<"+a.up+`>;rel="up"`)
	}
	if a.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(a.retryAfter.Seconds())))
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	switch {
	case a.kind != "":
		header.Set("Content-Type", a.kind)
	case a.body != nil:
		header.Set("Content-Type", "application/json")
	}
	w.WriteHeader(a.status)
	if a.body != nil {
		_ = json.NewEncoder(w).Encode(a.body) // the client has gone
		return
	}
	_, _ = io.WriteString(w, a.text)
}

// fail answers with an error, and logs it: an internal one whole.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := refusalOf(err)
	level := slog.LevelInfo
	if e.code() >= 500 {
		level = slog.LevelError
	}
	h.log.LogAttrs(r.Context(), level, "ACME refusal", slog.String("request", gateway.From(r.Context()).ID), slog.String("route", r.Pattern),
		slog.String("ca", printable(r.PathValue("ca"))), slog.String("error", printable(e.Error())))
	e.write(w)
}
