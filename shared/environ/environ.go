// Package environ is a function's configuration: environment variables, which template.yaml sets.
//
// It stands apart from package gateway, so that functions that answer no HTTP do not carry what does.
package environ

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// Variables returns environment variables, in order. A function whose configuration is not complete does
// not start.
func Variables(names ...string) []string {
	values := make([]string, len(names))
	for i, name := range names {
		if values[i] = os.Getenv(name); values[i] == "" {
			Exit(fmt.Errorf("the environment variable %s is not set", name))
		}
	}
	return values
}

// List splits a variable at commas and spaces; it may be empty.
func List(name string) []string {
	return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// Exit ends a function that cannot start, with the reason in the log.
func Exit(err error) {
	slog.New(slog.NewJSONHandler(os.Stdout, nil)).Error("the function cannot start", "error", err.Error())
	os.Exit(1)
}
