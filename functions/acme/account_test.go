package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/user"
)

func TestAnAccountNeedsABinding(t *testing.T) {
	w := newWorld(t)
	b := w.bind("example.test")
	once := w.bindAs(acmeserver.Binding{MaxAccounts: 1})
	old := w.bindAs(acmeserver.Binding{ExpiresAt: w.now()})
	c := &client{world: w, key: newKey()}
	to := w.at("new-account")
	secret := w.secret()
	jwk := encode(jose.JSONWebKey{Key: c.key.Public()})
	bound := func(key []byte, header map[string]any, payload []byte) map[string]any {
		return map[string]any{"externalAccountBinding": json.RawMessage(raw(key, header, payload))}
	}
	header := func(change func(map[string]any)) map[string]any {
		h := map[string]any{"alg": "HS256", "kid": b.ID, "url": to}
		change(h)
		return h
	}
	same := func(map[string]any) {}
	key := secret.BindingKey(b.ID)
	for _, test := range []struct {
		name, want string
		payload    any
	}{
		{"none", "403 externalAccountRequired", map[string]any{}},
		{"null", "403 externalAccountRequired", map[string]any{"externalAccountBinding": nil}},
		{"no JWS", "400 malformed", map[string]any{"externalAccountBinding": "x"}},
		{"the key of another binding", "403 unauthorized", bound(secret.BindingKey(once.ID), header(same), jwk)},
		{"a kid of nothing", "403 unauthorized", bound(secret.BindingKey("AAAA"), header(func(h map[string]any) { h["kid"] = "AAAA" }), jwk)},
		{"another account's key", "403 unauthorized", bound(key, header(same), encode(jose.JSONWebKey{Key: newKey().Public()}))},
		{"no key", "403 unauthorized", bound(key, header(same), []byte("{}"))},
		{"the private key", "403 unauthorized", bound(key, header(same), encode(jose.JSONWebKey{Key: c.key}))},
		{"another url", "403 unauthorized", bound(key, header(func(h map[string]any) { h["url"] = w.at("new-order") }), jwk)},
		{"a nonce", "403 unauthorized", bound(key, header(func(h map[string]any) { h["nonce"] = w.nonce() }), jwk)},
		{"a signature in place of a MAC", "400 badSignatureAlgorithm", map[string]any{"externalAccountBinding": json.RawMessage(raw(c.key, header(func(h map[string]any) { h["alg"] = "ES256" }), jwk))}},
		{"one that has expired", "403 unauthorized", bound(secret.BindingKey(old.ID), header(func(h map[string]any) { h["kid"] = old.ID }), jwk)},
		{"as it should be", "201", bound(key, header(same), jwk)},
	} {
		if r := c.post(to, test.payload); r.problem() != test.want {
			t.Errorf("%s: %s, want %s", test.name, r, test.want)
		}
	}
	w.register(once)
	if r := (&client{world: w, key: newKey()}).newAccount(once, nil); r.problem() != "403 unauthorized" {
		t.Errorf("a second account by a binding for one: %s", r)
	}
	if b, err := w.tables.Store.Binding(t.Context(), w.ca.ID, once.ID); err != nil || b.Accounts != 1 || b.Status(w.now()) != acmeserver.BindingUsed {
		t.Errorf("%+v %v", b, err)
	}
}

func TestAKeyHasOneAccount(t *testing.T) {
	w := newWorld(t)
	b := w.bindAs(acmeserver.Binding{Names: []string{"*"}, MaxAccounts: 1})
	c := &client{world: w, key: newKey()}
	if r := c.post(w.at("new-account"), map[string]any{"onlyReturnExisting": true}); r.problem() != "400 accountDoesNotExist" {
		t.Errorf("%s", r)
	}
	answers := make(chan reply, 8)
	for range cap(answers) {
		go func() { answers <- c.newAccount(b, map[string]any{"contact": []string{"mailto:ann@example.test"}}) }()
	}
	count := map[string]int{}
	urls := map[string]bool{}
	for range cap(answers) {
		r := <-answers
		count[r.problem()]++
		urls[r.header.Get("Location")] = true
		if len(r.Contact) != 1 || r.Status != "valid" {
			t.Errorf("%s", r)
		}
	}
	if count["201"] != 1 || count["200"] != 7 || len(urls) != 1 {
		t.Errorf("%v %v", count, urls)
	}
	r := c.post(w.at("new-account"), map[string]any{"onlyReturnExisting": true})
	if r.status != 200 || !urls[r.header.Get("Location")] {
		t.Errorf("%s", r)
	}
}

