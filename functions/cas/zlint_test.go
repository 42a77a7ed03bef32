package main

import (
	gox509 "crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// notOurs are lints of rules for publicly trusted CAs that are wrong for a private one.
var notOurs = []string{
	// They want the policies by which a CA asserts that it follows the rules of the CA/Browser Forum.
	"e_sub_cert_cert_policy_empty", "e_sub_cert_certificate_policies_missing", "e_exactly_one_smime_policy",
	// Private addresses are what a private CA is for.
	"e_ext_san_contains_reserved_ip", "e_ext_nc_intersects_reserved_ip",
}

// Every profile is without an error of zlint's, by RFC 5280 and what it knows besides; one that asserts the policies
// of a public CA is without any exception.
func TestZLint(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root","organization":"Example","country":"DE","profiles":[]}`)
	below := w.create(`{"name":"below","organization":"Example","country":"DE","parent_id":1,"name_constraints":{"permitted":{"dns":["example.org"],"email":["example.org"],"ip":["10.0.0.0/8"],"uri":["example.org"]}},
		"profiles":[{"name":"web","usages":["serverAuth"],"dns":["example.org"],"policies":["2.23.140.1.2.1"]},{"name":"mail","usages":["emailProtection"],"email":["example.org"],"policies":["2.23.140.1.5.1.3"]}]}`)
	texts := map[string]string{"root": root.Certificate, "below": below.Certificate}
	for name, body := range map[string]string{
		"server": `{"domain_name":"a.example.org","sans":["10.0.0.1"]}`, "server rsa": `{"domain_name":"a.example.org","key_type":"rsa"}`,
		"client": `{"profile":"client","domain_name":"a.example.org"}`, "both": `{"profile":"both","domain_name":"*.example.org"}`,
		"smime": `{"profile":"smime","domain_name":"ann@example.org"}`, "smime rsa": `{"profile":"smime","domain_name":"ann@example.org","key_type":"rsa"}`,
		"code_signing": `{"profile":"code_signing","common_name":"Example Release","organization":"Example","country":"DE","csr":` + csr(newKey(), gox509.CertificateRequest{}) + `}`,
		"public":       `{"profile":"web","domain_name":"a.example.org"}`, "public mail": `{"profile":"mail","domain_name":"ann@example.org"}`,
	} {
		texts[name] = w.issue(below.ID, body).Cert
	}
	for name, text := range texts {
		block, _ := pem.Decode([]byte(text))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for found, result := range zlint.LintCertificate(c).Results {
			if result.Status >= lint.Error && (strings.HasPrefix(name, "public") || !slices.Contains(notOurs, found)) {
				t.Errorf("%s: %s %s\n%s", name, found, result.Details, text)
			}
		}
	}
	list := w.crl(below.ID)
	parsed, err := x509.ParseRevocationList(list.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for found, result := range zlint.LintRevocationList(parsed).Results {
		if result.Status >= lint.Error {
			t.Errorf("the CRL: %s %s", found, result.Details)
		}
	}
}
