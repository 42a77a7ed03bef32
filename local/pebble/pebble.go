// Package pebble runs Pebble, Let's Encrypt's own test server of ACME, as a child process.
//
// The program is where make run puts it, in .tools/pebble of the checkout. It keeps nothing: at each
// start it has another root and knows no account. The folder of a server holds
//
//	pebble-ca.pem             who signed the certificate of its HTTPS, made at each start
//	pebble-server.pem, -key   that certificate and its key; the CA's own key is not kept
//	pebble-root.pem           the root of what it issues: openssl verify -CAfile
//	pebble-intermediate.pem   the intermediate that signs, also in every chain: openssl verify -untrusted
//	pebble.json               its configuration
//
// By itself Pebble is moody, to teach clients: it waits before it validates, refuses good nonces and
// keeps authorizations. Here it is so only when asked, by the variables of Pebble in Options.Env.
package pebble

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"cjj365.cc/bb/local/child"
)

const startTimeout = 30 * time.Second

// Names of profiles (draft-ietf-acme-profiles), with the lifetimes of Let's Encrypt. An order that names
// none gets one by chance: that is how Pebble does it.
const (
	Classic    = "classic"    // 90 days
	Shortlived = "shortlived" // 6 days
)

// Options say how Pebble is run.
type Options struct {
	Dir            string // of the files above
	Resolver       string // host:port of the DNS server that it validates with
	Port           int    // of the directory; any free one when 0
	ManagementPort int    // any free one when 0

	// CA is what MakeCertificate made in Dir, for who has to know it before Pebble runs; made at the start when nil.
	CA *x509.Certificate

	// Env has variables of Pebble's own: PEBBLE_WFE_NONCEREJECT (percent), PEBBLE_AUTHZREUSE (percent),
	// PEBBLE_VA_NOSLEEP and PEBBLE_VA_SLEEPTIME (seconds), PEBBLE_CHAIN_LENGTH, PEBBLE_ALTERNATE_ROOTS.
	Env map[string]string

	// ExternalAccounts has MAC keys by key identifier, base64url. With any, no account is made without
	// external account binding, as at ZeroSSL and Google.
	ExternalAccounts map[string]string

	Log io.Writer // gets its output; none when nil
}

// quiet is Pebble without moods.
var quiet = map[string]string{"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}

// A Server is a running Pebble.
type Server struct {
	Directory  string // URL
	Management string // URL: /roots/0, /intermediates/0, /cert-status-by-serial/…
	CAFile     string // who signed the certificate of both
	RootFile   string // what it issues ends here

	process *child.Process
	client  *http.Client
}

// Start runs Pebble and waits until it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start Pebble: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	path, err := child.Tool("pebble", "pebble")
	if err != nil {
		return nil, err
	}
	if err := child.FreePorts(&o.Port, &o.ManagementPort); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make its folder: %w", err)
	}
	if o.CA == nil {
		if o.CA, err = MakeCertificate(o.Dir); err != nil {
			return nil, err
		}
	}
	if err := writeConfiguration(o); err != nil {
		return nil, err
	}
	process, err := child.Start(child.Program{
		Path: path,
		Args: []string{"-strict", "-config", filepath.Join(o.Dir, "pebble.json"), "-dnsserver", o.Resolver},
		Env:  environment(o.Env),
		Log:  o.Log,
	})
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(o.CA)
	s := &Server{
		Directory:  Directory(o.Port),
		Management: "https://" + address(o.ManagementPort),
		CAFile:     filepath.Join(o.Dir, "pebble-ca.pem"),
		RootFile:   filepath.Join(o.Dir, "pebble-root.pem"),
		process:    process,
		client:     &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}
	if err := s.await(ctx, o.Dir); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// await waits for both of its ports and takes its roots.
func (s *Server) await(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.process.Await(ctx, func(ctx context.Context) error {
		_, err := s.get(ctx, s.Directory)
		return err
	}); err != nil {
		return err
	}
	for file, path := range map[string]string{"pebble-root.pem": "/roots/0", "pebble-intermediate.pem": "/intermediates/0"} {
		if err := s.process.Await(ctx, func(ctx context.Context) error {
			text, err := s.get(ctx, s.Management+path)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, file), text, 0o644)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// Directory is the URL of a Pebble's directory at a port.
func Directory(port int) string { return "https://" + address(port) + "/dir" }

// Client is an HTTP client that trusts this server and no other: a new one each time, for lego changes
// the one it is given.
func (s *Server) Client() *http.Client { return &http.Client{Transport: s.client.Transport} }

// Done is closed when the server has ended, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.process.Done() }

// Stop ends the server and waits for it.
func (s *Server) Stop() {
	s.client.CloseIdleConnections()
	s.process.Stop()
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func environment(asked map[string]string) []string {
	env := maps.Clone(quiet)
	if asked["PEBBLE_VA_SLEEPTIME"] != "" {
		delete(env, "PEBBLE_VA_NOSLEEP") // which would win
	}
	maps.Copy(env, asked)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

func writeConfiguration(o Options) error {
	type profile struct {
		Description    string `json:"description"`
		ValidityPeriod int    `json:"validityPeriod"` // seconds
	}
	days := func(n int) int { return n * 24 * 60 * 60 }
	var c struct {
		Pebble struct {
			ListenAddress                  string             `json:"listenAddress"`
			ManagementListenAddress        string             `json:"managementListenAddress"`
			Certificate                    string             `json:"certificate"`
			PrivateKey                     string             `json:"privateKey"`
			HTTPPort                       int                `json:"httpPort"`
			TLSPort                        int                `json:"tlsPort"`
			RetryAfter                     map[string]int     `json:"retryAfter"` // seconds
			KeyAlgorithm                   string             `json:"keyAlgorithm"`
			Profiles                       map[string]profile `json:"profiles"`
			DomainBlocklist                []string           `json:"domainBlocklist"`
			ExternalAccountBindingRequired bool               `json:"externalAccountBindingRequired"`
			ExternalAccountMACKeys         map[string]string  `json:"externalAccountMACKeys,omitempty"`
		} `json:"pebble"`
	}
	p := &c.Pebble
	p.ListenAddress, p.ManagementListenAddress = address(o.Port), address(o.ManagementPort)
	p.Certificate, p.PrivateKey = filepath.Join(o.Dir, "pebble-server.pem"), filepath.Join(o.Dir, "pebble-server-key.pem")
	p.HTTPPort, p.TLSPort = 5002, 5001 // for the challenges that nobody answers here
	p.RetryAfter = map[string]int{"authz": 1, "order": 1}
	p.KeyAlgorithm = "ecdsa"
	p.Profiles = map[string]profile{
		Classic:    {"what everybody has", days(90)},
		Shortlived: {"six days, no revocation", days(6)},
	}
	p.DomainBlocklist = []string{"blocked.example"} // an order that is rejected for good
	p.ExternalAccountBindingRequired = len(o.ExternalAccounts) > 0
	p.ExternalAccountMACKeys = o.ExternalAccounts
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("write its configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "pebble.json"), text, 0o600); err != nil {
		return fmt.Errorf("write its configuration: %w", err)
	}
	return nil
}
