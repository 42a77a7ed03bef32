package lambda

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const apiPrefix = "/2018-06-01/runtime/"

// ServeHTTP is the Runtime API of one process.
func (p *process) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call, _ := strings.CutPrefix(r.URL.Path, apiPrefix)
	invocation, isInvocation := strings.CutPrefix(call, "invocation/")
	switch {
	case r.Method == http.MethodGet && invocation == "next":
		p.serveNext(w, r)
	case r.Method == http.MethodPost && call == "init/error":
		p.serveInitError(w, r)
	case r.Method == http.MethodPost && isInvocation:
		p.serveResult(w, r, invocation)
	default:
		http.NotFound(w, r)
	}
}

// serveNext waits for an invocation and hands it to the runtime.
func (p *process) serveNext(w http.ResponseWriter, r *http.Request) {
	p.readied.Do(func() { close(p.ready) })
	var i *invocation
	select {
	case i = <-p.queue:
	case <-r.Context().Done():
		return
	}
	i.taken.Store(true)
	p.current.Store(i)
	h := w.Header()
	h["Lambda-Runtime-Aws-Request-Id"] = []string{i.id}
	h["Lambda-Runtime-Deadline-Ms"] = []string{strconv.FormatInt(time.Now().Add(p.function.Timeout).UnixMilli(), 10)}
	h["Lambda-Runtime-Invoked-Function-Arn"] = []string{p.function.ARN}
	h["Lambda-Runtime-Trace-Id"] = []string{"Root=1-" + i.id[:8] + "-" + strings.ReplaceAll(i.id[9:], "-", "") + ";Sampled=0"}
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(i.payload))}
	// A failed write means a dying runtime; its death fails the invocation.
	_, _ = w.Write(i.payload)
}

// serveResult takes the answer or the error of the invocation that the process has.
func (p *process) serveResult(w http.ResponseWriter, r *http.Request, call string) {
	body, err := readResult(r.Body)
	if err != nil && !errors.Is(err, ErrResponseTooLarge) {
		return // the connection broke; the death of the process fails the invocation
	}
	id, what, _ := strings.Cut(call, "/")
	i := p.current.Load()
	if i == nil || i.id != id || !p.current.CompareAndSwap(i, nil) {
		http.Error(w, `{"errorType":"InvalidRequestID","errorMessage":"the process does not have this invocation"}`, http.StatusBadRequest)
		return
	}
	switch {
	case err != nil:
		i.done <- result{err: err}
		http.Error(w, `{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"exceeded maximum allowed payload size"}`, http.StatusRequestEntityTooLarge)
		return
	case what == "error":
		i.done <- result{err: functionError(body)}
	default:
		i.done <- result{answer: body}
	}
	w.WriteHeader(http.StatusAccepted)
}

func (p *process) serveInitError(w http.ResponseWriter, r *http.Request) {
	body, err := readResult(r.Body)
	if err != nil {
		return
	}
	p.initErr.Store(functionError(body))
	w.WriteHeader(http.StatusAccepted)
}

// readResult reads a body up to the limit, and what is beyond it without keeping it, so that the
// runtime reads the refusal.
func readResult(r io.Reader) ([]byte, error) {
	body := bytes.NewBuffer(make([]byte, 0, 4096))
	if _, err := body.ReadFrom(io.LimitReader(r, maxResponseBytes+1)); err != nil {
		return nil, err
	}
	if body.Len() <= maxResponseBytes {
		return body.Bytes(), nil
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return nil, ErrResponseTooLarge
}
