package acme

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/egress"
)

// ca is a server that says what each path answers; the rest of a directory is there.
type ca struct {
	*httptest.Server
	asked atomic.Int64
}

func newCA(t *testing.T, paths map[string]http.HandlerFunc) (*ca, *Client) {
	t.Helper()
	c := &ca{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		w.Header().Set("Replay-Nonce", fmt.Sprintf("nonce%d", c.asked.Load()))
		if answer, ok := paths[r.URL.Path]; ok {
			answer(w, r)
			return
		}
		switch r.URL.Path {
		case "/dir":
			fmt.Fprintf(w, `{"newNonce":"%[1]s/nonce","newAccount":"%[1]s/account","newOrder":"%[1]s/order","revokeCert":"%[1]s/revoke","renewalInfo":"%[1]s/ari"}`, c.URL)
		case "/nonce":
		default:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:malformed","detail":"no such path"}`)
		}
	}))
	t.Cleanup(c.Close)
	client := &Client{HTTP: c.Client(), URL: c.URL + "/dir"}
	client.HTTP.CheckRedirect = egress.Guard{}.Client(time.Second).CheckRedirect
	return c, client
}

func account(t *testing.T, c *ca) Account {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return Account{URL: c.URL + "/account/1", Key: key}
}

func refuse(status int, kind, detail string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(Problem{Type: namespace + kind, Detail: detail})
	}
}

func write(text string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		fmt.Fprint(w, text)
	}
}

// Whatever a CA answers, a request ends, with an error that is fit to be shown and not believed to be an order.
func TestWhatACAMayAnswer(t *testing.T) {
	endless := func(w http.ResponseWriter, r *http.Request) {
		for block := []byte(strings.Repeat("x", 64<<10)); r.Context().Err() == nil; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	order := `{"status":"pending","identifiers":[{"type":"dns","value":"a.example"}],"authorizations":[],"finalize":"x"}`
	for _, test := range []struct {
		name      string
		path      string
		answer    http.HandlerFunc
		says      string
		permanent bool
	}{
		{"a directory without end", "/dir", endless, "too long", false},
		{"an order without end", "/order", endless, "too long", false},
		{"HTML", "/dir", write("<html>"), "not the JSON", false},
		{"another JSON", "/dir", write(`{"hello":"world"}`), "not with an ACME directory", false},
		{"an address without HTTPS", "/dir", write(`{"newNonce":"http://127.0.0.1:9/","newAccount":"x","newOrder":"http://127.0.0.1:9/order"}`), "not https", false},
		{"redirects in a circle", "/dir", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/dir", http.StatusPermanentRedirect)
		}, "cannot be reached", false},
		{"a redirect elsewhere", "/dir", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/", http.StatusFound)
		}, "cannot be reached", false},
		{"an order without a URL", "/order", write(order), "other names", false},
		{"an order for another name", "/order", write(strings.Replace(order, "a.example", "b.example", 1), "Location", "https://ca/1"), "other names", false},
		{"an order for a name more", "/order", write(strings.Replace(order, `[{`, `[{"type":"dns","value":"b.example"},{`, 1), "Location", "https://ca/1"), "other names", false},
		{"a refusal with an escape", "/order", refuse(403, "caa", "\x1b[31mred\r\nnext: line"), "caa:  [31mred  next: line", true},
		{"a refusal that is long", "/order", refuse(403, "rejectedIdentifier", strings.Repeat("long ", 10000)), "…", true},
		{"a refusal that is not ACME's", "/order", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "blocked", http.StatusForbidden) }, "Forbidden", false},
		{"a limit", "/order", refuse(429, "rateLimited", "too many", "Retry-After", "7200"), "too many", true},
		{"a short limit", "/order", refuse(429, "rateLimited", "too many", "Retry-After", "60"), "too many", false},
	} {
		c, client := newCA(t, map[string]http.HandlerFunc{test.path: test.answer})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := client.NewOrder(ctx, account(t, c), Wish{Names: []string{"a.example"}})
		cancel()
		if err == nil || !strings.Contains(err.Error(), test.says) || Permanent(err) != test.permanent || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x1b\r\n") {
			t.Errorf("%s: %.300v, permanent %v", test.name, err, Permanent(err))
		}
	}
}

