package dynamodb_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/local/dynamodb"
	"cjj365.cc/bb/local/template"
)

func TestMain(m *testing.M) {
	if os.Getenv("BB_TEST_ORPHAN") != "" {
		orphan()
	}
	os.Exit(m.Run())
}

var things = template.Table{
	Name:         "test-Things",
	Attributes:   []template.Attribute{{Name: "pk", Type: "S"}, {Name: "sk", Type: "S"}, {Name: "n", Type: "N"}},
	Key:          []template.KeyPart{{Attribute: "pk", Kind: "HASH"}, {Attribute: "sk", Kind: "RANGE"}},
	TTLAttribute: "ttl",
	StreamView:   "NEW_IMAGE",
	GlobalIndexes: []template.Index{
		{Name: "by-n", Key: []template.KeyPart{{Attribute: "n", Kind: "HASH"}}, Projection: "INCLUDE", NonKey: []string{"x"}},
	},
	LocalIndexes: []template.Index{
		{Name: "local-n", Key: []template.KeyPart{{Attribute: "pk", Kind: "HASH"}, {Attribute: "n", Kind: "RANGE"}}, Projection: "ALL"},
	},
}

func start(t *testing.T, dir string) *dynamodb.Server {
	t.Helper()
	s, err := dynamodb.Start(t.Context(), dynamodb.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func TestTablesAreMadeAndKept(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	ctx := t.Context()
	if err := s.CreateTables(ctx, []template.Table{things}); err != nil {
		t.Fatal(err)
	}
	described, err := s.Client().DescribeTable(ctx, &sdk.DescribeTableInput{TableName: &things.Name})
	if err != nil {
		t.Fatal(err)
	}
	got := described.Table
	if len(got.KeySchema) != 2 || len(got.GlobalSecondaryIndexes) != 1 || len(got.LocalSecondaryIndexes) != 1 ||
		got.StreamSpecification.StreamViewType != types.StreamViewTypeNewImage {
		t.Errorf("got %+v", got)
	}
	ttl, err := s.Client().DescribeTimeToLive(ctx, &sdk.DescribeTimeToLiveInput{TableName: &things.Name})
	if err != nil || aws.ToString(ttl.TimeToLiveDescription.AttributeName) != "ttl" {
		t.Errorf("time to live: %+v, %v", ttl, err)
	}
	item := map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "a"}, "sk": &types.AttributeValueMemberS{Value: "b"}}
	if _, err := s.Client().PutItem(ctx, &sdk.PutItemInput{TableName: &things.Name, Item: item}); err != nil {
		t.Fatal(err)
	}
	s.Stop()

	again := start(t, dir)
	if err := again.CreateTables(ctx, []template.Table{things}); err != nil {
		t.Fatalf("a table that is there: %v", err)
	}
	found, err := again.Client().GetItem(ctx, &sdk.GetItemInput{TableName: &things.Name, Key: item})
	if err != nil || len(found.Item) != 2 {
		t.Errorf("the item after a restart: %+v, %v", found, err)
	}
	other := things
	other.GlobalIndexes = nil
	if err := again.CreateTables(ctx, []template.Table{other}); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a table with other indexes: %v", err)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	// A java of the given behaviour, in place of the real one.
	stub := func(script string) string {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "java"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
		return folder
	}
	for _, test := range []struct{ name, path, want string }{
		{"no Java", t.TempDir(), "install a Java runtime, version 17"},
		{"the stub of macOS", stub("echo 'Unable to locate a Java Runtime.' >&2; exit 1"), "install a Java runtime, version 17"},
		{"Java 11", stub(`echo 'openjdk version "11.0.2" 2019-01-15' >&2`), "version 11"},
		{"Java 8", stub(`echo 'java version "1.8.0_321"' >&2`), "install a Java runtime, version 17"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", test.path)
			t.Setenv("JAVA_HOME", "")
			_, err := dynamodb.Start(t.Context(), dynamodb.Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("no jars", func(t *testing.T) {
		checkout := t.TempDir()
		if err := os.WriteFile(filepath.Join(checkout, "go.mod"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Chdir(checkout)
		if _, err := dynamodb.Start(t.Context(), dynamodb.Options{}); err == nil || !strings.Contains(err.Error(), "make run") {
			t.Errorf("got %v", err)
		}
	})
}

// orphan starts a server, tells its address and waits to be killed.
func orphan() {
	s, err := dynamodb.Start(context.Background(), dynamodb.Options{})
	if err != nil {
		panic(err)
	}
	fmt.Println(s.URL)
	select {}
}

func TestJavaDoesNotOutliveAKilledParent(t *testing.T) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "BB_TEST_ORPHAN=1")
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	port := strings.TrimSpace(url[strings.LastIndex(url, ":")+1:])
	if !running(t, port) {
		t.Fatal("the server is not to be seen")
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	deadline := time.After(10 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for running(t, port) {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatal("the server outlives its parent")
		}
	}
}

// running looks for the server's process by the port in its arguments.
func running(t *testing.T, port string) bool {
	t.Helper()
	list, err := exec.Command("ps", "-axo", "args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(list), "\n") {
		if strings.Contains(line, "ServerRunner") && strings.HasSuffix(strings.TrimSpace(line), "-port "+port+" -inMemory") {
			return true
		}
	}
	return false
}