func TestContacts(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	many := strings.Split(strings.Repeat("mailto:a@example.test ", 11), " ")[:11]
	for _, test := range []struct {
		want     string
		contacts []string
	}{
		{"200", []string{"mailto:ann@example.test", "mailto:bob@example.test"}},
		{"200", []string{}},
		{"200", many[:10]},
		{"400 invalidContact", many},
		{"400 unsupportedContact", []string{"tel:+1555"}},
		{"400 unsupportedContact", []string{"ann@example.test"}},
		{"400 invalidContact", []string{"mailto:"}},
		{"400 invalidContact", []string{"mailto:ann"}},
		{"400 invalidContact", []string{"mailto:ann@example.test,bob@example.test"}},
		{"400 invalidContact", []string{"mailto:ann@example.test?subject=x"}},
		{"400 invalidContact", []string{"mailto:Ann <ann@example.test>"}},
		{"400 invalidContact", []string{"mailto:" + strings.Repeat("a", 250) + "@example.test"}},
	} {
		r := c.want(test.want, c.kid, map[string]any{"contact": test.contacts})
		if test.want == "200" && len(r.Contact) != len(test.contacts) {
			t.Errorf("%s", r)
		}
	}
	if r := c.want("200", c.kid, nil); len(r.Contact) != 10 || r.Status != "valid" {
		t.Errorf("%s", r)
	}
}

func TestAnAccountIsItsOwnersAlone(t *testing.T) {
	w := newWorld(t)
	b := w.bind("*")
	c, other := w.register(b), w.register(b)
	o := c.order("ready", "a.example.test")
	url := o.header.Get("Location")
	for _, at := range []string{c.kid, c.kid + "/orders", url, o.Authorizations[0], strings.Replace(url, "/order/", "/cert/", 1)} {
		other.want("403 unauthorized", at, nil)
	}
	csr, _ := makeCSR("a.example.test")
	other.want("403 unauthorized", o.Finalize, map[string]string{"csr": csr})
	other.want("403 unauthorized", c.kid, map[string]string{"status": "deactivated"})
	c.want("404 malformed", w.at("order/AAAA"), nil)
	c.want("404 malformed", o.Authorizations[0][:len(o.Authorizations[0])-1]+"1", nil)
	c.want("404 malformed", w.at("challenge/"+url[len(url)-26:]+"/0/tls-alpn-01"), nil)
}

func TestADeactivatedAccountIsGoneForEver(t *testing.T) {
	w := newWorld(t)
	b := w.bind("*")
	c := w.register(b)
	c.want("400 malformed", c.kid, map[string]string{"status": "revoked"})
	if r := c.want("200", c.kid, map[string]string{"status": "deactivated"}); r.Status != "deactivated" {
		t.Errorf("%s", r)
	}
	c.want("403 unauthorized", c.kid, nil)
	c.want("403 unauthorized", c.at("new-order"), map[string]any{"identifiers": identifiers("a.example.test")})
	again := &client{world: w, key: c.key}
	if r := again.newAccount(b, nil); r.problem() != "403 unauthorized" {
		t.Errorf("%s", r)
	}
	again.want("403 unauthorized", w.at("new-account"), map[string]any{"onlyReturnExisting": true})
}

func TestAnAccountListsItsOrders(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	var want []string
	for _, name := range []string{"a.example.test", "b.example.test"} {
		want = append([]string{c.order("ready", name).header.Get("Location")}, want...)
		w.advance(time.Second)
	}
	r := c.want("200", c.kid+"/orders", nil)
	var got []string
	w.must(json.Unmarshal(r.Orders, &got))
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%q, want %q", got, want)
	}
	w.advance(acmeserver.OrderLifetime) // an order lapses
	if r := c.want("200", c.kid+"/orders", nil); string(r.Orders) != "[]" {
		t.Errorf("%s", r)
	}
	c.want("404 malformed", want[0], nil)
}

// An account works as long as the binding that it was made with, and the API key that minted that.
func TestAnAccountEndsWithItsBinding(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	owner, err := w.tables.Store.CreateUser(ctx, user.User{Email: "ann@example.test", Name: "Ann", Country: "DE", State: user.Active, PasswordHash: "hash", CreatedAt: w.now()})
	w.must(err)
	if owner.ID != ann {
		t.Fatalf("ann is %d", owner.ID)
	}
	login, _ := session.New(ann, 5, owner.Email, w.now())
	w.must(w.tables.Store.CreateSession(ctx, owner, login, nil))
	key, _ := apikey.New(ann, 3, "ci", access.Everything, "user/1", w.now(), time.Hour)
	w.must(w.tables.Store.CreateAPIKey(ctx, key, functiontest.Session(ann, w.now()), nil, w.now()))
	b := w.bindAs(acmeserver.Binding{Names: []string{"*"}, APIKey: key.ID})
	c := w.register(b)
	csr, _ := makeCSR("a.example.test")
	order := map[string]any{"identifiers": identifiers("a.example.test")}
	open := c.order("ready", "a.example.test")
	refused := func(why, detail string) {
		t.Helper()
		for _, r := range []reply{
			c.want("403 unauthorized", c.at("new-order"), order),
			c.want("403 unauthorized", open.Finalize, map[string]string{"csr": csr}),
			(&client{world: w, key: newKey()}).newAccount(b, nil),
		} {
			if r.problem() != "403 unauthorized" || !strings.Contains(r.Detail, detail) {
				t.Errorf("%s: %s", why, r)
			}
		}
		c.want("200", c.kid, nil) // it can still be read, and deactivated
	}
	w.advance(time.Hour)
	refused("the API key has expired", "The API key that this account was made with is gone")
	w.advance(-time.Hour)
	c.order("ready", "a.example.test")
	w.must(w.tables.Store.DeleteAPIKey(ctx, ann, key.ID))
	refused("the API key was deleted", "The API key that this account was made with is gone")

	b = w.bind("*")
	c = w.register(b)
	open = c.order("ready", "a.example.test")
	w.must(w.tables.Store.DeleteBinding(ctx, w.ca.ID, b.ID))
	refused("the binding was deleted", "binding that this account was made with is gone")
}

