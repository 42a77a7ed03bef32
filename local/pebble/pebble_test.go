package pebble

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/challenge"
	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/go-acme/lego/v5/lego"
	legolog "github.com/go-acme/lego/v5/log"
	"github.com/go-acme/lego/v5/providers/dns/dnsupdate"
	"github.com/go-acme/lego/v5/providers/dns/httpreq"
	"github.com/go-acme/lego/v5/registration"

	"cjj365.cc/bb/local/dns"
)

// poll is short, for everything is on this machine; lego sleeps it before its first look.
const poll = 50 * time.Millisecond

// A machine is the servers that a test needs, with lego's resolver set to theirs.
type machine struct {
	*Server
	dns *dns.Servers
	dir string
}

func newMachine(t *testing.T, o Options) machine {
	t.Helper()
	names, err := dns.Start(t.Context(), dns.Options{Dir: t.TempDir(), Knot: dns.FindKnot(), Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(names.Stop)
	o.Dir, o.Resolver, o.Log = t.TempDir(), names.Resolver, t.Output()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	legolog.SetDefault(slog.New(slog.DiscardHandler))
	dns01.SetDefaultClient(dns01.NewClient(&dns01.Options{RecursiveNameservers: []string{names.Resolver}}))
	return machine{s, names, o.Dir}
}

// account is lego's user.
type account struct {
	key          crypto.Signer
	registration *acme.ExtendedAccount
}

func (*account) GetEmail() string                         { return "ann@example.com" }
func (a *account) GetRegistration() *acme.ExtendedAccount { return a.registration }
func (a *account) GetPrivateKey() crypto.Signer           { return a.key }

// client is lego's, with a new account.
func (m machine) client(t *testing.T, externalAccount ...string) (*lego.Client, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	user := &account{key: key}
	config := lego.NewConfig(user)
	config.CADirURL, config.HTTPClient = m.Directory, m.Client()
	client, err := lego.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	if len(externalAccount) == 0 {
		user.registration, err = client.Registration.Register(t.Context(), registration.RegisterOptions{TermsOfServiceAgreed: true})
	} else {
		user.registration, err = client.Registration.RegisterWithExternalAccountBinding(t.Context(),
			registration.RegisterEABOptions{TermsOfServiceAgreed: true, Kid: externalAccount[0], HmacEncoded: externalAccount[1]})
	}
	return client, err
}

func (m machine) obtain(t *testing.T, client *lego.Client, provider challenge.Provider, profile string, names ...string) (*certificate.Resource, error) {
	t.Helper()
	// The name servers of the zones are asked at port 53, which nobody may take here.
	if err := client.Challenge.SetDNS01Provider(provider, dns01.DisableAuthoritativeNssPropagationRequirement()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return client.Certificate.Obtain(ctx, certificate.ObtainRequest{Domains: names, KeyType: certcrypto.EC256, Profile: profile, Bundle: true})
}

// mustObtain obtains a certificate and has openssl check it against Pebble's root.
func (m machine) mustObtain(t *testing.T, provider challenge.Provider, profile string, names ...string) *x509.Certificate {
	t.Helper()
	client, err := m.client(t)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := m.obtain(t, client, provider, profile, names...)
	if err != nil {
		t.Fatal(err)
	}
	return m.verify(t, issued.Certificate, names)
}

func (m machine) verify(t *testing.T, chain []byte, names []string) *x509.Certificate {
	t.Helper()
	leaf, rest := pem.Decode(chain)
	parsed, err := x509.ParseCertificate(leaf.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(slices.Values(parsed.DNSNames)); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		t.Errorf("it is for %v, want %v", got, names)
	}
	files := map[string]string{}
	for name, text := range map[string][]byte{"leaf": pem.EncodeToMemory(leaf), "rest": rest} {
		files[name] = filepath.Join(t.TempDir(), name+".pem")
		if err := os.WriteFile(files[name], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: the chain was not verified")
	}
	for _, intermediates := range []string{files["rest"], filepath.Join(m.dir, "pebble-intermediate.pem")} {
		said, err := exec.Command("openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", m.RootFile, "-untrusted", intermediates, files["leaf"]).CombinedOutput()
		if err != nil || !bytes.HasSuffix(said, []byte(": OK\n")) {
			t.Errorf("openssl verify: %s %v", said, err)
		}
	}
	return parsed
}

// update is lego's provider for dynamic updates, with a secret or the right one.
func (m machine) update(t *testing.T, secret string) challenge.Provider {
	t.Helper()
	if m.dns.Knot == nil {
		t.Skip("Knot is not installed (Debian: apt install knot)")
	}
	if secret == "" {
		secret = m.dns.Knot.Key.Secret
	}
	config := dnsupdate.NewDefaultConfig()
	config.Nameserver = m.dns.Knot.Address
	config.TSIGKey, config.TSIGAlgorithm, config.TSIGSecret = m.dns.Knot.Key.Name, m.dns.Knot.Key.Algorithm, secret
	config.SequenceInterval, config.PollingInterval, config.PropagationTimeout = poll, poll, 5*time.Second
	provider, err := dnsupdate.NewDNSProviderConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

// httpreq is lego's provider for an HTTP endpoint.
func (m machine) httpreq(t *testing.T) challenge.Provider {
	t.Helper()
	endpoint, err := url.Parse(m.dns.HTTPReq)
	if err != nil {
		t.Fatal(err)
	}
	config := httpreq.NewDefaultConfig()
	config.Endpoint, config.PollingInterval, config.PropagationTimeout = endpoint, poll, 5*time.Second
	provider, err := httpreq.NewDNSProviderConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

func TestCertificatesAreIssued(t *testing.T) {
	m := newMachine(t, Options{})
	t.Run("by dynamic update", func(t *testing.T) {
		t.Parallel() // lego waits five seconds before it looks a second time
		leaf := m.mustObtain(t, m.update(t, ""), Classic, "www.example.com")
		if days := leaf.NotAfter.Sub(leaf.NotBefore).Hours() / 24; days < 89 || days > 91 {
			t.Errorf("%s: %.1f days", Classic, days)
		}
	})
	t.Run("by an alias in another zone", func(t *testing.T) {
		t.Parallel()
		m.mustObtain(t, m.update(t, ""), Classic, "delegated.example.org")
	})
	t.Run("by httpreq", func(t *testing.T) {
		t.Parallel()
		m.mustObtain(t, m.httpreq(t), Classic, "*.lab.test", "lab.test")
	})
	t.Run("short-lived", func(t *testing.T) {
		t.Parallel()
		leaf := m.mustObtain(t, m.httpreq(t), Shortlived, "short.lab.test")
		if days := leaf.NotAfter.Sub(leaf.NotBefore).Hours() / 24; days < 5 || days > 7 {
			t.Errorf("%s: %.1f days", Shortlived, days)
		}
	})
	t.Run("not with a wrong secret", func(t *testing.T) {
		t.Parallel()
		client, err := m.client(t)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.obtain(t, client, m.update(t, base64.StdEncoding.EncodeToString(make([]byte, 32))), Classic, "wrong.example.com")
		if err == nil || !strings.Contains(err.Error(), "bad authentication") {
			t.Error(err)
		}
	})
	t.Run("not for a blocked name", func(t *testing.T) {
		t.Parallel()
		client, err := m.client(t)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.obtain(t, client, m.httpreq(t), Classic, "www.blocked.example"); err == nil || !strings.Contains(err.Error(), "rejectedIdentifier") {
			t.Error(err)
		}
	})
}

func TestExternalAccountBindingIsRequired(t *testing.T) {
	key := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	m := newMachine(t, Options{ExternalAccounts: map[string]string{"kid-1": key}})
	if _, err := m.client(t); err == nil || !strings.Contains(err.Error(), "externalAccountRequired") {
		t.Errorf("without: %v", err)
	}
	other := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{8}, 32))
	if _, err := m.client(t, "kid-1", other); err == nil {
		t.Error("an account by a wrong key")
	}
	client, err := m.client(t, "kid-1", key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := m.obtain(t, client, m.httpreq(t), Classic, "bound.lab.test")
	if err != nil {
		t.Fatal(err)
	}
	m.verify(t, issued.Certificate, []string{"bound.lab.test"})
}

func TestAMoodyPebbleIssuesToo(t *testing.T) {
	m := newMachine(t, Options{Env: map[string]string{"PEBBLE_WFE_NONCEREJECT": "30", "PEBBLE_VA_SLEEPTIME": "2", "PEBBLE_AUTHZREUSE": "100"}})
	client, err := m.client(t)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time with the authorization of the first
		issued, err := m.obtain(t, client, m.httpreq(t), Classic, "moody.lab.test")
		if err != nil {
			t.Fatal(err)
		}
		m.verify(t, issued.Certificate, []string{"moody.lab.test"})
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		name  string
		asked map[string]string
		want  string
	}{
		{"quiet", nil, "PEBBLE_AUTHZREUSE=0 PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0"},
		{"nonces", map[string]string{"PEBBLE_WFE_NONCEREJECT": "50"}, "PEBBLE_AUTHZREUSE=0 PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=50"},
		{"sleeps", map[string]string{"PEBBLE_VA_SLEEPTIME": "3"}, "PEBBLE_AUTHZREUSE=0 PEBBLE_VA_SLEEPTIME=3 PEBBLE_WFE_NONCEREJECT=0"},
	} {
		if got := strings.Join(environment(test.asked), " "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}
