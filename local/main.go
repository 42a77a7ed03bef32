// Command local runs the whole stack on this machine: it reads template.yaml, and stands in for
// API Gateway, Lambda, CloudFormation, EventBridge and SES; DynamoDB Local holds the tables, MiniStack the
// keys, queues and buckets.
//
//	go run ./local         runs until Ctrl-C; what it keeps is in the state folder
//	go run ./local reset   removes what it keeps
//
// Environment:
//
//	BB_PORT        port on 127.0.0.1, 8080 if unset, 0 for any free one
//	BB_STATE       state folder, .bb in the checkout if unset
//	BB_MEMORY      1 keeps tables, keys, queues and buckets in memory
//	BB_PARAMETERS  parameters of the template, as Name=Value Name=Value
//	PEBBLE_…       Pebble's own variables, for its moods; package pebble lists them
//	BB_EXTERNAL_ACCOUNTS  id=key id=key: Pebble makes accounts with these MAC keys (base64url) only
//
// The state folder holds: lock (held while the stack runs), stack.json (where it runs; only while
// it runs), permissions.json (what the functions' roles grant and nothing used, written at the end),
// first-user.json (the first user's password, made once), dynamodb (the tables),
// ministack (keys, queues and buckets), dynamodb.log and ministack.log (what those said since the last start) and
// mail (what would have been sent); where the template orders certificates, acme (Pebble's certificates,
// Knot's zones and key, the ports) and acme.log.
//
// A stack that cannot start says why in one line on standard error and leaves nothing running.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"cjj365.cc/bb/local/checkout"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bb:", strings.Join(strings.Fields(err.Error()), " "))
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("local", flag.ExitOnError)
	file := flags.String("template", "template.yaml", "the SAM template")
	build := flags.String("build", "build", "folder with <logical id>/bootstrap of each function")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	folder, err := stateFolder()
	if err != nil {
		return err
	}
	switch flags.Arg(0) {
	case "reset":
		return reset(folder)
	case "":
		return serve(ctx, config{template: *file, build: *build, state: folder})
	}
	return fmt.Errorf("unknown command %q; the only one is reset", flags.Arg(0))
}

func stateFolder() (string, error) {
	if folder := os.Getenv("BB_STATE"); folder != "" {
		return filepath.Abs(folder)
	}
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".bb"), nil
}