// A nonce that is refused is replaced by the one that came with the refusal, and not for ever.
func TestNonces(t *testing.T) {
	var refused atomic.Int64
	c, client := newCA(t, map[string]http.HandlerFunc{"/order": func(w http.ResponseWriter, r *http.Request) {
		if refused.Add(1) < 5 {
			refuse(400, "badNonce", "try again")(w, r)
			return
		}
		write(`{"status":"ready","identifiers":[{"type":"dns","value":"a.example"}]}`, "Location", "https://ca/1")(w, r)
	}})
	if o, err := client.NewOrder(t.Context(), account(t, c), Wish{Names: []string{"a.example"}}); err != nil || o.URL != "https://ca/1" {
		t.Errorf("%+v, %v", o, err)
	}
	c, client = newCA(t, map[string]http.HandlerFunc{"/order": refuse(400, "badNonce", "try again")})
	if _, err := client.NewOrder(t.Context(), account(t, c), Wish{Names: []string{"a.example"}}); !Is(err, "badNonce") || Permanent(err) || c.asked.Load() > maxNonces+5 {
		t.Errorf("%v after %d requests", err, c.asked.Load())
	}
}

// A CA that does not serve is told apart from one that refuses, and its transport's error is for the log.
func TestUnreachable(t *testing.T) {
	c, client := newCA(t, nil)
	c.Close()
	_, err := client.Directory(t.Context())
	var u *Unreachable
	if !errors.As(err, &u) || Permanent(err) || u.Unwrap() == nil || strings.Contains(u.Error(), "dial tcp") {
		t.Errorf("%v", err)
	}
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	if _, err := (&Client{HTTP: http.DefaultClient, URL: untrusted.URL}).Directory(t.Context()); err == nil || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("%v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "soon": 0, "7": 7 * time.Second, "99999999999999999999": 0, "99999999": maxRetryAfter,
		"Wed, 25 Nov 2026 13:00:00 GMT": time.Hour, "Wed, 25 Nov 2026 11:00:00 GMT": 0, "Sat, 25 Nov 2286 11:00:00 GMT": maxRetryAfter,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

// Renewal information that makes no sense is none (RFC 9773 §4.2).
func TestRenewalInfo(t *testing.T) {
	for body, known := range map[string]bool{
		`{"suggestedWindow":{"start":"2026-12-01T00:00:00Z","end":"2026-12-02T00:00:00Z"}}`: true,
		`{"suggestedWindow":{"start":"2026-12-02T00:00:00Z","end":"2026-12-01T00:00:00Z"}}`: false,
		`{"suggestedWindow":{"end":"2026-12-01T00:00:00Z"}}`:                                false,
		`{}`: false,
	} {
		_, client := newCA(t, map[string]http.HandlerFunc{"/ari/id": write(body, "Retry-After", "21600")})
		w, ok, err := client.RenewalInfo(t.Context(), "id")
		if err != nil || ok != known || ok && w.RetryAfter != 6*time.Hour {
			t.Errorf("%s: %+v, %v, %v", body, w, ok, err)
		}
	}
	_, client := newCA(t, map[string]http.HandlerFunc{"/dir": write(`{"newNonce":"https://x/","newAccount":"https://x/","newOrder":"https://x/"}`)})
	if _, _, err := client.RenewalInfo(t.Context(), "id"); !errors.Is(err, ErrNoRenewalInfo) {
		t.Errorf("%v", err)
	}
}

// The operator's directories are reached by a client of their own.
func TestConfigure(t *testing.T) {
	all, err := Configure(egress.Guard{}, []string{"own=https://10.0.0.1/dir"}, "", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	own := all.At("https://10.0.0.1/dir")
	if own.HTTP == all.At("https://10.0.0.2/dir").HTTP {
		t.Error("the operator's directory is like others")
	}
	if own != all.At("https://10.0.0.1/dir") {
		t.Error("a CA has two clients")
	}
	for _, directory := range []string{"https://10.0.0.2/dir", "https://127.0.0.1:9/dir", "https://169.254.169.254/dir"} {
		if _, err := all.At(directory).Directory(t.Context()); err == nil || !egress.IsRefused(err) {
			t.Errorf("%s: %v", directory, err)
		}
	}
	if _, err := Configure(egress.Guard{}, nil, "no PEM", time.Second); err == nil {
		t.Error("what is no PEM is taken")
	}
}
