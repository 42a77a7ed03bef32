package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/go-jose/go-jose/v4"

	"cjj365.cc/bb/shared/acmesecret"
	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

const ann = 1 // a user

// world is a deployment of one test: tables, a key, a web server in front of the function, and the DNS.
type world struct {
	*testing.T
	tables storetest.Tables
	keys   *kmskey.Key
	h      *handler
	server *httptest.Server
	names  *zone
	late   atomic.Int64 // nanoseconds by which the clock is ahead of storetest.Now
	start  time.Time
	ca     ca.CA
}

func (w *world) now() time.Time          { return w.start.Add(time.Duration(w.late.Load())) }
func (w *world) advance(d time.Duration) { w.late.Add(int64(d)) }

// newWorld has one CA, of ann's.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, tables: storetest.New(t), keys: awstest.Key(t), start: storetest.Now(), names: serveNames(t)}
	log := slog.New(slog.DiscardHandler)
	guard := egress.Allowing("loopback")
	guard.Resolver = w.names.resolver()
	w.h = &handler{
		store: w.tables.Store, keys: w.keys, prober: prober{guard, guard.Resolver, "80"}, log: log, now: w.now,
		signer: &casigner.Signer{Store: w.tables.Store, Keys: w.keys, Signing: awstest.Signing(t), Bucket: awstest.Bucket(t), Log: log, Now: w.now},
	}
	wrapped, err := gateway.Wrap(w.h.routes(), "", log)
	if err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewTLSServer(wrapped)
	t.Cleanup(w.server.Close)
	w.ca = w.newCA(nil)
	return w
}

