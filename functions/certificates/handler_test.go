package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// world is the function over tables of its own: user 1 with an account and a DNS provider, and user 2 with theirs.
type world struct {
	*functiontest.Function
	handler  *handler
	store    *store.Store
	keys     *kmskey.Key
	signer   *casigner.Signer
	now      time.Time
	session  access.Caller
	account  int64
	provider int64
	foreign  struct{ account, provider int64 }
	looked   func() // called when a handler asks for the time; nil for nothing
}

func (w *world) clock() time.Time {
	if w.looked != nil {
		w.looked()
	}
	return w.now
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: storetest.New(t).Store, keys: awstest.Key(t), now: storetest.Now()}
	log := slog.New(slog.DiscardHandler)
	w.signer = catest.Signer(t, w.store, w.clock)
	h := &handler{
		store: w.store, keys: w.keys, queue: awstest.Queue(t), ca: acme.NewClients(egress.Guard{}.Client(time.Second)), resolver: net.DefaultResolver,
		cas: &caorder.Worker{Store: w.store, Keys: w.keys, Signer: w.signer, Log: log, Now: w.clock}, signer: w.signer,
		log: log, now: w.clock,
	}
	w.handler = h
	w.Function = functiontest.New(t, h.routes(), "")
	w.session = functiontest.Session(1, w.now)
	w.account, w.provider = w.things(t, 1)
	w.foreign.account, w.foreign.provider = w.things(t, 2)
	return w
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// things gives a user an account at a CA that does not answer, and a DNS provider.
func (w *world) things(t *testing.T, user int64) (account, provider int64) {
	t.Helper()
	ctx := t.Context()
	a := acmeaccount.Account{
		User: user, ID: must(w.store.NextACMEAccountID(ctx)), Name: "a", Provider: "nobody", Directory: "https://127.0.0.1:9/dir", URL: "https://127.0.0.1:9/1",
		CreatedAt: w.now, UpdatedAt: w.now,
	}
	a.Key = must(w.keys.Seal(ctx, kmskey.ACMEAccount(user, a.ID), must(x509.MarshalPKCS8PrivateKey(must(acme.NewKey())))))
	if err := w.store.CreateACMEAccount(ctx, a, nil); err != nil {
		t.Fatal(err)
	}
	p := dnsprovider.Provider{
		User: user, ID: must(w.store.NextDNSProviderID(ctx)), Name: "p", Config: must(dnsprovider.Parse("desec", json.RawMessage(`{"token":"0123456789abcdef"}`), egress.Guard{})),
		CreatedAt: w.now, UpdatedAt: w.now,
	}
	p.Secrets = must(w.keys.Seal(ctx, kmskey.DNSProvider(user, p.ID), p.Config.Secrets()))
	if err := w.store.CreateDNSProvider(ctx, p, nil); err != nil {
		t.Fatal(err)
	}
	return a.ID, p.ID
}

const path = "/apiv1/users/1/certificates"

func one(id int64) string { return fmt.Sprintf("%s/%d", path, id) }

// order is the page's body, for the domain.
func (w *world) order(domain string) string {
	return fmt.Sprintf(`{"domain":%q,"acme_account_id":%d,"dns_provider_id":%d}`, domain, w.account, w.provider)
}

func (w *world) create(t *testing.T, body string) Certificate {
	t.Helper()
	var c Certificate
	w.Want(t, 201, w.session, "POST", path, body).Into(t, &c)
	return c
}

// issued puts a certificate in place, as the issuer does: a chain for its names, and its key unless the caller keeps it.
func (w *world) issued(t *testing.T, id int64) pki.Chain {
	t.Helper()
	ctx := t.Context()
	c := must(w.store.Certificate(ctx, 1, id))
	o, err := w.store.Order(ctx, id)
	if err != nil {
		opened := certificate.NewOrder(must(w.store.NextIssueID(ctx)), "", w.now)
		c = must(w.store.UpdateCertificate(ctx, c, c, &opened, nil))
	}
	o = must(w.store.LeaseOrder(ctx, id, "test", w.now))
	m := store.Material{}
	var public crypto.PublicKey
	if c.CallersKey {
		public = must(pki.Public.ParseRequestDER(must(w.store.Request(ctx, id)))).Public
	} else {
		key := must(pki.NewKey(pki.KeyType(c.KeyType)))
		public, m.Key = key.Public(), must(w.keys.Seal(ctx, kmskey.Certificate(1, id), key.DER()))
	}
	chain := chainFor(t, public, c.Names, w.now)
	m.Chain = chain.PEM()
	facts := chain.Facts()
	c.Current = certificate.Issued{Issue: o.Issue, Serial: facts.Serial, NotBefore: facts.NotBefore, NotAfter: facts.NotAfter, Fingerprint: facts.Fingerprint}
	outcome := certificate.Issue{ID: o.IssueID, Certificate: id, Number: o.Issue, State: certificate.Succeeded, StartedAt: w.now, CompletedAt: w.now, Serial: facts.Serial}
	if _, err := w.store.CloseOrder(ctx, o, c, outcome, &m); err != nil {
		t.Fatal(err)
	}
	return chain
}

