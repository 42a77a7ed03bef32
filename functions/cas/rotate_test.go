package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/ca"
)

// Signed elsewhere: the request goes out, the certificate comes in.
func TestSignedElsewhere(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t) // somebody else's CA
	root := other.create(`{"name":"their root"}`)
	pending := w.create(`{"name":"ours","external":true,"organization":"Example"}`)
	path := fmt.Sprintf("%s/%d", base, pending.ID)
	if pending.Status != "PENDING" || pending.Certificate != "" {
		t.Errorf("%+v", pending)
	}
	w.Want(t, 409, w.session, "POST", path+"/issue", `{"domain_name":"a.example"}`)
	w.Want(t, 409, w.session, "POST", path+"/rotate", ``)
	w.Want(t, 409, w.session, "POST", path+"/crl", ``)
	var out struct {
		CSR string `json:"csr_pem"`
	}
	w.Want(t, 200, w.session, "GET", path+"/csr", "").Into(t, &out)
	block, _ := pem.Decode([]byte(out.CSR))
	request := must(x509.ParseCertificateRequest(block.Bytes))
	if err := request.CheckSignature(); err != nil || request.Subject.CommonName != "ours" {
		t.Errorf("%v, %v", request.Subject, err)
	}
	theirs := must(other.store.CA(context.Background(), 1, root.ID))
	key := must(other.signer.Key(context.Background(), theirs))
	sign := func(public any, change func(*x509.Certificate)) string {
		c := &x509.Certificate{
			SerialNumber: ca.NewSerial(w.now), Subject: request.Subject, NotBefore: w.now.Add(-time.Minute), NotAfter: w.now.Add(1000 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte("01234567890123456789"),
		}
		change(c)
		der := must(x509.CreateCertificate(rand.Reader, c, theirs.Certificate(), public, key))
		return ca.PEM(der)
	}
	install := func(chain string) int {
		return w.Call(t, w.session, "POST", path+"/certificate", fmt.Sprintf(`{"certificate_pem":%q}`, chain)).Status
	}
	good := sign(request.PublicKey, func(*x509.Certificate) {})
	for name, chain := range map[string]string{
		"another key":        sign(newKey().Public(), func(*x509.Certificate) {}) + root.Certificate,
		"no CA":              sign(request.PublicKey, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }) + root.Certificate,
		"no CRLs":            sign(request.PublicKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }) + root.Certificate,
		"expired":            sign(request.PublicKey, func(c *x509.Certificate) { c.NotAfter = w.now.Add(-time.Second) }) + root.Certificate,
		"no root":            good,
		"the root alone":     root.Certificate,
		"in the wrong order": root.Certificate + good,
		"another root":       good + w.create(`{"name":"another"}`).Certificate,
		"nothing":            "x",
	} {
		if status := install(chain); status != 400 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status := install(good + root.Certificate); status != 200 {
		t.Fatalf("the right one: %d", status)
	}
	issued := w.issue(pending.ID, `{"domain_name":"a.example"}`)
	if chain := verify(t, issued.Cert, w.now, x509.ExtKeyUsageServerAuth); len(chain) != 3 {
		t.Errorf("a chain of %d", len(chain))
	}
	// Its successor waits for a certificate too, and takes its place with that.
	var next CA
	w.Want(t, 201, w.session, "POST", path+"/rotate", ``).Into(t, &next)
	if next.Status != "PENDING" || w.ca(pending.ID).Status != "ACTIVE" {
		t.Errorf("%+v", next)
	}
	w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/csr", base, next.ID), "").Into(t, &out)
	block, _ = pem.Decode([]byte(out.CSR))
	request = must(x509.ParseCertificateRequest(block.Bytes))
	path = fmt.Sprintf("%s/%d", base, next.ID)
	if status := install(sign(request.PublicKey, func(c *x509.Certificate) { c.SubjectKeyId = []byte("98765432109876543210") }) + root.Certificate); status != 200 {
		t.Fatalf("the successor's: %d", status)
	}
	if old := w.ca(pending.ID); old.Status != "ROTATED" || old.Next != next.ID {
		t.Errorf("%+v", old)
	}
	if issued := w.issue(pending.ID, `{"domain_name":"b.example"}`); parse(t, issued.Cert)[1].SubjectKeyId[0] != '9' {
		t.Error("not by the successor")
	}
}

