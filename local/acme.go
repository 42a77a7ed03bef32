package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cjj365.cc/bb/local/child"
	"cjj365.cc/bb/local/dns"
	"cjj365.cc/bb/local/pebble"
)

// The part of the state folder that ACME and DNS have.
const (
	acmeName    = "acme"
	acmeLogName = "acme.log"
	keptName    = acmeName + "/kept.json"
)

// acmeKept is what a start leaves to the next: accounts and DNS providers of users have it in the tables.
type acmeKept struct {
	Directory  int       `json:"directory"`  // port
	Management int       `json:"management"` // port
	HTTP01     int       `json:"http01"`     // port at which private CAs look for http-01 challenges
	HTTPS      int       `json:"https"`      // port of the stack by HTTPS, which ACME clients insist on
	DNS        dns.Ports `json:"dns"`
	Password   string    `json:"password"` // of httpreq
}

// httpreqUser is who may set records at httpreq: a page in a browser may not.
const httpreqUser = "bb"

// An acme is a CA and the DNS that it validates with. They start while other parts do.
type acme struct {
	kept   acmeKept
	dir    string
	ca     *x509.Certificate // of Pebble's HTTPS
	log    *os.File
	cancel context.CancelFunc
	ready  chan struct{} // closed when both have started, or one has failed

	// Set when ready is closed.
	err    error
	pebble *pebble.Server
	dns    *dns.Servers
}

// What stack.json says about them.
type runningACME struct {
	Directory  string `json:"directory"`
	Management string `json:"management"`
	Root       string `json:"root"`       // file: what certificates are verified against
	ServerRoot string `json:"serverRoot"` // file: what the directory's HTTPS is verified against
	HTTP01     int    `json:"http01"`     // port at which private CAs look for http-01 challenges
}

type runningDNS struct {
	Resolver     string       `json:"resolver"`
	Challtestsrv string       `json:"challtestsrv"` // URL of its management
	HTTPReq      runningHTTP  `json:"httpreq"`
	Knot         *runningKnot `json:"knot"` // null where it is not installed
}

type runningHTTP struct {
	URL      string `json:"url"`
	User     string `json:"user"`
	Password string `json:"password"`
}

type runningKnot struct {
	Address string   `json:"address"`
	Zones   []string `json:"zones"`
	TSIG    dns.TSIG `json:"tsig"`
}

// needsACME tells whether a template has functions that order certificates.
func needsACME(declared []string) bool {
	return slices.Contains(declared, "AcmeDirectories") && slices.Contains(declared, "DnsResolvers")
}

// portPatience is longer than a part takes to end that has to be killed.
const portPatience = 5 * time.Second

// newACME chooses the ports: those of the last start, as far as they are free.
func (s *state) newACME(stderr io.Writer, patience time.Duration) (*acme, error) {
	a := &acme{dir: s.path(acmeName), ready: make(chan struct{})}
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of ACME: %w", err)
	}
	if err := s.read(keptName, &a.kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ports := append(a.kept.DNS.All(), &a.kept.Directory, &a.kept.Management, &a.kept.HTTP01, &a.kept.HTTPS)
	for _, port := range ports {
		if *port != 0 && !becomesFree(*port, patience) {
			fmt.Fprintf(stderr, "bb: port %d is in use; what ACME accounts or DNS providers have it must be made anew\n", *port)
			*port = 0
		}
	}
	if err := child.FreePorts(ports...); err != nil {
		return nil, err
	}
	if a.kept.Password == "" {
		a.kept.Password = rand.Text()
	}
	var err error
	if a.ca, err = pebble.MakeCertificate(a.dir); err != nil {
		return nil, err
	}
	return a, s.write(keptName, a.kept)
}

// becomesFree waits for a port: after kill -9 the parts of the stack before end a little later than it.
func becomesFree(port int, patience time.Duration) bool {
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for !child.Free(port) {
		select {
		case <-poll.C:
		case <-timeout.C:
			return false
		}
	}
	return true
}

// parameters are the template's.
func (a *acme) parameters() map[string]string {
	return map[string]string{
		"AcmeDirectories":       "pebble=" + pebble.Directory(a.kept.Directory),
		"AcmeRoots":             string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.ca.Raw})),
		"DnsResolvers":          fmt.Sprintf("127.0.0.1:%d", a.kept.DNS.Resolver),
		"AllowPrivateAddresses": "loopback",
		"AcmeHttpPort":          fmt.Sprint(a.kept.HTTP01),
		"AcmeURL":               fmt.Sprintf("https://127.0.0.1:%d/pki", a.kept.HTTPS),
	}
}

