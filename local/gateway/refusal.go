package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/template"
)

// A refusal is a gateway response on its way: its type and what it says.
type refusal struct {
	kind    string
	status  int    // 0 for the type's
	message string // empty for the type's
	cause   error  // for the log, never for the client
}

func refuse(kind string, cause error) *refusal { return &refusal{kind: kind, cause: cause} }

// refuseInvocation maps the ways in which an invocation fails. Any failure of the function itself
// is 502, as for a Lambda proxy integration.
func refuseInvocation(err error) *refusal {
	switch {
	case errors.Is(err, lambda.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return refuse("INTEGRATION_TIMEOUT", err)
	case errors.Is(err, lambda.ErrRequestTooLarge):
		return refuse("REQUEST_TOO_LARGE", err)
	}
	return refuse("INTEGRATION_FAILURE", err)
}

// defaults are AWS's own words. A type that is missing here has those of its DEFAULT type.
var defaults = map[string]struct{ message, errorType string }{
	"ACCESS_DENIED":                {"User is not authorized to access this resource", "AccessDeniedException"},
	"BAD_REQUEST_BODY":             {"Invalid request body", "BadRequestException"},
	"DEFAULT_4XX":                  {"Bad Request", "BadRequestException"},
	"DEFAULT_5XX":                  {"Internal server error", "InternalServerErrorException"},
	"INTEGRATION_TIMEOUT":          {"Endpoint request timed out", "InternalServerErrorException"},
	"MISSING_AUTHENTICATION_TOKEN": {"Missing Authentication Token", "MissingAuthenticationTokenException"},
	"REQUEST_TOO_LARGE":            {"Request Too Long", "RequestTooLargeException"},
	"THROTTLED":                    {"Too Many Requests", "TooManyRequestsException"},
	"UNAUTHORIZED":                 {"Unauthorized", "UnauthorizedException"},
}

// A response is a gateway response with the template's changes laid over AWS's defaults.
type response struct {
	status             int
	message, errorType string
	headers            []responseHeader
	body               format
}

type responseHeader struct {
	name, static  string
	variable      string // of the context, when not static
	requestHeader string // or a header of the request
}

// responses prepares every type, so that none has to be looked for when it is needed.
func responses(configured map[string]template.GatewayResponse) (map[string]*response, error) {
	prepared := map[string]*response{}
	for kind, status := range template.ResponseTypes {
		fallback := "DEFAULT_5XX"
		if status < 500 {
			fallback = "DEFAULT_4XX"
		}
		r := &response{status: status, body: parseFormat(`{"message":$context.error.messageString}`)}
		words, found := defaults[kind]
		if !found {
			words = defaults[fallback]
		}
		r.message, r.errorType = words.message, words.errorType
		own, found := configured[kind]
		if !found {
			own = configured[fallback]
		}
		if err := r.configure(own); err != nil {
			return nil, fmt.Errorf("gateway response %s: %w", kind, err)
		}
		prepared[kind] = r
	}
	return prepared, nil
}

func (r *response) configure(own template.GatewayResponse) error {
	if own.Status != 0 {
		r.status = own.Status
	}
	if own.Body != "" {
		r.body = parseFormat(own.Body)
		for _, p := range r.body {
			if strings.Contains(p.literal, "$") {
				return errors.New("its template has a variable other than $context, which is not understood here")
			}
		}
	}
	for _, h := range own.Headers {
		prepared := responseHeader{name: http.CanonicalHeaderKey(h.Name), static: h.Static}
		if name, found := strings.CutPrefix(h.Source, "method.request.header."); found {
			prepared.requestHeader = name
		} else {
			prepared.variable = strings.TrimPrefix(h.Source, "context.")
		}
		r.headers = append(r.headers, prepared)
	}
	return nil
}

// refuse sends the gateway response. A mapped header without a value is left out.
func (x *exchange) refuse(refused *refusal) {
	r := x.responses[refused.kind]
	if refused.message == "" {
		refused.message = r.message
	}
	status := r.status
	if refused.status != 0 {
		status = refused.status
	}
	x.refused = refused
	header := x.w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Amzn-Errortype", r.errorType)
	for _, h := range r.headers {
		value := h.static
		switch {
		case h.requestHeader != "":
			value = x.r.Header.Get(h.requestHeader)
		case h.variable != "":
			value, _ = x.variable(h.variable)
		}
		if value != "" {
			header[h.name] = []string{value}
		}
	}
	x.write(status, []byte(r.body.render(x, "")))
	if refused.cause != nil {
		x.log.write(fmt.Sprintf("%s %s %s: %v\n", x.r.Method, x.path, refused.kind, refused.cause))
	}
}

// messageString is the message in quotes, escaped for JSON.
func (r *refusal) messageString() string {
	quoted, err := json.Marshal(r.message)
	if err != nil {
		return `""`
	}
	return string(quoted)
}
