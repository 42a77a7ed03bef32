// Package acmekey opens the sealed keys of ACME accounts, to register them and to sign as them.
package acmekey

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/kmskey"
)

// Open opens an account's key.
func Open(ctx context.Context, keys *kmskey.Key, a acmeaccount.Account) (acme.Account, error) {
	der, err := keys.Open(ctx, kmskey.ACMEAccount(a.User, a.ID), a.Key)
	if err != nil {
		return acme.Account{}, fmt.Errorf("open the key of ACME account %d: %w", a.ID, err)
	}
	defer clear(der)
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return acme.Account{}, fmt.Errorf("open the key of ACME account %d: %w", a.ID, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return acme.Account{}, fmt.Errorf("the key of ACME account %d cannot sign", a.ID)
	}
	return acme.Account{URL: a.URL, Key: signer}, nil
}

// Register registers an account whose key is open at its CA, and returns its URL. It may be repeated: the CA
// knows the account by its key.
func Register(ctx context.Context, keys *kmskey.Key, ca *acme.Client, a acmeaccount.Account, by acme.Account) (string, error) {
	if a.EABKey == "" {
		return ca.Register(ctx, by.Key, a.Email, nil)
	}
	mac, err := keys.Open(ctx, kmskey.ACMEAccount(a.User, a.ID), a.EABMAC)
	if err != nil {
		return "", fmt.Errorf("open the binding of ACME account %d: %w", a.ID, err)
	}
	defer clear(mac)
	return ca.Register(ctx, by.Key, a.Email, &acme.ExternalAccount{KeyID: a.EABKey, MAC: mac})
}

// OfTheCA tells whether a request failed for a reason of the CA's, which the account's owner should read, and not
// for one of ours.
func OfTheCA(err error) bool {
	var refused *acme.Problem
	var silent *acme.Unreachable
	return errors.As(err, &refused) || errors.As(err, &silent)
}
