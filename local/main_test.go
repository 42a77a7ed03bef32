package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cjj365.cc/bb/local/lambda/lambdatest"
)

// The test binary is the program itself when it is asked to be.
func TestMain(m *testing.M) {
	if os.Getenv("BB_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(lambdatest.Main(m))
}

// A front is the program, run as a user runs it.
type front struct {
	t        *testing.T
	template string
	build    string
	state    string
}

func newFront(t *testing.T) *front {
	return &front{t: t, template: "testdata/stack.yaml", build: lambdatest.Build(t, "Function", "Worker"), state: filepath.Join(t.TempDir(), "state")}
}

// command runs the program on a free port, unless env says otherwise.
func (f *front) command(arguments []string, env ...string) *exec.Cmd {
	arguments = append([]string{"-template", f.template, "-build", f.build}, arguments...)
	c := exec.Command(os.Args[0], arguments...)
	c.Env = append(append(os.Environ(), "BB_TEST_MAIN=1", "BB_PORT=0", "BB_STATE="+f.state), env...)
	return c
}

// A process is a front that runs.
type process struct {
	*exec.Cmd
	running
	output *bytes.Buffer
}

// start runs the program until it is up. It is up when it has said how to log in.
func (f *front) start(env ...string) *process {
	f.t.Helper()
	c := f.command(nil, env...)
	var errors bytes.Buffer
	c.Stderr = &errors
	stdout, err := c.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Process.Kill() })
	p := &process{Cmd: c, output: &bytes.Buffer{}}
	for !strings.Contains(p.output.String(), "curl") {
		chunk := make([]byte, 4096)
		n, err := stdout.Read(chunk)
		if err != nil {
			f.t.Fatalf("%v: %s", err, &errors)
		}
		p.output.Write(chunk[:n])
	}
	if err := json.Unmarshal(f.read(stackName), &p.running); err != nil {
		f.t.Fatal(err)
	}
	return p
}

func (f *front) read(name string) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.state, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

// fails runs the program, which must say why it ends in one line.
func (f *front) fails(arguments []string, env ...string) string {
	f.t.Helper()
	c := f.command(arguments, env...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if c.ProcessState.ExitCode() != 1 || stdout.Len() > 0 {
		f.t.Fatalf("%v, standard output %s, standard error %s", err, &stdout, &stderr)
	}
	var said []string
	for line := range strings.Lines(stderr.String()) {
		if !strings.HasPrefix(line, "Function | ") {
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "bb: ") {
		f.t.Fatalf("standard error %q", said)
	}
	if _, err := os.Stat(filepath.Join(f.state, stackName)); err == nil {
		f.t.Error("stack.json is left")
	}
	return said[0]
}

func (p *process) get(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get(p.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%s: %s %s %v", path, response.Status, body, err)
	}
	return string(body)
}

func (p *process) terminate(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("after signal %v: %v", s, err)
	}
}

// descendants lists the processes of the stack: the functions and the database, by their folders.
func (f *front) descendants() string {
	f.t.Helper()
	list, err := exec.Command("ps", "-axo", "stat=,args=").Output()
	if err != nil {
		f.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(list)) {
		if !strings.HasPrefix(line, "Z") && !strings.Contains(line, "-template") &&
			(strings.Contains(line, f.build) || strings.Contains(line, f.state)) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

func TestTheStackRunsAndStops(t *testing.T) {
	f := newFront(t)
	p := f.start("BB_PARAMETERS=Tables=yes")
	if info, err := os.Stat(filepath.Join(f.state, stackName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("stack.json: %v, %v", info, err)
	}
	if p.PID != p.Process.Pid || p.Email != "admin@example.test" || len(p.Password) != 24 {
		t.Errorf("stack.json says %+v", p.running)
	}
	login := fmt.Sprintf(`curl -c cookies.txt -H 'Content-Type: application/json' -d '{"action":"login","email":"%s","password":"%s"}' %s/auth/general`,
		p.Email, p.Password, p.URL)
	for _, want := range []string{p.URL, p.Email, p.Password, login} {
		if !strings.Contains(p.output.String(), want) {
			t.Errorf("%q is not in %s", want, p.output)
		}
	}
	environment := p.get(t, "/environment")
	for _, want := range []string{"PUBLIC_URL=" + p.URL, "AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:", "AWS_ENDPOINT_URL_SESV2=http://127.0.0.1:"} {
		if !strings.Contains(environment, want) {
			t.Errorf("%s is not in the function's environment", want)
		}
	}
	if event := p.get(t, "/echo"); !strings.Contains(event, `"stage":"local"`) {
		t.Errorf("the event is %s", event)
	}

	// Neither a second stack nor a reset may touch the state of the one that runs.
	again := f.command(nil)
	if said, err := again.CombinedOutput(); err == nil || !strings.Contains(string(said), fmt.Sprintf("already running at %s (process %d)", p.URL, p.PID)) {
		t.Errorf("a second start: %v, %s", err, said)
	}
	if said, err := f.command([]string{"reset"}).CombinedOutput(); err == nil || !strings.Contains(string(said), "already running") {
		t.Errorf("a reset: %v, %s", err, said)
	}

	p.terminate(t, syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(f.state, stackName)); err == nil {
		t.Error("stack.json is left")
	}
	if left := f.descendants(); left != "" {
		t.Errorf("left running: %s", left)
	}

	second := f.start()
	if second.Password != p.Password {
		t.Error("the first user's password is not kept")
	}
	second.terminate(t, syscall.SIGINT)

	if said, err := f.command([]string{"reset"}).CombinedOutput(); err != nil {
		t.Errorf("reset: %v, %s", err, said)
	}
	if left, _ := os.ReadDir(f.state); len(left) != 1 || left[0].Name() != lockName {
		t.Errorf("after the reset: %v", left)
	}
}

func TestRequestsUnderWayFinish(t *testing.T) {
	f := newFront(t)
	p := f.start()
	arrived, gate := make(chan struct{}), make(chan struct{})
	held := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-gate
		fmt.Fprint(w, "finished")
	}))
	defer held.Close()
	answer := make(chan string, 1)
	go func() { answer <- p.get(t, "/call?url="+held.URL) }()
	<-arrived
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, strings.TrimPrefix(p.URL, "http://"))
	close(gate)
	if got := <-answer; got != "finished" {
		t.Errorf("got %q", got)
	}
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}

