package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/problem"
)

// namespace is that of the error types (RFC 8555 §6.7).
const namespace = "urn:ietf:params:acme:error:"

// The kinds of errors, each with its HTTP status (RFC 8555 §6.7, RFC 9773 §7.4, draft-ietf-acme-profiles §6.3). The
// documents leave most statuses open; these are the ones that Boulder answers.
var statuses = map[string]int{
	accountDoesNotExist: 400, alreadyReplaced: 409, alreadyRevoked: 400, badCSR: 400, badNonce: 400, badPublicKey: 400, badRevocationReason: 400,
	badSignatureAlgorithm: 400, connection: 400, dns: 400, externalAccountRequired: 403, incorrectResponse: 400, invalidContact: 400, invalidProfile: 400,
	malformed: 400, orderNotReady: 403, rateLimited: 429, rejectedIdentifier: 400, serverInternal: 500, unauthorized: 403, unsupportedContact: 400,
	unsupportedIdentifier: 400,
}

const (
	accountDoesNotExist     = "accountDoesNotExist"
	alreadyReplaced         = "alreadyReplaced"
	alreadyRevoked          = "alreadyRevoked"
	badCSR                  = "badCSR"
	badNonce                = "badNonce"
	badPublicKey            = "badPublicKey"
	badRevocationReason     = "badRevocationReason"
	badSignatureAlgorithm   = "badSignatureAlgorithm"
	connection              = "connection"
	dns                     = "dns"
	externalAccountRequired = "externalAccountRequired"
	incorrectResponse       = "incorrectResponse"
	invalidContact          = "invalidContact"
	invalidProfile          = "invalidProfile"
	malformed               = "malformed"
	orderNotReady           = "orderNotReady"
	rateLimited             = "rateLimited"
	rejectedIdentifier      = "rejectedIdentifier"
	serverInternal          = "serverInternal"
	unauthorized            = "unauthorized"
	unsupportedContact      = "unsupportedContact"
	unsupportedIdentifier   = "unsupportedIdentifier"
)

// refusal is an error as the client will see it.
type refusal struct {
	kind        string
	status      int // 0 for the kind's
	detail      string
	subproblems []subproblem
	algorithms  []jose.SignatureAlgorithm // of badSignatureAlgorithm (RFC 8555 §6.2)
	location    string
	retryAfter  time.Duration
	cause       error // for the log only
}

// subproblem is what is wrong with one identifier (RFC 8555 §6.7.1).
type subproblem struct {
	Type       string                 `json:"type"`
	Detail     string                 `json:"detail"`
	Identifier *acmeserver.Identifier `json:"identifier,omitempty"`
}

func refuse(kind, format string, args ...any) *refusal {
	return &refusal{kind: kind, detail: fmt.Sprintf(format, args...)}
}

func (e *refusal) with(status int) *refusal {
	e.status = status
	return e
}

func (e *refusal) Error() string {
	text := e.kind + ": " + e.detail
	if e.cause != nil {
		text += " (" + e.cause.Error() + ")"
	}
	return text
}

func (e *refusal) Unwrap() error { return e.cause }

func subproblemOf(kind, name, detail string) subproblem {
	s := subproblem{Type: namespace + kind, Detail: detail}
	if name != "" {
		s.Identifier = new(acmeserver.IdentifierOf(name))
	}
	return s
}

// refusalOf turns any error into a refusal. What is neither a refusal nor a problem of a kind that tells the client
// what to do is internal, and answered without detail.
func refusalOf(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	p, ok := errors.AsType[*problem.Error](err)
	if !ok {
		return &refusal{kind: serverInternal, detail: "internal error", cause: err}
	}
	r := &refusal{detail: p.What, retryAfter: p.RetryAfter, cause: err}
	switch p.Kind {
	case problem.RateLimited:
		r.kind = rateLimited
	case problem.Unavailable:
		r.kind, r.status = serverInternal, p.Status
	case problem.NotFound:
		r.kind, r.status = malformed, p.Status
	case problem.Conflict: // the CA is pending or has expired
		r.kind = unauthorized
	case problem.InvalidArgument, problem.MissingField:
		r.kind = malformed
	default:
		r.kind, r.detail = serverInternal, "internal error"
	}
	return r
}

func (e *refusal) code() int {
	if e.status != 0 {
		return e.status
	}
	return statuses[e.kind]
}

// write answers with a problem document (RFC 9457).
func (e *refusal) write(w http.ResponseWriter) {
	if e.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(problem.Seconds(e.retryAfter)))
	}
	if e.location != "" {
		w.Header().Set("Location", e.location)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.code())
	_ = json.NewEncoder(w).Encode(struct { // the client has gone
		Type        string                    `json:"type"`
		Detail      string                    `json:"detail"`
		Status      int                       `json:"status"`
		Subproblems []subproblem              `json:"subproblems,omitempty"`
		Algorithms  []jose.SignatureAlgorithm `json:"algorithms,omitempty"`
	}{namespace + e.kind, printable(e.detail), e.code(), e.subproblems, e.algorithms})
}

// printable bounds a sentence that may repeat what a stranger sent.
func printable(s string) string {
	const most = 500
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// stored is a problem as an order or a challenge keeps it, in JSON.
type storedProblem struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
	Status int    `json:"status"`
}

func shownProblem(p *acmeserver.Problem) *storedProblem {
	if p == nil {
		return nil
	}
	return &storedProblem{namespace + p.Kind, p.Detail, statuses[p.Kind]}
}
