package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"cjj365.cc/bb/shared/pki"
)

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
