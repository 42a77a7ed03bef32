package main

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// lists reads pages of 20 of 100,000 certificates, of which a tenth were deleted. The figure is a benchmark inside
// shared/store, which can fill a table and count units.
func lists(ctx context.Context, b *bench) error {
	command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkPage$", "-benchtime", fmt.Sprintf("%dx", b.rounds(4)), "./shared/store")
	command.Dir = b.root
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -bench: %w\n%s", err, output)
	}
	m, err := benchmarkMetrics(string(output))
	if err != nil {
		return err
	}
	cost := func(page string) string {
		return fmt.Sprintf("%.0f units, %s", m[page+"-units"], milliseconds(time.Duration(m[page+"-us"])*time.Microsecond))
	}
	ratio := func(page, other string) string {
		return fmt.Sprintf("%s units, %s time", times(m[page+"-units"]/m[other+"-units"]), times(m[page+"-us"]/m[other+"-us"]))
	}
	b.table.add(
		line{"the last page", cost("last"), cost("first") + " page 1", ratio("last", "first"), "<= 10 units, <= 2x those of page 1", m["last-units"] <= 10 && m["last-units"] <= 2*m["first-units"]},
		line{"a page in the middle", cost("middle"), cost("first") + " page 1", ratio("middle", "first"), "<= 10 units", m["middle-units"] <= 10},
		line{"the last page by skipping", cost("skipped"), cost("last"), ratio("skipped", "last"), "", false},
	)
	b.table.note("Pages of 20 of %.0f certificates with three names each, medians, in turn, against DynamoDB Local. Units are of strongly", m["certificates"])
	b.table.note("consistent reads by AWS's rule, counts included. Skipping reads everything newer from the same index.")
	return nil
}
