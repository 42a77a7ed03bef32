// Command ocsp answers for every private CA whether a certificate is revoked (RFC 6960), by GET and POST.
//
// It reads the CA's ledger, so a revocation shows at once. Each CA has a key for these answers alone, certified by
// the CA for some days; the CA's own key is out of this function's reach.
package main

import (
	"log/slog"
	"os"
	"time"

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
	gateway.Serve(&handler{store: s, keys: keys, log: slog.New(slog.NewJSONHandler(os.Stdout, nil)), now: time.Now})
}
