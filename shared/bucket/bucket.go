// Package bucket keeps objects in a bucket of S3: what is read whole and written whole, up to 16 MB each.
//
// Two writers of an object are settled by its ETag: a Put may ask that the object is still the one that was
// read, or that there is none.
package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"cjj365.cc/bb/shared/awsenv"
	"cjj365.cc/bb/shared/problem"
)

// Budget is the longest that one operation may wait for S3. A try may take longer than other services' do:
// it carries the object.
const Budget, try = 6 * time.Second, 3 * time.Second

// MaxBytes is the size of the largest object.
const MaxBytes = 16 << 20

// Absent, in the place of an ETag, asks that there is no object.
const Absent = "*"

var (
	// ErrNotFound is a key without an object. S3 says so only to a role with s3:ListBucket; to others it
	// says that access is denied.
	ErrNotFound = errors.New("there is no such object")
	// ErrChanged is a Put whose condition does not hold. It may also be one that was done: when S3's answer
	// is lost, the second try finds the first one's object. Whoever gets it reads the object again.
	ErrChanged = errors.New("the object is another one by now")
)

// Bucket is a bucket of S3.
type Bucket struct {
	client *s3.Client
	name   string
}

// Open makes a bucket of its name, with the region, credentials and endpoint of the environment.
func Open(name string) (*Bucket, error) {
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	return &Bucket{s3.NewFromConfig(configuration, func(o *s3.Options) {
		o.BaseEndpoint = awsenv.Endpoint("S3")
		o.UsePathStyle = o.BaseEndpoint != nil // another host has no names for buckets
		if client, ok := o.HTTPClient.(awsenv.Client); ok {
			o.HTTPClient = client.WithTimeout(try)
		}
	}), name}, nil
}

// Options are what S3 tells of an object with it. Names of Metadata are lower case.
type Options struct {
	ContentType, CacheControl string
	Metadata                  map[string]string
}

// An Object is what lies under a key.
type Object struct {
	Body                            []byte
	ETag, ContentType, CacheControl string
	Metadata                        map[string]string
	LastModified                    time.Time
}

// Put writes an object: whatever is there when ifMatch is empty, else only in the place of the object with that
// ETag, or of none for Absent. It yields the new ETag, or ErrChanged.
func (b *Bucket) Put(ctx context.Context, key string, body []byte, o Options, ifMatch string) (etag string, err error) {
	if len(body) > MaxBytes {
		return "", fmt.Errorf("put %s: it has %d bytes, more than %d", key, len(body), MaxBytes)
	}
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	input := &s3.PutObjectInput{
		Bucket: &b.name, Key: &key, Body: bytes.NewReader(body), Metadata: o.Metadata,
		ContentType: optional(o.ContentType), CacheControl: optional(o.CacheControl),
	}
	switch ifMatch {
	case "":
	case Absent:
		input.IfNoneMatch = aws.String("*")
	default:
		input.IfMatch = &ifMatch
	}
	put, err := b.client.PutObject(ctx, input)
	switch {
	case err == nil:
		return aws.ToString(put.ETag), nil
	// A condition on an object that is gone is answered as if it were asked for.
	case ifMatch != "" && is(err, "PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
		return "", fmt.Errorf("put %s: %w", key, ErrChanged)
	}
	return "", failure("put "+key, err)
}

// Get reads an object; ErrNotFound if there is none.
func (b *Bucket) Get(ctx context.Context, key string) (Object, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	got, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	if is(err, "NoSuchKey") {
		return Object{}, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	if err != nil {
		return Object{}, failure("get "+key, err)
	}
	defer got.Body.Close()
	body, err := io.ReadAll(io.LimitReader(got.Body, MaxBytes+1))
	if err != nil {
		return Object{}, failure("read "+key, err)
	}
	if len(body) > MaxBytes {
		return Object{}, fmt.Errorf("get %s: it has more than %d bytes", key, MaxBytes)
	}
	return Object{
		Body: body, ETag: aws.ToString(got.ETag), ContentType: aws.ToString(got.ContentType), CacheControl: aws.ToString(got.CacheControl),
		Metadata: got.Metadata, LastModified: aws.ToTime(got.LastModified),
	}, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// is tells whether S3 named an error by one of the codes.
func is(err error, codes ...string) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, code := range codes {
		if api.ErrorCode() == code {
			return true
		}
	}
	return false
}

// failure says what was being done. What may pass in a moment becomes a problem that tells the caller to
// try again; anything else stays internal. Of most failures only the status tells whose they are.
func failure(doing string, err error) error {
	var response *awshttp.ResponseError
	served := errors.As(err, &response) && response.HTTPStatusCode() >= http.StatusInternalServerError
	if !served && !errors.Is(err, io.ErrUnexpectedEOF) && !awsenv.Passing(err, "SlowDown", "RequestTimeout", "OperationAborted") {
		return fmt.Errorf("%s: %w", doing, err)
	}
	p := problem.Unavailable.New("The object store is busy; try again.")
	p.RetryAfter = time.Second
	p.Cause = fmt.Errorf("%s: %w", doing, err)
	return p
}
