package devicetoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"sync"
	"time"
)

// Signer signs tokens with a key of its own, which the root certifies.
type Signer struct {
	// Root gives the root key: what it signs is signed in KMS. It is asked for when a key is to be certified.
	Root func(context.Context) (crypto.Signer, error)
	// Publish has the root's public key (SPKI, DER) lie where tokens are verified. It is called once before the first
	// token.
	Publish func(ctx context.Context, kid string, public []byte) error

	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	header string // of its tokens, encoded
	until  time.Time
}

// Sign makes a token for a device, valid from now on.
func (s *Signer) Sign(ctx context.Context, user, device int64, now time.Time) (string, error) {
	key, head, err := s.ready(ctx, now)
	if err != nil {
		return "", fmt.Errorf("sign a device token: %w", err)
	}
	text, err := json.Marshal(payload{
		Issuer: "bb", Audience: audience, Subject: strconv.FormatInt(user, 10), Device: device, ID: rand.Text(),
		IssuedAt: now.Unix(), NotBefore: now.Unix(), ExpiresAt: now.Unix() + int64(Lifetime/time.Second),
	})
	if err != nil {
		return "", fmt.Errorf("sign a device token: %w", err)
	}
	signed := head + "." + base64.RawURLEncoding.EncodeToString(text)
	digest := sha256.Sum256([]byte(signed))
	r, x, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign a device token: %w", err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	x.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature[:]), nil
}

// ready is a key that signs for Lifetime yet, with the header of its tokens.
func (s *Signer) ready(ctx context.Context, now time.Time) (*ecdsa.PrivateKey, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key != nil && now.Before(s.until) {
		return s.key, s.header, nil
	}
	root, err := s.Root(ctx)
	if err != nil {
		return nil, "", err
	}
	public, ok := root.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, "", fmt.Errorf("the root of device tokens is a %T", root.Public())
	}
	kid, err := KeyID(public)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, "", err
	}
	if err := s.Publish(ctx, kid, der); err != nil {
		return nil, "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	serial := make([]byte, 16)
	rand.Read(serial) // never fails
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: commonOf}, SignatureAlgorithm: x509.ECDSAWithSHA256,
		NotBefore: now.Add(-skew), NotAfter: now.Add(signerFor + Lifetime + skew), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: commonOf}, PublicKey: public}
	certificate, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), root)
	if err != nil {
		return nil, "", fmt.Errorf("certify a key: %w", err)
	}
	head, err := json.Marshal(header{Alg: algorithm, Typ: mediaType, Kid: kid, X5C: []string{base64.StdEncoding.EncodeToString(certificate)}})
	if err != nil {
		return nil, "", err
	}
	s.key, s.header, s.until = key, base64.RawURLEncoding.EncodeToString(head), now.Add(signerFor)
	return s.key, s.header, nil
}