func TestAnAccountChangesItsKey(t *testing.T) {
	w := newWorld(t)
	b := w.bind("*")
	c, other := w.register(b), w.register(b)
	to := w.at("key-change")
	next := newKey()
	inner := func(key any, header map[string]any, payload map[string]any) json.RawMessage {
		return raw(key, header, encode(payload))
	}
	header := func(change func(map[string]any)) map[string]any {
		h := map[string]any{"alg": "ES256", "url": to, "jwk": jose.JSONWebKey{Key: next.Public()}}
		change(h)
		return h
	}
	same := func(map[string]any) {}
	roll := map[string]any{"account": c.kid, "oldKey": jose.JSONWebKey{Key: c.key.Public()}}
	for _, test := range []struct {
		name, want string
		payload    any
	}{
		{"no JWS", "400 malformed", roll},
		{"signed by the old key", "400 malformed", inner(c.key, header(same), roll)},
		{"with a nonce", "400 malformed", inner(next, header(func(h map[string]any) { h["nonce"] = w.nonce() }), roll)},
		{"another url", "400 malformed", inner(next, header(func(h map[string]any) { h["url"] = c.kid }), roll)},
		{"a kid", "400 malformed", inner(next, header(func(h map[string]any) { delete(h, "jwk"); h["kid"] = c.kid }), roll)},
		{"another's account", "400 malformed", inner(next, header(same), map[string]any{"account": other.kid, "oldKey": roll["oldKey"]})},
		{"another old key", "400 malformed", inner(next, header(same), map[string]any{"account": c.kid, "oldKey": jose.JSONWebKey{Key: next.Public()}})},
		{"no old key", "400 malformed", inner(next, header(same), map[string]any{"account": c.kid})},
		{"as it should be", "200", inner(next, header(same), roll)},
	} {
		c.want(test.want, to, test.payload)
	}
	before := *c
	c.key = next
	c.want("200", c.kid, nil)
	before.want("400 malformed", c.kid, nil) // the old key is nobody's
	if r := c.post(w.at("new-account"), map[string]any{"onlyReturnExisting": true}); r.problem() != "400 malformed" {
		t.Errorf("new-account by kid: %s", r)
	}
	found := (&client{world: w, key: next}).want("200", w.at("new-account"), map[string]any{"onlyReturnExisting": true})
	if found.header.Get("Location") != c.kid {
		t.Errorf("%s", found)
	}
	(&client{world: w, key: before.key}).want("400 accountDoesNotExist", w.at("new-account"), map[string]any{"onlyReturnExisting": true})

	// A key that an account has is no other's (RFC 8555 §7.3.5).
	taken := inner(next, header(same), map[string]any{"account": other.kid, "oldKey": jose.JSONWebKey{Key: other.key.Public()}})
	if r := other.want("409 malformed", to, taken); r.header.Get("Location") != c.kid {
		t.Errorf("%s %v", r, r.header)
	}
}

func TestTooManyAccountsAndOrders(t *testing.T) {
	w := newWorld(t)
	b := w.bind("*")
	c := w.register(b)
	for range accountLimit.Most - 1 {
		w.must(w.tables.Store.Count(t.Context(), "acme-account:"+strings.Split(w.ca.Directory, "/")[4], accountLimit, w.now()))
	}
	for range orderLimit.Most {
		w.must(w.tables.Store.Count(t.Context(), "acme-order:"+c.kid[len(c.kid)-26:], orderLimit, w.now()))
	}
	for _, r := range []reply{
		(&client{world: w, key: newKey()}).newAccount(b, nil),
		c.post(c.at("new-order"), map[string]any{"identifiers": identifiers("a.example.test")}),
	} {
		if r.problem() != "429 rateLimited" || r.header.Get("Retry-After") == "" {
			t.Errorf("%s %v", r, r.header)
		}
	}
	if r := (&client{world: w, key: c.key}).newAccount(b, nil); r.status != http.StatusOK { // finding one is free
		t.Errorf("%s", r)
	}
	w.advance(time.Hour)
	c.order("ready", "a.example.test")
}

func TestWhatIsDeletedWithACA(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	c.order("ready", "a.example.test")
	if _, err := w.tables.Store.DeleteCA(t.Context(), ann, w.ca.ID, true, w.now()); err != nil {
		t.Fatal(err)
	}
	if r := w.send("GET", w.at("directory"), "", nil); r.problem() != "404 malformed" {
		t.Errorf("%s", r)
	}
	w.must(w.tables.Store.DeleteACMEServer(t.Context(), w.ca.ID))
	if _, err := w.tables.Store.ACMESecret(t.Context(), w.ca.ID); err != store.ErrNotFound {
		t.Error(err)
	}
}
