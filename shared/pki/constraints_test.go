package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	crand "crypto/rand"

	"cjj365.cc/bb/shared/problem"
)

func TestConstraintsAreWrittenAsInACertificate(t *testing.T) {
	host := map[string]string{
		"Example.ORG":    "example.org",
		"example.org.":   "example.org",
		".Example.org":   ".example.org",
		"internal":       "internal",
		".internal":      ".internal",
		"Bücher.example": "xn--bcher-kva.example",
	}
	notHost := map[string]string{
		"":                              "empty",
		".":                             "empty",
		"..example.org":                 "empty label",
		"*.example.org":                 "asterisk",
		"*":                             "'*'",
		"192.0.2.1":                     "number",
		"192.0.2.0/24":                  "'/'",
		"a_b.example":                   "'_'",
		"a b":                           "' '",
		"https://example.org":           "':'",
		"example.org:443":               "':'",
		strings.Repeat("a", 64):         "63 characters",
		strings.Repeat("a", 1<<20):      "too long",
		strings.Repeat("a.", 150) + "b": "253 characters",
	}
	for _, c := range []struct {
		kind          string
		written, told map[string]string
	}{
		{"DNS", host, notHost},
		{"URI", host, notHost},
		{"URI", nil, map[string]string{"ann@example.org": "'@'"}},
		{"DNS", nil, map[string]string{"ann@example.org": "'@'"}},
		{"Email", host, notHost},
		{"Email", map[string]string{
			"Ann@Example.ORG":        "Ann@example.org",
			"ann+b.c@bücher.example": "ann+b.c@xn--bcher-kva.example",
		}, map[string]string{
			"@example.org":                     "no plain name",
			"*@example.org":                    "no plain name",
			".ann@example.org":                 "no plain name",
			"a..b@example.org":                 "no plain name",
			`"ann"@example.org`:                "no plain name",
			`a\nn@example.org`:                 "no plain name",
			"Änn@example.org":                  "no plain name",
			strings.Repeat("a", 65) + "@b.c":   "no plain name",
			"ann@":                             "empty",
			"ann@.example.org":                 "empty label",
			"ann@b@example.org":                "'@'",
			"ann@[192.0.2.1]":                  "'['",
			"ann@*.example.org":                "asterisk",
			strings.Repeat("ann@b.c", 100_000): "too long",
		}},
		{"IP", map[string]string{
			"10.0.0.0/8":      "10.0.0.0/8",
			"192.0.2.1":       "192.0.2.1/32",
			"2001:DB8::/32":   "2001:db8::/32",
			"2001:db8::1":     "2001:db8::1/128",
			"0.0.0.0/0":       "0.0.0.0/0",
			"::/0":            "::/0",
			"2001:db8:0:0::1": "2001:db8::1/128",
		}, map[string]string{
			"":                       "no range",
			"10.0.0.0/33":            "no range",
			"10.0.0.0/08":            "no range",
			"10.0.0/8":               "no range",
			"10.0.0.0/255.0.0.0":     "no range",
			"10.0.0.0-10.0.0.9":      "no range",
			"fe80::1%eth0":           "no range",
			"fe80::%eth0/10":         "no range",
			"10.0.0.1/8":             "Write 10.0.0.0/8",
			"2001:db8::1/32":         "Write 2001:db8::/32",
			"::ffff:192.0.2.1":       "IPv4",
			"::ffff:192.0.2.0/120":   "IPv4",
			"example.org":            "no range",
			strings.Repeat("1", 1e6): "too long",
		}},
	} {
		for _, list := range []string{"Permitted", "Excluded"} {
			set := func(entries ...string) (Constraints, reflect.Value) {
				var k Constraints
				v := reflect.ValueOf(&k).Elem().FieldByName(list + c.kind)
				v.Set(reflect.ValueOf(entries))
				return k, v
			}
			for typed, want := range c.written {
				k, _ := set(typed, typed)
				wanted, _ := set(want)
				got, err := k.Normalize()
				if err != nil || !reflect.DeepEqual(got, wanted) {
					t.Errorf("%s%s %q: %+v, %v", list, c.kind, typed, got, err)
				}
				if again, err := got.Normalize(); err != nil || !reflect.DeepEqual(again, got) {
					t.Errorf("%s%s %q: written %+v and then %+v, %v", list, c.kind, typed, got, again, err)
				}
			}
			for typed, reason := range c.told {
				k, _ := set(typed)
				got, err := k.Normalize()
				var p *problem.Error
				if !errors.As(err, &p) || p.Kind != problem.InvalidArgument || !strings.Contains(p.What, reason) || !got.Empty() ||
					p.Params["field"] != strings.ToLower(list+"_"+c.kind) || len(p.What) > 600 {
					t.Errorf("%s%s %.60q: %.200v", list, c.kind, typed, err)
				}
			}
		}
	}
	for n, good := range map[int]bool{100: true, 101: false} {
		k := Constraints{ExcludedDNS: numbered(n), PermittedIP: []string{"10.0.0.0/8"}}
		if _, err := k.Normalize(); (err == nil) != good {
			t.Errorf("%d entries: %v", n, err)
		}
	}
}

