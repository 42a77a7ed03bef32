package pki

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"hash"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/scrypt"

	"cjj365.cc/bb/shared/problem"
)

// encryptedLabel is the label of encrypted PKCS#8 in PEM (RFC 7468 §11).
const encryptedLabel = "ENCRYPTED PRIVATE KEY"

// Bounds of an encrypted key and its password, in bytes.
const (
	maxEncryptedKey = 16 << 10
	maxPassword     = 1 << 10
)

// costs bound the work that the sender of a key can ask for before its password is known to be right.
type costs struct {
	iterations  int64 // PBKDF2
	memory      int64 // scrypt: N·r·128 bytes
	blockSize   int64 // scrypt: r
	parallelism int64 // scrypt: p
}

// usualCosts let through whatever people use; the block size is 8 wherever scrypt is. It has a bound of its
// own, since p·r·128 bytes are allocated besides.
var usualCosts = costs{iterations: 10_000_000, memory: 64 << 20, blockSize: 64, parallelism: 16}

// How a key is encrypted so that it can be read here.
const encryptIt = "Encrypt it with openssl pkcs8 -topk8 -v2 aes-256-cbc -in key.pem"

func badKey(format string, args ...any) *problem.Error {
	return problem.InvalidArgument.New("The private key cannot be used: "+format, args...).With("field", "private_key_pem")
}

// ParseEncryptedKey reads a private key in encrypted PKCS#8 (RFC 5958 §3), as DER or PEM with nothing else in
// it: PBES2 (RFC 8018) with AES-CBC, and PBKDF2 or scrypt (RFC 7914 §7). Its errors are problems that hold
// nothing of what was given. It may take seconds and 64 MB.
func ParseEncryptedKey(text, password []byte) (Key, error) {
	return parseEncryptedKey(text, password, usualCosts)
}

func parseEncryptedKey(text, password []byte, limit costs) (Key, error) {
	switch {
	case len(text) > maxEncryptedKey:
		return Key{}, badKey("it is longer than %d bytes.", maxEncryptedKey)
	case len(password) == 0:
		return Key{}, badKey("its password is missing.")
	case len(password) > maxPassword:
		return Key{}, badKey("its password is longer than %d bytes.", maxPassword)
	}
	der := text
	if isPEM(text) {
		blocks, err := readPEM(text, 1, encryptedLabel)
		switch {
		case err == nil:
			der = blocks[0]
		case bytes.Contains(text, []byte("Proc-Type: 4,ENCRYPTED")):
			return Key{}, badKey("it is encrypted in OpenSSL's old form. %s.", encryptIt)
		case !bytes.Contains(text, []byte(encryptedLabel)) && bytes.Contains(text, []byte("PRIVATE KEY-----")):
			return Key{}, badKey("it is not encrypted. %s.", encryptIt)
		default:
			return Key{}, badKey("it is not one PEM block %s, or there is more in it.", encryptedLabel)
		}
	}
	opened, err := decrypt(der, password, limit)
	if err != nil {
		return Key{}, err
	}
	defer clear(opened)
	if rest, err := asn1.Unmarshal(opened, new(asn1.RawValue)); err != nil || len(rest) > 0 || len(opened) > maxKey {
		return Key{}, wrongPassword()
	}
	parsed, err := x509.ParsePKCS8PrivateKey(opened)
	if err != nil {
		return Key{}, wrongPassword() // which one in 256 lets the padding pass
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return Key{}, badKey("it is no key that signs.")
	}
	k, err := keyOf(signer)
	if refused := (*problem.Error)(nil); errors.As(err, &refused) {
		return Key{}, refused.With("field", "private_key_pem")
	}
	return k, err
}

// wrongPassword is one sentence for all that can be wrong behind the encryption: what was decrypted may be a key.
func wrongPassword() error {
	return badKey("its password is wrong, or what is encrypted is no private key in PKCS#8.")
}

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

var keyLengths = map[string]int{
	"2.16.840.1.101.3.4.1.2":  16, // aes-128-cbc
	"2.16.840.1.101.3.4.1.22": 24, // aes-192-cbc
	"2.16.840.1.101.3.4.1.42": 32, // aes-256-cbc
}

