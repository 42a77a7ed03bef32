package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/dynamo"
)

// Invalid is a device's token that is not signed by a key of ours, or says what none of ours says.
const Invalid Refusal = "no valid device token"

// RootKey is where the public key lies that devices' tokens name by id.
func RootKey(kid string) dynamo.Key { return dynamo.Key{PK: "TOKENKEY", SK: kid} }

// Device finds the device that a token is of. The error is a Refusal, or the failure of the table, upon which nobody
// may be let in. Whether the device has been revoked since, the caller has to look.
func (a *Authenticator) Device(ctx context.Context, t devicetoken.Parsed) (access.Caller, error) {
	root, err := a.root(ctx, t.Root())
	if err != nil {
		return access.Caller{}, err
	}
	claims, err := t.Verify(root, a.Now())
	switch {
	case errors.Is(err, devicetoken.ErrExpired):
		return access.Caller{}, Expired
	case err != nil:
		return access.Caller{}, Invalid
	}
	return access.Caller{Kind: access.Device, User: claims.User, ID: claims.Device, CreatedAt: claims.IssuedAt, ExpiresAt: claims.ExpiresAt}, nil
}

// rootFor is how long a root is believed before it is looked for again: one whose item was deleted ends by then.
const rootFor = 10 * time.Minute

type knownRoot struct {
	key *ecdsa.PublicKey
	at  time.Time
}

// root reads a key now and then. There are as many as there ever were keys in KMS: what the table does not have is not
// kept. A table that does not answer changes nothing of what is known.
func (a *Authenticator) root(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	known, ok := a.roots.Load(kid)
	if ok && a.Now().Before(known.(knownRoot).at.Add(rootFor)) {
		return known.(knownRoot).key, nil
	}
	root, err := a.readRoot(ctx, kid)
	switch {
	case err == nil:
		a.roots.Store(kid, knownRoot{root, a.Now()})
		return root, nil
	case errors.Is(err, Invalid):
		a.roots.Delete(kid)
	case ok:
		return known.(knownRoot).key, nil
	}
	return nil, err
}

func (a *Authenticator) readRoot(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	var it struct {
		Public bytesValue `json:"public"`
	}
	found, err := a.Client.Get(ctx, a.Table, RootKey(kid), &it)
	if err != nil {
		return nil, fmt.Errorf("read the key of device tokens: %w", err)
	}
	if !found {
		return nil, Invalid
	}
	parsed, err := x509.ParsePKIXPublicKey(it.Public.B)
	root, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("read the key of device tokens: a %T, %w", parsed, errors.Join(err))
	}
	return root, nil
}
