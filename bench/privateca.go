package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cjj365.cc/bb/bench/tlsserver"
	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
)

// turnOf is how many certificates a turn issues, clientsOfCA how many ask at a time.
const turnOf = 400

var clientsOfCA = []int{1, 4}

// validFor is the lifetime asked for; it is step-ca's own, too.
const validFor = 24 * time.Hour

// A shape is one way to a certificate.
type shape struct {
	name    string
	client  *http.Client
	url     string
	token   string                              // sent as bearer token, if any
	body    func(name, csr string) (any, error) // of a request
	process int                                 // what it runs in is this process and all below it
	issuing string                              // the program of them that issues
	beside  map[string]map[int][]time.Duration  // processor time of a certificate, by program and clients
	turns   map[int]*turns                      // by clients
}

// turns is what was measured with so many clients.
type turns struct {
	rates []float64       // certificates a second, by turn
	cpu   []time.Duration // of a certificate in the issuing process, by turn
	times []time.Duration // of each request
}

func (t *turns) rate() float64 {
	slices.Sort(t.rates)
	return t.rates[len(t.rates)/2]
}

// perSecond is how many certificates a second of processor time issues.
func (t *turns) perSecond() float64 { return 1 / mean(t.cpu).Seconds() }

// privateCA has certificates issued by a private CA, its key and theirs P-256: in memory, by the least that stores
// them, by the function behind API Gateway's stand-in, by the function's routes behind TLS, and by step-ca.
func privateCA(ctx context.Context, b *bench) error {
	if _, err := usageOf(os.Getpid()); err != nil {
		b.table.note("not measured: no processor times of other processes (%v)", err)
		return nil
	}
	w, err := newCAWorld(ctx, b)
	if err != nil {
		return err
	}
	defer w.stop()
	shapes := append(slices.Clone(w.floors), w.direct, w.stack)
	var peer, inMemory *shape
	program, err := buildStepCA(ctx, b)
	if err != nil {
		b.table.note("without step-ca, which could not be built: %v", err)
	} else {
		if peer, err = w.startStep(ctx, program, "step-ca", b.work); err != nil {
			return err
		}
		shapes = append(shapes, peer)
		if folder, err := os.MkdirTemp("/dev/shm", "bb-bench"); err == nil {
			w.onStop(func() { os.RemoveAll(folder) })
			if inMemory, err = w.startStep(ctx, program, "step-ca, in /dev/shm", folder); err != nil {
				return err
			}
			shapes = append(shapes, inMemory)
		}
	}
	for _, s := range shapes {
		for range 2 { // starts processes, and warms DynamoDB Local
			if err := s.turn(ctx, slices.Max(clientsOfCA), turnOf/2, false); err != nil {
				return err
			}
		}
	}
	rounds := b.rounds(12)
	var memory []time.Duration
	for round := range rounds {
		least, err := w.inMemory(ctx)
		if err != nil {
			return err
		}
		memory = append(memory, least)
		for _, clients := range clientsOfCA {
			for i := range shapes { // none always comes first
				if err := shapes[(i+round)%len(shapes)].turn(ctx, clients, turnOf, true); err != nil {
					return err
				}
			}
		}
	}
	reportCA(b, w, shapes, peer, inMemory, median(memory), rounds)
	if b.profiles != "" {
		return w.profile(ctx, b)
	}
	return nil
}

