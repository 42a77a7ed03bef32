package acmesecret_test

import (
	"errors"
	"testing"

	"cjj365.cc/bb/shared/acmesecret"
	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

func TestMain(m *testing.M) { awstest.Main(m) }

func TestACAHasOneSecret(t *testing.T) {
	ctx := t.Context()
	s, keys := storetest.New(t).Store, awstest.Key(t)
	if _, err := acmesecret.Open(ctx, s, keys, 7, 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of no CA: %v", err)
	}
	for id := range int64(2) {
		if _, err := s.CreateCA(ctx, ca.CA{User: 7, ID: 1 + id, CreatedAt: storetest.Now()}, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	secrets := make(chan acmeserver.Secret, 8)
	for range cap(secrets) {
		go func() {
			secret, err := acmesecret.Open(ctx, s, keys, 7, 1)
			if err != nil {
				t.Error(err)
				secret = acmeserver.NewSecret()
			}
			secrets <- secret
		}()
	}
	first := (<-secrets).BindingText("AAAA")
	for range cap(secrets) - 1 {
		if other := (<-secrets).BindingText("AAAA"); other != first {
			t.Error("two secrets")
		}
	}
	if again, err := acmesecret.Open(ctx, s, keys, 7, 1); err != nil || again.BindingText("AAAA") != first {
		t.Errorf("the next time: %v", err)
	}
	// One that was copied from another CA stays closed.
	kept, err := s.ACMESecret(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(ctx, kmskey.ACMEServer(7, 2), kept); !errors.Is(err, sealed.ErrUnopenable) {
		t.Error(err)
	}
}