// chainFor is a leaf by a CA of the test's own.
func chainFor(t *testing.T, public crypto.PublicKey, names []string, now time.Time) pki.Chain {
	t.Helper()
	caKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey))))
	leaf := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano() + 1), DNSNames: names, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(100 * time.Hour)}
	return pki.Chain{must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, leaf, ca, public, caKey)))), ca}
}

// csr is a certification request in PEM.
func csr(key crypto.Signer, names ...string) string {
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// The page's body issues at once, the docs' creates only; ids may be strings.
func TestBothDialects(t *testing.T) {
	w := newWorld(t)
	at := w.create(t, fmt.Sprintf(`{"domain":"Example.COM.","sans":["www.example.com","api.example.com","WWW.example.com"],"acme_account_id":"%d","dns_provider_id":%d,"key_type":"ecdsa","auto_renew":true}`, w.account, w.provider))
	if at.Status != "ISSUING" || at.Domain != "example.com" || !slices.Equal(at.Names, []string{"example.com", "www.example.com", "api.example.com"}) || !at.Export || at.KeyType != "ecdsa-p256" || !at.AutoRenew {
		t.Errorf("the page's: %+v", at)
	}
	if o, err := w.store.Order(t.Context(), at.ID); err != nil || o.Issue != 1 {
		t.Errorf("its order: %+v, %v", o, err)
	}
	var shown Certificate
	w.Want(t, 200, w.session, "GET", one(at.ID), "").Into(t, &shown)
	if shown.Progress == nil || shown.Progress.Step != "account" || shown.Progress.Attempt != 1 {
		t.Errorf("shown: %+v", shown)
	}

	docs := w.create(t, fmt.Sprintf(`{"domain_name":"*.svc.example.org","sans":[],"acct_id":%d,"action":"create","organization":"Ann","country":"de","unknown":[1]}`, w.account))
	if docs.Status != "CREATED" || docs.Export || docs.Verified || docs.Serial != "" || docs.Country != "DE" || docs.Policy != "HYBRID" || docs.Account != w.account || !slices.Equal(docs.Names, []string{"*.svc.example.org"}) {
		t.Errorf("the docs': %+v", docs)
	}
	w.Want(t, 400, w.session, "POST", one(docs.ID)+"/issues", "") // no DNS provider
	// The account's own path.
	var below Certificate
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("/apiv1/users/1/acme-accounts/%d/certificates", w.account), `{"domain_name":"below.example"}`).Into(t, &below)
	list := w.Want(t, 200, w.session, "GET", fmt.Sprintf("/apiv1/users/1/acme-accounts/%d/certificates", w.account), "")
	if list.Meta.Total != 3 || below.Account != w.account {
		t.Errorf("the account's: %s", list.Body)
	}
	w.Want(t, 404, w.session, "GET", fmt.Sprintf("/apiv1/users/1/acme-accounts/%d/certificates", w.foreign.account), "")
}

