package template

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// apiReaders are those of all APIs of a template.
type apiReaders []*apiReader

// An apiReader gathers an API from its own properties and the functions' events.
type apiReader struct {
	*reader
	api             *API
	authorizers     map[string]*Authorizer
	fallback        string // name of the default authorizer
	preflightIsOpen bool
}

func (r *apiReader) read(properties *yaml.Node) error {
	api := r.api
	r.authorizers = map[string]*Authorizer{}
	var responses, auth *yaml.Node
	err := r.fields(properties, api.LogicalID, fields{
		"Name":             &api.Name,
		"StageName":        &api.Stage,
		"BinaryMediaTypes": &api.BinaryMediaTypes,
		"Auth":             &auth,
		"Cors":             r.cors,
		"MethodSettings":   r.methodSettings,
		"AccessLogSetting": func(n *yaml.Node) error {
			return r.fields(n, "AccessLogSetting", fields{"Format": &api.AccessLogFormat, "DestinationArn": skipped})
		},
		"GatewayResponses": &responses,

		"Description":           skipped,
		"EndpointConfiguration": skipped,
		"OpenApiVersion":        skipped,
		"Tags":                  skipped,
		"PropagateTags":         skipped,
		"TracingEnabled":        skipped,
	})
	if err != nil {
		return err
	}
	if api.Stage == "" {
		return r.errorf(properties, "%s has no StageName", api.LogicalID)
	}
	if auth != nil {
		if err := r.auth(auth); err != nil {
			return err
		}
	}
	if api.CORS != nil && r.fallback != "" && !r.preflightIsOpen {
		return r.errorf(properties, "Cors with a DefaultAuthorizer needs AddDefaultAuthorizerToCorsPreflight: false; "+
			"a preflight that asks the authorizer is not understood here")
	}
	if responses == nil {
		return nil
	}
	return r.gatewayResponses(responses)
}

func (r *apiReader) auth(n *yaml.Node) error {
	authorizers := &yaml.Node{Kind: yaml.MappingNode}
	preflight := true
	err := r.fields(n, "Auth", fields{
		"DefaultAuthorizer":                   &r.fallback,
		"AddDefaultAuthorizerToCorsPreflight": &preflight,
		"Authorizers":                         &authorizers,
	})
	if err != nil {
		return err
	}
	r.preflightIsOpen = !preflight
	for name, value := range pairs(authorizers) {
		if r.authorizers[name.Value], err = r.authorizer(name, value); err != nil {
			return err
		}
	}
	if r.fallback != "" && r.authorizers[r.fallback] == nil {
		return r.errorf(n, "DefaultAuthorizer %s is not one of Authorizers", r.fallback)
	}
	return nil
}

func (r *apiReader) authorizer(name, n *yaml.Node) (*Authorizer, error) {
	a := &Authorizer{Name: name.Value}
	var payload string
	reauthorize := 300 // API Gateway's default, in seconds
	err := r.fields(n, name.Value, fields{
		"FunctionPayloadType": &payload,
		"FunctionArn": func(n *yaml.Node) (err error) {
			a.Function, err = r.functionOf(n)
			return err
		},
		"Identity": func(n *yaml.Node) error {
			return r.fields(n, "Identity", fields{
				"ReauthorizeEvery": &reauthorize,
				"Headers":          &a.IdentityHeaders,
				"QueryStrings":     &a.IdentityQueries,
			})
		},
		"FunctionInvokeRole":                skipped,
		"DisableFunctionDefaultPermissions": skipped,
	})
	switch {
	case err != nil:
		return nil, err
	case a.Function == "":
		return nil, r.errorf(name, "%s has no FunctionArn", a.Name)
	case payload != "REQUEST":
		return nil, r.errorf(name, "%s: the only FunctionPayloadType understood is REQUEST", a.Name)
	case reauthorize != 0:
		return nil, r.errorf(name, "%s: ReauthorizeEvery must be 0; answers of an authorizer are not cached here", a.Name)
	}
	return a, nil
}

func (r *apiReader) cors(n *yaml.Node) error {
	r.api.CORS = &CORS{AllowOrigin: "*"}
	c := r.api.CORS
	into := func(name string, target *string) func(*yaml.Node) error {
		return func(n *yaml.Node) (err error) {
			*target, err = r.quoted(n, name)
			return err
		}
	}
	if n.Kind == yaml.ScalarNode {
		return into("Cors", &c.AllowOrigin)(n)
	}
	return r.fields(n, "Cors", fields{
		"AllowOrigin":      into("AllowOrigin", &c.AllowOrigin),
		"AllowMethods":     into("AllowMethods", &c.AllowMethods),
		"AllowHeaders":     into("AllowHeaders", &c.AllowHeaders),
		"MaxAge":           into("MaxAge", &c.MaxAge),
		"AllowCredentials": &c.AllowCredentials,
	})
}

