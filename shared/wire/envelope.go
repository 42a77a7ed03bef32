package wire

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"cjj365.cc/bb/shared/problem"
)

// Data is the envelope of a success with a body.
type Data[T any] struct {
	Data T `json:"data"`
}

// List is the envelope of a page of a list. Data is an array even when empty.
type List[T any] struct {
	Data []T  `json:"data"`
	Meta Meta `json:"meta"`
}

// Meta says which part of a list a page is.
type Meta struct {
	Total  int `json:"total" doc:"How many there are in all."`
	Offset int `json:"offset"`
	Limit  int `json:"limit"`
}

// Paging is the query of a list, newest first (contract §0.3).
type Paging struct {
	Offset int `query:"offset" minimum:"0" maximum:"9007199254740991" default:"0" doc:"How many to skip, newest first."`
	Limit  int `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many to return."`
}

// Page cuts a page out of a whole list.
func Page[T, U any](all []T, p Paging, show func(T) U) List[U] {
	page := List[U]{Data: []U{}, Meta: Meta{Total: len(all), Offset: p.Offset, Limit: p.Limit}}
	for i := p.Offset; i < len(all) && i < p.Offset+p.Limit; i++ {
		page.Data = append(page.Data, show(all[i]))
	}
	return page
}

// Failure is the envelope of a failure. It is an error that huma writes as it is.
type Failure struct {
	Detail FailureDetail `json:"error"`

	status  int
	headers http.Header
}

// FailureDetail is what a failure says.
type FailureDetail struct {
	Code   int            `json:"code" doc:"Tells the kind of failure, together with the HTTP status and key."`
	What   string         `json:"what" doc:"A sentence for people: what is wrong and what to do."`
	Key    string         `json:"key"`
	Params map[string]any `json:"params" doc:"Facts about the failure; {} if there are none."`
}

func (f *Failure) Error() string { return f.Detail.Key + ": " + f.Detail.What }

// GetStatus is the HTTP status, for huma.
func (f *Failure) GetStatus() int { return f.status }

// GetHeaders is Retry-After and X-Accepted-Permissions where they apply, for huma.
func (f *Failure) GetHeaders() http.Header { return f.headers }

// fail turns any error into the envelope. What is no problem is internal and answered without detail.
func fail(err error) *Failure {
	var p *problem.Error
	if !errors.As(err, &p) {
		p = problem.Internal.New("internal error")
	}
	f := &Failure{
		status:  p.Status,
		headers: http.Header{},
		Detail:  FailureDetail{Code: p.Code, What: p.What, Key: p.Key, Params: p.Params},
	}
	if f.Detail.Params == nil {
		f.Detail.Params = map[string]any{}
	}
	if p.RetryAfter > 0 {
		f.headers.Set("Retry-After", strconv.Itoa(problem.Seconds(p.RetryAfter)))
	}
	if p.Required != "" {
		f.headers.Set("X-Accepted-Permissions", p.Required)
	}
	return f
}

// Fail answers a request with the envelope of err, outside huma.
func Fail(w http.ResponseWriter, r *http.Request, err error) {
	note(r.Context(), err)
	f := fail(err)
	for name, values := range f.headers {
		w.Header()[name] = values
	}
	writeJSON(w, f.status, f)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	Encode(w, body)
}

// Encode writes the JSON of an answer that is not written by huma.
func Encode(w io.Writer, body any) {
	_ = json.NewEncoder(w).Encode(body) // the client has gone
}
