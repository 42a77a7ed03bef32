// Package e2e holds stories through the whole stack: the built functions behind the local front, real
// HTTP, DynamoDB Local. The scripts in scripts/ use curl and jq, as users do.
//
// Tests share one stack that they start. BB_E2E_STACK names the stack.json of another to use instead.
package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stack is a running stack, as its stack.json tells.
type stack struct {
	URL      string `json:"url"`
	Email    string `json:"email"`
	Password string `json:"password"`
	PID      int    `json:"pid"`
	Gateway  string `json:"gateway"`  // empty for local/gateway
	Invoke   string `json:"invoke"`   // Lambda's Invoke API
	Services string `json:"services"` // MiniStack

	FirstUser struct{ User, ACMEAccount, DNSProvider int64 }
	ACME      struct {
		Directory, Management, Root, ServerRoot string
		HTTP01                                  int
	}
	DNS struct {
		Challtestsrv string
		HTTPReq      struct{ URL, User, Password string }
		Knot         *struct{ Address string } // nil where it is not installed
	}

	state   string
	process *exec.Cmd
	ended   chan struct{} // closed when the process has
	logs    *safeBuffer
}

// safeBuffer collects the output of a process while tests read it.
type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

var shared *stack

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if file := os.Getenv("BB_E2E_STACK"); file != "" {
			shared, err = readStack(file)
		} else {
			if err = build(); err == nil {
				var state string
				if state, err = os.MkdirTemp("", "bb-e2e"); err == nil {
					defer os.RemoveAll(state)
					shared, err = start(state, "BB_MEMORY=1")
				}
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
		failed := m.Run()
		shared.stop()
		if failed == 0 && shared.process != nil && flag.Lookup("test.run").Value.String() == "" {
			failed = max(unusedPermissions(), secretsLogged())
		}
		return failed
	}())
}

// unusedPermissions fails a whole run that left something of the functions' roles unused: it is either
// not needed or not tested.
func unusedPermissions() int {
	text, err := os.ReadFile(filepath.Join(shared.state, "permissions.json"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	var unused map[string][]string
	if err := json.Unmarshal(text, &unused); err != nil || len(unused) > 0 {
		fmt.Fprintf(os.Stderr, "e2e: permissions granted and never used: %s %v\n", text, err)
		return 1
	}
	return 0
}

// build makes what make run would make.
func build() error {
	command := exec.Command("make", "build", "local", ".tools/dynamodb/.complete", ".tools/ministack/.complete", ".tools/pebble/.complete")
	command.Dir = ".."
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("make build: %w\n%s", err, output)
	}
	return nil
}

func readStack(file string) (*stack, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &stack{state: filepath.Dir(file), logs: new(safeBuffer)}
	return s, json.Unmarshal(text, s)
}

// start runs a stack with its state in a folder, on a free port.
func start(state string, environment ...string) (*stack, error) {
	return startTemplate("../template.yaml", state, environment...)
}

// startTemplate runs the stack of another template.
func startTemplate(template, state string, environment ...string) (*stack, error) {
	logs := new(safeBuffer)
	command := exec.Command("../build/local", "-template", template, "-build", "../build")
	command.Env = append(append(os.Environ(), "BB_PORT=0", "BB_STATE="+state), environment...)
	command.Stdout, command.Stderr = logs, logs
	if err := command.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // its output says more than its status
		close(ended)
	}()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		if s, err := readStack(filepath.Join(state, "stack.json")); err == nil {
			s.process, s.ended, s.logs = command, ended, logs
			return s, nil
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("the stack did not start: %s", logs)
		case <-limit.C:
			_ = command.Process.Kill() // it may have ended just now
			return nil, fmt.Errorf("the stack did not start in time: %s", logs)
		case <-poll.C:
		}
	}
}

// stop ends a stack that start began and waits for it.
func (s *stack) stop() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	<-s.ended
}

// reply is a response, its envelope read.
type reply struct {
	Status int
	Header http.Header
	Body   []byte
	Data   json.RawMessage `json:"data"`
	Error  struct {
		Code   int            `json:"code"`
		What   string         `json:"what"`
		Key    string         `json:"key"`
		Params map[string]any `json:"params"`
	} `json:"error"`
}

var client = &http.Client{
	Timeout:       40 * time.Second,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// call makes a request; headers are "Name: value".
func (s *stack) call(method, path, body string, headers ...string) (reply, error) {
	request, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Add(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	r := reply{Status: response.StatusCode, Header: response.Header}
	if r.Body, err = io.ReadAll(response.Body); err != nil {
		return r, err
	}
	if len(r.Body) > 0 && strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
		err = json.Unmarshal(r.Body, &r)
	}
	return r, err
}

func (s *stack) mustCall(t testing.TB, method, path, body string, headers ...string) reply {
	t.Helper()
	r, err := s.call(method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// login gives the Cookie header of a new session of the first user.
func (s *stack) login(t testing.TB) string {
	t.Helper()
	body, err := json.Marshal(map[string]string{"action": "login", "email": s.Email, "password": s.Password})
	if err != nil {
		t.Fatal(err)
	}
	r := s.mustCall(t, "POST", "/auth/general", string(body))
	if r.Status != http.StatusOK {
		t.Fatalf("login: %d %s", r.Status, r.Body)
	}
	return "Cookie: " + r.Header.Get("Set-Cookie")
}

// key makes an API key of the first user and gives its id and token.
func (s *stack) key(t testing.TB, credential, body string) (int64, string) {
	t.Helper()
	r := s.mustCall(t, "POST", "/apiv1/users/1/apikeys", body, credential)
	var k struct {
		ID    int64  `json:"id"`
		Token string `json:"token"`
	}
	if err := json.Unmarshal(r.Data, &k); err != nil || r.Status != http.StatusCreated {
		t.Fatalf("create key: %d %s", r.Status, r.Body)
	}
	return k.ID, k.Token
}

var sixDigits = regexp.MustCompile(`(?m)^ +([0-9]{6})\r?$`)

// newestCode finds the code in the newest message to an address, in the outgoing mail of the stack: a file
// for each message, named by time.
func (s *stack) newestCode(to string) (string, error) {
	files, err := filepath.Glob(filepath.Join(s.state, "mail", "*"))
	if err != nil {
		return "", err
	}
	for _, file := range slices.Backward(files) {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if code := sixDigits.FindSubmatch(text); code != nil && strings.Contains(string(text), "\nTo: <"+to+">") {
			return string(code[1]), nil
		}
	}
	return "", fmt.Errorf("no code was mailed to %s", to)
}
