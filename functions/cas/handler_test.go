package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// world is the function over tables, keys and a bucket of its own.
type world struct {
	*functiontest.Function
	t       *testing.T
	store   *store.Store
	signer  *casigner.Signer
	mu      sync.Mutex
	now     time.Time
	session access.Caller
}

const base = "/apiv1/users/1/cas"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, store: storetest.New(t).Store, now: storetest.Now().Truncate(time.Second)}
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	log, keys, signing := slog.New(slog.NewTextHandler(t.Output(), nil)), awstest.Key(t), awstest.Signing(t)
	w.signer = &casigner.Signer{Store: w.store, Keys: keys, Signing: signing, Bucket: awstest.Bucket(t), Log: log, Now: clock}
	h := &handler{
		store: w.store, keys: keys, signing: signing, signer: w.signer,
		worker:     &caorder.Worker{Store: w.store, Keys: keys, Signer: w.signer, Log: log, Now: clock},
		revocation: "http://pki.example.test/pki", directory: "https://api.example.test/pki", log: log, now: clock,
	}
	w.Function = functiontest.New(t, h.routes(), "")
	w.session = functiontest.Session(1, w.now)
	return w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) create(body string) CA {
	w.t.Helper()
	var made CA
	w.Want(w.t, 201, w.session, "POST", base, body).Into(w.t, &made)
	return made
}

func (w *world) ca(id int64) CA {
	w.t.Helper()
	var shown CA
	w.Want(w.t, 200, w.session, "GET", fmt.Sprintf("%s/%d", base, id), "").Into(w.t, &shown)
	return shown
}

func (w *world) issue(id int64, body string) Issued {
	w.t.Helper()
	var issued Issued
	w.Want(w.t, 200, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, id), body).Into(w.t, &issued)
	return issued
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func parse(t *testing.T, text string) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return all
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
}

func newKey() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// csr is a request in JSON.
func csr(key crypto.Signer, template x509.CertificateRequest) string {
	der := must(x509.CreateCertificateRequest(rand.Reader, &template, key))
	return string(must(json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))))
}

// verify checks a chain as Go's TLS does: the last certificate is the root.
func verify(t *testing.T, text string, now time.Time, usage x509.ExtKeyUsage) []*x509.Certificate {
	t.Helper()
	chain := parse(t, text)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[1 : len(chain)-1] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Fatalf("crypto/x509: %v\n%s", err, text)
	}
	openssl(t, text, now)
	return chain
}