func reportCA(b *bench, w *caWorld, shapes []*shape, peer, inMemory *shape, memory time.Duration, rounds int) {
	rows := [][]string{{"what", "clients", "certs/s", "CPU/cert", "certs per CPU s", "p50", "p99"},
		{"floor in memory", "-", "-", micro(memory), fmt.Sprintf("%.0f", 1/memory.Seconds()), "-", "-"}}
	for _, s := range shapes {
		for _, clients := range clientsOfCA {
			t := s.turns[clients]
			rows = append(rows, []string{s.name, fmt.Sprint(clients), fmt.Sprintf("%.0f", t.rate()), micro(mean(t.cpu)), fmt.Sprintf("%.0f", t.perSecond()),
				fine(median(t.times)), fine(percentile(t.times, 0.99))})
		}
	}
	b.table.rows(rows)
	const many = 4
	judged := append([]*shape{w.stack, w.direct}, w.floors...) // floors are not
	var lines []line
	add := func(s *shape, what, measured, against string, ratio float64, goal string, met bool) {
		if slices.Contains(w.floors, s) {
			goal = ""
		}
		lines = append(lines, line{s.name + ": " + what, measured, against, times(ratio), goal, met})
	}
	for _, s := range judged {
		cpu := mean(s.turns[many].cpu)
		ratio := quotient(cpu, memory)
		add(s, "CPU/cert", micro(cpu), micro(memory)+" in memory", ratio, "<= 1.50x", ratio <= 1.5)
	}
	if peer != nil {
		for _, s := range judged {
			ours, theirs := s.turns[many].perSecond(), peer.turns[many].perSecond()
			add(s, "certs per CPU s", fmt.Sprintf("%.0f", ours), fmt.Sprintf("%.0f step-ca", theirs), ours/theirs, ">= 2.50x", ours >= 2.5*theirs)
		}
		whole := mean(w.stack.turns[many].cpu) + mean(w.stack.beside["Authorizer"][many])
		theirs := mean(peer.turns[many].cpu)
		lines = append(lines, line{w.stack.name + " and its authorizer: certs per CPU s", fmt.Sprintf("%.0f", 1/whole.Seconds()), fmt.Sprintf("%.0f step-ca", 1/theirs.Seconds()), times(quotient(theirs, whole)), "", false})
		for _, s := range judged {
			for _, clients := range clientsOfCA {
				if s == w.floors[0] || clients == many && slices.Contains(w.floors, s) {
					continue
				}
				ours, theirs := median(s.turns[clients].times), median(peer.turns[clients].times)
				add(s, fmt.Sprintf("p50, clients: %d", clients), fine(ours), fine(theirs)+" step-ca", quotient(ours, theirs), "<= 0.50x", 2*ours <= theirs)
			}
		}
	}
	if inMemory != nil {
		ours, theirs := median(w.direct.turns[1].times), median(inMemory.turns[1].times)
		lines = append(lines, line{w.direct.name + ": p50, clients: 1", fine(ours), fine(theirs) + " " + inMemory.name, times(quotient(ours, theirs)), "", false})
	}
	b.table.add(lines...)
	beside := func(s *shape) string {
		var list []string
		for _, program := range slices.Sorted(maps.Keys(s.beside)) {
			if cpu := mean(s.beside[program][many]); cpu >= 10*time.Microsecond {
				list = append(list, program+" "+micro(cpu))
			}
		}
		return strings.Join(list, ", ")
	}
	b.table.note("%d turns of %d certificates each, in turn: median rate, p50 and p99 of all requests, mean processor time of the issuing process (goals: %d clients).", rounds, turnOf, many)
	b.table.note("in memory: a CSR parsed and checked, x509.CreateCertificate. Floors: that by net/http and TLS 1.3, a token's digest checked, one item stored.")
	b.table.note("handler: the routes of functions/cas served in the same way by one process. function: as Lambda runs it, by HTTP to API Gateway's stand-in")
	b.table.note("and the authorizer. All processes of that, per certificate: %s;", beside(w.stack))
	b.table.note("local is API Gateway, the Runtime API and the check of roles before DynamoDB Local (java). All share the processors with the clients.")
	if peer != nil {
		b.table.note("step-ca %s: badgerv2, which syncs each write to disk (in /dev/shm to memory), a JWK provisioner, one-time tokens made before each turn.", stepVersion)
	}
}

// mean evens out that Linux tells processor time in ticks.
func mean(durations []time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range durations {
		sum += d
	}
	return sum / time.Duration(max(1, len(durations)))
}

