// Package lambdatest has the function that tests run: one program whose behaviour is named by the
// event it gets (see its source).
package lambdatest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var program string

// Main runs a package's tests with the program built once; it is what TestMain calls.
func Main(m *testing.M) (status int) {
	folder, err := os.MkdirTemp("", "lambdatest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	program = filepath.Join(folder, "function")
	command := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", program, "cjj365.cc/bb/local/lambda/lambdatest/function")
	if output, err := command.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the test function: %v\n%s", err, output)
		return 1
	}
	return m.Run()
}

// Build lays out a build folder in which every given function is the program.
func Build(tb testing.TB, logicalIDs ...string) string {
	tb.Helper()
	build := tb.TempDir()
	for _, id := range logicalIDs {
		if err := os.Mkdir(filepath.Join(build, id), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.Symlink(program, filepath.Join(build, id, "bootstrap")); err != nil {
			tb.Fatal(err)
		}
	}
	return build
}
