package queue

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/lambda/lambdatest"
	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
)

func TestMain(m *testing.M) { os.Exit(lambdatest.Main(m)) }

// A line is a queue with its dead letters, a worker that posts each message to the test, and the
// delivery between them.
type line struct {
	*testing.T
	work, dead template.Queue
	client     *sqs.Client
	url        string
	stop       func() // receives no more and waits for what is under way
	posted     chan post
	answers    chan int // the status of each post; a post waits for it
}

// A post is a message that the worker has, and the invocation that it came with.
type post struct {
	events.SQSMessage
	invocation string
}

// deliver starts a delivery whose mapping differs from the usual as given. A function may take as long as a
// message stays invisible.
func deliver(t *testing.T, timeout time.Duration, change func(*template.EventSource)) *line {
	t.Helper()
	s, err := ministack.Start(t.Context(), ministack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	l := &line{T: t, posted: make(chan post, 100), answers: make(chan int, 100)}
	l.dead = queue("Dead", "", timeout)
	l.work = queue("Work", l.dead.ARN, timeout)
	if err := s.CreateQueues(t.Context(), []template.Queue{l.work, l.dead}); err != nil {
		t.Fatal(err)
	}
	l.client = sqs.New(sqs.Options{BaseEndpoint: &s.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("LOCAL", "local", "")})
	source := template.EventSource{Function: "Worker", Queue: l.work.ARN, BatchSize: 10, ReportsFailures: true}
	if change != nil {
		change(&source)
	}
	worker := template.Function{LogicalID: "Worker", Name: "bb-Worker", Memory: 200, Timeout: timeout}
	host, err := lambda.NewHost([]template.Function{worker}, lambda.Options{Build: lambdatest.Build(t, "Worker"), Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Stop)
	l.listen()
	delivery, err := Start(t.Context(), &template.Template{
		Region: "us-east-1", Functions: []template.Function{worker}, Queues: []template.Queue{l.work, l.dead}, Sources: []template.EventSource{source},
	}, host, Options{Endpoint: s.URL, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	l.stop = sync.OnceFunc(delivery.Stop)
	t.Cleanup(l.stop)
	return l
}

func queue(name, deadLetters string, visibility time.Duration) template.Queue {
	q := template.Queue{
		LogicalID: name, Name: name, ARN: "arn:aws:sqs:us-east-1:123456789012:" + name, URL: "https://sqs.us-east-1.amazonaws.com/123456789012/" + name,
		VisibilityTimeout: visibility, Retention: time.Hour, DeadLetters: deadLetters,
	}
	if deadLetters != "" {
		q.MaxReceives = 2
	}
	return q
}

func (l *line) listen() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := post{invocation: r.Header.Get("Invocation")}
		if err := json.NewDecoder(r.Body).Decode(&p.SQSMessage); err != nil {
			l.Error(err)
		}
		l.posted <- p
		select {
		case status := <-l.answers:
			w.WriteHeader(status)
		case <-r.Context().Done():
		}
	}))
	l.Cleanup(server.Close)
	l.url = server.URL
}

func (l *line) send(paths ...string) {
	l.Helper()
	input := &sqs.SendMessageBatchInput{QueueUrl: &l.work.URL}
	for _, path := range paths {
		input.Entries = append(input.Entries, types.SendMessageBatchRequestEntry{Id: aws.String(path), MessageBody: aws.String(l.url + "/" + path),
			MessageAttributes: map[string]types.MessageAttributeValue{"path": {DataType: aws.String("String"), StringValue: aws.String(path)}}})
	}
	if _, err := l.client.SendMessageBatch(l.Context(), input); err != nil {
		l.Fatal(err)
	}
}

// next is the path of the next message that the worker has.
func (l *line) next() string {
	l.Helper()
	return *l.nextPost().MessageAttributes["path"].StringValue
}

func (l *line) nextPost() post {
	l.Helper()
	select {
	case p := <-l.posted:
		return p
	case <-time.After(20 * time.Second):
		l.Fatal("no message was delivered")
		return post{}
	}
}

// deadLetter waits for one, and yields its path.
func (l *line) deadLetter() string {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 20*time.Second)
	defer cancel()
	for {
		got, err := l.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &l.dead.URL, WaitTimeSeconds: 1})
		if err != nil {
			l.Fatal("no dead letter: ", err)
		}
		if len(got.Messages) > 0 {
			return strings.TrimPrefix(*got.Messages[0].Body, l.url+"/")
		}
	}
}

