package policy

import (
	"regexp"
	"strings"
	"testing"
)

const arn = "arn:aws:execute-api:us-east-1:123456789012:abc/local/GET/apiv1/users/7/apikeys"

func TestEvaluate(t *testing.T) {
	allow := func(action, resource string) string {
		return `{"Effect":"Allow","Action":` + action + `,"Resource":` + resource + `}`
	}
	deny := func(resource string) string {
		return `{"Effect":"Deny","Action":"execute-api:Invoke","Resource":` + resource + `}`
	}
	const invoke = `"execute-api:Invoke"`
	for name, test := range map[string]struct {
		statements string
		want       Decision
	}{
		"the exact ARN":                      {allow(invoke, `"`+arn+`"`), Allowed},
		"every resource":                     {allow(invoke, `"*"`), Allowed},
		"lists":                              {"[" + allow(`["x:y","execute-api:Invoke"]`, `["x","`+arn+`"]`) + "]", Allowed},
		"an action with a wildcard":          {allow(`"execute-api:*"`, `"*"`), Allowed},
		"every action":                       {allow(`"*"`, `"*"`), Allowed},
		"an action in other case":            {allow(`"Execute-API:invoke"`, `"*"`), Allowed},
		"a resource in other case":           {allow(invoke, `"`+strings.ToUpper(arn)+`"`), Unmentioned},
		"a star within the path":             {allow(invoke, `"arn:aws:execute-api:*:*:abc/*/GET/apiv1/users/7/*"`), Allowed},
		"another user":                       {allow(invoke, `"arn:aws:execute-api:*:*:abc/*/GET/apiv1/users/8/*"`), Unmentioned},
		"a prefix is not enough":             {allow(invoke, `"arn:aws:execute-api:*:*:abc/local/GET"`), Unmentioned},
		"a question mark":                    {allow(invoke, `"arn:aws:execute-api:*:*:abc/*/GET/apiv1/users/?/apikeys"`), Allowed},
		"a question mark is one":             {allow(invoke, `"arn:aws:execute-api:*:*:abc/*/GET/apiv1/users/??/apikeys"`), Unmentioned},
		"another action":                     {allow(`"execute-api:ManageConnections"`, `"*"`), Unmentioned},
		"a deny alone":                       {deny(`"*"`), Denied},
		"a deny after an allow":              {"[" + allow(invoke, `"*"`) + "," + deny(`"`+arn+`"`) + "]", Denied},
		"a deny before an allow":             {"[" + deny(`"`+arn+`"`) + "," + allow(invoke, `"*"`) + "]", Denied},
		"a deny of something else":           {"[" + deny(`"x"`) + "," + allow(invoke, `"*"`) + "]", Allowed},
		"regexp characters mean themselves":  {allow(invoke, `"arn:.ws:execute-api:us-east-1:123456789012:abc/local/GET/apiv1/users/7/apikeys"`), Unmentioned},
		"a statement id and a single object": {`{"Sid":"s","Effect":"Allow","Action":"*","Resource":"*"}`, Allowed},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse([]byte(`{"Version":"2012-10-17","Statement":` + test.statements + `}`))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Evaluate("execute-api:Invoke", arn); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for name, document := range map[string]string{
		"not JSON":                `{`,
		"null":                    `null`,
		"a string":                `"{}"`,
		"no statement":            `{"Version":"2012-10-17"}`,
		"no statements":           `{"Version":"2012-10-17","Statement":[]}`,
		"a null statement":        `{"Statement":null}`,
		"an unknown version":      `{"Version":"","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`,
		"names in other case":     `{"statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`,
		"an unknown effect":       `{"Statement":{"Effect":"allow","Action":"*","Resource":"*"}}`,
		"no effect":               `{"Statement":{"Action":"*","Resource":"*"}}`,
		"no action":               `{"Statement":{"Effect":"Allow","Resource":"*"}}`,
		"no resource":             `{"Statement":{"Effect":"Allow","Action":"*"}}`,
		"an empty resource list":  `{"Statement":{"Effect":"Allow","Action":"*","Resource":[]}}`,
		"an empty resource":       `{"Statement":{"Effect":"Allow","Action":"*","Resource":""}}`,
		"a number for a resource": `{"Statement":{"Effect":"Allow","Action":"*","Resource":7}}`,
		"a condition":             `{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}}`,
		"NotAction":               `{"Statement":{"Effect":"Allow","NotAction":"x","Resource":"*"}}`,
		"NotResource":             `{"Statement":{"Effect":"Deny","Action":"*","NotResource":"x"}}`,
		"a principal":             `{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}}`,
		"a policy variable":       `{"Statement":{"Effect":"Allow","Action":"*","Resource":"${aws:username}"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(document)); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

// The matcher agrees with a regular expression made from the pattern.
func FuzzMatch(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("**", "")
	f.Add("?", "/")
	f.Add("*a*a*a*a*b", strings.Repeat("a", 40))
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 100 || len(name) > 1000 || !ascii(pattern) || !ascii(name) {
			t.Skip("a ? is one byte; regexp counts characters")
		}
		expression := regexp.QuoteMeta(pattern)
		expression = strings.ReplaceAll(expression, `\*`, `.*`)
		expression = strings.ReplaceAll(expression, `\?`, `.`)
		want := regexp.MustCompile(`^(?s:` + expression + `)$`).MatchString(name)
		if got := Match(pattern, name); got != want {
			t.Errorf("Match(%q, %q) = %v", pattern, name, got)
		}
	})
}

// No document makes the parser panic, and none without an Allow allows.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":["*"],"Resource":"*"}]}`))
	f.Add([]byte(`{"Statement":{}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		p, err := Parse(document)
		if err == nil && p.Evaluate("execute-api:Invoke", arn) == Allowed && !strings.Contains(string(document), `Allow`) && !strings.Contains(string(document), `\u`) {
			t.Errorf("%s allows", document)
		}
	})
}

func ascii(s string) bool {
	for _, c := range []byte(s) {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
