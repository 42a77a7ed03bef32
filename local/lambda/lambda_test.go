package lambda_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/lambda/lambdatest"
	"cjj365.cc/bb/local/template"
)

var echo = template.Function{
	LogicalID:   "Echo",
	Name:        "test-Echo",
	ARN:         "arn:aws:lambda:us-east-1:123456789012:function:test-Echo",
	Memory:      200,
	Timeout:     5 * time.Second,
	Environment: map[string]string{"STAGE": "local"},
}

func TestMain(m *testing.M) {
	if build := os.Getenv("BB_TEST_ORPHAN"); build != "" {
		orphan(build)
	}
	os.Exit(lambdatest.Main(m))
}

func host(t *testing.T, f template.Function, o lambda.Options) *lambda.Host {
	t.Helper()
	o.Build = lambdatest.Build(t, f.LogicalID)
	h, err := lambda.NewHost([]template.Function{f}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Stop)
	return h
}

func event(path string, query ...string) []byte {
	values := map[string]string{}
	for i := 0; i < len(query); i += 2 {
		values[query[i]] = query[i+1]
	}
	data, _ := json.Marshal(map[string]any{"path": "/" + path, "queryStringParameters": values})
	return data
}

// body calls the function and yields the body of its answer.
func body(t *testing.T, h *lambda.Host, payload []byte) string {
	t.Helper()
	answer, err := h.Invoke(t.Context(), "Echo", payload)
	if err != nil {
		t.Fatal(err)
	}
	var a struct{ Body string }
	if err := json.Unmarshal(answer, &a); err != nil {
		t.Fatal(err)
	}
	return a.Body
}

