// Command devices is a user's devices: registration, what is assigned to them, and what they are to install.
//
// What changes for a device is written together with the signal that tells it. Devices themselves ask the functions
// self and updates.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "SECRET_KEY", "TOKEN_KEY")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	keys, err := kmskey.Open(env[2])
	if err != nil {
		environ.Exit(err)
	}
	root, err := kmskey.OpenSigner(env[3])
	if err != nil {
		environ.Exit(err)
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	worker := &delivery.Worker{Store: s, Keys: keys, Log: log, Now: time.Now}
	h := &handler{
		store: s, tokens: &devicetoken.Signer{Root: root, Publish: s.PublishTokenKey}, delivery: worker,
		bundles: &bundle.Maker{Store: s, Keys: keys, Delivery: worker, Log: log}, log: log, now: time.Now,
	}
	gateway.Serve(h.routes())
}
