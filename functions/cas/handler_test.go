package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
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
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/pki"
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

// What a CA signs by a request: the key is the caller's, and nothing is kept but the ledger's entry.
func TestIssueByRequest(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	key := newKey()
	issued := w.issue(root.ID, `{"csr":`+csr(key, x509.CertificateRequest{DNSNames: []string{"a.example", "b.example"}})+`,"profile":"both"}`)
	chain := verify(t, issued.Cert, w.now, x509.ExtKeyUsageClientAuth)
	if !pki.Same(chain[0].PublicKey, key.Public()) || issued.ID != 0 || !slices.Equal(issued.Names, []string{"a.example", "b.example"}) {
		t.Errorf("%+v", issued)
	}
	var entry Entry
	w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/certificates/%s", base, root.ID, strings.ToLower(issued.Serial)), "").Into(t, &entry)
	if entry.Status != "ISSUED" || entry.Principal != w.session.Principal() || entry.Profile != "both" || parse(t, entry.PEM)[0].SerialNumber.Cmp(chain[0].SerialNumber) != 0 {
		t.Errorf("%+v", entry)
	}
	managed := w.issue(root.ID, `{"csr":`+csr(key, x509.CertificateRequest{DNSNames: []string{"c.example"}})+`,"managed":true}`)
	c, err := w.store.Certificate(context.Background(), 1, managed.ID)
	if err != nil || !c.CallersKey || c.CA != root.ID || c.AutoRenew {
		t.Errorf("%+v, %v", c, err)
	}
}

