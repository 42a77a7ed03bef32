package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

// try asks the test function, and yields its answer whatever its status.
func (p *process) try(t *testing.T, path string, query ...string) string {
	t.Helper()
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		values.Set(query[i], query[i+1])
	}
	response, err := http.Get(p.URL + path + "?" + values.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A delivered is a message that the worker has; it waits for the status it is to get.
type delivered struct {
	events.SQSMessage
	process int
	decide  chan int
}

// receiver is where the worker posts its messages.
func receiver(t *testing.T) (url string, messages <-chan delivered) {
	t.Helper()
	arrived := make(chan delivered, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := delivered{decide: make(chan int, 1)}
		if err := json.NewDecoder(r.Body).Decode(&d.SQSMessage); err != nil {
			t.Error(err)
		}
		d.process, _ = strconv.Atoi(r.Header.Get("Process"))
		arrived <- d
		select {
		case status := <-d.decide:
			w.WriteHeader(status)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, arrived
}

func next(t *testing.T, messages <-chan delivered) delivered {
	t.Helper()
	select {
	case d := <-messages:
		return d
	case <-time.After(20 * time.Second):
		t.Fatal("no message was delivered")
		return delivered{}
	}
}

// A key encrypts after a restart what it did before, for those that the role allows.
func TestSecretsUnderAKey(t *testing.T) {
	f := newFront(t)
	p := f.start("BB_PARAMETERS=Services=yes")
	environment := p.get(t, "/environment")
	_, key, _ := strings.Cut(environment, "KEY_ARN=")
	key, _, _ = strings.Cut(key, "\n")
	if !strings.HasPrefix(key, "arn:aws:kms:us-east-1:123456789012:key/") || !strings.Contains(environment, "AWS_ENDPOINT_URL_KMS=http://127.0.0.1:") {
		t.Fatalf("the key is %q", key)
	}
	if !strings.Contains(environment, "AWS_ENDPOINT_URL_S3=http://127.0.0.1:") || !strings.Contains(environment, "BUCKET=bb-things\n") {
		t.Errorf("the bucket is not in %s", environment)
	}
	for _, named := range []string{key, key[strings.LastIndex(key, "/")+1:], "alias/secrets", strings.Replace(key, key[strings.LastIndex(key, ":")+1:], "alias/secrets", 1)} {
		if got := p.try(t, "/secret", "key", named, "for", "71", "by", "71"); got != "true "+key {
			t.Errorf("by %s: %s", named, got)
		}
	}
	for _, refused := range []struct{ key, for_, by, want string }{
		{key, "9", "9", "AccessDeniedException: the role of Function is not authorized to perform: kms:GenerateDataKey"},
		{key, "71", "72", "InvalidCiphertextException"},
		{key, "71", "9", "AccessDeniedException: the role of Function is not authorized to perform: kms:Decrypt"},
		{"alias/other", "71", "71", "NotFoundException"},
	} {
		if got := p.try(t, "/secret", "key", refused.key, "for", refused.for_, "by", refused.by); !strings.Contains(got, refused.want) {
			t.Errorf("%+v: %s", refused, got)
		}
	}
	p.terminate(t, syscall.SIGTERM)
	var unused map[string][]string
	if err := json.Unmarshal(f.read(permissionsName), &unused); err != nil {
		t.Fatal(err)
	}
	// What the role grants and the test did not use, and nothing that AWS's own services use.
	if got := fmt.Sprint(unused["Function"]); got != "[kms:EncryptionContext:user 8 of "+key+" sqs:SendMessage on arn:aws:sqs:us-east-1:123456789012:bb-Work]" {
		t.Errorf("unused: %s", got)
	}

	again := f.start("BB_PARAMETERS=Services=yes")
	if got := again.try(t, "/secret", "key", key, "for", "71", "by", "71"); got != "true "+key {
		t.Errorf("after a restart: %s", got)
	}
	again.terminate(t, syscall.SIGTERM)
	if left := f.descendants(); left != "" {
		t.Errorf("left running: %s", left)
	}
}

// A message is delivered until it is done with, and then never again; what fails twice is a dead letter.
func TestMessagesAreDeliveredUntilTheyAreDoneWith(t *testing.T) {
	f := newFront(t)
	p := f.start("BB_PARAMETERS=Services=yes")
	const queues = "https://sqs.us-east-1.amazonaws.com/123456789012/"
	url, messages := receiver(t)
	deadURL, dead := receiver(t)
	if got := p.try(t, "/send", "queue", queues+"bb-Dead", "message", deadURL); !strings.Contains(got, "AccessDenied") {
		t.Errorf("into a queue that the role does not name: %s", got)
	}
	if got := p.try(t, "/send", "queue", queues+"bb-None", "message", url); !strings.Contains(got, "NonExistentQueue") && !strings.Contains(got, "QueueDoesNotExist") {
		t.Errorf("into no queue: %s", got)
	}

	id := p.try(t, "/send", "queue", queues+"bb-Work", "message", url)
	first := next(t, messages)
	if first.MessageId != id || first.Body != url || first.Attributes["ApproximateReceiveCount"] != "1" || first.Md5OfBody == "" || first.ReceiptHandle == "" ||
		first.EventSource != "aws:sqs" || first.EventSourceARN != "arn:aws:sqs:us-east-1:123456789012:bb-Work" || first.AWSRegion != "us-east-1" {
		t.Errorf("the message is %+v", first.SQSMessage)
	}
	// Killed in the middle: the message comes again, to another process.
	if err := syscall.Kill(first.process, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := next(t, messages)
	if second.MessageId != id || second.Attributes["ApproximateReceiveCount"] != "2" || second.process == first.process {
		t.Errorf("after the kill: %+v by %d, first by %d", second.SQSMessage, second.process, first.process)
	}
	second.decide <- http.StatusOK

	// Of a batch, what is reported as failed comes again and nothing else.
	doomed := p.try(t, "/send", "queue", queues+"bb-Work", "message", url+"/doomed")
	fine := p.try(t, "/send", "queue", queues+"bb-Work", "message", url+"/fine")
	seen := map[string]int{}
	for range 3 {
		d := next(t, messages)
		seen[d.MessageId]++
		status := http.StatusOK
		if d.MessageId == doomed {
			status = http.StatusInternalServerError
		}
		d.decide <- status
	}
	if seen[doomed] != 2 || seen[fine] != 1 {
		t.Errorf("delivered %v, doomed is %s", seen, doomed)
	}
	// It has failed as often as the queue allows, which a further message shows: it would come with it.
	last := p.try(t, "/send", "queue", queues+"bb-Work", "message", url)
	d := next(t, messages)
	if d.MessageId != last {
		t.Errorf("after its last failure, %s comes again", d.MessageId)
	}
	d.decide <- http.StatusOK
	select {
	case d := <-dead:
		t.Errorf("a dead letter was delivered: %+v", d.SQSMessage)
	default:
	}
	p.terminate(t, syscall.SIGTERM)
	var unused map[string][]string
	if err := json.Unmarshal(f.read(permissionsName), &unused); err != nil || unused["Worker"] != nil {
		t.Errorf("unused of the worker: %v, %v", unused["Worker"], err)
	}
}

func TestTheStackEndsWithMiniStack(t *testing.T) {
	f := newFront(t)
	p := f.start("BB_PARAMETERS=Services=yes")
	list, err := exec.Command("ps", "-axo", "pid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	for line := range strings.Lines(string(list)) {
		if strings.Contains(line, f.state) && strings.HasSuffix(line, "-m ministack\n") && !strings.Contains(line, " sh -c ") {
			if _, err := fmt.Sscan(line, &pid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if pid == 0 {
		t.Fatalf("MiniStack is not to be seen in %s", list)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill MiniStack (process %d): %v", pid, err)
	}
	if err := p.Wait(); p.ProcessState.ExitCode() != 1 {
		t.Errorf("the stack: %v", err)
	}
	if left := f.descendants(); left != "" {
		t.Errorf("left running: %s", left)
	}
}

// invokeFunction calls Lambda's Invoke API as curl does.
func (p *process) invokeFunction(t *testing.T, function, event string, headers ...string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, p.Invoke+"/2015-03-31/functions/"+function+"/invocations", strings.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestAnybodyOnThisMachineMayInvoke(t *testing.T) {
	f := newFront(t)
	p := f.start()
	response := p.invokeFunction(t, "Function", `{"source":"aws.events"}`)
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), `aws.events`) {
		t.Errorf("%s: %s, %v", response.Status, body, err)
	}
	if response := p.invokeFunction(t, "Function", `{}`, "Origin", "https://evil.example"); response.StatusCode != http.StatusForbidden {
		t.Errorf("a page in a browser: %s", response.Status)
	}
	p.terminate(t, syscall.SIGTERM)
}