// A successor takes a root's place: whoever trusts the old one trusts it by the link.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","name_constraints":{"permitted":{"dns":["example.org"]}}}`)
	below := w.create(fmt.Sprintf(`{"name":"below","parent_id":%d}`, root.ID))
	old := w.issue(root.ID, `{"domain_name":"a.example.org"}`)
	w.pass(time.Hour)
	var next CA
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, root.ID), `{"key_type":"ecdsa-p384"}`).Into(t, &next)
	if next.Former != root.ID || next.KeyType != "ecdsa-p384" || next.CommonName != root.CommonName || !slices.Equal(next.Constraints.Permitted.DNS, []string{"example.org"}) {
		t.Errorf("%+v", next)
	}
	if got := w.ca(root.ID); got.Status != "ROTATED" || got.Next != next.ID {
		t.Errorf("%+v", got)
	}
	issued := w.issue(root.ID, `{"domain_name":"b.example.org"}`)
	if issued.CA != root.ID {
		t.Errorf("the certificate's CA is %d", issued.CA)
	}
	verify(t, issued.Cert, w.now, x509.ExtKeyUsageServerAuth)
	leaf := parse(t, issued.Cert)[0]
	verify(t, ca.PEM(leaf.Raw, parse(t, next.Link)[0].Raw, parse(t, root.Certificate)[0].Raw), w.now, x509.ExtKeyUsageServerAuth)
	// What rests on the old one rests on the new one: that is not deleted.
	w.Want(t, 409, w.session, "DELETE", fmt.Sprintf("%s/%d", base, next.ID), "")
	// The old one still revokes what it signed, and says so.
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, old.Serial), "")
	if got := len(w.crl(root.ID).RevokedCertificateEntries); got != 1 {
		t.Errorf("%d in the old CRL", got)
	}
	w.Want(t, 409, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, root.ID), ``)
	// A CA below the old root is rotated to one below the new.
	var below2 CA
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, below.ID), ``).Into(t, &below2)
	if below2.Parent != next.ID {
		t.Errorf("below %d", below2.Parent)
	}
	verify(t, w.issue(below.ID, `{"domain_name":"c.example.org"}`).Cert, w.now, x509.ExtKeyUsageServerAuth)
	w.Want(t, 409, w.session, "POST", base, fmt.Sprintf(`{"name":"x","parent_id":%d}`, root.ID))
}

// opensslIn runs openssl in a folder and gives what it says.
func opensslIn(t *testing.T, dir string) func(arguments ...string) string {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	return func(arguments ...string) string {
		t.Helper()
		command := exec.Command("openssl", arguments...)
		command.Dir = dir
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v\n%s", arguments, err, output)
		}
		return string(output)
	}
}

// A CA that was made elsewhere goes on here.
func TestImport(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	run := opensslIn(t, dir)
	run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", "pass:secret", "-out", "key.pem")
	run("req", "-x509", "-new", "-key", "key.pem", "-passin", "pass:secret", "-out", "root.pem", "-days", "3000", "-subj", "/O=Old/CN=Old root",
		"-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:2")
	root, key := string(must(os.ReadFile(filepath.Join(dir, "root.pem")))), string(must(os.ReadFile(filepath.Join(dir, "key.pem"))))
	body := func(certificate, key, password string) string {
		return fmt.Sprintf(`{"name":"old","certificate_pem":%q,"private_key_pem":%q,"private_key_password":%q,"last_crl_number":41}`, certificate, key, password)
	}
	w.now = time.Now().Truncate(time.Second)
	for name, wrong := range map[string]string{
		"password": body(root, key, "wrong"), "another certificate": body(w.create(`{"name":"x"}`).Certificate, key, "secret"), "no key": body(root, root, "secret"), "no certificate": body(key, key, "secret"),
		"a key in the clear": body(root, run("pkey", "-in", "key.pem", "-passin", "pass:secret"), "secret"),
	} {
		if a := w.Call(t, w.session, "POST", base+"/import", wrong); a.Status != 400 || strings.Contains(a.Body, "PRIVATE KEY-----\\nM") {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	var made CA
	w.Want(t, 201, w.session, "POST", base+"/import", body(root, key, "secret")).Into(t, &made)
	if !made.Imported || made.CommonName != "Old root" || made.Organization != "Old" || *made.PathLen != 2 || made.Status != "ACTIVE" || made.KeyType != "ecdsa-p256" {
		t.Errorf("%+v", made)
	}
	verify(t, w.issue(made.ID, `{"domain_name":"a.example"}`).Cert, w.now, x509.ExtKeyUsageServerAuth)
	if n := w.crl(made.ID).Number.Int64(); n != 42 {
		t.Errorf("CRL %d", n)
	}
	// A certificate that it signed before can be revoked.
	run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=old.example")
	run("x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "key.pem", "-passin", "pass:secret", "-set_serial", "0x1234", "-out", "leaf.pem", "-days", "10")
	leaf := string(must(os.ReadFile(filepath.Join(dir, "leaf.pem"))))
	w.pass(time.Minute)
	path := fmt.Sprintf("%s/%d/certificates/1234/revoke", base, made.ID)
	w.Want(t, 404, w.session, "POST", path, ``)
	w.Want(t, 400, w.session, "POST", path, fmt.Sprintf(`{"certificate_pem":%q}`, root))
	w.Want(t, 200, w.session, "POST", path, fmt.Sprintf(`{"certificate_pem":%q}`, leaf))
	if got := w.crl(made.ID).RevokedCertificateEntries; len(got) != 1 || got[0].SerialNumber.Int64() != 0x1234 {
		t.Errorf("%+v", got)
	}
}
