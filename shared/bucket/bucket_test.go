package bucket_test

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/problem"
)

func TestMain(m *testing.M) { awstest.Main(m) }

func TestAnObjectIsAsItWasPut(t *testing.T) {
	b := awstest.Bucket(t)
	for key, body := range map[string][]byte{
		"7/ca.crl":    []byte("\x30\x00\xff"),
		"empty":       {},
		"a b/ü+%?#&=": []byte("x"),
		"largest":     bytes.Repeat([]byte("12345678"), bucket.MaxBytes/8),
	} {
		o := bucket.Options{ContentType: "application/pkix-crl", CacheControl: "public, max-age=60", Metadata: map[string]string{"crl-number": "12"}}
		etag, err := b.Put(t.Context(), key, body, o, "")
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		got, err := b.Get(t.Context(), key)
		if err != nil || !bytes.Equal(got.Body, body) || got.ETag != etag || etag == "" || got.ContentType != o.ContentType ||
			got.CacheControl != o.CacheControl || !maps.Equal(got.Metadata, o.Metadata) || time.Since(got.LastModified) > time.Minute {
			got.Body = nil
			t.Errorf("%s: %+v, %v", key, got, err)
		}
	}
	if _, err := b.Get(t.Context(), "nothing"); !errors.Is(err, bucket.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := b.Put(t.Context(), "larger", make([]byte, bucket.MaxBytes+1), bucket.Options{}, ""); err == nil {
		t.Error("a larger object was put")
	}
}

func TestAPutMayHaveACondition(t *testing.T) {
	b := awstest.Bucket(t)
	put := func(body, ifMatch string) (string, error) {
		return b.Put(t.Context(), "conditional", []byte(body), bucket.Options{}, ifMatch)
	}
	if _, err := put("0", `"d41d8cd98f00b204e9800998ecf8427e"`); !errors.Is(err, bucket.ErrChanged) {
		t.Errorf("in the place of one that was there: %v", err)
	}
	first, err := put("1", bucket.Absent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := put("2", bucket.Absent); !errors.Is(err, bucket.ErrChanged) {
		t.Errorf("in the place of none: %v", err)
	}
	second, err := put("2", first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := put("3", first); !errors.Is(err, bucket.ErrChanged) {
		t.Errorf("in the place of the first: %v", err)
	}
	if got, err := b.Get(t.Context(), "conditional"); err != nil || string(got.Body) != "2" || got.ETag != second {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What S3 answers, and what it becomes.
func TestFailures(t *testing.T) {
	var status int
	var body string
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		if body != "" {
			_, _ = w.Write([]byte("<Error><Code>" + body + "</Code><Message>m</Message></Error>"))
		}
	}))
	defer s3.Close()
	for name, value := range map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL_S3": s3.URL} {
		t.Setenv(name, value)
	}
	b, err := bucket.Open("b")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		status  int
		code    string
		ifMatch string
		want    error // nil for one that stays internal
	}{
		{412, "PreconditionFailed", bucket.Absent, bucket.ErrChanged},
		{409, "ConditionalRequestConflict", `"e"`, bucket.ErrChanged},
		{404, "NoSuchKey", `"e"`, bucket.ErrChanged},
		{404, "NoSuchBucket", `"e"`, nil},
		{403, "AccessDenied", "", nil},
		{503, "SlowDown", "", problem.Unavailable},
		{500, "InternalError", "", problem.Unavailable},
		{502, "", "", problem.Unavailable},
	} {
		status, body = test.status, test.code
		_, err := b.Put(t.Context(), "k", nil, bucket.Options{}, test.ifMatch)
		if err == nil || test.want != nil && !errors.Is(err, test.want) || test.want == nil && (errors.Is(err, bucket.ErrChanged) || errors.Is(err, problem.Unavailable)) {
			t.Errorf("%d %s: %v", test.status, test.code, err)
		}
	}
	for _, test := range []struct {
		status int
		code   string
		want   bool
	}{{404, "NoSuchKey", true}, {404, "NoSuchBucket", false}, {403, "AccessDenied", false}} {
		status, body = test.status, test.code
		if _, err := b.Get(t.Context(), "k"); err == nil || errors.Is(err, bucket.ErrNotFound) != test.want {
			t.Errorf("%d %s: %v", test.status, test.code, err)
		}
	}
}
