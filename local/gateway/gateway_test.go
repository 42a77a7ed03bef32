package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/local/gateway"
	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/lambda/lambdatest"
	"cjj365.cc/bb/local/template"
)

func TestMain(m *testing.M) { os.Exit(lambdatest.Main(m)) }

// A stack is the test's template served over HTTP.
type stack struct {
	*httptest.Server
	t         testing.TB
	host      *lambda.Host
	accessLog *buffer
}

// serve runs the template with other parameters; options may change what the gateway is given.
func serve(t testing.TB, parameters map[string]string, options ...func(*gateway.Options)) *stack {
	t.Helper()
	description, err := template.Read("testdata/stack.yaml", template.Options{Stack: "test", Parameters: parameters})
	if err != nil {
		t.Fatal(err)
	}
	host, err := lambda.NewHost(description.Functions, lambda.Options{Build: lambdatest.Build(t, "Authorizer", "Function")})
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, host: host, accessLog: &buffer{}}
	o := gateway.Options{AccessLog: s.accessLog}
	for _, change := range options {
		change(&o)
	}
	g, err := gateway.New(description, host, o)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(g)
	t.Cleanup(host.Stop)
	t.Cleanup(s.Close)
	return s
}

// do sends a request with headers given as name, value, name, value.
func (s *stack) do(method, path, body string, headers ...string) (*http.Response, string) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response, string(text)
}

// echo sends a request and yields the event that the function got.
func (s *stack) echo(method, path, body string, headers ...string) map[string]any {
	s.t.Helper()
	response, text := s.do(method, path, body, headers...)
	event := map[string]any{}
	if err := json.Unmarshal([]byte(text), &event); err != nil || response.StatusCode != 200 {
		s.t.Fatalf("%s %s: %d %s", method, path, response.StatusCode, text)
	}
	return event
}

// at walks into decoded JSON.
func at(value any, path ...string) any {
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}

func TestRoutes(t *testing.T) {
	s := serve(t, nil)
	for _, test := range []struct {
		method, path, resource, parameters string
	}{
		{"GET", "/", "/", `null`},
		{"GET", "/users/me", "/users/me", `null`},
		{"GET", "/users/me/", "/users/me", `null`},
		{"GET", "/users/7", "/users/{user}", `{"user":"7"}`},
		{"GET", "/users/a%2Fb%20c", "/users/{user}", `{"user":"a/b c"}`},
		{"DELETE", "/users/7/keys/9", "/users/{user}/keys/{key}", `{"key":"9","user":"7"}`},
		{"GET", "/users/me/keys/9", "/users/{user}/keys/{key}", `{"key":"9","user":"me"}`},
		{"GET", "/users/7/keys", "/users/{proxy+}", `{"proxy":"7/keys"}`},
		{"GET", "/users/7//x%20y", "/users/{proxy+}", `{"proxy":"7//x y"}`},
		{"GET", "/get/x", "/get/{name}", `{"name":"x"}`},
	} {
		event := s.echo(test.method, test.path, "")
		parameters, _ := json.Marshal(event["pathParameters"])
		if event["resource"] != test.resource || string(parameters) != test.parameters {
			t.Errorf("%s %s matched %v with %s", test.method, test.path, event["resource"], parameters)
		}
	}
	for _, test := range []struct{ method, path string }{
		{"GET", "/nowhere"},
		{"GET", "/users"},
		{"GET", "/open"},
		{"POST", "/get/x"},
		{"POST", "/users/me"}, // the resource decides, though another would have the method
		{"BREW", "/users/7"},
		{"POST", "/"},
		{"GET", "/get//"},
	} {
		response, body := s.do(test.method, test.path, "")
		if response.StatusCode != 404 || body != `{"what":"There is no such path."}` {
			t.Errorf("%s %s: %d %s", test.method, test.path, response.StatusCode, body)
		}
	}
}

