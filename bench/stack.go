package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A stack is the local front with what it runs, started from a template.
type stack struct {
	URL      string `json:"url"`
	Email    string `json:"email"`
	Password string `json:"password"`

	FirstUser struct{ ACMEAccount int64 }
	ACME      struct{ Directory, ServerRoot string }
	DNS       struct {
		Resolver string
		HTTPReq  struct{ URL, User, Password string }
	}

	command *exec.Cmd
	output  *os.File
}

// startStack starts a front on a free port, with its tables in memory, and waits until it says that it runs.
func startStack(ctx context.Context, b *bench, template, build string) (*stack, error) {
	state, err := os.MkdirTemp(b.work, "state")
	if err != nil {
		return nil, err
	}
	s := &stack{command: exec.CommandContext(ctx, filepath.Join(b.root, "build", "local"), "-template", template, "-build", build)}
	s.command.Cancel = func() error { return s.command.Process.Signal(syscall.SIGTERM) }
	s.command.Env = append(os.Environ(), "BB_PORT=0", "BB_MEMORY=1", "BB_PARAMETERS=", "BB_STATE="+state)
	if s.output, err = os.Create(filepath.Join(state, "output")); err != nil {
		return nil, err
	}
	s.command.Stderr = s.output
	stdout, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.command.Start(); err != nil {
		return nil, fmt.Errorf("start the stack (make local builds it): %w", err)
	}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.stop()
		output, _ := os.ReadFile(s.output.Name())
		return nil, fmt.Errorf("the stack did not start: %s%s", said, output)
	}
	text, err := os.ReadFile(filepath.Join(state, "stack.json"))
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *stack) stop() {
	_ = s.command.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	_ = s.command.Wait()
	s.output.Close()
}

// post sends JSON with a cookie, if any, and gives status, cookie and body of the answer.
func (s *stack) post(ctx context.Context, path, cookie string, body any) (status int, setCookie string, answer []byte, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return 0, "", nil, err
	}
	request, err := http.NewRequestWithContext(ctx, "POST", s.URL+path, strings.NewReader(string(text)))
	if err != nil {
		return 0, "", nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if cookie != "" {
		request.Header.Set("Cookie", cookie)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header.Get("Set-Cookie"), answer, err
}

// login gives the cookie of a session of the first user.
func (s *stack) login(ctx context.Context) (string, error) {
	status, cookie, answer, err := s.post(ctx, "/auth/general", "", map[string]string{"action": "login", "email": s.Email, "password": s.Password})
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("log in: %d %s", status, answer)
	}
	return cookie, err
}

// apiKey logs the first user in and makes a key: its token.
func (s *stack) apiKey(ctx context.Context, permissions ...string) (string, error) {
	cookie, err := s.login(ctx)
	if err != nil {
		return "", err
	}
	status, _, answer, err := s.post(ctx, "/apiv1/users/1/apikeys", cookie,
		map[string]any{"name": "bench", "permissions": permissions, "expires_in_seconds": int(time.Hour / time.Second)})
	if err != nil {
		return "", err
	}
	var created struct{ Data struct{ Token string } }
	if err := json.Unmarshal(answer, &created); err != nil || status != http.StatusCreated {
		return "", fmt.Errorf("make a key: %d %s", status, answer)
	}
	return created.Data.Token, nil
}
