// Package awsenv is the AWS configuration of a Lambda function: what Lambda puts into its environment,
// and nothing else.
//
// The SDK's config.LoadDefaultConfig would also look for profiles, single sign-on, web identities and
// instance metadata. A function has none of them, must not pick up any by accident, and pays 2 MB and
// 2 ms at each cold start for the code.
package awsenv

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// Config reads region and credentials. A call is tried three times, a second each: the SDK's own limits
// let a request hang for ten.
func Config() (aws.Config, error) {
	region, id, secret := os.Getenv("AWS_REGION"), os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if region == "" || id == "" || secret == "" {
		return aws.Config{}, errors.New("AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set")
	}
	return aws.Config{
		Region:      region,
		Credentials: credentials.NewStaticCredentialsProvider(id, secret, os.Getenv("AWS_SESSION_TOKEN")),
		HTTPClient: Client{awshttp.NewBuildableClient().WithTimeout(time.Second).WithDialerOptions(func(d *net.Dialer) {
			d.Timeout = 500 * time.Millisecond
		})},
		Retryer: func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts = 3
				o.MaxBackoff = 100 * time.Millisecond
			})
		},
	}, nil
}

// Endpoint is the URL of a service where the environment names one, as AWS_ENDPOINT_URL_<service>; nil
// for AWS's own.
func Endpoint(service string) *string {
	if url := os.Getenv("AWS_ENDPOINT_URL_" + service); url != "" {
		return &url
	}
	return nil
}

// A Client is the SDK's HTTP client without a fault that it has together with net/http: the SDK closes a request's
// body when the answer begins, net/http then looks whether more of the body is left, the closed body's WriteTo says
// io.EOF, net/http takes that for a failure to send and cuts the answer off. The SDK would repeat a call that was
// carried out: a conditional write, or the creation of a key.
type Client struct{ client *awshttp.BuildableClient }

// Do sends a request whose body has Read and no WriteTo.
func (c Client) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return c.client.Do(r)
}

// WithTimeout is a client with connections of its own that gives a request that long.
func (c Client) WithTimeout(limit time.Duration) Client { return Client{c.client.WithTimeout(limit)} }
