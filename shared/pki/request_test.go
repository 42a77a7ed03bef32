package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/problem"
)

func requestPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func TestARequestHasTheNamesAndTheSubject(t *testing.T) {
	subject := Subject{"Ann & Söhne", "Web", "de", "Bayern", "München"}
	names := []string{"example.org", "*.example.org", "xn--bcher-kva.example"}
	for _, kind := range []KeyType{ECDSAP256, ECDSAP384, RSA2048, Ed25519} {
		k := newKey(t, kind)
		der, err := NewRequest(k.Signer(), names, subject)
		if err != nil {
			t.Fatal(err)
		}
		read, err := Public.ParseRequest(requestPEM(der))
		if err != nil || !slices.Equal(read.Names, names) || read.KeyType != kind || !Same(read.Public, k.Public()) || !bytes.Equal(read.DER, der) {
			t.Errorf("%s: %+v, %v", kind, read, err)
		}
		text := string(openssl(t, der, "req", "-inform", "DER", "-verify", "-noout", "-text", "-nameopt", "utf8,sep_comma_plus"))
		for _, want := range []string{
			"C=DE,ST=Bayern,L=München,O=Ann & Söhne,OU=Web,CN=example.org",
			"DNS:example.org, DNS:*.example.org, DNS:xn--bcher-kva.example",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: openssl does not see %q in\n%s", kind, want, text)
			}
		}
	}
}

func TestACommonNameHas64Characters(t *testing.T) {
	k := newKey(t, ECDSAP256)
	for length, want := range map[int]bool{64: true, 65: false} {
		name := strings.Repeat("a", 50) + "." + strings.Repeat("b", length-51-len(".org")) + ".org"
		der, err := NewRequest(k.Signer(), []string{name}, Subject{})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificateRequest(der)
		if err != nil || (parsed.Subject.CommonName == name) != want || !slices.Equal(parsed.DNSNames, []string{name}) || len(parsed.Subject.Names) > 1 {
			t.Errorf("%d characters: common name %q, %v", length, parsed.Subject.CommonName, err)
		}
	}
	der, err := NewRequest(k.Signer(), []string{"192.0.2.1", "nas.local", "2001:db8::1"}, Subject{})
	if err != nil {
		t.Fatal(err)
	}
	if read, err := Private.ParseRequestDER(der); err != nil || !slices.Equal(read.Names, []string{"nas.local", "192.0.2.1", "2001:db8::1"}) {
		t.Errorf("addresses: %q, %v", read.Names, err)
	}
	if _, err := NewRequest(k.Signer(), nil, Subject{}); err == nil {
		t.Error("a request for nothing is made")
	}
}

func TestSubjects(t *testing.T) {
	for _, c := range []struct {
		subject Subject
		good    bool
	}{
		{Subject{}, true},
		{Subject{Country: "de", Organization: strings.Repeat("ö", 64), State: strings.Repeat("s", 128)}, true},
		{Subject{Country: "DEU"}, false},
		{Subject{Country: "D"}, false},
		{Subject{Country: "1A"}, false},
		{Subject{Country: "ſs"}, false},
		{Subject{Organization: strings.Repeat("o", 65)}, false},
		{Subject{Unit: strings.Repeat("o", 65)}, false},
		{Subject{State: strings.Repeat("o", 129)}, false},
		{Subject{Locality: "a\nb"}, false},
		{Subject{Organization: "a\x00b"}, false},
		{Subject{Organization: "\xff"}, false},
		{Subject{Organization: "a\u202eb"}, false},
	} {
		got, err := c.subject.Normalize()
		if (err == nil) != c.good || err == nil && got.Country != strings.ToUpper(c.subject.Country) || err != nil && !errors.Is(err, problem.InvalidArgument) {
			t.Errorf("%q: %q, %v", c.subject, got, err)
		}
	}
}

