package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/courier"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/webhook"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// world is the function over tables of its own, with one user and a receiver that answers status.
type world struct {
	store    *store.Store
	function *functiontest.Function
	session  access.Caller
	now      time.Time
	receiver string
	status   atomic.Int64
	got      atomic.Int64
	last     atomic.Value // headers of the last request to the receiver
}

func newWorld(t *testing.T, guard egress.Guard) *world {
	t.Helper()
	w := &world{store: storetest.New(t).Store, now: storetest.Now()}
	now := func() time.Time { return w.now }
	keys := awstest.Key(t)
	h := &handler{
		store: w.store, keys: keys, guard: guard, log: slog.New(slog.DiscardHandler), now: now,
		courier: &courier.Courier{Store: w.store, Keys: keys, Client: webhook.Client(guard), Now: now},
	}
	w.function = functiontest.New(t, h.routes(), "")
	u, err := w.store.CreateUser(t.Context(), user.User{Email: "ann@example.org", State: user.Active, CreatedAt: w.now})
	if err != nil {
		t.Fatal(err)
	}
	w.session = functiontest.Session(u.ID, w.now)
	w.status.Store(204)
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		w.got.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		w.last.Store(r.Header)
		answer.WriteHeader(int(w.status.Load()))
	}))
	t.Cleanup(server.Close)
	w.receiver = server.URL
	return w
}

// send calls the function and reads data of its answer into out.
func (w *world) send(t *testing.T, caller access.Caller, method, path, body string, status int, out any, headers ...string) string {
	t.Helper()
	a := w.function.Want(t, status, caller, method, "/apiv1/users/1/webhooks"+path, body, headers...)
	if out != nil {
		a.Into(t, out)
	}
	return a.Body
}

type hook struct {
	ID       int64
	Name     string
	URL      string
	Events   []string
	Enabled  bool
	Disabled string `json:"disabled_reason"`
	Secret   string
}

type delivery struct {
	ID         string
	Type       string
	State      string
	Attempts   int
	StatusCode int `json:"status_code"`
	Error      string
	NextAt     int64 `json:"next_attempt_at"`
}

var open = egress.Guard{AllowPrivate: true, AllowLoopback: true}

func TestTheLifeOfAWebhook(t *testing.T) {
	w := newWorld(t, open)
	var made, again, got hook
	body := fmt.Sprintf(`{"name":"ops","url":"%s/x","events":["certificate.renewed","certificate.issued","certificate.issued"]}`, w.receiver)
	w.send(t, w.session, "POST", "", body, 201, &made, "Idempotency-Key: k")
	if !strings.HasPrefix(made.Secret, "whsec_") || len(made.Events) != 2 || !made.Enabled || made.URL != w.receiver+"/x" {
		t.Errorf("made %+v", made)
	}
	w.send(t, w.session, "POST", "", body, 201, &again, "Idempotency-Key: k")
	if again.ID != made.ID || again.Secret != made.Secret {
		t.Errorf("repeated: %+v", again)
	}
	path := fmt.Sprintf("/%d", made.ID)
	for _, shown := range []string{
		w.send(t, w.session, "GET", "", "", 200, nil), w.send(t, w.session, "GET", path, "", 200, &got),
		w.send(t, w.session, "PUT", path, `{"name":"all","events":[]}`, 200, &got),
	} {
		if strings.Contains(shown, "whsec_") || strings.Contains(shown, `"secret`) {
			t.Errorf("the secret is shown again: %s", shown)
		}
	}
	if got.Name != "all" || len(got.Events) != 0 || got.URL != made.URL {
		t.Errorf("changed: %+v", got)
	}
	var rolled hook
	w.send(t, w.session, "POST", path+"/roll-secret", "", 200, &rolled)
	if rolled.Secret == made.Secret || !strings.HasPrefix(rolled.Secret, "whsec_") {
		t.Errorf("rolled: %+v", rolled)
	}
	var d delivery
	w.send(t, w.session, "POST", path+"/test", "", 200, &d)
	header := w.last.Load().(http.Header)
	if d.State != "delivered" || d.StatusCode != 204 || d.Type != "webhook.test" || d.ID != header.Get("Webhook-Id") || strings.Count(header.Get("Webhook-Signature"), "v1,") != 2 {
		t.Errorf("test: %+v, %v", d, header)
	}
	w.send(t, w.session, "PUT", path, `{"enabled":false}`, 200, &got)
	if got.Enabled || got.Disabled != "owner" {
		t.Errorf("disabled: %+v", got)
	}
	w.send(t, w.session, "POST", path+"/test", "", 409, nil)
	w.send(t, w.session, "DELETE", path, "", 204, nil)
	for _, missing := range []string{"GET " + path, "PUT " + path, "DELETE " + path, "POST " + path + "/test", "POST " + path + "/roll-secret", "GET " + path + "/deliveries", "POST " + path + "/deliveries/" + d.ID + "/replay"} {
		method, path, _ := strings.Cut(missing, " ")
		body := ""
		if method == "PUT" {
			body = "{}"
		}
		w.send(t, w.session, method, path, body, 404, nil)
	}
}

