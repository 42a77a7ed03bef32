// Command acmeaccounts is a user's accounts at ACME CAs.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "SECRET_KEY")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	keys, err := kmskey.Open(env[2])
	if err != nil {
		environ.Exit(err)
	}
	directories := environ.List("ACME_DIRECTORIES")
	providers, err := acmeaccount.ParseProviders(directories)
	if err != nil {
		environ.Exit(err)
	}
	guard := egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES"))
	cas, err := acme.Configure(guard, directories, os.Getenv("ACME_ROOTS"), 10*time.Second)
	if err != nil {
		environ.Exit(err)
	}
	h := &handler{
		store: s, keys: keys, providers: providers, ca: cas,
		log: slog.New(slog.NewJSONHandler(os.Stdout, nil)), now: time.Now,
	}
	gateway.Serve(h.routes())
}
