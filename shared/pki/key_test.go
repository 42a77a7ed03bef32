package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os/exec"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/problem"
)

func newKey(t testing.TB, kind KeyType) Key {
	t.Helper()
	k, err := NewKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// openssl runs OpenSSL 3 and returns what it writes.
func openssl(t *testing.T, input []byte, arguments ...string) []byte {
	t.Helper()
	if version, err := exec.Command("openssl", "version").Output(); err != nil || !strings.HasPrefix(string(version), "OpenSSL 3") {
		t.Skip("skipped: there is no OpenSSL 3")
	}
	command := exec.Command("openssl", arguments...)
	command.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(arguments, " "), err, stderr.Bytes())
	}
	return output
}

func TestKeyTypes(t *testing.T) {
	for s, want := range map[string]KeyType{
		"ecdsa": ECDSAP256, "ECDSA": ECDSAP256, "rsa": RSA2048, "RSA": RSA2048, "ec-p256": ECDSAP256, "ec-p384": ECDSAP384,
		"ecdsa-p256": ECDSAP256, "ECDSA-P384": ECDSAP384, "rsa-2048": RSA2048, "rsa-3072": RSA3072, "Rsa-4096": RSA4096, "ED25519": Ed25519,
		"": "", "dsa": "", "rsa-1024": "", "rsa-8192": "", "ecdsa-p224": "", "ecdsa-p521": "", " rsa": "", "rsa\n": "",
	} {
		got, err := ParseKeyType(s)
		if got != want || (want == "") != errors.Is(err, problem.InvalidArgument) {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, kind := range KeyTypes {
		if got, err := ParseKeyType(kind.String()); got != kind || err != nil {
			t.Errorf("%s does not name itself: %q, %v", kind, got, err)
		}
	}
}

func TestKeysAreMadeWrittenAndRead(t *testing.T) {
	for _, kind := range KeyTypes {
		if kind == RSA4096 && testing.Short() {
			continue
		}
		k := newKey(t, kind)
		for _, text := range [][]byte{k.DER(), k.PEM(), append([]byte("\n\n"), k.PEM()...)} {
			again, err := ParseKey(text)
			if err != nil || !Same(again.Public(), k.Public()) || again.Type() != kind || !bytes.Equal(again.DER(), k.DER()) {
				t.Errorf("%s: read back: %v", kind, err)
			}
		}
		block, _ := pem.Decode(openssl(t, k.PEM(), "pkey", "-pubout"))
		if public, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !Same(public, k.Public()) {
			t.Errorf("%s: openssl reads another key: %v", kind, err)
		}
	}
	if _, err := NewKey("dsa"); err == nil {
		t.Error("a DSA key is made")
	}
}

func TestWhatIsNoKey(t *testing.T) {
	good := newKey(t, ECDSAP256)
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	x25519, _ := ecdh.X25519().GenerateKey(rand.Reader)
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, text := range map[string][]byte{
		"nothing":         {},
		"text":            []byte("a key"),
		"RSA 1024":        pkcs8(small),
		"P-521":           pkcs8(p521),
		"X25519":          pkcs8(x25519),
		"trailing bytes":  append(good.DER(), 0),
		"trailing text":   append(good.PEM(), 'x'),
		"two keys":        append(good.PEM(), good.PEM()...),
		"text before it":  append([]byte("key: "), good.PEM()...),
		"another label":   bytes.ReplaceAll(good.PEM(), []byte("PRIVATE"), []byte("PUBLIC")),
		"with headers":    bytes.Replace(good.PEM(), []byte("-----\n"), []byte("-----\nA: b\n\n"), 1),
		"a public key":    openssl(t, good.PEM(), "pkey", "-pubout"),
		"an encrypted":    openssl(t, good.PEM(), "pkcs8", "-topk8", "-passout", "pass:x"),
		"RSA 8192 length": make([]byte, 9000),
	} {
		if k, err := ParseKey(text); !errors.Is(err, ErrNoKey) || err.Error() != ErrNoKey.Error() || k.Exists() {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
}

func TestAKeyDoesNotPrint(t *testing.T) {
	for _, kind := range []KeyType{ECDSAP256, Ed25519} {
		k := newKey(t, kind)
		type holder struct{ hidden Key }
		for _, value := range []any{k, &k, []Key{k}, struct{ Key Key }{k}, holder{k}, map[string]Key{"k": k}} {
			var text strings.Builder
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%o", "%b", "%t"} {
				fmt.Fprintf(&text, verb+"\n", value)
			}
			asJSON, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(asJSON)
			slog.New(slog.NewTextHandler(&text, nil)).Info("x", "value", value)
			slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "value", value)
			secret := k.DER()[len(k.DER())-16:]
			if kind == ECDSAP256 {
				scalar, err := k.Signer().(*ecdsa.PrivateKey).Bytes()
				if err != nil {
					t.Fatal(err)
				}
				secret = scalar[:16]
			}
			decimals := strings.Trim(fmt.Sprint(secret[:4]), "[]")
			for _, leak := range []string{hex.EncodeToString(secret[:4]), strings.ToUpper(hex.EncodeToString(secret[:4])), decimals, base64.StdEncoding.EncodeToString(k.DER())[40:60], "PRIVATE"} {
				if strings.Contains(text.String(), leak) {
					t.Errorf("%s: %T prints %q in\n%s", kind, value, leak, text.String())
				}
			}
		}
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	modulus := func(bits int) *big.Int { // the form of one that nobody can factor
		for {
			n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(one, uint(bits)))
			n.SetBit(n, bits-1, 1).SetBit(n, bits-2, 1)
			if new(big.Int).GCD(nil, nil, n, smallPrimes()).Cmp(one) == 0 {
				return n
			}
		}
	}
	strong := modulus(2048)
	roca := func() *big.Int {
		product := big.NewInt(1)
		for _, p := range primesBelow(168) {
			product.Mul(product, big.NewInt(p))
		}
		n := new(big.Int).Exp(big.NewInt(65537), big.NewInt(77), product)
		for n.BitLen() < 2048 { // any multiple of the product may be added
			n.Add(n, new(big.Int).Mul(product, new(big.Int).Rsh(strong, uint(product.BitLen()))))
		}
		for new(big.Int).GCD(nil, nil, n, smallPrimes()).Cmp(one) != 0 {
			n.Add(n, product)
		}
		return n
	}()
	p, _ := rand.Prime(rand.Reader, 1024)
	q := new(big.Int).Add(p, big.NewInt(2))
	for !q.ProbablyPrime(20) {
		q.Add(q, big.NewInt(2))
	}
	elliptic224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	elliptic521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	for _, c := range []struct {
		name   string
		key    crypto.PublicKey
		reason string // empty for a key that is good
	}{
		{"RSA 512", &rsa.PublicKey{N: modulus(512), E: 65537}, "2048 bits at least"},
		{"RSA 2047", &rsa.PublicKey{N: modulus(2047), E: 65537}, "2048 bits at least"},
		{"RSA 2048", &rsa.PublicKey{N: strong, E: 65537}, ""},
		{"RSA 2056", &rsa.PublicKey{N: modulus(2056), E: 65537}, "2048, 3072 or 4096"},
		{"RSA 8192", &rsa.PublicKey{N: modulus(8192), E: 65537}, "2048, 3072 or 4096"},
		{"exponent 1", &rsa.PublicKey{N: strong, E: 1}, "exponent"},
		{"exponent 3", &rsa.PublicKey{N: strong, E: 3}, "exponent"},
		{"exponent 65536", &rsa.PublicKey{N: strong, E: 65536}, "exponent"},
		{"exponent 65538", &rsa.PublicKey{N: strong, E: 65538}, "exponent"},
		{"exponent 65539", &rsa.PublicKey{N: strong, E: 65539}, ""},
		{"even modulus", &rsa.PublicKey{N: new(big.Int).Sub(strong, one), E: 65537}, "small factor"},
		{"a factor 751", &rsa.PublicKey{N: new(big.Int).Sub(strong, new(big.Int).Mod(strong, big.NewInt(751))), E: 65537}, "small factor"},
		{"ROCA", &rsa.PublicKey{N: roca, E: 65537}, "CVE-2017-15361"},
		{"neighbouring primes", &rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}, "close together"},
		{"the square of a prime", &rsa.PublicKey{N: new(big.Int).Mul(p, p), E: 65537}, "close together"},
		{"P-224", &elliptic224.PublicKey, "too small"},
		{"P-521", &elliptic521.PublicKey, "P-521"},
		{"another algorithm", struct{}{}, "not known"},
		{"no key", nil, "not known"},
	} {
		_, err := Strength(c.key)
		if c.reason == "" && err != nil || c.reason != "" && (!errors.Is(err, problem.InvalidArgument) || !strings.Contains(err.Error(), c.reason)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for range 3 {
		if k := newKey(t, RSA2048); k.Type() != RSA2048 {
			t.Errorf("a new key is taken for %s", k.Type())
		}
	}
}

func TestEd25519KeysOfLowOrderAreRefused(t *testing.T) {
	y8 := "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03"
	minus8 := "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc"
	anybody := append([]byte{1}, make([]byte, 63)...) // R is the neutral point, S is 0
	for _, encoded := range []string{
		"01" + strings.Repeat("00", 31), "01" + strings.Repeat("00", 30) + "80",
		"ec" + strings.Repeat("ff", 30) + "7f", "ec" + strings.Repeat("ff", 31),
		strings.Repeat("00", 32), strings.Repeat("00", 31) + "80",
		y8 + "7a", y8 + "fa", minus8 + "05", minus8 + "85",
		"ed" + strings.Repeat("ff", 30) + "7f", "ed" + strings.Repeat("ff", 31), // 0, not reduced
		"ee" + strings.Repeat("ff", 30) + "7f", "ee" + strings.Repeat("ff", 31), // 1, not reduced
	} {
		key, err := hex.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		forged := false
		for i := 0; i < 500 && !forged; i++ {
			forged = ed25519.Verify(key, fmt.Append(nil, i), anybody)
		}
		if _, err := Strength(ed25519.PublicKey(key)); err == nil || !forged {
			t.Errorf("%s: signed by anybody: %t; %v", encoded, forged, err)
		}
	}
	for range 200 {
		newKey(t, Ed25519)
	}
}

// FuzzKey: what ParseKey accepts, it accepts as it writes it, and it says nothing of what it refuses.
func FuzzKey(f *testing.F) {
	for _, kind := range []KeyType{ECDSAP256, ECDSAP384, RSA2048, Ed25519} {
		k := newKey(f, kind)
		f.Add(k.PEM())
		f.Add(k.DER())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKey(text)
		if err != nil {
			if err != ErrNoKey {
				t.Fatalf("says %v", err)
			}
			return
		}
		for _, written := range [][]byte{k.PEM(), k.DER()} {
			again, err := ParseKey(written)
			if err != nil || !bytes.Equal(again.DER(), k.DER()) || !Same(again.Public(), k.Public()) || again.Type() != k.Type() {
				t.Fatalf("is read otherwise when written: %v", err)
			}
		}
	})
}