// What cannot be is answered with the contract's codes, and nothing is stored.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.order("taken.example"))
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	good := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	forged, _ := pem.Decode([]byte(csr(good, "csr.example")))
	forged.Bytes[len(forged.Bytes)-1] ^= 1
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("n%d.example", i))
	}
	with := func(fields map[string]any) string {
		body := map[string]any{"acme_account_id": w.account, "dns_provider_id": w.provider}
		for name, value := range fields {
			if body[name] = value; value == nil {
				delete(body, name)
			}
		}
		return string(must(json.Marshal(body)))
	}
	type fields = map[string]any
	for _, test := range []struct {
		name   string
		body   string
		status int
		key    string
		says   string
	}{
		{"an account that is not there", with(fields{"domain": "a.example", "acme_account_id": 999}), 404, "NOT_FOUND", "ACME account 999"},
		{"another user's account", with(fields{"domain": "a.example", "acme_account_id": w.foreign.account}), 404, "NOT_FOUND", "ACME account"},
		{"a DNS provider that is not there", with(fields{"domain": "a.example", "dns_provider_id": 999}), 404, "NOT_FOUND", "DNS provider 999"},
		{"another user's DNS provider", with(fields{"domain": "a.example", "dns_provider_id": w.foreign.provider}), 404, "NOT_FOUND", "DNS provider"},
		{"no account", with(fields{"domain": "a.example", "acme_account_id": nil}), 400, "MISSING_FIELD", "acme_account_id"},
		{"no DNS provider", with(fields{"domain": "a.example", "dns_provider_id": nil}), 400, "MISSING_FIELD", "dns_provider_id"},
		{"no name", with(nil), 400, "MISSING_FIELD", "domain"},
		{"two accounts", with(fields{"domain": "a.example", "acct_id": w.account + 1}), 400, "INVALID_ARGUMENT", "two accounts"},
		{"two domains", with(fields{"domain": "a.example", "domain_name": "b.example"}), 400, "INVALID_ARGUMENT", "differ"},
		{"not a name", with(fields{"domain": "exa mple.com"}), 400, "INVALID_ARGUMENT", "exa mple.com"},
		{"a URL", with(fields{"domain": "https://example.com/"}), 400, "INVALID_ARGUMENT", ""},
		{"a single label", with(fields{"domain": "localhost"}), 400, "INVALID_ARGUMENT", ""},
		{"an address", with(fields{"domain": "192.0.2.1"}), 400, "INVALID_ARGUMENT", "IP address"},
		{"a wildcard in the middle", with(fields{"domain": "a.*.example"}), 400, "INVALID_ARGUMENT", ""},
		{"a label that is too long", with(fields{"domain": strings.Repeat("a", 64) + ".example"}), 400, "INVALID_ARGUMENT", ""},
		{"an A-label that stands for nothing", with(fields{"domain": "xn--a.example"}), 400, "INVALID_ARGUMENT", ""},
		{"letters of two directions", with(fields{"domain": "aא.example"}), 400, "INVALID_ARGUMENT", ""},
		{"a NUL", with(fields{"domain": "a\x00.example"}), 400, "INVALID_ARGUMENT", ""},
		{"a bad SAN", with(fields{"domain": "a.example", "sans": []string{"b.example", "-.example"}}), 400, "INVALID_ARGUMENT", "-.example"},
		{"a name that a wildcard covers", with(fields{"domain": "*.a.example", "sans": []string{"a.example", "www.a.example"}}), 400, "INVALID_ARGUMENT", "covers it"},
		{"101 names", with(fields{"domain": many[0], "sans": many[1:]}), 400, "INVALID_ARGUMENT", "100 names"},
		{"a SAN that is no string", with(fields{"domain": "a.example", "sans": []any{7}}), 400, "TYPE_CONVERT_FAILED", ""},
		{"the same domain again", w.order("TAKEN.example"), 409, "ALREADY_EXISTS", "taken.example"},
		{"an unknown key type", with(fields{"domain": "a.example", "key_type": "rsa-1024"}), 400, "INVALID_ARGUMENT", "key_type"},
		{"an unknown policy", with(fields{"domain": "a.example", "key_dist_policy": "NONE"}), 400, "INVALID_ARGUMENT", "key_dist_policy"},
		{"an unknown action", with(fields{"domain": "a.example", "action": "delete"}), 400, "INVALID_ARGUMENT", "action"},
		{"a country of three letters", with(fields{"domain": "a.example", "country": "DEU"}), 400, "INVALID_ARGUMENT", "country"},
		{"a CSR that is none", with(fields{"csr": "hello"}), 400, "INVALID_ARGUMENT", "CSR"},
		{"a CSR with a weak key", with(fields{"csr": csr(weak, "csr.example")}), 400, "INVALID_ARGUMENT", "RSA"},
		{"a CSR whose signature is not its key's", with(fields{"csr": string(pem.EncodeToMemory(forged))}), 400, "INVALID_ARGUMENT", "signature"},
		{"a CSR without a name", with(fields{"csr": csr(good)}), 400, "MISSING_FIELD", ""},
		{"a CSR for other names", with(fields{"domain": "a.example", "csr": csr(good, "csr.example")}), 400, "INVALID_ARGUMENT", "names"},
		{"a CSR and a key type", with(fields{"csr": csr(good, "csr.example"), "key_type": "rsa"}), 400, "INVALID_ARGUMENT", "key_type"},
		{"an id with a fraction", with(fields{"domain": "a.example", "acme_account_id": 1.5}), 400, "TYPE_CONVERT_FAILED", ""},
		{"a negative id", with(fields{"domain": "a.example", "dns_provider_id": -1}), 400, "TYPE_CONVERT_FAILED", ""},
	} {
		a := w.Call(t, w.session, "POST", path, test.body)
		if a.Status != test.status || a.Error.Key != test.key || !strings.Contains(a.Error.What, test.says) {
			t.Errorf("%s: %d %s, want %d %s", test.name, a.Status, a.Body, test.status, test.key)
		}
	}
	if list := w.Want(t, 200, w.session, "GET", path, ""); list.Meta.Total != 1 {
		t.Errorf("stored: %s", list.Body)
	}
	if due := must(w.store.DueOrders(t.Context(), w.now.Add(time.Hour), 100)); len(due) != 1 {
		t.Errorf("open orders: %v", due)
	}
	// What the tables keep of it: nothing uses the other user's things, and user 1's are used by the one.
	for user, id := range map[int64]int64{1: w.account, 2: w.foreign.account} {
		if a := must(w.store.ACMEAccount(t.Context(), user, id)); a.Certificates != 2-user {
			t.Errorf("account of user %d: used by %d", user, a.Certificates)
		}
	}
	// An IDN is stored as DNS has it.
	if c := w.create(t, w.order("Bücher.example")); c.Domain != "xn--bcher-kva.example" {
		t.Errorf("IDN: %q", c.Domain)
	}
}

