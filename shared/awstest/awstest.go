// Package awstest gives a test the parts of AWS that MiniStack stands for, one for all tests of a test binary:
// a key in KMS, keys that sign, a queue and a bucket.
package awstest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/work"
)

var (
	start    sync.Once
	server   *ministack.Server
	key      string
	startErr error
)

var queue = template.Queue{
	LogicalID: "orders", Name: "orders", ARN: "arn:aws:sqs:us-east-1:123456789012:orders", URL: "https://sqs.us-east-1.amazonaws.com/123456789012/orders",
	VisibilityTimeout: time.Minute, Retention: 96 * time.Hour,
}

// Main is the whole of a package's TestMain.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run runs a package's tests and then ends MiniStack, whose folder would be left otherwise.
func Run(m *testing.M) int {
	code := m.Run()
	if server != nil {
		server.Stop()
	}
	return code
}

func begin() (err error) {
	ctx := context.Background()
	if server, err = ministack.Start(ctx, ministack.Options{}); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ENDPOINT_URL_KMS": server.URL, "AWS_ENDPOINT_URL_SQS": server.URL, "AWS_ENDPOINT_URL_S3": server.URL,
	} {
		os.Setenv(name, value)
	}
	ids, err := server.CreateKeys(ctx, []template.Key{{LogicalID: "Secret", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT"}})
	if err != nil {
		return err
	}
	key = ids["Secret"]
	return server.CreateQueues(ctx, []template.Queue{queue})
}

func started(t testing.TB) {
	t.Helper()
	start.Do(func() { startErr = begin() })
	if startErr != nil {
		t.Fatal(startErr)
	}
}

// KeyID is the id of Key's key.
func KeyID(t testing.TB) string {
	t.Helper()
	started(t)
	return key
}

// Key gives the key. It sets the process's AWS environment, as storetest does.
func Key(t testing.TB) *kmskey.Key {
	t.Helper()
	started(t)
	k, err := kmskey.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Queue gives the queue of the issuer's work.
func Queue(t testing.TB) *work.Queue {
	t.Helper()
	started(t)
	q, err := work.Open(queue.URL)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// Bucket gives a bucket of its own to each who asks: ids begin anew in each test's tables, and are keys of objects.
func Bucket(t testing.TB) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(BucketName(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// BucketName is the name of another one.
func BucketName(t testing.TB) string {
	t.Helper()
	started(t)
	name := fmt.Sprintf("published-%d", buckets.Add(1))
	if err := server.CreateBuckets(t.Context(), []template.Bucket{{LogicalID: name, Name: name}}); err != nil {
		t.Fatal(err)
	}
	return name
}

var buckets atomic.Int64

// Endpoint is where MiniStack is, for a test that puts something in between.
func Endpoint(t testing.TB) string {
	t.Helper()
	started(t)
	return server.URL
}

// Signing gives the maker of signing keys, of a stack named test.
func Signing(t testing.TB) *kmskey.Signing {
	t.Helper()
	started(t)
	s, err := kmskey.OpenSigning("test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