// newCA makes a root; with another it takes the place of that.
func (w *world) newCA(former *ca.CA, change ...func(*ca.CA)) ca.CA {
	w.Helper()
	ctx := w.Context()
	id, err := w.tables.Store.NextCAID(ctx)
	w.must(err)
	key, err := pki.NewKey(pki.ECDSAP256)
	w.must(err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	w.must(err)
	c := ca.CA{
		User: ann, ID: id, Name: "lab", CommonName: "Lab Root", KeyType: pki.ECDSAP256, Custody: ca.Wrapped, Public: public, PathLen: ca.NoPathLen, Days: 3650,
		Revocation: fmt.Sprintf("http://pki.example.test/%d", id), Directory: fmt.Sprintf("%s/pki/%d/acme", w.server.URL, id), CreatedAt: w.now(), UpdatedAt: w.now(),
	}
	if former != nil {
		c.Former = former.ID
	}
	for _, change := range change {
		change(&c)
	}
	c.Key, err = w.keys.Seal(ctx, kmskey.CA(ann, id), key.DER())
	w.must(err)
	plan, err := c.Own(nil, w.now())
	w.must(err)
	issued, err := w.h.signer.SignOwn(ctx, c, key.Signer(), plan, "user/1")
	w.must(err)
	c.Chain = issued.Chain
	c, err = w.tables.Store.CreateCA(ctx, c, []ca.Entry{issued.Entry}, former, nil)
	w.must(err)
	return c
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// bind mints a binding for names.
func (w *world) bind(names ...string) acmeserver.Binding {
	w.Helper()
	return w.bindAs(acmeserver.Binding{Names: names})
}

func (w *world) bindAs(b acmeserver.Binding) acmeserver.Binding {
	w.Helper()
	b.User, b.CA, b.CreatedAt = ann, w.ca.ID, w.now()
	b.ID = w.secret().NewBindingID()
	w.must(w.tables.Store.CreateBinding(w.Context(), b, nil))
	return b
}

func (w *world) secret() acmeserver.Secret {
	w.Helper()
	s, err := acmesecret.Open(w.Context(), w.tables.Store, w.keys, ann, w.ca.ID)
	w.must(err)
	return s
}

// at is the URL of a resource of the CA.
func (w *world) at(path string) string { return w.ca.Directory + "/" + path }

// reply is what was answered.
type reply struct {
	status int
	header http.Header
	text   string

	Type, Detail string // of a problem
	Subproblems  []struct {
		Type, Detail string
		Identifier   acmeserver.Identifier
	}
	Algorithms []string

	Status         string
	Contact        []string
	Orders         json.RawMessage
	Identifiers    []acmeserver.Identifier
	Identifier     acmeserver.Identifier
	Authorizations []string
	Finalize       string
	Certificate    string
	Expires        string
	Wildcard       bool
	Error          struct{ Type, Detail string }
	Challenges     []challengeObject
	URL, Token     string
	Window         struct{ Start, End time.Time } `json:"suggestedWindow"`
}

func (r reply) String() string { return fmt.Sprintf("%d %.600s", r.status, r.text) }

// problem is the answer in short: "201", or "400 malformed".
func (r reply) problem() string {
	if !strings.HasPrefix(r.header.Get("Content-Type"), "application/problem+json") {
		return fmt.Sprint(r.status)
	}
	return fmt.Sprint(r.status, " ", strings.TrimPrefix(r.Type, namespace))
}

func (w *world) send(method, url, contentType string, body []byte) reply {
	w.Helper()
	request, err := http.NewRequestWithContext(w.Context(), method, url, bytes.NewReader(body))
	w.must(err)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := w.server.Client().Do(request)
	w.must(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	w.must(err)
	r := reply{status: response.StatusCode, header: response.Header, text: string(text)}
	if strings.Contains(r.header.Get("Content-Type"), "json") {
		var fields map[string]json.RawMessage // status is a number in a problem
		w.must(json.Unmarshal(text, &fields))
		if r.status >= 400 {
			delete(fields, "status")
		}
		rest, err := json.Marshal(fields)
		w.must(err)
		w.must(json.Unmarshal(rest, &r))
	}
	return r
}

func (w *world) nonce() string {
	w.Helper()
	return w.send("HEAD", w.at("new-nonce"), "", nil).header.Get("Replay-Nonce")
}

const joseJSON = "application/jose+json"

// client is an account's, or that of a key that has none yet.
type client struct {
	*world
	key crypto.Signer
	kid string
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// register makes an account with a binding.
func (w *world) register(b acmeserver.Binding) *client {
	w.Helper()
	c := &client{world: w, key: newKey()}
	r := c.newAccount(b, nil)
	if r.status != http.StatusCreated {
		w.Fatalf("register: %s", r)
	}
	c.kid = r.header.Get("Location")
	return c
}

func (c *client) newAccount(b acmeserver.Binding, more map[string]any) reply {
	c.Helper()
	payload := map[string]any{"termsOfServiceAgreed": true, "externalAccountBinding": json.RawMessage(c.binding(b, c.at("new-account")))}
	for name, value := range more {
		payload[name] = value
	}
	return c.post(c.at("new-account"), payload)
}

func (c *client) binding(b acmeserver.Binding, url string) []byte {
	jwk, err := json.Marshal(jose.JSONWebKey{Key: c.key.Public()})
	c.must(err)
	return raw(c.secret().BindingKey(b.ID), map[string]any{"alg": "HS256", "kid": b.ID, "url": url}, jwk)
}

// post sends a payload signed by the account; nil is a POST-as-GET.
func (c *client) post(url string, payload any) reply {
	c.Helper()
	return c.send("POST", url, joseJSON, raw(c.key, c.header(url), encode(payload)))
}

// want is post that fails the test unless it is answered so.
func (c *client) want(problem, url string, payload any) reply {
	c.Helper()
	r := c.post(url, payload)
	if r.problem() != problem {
		c.Fatalf("%s %s: %s, want %s", url, encode(payload), r, problem)
	}
	return r
}

func encode(payload any) []byte {
	if payload == nil {
		return nil
	}
	text, err := json.Marshal(payload)
	if err != nil {
		panic(err)
	}
	return text
}

// header is a protected header as it should be.
func (c *client) header(url string) map[string]any {
	h := map[string]any{"alg": algorithmOf(c.key), "nonce": c.nonce(), "url": url}
	if c.kid != "" {
		h["kid"] = c.kid
	} else {
		h["jwk"] = jose.JSONWebKey{Key: c.key.Public()}
	}
	return h
}

func algorithmOf(key crypto.Signer) string {
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P384() {
			return "ES384"
		}
		return "ES256"
	case *rsa.PublicKey:
		return "RS256"
	default:
		return "EdDSA"
	}
}

// raw makes a JWS of any header at all, signed by what the key signs with.
func raw(key any, header map[string]any, payload []byte) []byte {
	protected := base64.RawURLEncoding.EncodeToString(encode(header))
	body := base64.RawURLEncoding.EncodeToString(payload)
	signature := signedBy(key, []byte(protected+"."+body))
	return encode(map[string]string{"protected": protected, "payload": body, "signature": base64.RawURLEncoding.EncodeToString(signature)})
}

func signedBy(key any, input []byte) []byte {
	digest := sha256.Sum256(input)
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		size, sum := 32, digest[:]
		if k.Curve == elliptic.P384() {
			long := sha512.Sum384(input)
			size, sum = 48, long[:]
		}
		r, s, err := ecdsa.Sign(rand.Reader, k, sum)
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case *rsa.PrivateKey:
		signature, err := rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
		if err != nil {
			panic(err)
		}
		return signature
	case ed25519.PrivateKey:
		return ed25519.Sign(k, input)
	case []byte:
		return hmacOf(k, input)
	}
	return nil
}

func identifiers(names ...string) (list []acmeserver.Identifier) {
	for _, name := range names {
		list = append(list, acmeserver.IdentifierOf(name))
	}
	return list
}

// order opens an order for names.
func (c *client) order(status string, names ...string) reply {
	c.Helper()
	r := c.want("201", c.at("new-order"), map[string]any{"identifiers": identifiers(names...)})
	if r.Status != status {
		c.Fatalf("order for %q: %s, want %s", names, r, status)
	}
	return r
}

// makeCSR is a CSR for names, with a key of its own.
func makeCSR(names ...string) (csr string, key crypto.Signer) {
	made := newKey()
	der, err := pki.NewRequest(made, names, pki.Subject{})
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(der), made
}

// issue has a certificate for names that the account needs no challenge for.
func (c *client) issue(names ...string) (*x509.Certificate, crypto.Signer) {
	c.Helper()
	csr, key := makeCSR(names...)
	o := c.want("200", c.order("ready", names...).Finalize, map[string]string{"csr": csr})
	return c.download(o), key
}

// download verifies the chain and gives its first certificate.
func (c *client) download(o reply) *x509.Certificate {
	c.Helper()
	if o.Status != "valid" {
		c.Fatalf("order: %s", o)
	}
	r := c.want("200", o.Certificate, nil)
	if kind := r.header.Get("Content-Type"); kind != "application/pem-certificate-chain" {
		c.Fatalf("the chain is %s", kind)
	}
	block, rest := pem.Decode([]byte(r.text))
	leaf, err := x509.ParseCertificate(block.Bytes)
	c.must(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(rest) {
		c.Fatalf("no root follows: %s", r)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		c.Fatal(err)
	}
	return leaf
}

func names(c *x509.Certificate) []string {
	all := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// zone is a DNS server with the names that a test gives it.
type zone struct {
	mu      sync.Mutex
	records map[string][]miekg.RR
	address string
}

func serveNames(t *testing.T) *zone {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{records: map[string][]miekg.RR{}, address: packets.LocalAddr().String()}
	server := &miekg.Server{PacketConn: packets, Handler: z}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.ShutdownContext(context.Background()) })
	return z
}

// add takes a record in the form of a zone file, replacing those of the name and type.
func (z *zone) add(t testing.TB, record string) {
	t.Helper()
	rr, err := miekg.NewRR(record)
	if err != nil {
		t.Fatal(err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[rr.Header().Name] = append(z.records[rr.Header().Name], rr)
}

// ServeDNS answers, along a CNAME.
func (z *zone) ServeDNS(w miekg.ResponseWriter, q *miekg.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(miekg.Msg).SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	if _, there := z.records[name]; !there {
		m.Rcode = miekg.RcodeNameError
	}
	for range 5 {
		next := ""
		for _, rr := range z.records[name] {
			if alias, ok := rr.(*miekg.CNAME); ok {
				next = alias.Target
				m.Answer = append(m.Answer, rr)
			} else if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	w.WriteMsg(m)
}

func (z *zone) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", z.address)
	}}
}

// entries counts what a CA has signed for others, and how many of those are not known to have been signed.
func (w *world) entries(id int64) (signed, intended int) {
	w.Helper()
	all, err := w.tables.Store.Entries(w.Context(), id, "", 100)
	w.must(err)
	for _, e := range all {
		switch {
		case e.Profile == ca.OfCA:
		case e.DER() == nil:
			intended++
		default:
			signed++
		}
	}
	return signed, intended
}
