// Command notices runs on a schedule. It gives the notices of expiry that are due, hands each event to the
// webhooks that want it, and makes the deliveries that are due.
//
// Each of the three reads an index of what is due, and so costs what is due. Each step is one transaction or a
// lease, so that a run that is killed, or two at once, leave nothing undone and do nothing twice; but a
// receiver may hear of an event again if a run was killed after it had answered.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"cjj365.cc/bb/shared/courier"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
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
	n := &notices{
		store: s, courier: &courier.Courier{Store: s, Keys: keys, Client: webhook.Client(guard), Now: time.Now}, now: time.Now,
		log: slog.New(slog.NewJSONHandler(os.Stdout, nil)),
	}
	lambda.Start(func(ctx context.Context) error { return n.run(ctx) })
}