func TestOneIssueAtATime(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.Want(t, 409, w.session, "POST", one(c.ID)+"/issues", "")
	w.issued(t, c.ID)
	var lock sync.Mutex
	statuses := map[int]int{}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			a := w.Call(t, w.session, "POST", one(c.ID)+"/issues", "")
			lock.Lock()
			defer lock.Unlock()
			statuses[a.Status]++
		})
	}
	all.Wait()
	if statuses[204] != 1 || statuses[409] != 9 {
		t.Errorf("ten at once: %v", statuses)
	}
	list := w.Want(t, 200, w.session, "GET", one(c.ID)+"/issues", "")
	var issues []Issue
	list.Into(t, &issues)
	if len(issues) != 2 || issues[0].Status != "PROCESSING" || issues[0].CompletedAt != 0 || issues[1].Status != "SUCCESS" {
		t.Errorf("issues: %s", list.Body)
	}
	if same := w.Want(t, 200, w.session, "GET", one(c.ID)+"/histories", ""); same.Body != list.Body {
		t.Errorf("histories: %s", same.Body)
	}
}

// The CA's rate limit keeps users from asking again, and the answer says how long.
func TestALimitOfTheCAIsKept(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	o := must(w.store.LeaseOrder(t.Context(), c.ID, "test", w.now))
	stored := must(w.store.Certificate(t.Context(), 1, c.ID))
	stored.Failure = certificate.Failure{At: w.now, Kind: "rateLimited", What: "too many certificates", Permanent: true, RetryAt: w.now.Add(time.Hour)}
	outcome := certificate.Issue{ID: o.IssueID, Certificate: c.ID, Number: 1, State: certificate.Unissued, StartedAt: w.now, CompletedAt: w.now, Failure: stored.Failure}
	must(w.store.CloseOrder(t.Context(), o, stored, outcome, nil))
	a := w.Want(t, 429, w.session, "POST", one(c.ID)+"/issues", "")
	if a.Header.Get("Retry-After") != "3600" || a.Error.Params["retry_after"] != 3600.0 || !strings.Contains(a.Error.What, "too many certificates") {
		t.Errorf("%s %s", a.Header, a.Body)
	}
	var shown Certificate
	w.Want(t, 200, w.session, "GET", one(c.ID), "").Into(t, &shown)
	if shown.Status != "FAILED" || shown.Failure == nil || shown.Failure.RetryAt != w.now.Add(time.Hour).Unix() {
		t.Errorf("shown: %+v", shown.Failure)
	}
	w.now = w.now.Add(time.Hour)
	w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "")
}

