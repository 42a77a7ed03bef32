package devicetoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

var now = time.Unix(1_790_000_000, 0)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newSigner is a signer of a root, and counts how often it asks for that.
func newSigner(root *ecdsa.PrivateKey) (s *Signer, asked, published *int) {
	asked, published = new(int), new(int)
	return &Signer{
		Root:    func(context.Context) (crypto.Signer, error) { *asked++; return root, nil },
		Publish: func(context.Context, string, []byte) error { *published++; return nil },
	}, asked, published
}

func sign(t testing.TB, s *Signer, at time.Time) string {
	t.Helper()
	token, err := s.Sign(t.Context(), 7, 101, at)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func verify(token string, root *ecdsa.PublicKey, at time.Time) (Claims, error) {
	p, err := Parse(token)
	if err != nil {
		return Claims{}, err
	}
	return p.Verify(root, at)
}

func TestATokenIsValidForAnHour(t *testing.T) {
	root := newKey(t)
	s, asked, published := newSigner(root)
	token := sign(t, s, now)
	for at, want := range map[time.Duration]error{0: nil, time.Hour - time.Second: nil, time.Hour: ErrExpired, -10 * time.Minute: ErrInvalid} {
		c, err := verify(token, &root.PublicKey, now.Add(at))
		if !errors.Is(err, want) || err == nil && (c.User != 7 || c.Device != 101 || c.ID == "" || !c.ExpiresAt.Equal(now.Add(time.Hour))) {
			t.Errorf("%v: %+v, %v", at, c, err)
		}
	}
	kid, err := KeyID(&root.PublicKey)
	p, _ := Parse(token)
	if err != nil || p.Root() != kid || len(token) > MaxLength {
		t.Errorf("root %s, %v; %d bytes", p.Root(), err, len(token))
	}
	// The root certifies a key once in an hour, and every token lives its own.
	for at := time.Duration(0); at < 3*signerFor; at += 10 * time.Minute {
		token := sign(t, s, now.Add(at))
		if _, err := verify(token, &root.PublicKey, now.Add(at+time.Hour-time.Second)); err != nil {
			t.Fatalf("%v: %v", at, err)
		}
	}
	if *asked != 3 || *published != 3 {
		t.Errorf("the root was asked %d times", *asked)
	}
}

// mangled is a token with its header and claims changed, and signed by key; nil keeps the signature.
func mangled(t *testing.T, token string, key *ecdsa.PrivateKey, change func(header, claims map[string]any)) string {
	t.Helper()
	parts := strings.Split(token, ".")
	decoded := [2]map[string]any{}
	for i := range decoded {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(text, &decoded[i]) != nil {
			t.Fatal(err)
		}
	}
	change(decoded[0], decoded[1])
	for i := range decoded {
		text, err := json.Marshal(decoded[i])
		if err != nil {
			t.Fatal(err)
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(text)
	}
	if key != nil {
		digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		var signature [64]byte
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		parts[2] = base64.RawURLEncoding.EncodeToString(signature[:])
	}
	return strings.Join(parts, ".")
}

// What an attacker without our keys can send is refused.
func TestForgedTokens(t *testing.T) {
	root, stranger := newKey(t), newKey(t)
	s, _, _ := newSigner(root)
	token := sign(t, s, now)
	other, _, _ := newSigner(stranger)
	foreign := sign(t, other, now)
	own, _ := Parse(token)
	theirs, _ := Parse(foreign)
	public, err := x509.MarshalPKIXPublicKey(&root.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	forged := map[string]string{
		"another root's":            foreign,
		"another root's, our kid":   mangled(t, foreign, other.key, func(h, _ map[string]any) { h["kid"] = own.Root() }),
		"another user":              mangled(t, token, nil, func(_, c map[string]any) { c["sub"] = "8" }),
		"another device":            mangled(t, token, nil, func(_, c map[string]any) { c["device_id"] = 102 }),
		"a key of their own":        mangled(t, token, stranger, func(_, c map[string]any) { c["sub"] = "8" }),
		"their certificate":         mangled(t, token, other.key, func(h, _ map[string]any) { h["x5c"] = theirs.header.X5C }),
		"two certificates":          mangled(t, token, other.key, func(h, _ map[string]any) { h["x5c"] = append(theirs.header.X5C, own.header.X5C...) }),
		"no certificate":            mangled(t, token, other.key, func(h, _ map[string]any) { h["x5c"] = []string{} }),
		"jwk":                       mangled(t, token, other.key, func(h, _ map[string]any) { h["jwk"] = map[string]string{"kty": "EC"}; delete(h, "x5c") }),
		"jku":                       mangled(t, token, other.key, func(h, _ map[string]any) { h["jku"] = "https://evil.example/k"; delete(h, "x5c") }),
		"alg none":                  mangled(t, token, nil, func(h, _ map[string]any) { h["alg"] = "none" }),
		"alg None, no signature":    mangled(t, token, nil, func(h, _ map[string]any) { h["alg"] = "None" })[:len(token)-86],
		"kid with a path":           mangled(t, token, nil, func(h, _ map[string]any) { h["kid"] = "../../../../dev/null" }),
		"kid in SQL":                mangled(t, token, nil, func(h, _ map[string]any) { h["kid"] = "x' OR '1'='1' -- abc" }),
		"no signature":              parts[0] + "." + parts[1] + ".",
		"a signature of zeros":      parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"padding":                   parts[0] + "." + parts[1] + "." + parts[2] + "==",
		"a line feed":               parts[0] + "." + parts[1] + "." + parts[2] + "\n",
		"four parts":                token + ".x",
		"too long":                  mangled(t, token, nil, func(_, c map[string]any) { c["x"] = strings.Repeat("x", MaxLength) }),
		"nothing":                   "..",
		"something critical for us": mangled(t, token, s.key, func(h, _ map[string]any) { h["crit"] = []string{"exp"} }),
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"at+jwt","kid":"` + own.Root() + `","x5c":["` + own.header.X5C[0] + `"]}`))
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(header + "." + parts[1]))
	forged["HS256 by the public key"] = header + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	for name, token := range forged {
		if c, err := verify(token, &root.PublicKey, now); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

// What our own keys sign for another purpose is no device's token either.
func TestTokensOfAnotherKind(t *testing.T) {
	root := newKey(t)
	s, _, _ := newSigner(root)
	token := sign(t, s, now)
	for name, change := range map[string]func(h, c map[string]any){
		"typ":             func(h, _ map[string]any) { h["typ"] = "JWT" },
		"iss":             func(_, c map[string]any) { c["iss"] = "other" },
		"aud":             func(_, c map[string]any) { c["aud"] = "bb:users" },
		"no audience":     func(_, c map[string]any) { delete(c, "aud") },
		"no expiry":       func(_, c map[string]any) { delete(c, "exp") },
		"a long life":     func(_, c map[string]any) { c["exp"] = now.Unix() + 3601 },
		"no device":       func(_, c map[string]any) { delete(c, "device_id") },
		"device 0":        func(_, c map[string]any) { c["device_id"] = 0 },
		"a device's name": func(_, c map[string]any) { c["device_id"] = "101" },
		"user -1":         func(_, c map[string]any) { c["sub"] = "-1" },
		"no user":         func(_, c map[string]any) { delete(c, "sub") },
		"not yet":         func(_, c map[string]any) { c["nbf"] = now.Unix() + 3600 },
	} {
		if c, err := verify(mangled(t, token, s.key, change), &root.PublicKey, now); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if c, err := verify(mangled(t, token, s.key, func(_, _ map[string]any) {}), &root.PublicKey, now); err != nil {
		t.Errorf("unchanged: %+v, %v", c, err)
	}
	// A certificate of the root's that has lapsed, or is not of this kind.
	lapsed := mangled(t, token, s.key, func(_, c map[string]any) {
		at := now.Add(24 * time.Hour).Unix()
		c["iat"], c["nbf"], c["exp"] = at, at, at+3600
	})
	if c, err := verify(lapsed, &root.PublicKey, now.Add(24*time.Hour)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a lapsed certificate: %+v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	root := newKey(f)
	s, _, _ := newSigner(root)
	token, err := s.Sign(context.Background(), 7, 101, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		if _, err := p.Verify(&root.PublicKey, now); err == nil && text != token {
			t.Errorf("%q is taken for a token", text)
		}
	})
}
