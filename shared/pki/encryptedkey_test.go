package pki

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/problem"
)

const password = "correct horse"

// encrypted is a key as openssl pkcs8 -topk8 encrypts it.
func encrypted(t *testing.T, k Key, options ...string) []byte {
	t.Helper()
	return openssl(t, k.PEM(), append([]string{"pkcs8", "-topk8", "-passout", "pass:" + password}, options...)...)
}

func TestEncryptedKeysOfOpenSSLAreRead(t *testing.T) {
	for _, c := range []struct {
		kind    KeyType
		options []string
	}{
		{ECDSAP256, nil},
		{ECDSAP384, nil},
		{RSA2048, nil},
		{RSA4096, nil},
		{Ed25519, nil},
		{ECDSAP256, []string{"-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"}},
		{ECDSAP384, []string{"-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA256", "-iter", "1"}},
		{RSA2048, []string{"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA384", "-iter", "100000"}},
		{Ed25519, []string{"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512", "-iter", "600000"}},
		{ECDSAP256, []string{"-scrypt"}},
		{RSA2048, []string{"-scrypt", "-scrypt_N", "1024", "-scrypt_r", "16", "-scrypt_p", "16", "-v2", "aes-128-cbc"}},
	} {
		if c.kind == RSA4096 && testing.Short() {
			continue
		}
		k := newKey(t, c.kind)
		text := encrypted(t, k, c.options...)
		block, _ := pem.Decode(text)
		for _, form := range [][]byte{text, block.Bytes, append([]byte("\r\n"), text...)} {
			got, err := ParseEncryptedKey(form, []byte(password))
			if err != nil || got.Type() != c.kind || !bytes.Equal(got.DER(), k.DER()) {
				t.Errorf("%s %v: %v", c.kind, c.options, err)
			}
		}
		for _, wrong := range []string{"x", password + " ", strings.Repeat("x", 1024)} {
			if got, err := ParseEncryptedKey(text, []byte(wrong)); got.Exists() || !strings.Contains(err.Error(), "password is wrong") {
				t.Errorf("%s %v with the password %.20q: %v", c.kind, c.options, wrong, err)
			}
		}
	}
	for kind, arguments := range map[KeyType][]string{
		ECDSAP384: {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"},
		RSA2048:   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
		Ed25519:   {"-algorithm", "ED25519"},
	} {
		text := openssl(t, nil, append(append([]string{"genpkey"}, arguments...), "-aes256", "-pass", "pass:"+password)...)
		if got, err := ParseEncryptedKey(text, []byte(password)); err != nil || got.Type() != kind {
			t.Errorf("openssl genpkey of %s: %v", kind, err)
		}
	}
}

// A wrong password passes the padding once in 256 times; whatever comes out then is no key.
func TestNoWrongPasswordGetsThrough(t *testing.T) {
	text := encrypted(t, newKey(t, ECDSAP256), "-iter", "1")
	for i := range 3000 {
		_, err := ParseEncryptedKey(text, []byte{'x', byte(i), byte(i >> 8)})
		if err == nil || err.Error() != wrongPassword().Error() {
			t.Fatalf("password %d: %v", i, err)
		}
	}
}

// encryption is an EncryptedPrivateKeyInfo that no tool would write.
type encryption struct {
	scheme, kdf, cipher string
	kdfParameters, iv   any
	encrypted           []byte
}

type algorithm struct {
	OID        asn1.ObjectIdentifier
	Parameters any
}

type pbkdf2Parameters struct {
	Salt       []byte
	Iterations int64
	Length     int64 `asn1:"optional"`
	PRF        algorithm
}

type scryptParameters struct {
	Salt    []byte
	N, R, P int64
	Length  int64 `asn1:"optional"`
}

var (
	hmacWithSHA256 = algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, asn1.NullRawValue}
	someSalt       = []byte("12345678")
	someData       = make([]byte, 160)
)