// A caller who waits is answered when the issue gets on, at once when none is open, and a caller who has gone
// is not waited for.
func TestWaiting(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	looks := make(chan struct{}, 100)
	w.looked = func() { looks <- struct{}{} }
	answered := make(chan Certificate)
	go func() {
		var got Certificate
		w.Want(t, 200, w.session, "GET", one(c.ID)+"?wait=20", "").Into(t, &got)
		answered <- got
	}()
	for range 3 { // the last after it has seen the order as it is now
		<-looks
	}
	o := must(w.store.LeaseOrder(t.Context(), c.ID, "test", w.now))
	o.Step = certificate.AtPropagate
	if err := w.store.SaveOrder(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got.Status != "ISSUING" || got.Progress == nil || got.Progress.Step != "propagate" {
		t.Errorf("answered %+v", got)
	}
	for _, bad := range []string{"21", "-1", "x"} {
		w.Want(t, 400, w.session, "GET", one(c.ID)+"?wait="+bad, "")
	}
	closed := must(w.store.Certificate(t.Context(), 1, c.ID))
	outcome := certificate.Issue{ID: o.IssueID, Certificate: c.ID, Number: 1, State: certificate.Unissued, StartedAt: w.now, CompletedAt: w.now}
	must(w.store.CloseOrder(t.Context(), o, closed, outcome, nil))
	w.Want(t, 200, w.session, "GET", one(c.ID)+"?wait=20", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if (&handler{}).rest(ctx) {
		t.Error("a caller who has gone is waited for")
	}
}

// Who may have the key: the policies of contract §7.13 and the flag.
func TestExport(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	if a := w.Want(t, 409, w.session, "GET", one(c.ID)+"/export", ""); a.Error.Code != 40903 || a.Error.Key != "NOT_ISSUED" {
		t.Errorf("not issued: %s", a.Body)
	}
	chain := w.issued(t, c.ID)
	for _, test := range []struct {
		policy string
		flag   bool
		status int
	}{
		{"HYBRID", true, 200}, {"hybrid", false, 403}, {"MASTER_ONLY", true, 200}, {"MASTER_ONLY", false, 403}, {"DEVICE_REQUIRED", true, 403}, {"device_required", false, 403},
	} {
		w.Want(t, 200, w.session, "PUT", one(c.ID), fmt.Sprintf(`{"key_dist_policy":%q,"server_decrypt_export":%v}`, test.policy, test.flag))
		for _, format := range []string{"", "?format=json", "?format=zip"} {
			a := w.Want(t, test.status, w.session, "GET", one(c.ID)+"/export"+format, "", "Accept: application/zip")
			if test.status == 403 && (a.Error.Code != 40301 || a.Error.Key != "EXPORT_FORBIDDEN" || strings.Contains(a.Body, "PRIVATE")) {
				t.Errorf("%+v: %s", test, a.Body)
			}
		}
	}
	w.Want(t, 200, w.session, "PUT", one(c.ID), `{"key_dist_policy":"HYBRID","server_decrypt_export":true}`)
	var parts struct{ Cert, Privkey, Chain, Fullchain string }
	a := w.Want(t, 200, w.session, "GET", one(c.ID)+"/export", "")
	a.Into(t, &parts)
	key, err := pki.ParseKey(must(base64.StdEncoding.DecodeString(parts.Privkey)))
	if err != nil || !pki.Same(key.Public(), chain[0].PublicKey) || !strings.HasPrefix(parts.Cert, string(chain.Leaf().PEM())) {
		t.Errorf("the parts: %v, %+v", err, parts)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers: %v", a.Header)
	}
	w.Want(t, 406, w.session, "GET", one(c.ID)+"/export?format=zip", "")
	w.Want(t, 400, w.session, "GET", one(c.ID)+"/export?format=tar", "")
	w.Want(t, 406, w.session, "GET", one(c.ID)+"/export?format=pkcs12", "", "Accept: application/zip")
	p12 := w.Want(t, 200, w.session, "GET", one(c.ID)+"/export?format=pkcs12", "", "Accept: application/x-pkcs12")
	if opened, leaf, err := decode([]byte(p12.Body), p12.Header.Get("X-Export-Password")); err != nil || !leaf.Equal(chain[0]) || !pki.Same(opened.(crypto.Signer).Public(), leaf.PublicKey) {
		t.Errorf("PKCS#12: %v", err)
	}
	// The caller has the key: the rest can be had, whatever the policy.
	own := w.create(t, fmt.Sprintf(`{"csr":%q,"acct_id":%d}`, csr(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "own.example"), w.account))
	w.issued(t, own.ID)
	w.Want(t, 200, w.session, "GET", one(own.ID)+"/export", "").Into(t, &parts)
	if parts.Privkey != "" || parts.Cert == "" || own.KeyType != "" {
		t.Errorf("of a CSR: %+v", parts)
	}
}

func decode(text []byte, password string) (any, *x509.Certificate, error) {
	key, leaf, _, err := pkcs12.DecodeChain(text, password)
	return key, leaf, err
}

// A key moved to another certificate's item does not open there.
func TestAKeyOfAnotherCertificateStaysClosed(t *testing.T) {
	w := newWorld(t)
	a, b := w.create(t, w.order("a.example")), w.create(t, w.order("b.example"))
	w.issued(t, a.ID)
	w.issued(t, b.ID)
	stolen := must(w.store.Material(t.Context(), a.ID, 1))
	c := must(w.store.Certificate(t.Context(), 1, b.ID))
	open := certificate.NewOrder(must(w.store.NextIssueID(t.Context())), "", w.now)
	c = must(w.store.UpdateCertificate(t.Context(), c, c, &open, nil))
	o := must(w.store.LeaseOrder(t.Context(), b.ID, "thief", w.now))
	c.Current.Issue = o.Issue
	must(w.store.CloseOrder(t.Context(), o, c, certificate.Issue{Certificate: b.ID, Number: o.Issue, StartedAt: w.now}, &stolen))
	if answer := w.Want(t, 500, w.session, "GET", one(b.ID)+"/export", ""); answer.Error.What != "internal error" {
		t.Errorf("answered %s", answer.Body)
	}
}

func TestRevocation(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.Want(t, 409, w.session, "POST", one(c.ID)+"/revoke", "")
	w.issued(t, c.ID)
	w.Want(t, 400, w.session, "POST", one(c.ID)+"/revoke", `{"reason":"because"}`)
	// The CA cannot be reached: nothing is revoked, and it can be tried again.
	if a := w.Want(t, 409, w.session, "POST", one(c.ID)+"/revoke", `{"reason":"superseded"}`); !strings.Contains(a.Error.What, "not revoked") || !strings.HasSuffix(a.Error.What, "Try again.") {
		t.Errorf("answered %s", a.Body)
	}
	var shown Certificate
	w.Want(t, 200, w.session, "GET", one(c.ID), "").Into(t, &shown)
	if shown.Status != "ISSUED" || shown.RevokedAt != 0 {
		t.Errorf("shown: %+v", shown)
	}
}

func TestChanges(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.issued(t, c.ID)
	for body, status := range map[string]int{
		`{"key_dist_policy":"x"}`: 400, `{"action":"create"}`: 400, `{"dns_provider_id":999}`: 404,
		fmt.Sprintf(`{"dns_provider_id":%d}`, w.foreign.provider): 404, `{"id":7,"user_id":2,"serial_number":"00","status":"REVOKED"}`: 200,
	} {
		w.Want(t, status, w.session, "PUT", one(c.ID), body)
	}
	var got Certificate
	a := w.Want(t, 200, w.session, "PUT", one(c.ID), `{"auto_renew":false,"dns_provider_id":0}`)
	a.Into(t, &got)
	if got.AutoRenew || got.RenewAt != 0 || got.DNSProvider != 0 || got.ID != c.ID || got.User != 1 || got.Status != "ISSUED" || got.Serial == "00" {
		t.Errorf("changed: %+v", got)
	}
	if a.Header.Get("ETag") == "" {
		t.Error("no ETag")
	}
	if p := must(w.store.DNSProvider(t.Context(), 1, w.provider)); p.Certificates != 0 {
		t.Errorf("the DNS provider is used by %d", p.Certificates)
	}
	w.Want(t, 200, w.session, "PUT", one(c.ID), `{"auto_renew":true}`).Into(t, &got)
	if got.RenewAt == 0 {
		t.Error("it is not looked at")
	}
}

// Deleted with all that is kept of it, an open issue too; then the name can be had again.
func TestDeletion(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.issued(t, c.ID)
	for range 3 {
		w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "")
		w.issued(t, c.ID)
	}
	w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "")
	w.Want(t, 204, w.session, "DELETE", one(c.ID), "")
	w.Want(t, 404, w.session, "DELETE", one(c.ID), "")
	for _, call := range []string{"GET ", "PUT ", "GET /issues", "POST /issues", "GET /export", "POST /revoke", "GET /histories"} {
		method, sub, _ := strings.Cut(call, " ")
		body := ""
		if method == "PUT" {
			body = `{}`
		}
		if a := w.Want(t, 404, w.session, method, one(c.ID)+sub, body); a.Error.Code != 4001 {
			t.Errorf("%s: %s", call, a.Body)
		}
	}
	ctx := t.Context()
	if issues := must(w.store.Issues(ctx, c.ID)); len(issues) != 0 {
		t.Errorf("history: %+v", issues)
	}
	for issue := int64(1); issue < 6; issue++ {
		if _, err := w.store.Material(ctx, c.ID, issue); err == nil {
			t.Errorf("the key of issue %d is left", issue)
		}
	}
	if due := must(w.store.DueOrders(ctx, w.now.Add(time.Hour), 10)); len(due) != 0 {
		t.Errorf("due: %v", due)
	}
	if a := must(w.store.ACMEAccount(ctx, 1, w.account)); a.Certificates != 0 {
		t.Errorf("the account is used by %d", a.Certificates)
	}
	w.create(t, w.order("a.example"))
}

