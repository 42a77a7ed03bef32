// Package wire is the contract's JSON over HTTP: the envelopes of successes, lists and failures, the
// reading and checking of requests, and the description of it all as OpenAPI 3.1.
//
// A function registers its operations on an API. Each names its path, the permission it needs and a
// handler that takes a request and returns a value or an error; huma checks the request against the
// types and writes the answer. Permission and ownership are checked here, in one place, before the
// request's body is read and the store is touched. Unknown fields are ignored (contract §0.1).
package wire

import (
	"context"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/validation"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/problem"
)

// MaxBody is the largest request body of a JSON operation, in bytes.
const MaxBody = 64 << 10

// API is the operations of one function.
type API struct {
	mux  *http.ServeMux
	huma huma.API
}

func init() {
	huma.NewError = requestFailure
	huma.DefaultArrayNullable = false
	validation.MsgExpectedMinimumNumber = "expected number >= %.0f"
	validation.MsgExpectedMaximumNumber = "expected number <= %.0f"
}

// New makes an API without operations.
func New() *API {
	config := huma.DefaultConfig("BB", "1")
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.CreateHooks = nil // no $schema in answers
	config.AllowAdditionalPropertiesByDefault = true
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":  {Type: "http", Scheme: "bearer", Description: "An API key (ak_…) or a session token (st_…)."},
		"cookie": {Type: "apiKey", In: "cookie", Name: "cjj365", Description: "The session of a login."},
	}
	mux := http.NewServeMux()
	return &API{mux: mux, huma: humago.New(mux, config)}
}

// ServeHTTP answers a request, an unknown path or method with the contract's envelope.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect, and lose a stage's name
		Fail(w, r, errNoPath)
		return
	}
	handler, pattern := a.mux.Handler(r)
	if pattern != "" {
		noteRoute(r.Context(), pattern)
		a.mux.ServeHTTP(w, r)
		return
	}
	probe := &refusal{header: http.Header{}}
	handler.ServeHTTP(probe, r)
	if allow := probe.header.Get("Allow"); probe.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allow)
		Fail(w, r, problem.MethodNotAllowed.New("This path takes %s.", allow))
		return
	}
	Fail(w, r, errNoPath)
}

var errNoPath = problem.NotFound.New("There is no such path.")

// Handle adds a route that is no JSON operation and is not described.
func (a *API) Handle(pattern string, h http.Handler) { a.mux.Handle(pattern, h) }

// refusal takes the mux's own 404 or 405 and keeps what the envelope needs of it.
type refusal struct {
	header http.Header
	status int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(status int)      { r.status = status }
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }

// OpenAPI is the description of the operations.
func (a *API) OpenAPI() *huma.OpenAPI { return a.huma.OpenAPI() }

// Rule is who may call an operation.
type Rule struct {
	Public bool          // anybody, without a credential
	Type   string        // of the object acted on; empty if any authenticated caller may
	Action access.Action // done to it
	Object string        // path parameter with the object's id; empty for objects of the type at large
	Self   bool          // an API key may do this to itself without the permission
	Some   bool          // the permission on one object of the type is enough; the handler says of which
	Or     access.Need   // that is enough as well, of objects at large; the handler says of which. Zero for none
	Device bool          // a device, with its own token; API keys as the handler says
}

// Operation is a row of a function's table of routes.
type Operation struct {
	Method, Path string
	ID           string // of the operation in OpenAPI
	Summary      string
	Description  string
	Status       int // of success; 0 for 200
	Rule         Rule
	// What the type of the answer does not say: that it may be 204 too; or, of a handler that writes by itself, a
	// value of the type of its JSON, and the content types and headers (with their description) of its files.
	NoContent   bool
	JSON        any
	Files       []string
	FileHeaders map[string]string
}

// describe adds those to the description.
func (op Operation) describe(described *huma.Operation, schemas huma.Registry) {
	described.Responses = map[string]*huma.Response{}
	if op.NoContent {
		described.Responses["204"] = &huma.Response{Description: "No Content"}
	}
	if op.JSON == nil {
		return
	}
	ok := &huma.Response{Description: "OK", Content: map[string]*huma.MediaType{}, Headers: map[string]*huma.Param{}}
	ok.Content["application/json"] = &huma.MediaType{Schema: schemas.Schema(reflect.TypeOf(op.JSON), true, "")}
	for _, file := range op.Files {
		ok.Content[file] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	}
	for name, description := range op.FileHeaders {
		ok.Headers[name] = &huma.Param{Description: description, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	described.Responses["200"] = ok
}

// Register adds an operation. I is the request: fields with path, query and header tags and Body. O is
// the answer: header fields and Body.
func Register[I, O any](a *API, op Operation, handle func(context.Context, *I) (*O, error)) {
	described := huma.Operation{
		OperationID: op.ID, Method: op.Method, Path: op.Path, Summary: op.Summary, Description: op.Description,
		DefaultStatus: op.Status, MaxBodyBytes: MaxBody, Extensions: map[string]any{"x-required-permissions": []string{}},
	}
	op.describe(&described, a.huma.OpenAPI().Components.Schemas)
	if !op.Rule.Public {
		described.Security = []map[string][]string{{"token": {}}, {"cookie": {}}}
		described.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
			if err := op.Rule.check(ctx); err != nil {
				write(a.huma, ctx, err)
				return
			}
			next(ctx)
		}}
	}
	if op.Rule.Type != "" {
		need := access.Need{Type: op.Rule.Type, Action: op.Rule.Action}.String()
		needs, sentence := []string{need}, " Needs the permission `"+need+"`"
		if op.Rule.Or.Type != "" {
			needs, sentence = append(needs, op.Rule.Or.String()), sentence+" or `"+op.Rule.Or.String()+"`"
		}
		described.Extensions["x-required-permissions"] = needs
		described.Description = strings.TrimSpace(described.Description + sentence + ".")
	}
	huma.Register(a.huma, described, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			note(ctx, err)
			return nil, fail(err)
		}
		return out, nil
	})
}

