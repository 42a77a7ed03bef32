package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxEventBytes is above Lambda's limit, which the invocation itself keeps.
const maxEventBytes = 2 * maxRequestBytes

// InvocationOf reads which function a request of Lambda's Invoke API names, by name or ARN, and which
// version or alias of it.
func InvocationOf(r *http.Request) (function, qualifier string, ok bool) {
	rest, isFunction := strings.CutPrefix(r.URL.EscapedPath(), "/2015-03-31/functions/")
	escaped, isInvocation := strings.CutSuffix(rest, "/invocations")
	name, err := url.PathUnescape(escaped)
	if r.Method != http.MethodPost || !isFunction || !isInvocation || err != nil {
		return "", "", false
	}
	parts := strings.Split(name, ":")
	names := 1
	if parts[0] == "arn" {
		names = 7
	}
	qualifier = r.URL.Query().Get("Qualifier")
	if len(parts) > names {
		qualifier = parts[names]
		parts = parts[:names]
	}
	function = strings.Join(parts, ":")
	return function, qualifier, function != ""
}

// ServeHTTP is Lambda's Invoke API. A function may also be named by its logical id, which is easier to
// know; every version and alias is the function that runs. An asynchronous invocation (of type Event) is
// tried once; what becomes of it is in the log.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, ok := InvocationOf(r)
	if !ok {
		refuse(w, http.StatusNotFound, "UnknownOperationException", "only Invoke is to be had here")
		return
	}
	id, found := h.logicalID(name)
	if !found {
		refuse(w, http.StatusNotFound, "ResourceNotFoundException", "Function not found: "+name)
		return
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEventBytes))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "RequestTooLargeException", err.Error())
		return
	}
	if len(payload) == 0 {
		payload = []byte("{}")
	}
	if !json.Valid(payload) {
		refuse(w, http.StatusBadRequest, "InvalidRequestContentException", "Could not parse request body into json")
		return
	}
	switch kind := r.Header.Get("X-Amz-Invocation-Type"); kind {
	case "", "RequestResponse":
		h.serveInvoke(w, r, id, payload)
	case "Event":
		h.InvokeAsync(id, payload)
		w.WriteHeader(http.StatusAccepted)
	case "DryRun":
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, http.StatusBadRequest, "InvalidParameterValueException", "unknown invocation type "+kind)
	}
}

func (h *Host) logicalID(name string) (string, bool) {
	for id, f := range h.functions {
		if name == id || name == f.Name || name == f.ARN {
			return id, true
		}
	}
	return "", false
}

func (h *Host) serveInvoke(w http.ResponseWriter, r *http.Request, id string, payload []byte) {
	answer, err := h.Invoke(r.Context(), id, payload)
	var failed *FunctionError
	switch {
	case err == nil:
	case errors.Is(err, ErrRequestTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, "RequestTooLargeException", err.Error())
		return
	case errors.Is(err, ErrStopped), errors.Is(err, context.Canceled):
		refuse(w, http.StatusInternalServerError, "ServiceException", err.Error())
		return
	case errors.As(err, &failed):
	case errors.Is(err, ErrTimeout):
		failed = &FunctionError{Type: "Sandbox.Timedout", Message: err.Error()}
	case errors.Is(err, ErrResponseTooLarge):
		failed = &FunctionError{Type: "Function.ResponseSizeTooLarge", Message: err.Error()}
	default:
		failed = &FunctionError{Type: "Runtime.ExitError", Message: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amz-Executed-Version", "$LATEST")
	if failed != nil {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
		_ = json.NewEncoder(w).Encode(failed)
		return
	}
	_, _ = w.Write(answer)
}

// InvokeAsync calls a function that nobody waits for. A failure is logged.
func (h *Host) InvokeAsync(logicalID string, payload []byte) {
	go func() {
		if _, err := h.Invoke(context.Background(), logicalID, payload); err != nil && h.log.to != nil {
			h.log.mu.Lock()
			defer h.log.mu.Unlock()
			fmt.Fprintln(h.log.to, "lambda:", err)
		}
	}()
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Errortype", kind)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"Type": "User", "Message": message})
}
