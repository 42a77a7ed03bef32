package export

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"cjj365.cc/bb/shared/pki"
)

// issued makes a certificate that is exported with the CA above it.
func issued(t *testing.T, kind pki.KeyType) Certificate {
	t.Helper()
	key, err := pki.NewKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Now().UTC().Truncate(time.Second).AddDate(0, 0, -1)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: from, NotAfter: from.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(0x04a1), Subject: pkix.Name{CommonName: "example.org"}, DNSNames: []string{"example.org", "*.example.org"},
		NotBefore: from, NotAfter: from.AddDate(0, 3, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	var chain pki.Chain
	for _, c := range []struct {
		certificate *x509.Certificate
		public      any
	}{{leaf, key.Public()}, {root, ca.Public()}} {
		der, err := x509.CreateCertificate(rand.Reader, c.certificate, root, c.public, ca.Signer())
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, certificate)
	}
	return Certificate{ID: 1001, Domain: "example.org", Chain: chain, Key: key}
}

// run runs a tool in a folder and returns what it writes; the test is skipped where it is missing.
func run(t *testing.T, folder, name string, arguments ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("skipped: there is no %s", name)
	}
	command := exec.Command(name, arguments...)
	command.Dir = folder
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

func entries(t *testing.T, archive []byte) (names []string, content map[string]string) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	content = map[string]string{}
	for _, file := range r.File {
		opened, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(opened)
		if err != nil {
			t.Fatal(err)
		}
		names, content[file.Name] = append(names, file.Name), string(text)
	}
	return names, content
}

