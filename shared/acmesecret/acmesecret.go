// Package acmesecret opens the secret of a CA's ACME server, for the server and for whoever mints bindings.
package acmesecret

import (
	"context"
	"errors"
	"fmt"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

// Open opens the secret of a user's CA. The first who asks makes it: of two who do so at once both get the one that was
// stored. store.ErrNotFound if the user has no such CA.
func Open(ctx context.Context, s *store.Store, keys *kmskey.Key, user, ca int64) (acmeserver.Secret, error) {
	for range 3 {
		kept, err := s.ACMESecret(ctx, ca)
		if err == nil {
			b, err := keys.Open(ctx, kmskey.ACMEServer(user, ca), kept)
			if err != nil {
				return acmeserver.Secret{}, fmt.Errorf("open the ACME secret of CA %d: %w", ca, err)
			}
			defer clear(b)
			return acmeserver.ParseSecret(b)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return acmeserver.Secret{}, err
		}
		secret := acmeserver.NewSecret()
		b := secret.Bytes()
		kept, err = keys.Seal(ctx, kmskey.ACMEServer(user, ca), b)
		clear(b)
		if err != nil {
			return acmeserver.Secret{}, err
		}
		if err := s.CreateACMESecret(ctx, user, ca, kept); err == nil {
			return secret, nil
		} else if !errors.Is(err, store.ErrConflict) {
			return acmeserver.Secret{}, err
		}
	}
	return acmeserver.Secret{}, fmt.Errorf("the ACME secret of CA %d is there and is not", ca)
}
