package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func hmacOf(key, input []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(input)
	return mac.Sum(nil)
}

func TestTheDirectoryIsReadByAnybody(t *testing.T) {
	w := newWorld(t)
	r := w.send("GET", w.at("directory"), "", nil)
	var d struct {
		NewNonce, NewAccount, NewOrder, RevokeCert, KeyChange, RenewalInfo string
		Meta                                                               struct {
			ExternalAccountRequired bool
			Profiles                map[string]string
		}
	}
	w.must(json.Unmarshal([]byte(r.text), &d))
	if r.status != 200 || d.NewNonce != w.at("new-nonce") || d.RenewalInfo != w.at("renewal-info") || d.KeyChange != w.at("key-change") || !d.Meta.ExternalAccountRequired {
		t.Errorf("%s", r)
	}
	// Nothing that has no DNS names or addresses: smime, code_signing.
	if got := slices.Sorted(maps.Keys(d.Meta.Profiles)); !slices.Equal(got, []string{"both", "client", "server"}) {
		t.Errorf("profiles %q", got)
	}
	if r.header.Get("Link") != "<"+w.at("directory")+`>;rel="index"` || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("header %v", r.header)
	}
	// API Gateway may or may not leave the base path of a custom domain.
	bare := w.send("GET", strings.Replace(w.at("directory"), "/pki/", "/", 1), "", nil)
	if bare.text != r.text {
		t.Errorf("without its base path: %s", bare)
	}
	c := w.register(w.bind("*"))
	if signed := c.want("200", w.at("directory"), nil); signed.text != r.text { // RFC 8555 §6.3
		t.Errorf("by POST-as-GET: %s", signed)
	}
}

func TestNoncesAreGivenToAnybody(t *testing.T) {
	w := newWorld(t)
	for method, status := range map[string]int{"HEAD": 200, "GET": 204} {
		r := w.send(method, w.at("new-nonce"), "", nil)
		if r.status != status || r.header.Get("Replay-Nonce") == "" || r.header.Get("Cache-Control") != "no-store" || r.text != "" {
			t.Errorf("%s: %s %v", method, r, r.header)
		}
	}
}

func TestThereIsNothingElse(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/pki/999/acme/directory", "/pki/x/acme/directory", "/pki/01/acme/directory", "/pki/0/acme/directory", "/pki/-1/acme/directory", "/pki/7/acme/new-authz", "/", "/pki"} {
		if r := w.send("GET", w.server.URL+path, "", nil); r.problem() != "404 malformed" {
			t.Errorf("%s: %s", path, r)
		}
	}
	for _, path := range []string{"new-account", "new-order", "order/A", "cert/A", "revoke-cert", "key-change"} {
		if r := w.send("GET", w.at(path), "", nil); r.problem() != "405 malformed" {
			t.Errorf("GET %s: %s", path, r)
		}
	}
}

