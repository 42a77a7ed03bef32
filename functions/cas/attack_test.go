package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/store"
)

// What a CA signs after its certificate, or one above it, was revoked would be worth nothing.
func TestARevokedCASignsNothing(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	middle := w.create(fmt.Sprintf(`{"name":"middle","parent_id":%d,"max_path_length":1}`, root.ID))
	lowest := w.create(fmt.Sprintf(`{"name":"lowest","parent_id":%d}`, middle.ID))
	beside := w.create(fmt.Sprintf(`{"name":"beside","parent_id":%d}`, root.ID))
	for _, c := range []CA{middle, lowest, beside} { // into memory
		w.issue(c.ID, `{"domain_name":"a.example"}`)
	}
	revoke := func(by CA, serial string, status int) {
		t.Helper()
		w.Want(t, status, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, by.ID, serial), `{"reason":"cACompromise"}`)
	}
	revoke(root, root.Serial, 409) // nobody would ask it
	revoke(root, middle.Serial, 200)
	revoke(root, middle.Serial, 200)
	for _, c := range []CA{middle, lowest} {
		if got := w.ca(c.ID); got.Status != "REVOKED" {
			t.Errorf("%s is %s", got.Name, got.Status)
		}
		for _, body := range []string{`{"domain_name":"b.example"}`, `{"csr":` + csr(newKey(), x509.CertificateRequest{DNSNames: []string{"b.example"}}) + `}`} {
			w.Want(t, 409, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, c.ID), body)
		}
		if a := w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/health", base, c.ID), ""); !strings.Contains(a.Body, `"code":"revoked"`) {
			t.Errorf("the health of %s: %s", c.Name, a.Body)
		}
		w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/crl", base, c.ID), "") // it still says what it revoked
	}
	w.Want(t, 409, w.session, "POST", base, fmt.Sprintf(`{"name":"x","parent_id":%d}`, middle.ID))
	w.Want(t, 409, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, lowest.ID), ``)
	w.issue(beside.ID, `{"domain_name":"b.example"}`)
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, middle.ID), ``)
	verify(t, w.issue(middle.ID, `{"domain_name":"b.example"}`).Cert, w.now, x509.ExtKeyUsageServerAuth)
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, lowest.ID), ``)
	verify(t, w.issue(lowest.ID, `{"domain_name":"b.example"}`).Cert, w.now, x509.ExtKeyUsageServerAuth)
}

// More CAs below than one transaction has room for.
func TestManyCAsBelowARevokedOne(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	middle := w.create(fmt.Sprintf(`{"name":"middle","parent_id":%d,"max_path_length":1}`, root.ID))
	for i := range 50 {
		w.create(fmt.Sprintf(`{"name":"c%d","parent_id":%d}`, i, middle.ID))
	}
	revoke := func() []ca.CA {
		t.Helper()
		w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, middle.Serial), ``)
		all := must(w.store.CAs(context.Background(), 1))
		for _, c := range all {
			if (c.Status(w.now) == ca.Revoked) != (c.ID != root.ID) {
				t.Errorf("%s is %s", c.Name, c.Status(w.now))
			}
		}
		return all
	}
	left := revoke()[0]
	unmarked := left
	unmarked.RevokedAt, unmarked.RevokedSerial = time.Time{}, "" // by a crash
	must(w.store.UpdateCA(context.Background(), left, unmarked, nil))
	revoke()
}

// A process that has a CA in memory does not refuse what another has allowed since.
func TestARefusalFromMemoryIsLookedAtAgain(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	w.issue(root.ID, `{"domain_name":"a.example"}`)
	before := must(w.store.CA(context.Background(), 1, root.ID))
	after := before
	after.Profiles = []ca.Profile{{Name: "lab", Usages: []string{"serverAuth"}, DNS: []string{"lab.example"}}}
	must(w.store.UpdateCA(context.Background(), before, after, nil)) // by another process
	w.issue(root.ID, `{"csr":`+csr(newKey(), x509.CertificateRequest{DNSNames: []string{"a.lab.example"}})+`,"profile":"lab"}`)
}

// A common name is held against the limits like the names, for those who read it as one.
func TestCommonNamesHaveLimits(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","profiles":[{"name":"lab","usages":["serverAuth"],"dns":["lab.example"]},{"name":"people","usages":["clientAuth"],"email":["*"]}]}`)
	ask := func(template x509.CertificateRequest, profile, name string) string {
		return fmt.Sprintf(`{"csr":%s,"profile":%q,"common_name":%q}`, csr(newKey(), template), profile, name)
	}
	path := fmt.Sprintf("%s/%d/issue", base, root.ID)
	lab := x509.CertificateRequest{DNSNames: []string{"a.lab.example"}}
	for _, name := range []string{"intranet", "www.other.example", "10.0.0.1"} {
		w.Want(t, 400, w.session, "POST", path, ask(lab, "lab", name))
	}
	w.Want(t, 200, w.session, "POST", path, ask(lab, "lab", "The lab"))
	w.Want(t, 200, w.session, "POST", path, ask(lab, "server", "intranet"))
	w.Want(t, 200, w.session, "POST", path, ask(x509.CertificateRequest{EmailAddresses: []string{"ann@example.org"}}, "people", "Ann"))
}

