// Package dynamodb runs DynamoDB Local, AWS's own stand-in, as a child process, and makes a
// template's tables in it.
//
// The jars are where make run puts them, in .tools/dynamodb of the checkout. The process ends with
// Stop, and also when this process ends without it (package child).
package dynamodb

import (
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
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"cjj365.cc/bb/local/child"
)

const (
	startTimeout = 60 * time.Second
	mainClass    = "software.amazon.dynamodb.services.local.main.ServerRunner"
)

// Options say how DynamoDB Local is run.
type Options struct {
	Dir string    // of the database file; empty to keep everything in memory
	Log io.Writer // gets its output; none when nil
}

// A Server is a running DynamoDB Local.
type Server struct {
	URL     string
	process *child.Process
	client  *dynamodb.Client
}

// Start runs DynamoDB Local on a free port and waits until it answers.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB Local: %w", err)
	}
	return s, nil
}

func start(ctx context.Context, o Options) (*Server, error) {
	java, err := findJava(ctx)
	if err != nil {
		return nil, err
	}
	jars, err := findJars()
	if err != nil {
		return nil, err
	}
	port, err := child.FreePort()
	if err != nil {
		return nil, err
	}
	s, err := run(java, jars, port, o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.process.Await(ctx, s.answers); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func run(java, jars string, port int, o Options) (*Server, error) {
	arguments := []string{
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
	process, err := child.Start(child.Program{Path: java, Args: arguments, Log: o.Log})
	if err != nil {
		return nil, err
	}
	s := &Server{URL: fmt.Sprintf("http://127.0.0.1:%d", port), process: process}
	s.client = dynamodb.New(dynamodb.Options{
		BaseEndpoint: aws.String(s.URL),
		Region:       "us-east-1",
		Credentials:  credentials.NewStaticCredentialsProvider("LOCAL", "local", ""),
	})
	return s, nil
}

// Done is closed when the server has ended, by itself or by Stop.
func (s *Server) Done() <-chan struct{} { return s.process.Done() }

// Client is a client of this server.
func (s *Server) Client() *dynamodb.Client { return s.client }

// Stop ends the server and waits for it.
func (s *Server) Stop() { s.process.Stop() }

// answers tries the port first, which is cheap, then a call.
func (s *Server) answers(ctx context.Context) error {
	connection, err := net.DialTimeout("tcp", s.URL[len("http://"):], time.Second)
	if err != nil {
		return err
	}
	_ = connection.Close()
	_, err = s.client.ListTables(ctx, &dynamodb.ListTablesInput{})
	return err
}