// left is how many messages the queue has, those under way included.
func (l *line) left() string {
	l.Helper()
	got, err := l.client.GetQueueAttributes(l.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &l.work.URL, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil {
		l.Fatal(err)
	}
	return got.Attributes["ApproximateNumberOfMessages"] + " and " + got.Attributes["ApproximateNumberOfMessagesNotVisible"]
}

func TestWhatFailsTooOftenIsADeadLetter(t *testing.T) {
	for name, answer := range map[string]int{
		"the function reports it":        http.StatusTeapot,
		"the function overruns its time": 0,
	} {
		t.Run(name, func(t *testing.T) {
			l := deliver(t, time.Second, nil)
			if answer != 0 {
				l.answers <- answer
				l.answers <- answer
			}
			l.send("doomed")
			for range 2 {
				if got := l.next(); got != "doomed" {
					t.Errorf("delivered %s", got)
				}
			}
			if got := l.deadLetter(); got != "doomed" {
				t.Errorf("the dead letter is %s", got)
			}
			l.stop()
			if got := l.left(); got != "0 and 0" {
				t.Errorf("messages left: %s", got)
			}
		})
	}
}

func TestWithoutReportsAnAnswerIsSuccess(t *testing.T) {
	l := deliver(t, time.Minute, func(s *template.EventSource) { s.ReportsFailures = false })
	l.send("any")
	l.next()
	l.answers <- http.StatusTeapot
	l.stop() // waits for the deletion
	if got := l.left(); got != "0 and 0" {
		t.Errorf("messages left: %s", got)
	}
}

func TestAWindowGathersABatch(t *testing.T) {
	l := deliver(t, time.Minute, func(s *template.EventSource) { s.BatchSize, s.Window, s.MaxConcurrency = 12, 300*time.Second, 2 })
	l.send("1", "2", "3", "4", "5", "6")
	l.send("7", "8", "9", "10", "11", "12")
	// The twelfth completes it, long before the window closes.
	invocations := map[string]int{}
	for range 12 {
		invocations[l.nextPost().invocation]++
		l.answers <- http.StatusOK
	}
	if len(invocations) != 1 {
		t.Errorf("messages by invocation: %v", invocations)
	}
}

func TestNoMoreAtOnceThanTheMappingAllows(t *testing.T) {
	l := deliver(t, time.Minute, func(s *template.EventSource) { s.BatchSize, s.MaxConcurrency = 1, 2 })
	l.send("a", "b", "c")
	first, second := l.next(), l.next()
	if first == second {
		t.Fatalf("%s twice", first)
	}
	// The third is not even received: while it waits, nothing counts against it.
	if got := l.left(); got != "1 and 2" {
		t.Errorf("messages there and under way: %s", got)
	}
	l.answers <- http.StatusOK
	third := l.next()
	if third == first || third == second {
		t.Errorf("%s, %s, then %s", first, second, third)
	}
	l.answers <- http.StatusOK
	l.answers <- http.StatusOK
}

func TestAQueueThatIsNotThereIsNamed(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	tmpl := &template.Template{Region: "us-east-1", Queues: []template.Queue{queue("Work", "", time.Second)}, Sources: []template.EventSource{{Function: "F", Queue: queue("Work", "", time.Second).ARN}}}
	if _, err := Start(t.Context(), tmpl, nil, Options{Endpoint: server.URL, Log: t.Output()}); err == nil || !strings.Contains(err.Error(), "deliver Work to F") {
		t.Errorf("got %v", err)
	}
}

// What an answer says of a batch of a and b.
func TestWhatIsDoneWith(t *testing.T) {
	batch := []types.Message{{MessageId: aws.String("a")}, {MessageId: aws.String("b")}}
	for answer, want := range map[string]string{
		`null`:                     "ab",
		`{}`:                       "ab",
		`{"batchItemFailures":[]}`: "ab",
		`{"batchItemFailures":[{"itemIdentifier":"a"}]}`:                        "b",
		`{"batchItemFailures":[{"itemIdentifier":"a"},{"itemIdentifier":"b"}]}`: "",
		`{"batchItemFailures":[{"itemIdentifier":"c"}]}`:                        "",
		`{"batchItemFailures":[{"itemIdentifier":""}]}`:                         "",
		`{"batchItemFailures":[{"id":"a"}]}`:                                    "",
		`"done"`:                                                                "",
		``:                                                                      "",
	} {
		done, _ := succeeded(batch, []byte(answer))
		var got string
		for _, m := range done {
			got += *m.MessageId
		}
		if got != want {
			t.Errorf("%s: %q is done with, want %q", answer, got, want)
		}
	}
}
