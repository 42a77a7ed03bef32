package ministack

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"cjj365.cc/bb/local/template"
)

// CreateBuckets makes the buckets that are not there yet.
func (s *Server) CreateBuckets(ctx context.Context, buckets []template.Bucket) error {
	for _, b := range buckets {
		_, err := s.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.Name})
		var missing *types.NotFound
		if errors.As(err, &missing) {
			_, err = s.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &b.Name})
		}
		if err != nil {
			return fmt.Errorf("create bucket %s: %w", b.Name, err)
		}
	}
	return nil
}