func TestTheJSONPartsMakeFiles(t *testing.T) {
	c := issued(t, pki.ECDSAP256)
	parts, err := c.Parts()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Cert, PrivKey, Chain, FullChain string
		Domain                          string `json:"domain_name"`
		Serial                          string `json:"serial_number"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(answer.PrivKey)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for name, content := range map[string]string{"cert": answer.Cert, "key": string(key), "chain": answer.Chain} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if run(t, folder, "openssl", "x509", "-in", "cert", "-noout", "-pubkey") != run(t, folder, "openssl", "pkey", "-in", "key", "-pubout") {
		t.Error("the key is not the certificate's")
	}
	run(t, folder, "openssl", "verify", "-CAfile", "chain", "cert")
	if answer.Cert != answer.FullChain || answer.Cert != string(c.Chain.PEM()) || answer.Chain != string(c.Chain[1:].PEM()) || answer.Domain != "example.org" || answer.Serial != "04A1" {
		t.Errorf("answer %s", text)
	}
}

func TestTheZIPHasTheContractsEntries(t *testing.T) {
	for _, kind := range []pki.KeyType{pki.ECDSAP256, pki.RSA2048, pki.Ed25519} {
		c := issued(t, kind)
		archive, password, err := c.Zip()
		if err != nil {
			t.Fatal(err)
		}
		names, _ := entries(t, archive)
		if !slices.Equal(names, []string{"private.key", "certificate.pem", "chain.pem", "fullchain.pem", "certificate.der", "bundle.pfx", "meta.json"}) {
			t.Errorf("%s: entries %q", kind, names)
		}
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "a.zip"), archive, 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, folder, "python3", "-m", "zipfile", "-t", "a.zip")
		if listed := run(t, folder, "unzip", "-Z", "a.zip"); strings.Count(listed, "-rw-------") != 2 || strings.Count(listed, "-rw-r--r--") != 5 ||
			strings.Count(listed, c.Chain[0].NotBefore.Format("06-Jan-02 15:04")) != 7 {
			t.Errorf("%s: unzip lists\n%s", kind, listed)
		}
		run(t, folder, "unzip", "-q", "a.zip")

		public := run(t, folder, "openssl", "pkey", "-in", "private.key", "-pubout")
		for _, arguments := range [][]string{
			{"x509", "-in", "certificate.pem"}, {"x509", "-in", "fullchain.pem"}, {"x509", "-in", "certificate.der", "-inform", "DER"},
		} {
			if run(t, folder, "openssl", append(arguments, "-noout", "-pubkey")...) != public {
				t.Errorf("%s: the key is not that of %q", kind, arguments)
			}
		}
		run(t, folder, "openssl", "verify", "-CAfile", "chain.pem", "certificate.pem")

		about := run(t, folder, "openssl", "pkcs12", "-in", "bundle.pfx", "-passin", "pass:"+password, "-info", "-nodes")
		for _, want := range []string{"PBES2, PBKDF2, AES-256-CBC, Iteration 2048, PRF hmacWithSHA256", "MAC: sha256", "Shrouded Keybag", "subject=CN = example.org", "subject=CN = Root"} {
			if !strings.Contains(about, want) {
				t.Errorf("%s: openssl does not see %q in\n%s", kind, want, about)
			}
		}
		if err := os.WriteFile(filepath.Join(folder, "from-pfx"), []byte(about[strings.Index(about, "-----BEGIN PRIVATE"):]), 0o600); err != nil {
			t.Fatal(err)
		}
		if run(t, folder, "openssl", "pkey", "-in", "from-pfx", "-pubout") != public {
			t.Errorf("%s: the key of the PKCS#12 is another", kind)
		}

		var meta struct {
			ID        int64    `json:"cert_id"`
			Domains   []string `json:"domains"`
			Serial    string   `json:"serial_number"`
			KeyType   string   `json:"key_type"`
			NotBefore int64    `json:"not_before"`
			NotAfter  int64    `json:"not_after"`
		}
		text, err := os.ReadFile(filepath.Join(folder, "meta.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &meta); err != nil || meta.ID != 1001 || !slices.Equal(meta.Domains, []string{"example.org", "*.example.org"}) ||
			meta.Serial != "04A1" || meta.KeyType != kind.String() || meta.NotBefore != c.Chain[0].NotBefore.Unix() || meta.NotAfter != c.Chain[0].NotAfter.Unix() {
			t.Errorf("%s: meta.json %s, %v", kind, text, err)
		}
		if strings.Contains(string(archive), password) || strings.Contains(string(text), password) {
			t.Errorf("%s: the ZIP holds its password", kind)
		}
	}
}

func TestWithoutChainOrKeyThereIsLess(t *testing.T) {
	c := issued(t, pki.ECDSAP256)
	c.Chain = c.Chain.Leaf()
	archive, _, err := c.Zip()
	if err != nil {
		t.Fatal(err)
	}
	if names, content := entries(t, archive); !slices.Equal(names, []string{"private.key", "certificate.pem", "fullchain.pem", "certificate.der", "bundle.pfx", "meta.json"}) ||
		content["fullchain.pem"] != content["certificate.pem"] {
		t.Errorf("without a chain: %q", names)
	}
	c.Key = pki.Key{}
	archive, password, err := c.Zip()
	if err != nil || password != "" {
		t.Fatalf("password %q, %v", password, err)
	}
	if names, _ := entries(t, archive); !slices.Equal(names, []string{"certificate.pem", "fullchain.pem", "certificate.der", "meta.json"}) {
		t.Errorf("without a key: %q", names)
	}
	if parts, err := c.Parts(); err != nil || parts.PrivKey != "" || parts.Chain != "" || parts.Cert == "" {
		t.Errorf("without a key: %v", err)
	}
	if _, err := c.PKCS12("x"); !errors.Is(err, errNoKey) {
		t.Errorf("a PKCS#12 without a key: %v", err)
	}
}

func TestAnotherCertificatesKeyIsNotExported(t *testing.T) {
	c := issued(t, pki.ECDSAP256)
	c.Key = issued(t, pki.ECDSAP256).Key
	_, jsonErr := c.Parts()
	_, _, zipErr := c.Zip()
	_, p12Err := c.PKCS12("x")
	for _, err := range []error{jsonErr, zipErr, p12Err} {
		if !errors.Is(err, errOtherKey) {
			t.Errorf("exported: %v", err)
		}
	}
}

func TestAPKCS12NeedsItsPassword(t *testing.T) {
	c := issued(t, pki.ECDSAP256)
	file, err := c.PKCS12("right")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := pkcs12.DecodeChain(file, "wrong"); !errors.Is(err, pkcs12.ErrIncorrectPassword) {
		t.Errorf("opened with another password: %v", err)
	}
	key, certificate, cas, err := pkcs12.DecodeChain(file, "right")
	if err != nil || !certificate.Equal(c.Chain[0]) || len(cas) != 1 || key == nil {
		t.Errorf("not opened: %v", err)
	}
	block := c.Key.DER()
	if bytes.Contains(file, block[len(block)-40:]) {
		t.Error("the key is in the clear")
	}
}

func TestPasswordsAreDrawnFrom64Characters(t *testing.T) {
	seen, used := map[string]bool{}, map[rune]int{}
	for range 2000 {
		password := NewPassword()
		if len(password) != 40 || strings.Trim(password, passwordAlphabet) != "" || seen[password] {
			t.Fatalf("password %q", password)
		}
		seen[password] = true
		for _, c := range password {
			used[c]++
		}
	}
	for _, c := range passwordAlphabet { // 1250 of each are expected, with a deviation of 35
		if used[c] < 1250-10*35 || used[c] > 1250+10*35 {
			t.Errorf("%q is drawn %d times", c, used[c])
		}
	}
}

func TestTheTimeOfAnEntryIsOneThatAZIPCanSay(t *testing.T) {
	for from, want := range map[time.Time]int{
		time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC): 1980, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC): 1980, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC): 2026,
	} {
		if got := zipTime(from).Year(); got != want {
			t.Errorf("%v: %d", from, got)
		}
	}
}

func TestWhatIsExportedDoesNotPrint(t *testing.T) {
	c := issued(t, pki.Ed25519)
	parts, err := c.Parts()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, value := range []any{parts, &parts, struct{ Data Parts }{parts}, c, &c, []Certificate{c}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			fmt.Fprintf(&text, verb+"\n", value)
		}
	}
	slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "parts", parts, "certificate", c)
	der := c.Key.DER()
	seed := der[len(der)-32:]
	for _, leak := range []string{parts.PrivKey[40:60], string(c.Key.PEM())[40:60], fmt.Sprintf("%x", seed[:8]), strings.Trim(fmt.Sprint(seed[:8]), "[]")} {
		if strings.Contains(text.String(), leak) {
			t.Errorf("prints %q", leak)
		}
	}
}
