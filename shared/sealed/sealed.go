// Package sealed encrypts a secret with a data key (AES-256-GCM). Package kmskey keeps the data key.
package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// KeySize is the length of a data key in bytes.
const KeySize = 32

// Secret is an encrypted secret with its encrypted data key.
type Secret struct {
	DataKey []byte `dynamodbav:"data_key"` // encrypted by KMS
	Nonce   []byte `dynamodbav:"nonce"`    // 12 bytes
	Text    []byte `dynamodbav:"text"`     // ciphertext and tag of 16 bytes
}

// String keeps what is sealed out of logs.
func (s Secret) String() string { return "[sealed]" }

// GoString does the same for %#v.
func (s Secret) GoString() string { return s.String() }

// Empty tells whether there is nothing.
func (s Secret) Empty() bool { return len(s.Text) == 0 }

// ErrUnopenable is the error of a secret that was changed, or whose data key is another's.
var ErrUnopenable = errors.New("the sealed secret does not open")

// Seal encrypts plain with a data key that encrypts nothing else.
func Seal(key, plain []byte) (nonce, text []byte, err error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, nil, err
	}
	nonce = make([]byte, aead.NonceSize())
	rand.Read(nonce) // never fails
	return nonce, aead.Seal(nil, nonce, plain, nil), nil
}

// Open decrypts what Seal made; ErrUnopenable if it is not that.
func Open(key, nonce, text []byte) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnopenable, err)
	}
	if len(nonce) != aead.NonceSize() {
		return nil, ErrUnopenable
	}
	plain, err := aead.Open(nil, nonce, text, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnopenable, err)
	}
	return plain, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("a data key has %d bytes, not %d", KeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