// openssl checks a chain by openssl verify, with its strict checks.
func openssl(t *testing.T, text string, now time.Time) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Log("openssl is not installed: its view is not asked for")
		return
	}
	chain := parse(t, text)
	dir := t.TempDir()
	write := func(name string, certificates ...*x509.Certificate) string {
		var ders [][]byte
		for _, c := range certificates {
			ders = append(ders, c.Raw)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(ca.PEM(ders...)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	arguments := []string{"verify", "-x509_strict", "-check_ss_sig", "-attime", fmt.Sprint(now.Unix()), "-CAfile", write("root.pem", chain[len(chain)-1])}
	if len(chain) > 2 {
		arguments = append(arguments, "-untrusted", write("between.pem", chain[1:len(chain)-1]...))
	}
	output, err := exec.Command("openssl", append(arguments, write("leaf.pem", chain[0]))...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl verify: %v\n%s\n%s", err, output, text)
	}
}

// The contract's own request, its answer, and the extensions that RFC 5280 wants.
func TestARootAsTheContractHasIt(t *testing.T) {
	w := newWorld(t)
	made := w.create(`{"name":"dev ca","algorithm":"ECDSA","key_size":256,"curve_name":"prime256v1","country":"de","organization":"Example","organizational_unit":"",
		"common_name":"Example dev","state":"","locality":"","valid_days":3650,"max_path_length":0,"key_usage":"keyCertSign,cRLSign"}`)
	if made.Name != "dev ca" || made.Status != "ACTIVE" || made.Algorithm != "ECDSA" || made.KeySize != 256 || *made.Curve != "prime256v1" || made.Country != "DE" ||
		made.ValidDays != 3650 || made.EncScheme != 1 || *made.PathLen != 0 || made.KeyUsage != "keyCertSign,cRLSign" || made.User != 1 {
		t.Errorf("%+v", made)
	}
	root := parse(t, made.Certificate)[0]
	if got := root.NotAfter.Sub(w.now); got < 3649*24*time.Hour || got > 3651*24*time.Hour {
		t.Errorf("valid for %v", got)
	}
	if !root.IsCA || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || !root.MaxPathLenZero || len(root.SubjectKeyId) != 20 || root.SerialNumber.BitLen() < 104 {
		t.Errorf("%+v", root)
	}
	if root.Subject.String() != "CN=Example dev,O=Example,C=DE" {
		t.Errorf("subject %s", root.Subject)
	}
	again := w.ca(made.ID)
	if again.Certificate != made.Certificate || again.Issued != 2 || again.LastUsed == nil { // its own and its OCSP signer's
		t.Errorf("%+v", again)
	}
	verify(t, made.Chain+made.Chain, w.now, x509.ExtKeyUsageAny)

	var list []CA
	a := w.Want(t, 200, w.session, "GET", base, "")
	a.Into(t, &list)
	if len(list) != 1 || list[0].ID != made.ID || list[0].Issued != 2 || a.Meta.Total != 1 {
		t.Errorf("%s", a.Body)
	}
	w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/%d", base, made.ID), "")
	w.Want(t, 404, w.session, "GET", fmt.Sprintf("%s/%d", base, made.ID), "")
}

// Each algorithm and each custody: a root, a CA below it, and certificates by both that everybody verifies.
func TestAlgorithmsAndCustodies(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []string{
		`"algorithm":"ECDSA"`, `"algorithm":"ECDSA","curve_name":"secp384r1"`, `"algorithm":"RSA","key_size":2048`, `"algorithm":"ED25519"`,
		`"algorithm":"ECDSA","key_custody":"KMS"`, `"algorithm":"ECDSA","key_size":384,"key_custody":"KMS"`, `"algorithm":"RSA","key_size":2048,"key_custody":"KMS"`,
	} {
		root := w.create(`{"name":"root",` + tc + `}`)
		below := w.create(fmt.Sprintf(`{"name":"below","parent_id":%d,%s}`, root.ID, tc))
		leaf := w.issue(below.ID, `{"domain_name":"printer","sans":["10.0.0.7","printer.corp.example","*.dev.corp.local"],"validity_seconds":86400}`)
		chain := verify(t, leaf.Cert, w.now, x509.ExtKeyUsageServerAuth)
		if len(chain) != 3 {
			t.Fatalf("%s: a chain of %d", tc, len(chain))
		}
		c := chain[0]
		if !slices.Equal(c.DNSNames, []string{"printer", "printer.corp.example", "*.dev.corp.local"}) || len(c.IPAddresses) != 1 || c.Subject.CommonName != "printer" ||
			len(c.CRLDistributionPoints) != 1 || c.CRLDistributionPoints[0] != below.CRL || c.OCSPServer[0] != below.OCSP || c.IssuingCertificateURL[0] != below.Issuer ||
			len(c.SubjectKeyId) == 0 || string(c.AuthorityKeyId) != string(chain[1].SubjectKeyId) || c.IsCA || !c.BasicConstraintsValid {
			t.Errorf("%s: %+v", tc, c)
		}
		if chain[1].CRLDistributionPoints[0] != root.CRL || chain[1].MaxPathLen != 0 || !chain[1].MaxPathLenZero || chain[1].NotAfter.After(chain[2].NotAfter) {
			t.Errorf("%s: %+v", tc, chain[1])
		}
		if leaf.ID == 0 || !leaf.SelfSigned || !leaf.Verified || leaf.Serial != ca.SerialText(c.SerialNumber) || leaf.CA != below.ID {
			t.Errorf("%s: %+v", tc, leaf)
		}
		crl := w.crl(below.ID)
		if err := crl.CheckSignatureFrom(chain[1]); err != nil || len(crl.AuthorityKeyId) == 0 || crl.Number.Int64() < 1 || !crl.NextUpdate.After(w.now) {
			t.Errorf("%s: the CRL: %v", tc, err)
		}
	}
}

// crl is what is published of a CA.
func (w *world) crl(id int64) *x509.RevocationList {
	w.t.Helper()
	object, err := w.signer.Bucket.Get(context.Background(), casigner.CRLObject(id))
	if err != nil {
		w.t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(object.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if object.ContentType != "application/pkix-crl" || !strings.Contains(object.CacheControl, "max-age=60") {
		w.t.Errorf("the CRL is %q, %q", object.ContentType, object.CacheControl)
	}
	return crl
}

// A CA below another: within its validity, path length and constraints.
func TestBelowAnother(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","valid_days":100,"max_path_length":1,"name_constraints":{"permitted":{"dns":["example.org"],"ip":["10.0.0.0/8"]},"excluded":{"dns":["secret.example.org"]}}}`)
	middle := w.create(fmt.Sprintf(`{"name":"middle","parent_id":%d,"valid_days":5000}`, root.ID))
	rootCertificate, own := parse(t, root.Certificate)[0], parse(t, middle.Certificate)[0]
	if own.NotAfter.After(rootCertificate.NotAfter) || !own.MaxPathLenZero {
		t.Errorf("until %v, path length %d", own.NotAfter, own.MaxPathLen)
	}
	for body, status := range map[string]int{
		fmt.Sprintf(`{"name":"x","parent_id":%d}`, middle.ID):                                                          409, // path length 0
		fmt.Sprintf(`{"name":"x","parent_id":%d,"max_path_length":1}`, root.ID):                                        400,
		fmt.Sprintf(`{"name":"x","parent_id":%d,"name_constraints":{"permitted":{"dns":["other.example"]}}}`, root.ID): 400,
		fmt.Sprintf(`{"name":"x","parent_id":%d,"name_constraints":{"permitted":{"dns":["a.example.org"]}}}`, root.ID): 201,
		`{"name":"x","parent_id":999}`: 404,
		`{"name":"x","name_constraints":{"permitted":{"dns":["a.example"]},"excluded":{"dns":["example"]}}}`: 400,
		`{"name":"x","name_constraints":{"permitted":{"ip":["10.0.0.1/8"]}}}`:                                400,
		`{"name":"x","algorithm":"DSA"}`: 400, `{"name":"x","algorithm":"RSA","key_size":1024}`: 400, `{"name":"x","curve_name":"secp521r1"}`: 400,
		`{"name":"x","key_usage":"digitalSignature"}`: 400, `{"name":"x","key_custody":"PAPER"}`: 400, `{"name":"x","algorithm":"ED25519","key_custody":"KMS"}`: 400,
		`{"name":""}`: 400, `{}`: 400, `{"name":"x","valid_days":20000}`: 400, `{"name":"x","country":"Germany"}`: 400, `{"name":"x","profiles":[{"name":"server","usages":["serverAuth"]}]}`: 400,
		`{"name":"x","profiles":[{"name":"p","usages":["2.5.29.37.0"]}]}`: 400, `{"name":"x","default_profile":"none"}`: 400,
	} {
		if a := w.Call(t, w.session, "POST", base, body); a.Status != status {
			t.Errorf("%s: %d %s, want %d", body, a.Status, a.Body, status)
		}
	}
	// A leaf near the CA's end ends with it, and the answer says so.
	leaf := w.issue(middle.ID, `{"domain_name":"a.example.org","validity_seconds":31536000}`)
	if c := verify(t, leaf.Cert, w.now, x509.ExtKeyUsageServerAuth)[0]; c.NotAfter.After(own.NotAfter) || len(leaf.Warnings) != 1 {
		t.Errorf("until %v: %v", c.NotAfter, leaf.Warnings)
	}
	// In use.
	a := w.Want(t, 409, w.session, "DELETE", fmt.Sprintf("%s/%d", base, root.ID), "")
	if a.Error.Params["uses"] != 2.0 {
		t.Errorf("%s", a.Body)
	}
	w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/%d?force=true", base, root.ID), "")
	w.Want(t, 409, w.session, "DELETE", fmt.Sprintf("%s/%d", base, middle.ID), "")
	w.Want(t, 204, w.session, "DELETE", fmt.Sprintf("%s/%d?force=true", base, middle.ID), "")
	w.Want(t, 404, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, middle.ID), `{"domain_name":"a.example.org"}`)
}

// Who may do what: the CA's permission, and that for certificates too where one is made.
func TestPermissions(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	one := fmt.Sprintf("%s/%d", base, root.ID)
	key := func(permissions access.Permissions) access.Caller { return functiontest.Key(1, permissions, w.now) }
	for _, tc := range []struct {
		permissions  access.Permissions
		method, path string
		body         string
		status       int
	}{
		{"cas:*:read", "GET", base, "", 200}, {"certs:*:write", "GET", base, "", 403}, {"cas:*:read", "POST", base, `{"name":"x"}`, 403},
		{"cas:*:write", "POST", one + "/issue", `{"domain_name":"a.example"}`, 403}, {"cas:*:write;certs:*:write", "POST", one + "/issue", `{"domain_name":"a.example"}`, 200},
		{access.Permissions(fmt.Sprintf("cas:%d:write;certs:*:write", root.ID)), "POST", one + "/issue", `{"domain_name":"a.example"}`, 200},
		{access.Permissions(fmt.Sprintf("cas:%d:write", root.ID+1)), "GET", one, "", 403},
		{"cas:*:write", "POST", one + "/acme-bindings", `{"name":"x"}`, 403}, {"cas:*:read", "GET", one + "/health", "", 200}, {"cas:*:read", "GET", one + "/csr", "", 403},
		{"cas:*:read", "POST", one + "/preview", `{"names":["a.example"]}`, 200}, {"cas:*:read", "DELETE", one, "", 403},
	} {
		if a := w.Call(t, key(tc.permissions), tc.method, tc.path, tc.body); a.Status != tc.status {
			t.Errorf("%s %s with %s: %d %s, want %d", tc.method, tc.path, tc.permissions, a.Status, a.Body, tc.status)
		}
	}
	// Another user's CA is not there, under whatever path.
	other := functiontest.Session(2, w.now)
	for _, route := range []string{"GET ", "DELETE ", "POST /rotate", "GET /csr", "POST /crl", "GET /health", "GET /certificates", "GET /acme-bindings"} {
		method, rest, _ := strings.Cut(route, " ")
		if a := w.Call(t, other, method, fmt.Sprintf("/apiv1/users/2/cas/%d%s", root.ID, rest), ""); a.Status != 404 {
			t.Errorf("%s: %d %s", route, a.Status, a.Body)
		}
		if a := w.Call(t, other, method, one+rest, ""); a.Status != 403 {
			t.Errorf("%s under the owner's path: %d", route, a.Status)
		}
	}
}

// A profile or name that is changed counts from the next certificate on, in whatever process.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	one := fmt.Sprintf("%s/%d", base, root.ID)
	other := &casigner.Signer{Store: w.store, Keys: w.signer.Keys, Signing: w.signer.Signing, Bucket: w.signer.Bucket, Log: w.signer.Log, Now: w.signer.Now}
	ask := ca.Request{Names: []string{"b.example"}, Public: newKey().Public()}
	if _, err := other.Issue(context.Background(), 1, root.ID, ask, "test", 0); err != nil { // it has the CA in memory now
		t.Fatal(err)
	}
	w.Want(t, 200, w.session, "PUT", one, `{"name":"new","profiles":[{"name":"none","usages":["codeSigning"]}],"default_profile":"none"}`)
	if got := w.ca(root.ID); got.Name != "new" || got.Default != "none" || len(got.Profiles) != 1 {
		t.Errorf("%+v", got)
	}
	if _, err := other.Issue(context.Background(), 1, root.ID, ask, "test", 0); err == nil {
		t.Error("a process that has the CA in memory does not see the change")
	}
	w.Want(t, 400, w.session, "PUT", one, `{"profiles":[]}`) // the default would be gone
	w.Want(t, 200, w.session, "PUT", one, `{"profiles":[],"default_profile":""}`)
	if got := w.ca(root.ID); got.Default != "server" || len(got.Profiles) != 0 {
		t.Errorf("%+v", got)
	}
	w.Want(t, 204, w.session, "DELETE", one, "")
	if _, err := other.Issue(context.Background(), 1, root.ID, ask, "test", 0); err == nil {
		t.Error("a process that has the CA in memory signs for one that is deleted")
	}
}

// Two callers create, issue, revoke, rotate and delete at the same time: what is counted stays true.
func TestTwoCallersAtOnce(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	var group sync.WaitGroup
	for caller := range 2 {
		group.Go(func() {
			for i := range 6 {
				var made CA
				a := w.Call(t, w.session, "POST", base, fmt.Sprintf(`{"name":"c%d-%d","parent_id":%d}`, caller, i, root.ID))
				if a.Status != 201 {
					continue
				}
				a.Into(t, &made)
				var issued Issued
				a = w.Call(t, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, made.ID), `{"domain_name":"a.example"}`)
				if a.Status != 200 {
					t.Errorf("issue: %d %s", a.Status, a.Body)
					continue
				}
				a.Into(t, &issued)
				var pair sync.WaitGroup
				for range 2 { // both at the same certificate and CA
					pair.Go(func() {
						w.Call(t, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, made.ID, issued.Serial), "")
					})
					pair.Go(func() {
						if i%2 == 0 {
							w.Call(t, w.session, "DELETE", fmt.Sprintf("%s/%d?force=true", base, made.ID), "")
						}
					})
				}
				pair.Wait()
			}
		})
	}
	group.Wait()
	cas := must(w.store.CAs(context.Background(), 1))
	below := int64(0)
	for _, c := range cas {
		if c.ID == root.ID {
			continue
		}
		below++
		revoked := 0
		for _, e := range must(w.store.Entries(context.Background(), c.ID, "", 100)) {
			if !e.RevokedAt.IsZero() {
				revoked++
			}
		}
		if lines := must(w.store.Revocations(context.Background(), c.ID)); len(lines) != revoked || revoked != 1 {
			t.Errorf("CA %d: %d revoked in the ledger, %d in the list", c.ID, revoked, len(lines))
		}
	}
	if got := must(w.store.CA(context.Background(), 1, root.ID)); got.Uses != below {
		t.Errorf("%d rest on the root, and it counts %d", below, got.Uses)
	}
	for _, c := range cas {
		if _, err := w.store.DeleteCA(context.Background(), 1, c.ID, true, w.now); err != nil {
			t.Error(err)
		}
	}
	if got, err := w.store.CAs(context.Background(), 1); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	w.create(`{"name":"again"}`)
}

