// Package storetest gives a test its own fresh tables in DynamoDB Local, with the shape that
// template.yaml gives them.
//
// One DynamoDB Local, in memory, serves all tests of a test binary; it is started by the first and
// ends with the process.
package storetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/local/dynamodb"
	"cjj365.cc/bb/local/template"
	"cjj365.cc/bb/shared/store"
)

// Tables is the tables of one test.
type Tables struct {
	Credentials string // name of the credential table
	Resources   string // name of the resource table
	Store       *store.Store
	Endpoint    string // URL of DynamoDB Local
}

var (
	start    sync.Once
	server   *dynamodb.Server
	startErr error
	count    atomic.Int64
)

// New makes empty tables. It sets the process's AWS environment, the same for every test.
func New(t testing.TB) Tables {
	t.Helper()
	start.Do(func() {
		for name, value := range map[string]string{
			"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
		} {
			os.Setenv(name, value)
		}
		if server, startErr = dynamodb.Start(context.Background(), dynamodb.Options{}); startErr == nil {
			os.Setenv("AWS_ENDPOINT_URL_DYNAMODB", server.URL)
		}
	})
	if startErr != nil {
		t.Fatal(startErr)
	}
	file, err := find("template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	stack := fmt.Sprintf("test%d", count.Add(1))
	parsed, err := template.Read(file, template.Options{Stack: stack, Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.CreateTables(t.Context(), parsed.Tables); err != nil {
		t.Fatal(err)
	}
	tables := Tables{Credentials: stack + "-CredentialTable", Resources: stack + "-ResourceTable", Endpoint: server.URL}
	if tables.Store, err = store.Open(tables.Credentials, tables.Resources); err != nil {
		t.Fatal(err)
	}
	return tables
}

// find looks for a file of the checkout from the test's folder upwards.
func find(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
		if parent := filepath.Dir(dir); parent != dir {
			dir = parent
			continue
		}
		return "", fmt.Errorf("there is no %s in this folder or above", name)
	}
}

// Now is where a test's clock starts: the present, in milliseconds as tables keep it. A clock in the past
// would have DynamoDB Local's TTL take items away while the test runs.
func Now() time.Time { return time.UnixMilli(time.Now().UnixMilli()) }
