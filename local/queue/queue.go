// Package queue delivers the messages of queues to functions, as Lambda's event source mappings do.
//
// Messages are received in the function's name, invoked with in batches, and deleted when the function
// has answered; those it names as failed, or all where the invocation failed, stay in the queue, come
// again after the queue's visibility timeout, and end among the dead letters. So a message is delivered
// at least once.
package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/template"
)

const (
	// defaultConcurrency is that of a mapping without one. Lambda begins with five and adds to them.
	defaultConcurrency = 10
	// maxReceived is SQS's bound for a call.
	maxReceived = 10
	// waitTime is how long a call waits for a message, and so how long it may delay the stack's end: a
	// call is not broken off, since a message in its answer would be lost until its visibility timeout.
	waitTime = time.Second
	// pause is the time between tries to receive that failed.
	pause = time.Second
	// drainTimeout is how long invocations under way may take when the stack stops.
	drainTimeout = 5 * time.Second
)

// Options say where the queues are.
type Options struct {
	Endpoint string    // of SQS, as functions reach it
	Log      io.Writer // gets what went wrong, a line at a time
}

// A Delivery is the event source mappings of a template, at work.
type Delivery struct {
	stop    chan struct{}
	stopped chan struct{} // closed when nothing is under way
}

// Start begins to deliver. Each mapping's queue must answer.
func Start(ctx context.Context, t *template.Template, host *lambda.Host, o Options) (*Delivery, error) {
	d := &Delivery{stop: make(chan struct{}), stopped: make(chan struct{})}
	var mappings []*mapping
	for _, source := range t.Sources {
		m := newMapping(t, source, host, o, d.stop)
		if _, err := m.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl:       &m.queue.URL,
			AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameVisibilityTimeout},
		}); err != nil {
			return nil, fmt.Errorf("deliver %s to %s: %w", m.queue.LogicalID, source.Function, err)
		}
		mappings = append(mappings, m)
	}
	var wg sync.WaitGroup
	for _, m := range mappings {
		wg.Go(m.run)
	}
	go func() {
		wg.Wait()
		close(d.stopped)
	}()
	return d, nil
}

// Stop receives no more and gives the invocations under way some time. What they leave undone comes again.
func (d *Delivery) Stop() {
	close(d.stop)
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	select {
	case <-d.stopped:
	case <-timeout.C:
	}
}

// A mapping delivers one queue to one function.
type mapping struct {
	template.EventSource
	queue  template.Queue
	region string
	client *sqs.Client
	host   *lambda.Host
	log    io.Writer
	slots  chan struct{} // as many as invocations may be under way
	stop   chan struct{}
}

func newMapping(t *template.Template, source template.EventSource, host *lambda.Host, o Options, stop chan struct{}) *mapping {
	m := &mapping{EventSource: source, region: t.Region, host: host, log: o.Log, stop: stop}
	for _, q := range t.Queues {
		if q.ARN == source.Queue {
			m.queue = q
		}
	}
	f, _ := t.Function(source.Function)
	m.client = sqs.New(sqs.Options{
		BaseEndpoint: &o.Endpoint,
		Region:       t.Region,
		Credentials:  credentials.NewStaticCredentialsProvider(lambda.AccessKeyID(f), "local", ""),
	})
	concurrency := source.MaxConcurrency
	if concurrency == 0 {
		concurrency = defaultConcurrency
	}
	m.slots = make(chan struct{}, min(concurrency, lambda.MaxProcesses))
	return m
}

// run receives only what can be invoked with at once, so that no message's visibility timeout passes
// while it waits here.
func (m *mapping) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for !m.stopping() {
		select {
		case m.slots <- struct{}{}:
		case <-m.stop:
			return
		}
		batch, err := m.gather()
		if err != nil {
			fmt.Fprintf(m.log, "queue: receive from %s for %s: %v\n", m.queue.LogicalID, m.Function, err)
		}
		if len(batch) > 0 {
			wg.Go(func() {
				defer func() { <-m.slots }()
				m.deliver(batch)
			})
			continue
		}
		<-m.slots
		if err != nil {
			m.rest()
		}
	}
}

func (m *mapping) stopping() bool {
	select {
	case <-m.stop:
		return true
	default:
		return false
	}
}

// rest keeps a queue that does not answer from being asked without end.
func (m *mapping) rest() {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-m.stop:
	case <-timer.C:
	}
}

// gather receives a batch: what is there, or, with a batching window, what comes in it after the first
// message.
func (m *mapping) gather() ([]types.Message, error) {
	batch, err := m.receive(m.BatchSize, waitTime)
	if err != nil || len(batch) == 0 || m.Window == 0 {
		return batch, err
	}
	for closes := time.Now().Add(m.Window); len(batch) < m.BatchSize && !m.stopping(); {
		left := time.Until(closes)
		if left <= 0 {
			break
		}
		more, err := m.receive(m.BatchSize-len(batch), min(left, waitTime))
		if err != nil {
			return batch, err
		}
		batch = append(batch, more...)
	}
	return batch, nil
}

