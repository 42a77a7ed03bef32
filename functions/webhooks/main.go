// Command webhooks is a user's webhooks: where notices are sent, what came of each, and sending one again.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/courier"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
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
	guard := egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES"))
	h := &handler{
		store: s, keys: keys, guard: guard, courier: &courier.Courier{Store: s, Keys: keys, Client: webhook.Client(guard), Now: time.Now},
		log: slog.New(slog.NewJSONHandler(os.Stdout, nil)), now: time.Now,
	}
	gateway.Serve(h.routes())
}
