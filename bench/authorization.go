package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// authorization runs the authorizer's own benchmark: its handler is in a program, which nothing can
// import, and driven from outside the processor time of its runtime loop would be counted too.
func authorization(ctx context.Context, b *bench) error {
	rounds := max(10, b.rounds(12))
	command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkAuthorization$", "-benchtime", fmt.Sprintf("%dx", rounds), "./authorizer")
	command.Dir = b.root
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -bench: %w\n%s", err, output)
	}
	metrics, err := benchmarkMetrics(string(output))
	if err != nil {
		return err
	}
	ours, floor, sdk := metrics["authorizer-cpu-us"], metrics["floor-cpu-us"], metrics["sdk-cpu-us"]
	measured := fmt.Sprintf("%.0f us", ours)
	b.table.add(
		line{"processor time, event to policy", measured, fmt.Sprintf("%.0f us bare round trip", floor), times(ours / floor), "<= 2.00x", ours <= 2*floor},
		line{"the same with the AWS SDK", fmt.Sprintf("%.0f us", sdk), measured, times(sdk / ours), "", false},
		line{"allocations", fmt.Sprintf("%.0f", metrics["authorizer-allocs"]), fmt.Sprintf("%.0f bare round trip", metrics["floor-allocs"]),
			times(metrics["authorizer-allocs"] / metrics["floor-allocs"]), "<= 150", metrics["authorizer-allocs"] <= 150},
		line{"allocations with the AWS SDK", fmt.Sprintf("%.0f", metrics["sdk-allocs"]), fmt.Sprintf("%.0f", metrics["authorizer-allocs"]),
			times(metrics["sdk-allocs"] / metrics["authorizer-allocs"]), "", false},
	)
	b.table.note("The least of %d blocks of 500 calls each, in turn, against DynamoDB Local. The bare round trip is net/http", rounds)
	b.table.note("sending the authorizer's own GetItem, signed once, on a kept connection. User and system time of the client.")
	return nil
}

// benchmarkMetrics reads the line of the one benchmark in go test's output: value and unit, repeated.
func benchmarkMetrics(output string) (map[string]float64, error) {
	for text := range strings.Lines(output) {
		if !strings.HasPrefix(text, "Benchmark") {
			continue
		}
		fields := strings.Fields(text)
		metrics := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", text, err)
			}
			metrics[fields[i+1]] = value
		}
		return metrics, nil
	}
	return nil, fmt.Errorf("no benchmark in %q", output)
}
