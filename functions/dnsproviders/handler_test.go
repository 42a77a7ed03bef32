package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// world is the function over tables of its own, in a deployment that allows public addresses only.
type world struct {
	*functiontest.Function
	store   *store.Store
	keys    *kmskey.Key
	now     time.Time
	session access.Caller
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: storetest.New(t).Store, keys: awstest.Key(t), now: storetest.Now()}
	h := &handler{store: w.store, keys: w.keys, guard: egress.Guard{}, log: slog.New(slog.DiscardHandler), now: func() time.Time { return w.now }}
	w.Function = functiontest.New(t, h.routes(), "")
	w.session = functiontest.Session(1, w.now)
	return w
}

const path = "/apiv1/users/1/dns-providers"

func one(id int64) string { return fmt.Sprintf("%s/%d", path, id) }

func (w *world) create(t *testing.T, body string) Provider {
	t.Helper()
	var p Provider
	w.Want(t, 201, w.session, "POST", path, body).Into(t, &p)
	return p
}

// secrets are what is kept of a provider's secrets, opened.
func (w *world) secrets(t *testing.T, id int64) (dnsprovider.Provider, map[string]string) {
	t.Helper()
	p, err := w.store.DNSProvider(t.Context(), 1, id)
	if err != nil {
		t.Fatal(err)
	}
	text, err := w.keys.Open(t.Context(), kmskey.DNSProvider(1, id), p.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	var secrets map[string]string
	if err := json.Unmarshal(text, &secrets); err != nil {
		t.Fatal(err)
	}
	return p, secrets
}

const httpreq = `{"name":"own","kind":"httpreq","config":{"endpoint":"https://dns.example.org/api","username":"ann","password":"correct horse"}}`

func TestTheLifeOfAProvider(t *testing.T) {
	w := newWorld(t)
	p := w.create(t, httpreq)
	if p.Kind != "httpreq" || p.Config["password"] != "***" || p.Config["username"] != "ann" || p.Config["endpoint"] != "https://dns.example.org/api" {
		t.Errorf("created %+v", p)
	}
	if _, kept := w.secrets(t, p.ID); kept["password"] != "correct horse" {
		t.Errorf("kept %v", kept)
	}
	for _, a := range []functiontest.Answer{w.Want(t, 200, w.session, "GET", one(p.ID), ""), w.Want(t, 200, w.session, "PUT", one(p.ID), `{"name":"own"}`)} {
		var again Provider
		a.Into(t, &again)
		if !maps.Equal(again.Config, p.Config) {
			t.Errorf("shown %v, made %v", again.Config, p.Config)
		}
	}
	// The contract's other name for it.
	if other := w.create(t, strings.Replace(httpreq, `"httpreq"`, `"webhook"`, 1)); other.Kind != "httpreq" {
		t.Errorf("webhook is %s", other.Kind)
	}
	// A secret that is *** or absent stays, is shown by no answer, and goes nowhere else.
	for body, want := range map[string]struct {
		status   int
		password string
	}{
		`{"name":"renamed"}`: {200, "correct horse"},
		`{"config":{"endpoint":"https://dns.example.org/api","username":"bob","password":"***"}}`: {200, "correct horse"},
		`{"config":{"endpoint":"https://dns.example.org/api","username":"bob"}}`:                  {200, "correct horse"},
		`{"config":{"endpoint":"https://evil.example/api","username":"bob","password":"***"}}`:    {400, "correct horse"},
		`{"config":{"endpoint":"https://evil.example/api","username":"bob"}}`:                     {400, "correct horse"},
		`{"kind":"desec","config":{"token":"***"}}`:                                               {400, "correct horse"},
		`{"kind":"desec"}`: {400, "correct horse"},
		`{"config":{"endpoint":"https://dns.example.org/api","username":"ann","password":"next"}}`: {200, "next"},
	} {
		a := w.Want(t, want.status, w.session, "PUT", one(p.ID), body)
		_, kept := w.secrets(t, p.ID)
		if kept["password"] != want.password || strings.Contains(a.Body, "correct horse") {
			t.Errorf("%s: %s, kept %v", body, a.Body, kept)
		}
		w.Want(t, 200, w.session, "PUT", one(p.ID), `{"config":{"endpoint":"https://dns.example.org/api","username":"ann","password":"correct horse"}}`)
	}
	var got Provider
	w.Want(t, 200, w.session, "PUT", one(p.ID), `{"kind":"desec","config":{"token":"0123456789abcdef"}}`).Into(t, &got)
	if got.Kind != "desec" || got.Config["token"] != "***" || got.Config["endpoint"] != nil {
		t.Errorf("another kind: %+v", got)
	}
	// In use, and then not any more.
	c := certificate.Certificate{User: 1, ID: 9, Names: []string{"a.example"}, Account: 4, DNSProvider: p.ID, Policy: certificate.Hybrid, CreatedAt: w.now, UpdatedAt: w.now, Revision: 1}
	if err := w.store.CreateACMEAccount(t.Context(), acmeaccount.Account{User: 1, ID: 4, CreatedAt: w.now, UpdatedAt: w.now}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.CreateCertificate(t.Context(), c, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	w.Want(t, 409, w.session, "DELETE", one(p.ID), "")
	if _, err := w.store.DeleteCertificate(t.Context(), 1, 9, w.now); err != nil {
		t.Fatal(err)
	}
	w.Want(t, 204, w.session, "DELETE", one(p.ID), "")
	w.Want(t, 404, w.session, "DELETE", one(p.ID), "")
	if e := w.Want(t, 404, w.session, "GET", one(p.ID), ""); e.Error.Code != 4001 {
		t.Errorf("gone: %s", e.Body)
	}
	w.Want(t, 404, w.session, "PUT", one(p.ID), `{"name":"x"}`)
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	config := func(kind, config string) string {
		return fmt.Sprintf(`{"name":"x","kind":%q,"config":%s}`, kind, config)
	}
	for body, field := range map[string]string{
		`{"kind":"desec","config":{"token":"0123456789abcdef"}}`:                     "name",
		`{"name":"x","config":{}}`:                                                   "kind",
		`{"name":"x","kind":"desec"}`:                                                "config",
		config("nobody", `{}`):                                                       "kind",
		config("manual", `{}`):                                                       "kind",
		config("desec", `{}`):                                                        "config.token",
		config("desec", `{"token":"***"}`):                                           "config.token",
		config("desec", `{"token":7}`):                                               "config.token",
		config("desec", `{"token":"0123456789abcdef","extra":1}`):                    "config.extra",
		config("desec", `{"token":"0123456789\nabcdef"}`):                            "config.token",
		config("desec", `{"token":"0123456789abcdef","ttl":1}`):                      "config.ttl",
		config("route53", `{"access_key_id":"x","secret_access_key":"0123456789"}`):  "config.access_key_id",
		config("httpreq", `{"endpoint":"https://dns.example.org","username":"ann"}`): "config.password",
		config("httpreq", `{"endpoint":"http://dns.example.org"}`):                   "config.endpoint",
		config("httpreq", `{"endpoint":"https://169.254.169.254/latest/meta-data"}`): "config.endpoint",
		config("httpreq", `{"endpoint":"https://[::ffff:127.0.0.1]/"}`):              "config.endpoint",
		config("httpreq", `{"endpoint":"https://0x7f.1/"}`):                          "config.endpoint",
		config("pdns", `{"api_url":"https://10.0.0.1:8081","api_key":"abcd"}`):       "config.api_url",
		config("acme-dns", `{"api_url":"https://localhost","username":"u","password":"12345678","subdomain":"s","fulldomain":"s.a.example"}`): "config.api_url",
		config("rfc2136", `{"nameserver":"192.168.1.1:53","tsig_key_name":"k","tsig_secret":"MDEyMzQ1Njc4OQ=="}`):                             "config.nameserver",
	} {
		a := w.Call(t, w.session, "POST", path, body)
		if a.Status != 400 || a.Error.Params["field"] != field {
			t.Errorf("%s: %d %s, want the field %s", body, a.Status, a.Body, field)
		}
	}
	if list := w.Want(t, 200, w.session, "GET", path, ""); list.Meta.Total != 0 {
		t.Errorf("stored: %s", list.Body)
	}
}

// Of two changes at the same time one is told of the other, and what is kept is one of the two, whole.
func TestChangesAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.create(t, httpreq)
	var all sync.WaitGroup
	var lock sync.Mutex
	statuses := map[int]int{}
	for i := range 8 {
		all.Go(func() {
			a := w.Call(t, w.session, "PUT", one(p.ID), fmt.Sprintf(`{"config":{"endpoint":"https://dns%d.example.org","username":"ann","password":"secret %d"}}`, i, i))
			lock.Lock()
			defer lock.Unlock()
			statuses[a.Status]++
		})
	}
	all.Wait()
	if statuses[200] == 0 || statuses[200]+statuses[409] != 8 {
		t.Errorf("%v", statuses)
	}
	stored, secrets := w.secrets(t, p.ID)
	if n := strings.TrimPrefix(secrets["password"], "secret "); stored.Config.Text("endpoint") != "https://dns"+n+".example.org" {
		t.Errorf("kept %v with the password %q", stored.Config.Redacted(), secrets["password"])
	}
}

func TestARepeatedCreateIsOne(t *testing.T) {
	w := newWorld(t)
	first := w.Want(t, 201, w.session, "POST", path, httpreq, "Idempotency-Key: k")
	again := w.Want(t, 201, w.session, "POST", path, httpreq, "Idempotency-Key: k")
	if first.Body != again.Body || again.Header.Get("Idempotency-Replayed") != "true" || strings.Contains(again.Body, "correct horse") {
		t.Errorf("%s\n%s", first.Body, again.Body)
	}
	w.Want(t, 409, w.session, "POST", path, strings.Replace(httpreq, "correct horse", "another horse", 1), "Idempotency-Key: k")
	if list := w.Want(t, 200, w.session, "GET", path, ""); list.Meta.Total != 1 {
		t.Errorf("list: %s", list.Body)
	}
}

// Anybody who is signed in may read the catalogue, and has all that a form needs.
func TestTheCatalogue(t *testing.T) {
	w := newWorld(t)
	a := w.Want(t, 200, functiontest.Key(1, "", w.now), "GET", "/apiv1/dns-providers/catalog", "")
	var kinds []struct {
		Kind   string
		Schema struct {
			Type       string
			Properties map[string]struct {
				Type      string
				WriteOnly bool
			}
			Required []string
		}
	}
	a.Into(t, &kinds)
	if len(kinds) != 14 || a.Meta.Total != 14 {
		t.Errorf("%d kinds", len(kinds))
	}
	for _, k := range kinds {
		secrets := 0
		for _, p := range k.Schema.Properties {
			if p.WriteOnly {
				secrets++
			}
		}
		if k.Schema.Type != "object" || secrets == 0 || len(k.Schema.Required) == 0 {
			t.Errorf("%+v", k)
		}
	}
}

func TestWhoMay(t *testing.T) {
	w := newWorld(t)
	p := w.create(t, httpreq)
	calls := []string{"GET " + path, "POST " + path, "GET " + one(p.ID), "PUT " + one(p.ID), "DELETE " + one(p.ID)}
	for permissions, allowed := range map[access.Permissions]string{
		"": ".....", "certs:*:write": ".....", "dns_providers:*:read": "x.x..", "dns_providers:77:write": ".....",
		access.Permissions(fmt.Sprintf("dns_providers:%d:read", p.ID)): "..x..",
	} {
		for i, call := range calls {
			method, path, _ := strings.Cut(call, " ")
			body := ""
			if method == "PUT" || call == calls[1] {
				body = `{}`
			}
			got := w.Call(t, functiontest.Key(1, permissions, w.now), method, path, body)
			if (got.Status == 403) == (allowed[i] == 'x') {
				t.Errorf("%q, %s: %d", permissions, call, got.Status)
			}
		}
	}
	w.Want(t, 404, functiontest.Session(2, w.now), "GET", fmt.Sprintf("/apiv1/users/2/dns-providers/%d", p.ID), "")
}
