package lambda_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cjj365.cc/bb/local/lambda"
)

// post makes a request of Lambda's Invoke API.
func post(t *testing.T, h *lambda.Host, path, event string, kind string) *http.Response {
	t.Helper()
	request := httptest.NewRequest(http.MethodPost, path, strings.NewReader(event))
	if kind != "" {
		request.Header.Set("X-Amz-Invocation-Type", kind)
	}
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	return answer.Result()
}

func TestTheInvokeAPI(t *testing.T) {
	f := echo
	f.Timeout = time.Second
	h := host(t, f, lambda.Options{})
	const functions = "/2015-03-31/functions/"
	echoed := `{"statusCode":200,"headers":{"Content-Type":"application/json"},"body":`
	for _, test := range []struct {
		name, path, event, kind string
		status                  int
		failed                  bool   // the function, not the call
		want                    string // in the body, or the error's type
	}{
		{"by its logical id", "Echo/invocations", `{"a":1}`, "", 200, false, echoed + `"{\"a\":1}"}`},
		{"by its name", "test-Echo/invocations", `{"a":1}`, "RequestResponse", 200, false, echoed},
		{"by its ARN", "arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Atest-Echo/invocations", `{}`, "", 200, false, echoed},
		{"an alias of it", "test-Echo/invocations?Qualifier=live", `{}`, "", 200, false, echoed},
		{"an alias in its ARN", "arn:aws:lambda:us-east-1:123456789012:function:test-Echo:live/invocations", `{}`, "", 200, false, echoed},
		{"without an event", "Echo/invocations", ``, "", 200, false, echoed + `"{}"}`},
		{"a dry run", "Echo/invocations", `{}`, "DryRun", 204, false, ""},
		{"nobody", "Other/invocations", `{}`, "", 404, false, "ResourceNotFoundException"},
		{"another call", "Echo", `{}`, "", 404, false, "UnknownOperationException"},
		{"an event that is no JSON", "Echo/invocations", `{`, "", 400, false, "InvalidRequestContentException"},
		{"an event too large", "Echo/invocations", `"` + strings.Repeat("x", 7<<20) + `"`, "", 413, false, "RequestTooLargeException"},
		{"an unknown type", "Echo/invocations", `{}`, "Later", 400, false, "InvalidParameterValueException"},
		{"an error", "Echo/invocations", string(event("error", "message", "as asked")), "", 200, true, `{"errorType":"errorString","errorMessage":"as asked"}`},
		{"an exit", "Echo/invocations", string(event("exit")), "", 200, true, "Runtime.ExitError"},
		{"a timeout", "Echo/invocations", string(event("hang")), "", 200, true, "Sandbox.Timedout"},
	} {
		t.Run(test.name, func(t *testing.T) {
			response := post(t, h, functions+test.path, test.event, test.kind)
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != test.status || !strings.Contains(string(body)+response.Header.Get("X-Amzn-Errortype"), test.want) ||
				(response.Header.Get("X-Amz-Function-Error") == "Unhandled") != test.failed {
				t.Errorf("%s %v %s", response.Status, response.Header, body)
			}
		})
	}
}

func TestAnAsynchronousInvocationIsNotWaitedFor(t *testing.T) {
	log := &locked{}
	h := host(t, echo, lambda.Options{Log: log})
	url, arrived, release := held(t)
	if response := post(t, h, "/2015-03-31/functions/Echo/invocations", string(event("call", "url", url)), "Event"); response.StatusCode != http.StatusAccepted {
		t.Errorf("got %s", response.Status)
	}
	<-arrived // it runs, and its answer is still held back
	release()
	h.InvokeAsync("Echo", event("error", "message", "as asked"))
	deadline := time.After(10 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !strings.Contains(log.String(), "lambda: invoke Echo: errorString: as asked") {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("the failure is not logged: %s", log.String())
		}
	}
}

func TestAFunctionKilledInAnInvocationFailsItAndRunsAgain(t *testing.T) {
	h := host(t, echo, lambda.Options{MaxProcesses: 1})
	pid, err := strconv.Atoi(body(t, h, event("pid")))
	if err != nil {
		t.Fatal(err)
	}
	url, arrived, _ := held(t)
	answered := make(chan *http.Response)
	go func() {
		answered <- post(t, h, "/2015-03-31/functions/Echo/invocations", string(event("call", "url", url)), "")
	}()
	<-arrived
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	response := <-answered
	if said, err := io.ReadAll(response.Body); err != nil || response.Header.Get("X-Amz-Function-Error") != "Unhandled" || !strings.Contains(string(said), "exited before it answered") {
		t.Errorf("the invocation: %s, %v", said, err)
	}
	if again := body(t, h, event("pid")); again == strconv.Itoa(pid) {
		t.Error("the killed process answers")
	}
}

// No path names a function that it does not spell.
func FuzzInvocationOf(f *testing.F) {
	f.Add("test-Echo", "live")
	f.Add(":", "")
	f.Add("arn:aws:lambda:us-east-1:123456789012:function:test-Echo:live", "")
	f.Fuzz(func(t *testing.T, name, qualifier string) {
		request := httptest.NewRequest(http.MethodPost, "/", nil)
		request.URL.Path = "/2015-03-31/functions/" + name + "/invocations"
		request.URL.RawQuery = "Qualifier=" + qualifier
		function, _, ok := lambda.InvocationOf(request)
		if ok && (function == "" || !strings.HasPrefix(name, function)) {
			t.Errorf("%q names %q", name, function)
		}
	})
}