func micro(d time.Duration) string { return fmt.Sprintf("%.0f us", d.Seconds()*1e6) }

func fine(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }

// A caWorld is all that issues.
type caWorld struct {
	floors        []*shape // by HTTPS; with a store, by package dynamo and by the SDK
	stack, direct *shape
	root          []byte // PEM: of the servers of this program
	token         string
	memoryURL     string
	server        []string // their environment
	stops         []func()
}

func (w *caWorld) onStop(stop func()) { w.stops = append(w.stops, stop) }

func (w *caWorld) stop() {
	for _, stop := range slices.Backward(w.stops) {
		stop()
	}
}

func newCAWorld(ctx context.Context, b *bench) (*caWorld, error) {
	w := &caWorld{token: rand.Text()}
	for _, step := range []func(context.Context, *bench) error{w.startServers, w.startStack} {
		if err := step(ctx, b); err != nil {
			w.stop()
			return nil, err
		}
	}
	return w, nil
}

// startServers starts the floor and the function's routes behind TLS, with a DynamoDB Local and a MiniStack of theirs.
func (w *caWorld) startServers(ctx context.Context, b *bench) error {
	db, err := startDatabase(ctx, b)
	if err != nil {
		return err
	}
	w.onStop(db.Stop)
	services, err := ministack.Start(ctx, ministack.Options{})
	if err != nil {
		return err
	}
	w.onStop(services.Stop)
	ids, err := services.CreateKeys(ctx, db.template.Keys)
	if err != nil {
		return err
	}
	if err := services.CreateBuckets(ctx, db.template.Buckets); err != nil {
		return err
	}
	certificate, key, root, err := serverCertificate(b.work)
	if err != nil {
		return err
	}
	known, err := template.Read(filepath.Join(b.root, "template.yaml"), template.Options{
		Stack: "bench", Parameters: map[string]string{"MailFrom": "bb@example.test", "PublicURL": "https://api.example.test"}, KeyIDs: ids,
	})
	if err != nil {
		return err
	}
	cas, found := known.Function("Cas")
	if !found {
		return errors.New("template.yaml has no function Cas")
	}
	digest := sha256.Sum256([]byte(w.token))
	variables := maps.Clone(cas.Environment)
	maps.Copy(variables, awsEnvironment)
	maps.Copy(variables, map[string]string{
		tlsserver.Certificate: certificate, tlsserver.Key: key, tlsserver.Digest: hex.EncodeToString(digest[:]),
		"AWS_ENDPOINT_URL_DYNAMODB": db.URL, "AWS_ENDPOINT_URL_KMS": services.URL, "AWS_ENDPOINT_URL_S3": services.URL,
	})
	w.root = root
	for name, value := range variables {
		w.server = append(w.server, name+"="+value)
	}
	floor, err := buildProgram(ctx, b, "Floor")
	if err != nil {
		return err
	}
	least, err := w.startServer(ctx, b, "floor by HTTPS", floor)
	if err != nil {
		return err
	}
	w.memoryURL = least.url + "/memory"
	for _, at := range []struct{ name, path string }{
		{least.name, "/issue"}, {"floor with a store, package dynamo", "/issue/dynamo"}, {"floor with a store, SDK", "/issue/sdk"},
	} {
		w.floors = append(w.floors, newShape(at.name, least.client, least.url+at.path, w.token, least.process, least.issuing))
	}
	direct, err := buildServed(ctx, b, "")
	if err != nil {
		return err
	}
	if w.direct, err = w.startServer(ctx, b, "handler by HTTPS", direct); err != nil {
		return err
	}
	id, err := makeCA(ctx, func(ctx context.Context, path string, body any) (int, []byte, error) {
		return post(ctx, w.direct.client, w.direct.url+path, w.token, body)
	})
	w.direct.url += issuePath(id)
	return err
}

