package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/local/pebble"
	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

const macKey = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"

// Two CAs for all tests: one that takes everybody, and one that binds accounts to its own.
var anybody, strict *pebble.Server

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bba")
	if err != nil {
		log.Fatal(err)
	}
	for _, ca := range []struct {
		to       **pebble.Server
		external map[string]string
	}{{&anybody, nil}, {&strict, map[string]string{"kid-1": macKey}}} {
		folder, err := os.MkdirTemp(dir, "ca")
		if err != nil {
			log.Fatal(err)
		}
		if *ca.to, err = pebble.Start(context.Background(), pebble.Options{Dir: folder, Resolver: "127.0.0.1:9", ExternalAccounts: ca.external}); err != nil {
			log.Fatal(err)
		}
	}
	code := func() int {
		defer os.RemoveAll(dir)
		defer anybody.Stop()
		defer strict.Stop()
		return awstest.Run(m)
	}()
	os.Exit(code)
}

// world is the function over tables of its own.
type world struct {
	*functiontest.Function
	store   *store.Store
	now     time.Time
	session access.Caller
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: storetest.New(t).Store, now: storetest.Now()}
	providers, err := acmeaccount.ParseProviders([]string{"open=" + anybody.Directory, "bound=" + strict.Directory, "down=https://127.0.0.1:9/dir"})
	if err != nil {
		t.Fatal(err)
	}
	h := &handler{
		store: w.store, keys: awstest.Key(t), providers: providers, ca: acme.NewClients(anybody.Client()), log: slog.New(slog.DiscardHandler), now: func() time.Time { return w.now },
	}
	h.ca.At(strict.Directory).HTTP = strict.Client() // each has an HTTPS of its own
	w.Function = functiontest.New(t, h.routes(), "")
	w.session = functiontest.Session(1, w.now)
	return w
}

const path = "/apiv1/users/1/acme-accounts"

func one(id int64) string { return fmt.Sprintf("%s/%d", path, id) }

func (w *world) create(t *testing.T, body string) Account {
	t.Helper()
	var a Account
	w.Want(t, 201, w.session, "POST", path, body).Into(t, &a)
	return a
}

