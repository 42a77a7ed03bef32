package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	miekg "github.com/miekg/dns"

	"cjj365.cc/bb/local/dns"
	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/pebble"
	"cjj365.cc/bb/local/template"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// The built functions, and the parts of the world that all tests share. Each is started when it is first asked for.
var (
	build string // folder with <logical id> of each function, a program

	services = sync.OnceValues(startMiniStack)
	names    = sync.OnceValues(func() (*dns.Servers, error) { return startDNS() })
	quietCA  = sync.OnceValues(func() (*pebble.Server, error) { return startPebble(pebble.Options{}) })
	tables   sync.Once
	shared   storetest.Tables
	stoppers []func()
	stopping sync.Mutex
	scratch  string
)

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "bbi"); err != nil { // short: Knot's socket lies in it
		log.Print(err)
		return 1
	}
	defer os.RemoveAll(scratch)
	build = filepath.Join(scratch, "build")
	for _, function := range []string{"issuer", "renewals"} {
		command := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", filepath.Join(build, function), "cjj365.cc/bb/functions/"+function)
		if output, err := command.CombinedOutput(); err != nil {
			log.Printf("build %s: %v\n%s", function, err, output)
			return 1
		}
	}
	defer func() {
		for _, stop := range stoppers {
			stop()
		}
	}()
	return m.Run()
}

func atEnd(stop func()) {
	stopping.Lock()
	defer stopping.Unlock()
	stoppers = append(stoppers, stop)
}

// must is for what no test can do without.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// stack is the AWS of the tests beside the tables.
type stack struct {
	url, key, queue string
	keys            *kmskey.Key
}

