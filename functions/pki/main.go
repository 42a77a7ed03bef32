// Command pki hands out what private CAs publish: their CRL and their certificate, from the bucket, to everybody.
package main

import (
	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/gateway"
)

func main() {
	env := environ.Variables("PKI_BUCKET")
	b, err := bucket.Open(env[0])
	if err != nil {
		environ.Exit(err)
	}
	gateway.Serve(&handler{bucket: b})
}
