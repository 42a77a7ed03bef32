// Package gateway answers HTTP as API Gateway does for a REST API in front of Lambda functions.
//
// A request goes through the steps of API Gateway, and each may refuse it:
//
//	size of the headers   431
//	resource and method   MISSING_AUTHENTICATION_TOKEN
//	throttling            THROTTLED
//	size of the body      REQUEST_TOO_LARGE
//	preflight             answered without the authorizer and the function
//	authorizer            UNAUTHORIZED, AUTHORIZER_FAILURE, AUTHORIZER_CONFIGURATION_ERROR, ACCESS_DENIED
//	function              REQUEST_TOO_LARGE, INTEGRATION_TIMEOUT, INTEGRATION_FAILURE
//
// What a refusal looks like is the template's to say (GatewayResponses); without it the client gets
// AWS's own status and message.
//
// The API is served at / as behind a custom domain, while method ARNs and requestContext.path have
// the stage. An API with a base path is served below it as behind such a domain: its routes, path parameters
// and method ARNs are without the base path, path and requestContext.path with it and without the stage.
// A resource is matched before its method: the most specific path that fits decides, even
// if it has not got the method. A slash at the end of a path is not part of the match.
package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/template"
)

// API Gateway's limits.
const (
	maxHeaderBytes     = 10240
	maxBodyBytes       = 10 << 20
	integrationTimeout = 29 * time.Second
)

// Options say where a gateway writes.
type Options struct {
	AccessLog io.Writer // the template's line for each request; none when nil
	Log       io.Writer // why a request failed behind the gateway; none when nil
	// IntegrationTimeout bounds a function's answer; API Gateway's 29 s when 0.
	IntegrationTimeout time.Duration
}

// A Gateway serves the APIs of a template at one address.
type Gateway struct {
	root   *front
	mapped map[string]*front // by base path
}

// A front serves one API.
type front struct {
	api       *template.API
	account   string
	arnPrefix string // of every method: up to and with the slash after the stage
	host      *lambda.Host
	root      *node
	responses map[string]*response
	limiter   *rate.Limiter // nil when nothing is throttled
	binary    mediaTypes
	timeout   time.Duration

	accessLog *lineLog
	format    format
	log       *lineLog
}

