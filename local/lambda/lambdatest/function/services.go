package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"cjj365.cc/bb/shared/awsenv"
)

// secret encrypts for one user and decrypts for another, under a key.
func secret(ctx context.Context, e event) (any, error) {
	config, err := awsenv.Config()
	if err != nil {
		return nil, err
	}
	client := kms.NewFromConfig(config, func(o *kms.Options) { o.BaseEndpoint = awsenv.Endpoint("KMS") })
	made, err := client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: aws.String(e.Query["key"]), KeySpec: types.DataKeySpecAes256, EncryptionContext: map[string]string{"user": e.Query["for"]},
	})
	if err != nil {
		return failure(err)
	}
	opened, err := client.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: map[string]string{"user": e.Query["by"]}})
	if err != nil {
		return failure(err)
	}
	return answer{200, nil, fmt.Sprint(bytes.Equal(made.Plaintext, opened.Plaintext), " ", aws.ToString(opened.KeyId))}, nil
}

// send puts a message into a queue.
func send(ctx context.Context, e event) (any, error) {
	config, err := awsenv.Config()
	if err != nil {
		return nil, err
	}
	client := sqs.NewFromConfig(config, func(o *sqs.Options) { o.BaseEndpoint = awsenv.Endpoint("SQS") })
	sent, err := client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: aws.String(e.Query["queue"]), MessageBody: aws.String(e.Query["message"])})
	if err != nil {
		return failure(err)
	}
	return answer{200, nil, aws.ToString(sent.MessageId)}, nil
}

func failure(err error) (any, error) { return answer{502, nil, err.Error()}, nil }

// work posts each message to the URL that is its body, so that a test decides what becomes of it; a
// status other than 200 is its failure.
func work(ctx context.Context, raw json.RawMessage) (any, error) {
	var event events.SQSEvent
	if err := json.Unmarshal(raw, &event); err != nil {
		return nil, err
	}
	response := events.SQSEventResponse{}
	for _, record := range event.Records {
		body, err := json.Marshal(record)
		if err != nil {
			return nil, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, record.Body, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		request.Header.Set("Process", fmt.Sprint(os.Getpid()))
		if invocation, ok := lambdacontext.FromContext(ctx); ok {
			request.Header.Set("Invocation", invocation.AwsRequestID)
		}
		answered, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		answered.Body.Close()
		if answered.StatusCode != http.StatusOK {
			response.BatchItemFailures = append(response.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: record.MessageId})
		}
	}
	return response, nil
}