func TestEvent(t *testing.T) {
	s := serve(t, nil)
	event := s.echo("POST", "/open/echo?a=1&a=2&b=%20x&c", "hello",
		"X-Twice", "one", "X-Twice", "two", "X-Forwarded-For", "10.0.0.1", "X-Forwarded-Proto", "https",
		"X-Forwarded-Port", "443", "Connection", "X-Hop", "X-Hop", "1", "Te", "trailers", "User-Agent", "test/1")
	context := at(event, "requestContext")
	host := strings.TrimPrefix(s.URL, "http://")
	_, port, _ := strings.Cut(host, ":")
	for _, test := range []struct{ name, got, want any }{
		{"path", event["path"], "/open/echo"},
		{"method", event["httpMethod"], "POST"},
		{"body", event["body"], "hello"},
		{"encoding", event["isBase64Encoded"], false},
		{"stage variables", event["stageVariables"], nil},
		{"last header", at(event, "headers", "X-Twice"), "two"},
		{"every header", list(at(event, "multiValueHeaders", "X-Twice")), "one|two"},
		{"last query value", at(event, "queryStringParameters", "a"), "2"},
		{"every query value", list(at(event, "multiValueQueryStringParameters", "a")), "1|2"},
		{"decoded query value", at(event, "queryStringParameters", "b"), " x"},
		{"query name alone", at(event, "queryStringParameters", "c"), ""},
		{"forwarded for", at(event, "headers", "X-Forwarded-For"), "10.0.0.1, 127.0.0.1"},
		{"forwarded proto", at(event, "headers", "X-Forwarded-Proto"), "http"},
		{"forwarded port", at(event, "headers", "X-Forwarded-Port"), port},
		{"host", at(event, "headers", "Host"), host},
		{"a header of the connection", at(event, "headers", "X-Hop"), nil},
		{"hop by hop", at(event, "headers", "Te"), nil},
		{"source address", at(context, "identity", "sourceIp"), "127.0.0.1"},
		{"user agent", at(context, "identity", "userAgent"), "test/1"},
		{"caller", at(context, "identity", "caller"), nil},
		{"stage", at(context, "stage"), "test"},
		{"path with stage", at(context, "path"), "/test/open/echo"},
		{"resource path", at(context, "resourcePath"), "/open/{proxy+}"},
		{"account", at(context, "accountId"), "123456789012"},
		{"protocol", at(context, "protocol"), "HTTP/1.1"},
		{"domain", at(context, "domainName"), host},
		{"no authorizer", at(context, "authorizer"), nil},
	} {
		if test.got != test.want {
			t.Errorf("%s is %v, want %v", test.name, test.got, test.want)
		}
	}
	if id, _ := at(context, "requestId").(string); len(id) != 36 {
		t.Errorf("request id %q", id)
	}
	if _, err := time.Parse("02/Jan/2006:15:04:05 -0700", at(context, "requestTime").(string)); err != nil {
		t.Error(err)
	}
	bare := s.echo("GET", "/get/x", "")
	for _, name := range []string{"queryStringParameters", "multiValueQueryStringParameters", "body"} {
		if value, found := bare[name]; value != nil || !found {
			t.Errorf("%s is %v, want null", name, value)
		}
	}
}

func list(value any) string {
	var texts []string
	values, _ := value.([]any)
	for _, v := range values {
		text, _ := v.(string)
		texts = append(texts, text)
	}
	return strings.Join(texts, "|")
}

func TestBinaryRequests(t *testing.T) {
	s := serve(t, nil)
	for _, test := range []struct {
		contentType, body, want string
		encoded                 bool
	}{
		{"application/zip", "PK\xff", "UEv/", true},
		{"Image/PNG; q=1", "PK\xff", "UEv/", true},
		{"text/plain", "grün", "grün", false},
		{"text/plain", "a\xffb", "a\ufffdb", false},
	} {
		event := s.echo("POST", "/open/echo", test.body, "Content-Type", test.contentType)
		if event["body"] != test.want || event["isBase64Encoded"] != test.encoded {
			t.Errorf("%s: %q, encoded %v", test.contentType, event["body"], event["isBase64Encoded"])
		}
	}
	all := serve(t, map[string]string{"Binary": "*/*"})
	if event := all.echo("POST", "/open/echo", "x", "Content-Type", "text/plain"); event["body"] != "eA==" {
		t.Errorf("with */*: %v", event["body"])
	}
}

func TestPreflight(t *testing.T) {
	s := serve(t, nil)
	response, _ := s.do("OPTIONS", "/users/7", "", "Origin", "https://console.example")
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":      "https://console.example",
		"Access-Control-Allow-Credentials": "true",
		"Access-Control-Allow-Headers":     "content-type",
		"Access-Control-Allow-Methods":     "DELETE,GET,HEAD,OPTIONS,PATCH,POST,PUT",
		"Access-Control-Max-Age":           "600",
	} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if response.StatusCode != 200 {
		t.Errorf("status %d", response.StatusCode)
	}
	if response, _ := s.do("OPTIONS", "/users/me", ""); response.Header.Get("Access-Control-Allow-Methods") != "GET,OPTIONS" {
		t.Errorf("methods of a resource without ANY: %v", response.Header)
	}
	if response, _ := s.do("OPTIONS", "/nowhere", ""); response.StatusCode != 404 {
		t.Errorf("a path that no resource has: %d", response.StatusCode)
	}
	// A resource with an OPTIONS method of its own answers for itself.
	if event := s.echo("OPTIONS", "/options", ""); event["resource"] != "/options" {
		t.Errorf("got %v", event["resource"])
	}
}

