package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"
)

const policyOf = `"policyDocument":{"Version":"2012-10-17","Statement":[{"Effect":"EFFECT","Action":["execute-api:Invoke"],"Resource":["METHOD"]}]}`

// verdict is an authorizer's answer; the test function puts the method's ARN in.
func verdict(effect, context string) string {
	return `{"principalId":"p",` + strings.Replace(policyOf, "EFFECT", effect, 1) + `,"context":` + context + `}`
}

func TestAuthorizer(t *testing.T) {
	s := serve(t, nil)
	elsewhere := strings.Replace(verdict("Allow", "null"), "METHOD", "arn:aws:execute-api:*:*:*/test/GET/users/8", 1)
	condition := strings.Replace(verdict("Allow", "null"), `"Effect"`, `"Condition":{},"Effect"`, 1)
	const misconfigured = `{"message":"Internal server error"}`
	for _, test := range []struct {
		name, credential string
		status           int
		body             string // a part of it
	}{
		{"allowed", "allow", 200, ""},
		{"allowed with null for a context", verdict("Allow", "null"), 200, ""},
		{"the error Unauthorized", "error Unauthorized", 401, `{"message":"Unauthorized"}`},
		{"another error", "error unauthorized", 500, misconfigured},
		{"a crash", "exit", 500, misconfigured},
		{"a timeout", "hang", 500, misconfigured},
		{"denied", verdict("Deny", `{"code":4003,"what":"no"}`), 403, `"code":4003,"what":"no","said":"User is not authorized to access this resource with an explicit deny"`},
		{"not mentioned", elsewhere, 403, `"said":"User is not authorized to access this resource"`},
		{"not JSON", "nonsense", 500, misconfigured},
		{"null", "null", 500, misconfigured},
		{"no principal", strings.Replace(verdict("Allow", "{}"), `"principalId":"p",`, "", 1), 500, misconfigured},
		{"no policy", `{"principalId":"p"}`, 500, misconfigured},
		{"an unknown member", strings.Replace(verdict("Allow", "{}"), "context", "Context", 1), 500, misconfigured},
		{"a policy with a condition", condition, 500, misconfigured},
		{"a nested context value", verdict("Allow", `{"a":{"b":1}}`), 500, misconfigured},
		{"a list in the context", verdict("Allow", `{"a":[1]}`), 500, misconfigured},
		{"a context over 8 KB", verdict("Allow", `{"a":"`+strings.Repeat("x", 8<<10)+`"}`), 500, misconfigured},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, body := s.do("GET", "/users/7", "", "Authorization", test.credential)
			if response.StatusCode != test.status || !strings.Contains(body, test.body) {
				t.Errorf("%d %s, want %d with %s", response.StatusCode, body, test.status, test.body)
			}
		})
	}
}

func TestAuthorizerContext(t *testing.T) {
	s := serve(t, nil)
	event := s.echo("GET", "/users/7", "", "Authorization", verdict("Allow", `{"text":"t","number":4003,"decimal":1.50,"yes":true}`))
	context := at(event, "requestContext", "authorizer").(map[string]any)
	if _, isNumber := context["integrationLatency"].(float64); !isNumber {
		t.Errorf("integrationLatency is %v", context["integrationLatency"])
	}
	delete(context, "integrationLatency")
	got, _ := json.Marshal(context)
	if want := `{"decimal":"1.50","number":"4003","principalId":"p","text":"t","yes":"true"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What the authorizer gets is seen through the policy: it allows one ARN, exactly.
func TestMethodARN(t *testing.T) {
	s := serve(t, nil)
	api := at(s.echo("GET", "/get/x", ""), "requestContext", "apiId").(string)
	for _, test := range []struct{ method, path, arn string }{
		{"GET", "/users/7", "GET/users/7"},
		{"DELETE", "/users/7/keys/a+b", "DELETE/users/7/keys/a+b"},
		{"GET", "/users/a%2Fb", "GET/users/a%2Fb"},
	} {
		exact := strings.Replace(verdict("Allow", "{}"), "METHOD", "arn:aws:execute-api:us-east-1:123456789012:"+api+"/test/"+test.arn, 1)
		if response, body := s.do(test.method, test.path, "", "Authorization", exact); response.StatusCode != 200 {
			t.Errorf("%s %s is not %s: %d %s", test.method, test.path, test.arn, response.StatusCode, body)
		}
	}
}

func TestIdentitySources(t *testing.T) {
	s := serve(t, map[string]string{"Identity": "yes"})
	if response, _ := s.do("GET", "/users/7", ""); response.StatusCode != 401 {
		t.Errorf("without the header: %d", response.StatusCode)
	}
	if response, _ := s.do("GET", "/users/7", "", "Authorization", "allow"); response.StatusCode != 200 {
		t.Errorf("with the header: %d", response.StatusCode)
	}
}

func TestGatewayResponses(t *testing.T) {
	s := serve(t, nil)
	response, _ := s.do("GET", "/users/7", "", "Authorization", "error Unauthorized")
	if got := response.Header.Get("Www-Authenticate"); got != `Bearer realm="test"` {
		t.Errorf("challenge %q", got)
	}
	response, body := s.do("GET", "/users/7", "", "Authorization", verdict("Deny", `{"code":1,"expires":"soon"}`), "X-Ask", "why")
	id := response.Header.Get("X-Amzn-Requestid")
	for name, want := range map[string]string{
		"X-Expires": "soon", "X-Asked": "why", "Cache-Control": "no-store", "Content-Type": "application/json",
	} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !strings.HasSuffix(body, `,"id":"`+id+`"}`) {
		t.Errorf("the request id %s is not in %s", id, body)
	}
	// A mapped header without a value is left out.
	response, _ = s.do("GET", "/users/7", "", "Authorization", verdict("Deny", `{"code":1}`))
	if _, found := response.Header["X-Expires"]; found {
		t.Error("X-Expires is sent without a value")
	}
	// A fallback changes the headers and leaves the type's own status.
	response, _ = s.do("GET", "/open/exit", "")
	if response.StatusCode != 502 || response.Header.Get("X-Fallback") != "yes" {
		t.Errorf("the fallback: %d %v", response.StatusCode, response.Header)
	}
}
