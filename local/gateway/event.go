package gateway

import (
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// A request is what the authorizer's event and the function's have in common. An empty map is sent
// as null, as API Gateway does.
type request struct {
	Resource                        string              `json:"resource"`
	Path                            string              `json:"path"`
	HTTPMethod                      string              `json:"httpMethod"`
	Headers                         map[string]string   `json:"headers"`
	MultiValueHeaders               map[string][]string `json:"multiValueHeaders"`
	QueryStringParameters           map[string]string   `json:"queryStringParameters"`
	MultiValueQueryStringParameters map[string][]string `json:"multiValueQueryStringParameters"`
	PathParameters                  map[string]string   `json:"pathParameters"`
	StageVariables                  map[string]string   `json:"stageVariables"`
	RequestContext                  requestContext      `json:"requestContext"`
}

type requestContext struct {
	ResourceID        string         `json:"resourceId"`
	Authorizer        map[string]any `json:"authorizer,omitempty"`
	ResourcePath      string         `json:"resourcePath"`
	HTTPMethod        string         `json:"httpMethod"`
	ExtendedRequestID string         `json:"extendedRequestId"`
	RequestTime       string         `json:"requestTime"`
	Path              string         `json:"path"`
	AccountID         string         `json:"accountId"`
	Protocol          string         `json:"protocol"`
	Stage             string         `json:"stage"`
	DomainPrefix      string         `json:"domainPrefix"`
	RequestTimeEpoch  int64          `json:"requestTimeEpoch"`
	RequestID         string         `json:"requestId"`
	Identity          identity       `json:"identity"`
	DomainName        string         `json:"domainName"`
	APIID             string         `json:"apiId"`
}

// An identity has, but for the last two, what only IAM and Cognito fill.
type identity struct {
	CognitoIdentityPoolID         *string `json:"cognitoIdentityPoolId"`
	AccountID                     *string `json:"accountId"`
	CognitoIdentityID             *string `json:"cognitoIdentityId"`
	Caller                        *string `json:"caller"`
	PrincipalOrgID                *string `json:"principalOrgId"`
	AccessKey                     *string `json:"accessKey"`
	CognitoAuthenticationType     *string `json:"cognitoAuthenticationType"`
	CognitoAuthenticationProvider *string `json:"cognitoAuthenticationProvider"`
	UserARN                       *string `json:"userArn"`
	User                          *string `json:"user"`
	SourceIP                      string  `json:"sourceIp"`
	UserAgent                     *string `json:"userAgent"`
}

const requestTimeLayout = "02/Jan/2006:15:04:05 -0700"

// request builds the event, without an authorizer's context and the body.
func (x *exchange) request() *request {
	r := &request{
		Resource:   x.resource.path,
		Path:       x.path,
		HTTPMethod: x.r.Method,
		RequestContext: requestContext{
			ResourceID:        x.resource.id,
			ResourcePath:      x.resource.path,
			HTTPMethod:        x.r.Method,
			ExtendedRequestID: x.extendedID,
			RequestTime:       x.start.UTC().Format(requestTimeLayout),
			Path:              x.contextPath(),
			AccountID:         x.account,
			Protocol:          x.r.Proto,
			Stage:             x.api.Stage,
			DomainPrefix:      x.domainPrefix(),
			RequestTimeEpoch:  x.start.UnixMilli(),
			RequestID:         x.id,
			Identity:          identity{SourceIP: x.sourceIP()},
			DomainName:        x.r.Host,
			APIID:             x.api.ID,
		},
	}
	if agent := x.r.Header["User-Agent"]; len(agent) > 0 {
		r.RequestContext.Identity.UserAgent = &agent[0]
	}
	for i, name := range x.resource.parameters {
		if r.PathParameters == nil {
			r.PathParameters = make(map[string]string, len(x.values))
		}
		r.PathParameters[name] = x.values[i]
	}
	r.MultiValueHeaders = x.forwardedHeaders()
	r.Headers = last(r.MultiValueHeaders)
	r.MultiValueQueryStringParameters = query(x.r.URL.RawQuery)
	r.QueryStringParameters = last(r.MultiValueQueryStringParameters)
	return r
}

// contextPath has the stage where a client that knows no domain would have it in the path.
func (x *exchange) contextPath() string {
	if x.api.BasePath != "" {
		return x.path
	}
	return "/" + x.api.Stage + x.path
}

func (x *exchange) domainPrefix() string {
	prefix, _, _ := strings.Cut(x.r.Host, ".")
	return prefix
}

// hopByHop are the headers that end at the gateway: those of RFC 9110, section 7.6.1, those that
// API Gateway documents as dropped, and those it sets itself.
var hopByHop = map[string]bool{
	"Connection":          true,
	"Content-Md5":         true,
	"Expect":              true,
	"Keep-Alive":          true,
	"Max-Forwards":        true,
	"Proxy-Authenticate":  true,
	"Proxy-Authorization": true,
	"Proxy-Connection":    true,
	"Server":              true,
	"Te":                  true,
	"Trailer":             true,
	"Transfer-Encoding":   true,
	"Upgrade":             true,
	"Via":                 true,
	"Www-Authenticate":    true,
	"X-Forwarded-Port":    true,
	"X-Forwarded-Proto":   true,
}

// forwardedHeaders are the client's headers and the gateway's own. A client can add to
// X-Forwarded-For before its own address, never after it.
func (x *exchange) forwardedHeaders() map[string][]string {
	headers := make(map[string][]string, len(x.r.Header)+5)
	for name, values := range x.r.Header {
		if !hopByHop[name] {
			headers[name] = values
		}
	}
	for _, list := range x.r.Header["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			delete(headers, textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)))
		}
	}
	peers := append(append([]string(nil), x.r.Header["X-Forwarded-For"]...), x.sourceIP())
	headers["X-Forwarded-For"] = []string{strings.Join(peers, ", ")}
	headers["X-Forwarded-Proto"] = []string{"http"}
	headers["X-Forwarded-Port"] = []string{x.port()}
	headers["Host"] = []string{x.r.Host}
	headers["X-Amzn-Trace-Id"] = []string{x.traceID()}
	return headers
}

func (x *exchange) port() string {
	if address, ok := x.r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if _, port, err := net.SplitHostPort(address.String()); err == nil {
			return port
		}
	}
	return "80"
}

func (x *exchange) traceID() string {
	return "Root=1-" + x.id[:8] + "-" + strings.ReplaceAll(x.id[9:], "-", "")
}

// last keeps the last value of each name, as API Gateway does in its maps of single values.
func last(multi map[string][]string) map[string]string {
	if multi == nil {
		return nil
	}
	single := make(map[string]string, len(multi))
	for name, values := range multi {
		single[name] = values[len(values)-1]
	}
	return single
}

// query decodes a query string; a part that cannot be decoded stays as it was sent.
func query(raw string) map[string][]string {
	if raw == "" {
		return nil
	}
	values := map[string][]string{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, value = unescaped(name), unescaped(value)
		values[name] = append(values[name], value)
	}
	if len(values) == 0 {
		return nil
	}
	return values
}

func unescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}
