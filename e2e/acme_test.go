package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	legoacme "github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/challenge/http01"
	"github.com/go-acme/lego/v5/lego"
	"github.com/go-acme/lego/v5/registration"
	"golang.org/x/crypto/acme"
)

// privateCA makes a CA of the first user's, and a binding for its ACME server by an API key.
func privateCA(t *testing.T, custody, names string) (c madeCA, b madeBinding, keyID int64, owner string) {
	t.Helper()
	owner = shared.login(t)
	keyID, token := shared.key(t, owner, `{"name":"acme","permissions":["cas.write","certs.write"]}`)
	key := "Authorization: Bearer " + token
	post := func(path, body string, made any) {
		r := shared.mustCall(t, "POST", "/apiv1/users/1/"+path, body, key)
		if err := json.Unmarshal(r.Data, made); err != nil || r.Status != http.StatusCreated {
			t.Fatalf("%s: %d %s", path, r.Status, r.Body)
		}
	}
	post("cas", `{"name":"acme ca","key_custody":"`+custody+`"}`, &c)
	// Nobody has a binding yet: the ACME server makes its secret. Otherwise the binding does.
	if custody == "KMS" {
		r, err := trusting(t, shared.ACME.ServerRoot).Head(strings.TrimSuffix(c.Directory, "directory") + "new-nonce")
		if err != nil || r.Header.Get("Replay-Nonce") == "" {
			t.Fatalf("%v, %v", r, err)
		}
	}
	post(fmt.Sprintf("cas/%d/acme-bindings", c.ID), `{"name":"ci","names":`+names+`}`, &b)
	return c, b, keyID, owner
}

type madeCA struct {
	ID          int64
	Certificate string `json:"ca_certificate_pem"`
	Directory   string `json:"acme_directory_url"`
	OCSP        string `json:"ocsp_url"`
}

type madeBinding struct {
	KID string `json:"eab_kid"`
	Key string `json:"eab_hmac_key"`
}

type account struct {
	key crypto.Signer
	at  *legoacme.ExtendedAccount
}

func (a *account) GetEmail() string                           { return "ops@example.test" }
func (a *account) GetRegistration() *legoacme.ExtendedAccount { return a.at }
func (a *account) GetPrivateKey() crypto.Signer               { return a.key }

