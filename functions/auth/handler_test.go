package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/awslabs/aws-lambda-go-api-proxy/httpadapter"

	"cjj365.cc/bb/local/ses"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/mail"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
	"cjj365.cc/bb/shared/user"
)

const password = "Correct-horse-1"

// world is the function over tables and a mailbox of its own, called by API Gateway's events.
type world struct {
	handler *handler
	adapter *httpadapter.HandlerAdapter
	store   *store.Store
	mailbox string
	address string

	mu     sync.Mutex
	now    time.Time
	waited []time.Duration // how long answers were held back
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	tables := storetest.New(t)
	w := &world{store: tables.Store, mailbox: t.TempDir(), address: "192.0.2.9", now: storetest.Now()}
	box, err := ses.NewMailbox(w.mailbox, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(box)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_SESV2", server.URL)
	sender, err := mail.Open("bb@example.test")
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamo.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.handler = &handler{
		tokens: &devicetoken.Signer{Root: func(context.Context) (crypto.Signer, error) { return root, nil }, Publish: tables.Store.PublishTokenKey},
		url:    "https://bb.example",
		store:  tables.Store, mail: sender, log: slog.New(slog.DiscardHandler), now: w.clock,
		authn: &authn.Authenticator{Client: client, Table: tables.Credentials, Now: w.clock},
		wait: func(_ context.Context, at time.Time) {
			now := w.clock()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.waited = append(w.waited, at.Sub(now))
		},
	}
	wrapped, err := gateway.Wrap(w.handler.routes(), "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.adapter = httpadapter.New(wrapped)
	return w
}

// answer is a response, its envelope read.
type answer struct {
	Status int
	Header http.Header
	Body   string
	Data   struct {
		User     struct{ ID int64 }
		To       string
		Email    string
		Status   string
		Session  *session.Pair
		AuthTime int64 `json:"auth_time"`
		session.Pair
		Available bool
	}
	Error struct {
		Code   int
		Key    string
		What   string
		Params map[string]any
	}
}

func (w *world) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	event := events.APIGatewayProxyRequest{
		HTTPMethod: method, Path: path, Body: body, MultiValueHeaders: map[string][]string{"Content-Type": {"application/json"}, "X-Forwarded-Proto": {"https"}},
		RequestContext: events.APIGatewayProxyRequestContext{RequestID: "r", Identity: events.APIGatewayRequestIdentity{SourceIP: w.address}},
	}
	if path, query, ok := strings.Cut(path, "?"); ok {
		name, value, _ := strings.Cut(query, "=")
		event.Path, event.QueryStringParameters = path, map[string]string{name: value}
		event.MultiValueQueryStringParameters = map[string][]string{name: {value}}
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		event.MultiValueHeaders[name] = append(event.MultiValueHeaders[name], value)
	}
	response, err := w.adapter.ProxyWithContext(context.Background(), event)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Status: response.StatusCode, Header: response.MultiValueHeaders, Body: response.Body}
	if response.Body != "" && response.Body[0] == '{' {
		// data is an array on one route; the fields are then left empty
		_ = json.Unmarshal([]byte(response.Body), &a)
	}
	return a
}

func (w *world) action(t *testing.T, fields map[string]string) answer {
	t.Helper()
	body, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return w.send(t, "POST", "/auth/general", string(body))
}

func (w *world) login(t *testing.T, email, password string) answer {
	t.Helper()
	return w.action(t, map[string]string{"action": "login", "email": email, "password": password})
}

// newUser stores an active account.
func (w *world) newUser(t *testing.T, email string) user.User {
	t.Helper()
	hash, err := user.Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	u, err := w.store.CreateUser(t.Context(), user.User{Email: email, State: user.Active, PasswordHash: hash, Roles: []string{"user"}, Country: "DE", CreatedAt: w.clock()})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// mails are the messages sent so far, oldest first.
func (w *world) mails(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.mailbox, "*"))
	if err != nil {
		t.Fatal(err)
	}
	texts := make([]string, len(files))
	for i, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return texts
}

var sixDigits = regexp.MustCompile(`(?m)^ +([0-9]{6})\r?$`)

// code is the code in the newest message.
func (w *world) code(t *testing.T) string {
	t.Helper()
	mails := w.mails(t)
	if len(mails) == 0 {
		t.Fatal("no message was sent")
	}
	m := sixDigits.FindStringSubmatch(mails[len(mails)-1])
	if m == nil {
		t.Fatalf("no code in %s", mails[len(mails)-1])
	}
	return m[1]
}

func wrong(code string) string {
	if code == "000000" {
		return "000001"
	}
	return "000000"
}

func cookieOf(a answer) string {
	if len(a.Header["Set-Cookie"]) == 0 {
		return ""
	}
	return a.Header["Set-Cookie"][0]
}
