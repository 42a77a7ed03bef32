package role

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"cjj365.cc/bb/local/template"
)

// What a request for an object, and one for a bucket's list, may have in its query. Anything else asks for
// another operation.
var (
	objectQueries = []string{"x-id"}
	listQueries   = []string{"x-id", "list-type", "prefix", "delimiter", "max-keys", "start-after", "continuation-token", "encoding-type", "fetch-owner"}
)

// S3 passes calls on to MiniStack, those that the caller's role allows. Where the path names a bucket, not the
// host.
func (c *Checker) S3(endpoint string, t *template.Template) (http.Handler, error) {
	proxy, err := forward(endpoint, &http.Transport{DisableKeepAlives: true}) // as for KMS
	if err != nil {
		return nil, err
	}
	proxy.ModifyResponse = func(response *http.Response) error { return c.hideAbsence(t, response) }
	return c.guard(proxy, func(r *http.Request, _ []byte) ([]call, error) { return s3Calls(t, r) }, denyS3), nil
}

// hideAbsence denies access to an object that is not there, as S3 does: only who may list a bucket is told
// what it does not hold.
func (c *Checker) hideAbsence(t *template.Template, response *http.Response) error {
	r := response.Request
	bucket, key := inPath(t, r)
	if response.StatusCode != http.StatusNotFound || r.Method != http.MethodGet && r.Method != http.MethodHead || bucket == nil || key == "" {
		return nil
	}
	err := c.check(accessKeyID(r), []call{{action: "s3:ListBucket", resource: bucket.ARN}})
	if err == nil {
		return nil
	}
	status, body := s3Error(err)
	response.Body.Close()
	response.StatusCode, response.Status = status, strconv.Itoa(status)+" "+http.StatusText(status)
	response.Header.Set("Content-Type", "application/xml")
	response.Header.Set("Content-Length", strconv.Itoa(len(body)))
	response.ContentLength, response.Body = int64(len(body)), io.NopCloser(bytes.NewReader(body))
	return nil
}

// denyS3 answers as S3 does.
func denyS3(w http.ResponseWriter, err error) {
	status, body := s3Error(err)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func s3Error(err error) (status int, body []byte) {
	answer := struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: "AccessDenied", Message: err.Error()}
	status = http.StatusForbidden
	var e *amznError
	if errors.As(err, &e) {
		answer.Code, answer.Message, status = e.kind, e.message, http.StatusNotFound
	}
	body, _ = xml.Marshal(answer) // nothing in it can fail
	return status, append([]byte(xml.Header), body...)
}

// inPath finds the bucket that a path begins with, nil for none of the template, and the key after it.
func inPath(t *template.Template, r *http.Request) (*template.Bucket, string) {
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	i := slices.IndexFunc(t.Buckets, func(b template.Bucket) bool { return b.Name == name })
	if i < 0 {
		return nil, ""
	}
	return &t.Buckets[i], key
}

// s3Calls are the permissions that a request needs. Replacing an object that is as it was read needs the
// permission to read it.
func s3Calls(t *template.Template, r *http.Request) ([]call, error) {
	bucket, key := inPath(t, r)
	if bucket == nil {
		return nil, &amznError{"NoSuchBucket", "The specified bucket does not exist"}
	}
	unknown := fmt.Errorf("%s %s is not understood here", r.Method, r.URL)
	queries := listQueries
	if key != "" {
		queries = objectQueries
	}
	for name := range r.URL.Query() {
		if !slices.Contains(queries, name) {
			return nil, unknown
		}
	}
	for _, header := range []string{"X-Amz-Acl", "X-Amz-Copy-Source", "X-Amz-Tagging", "X-Amz-Website-Redirect-Location"} {
		if r.Header.Get(header) != "" {
			return nil, unknown
		}
	}
	object := bucket.ARN + "/" + key
	switch {
	case key == "" && (r.Method == http.MethodHead || r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2"):
		return []call{{action: "s3:ListBucket", resource: bucket.ARN}}, nil
	case key == "":
		return nil, unknown
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		return []call{{action: "s3:GetObject", resource: object}}, nil
	case r.Method == http.MethodPut && r.Header.Get("If-Match") != "":
		return []call{{action: "s3:PutObject", resource: object}, {action: "s3:GetObject", resource: object}}, nil
	case r.Method == http.MethodPut:
		return []call{{action: "s3:PutObject", resource: object}}, nil
	case r.Method == http.MethodDelete:
		return []call{{action: "s3:DeleteObject", resource: object}}, nil
	}
	return nil, unknown
}