func TestConstraintsStandInACertificate(t *testing.T) {
	k := Constraints{
		PermittedDNS: []string{"example.org", ".internal"}, ExcludedDNS: []string{"secret.example.org"},
		PermittedIP: []string{"10.0.0.0/8", "2001:db8::/32", "::/0"}, ExcludedIP: []string{"10.1.2.3/32", "0.0.0.0/0"},
		PermittedEmail: []string{"Ann@example.org", "example.com", ".example.net"}, ExcludedEmail: []string{"bob@example.com"},
		PermittedURI: []string{"example.org"}, ExcludedURI: []string{".example.org"},
	}
	root := rootWith(t, newKey(t, Ed25519), k)
	if got := ConstraintsOf(root); !reflect.DeepEqual(got, k) {
		t.Errorf("%+v", got)
	}
	i := slices.IndexFunc(root.Extensions, func(e pkix.Extension) bool { return e.Id.String() == "2.5.29.30" })
	if i < 0 || !root.Extensions[i].Critical {
		t.Error("the constraints are not critical")
	}
	free := rootWith(t, newKey(t, Ed25519), Constraints{})
	if !ConstraintsOf(free).Empty() || k.Empty() || slices.ContainsFunc(free.Extensions, func(e pkix.Extension) bool { return e.Id.String() == "2.5.29.30" }) {
		t.Error("no constraints are some")
	}
	capital := &x509.Certificate{PermittedDNSDomains: []string{"Example.ORG"}, ExcludedEmailAddresses: []string{"Ann@Example.ORG"}}
	if got := ConstraintsOf(capital); !reflect.DeepEqual(got, Constraints{PermittedDNS: []string{"example.org"}, ExcludedEmail: []string{"Ann@example.org"}}) {
		t.Errorf("capitals: %+v", got)
	}
}

// single is one name of a kind.
func single(kind, name string) AltNames {
	switch kind {
	case "DNS":
		return AltNames{DNS: []string{name}}
	case "IP":
		return AltNames{IP: []netip.Addr{netip.MustParseAddr(name)}}
	case "email":
		return AltNames{Emails: []string{name}}
	}
	return AltNames{URIs: []string{name}}
}

const unreadable = "cannot be compared"

