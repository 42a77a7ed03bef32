package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// A grave stands between a function and its services. At one of the calls, before it is passed on or after it was
// answered, the function is cut off from all of them: what a process that is killed there leaves.
type grave struct {
	mu     sync.Mutex
	calls  []string
	strike int // of which call, from 1; 0 for none
	after  bool
	dead   bool
}

// begin forgets the calls so far and is to strike at the nth of those to come.
func (g *grave) begin(nth int, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls, g.strike, g.after = nil, nth, after
}

// seen is the calls since begin, and whether it has struck.
func (g *grave) seen() ([]string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls), g.dead
}

func (g *grave) proxy(t *testing.T, name, target string) string {
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(u)
	forward.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		if g.dead {
			g.mu.Unlock()
			panic(http.ErrAbortHandler)
		}
		_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		if action == "" {
			action = r.Method
		}
		g.calls = append(g.calls, name+" "+action)
		struck, after := len(g.calls) == g.strike, g.after
		g.dead = struck
		g.mu.Unlock()
		if struck && !after {
			panic(http.ErrAbortHandler)
		}
		if struck {
			w = httptest.NewRecorder() // the answer is lost
		}
		r.Host = u.Host
		forward.ServeHTTP(w, r)
		if struck {
			panic(http.ErrAbortHandler)
		}
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	t.Cleanup(server.Close)
	return server.URL
}

// graveyard is the tables and the rest that the stories of a test share; each has a user of its own.
type graveyard struct {
	tables storetest.Tables
	bucket string
	users  atomic.Int64
	opens  sync.Mutex
}

// mourner is one user's function that may die, and one that does not.
type mourner struct {
	*graveyard
	t       *testing.T
	grave   *grave
	user    int64
	base    string
	session access.Caller
	mortal  *functiontest.Function
	healthy *functiontest.Function
	h       *handler // of healthy
	late    atomic.Int64
}

func (m *mourner) now() time.Time { return storetest.Now().Add(time.Duration(m.late.Load())) }

// handler makes a function whose services are at these addresses.
func (m *mourner) handler(dynamodb, services string) *handler {
	m.opens.Lock()
	defer m.opens.Unlock()
	for name, url := range map[string]string{"DYNAMODB": dynamodb, "KMS": services, "S3": services} {
		name = "AWS_ENDPOINT_URL_" + name
		defer os.Setenv(name, os.Getenv(name))
		os.Setenv(name, url)
	}
	s := must(store.Open(m.tables.Credentials, m.tables.Resources))
	_, _ = s.CountOfCA(context.Background(), 999999) // opens what is opened when first used
	_ = s.Complete(context.Background(), ca.Entry{CA: 999999, Serial: "01", Tail: []byte{1}}, nil)
	log := slog.New(slog.DiscardHandler)
	keys, signing, b := must(kmskey.Open(awstest.KeyID(m.t))), must(kmskey.OpenSigning("test")), must(bucket.Open(m.bucket))
	signer := &casigner.Signer{Store: s, Keys: keys, Signing: signing, Bucket: b, Log: log, Now: m.now}
	return &handler{
		store: s, keys: keys, signing: signing, signer: signer, worker: &caorder.Worker{Store: s, Keys: keys, Signer: signer, Log: log, Now: m.now},
		revocation: "http://pki.example.test/pki", directory: "https://api.example.test/pki", log: log, now: m.now,
	}
}

func (y *graveyard) mourner(t *testing.T) *mourner {
	m := &mourner{graveyard: y, t: t, grave: &grave{}, user: y.users.Add(1)}
	m.base = fmt.Sprintf("/apiv1/users/%d/cas", m.user)
	m.session = functiontest.Session(m.user, m.now())
	mortal := m.handler(m.grave.proxy(t, "dynamodb", y.tables.Endpoint), m.grave.proxy(t, "services", awstest.Endpoint(t)))
	m.h = m.handler(y.tables.Endpoint, awstest.Endpoint(t))
	m.mortal, m.healthy = functiontest.New(t, mortal.routes(), ""), functiontest.New(t, m.h.routes(), "")
	m.mortal.Token = m.healthy.Token
	return m
}

func (m *mourner) create(body string) CA {
	m.t.Helper()
	var made CA
	m.healthy.Want(m.t, 201, m.session, "POST", m.base, body).Into(m.t, &made)
	return made
}