var prfs = map[string]func() hash.Hash{
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

// decrypt opens an EncryptedPrivateKeyInfo. It is written here because github.com/youmark/pkcs8 knows HMAC
// with SHA-1 and SHA-256 only, panics over an IV or a ciphertext of a wrong length, and leaves the padding.
func decrypt(der, password []byte, limit costs) ([]byte, error) {
	input := cryptobyte.String(der)
	var info, parameters, encrypted cryptobyte.String
	if !input.ReadASN1(&info, tag.SEQUENCE) || !input.Empty() {
		return nil, badKey("it is no encrypted PKCS#8.")
	}
	if info.PeekASN1Tag(tag.INTEGER) { // the version of PKCS#8, PKCS#1 or SEC 1
		return nil, badKey("it is not encrypted. %s.", encryptIt)
	}
	scheme, parameters, ok := readAlgorithm(&info)
	if !ok || !info.ReadASN1(&encrypted, tag.OCTET_STRING) || !info.Empty() {
		return nil, badKey("it is no encrypted PKCS#8.")
	}
	if !scheme.Equal(oidPBES2) {
		return nil, badKey("it is encrypted with an old scheme and not with PBES2. %s.", encryptIt)
	}
	var pbes2, iv cryptobyte.String
	if !parameters.ReadASN1(&pbes2, tag.SEQUENCE) || !parameters.Empty() {
		return nil, badKey("the parameters of its encryption cannot be read.")
	}
	kdf, kdfParameters, readable := readAlgorithm(&pbes2)
	aesCBC, ivParameter, alsoReadable := readAlgorithm(&pbes2)
	if !readable || !alsoReadable || !pbes2.Empty() {
		return nil, badKey("the parameters of its encryption cannot be read.")
	}
	length, ok := keyLengths[aesCBC.String()]
	if !ok {
		return nil, badKey("it is encrypted with a cipher that is not AES in CBC mode. %s.", encryptIt)
	}
	if !ivParameter.ReadASN1(&iv, tag.OCTET_STRING) || !ivParameter.Empty() || len(iv) != aes.BlockSize ||
		len(encrypted) == 0 || len(encrypted)%aes.BlockSize != 0 {
		return nil, badKey("the parameters of its encryption cannot be read.")
	}
	derived, err := derive(kdf, kdfParameters, password, length, limit)
	if err != nil {
		return nil, err
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	opened := make([]byte, len(encrypted))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(opened, encrypted)
	padding := int(opened[len(opened)-1])
	if padding < 1 || padding > aes.BlockSize ||
		subtle.ConstantTimeCompare(opened[len(opened)-padding:], bytes.Repeat([]byte{byte(padding)}, padding)) != 1 {
		return nil, wrongPassword()
	}
	return opened[:len(opened)-padding], nil
}

func readAlgorithm(s *cryptobyte.String) (oid asn1.ObjectIdentifier, parameters cryptobyte.String, ok bool) {
	var algorithm cryptobyte.String
	ok = s.ReadASN1(&algorithm, tag.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(&oid)
	return oid, algorithm, ok
}

// derive makes the cipher's key of a password, unless that costs too much.
func derive(kdf asn1.ObjectIdentifier, parameters cryptobyte.String, password []byte, length int, limit costs) ([]byte, error) {
	unreadable := badKey("the parameters of its encryption cannot be read.")
	var p, salt cryptobyte.String
	if !kdf.Equal(oidPBKDF2) && !kdf.Equal(oidScrypt) {
		return nil, badKey("it is encrypted with a key derivation that is neither PBKDF2 nor scrypt. %s.", encryptIt)
	}
	if !parameters.ReadASN1(&p, tag.SEQUENCE) || !parameters.Empty() || !p.ReadASN1(&salt, tag.OCTET_STRING) {
		return nil, unreadable
	}
	if kdf.Equal(oidScrypt) {
		var n, r, parallel int64
		if !p.ReadASN1Integer(&n) || !p.ReadASN1Integer(&r) || !p.ReadASN1Integer(&parallel) || !readKeyLength(&p, length) || !p.Empty() ||
			n < 2 || n&(n-1) != 0 || r < 1 || parallel < 1 {
			return nil, unreadable
		}
		if r > limit.blockSize || parallel > limit.parallelism || n > limit.memory/128/r {
			return nil, badKey("its scrypt takes more than %d MB, a block size above %d or a parallelization above %d.",
				limit.memory>>20, limit.blockSize, limit.parallelism)
		}
		derived, err := scrypt.Key(password, salt, int(n), int(r), int(parallel), length)
		if err != nil {
			return nil, unreadable
		}
		return derived, nil
	}
	var iterations int64
	prf := sha1.New // the default
	if !p.ReadASN1Integer(&iterations) || iterations < 1 || !readKeyLength(&p, length) {
		return nil, unreadable
	}
	if !p.Empty() {
		oid, null, ok := readAlgorithm(&p)
		if !ok || !p.Empty() || !null.SkipOptionalASN1(tag.NULL) || !null.Empty() {
			return nil, unreadable
		}
		if prf, ok = prfs[oid.String()]; !ok {
			return nil, badKey("its PBKDF2 uses no HMAC with SHA-1, SHA-256, SHA-384 or SHA-512. %s.", encryptIt)
		}
	}
	if iterations > limit.iterations {
		return nil, badKey("its PBKDF2 takes more than %d iterations.", limit.iterations)
	}
	derived, err := pbkdf2.Key(prf, string(password), salt, int(iterations), length)
	if err != nil {
		return nil, unreadable
	}
	return derived, nil
}

// readKeyLength passes over the optional length of the key, which the cipher has said already.
func readKeyLength(s *cryptobyte.String, length int) bool {
	var n int64
	return !s.PeekASN1Tag(tag.INTEGER) || s.ReadASN1Integer(&n) && n == int64(length)
}
