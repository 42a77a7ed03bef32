package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // refuses a member that is there twice, and knows capitals from small letters

	"cjj365.cc/bb/shared/pki"
)

// Algorithms of signatures, and of the MAC of an external account binding.
var (
	algorithms    = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.RS256, jose.EdDSA}
	macAlgorithms = []jose.SignatureAlgorithm{jose.HS256}
)

// signed is a JWS whose form was checked, and whose signature was not.
type signed struct {
	jws   *jose.JSONWebSignature
	alg   jose.SignatureAlgorithm
	url   string
	nonce string // empty for none
	kid   string // exactly one of kid and jwk is there
	jwk   *jose.JSONWebKey
}

// parseJWS reads a JWS by the rules of RFC 8555 §6.2: flattened JSON with one signature and no unprotected header.
func parseJWS(text []byte, algorithms []jose.SignatureAlgorithm) (signed, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		return signed{}, refuse(malformed, "The body is no JWS in flattened JSON (RFC 8555 §6.2).")
	}
	for name := range members {
		switch name {
		case "protected", "payload", "signature":
		default:
			return signed{}, refuse(malformed, "A JWS has protected, payload and signature, and nothing else; not %.40q.", name)
		}
	}
	var protected string
	if len(members) != 3 || json.Unmarshal(members["protected"], &protected) != nil {
		return signed{}, refuse(malformed, "The JWS lacks protected, payload or signature.")
	}
	plain, err := base64.RawURLEncoding.DecodeString(protected)
	var header map[string]json.RawMessage
	if err != nil || json.Unmarshal(plain, &header) != nil || header == nil {
		return signed{}, refuse(malformed, "The protected header is no JSON object in base64url.")
	}
	for _, name := range []string{"crit", "b64"} { // RFC 7515 §4.1.11, RFC 7797
		if _, there := header[name]; there {
			return signed{}, refuse(malformed, "The protected header has %s, which is not understood here.", name)
		}
	}
	jws, err := jose.ParseSignedJSON(string(text), algorithms)
	if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
		e := refuse(badSignatureAlgorithm, "Sign with one of %v.", algorithms)
		e.algorithms = algorithms
		return signed{}, e
	}
	if err != nil || len(jws.Signatures) != 1 {
		return signed{}, &refusal{kind: malformed, detail: "The JWS cannot be read, or its key is no public key.", cause: err}
	}
	protectedHeader := jws.Signatures[0].Protected
	s := signed{
		jws: jws, alg: jose.SignatureAlgorithm(protectedHeader.Algorithm), nonce: protectedHeader.Nonce, kid: protectedHeader.KeyID, jwk: protectedHeader.JSONWebKey,
	}
	s.url, _ = protectedHeader.ExtraHeaders["url"].(string)
	if (s.kid == "") == (s.jwk == nil) {
		return signed{}, refuse(malformed, "The protected header must have one of jwk and kid.")
	}
	return s, nil
}

// publicKey is the key that a JWS brings, if it may be an account's or a certificate's.
func (s signed) publicKey() (crypto.PublicKey, error) {
	if _, err := pki.Strength(s.jwk.Key); err != nil { // before it is used: huge ones take long
		e := refuse(badPublicKey, "%s", refusalOf(err).detail)
		return nil, e
	}
	return s.jwk.Key, nil
}

// verify checks the signature and gives the payload.
func (s signed) verify(key crypto.PublicKey) ([]byte, error) {
	if !fits(s.alg, key) {
		return nil, refuse(malformed, "The algorithm %s does not belong to the key.", s.alg)
	}
	payload, err := s.jws.Verify(key)
	if err != nil {
		return nil, refuse(malformed, "The signature is not by the key.")
	}
	return payload, nil
}

// fits ties an algorithm to one kind of key: jose would verify ES256 by a key of another curve.
func fits(alg jose.SignatureAlgorithm, key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && k.Curve == elliptic.P256() || alg == jose.ES384 && k.Curve == elliptic.P384()
	case *rsa.PublicKey:
		return alg == jose.RS256
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

// thumbprint is that of RFC 7638, in base64url.
func thumbprint(key crypto.PublicKey) (string, error) {
	digest, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(digest), nil
}

// marshalKey is a public key as a JWK, and parseKey its inverse.
func marshalKey(key crypto.PublicKey) ([]byte, error) { return json.Marshal(jose.JSONWebKey{Key: key}) }

func parseKey(jwk []byte) (crypto.PublicKey, error) {
	var k jose.JSONWebKey
	if err := json.Unmarshal(jwk, &k); err != nil {
		return nil, fmt.Errorf("the key of an account: %w", err)
	}
	return k.Key, nil
}
