package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/policy"
	"cjj365.cc/bb/local/template"
)

// maxContextBytes bounds what an authorizer hands to the function.
const maxContextBytes = 8 << 10

type authorizerEvent struct {
	Type      string `json:"type"`
	MethodARN string `json:"methodArn"`
	request
}

// authorize asks the authorizer, and keeps its context for the function and for refusals.
func (x *exchange) authorize(a *template.Authorizer, request *request) *refusal {
	for _, name := range a.IdentityHeaders {
		if x.r.Header.Get(name) == "" {
			return refuse("UNAUTHORIZED", nil)
		}
	}
	for _, name := range a.IdentityQueries {
		if request.QueryStringParameters[name] == "" {
			return refuse("UNAUTHORIZED", nil)
		}
	}
	methodARN := x.arnPrefix + x.r.Method + "/" + strings.TrimPrefix(x.route, "/")
	payload, err := json.Marshal(newAuthorizerEvent(methodARN, *request))
	if err != nil {
		return refuse("AUTHORIZER_FAILURE", err)
	}
	answer, took, err := x.call(a.Function, payload)
	x.authorizerTook = took
	if err != nil {
		var said *lambda.FunctionError
		if errors.As(err, &said) && said.Message == "Unauthorized" {
			return refuse("UNAUTHORIZED", nil)
		}
		return refuse("AUTHORIZER_FAILURE", err)
	}
	verdict, err := parseVerdict(answer)
	if err != nil {
		return refuse("AUTHORIZER_CONFIGURATION_ERROR", fmt.Errorf("read the answer of %s: %w", a.Function, err))
	}
	x.authorizer = verdict.context
	x.authorizer["integrationLatency"] = x.authorizerTook.Milliseconds()
	switch verdict.policy.Evaluate("execute-api:Invoke", methodARN) {
	case policy.Allowed:
		return nil
	case policy.Denied:
		return &refusal{kind: "ACCESS_DENIED", message: defaults["ACCESS_DENIED"].message + " with an explicit deny"}
	default:
		return refuse("ACCESS_DENIED", nil)
	}
}

// newAuthorizerEvent has empty maps where the function's event has null.
func newAuthorizerEvent(methodARN string, r request) authorizerEvent {
	if r.QueryStringParameters == nil {
		r.QueryStringParameters = map[string]string{}
		r.MultiValueQueryStringParameters = map[string][]string{}
	}
	if r.PathParameters == nil {
		r.PathParameters = map[string]string{}
	}
	r.StageVariables = map[string]string{}
	return authorizerEvent{Type: "REQUEST", MethodARN: methodARN, request: r}
}

// A verdict is an authorizer's answer. The context has the principal's id, and strings only.
type verdict struct {
	policy  policy.Policy
	context map[string]any
}

// parseVerdict reads the answer by exact names, so that a misspelt one is found here and not on AWS.
func parseVerdict(answer []byte) (verdict, error) {
	var v verdict
	var members map[string]json.RawMessage
	if err := json.Unmarshal(answer, &members); err != nil {
		return v, err
	}
	var principal string
	var hasPolicy bool
	var err error
	for name, value := range members {
		switch name {
		case "principalId":
			err = json.Unmarshal(value, &principal)
		case "policyDocument":
			hasPolicy = true
			v.policy, err = policy.Parse(value)
		case "context":
			v.context, err = parseContext(value)
		case "usageIdentifierKey":
		default:
			err = fmt.Errorf("%q is not a member of an authorizer's answer", name)
		}
		if err != nil {
			return v, err
		}
	}
	if principal == "" || !hasPolicy {
		return v, errors.New("it lacks a principalId or a policyDocument")
	}
	if v.context == nil {
		v.context = map[string]any{}
	}
	v.context["principalId"] = principal
	return v, nil
}

// parseContext turns every value into a string, as API Gateway does.
func parseContext(data json.RawMessage) (map[string]any, error) {
	if len(data) > maxContextBytes {
		return nil, fmt.Errorf("the context has %d bytes, more than 8 KB", len(data))
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var values map[string]any
	if err := decoder.Decode(&values); err != nil {
		return nil, err
	}
	for name, value := range values {
		switch value := value.(type) {
		case string:
		case json.Number, bool:
			values[name] = fmt.Sprint(value)
		default:
			return nil, fmt.Errorf("context value %q is neither a string nor a number nor a boolean", name)
		}
	}
	return values, nil
}
