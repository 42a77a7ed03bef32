package gateway_test

import (
	"slices"
	"testing"
)

func TestAnswers(t *testing.T) {
	s := serve(t, nil)
	const failed = `{"message":"Internal server error"}`
	for _, test := range []struct {
		name, answer string
		status       int
		body         string
	}{
		{"a body", `{"statusCode":201,"body":"hi"}`, 201, "hi"},
		{"no body", `{"statusCode":200}`, 200, ""},
		{"a null body", `{"statusCode":200,"body":null,"headers":null,"multiValueHeaders":null}`, 200, ""},
		{"the status as digits", `{"statusCode":"404","body":"x"}`, 404, "x"},
		{"204 with a body", `{"statusCode":204,"body":"x"}`, 204, ""},
		{"304 with a body", `{"statusCode":304,"body":"x"}`, 304, ""},
		{"no status", `{"body":"x"}`, 502, failed},
		{"a status that is none", `{"statusCode":7}`, 502, failed},
		{"a status that is a word", `{"statusCode":"fine"}`, 502, failed},
		{"a body that is an object", `{"statusCode":200,"body":{}}`, 502, failed},
		{"a header that is a list", `{"statusCode":200,"headers":{"a":["b"]}}`, 502, failed},
		{"an unknown member", `{"statusCode":200,"cookies":[]}`, 502, failed},
		{"null", `null`, 502, failed},
		{"a string", `"hi"`, 502, failed},
		{"a list", `[]`, 502, failed},
		{"base64 that is none", `{"statusCode":200,"body":"%","isBase64Encoded":true}`, 502, failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := s.do("POST", "/open/raw", test.answer, "Accept", "application/zip")
			if response.StatusCode != test.status || body != test.body {
				t.Errorf("%d %q, want %d %q", response.StatusCode, body, test.status, test.body)
			}
		})
	}
	for _, path := range []string{"/open/error?message=x", "/open/panic", "/open/exit"} {
		if response, body := s.do("GET", path, ""); response.StatusCode != 502 || body != failed {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
}

func TestAnswerHeaders(t *testing.T) {
	s := serve(t, nil)
	response, _ := s.do("POST", "/open/raw", `{"statusCode":200,
		"headers":{"x-one":"1","X-Number":7,"X-Both":"single","WWW-Authenticate":"Basic","Date":"never","Connection":"close",
			"Content-Length":"99","Transfer-Encoding":"chunked","X-Split":"a\r\nX-Injected: b"},
		"multiValueHeaders":{"Set-Cookie":["a=1","b=2"],"X-Both":["first","second"]},"body":"hi"}`)
	for name, want := range map[string][]string{
		"X-One":                            {"1"},
		"X-Number":                         {"7"},
		"X-Both":                           {"first", "second"},
		"Set-Cookie":                       {"a=1", "b=2"},
		"X-Amzn-Remapped-Www-Authenticate": {"Basic"},
		"X-Amzn-Remapped-Date":             {"never"},
		"X-Amzn-Remapped-Connection":       {"close"},
		"X-Amzn-Remapped-Content-Length":   {"99"},
		"Www-Authenticate":                 nil,
		"X-Injected":                       nil,
		"Content-Length":                   {"2"},
		"Content-Type":                     {"application/json"},
	} {
		if got := response.Header[name]; !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"X-Amzn-Requestid", "X-Amz-Apigw-Id"} {
		if response.Header.Get(name) == "" {
			t.Errorf("there is no %s", name)
		}
	}
	response, body := s.do("HEAD", "/open/echo", "")
	if body != "" || response.ContentLength < 100 {
		t.Errorf("HEAD has a body of %d bytes and says %d", len(body), response.ContentLength)
	}
}

func TestBinaryAnswers(t *testing.T) {
	s := serve(t, nil)
	const zip = `{"statusCode":200,"headers":{"Content-Type":"application/zip"},"body":"UEv/","isBase64Encoded":true}`
	for accept, want := range map[string]string{
		"application/zip":               "PK\xff",
		"Application/ZIP;q=0.9, text/*": "PK\xff",
		"text/html, application/zip":    "UEv/",
		"*/*":                           "UEv/",
		"":                              "UEv/",
	} {
		if _, body := s.do("POST", "/open/raw", zip, "Accept", accept); body != want {
			t.Errorf("Accept %q: %q, want %q", accept, body, want)
		}
	}
	all := serve(t, map[string]string{"Binary": "*/*"})
	if _, body := all.do("GET", "/open/print?text=x", "", "Accept", "text/html"); body != "" {
		t.Errorf("with */*, a text: %q", body)
	}
}
