package wire

import (
	"strings"
	"unicode"

	"cjj365.cc/bb/shared/problem"
)

// CheckName keeps names out that would mislead whoever reads a list.
func CheckName(name string) error {
	if strings.TrimSpace(name) == "" || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return problem.InvalidArgument.New("name must have printable characters.").With("field", "name")
	}
	return nil
}
