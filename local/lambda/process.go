package lambda

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// An invocation is one event on its way through a process.
type invocation struct {
	id      string
	payload []byte
	taken   atomic.Bool // handed to the runtime
	done    chan result // has room for the one result
}

type result struct {
	answer []byte
	err    error
}

// A process is an execution environment. It has at most one invocation, in queue until it is taken.
type process struct {
	function *function
	command  *exec.Cmd
	api      *http.Server // the Runtime API
	queue    chan *invocation
	current  atomic.Pointer[invocation]
	ready    chan struct{} // closed when the runtime asks for its first invocation
	dead     chan struct{} // closed when the process has been waited for
	readied  sync.Once
	initErr  atomic.Pointer[FunctionError]
}

func start(f *function) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the Runtime API: %w", err)
	}
	p := &process{
		function: f,
		command:  exec.Command(f.bootstrap),
		queue:    make(chan *invocation, 1),
		ready:    make(chan struct{}),
		dead:     make(chan struct{}),
	}
	p.api = &http.Server{Handler: p}
	output := f.log.prefixed(f.LogicalID)
	c := p.command
	c.Env = append(f.env, "AWS_LAMBDA_RUNTIME_API="+listener.Addr().String())
	c.Dir = f.folder()
	c.Stdout, c.Stderr = output, output
	// Its own process group: the terminal's Ctrl-C is for the front, which ends its children in order.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild may hold the output open after the process is gone.
	c.WaitDelay = time.Second
	if err := c.Start(); err != nil {
		listener.Close()
		return nil, fmt.Errorf("start %s: %w", f.bootstrap, err)
	}
	go p.api.Serve(listener)
	go func() {
		c.Wait()
		p.api.Close()
		output.flush()
		close(p.dead)
	}()
	return p, nil
}

// initialised waits for the first request of the runtime, as Lambda does, for ten seconds at most.
func (p *process) initialised(ctx context.Context) error {
	timeout := time.NewTimer(initTimeout)
	defer timeout.Stop()
	select {
	case <-p.ready:
		return nil
	case <-p.dead:
		if e := p.initErr.Load(); e != nil {
			return fmt.Errorf("initialise: %w", e)
		}
		return fmt.Errorf("initialise: %w", ErrCrashed)
	case <-timeout.C:
		return fmt.Errorf("initialise: %w after %s", ErrTimeout, initTimeout)
	case <-ctx.Done():
		return fmt.Errorf("initialise: %w", ctx.Err())
	}
}

func (p *process) isDead() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

// kill ends the process at once and waits for it.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.dead
}

// terminate asks the process to end, and ends it a second later.
func (p *process) terminate() {
	p.signal(syscall.SIGTERM)
	second := time.NewTimer(time.Second)
	defer second.Stop()
	select {
	case <-p.dead:
	case <-second.C:
		p.kill()
	}
}

// signal reaches the process group. It fails when the group is gone, which is what is wanted.
func (p *process) signal(s syscall.Signal) {
	_ = syscall.Kill(-p.command.Process.Pid, s)
}
