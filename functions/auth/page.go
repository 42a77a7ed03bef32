package main

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

//go:embed device.html
var deviceHTML string

// page is where a person approves a device. What it does, it does with the routes of this function; its policy lets it
// run its own script and nothing else.
func page() http.Handler {
	policy := "default-src 'none'; script-src 'sha256-" + digestOf("script") + "'; style-src 'sha256-" + digestOf("style") +
		"'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Referrer-Policy", "no-referrer")
		_, _ = w.Write([]byte(deviceHTML)) // the client has gone
	})
}

// digestOf is the digest of the page's one element of a name.
func digestOf(element string) string {
	_, rest, _ := strings.Cut(deviceHTML, "<"+element+">")
	inner, _, _ := strings.Cut(rest, "</"+element+">")
	digest := sha256.Sum256([]byte(inner))
	return base64.StdEncoding.EncodeToString(digest[:])
}
