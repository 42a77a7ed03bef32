// Package dynamodb runs DynamoDB Local, AWS's own stand-in, as a child process, and makes a
// template's tables in it.
//
// The jars are where make run puts them, in .tools/dynamodb of the checkout. The process ends with
// Stop, and also when this process ends without it, killed or not: a shell between the two reads a
// pipe that only this process holds open, and ends Java when the pipe closes.
package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 5 * time.Second
	mainClass    = "software.amazon.dynamodb.services.local.main.ServerRunner"
)

// watch runs its arguments and ends them at the end of its input: first with SIGTERM, so that the
// database file is closed, then by force.
const watch = `exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ cat <&3 >/dev/null; kill $child; sleep 3; kill -9 $child; } 2>/dev/null &
exec 3<&-
wait $child`

// Options say how DynamoDB Local is run.
type Options struct {
	Dir string    // of the database file; empty to keep everything in memory
	Log io.Writer // gets its output; none when nil
}

// A Server is a running DynamoDB Local.
type Server struct {
	URL     string
	command *exec.Cmd
	hold    io.Closer     // the pipe that keeps it alive
	dead    chan struct{} // closed when it has ended
	client  *dynamodb.Client
}

// Start runs DynamoDB Local on a free port and waits until it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	java, err := findJava(ctx)
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	jars, err := findJars()
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	s, err := run(java, jars, port, o)
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	if err := s.await(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	return s, nil
}

func run(java, jars string, port int, o Options) (*Server, error) {
	arguments := []string{"-c", watch, "dynamodb-local", java,
		"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
		"-cp", filepath.Join(jars, "*"), mainClass,
		"-sharedDb", "-disableTelemetry", "-port", strconv.Itoa(port)}
	if o.Dir == "" {
		arguments = append(arguments, "-inMemory")
	} else {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the database's folder: %w", err)
		}
		arguments = append(arguments, "-dbPath", o.Dir)
	}
	command := exec.Command("sh", arguments...)
	command.Stdout, command.Stderr = o.Log, o.Log
	command.WaitDelay = time.Second
	// Its own process group: the terminal's Ctrl-C is for the front, which stops the database last.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make its pipe: %w", err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("run sh: %w", err)
	}
	s := &Server{
		URL:     fmt.Sprintf("http://127.0.0.1:%d", port),
		command: command,
		hold:    hold,
		dead:    make(chan struct{}),
	}
	go func() {
		_ = command.Wait()
		close(s.dead)
	}()
	s.client = dynamodb.New(dynamodb.Options{
		BaseEndpoint: aws.String(s.URL),
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("LOCAL", "local", ""),
	})
	return s, nil
}

// Done is closed when the server has ended, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.dead }

// Client is a client of this server.
func (s *Server) Client() *dynamodb.Client { return s.client }

// Stop ends the server and waits for it.
func (s *Server) Stop() {
	_ = s.hold.Close()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-s.dead:
	case <-timeout.C:
	}
	// The group has the shell's watcher too, which would sleep on.
	_ = syscall.Kill(-s.command.Process.Pid, syscall.SIGKILL)
	<-s.dead
}

// await polls: Java tells nobody when it is ready.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if s.answers(ctx) {
			return nil
		}
		select {
		case <-poll.C:
		case <-s.dead:
			return errors.New("it ended before it answered")
		case <-ctx.Done():
			return fmt.Errorf("wait for its answer: %w", ctx.Err())
		}
	}
}

// answers tries the port first, which is cheap, then a call.
func (s *Server) answers(ctx context.Context) bool {
	connection, err := net.DialTimeout("tcp", s.URL[len("http://"):], time.Second)
	if err != nil {
		return false
	}
	_ = connection.Close()
	_, err = s.client.ListTables(ctx, &dynamodb.ListTablesInput{})
	return err == nil
}

// freePort finds a port that is free now; DynamoDB Local cannot choose one itself.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
