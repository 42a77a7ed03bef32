// Package child runs programs that end no later than this process, killed or not: a shell between the
// two reads a pipe that only this process holds open, and ends the program when the pipe closes.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"cjj365.cc/bb/local/checkout"
)

const stopTimeout = 5 * time.Second

// watch runs its arguments and ends them at the end of its input: first with SIGTERM, so that files are
// closed, then by force.
const watch = `exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ cat <&3; kill $child; sleep 3; kill -9 $child; } >/dev/null 2>&1 &
exec 3<&-
wait $child`

// A Program is what to run. It sees PATH and Env, and nothing else of this process's environment.
type Program struct {
	Path string
	Args []string
	Env  []string
	Log  io.Writer // gets its output; none when nil
}

// A Process is a program that was started.
type Process struct {
	name    string
	command *exec.Cmd
	hold    io.Closer     // the pipe that keeps it alive
	dead    chan struct{} // closed when it has ended
}

// Start runs a program.
func Start(p Program) (*Process, error) {
	name := filepath.Base(p.Path)
	command := exec.Command("sh", append([]string{"-c", watch, name, p.Path}, p.Args...)...)
	command.Env = append([]string{"PATH=" + os.Getenv("PATH")}, p.Env...)
	command.Stdout, command.Stderr = p.Log, p.Log
	command.WaitDelay = time.Second
	// Its own process group: the terminal's Ctrl-C is for the front, which stops its parts in order.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	c := &Process{name: name, command: command, hold: hold, dead: make(chan struct{})}
	go func() {
		_ = command.Wait() // its output says more than its status
		close(c.dead)
	}()
	return c, nil
}

// Done is closed when the program has ended, by itself or by Stop.
func (c *Process) Done() <-chan struct{} { return c.dead }

// Stop ends the program and waits for it.
func (c *Process) Stop() {
	_ = c.hold.Close()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-c.dead:
	case <-timeout.C:
	}
	// The group has the shell's watcher too, which would sleep on.
	_ = syscall.Kill(-c.command.Process.Pid, syscall.SIGKILL)
	<-c.dead
}

// Await asks again and again whether the program is ready: it tells nobody by itself.
func (c *Process) Await(ctx context.Context, ready func(context.Context) error) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-c.dead:
			return fmt.Errorf("%s ended before it answered", c.name)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", c.name, errors.Join(ctx.Err(), err))
		}
	}
}

// Tool finds a program that make fetched into .tools of the checkout.
func Tool(folder, name string) (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".tools", folder, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is missing, run: make run", name)
	}
	return path, nil
}

// FreePort finds a port of the loopback address that is free for UDP and TCP. It is below those that
// systems hand to connections, so that it can be kept: it will be free at the next start too.
func FreePort() (int, error) {
	for range 100 {
		if port := 20000 + rand.IntN(12000); Free(port) {
			return port, nil
		}
	}
	return 0, errors.New("find a free port: a hundred are taken")
}

// FreePorts gives each port that is 0 a free one. No two are the same.
func FreePorts(ports ...*int) error {
	for _, port := range ports {
		for *port == 0 {
			free, err := FreePort()
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(ports, func(other *int) bool { return *other == free }) {
				*port = free
			}
		}
	}
	return nil
}

// Free tells whether a port of the loopback address can be listened on.
func Free(port int) bool {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	stream, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer stream.Close()
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	return packets.Close() == nil
}
