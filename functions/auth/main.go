// Command auth is how people come in: registration, login, password reset, status, logout, and the
// refresh of a session.
//
// Its routes have no authorizer. Those that need to know who asks find out with the package that the
// authorizer uses. What is answered to a stranger about an e-mail address is the same whether it has
// an account or not: in text, in status and in time.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/mail"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "MAIL_FROM", "TOKEN_KEY")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	sender, err := mail.Open(env[2])
	if err != nil {
		environ.Exit(err)
	}
	client, err := dynamo.FromEnvironment()
	if err != nil {
		environ.Exit(err)
	}
	root, err := kmskey.OpenSigner(env[3])
	if err != nil {
		environ.Exit(err)
	}
	h := &handler{
		store: s, mail: sender,
		authn: &authn.Authenticator{Client: client, Table: env[0], Now: time.Now},
		log:   slog.New(slog.NewJSONHandler(os.Stdout, nil)),
		now:   time.Now, wait: waitUntil,
		tokens: &devicetoken.Signer{Root: root, Publish: s.PublishTokenKey}, url: os.Getenv("PUBLIC_URL"),
	}
	gateway.Serve(h.routes())
}

// waitUntil holds an answer back until its time has come, or the request ends.
func waitUntil(ctx context.Context, at time.Time) {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