// The lifetime is what was asked for, its last second included (RFC 5280 §4.1.2.5): at 825 days and 5 minutes Apple's
// systems refuse a certificate.
func TestLifetimesAreThoseAskedFor(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	for _, seconds := range []int64{300, 3600, 86400, 825 * 86400} {
		got := parse(t, w.issue(root.ID, fmt.Sprintf(`{"domain_name":"a.example","validity_seconds":%d}`, seconds)).Cert)[0]
		if lifetime := got.NotAfter.Sub(got.NotBefore) + time.Second; lifetime != time.Duration(seconds)*time.Second || !got.NotBefore.Before(w.now) || !got.NotAfter.After(w.now) {
			t.Errorf("%d seconds: %v to %v", seconds, got.NotBefore, got.NotAfter)
		}
	}
	w.Want(t, 400, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, root.ID), fmt.Sprintf(`{"domain_name":"a.example","validity_seconds":%d}`, 825*86400+1))
	// One that lives for minutes is not renewed again and again.
	short := w.issue(root.ID, `{"domain_name":"b.example","validity_seconds":300,"auto_renew":true}`)
	if short.RenewAt < w.now.Add(time.Minute).Unix() || short.RenewAt > short.NotAfter {
		t.Errorf("renewed at %d, issued at %d, ends at %d", short.RenewAt, w.now.Unix(), short.NotAfter)
	}
}

// What a CA signs after a rotation is found by the CA that was asked, and followed from the root that it replaced.
func TestAfterARotation(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	below := w.create(fmt.Sprintf(`{"name":"below","parent_id":%d}`, root.ID))
	w.pass(time.Hour)
	var second, third CA
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, root.ID), ``).Into(t, &second)
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, second.ID), ``).Into(t, &third)
	leaf := w.issue(root.ID, `{"domain_name":"a.example"}`)
	for name, trusted := range map[string]string{"the first root": root.Certificate, "the second": second.Certificate, "the third": third.Certificate} {
		verifies(t, name, leaf.Cert, trusted, w.now)
	}
	w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/certificates/%s", base, leaf.CA, leaf.Serial), "")
	var e Entry
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, leaf.Serial), "").Into(t, &e)
	if e.CA != third.ID || e.Status != "REVOKED" || len(w.crl(third.ID).RevokedCertificateEntries) != 1 {
		t.Errorf("%+v", e)
	}
	// A CA below, made or rotated since, has the way too.
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, below.ID), ``)
	leaf = w.issue(below.ID, `{"domain_name":"a.example"}`)
	verifies(t, "below, the first root", leaf.Cert, root.Certificate, w.now)
	verifies(t, "below, the third", leaf.Cert, third.Certificate, w.now)
	// A successor that is deleted leaves its place to the one before.
	w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/%d?force=true", base, second.ID), "")
	if first := w.ca(root.ID); first.Next != third.ID {
		t.Errorf("%+v", first)
	}
	w.issue(root.ID, `{"domain_name":"c.example"}`)
	w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/%d?force=true", base, third.ID), "")
	if first := w.ca(root.ID); first.Status != "ACTIVE" || first.Next != 0 {
		t.Errorf("%+v", first)
	}
	if issued := w.issue(root.ID, `{"domain_name":"d.example"}`); issued.CA != root.ID {
		t.Errorf("%+v", issued)
	}
}

func verifies(t *testing.T, name, chain, root string, now time.Time) {
	t.Helper()
	certificates := parse(t, chain)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(root))
	for _, c := range certificates[1:] {
		between.AddCert(c)
	}
	if _, err := certificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// The revocation of a responder's certificate, which nobody asks for, makes another.
func TestARevokedResponderIsReplaced(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	signer := func() (store.OCSPSigner, string) {
		s := must(w.store.OCSPSigner(context.Background(), root.ID))
		return s, ca.SerialText(must(x509.ParseCertificate(s.Certificate)).SerialNumber)
	}
	_, before := signer()
	w.pass(time.Minute)
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, before), `{"reason":"keyCompromise"}`)
	if s, after := signer(); after == before || s.Key.Empty() {
		t.Errorf("still %s", after)
	}
}