func (e encryption) der(t testing.TB) []byte {
	t.Helper()
	oid := func(dotted, usual string) asn1.ObjectIdentifier {
		if dotted == "" {
			dotted = usual
		}
		var id asn1.ObjectIdentifier
		for part := range strings.SplitSeq(dotted, ".") {
			n := 0
			for _, digit := range part {
				n = 10*n + int(digit-'0')
			}
			id = append(id, n)
		}
		return id
	}
	if e.kdfParameters == nil {
		e.kdfParameters = pbkdf2Parameters{someSalt, 1, 0, hmacWithSHA256}
	}
	if e.iv == nil {
		e.iv = make([]byte, 16)
	}
	if e.encrypted == nil {
		e.encrypted = someData
	}
	der, err := asn1.Marshal(struct {
		Scheme struct {
			OID        asn1.ObjectIdentifier
			Parameters struct{ KDF, Cipher algorithm }
		}
		Encrypted []byte
	}{
		struct {
			OID        asn1.ObjectIdentifier
			Parameters struct{ KDF, Cipher algorithm }
		}{
			oid(e.scheme, oidPBES2.String()),
			struct{ KDF, Cipher algorithm }{
				algorithm{oid(e.kdf, oidPBKDF2.String()), e.kdfParameters},
				algorithm{oid(e.cipher, "2.16.840.1.101.3.4.1.42"), e.iv},
			},
		},
		e.encrypted,
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestEncryptedKeysThatAreRefused(t *testing.T) {
	good := newKey(t, ECDSAP256)
	text := encrypted(t, good)
	block, _ := pem.Decode(text)
	p521 := openssl(t, nil, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521", "-aes256", "-pass", "pass:"+password)
	rsa1024 := openssl(t, nil, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-aes256", "-pass", "pass:"+password)
	x25519 := openssl(t, nil, "genpkey", "-algorithm", "X25519", "-aes256", "-pass", "pass:"+password)
	sec1 := openssl(t, good.PEM(), "ec")
	scryptOf := func(n, r, p int64) []byte {
		return encryption{kdf: oidScrypt.String(), kdfParameters: scryptParameters{someSalt, n, r, p, 0}}.der(t)
	}
	for _, c := range []struct {
		name     string
		text     []byte
		password string
		reason   string
	}{
		{"nothing", nil, password, "no encrypted PKCS#8"},
		{"text", []byte("a key"), password, "no encrypted PKCS#8"},
		{"16 KB and more", make([]byte, 16<<10+1), password, "longer than 16384 bytes"},
		{"no password", text, "", "password is missing"},
		{"a huge password", text, strings.Repeat("x", 1025), "password is longer"},
		{"not encrypted", good.PEM(), password, "it is not encrypted. Encrypt it with openssl pkcs8"},
		{"not encrypted, DER", good.DER(), password, "it is not encrypted"},
		{"not encrypted, SEC 1", sec1, password, "it is not encrypted"},
		{"OpenSSL's old form", openssl(t, good.PEM(), "ec", "-aes256", "-passout", "pass:"+password), password, "old form"},
		{"a certificate's label", bytes.ReplaceAll(text, []byte("ENCRYPTED PRIVATE KEY"), []byte("CERTIFICATE")), password, "not one PEM block"},
		{"two keys", append(bytes.Clone(text), text...), password, "not one PEM block"},
		{"trailing text", append(bytes.Clone(text), 'x'), password, "not one PEM block"},
		{"trailing bytes", append(bytes.Clone(block.Bytes), 0), password, "no encrypted PKCS#8"},
		{"PBES1", encrypted(t, good, "-v1", "PBE-SHA1-3DES"), password, "old scheme"},
		{"3DES", encrypted(t, good, "-v2", "des3"), password, "not AES in CBC mode"},
		{"P-521", p521, password, "P-521"},
		{"RSA 1024", rsa1024, password, "2048 bits at least"},
		{"X25519", x25519, password, "no key that signs"},

		{"10,000,001 iterations", encryption{kdfParameters: pbkdf2Parameters{someSalt, 10_000_001, 0, hmacWithSHA256}}.der(t), password, "more than 10000000 iterations"},
		{"2^62 iterations", encryption{kdfParameters: pbkdf2Parameters{someSalt, 1 << 62, 0, hmacWithSHA256}}.der(t), password, "more than 10000000 iterations"},
		{"no iterations", encryption{kdfParameters: pbkdf2Parameters{someSalt, 0, 0, hmacWithSHA256}}.der(t), password, "cannot be read"},
		{"negative iterations", encryption{kdfParameters: pbkdf2Parameters{someSalt, -1, 0, hmacWithSHA256}}.der(t), password, "cannot be read"},
		{"another key length", encryption{kdfParameters: pbkdf2Parameters{someSalt, 1, 16, hmacWithSHA256}}.der(t), password, "cannot be read"},
		{"the cipher's key length", encryption{kdfParameters: pbkdf2Parameters{someSalt, 1, 32, hmacWithSHA256}}.der(t), password, "password is wrong"},
		{"HMAC with MD5", encryption{kdfParameters: pbkdf2Parameters{someSalt, 1, 0, algorithm{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 6}, asn1.NullRawValue}}}.der(t), password, "no HMAC"},
		{"Argon2", encryption{kdf: "1.3.6.1.4.1.11591.4.12"}.der(t), password, "neither PBKDF2 nor scrypt"},
		{"scrypt of 64 MB", scryptOf(1<<16, 8, 1), password, "password is wrong"},
		{"scrypt of 128 MB", scryptOf(1<<17, 8, 1), password, "more than 64 MB"},
		{"scrypt of 2^62", scryptOf(1<<62, 8, 1), password, "more than 64 MB"},
		{"scrypt of huge blocks", scryptOf(2, 1<<18, 16), password, "block size above 64"},
		{"scrypt, blocks of 2^62", scryptOf(2, 1<<62, 1), password, "block size above 64"},
		{"scrypt 17 times", scryptOf(16, 8, 17), password, "parallelization above 16"},
		{"scrypt of no power of two", scryptOf(1000, 8, 1), password, "cannot be read"},
		{"scrypt of nothing", scryptOf(0, 0, 0), password, "cannot be read"},
		{"an IV of 8 bytes", encryption{iv: make([]byte, 8)}.der(t), password, "cannot be read"},
		{"half a block", encryption{encrypted: make([]byte, 24)}.der(t), password, "cannot be read"},
		{"no block", encryption{encrypted: []byte{}}.der(t), password, "cannot be read"},
		{"AES-GCM", encryption{cipher: "2.16.840.1.101.3.4.1.46"}.der(t), password, "not AES in CBC mode"},
		{"another scheme", encryption{scheme: "1.2.840.113549.1.5.3"}.der(t), password, "old scheme"},
		{"noise", encryption{}.der(t), password, "password is wrong"},
	} {
		got, err := ParseEncryptedKey(c.text, []byte(c.password))
		var p *problem.Error
		switch {
		case got.Exists() || !errors.Is(err, problem.InvalidArgument) || !errors.As(err, &p):
			t.Errorf("%s: %v", c.name, err)
		case !strings.Contains(p.What, c.reason) || p.Params["field"] != "private_key_pem" || p.Cause != nil:
			t.Errorf("%s: %q, %v, %v", c.name, p.What, p.Params, p.Cause)
		case !strings.HasSuffix(p.What, ".") || c.password != "" && strings.Contains(p.What, c.password):
			t.Errorf("%s: says %q", c.name, p.What)
		}
	}
}

func TestWhatCostsTooMuchIsRefusedAtOnce(t *testing.T) {
	for name, e := range map[string]encryption{
		"PBKDF2":             {kdfParameters: pbkdf2Parameters{someSalt, 1 << 40, 0, hmacWithSHA256}},
		"scrypt's memory":    {kdf: oidScrypt.String(), kdfParameters: scryptParameters{someSalt, 1 << 40, 8, 1, 0}},
		"scrypt's block":     {kdf: oidScrypt.String(), kdfParameters: scryptParameters{someSalt, 2, 1 << 24, 16, 0}},
		"scrypt many times":  {kdf: oidScrypt.String(), kdfParameters: scryptParameters{someSalt, 2, 8, 1 << 24, 0}},
		"a ciphertext of 1M": {encrypted: make([]byte, 1<<20)},
	} {
		der := e.der(t)
		inTime(t, name, func() {
			if _, err := ParseEncryptedKey(der, []byte(password)); err == nil {
				t.Errorf("%s: accepted", name)
			}
		})
	}
}

// FuzzParseEncryptedKey: nothing makes it panic or work for long, what it reads is a key, and a refusal is one
// sentence with nothing of the text in it.
func FuzzParseEncryptedKey(f *testing.F) {
	// The key of 32 bytes 0x42 under the password "x", with PBKDF2 and with scrypt.
	for _, seed := range []string{fuzzPBKDF2, fuzzScrypt} {
		block, _ := pem.Decode([]byte(seed))
		f.Add([]byte(seed), []byte("x"))
		f.Add(block.Bytes, []byte("x"))
	}
	f.Add(encryption{}.der(f), []byte("x"))
	f.Add(newKey(f, Ed25519).PEM(), []byte("x"))
	f.Fuzz(func(t *testing.T, text, password []byte) {
		k, err := parseEncryptedKey(text, password, costs{iterations: 4096, memory: 1 << 20, blockSize: 16, parallelism: 2})
		if err == nil {
			if again, err := ParseKey(k.PEM()); err != nil || !bytes.Equal(again.DER(), k.DER()) {
				t.Fatalf("the key is none: %v", err)
			}
			return
		}
		var p *problem.Error
		if !errors.As(err, &p) || p.Kind != problem.InvalidArgument || p.Params["field"] != "private_key_pem" || len(p.What) > 300 || k.Exists() {
			t.Fatalf("says %v", err)
		}
	})
}

// Openssl pkcs8 -topk8 -passout pass:x has made them, with -iter 2048 and with -scrypt -scrypt_N 256.
const (
	fuzzPBKDF2 = `-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAitglfamlYajgICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEB20F8bz60+cZaie8rFI9tYEQHI6
VDeiQb74ckzT5lXU0wGOYpkt9/dW/WKqe8UgFoIkFieJfUra9SKh5GQGx32eft1k
ncahvRlRLhUyJlyDtLY=
-----END ENCRYPTED PRIVATE KEY-----
`
	fuzzScrypt = `-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGTME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAiRatoGCe+LBwICAQAC
AQgCAQEwHQYJYIZIAWUDBAEqBBC99IQUNTG8J//GbKtujLdKBEAyrreN1uwf58e3
6gU5a0R1MY4ChBSEQs4Ne7UdM7q/MkoV9sDQwL3jRsOQo3F3GZuRPMlI+SL5mg5b
L33D5g3G
-----END ENCRYPTED PRIVATE KEY-----
`
)