func TestLimits(t *testing.T) {
	s := serve(t, nil)
	eleven := strings.Repeat("x", 11<<20)
	for _, test := range []struct {
		name   string
		status int
		send   func() *http.Response
	}{
		{"a body over 10 MB", 413, func() *http.Response {
			response, _ := s.do("POST", "/open/echo", eleven)
			return response
		}},
		{"a body of unknown length over 10 MB", 413, func() *http.Response {
			request, _ := http.NewRequest("POST", s.URL+"/open/echo", io.MultiReader(strings.NewReader(eleven)))
			response, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			return response
		}},
		{"an invocation over 6 MB", 413, func() *http.Response {
			response, _ := s.do("POST", "/open/echo", eleven[:7<<20])
			return response
		}},
		{"an answer over 6 MB", 502, func() *http.Response {
			response, _ := s.do("GET", "/open/big", "")
			return response
		}},
		{"headers over 10,240 bytes", 431, func() *http.Response {
			response, _ := s.do("GET", "/open/echo", "", "X-Long", eleven[:10<<10])
			return response
		}},
		{"headers just under that", 200, func() *http.Response {
			response, _ := s.do("GET", "/open/echo", "", "X-Long", eleven[:9<<10])
			return response
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.send().StatusCode; got != test.status {
				t.Errorf("status %d, want %d", got, test.status)
			}
		})
	}
}

func TestThrottling(t *testing.T) {
	s := serve(t, map[string]string{"Rate": "0.001", "Burst": "2"})
	for i, want := range []int{200, 200, 429, 429} {
		if response, _ := s.do("GET", "/get/x", ""); response.StatusCode != want {
			t.Errorf("request %d: %d, want %d", i, response.StatusCode, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	s := serve(t, nil)
	if response, body := s.do("GET", "/open/hang", ""); response.StatusCode != 504 || body != `{"message":"Endpoint request timed out"}` {
		t.Errorf("the function's timeout: %d %s", response.StatusCode, body)
	}
	short := serve(t, nil, func(o *gateway.Options) { o.IntegrationTimeout = 100 * time.Millisecond })
	if response, _ := short.do("GET", "/open/hang", ""); response.StatusCode != 504 {
		t.Errorf("the gateway's timeout: %d", response.StatusCode)
	}
}

// A function finishes what it began, though nobody waits for it any more.
func TestAClientThatLeaves(t *testing.T) {
	s := serve(t, nil)
	_, pid := s.do("GET", "/open/pid", "")
	arrived, gate := make(chan struct{}), make(chan struct{})
	held := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-gate
	}))
	defer held.Close()
	ctx, leave := context.WithCancel(t.Context())
	request, _ := http.NewRequestWithContext(ctx, "GET", s.URL+"/open/call?url="+held.URL, nil)
	go func() {
		<-arrived
		leave()
	}()
	if _, err := http.DefaultTransport.RoundTrip(request); err == nil {
		t.Fatal("the request was answered")
	}
	close(gate)
	lines := s.accessLog.await(t, 2)
	if !strings.Contains(lines, "/test/open/call /open/{proxy+} 200") {
		t.Errorf("the call did not end well: %s", lines)
	}
	if _, again := s.do("GET", "/open/pid", ""); again != pid {
		t.Errorf("process %s was replaced by %s", pid, again)
	}
}

func TestAccessLog(t *testing.T) {
	s := serve(t, nil)
	s.do("GET", "/users/7", "")
	s.do("GET", "/nowhere", "")
	lines := strings.Split(strings.TrimSpace(s.accessLog.await(t, 2)), "\n")
	if !strings.HasPrefix(lines[0], "GET /test/users/7 /users/{user} 200 ") || !strings.HasSuffix(lines[0], " p - -") {
		t.Errorf("got %q", lines[0])
	}
	if want := "GET /test/nowhere - 404 33 - MISSING_AUTHENTICATION_TOKEN -"; lines[1] != want {
		t.Errorf("got %q, want %q", lines[1], want)
	}
}

// A buffer tells when it has got lines.
type buffer struct {
	mu    sync.Mutex
	text  bytes.Buffer
	wrote chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wrote != nil {
		close(b.wrote)
		b.wrote = nil
	}
	return b.text.Write(p)
}

// await waits until there are n lines.
func (b *buffer) await(t *testing.T, n int) string {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		b.mu.Lock()
		text := b.text.String()
		if strings.Count(text, "\n") >= n {
			b.mu.Unlock()
			return text
		}
		if b.wrote == nil {
			b.wrote = make(chan struct{})
		}
		wrote := b.wrote
		b.mu.Unlock()
		select {
		case <-wrote:
		case <-deadline:
			t.Fatalf("%d lines are not there: %q", n, text)
		}
	}
}
