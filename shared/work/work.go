// Package work is the queue by which functions tell the issuer that a certificate's issue is open.
//
// A message is a hint: what is to be done lies in the table, written before the message is sent. A message
// that is lost is replaced by the schedule, which finds what is overdue, and one that comes twice finds
// the order leased or done.
package work

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"cjj365.cc/bb/shared/awsenv"
)

// Order names a certificate whose issue is open, or what is on its way to devices. It holds nothing secret.
type Order struct {
	User        int64 `json:"user"`
	Certificate int64 `json:"certificate,omitempty"`
	Rollout     bool  `json:"rollout,omitempty"` // of the certificate, of a CA, or of what is on a device
	CA          int64 `json:"ca,omitempty"`
	Device      int64 `json:"device,omitempty"`
}

// maxDelay is SQS's limit; what is to wait longer is found by the schedule.
const maxDelay = 15 * time.Minute

// Queue is the issuer's queue.
type Queue struct {
	client *sqs.Client
	url    string
}

// Open makes a queue of its URL, with the region, credentials and endpoint of the environment.
func Open(url string) (*Queue, error) {
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return &Queue{sqs.NewFromConfig(configuration, func(o *sqs.Options) { o.BaseEndpoint = awsenv.Endpoint("SQS") }), url}, nil
}

// Send sends word that is to arrive after a while. What is more than a quarter of an hour off is left to the
// schedule.
func (q *Queue) Send(ctx context.Context, o Order, after time.Duration) error {
	if after > maxDelay {
		return nil
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	body := string(text)
	_, err = q.client.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: &q.url, MessageBody: &body, DelaySeconds: int32((after + time.Second - 1) / time.Second),
	})
	if err != nil {
		return fmt.Errorf("send to the issuer: %w", err)
	}
	return nil
}
