package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// invokeEvents invokes each function with its file of events/, as docs/running.md tells people to do.
func (t *samTest) invokeEvents(ctx context.Context) error {
	var failures []error
	for _, f := range t.stack.template.Functions {
		answer, err := t.sam.invoke(ctx, f.LogicalID, "events/"+f.LogicalID+".json")
		if err == nil {
			err = expected(f.LogicalID, answer)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w: %s", f.LogicalID, err, answer))
		}
	}
	return errors.Join(failures...)
}

// expected compares an answer with what that event is answered. Like e2e's test of events/, it knows
// that the page's placeholder is no token and that nobody listens at FirstUser's ResponseURL.
func expected(function string, answer []byte) error {
	var a struct {
		StatusCode   int    `json:"statusCode"`
		ErrorMessage string `json:"errorMessage"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return err
	}
	switch {
	case string(answer) == "null" && (function == "Issuer" || function == "Renewals" || function == "Crls" || function == "Notices"), // nothing to do, and nobody to tell
		(function == "DnsProbe" || function == "Acme") && a.StatusCode == 404, // there is no such provider and CA
		(function == "Self" || function == "Updates") && a.StatusCode == 403,  // there is no such device
		function == "Pki" && a.StatusCode == 503:                              // make sam-test has no S3 beside it
		return nil
	case function == "Authorizer" && a.ErrorMessage == "Unauthorized",
		function == "FirstUser" && strings.Contains(a.ErrorMessage, "127.0.0.1:9"),
		a.StatusCode == 200:
		return nil
	}
	return errors.New("not the answer to its event")
}