func issuePath(id int64) string { return fmt.Sprintf("/apiv1/users/1/cas/%d/issue", id) }

// startServer starts a program that package tlsserver serves.
func (w *caWorld) startServer(ctx context.Context, b *bench, name, program string) (*shape, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close() // the program has it open by itself
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	issuing := filepath.Base(filepath.Dir(program))
	output, err := os.Create(filepath.Join(b.work, issuing+".output"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	command := exec.CommandContext(ctx, program)
	command.Env, command.ExtraFiles, command.Stdout, command.Stderr = w.server, []*os.File{file}, output, output
	if err := command.Start(); err != nil {
		return nil, err
	}
	w.onStop(func() {
		_ = command.Process.Kill() // it may have ended by itself
		_ = command.Wait()
	})
	return newShape(name, trusting(w.root), "https://"+listener.Addr().String(), w.token, command.Process.Pid, issuing), nil
}

func newShape(name string, client *http.Client, url, token string, process int, issuing string) *shape {
	s := &shape{name: name, client: client, url: url, token: token, process: process, issuing: issuing, turns: map[int]*turns{}, beside: map[string]map[int][]time.Duration{}}
	s.body = func(_, csr string) (any, error) {
		return map[string]any{"csr": csr, "validity_seconds": int(validFor / time.Second)}, nil
	}
	for _, clients := range clientsOfCA {
		s.turns[clients] = &turns{}
	}
	return s
}

// trusting is a client that trusts a root (PEM) and keeps a connection for each who asks.
func trusting(root []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: slices.Max(clientsOfCA)}}
}

// buildServed builds functions/cas with testdata/casserver.go in the place of its last line; profiles is where it
// writes what Lambda's Runtime API has it do, if anything.
func buildServed(ctx context.Context, b *bench, profiles string) (string, error) {
	source := filepath.Join(b.root, "functions", "cas", "main.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return "", err
	}
	const serves = "gateway.Serve(h.routes())"
	if bytes.Count(text, []byte(serves)) != 1 {
		return "", fmt.Errorf("%s does not have %s", source, serves)
	}
	changed, overlay := filepath.Join(b.work, "cas-main.go"), filepath.Join(b.work, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{
		source: changed, filepath.Join(filepath.Dir(source), "benchserver.go"): filepath.Join(b.root, "bench", "testdata", "casserver.go"),
	}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(
		os.WriteFile(changed, bytes.Replace(text, []byte(serves), []byte("serve(gateway.Serve, h.routes())"), 1), 0o600),
		os.WriteFile(overlay, replace, 0o600),
	); err != nil {
		return "", err
	}
	program := filepath.Join(b.work, "build", "CasServer", "bootstrap")
	if profiles != "" {
		program = filepath.Join(b.work, "build", "CasProfiled", "bootstrap")
	}
	command := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-X main.profiles="+profiles, "-o", program, "./functions/cas")
	command.Dir = b.root
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build functions/cas: %w\n%s", err, output)
	}
	return program, nil
}

// makeCA makes a root and a CA below it that issues: its id.
func makeCA(ctx context.Context, post func(ctx context.Context, path string, body any) (int, []byte, error)) (int64, error) {
	var id int64
	for _, body := range []map[string]any{{"name": "Bench Root"}, {"name": "Bench CA"}} {
		if id != 0 {
			body["parent_id"] = id
		}
		status, answer, err := post(ctx, "/apiv1/users/1/cas", body)
		if err != nil {
			return 0, err
		}
		var made struct{ Data struct{ ID int64 } }
		if err := json.Unmarshal(answer, &made); err != nil || status != http.StatusCreated {
			return 0, fmt.Errorf("make a CA: %d %s", status, answer)
		}
		id = made.Data.ID
	}
	return id, nil
}

// startStack starts the whole stack and makes a CA and an API key in it.
func (w *caWorld) startStack(ctx context.Context, b *bench) (err error) {
	w.stack, err = w.newStack(ctx, b, filepath.Join(b.root, "build"), "Cas")
	return err
}