// No answer but an export holds a key, sealed or not.
func TestNothingSecretIsShown(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.issued(t, c.ID)
	m := must(w.store.Material(t.Context(), c.ID, 1))
	for _, path := range []string{path, one(c.ID), one(c.ID) + "?detail=most", one(c.ID) + "/issues"} {
		a := w.Want(t, 200, w.session, "GET", path, "")
		for _, secret := range []string{"PRIVATE KEY", base64.StdEncoding.EncodeToString(m.Key.Text), base64.StdEncoding.EncodeToString(m.Key.DataKey), `"key"`, "privkey"} {
			if strings.Contains(a.Body, secret) {
				t.Errorf("%s holds %.40s", path, secret)
			}
		}
		if heavy := strings.Contains(a.Body, "BEGIN CERTIFICATE"); heavy != strings.HasSuffix(path, "most") {
			t.Errorf("%s: heavy %v", path, heavy)
		}
		if a.Meta.Total == 0 {
			var got Certificate
			a.Into(t, &got)
			if got.DER != "" {
				t.Error("der is not empty")
			}
		}
	}
}

func TestARepeatedCreateIsOne(t *testing.T) {
	w := newWorld(t)
	first := w.Want(t, 201, w.session, "POST", path, w.order("a.example"), "Idempotency-Key: k")
	again := w.Want(t, 201, w.session, "POST", path, w.order("a.example"), "Idempotency-Key: k")
	if again.Body != first.Body || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("again: %s\n%s", first.Body, again.Body)
	}
	if a := w.Want(t, 409, w.session, "POST", path, w.order("b.example"), "Idempotency-Key: k"); a.Error.Key != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("reused: %s", a.Body)
	}
	var lock sync.Mutex
	bodies := map[string]int{}
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			a := w.Call(t, w.session, "POST", path, w.order("c.example"), "Idempotency-Key: l")
			lock.Lock()
			defer lock.Unlock()
			bodies[fmt.Sprint(a.Status, a.Body)]++
		})
	}
	all.Wait()
	if len(bodies) != 1 {
		t.Errorf("at once: %v", bodies)
	}
	if list := w.Want(t, 200, w.session, "GET", path, ""); list.Meta.Total != 2 {
		t.Errorf("%d certificates", list.Meta.Total)
	}
}

