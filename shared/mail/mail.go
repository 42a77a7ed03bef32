// Package mail sends messages to people, through Amazon SES.
//
// On one machine the same SES client reaches local/ses, which writes each message to a file.
package mail

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sesv2"
	"github.com/aws/aws-sdk-go-v2/service/sesv2/types"

	"cjj365.cc/bb/shared/awsenv"
)

// Budget is the longest that sending one message may take. It fits into the fixed time of the answers
// that must not tell whether a message was sent.
const Budget = time.Second

// Sender sends from one address.
type Sender struct {
	client *sesv2.Client
	from   string
}

// Open makes a sender with the region, credentials and endpoint of the environment.
func Open(from string) (*Sender, error) {
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open mail: %w", err)
	}
	client := sesv2.NewFromConfig(configuration, func(o *sesv2.Options) {
		o.BaseEndpoint = awsenv.Endpoint("SESV2")
		o.Retryer = aws.NopRetryer{} // a repeat after a lost answer would send twice
	})
	return &Sender{client: client, from: from}, nil
}

// Send sends plain text to one address.
func (s *Sender) Send(ctx context.Context, to, subject, text string) error {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	utf8 := aws.String("UTF-8")
	_, err := s.client.SendEmail(ctx, &sesv2.SendEmailInput{
		FromEmailAddress: &s.from,
		Destination:      &types.Destination{ToAddresses: []string{to}},
		Content: &types.EmailContent{Simple: &types.Message{
			Subject: &types.Content{Data: &subject, Charset: utf8},
			Body:    &types.Body{Text: &types.Content{Data: &text, Charset: utf8}},
		}},
	})
	if err != nil {
		return fmt.Errorf("send mail: %w", err)
	}
	return nil
}