func TestReplayAndTheLog(t *testing.T) {
	w := newWorld(t, open)
	var made hook
	w.send(t, w.session, "POST", "", fmt.Sprintf(`{"name":"ops","url":%q}`, w.receiver), 201, &made)
	path := fmt.Sprintf("/%d", made.ID)
	w.status.Store(500)
	var ids []string
	for range 5 {
		var d delivery
		w.send(t, w.session, "POST", path+"/test", "", 200, &d)
		if d.State != "failed" || d.StatusCode != 500 || d.Error != "The receiver answered 500." || d.NextAt != 0 {
			t.Errorf("%+v", d)
		}
		ids = append([]string{d.ID}, ids...)
		w.now = w.now.Add(time.Second)
	}
	var log []delivery
	var all []string
	for before := ""; ; {
		var meta struct{ Meta struct{ Next string } }
		page := w.send(t, w.session, "GET", path+"/deliveries?limit=2&before="+before, "", 200, &log)
		if err := json.Unmarshal([]byte(page), &meta); err != nil {
			t.Fatal(err)
		}
		for _, d := range log {
			all = append(all, d.ID)
		}
		if before = meta.Meta.Next; before == "" {
			break
		}
	}
	if strings.Join(all, " ") != strings.Join(ids, " ") {
		t.Errorf("listed %v, want %v", all, ids)
	}
	w.status.Store(200)
	var d delivery
	w.send(t, w.session, "POST", path+"/deliveries/"+ids[3]+"/replay", "", 200, &d)
	if d.ID != ids[3] || d.State != "delivered" || d.Attempts != 2 || w.last.Load().(http.Header).Get("Webhook-Id") != ids[3] {
		t.Errorf("replayed: %+v", d)
	}
	w.status.Store(410)
	w.send(t, w.session, "POST", path+"/deliveries/"+ids[3]+"/replay", "", 200, &d)
	var got hook
	w.send(t, w.session, "GET", path, "", 200, &got)
	if d.State != "failed" || got.Disabled != "gone" {
		t.Errorf("gone: %+v, %+v", d, got)
	}
	w.send(t, w.session, "POST", path+"/deliveries/"+ids[3]+"/replay", "", 409, nil)
	w.send(t, w.session, "PUT", path, `{"enabled":true}`, 200, &got)
	w.send(t, w.session, "POST", path+"/deliveries/evt_none/replay", "", 404, nil)
}

