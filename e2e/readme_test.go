package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeIsTrue runs the README's commands, as they are printed, against a fresh stack.
func TestReadmeIsTrue(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(block[1], "make run") {
			commands = append(commands, block[1])
		}
	}
	if len(commands) != 5 {
		t.Fatalf("%d blocks of commands beside make", len(commands))
	}
	folder := t.TempDir()
	fresh, err := start(filepath.Join(folder, ".bb"), "BB_MEMORY=1")
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.stop()
	shell := exec.Command("bash", "-euo", "pipefail", "-c", strings.Join(commands, "\n"))
	shell.Dir = folder
	output, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, want := range []string{
		`"kind": "apikey"`, `"total": 1`, `"name": "ci"`, "\nak_1_1_", "\n204\n", `"what":"API key lacks required permission"`, `"required":"gitrepos.write"`, "chain.pem: OK", `"field":"sans"`, "REVOKED", "chain.pem: revoked", "Serial Number: 01", "certbot certonly", "cert.pem: OK", "aes256gcm", `["ca.assigned","cert.updated","install.updated"]`, `"state": "FETCHED"`, "approve at http", `"status": "SUCCESS"`, `{"code":401,"what":"invalid token","key":"UNAUTHORIZED","params":{}}`,
	} {
		if !strings.Contains(string(output), want) {
			t.Errorf("no %s in what the README's commands print:\n%s", want, output)
		}
	}
}
