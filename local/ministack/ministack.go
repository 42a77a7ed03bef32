// Package ministack runs MiniStack, a stand-in for AWS in one Python process, for KMS, SQS and S3, and makes
// a template's keys, queues and buckets in it.
//
// The program is where make puts it, in .tools/ministack of the checkout. The process ends with Stop, and
// also when this process ends without it (package child).
//
// MiniStack writes what it has only when it is asked to end; killed, it keeps what it had at its start.
// A lost key would make every secret under it unreadable, so CreateKeys has it restarted before a new key
// is told to anybody: from then on the key is in a file. Messages that came after the start are lost when
// MiniStack is killed, and those that were there may come again; so are keys that functions made. Objects are
// in files at once.
//
// The folder holds: keys.json (what KMS called the template's keys), s3 (objects), and what MiniStack keeps.
package ministack

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"cjj365.cc/bb/local/child"
)

const (
	startTimeout = 60 * time.Second
	region       = "us-east-1"
	account      = "123456789012"
)

// Options say how MiniStack is run.
type Options struct {
	Dir string    // of what it keeps; empty to keep nothing
	Log io.Writer // gets its output; none when nil
}

// A Server is a running MiniStack.
type Server struct {
	URL     string
	options Options
	scratch string // folder for its other files
	process *child.Process
	kms     *kms.Client
	sqs     *sqs.Client
	s3      *s3.Client
}

// Start runs MiniStack on a free port and waits until it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	scratch, err := os.MkdirTemp("", "bb-ministack")
	if err != nil {
		return nil, fmt.Errorf("start MiniStack: %w", err)
	}
	s := &Server{options: o, scratch: scratch}
	if err := s.start(ctx); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start MiniStack: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	python, err := child.Tool("ministack", "bin/python")
	if err != nil {
		return fmt.Errorf("%w (it needs python3 with venv; Debian: apt install python3-venv)", err)
	}
	if s.options.Dir != "" {
		if err := os.MkdirAll(s.options.Dir, 0o700); err != nil {
			return fmt.Errorf("make its folder: %w", err)
		}
	}
	port, err := child.FreePort()
	if err != nil {
		return err
	}
	s.process, err = child.Start(child.Program{
		Path: python,
		// Python ignores an option of a name that it does not know; the list of processes tells by it whose
		// this one is.
		Args: []string{"-X", "bb=" + cmp.Or(s.options.Dir, s.scratch), "-m", "ministack"},
		Env:  s.environment(port),
		Log:  s.options.Log,
	})
	if err != nil {
		return err
	}
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	owner := credentials.NewStaticCredentialsProvider("LOCAL", "local", "")
	s.kms = kms.New(kms.Options{BaseEndpoint: aws.String(s.URL), Region: region, Credentials: owner})
	s.sqs = sqs.New(sqs.Options{BaseEndpoint: aws.String(s.URL), Region: region, Credentials: owner})
	s.s3 = s3.New(s3.Options{BaseEndpoint: aws.String(s.URL), Region: region, Credentials: owner, UsePathStyle: true})
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.process.Await(ctx, func(context.Context) error {
		connection, err := net.DialTimeout("tcp", s.URL[len("http://"):], time.Second)
		if err != nil {
			return err
		}
		return connection.Close()
	})
}

// environment is all that MiniStack sees: what it has beside the three services would listen on ports of
// its own, or tidy up the containers of this machine.
func (s *Server) environment(port int) []string {
	env := []string{
		"HOME=" + s.scratch,
		"TMPDIR=" + s.scratch,
		"BIND_HOST=127.0.0.1",
		"GATEWAY_PORT=" + strconv.Itoa(port),
		"SERVICES=kms,sqs,s3",
		"MINISTACK_ACCOUNT_ID=" + account,
		"MINISTACK_REGION=" + region,
		"MINISTACK_HOST=127.0.0.1",
		"DOCKER_HOST=unix://" + filepath.Join(s.scratch, "none"),
		"IOT_MTLS_ENABLED=0",
		"SFTP_ENABLED=0",
		"PYTHONDONTWRITEBYTECODE=1",
	}
	if s.options.Dir != "" {
		env = append(env, "PERSIST_STATE=1", "STATE_DIR="+s.options.Dir, "S3_PERSIST=1", "S3_DATA_DIR="+filepath.Join(s.options.Dir, "s3"))
	}
	return env
}

// Done is closed when MiniStack has ended, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.process.Done() }

// Stop ends MiniStack, which then writes what it has, and waits for it.
func (s *Server) Stop() {
	if s.process != nil {
		s.process.Stop()
	}
	_ = os.RemoveAll(s.scratch)
}

// restart has MiniStack write what it has, and answers at another address.
func (s *Server) restart(ctx context.Context) error {
	s.process.Stop()
	return s.start(ctx)
}