// Health: nothing of a new CA, and what is wrong of one that was left alone.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","valid_days":400,"max_path_length":1}`)
	health := func(id int64) (HealthReport, []string) {
		var got HealthReport
		w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/health", base, id), "").Into(t, &got)
		var codes []string
		for _, f := range got.Findings {
			codes = append(codes, f.Code)
		}
		return got, codes
	}
	below := w.create(fmt.Sprintf(`{"name":"below","parent_id":%d,"valid_days":300}`, root.ID))
	if got, codes := health(below.ID); got.Status != "ok" || len(codes) != 0 {
		t.Errorf("a new CA: %s %+v", got.Status, got.Findings)
	}
	if got, codes := health(root.ID); got.Status != "ok" || !slices.Equal(codes, []string{"root_online"}) {
		t.Errorf("a new root: %s %v", got.Status, codes)
	}
	w.pass(3 * 24 * time.Hour)
	if got, codes := health(below.ID); got.Status != "warning" || !slices.Contains(codes, "crl_old") {
		t.Errorf("after three days: %s %v", got.Status, codes)
	}
	w.pass(13 * 24 * time.Hour)
	if got, codes := health(below.ID); got.Status != "critical" || !slices.Contains(codes, "crl_lapsed") || !slices.Contains(codes, "ocsp_expired") {
		t.Errorf("after sixteen days: %s %v", got.Status, codes)
	}
	own := must(w.store.CA(context.Background(), 1, below.ID)).Certificate()
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, ca.SerialText(own.SerialNumber)), "")
	if _, codes := health(below.ID); !slices.Contains(codes, "revoked") {
		t.Errorf("revoked: %v", codes)
	}
	w.pass(280 * 24 * time.Hour)
	if _, codes := health(below.ID); !slices.Contains(codes, "expires") {
		t.Errorf("near the end: %v", codes)
	}
	pending := w.create(`{"name":"x","external":true}`)
	if _, codes := health(pending.ID); !slices.Equal(codes, []string{"pending"}) {
		t.Errorf("pending: %v", codes)
	}
	weak := w.create(`{"name":"weak","algorithm":"RSA","key_size":2048,"profiles":[{"name":"p","usages":["serverAuth"],"dns":["other.example"]}],"name_constraints":{"permitted":{"dns":["example.org"]}}}`)
	if _, codes := health(weak.ID); !slices.Contains(codes, "weak_key") || !slices.Contains(codes, "profile_conflict") {
		t.Errorf("weak: %v", codes)
	}
}

