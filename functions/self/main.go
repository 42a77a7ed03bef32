// Command self is what a device asks about itself: what it is to install, the certificates and CAs that it is to have,
// and what it has to say.
//
// The caller is the device of the token; whether it is still active is read with each request, and no device is asked
// about that is not the caller.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("RESOURCE_TABLE", "SECRET_KEY")
	s, err := store.Open("", env[0])
	if err != nil {
		environ.Exit(err)
	}
	keys, err := kmskey.Open(env[1])
	if err != nil {
		environ.Exit(err)
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	worker := &delivery.Worker{Store: s, Keys: keys, Log: log, Now: time.Now}
	h := &handler{store: s, bundles: &bundle.Maker{Store: s, Keys: keys, Delivery: worker, Log: log}, log: log, now: time.Now}
	gateway.Serve(h.routes())
}
