// Package lambda runs functions as Lambda does: each execution environment is a child process that
// asks for its next invocation over the Runtime API and handles one at a time.
//
// A process is started when an invocation finds no idle one, up to a limit for each function; then
// invocations wait. The process used last is used next, so that under a light load few stay busy. A
// process that overruns the function's timeout, or dies, fails the invocation it has; the next one
// gets another process.
//
// A child lives no longer than this process, even if that is killed: the Runtime API's listener
// closes with it, and a runtime whose request for the next invocation breaks exits.
package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"cjj365.cc/bb/local/template"
)

// Lambda's limits for a synchronous invocation.
const (
	maxRequestBytes  = 6 * 1024 * 1024
	maxResponseBytes = 6*1024*1024 + 100
	initTimeout      = 10 * time.Second
)

// MaxProcesses is how many processes a function has at most, usually: one with reserved concurrency has that many.
const MaxProcesses = 32

// The ways an invocation fails, beside a FunctionError.
var (
	ErrTimeout          = errors.New("task timed out")
	ErrCrashed          = errors.New("the process exited before it answered")
	ErrRequestTooLarge  = errors.New("the request is larger than 6 MB")
	ErrResponseTooLarge = errors.New("the response is larger than 6 MB")
	ErrStopped          = errors.New("the functions are being stopped")
)

// A FunctionError is an error that the function returned, in its own words.
type FunctionError struct {
	Type    string `json:"errorType"`
	Message string `json:"errorMessage"`
}

func (e *FunctionError) Error() string { return e.Type + ": " + e.Message }

// Options say where the functions are and what they get beside the template's environment.
type Options struct {
	Build        string            // folder with <logical id>/bootstrap
	Env          map[string]string // for every function
	Log          io.Writer         // gets the functions' output line by line, each line in one Write
	MaxProcesses int               // of each function; the usual when 0
}

// A Host runs the functions of a template.
type Host struct {
	functions map[string]*function
	log       *lines
}

// CheckBuilt tells which function, if any, has no bootstrap in the build folder.
func CheckBuilt(build string, functions []template.Function) error {
	for _, f := range functions {
		if _, err := os.Stat(filepath.Join(build, f.LogicalID, "bootstrap")); err != nil {
			return fmt.Errorf("find function %s: %w", f.LogicalID, err)
		}
	}
	return nil
}

// NewHost prepares functions and starts none. A function without its bootstrap is an error.
func NewHost(functions []template.Function, o Options) (*Host, error) {
	if o.MaxProcesses == 0 {
		o.MaxProcesses = MaxProcesses
	}
	build, err := filepath.Abs(o.Build)
	if err != nil {
		return nil, fmt.Errorf("find the built functions: %w", err)
	}
	if err := CheckBuilt(build, functions); err != nil {
		return nil, err
	}
	log := &lines{to: o.Log}
	h := &Host{functions: map[string]*function{}, log: log}
	for _, declared := range functions {
		folder := filepath.Join(build, declared.LogicalID)
		most := o.MaxProcesses
		if declared.Concurrency > 0 {
			most = declared.Concurrency
		}
		h.functions[declared.LogicalID] = &function{
			Function:  declared,
			bootstrap: filepath.Join(folder, "bootstrap"),
			env:       environment(declared, folder, o.Env),
			log:       log,
			slots:     make(chan struct{}, most),
			all:       map[*process]struct{}{},
		}
	}
	return h, nil
}

// Invoke calls a function by its logical id and waits for its answer. When ctx ends before the
// answer comes, Invoke returns and the function goes on until it is done or out of time.
func (h *Host) Invoke(ctx context.Context, logicalID string, payload []byte) ([]byte, error) {
	f, found := h.functions[logicalID]
	if !found {
		return nil, fmt.Errorf("invoke %s: there is no such function", logicalID)
	}
	answer, err := f.invoke(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("invoke %s: %w", logicalID, err)
	}
	return answer, nil
}

// Stop ends every process and waits until all are gone.
func (h *Host) Stop() {
	var wg sync.WaitGroup
	for _, f := range h.functions {
		for _, p := range f.stop() {
			wg.Go(p.terminate)
		}
	}
	wg.Wait()
}

