package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// An environment is a function's execution environment: a child process, and the Runtime API that it
// asks for events. Package local/lambda has the complete one; this one tells times.
type environment struct {
	command *exec.Cmd
	api     *http.Server
	output  bytes.Buffer
	ready   chan time.Time // when the runtime asked for an event
	events  chan []byte
	answers chan answer
	exited  chan struct{}

	began time.Time
	init  time.Duration // from the start to the first question for an event
}

type answer struct {
	at   time.Time
	body []byte
	err  error
}

// patience bounds what a child may take for anything.
const patience = 10 * time.Second

// startEnvironment starts a function and waits until it asks for its first event.
func startEnvironment(ctx context.Context, bootstrap string, variables map[string]string) (*environment, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &environment{
		command: exec.CommandContext(ctx, bootstrap),
		ready:   make(chan time.Time, 1), events: make(chan []byte), answers: make(chan answer, 1), exited: make(chan struct{}),
	}
	all := maps.Clone(awsEnvironment)
	maps.Copy(all, map[string]string{"AWS_LAMBDA_RUNTIME_API": listener.Addr().String(), "PATH": os.Getenv("PATH"), "HOME": os.DevNull})
	maps.Copy(all, variables)
	for name, value := range all {
		e.command.Env = append(e.command.Env, name+"="+value)
	}
	e.command.Stdout, e.command.Stderr = &e.output, &e.output
	e.command.WaitDelay = time.Second
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", e.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{outcome}", e.result)
	e.api = &http.Server{Handler: mux}
	go e.api.Serve(listener)
	e.began = time.Now()
	if err := e.command.Start(); err != nil {
		e.api.Close()
		return nil, err
	}
	go func() {
		_ = e.command.Wait() // it is killed in the end
		close(e.exited)
	}()
	at, err := e.await(ctx)
	if err != nil {
		e.stop()
		return nil, fmt.Errorf("start %s: %w", bootstrap, err)
	}
	e.init = at.Sub(e.began)
	return e, nil
}

func (e *environment) next(w http.ResponseWriter, r *http.Request) {
	e.ready <- time.Now()
	select {
	case event := <-e.events:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", "00000000-0000-4000-8000-000000000000")
		w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(patience).UnixMilli()))
		_, _ = w.Write(event) // a failed write means a dead runtime, which invoke sees
	case <-r.Context().Done():
	}
}

func (e *environment) result(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	a := answer{time.Now(), body, err}
	if r.PathValue("outcome") == "error" {
		a.err = errors.New(string(body))
	}
	e.answers <- a
	w.WriteHeader(http.StatusAccepted)
}

// await waits until the runtime asks for an event.
func (e *environment) await(ctx context.Context) (time.Time, error) {
	return receive(ctx, e, e.ready)
}

// invoke hands out an event and tells how long its answer took. It returns when the runtime is idle again.
func (e *environment) invoke(ctx context.Context, event []byte) ([]byte, time.Duration, error) {
	begin := time.Now()
	e.events <- event
	a, err := receive(ctx, e, e.answers)
	if err == nil {
		err = a.err
	}
	if err == nil {
		_, err = e.await(ctx)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("invoke: %w", err)
	}
	return a.body, a.at.Sub(begin), nil
}

func receive[T any](ctx context.Context, e *environment, from chan T) (value T, err error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case value = <-from:
		return value, nil
	case <-e.exited:
		return value, fmt.Errorf("it ended: %s", strings.TrimSpace(e.output.String()))
	case <-timeout.C:
		return value, errors.New("it does not answer")
	case <-ctx.Done():
		return value, ctx.Err()
	}
}

// stop ends the process and tells the processor time it has used.
func (e *environment) stop() time.Duration {
	_ = e.command.Process.Kill() // it may have ended by itself
	<-e.exited
	e.api.Close()
	return e.command.ProcessState.UserTime() + e.command.ProcessState.SystemTime()
}
