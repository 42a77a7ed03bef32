// Command certificates is a user's certificates: what is asked for, what was issued, export and revocation.
//
// Issuing itself is the issuer's: here an issue is opened in the table, and the issuer is sent word.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/work"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "SECRET_KEY", "ORDER_QUEUE", "SIGNING_KEYS", "PKI_BUCKET")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	keys, err := kmskey.Open(env[2])
	if err != nil {
		environ.Exit(err)
	}
	queue, err := work.Open(env[3])
	if err != nil {
		environ.Exit(err)
	}
	guard := egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES"))
	cas, err := acme.Configure(guard, environ.List("ACME_DIRECTORIES"), os.Getenv("ACME_ROOTS"), 10*time.Second)
	if err != nil {
		environ.Exit(err)
	}
	signing, err := kmskey.OpenSigning(env[4])
	if err != nil {
		environ.Exit(err)
	}
	published, err := bucket.Open(env[5])
	if err != nil {
		environ.Exit(err)
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	signer := &casigner.Signer{Store: s, Keys: keys, Signing: signing, Bucket: published, Log: log, Now: time.Now}
	h := &handler{
		store: s, keys: keys, queue: queue, ca: cas, resolver: egress.Resolver(environ.List("DNS_RESOLVERS")),
		cas: &caorder.Worker{Store: s, Keys: keys, Signer: signer, Log: log, Now: time.Now}, signer: signer,
		log: log, now: time.Now,
	}
	gateway.Serve(h.routes())
}