func (w *caWorld) newStack(ctx context.Context, b *bench, build, issuing string) (*shape, error) {
	s, err := startStack(ctx, b, filepath.Join(b.root, "template.yaml"), build)
	if err != nil {
		return nil, err
	}
	w.onStop(s.stop)
	cookie, err := s.login(ctx)
	if err != nil {
		return nil, err
	}
	id, err := makeCA(ctx, func(ctx context.Context, path string, body any) (int, []byte, error) {
		status, _, answer, err := s.post(ctx, path, cookie, body)
		return status, answer, err
	})
	if err != nil {
		return nil, err
	}
	key, err := s.apiKey(ctx, "cas.write", "certs.write")
	if err != nil {
		return nil, err
	}
	return newShape("function", trusting(nil), s.URL+issuePath(id), key, s.command.Process.Pid, issuing), nil
}

// startStep starts step-ca with its data in a folder of its own in folder.
func (w *caWorld) startStep(ctx context.Context, program, name, folder string) (*shape, error) {
	data, err := os.MkdirTemp(folder, "step-ca")
	if err != nil {
		return nil, err
	}
	ca, err := startStepCA(ctx, program, data)
	if err != nil {
		return nil, err
	}
	w.onStop(ca.stop)
	s := newShape(name, trusting(ca.root), ca.url+"/1.0/sign", "", ca.command.Process.Pid, "step-ca")
	s.body = func(name, csr string) (any, error) {
		token, err := ca.token(name)
		return map[string]string{"csr": csr, "ott": token, "notAfter": validFor.String()}, err
	}
	return s, nil
}

// inMemory is the processor time of a certificate in memory.
func (w *caWorld) inMemory(ctx context.Context) (time.Duration, error) {
	_, csr, err := newCSR()
	if err != nil {
		return 0, err
	}
	const some = 4 * turnOf
	status, answer, err := post(ctx, w.direct.client, fmt.Sprintf("%s?n=%d", w.memoryURL, some), w.token, map[string]string{"csr": csr})
	if err != nil {
		return 0, err
	}
	var took time.Duration
	if err := json.Unmarshal(answer, &took); err != nil || status != http.StatusOK {
		return 0, fmt.Errorf("in memory: %d %s", status, answer)
	}
	return took, nil
}

// newCSR makes a P-256 key and a request (PEM) for a name of its own.
func newCSR() (name, csr string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	name = strings.ToLower(rand.Text()) + ".bench.test"
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	return name, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), err
}

// turn has n certificates issued by so many clients, each with a connection of its own that it keeps.
func (s *shape) turn(ctx context.Context, clients, n int, counts bool) error {
	names, bodies := make([]string, n), make([]any, n)
	for i := range n {
		name, csr, err := newCSR()
		if err != nil {
			return err
		}
		body, err := s.body(name, csr)
		if err != nil {
			return err
		}
		if bodies[i], err = json.Marshal(body); err != nil {
			return err
		}
		names[i] = name
	}
	took := make([]time.Duration, n)
	failed := make([]error, clients)
	before, err := usageBelow(s.process)
	if err != nil {
		return err
	}
	var next atomic.Int64
	var group sync.WaitGroup
	begin := time.Now()
	for c := range clients {
		group.Go(func() {
			for failed[c] == nil && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				asked := time.Now()
				status, answer, err := post(ctx, s.client, s.url, s.token, json.RawMessage(bodies[i].([]byte)))
				took[i] = time.Since(asked)
				switch {
				case err != nil:
					failed[c] = err
				case status != http.StatusOK && status != http.StatusCreated:
					failed[c] = fmt.Errorf("%d %.500s", status, answer)
				case i == 0 || !bytes.Contains(answer, []byte("-----BEGIN CERTIFICATE-----")):
					failed[c] = checkIssued(answer, names[i])
				}
			}
		})
	}
	group.Wait()
	all := time.Since(begin)
	if err := errors.Join(append(failed, ctx.Err())...); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := usageBelow(s.process)
	if err != nil || !counts {
		return err
	}
	t := s.turns[clients]
	t.rates, t.times = append(t.rates, float64(n)/all.Seconds()), append(t.times, took...)
	for program, used := range since(before, after) {
		if program == s.issuing {
			t.cpu = append(t.cpu, used/time.Duration(n))
			continue
		}
		if s.beside[program] == nil {
			s.beside[program] = map[int][]time.Duration{}
		}
		s.beside[program][clients] = append(s.beside[program][clients], used/time.Duration(n))
	}
	return nil
}

