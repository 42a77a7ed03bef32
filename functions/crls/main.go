// Command crls publishes, on a schedule, the CRLs of private CAs that are due: each once a day, and soon after a
// revocation whose own function did not get to it. It also renews the keys that sign OCSP answers.
package main

import (
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/casigner"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/store"
)

func main() {
	env := environ.Variables("RESOURCE_TABLE", "SECRET_KEY", "SIGNING_KEYS", "PKI_BUCKET")
	s, err := store.Open("", env[0])
	if err != nil {
		environ.Exit(err)
	}
	keys, err := kmskey.Open(env[1])
	if err != nil {
		environ.Exit(err)
	}
	signing, err := kmskey.OpenSigning(env[2])
	if err != nil {
		environ.Exit(err)
	}
	published, err := bucket.Open(env[3])
	if err != nil {
		environ.Exit(err)
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	c := &crls{
		store: s, log: log, now: time.Now,
		signer: &casigner.Signer{Store: s, Keys: keys, Signing: signing, Bucket: published, Log: log, Now: time.Now},
	}
	lambda.Start(c.run)
}
