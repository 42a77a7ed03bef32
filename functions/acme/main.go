// Command acme is the ACME server (RFC 8555) of each private CA. It has no authorizer: a request is authorized by its
// signature (§6.2), and an account by an external account binding (§7.3.4) that the CA's owner minted.
//
// Validation and signing happen while the client waits: nothing here runs in the background.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "SECRET_KEY", "SIGNING_KEYS", "PKI_BUCKET")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	keys, err := kmskey.Open(env[2])
	if err != nil {
		environ.Exit(err)
	}
	signing, err := kmskey.OpenSigning(env[3])
	if err != nil {
		environ.Exit(err)
	}
	published, err := bucket.Open(env[4])
	if err != nil {
		environ.Exit(err)
	}
	port := os.Getenv("ACME_HTTP_PORT")
	if port == "" {
		port = "80"
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	guard := egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES"))
	guard.Resolver = egress.Resolver(environ.List("DNS_RESOLVERS"))
	h := &handler{
		store: s, keys: keys, prober: prober{guard, guard.Resolver, port}, log: log, now: time.Now,
		signer: &casigner.Signer{Store: s, Keys: keys, Signing: signing, Bucket: published, Log: log, Now: time.Now},
	}
	gateway.Serve(h.routes())
}