// awaitRefusal waits until nobody accepts connections any more.
func awaitRefusal(t *testing.T, address string) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		connection.Close()
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatal("the front still accepts")
		}
	}
}

func TestAStackThatCannotStartSaysWhy(t *testing.T) {
	f := newFront(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("Resources:\n  Topic:\n    Type: AWS::SNS::Topic\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		arguments []string
		env       string
		want      string
	}{
		{"the port is taken", nil, "BB_PORT=" + port, "port " + port + " is in use; set BB_PORT"},
		{"the port is none", nil, "BB_PORT=many", "BB_PORT"},
		{"there is no template", []string{"-template", "nowhere.yaml"}, "", "nowhere.yaml"},
		{"the template is broken", []string{"-template", broken}, "", "broken.yaml:2: "},
		{"nothing is built", []string{"-build", t.TempDir()}, "", "make build"},
		{"a parameter is not declared", nil, "BB_PARAMETERS=Nonsense=1", "Nonsense"},
		{"a parameter has a wrong value", nil, "BB_PARAMETERS=Tables=maybe", "parameter Tables must be one of no, yes"},
		{"a parameter has no value", nil, "BB_PARAMETERS=Tables", "BB_PARAMETERS must be"},
		{"a custom resource fails", nil, "BB_PARAMETERS=Answer=as-asked", "make Made: FAILED: as-asked"},
		{"a queue's function may not delete", nil, "BB_PARAMETERS=Services=unpermitted", "the role of Worker does not have permissions to call sqs:DeleteMessage"},
		{"an unknown command", []string{"dance"}, "", "dance"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f.t = t
			if said := f.fails(test.arguments, test.env); !strings.Contains(said, test.want) {
				t.Errorf("%q is not in %s", test.want, said)
			}
			if left := f.descendants(); left != "" {
				t.Errorf("left running: %s", left)
			}
		})
	}
	t.Run("there is no MiniStack", func(t *testing.T) {
		f.t = t
		checkout := t.TempDir()
		if err := os.WriteFile(filepath.Join(checkout, "go.mod"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		here, err := filepath.Abs("testdata/stack.yaml")
		if err != nil {
			t.Fatal(err)
		}
		t.Chdir(checkout)
		if said := f.fails([]string{"-template", here}, "BB_PARAMETERS=Services=yes"); !strings.Contains(said, "python3") {
			t.Error(said)
		}
	})
	t.Run("there is no Java", func(t *testing.T) {
		f.t = t
		said := f.fails(nil, "BB_PARAMETERS=Tables=yes", "PATH="+t.TempDir(), "JAVA_HOME=")
		if !strings.Contains(said, "install a Java runtime, version 17") {
			t.Error(said)
		}
	})
}

func TestResetRefusesAFolderThatIsNotAState(t *testing.T) {
	folder := t.TempDir()
	mine := filepath.Join(folder, "thesis.txt")
	if err := os.WriteFile(mine, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := reset(folder); err == nil || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
	if err := reset(filepath.Join(folder, "nowhere")); err != nil {
		t.Errorf("a folder that is not there: %v", err)
	}
}