// A renewal asked for again under the same key is one, also when the first has ended.
func TestARepeatedIssueIsOne(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.issued(t, c.ID)
	w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "", "Idempotency-Key: k")
	if a := w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "", "Idempotency-Key: k"); a.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%v", a.Header)
	}
	w.issued(t, c.ID)
	w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "", "Idempotency-Key: k")
	if list := w.Want(t, 200, w.session, "GET", one(c.ID)+"/issues", ""); list.Meta.Total != 2 {
		t.Errorf("%s", list.Body)
	}
	w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "", "Idempotency-Key: l")
}

// Whoever reads while issues are opened and closed sees no state that never was.
func TestWhatIsShownIsOneState(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.issued(t, c.ID)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				var got Certificate
				w.Want(t, 200, w.session, "GET", one(c.ID), "").Into(t, &got)
				stored := must(w.store.Certificate(t.Context(), 1, c.ID))
				if got.Progress == nil && got.Attempts == stored.Issues && stored.Issuing == 0 && got.Serial != stored.Current.Serial {
					t.Errorf("serial %s without progress, %s is in place", got.Serial, stored.Current.Serial)
				}
			}
		})
	}
	for range 10 {
		w.Want(t, 204, w.session, "POST", one(c.ID)+"/issues", "")
		w.issued(t, c.ID)
	}
	close(done)
	readers.Wait()
}