// repair is what the schedules do, after a dead worker's lease has lapsed.
func (m *mourner) repair() {
	m.t.Helper()
	m.late.Add(int64(certificate.LeaseFor + time.Second))
	ctx := context.Background()
	cas := must(m.h.store.CAs(ctx, m.user))
	for _, c := range cas {
		m.h.signer.Forget(c.ID)
		if len(c.Chain) == 0 {
			continue
		}
		stands, err := m.h.store.CRLOf(ctx, c.ID)
		if err != nil {
			m.t.Fatal(err)
		}
		if stands.Due.After(m.now()) {
			continue
		}
		if err := m.h.signer.RenewOCSPSigner(ctx, m.user, c.ID); err != nil {
			m.t.Fatal(err)
		}
		if _, err := m.h.signer.Publish(ctx, m.user, c.ID); err != nil {
			m.t.Fatal(err)
		}
	}
	certificates, _, err := m.h.store.Certificates(ctx, m.user, 0, 100)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, c := range certificates {
		if c.Issuing > 0 {
			if _, _, err := m.h.worker.Issue(ctx, c.ID, "issuer"); err != nil && !errors.Is(err, store.ErrConflict) {
				m.t.Fatal(err)
			}
		}
	}
}

// check fails for anything half-stored: of the user's there are as many CAs, certificates, signed and revoked ones as wanted.
func (m *mourner) check(cas, certificates, signed, revoked int) {
	m.t.Helper()
	ctx := context.Background()
	all := must(m.h.store.CAs(ctx, m.user))
	if len(all) != cas {
		m.t.Errorf("%d CAs, want %d", len(all), cas)
	}
	uses := map[int64]int64{}
	gotSigned, gotRevoked := 0, 0
	for _, c := range all {
		if c.Parent != 0 {
			uses[c.Parent]++
		}
		if c.Next != 0 { // which it would not do without
			uses[c.Next]++
		}
		key, err := m.h.signer.Key(ctx, c)
		if err != nil {
			m.t.Errorf("CA %d: its key: %v", c.ID, err)
			continue
		}
		if _, err := c.CSR(key); err != nil {
			m.t.Errorf("CA %d signs nothing: %v", c.ID, err)
		}
		object, err := m.h.signer.Bucket.Get(ctx, casigner.CRLObject(c.ID))
		if err != nil {
			m.t.Errorf("CA %d: its CRL: %v", c.ID, err)
			continue
		}
		crl, err := x509.ParseRevocationList(object.Body)
		if err != nil || crl.CheckSignatureFrom(c.Certificate()) != nil {
			m.t.Errorf("CA %d: its CRL: %v", c.ID, err)
		}
		if _, err := m.h.store.OCSPSigner(ctx, c.ID); err != nil {
			m.t.Errorf("CA %d: its OCSP signer: %v", c.ID, err)
		}
		count := must(m.h.store.CountOfCA(ctx, c.ID))
		entries := must(m.h.store.Entries(ctx, c.ID, "", 100))
		lines := must(m.h.store.Revocations(ctx, c.ID))
		if len(lines) != len(crl.RevokedCertificateEntries) {
			m.t.Errorf("CA %d: %d revoked, %d in the CRL", c.ID, len(lines), len(crl.RevokedCertificateEntries))
		}
		gotRevoked += len(lines)
		completed := int64(0)
		for _, e := range entries {
			if e.Status(m.now()) == "INTENDED" {
				continue
			}
			completed++
			parsed, err := x509.ParseCertificate(e.DER())
			if err != nil || parsed.CheckSignatureFrom(c.Certificate()) != nil && e.Profile != ca.OfCA {
				m.t.Errorf("CA %d: entry %s: %v", c.ID, e.Serial, err)
			}
			if e.Profile == "server" {
				gotSigned++
			}
			if revoked := slices.ContainsFunc(lines, func(r ca.Revocation) bool { return r.Serial == e.Serial }); revoked == e.RevokedAt.IsZero() {
				m.t.Errorf("CA %d: entry %s is revoked in one place only", c.ID, e.Serial)
			}
		}
		if count.Issued < completed {
			m.t.Errorf("CA %d: it has signed %d, and counts %d", c.ID, completed, count.Issued)
		}
	}
	list, total, err := m.h.store.Certificates(ctx, m.user, 0, 100)
	if err != nil || total != certificates || len(list) != certificates {
		m.t.Errorf("%d certificates, counted %d, want %d: %v", len(list), total, certificates, err)
	}
	for _, c := range list {
		uses[c.CA]++
		if c.Status(m.now()) != certificate.Valid && c.Status(m.now()) != certificate.Revoked || c.Issuing != 0 {
			m.t.Errorf("certificate %d is %s", c.ID, c.Status(m.now()))
		}
		found := false
		for _, at := range all {
			e, err := m.h.store.Entry(ctx, at.ID, c.Current.Serial)
			found = found || err == nil && e.Certificate == c.ID && len(e.Tail) > 0
		}
		if !found {
			m.t.Errorf("certificate %d: its serial number is in no ledger", c.ID)
		}
	}
	if gotSigned != signed || gotRevoked != revoked {
		m.t.Errorf("%d signed and %d revoked, want %d and %d", gotSigned, gotRevoked, signed, revoked)
	}
	for _, c := range all {
		if c.Uses != uses[c.ID] {
			m.t.Errorf("CA %d counts %d uses, and has %d", c.ID, c.Uses, uses[c.ID])
		}
	}
}

