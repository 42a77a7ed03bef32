package main

import (
	"bytes"
	"errors"
	"net/http"
	"regexp"

	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/wire"
)

type handler struct{ bucket *bucket.Bucket }

// published is the paths there are, each the key of an object.
var published = regexp.MustCompile(`^/([1-9][0-9]{0,15}/ca\.(crl|crt))$`)

// ServeHTTP answers GET and HEAD, with 304 to who has it already. The content type and the caching are the object's.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := published.FindStringSubmatch(gateway.Below("/pki", r.URL.Path))
	switch {
	case path == nil:
		wire.Fail(w, r, problem.NotFound.New("There is no such path."))
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		wire.Fail(w, r, problem.MethodNotAllowed.New("This path takes GET, HEAD."))
		return
	}
	object, err := h.bucket.Get(r.Context(), path[1])
	if errors.Is(err, bucket.ErrNotFound) {
		wire.Fail(w, r, problem.NotFound.New("Nothing is published here."))
		return
	}
	if err != nil {
		wire.Fail(w, r, err)
		return
	}
	header := w.Header()
	header.Set("Content-Type", object.ContentType)
	header.Set("Cache-Control", object.CacheControl)
	header.Set("ETag", object.ETag)
	header.Del("Vary")
	http.ServeContent(w, r, "", object.LastModified, bytes.NewReader(object.Body))
}
