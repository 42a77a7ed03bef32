package template

import (
	"net/http"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ResponseTypes are the gateway responses of API Gateway with the status of each. The status of
// INTEGRATION_FAILURE is the one that a function's failure has, not the 504 of other integrations.
var ResponseTypes = map[string]int{
	"ACCESS_DENIED":                  http.StatusForbidden,
	"API_CONFIGURATION_ERROR":        http.StatusInternalServerError,
	"AUTHORIZER_CONFIGURATION_ERROR": http.StatusInternalServerError,
	"AUTHORIZER_FAILURE":             http.StatusInternalServerError,
	"BAD_REQUEST_BODY":               http.StatusBadRequest,
	"BAD_REQUEST_PARAMETERS":         http.StatusBadRequest,
	"DEFAULT_4XX":                    http.StatusBadRequest,
	"DEFAULT_5XX":                    http.StatusInternalServerError,
	"EXPIRED_TOKEN":                  http.StatusForbidden,
	"INTEGRATION_FAILURE":            http.StatusBadGateway,
	"INTEGRATION_TIMEOUT":            http.StatusGatewayTimeout,
	"INVALID_API_KEY":                http.StatusForbidden,
	"INVALID_SIGNATURE":              http.StatusForbidden,
	"MISSING_AUTHENTICATION_TOKEN":   http.StatusForbidden,
	"QUOTA_EXCEEDED":                 http.StatusTooManyRequests,
	"REQUEST_TOO_LARGE":              http.StatusRequestEntityTooLarge,
	"RESOURCE_NOT_FOUND":             http.StatusNotFound,
	"THROTTLED":                      http.StatusTooManyRequests,
	"UNAUTHORIZED":                   http.StatusUnauthorized,
	"UNSUPPORTED_MEDIA_TYPE":         http.StatusUnsupportedMediaType,
	"WAF_FILTERED":                   http.StatusForbidden,
}

func (r *apiReader) gatewayResponses(n *yaml.Node) error {
	r.api.GatewayResponses = map[string]GatewayResponse{}
	for name, value := range pairs(n) {
		if _, known := ResponseTypes[name.Value]; !known {
			return r.errorf(name, "%s is not a gateway response of API Gateway", name.Value)
		}
		response, err := r.gatewayResponse(name.Value, value)
		if err != nil {
			return err
		}
		r.api.GatewayResponses[name.Value] = response
	}
	return nil
}

func (r *apiReader) gatewayResponse(name string, n *yaml.Node) (GatewayResponse, error) {
	var g GatewayResponse
	err := r.fields(n, name, fields{
		"StatusCode": &g.Status,
		"ResponseParameters": func(n *yaml.Node) error {
			return r.fields(n, "ResponseParameters", fields{"Headers": func(n *yaml.Node) error {
				return r.responseHeaders(n, &g.Headers)
			}})
		},
		"ResponseTemplates": func(n *yaml.Node) error {
			return r.fields(n, "ResponseTemplates", fields{"application/json": &g.Body})
		},
	})
	if err == nil && g.Status != 0 && (g.Status < 400 || g.Status > 599) {
		return g, r.errorf(n, "%s: the status of a refusal is 4xx or 5xx", name)
	}
	return g, err
}

func (r *apiReader) responseHeaders(n *yaml.Node, headers *[]ResponseHeader) error {
	for name, value := range pairs(n) {
		h := ResponseHeader{Name: name.Value}
		if strings.HasPrefix(value.Value, "context.") || strings.HasPrefix(value.Value, "method.request.header.") {
			h.Source = value.Value
		} else {
			var err error
			if h.Static, err = r.quoted(value, name.Value); err != nil {
				return err
			}
		}
		*headers = append(*headers, h)
	}
	return nil
}
