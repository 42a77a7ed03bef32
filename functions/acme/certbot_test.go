package main

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestCertbot runs where certbot is installed. It reads the protocol in ways of its own: it decodes tokens and nonces,
// and shows what it encodes them to.
func TestCertbot(t *testing.T) {
	program, err := exec.LookPath("certbot")
	if err != nil {
		t.Skip("certbot is not installed")
	}
	w := newWorld(t)
	b := w.bind("lab.test")
	dir := t.TempDir()
	roots := filepath.Join(dir, "roots.pem")
	w.must(os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.server.Certificate().Raw}), 0o600))
	port := freePort(t)
	w.h.prober.httpPort = port
	w.names.add(t, "web.test. 60 IN A 127.0.0.1")
	certbot := func(args ...string) {
		t.Helper()
		w.advance(2 * time.Second) // a CRL is published once a second
		command := exec.Command(program, append(args, "--non-interactive", "--server", w.at("directory"),
			"--config-dir", filepath.Join(dir, "config"), "--work-dir", filepath.Join(dir, "work"), "--logs-dir", filepath.Join(dir, "logs"))...)
		command.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+roots)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("certbot %v: %v\n%s", args, err, output)
		}
	}
	certbot("register", "--agree-tos", "--email", "ann@example.test", "--no-eff-email", "--eab-kid", b.ID, "--eab-hmac-key", w.secret().BindingText(b.ID))
	certbot("certonly", "--standalone", "--http-01-port", port, "--domain", "a.lab.test")
	certbot("certonly", "--standalone", "--http-01-port", port, "--domain", "web.test", "--domain", "b.lab.test")
	certbot("renew", "--force-renewal", "--no-random-sleep-on-renew")
	certbot("revoke", "--cert-name", "a.lab.test", "--reason", "superseded", "--no-delete-after-revoke")
	live := filepath.Join(dir, "config", "live", "web.test")
	certbot("revoke", "--cert-path", filepath.Join(live, "cert.pem"), "--key-path", filepath.Join(live, "privkey.pem"), "--no-delete-after-revoke")
	certbot("update_account", "--email", "bob@example.test")
	certbot("unregister")
	if signed, intended := w.entries(w.ca.ID); signed != 4 || intended != 0 {
		t.Errorf("%d signed, %d intended", signed, intended)
	}
}