func (m *mapping) receive(count int, wait time.Duration) ([]types.Message, error) {
	received, err := m.client.ReceiveMessage(context.Background(), &sqs.ReceiveMessageInput{
		QueueUrl:                    &m.queue.URL,
		MaxNumberOfMessages:         int32(min(count, maxReceived)),
		WaitTimeSeconds:             int32((wait + time.Second - 1) / time.Second),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		MessageAttributeNames:       []string{"All"},
	})
	if err != nil {
		return nil, err
	}
	return received.Messages, nil
}

func (m *mapping) deliver(batch []types.Message) {
	payload, err := json.Marshal(m.event(batch))
	if err != nil {
		fmt.Fprintf(m.log, "queue: %s: %v\n", m.Function, err)
		return
	}
	answer, err := m.host.Invoke(context.Background(), m.Function, payload)
	if err != nil {
		fmt.Fprintf(m.log, "queue: %d messages of %s come again in %s: %v\n", len(batch), m.queue.LogicalID, m.queue.VisibilityTimeout, err)
		return
	}
	if m.ReportsFailures {
		done, why := succeeded(batch, answer)
		if len(done) < len(batch) {
			fmt.Fprintf(m.log, "queue: %d of %d messages of %s come again in %s: %s %s\n",
				len(batch)-len(done), len(batch), m.queue.LogicalID, m.queue.VisibilityTimeout, m.Function, why)
		}
		batch = done
	}
	m.delete(batch)
}

// event is what Lambda makes of messages.
func (m *mapping) event(batch []types.Message) events.SQSEvent {
	event := events.SQSEvent{}
	for _, message := range batch {
		record := events.SQSMessage{
			MessageId:              aws.ToString(message.MessageId),
			ReceiptHandle:          aws.ToString(message.ReceiptHandle),
			Body:                   aws.ToString(message.Body),
			Md5OfBody:              aws.ToString(message.MD5OfBody),
			Md5OfMessageAttributes: aws.ToString(message.MD5OfMessageAttributes),
			Attributes:             message.Attributes,
			MessageAttributes:      map[string]events.SQSMessageAttribute{},
			EventSource:            "aws:sqs",
			EventSourceARN:         m.queue.ARN,
			AWSRegion:              m.region,
		}
		for name, a := range message.MessageAttributes {
			record.MessageAttributes[name] = events.SQSMessageAttribute{
				StringValue: a.StringValue, BinaryValue: a.BinaryValue, DataType: aws.ToString(a.DataType),
				StringListValues: []string{}, BinaryListValues: [][]byte{},
			}
		}
		event.Records = append(event.Records, record)
	}
	return event
}

// succeeded reads which messages of a batch are done with, and says why others are not. Like Lambda, it takes an answer that it
// cannot read, or that names a message which is not of the batch, for the failure of all.
func succeeded(batch []types.Message, answer []byte) (done []types.Message, why string) {
	var response *events.SQSEventResponse // null is an answer without failures
	if err := json.Unmarshal(answer, &response); err != nil {
		return nil, "answered no batch response: " + err.Error()
	}
	if response == nil {
		return batch, ""
	}
	failed := map[string]bool{}
	for _, f := range response.BatchItemFailures {
		failed[f.ItemIdentifier] = true
	}
	for _, message := range batch {
		if id := aws.ToString(message.MessageId); failed[id] {
			delete(failed, id)
		} else {
			done = append(done, message)
		}
	}
	if len(failed) > 0 {
		return nil, "named a message that is not of the batch"
	}
	return done, "reported their failure"
}

// delete deletes what is done with. What is not deleted comes again.
func (m *mapping) delete(batch []types.Message) {
	for len(batch) > 0 {
		part := batch[:min(len(batch), maxReceived)]
		batch = batch[len(part):]
		input := &sqs.DeleteMessageBatchInput{QueueUrl: &m.queue.URL}
		for i, message := range part {
			input.Entries = append(input.Entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), ReceiptHandle: message.ReceiptHandle})
		}
		answer, err := m.client.DeleteMessageBatch(context.Background(), input)
		if err == nil && len(answer.Failed) > 0 {
			err = fmt.Errorf("%d of %d: %s", len(answer.Failed), len(part), aws.ToString(answer.Failed[0].Message))
		}
		if err != nil {
			fmt.Fprintf(m.log, "queue: delete messages of %s: %v\n", m.queue.LogicalID, err)
		}
	}
}