func (r *apiReader) methodSettings(n *yaml.Node) error {
	return r.each(n, "MethodSettings", func(n *yaml.Node) error {
		var path, method string
		err := r.fields(n, "MethodSettings", fields{
			"ResourcePath":         &path,
			"HttpMethod":           &method,
			"ThrottlingRateLimit":  &r.api.Rate,
			"ThrottlingBurstLimit": &r.api.Burst,
			"DataTraceEnabled":     skipped,
			"LoggingLevel":         skipped,
			"MetricsEnabled":       skipped,
		})
		if err == nil && (path != "/*" || method != "*") {
			return r.errorf(n, "MethodSettings are understood for ResourcePath /* and HttpMethod * only")
		}
		return err
	})
}

// methods are those of API Gateway; ANY stands for all of them.
var methods = []string{"ANY", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}

// events adds a function's routes. r is a parameter because a template may have no API.
func (a apiReaders) events(r *reader, d *resource, events *yaml.Node) error {
	for name, event := range pairs(events) {
		var kind string
		var properties *yaml.Node
		if err := r.fields(event, name.Value, fields{"Type": &kind, "Properties": &properties}); err != nil {
			return err
		}
		if kind != "Api" || properties == nil {
			return r.errorf(name, "%s: events of type %q are not run on one machine", d.id, kind)
		}
		if len(a) == 0 {
			return r.errorf(name, "%s: the template has no AWS::Serverless::Api", d.id)
		}
		api := a.of(properties)
		if api == nil {
			return r.errorf(name, "%s: RestApiId must be !Ref of an AWS::Serverless::Api of this template", d.id)
		}
		if err := api.route(d, properties); err != nil {
			return err
		}
	}
	return nil
}

// of finds the API that RestApiId refers to; nil for none.
func (a apiReaders) of(properties *yaml.Node) *apiReader {
	for key, value := range pairs(properties) {
		if key.Value != "RestApiId" || value.Kind != yaml.ScalarNode {
			continue
		}
		if i := slices.IndexFunc(a, func(r *apiReader) bool { return r.api.ID == value.Value }); i >= 0 {
			return a[i]
		}
	}
	return nil
}

func (r *apiReader) route(d *resource, n *yaml.Node) error {
	route := Route{Function: d.id}
	authorizer := r.fallback
	err := r.fields(n, d.id, fields{
		"Path":      &route.Path,
		"Method":    &route.Method,
		"RestApiId": skipped, // read before
		"Auth": func(n *yaml.Node) error {
			return r.fields(n, "Auth", fields{"Authorizer": &authorizer})
		},
	})
	if err != nil {
		return err
	}
	route.Method = strings.ToUpper(route.Method)
	if !slices.Contains(methods, route.Method) {
		return r.errorf(n, "%s: %q is not a method of API Gateway", d.id, route.Method)
	}
	if authorizer != "" && authorizer != "NONE" {
		if route.Authorizer = r.authorizers[authorizer]; route.Authorizer == nil {
			return r.errorf(n, "%s: there is no authorizer %s", d.id, authorizer)
		}
	}
	if err := r.checkPath(n, route); err != nil {
		return err
	}
	r.api.Routes = append(r.api.Routes, route)
	return nil
}

// checkPath refuses what API Gateway refuses: a path parameter that is not a whole segment, a
// greedy one before the end, siblings of different names, and a method given twice.
func (r *apiReader) checkPath(n *yaml.Node, route Route) error {
	if !strings.HasPrefix(route.Path, "/") || route.Path != "/" && strings.HasSuffix(route.Path, "/") {
		return r.errorf(n, "the path %q must begin with / and not end with it", route.Path)
	}
	segments := strings.Split(route.Path[1:], "/")
	for i, segment := range segments {
		isParameter := strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}")
		switch {
		case strings.ContainsAny(segment, "{}") && !isParameter, segment == "" && route.Path != "/":
			return r.errorf(n, "the path %s has a segment that API Gateway refuses", route.Path)
		case strings.HasSuffix(segment, "+}") && i < len(segments)-1:
			return r.errorf(n, "in %s the greedy parameter must come last", route.Path)
		}
	}
	for _, other := range r.api.Routes {
		if other.Path == route.Path && other.Method == route.Method {
			return r.errorf(n, "%s %s is given twice", route.Method, route.Path)
		}
		if a, b, clash := siblings(segments, strings.Split(other.Path[1:], "/")); clash {
			return r.errorf(n, "siblings %s and %s: API Gateway allows one path parameter at a place", b, a)
		}
	}
	return nil
}

// siblings finds parameters of different names under the same parent.
func siblings(a, b []string) (string, string, bool) {
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		both := strings.HasPrefix(a[i], "{") && strings.HasPrefix(b[i], "{")
		greedy := strings.HasSuffix(a[i], "+}") != strings.HasSuffix(b[i], "+}")
		return a[i], b[i], both && !greedy
	}
	return "", "", false
}
