package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"cjj365.cc/bb/local/checkout"
)

const minJava = 17

var errNoJava = errors.New("install a Java runtime, version 17 or later")

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// findJava finds a Java that is recent enough. macOS has a java that only says there is none.
func findJava(ctx context.Context) (string, error) {
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	java, err := exec.LookPath(java)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoJava, err)
	}
	output, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s -version: %w", errNoJava, java, err)
	}
	version := javaVersion.FindSubmatch(output)
	if version == nil {
		return "", fmt.Errorf("%w: %s does not tell its version", errNoJava, java)
	}
	if major, err := strconv.Atoi(string(version[1])); err != nil || major < minJava {
		return "", fmt.Errorf("%w: %s is version %s", errNoJava, java, version[1])
	}
	return java, nil
}

// findJars finds the jars in the checkout that the working directory is in.
func findJars() (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	jars := filepath.Join(root, ".tools", "dynamodb")
	if found, err := filepath.Glob(filepath.Join(jars, "DynamoDBLocal-*.jar")); err != nil || len(found) == 0 {
		return "", errors.New("its jars are missing, run: make run")
	}
	return jars, nil
}
