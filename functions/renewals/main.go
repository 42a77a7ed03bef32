// Command renewals runs on a schedule. It opens an issue for each certificate that is due, and sends the
// issuer word of open issues that nobody works on although their time has come.
//
// It reads an index of what is due, in order of time, and so costs what is due, not what there is. Every
// run ends before the next begins, or not: two runs find the same, and a condition lets one of them open an
// issue.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/work"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE", "ORDER_QUEUE")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	queue, err := work.Open(env[2])
	if err != nil {
		environ.Exit(err)
	}
	guard := egress.Allowing(os.Getenv("ALLOW_PRIVATE_ADDRESSES"))
	cas, err := acme.Configure(guard, environ.List("ACME_DIRECTORIES"), os.Getenv("ACME_ROOTS"), 5*time.Second)
	if err != nil {
		environ.Exit(err)
	}
	r := &renewals{
		store: s, send: queue.Send, ca: cas, now: time.Now,
		log: slog.New(slog.NewJSONHandler(os.Stdout, nil)),
	}
	lambda.Start(func(ctx context.Context) error { return r.run(ctx) })
}
