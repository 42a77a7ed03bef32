package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary starts a program that sleeps, says its number and waits to be killed.
func TestMain(m *testing.M) {
	if os.Getenv("BB_TEST_PARENT") != "" {
		if _, err := Start(Program{Path: "sh", Args: []string{"-c", "echo $$; exec sleep 600"}, Log: os.Stdout}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

func TestAProgramDiesWithItsParentThatIsKilled(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "BB_TEST_PARENT=1")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The program and its shell hold the pipe: it ends when both are gone.
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, stdout)
		ended <- err
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Errorf("process %d is left", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = parent.Wait()
}

func TestAProgramSeesNothingOfTheEnvironmentButItsPath(t *testing.T) {
	t.Setenv("BB_TEST_SECRET", "secret")
	var out strings.Builder
	c, err := Start(Program{Path: "env", Env: []string{"ITS=own"}, Log: &out})
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if strings.Contains(out.String(), "BB_TEST_SECRET") || !strings.Contains(out.String(), "ITS=own\n") || !strings.Contains(out.String(), "PATH=") {
		t.Error(out.String())
	}
}

func TestAProgramThatEndsIsNotWaitedFor(t *testing.T) {
	c, err := Start(Program{Path: "false"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	err = c.Await(t.Context(), func(context.Context) error { return errors.New("not ready") })
	if err == nil || err.Error() != "false ended before it answered" {
		t.Error(err)
	}
}

func TestAProgramThatIgnoresSIGTERMIsKilled(t *testing.T) {
	said, log := io.Pipe()
	c, err := Start(Program{Path: "sh", Args: []string{"-c", "trap '' TERM; echo deaf; while :; do sleep 600; done"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, said)
	c.Stop()
	select {
	case <-c.Done():
	default:
		t.Error("it runs on")
	}
}