// A function is a declared function with its processes. A slot is held for as long as an
// invocation runs, so the slots bound the processes.
type function struct {
	template.Function
	bootstrap string
	env       []string
	log       *lines
	slots     chan struct{}

	mu      sync.Mutex
	idle    []*process // the last is used first
	all     map[*process]struct{}
	stopped bool
}

func (f *function) invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if len(payload) > maxRequestBytes {
		return nil, ErrRequestTooLarge
	}
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a process: %w", ctx.Err())
	}
	for {
		p, err := f.acquire(ctx)
		if err != nil {
			<-f.slots
			return nil, err
		}
		i := &invocation{id: uuid.NewString(), payload: payload, done: make(chan result, 1)}
		p.queue <- i
		answer, err := f.await(ctx, p, i)
		if errors.Is(err, errUntaken) {
			continue // the process had died while idle
		}
		return answer, err
	}
}

// await releases the process and its slot when the invocation is over.
func (f *function) await(ctx context.Context, p *process, i *invocation) ([]byte, error) {
	timeout := time.NewTimer(f.Timeout)
	select {
	case r := <-i.done:
		timeout.Stop()
		f.release(p)
		return r.answer, r.err
	case <-ctx.Done():
		go f.finish(p, i, timeout)
		return nil, ctx.Err()
	case <-timeout.C:
	case <-p.dead:
	}
	timeout.Stop()
	return f.fail(p, i)
}

// finish lets an invocation that nobody waits for come to its end.
func (f *function) finish(p *process, i *invocation, timeout *time.Timer) {
	select {
	case <-i.done:
	case <-p.dead:
	case <-timeout.C:
		p.kill()
	}
	timeout.Stop()
	f.release(p)
}

// fail ends an invocation whose process died or is out of time. An answer sent before that counts.
func (f *function) fail(p *process, i *invocation) ([]byte, error) {
	cause := ErrTimeout
	select {
	case <-p.dead:
		cause = ErrCrashed
		if !i.taken.Load() {
			f.forget(p)
			return nil, errUntaken
		}
	default:
		p.kill()
	}
	defer f.release(p)
	select {
	case r := <-i.done:
		return r.answer, r.err
	default:
	}
	if cause == ErrTimeout {
		return nil, fmt.Errorf("%w after %s", cause, f.Timeout)
	}
	return nil, cause
}

// errUntaken tells that a process died before it took the invocation, so another may have it.
var errUntaken = errors.New("the invocation was not taken")

// acquire takes the process that was used last, or starts one.
func (f *function) acquire(ctx context.Context) (*process, error) {
	f.mu.Lock()
	for n := len(f.idle); n > 0; n = len(f.idle) {
		p := f.idle[n-1]
		f.idle = f.idle[:n-1]
		if !p.isDead() {
			f.mu.Unlock()
			return p, nil
		}
		delete(f.all, p)
	}
	f.mu.Unlock()
	p, err := start(f)
	if err != nil {
		return nil, err
	}
	if !f.adopt(p) {
		p.kill()
		return nil, ErrStopped
	}
	if err := p.initialised(ctx); err != nil {
		f.forget(p)
		return nil, err
	}
	return p, nil
}

// adopt counts a process among the function's, unless they are being stopped.
func (f *function) adopt(p *process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopped {
		f.all[p] = struct{}{}
	}
	return !f.stopped
}

func (f *function) release(p *process) {
	f.mu.Lock()
	if p.isDead() {
		delete(f.all, p)
	} else {
		f.idle = append(f.idle, p)
	}
	f.mu.Unlock()
	<-f.slots
}

func (f *function) forget(p *process) {
	p.kill()
	f.mu.Lock()
	delete(f.all, p)
	f.mu.Unlock()
}

// stop refuses new processes and yields those there are.
func (f *function) stop() []*process {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.idle = nil
	return slices.Collect(maps.Keys(f.all))
}

// functionError reads the body of /error; one that is not Lambda's own shape is kept as text.
func functionError(body []byte) *FunctionError {
	var e FunctionError
	if err := json.Unmarshal(body, &e); err != nil {
		return &FunctionError{Type: "Runtime.Unknown", Message: string(body)}
	}
	return &e
}
