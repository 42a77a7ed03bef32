package gateway

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
)

// A proxyEvent is the event of the Lambda proxy integration.
type proxyEvent struct {
	*request
	Body            *string `json:"body"`
	IsBase64Encoded bool    `json:"isBase64Encoded"`
}

// integrate has the function answer.
func (x *exchange) integrate(function string, request *request) *refusal {
	body, refused := x.body()
	if refused != nil {
		return refused
	}
	event := proxyEvent{request: request}
	if len(body) > 0 {
		text := ""
		if event.IsBase64Encoded = x.binary.contain(x.r.Header.Get("Content-Type")); event.IsBase64Encoded {
			text = base64.StdEncoding.EncodeToString(body)
		} else {
			text = string(body)
		}
		event.Body = &text
	}
	payload, err := json.Marshal(event)
	if err != nil {
		return refuse("INTEGRATION_FAILURE", err)
	}
	answer, took, err := x.call(function, payload)
	x.integrationTook = took
	if err != nil {
		return refuseInvocation(err)
	}
	return x.answer(function, answer)
}

// body reads the request's body, never more than the limit.
func (x *exchange) body() ([]byte, *refusal) {
	if x.r.ContentLength == 0 {
		return nil, nil
	}
	var body []byte
	var err error
	if x.r.ContentLength > 0 {
		body = make([]byte, x.r.ContentLength)
		_, err = io.ReadFull(x.r.Body, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(x.r.Body, maxBodyBytes+1))
	}
	switch {
	case err != nil:
		return nil, refuse("BAD_REQUEST_BODY", err)
	case len(body) > maxBodyBytes:
		return nil, refuse("REQUEST_TOO_LARGE", nil)
	}
	return body, nil
}

// A mediaTypes is the list of types that are binary.
type mediaTypes struct {
	all   bool
	types map[string]bool
}

func newMediaTypes(list []string) mediaTypes {
	m := mediaTypes{types: map[string]bool{}}
	for _, t := range list {
		// SAM writes the slash as ~1 when the type comes from a template for OpenAPI.
		t = strings.ToLower(strings.ReplaceAll(t, "~1", "/"))
		m.all = m.all || t == "*/*"
		m.types[t] = true
	}
	return m
}

// contain looks the first media type of a header up.
func (m mediaTypes) contain(header string) bool {
	if m.all {
		return true
	}
	first, _, _ := strings.Cut(header, ",")
	first, _, _ = strings.Cut(first, ";")
	return m.types[strings.ToLower(strings.TrimSpace(first))]
}