func TestBadInput(t *testing.T) {
	w := newWorld(t, egress.Guard{})
	for body, field := range map[string]string{
		`{"url":"https://hooks.example.org"}`: "name", `{"name":"x"}`: "url", `{"name":" ","url":"https://hooks.example.org"}`: "name",
		`{"name":"x","url":"http://hooks.example.org"}`:                                "url",
		`{"name":"x","url":"https://127.0.0.1/"}`:                                      "url",
		`{"name":"x","url":"https://169.254.169.254/latest/"}`:                         "url",
		`{"name":"x","url":"https://0x7f.1/"}`:                                         "url",
		`{"name":"x","url":"https://localhost/"}`:                                      "url",
		`{"name":"x","url":"https://a:b@hooks.example.org/"}`:                          "url",
		`{"name":"x","url":"file:///etc/passwd"}`:                                      "url",
		`{"name":"x","url":"https://hooks.example.org","events":["certificate.lost"]}`: "events",
		`{"name":"x","url":"https://hooks.example.org","events":["webhook.test"]}`:     "events",
	} {
		answer := w.send(t, w.session, "POST", "", body, 400, nil)
		if !strings.Contains(answer, `"field":"`+field+`"`) {
			t.Errorf("%s: %s", body, answer)
		}
	}
	if answer := w.send(t, w.session, "GET", "", "", 200, nil); !strings.Contains(answer, `"total":0`) {
		t.Errorf("stored: %s", answer)
	}
	// What was public when it was made, and is not when it is called.
	e := webhook.Endpoint{User: 1, ID: 99, Name: "x", URL: strings.Replace(w.receiver, "http:", "https:", 1), CreatedAt: w.now, UpdatedAt: w.now}
	var err error
	if e.Secret, err = awstest.Key(t).Seal(t.Context(), kmskey.Webhook(1, 99), webhook.NewSecret().Key()); err != nil {
		t.Fatal(err)
	}
	if err := w.store.CreateWebhook(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	var d delivery
	w.send(t, w.session, "POST", "/99/test", "", 200, &d)
	if d.Error != "The URL leads to an address that is not public." || w.got.Load() != 0 {
		t.Errorf("%+v, and %d requests", d, w.got.Load())
	}
}

func TestWhoMay(t *testing.T) {
	w := newWorld(t, open)
	var made hook
	w.send(t, w.session, "POST", "", fmt.Sprintf(`{"name":"ops","url":%q}`, w.receiver), 201, &made)
	one := fmt.Sprintf("/%d", made.ID)
	for permissions, allowed := range map[access.Permissions]map[string]bool{
		"":                                      {},
		"certs:*:write":                         {},
		"webhooks:*:read":                       {"GET ": true, "GET " + one: true, "GET " + one + "/deliveries": true},
		access.Permissions("webhooks:77:write"): {},
		access.Permissions(fmt.Sprintf("webhooks:%d:write", made.ID)): {"GET " + one: true, "GET " + one + "/deliveries": true, "POST " + one + "/test": true},
	} {
		key := access.Caller{Kind: access.APIKey, User: 1, ID: 3, Permissions: permissions, ExpiresAt: w.now.Add(time.Hour)}
		for _, call := range []string{"GET ", "POST ", "GET " + one, "GET " + one + "/deliveries", "POST " + one + "/test"} {
			method, path, _ := strings.Cut(call, " ")
			status := 403
			if allowed[call] {
				status = 200
			}
			body := ""
			if call == "POST " {
				body = `{}`
			}
			w.send(t, key, method, path, body, status, nil)
		}
	}
}

func TestNobodyShootsFromOurAddress(t *testing.T) {
	w := newWorld(t, open)
	var made hook
	w.send(t, w.session, "POST", "", fmt.Sprintf(`{"name":"ops","url":%q}`, w.receiver), 201, &made)
	path := fmt.Sprintf("/%d/test", made.ID)
	for range tries.Most {
		w.send(t, w.session, "POST", path, "", 200, nil)
	}
	w.send(t, w.session, "POST", path, "", 429, nil)
	if w.got.Load() != tries.Most {
		t.Errorf("%d requests", w.got.Load())
	}
}