func TestWhoMay(t *testing.T) {
	w := newWorld(t)
	c := w.create(t, w.order("a.example"))
	w.issued(t, c.ID)
	calls := []string{"GET " + path, "POST " + path, "GET " + one(c.ID), "PUT " + one(c.ID), "GET " + one(c.ID) + "/issues", "POST " + one(c.ID) + "/issues", "GET " + one(c.ID) + "/export", "POST " + one(c.ID) + "/revoke"}
	reads := []bool{true, false, true, false, true, false, true, false}
	none, every := make([]bool, 8), slices.Repeat([]bool{true}, 8)
	for permissions, allowed := range map[access.Permissions][]bool{
		"":                {},
		"devices:*:write": none,
		"certs:*:read":    reads,
		"certs:*:write":   every,
		"certs:77:write":  none,
		access.Permissions(fmt.Sprintf("certs:%d:read", c.ID)):  {false, false, true, false, true, false, true, false},
		access.Permissions(fmt.Sprintf("certs:%d:write", c.ID)): {false, false, true, true, true, true, true, true},
	} {
		key := functiontest.Key(1, permissions, w.now)
		for i, call := range calls {
			method, path, _ := strings.Cut(call, " ")
			body := ""
			if method == "PUT" || path == calls[1] {
				body = `{}`
			}
			a := w.Call(t, key, method, path, body)
			may := len(allowed) > i && allowed[i]
			if may == (a.Status == http.StatusForbidden) {
				t.Errorf("%q, %s: %d", permissions, call, a.Status)
			}
			if !may && (a.Error.Code != 4003 || a.Error.What != "API key lacks required permission") {
				t.Errorf("%q, %s: %s", permissions, call, a.Body)
			}
		}
	}
	stranger := functiontest.Session(2, w.now)
	for _, call := range calls {
		method, path, _ := strings.Cut(call, " ")
		w.Want(t, 403, stranger, method, path, "")
		theirs := strings.Replace(path, "/users/1/", "/users/2/", 1)
		if strings.Contains(theirs, fmt.Sprintf("/%d", c.ID)) {
			body := ""
			if method == "PUT" {
				body = `{}`
			}
			w.Want(t, 404, stranger, method, theirs, body)
		}
	}
}

// FuzzCreate: whatever a body holds, it is refused with a problem of the caller's, or means a certificate that
// can be ordered: names as DNS has them, a key that is made here or a request that is whole.
func FuzzCreate(f *testing.F) {
	f.Add([]byte(`{"domain":"example.com","sans":["www.example.com"],"acme_account_id":7,"dns_provider_id":3,"key_type":"ecdsa","auto_renew":true}`))
	f.Add([]byte(`{"domain_name":"*.Bücher.example","acct_id":"42","action":"create","country":"de","key_dist_policy":"hybrid","server_decrypt_export":false}`))
	f.Add([]byte(fmt.Sprintf(`{"csr":%q,"acct_id":1}`, csr(must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "a.example"))))
	now := time.Now()
	f.Fuzz(func(t *testing.T, text []byte) {
		var body newCertificate
		if json.Unmarshal(text, &body) != nil {
			return
		}
		account, _, err := body.account()
		if err != nil {
			return
		}
		c, der, err := body.certificate(acmeaccount.Account{User: 1, ID: account}, now)
		if err != nil {
			return
		}
		if len(c.Names) == 0 || len(c.Names) > pki.MaxNames || c.Account <= 0 || c.CallersKey != (len(der) > 0) {
			t.Fatalf("%+v", c)
		}
		for i, name := range c.Names {
			if again, err := pki.Public.Name(name); err != nil || again != name || slices.Contains(c.Names[:i], name) {
				t.Fatalf("name %q: %q, %v", name, again, err)
			}
		}
		if c.CallersKey {
			request, err := pki.Public.ParseRequestDER(der)
			if err != nil || c.KeyType != "" || len(request.Names) != len(c.Names) {
				t.Fatalf("CSR: %v", err)
			}
		}
	})
}