// Each profile certifies what it is for, and nothing else.
func TestProfiles(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","profiles":[{"name":"corp","usages":["serverAuth","1.3.6.1.4.1.311.10.3.12"],"dns":["corp.example"],"ip":["10.0.0.0/8"],"no_wildcards":true,
		"max_names":2,"validity_seconds":3600,"max_validity_seconds":7200,"key_types":["ecdsa"]}],"default_profile":"corp"}`)
	for _, tc := range []struct {
		body  string
		usage x509.ExtKeyUsage
	}{
		{`{"domain_name":"a.corp.example"}`, x509.ExtKeyUsageServerAuth},
		{`{"domain_name":"a.corp.example","sans":["10.1.2.3"],"validity_seconds":7200}`, x509.ExtKeyUsageServerAuth},
		{`{"profile":"server","domain_name":"*.other.example","key_type":"rsa"}`, x509.ExtKeyUsageServerAuth},
		{`{"profile":"client","domain_name":"ann@example.org","sans":["spiffe://corp.example/workload"]}`, x509.ExtKeyUsageClientAuth},
		{`{"profile":"smime","domain_name":"ann@example.org","organization":"Example"}`, x509.ExtKeyUsageEmailProtection},
		{`{"profile":"smime","csr":` + csr(newKey(), x509.CertificateRequest{EmailAddresses: []string{"bob@example.org"}}) + `}`, x509.ExtKeyUsageEmailProtection},
		{`{"profile":"code_signing","common_name":"Example Release","csr":` + csr(newKey(), x509.CertificateRequest{}) + `}`, x509.ExtKeyUsageCodeSigning},
		{`{"profile":"code_signing","csr":` + csr(newKey(), x509.CertificateRequest{Subject: pkix.Name{CommonName: "Example Release"}}) + `}`, x509.ExtKeyUsageCodeSigning},
		{`{"profile":"client","csr":` + csr(newKey(), x509.CertificateRequest{URIs: []*url.URL{must(url.Parse("spiffe://corp.example/x"))}}) + `}`, x509.ExtKeyUsageClientAuth},
	} {
		verify(t, w.issue(root.ID, tc.body).Cert, w.now, tc.usage)
	}
	for _, tc := range []struct {
		body   string
		fields []string
	}{
		{`{"domain_name":"a.other.example"}`, []string{"sans"}},
		{`{"domain_name":"*.corp.example"}`, []string{"sans"}},
		{`{"domain_name":"a.corp.example","sans":["192.168.0.1","ann@corp.example"]}`, []string{"sans", "sans", "sans"}},
		{`{"domain_name":"a.corp.example","key_type":"rsa"}`, []string{"key_type"}},
		{`{"domain_name":"a.corp.example","validity_seconds":7201}`, []string{"validity_seconds"}},
		{`{"domain_name":"a.corp.example","validity_seconds":10}`, []string{"validity_seconds"}},
		{`{"domain_name":"a.other.example","validity_seconds":99999}`, []string{"sans", "validity_seconds"}},
		{`{"profile":"smime","domain_name":"a.example"}`, []string{"sans"}},
		{`{"profile":"code_signing","csr":` + csr(newKey(), x509.CertificateRequest{}) + `}`, []string{"common_name"}},
		{`{"profile":"code_signing","csr":` + csr(newKey(), x509.CertificateRequest{DNSNames: []string{"a.example"}, Subject: pkix.Name{CommonName: "x y"}}) + `}`, []string{"sans"}},
		{`{"profile":"server","csr":` + csr(newKey(), x509.CertificateRequest{DNSNames: []string{"a.example"}, Subject: pkix.Name{CommonName: "evil.example"}}) + `}`, []string{"common_name"}},
	} {
		a := w.Want(t, 400, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, root.ID), tc.body)
		var got []string
		refused, _ := a.Error.Params["refused"].([]any)
		for _, r := range refused {
			one := r.(map[string]any)
			got = append(got, one["field"].(string))
			if one["why"] == "" {
				t.Errorf("%s: nothing said of %v", tc.body, one)
			}
		}
		if !slices.Equal(got, tc.fields) {
			t.Errorf("%.120s: refused %v, want %v: %s", tc.body, got, tc.fields, a.Body)
		}
	}
	if total := w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/certificates?limit=100", base, root.ID), "").Meta.Total; total != 11 {
		t.Errorf("%d signed, with the CA's own and the OCSP signer's", total)
	}
}

// What a caller may not get certified, whatever they send (check 22).
func TestHostileRequests(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	wants := func(status int, body string) {
		t.Helper()
		a := w.Call(t, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, root.ID), body)
		if a.Status != status {
			t.Errorf("%.200s: %d %s, want %d", body, a.Status, a.Body, status)
		}
	}
	good := newKey()
	tampered := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.example"}}, good))
	tampered[len(tampered)-1] ^= 1
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	isCA := pkix.Extension{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}
	unknown := pkix.Extension{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
	pemOf := func(der []byte) string {
		return string(must(json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))))
	}
	for _, body := range []string{
		`{"csr":` + pemOf(tampered) + `}`,
		`{"csr":` + csr(p224, x509.CertificateRequest{DNSNames: []string{"a.example"}}) + `}`,
		`{"csr":` + csr(good, x509.CertificateRequest{DNSNames: []string{"a.example"}, ExtraExtensions: []pkix.Extension{isCA}}) + `}`,
		`{"csr":` + csr(good, x509.CertificateRequest{DNSNames: []string{"a.example"}, ExtraExtensions: []pkix.Extension{unknown}}) + `}`,
		`{"csr":` + csr(good, x509.CertificateRequest{DNSNames: []string{"a.example"}}) + `,"domain_name":"b.example"}`,
		`{"csr":` + csr(good, x509.CertificateRequest{DNSNames: []string{"a.example"}}) + `,"key_type":"rsa"}`,
		`{"csr":"nonsense"}`, `{"csr":""}`, `{}`, `{"domain_name":"a..b"}`, `{"domain_name":"xn--a"}`, `{"domain_name":"a b"}`, `{"domain_name":"a\u0000.example"}`,
		`{"domain_name":"ann@","profile":"smime"}`, `{"domain_name":"\"a b\"@example.org","profile":"smime"}`, `{"domain_name":"http://user@h/","profile":"client"}`,
		`{"domain_name":"a.example","profile":"ca"}`, `{"domain_name":"a.example","profile":"ocsp"}`, `{"domain_name":"a.example","country":"Germany"}`,
		`{"domain_name":"a.example","managed":false}`, `{"domain_name":"a.example","key_dist_policy":"NONE"}`, `{"domain_name":"a.example","validity_seconds":-1}`,
	} {
		wants(400, body)
	}
	wants(404, `{"domain_name":"a.example","device_id":7}`)
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprintf("%q", fmt.Sprintf("h%d.example", i))
	}
	wants(400, `{"sans":[`+strings.Join(many, ",")+`]}`)
	// The CA's own key.
	c := must(w.store.CA(context.Background(), 1, root.ID))
	own := must(w.signer.Key(context.Background(), c))
	wants(400, `{"csr":`+csr(own, x509.CertificateRequest{DNSNames: []string{"a.example"}})+`}`)
	if got := w.ca(root.ID); got.Issued != 2 {
		t.Errorf("%d were signed", got.Issued)
	}
	if _, total, err := w.store.Certificates(context.Background(), 1, 0, 20); err != nil || total != 0 {
		t.Errorf("%d certificates were stored, %v", total, err)
	}
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

// Names that the constraints of the CA, or of one above it, permit and exclude; asked for before, and refused when issued.
func TestNameConstraints(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","name_constraints":{"permitted":{"dns":["example.org"],"ip":["10.0.0.0/8"],"email":["example.org"],"uri":["example.org"]},"excluded":{"dns":["secret.example.org"],"ip":["10.9.0.0/16"]}}}`)
	below := w.create(fmt.Sprintf(`{"name":"below","parent_id":%d,"name_constraints":{"permitted":{"dns":["a.example.org","b.example.org"],"ip":["10.0.0.0/8"],"email":["example.org"],"uri":["example.org"]}}}`, root.ID))
	permitted := []string{"a.example.org", "x.a.example.org", "*.b.example.org", "10.1.2.3", "ann@example.org", "https://example.org/x"}
	excluded := []string{"c.example.org", "example.org", "secret.example.org", "other.example", "10.9.1.1", "192.168.0.1", "ann@other.example", "https://other.example/"}
	ask := func(constraints string) Preview {
		var p Preview
		names := string(must(json.Marshal(slices.Concat(permitted, excluded))))
		w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/preview", base, below.ID), `{"profile":"client","names":`+names+constraints+`}`).Into(t, &p)
		return p
	}
	p := ask("")
	if !slices.Equal(p.Allowed, permitted) || len(p.Refused) != len(excluded) {
		t.Errorf("allowed %v, refused %v", p.Allowed, p.Refused)
	}
	for _, name := range permitted {
		verify(t, w.issue(below.ID, fmt.Sprintf(`{"profile":"client","domain_name":%q}`, name)).Cert, w.now, x509.ExtKeyUsageClientAuth)
	}
	for _, name := range excluded {
		a := w.Want(t, 400, w.session, "POST", fmt.Sprintf("%s/%d/issue", base, below.ID), fmt.Sprintf(`{"profile":"client","domain_name":%q}`, name))
		if !strings.Contains(a.Error.What, "constraints") {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
	p = ask(`,"name_constraints":{"permitted":{"dns":["x.a.example.org","c.example.org"]}}`)
	if slices.Contains(p.Allowed, "a.example.org") || !slices.Contains(p.Allowed, "x.a.example.org") || len(p.Conflicts) != 1 {
		t.Errorf("%+v", p)
	}
	if got := w.ca(below.ID).Constraints; got == nil || !slices.Equal(got.Permitted.DNS, []string{"a.example.org", "b.example.org"}) {
		t.Errorf("%+v", got)
	}
}

// A revoked certificate is in the CRL and the ledger; it may have expired, and a reason is kept.
func TestRevocation(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	first := w.issue(root.ID, `{"domain_name":"a.example","validity_seconds":86400}`)
	before := w.crl(root.ID).Number
	w.pass(time.Minute)
	revoke := func(serial, body string, status int) Entry {
		t.Helper()
		var e Entry
		a := w.Want(t, status, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, serial), body)
		if status == 200 {
			a.Into(t, &e)
		}
		return e
	}
	revoke(first.Serial, `{"reason":"because"}`, 400)
	revoke("00FF", ``, 404)
	revoke("zz", ``, 400)
	if e := revoke(first.Serial, `{"reason":"keyCompromise"}`, 200); e.Status != "REVOKED" || e.Reason != 1 || e.RevokedAt != w.now.Unix() {
		t.Errorf("%+v", e)
	}
	if c := must(w.store.Certificate(context.Background(), 1, first.ID)); c.Status(w.now) != certificate.Revoked || c.Reason != 1 {
		t.Errorf("the managed certificate is %s", c.Status(w.now))
	}
	crl := w.crl(root.ID)
	if crl.Number.Cmp(before) <= 0 || len(crl.RevokedCertificateEntries) != 1 || crl.RevokedCertificateEntries[0].ReasonCode != 1 ||
		ca.SerialText(crl.RevokedCertificateEntries[0].SerialNumber) != first.Serial {
		t.Errorf("%+v", crl)
	}
	w.pass(time.Minute)
	if e := revoke(first.Serial, `{"reason":"superseded"}`, 200); e.Reason != 1 {
		t.Errorf("revoked again: %+v", e)
	}
	second := w.issue(root.ID, `{"domain_name":"b.example","validity_seconds":300}`)
	w.pass(time.Hour)
	if e := revoke(second.Serial, ``, 200); e.Status != "REVOKED" {
		t.Errorf("expired and revoked: %+v", e)
	}
	if got := len(w.crl(root.ID).RevokedCertificateEntries); got != 2 {
		t.Errorf("%d in the CRL", got)
	}
	// Once its certificate is long over it leaves the CRL.
	w.pass(33 * 24 * time.Hour)
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/crl", base, root.ID), "")
	if got := len(w.crl(root.ID).RevokedCertificateEntries); got != 0 {
		t.Errorf("%d in the CRL after a month", got)
	}
}

