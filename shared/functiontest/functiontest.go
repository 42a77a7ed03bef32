// Package functiontest calls a function's routes in a test as API Gateway does after the authorizer: with the
// caller in the request's context and their credential in its header.
package functiontest

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/token"
)

// Function is a function that can be called.
type Function struct {
	handler http.Handler
	// Token goes along with each call. It need not be the caller's; it is the authorizer who looks at it.
	Token token.Token
}

// New makes a function of its routes, as its main does. corsOrigin is empty for none.
func New(t testing.TB, routes http.Handler, corsOrigin string) *Function {
	t.Helper()
	handler, err := gateway.Wrap(routes, corsOrigin, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &Function{handler, token.Mint(token.Session, 1, 5)}
}

// Session is a user's login, which may do everything that is the user's.
func Session(user int64, now time.Time) access.Caller {
	return access.Caller{Kind: access.Session, User: user, ID: 5, Name: "ann@example.org", Permissions: access.Everything, ExpiresAt: now.Add(time.Hour)}
}

// Key is a user's API key.
func Key(user int64, permissions access.Permissions, now time.Time) access.Caller {
	return access.Caller{Kind: access.APIKey, User: user, ID: 3, Name: "ci", Permissions: permissions, ExpiresAt: now.Add(time.Hour)}
}

// Answer is a response, its envelope read if it is JSON.
type Answer struct {
	Status int             `json:"-"`
	Header http.Header     `json:"-"`
	Body   string          `json:"-"`
	Data   json.RawMessage `json:"data"`
	Meta   struct{ Total, Offset, Limit int }
	Error  struct {
		Code   int
		What   string
		Key    string
		Params map[string]any
	}
}

// Into reads data of the envelope.
func (a Answer) Into(t testing.TB, out any) {
	t.Helper()
	if err := json.Unmarshal(a.Data, out); err != nil {
		t.Fatalf("%d %s: %v", a.Status, a.Body, err)
	}
}

// Call sends a request as caller; headers are "Name: value".
func (f *Function) Call(t testing.TB, caller access.Caller, method, path, body string, headers ...string) Answer {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r = r.WithContext(access.NewContext(r.Context(), caller))
	r.Header.Set("Authorization", "Bearer "+f.Token.Reveal())
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	f.handler.ServeHTTP(recorder, r)
	a := Answer{Status: recorder.Code, Header: recorder.Header(), Body: recorder.Body.String()}
	if a.Body != "" && strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(recorder.Body.Bytes(), &a); err != nil {
			t.Fatalf("%s %s: %d %q: %v", method, path, a.Status, a.Body, err)
		}
	}
	return a
}

// Want is Call that fails the test unless the status is as wanted.
func (f *Function) Want(t testing.TB, status int, caller access.Caller, method, path, body string, headers ...string) Answer {
	t.Helper()
	a := f.Call(t, caller, method, path, body, headers...)
	if a.Status != status {
		t.Fatalf("%s %s %.500s: %d %.1000s, want %d", method, path, body, a.Status, a.Body, status)
	}
	return a
}