// What is wrong with a JWS is told by the error types of RFC 8555 §6.7, with another nonce.
func TestHostileRequests(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("example.test"))
	stranger := newKey()
	url := c.kid
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	short, _ := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec
	good := func(change func(h map[string]any)) map[string]any {
		h := c.header(url)
		change(h)
		return h
	}
	jws := func(change func(h map[string]any)) []byte { return raw(c.key, good(change), nil) }
	reshape := func(change func(m map[string]any)) []byte {
		var m map[string]any
		w.must(json.Unmarshal(jws(func(map[string]any) {}), &m))
		change(m)
		return encode(m)
	}
	spent := w.nonce()
	if r := w.send("POST", url, joseJSON, jws(func(h map[string]any) { h["nonce"] = spent })); r.status != 200 {
		t.Fatalf("%s", r)
	}
	old := w.secret().Nonce(w.now().Add(-time.Hour))
	future := w.secret().Nonce(w.now().Add(time.Hour))
	twice := w.nonce()
	last := strings.IndexByte(alphabet, twice[len(twice)-1]) // its lowest bits are beyond the bytes
	respelled := twice[:len(twice)-1] + string(alphabet[last^1])
	jwk := func(k any) jose.JSONWebKey { return jose.JSONWebKey{Key: k} }

	for _, test := range []struct {
		name, want string
		body       []byte
	}{
		{"as it should be", "200", jws(func(map[string]any) {})},
		{"a parameter that nobody knows", "200", jws(func(h map[string]any) { h["typ"] = "JOSE" })},

		{"no JSON", "400 malformed", []byte("ab.cd.ef")},
		{"nothing", "400 malformed", nil},
		{"null", "400 malformed", []byte("null")},
		{"a list", "400 malformed", []byte("[]")},
		{"many signatures", "400 malformed", reshape(func(m map[string]any) {
			m["signatures"] = []any{map[string]any{"protected": m["protected"], "signature": m["signature"]}}
			delete(m, "protected")
			delete(m, "signature")
		})},
		{"an unprotected header", "400 malformed", reshape(func(m map[string]any) { m["header"] = map[string]any{} })},
		{"an empty list of signatures beside the one", "400 malformed", reshape(func(m map[string]any) { m["signatures"] = []any{} })},
		{"a member in capitals", "400 malformed", reshape(func(m map[string]any) { m["Payload"] = "" })},
		{"a member twice", "400 malformed", []byte(strings.Replace(string(jws(func(map[string]any) {})), `{`, `{"payload":"",`, 1))},
		{"no payload", "400 malformed", reshape(func(m map[string]any) { delete(m, "payload") })},
		{"no signature", "400 malformed", reshape(func(m map[string]any) { delete(m, "signature") })},
		{"no protected header", "400 malformed", reshape(func(m map[string]any) { delete(m, "protected") })},
		{"a protected header that is no JSON", "400 malformed", reshape(func(m map[string]any) { m["protected"] = "e30x" })},

		{"alg none", "400 badSignatureAlgorithm", reshape(func(m map[string]any) {
			m["protected"] = base64.RawURLEncoding.EncodeToString(encode(good(func(h map[string]any) { h["alg"] = "none" })))
			m["signature"] = ""
		})},
		{"HS256 by the bytes of the public key", "400 badSignatureAlgorithm", raw(encode(jwk(c.key.Public())), good(func(h map[string]any) { h["alg"] = "HS256" }), nil)},
		{"no alg", "400 badSignatureAlgorithm", jws(func(h map[string]any) { delete(h, "alg") })},
		{"PS256", "400 badSignatureAlgorithm", jws(func(h map[string]any) { h["alg"] = "PS256" })},
		{"another algorithm than the key's", "400 malformed", jws(func(h map[string]any) { h["alg"] = "RS256" })},
		{"ES384 by a P-256 key", "400 malformed", jws(func(h map[string]any) { h["alg"] = "ES384" })},

		{"crit", "400 malformed", jws(func(h map[string]any) { h["crit"] = []string{"exp"} })},
		{"b64", "400 malformed", jws(func(h map[string]any) { h["b64"] = true })},
		{"b64 with its crit", "400 malformed", jws(func(h map[string]any) { h["b64"], h["crit"] = false, []string{"b64"} })},

		{"kid and jwk", "400 malformed", jws(func(h map[string]any) { h["jwk"] = jwk(c.key.Public()) })},
		{"neither kid nor jwk", "400 malformed", jws(func(h map[string]any) { delete(h, "kid") })},
		{"jwk where kid is wanted", "400 malformed", jws(func(h map[string]any) { delete(h, "kid"); h["jwk"] = jwk(c.key.Public()) })},
		{"a kid that is a number", "400 malformed", jws(func(h map[string]any) { h["kid"] = 7 })},
		{"the kid of nobody", "400 accountDoesNotExist", jws(func(h map[string]any) { h["kid"] = w.at("account/AAAAAAAAAAAAAAAAAAAAAAAAAA") })},
		{"a kid of another CA", "400 accountDoesNotExist", jws(func(h map[string]any) { h["kid"] = "https://other.test/account/" + c.kid[len(c.kid)-26:] })},
		{"a kid that goes elsewhere", "400 accountDoesNotExist", jws(func(h map[string]any) { h["kid"] = w.at("account/A#B") })},
		{"signed by another key", "400 malformed", raw(stranger, good(func(map[string]any) {}), nil)},
		{"a changed payload", "400 malformed", reshape(func(m map[string]any) {
			m["payload"] = base64.RawURLEncoding.EncodeToString([]byte(`{"status":"deactivated"}`))
		})},

		{"the url of another resource", "403 unauthorized", jws(func(h map[string]any) { h["url"] = w.at("new-order") })},
		{"the url of another host", "403 unauthorized", jws(func(h map[string]any) { h["url"] = strings.Replace(url, "https://", "https://evil.", 1) })},
		{"a url with a query", "403 unauthorized", jws(func(h map[string]any) { h["url"] = url + "?x" })},
		{"no url", "403 unauthorized", jws(func(h map[string]any) { delete(h, "url") })},

		{"no nonce", "400 badNonce", jws(func(h map[string]any) { delete(h, "nonce") })},
		{"an invented nonce", "400 badNonce", jws(func(h map[string]any) { h["nonce"] = "AAAA" })},
		{"a nonce a second time", "400 badNonce", jws(func(h map[string]any) { h["nonce"] = spent })},
		{"a nonce in another spelling", "400 badNonce", jws(func(h map[string]any) { h["nonce"] = respelled })},
		{"a nonce with a line break", "400 badNonce", jws(func(h map[string]any) { h["nonce"] = twice[:4] + "\n" + twice[4:] })},
		{"a nonce of an hour ago", "400 badNonce", jws(func(h map[string]any) { h["nonce"] = old })},
		{"a nonce to come", "400 badNonce", jws(func(h map[string]any) { h["nonce"] = future })},

		{"a payload where there is nothing but reading", "400 malformed", nil},
	} {
		to := url
		if test.name == "a payload where there is nothing but reading" {
			to = w.at("directory")
			test.body = raw(c.key, c.header(to), []byte(`{}`))
		}
		r := w.send("POST", to, joseJSON, test.body)
		if r.problem() != test.want {
			t.Errorf("%s: %s, want %s", test.name, r, test.want)
		}
		if r.header.Get("Replay-Nonce") == "" || r.header.Get("Link") == "" || r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: header %v", test.name, r.header)
		}
	}

	r := w.send("POST", url, joseJSON, jws(func(h map[string]any) { h["alg"] = "HS256" }))
	if want := []string{"ES256", "ES384", "RS256", "EdDSA"}; !slices.Equal(r.Algorithms, want) { // RFC 8555 §6.2
		t.Errorf("algorithms %q", r.Algorithms)
	}
	for _, kind := range []string{"", "application/json", "text/plain", "application/jose"} {
		if r := w.send("POST", url, kind, jws(func(map[string]any) {})); r.problem() != "415 malformed" {
			t.Errorf("content type %q: %s", kind, r)
		}
	}
	if r := w.send("POST", url, joseJSON+"; charset=utf-8", jws(func(map[string]any) {})); r.status != 200 {
		t.Errorf("content type with a parameter: %s", r)
	}
	if r := w.send("POST", url, joseJSON, slices.Repeat([]byte{' '}, maxBody+1)); r.problem() != "413 malformed" {
		t.Errorf("a long body: %s", r)
	}
	if r := w.send("POST", url+"?x=1", joseJSON, jws(func(map[string]any) {})); r.problem() != "403 unauthorized" {
		t.Errorf("a query that was not signed: %s", r)
	}

	// Keys that may be no account's.
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	for name, test := range map[string]struct {
		alg  string
		jwk  any
		want string
	}{
		"RSA of 1024 bits":       {"RS256", jwk(short.Public()), "400 badPublicKey"},
		"RSA of 200000 bits":     {"RS256", map[string]string{"kty": "RSA", "e": "AQAB", "n": strings.Repeat("_", 34000)}, "400 badPublicKey"},
		"P-521":                  {"ES256", jwk(p521.Public()), "400 badPublicKey"},
		"P-384 by ES256":         {"ES256", jwk(p384.Public()), "400 malformed"},
		"Ed25519 of low order":   {"EdDSA", map[string]string{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))}, "400 badPublicKey"},
		"a private key":          {"ES256", jwk(stranger), "400 malformed"},
		"a symmetric key":        {"ES256", map[string]string{"kty": "oct", "k": "AAAA"}, "400 malformed"},
		"a point off the curve":  {"ES256", map[string]string{"kty": "EC", "crv": "P-256", "x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43)}, "400 malformed"},
		"no key":                 {"ES256", "key", "400 malformed"},
		"null":                   {"ES256", nil, "400 malformed"},
		"the key of nobody here": {"ES256", jwk(stranger.Public()), "400 accountDoesNotExist"},
	} {
		to := w.at("new-account")
		body := raw(stranger, map[string]any{"alg": test.alg, "nonce": w.nonce(), "url": to, "jwk": test.jwk}, []byte(`{"onlyReturnExisting":true}`))
		if r := w.send("POST", to, joseJSON, body); r.problem() != test.want {
			t.Errorf("%s: %s, want %s", name, r, test.want)
		}
	}
	kid := &client{world: w, key: c.key, kid: c.kid}
	kid.want("400 malformed", w.at("new-account"), map[string]any{}) // kid where jwk is wanted
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func TestANonceIsGoodOnce(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("*"))
	header := c.header(c.kid)
	answers := make(chan reply, 8)
	for range cap(answers) {
		go func() { answers <- w.send("POST", c.kid, joseJSON, raw(c.key, header, nil)) }()
	}
	count := map[string]int{}
	for range cap(answers) {
		count[(<-answers).problem()]++
	}
	if count["200"] != 1 || count["400 badNonce"] != 7 {
		t.Errorf("%v", count)
	}
	// The nonce of a refusal can be used.
	r := w.send("POST", c.kid, joseJSON, raw(c.key, header, nil))
	header["nonce"] = r.header.Get("Replay-Nonce")
	if r := w.send("POST", c.kid, joseJSON, raw(c.key, header, nil)); r.status != http.StatusOK {
		t.Errorf("%s", r)
	}
	// A nonce of another CA is none here.
	other := w.newCA(nil)
	header["nonce"] = w.send("HEAD", other.Directory+"/new-nonce", "", nil).header.Get("Replay-Nonce")
	if r := w.send("POST", c.kid, joseJSON, raw(c.key, header, nil)); r.problem() != "400 badNonce" {
		t.Errorf("%s", r)
	}
}