// The ledger is paged from the newest on, whatever the weeks.
func TestTheLedger(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	w.pass(time.Second) // serial numbers are in the order of time
	var want []string
	for i := range 7 {
		want = append(want, w.issue(root.ID, fmt.Sprintf(`{"domain_name":"h%d.example","validity_seconds":3600}`, i)).Serial)
		w.pass(5 * 24 * time.Hour)
	}
	slices.Reverse(want)
	var got []string
	for before, pages := "", 0; pages < 9; pages++ {
		a := w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/certificates?limit=2&before=%s", base, root.ID, before), "")
		var page ledgerResponse
		if err := json.Unmarshal([]byte(a.Body), &page.Body); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Body.Data {
			got = append(got, e.Serial)
		}
		if before = page.Body.Meta.Next; before == "" {
			break
		}
	}
	if len(got) != 9 || !slices.Equal(got[:7], want) {
		t.Errorf("%v\nwant %v and the CA's own two", got, want)
	}
}

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

// Whoever repeats a request gets the first answer, and there is one CA and one certificate.
func TestRepeatedRequests(t *testing.T) {
	w := newWorld(t)
	const key = "Idempotency-Key: k1"
	a := w.Want(t, 201, w.session, "POST", base, `{"name":"root"}`, key)
	b := w.Want(t, 201, w.session, "POST", base, `{"name":"root"}`, key)
	if a.Body != b.Body || b.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s\n%s", a.Body, b.Body)
	}
	w.Want(t, 409, w.session, "POST", base, `{"name":"another"}`, key)
	var root CA
	a.Into(t, &root)
	request := `{"csr":` + csr(newKey(), x509.CertificateRequest{DNSNames: []string{"a.example"}}) + `}`
	path := fmt.Sprintf("%s/%d/issue", base, root.ID)
	for _, body := range []string{request, `{"domain_name":"b.example"}`} {
		var answers [8]string
		var group sync.WaitGroup
		for i := range answers {
			group.Go(func() {
				var issued Issued
				a := w.Call(t, w.session, "POST", path, body, "Idempotency-Key: "+body[:12])
				if a.Status == 200 {
					a.Into(t, &issued)
				}
				answers[i] = fmt.Sprint(a.Status, issued.ID)
				answers[i] += issued.Serial
			})
		}
		group.Wait()
		final := w.Want(t, 200, w.session, "POST", path, body, "Idempotency-Key: "+body[:12])
		var issued Issued
		final.Into(t, &issued)
		for _, answer := range answers {
			if answer != fmt.Sprint(200, issued.ID)+issued.Serial || issued.Serial == "" {
				t.Errorf("%s, and in the end %d %s", answer, issued.ID, issued.Serial)
			}
		}
	}
	signed := 0
	for _, e := range must(w.store.Entries(context.Background(), root.ID, "", 100)) {
		if e.Profile == "server" {
			signed++
		}
	}
	if signed != 2 {
		t.Errorf("%d were signed", signed)
	}
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

