package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// An API behind a base path gets what API Gateway sends behind a domain of one's own.
func TestAnAPIBehindABasePath(t *testing.T) {
	s := serve(t, nil)
	for _, test := range []struct{ method, path, resource, parameters string }{
		{"GET", "/second", "/", `null`},
		{"GET", "/second/", "/", `null`},
		{"POST", "/second/7/ocsp", "/{ca}/ocsp", `{"ca":"7"}`},
		{"GET", "/second/7/ocsp/MEUw%2FQz%2B/a+b%3D%3D", "/{ca}/ocsp/{request+}", `{"ca":"7","request":"MEUw/Qz+/a+b=="}`},
		{"GET", "/second/7/ocsp//a", "/{ca}/ocsp/{request+}", `{"ca":"7","request":"/a"}`},
		{"OPTIONS", "/second/7/any", "/{ca}/any", `{"ca":"7"}`},
	} {
		event := s.echo(test.method, test.path, "")
		parameters, _ := json.Marshal(event["pathParameters"])
		context := at(event, "requestContext")
		if event["resource"] != test.resource || string(parameters) != test.parameters || event["path"] != test.path ||
			at(context, "path") != test.path || at(context, "resourcePath") != test.resource || at(context, "stage") != "other" {
			t.Errorf("%s %s matched %v with %s: path %v, %v", test.method, test.path, event["resource"], parameters, event["path"], context)
		}
	}
	for _, test := range []struct{ method, path, want string }{
		{"GET", "/second/7/nowhere", `{"what":"The second has no such path."}`},
		{"GET", "/second/7/ocsp", `{"what":"The second has no such path."}`},
		{"OPTIONS", "/second/7/ocsp", `{"what":"The second has no such path."}`}, // it has no CORS
		{"GET", "/secondary", `{"what":"There is no such path."}`},
		{"GET", "/7/any", `{"what":"There is no such path."}`},
	} {
		if response, body := s.do(test.method, test.path, ""); response.StatusCode != 404 || body != test.want {
			t.Errorf("%s %s: %d %s", test.method, test.path, response.StatusCode, body)
		}
	}
	for path, want := range map[string]int{"/second/7/any": 200, "/second/7/ocsp/x": 404, "/open/echo": 200, "/get/x": 404} {
		if response, _ := s.do("HEAD", path, ""); response.StatusCode != want {
			t.Errorf("HEAD %s: %d, want %d", path, response.StatusCode, want)
		}
	}
	if lines := s.accessLog.await(t, 15); !strings.Contains(lines, "second /second/7/any /{ca}/any 200\n") {
		t.Errorf("the access log: %s", lines)
	}
}

// The method that its authorizer is asked about is that of the API, without the base path.
func TestTheAuthorizerBehindABasePath(t *testing.T) {
	s := serve(t, nil)
	policy := func(resource string) string {
		return `{"principalId":"p","policyDocument":{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"` + resource + `"}}}`
	}
	for resource, want := range map[string]int{"*:*/other/GET/7/kept/x": 200, "*:*/other/GET/second/7/kept/x": 403} {
		if response, body := s.do("GET", "/second/7/kept/x", "", "Authorization", policy(resource)); response.StatusCode != want {
			t.Errorf("%s: %d %s", resource, response.StatusCode, body)
		}
	}
}

// Where every type is binary, every body is, in both directions and whatever the client says.
func TestEveryTypeIsBinary(t *testing.T) {
	s := serve(t, nil)
	for _, contentType := range []string{"application/ocsp-request", "application/json", ""} {
		event := s.echo("POST", "/second/7/ocsp", "PK\xff", "Content-Type", contentType)
		if event["body"] != "UEv/" || event["isBase64Encoded"] != true {
			t.Errorf("%s: %v, encoded %v", contentType, event["body"], event["isBase64Encoded"])
		}
	}
	const answer = `{"statusCode":200,"headers":{"Content-Type":"application/ocsp-response"},"body":"UEv/","isBase64Encoded":true}`
	for _, accept := range [][]string{nil, {"Accept", "text/html"}, {"Accept", "*/*"}, {"Accept", ""}} {
		if response, body := s.do("POST", "/second/raw", answer, accept...); body != "PK\xff" || response.ContentLength != 3 {
			t.Errorf("%q: %q", accept, body)
		}
	}
	if _, body := s.do("POST", "/second/raw", `{"statusCode":200,"body":"text"}`); body != "text" {
		t.Errorf("an answer that is not encoded: %q", body)
	}
}
