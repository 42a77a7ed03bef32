package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	engineTimeout = 60 * time.Second
	image         = "bb-lambda"
	imageTag      = "stand-in"
	imageLabel    = "bb.emulator"
)

// An engine is a container engine with Docker's API, at a socket of this machine.
type engine struct {
	socket string
	client *http.Client
	daemon *exec.Cmd     // nil when it ran already
	ended  chan struct{} // closed when the daemon has
}

// architecture is this machine's, in the words of Lambda.
func architecture() string {
	if runtime.GOARCH == "arm64" {
		return "arm64"
	}
	return "x86_64"
}

// openEngine finds an engine that answers, or starts one.
func openEngine(ctx context.Context, logFile string) (*engine, error) {
	home, _ := os.UserHomeDir()
	sockets := []string{"/var/run/docker.sock", filepath.Join(home, ".docker/run/docker.sock")}
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		socket, local := strings.CutPrefix(host, "unix://")
		if !local {
			return nil, fmt.Errorf("%w: the containers must reach this machine, and DOCKER_HOST is no socket of it", errNotRun)
		}
		sockets = []string{socket}
	}
	for _, socket := range sockets {
		if e := newEngine(socket); e.answers(ctx) {
			return e, nil
		}
	}
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		return nil, fmt.Errorf("%w: no container engine answers at %s; only root on Linux can start one", errNotRun, strings.Join(sockets, " or "))
	}
	e := newEngine(sockets[0])
	if err := e.start(ctx, logFile); err != nil {
		e.stop()
		return nil, fmt.Errorf("%w: no container engine answers, and %w", errNotRun, err)
	}
	return e, nil
}

func newEngine(socket string) *engine {
	return &engine{socket: socket, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (e *engine) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return e.call(ctx, http.MethodGet, "/_ping", nil, nil) == nil
}

// start runs dockerd, installing it first where it is missing.
func (e *engine) start(ctx context.Context, logFile string) error {
	if _, err := exec.LookPath("dockerd"); err != nil {
		if err := install(ctx, "docker.io", "iptables"); err != nil {
			return err
		}
	}
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	e.daemon = exec.Command("dockerd", "--host=unix://"+e.socket)
	e.daemon.Stdout, e.daemon.Stderr = log, log
	// Its own process group: the terminal's Ctrl-C is for this program, which stops the engine last.
	e.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.daemon.Start(); err != nil {
		e.daemon = nil
		return err
	}
	e.ended = make(chan struct{})
	go func() {
		_ = e.daemon.Wait() // its log says more than its status
		close(e.ended)
	}()
	return await(ctx, engineTimeout, e.ended, e.answers, func() error {
		return fmt.Errorf("dockerd does not start: %s", lastLine(logFile))
	})
}

// install has apt-get fetch packages, and the lists of packages if it must.
func install(ctx context.Context, packages ...string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("there is neither dockerd nor an apt-get to install it with")
	}
	fmt.Println("sam-test: installing", strings.Join(packages, " "))
	var output []byte
	var err error
	for _, update := range []bool{false, true} {
		if update {
			_ = exec.CommandContext(ctx, "apt-get", "update", "-q").Run() // the next line says what is wrong
		}
		command := exec.CommandContext(ctx, "apt-get", append([]string{"install", "-y", "-q", "--no-install-recommends"}, packages...)...)
		command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err = command.CombinedOutput(); err == nil {
			return nil
		}
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return fmt.Errorf("it cannot be installed: %s", lines[len(lines)-1])
}

// stop ends the engine if it was started here.
func (e *engine) stop() {
	if e.daemon == nil {
		return
	}
	_ = e.daemon.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-e.ended:
	case <-time.After(30 * time.Second):
		_ = e.daemon.Process.Kill()
		<-e.ended
	}
}

