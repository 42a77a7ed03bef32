// Command cas is a user's private CAs: what they are, what they issue, what they have issued, and its revocation.
package main

import (
	"log/slog"
	"os"
	"strings"
	"time"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "SECRET_KEY", "SIGNING_KEYS", "PKI_BUCKET", "REVOCATION_URL", "DIRECTORY_URL")
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
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	signer := &casigner.Signer{Store: s, Keys: keys, Signing: signing, Bucket: published, Log: log, Now: time.Now}
	h := &handler{
		store: s, keys: keys, signing: signing, signer: signer,
		worker:     &caorder.Worker{Store: s, Keys: keys, Signer: signer, Log: log, Now: time.Now},
		revocation: strings.TrimRight(env[5], "/"), directory: strings.TrimRight(env[6], "/"), log: log, now: time.Now,
	}
	gateway.Serve(h.routes())
}