func TestAnIdleProcessIsUsedAgain(t *testing.T) {
	h := host(t, echo, lambda.Options{})
	first := body(t, h, event("pid"))
	for range 5 {
		if again := body(t, h, event("pid")); again != first {
			t.Fatalf("process %s, then %s", first, again)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("AWS_PROFILE", "mine")
	h := host(t, echo, lambda.Options{Env: map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:8000"}})
	got := map[string]string{}
	for line := range strings.SplitSeq(body(t, h, event("environment")), "\n") {
		name, value, _ := strings.Cut(line, "=")
		got[name] = value
	}
	for name, want := range map[string]string{
		"STAGE":                           "local",
		"AWS_ENDPOINT_URL_DYNAMODB":       "http://127.0.0.1:8000",
		"AWS_LAMBDA_FUNCTION_NAME":        "test-Echo",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "200",
		"AWS_LAMBDA_FUNCTION_VERSION":     "$LATEST",
		"AWS_REGION":                      "us-east-1",
		"AWS_DEFAULT_REGION":              "us-east-1",
		"AWS_ACCESS_KEY_ID":               "LOCALEcho",
		"AWS_EC2_METADATA_DISABLED":       "true",
		"_HANDLER":                        "bootstrap",
		"GOMEMLIMIT":                      "180MiB",
		"GOMAXPROCS":                      "1",
		"PATH":                            os.Getenv("PATH"),
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"HTTPS_PROXY", "AWS_PROFILE"} {
		if _, found := got[name]; found {
			t.Errorf("%s leaks into the function", name)
		}
	}
}

func TestFailures(t *testing.T) {
	f := echo
	f.Timeout = time.Second
	h := host(t, f, lambda.Options{})
	functionError := func(message string) func(error) bool {
		return func(err error) bool {
			var e *lambda.FunctionError
			return errors.As(err, &e) && e.Message == message
		}
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, test := range []struct {
		name    string
		payload []byte
		want    func(error) bool
	}{
		{"an error", event("error", "message", "Unauthorized"), functionError("Unauthorized")},
		{"a panic", event("panic"), functionError("as asked")},
		{"an exit", event("exit"), is(lambda.ErrCrashed)},
		{"a timeout", event("hang"), is(lambda.ErrTimeout)},
		{"too much sent", bytes.Repeat([]byte(" "), 7<<20), is(lambda.ErrRequestTooLarge)},
		{"too much answered", event("big"), is(lambda.ErrResponseTooLarge)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := h.Invoke(t.Context(), "Echo", test.payload); !test.want(err) {
				t.Fatalf("got %v", err)
			}
			// Whatever happened to the process, the next caller does not feel it.
			body(t, h, event("pid"))
		})
	}
}

func TestAFunctionThatFailsToInitialise(t *testing.T) {
	f := echo
	f.Environment = map[string]string{"FAIL_INIT": "1"}
	h := host(t, f, lambda.Options{})
	if _, err := h.Invoke(t.Context(), "Echo", event("pid")); !errors.Is(err, lambda.ErrCrashed) {
		t.Fatalf("got %v", err)
	}
}

func TestAMissingBootstrapIsAnError(t *testing.T) {
	if _, err := lambda.NewHost([]template.Function{echo}, lambda.Options{Build: t.TempDir()}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

// A server whose answers the test holds back; arrived gets one value for each call.
func held(t *testing.T) (url string, arrived chan struct{}, release func()) {
	arrived, gate := make(chan struct{}, 100), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-gate
		fmt.Fprint(w, "released")
	}))
	t.Cleanup(server.Close)
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	return server.URL, arrived, release
}

func TestMoreProcessesUnderLoadUpToTheLimit(t *testing.T) {
	h := host(t, echo, lambda.Options{MaxProcesses: 2})
	url, arrived, release := held(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if got := body(t, h, event("call", "url", url)); got != "released" {
				t.Errorf("got %q", got)
			}
		})
	}
	<-arrived
	<-arrived
	// A third waits until its deadline, since both processes are held.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Invoke(ctx, "Echo", event("pid")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	release()
	wg.Wait()
	body(t, h, event("pid"))
}

func TestAnAbandonedInvocationGoesOn(t *testing.T) {
	h := host(t, echo, lambda.Options{MaxProcesses: 1})
	pid := body(t, h, event("pid"))
	url, arrived, release := held(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := h.Invoke(ctx, "Echo", event("call", "url", url)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	release()
	if again := body(t, h, event("pid")); again != pid {
		t.Errorf("process %s was replaced by %s", pid, again)
	}
}

func TestOutputIsPrefixed(t *testing.T) {
	var log locked
	h := host(t, echo, lambda.Options{Log: &log})
	body(t, h, event("print", "text", "one\ntwo"))
	h.Stop()
	if got := log.String(); got != "Echo | one\nEcho | two\n" {
		t.Errorf("got %q", got)
	}
}

type locked struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

func TestStopEndsEveryProcess(t *testing.T) {
	h := host(t, echo, lambda.Options{})
	pid, _ := strconv.Atoi(body(t, h, event("pid")))
	h.Stop()
	if !gone(pid) {
		t.Errorf("process %d is left", pid)
	}
	if _, err := h.Invoke(t.Context(), "Echo", event("pid")); !errors.Is(err, lambda.ErrStopped) {
		t.Errorf("got %v", err)
	}
}

// orphan runs a function, tells its process id and waits to be killed.
func orphan(build string) {
	h, err := lambda.NewHost([]template.Function{echo}, lambda.Options{Build: build})
	if err != nil {
		panic(err)
	}
	answer, err := h.Invoke(context.Background(), "Echo", event("pid"))
	fmt.Println(string(answer), err)
	select {}
}

func TestFunctionsDoNotOutliveAKilledHost(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "BB_TEST_ORPHAN="+lambdatest.Build(t, "Echo"))
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var answer struct{ Body string }
	if err := json.NewDecoder(output).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(answer.Body)
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	deadline := time.After(5 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !gone(pid) {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("process %d outlives its host", pid)
		}
	}
}

// gone tells whether a process has ended; a zombie, which nobody has waited for yet, has.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err != nil || strings.HasPrefix(strings.TrimSpace(string(state)), "Z")
}
