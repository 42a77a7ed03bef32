package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// What a CA publishes: types, caching, and nothing for who has it already.
func TestWhatIsPublished(t *testing.T) {
	signer := catest.Signer(t, storetest.New(t).Store, time.Now)
	root := catest.Root(t, signer, 1)
	if _, err := signer.Publish(context.Background(), 1, root.ID); err != nil {
		t.Fatal(err)
	}
	h, err := gateway.Wrap(&handler{bucket: signer.Bucket}, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, path string, headers ...string) *http.Response {
		r := httptest.NewRequest(method, path, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, r)
		return recorder.Result()
	}
	for _, tc := range []struct {
		path, kind string
		parse      func([]byte) error
	}{
		{"/ca.crl", "application/pkix-crl", func(b []byte) error { _, err := x509.ParseRevocationList(b); return err }},
		{"/ca.crt", "application/pkix-cert", func(b []byte) error { _, err := x509.ParseCertificate(b); return err }},
	} {
		for _, base := range []string{"", "/pki"} {
			path := fmt.Sprintf("%s/%d%s", base, root.ID, tc.path)
			a := do("GET", path)
			body := make([]byte, a.ContentLength+1<<16)
			n, _ := a.Body.Read(body)
			if err := tc.parse(body[:n]); a.StatusCode != 200 || err != nil || a.Header.Get("Content-Type") != tc.kind || a.Header.Get("ETag") == "" ||
				a.Header.Get("Cache-Control")[:15] != "public, max-age" || a.Header.Get("Last-Modified") == "" {
				t.Errorf("%s: %d %v, %v", path, a.StatusCode, a.Header, err)
			}
			if again := do("GET", path, "If-None-Match", a.Header.Get("ETag")); again.StatusCode != 304 {
				t.Errorf("%s again: %d", path, again.StatusCode)
			}
			if head := do("HEAD", path); head.StatusCode != 200 || head.Header.Get("ETag") != a.Header.Get("ETag") {
				t.Errorf("HEAD %s: %d", path, head.StatusCode)
			}
		}
	}
	for path, status := range map[string]int{"/99/ca.crl": 404, "/x/ca.crl": 404, "/1/../2/ca.crl": 404, "/01/ca.crl": 404, "/1/ca.key": 404, "/1/ca.crl/": 404, "//1/ca.crl": 404} {
		if a := do("GET", path); a.StatusCode != status {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
	if a := do("POST", fmt.Sprintf("/%d/ca.crl", root.ID)); a.StatusCode != 405 || a.Header.Get("Allow") == "" {
		t.Errorf("POST: %d", a.StatusCode)
	}
}
