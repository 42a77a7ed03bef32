// Command dnsprobe tries a DNS provider: it sets a probe record, waits until it can be seen, and removes it.
//
// It is apart from dnsproviders because it holds the code of every provider.
package main

import (
	"os"
	"time"

	"cjj365.cc/bb/shared/dnssolver"
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
	if resolvers := environ.List("DNS_RESOLVERS"); len(resolvers) > 0 {
		dnssolver.SetResolvers(resolvers)
	}
	h := &handler{store: s, keys: keys, guard: egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES")), now: time.Now}
	gateway.Serve(h.routes())
}