// A managed certificate is marked with the revocation, whoever revokes.
func TestAManagedCertificateIsMarked(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	issued := w.issue(root.ID, `{"domain_name":"a.example","auto_renew":true}`)
	e := must(w.store.Entry(context.Background(), root.ID, issued.Serial))
	if err := w.store.RevokeEntry(context.Background(), 1, e, 1, w.now); err != nil {
		t.Fatal(err)
	}
	marked := func() certificate.Certificate {
		t.Helper()
		c := must(w.store.Certificate(context.Background(), 1, issued.ID))
		if c.Status(w.now) != certificate.Revoked || c.Reason != 1 || !c.RenewAt.IsZero() {
			t.Errorf("%+v", c)
		}
		return c
	}
	// As if it had been put in its place only after it was revoked: revoking again marks it.
	c := marked()
	c.RevokedAt, c.Reason = time.Time{}, 0
	must(w.store.UpdateCertificate(context.Background(), marked(), c, nil, nil))
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, issued.Serial), `{"reason":"superseded"}`)
	marked()
}

// A member that is misspelt would be a limit that is none.
func TestMisspeltLimits(t *testing.T) {
	w := newWorld(t)
	for _, body := range []string{
		`{"name":"x","name_constraints":{"permited":{"dns":["a.example"]}}}`, `{"name":"x","name_constraints":{"permitted":{"dsn":["a.example"]}}}`,
		`{"name":"x","profiles":[{"name":"p","usages":["serverAuth"],"dns":["*"],"max_validity":60}]}`,
	} {
		w.Want(t, http.StatusBadRequest, w.session, "POST", base, body)
	}
}

// The request has what a CA's certificate has to have.
func TestARequestSaysThatItIsForACA(t *testing.T) {
	w := newWorld(t)
	made := w.create(`{"name":"ours","external":true,"max_path_length":0}`)
	var out Request
	w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/csr", base, made.ID), "").Into(t, &out)
	block, _ := pem.Decode([]byte(out.CSR))
	request := must(x509.ParseCertificateRequest(block.Bytes))
	template := &x509.Certificate{SerialNumber: ca.NewSerial(w.now), Subject: request.Subject, NotAfter: w.now.Add(time.Hour), ExtraExtensions: request.Extensions}
	key := newKey()
	got := must(x509.ParseCertificate(must(x509.CreateCertificate(nil, template, template, key.Public(), key))))
	if !got.BasicConstraintsValid || !got.IsCA || got.MaxPathLen != 0 || !got.MaxPathLenZero || got.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(got.SubjectKeyId) != 20 {
		t.Errorf("%+v", got)
	}
}

// What a CA's certificate limits is a limit though crypto/x509 does not say so, and goes on with its successor.
func TestLimitsOfAnImportedCA(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	run := opensslIn(t, dir)
	w.now = time.Now().Add(time.Minute).Truncate(time.Second) // openssl has certificates begin when it makes them
	run("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", "pass:secret", "-out", "key.pem")
	load := func(arguments ...string) string {
		run(append([]string{"req", "-x509", "-new", "-key", "key.pem", "-passin", "pass:secret", "-out", "root.pem", "-days", "300", "-addext", "keyUsage=critical,keyCertSign,cRLSign"}, arguments...)...)
		return string(must(json.Marshal(map[string]string{"name": "old", "certificate_pem": run("x509", "-in", "root.pem"), "private_key_pem": run("pkcs8", "-topk8", "-in", "key.pem", "-passin", "pass:secret", "-passout", "pass:secret"), "private_key_password": "secret"})))
	}
	if err := os.WriteFile(filepath.Join(dir, "c.cnf"), []byte("[req]\ndistinguished_name=d\n[d]\n[dn]\nO=Old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, constraint := range []string{"nameConstraints=permitted;dirName:dn", "nameConstraints=critical,permitted;dirName:dn", "nameConstraints=excluded;otherName:1.2.3;UTF8:x"} {
		w.Want(t, 400, w.session, "POST", base+"/import", load("-config", "c.cnf", "-subj", "/CN=Old", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", constraint))
	}
	var made CA
	long := strings.Repeat("n", 64)
	w.Want(t, 201, w.session, "POST", base+"/import", load("-subj", "/CN="+long, "-addext", "extendedKeyUsage=serverAuth")).Into(t, &made)
	again := load("-subj", "/CN=again")
	w.Want(t, 409, w.session, "POST", base+"/import", again)
	for id := range []int{0, 1} {
		if id == 1 {
			w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, made.ID), ``)
		}
		verify(t, w.issue(made.ID, `{"domain_name":"a.example"}`).Cert, w.now, x509.ExtKeyUsageServerAuth)
		a := w.Want(t, 400, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, made.ID), `{"domain_name":"a.example","profile":"both"}`)
		var refused struct {
			Error struct {
				Params struct {
					Refused []ca.Refused `json:"refused"`
				} `json:"params"`
			} `json:"error"`
		}
		if err := json.Unmarshal([]byte(a.Body), &refused); err != nil || !slices.ContainsFunc(refused.Error.Params.Refused, func(r ca.Refused) bool { return r.Field == "profile" }) {
			t.Errorf("%s, %v", a.Body, err)
		}
	}
	// Deleted, it can be imported again: once.
	w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/%d?force=true", base, made.ID), "")
	var statuses [4]int
	var group sync.WaitGroup
	for i := range statuses {
		group.Go(func() { statuses[i] = w.Call(t, w.session, "POST", base+"/import", again).Status })
	}
	group.Wait()
	slices.Sort(statuses[:])
	if statuses != [4]int{201, 409, 409, 409} {
		t.Errorf("%v", statuses)
	}
}

