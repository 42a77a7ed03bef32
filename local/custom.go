package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/template"
)

// customResourceTimeout is CloudFormation's hour, shortened for who waits at a terminal.
const customResourceTimeout = time.Minute

// A customEvent is what CloudFormation sends to the function of a custom resource.
type customEvent struct {
	RequestType        string
	ServiceToken       string
	ResponseURL        string
	StackID            string `json:"StackId"`
	RequestID          string `json:"RequestId"`
	ResourceType       string
	LogicalResourceID  string `json:"LogicalResourceId"`
	ResourceProperties map[string]any
}

// A customResult is what the function puts to the response URL.
type customResult struct{ Status, Reason string }

// makeCustomResource has the function make the resource, as at the stack's creation. A stack is
// created at every start here, so the function must bear to be asked again.
func makeCustomResource(ctx context.Context, host *lambda.Host, t *template.Template, c template.CustomResource) error {
	ctx, cancel := context.WithTimeout(ctx, customResourceTimeout)
	defer cancel()
	result, err := askForCustomResource(ctx, host, t, c)
	if err != nil {
		return fmt.Errorf("make %s: %w", c.LogicalID, err)
	}
	if result.Status != "SUCCESS" {
		return fmt.Errorf("make %s: %s: %s", c.LogicalID, result.Status, result.Reason)
	}
	return nil
}

func askForCustomResource(ctx context.Context, host *lambda.Host, t *template.Template, c template.CustomResource) (customResult, error) {
	results := make(chan customResult, 1)
	secret := "/" + uuid.NewString()
	url, closeServer, err := listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var result customResult
		if r.Method != http.MethodPut || r.URL.Path != secret || json.NewDecoder(r.Body).Decode(&result) != nil {
			http.Error(w, "not the answer to a custom resource", http.StatusBadRequest)
			return
		}
		select {
		case results <- result:
		default: // the first answer counts
		}
	}))
	if err != nil {
		return customResult{}, err
	}
	defer closeServer()
	token, _ := c.Properties["ServiceToken"].(string)
	payload, err := json.Marshal(customEvent{
		RequestType:        "Create",
		ServiceToken:       token,
		ResponseURL:        url + secret,
		StackID:            fmt.Sprintf("arn:aws:cloudformation:%s:%s:stack/%s/local", t.Region, t.Account, t.Stack),
		RequestID:          uuid.NewString(),
		ResourceType:       c.Type,
		LogicalResourceID:  c.LogicalID,
		ResourceProperties: c.Properties,
	})
	if err != nil {
		return customResult{}, err
	}
	_, failed := host.Invoke(ctx, c.Function, payload)
	select {
	case result := <-results:
		return result, nil
	default:
	}
	if failed != nil {
		return customResult{}, failed
	}
	// The function may have left the answer to something that it started.
	select {
	case result := <-results:
		return result, nil
	case <-ctx.Done():
		return customResult{}, fmt.Errorf("wait for its answer: %w", ctx.Err())
	}
}

// listen serves on a free port of the loopback address.
func listen(handler http.Handler) (url string, closeServer func(), err error) {
	listener, url, err := reserve()
	if err != nil {
		return "", nil, err
	}
	return url, serveOn(listener, handler), nil
}
