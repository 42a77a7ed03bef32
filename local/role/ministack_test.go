package role

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
	"cjj365.cc/bb/shared/bucket"
	"cjj365.cc/bb/shared/kmskey"
)

// through gives a function with a role the addresses of KMS and S3, with MiniStack behind them.
func through(t *testing.T, s *ministack.Server, role ...template.Statement) *Checker {
	t.Helper()
	for name, value := range map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "LOCALF", "AWS_SECRET_ACCESS_KEY": "local"} {
		t.Setenv(name, value)
	}
	c := checker(t, role...)
	for service, handler := range map[string]func(string, *template.Template) (http.Handler, error){"KMS": c.KMS, "S3": c.S3} {
		h, err := handler(s.URL, deployed)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		t.Setenv("AWS_ENDPOINT_URL_"+service, server.URL)
	}
	return c
}

func denied(err error) bool {
	return err != nil && strings.Contains(err.Error(), "AccessDenied") && strings.Contains(err.Error(), "the role of F is not authorized")
}

// What functions use of KMS and S3, through their role.
func TestThroughMiniStack(t *testing.T) {
	s, err := ministack.Start(context.Background(), ministack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if err := s.CreateBuckets(t.Context(), deployed.Buckets); err != nil {
		t.Fatal(err)
	}
	signing := func(stack string) *kmskey.Signing {
		k, err := kmskey.OpenSigning(stack)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	things := func() *bucket.Bucket {
		b, err := bucket.Open("things")
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	t.Run("keys", func(t *testing.T) {
		c := through(t, s,
			statement("kms:CreateKey kms:TagResource", "*", "StringEquals", requestTag+"bb", "stack"),
			statement("kms:GetPublicKey kms:Sign kms:ScheduleKeyDeletion", kmsPart+"key/*", "StringEquals", resourceTag+"bb", "stack"))
		id, public, err := signing("stack").Create(t.Context(), kmskey.ECDSAP256, 7, 12)
		if err != nil {
			t.Fatal(err)
		}
		digest := bytes.Repeat([]byte{1}, 32)
		signature, err := signing("stack").Signer(t.Context(), id, public).Sign(rand.Reader, digest, crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest, signature) {
			t.Errorf("the signature: %v", err)
		}
		if _, _, err := signing("other").Create(t.Context(), kmskey.ECDSAP256, 7, 12); !denied(err) {
			t.Errorf("a key of another stack: %v", err)
		}
		if err := signing("stack").Delete(t.Context(), id); err != nil {
			t.Error(err)
		}
		if unused := c.Unused()["F"]; len(unused) != 0 {
			t.Errorf("unused: %q", unused)
		}
		through(t, s, statement("kms:Sign", kmsPart+"key/*", "StringEquals", resourceTag+"bb", "other"))
		if _, err := signing("stack").Signer(t.Context(), id, public).Sign(rand.Reader, digest, crypto.SHA256); !denied(err) {
			t.Errorf("by another stack: %v", err)
		}
	})

	t.Run("objects", func(t *testing.T) {
		c := through(t, s, statement("s3:GetObject s3:PutObject", bucketARN+"/*"), statement("s3:ListBucket", bucketARN))
		if _, err := things().Get(t.Context(), "7/ca.crl"); !errors.Is(err, bucket.ErrNotFound) {
			t.Errorf("nothing: %v", err)
		}
		largest := bytes.Repeat([]byte{7}, bucket.MaxBytes)
		etag, err := things().Put(t.Context(), "7/a b+c", largest, bucket.Options{ContentType: "application/pkix-crl"}, bucket.Absent)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := things().Put(t.Context(), "7/a b+c", []byte("x"), bucket.Options{}, bucket.Absent); !errors.Is(err, bucket.ErrChanged) {
			t.Errorf("in the place of none: %v", err)
		}
		if got, err := things().Get(t.Context(), "7/a b+c"); err != nil || !bytes.Equal(got.Body, largest) || got.ETag != etag {
			t.Errorf("the largest: %d bytes, %v", len(got.Body), err)
		}
		if _, err := things().Put(t.Context(), "7/a b+c", []byte("y"), bucket.Options{}, etag); err != nil {
			t.Errorf("in its place: %v", err)
		}
		if unused := c.Unused()["F"]; len(unused) != 0 {
			t.Errorf("unused: %q", unused)
		}
		through(t, s, statement("s3:GetObject", bucketARN+"/7/*"))
		if _, err := things().Put(t.Context(), "7/ca.crl", nil, bucket.Options{}, ""); !denied(err) {
			t.Errorf("who may read writes: %v", err)
		}
		if _, err := things().Get(t.Context(), "8/ca.crl"); !denied(err) {
			t.Errorf("another's: %v", err)
		}
		if _, err := things().Get(t.Context(), "7/ca.crl"); errors.Is(err, bucket.ErrNotFound) || !denied(err) {
			t.Errorf("nothing, for who may not list: %v", err)
		}
		if got, err := things().Get(t.Context(), "7/a b+c"); err != nil || string(got.Body) != "y" {
			t.Errorf("%q, %v", got.Body, err)
		}
	})
}
