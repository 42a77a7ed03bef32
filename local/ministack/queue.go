package ministack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"cjj365.cc/bb/local/template"
)

// CreateQueues makes the queues that are not there yet and gives all of them the template's settings.
// Dead letters go to a queue that may stand after the one they come from, so the settings come second.
func (s *Server) CreateQueues(ctx context.Context, queues []template.Queue) error {
	for _, q := range queues {
		// CreateQueue would make an empty one in place of one that was there at another port.
		_, err := s.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &q.Name})
		var missing *types.QueueDoesNotExist
		if errors.As(err, &missing) {
			_, err = s.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &q.Name})
		}
		if err != nil {
			return fmt.Errorf("create queue %s: %w", q.Name, err)
		}
	}
	for _, q := range queues {
		attributes, err := attributes(q)
		if err == nil {
			_, err = s.sqs.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{QueueUrl: &q.URL, Attributes: attributes})
		}
		if err != nil {
			return fmt.Errorf("set up queue %s: %w", q.Name, err)
		}
	}
	return nil
}

func attributes(q template.Queue) (map[string]string, error) {
	seconds := func(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }
	set := map[string]string{
		"VisibilityTimeout":      seconds(q.VisibilityTimeout),
		"MessageRetentionPeriod": seconds(q.Retention),
		"DelaySeconds":           seconds(q.Delay),
		"RedrivePolicy":          "", // removes one
	}
	if q.DeadLetters == "" {
		return set, nil
	}
	redrive, err := json.Marshal(map[string]any{"deadLetterTargetArn": q.DeadLetters, "maxReceiveCount": q.MaxReceives})
	set["RedrivePolicy"] = string(redrive)
	return set, err
}
