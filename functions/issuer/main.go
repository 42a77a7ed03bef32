// Command issuer runs open issues at ACME CAs, one for each message of its queue.
//
// What an issue needs is stored before it is used, and what is stored says how far it got: a worker that is
// killed anywhere leaves an order that the next one goes on with, at the same URL, by the same key. A lease
// keeps two workers from one order.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/caorder"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/dnssolver"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/work"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "SECRET_KEY", "ORDER_QUEUE", "SIGNING_KEYS")
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
	if resolvers := environ.List("DNS_RESOLVERS"); len(resolvers) > 0 {
		dnssolver.SetResolvers(resolvers)
	}
	guard := egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES"))
	cas, err := acme.Configure(guard, environ.List("ACME_DIRECTORIES"), os.Getenv("ACME_ROOTS"), 20*time.Second)
	if err != nil {
		environ.Exit(err)
	}
	signing, err := kmskey.OpenSigning(env[4])
	if err != nil {
		environ.Exit(err)
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	signer := &casigner.Signer{Store: s, Keys: keys, Signing: signing, Log: log, Now: time.Now}
	i := &issuer{
		store: s, keys: keys, queue: queue, guard: guard, ca: cas,
		cas:      &caorder.Worker{Store: s, Keys: keys, Signer: signer, Log: log, Now: time.Now},
		delivery: &delivery.Worker{Store: s, Keys: keys, Log: log, Now: time.Now},
		now:      time.Now, log: log,
	}
	lambda.Start(i.receive)
}

// receive works on the orders of a batch. A message that cannot be read goes the way of those that fail: to
// the dead letters.
func (i *issuer) receive(ctx context.Context, batch events.SQSEvent) error {
	for _, m := range batch.Records {
		var job work.Order
		if err := json.Unmarshal([]byte(m.Body), &job); err != nil || job.Certificate <= 0 && !job.Rollout {
			return fmt.Errorf("message %s is none of ours", m.MessageId)
		}
		if err := i.do(ctx, job); err != nil {
			i.log.LogAttrs(ctx, slog.LevelError, "order", slog.Int64("user", job.User), slog.Int64("certificate", job.Certificate), slog.String("error", err.Error()))
			return err
		}
	}
	return nil
}

// do carries on with an order, or with what is on its way to devices.
func (i *issuer) do(ctx context.Context, job work.Order) error {
	switch {
	case job.Rollout && job.Certificate > 0:
		return i.delivery.Run(ctx, job.Certificate)
	case job.Rollout && job.Device > 0:
		return i.delivery.RunDevice(ctx, job.User, job.Device)
	case job.Rollout:
		return i.delivery.RunCA(ctx, job.CA)
	}
	return i.work(ctx, job)
}
