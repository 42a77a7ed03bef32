package deploy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const region = "eu-central-1"

// fetchTools makes the functions for this machine, and fetches AWS's CLI, MiniStack and the translator.
func fetchTools(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("Python is missing, which AWS's CLI and MiniStack need; install it (Debian: apt install python3 python3-venv, macOS: brew install python)")
	}
	if err := exec.Command("python3", "-c", "import venv, ensurepip").Run(); err != nil {
		t.Skip("Python's venv is missing, which AWS's CLI and MiniStack are installed with; install it (Debian: apt install python3-venv)")
	}
	command := exec.Command("make", "build", ".tools/ministack/.complete", ".tools/venv/.complete")
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, output)
	}
}

// A cloud is a running MiniStack, a stand-in for AWS that runs functions as processes of this machine; and
// AWS's CLI, by aws.py.
type cloud struct {
	url      string
	commands *json.Encoder
	answers  *json.Decoder
}

// startCloud runs MiniStack on loopback until the test ends.
func startCloud(t *testing.T) *cloud {
	t.Helper()
	for range 3 { // another program may take the port between finding and using it
		if c := tryCloud(t); c != nil {
			return c
		}
	}
	t.Fatal("MiniStack does not start")
	return nil
}

func tryCloud(t *testing.T) *cloud {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	_ = listener.Close() // for MiniStack to take
	folder := t.TempDir()
	url := "http://127.0.0.1:" + port
	common := []string{ // nothing of the caller's but PATH, so no credentials and no profile
		"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "TMPDIR=" + folder, "PYTHONDONTWRITEBYTECODE=1",
		"AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local", "AWS_REGION=" + region, "AWS_DEFAULT_REGION=" + region,
	}
	log := new(bytes.Buffer)
	// The child that reads ends the whole group, functions included, when the pipe closes: also when this
	// process is killed.
	command := exec.Command("sh", "-c", `
		exec 3<&0
		{ read -r _ <&3; kill -KILL 0; } &
		exec "$0" 3<&- </dev/null`, filepath.Join(root, ".tools/ministack/bin/ministack"))
	command.Env = append(common,
		"GATEWAY_PORT="+port, "BIND_HOST=127.0.0.1", "MINISTACK_HOST=127.0.0.1", "MINISTACK_REGION="+region,
		"S3_DATA_DIR="+filepath.Join(folder, "s3"), "STATE_DIR="+filepath.Join(folder, "state"),
		"IOT_MTLS_ENABLED=0", "SFTP_ENABLED=0", // these would listen on every address
		// MiniStack hands its environment to the functions. They take the endpoint of a service, not the general one.
		"AWS_ENDPOINT_URL_DYNAMODB="+url, "AWS_ENDPOINT_URL_SESV2="+url, "AWS_ENDPOINT_URL_KMS="+url, "AWS_ENDPOINT_URL_S3="+url,
	)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // its output says more than its status
		close(ended)
	}()
	t.Cleanup(func() {
		_ = hold.Close()
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // it may have ended by itself
		<-ended
		if t.Failed() {
			t.Logf("MiniStack:\n%s", log)
		}
	})
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for {
		if response, err := http.Get(url + "/_ministack/health"); err == nil {
			_ = response.Body.Close()
			c := &cloud{url: url}
			c.startCLI(t, command.Process.Pid, append(common, "AWS_ENDPOINT_URL="+url))
			return c
		}
		select {
		case <-ended:
			t.Logf("MiniStack ended:\n%s", log)
			return nil
		case <-limit.C:
			t.Fatal("MiniStack does not answer")
		case <-poll.C:
		}
	}
}

// startCLI starts AWS's CLI in MiniStack's process group, with which it ends.
func (c *cloud) startCLI(t *testing.T, group int, environment []string) {
	t.Helper()
	command := exec.Command(filepath.Join(root, ".tools/ministack/bin/python"), "aws.py")
	command.Env, command.Stderr = environment, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	// A deployment takes a fraction of it. What waits for an answer then reads the end of the file.
	limit := time.AfterFunc(3*time.Minute, func() { _ = command.Process.Kill() })
	t.Cleanup(func() {
		_ = input.Close() // ends it
		_ = command.Wait()
		limit.Stop()
	})
	c.commands, c.answers = json.NewEncoder(input), json.NewDecoder(output)
}

// aws runs AWS's CLI and gives what it prints.
func (c *cloud) aws(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := c.tryAWS(arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

func (c *cloud) tryAWS(arguments ...string) (string, error) {
	var answer struct {
		Status           int
		Output, Problems string
	}
	err := c.commands.Encode(arguments)
	if err == nil {
		err = c.answers.Decode(&answer)
	}
	if err == nil && answer.Status != 0 {
		err = fmt.Errorf("status %d\n%s%s", answer.Status, answer.Output, answer.Problems)
	}
	if err != nil {
		return "", fmt.Errorf("aws %s: %w", strings.Join(arguments, " "), err)
	}
	return strings.TrimSpace(answer.Output), nil
}

// ask runs AWS's CLI and reads the JSON that it prints.
func (c *cloud) ask(t *testing.T, answer any, arguments ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.aws(t, append(arguments, "--output", "json")...)), answer); err != nil {
		t.Fatalf("aws %s: %v", strings.Join(arguments, " "), err)
	}
}