func TestTheLifeOfAnAccount(t *testing.T) {
	w := newWorld(t)
	// The body of automation in the field (contract §8).
	a := w.create(t, `{"name":"le","email":"Ann@Example.org","provider":"LetsEncrypt","ca_id":0,"leaf_key_algorithm":"RSA","leaf_rsa_bits":3072,"leaf_ec_curve":null,"cert_valid_seconds":7776000}`)
	if a.Provider != "letsencrypt" || a.URL != nil || a.KeyType != "rsa-3072" || a.Registration != "none" || a.CA != 0 || a.User != 1 || !strings.HasPrefix(a.Directory, "https://acme-v02.") {
		t.Errorf("created %+v", a)
	}
	raw := w.Want(t, 200, w.session, "GET", one(a.ID), "").Body
	for _, field := range []string{`"kid":null`, `"ca_id":0`, `"email":"`, `"name":"le"`} {
		if !strings.Contains(raw, field) {
			t.Errorf("%s lacks %s", raw, field)
		}
	}
	b := w.create(t, fmt.Sprintf(`{"name":"open","email":"ann@example.org","directory_url":%q}`, anybody.Directory))
	var registered Account
	w.Want(t, 200, w.session, "POST", one(b.ID)+"/register", "").Into(t, &registered)
	if registered.URL == nil || registered.Registration != "registered" || registered.Provider != "open" {
		t.Errorf("registered %+v", registered)
	}
	var again Account
	w.Want(t, 200, w.session, "POST", one(b.ID)+"/register", "").Into(t, &again)
	if *again.URL != *registered.URL {
		t.Errorf("registered again at %s", *again.URL)
	}
	// Its contact changes at the CA too; Pebble refuses an address that it does not like.
	w.Want(t, 200, w.session, "PUT", one(b.ID), `{"name":"renamed","email":"bob@example.org","provider":"open"}`).Into(t, &again)
	if again.Name != "renamed" || again.Email != "bob@example.org" {
		t.Errorf("changed %+v", again)
	}
	w.Want(t, 200, w.session, "PUT", one(b.ID), `{"email":""}`)
	w.Want(t, 400, w.session, "PUT", one(b.ID), `{"provider":"zerossl"}`)
	list := w.Want(t, 200, w.session, "GET", path+"?limit=1", "")
	var page []Account
	list.Into(t, &page)
	if list.Meta.Total != 2 || len(page) != 1 || page[0].ID != b.ID {
		t.Errorf("list: %s", list.Body)
	}
	// In use, and then not any more.
	c := certificate.Certificate{User: 1, ID: 9, Names: []string{"a.example"}, Account: b.ID, Policy: certificate.Hybrid, CreatedAt: w.now, UpdatedAt: w.now, Revision: 1}
	if _, err := w.store.CreateCertificate(t.Context(), c, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	w.Want(t, 409, w.session, "DELETE", one(b.ID), "")
	if _, err := w.store.DeleteCertificate(t.Context(), 1, 9, w.now); err != nil {
		t.Fatal(err)
	}
	w.Want(t, 204, w.session, "DELETE", one(b.ID), "")
	w.Want(t, 404, w.session, "DELETE", one(b.ID), "")
	if e := w.Want(t, 404, w.session, "GET", one(b.ID), ""); e.Error.Code != 4001 {
		t.Errorf("gone: %s", e.Body)
	}
}

// A registration that fails is a clear error, is kept, and can be tried again.
func TestARegistrationThatFails(t *testing.T) {
	w := newWorld(t)
	a := w.create(t, `{"name":"bound","provider":"bound"}`)
	refused := w.Want(t, 409, w.session, "POST", one(a.ID)+"/register", "")
	if !strings.Contains(refused.Error.What, "externalAccountRequired") {
		t.Errorf("refused: %s", refused.Body)
	}
	var shown Account
	w.Want(t, 200, w.session, "GET", one(a.ID), "").Into(t, &shown)
	if shown.Registration != "failed" || !strings.Contains(shown.Failure, "externalAccountRequired") || shown.URL != nil {
		t.Errorf("shown: %+v", shown)
	}
	for mac, status := range map[string]int{macKey: 200, base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("x", 32))): 409} {
		b := w.create(t, fmt.Sprintf(`{"name":"bound","provider":"bound","eab_kid":"kid-1","eab_hmac_key":%q}`, mac))
		answer := w.Want(t, status, w.session, "POST", one(b.ID)+"/register", "")
		if b.Binding != "kid-1" || strings.Contains(answer.Body, mac) {
			t.Errorf("bound: %+v, %s", b, answer.Body)
		}
	}
	down := w.create(t, `{"name":"down","provider":"down"}`)
	for range 2 {
		if e := w.Want(t, 409, w.session, "POST", one(down.ID)+"/register", ""); !strings.Contains(e.Error.What, "it cannot be reached. Try again.") {
			t.Errorf("down: %s", e.Body)
		}
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	for body, want := range map[string]struct {
		status int
		key    string
		field  string
	}{
		`{}`:                                {400, "MISSING_FIELD", "name"},
		`{"name":"x"}`:                      {400, "MISSING_FIELD", "provider"},
		`{"name":"x","provider":"nobody"}`:  {400, "INVALID_ARGUMENT", "provider"},
		`{"name":"x","provider":"SELF_CA"}`: {400, "MISSING_FIELD", "ca_id"},
		`{"name":"x","provider":"letsencrypt","ca_id":7}`:                                            {404, "NOT_FOUND", ""},
		`{"name":"x","directory_url":"https://169.254.169.254/dir"}`:                                 {400, "INVALID_ARGUMENT", "directory_url"},
		`{"name":"x","directory_url":"https://evil.example/dir"}`:                                    {400, "INVALID_ARGUMENT", "directory_url"},
		`{"name":"x","provider":"zerossl"}`:                                                          {400, "MISSING_FIELD", "eab_kid"},
		`{"name":"x","provider":"google","eab_kid":"k"}`:                                             {400, "MISSING_FIELD", "eab_kid"},
		`{"name":"x","provider":"zerossl","eab_kid":"k","eab_hmac_key":"short"}`:                     {400, "INVALID_ARGUMENT", "eab_hmac_key"},
		`{"name":"x","provider":"zerossl","eab_kid":"k","eab_hmac_key":"!!!!!!!!!!!!!!!!!!!!!!!!!"}`: {400, "INVALID_ARGUMENT", "eab_hmac_key"},
		`{"name":"x","provider":"letsencrypt","email":"not an address"}`:                             {400, "INVALID_ARGUMENT", "email"},
		`{"name":"x","provider":"letsencrypt","key_type":"dsa"}`:                                     {400, "INVALID_ARGUMENT", "key_type"},
		`{"name":"x","provider":"letsencrypt","leaf_key_algorithm":"RSA","leaf_rsa_bits":1024}`:      {400, "INVALID_ARGUMENT", "key_type"},
		`{"name":"x","provider":"letsencrypt","leaf_key_algorithm":"ECDSA","leaf_ec_curve":"P-521"}`: {400, "INVALID_ARGUMENT", "key_type"},
		"{\"name\":\"a\\u0007b\",\"provider\":\"letsencrypt\"}":                                      {400, "INVALID_ARGUMENT", "name"},
		`{"name":7,"provider":"letsencrypt"}`:                                                        {400, "TYPE_CONVERT_FAILED", "name"},
	} {
		a := w.Call(t, w.session, "POST", path, body)
		field, _ := a.Error.Params["field"].(string)
		if a.Status != want.status || a.Error.Key != want.key || field != want.field {
			t.Errorf("%s: %d %s, want %+v", body, a.Status, a.Body, want)
		}
	}
	if list := w.Want(t, 200, w.session, "GET", path, ""); list.Meta.Total != 0 {
		t.Errorf("stored: %s", list.Body)
	}
}