// check answers the one question before an operation: may this caller do this here?
func (rule Rule) check(ctx huma.Context) error {
	caller, ok := access.FromContext(ctx.Context())
	if !ok {
		return problem.Unauthorized.New("invalid token")
	}
	if user := ctx.Param("user_id"); user != "" && user != strconv.FormatInt(caller.User, 10) {
		if caller.Kind == access.APIKey {
			return problem.LacksPermission.New("API key lacks required permission")
		}
		return problem.Forbidden.New("This path belongs to another user.")
	}
	if caller.Kind == access.Device && !rule.Device {
		return problem.Forbidden.New("A device may only ask about itself.")
	}
	if rule.Type == "" {
		return nil
	}
	need := access.Need{Type: rule.Type, Action: rule.Action}
	if rule.Object != "" {
		// An id that is no number needs the permission at large; the handler's types refuse it after.
		need.ID, _ = strconv.ParseInt(ctx.Param(rule.Object), 10, 64)
	}
	self := rule.Self && caller.Kind == access.APIKey && need.ID == caller.ID
	or := rule.Or.Type != "" && caller.Allow(rule.Or) || rule.Some && caller.AllowSome(need)
	if !self && !or && !caller.Allow(need) {
		return problem.Lacking(access.Need{Type: rule.Type, Action: rule.Action}.String())
	}
	return nil
}

// write answers from a middleware, where huma expects the answer to be written by hand.
func write(api huma.API, ctx huma.Context, err error) {
	note(ctx.Context(), err)
	f := fail(err)
	for name, values := range f.headers {
		for _, v := range values {
			ctx.SetHeader(name, v)
		}
	}
	ctx.SetHeader("Content-Type", "application/json")
	ctx.SetStatus(f.status)
	_ = api.Marshal(ctx.BodyWriter(), "application/json", f) // the client has gone
}

// requestFailure is huma's hook: what it finds wrong with a request, as a row of the problem table.
func requestFailure(status int, message string, errs ...error) huma.StatusError {
	var first *huma.ErrorDetail
	for _, err := range errs {
		if d, ok := err.(huma.ErrorDetailer); ok { // huma hands over its own type, unwrapped
			first = d.ErrorDetail()
			break
		}
	}
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return fail(problem.TooLarge.New("The request body may have %d bytes.", MaxBody))
	case status == http.StatusUnsupportedMediaType:
		return fail(problem.UnsupportedMedia.New("Send the body as application/json."))
	case status == http.StatusNotAcceptable:
		return fail(problem.NotAcceptable.New("Answers are application/json."))
	case status == http.StatusBadRequest && first == nil:
		return fail(problem.MissingBody.New("The request needs a JSON body."))
	case status == http.StatusBadRequest && first.Location == "body":
		return fail(problem.JSONParse.New("The request body is not JSON."))
	case first != nil && strings.HasPrefix(first.Message, "json: "): // Go's words, with names of Go's types
		return fail(problem.TypeConvert.New("A value has the wrong type. Integers are written without fraction and exponent."))
	case first != nil:
		return fail(kindOf(first).New("%s: %s.", field(first), first.Message).With("field", field(first)))
	case status >= 500:
		return fail(problem.Internal.New("internal error"))
	}
	return fail(problem.InvalidArgument.New("%s", message))
}

// field names what an error is about. The value itself is not repeated: it may be a password.
func field(d *huma.ErrorDetail) string {
	_, name, _ := strings.Cut(d.Location, ".")
	if missing, ok := missingProperty(d.Message); ok {
		if name != "" {
			name += "."
		}
		return name + missing
	}
	if name == "" {
		return d.Location
	}
	return name
}

func missingProperty(message string) (string, bool) {
	before, after, _ := strings.Cut(validation.MsgExpectedRequiredProperty, "%s")
	rest, ok := strings.CutPrefix(message, before)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, after)
}

func kindOf(d *huma.ErrorDetail) *problem.Kind {
	if _, missing := missingProperty(d.Message); missing {
		return problem.MissingField
	}
	in, _, _ := strings.Cut(d.Location, ".")
	switch d.Message {
	case validation.MsgExpectedMatchExactlyOneSchema:
		return problem.TypeConvert
	case "required query parameter is missing":
		return problem.MissingQuery
	case "required header parameter is missing":
		return problem.MissingHeader
	case validation.MsgExpectedString, validation.MsgExpectedInteger, validation.MsgExpectedNumber,
		validation.MsgExpectedBoolean, validation.MsgExpectedArray, validation.MsgExpectedObject:
		return problem.TypeConvert
	}
	if in != "body" && strings.HasPrefix(d.Message, "invalid ") {
		return problem.TypeConvert
	}
	return problem.InvalidArgument
}