// call makes a request of the engine's API and reads its JSON into answer, if there is one to read.
func (e *engine) call(ctx context.Context, method, path string, body io.Reader, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return err
	}
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	// An import that fails says so in its answer of 200.
	if response.StatusCode >= 300 || bytes.Contains(text, []byte(`"errorDetail"`)) {
		return fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// hostAddress is the address of this machine on which to listen for containers, and their name for it.
func (e *engine) hostAddress(ctx context.Context) (listen, name string, err error) {
	if runtime.GOOS != "linux" { // the containers' machine is a virtual one, which forwards
		return "127.0.0.1", "host.docker.internal", nil
	}
	var network struct{ Options map[string]string }
	if err := e.call(ctx, http.MethodGet, "/networks/bridge", nil, &network); err != nil {
		return "", "", err
	}
	bridge := network.Options["com.docker.network.bridge.name"]
	device, err := net.InterfaceByName(bridge)
	if err != nil {
		return "", "", fmt.Errorf("%w: the engine's bridge %q is not on this machine: %w", errNotRun, bridge, err)
	}
	addresses, err := device.Addrs()
	if err != nil {
		return "", "", err
	}
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok && network.IP.To4() != nil {
			return network.IP.String(), network.IP.String(), nil
		}
	}
	return "", "", fmt.Errorf("%w: the engine's bridge %s has no address", errNotRun, bridge)
}

// removeContainers removes those that run what is in a folder. sam local removes its own when it is
// told to end, in most cases.
func (e *engine) removeContainers(ctx context.Context, folder string) error {
	var containers []struct {
		ID     string `json:"Id"`
		Mounts []struct{ Source string }
	}
	if err := e.call(ctx, http.MethodGet, "/containers/json?all=1", nil, &containers); err != nil {
		return err
	}
	var failures []error
	for _, c := range containers {
		for _, m := range c.Mounts {
			if strings.HasPrefix(m.Source, folder+"/") {
				failures = append(failures, e.call(ctx, http.MethodDelete, "/containers/"+c.ID+"?force=1", nil, nil))
				break
			}
		}
	}
	return errors.Join(failures...)
}

// findEmulator finds the runtime interface emulator that sam brings.
func findEmulator() (string, error) {
	pattern := ".tools/venv/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-" + architecture()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("there is no %s", pattern)
	}
	return found[0], nil
}

// makeImage imports an image that holds the emulator alone, where sam expects it, under the two names
// that sam local looks for when it is told --invoke-image.
func (e *engine) makeImage(ctx context.Context, emulator string) error {
	program, err := os.ReadFile(emulator)
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(program))
	rapid := "rapid-" + architecture()
	var present struct {
		Config struct{ Labels map[string]string }
	}
	if err := e.call(ctx, http.MethodGet, "/images/"+image+":"+rapid+"/json", nil, &present); err == nil && present.Config.Labels[imageLabel] == digest {
		return nil
	}
	query := url.Values{
		"fromSrc": {"-"}, "repo": {image}, "tag": {imageTag},
		"changes": {"ENV LAMBDA_TASK_ROOT=/var/task LAMBDA_RUNTIME_DIR=/var/runtime PATH=/bin", "WORKDIR /var/task", "LABEL " + imageLabel + "=" + digest},
	}
	files, err := imageFiles(program)
	if err != nil {
		return err
	}
	if err := e.call(ctx, http.MethodPost, "/images/create?"+query.Encode(), files, nil); err != nil {
		return err
	}
	return e.call(ctx, http.MethodPost, "/images/"+image+":"+imageTag+"/tag?repo="+image+"&tag="+rapid, nil, nil)
}

func imageFiles(emulator []byte) (io.Reader, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: "var/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "var/task/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "var/rapid/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "var/rapid/aws-lambda-rie", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(emulator))},
	} {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(emulator); err != nil {
		return nil, err
	}
	return &b, w.Close()
}

// await polls until something is ready. It gives up, with what failed says, when the process behind it
// has ended or the time is over.
func await(ctx context.Context, limit time.Duration, ended <-chan struct{}, ready func(context.Context) bool, failed func() error) error {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for !ready(ctx) {
		select {
		case <-poll.C:
		case <-ended:
			return failed()
		case <-timeout.C:
			return failed()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// lastLine is where a log says what went wrong.
func lastLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}
