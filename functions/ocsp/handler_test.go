package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// world is the responder over a CA of its own.
type world struct {
	t      *testing.T
	now    time.Time
	signer *casigner.Signer
	ca     ca.CA
	http.Handler
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Now().UTC().Truncate(time.Second)}
	s := storetest.New(t).Store
	w.signer = catest.Signer(t, s, func() time.Time { return w.now })
	w.ca = catest.Root(t, w.signer, 1)
	if err := w.signer.RenewOCSPSigner(context.Background(), 1, w.ca.ID); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	h, err := gateway.Wrap(&handler{store: s, keys: awstest.Key(t), log: log, now: func() time.Time { return w.now }}, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.Handler = h
	return w
}

func (w *world) issue(name string) *x509.Certificate {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	issued, err := w.signer.Issue(context.Background(), 1, w.ca.ID, ca.Request{Names: []string{name}, Public: key.Public()}, "test", 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return issued.Certificate
}

func (w *world) revoke(c *x509.Certificate, reason int) {
	w.t.Helper()
	e, err := w.signer.Store.Entry(context.Background(), w.ca.ID, ca.SerialText(c.SerialNumber))
	if err == nil {
		err = w.signer.Revoke(context.Background(), 1, e, reason, "test")
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) do(method, path string, body []byte) *httptest.ResponseRecorder {
	w.t.Helper()
	r := httptest.NewRequest(method, "/", bytes.NewReader(body))
	r.URL.Path = path
	recorder := httptest.NewRecorder()
	w.ServeHTTP(recorder, r)
	return recorder
}

func request(t *testing.T, c, issuer *x509.Certificate, hash crypto.Hash) []byte {
	t.Helper()
	der, err := xocsp.CreateRequest(c, issuer, &xocsp.RequestOptions{Hash: hash})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Good, revoked and unknown, by POST and by every spelling of a GET.
func TestAnswers(t *testing.T) {
	w := newWorld(t)
	issuer := w.ca.Certificate()
	good, bad := w.issue("good.example"), w.issue("bad.example")
	w.revoke(bad, 1)
	stranger := *good
	stranger.SerialNumber = ca.NewSerial(w.now)
	for _, base := range []string{"", "/pki"} {
		path := fmt.Sprintf("%s/%d/ocsp", base, w.ca.ID)
		for _, tc := range []struct {
			c      *x509.Certificate
			status int
		}{{good, xocsp.Good}, {bad, xocsp.Revoked}, {&stranger, xocsp.Unknown}} {
			der := request(t, tc.c, issuer, crypto.SHA1)
			std := base64.StdEncoding.EncodeToString(der)
			for how, answer := range map[string]*httptest.ResponseRecorder{
				"POST": w.do("POST", path, der), "GET": w.do("GET", path+"/"+std, nil), "GET encoded": w.do("GET", path+"/"+url.PathEscape(std), nil),
				"GET query-encoded": w.do("GET", path+"/"+url.QueryEscape(std), nil), "SHA-256": w.do("POST", path, request(t, tc.c, issuer, crypto.SHA256)),
			} {
				if answer.Code != 200 || answer.Header().Get("Content-Type") != "application/ocsp-response" {
					t.Fatalf("%s: %d %s", how, answer.Code, answer.Header())
				}
				got, err := xocsp.ParseResponseForCert(answer.Body.Bytes(), tc.c, issuer)
				if err != nil || got.Status != tc.status || !got.NextUpdate.After(w.now) || got.ThisUpdate.After(w.now) {
					t.Errorf("%s: %+v, %v", how, got, err)
				}
				if tc.status == xocsp.Revoked && (got.RevocationReason != 1 || !got.RevokedAt.Equal(w.now)) {
					t.Errorf("%s: reason %d at %v", how, got.RevocationReason, got.RevokedAt)
				}
				cached := strings.HasPrefix(answer.Header().Get("Cache-Control"), "public, max-age=60")
				if cached != strings.HasPrefix(how, "GET") {
					t.Errorf("%s: Cache-Control %q", how, answer.Header().Get("Cache-Control"))
				}
			}
		}
	}
	// A revocation shows at once, in a process that has answered before.
	w.revoke(good, 0)
	got, err := xocsp.ParseResponseForCert(w.do("POST", fmt.Sprintf("/%d/ocsp", w.ca.ID), request(t, good, issuer, crypto.SHA1)).Body.Bytes(), good, issuer)
	if err != nil || got.Status != xocsp.Revoked || got.RevocationReason != xocsp.Unspecified {
		t.Errorf("%+v, %v", got, err)
	}
}

// What is no request, and whom nothing is known of here.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	c, issuer := w.issue("a.example"), w.ca.Certificate()
	other := newWorld(t)
	der := request(t, c, issuer, crypto.SHA1)
	path := fmt.Sprintf("/%d/ocsp", w.ca.ID)
	for name, tc := range map[string]struct {
		answer *httptest.ResponseRecorder
		status xocsp.ResponseStatus
	}{
		"not DER":           {w.do("POST", path, []byte("hello")), xocsp.Malformed},
		"nothing":           {w.do("POST", path, nil), xocsp.Malformed},
		"not base64":        {w.do("GET", path+"/***", nil), xocsp.Malformed},
		"more after it":     {w.do("POST", path, append(der[:len(der):len(der)], 0)), xocsp.Malformed},
		"another CA's":      {w.do("POST", path, request(t, c, other.ca.Certificate(), crypto.SHA1)), xocsp.Unauthorized},
		"a CA that is none": {w.do("POST", "/99/ocsp", der), xocsp.Unauthorized},
	} {
		_, err := xocsp.ParseResponse(tc.answer.Body.Bytes(), issuer)
		refusal, ok := err.(xocsp.ResponseError)
		if tc.answer.Code != 200 || !ok || refusal.Status != tc.status || strings.Contains(tc.answer.Header().Get("Cache-Control"), "public") {
			t.Errorf("%s: %d, %v", name, tc.answer.Code, err)
		}
	}
	for _, tc := range []struct {
		method, path string
		body         []byte
		status       int
	}{
		{"POST", path, make([]byte, 10_000), 413}, {"GET", path, nil, 405}, {"PUT", path, der, 405}, {"GET", "/x/ocsp/aaaa", nil, 404}, {"GET", "/-1/ocsp/aaaa", nil, 404}, {"GET", "/1/other", nil, 404},
	} {
		if got := w.do(tc.method, tc.path, tc.body); got.Code != tc.status {
			t.Errorf("%s %s: %d", tc.method, tc.path, got.Code)
		}
	}
}

// A CA without a signer yet says so, and one whose signer is renewed goes on.
func TestTheSigner(t *testing.T) {
	w := newWorld(t)
	c, issuer := w.issue("a.example"), w.ca.Certificate()
	fresh := catest.Root(t, w.signer, 1)
	_, err := xocsp.ParseResponse(w.do("POST", fmt.Sprintf("/%d/ocsp", fresh.ID), request(t, c, fresh.Certificate(), crypto.SHA1)).Body.Bytes(), nil)
	if refusal, ok := err.(xocsp.ResponseError); !ok || refusal.Status != xocsp.TryLater {
		t.Errorf("without a signer: %v", err)
	}
	path, der := fmt.Sprintf("/%d/ocsp", w.ca.ID), request(t, c, issuer, crypto.SHA1)
	signerOf := func() string {
		got, err := xocsp.ParseResponse(w.do("POST", path, der).Body.Bytes(), issuer)
		if err != nil {
			t.Fatal(err)
		}
		return got.Certificate.SerialNumber.String()
	}
	first := signerOf()
	w.now = w.now.Add(6 * 24 * time.Hour)
	if err := w.signer.RenewOCSPSigner(context.Background(), 1, w.ca.ID); err != nil {
		t.Fatal(err)
	}
	if second := signerOf(); second == first {
		t.Error("the signer was not renewed")
	}
	if err := w.signer.RenewOCSPSigner(context.Background(), 1, w.ca.ID); err != nil {
		t.Fatal(err)
	}
	// A table item of another CA's, with another context, does not open.
	stolen, err := w.signer.Store.OCSPSigner(context.Background(), w.ca.ID)
	if err != nil {
		t.Fatal(err)
	}
	stolen.CA = fresh.ID
	if err := w.signer.Store.KeepOCSPSigner(context.Background(), fresh, stolen); err != nil {
		t.Fatal(err)
	}
	_, err = xocsp.ParseResponse(w.do("POST", fmt.Sprintf("/%d/ocsp", fresh.ID), request(t, c, fresh.Certificate(), crypto.SHA1)).Body.Bytes(), nil)
	if refusal, ok := err.(xocsp.ResponseError); !ok || refusal.Status != xocsp.InternalError {
		t.Errorf("a stolen signer: %v", err)
	}
}

// OpenSSL asks with a nonce, for two certificates at once, and verifies the answer by the CA alone.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	w := newWorld(t)
	good, bad := w.issue("good.example"), w.issue("bad.example")
	w.revoke(bad, 4)
	server := httptest.NewServer(w)
	defer server.Close()
	dir := t.TempDir()
	for name, c := range map[string]*x509.Certificate{"ca": w.ca.Certificate(), "good": good, "bad": bad} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.Command("openssl", "ocsp", "-issuer", "ca", "-CAfile", "ca", "-cert", "good", "-cert", "bad", "-nonce", "-url", fmt.Sprintf("%s/%d/ocsp", server.URL, w.ca.ID))
	command.Dir = dir
	output, err := command.CombinedOutput()
	if text := string(output); err != nil || !strings.Contains(text, "Response verify OK") || !strings.Contains(text, "good: good") || !strings.Contains(text, "bad: revoked") ||
		!strings.Contains(text, "Reason: superseded") || strings.Contains(text, "WARNING") {
		t.Errorf("%v\n%s", err, output)
	}
}
