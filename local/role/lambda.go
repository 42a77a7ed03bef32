package role

import (
	"fmt"
	"net/http"
	"strings"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/template"
)

// Lambda passes invocations on to a handler, those that the caller's role allows.
func (c *Checker) Lambda(t *template.Template, next http.Handler) http.Handler {
	return c.guard(next, func(r *http.Request, _ []byte) ([]call, error) {
		name, qualifier, ok := lambda.InvocationOf(r)
		if !ok {
			return nil, fmt.Errorf("%s %s is not understood here", r.Method, r.URL.Path)
		}
		for _, f := range t.Functions {
			if name == f.Name || name == f.ARN {
				arn := f.ARN
				if qualifier != "" {
					arn += ":" + qualifier
				}
				return []call{{action: "lambda:InvokeFunction", resource: arn}}, nil
			}
		}
		// AWS tells who may not invoke a function nothing of whether there is one.
		if !strings.HasPrefix(name, "arn:") {
			name = fmt.Sprintf("arn:aws:lambda:%s:%s:function:%s", t.Region, t.Account, name)
		}
		return []call{{action: "lambda:InvokeFunction", resource: name}}, nil
	}, denyREST)
}