// Bindings of the CA's ACME server: the key is shown once.
func TestBindings(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	path := fmt.Sprintf("%s/%d/acme-bindings", base, root.ID)
	var b Binding
	w.Want(t, 201, functiontest.Key(1, "cas:*:write;certs:*:write", w.now), "POST", path, `{"name":"ci","names":["Corp.example","10.0.0.0/8"],"profile":"server","expires_in_seconds":60}`).Into(t, &b)
	if b.ID == "" || len(b.Key) < 43 || b.APIKey != 3 || b.Status != "ACTIVE" || b.Directory != root.Directory || !slices.Equal(b.Names, []string{"corp.example", "10.0.0.0/8"}) {
		t.Errorf("%+v", b)
	}
	w.pass(time.Hour)
	a := w.Want(t, 200, w.session, "GET", path, "")
	if strings.Contains(a.Body, b.Key) || !strings.Contains(a.Body, `"EXPIRED"`) {
		t.Errorf("%s", a.Body)
	}
	w.Want(t, 400, w.session, "POST", path, `{"name":"ci","names":["*.x"]}`)
	w.Want(t, 400, w.session, "POST", path, `{"name":"ci","profile":"none"}`)
	w.Want(t, 204, w.session, "DELETE", path+"/"+b.ID, "")
	w.Want(t, 404, w.session, "DELETE", path+"/"+b.ID, "")
}