// A signature is recorded before it is made, whatever comes after.
func TestIntentComesFirst(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	c := must(w.store.CA(context.Background(), 1, root.ID))
	key := newKey()
	w.pass(time.Second) // serial numbers are in the order of time
	plan := must(c.Plan(ca.Request{Names: []string{"a.example"}, Public: key.Public()}, w.now))
	dead := errors.New("the process is killed")
	_, err := w.signer.Sign(context.Background(), c, killed{must(w.signer.Key(context.Background(), c)), dead}, plan, key.Public(), "test", 0)
	if !errors.Is(err, dead) {
		t.Fatalf("%v", err)
	}
	entries := must(w.store.Entries(context.Background(), root.ID, "", 1))
	if len(entries) != 1 || entries[0].Status(w.now) != "INTENDED" || entries[0].DER() != nil || !slices.Equal(entries[0].Names, []string{"a.example"}) {
		t.Fatalf("%+v", entries)
	}
	w.pass(time.Minute)
	var e Entry
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, entries[0].Serial), "").Into(t, &e)
	if e.Status != "REVOKED" || len(w.crl(root.ID).RevokedCertificateEntries) != 1 {
		t.Errorf("%+v", e)
	}
}

// killed is a key whose process dies when it is used.
type killed struct {
	crypto.Signer
	err error
}

func (k killed) SignMessage(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
	return nil, k.err
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
