// Command samtest runs the scripts of e2e/ against AWS's own stand-ins: the functions that sam build
// made, in the containers of sam local start-api, and sam local invoke with each file of events/.
//
// What sam local lacks comes from this repository's stand-ins, which the containers reach at the
// address of their bridge: DynamoDB Local and SES, behind the check of each function's role. The first
// user is made by the FirstUser function, invoked as CloudFormation would.
//
// It needs a container engine. As root on Linux it starts dockerd, and installs it where apt-get can;
// where there is no engine to be had it says why in one line, which is no failure. No image is
// fetched: the one it makes holds Lambda's runtime interface emulator, which comes with sam, and
// nothing else, since the functions are static.
//
// What it leaves is in build/sam: the logs, the mail and the template that sam local was given.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// errNotRun says that this machine cannot run the test; what it wraps says why.
var errNotRun = errors.New("not run")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "sam-test:", strings.Join(strings.Fields(err.Error()), " "))
	if !errors.Is(err, errNotRun) {
		os.Exit(1)
	}
}

// A samTest is one run. Its parts are stopped in the reverse order of their start.
type samTest struct {
	folder string // what it leaves
	began  time.Time
	engine *engine
	sam    sam
	stack  *stack
	stops  []func()
}

func (t *samTest) onStop(stop func()) { t.stops = append(t.stops, stop) }

func run(ctx context.Context) error {
	folder, err := filepath.Abs("build/sam")
	if err != nil {
		return err
	}
	t := &samTest{folder: folder, began: time.Now()}
	defer func() {
		for _, stop := range slices.Backward(t.stops) {
			stop()
		}
	}()
	// A stack.json or a mail of another run would be taken for this one's.
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(folder, "state"), 0o700); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"a container engine", t.startEngine},
		{"sam build", t.build},
		{"DynamoDB Local, SES, roles", t.startServices},
		{"the first user, by sam local invoke FirstUser", t.makeFirstUser},
		{"sam local invoke with each of events/", t.invokeEvents},
		{"sam local start-api", t.startAPI},
		{"e2e/scripts", t.runScripts},
	} {
		began := time.Now()
		if err := step.do(ctx); errors.Is(err, errNotRun) {
			return err
		} else if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("sam-test: %s: %.1f s\n", step.name, time.Since(began).Seconds())
	}
	fmt.Printf("sam-test: passed in %.0f s\n", time.Since(t.began).Seconds())
	return nil
}

func (t *samTest) startEngine(ctx context.Context) (err error) {
	if t.engine, err = openEngine(ctx, filepath.Join(t.folder, "dockerd.log")); err != nil {
		return err
	}
	t.onStop(t.engine.stop)
	t.onStop(func() {
		if err := t.engine.removeContainers(context.WithoutCancel(ctx), t.folder); err != nil {
			fmt.Fprintln(os.Stderr, "sam-test: remove containers:", err)
		}
	})
	emulator, err := findEmulator()
	if err != nil {
		return err
	}
	if err := t.engine.makeImage(ctx, emulator); err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	t.sam = sam{folder: t.folder, socket: t.engine.socket}
	return nil
}

func (t *samTest) build(ctx context.Context) error { return t.sam.build(ctx) }

func (t *samTest) startServices(ctx context.Context) (err error) {
	if t.stack, err = startStack(ctx, t.folder, t.engine); t.stack != nil {
		t.onStop(t.stack.stop)
	}
	if err != nil {
		return err
	}
	return t.stack.writeTemplate(t.sam.builtTemplate(), t.sam.template())
}

func (t *samTest) makeFirstUser(ctx context.Context) error { return t.stack.makeFirstUser(ctx, t.sam) }

func (t *samTest) startAPI(ctx context.Context) error {
	url, stop, err := t.sam.startAPI(ctx)
	if stop != nil {
		t.onStop(stop)
	}
	if err != nil {
		return err
	}
	return t.stack.announce(url)
}

// runScripts has the e2e tests use this stack. They print themselves which steps sam local cannot do.
func (t *samTest) runScripts(ctx context.Context) error {
	command := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=15m", "-run=^TestScripts$")
	command.Dir = "e2e" // go test shows what a test prints only of the package it is in
	command.Env = append(os.Environ(), "BB_E2E_STACK="+t.stack.file())
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	return command.Run()
}