// requestBy makes a request that NewRequest would not.
func requestBy(t testing.TB, key crypto.Signer, change func(*x509.CertificateRequest)) []byte {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "example.org"}, DNSNames: []string{"example.org"}}
	change(template)
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func extension(t testing.TB, oid asn1.ObjectIdentifier, critical bool, value any) pkix.Extension {
	t.Helper()
	der, ok := value.([]byte)
	if !ok {
		var err error
		if der, err = asn1.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	return pkix.Extension{Id: oid, Critical: critical, Value: der}
}

func names(dns ...string) func(*x509.CertificateRequest) {
	return func(c *x509.CertificateRequest) { c.Subject.CommonName, c.DNSNames = "", dns }
}

func TestRequestsOfCallers(t *testing.T) {
	k := newKey(t, ECDSAP256).Signer()
	rsa2048 := newKey(t, RSA2048).Signer()
	elliptic224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	elliptic521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	rsa1024, _ := rsa.GenerateKey(rand.Reader, 1024)
	oidOther := asn1.ObjectIdentifier{1, 2, 3, 4}
	with := func(extensions ...pkix.Extension) func(*x509.CertificateRequest) {
		return func(c *x509.CertificateRequest) { c.ExtraExtensions = extensions }
	}
	type ca struct {
		CA bool
	}
	san := func(tag int, content string) []byte {
		der, _ := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(content)}})
		return der
	}
	for _, c := range []struct {
		name   string
		key    crypto.Signer
		change func(*x509.CertificateRequest)
		want   string // the names, or what the refusal says
	}{
		{"as usual", k, func(*x509.CertificateRequest) {}, "example.org"},
		{"without a common name", k, names("b.example", "a.example"), "b.example a.example"},
		{"a common name that is not among the SANs", k, func(c *x509.CertificateRequest) { c.DNSNames = []string{"a.example"} }, "example.org a.example"},
		{"a common name only", k, func(c *x509.CertificateRequest) { c.DNSNames = nil }, "example.org"},
		{"capitals", k, names("EXAMPLE.org"), "example.org"},
		{"RSA with SHA-256", rsa2048, func(*x509.CertificateRequest) {}, "example.org"},
		{"RSA-PSS", rsa2048, func(c *x509.CertificateRequest) { c.SignatureAlgorithm = x509.SHA384WithRSAPSS }, "example.org"},
		{"CA:FALSE", k, with(extension(t, oidBasicConstraints, true, ca{false})), "example.org"},
		{"digitalSignature", k, with(extension(t, oidKeyUsage, true, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})), "example.org"},
		{"an unknown extension", k, with(extension(t, oidOther, false, 1)), "example.org"},
		{"must-staple", k, with(extension(t, oidTLSFeature, true, []byte{0x30, 3, 2, 1, 5})), "example.org"},

		{"no names", k, names(), "at least one name"},
		{"101 names", k, names(numbered(101)...), "100 names, not 101"},
		{"a common name that is no host", k, func(c *x509.CertificateRequest) { c.Subject.CommonName = "Ann's server" }, `\"Ann's server\"`},
		{"NUL in the common name", k, func(c *x509.CertificateRequest) { c.Subject.CommonName = "example.org\x00.evil.org" }, `'\x00'`},
		{"NUL in a name", k, names("example.org\x00.evil.org"), `'\x00'`},
		{"a trailing dot", k, names("example.org."), "trailing dot"},
		{"a wildcard of a top-level domain", k, names("*.org"), "two labels"},
		{"two common names", k, func(c *x509.CertificateRequest) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: "a.example"}, {Type: oidCommonName, Value: "example.org"}}
		}, "more than one common name"},
		{"an IP address", k, func(c *x509.CertificateRequest) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }, "no DNS names"},
		{"an IP address as DNS name", k, names("192.0.2.1"), "IP address"},
		{"an e-mail address", k, func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"ann@example.org"} }, "no DNS names"},
		{"a URI", k, func(c *x509.CertificateRequest) { c.URIs = []*url.URL{{Scheme: "https", Host: "example.org"}} }, "no DNS names"},
		{"another kind of name", k, with(extension(t, oidSubjectAltName, false, san(8, "\x2a\x03"))), "no DNS names"},
		{"CA:TRUE", k, with(extension(t, oidBasicConstraints, true, ca{true})), "CA certificate"},
		{"CA:TRUE, not critical", k, with(extension(t, oidBasicConstraints, false, ca{true})), "CA certificate"},
		{"CA constraints that are something else", k, with(extension(t, oidBasicConstraints, false, 5)), "cannot be read"},
		{"keyCertSign", k, with(extension(t, oidKeyUsage, true, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6})), "key usage of a CA"},
		{"cRLSign", k, with(extension(t, oidKeyUsage, false, asn1.BitString{Bytes: []byte{0x82}, BitLength: 7})), "key usage of a CA"},
		{"a critical extension", k, with(extension(t, oidOther, true, 1)), "1.2.3.4"},
		{"two lists of names", k, with(extension(t, oidSubjectAltName, false, san(2, "a.example")), extension(t, oidSubjectAltName, false, san(2, "b.example"))), "PKCS#10"},
		{"P-224", elliptic224, func(*x509.CertificateRequest) {}, "too small"},
		{"P-521", elliptic521, func(*x509.CertificateRequest) {}, "P-521"},
		{"RSA 1024", rsa1024, func(*x509.CertificateRequest) {}, "2048 bits at least"},
		{"SHA-1", rsa2048, func(c *x509.CertificateRequest) { c.SignatureAlgorithm = x509.SHA1WithRSA }, "SHA-256"},
		{"ECDSA with SHA-1", k, func(c *x509.CertificateRequest) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }, "SHA-256"},
	} {
		read, err := Public.ParseRequestDER(requestBy(t, c.key, c.change))
		switch {
		case err == nil:
			if strings.Join(read.Names, " ") != c.want {
				t.Errorf("%s: names %q", c.name, read.Names)
			}
		case strings.Contains(c.want, ".example") || c.want == "example.org":
			t.Errorf("%s: %v", c.name, err)
		case len(read.Names) > 0 || !strings.Contains(strings.ReplaceAll(err.Error(), `"`, `\"`), c.want):
			t.Errorf("%s: %q, %v", c.name, read.Names, err)
		}
		var p *problem.Error
		if err != nil && !errors.As(err, &p) {
			t.Errorf("%s: %v is not for the caller", c.name, err)
		}
	}
}