// A story is what is asked of the function that dies, after what was there before.
type lastRequest struct {
	name     string
	prepare  func(m *mourner) (method, path, body string)
	statuses []int // of the same request when it is repeated
	check    func(m *mourner)
}

var lastRequests = []lastRequest{
	{"a root", func(m *mourner) (string, string, string) { return "POST", m.base, `{"name":"root"}` }, []int{201}, func(m *mourner) { m.check(1, 0, 0, 0) }},
	{"a root in KMS", func(m *mourner) (string, string, string) {
		return "POST", m.base, `{"name":"root","key_custody":"KMS"}`
	}, []int{201}, func(m *mourner) { m.check(1, 0, 0, 0) }},
	{"a CA below another", func(m *mourner) (string, string, string) {
		return "POST", m.base, fmt.Sprintf(`{"name":"below","parent_id":%d}`, m.create(`{"name":"root"}`).ID)
	}, []int{201}, func(m *mourner) { m.check(2, 0, 0, 0) }},
	{"a rotation", func(m *mourner) (string, string, string) {
		return "POST", fmt.Sprintf("%s/%d/rotate", m.base, m.create(`{"name":"root"}`).ID), `{}`
	}, []int{201}, func(m *mourner) {
		m.check(2, 0, 0, 0)
		all := must(m.h.store.CAs(context.Background(), m.user))
		if all[1].Next != all[0].ID || all[0].Former != all[1].ID {
			m.t.Errorf("successor %d, predecessor %d", all[1].Next, all[0].Former)
		}
	}},
	{"a certificate by names", func(m *mourner) (string, string, string) {
		return "POST", fmt.Sprintf("%s/%d/issue", m.base, m.create(`{"name":"root"}`).ID), `{"domain_name":"a.example"}`
	}, []int{200}, func(m *mourner) { m.check(1, 1, 1, 0) }},
	{"a certificate by a request", func(m *mourner) (string, string, string) {
		return "POST", fmt.Sprintf("%s/%d/issue", m.base, m.create(`{"name":"root"}`).ID), `{"csr":` + csr(newKey(), x509.CertificateRequest{DNSNames: []string{"a.example"}}) + `}`
	}, []int{200}, func(m *mourner) { m.check(1, 0, 1, 0) }},
	{"a revocation", func(m *mourner) (string, string, string) {
		root := m.create(`{"name":"root"}`)
		var issued Issued
		m.healthy.Want(m.t, 200, m.session, "POST", fmt.Sprintf("%s/%d/issue", m.base, root.ID), `{"domain_name":"a.example"}`).Into(m.t, &issued)
		m.late.Add(int64(time.Minute))
		return "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", m.base, root.ID, issued.Serial), `{"reason":"superseded"}`
	}, []int{200}, func(m *mourner) { m.check(1, 1, 1, 1) }},
	{"a deletion", func(m *mourner) (string, string, string) {
		root := m.create(`{"name":"root"}`)
		return "DELETE", fmt.Sprintf("%s/%d", m.base, m.create(fmt.Sprintf(`{"name":"below","parent_id":%d,"key_custody":"KMS"}`, root.ID)).ID), ""
	}, []int{204, 404}, func(m *mourner) { m.check(1, 0, 0, 0) }},
}

// TestAKilledFunctionLeavesWhatCanBeRepaired cuts the function off at each of its calls. What the schedules and the
// client's own repetition make of it is the same as if nothing had happened.
func TestAKilledFunctionLeavesWhatCanBeRepaired(t *testing.T) {
	t.Parallel()
	slots := make(chan struct{}, 24)
	y := &graveyard{tables: storetest.New(t), bucket: awstest.BucketName(t)}
	for _, story := range lastRequests {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			const once = "Idempotency-Key: once"
			whole := y.mourner(t)
			method, path, body := story.prepare(whole)
			whole.grave.begin(0, false)
			whole.mortal.Want(t, story.statuses[0], whole.session, method, path, body, once)
			steps, _ := whole.grave.seen()
			whole.repair()
			story.check(whole)
			for i, step := range steps {
				for _, after := range []bool{false, true} {
					if testing.Short() && (i%2 == 0) == after {
						continue
					}
					t.Run(fmt.Sprintf("%d %s %v", i+1, step, after), func(t *testing.T) {
						t.Parallel()
						slots <- struct{}{}
						defer func() { <-slots }()
						m := y.mourner(t)
						method, path, body := story.prepare(m)
						m.grave.begin(i+1, after)
						m.mortal.Call(t, m.session, method, path, body, once)
						if calls, dead := m.grave.seen(); !dead {
							t.Fatalf("only %d calls: %v", len(calls), calls)
						}
						m.repair()
						if again := m.healthy.Call(t, m.session, method, path, body, once); !slices.Contains(story.statuses, again.Status) {
							t.Errorf("repeated: %d %s", again.Status, again.Body)
						}
						m.repair()
						story.check(m)
					})
				}
			}
		})
	}
}
