// Command bench measures the product against floors and peers, and prints a table of ratios.
//
// Absolute times of a shared machine say little. So each figure stands beside another that was
// measured in the same run, the two in turn: a floor, the least that anybody could need (a bare round
// trip, an empty function), or a peer, how it is usually done. What a line means, and what cannot be
// measured off AWS, is in README.md.
//
//	go run ./bench [-only 1,3] [-short] [-o FILE] [-profile FOLDER]
//
// It needs what make build builds, DynamoDB Local in .tools, and for part 2 a cgroup whose processor
// time it may limit; `make bench` sees to the first two.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cjj365.cc/bb/local/checkout"
)

// A bench is one run.
type bench struct {
	root  string // of the checkout
	work  string // a temporary folder
	short bool
	table table

	profiles string // folder for profiles; empty for none
}

// rounds is how often something is measured.
func (b *bench) rounds(n int) int {
	if b.short {
		return max(1, n/4)
	}
	return n
}

var parts = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"Processor time of an authorization", authorization},
	{"A cold decision", cold},
	{"A request through the whole stack", load},
	{"Size of the functions", size},
	{"Dollars for a million authorized requests", cost},
	{"Time of a wrong password", login},
	{"A page of 100,000 certificates", lists},
	{"Certificates issued by ACME", issue},
	{"Certificates issued by a private CA", privateCA},
	{"Devices that are told", devices},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	only := flag.String("only", "", "numbers of the parts to run, such as 1,3; all if empty")
	short := flag.Bool("short", false, "a quarter of the rounds")
	profiles := flag.String("profile", "", "folder for profiles of part 9, for go tool pprof; none if empty")
	file := flag.String("o", "", "file to write the table to as well")
	flag.Parse()
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	b := &bench{short: *short, profiles: *profiles}
	if b.root, err = checkout.Root(); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "bb-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	var failed []error
	for _, i := range chosen {
		fmt.Fprintf(os.Stderr, "%d %s\n", i+1, parts[i].name)
		b.table.begin(fmt.Sprintf("%d %s", i+1, parts[i].name))
		if err := parts[i].run(ctx, b); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			failed = append(failed, fmt.Errorf("part %d: %w", i+1, err))
		}
	}
	text := fmt.Sprintf("%s %s/%s, %d processors%s\n%s", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), loadAverage(), &b.table)
	if _, err := io.WriteString(os.Stdout, text); err != nil {
		return err
	}
	if *file != "" {
		if err := os.WriteFile(*file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// choose reads -only into places in parts, in their order.
func choose(only string) ([]int, error) {
	var chosen []int
	for i := range parts {
		chosen = append(chosen, i)
	}
	if only == "" {
		return chosen, nil
	}
	chosen = nil
	for field := range strings.SplitSeq(only, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 || n > len(parts) {
			return nil, fmt.Errorf("-only %s: parts are 1 to %d", only, len(parts))
		}
		chosen = append(chosen, n-1)
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}

// loadAverage is how busy the machine is, where Linux tells.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return ", load " + strings.Join(strings.Fields(string(text))[:3], " ") + " at the end"
}
