package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"cjj365.cc/bb/local/template"
)

// Bounds of a stripped function, in bytes.
const (
	maxAuthorizer = 8_000_000
	maxFunction   = 12_000_000
	maxSolver     = 15_000_000
)

// solvers hold the code of every DNS provider.
var solvers = []string{"DnsProbe", "Issuer"}

// size builds each function for Lambda twice, the second time from a copy of its source elsewhere.
func size(ctx context.Context, b *bench) error {
	stack, err := template.Read(filepath.Join(b.root, "template.yaml"), template.Options{Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		return err
	}
	elsewhere := filepath.Join(b.work, "elsewhere", "copy")
	if err := copySource(b.root, elsewhere); err != nil {
		return err
	}
	var lines []line
	same := 0
	for _, f := range stack.Functions {
		here, err := buildFunction(ctx, b, b.root, f.LogicalID, "arm64")
		if err != nil {
			return err
		}
		there, err := buildFunction(ctx, b, elsewhere, f.LogicalID, "arm64")
		if err != nil {
			return err
		}
		if sha256.Sum256(here) == sha256.Sum256(there) {
			same++
		}
		native, err := os.ReadFile(filepath.Join(b.root, "build", f.LogicalID, "bootstrap"))
		if err != nil {
			return err
		}
		bound := maxFunction
		switch {
		case f.LogicalID == "Authorizer":
			bound = maxAuthorizer
		case slices.Contains(solvers, f.LogicalID):
			bound = maxSolver
		}
		largest := max(len(here), len(native))
		lines = append(lines, line{f.LogicalID, megabytes(len(here)) + " arm64", megabytes(len(native)) + " " + runtime.GOARCH,
			times(float64(largest) / float64(bound)), "<= " + megabytes(bound), largest <= bound})
	}
	lines = append(lines, line{"same bytes from another folder", fmt.Sprintf("%d of %d", same, len(stack.Functions)), "", "", "all", same == len(stack.Functions)})
	b.table.add(lines...)
	b.table.note("Stripped, as make build-NAME builds it. The ratio is the larger one's to its bound; MB are 10^6 bytes.")
	return nil
}

// copySource copies what a function is built from.
func copySource(from, to string) error {
	for _, folder := range []string{"authorizer", "functions", "shared"} {
		if err := os.CopyFS(filepath.Join(to, folder), os.DirFS(filepath.Join(from, folder))); err != nil {
			return err
		}
	}
	for _, file := range []string{"go.mod", "go.sum", "Makefile", "template.yaml"} {
		text, err := os.ReadFile(filepath.Join(from, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, file), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// buildFunction builds a function of a checkout as sam build does, and gives its bytes.
func buildFunction(ctx context.Context, b *bench, checkout, logicalID, architecture string) ([]byte, error) {
	folder, err := os.MkdirTemp(b.work, "artifacts")
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, "make", "build-"+logicalID, "ARTIFACTS_DIR="+folder, "BB_GOARCH="+architecture)
	command.Dir = checkout
	if output, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make build-%s: %w\n%s", logicalID, err, output)
	}
	return os.ReadFile(filepath.Join(folder, "bootstrap"))
}

func megabytes(n int) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