func TestARequestMustBeWhole(t *testing.T) {
	k := newKey(t, ECDSAP256)
	der, err := NewRequest(k.Signer(), []string{"example.org"}, Subject{})
	if err != nil {
		t.Fatal(err)
	}
	std, text := base64.StdEncoding.EncodeToString(der), requestPEM(der)
	for _, good := range []string{text, "\r\n" + strings.ReplaceAll(text, "\n", "\r\n"), strings.TrimSpace(text),
		strings.ReplaceAll(text, "CERTIFICATE", "NEW CERTIFICATE"), std, std[:60] + "\n" + std[60:] + "\n", base64.RawURLEncoding.EncodeToString(der)} {
		if read, err := Public.ParseRequest(good); err != nil || !bytes.Equal(read.DER, der) {
			t.Errorf("%.40q: %v", good, err)
		}
	}
	certificate := strings.ReplaceAll(text, "CERTIFICATE REQUEST", "CERTIFICATE")
	for name, bad := range map[string]string{
		"nothing": "", "text": "a request", "two": text + text, "text behind it": text + "x", "text before it": "x" + text,
		"a certificate": certificate, "a key": string(k.PEM()), "half of it": text[:len(text)/2], "trailing bytes": base64.StdEncoding.EncodeToString(append(bytes.Clone(der), 0)),
		"trailing bytes in PEM": requestPEM(append(bytes.Clone(der), 0)), "with headers": strings.Replace(text, "-----\n", "-----\nA: b\n\n", 1),
		"a block in a block": strings.Replace(text, "-----\n", "-----\n"+text, 1), "64 kB": strings.Repeat("A", maxRequest+1),
	} {
		if _, err := Public.ParseRequest(bad); !errors.Is(err, problem.InvalidArgument) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range der { // whatever bit is changed, it is not the same request by the same key
		changed := bytes.Clone(der)
		changed[i] ^= 1
		if read, err := Public.ParseRequestDER(changed); err == nil {
			t.Errorf("byte %d may be changed: %q", i, read.Names)
		}
	}
}

func TestRequestsOfOpenSSL(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	for _, c := range []struct {
		algorithm string
		arguments []string
		want      string
	}{
		{"EC", []string{"-subj", "/C=DE/O=Ann/CN=example.org", "-addext", "subjectAltName=DNS:www.example.org"}, "example.org www.example.org"},
		{"ED25519", []string{"-subj", "/CN=example.org"}, "example.org"},
		{"RSA-PSS", []string{"-subj", "/CN=example.org"}, "not known"},
		{"RSA", []string{"-subj", "/CN=example.org", "-md5"}, "SHA-256"},
		{"RSA512", []string{"-subj", "/CN=example.org", "-sha256"}, "2048 bits at least"},
		{"EC", []string{"-subj", "/CN=example.org", "-addext", "subjectAltName=otherName:1.2.3.4;UTF8:example.org"}, "no DNS names"},
		{"EC", []string{"-subj", "/CN=example.org", "-addext", "nameConstraints=critical,permitted;DNS:example.org"}, "critical"},
		{"EC", []string{"-subj", "/CN=example.org", "-addext", "extendedKeyUsage=critical,serverAuth"}, "example.org"},
	} {
		options := map[string][]string{
			"EC": {"EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, "RSA512": {"RSA", "-pkeyopt", "rsa_keygen_bits:512"},
		}[c.algorithm]
		if options == nil {
			options = []string{c.algorithm}
		}
		if err := os.WriteFile(key, openssl(t, nil, append([]string{"genpkey", "-quiet", "-algorithm"}, options...)...), 0o600); err != nil {
			t.Fatal(err)
		}
		read, err := Public.ParseRequest(string(openssl(t, nil, append([]string{"req", "-new", "-key", key}, c.arguments...)...)))
		if got := strings.Join(read.Names, " "); got != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s %q: %q, %v", c.algorithm, c.arguments, got, err)
		}
	}
}

func TestHugeRequestsAreRefusedAtOnce(t *testing.T) {
	k := newKey(t, ECDSAP256).Signer()
	var many []string
	for i := range 7000 {
		many = append(many, string(rune('a'+i%26))+".be")
	}
	// A public key of 250,000 bits, in the place of the request's own.
	huge := requestBy(t, newKey(t, RSA2048).Signer(), func(*x509.CertificateRequest) {})
	var parsed struct {
		Info struct {
			Version int
			Subject asn1.RawValue
			Key     struct {
				Algorithm asn1.RawValue
				Bits      asn1.BitString
			}
			Attributes asn1.RawValue `asn1:"tag:0"`
		}
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(huge, &parsed); err != nil {
		t.Fatal(err)
	}
	number := append([]byte{0x02, 0x82, 0x80, 0x00, 0x7f}, bytes.Repeat([]byte{0xff}, 0x7fff)...)
	number = append(number, 0x02, 0x04, 0x7f, 0xff, 0xff, 0xff)
	number = append([]byte{0x30, 0x82, byte(len(number) >> 8), byte(len(number))}, number...)
	parsed.Info.Key.Bits = asn1.BitString{Bytes: number, BitLength: 8 * len(number)}
	huge, err := asn1.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := x509.ParseCertificateRequest(huge); err != nil || read.PublicKey.(*rsa.PublicKey).N.BitLen() != 0x8000*8-1 {
		t.Fatalf("the huge key is none: %v", err)
	}
	for name, text := range map[string]string{
		"1 MB":              strings.Repeat("A", 1<<20),
		"64 kB of PEM":      strings.Repeat("-----BEGIN CERTIFICATE REQUEST-----\n", maxRequest/36),
		"64 kB of hyphens":  "-----BEGIN " + strings.Repeat("-", maxRequest-20),
		"64 kB of newlines": strings.Repeat("\n", maxRequest),
		"7,000 names":       base64.StdEncoding.EncodeToString(requestBy(t, k, names(many...))),
		"a huge key":        base64.StdEncoding.EncodeToString(huge),
	} {
		inTime(t, name, func() {
			if _, err := Public.ParseRequest(text); err == nil {
				t.Errorf("%s: accepted", name)
			}
		})
	}
}

// FuzzRequest: a request that is accepted is accepted in each of its forms with the same names, which are
// names on their own; and the CA gets the bytes that were checked.
func FuzzRequest(f *testing.F) {
	for _, kind := range []KeyType{ECDSAP256, RSA2048, Ed25519} {
		der, err := NewRequest(newKey(f, kind).Signer(), []string{"example.org", "*.example.org"}, Subject{Organization: "Ann", Country: "DE"})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(der))
		f.Add(requestPEM(der))
		f.Add(base64.StdEncoding.EncodeToString(der))
	}
	f.Fuzz(func(t *testing.T, text string) {
		read, err := Public.ParseRequest(text)
		if err != nil {
			if read, err = Public.ParseRequestDER([]byte(text)); err != nil {
				return
			}
		}
		if names, err := Public.Names("", read.Names); err != nil || !slices.Equal(names, read.Names) {
			t.Fatalf("names %q: %q, %v", read.Names, names, err)
		}
		for _, form := range []string{requestPEM(read.DER), base64.StdEncoding.EncodeToString(read.DER), base64.RawURLEncoding.EncodeToString(read.DER)} {
			again, err := Public.ParseRequest(form)
			if err != nil || !bytes.Equal(again.DER, read.DER) || !slices.Equal(again.Names, read.Names) || !Same(again.Public, read.Public) {
				t.Fatalf("is read otherwise when written: %v", err)
			}
		}
	})
}

// FuzzRequestedExtensions: a CA that copied the extensions of an accepted request would certify no CA, and
// no other names than were read.
func FuzzRequestedExtensions(f *testing.F) {
	key := newKey(f, ECDSAP256).Signer()
	sequence := func(value any) []byte {
		der, err := asn1.Marshal(value)
		if err != nil {
			f.Fatal(err)
		}
		return der
	}
	f.Add("example.org", "example.org", sequence([]asn1.RawValue{{Class: 2, Tag: 2, Bytes: []byte("a.example")}}), sequence(struct{ CA bool }{false}), sequence(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}))
	f.Add("", "b.example", sequence([]asn1.RawValue{{Class: 2, Tag: 7, Bytes: []byte{192, 0, 2, 1}}}), sequence(struct{ CA bool }{true}), sequence(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}))
	f.Add("*.example.org", "", []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, first, second string, san, constraints, usage []byte) {
		var extensions []pkix.Extension
		for _, e := range []struct {
			id    asn1.ObjectIdentifier
			value []byte
		}{{oidSubjectAltName, san}, {oidBasicConstraints, constraints}, {oidKeyUsage, usage}} {
			if len(e.value) > 0 {
				extensions = append(extensions, pkix.Extension{Id: e.id, Value: e.value})
			}
		}
		subject := pkix.Name{CommonName: first}
		if second != "" {
			subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: second}}
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, ExtraExtensions: extensions}, key)
		if err != nil {
			return
		}
		read, err := Public.ParseRequestDER(der)
		if err != nil {
			return
		}
		if names, err := Public.Names("", read.Names); err != nil || !slices.Equal(names, read.Names) {
			t.Fatalf("names %q: %q, %v", read.Names, names, err)
		}
		template := leafTemplate("x")
		template.Subject, template.DNSNames, template.KeyUsage, template.ExtraExtensions = subject, nil, 0, extensions
		copied, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return
		}
		certificate, err := x509.ParseCertificate(copied)
		if err != nil {
			return
		}
		if certificate.IsCA || certificate.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
			t.Fatalf("would be a CA: %x, %x", constraints, usage)
		}
		if len(certificate.IPAddresses)+len(certificate.EmailAddresses)+len(certificate.URIs) > 0 {
			t.Fatalf("would have other names: %x", san)
		}
		for _, name := range append(certificate.DNSNames, certificate.Subject.CommonName) {
			if name != "" && !slices.Contains(read.Names, strings.ToLower(name)) {
				t.Fatalf("%q is not among %q", name, read.Names)
			}
		}
	})
}