func TestEveryKindOfKeyMakesAnAccount(t *testing.T) {
	w := newWorld(t)
	b := w.bind("example.test")
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	long, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	for _, c := range []*client{{world: w, key: newKey()}, {world: w, key: p384}, {world: w, key: long}, {world: w, key: edwards}} {
		r := c.newAccount(b, nil)
		if r.status != 201 {
			t.Errorf("%s: %s", algorithmOf(c.key), r)
			continue
		}
		c.kid = r.header.Get("Location")
		c.order("ready", "example.test")
	}
}

func FuzzJWS(f *testing.F) {
	key := newKey()
	f.Add(raw(key, map[string]any{"alg": "ES256", "nonce": "AAAA", "url": "https://x.test", "kid": "https://x.test/a"}, []byte(`{}`)))
	f.Add(raw(key, map[string]any{"alg": "ES256", "nonce": "AAAA", "url": "https://x.test", "jwk": jose.JSONWebKey{Key: key.Public()}}, nil))
	f.Add([]byte(`{"protected":"e30","payload":"","signature":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := parseJWS(text, algorithms)
		if err != nil {
			if r := refusalOf(err); r.kind != malformed && r.kind != badSignatureAlgorithm {
				t.Errorf("%s", r)
			}
			return
		}
		if (s.kid == "") == (s.jwk == nil) || !slices.Contains(algorithms, s.alg) {
			t.Errorf("%+v", s)
		}
		if s.jwk != nil {
			if k, err := s.publicKey(); err == nil {
				_, _ = s.verify(k)
			}
		}
	})
}