// checkIssued looks at the first certificate of an answer in JSON.
func checkIssued(answer []byte, name string) error {
	_, rest, _ := bytes.Cut(answer, []byte("-----BEGIN CERTIFICATE-----"))
	text := "-----BEGIN CERTIFICATE-----" + strings.ReplaceAll(string(rest), `\n`, "\n")
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return fmt.Errorf("no certificate in %.500s", answer)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	const backdate = 5 * time.Minute // the function's is in the lifetime, the others' beside it
	if left := time.Until(c.NotAfter); !slices.Equal(c.DNSNames, []string{name}) || left > validFor+time.Minute || left < validFor-backdate-time.Minute {
		return fmt.Errorf("a certificate for %v until %v, want %s for %v", c.DNSNames, c.NotAfter, name, validFor)
	}
	return nil
}

// post sends JSON with a bearer token, if any.
func post(ctx context.Context, client *http.Client, url, token string, body any) (status int, answer []byte, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// profile has what the handler does profiled, behind TLS and as Lambda runs it, into files for go tool pprof.
func (w *caWorld) profile(ctx context.Context, b *bench) error {
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	folder, err := filepath.Abs(b.profiles)
	if err != nil {
		return err
	}
	program, err := buildServed(ctx, b, folder)
	if err != nil {
		return err
	}
	served, err := w.startServer(ctx, b, "profiled", program)
	if err != nil {
		return err
	}
	base := served.url
	served.url += strings.TrimPrefix(w.direct.url, w.direct.base())
	fetched := make(chan error, 1)
	go func() {
		_, text, err := post(ctx, served.client, base+"/debug/pprof/profile?seconds=20", w.token, nil)
		fetched <- errors.Join(err, os.WriteFile(filepath.Join(folder, "tls.cpu.pprof"), text, 0o644))
	}()
	if err := served.keepBusy(ctx, 21*time.Second); err != nil {
		return err
	}
	_, text, err := post(ctx, served.client, base+"/debug/pprof/allocs", w.token, nil)
	if err := errors.Join(<-fetched, err, os.WriteFile(filepath.Join(folder, "tls.allocs.pprof"), text, 0o644)); err != nil {
		return err
	}
	// The whole stack again, with a function that profiles itself in the place of the one.
	build := filepath.Join(b.work, "profiled")
	if err := os.CopyFS(build, os.DirFS(filepath.Join(b.root, "build"))); err != nil {
		return err
	}
	if text, err = os.ReadFile(program); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(build, "Cas", "bootstrap"), text, 0o755); err != nil {
		return err
	}
	s, err := w.newStack(ctx, b, build, "Cas")
	if err != nil {
		return err
	}
	return s.keepBusy(ctx, 25*time.Second)
}

// base is a shape's URL without its path.
func (s *shape) base() string {
	u, _ := url.Parse(s.url)
	return u.Scheme + "://" + u.Host
}

func (s *shape) keepBusy(ctx context.Context, during time.Duration) error {
	for begin := time.Now(); time.Since(begin) < during; {
		if err := s.turn(ctx, slices.Max(clientsOfCA), turnOf, false); err != nil {
			return err
		}
	}
	return nil
}