// lego, as a library, gets certificates from a private CA: without a challenge for what the binding allows, by http-01
// for the rest; and none once the API key that minted the binding is deleted.
func TestLegoAtAPrivateCA(t *testing.T) {
	if shared.Gateway == "sam" {
		t.Skip(samLacks["event-sources"])
	}
	ca, binding, keyID, owner := privateCA(t, "KMS", `["corp.example"]`)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	who := &account{key: key}
	config := lego.NewConfig(who)
	config.CADirURL, config.HTTPClient = ca.Directory, trusting(t, shared.ACME.ServerRoot)
	client := func() *lego.Client {
		c, err := lego.NewClient(config)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if who.at, err = client().Registration.RegisterWithExternalAccountBinding(t.Context(), registration.RegisterEABOptions{TermsOfServiceAgreed: true, Kid: binding.KID, HmacEncoded: binding.Key}); err != nil {
		t.Fatal(err)
	}
	c := client()
	obtain := func(names ...string) ([]*x509.Certificate, []byte, error) {
		got, err := c.Certificate.Obtain(t.Context(), certificate.ObtainRequest{Domains: names, KeyType: certcrypto.EC256, Bundle: true})
		if err != nil {
			return nil, nil, err
		}
		chain, err := certcrypto.ParsePEMBundle(got.Certificate)
		return chain, got.Certificate, err
	}
	chain, _, err := obtain("a.corp.example", "*.b.corp.example")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.Certificate))
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: "x.b.corp.example"}); err != nil {
		t.Error(err)
	}
	if err := c.Challenge.SetHTTP01Provider(http01.NewProviderServer("", strconv.Itoa(shared.ACME.HTTP01))); err != nil {
		t.Fatal(err)
	}
	_, bundle, err := obtain("web.other.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Certificate.Revoke(t.Context(), bundle); err != nil {
		t.Error(err)
	}
	if info, err := c.Certificate.GetRenewalInfo(t.Context(), chain[0]); err != nil || info.SuggestedWindow.Start.Before(chain[0].NotBefore) {
		t.Errorf("%+v, %v", info, err)
	}
	if err := c.Registration.KeyRollover(t.Context(), mustKey(t)); err != nil {
		t.Error(err)
	}
	if r := shared.mustCall(t, "DELETE", fmt.Sprintf("/apiv1/users/1/apikeys/%d", keyID), "", owner); r.Status != http.StatusNoContent {
		t.Fatalf("%d", r.Status)
	}
	_, _, err = obtain("c.corp.example")
	var p *legoacme.ProblemDetails
	if !errors.As(err, &p) || p.HTTPStatus != http.StatusForbidden && p.HTTPStatus != http.StatusUnauthorized {
		t.Errorf("with a deleted key: %v", err)
	}
	if r := shared.mustCall(t, "DELETE", fmt.Sprintf("/apiv1/users/1/cas/%d/acme-bindings/%s", ca.ID, binding.KID), "", owner); r.Status != http.StatusNoContent {
		t.Errorf("%d %s", r.Status, r.Body)
	}
	if r := shared.mustCall(t, "DELETE", fmt.Sprintf("/apiv1/users/1/cas/%d", ca.ID), "", owner); r.Status != http.StatusNoContent {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

// A managed certificate that somebody revokes by its own key (RFC 8555 §7.6) is marked.
func TestAManagedCertificateIsRevokedByItsKey(t *testing.T) {
	if shared.Gateway == "sam" {
		t.Skip(samLacks["event-sources"])
	}
	c, _, _, owner := privateCA(t, "WRAPPED", `["*"]`)
	key := mustKey(t)
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.lab.test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	var issued struct {
		ID     int64
		Status string
		Cert   string
	}
	r := shared.mustCall(t, "POST", fmt.Sprintf("/apiv1/users/1/cas/%d/issue", c.ID), fmt.Sprintf(`{"csr":%q,"managed":true}`, text), owner)
	if err := json.Unmarshal(r.Data, &issued); err != nil || issued.ID == 0 {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	leaf, _ := pem.Decode([]byte(issued.Cert))
	client := &acme.Client{DirectoryURL: c.Directory, HTTPClient: trusting(t, shared.ACME.ServerRoot)}
	if err := client.RevokeCert(t.Context(), key, leaf.Bytes, acme.CRLReasonKeyCompromise); err != nil {
		t.Fatal(err)
	}
	r = shared.mustCall(t, "GET", fmt.Sprintf("/apiv1/users/1/certificates/%d", issued.ID), "", owner)
	if err := json.Unmarshal(r.Data, &issued); err != nil || issued.Status != "REVOKED" {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

// trusting is a client that verifies by the roots of a file.
func trusting(t *testing.T, file string) *http.Client {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
}

func mustKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certbot, as Debian has it, gets, renews and revokes certificates, and openssl believes all of it.
func TestCertbotAtAPrivateCA(t *testing.T) {
	if shared.Gateway == "sam" {
		t.Skip(samLacks["event-sources"])
	}
	if _, err := exec.LookPath("certbot"); err != nil {
		t.Skip("certbot is not installed (Debian: apt install certbot)")
	}
	ca, binding, _, _ := privateCA(t, "WRAPPED", `["corp.example"]`)
	dir := t.TempDir()
	run := func(name string, arguments ...string) string {
		t.Helper()
		command := exec.Command(name, arguments...)
		command.Dir, command.Env = dir, append(os.Environ(), "REQUESTS_CA_BUNDLE="+shared.ACME.ServerRoot)
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, arguments, err, output)
		}
		return string(output)
	}
	certbot := func(arguments ...string) {
		t.Helper()
		run("certbot", append(arguments, "-n", "--server", ca.Directory, "--config-dir", dir, "--work-dir", dir, "--logs-dir", dir)...)
	}
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), []byte(ca.Certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(shared.ACME.HTTP01)
	certbot("certonly", "--standalone", "--http-01-port", port, "-d", "printer.corp.example", "-d", "web.other.test", "--key-type", "ecdsa",
		"--agree-tos", "-m", "ops@example.test", "--no-eff-email", "--eab-kid", binding.KID, "--eab-hmac-key", binding.Key)
	live := filepath.Join(dir, "live", "printer.corp.example")
	verify := func(want string) {
		t.Helper()
		if out := run("openssl", "verify", "-x509_strict", "-CAfile", "root.pem", filepath.Join(live, "cert.pem")); !strings.Contains(out, ": OK") {
			t.Error(out)
		}
		out := run("openssl", "ocsp", "-issuer", "root.pem", "-CAfile", "root.pem", "-cert", filepath.Join(live, "cert.pem"), "-url", ca.OCSP)
		if !strings.Contains(out, "Response verify OK") || !strings.Contains(out, "cert.pem: "+want) {
			t.Error(out)
		}
	}
	verify("good")
	first, _ := os.ReadFile(filepath.Join(live, "cert.pem"))
	certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
	if second, err := os.ReadFile(filepath.Join(live, "cert.pem")); err != nil || string(first) == string(second) {
		t.Errorf("not renewed: %v", err)
	}
	certbot("revoke", "--cert-name", "printer.corp.example", "--reason", "superseded", "--no-delete-after-revoke")
	verify("revoked")
	block, _ := pem.Decode(first)
	if c, err := x509.ParseCertificate(block.Bytes); err != nil || len(c.DNSNames) != 2 {
		t.Errorf("%v", err)
	}
}