// The table that OpenSSL and crypto/x509 are asked too: a name is good if both take it.
var judged = []struct {
	constraints Constraints
	kind        string
	names       map[string]string // empty for a name that is good, or a part of the reason
}{
	{Constraints{PermittedDNS: []string{"example.org", ".internal"}}, "DNS", map[string]string{
		"example.org": "", "a.example.org": "", "A.B.Example.ORG": "", "*.example.org": "", "a.internal": "", "*.internal": "",
		"internal": "not within the permitted DNS names example.org, .internal", "badexample.org": "not within", "example.org.evil": "not within", "*.org": "not within",
	}},
	{Constraints{ExcludedDNS: []string{"a.example.org", ".internal"}}, "DNS", map[string]string{
		"a.example.org": "excluded by DNS:a.example.org", "b.a.example.org": "excluded", "*.a.example.org": "excluded", "x.internal": "excluded by DNS:.internal",
		"*.example.org": "excluded by DNS:a.example.org", "example.org": "", "b.example.org": "", "internal": "", "*.b.example.org": "", "*.org": "",
	}},
	{Constraints{PermittedDNS: []string{"example.org"}, ExcludedDNS: []string{"x.example.org"}}, "DNS", map[string]string{
		"example.org": "", "y.example.org": "", "x.example.org": "excluded", "*.example.org": "excluded", "x.example.com": "not within",
	}},
	{Constraints{PermittedIP: []string{"10.0.0.0/8", "2001:db8::/32"}, ExcludedIP: []string{"10.1.0.0/16"}}, "IP", map[string]string{
		"10.0.0.1": "", "10.1.0.1": "excluded by IP:10.1.0.0/16", "192.0.2.1": "not within the permitted IP addresses 10.0.0.0/8, 2001:db8::/32",
		"2001:db8::1": "", "2001:db9::1": "not within",
	}},
	{Constraints{PermittedIP: []string{"10.0.0.0/8"}}, "IP", map[string]string{"2001:db8::1": "not within", "10.255.255.255": ""}},
	{Constraints{ExcludedIP: []string{"0.0.0.0/0"}}, "IP", map[string]string{"192.0.2.1": "excluded", "2001:db8::1": ""}},
	{Constraints{PermittedEmail: []string{"Ann@example.org", "example.com", ".example.net"}}, "email", map[string]string{
		"Ann@example.org": "", "Ann@EXAMPLE.org": "", "bob@example.com": "", "bob@a.example.net": "",
		"ann@example.org": "not within", "bob@example.org": "not within", "bob@example.net": "not within",
		"bob@a.example.com": "not within", // crypto/x509 takes it
	}},
	{Constraints{ExcludedEmail: []string{"Ann@example.org", "example.com", ".example.net"}}, "email", map[string]string{
		"Ann@example.org": "excluded by email:Ann@example.org", "ann@example.org": "", "bob@example.com": "excluded", "bob@example.net": "", "bob@a.example.net": "excluded",
		"bob@a.example.com": "excluded", // OpenSSL takes it
	}},
	{Constraints{PermittedURI: []string{"example.org", ".example.net"}}, "URI", map[string]string{
		"https://example.org/a?b=c": "", "https://EXAMPLE.org": "", "https://example.org:8443/a:b": "", "spiffe://a.example.net/web": "",
		"https://example.net/":   "not within",
		"https://a.example.org/": "not within", // crypto/x509 takes it
	}},
	{Constraints{ExcludedURI: []string{"example.org", ".example.net"}}, "URI", map[string]string{
		"https://example.org/": "excluded by URI:example.org", "https://example.com/": "", "https://a.example.net/": "excluded", "https://example.net/": "",
		"https://a.example.org/": "excluded", // OpenSSL takes it
		"https://192.0.2.1/":     unreadable, "https://[2001:db8::1]/": unreadable, "urn:uuid:f81d4fae": unreadable, "mailto:ann@example.org": unreadable,
		"https://ann@example.org/": unreadable, // OpenSSL takes ann@example.org for the host
		"https://example.org/a:b":  unreadable, // and here example.org/a
		"https://example.org?a":    unreadable, "https://example.org#/": unreadable,
	}},
	// What cannot be compared is refused below constraints of another kind too, as by crypto/x509.
	{Constraints{ExcludedDNS: []string{"example.org"}}, "URI", map[string]string{"urn:uuid:f81d4fae": unreadable, "https://example.org/": ""}},
	{Constraints{ExcludedDNS: []string{"example.org"}}, "email", map[string]string{"example.org": unreadable, "ann@example.org": ""}},
	{Constraints{ExcludedURI: []string{"example.org"}}, "DNS", map[string]string{"example.org": "", "a..b": unreadable, "a.": unreadable}},
	{Constraints{}, "URI", map[string]string{"urn:uuid:f81d4fae": "", "https://192.0.2.1/": ""}},
}

