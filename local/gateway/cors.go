package gateway

import (
	"net/http"
	"slices"
	"strings"

	"cjj365.cc/bb/local/template"
)

// preflightHeaders are what SAM's mock integration of OPTIONS answers for a resource.
func preflightHeaders(c *template.CORS, r *resource) http.Header {
	allowed := c.AllowMethods
	if allowed == "" {
		allowed = allowedMethods(r)
	}
	h := http.Header{}
	for name, value := range map[string]string{
		"Access-Control-Allow-Origin":  c.AllowOrigin,
		"Access-Control-Allow-Methods": allowed,
		"Access-Control-Allow-Headers": c.AllowHeaders,
		"Access-Control-Max-Age":       c.MaxAge,
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	if c.AllowCredentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	h.Set("Content-Type", "application/json")
	return h
}

func allowedMethods(r *resource) string {
	if r.methods["ANY"] != nil {
		return strings.Join(methods, ",")
	}
	names := []string{http.MethodOptions}
	for name := range r.methods {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

func (x *exchange) preflight() {
	header := x.w.Header()
	for name, values := range x.resource.preflight {
		header[name] = values
	}
	x.write(http.StatusOK, []byte("{}\n"))
}
