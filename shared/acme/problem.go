package acme

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Problem is a refusal by the CA (RFC 8555 §6.7).
type Problem struct {
	Type        string        `json:"type"`
	Detail      string        `json:"detail"`
	Status      int           `json:"status"`
	Subproblems []Subproblem  `json:"subproblems"`
	RetryAfter  time.Duration `json:"-"`
}

// Subproblem is what is wrong with one name.
type Subproblem struct {
	Type       string     `json:"type"`
	Detail     string     `json:"detail"`
	Identifier Identifier `json:"identifier"`
}

const (
	namespace = "urn:ietf:params:acme:error:"
	badNonce  = namespace + "badNonce"
	notACME   = "not-acme" // our own: the server does not speak the protocol
)

// passing are the errors that may be gone the next time; every other one stays until somebody does
// something about it.
var passing = []string{
	"badNonce", "connection", "dns", "serverInternal", "tls", "incorrectResponse", "orderNotReady", "unauthorized",
}

// LongLimit is a rate limit that is not waited for: an order that meets one longer than that is over.
const LongLimit = 15 * time.Minute

// Kind is the type without its namespace, such as caa or rateLimited.
func (p *Problem) Kind() string { return clean(strings.TrimPrefix(p.Type, namespace), 64) }

// Error is the CA's own words: they name no secret, and are what a person needs.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the CA answers %s: %s", p.Kind(), clean(p.Detail, 500))
	for i, s := range p.Subproblems {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(p.Subproblems)-i)
			break
		}
		fmt.Fprintf(&b, "; %s: %s", clean(s.Identifier.Value, 253), clean(s.Detail, 300))
	}
	return b.String()
}

// clean bounds the words of a stranger and takes out what is not printable.
func clean(s string, most int) string {
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

// Name is the name that the refusal is about, if the CA says so.
func (p *Problem) Name() string {
	for _, s := range p.Subproblems {
		if s.Identifier.Value != "" {
			return clean(s.Identifier.Value, 253)
		}
	}
	return ""
}

// Permanent tells whether trying again later is of no use: the CA or somebody else has to change
// something first. Errors that are no Problem (the network's) pass. An authorization that failed
// (unauthorized, dns, incorrectResponse) may pass too: records take time to be seen. A rate limit passes if
// the CA says that it ends soon; trying again without knowing when makes it worse.
func Permanent(err error) bool {
	var p *Problem
	if !errors.As(err, &p) {
		return false
	}
	if Is(p, "rateLimited") {
		return p.RetryAfter == 0 || p.RetryAfter > LongLimit
	}
	// What a CA has just made it may not find for a moment (a replica that is behind), and what is not ACME comes
	// from something in front of it.
	if p.Status == http.StatusNotFound || p.Type == notACME {
		return false
	}
	if p.Status >= http.StatusInternalServerError || p.Status == http.StatusTooManyRequests {
		return false
	}
	return !slices.Contains(passing, strings.TrimPrefix(p.Type, namespace))
}

// Unreachable is a CA that could not be asked, or whose answer could not be read.
type Unreachable struct {
	Host  string
	cause error
}

// Error is for the caller too: it names the CA's host, which the operator has chosen, and no address.
func (u *Unreachable) Error() string {
	reason := "it cannot be reached"
	var timeout net.Error
	var name *net.DNSError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var other x509.HostnameError
	switch {
	case errors.As(u.cause, &name):
		reason = "its name cannot be resolved"
	case errors.As(u.cause, &unknown), errors.As(u.cause, &invalid), errors.As(u.cause, &other):
		reason = "its HTTPS certificate is not trusted"
	case errors.As(u.cause, &timeout) && timeout.Timeout():
		reason = "it does not answer in time"
	}
	return "the CA at " + clean(u.Host, 253) + " does not serve: " + reason
}

// Unwrap gives the transport's error, for the log.
func (u *Unreachable) Unwrap() error { return u.cause }

// Is tells whether err is a problem of a kind, such as alreadyReplaced.
func Is(err error, kind string) bool {
	var p *Problem
	return errors.As(err, &p) && p.Type == namespace+kind
}

// Wait is how long the CA asks to be left alone; 0 if it does not say.
func Wait(err error) time.Duration {
	var p *Problem
	if errors.As(err, &p) {
		return p.RetryAfter
	}
	return 0
}

func problemOf(status int, body []byte, wait time.Duration) *Problem {
	p := &Problem{}
	if json.Unmarshal(body, p) != nil || p.Type == "" {
		p = &Problem{Type: notACME, Detail: "HTTP status " + http.StatusText(status)}
	}
	p.Status, p.RetryAfter = status, wait
	return p
}
