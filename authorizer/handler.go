package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/token"
)

// errUnauthorized is the one error text that API Gateway answers with 401.
var errUnauthorized = errors.New("Unauthorized") //nolint:staticcheck // API Gateway's word, capital and all

// event is what the authorizer reads of a REQUEST event. encoding/json matches names without regard to
// case, as header names want, and skips the rest without storing it.
type event struct {
	MethodArn string `json:"methodArn"`
	Headers   struct {
		Authorization string
		Cookie        string
	} `json:"headers"`
	MultiValueHeaders struct {
		Authorization []string
		Cookie        []string
	} `json:"multiValueHeaders"`
	RequestContext struct {
		RequestID string `json:"requestId"`
		Identity  struct {
			SourceIP string `json:"sourceIp"`
		} `json:"identity"`
	} `json:"requestContext"`
}

// headers returns the Authorization and Cookie headers. Some gateways send only one of the two maps.
func (e *event) headers() (authorization, cookie []string) {
	authorization, cookie = e.MultiValueHeaders.Authorization, e.MultiValueHeaders.Cookie
	if authorization == nil && e.Headers.Authorization != "" {
		authorization = []string{e.Headers.Authorization}
	}
	if cookie == nil && e.Headers.Cookie != "" {
		cookie = []string{e.Headers.Cookie}
	}
	return authorization, cookie
}

// response is the answer to API Gateway.
type response struct {
	PrincipalID    string         `json:"principalId"`
	PolicyDocument policyDocument `json:"policyDocument"`
	Context        access.Scope   `json:"context"`
}

type policyDocument struct {
	Version   string
	Statement [1]statement
}

type statement struct {
	Action   string
	Effect   string
	Resource []string
}

type handler struct {
	authn *authn.Authenticator
	log   *slog.Logger
}

// Invoke implements lambda.Handler: an authorizer event in, a policy out.
func (h *handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, fmt.Errorf("read event: %w", err)
	}
	arn, err := parseMethodARN(e.MethodArn)
	if err != nil {
		return nil, err
	}
	authorization, cookie := e.headers()
	credential, err := authn.Presented(authorization, cookie, strings.HasPrefix(arn.path, "/git/"))
	if err != nil {
		h.audit(ctx, slog.LevelInfo, &e, arn, token.Token{}, "refused", err)
		return nil, errUnauthorized
	}
	if credential.JWT {
		return h.device(ctx, &e, arn, credential)
	}
	result, err := h.authn.Authenticate(ctx, credential.Token, e.RequestContext.Identity.SourceIP)
	var refusal authn.Refusal
	switch {
	case errors.As(err, &refusal):
		h.audit(ctx, slog.LevelInfo, &e, arn, credential.Token, "refused", err)
		return nil, errUnauthorized
	case errors.Is(err, authn.ErrAddress):
		h.audit(ctx, slog.LevelInfo, &e, arn, credential.Token, "refused", err)
		return json.Marshal(deny(result.Caller, arn))
	case err != nil:
		h.audit(ctx, slog.LevelError, &e, arn, credential.Token, "failed", err)
		return nil, errors.New("the credential could not be checked")
	}
	h.audit(ctx, slog.LevelInfo, &e, arn, credential.Token, "admitted", result.MarkFailed)
	return json.Marshal(allow(result.Caller, arn))
}

// device answers to a device's token.
func (h *handler) device(ctx context.Context, e *event, arn methodARN, credential authn.Credential) ([]byte, error) {
	caller, err := h.authn.Device(ctx, credential.Device)
	of := token.Token{Kind: "device", User: caller.User, ID: caller.ID}
	var refusal authn.Refusal
	switch {
	case errors.As(err, &refusal):
		h.audit(ctx, slog.LevelInfo, e, arn, token.Token{}, "refused", err)
		return nil, errUnauthorized
	case err != nil:
		h.audit(ctx, slog.LevelError, e, arn, token.Token{}, "failed", err)
		return nil, errors.New("the credential could not be checked")
	}
	h.audit(ctx, slog.LevelInfo, e, arn, of, "admitted", nil)
	return json.Marshal(allow(caller, arn))
}

// audit writes the line that each use and refusal of a credential leaves. It names the credential by
// its ids, never by its token.
func (h *handler) audit(ctx context.Context, level slog.Level, e *event, arn methodARN, t token.Token, decision string, err error) {
	attributes := make([]slog.Attr, 0, 10)
	attributes = append(attributes,
		slog.String("decision", decision), slog.String("request", e.RequestContext.RequestID),
		slog.String("method", arn.method), slog.String("path", arn.path), slog.String("ip", e.RequestContext.Identity.SourceIP))
	if t.Kind != "" {
		attributes = append(attributes, slog.String("kind", string(t.Kind)), slog.Int64("user", t.User), slog.Int64("id", t.ID))
	}
	if err != nil {
		attributes = append(attributes, slog.String("error", err.Error()))
	}
	h.log.LogAttrs(ctx, level, "authorize", attributes...)
}

// methodARN is arn:aws:execute-api:region:account:api/stage/METHOD/path.
type methodARN struct {
	stage  string // up to and with the stage and its slash
	method string
	path   string // with its leading slash
}

func parseMethodARN(s string) (methodARN, error) {
	fields := strings.SplitN(s, ":", 6)
	if len(fields) != 6 || fields[0] != "arn" || fields[2] != "execute-api" {
		return methodARN{}, errors.New("methodArn is not that of a REST API")
	}
	parts := strings.SplitN(fields[5], "/", 4)
	if len(parts) < 3 || strings.ContainsAny(parts[0]+parts[1]+parts[2], "*?") {
		return methodARN{}, errors.New("methodArn is not that of a REST API")
	}
	path := "/"
	if len(parts) == 4 {
		path += parts[3]
	}
	stage := len(s) - len(fields[5]) + len(parts[0]) + 1 + len(parts[1]) + 1
	return methodARN{stage: s[:stage], method: parts[2], path: path}, nil
}

// allow is the policy that lets a caller reach its own paths by the method it asks for, and nothing
// else: a * for the method would span slashes, and so other users' paths that end like the caller's.
func allow(c access.Caller, arn methodARN) response {
	paths := c.Paths()
	resources := make([]string, len(paths))
	for i, p := range paths {
		resources[i] = arn.stage + arn.method + p
	}
	return answer(c, "Allow", resources)
}

// deny refuses a caller who is known but may not call from where it is.
func deny(c access.Caller, arn methodARN) response {
	r := answer(c, "Deny", []string{arn.stage + "*"})
	r.Context.DeniedWhat = "This API key may not be used from this address."
	return r
}

func answer(c access.Caller, effect string, resources []string) response {
	return response{
		PrincipalID:    c.Principal(),
		PolicyDocument: policyDocument{"2012-10-17", [1]statement{{"execute-api:Invoke", effect, resources}}},
		Context:        c.Scope(),
	}
}