// What is revoked while it is being made, or was before, is no CA.
func TestRevokedBeforeItWasStored(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	root := w.create(`{"name":"root"}`)
	middle := w.create(fmt.Sprintf(`{"name":"middle","parent_id":%d,"max_path_length":1}`, root.ID))
	revoke := func(by int64, serial string) {
		t.Helper()
		w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, by, serial), "")
	}
	above := must(w.store.CA(ctx, 1, middle.ID))
	fresh := func() ca.CA {
		return ca.CA{User: 1, ID: must(w.store.NextCAID(ctx)), Name: "x", CommonName: "x", Public: above.Public, PathLen: ca.NoPathLen, Parent: middle.ID, Chain: above.Chain, CreatedAt: w.now, UpdatedAt: w.now}
	}
	e := ca.Entry{CA: middle.ID, Serial: ca.SerialText(ca.NewSerial(w.now)), TBS: above.Certificate().RawTBSCertificate, Profile: ca.OfCA, At: w.now, NotAfter: w.now.Add(time.Hour)}
	if err := w.store.Intend(ctx, above, e); err != nil {
		t.Fatal(err)
	}
	revoke(middle.ID, e.Serial)
	e.Tail = []byte{1}
	if _, err := w.store.CreateCA(ctx, fresh(), []ca.Entry{e}, nil, nil); !errors.Is(err, store.ErrConflict) {
		t.Errorf("revoked while intended: %v", err)
	}
	revoke(root.ID, middle.Serial)
	if _, err := w.store.CreateCA(ctx, fresh(), nil, nil, nil); !errors.Is(err, store.ErrConflict) {
		t.Errorf("below one that was revoked meanwhile: %v", err)
	}
	// From outside, by a chain with a certificate that is revoked here.
	pending := w.create(`{"name":"ours","external":true}`)
	c := must(w.store.CA(ctx, 1, pending.ID))
	template := &x509.Certificate{
		SerialNumber: ca.NewSerial(w.now), Subject: pkix.Name{CommonName: "ours"}, NotBefore: w.now, NotAfter: w.now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}, MaxPathLenZero: true,
	}
	own := must(x509.CreateCertificate(rand.Reader, template, above.Certificate(), must(c.PublicKey()), must(w.signer.Key(ctx, above))))
	w.Want(t, 400, w.session, "POST", fmt.Sprintf("%s/%d/certificate", base, pending.ID), fmt.Sprintf(`{"certificate_pem":%q}`, ca.PEM(own)+middle.Chain))
}

// What was revoked before it was put in its place is not put there, or is marked.
func TestARevokedCertificateIsNotTakenForIssued(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	issued := w.issue(root.ID, `{"csr":`+csr(newKey(), x509.CertificateRequest{DNSNames: []string{"a.example"}})+`}`)
	if _, err := w.signer.Signed(context.Background(), 1, root.ID, issued.Serial); err != nil {
		t.Error(err)
	}
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, issued.Serial), "")
	if _, err := w.signer.Signed(context.Background(), 1, root.ID, issued.Serial); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A link that is revoked is sent no more, and its root goes on.
func TestARevokedLink(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	w.pass(time.Hour)
	var next CA
	w.Want(t, 201, w.session, "POST", fmt.Sprintf("%s/%d/rotate", base, root.ID), ``).Into(t, &next)
	w.issue(root.ID, `{"domain_name":"a.example"}`)
	link := parse(t, next.Link)[0]
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, ca.SerialText(link.SerialNumber)), "")
	if got := w.ca(next.ID); got.Link != "" || got.Status != "ACTIVE" {
		t.Errorf("%+v", got)
	}
	if chain := parse(t, w.issue(root.ID, `{"domain_name":"b.example"}`).Cert); len(chain) != 2 || ca.PEM(chain[1].Raw) != next.Certificate {
		t.Errorf("a chain of %d", len(chain))
	}
}
