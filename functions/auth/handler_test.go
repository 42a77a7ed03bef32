package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/awslabs/aws-lambda-go-api-proxy/httpadapter"

	"cjj365.cc/bb/local/ses"
	"cjj365.cc/bb/shared/authn"
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
	w.handler = &handler{
		store: tables.Store, mail: sender, log: slog.New(slog.DiscardHandler), now: w.clock,
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
		Session  *Pair
		AuthTime int64 `json:"auth_time"`
		Pair
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

func TestLogin(t *testing.T) {
	w := newWorld(t)
	u := w.newUser(t, "ann@example.org")
	a := w.login(t, " Ann@Example.org ", password)
	if a.Status != 200 || a.Body != fmt.Sprintf(`{"data":{"user":{"id":%d,"name":"user-1","email":"ann@example.org","roles":["user"],"country_of_residence":"DE"},"to":"/"}}`+"\n", u.ID) {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	c := cookieOf(a)
	if !regexp.MustCompile(`^cjj365=st_[0-9A-Za-z_]+; Path=/; Max-Age=604800; HttpOnly; Secure; SameSite=Lax$`).MatchString(c) {
		t.Errorf("Set-Cookie: %s", c)
	}
	for _, headers := range [][]string{{"Cookie: " + c}, {"Authorization: Bearer " + strings.TrimPrefix(strings.Split(c, ";")[0], "cjj365=")}} {
		status := w.send(t, "GET", "/auth/status", "", headers...)
		if status.Status != 200 || status.Data.User.ID != u.ID || status.Data.AuthTime != w.now.Unix() || !strings.Contains(status.Body, `"to":"","amr":["pwd"],"acr":"aal1"`) {
			t.Errorf("status: %d %s", status.Status, status.Body)
		}
		if p := w.send(t, "GET", "/auth/profile", "", headers...); p.Status != 200 || !strings.Contains(p.Body, `"email":"ann@example.org"`) {
			t.Errorf("profile: %s", p.Body)
		}
		if b := w.send(t, "GET", "/auth/third-party-bindings", "", headers...); b.Body != `{"data":[]}`+"\n" {
			t.Errorf("bindings: %s", b.Body)
		}
	}
	if short := w.send(t, "POST", "/auth", `{"action":"login","email":"ann@example.org","password":"`+password+`"}`); short.Status != 200 {
		t.Errorf("POST /auth: %d %s", short.Status, short.Body)
	}
	out := w.send(t, "POST", "/auth/logout", "", "Cookie: "+c)
	if out.Status != 204 || out.Body != "" || !strings.HasPrefix(cookieOf(out), "cjj365=; Path=/; Max-Age=0") {
		t.Errorf("logout: %d %s %s", out.Status, out.Body, cookieOf(out))
	}
	for _, tc := range []struct {
		method, path string
		status, code int
	}{{"GET", "/auth/status", 200, 999999}, {"GET", "/auth/profile", 401, 5104}, {"GET", "/auth/third-party-bindings", 401, 5104}, {"POST", "/auth/logout", 401, 5104}} {
		if a := w.send(t, tc.method, tc.path, "", "Cookie: "+c); a.Status != tc.status || a.Error.Code != tc.code {
			t.Errorf("after logout, %s: %d %s", tc.path, a.Status, a.Body)
		}
		if a := w.send(t, tc.method, tc.path, ""); a.Status != tc.status || a.Error.Code != tc.code {
			t.Errorf("without a session, %s: %d %s", tc.path, a.Status, a.Body)
		}
	}
}

func TestRegisterActivateLogin(t *testing.T) {
	w := newWorld(t)
	fields := map[string]string{"action": "register", "email": "bob@example.org", "password": password, "name": "bob", "country_of_residence": "de"}
	if a := w.action(t, fields); a.Status != 200 || a.Data.Status != "waiting_for_verification" || a.Data.Email != "bob@example.org" {
		t.Fatalf("register: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "bob@example.org", password); a.Status != 403 || a.Error.Code != 5022 {
		t.Errorf("login before activation: %d %s", a.Status, a.Body)
	}
	if a := w.action(t, fields); a.Status != 200 {
		t.Errorf("register again: %d %s", a.Status, a.Body)
	}
	code := w.code(t)
	activate := map[string]string{"action": "activate-user", "email": "bob@example.org", "verify_code": code}
	if a := w.action(t, activate); a.Status != 200 || a.Data.Status != "activation_successful" {
		t.Fatalf("activate: %d %s", a.Status, a.Body)
	}
	if a := w.action(t, activate); a.Status != 400 {
		t.Errorf("a code used twice: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "bob@example.org", password); a.Status != 200 {
		t.Errorf("login: %d %s", a.Status, a.Body)
	}
	if a := w.send(t, "GET", "/auth/general?name=BOB", ""); a.Status != 200 || a.Data.Available {
		t.Errorf("name in other case: %s", a.Body)
	}
	if a := w.send(t, "GET", "/auth/general?name=carol", ""); a.Body != `{"data":{"available":true}}`+"\n" {
		t.Errorf("free name: %s", a.Body)
	}
	if a := w.action(t, map[string]string{"action": "register", "email": "eve@example.org", "password": password, "name": "Bob"}); a.Status != 409 || a.Error.Code != 40904 {
		t.Errorf("a taken name: %d %s", a.Status, a.Body)
	}
}

// Somebody else registers an address that waits for activation: the owner's code stands for the owner's
// password.
func TestACodeBelongsToItsRegistration(t *testing.T) {
	w := newWorld(t)
	const owners, strangers = "Owners-horse-1", "Strangers-horse-1"
	register := func(name, country, password string) string {
		a := w.action(t, map[string]string{"action": "register", "email": "vic@example.org", "name": name, "country_of_residence": country, "password": password})
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		return w.code(t)
	}
	register("stranger", "FR", strangers)
	code := register("vic", "DE", owners)
	later := register("stranger", "FR", strangers)
	if a := w.send(t, "GET", "/auth/general?name=vic", ""); !a.Data.Available {
		t.Error("the name of a waiting registration is taken: it tells that the address has no account")
	}
	if a := w.action(t, map[string]string{"action": "activate-user", "email": "vic@example.org", "verify_code": code}); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := w.action(t, map[string]string{"action": "activate-user", "email": "vic@example.org", "verify_code": later}); a.Status != 400 {
		t.Errorf("another code after the activation: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "vic@example.org", owners); a.Status != 200 || !strings.Contains(a.Body, `"name":"vic"`) || !strings.Contains(a.Body, `"country_of_residence":"DE"`) {
		t.Errorf("the owner: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "vic@example.org", strangers); a.Status != 401 {
		t.Errorf("the stranger: %d %s", a.Status, a.Body)
	}
}

func TestAGivenNameIsNobodysToTake(t *testing.T) {
	w := newWorld(t)
	if a := w.action(t, map[string]string{"action": "register", "email": "eve@example.org", "password": password, "name": "user-2"}); a.Status != 400 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	w.action(t, map[string]string{"action": "register", "email": "ann@example.org", "password": password})
	if a := w.action(t, map[string]string{"action": "register", "email": "bob@example.org", "password": password}); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// Two people want a name: who activates first has it, the other is active with a given one.
func TestANameGoesToWhoActivatesFirst(t *testing.T) {
	w := newWorld(t)
	codes := map[string]string{}
	for _, email := range []string{"a@example.org", "b@example.org"} {
		if a := w.action(t, map[string]string{"action": "register", "email": email, "name": "wanted", "password": password}); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		codes[email] = w.code(t)
	}
	for email, name := range map[string]string{"b@example.org": "wanted"} {
		if a := w.action(t, map[string]string{"action": "activate-user", "email": email, "verify_code": codes[email]}); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if a := w.login(t, email, password); !strings.Contains(a.Body, `"name":"`+name+`"`) {
			t.Errorf("%s", a.Body)
		}
	}
	if a := w.action(t, map[string]string{"action": "activate-user", "email": "a@example.org", "verify_code": codes["a@example.org"]}); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := w.login(t, "a@example.org", password); a.Status != 200 || !strings.Contains(a.Body, `"name":"user-1"`) {
		t.Errorf("%s", a.Body)
	}
}

// Whoever saw an earlier code must not undo a reset with it.
func TestAResetMakesEarlierCodesWorthless(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	request := map[string]string{"action": "request-reset-password", "email": "ann@example.org"}
	reset := func(code, password string) int {
		return w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": password}).Status
	}
	w.action(t, request)
	earlier := w.code(t)
	w.action(t, request)
	if status := reset(w.code(t), "Another-horse-2"); status != 200 {
		t.Fatal(status)
	}
	if status := reset(earlier, "Strangers-horse-1"); status != 400 {
		t.Errorf("the earlier code: %d", status)
	}
	if a := w.login(t, "ann@example.org", "Another-horse-2"); a.Status != 200 {
		t.Errorf("the owner: %d %s", a.Status, a.Body)
	}
}

// A client refreshes as fast as it can while its sessions are ended: none may be left.
func TestNoRefreshSlipsThroughAnEnd(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	current := password
	for round := range 6 {
		pair := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": current, "token_type": "Bearer"}).Data.Session
		if pair == nil {
			t.Fatalf("round %d: no login", round)
		}
		var ended atomic.Bool
		var wait sync.WaitGroup
		access, refresh := []string{pair.AccessToken}, pair.RefreshToken
		wait.Go(func() {
			for !ended.Load() {
				a := w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+refresh+`"}`)
				if a.Status != 200 {
					return
				}
				access, refresh = append(access, a.Data.AccessToken), a.Data.RefreshToken
			}
		})
		if round%2 == 0 {
			w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
			next := fmt.Sprintf("Another-horse-%d", round)
			a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": next})
			if a.Status == 200 {
				current = next
			} else if a.Status != 503 {
				t.Errorf("reset: %d %s", a.Status, a.Body)
			}
			ended.Store(true)
			wait.Wait()
			if a.Status == 503 {
				continue // overtaken every time: the client was told to try again
			}
		} else {
			// Until one of the sessions of the line is caught alive, which ends the line.
			out := w.send(t, "POST", "/auth/logout", "", "Authorization: Bearer "+pair.AccessToken)
			ended.Store(true)
			wait.Wait()
			if out.Status != 204 {
				w.send(t, "POST", "/auth/logout", "", "Authorization: Bearer "+access[len(access)-1])
			}
		}
		for i, token := range access {
			if s := w.send(t, "GET", "/auth/status", "", "Authorization: Bearer "+token); s.Error.Code != 999999 {
				t.Errorf("round %d: access token %d of %d lives", round, i+1, len(access))
			}
		}
		w.pass(time.Hour)
	}
}

// As many logins of both kinds as there can be, all refreshed: one transaction must still end them.
func TestAResetEndsAsManySessionsAsThereCanBe(t *testing.T) {
	w := newWorld(t)
	u := w.newUser(t, "ann@example.org")
	tokens := []string{}
	for i := range 2 * session.MaxPerUser {
		fields := map[string]string{"action": "login", "email": "ann@example.org", "password": password}
		if i < session.MaxPerUser {
			fields["token_type"] = "Bearer"
		}
		w.pass(time.Second)
		a := w.action(t, fields)
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if a.Data.Session != nil {
			tokens = append(tokens, a.Data.Session.RefreshToken)
		}
	}
	for _, token := range tokens { // of lines that have made room for others
		w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`)
	}
	w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
	a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": "Another-horse-2"})
	if a.Status != 200 {
		t.Errorf("reset with %d logins of user %d: %d %s", 2*session.MaxPerUser, u.ID, a.Status, a.Body)
	}
}

func TestGoodLoginsLockNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	var wait sync.WaitGroup
	for range 3 * perAccount.Most {
		wait.Go(func() { w.login(t, "ann@example.org", password) })
	}
	wait.Wait()
	if a := w.login(t, "ann@example.org", password); a.Status != 200 {
		t.Errorf("after a burst of good logins: %d %s", a.Status, a.Body)
	}
}

func TestACodeDiesOfAgeAndOfGuesses(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	request := map[string]string{"action": "request-reset-password", "email": "ann@example.org"}
	reset := func(code string) answer {
		return w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": "Another-horse-2"})
	}
	w.action(t, request)
	w.pass(user.CodeLifetime)
	if a := reset(w.code(t)); a.Status != 400 {
		t.Errorf("an old code: %d %s", a.Status, a.Body)
	}
	w.action(t, request)
	code := w.code(t)
	for range user.CodeAttempts {
		if a := reset(wrong(code)); a.Status != 400 {
			t.Errorf("a wrong code: %d %s", a.Status, a.Body)
		}
	}
	if a := reset(code); a.Status != 400 {
		t.Errorf("the code after five guesses: %d %s", a.Status, a.Body)
	}
}

func TestAResetEndsEverySession(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	cookies := []string{cookieOf(w.login(t, "ann@example.org", password)), cookieOf(w.login(t, "ann@example.org", password))}
	tokens := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": password, "token_type": "Bearer"}).Data.Session
	w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
	if a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": "weak"}); a.Status != 400 {
		t.Errorf("a weak password: %d %s", a.Status, a.Body)
	}
	a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": "Another-horse-2"})
	if a.Status != 200 || a.Data.Status != "password_reset_success" {
		t.Fatalf("reset: %d %s", a.Status, a.Body)
	}
	for _, c := range cookies {
		if s := w.send(t, "GET", "/auth/status", "", "Cookie: "+c); s.Error.Code != 999999 {
			t.Errorf("a session outlived the reset: %s", s.Body)
		}
	}
	if r := w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+tokens.RefreshToken+`"}`); r.Status != 401 {
		t.Errorf("a refresh token outlived the reset: %s", r.Body)
	}
	if a := w.login(t, "ann@example.org", password); a.Status != 401 {
		t.Errorf("the old password: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "ann@example.org", "Another-horse-2"); a.Status != 200 {
		t.Errorf("the new password: %d %s", a.Status, a.Body)
	}
}

// Logins race with a reset: none of those that began with the old password may be left.
func TestNoSessionSlipsThroughAReset(t *testing.T) {
	w := newWorld(t)
	u := w.newUser(t, "ann@example.org")
	for round := range 5 {
		w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
		code, before, after := w.code(t), password, fmt.Sprintf("Another-horse-%d", round)
		if round > 0 {
			before = fmt.Sprintf("Another-horse-%d", round-1)
		}
		var wait sync.WaitGroup
		cookies := make([]string, 6)
		for i := range cookies {
			wait.Go(func() { cookies[i] = cookieOf(w.login(t, "ann@example.org", before)) })
		}
		var reset answer
		wait.Go(func() {
			reset = w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": after})
		})
		wait.Wait()
		if reset.Status == 503 { // every attempt was overtaken: the client is told to try again
			reset = w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": after})
		}
		if reset.Status != 200 {
			t.Fatalf("reset: %d %s", reset.Status, reset.Body)
		}
		for _, c := range cookies {
			if s := w.send(t, "GET", "/auth/status", "", "Cookie: "+c); s.Error.Code != 999999 {
				t.Errorf("round %d: a session with the old password lives", round)
			}
		}
		w.pass(time.Hour) // so that the limits of tries do not decide
	}
	if got, err := w.store.User(t.Context(), u.ID); err != nil || got.Revision < 5 {
		t.Errorf("%+v, %v", got, err)
	}
}

// What a stranger learns of an address is the same whether it has an account or not.
func TestNoAccountIsTold(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "known@example.org")
	w.action(t, map[string]string{"action": "register", "email": "waiting@example.org", "password": password})
	for _, fields := range []map[string]string{
		{"action": "login", "password": "Wrong-horse-1"},
		{"action": "login", "password": ""},
		{"action": "register", "password": password},
		{"action": "activate-user", "verify_code": "000000"},
		{"action": "request-reset-password"},
		{"action": "reset-password", "verify_code": "000000", "new_password": "Another-horse-2"},
	} {
		var told []string
		for _, email := range []string{"unknown@example.org", "known@example.org", "waiting@example.org"} {
			fields["email"] = email
			w.waited = nil
			a := w.action(t, fields)
			held := len(w.waited) == 1 && w.waited[0] == unhurried // the world's clock stands still
			if fields["action"] != "login" && !held {
				t.Errorf("%s was not answered at its fixed time: %v", fields["action"], w.waited)
			}
			told = append(told, fmt.Sprint(a.Status, strings.ReplaceAll(a.Body, email, "<email>"), a.Header["Retry-After"], cookieOf(a)))
		}
		if told[0] != told[1] || told[1] != told[2] {
			t.Errorf("%s:\n%s", fields["action"], strings.Join(told, "\n"))
		}
	}
	for _, m := range w.mails(t) {
		if strings.Contains(m, "To: <unknown@") && strings.Contains(m, "reset") {
			t.Error("a reset code went to an address without an account")
		}
	}
}

func TestLimitsOfTries(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	for range perAccount.Most {
		if a := w.login(t, "ann@example.org", "Wrong-horse-1"); a.Status != 401 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	w.address = "198.51.100.7" // from anywhere
	a := w.login(t, "ann@example.org", password)
	wait := a.Error.Params["retry_after"]
	if a.Status != 429 || a.Error.Code != 5013 || len(a.Header["Retry-After"]) != 1 || fmt.Sprint(wait) != a.Header["Retry-After"][0] {
		t.Errorf("%d %s %v", a.Status, a.Body, a.Header)
	}
	if other := w.login(t, "bob@example.org", password); other.Status != 401 {
		t.Errorf("another account: %d %s", other.Status, other.Body)
	}
	w.pass(perAccount.Window)
	for range 2 * perAccount.Most { // good logins are not tries
		if a := w.login(t, "ann@example.org", password); a.Status != 200 {
			t.Fatalf("a good login: %d %s", a.Status, a.Body)
		}
	}
	for i := range newPerAddress.Most + 1 {
		a = w.action(t, map[string]string{"action": "register", "email": fmt.Sprintf("u%d@example.org", i), "password": password})
	}
	if a.Status != 429 {
		t.Errorf("registrations from one address: %d %s", a.Status, a.Body)
	}
	if network("2001:db8::1") != network("2001:db8::ffff:1") || network("2001:db8::1") == network("2001:db8:0:1::1") || network("::ffff:192.0.2.9") != "192.0.2.9" {
		t.Error("addresses are counted wrongly")
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	begin := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": password, "token_type": "Bearer"})
	if begin.Status != 200 || begin.Data.Session == nil || cookieOf(begin) != "" || begin.Data.Session.ExpiresIn != 3600 || begin.Data.Session.TokenType != "Bearer" {
		t.Fatalf("login: %d %s", begin.Status, begin.Body)
	}
	refresh := func(token string) answer {
		return w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`)
	}
	status := func(token string) int {
		return w.send(t, "GET", "/auth/status", "", "Authorization: Bearer "+token).Error.Code
	}
	w.pass(session.AccessLifetime)
	if status(begin.Data.Session.AccessToken) != 999999 {
		t.Error("an access token outlived its time")
	}
	second := refresh(begin.Data.Session.RefreshToken)
	if second.Status != 200 || second.Data.Session == nil || *second.Data.Session != second.Data.Pair {
		t.Fatalf("refresh must answer in both forms: %d %s", second.Status, second.Body)
	}
	if status(second.Data.AccessToken) != 0 {
		t.Error("the new access token does not work")
	}
	w.pass(10 * time.Second)
	again := refresh(begin.Data.Session.RefreshToken) // the answer was lost
	if again.Status != 200 || status(again.Data.AccessToken) != 0 {
		t.Fatalf("a repeat after a lost answer: %d %s", again.Status, again.Body)
	}
	w.pass(time.Hour)
	third := refresh(again.Data.RefreshToken)
	if third.Status != 200 {
		t.Fatalf("third: %d %s", third.Status, third.Body)
	}
	w.pass(time.Hour)
	stolen := refresh(begin.Data.Session.RefreshToken)
	if stolen.Status != 401 || stolen.Error.Code != 10003 || stolen.Error.Key != "refresh_token_rotated" {
		t.Errorf("a spent token: %d %s", stolen.Status, stolen.Body)
	}
	dead := refresh(third.Data.RefreshToken)
	if dead.Status != 401 || dead.Error.Code == 10003 || !strings.Contains(dead.Error.What, "family revoked") || status(third.Data.AccessToken) != 999999 {
		t.Errorf("the family after a theft: %d %s", dead.Status, dead.Body)
	}
	for body, want := range map[string]int{
		`{"refresh_token":"rt_x"}`: 5018, `{"refresh_token":""}`: 5000, `{}`: 5008, ``: 5007, `{"refresh_token":7}`: 5009,
		`{"refresh_token":"` + again.Data.AccessToken + `"}`: 5018,
	} {
		if a := w.send(t, "POST", "/auth/refresh", body); a.Error.Code != want {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
}

// Two processes of one device refresh at once: neither may be locked out.
func TestParallelRefreshesLockNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	token := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": password, "token_type": "Bearer"}).Data.Session.RefreshToken
	answers := make([]answer, 6)
	var wait sync.WaitGroup
	for i := range answers {
		wait.Go(func() { answers[i] = w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`) })
	}
	wait.Wait()
	for _, a := range answers {
		if a.Status != 200 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	if next := w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+answers[0].Data.RefreshToken+`"}`); next.Status != 200 {
		t.Errorf("afterwards: %d %s", next.Status, next.Body)
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	for body, want := range map[string]int{
		``: 5007, `{`: 5021, `[]`: 5009, `{}`: 5008, `{"action":7}`: 5009, `{"action":"dance","email":"a@b.cd"}`: 5000,
		`{"action":"login"}`: 5008, `{"action":"login","email":"x"}`: 5000, `{"action":"login","email":"a@b.cd"}`: 5008, `{"action":"login","email":7}`: 5009,
		`{"action":"register","email":"a@b.cd","password":"weak"}`:                                              5000,
		`{"action":"register","email":"a@b.cd","password":"` + password + `","name":"no spaces"}`:               5000,
		`{"action":"register","email":"a@b.cd","password":"` + password + `","country_of_residence":"Germany"}`: 5000,
		`{"action":"activate-user","email":"a@b.cd"}`:                                                           5008,
		`{"action":"reset-password","email":"a@b.cd","verify_code":"000000"}`:                                   5008,
		`{"action":"login","email":"a@b.cd","password":"` + strings.Repeat("x", 2000) + `"}`:                    5000,
	} {
		if a := w.send(t, "POST", "/auth/general", body); a.Status != 400 || a.Error.Code != want || strings.Contains(a.Body, password) {
			t.Errorf("%.90s: %d %s", body, a.Status, a.Body)
		}
	}
	for path, want := range map[string]int{"/auth/general": 5005, "/auth/general?name=x": 5000, "/auth/general?name=a%20b": 5000} {
		if a := w.send(t, "GET", path, ""); a.Status != 400 || a.Error.Code != want {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	if mails := w.mails(t); len(mails) != 0 {
		t.Errorf("bad requests sent %d messages", len(mails))
	}
}

func TestAUserKeepsTheNewestLogins(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	first := cookieOf(w.login(t, "ann@example.org", password))
	for range session.MaxPerUser {
		w.pass(time.Second)
		if a := w.login(t, "ann@example.org", password); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	if s := w.send(t, "GET", "/auth/status", "", "Cookie: "+first); s.Error.Code != 999999 {
		t.Error("the oldest of too many logins still works")
	}
}

// A registration that died between the account and its code is taken up by the next.
func TestARegistrationThatDiedIsTakenUp(t *testing.T) {
	w := newWorld(t)
	hash, err := user.Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.CreateUser(t.Context(), user.User{Email: "bob@example.org", State: user.Inactive, PasswordHash: hash, CreatedAt: w.clock()}); err != nil {
		t.Fatal(err)
	}
	if a := w.login(t, "bob@example.org", password); a.Status != 403 {
		t.Errorf("login: %d %s", a.Status, a.Body)
	}
	if a := w.action(t, map[string]string{"action": "register", "email": "bob@example.org", "password": password, "name": "bob"}); a.Status != 200 {
		t.Fatalf("register: %d %s", a.Status, a.Body)
	}
	w.action(t, map[string]string{"action": "activate-user", "email": "bob@example.org", "verify_code": w.code(t)})
	if a := w.login(t, "bob@example.org", password); a.Status != 200 {
		t.Errorf("login: %d %s", a.Status, a.Body)
	}
}