// A user has a hundred accounts at most, however many are made at once; and of one Idempotency-Key comes one.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	var lock sync.Mutex
	bodies := map[string]bool{}
	for range 8 {
		all.Go(func() {
			a := w.Call(t, w.session, "POST", path, `{"name":"x","provider":"letsencrypt"}`, "Idempotency-Key: k")
			lock.Lock()
			defer lock.Unlock()
			bodies[a.Body] = true
		})
	}
	all.Wait()
	if list := w.Want(t, 200, w.session, "GET", path, ""); list.Meta.Total != 1 || len(bodies) != 1 {
		t.Errorf("%d accounts, answers %v", list.Meta.Total, bodies)
	}
	statuses := map[int]int{}
	for range 8 {
		all.Go(func() {
			for range 13 {
				a := w.Call(t, w.session, "POST", path, `{"name":"x","provider":"letsencrypt"}`)
				lock.Lock()
				statuses[a.Status]++
				lock.Unlock()
			}
		})
	}
	all.Wait()
	if statuses[201] != 99 || statuses[409] != 5 {
		t.Errorf("%v", statuses)
	}
}

// No answer holds a key, sealed or not; keys of two accounts are two.
func TestNothingSecretIsShown(t *testing.T) {
	w := newWorld(t)
	a := w.create(t, fmt.Sprintf(`{"name":"bound","provider":"bound","eab_kid":"kid-1","eab_hmac_key":%q}`, macKey))
	stored, err := w.store.ACMEAccount(t.Context(), 1, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []functiontest.Answer{
		w.Want(t, 200, w.session, "GET", one(a.ID), ""), w.Want(t, 200, w.session, "GET", path, ""), w.Want(t, 200, w.session, "PUT", one(a.ID), `{"name":"y"}`),
	} {
		for _, secret := range []string{macKey, "hmac", base64.StdEncoding.EncodeToString(stored.Key.Text), "PRIVATE"} {
			if strings.Contains(answer.Body, secret) {
				t.Errorf("%s holds %.20s", answer.Body, secret)
			}
		}
	}
	if text := fmt.Sprintf("%+v %#v %v", stored, stored, stored.Key); strings.Contains(text, string(stored.Key.Text)) {
		t.Error("a sealed key prints")
	}
	if text, _ := json.Marshal(show(stored)); strings.Contains(string(text), "eab_hmac") {
		t.Errorf("%s", text)
	}
}

func TestWhoMay(t *testing.T) {
	w := newWorld(t)
	a := w.create(t, `{"name":"x","provider":"letsencrypt"}`)
	calls := []string{"GET " + path, "POST " + path, "GET " + one(a.ID), "PUT " + one(a.ID), "POST " + one(a.ID) + "/register", "DELETE " + one(a.ID)}
	for permissions, allowed := range map[access.Permissions]string{
		"": "......", "certs:*:write": "......", "acme_accounts:*:read": "x.x...", "acme_accounts:77:write": "......",
		access.Permissions(fmt.Sprintf("acme_accounts:%d:read", a.ID)): "..x...",
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
	stranger := functiontest.Session(2, w.now)
	w.Want(t, 403, stranger, "GET", one(a.ID), "")
	w.Want(t, 404, stranger, "GET", fmt.Sprintf("/apiv1/users/2/acme-accounts/%d", a.ID), "")
}
