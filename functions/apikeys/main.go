// Command apikeys is a user's API keys, and the catalogue of permissions.
package main

import (
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	h := &handler{store: s, log: slog.New(slog.NewJSONHandler(os.Stdout, nil)), now: time.Now}
	gateway.Serve(h.routes())
}