func TestNamesBelowConstraints(t *testing.T) {
	for _, c := range judged {
		if normal, err := c.constraints.Normalize(); err != nil || !reflect.DeepEqual(normal, c.constraints) {
			t.Errorf("%+v: %+v, %v", c.constraints, normal, err)
		}
		for name, reason := range c.names {
			got := c.constraints.Violations(single(c.kind, name))
			if reason == "" && got != nil || reason != "" && (len(got) != 1 || got[0].Name != name || !strings.Contains(got[0].Reason, reason)) {
				t.Errorf("%+v: %s: %q", c.constraints, name, got)
			}
		}
	}
	k := Constraints{PermittedDNS: numbered(7), ExcludedIP: []string{"10.0.0.0/8"}}
	got := k.Violations(AltNames{DNS: []string{"a.example", "n1.example.org"}, IP: []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1"), {}}})
	if fmt.Sprint(got) != "[{a.example not within the permitted DNS names n0.example.org, n1.example.org, n2.example.org, n3.example.org, n4.example.org and 2 more} "+
		"{::ffff:10.0.0.1 excluded by IP:10.0.0.0/8} {invalid IP it cannot be compared with the CA's constraints, or verifiers read it apart}]" {
		t.Errorf("%v", got)
	}
	// As a stranger's certificate may have them: crypto/x509 finds everything in an empty entry, OpenSSL no
	// e-mail address and no URI.
	for _, c := range []struct {
		constraints Constraints
		kind, name  string
		good        bool
	}{
		{Constraints{PermittedDNS: []string{""}}, "DNS", "example.org", true},
		{Constraints{ExcludedDNS: []string{""}}, "DNS", "example.org", false},
		{Constraints{PermittedEmail: []string{""}}, "email", "ann@example.org", false},
		{Constraints{ExcludedEmail: []string{""}}, "email", "ann@example.org", false},
		{Constraints{PermittedURI: []string{""}}, "URI", "https://example.org/", false},
		{Constraints{ExcludedURI: []string{""}}, "URI", "https://example.org/", false},
		{Constraints{PermittedIP: []string{"x"}}, "IP", "192.0.2.1", false},
		{Constraints{ExcludedIP: []string{"x"}}, "IP", "192.0.2.1", false},
	} {
		if got := c.constraints.Violations(single(c.kind, c.name)); (got == nil) != c.good {
			t.Errorf("%+v: %q", c.constraints, got)
		}
	}
}

func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		constraints Constraints
		want        []string
	}{
		{Constraints{PermittedDNS: []string{"example.org"}, ExcludedDNS: []string{"a.example.org"}}, nil},
		{Constraints{PermittedDNS: []string{"example.org"}, ExcludedDNS: []string{".example.org"}}, nil},
		{Constraints{PermittedDNS: []string{".example.org"}, ExcludedDNS: []string{"example.org"}}, []string{"permitted DNS:.example.org is wholly excluded by DNS:example.org"}},
		{Constraints{PermittedDNS: []string{"a.example.org"}, ExcludedDNS: []string{".example.org"}}, []string{"permitted DNS:a.example.org is wholly excluded by DNS:.example.org"}},
		{Constraints{PermittedDNS: []string{"a.b", "b", "b", ".b", "c.b"}}, []string{
			"permitted DNS:a.b is within DNS:b already", "permitted DNS:b is within DNS:b already", "permitted DNS:.b is within DNS:b already", "permitted DNS:c.b is within DNS:b already",
		}},
		{Constraints{ExcludedIP: []string{"10.0.0.0/8", "10.1.0.0/16", "::/0"}, PermittedIP: []string{"10.0.0.0/9", "0.0.0.0/0"}}, []string{
			"permitted IP:10.0.0.0/9 is within IP:0.0.0.0/0 already", "excluded IP:10.1.0.0/16 is within IP:10.0.0.0/8 already", "permitted IP:10.0.0.0/9 is wholly excluded by IP:10.0.0.0/8",
		}},
		{Constraints{PermittedEmail: []string{"ann@example.org", "example.org", "a.example.org", ".example.org"}, ExcludedEmail: []string{"ann@example.org"}}, []string{
			"permitted email:ann@example.org is within email:example.org already", "permitted email:a.example.org is within email:.example.org already",
			"permitted email:ann@example.org is wholly excluded by email:ann@example.org",
		}},
		{Constraints{PermittedURI: []string{"a.example.org"}, ExcludedURI: []string{"example.org"}}, []string{"permitted URI:a.example.org is wholly excluded by URI:example.org"}},
	} {
		if got := c.constraints.Conflicts(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.constraints, got)
		}
	}
	parent := Constraints{
		PermittedDNS: []string{"example.org"}, ExcludedDNS: []string{"secret.example.org"}, PermittedIP: []string{"10.0.0.0/8"}, PermittedURI: []string{"example.org"},
		ExcludedEmail: []string{"example.org"},
	}
	for _, c := range []struct {
		child Constraints
		want  []string
	}{
		{Constraints{}, nil},
		{parent, nil},
		{Constraints{PermittedDNS: []string{"a.example.org", ".example.org"}, PermittedIP: []string{"10.1.0.0/16"}, PermittedEmail: []string{"example.com"}}, nil},
		{Constraints{PermittedDNS: []string{"org", "x.secret.example.org"}}, []string{
			"permitted DNS:org is not within the permitted DNS names of the CA above, example.org",
			"permitted DNS:x.secret.example.org is wholly excluded by DNS:secret.example.org of the CA above",
		}},
		{Constraints{PermittedIP: []string{"0.0.0.0/0", "2001:db8::/32"}}, []string{
			"permitted IP:0.0.0.0/0 is not within the permitted IP addresses of the CA above, 10.0.0.0/8",
			"permitted IP:2001:db8::/32 is not within the permitted IP addresses of the CA above, 10.0.0.0/8",
		}},
		{Constraints{PermittedEmail: []string{"ann@example.org"}, PermittedURI: []string{"a.example.org"}}, []string{
			"permitted email:ann@example.org is wholly excluded by email:example.org of the CA above",
			"permitted URI:a.example.org is not within the permitted URIs of the CA above, example.org",
		}},
	} {
		if got := c.child.Within(parent); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.child, got)
		}
	}
}

