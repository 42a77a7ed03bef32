package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	samProgram = ".tools/venv/bin/sam"
	apiTimeout = 2 * time.Minute
)

// parameters are what the template is deployed with. The first user is made apart, so that the
// password stands on no command line.
func parameters() map[string]string {
	return map[string]string{"Stage": "local", "Arch": architecture(), "MailFrom": "bb@localhost.test"}
}

// A sam is the SAM CLI, with what it built in a folder.
type sam struct{ folder, socket string }

func (s sam) builtTemplate() string { return filepath.Join(s.folder, "functions", "template.yaml") }

// template is the one that sam local is given. The code of the functions is found relative to it.
func (s sam) template() string { return filepath.Join(s.folder, "functions", "local.yaml") }

// command is sam with nothing of the developer's AWS account: with keys it would ask AWS whose they are.
func (s sam) command(ctx context.Context, arguments ...string) *exec.Cmd {
	var values []string
	for name, value := range parameters() {
		values = append(values, name+"="+value)
	}
	command := exec.CommandContext(ctx, samProgram, append(arguments, "--parameter-overrides", strings.Join(values, " "))...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "AWS_") {
			command.Env = append(command.Env, variable)
		}
	}
	command.Env = append(command.Env, "AWS_DEFAULT_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull,
		"SAM_CLI_TELEMETRY=0", "DOCKER_HOST=unix://"+s.socket, "BB_GOARCH="+runtime.GOARCH)
	return command
}

func (s sam) build(ctx context.Context) error {
	command := s.command(ctx, "build", "--build-dir", filepath.Join(s.folder, "functions"))
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// local is a command of sam local.
func (s sam) local(ctx context.Context, arguments ...string) *exec.Cmd {
	return s.command(ctx, append([]string{"local"}, append(arguments,
		"--template", s.template(), "--skip-pull-image", "--invoke-image", image+":"+imageTag)...)...)
}

// invoke runs a function once and yields what it answered. sam's own status says nothing about that:
// it is 0 for a function that failed, and for one that never started.
func (s sam) invoke(ctx context.Context, function, eventFile string) ([]byte, error) {
	var answer, log bytes.Buffer
	command := s.local(ctx, "invoke", function, "--event", eventFile)
	command.Stdout, command.Stderr = &answer, &log
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("invoke %s: %w: %s", function, err, log.String())
	}
	if len(bytes.TrimSpace(answer.Bytes())) == 0 {
		return nil, fmt.Errorf("invoke %s: no answer: %s", function, log.String())
	}
	return answer.Bytes(), nil
}

// startAPI runs sam local start-api until stop.
func (s sam) startAPI(ctx context.Context) (url string, stop func(), err error) {
	address, err := freeAddress()
	if err != nil {
		return "", nil, err
	}
	host, port, _ := net.SplitHostPort(address)
	logFile := filepath.Join(s.folder, "start-api.log")
	log, err := os.Create(logFile)
	if err != nil {
		return "", nil, err
	}
	defer log.Close()
	command := s.local(context.WithoutCancel(ctx), "start-api", "--host", host, "--port", port, "--warm-containers", "EAGER", "--no-watch")
	command.Stdout, command.Stderr = log, log
	// Its own process group: the terminal's Ctrl-C is for this program.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // its log says more than its status
		close(ended)
	}()
	stop = func() {
		_ = command.Process.Signal(syscall.SIGTERM) // it removes its containers
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = command.Process.Kill()
			<-ended
		}
	}
	url = "http://" + address
	return url, stop, await(ctx, apiTimeout, ended, func(ctx context.Context) bool { return answers(ctx, url+"/health") }, func() error {
		return fmt.Errorf("it does not answer: %s", lastLine(logFile))
	})
}

func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// freeAddress is an address that is free now; sam cannot choose one itself.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