// New prepares the template's APIs, of which one is at the root.
func New(t *template.Template, host *lambda.Host, o Options) (*Gateway, error) {
	g := &Gateway{mapped: map[string]*front{}}
	accessLog, log := &lineLog{to: o.AccessLog}, &lineLog{to: o.Log}
	var err error
	if g.root, err = newFront(t, t.API, host, o.IntegrationTimeout, accessLog, log); err != nil {
		return nil, err
	}
	for _, api := range t.Mapped {
		if g.mapped[api.BasePath], err = newFront(t, api, host, o.IntegrationTimeout, accessLog, log); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func newFront(t *template.Template, api *template.API, host *lambda.Host, timeout time.Duration, accessLog, log *lineLog) (*front, error) {
	f := &front{
		api:       api,
		account:   t.Account,
		arnPrefix: fmt.Sprintf("arn:aws:execute-api:%s:%s:%s/%s/", t.Region, t.Account, api.ID, api.Stage),
		host:      host,
		root:      routes(api),
		binary:    newMediaTypes(api.BinaryMediaTypes),
		timeout:   timeout,
		accessLog: accessLog,
		format:    parseFormat(api.AccessLogFormat),
		log:       log,
	}
	if f.timeout == 0 {
		f.timeout = integrationTimeout
	}
	if api.Rate > 0 {
		f.limiter = rate.NewLimiter(rate.Limit(api.Rate), api.Burst)
	}
	var err error
	f.responses, err = responses(api.GatewayResponses)
	return f, err
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	f, route := g.root, path
	if len(path) > 0 && path[0] == '/' {
		base, _, _ := strings.Cut(path[1:], "/")
		if mapped := g.mapped[decoded(base)]; mapped != nil {
			f, route = mapped, path[1+len(base):]
		}
	}
	f.serve(w, r, path, route)
}

func (f *front) serve(w http.ResponseWriter, r *http.Request, path, route string) {
	x := &exchange{front: f, w: w, r: r, start: time.Now(), id: uuid.NewString(), path: path, route: route}
	x.extendedID = strings.ReplaceAll(x.id, "-", "")[:15] + "="
	header := w.Header()
	header["X-Amzn-Requestid"] = []string{x.id}
	header["X-Amz-Apigw-Id"] = []string{x.extendedID}
	if refused := x.handle(); refused != nil {
		x.refuse(refused)
	}
	if f.accessLog.to != nil && f.format != nil {
		f.accessLog.write(f.format.render(x, "-") + "\n")
	}
}

// An exchange is one request and what becomes of it.
type exchange struct {
	*front
	w          http.ResponseWriter
	r          *http.Request
	start      time.Time
	id         string
	extendedID string
	path       string // as it was sent, escapes and all
	route      string // what of it is matched: all but the base path
	resource   *resource
	values     []string // of the path parameters, decoded
	authorizer map[string]any

	refused         *refusal
	status          int
	responseBytes   int
	authorizerTook  time.Duration
	integrationTook time.Duration
}

// handle answers the request or says why it is refused.
func (x *exchange) handle() *refusal {
	if headerBytes(x.r) > maxHeaderBytes {
		return &refusal{kind: "DEFAULT_4XX", status: http.StatusRequestHeaderFieldsTooLarge, message: "Request Header Fields Too Large"}
	}
	x.resource, x.values = x.root.match(x.route, nil)
	if x.resource == nil {
		return refuse("MISSING_AUTHENTICATION_TOKEN", nil)
	}
	method, preflight := x.resource.method(x.r.Method)
	if method == nil && !preflight {
		return refuse("MISSING_AUTHENTICATION_TOKEN", nil)
	}
	if x.limiter != nil && !x.limiter.Allow() {
		return refuse("THROTTLED", nil)
	}
	if x.r.ContentLength > maxBodyBytes {
		return refuse("REQUEST_TOO_LARGE", nil)
	}
	if preflight {
		x.preflight()
		return nil
	}
	request := x.request()
	if method.Authorizer != nil {
		if refused := x.authorize(method.Authorizer, request); refused != nil {
			return refused
		}
		request.RequestContext.Authorizer = x.authorizer
	}
	return x.integrate(method.Function, request)
}

// call invokes a function. It does not end with the client's connection: Lambda lets a function
// finish what it began.
func (x *exchange) call(function string, payload []byte) ([]byte, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), x.timeout)
	defer cancel()
	start := time.Now()
	answer, err := x.host.Invoke(ctx, function, payload)
	return answer, time.Since(start), err
}

// write sends an answer whose headers are set.
func (x *exchange) write(status int, body []byte) {
	x.status, x.responseBytes = status, len(body)
	if status == http.StatusNoContent || status == http.StatusNotModified {
		x.responseBytes = 0
		x.w.WriteHeader(status)
		return
	}
	x.w.Header()["Content-Length"] = []string{fmt.Sprint(len(body))}
	x.w.WriteHeader(status)
	// A write fails when the client has gone; there is nobody to tell.
	_, _ = x.w.Write(body)
}

func (x *exchange) sourceIP() string {
	host, _, err := net.SplitHostPort(x.r.RemoteAddr)
	if err != nil {
		return x.r.RemoteAddr
	}
	return host
}

func headerBytes(r *http.Request) int {
	total := len(r.Method) + len(r.RequestURI) + len("  HTTP/1.1") + len("Host") + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			total += len(name) + len(value)
		}
	}
	return total
}

// A lineLog writes whole lines, one at a time.
type lineLog struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lineLog) write(line string) {
	if l.to == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.to, line)
}