// beginACME starts both without waiting for them.
func (s *stack) beginACME(ctx context.Context) (err error) {
	if s.acme == nil {
		return nil
	}
	a := s.acme
	external, err := externalAccounts(os.Getenv("BB_EXTERNAL_ACCOUNTS"))
	if err != nil {
		return err
	}
	if a.log, err = os.OpenFile(s.state.path(acmeLogName), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("open the log of ACME: %w", err)
	}
	ctx, a.cancel = context.WithCancel(ctx)
	s.onStop(a.stop)
	go func() {
		defer close(a.ready)
		var parts sync.WaitGroup
		var dnsErr, pebbleErr error
		parts.Go(func() {
			a.dns, dnsErr = dns.Start(ctx, dns.Options{
				Dir: a.dir, Ports: a.kept.DNS, Log: a.log, Knot: dns.FindKnot(), User: httpreqUser, Password: a.kept.Password,
			})
		})
		parts.Go(func() {
			a.pebble, pebbleErr = pebble.Start(ctx, pebble.Options{
				Dir: a.dir, CA: a.ca, Resolver: a.parameters()["DnsResolvers"], Port: a.kept.Directory, ManagementPort: a.kept.Management,
				Env: moods(os.Environ()), ExternalAccounts: external, Log: a.log,
			})
		})
		parts.Wait()
		a.err = errors.Join(dnsErr, pebbleErr)
	}()
	return nil
}

// awaitACME waits until both answer.
func (s *stack) awaitACME(context.Context) error {
	if s.acme == nil {
		return nil
	}
	<-s.acme.ready
	return s.acme.err
}

// serveHTTPS serves the stack by HTTPS too, with the certificate of Pebble's.
func (a *acme) serveHTTPS(handler http.Handler) (closeServer func(), err error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "pebble-server.pem"), filepath.Join(a.dir, "pebble-server-key.pem"))
	if err != nil {
		return nil, fmt.Errorf("serve HTTPS: %w", err)
	}
	listener, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", a.kept.HTTPS), &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return nil, fmt.Errorf("serve HTTPS: %w", err)
	}
	return serveOn(listener, handler), nil
}

func (a *acme) stop() {
	a.cancel()
	<-a.ready
	var parts sync.WaitGroup
	if a.pebble != nil {
		parts.Go(a.pebble.Stop)
	}
	if a.dns != nil {
		parts.Go(a.dns.Stop)
	}
	parts.Wait()
	_ = a.log.Close()
}

// gone is closed when one of the programs has ended by itself.
func (a *acme) gone() (pebbleGone, dnsGone <-chan struct{}) {
	if a == nil {
		return nil, nil
	}
	return a.pebble.Done(), a.dns.Done()
}

func (a *acme) running() (*runningACME, *runningDNS) {
	if a == nil {
		return nil, nil
	}
	d := &runningDNS{
		Resolver:     a.dns.Resolver,
		Challtestsrv: a.dns.Management,
		HTTPReq:      runningHTTP{a.dns.HTTPReq, httpreqUser, a.kept.Password},
	}
	if knot := a.dns.Knot; knot != nil {
		d.Knot = &runningKnot{knot.Address, dns.Zones, knot.Key}
	}
	return &runningACME{a.pebble.Directory, a.pebble.Management, a.pebble.RootFile, a.pebble.CAFile, a.kept.HTTP01}, d
}

func (a *acme) announce(w io.Writer) {
	if a == nil {
		return
	}
	fmt.Fprintf(w, "ACME:       Pebble at %s; its root is %s\n", a.pebble.Directory, a.pebble.RootFile)
	fmt.Fprintf(w, "DNS:        resolver %s; httpreq at %s for any name\n", a.dns.Resolver, a.dns.HTTPReq)
	if knot := a.dns.Knot; knot != nil {
		fmt.Fprintf(w, "            Knot at %s, by dynamic update, for %s\n", knot.Address, strings.Join(dns.Zones, ", "))
	} else {
		fmt.Fprintln(w, "            no server for dynamic updates: Knot is not installed (Debian: apt install knot)")
	}
}

// moods are Pebble's own variables, as its user set them.
func moods(environment []string) map[string]string {
	asked := map[string]string{}
	for _, variable := range environment {
		if name, value, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PEBBLE_") {
			asked[name] = value
		}
	}
	return asked
}

// externalAccounts reads BB_EXTERNAL_ACCOUNTS.
func externalAccounts(text string) (map[string]string, error) {
	keys := map[string]string{}
	for setting := range strings.FieldsSeq(text) {
		id, key, found := strings.Cut(setting, "=")
		if !found || id == "" || key == "" {
			return nil, errors.New("BB_EXTERNAL_ACCOUNTS must be id=key id=key, each key a MAC key in base64url")
		}
		keys[id] = key
	}
	return keys, nil
}