// Certificates for the oracles.

func rootWith(t testing.TB, k Key, constraints Constraints) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	constraints.Apply(template)
	return signed(t, template, template, k)
}

func signed(t testing.TB, template, parent *x509.Certificate, k Key) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(crand.Reader, template, parent, k.Public(), k.Signer())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// leafWith has no common name, which OpenSSL would take for a DNS name.
func leafWith(t testing.TB, root *x509.Certificate, k Key, names AltNames) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{Organization: []string{"leaf"}}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames: names.DNS, EmailAddresses: names.Emails,
	}
	for _, address := range names.IP {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.AsSlice()))
	}
	for _, uri := range names.URIs {
		parsed, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	return signed(t, template, root, k)
}

func goTakes(root, leaf *x509.Certificate) bool {
	roots := x509.NewCertPool()
	roots.AddCert(root)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// opensslTakes asks of many leaves at once.
func opensslTakes(t *testing.T, root *x509.Certificate, leaves []*x509.Certificate) []bool {
	t.Helper()
	openssl(t, nil, "version") // or skip
	directory := t.TempDir()
	arguments := []string{"verify", "-CAfile", "root.pem"}
	write := func(name string, c *x509.Certificate) {
		if err := os.WriteFile(filepath.Join(directory, name), pem.EncodeToMemory(&pem.Block{Type: certificateLabel, Bytes: c.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root.pem", root)
	for i, leaf := range leaves {
		name := fmt.Sprintf("leaf%d.pem", i)
		write(name, leaf)
		arguments = append(arguments, name)
	}
	command := exec.Command("openssl", arguments...)
	command.Dir = directory
	output, _ := command.CombinedOutput() // fails if one of them does
	var takes []bool
	for i := range leaves {
		good := strings.Contains(string(output), fmt.Sprintf("leaf%d.pem: OK\n", i))
		if bad := strings.Contains(string(output), fmt.Sprintf("error leaf%d.pem: verification failed\n", i)); good == bad {
			t.Fatalf("openssl says nothing of leaf %d:\n%s", i, output)
		}
		takes = append(takes, good)
	}
	return takes
}

func TestVerifiersJudgeTheTableAlike(t *testing.T) {
	k := newKey(t, Ed25519)
	for _, c := range judged {
		root := rootWith(t, k, c.constraints)
		var names []string
		var leaves []*x509.Certificate
		for name := range c.names {
			if c.kind == "DNS" && slices.Contains(strings.Split(name, "."), "") {
				continue // crypto/x509 makes no such certificate
			}
			names, leaves = append(names, name), append(leaves, leafWith(t, root, k, single(c.kind, name)))
		}
		takes := opensslTakes(t, root, leaves)
		for i, name := range names {
			good := c.names[name] == ""
			byGo := goTakes(root, leaves[i])
			// What they do not find the same host in is refused, whatever they make of it.
			if readApart := c.names[name] == unreadable; good != (byGo && takes[i]) && !readApart {
				t.Errorf("%+v: %s: good %t, crypto/x509 %t, OpenSSL %t", c.constraints, name, good, byGo, takes[i])
			}
		}
	}
}

// A world of few names, so that they meet.

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomHost(r *rand.Rand) string {
	host := pick(r, "a", "b-a", "aa", "a-")
	host = strings.TrimSuffix(host, "-")
	for range r.IntN(4) {
		host = pick(r, "a", "b", "aa", "b-a", "A") + "." + host
	}
	return host
}

func randomAddress(r *rand.Rand) netip.Addr {
	bits := func() byte { return pick[byte](r, 0, 1, 128, 255) }
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, bits(), 0, bits()})
	}
	return netip.AddrFrom16([16]byte{0x20, 1, bits(), 15: bits()})
}

func randomConstraints(r *rand.Rand) Constraints {
	var typed Constraints
	for i, kind := range typed.kinds() {
		entry := func() string {
			host := pick(r, "", "", ".") + randomHost(r)
			switch {
			case i == 1:
				address := randomAddress(r)
				prefix, _ := address.Prefix(r.IntN(address.BitLen() + 1))
				return prefix.String()
			case i == 2 && r.IntN(3) == 0:
				return pick(r, "a", "A", "a.b") + "@" + randomHost(r)
			}
			return host
		}
		for range pick(r, 0, 1, 3) {
			*kind.permitted = append(*kind.permitted, entry())
		}
		for range pick(r, 0, 0, 1, 2) {
			*kind.excluded = append(*kind.excluded, entry())
		}
	}
	return typed
}

func randomName(r *rand.Rand) AltNames {
	switch r.IntN(5) {
	case 0:
		return AltNames{IP: []netip.Addr{randomAddress(r)}}
	case 1:
		return AltNames{Emails: []string{pick(r, "a", "A", "a.b") + "@" + randomHost(r)}}
	case 2:
		return AltNames{URIs: []string{pick(r, "https", "spiffe") + "://" + randomHost(r) + pick(r, "", ":80") + pick(r, "", "/", "/x?y#z")}}
	}
	return AltNames{DNS: []string{pick(r, "", "", "*.") + randomHost(r)}}
}

// A name is good exactly where crypto/x509 and OpenSSL take it. Without OpenSSL: nothing is good that
// crypto/x509 does not take, and it takes nothing else but hosts below the host of an e-mail address or URI.
func TestVerifiersJudgeNamesAlike(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	k := newKey(t, Ed25519)
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	_, missing := exec.LookPath("openssl")
	if missing != nil {
		t.Log("there is no openssl: crypto/x509 judges alone")
	}
	good, total := 0, 0
	for range rounds {
		constraints, err := randomConstraints(r).Normalize()
		if err != nil {
			t.Fatal(err)
		}
		root := rootWith(t, k, constraints)
		if got := ConstraintsOf(root); !reflect.DeepEqual(got, constraints) {
			t.Fatalf("%+v comes back as %+v", constraints, got)
		}
		var names []AltNames
		var leaves []*x509.Certificate
		for range 60 {
			name := randomName(r)
			names, leaves = append(names, name), append(leaves, leafWith(t, root, k, name))
		}
		takes := slices.Repeat([]bool{true}, len(leaves))
		if missing == nil {
			takes = opensslTakes(t, root, leaves)
		}
		for i, name := range names {
			violations := constraints.Violations(name)
			byGo, byOpenSSL := goTakes(root, leaves[i]), takes[i]
			if total++; violations == nil {
				good++
			}
			hosts := len(name.Emails)+len(name.URIs) > 0
			if alone := missing != nil && hosts && byGo; (violations == nil) != (byGo && byOpenSSL) && !alone {
				t.Errorf("%+v: %+v: %v, crypto/x509 %t, OpenSSL %t", constraints, name, violations, byGo, byOpenSSL)
			}
		}
	}
	t.Logf("%d of %d are good", good, total)
}

// FuzzConstraints: what Normalize writes it writes again, crypto/x509 reads it from a certificate, and no name
// makes Violations panic.
func FuzzConstraints(f *testing.F) {
	for _, seed := range []string{"example.org", ".example.org", "10.0.0.0/8", "ann@example.org", "https://example.org:80/", "::/0", "*.a", "@", ""} {
		f.Add(seed, seed)
	}
	k := newKey(f, Ed25519)
	f.Fuzz(func(t *testing.T, entry, name string) {
		for i := range 4 {
			var typed Constraints
			*typed.kinds()[i].permitted = []string{entry}
			*typed.kinds()[i].excluded = []string{entry, name}
			for _, loose := range []Constraints{typed, {}} {
				loose.Violations(AltNames{DNS: []string{name}, Emails: []string{name}, URIs: []string{name}})
				typed.Within(loose)
			}
			typed.Conflicts()
			normal, err := typed.Normalize()
			if err != nil {
				continue
			}
			if again, err := normal.Normalize(); err != nil || !reflect.DeepEqual(again, normal) {
				t.Fatalf("%+v, and then %+v, %v", normal, again, err)
			}
			if got := ConstraintsOf(rootWith(t, k, normal)); !reflect.DeepEqual(got, normal) {
				t.Fatalf("%+v is read as %+v", normal, got)
			}
		}
	})
}