func startMiniStack() (*stack, error) {
	s, err := ministack.Start(context.Background(), ministack.Options{})
	if err != nil {
		return nil, err
	}
	atEnd(s.Stop)
	ids, err := s.CreateKeys(context.Background(), []template.Key{{LogicalID: "SecretKey", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT"}})
	if err != nil {
		return nil, err
	}
	queue := template.Queue{
		LogicalID: "orders", Name: "orders", ARN: "arn:aws:sqs:us-east-1:123456789012:orders", URL: "https://sqs.us-east-1.amazonaws.com/123456789012/orders",
		VisibilityTimeout: time.Minute, Retention: 96 * time.Hour,
	}
	if err := s.CreateQueues(context.Background(), []template.Queue{queue}); err != nil {
		return nil, err
	}
	os.Setenv("AWS_ENDPOINT_URL_KMS", s.URL)
	keys, err := kmskey.Open(ids["SecretKey"])
	return &stack{s.URL, ids["SecretKey"], queue.URL, keys}, err
}

func startDNS() (*dns.Servers, error) {
	s, err := dns.Start(context.Background(), dns.Options{Dir: filepath.Join(scratch, "dns"), Knot: dns.FindKnot(), User: httpUser, Password: httpPassword})
	if err == nil {
		atEnd(s.Stop)
	}
	return s, err
}

// Who may set records at httpreq.
const httpUser, httpPassword = "bb", "the password of httpreq"

var pebbles, users, domains atomic.Int64

func startPebble(o pebble.Options) (*pebble.Server, error) {
	d, err := names()
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(scratch, fmt.Sprintf("pebble%d", pebbles.Add(1)))
	}
	o.Resolver = d.Resolver
	s, err := pebble.Start(context.Background(), o)
	if err == nil {
		atEnd(s.Stop)
	}
	return s, err
}

// A call is one request that a function makes of another part.
type call struct {
	name string // the part and what is asked of it
	nth  int    // of the calls of that name; 1 is the first
}

func (c call) String() string { return fmt.Sprintf("%s (%d)", c.name, c.nth) }

// moment is when the function is killed.
type moment int

const (
	before moment = iota // the request is not passed on
	after                // it was answered, and the answer is withheld
)

func (m moment) String() string { return [...]string{"before", "after"}[m] }

// A rig is functions with a proxy before each part that they call.
type rig struct {
	t      testing.TB
	user   int64 // whose all is that is made by it
	last   int64 // certificate that was created
	tables storetest.Tables
	aws    *stack
	dns    *dns.Servers
	db     *dynamodb.Client
	log    *lockedBuffer

	host        *lambda.Host
	functions   []template.Function
	environment map[string]string
	processes   int
	folder      string

	directory string // URL, through the proxy
	httpreq   string // URL, through the proxy

	mu       sync.Mutex
	ca       *pebble.Server
	calls    []call
	counts   map[string]int
	strike   func(call) (moment, bool) // where to kill; nil for nowhere
	struck   bool
	victim   int            // the process that is to die: a call beside the one that struck must not kill its successor
	answers  map[string]int // answered with success, by the call's name
	bodies   map[string][][]byte
	fault    func(name string, r *http.Request) (status int) // in place of an answer; 0 for none
	refuse   func(name string) *acme.Problem                 // the CA's refusal in place of an answer; nil for none
	hold     func(name string)                               // before a request is passed on
	returned func(name string, r *http.Response)
}

type options struct {
	ca       *pebble.Server
	tables   *storetest.Tables
	patient  bool // keeps the CA's Retry-After
	parallel int
}

// newRig makes a rig. Its clients are new, so that the order of calls is the same each time.
func newRig(t testing.TB, o options) *rig {
	t.Helper()
	r := &rig{t: t, user: users.Add(1), counts: map[string]int{}, answers: map[string]int{}, bodies: map[string][][]byte{}, log: &lockedBuffer{}}
	if o.tables == nil {
		tables.Do(func() { shared = storetest.New(t) })
		o.tables = &shared
	}
	r.tables = *o.tables
	if r.tables.Store == nil {
		t.Fatal("DynamoDB Local did not start")
	}
	r.aws, r.dns = must(services()), must(names())
	if o.ca == nil {
		o.ca = must(quietCA())
	}
	r.db = dynamodb.New(dynamodb.Options{
		BaseEndpoint: &r.tables.Endpoint, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	db := r.proxy("dynamodb", r.tables.Endpoint, nil, nil)
	kms := r.proxy("kms", r.aws.url, nil, nil)
	sqs := r.proxy("sqs", r.aws.url, nil, nil)
	r.httpreq = r.proxy("httpreq", r.dns.HTTPReq, nil, nil)
	r.setCA(o.ca)
	r.directory = r.proxy("acme", o.ca.Directory, theCA{r}, func(response *http.Response) {
		if !o.patient { // Pebble asks for a second each time
			response.Header.Del("Retry-After")
		}
	}) + "/dir"
	r.folder, r.processes = t.TempDir(), max(1, o.parallel)
	functions := []template.Function{}
	for id, timeout := range map[string]time.Duration{"Issuer": 300 * time.Second, "Renewals": 55 * time.Second} {
		dir := filepath.Join(r.folder, id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("#!/bin/sh\necho $$ > pid\nexec %s\n", filepath.Join(build, strings.ToLower(id)))
		if err := os.WriteFile(filepath.Join(dir, "bootstrap"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		functions = append(functions, template.Function{LogicalID: id, Name: "test-" + id, ARN: "arn:aws:lambda:us-east-1:123456789012:function:test-" + id, Memory: 512, Timeout: timeout})
	}
	r.environment = map[string]string{
		"CREDENTIAL_TABLE": r.tables.Credentials, "RESOURCE_TABLE": r.tables.Resources, "SECRET_KEY": r.aws.key, "ORDER_QUEUE": r.aws.queue, "SIGNING_KEYS": "test",
		"ALLOW_PRIVATE_ADDRESSES": "loopback", "DNS_RESOLVERS": r.dns.Resolver,
		"AWS_ENDPOINT_URL_DYNAMODB": db, "AWS_ENDPOINT_URL_KMS": kms, "AWS_ENDPOINT_URL_SQS": sqs, "ACME_DIRECTORIES": "test=" + r.directory, "ACME_ROOTS": trust(),
	}
	r.functions = functions
	r.start()
	t.Cleanup(func() {
		r.host.Stop()
		if t.Failed() {
			t.Logf("the functions say:\n%s", r.log)
		}
		r.checkSecrets()
	})
	return r
}

// start has the functions begin with new processes.
func (r *rig) start() {
	if r.host != nil {
		r.host.Stop()
	}
	r.host = must(lambda.NewHost(r.functions, lambda.Options{Build: r.folder, Log: r.log, MaxProcesses: r.processes, Env: r.environment}))
}

// setCA puts a CA behind the proxy.
func (r *rig) setCA(ca *pebble.Server) { r.set(func() { r.ca = ca }) }

// theCA sends to the CA that is behind the proxy now.
type theCA struct{ *rig }

func (c theCA) RoundTrip(request *http.Request) (*http.Response, error) {
	c.mu.Lock()
	ca := c.ca
	c.mu.Unlock()
	request.URL.Host = must(url.Parse(ca.Directory)).Host
	return ca.Client().Transport.RoundTrip(request)
}

// trust is the root of httptest's servers.
func trust() string {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// checkSecrets: nothing secret in the functions' output, whatever happened.
func (r *rig) checkSecrets() {
	for _, secret := range []string{"PRIVATE KEY", httpPassword, "key_auth"} {
		if strings.Contains(r.log.String(), secret) {
			r.t.Errorf("the functions' output holds %q", secret)
		}
	}
}

// proxy is a server that notes each call and passes it on. It speaks TLS where a transport is given.
func (r *rig) proxy(part, to string, transport http.RoundTripper, change func(*http.Response)) string {
	target := must(url.Parse(to))
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = target.Scheme, target.Host
			p.Out.Host = p.In.Host // Pebble makes its URLs of it
		},
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
		ModifyResponse: func(response *http.Response) error {
			if change != nil {
				change(response)
			}
			name := callName(part, response.Request, nil)
			r.mu.Lock()
			if response.StatusCode < 300 {
				r.answers[name]++
			}
			returned := r.returned
			r.mu.Unlock()
			if returned != nil {
				returned(name, response)
			}
			return nil
		},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) { r.pass(part, proxy, w, request) })
	var server *httptest.Server
	if transport != nil {
		server = httptest.NewUnstartedServer(handler)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
	} else {
		server = httptest.NewServer(handler)
	}
	r.t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

func (r *rig) pass(part string, proxy http.Handler, w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the function was killed while it sent
	}
	// What arrived is done, also if who asked for it dies meanwhile: with a context that cannot be cancelled at all,
	// ReverseProxy would look itself whether the client is there.
	ctx, done := context.WithCancel(context.WithoutCancel(request.Context()))
	defer done()
	request = request.WithContext(ctx)
	request.Body = io.NopCloser(bytes.NewReader(body))
	name := callName(part, request, body)
	r.mu.Lock()
	r.counts[name]++
	c := call{name, r.counts[name]}
	r.calls = append(r.calls, c)
	r.bodies[name] = append(r.bodies[name], body)
	fault, hold, refuse := r.fault, r.hold, r.refuse
	m, kill := moment(0), false
	if r.strike != nil && !r.struck {
		m, kill = r.strike(c)
		if r.struck = kill; kill {
			r.victim = r.pid()
		}
	}
	dead := r.struck && !kill // a call beside the one at which it was killed
	r.mu.Unlock()
	if kill && m == before || dead {
		r.kill()
		panic(http.ErrAbortHandler)
	}
	if hold != nil {
		hold(name)
	}
	if fault != nil {
		if status := fault(name, request); status != 0 {
			http.Error(w, "down", status)
			return
		}
	}
	if refuse != nil {
		if p := refuse(name); p != nil {
			w.Header().Set("Content-Type", "application/problem+json")
			if p.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(p.RetryAfter.Seconds())))
			}
			w.WriteHeader(p.Status)
			_ = json.NewEncoder(w).Encode(p)
			return
		}
	}
	if !kill {
		proxy.ServeHTTP(w, request)
		return
	}
	proxy.ServeHTTP(httptest.NewRecorder(), request)
	r.kill()
	panic(http.ErrAbortHandler)
}

// pid is the issuer's process; 0 if there is none.
func (r *rig) pid() int {
	text, err := os.ReadFile(filepath.Join(r.folder, "Issuer", "pid"))
	if err != nil {
		r.t.Errorf("the issuer's process: %v", err)
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		r.t.Errorf("the issuer's process: %q", text)
		return 0
	}
	return pid
}

// kill is kill -9 of the issuer that was struck.
func (r *rig) kill() {
	r.mu.Lock()
	pid := r.victim
	r.mu.Unlock()
	if pid == 0 {
		return
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		r.t.Errorf("kill %d: %v", pid, err)
	}
}

var (
	sortKey = regexp.MustCompile(`"sk":\{"S":"([A-Z]+)`)
	tail    = regexp.MustCompile(`/[^/]*$`)
)

// callName says what a call asks for, without what differs from one order to the next.
func callName(part string, request *http.Request, body []byte) string {
	switch part {
	case "dynamodb":
		_, operation, _ := strings.Cut(request.Header.Get("X-Amz-Target"), ".")
		if body == nil {
			return part + " " + operation
		}
		seen, items := map[string]bool{}, []string{}
		for _, found := range sortKey.FindAllSubmatch(body, -1) {
			if item := string(found[1]); !seen[item] {
				seen[item] = true
				items = append(items, item)
			}
		}
		return part + " " + operation + " " + strings.Join(items, "+")
	case "kms", "sqs":
		_, operation, _ := strings.Cut(request.Header.Get("X-Amz-Target"), ".")
		return part + " " + operation
	}
	path := request.URL.Path
	if strings.Count(path, "/") > 1 {
		path = tail.ReplaceAllString(path, "")
	}
	return part + " " + request.Method + " " + path
}

// Names of calls that tests ask for.
const (
	newOrder = "acme POST /order-plz"
	finalize = "acme POST /finalize-order"
	accept   = "acme POST /chalZ"
	register = "acme POST /sign-me-up"
	present  = "httpreq POST /present"
	cleanup  = "httpreq POST /cleanup"
)

func (r *rig) answered(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers[name]
}

func (r *rig) asked(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[name]
}

// set changes what the proxies do.
func (r *rig) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// account stores an account at the CA, not yet registered, as functions/acmeaccounts does.
func (r *rig) account(bindingKey string, mac []byte) int64 {
	ctx, now := context.Background(), storetest.Now()
	a := acmeaccount.Account{
		User: r.user, ID: must(r.tables.Store.NextACMEAccountID(ctx)), Name: "test", Email: "ann@example.com", Provider: "pebble", Directory: r.directory,
		CreatedAt: now, UpdatedAt: now,
	}
	a.Key = must(r.aws.keys.Seal(ctx, kmskey.ACMEAccount(a.User, a.ID), must(x509.MarshalPKCS8PrivateKey(must(acme.NewKey())))))
	if bindingKey != "" {
		a.EABKey = bindingKey
		a.EABMAC = must(r.aws.keys.Seal(ctx, kmskey.ACMEAccount(a.User, a.ID), mac))
	}
	if err := r.tables.Store.CreateACMEAccount(ctx, a, nil); err != nil {
		r.t.Fatal(err)
	}
	return a.ID
}

// provider stores a DNS provider, as functions/dnsproviders does.
func (r *rig) provider(kind string, settings map[string]any) int64 {
	ctx, now := context.Background(), storetest.Now()
	config := must(dnsprovider.Parse(kind, must(json.Marshal(settings)), egress.Guard{AllowPrivate: true, AllowLoopback: true}))
	p := dnsprovider.Provider{User: r.user, ID: must(r.tables.Store.NextDNSProviderID(ctx)), Name: "test", Config: config, CreatedAt: now, UpdatedAt: now}
	p.Secrets = must(r.aws.keys.Seal(ctx, kmskey.DNSProvider(p.User, p.ID), config.Secrets()))
	if err := r.tables.Store.CreateDNSProvider(ctx, p, nil); err != nil {
		r.t.Fatal(err)
	}
	return p.ID
}

// bridge is the provider that most tests use.
func (r *rig) bridge() int64 {
	return r.provider("httpreq", map[string]any{"endpoint": r.httpreq, "username": httpUser, "password": httpPassword})
}

// domain is a name that no other test uses, in no zone of Knot's.
func domain() string { return fmt.Sprintf("n%d.bridge.test", domains.Add(1)) }

// create stores a certificate with an open issue, as functions/certificates does. It has an account and a
// provider of its own where none are given.
func (r *rig) create(c certificate.Certificate) certificate.Certificate { return r.createBy(c, nil) }

// createBy is create by a request whose key the caller keeps.
func (r *rig) createBy(c certificate.Certificate, csr []byte) certificate.Certificate {
	r.t.Helper()
	ctx, now := context.Background(), storetest.Now()
	c.User, c.ID, c.AutoRenew, c.Policy, c.Export = r.user, must(r.tables.Store.NextCertificateID(ctx)), true, certificate.Hybrid, true
	c.CreatedAt, c.UpdatedAt, c.Revision = now, now, 1
	if c.Account == 0 {
		c.Account = r.account("", nil)
	}
	if c.DNSProvider == 0 {
		c.DNSProvider = r.bridge()
	}
	if len(c.Names) == 0 {
		c.Names = []string{domain()}
	}
	if c.KeyType == "" && !c.CallersKey {
		c.KeyType = string(pki.ECDSAP256)
	}
	r.last = c.ID
	open := certificate.NewOrder(must(r.tables.Store.NextIssueID(ctx)), "", now)
	return must(r.tables.Store.CreateCertificate(ctx, c, csr, &open, nil))
}

// renew opens an issue of a certificate that has one in place, as functions/renewals does.
func (r *rig) renew(c certificate.Certificate) certificate.Certificate {
	ctx := context.Background()
	c = r.read(c)
	open := certificate.NewOrder(must(r.tables.Store.NextIssueID(ctx)), c.Current.ARI, storetest.Now())
	return must(r.tables.Store.UpdateCertificate(ctx, c, c, &open, nil))
}

func (r *rig) read(c certificate.Certificate) certificate.Certificate {
	return must(r.tables.Store.Certificate(context.Background(), c.User, c.ID))
}

// deliver has the queue's message of a certificate received once.
func (r *rig) deliver(c certificate.Certificate) error {
	return r.message(fmt.Sprintf(`{"user":%d,"certificate":%d}`, c.User, c.ID))
}

func (r *rig) message(body string) error {
	batch := must(json.Marshal(map[string]any{"Records": []map[string]string{{"messageId": "m1", "body": body, "eventSource": "aws:sqs"}}}))
	_, err := r.host.Invoke(context.Background(), "Issuer", batch)
	return err
}

// elapse has the time pass that an open issue's lease and waiting take.
func (r *rig) elapse(c certificate.Certificate) {
	r.change(fmt.Sprintf("CERTIFICATE#%d", c.ID), "ORDER", "SET lease_ends = :n, next_at = :n, due_at = :n", 0)
}

// change changes an item, if it is there.
func (r *rig) change(pk, sk, expression string, n int64) {
	var names map[string]string
	if strings.Contains(expression, "#c") { // a reserved word
		names = map[string]string{"#c": "current"}
	}
	_, err := r.db.UpdateItem(context.Background(), &dynamodb.UpdateItemInput{
		ExpressionAttributeNames: names,
		TableName:                &r.tables.Resources, Key: map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: pk}, "sk": &types.AttributeValueMemberS{Value: sk}},
		UpdateExpression: &expression, ConditionExpression: aws.String("attribute_exists(pk)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":n": &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}},
	})
	if gone := (*types.ConditionalCheckFailedException)(nil); err != nil && !errors.As(err, &gone) {
		r.t.Error(err)
	}
}

// finish delivers until the issue is closed, letting time pass in between.
func (r *rig) finish(c certificate.Certificate) {
	r.t.Helper()
	for range 20 {
		r.elapse(c)
		err := r.deliver(c)
		if _, gone := r.tables.Store.Order(context.Background(), c.ID); errors.Is(gone, store.ErrNotFound) {
			return
		}
		if err != nil {
			r.t.Logf("delivery: %v", err)
		}
	}
	o, _ := r.tables.Store.Order(context.Background(), c.ID)
	r.t.Errorf("certificate %d: the issue does not come to its end; it stands at %s: %+v", c.ID, o.Step, o.Last)
}

// inPlace reads the chain and key in place as an export does, and checks that they belong together.
func (r *rig) inPlace(c certificate.Certificate) (pki.Chain, error) {
	ctx := context.Background()
	for {
		c = r.read(c)
		m, err := r.tables.Store.Material(ctx, c.ID, c.Current.Issue)
		if errors.Is(err, store.ErrNotFound) && r.read(c).Current.Issue != c.Current.Issue {
			continue // renewed between the two
		}
		if err != nil {
			return nil, fmt.Errorf("material of issue %d: %w", c.Current.Issue, err)
		}
		chain, err := pki.ParseChain(m.Chain)
		if err != nil {
			return nil, err
		}
		if chain.Facts().Serial != c.Current.Serial {
			return nil, fmt.Errorf("the chain's serial is %s, the certificate's %s", chain.Facts().Serial, c.Current.Serial)
		}
		if c.CallersKey {
			request := must(pki.Public.ParseRequestDER(must(r.tables.Store.Request(ctx, c.ID))))
			return chain, chain.Check(request.Public, c.Names, time.Now())
		}
		der, err := r.aws.keys.Open(ctx, kmskey.Certificate(c.User, c.ID), m.Key)
		if err != nil {
			return nil, err
		}
		key, err := pki.ParseKey(der)
		if err != nil {
			return nil, err
		}
		return chain, chain.Check(key.Public(), c.Names, time.Now())
	}
}

// checkIssued: one certificate, whole, and nothing left over.
func (r *rig) checkIssued(c certificate.Certificate, successes int) {
	r.t.Helper()
	ctx := context.Background()
	c = r.read(c)
	if got := c.Status(time.Now()); got != certificate.Valid || c.Issuing != 0 {
		r.t.Errorf("status %s, issuing %d, %+v", got, c.Issuing, c.Failure)
		return
	}
	got := 0
	for _, issue := range must(r.tables.Store.Issues(ctx, c.ID)) {
		if issue.State == certificate.Succeeded {
			got++
		}
	}
	if got != successes || int(c.Issues) != successes {
		r.t.Errorf("%d issues succeeded of %d, want %d", got, c.Issues, successes)
	}
	if _, err := r.inPlace(c); err != nil {
		r.t.Error(err)
	}
	if _, err := r.tables.Store.Order(ctx, c.ID); !errors.Is(err, store.ErrNotFound) {
		r.t.Errorf("the open issue is left: %v", err)
	}
	r.checkNoRecords(c)
}

func (r *rig) checkNoRecords(c certificate.Certificate) {
	r.t.Helper()
	for _, name := range c.Names {
		if left := r.records(name); len(left) > 0 {
			r.t.Errorf("TXT records of %s are left: %v", name, left)
		}
	}
}

// records are the TXT records of a name's challenge.
func (r *rig) records(name string) []string {
	question := new(miekg.Msg).SetQuestion(miekg.Fqdn("_acme-challenge."+strings.TrimPrefix(name, "*.")), miekg.TypeTXT)
	client := &miekg.Client{Net: "tcp", Timeout: 5 * time.Second}
	answer, _, err := client.Exchange(question, r.dns.Resolver)
	if err != nil {
		r.t.Error(err)
		return nil
	}
	var values []string
	for _, record := range answer.Answer {
		if txt, ok := record.(*miekg.TXT); ok {
			values = append(values, strings.Join(txt.Txt, ""))
		}
	}
	return values
}

// clear takes a name's records away behind everybody's back.
func (r *rig) clear(name string) {
	body := must(json.Marshal(map[string]string{"host": "_acme-challenge." + name + "."}))
	response, err := http.Post(r.dns.Management+"/clear-txt", "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return
	}
	response.Body.Close()
}

// readBody reads an answer on its way, and leaves it to be read again.
func readBody(response *http.Response) string {
	body := must(io.ReadAll(response.Body))
	response.Body = io.NopCloser(bytes.NewReader(body))
	return string(body)
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}
