package main

import (
	"maps"
	"slices"
	"testing"
	"time"
)

func TestPartsAreChosenInOrder(t *testing.T) {
	for _, tc := range []struct {
		only string
		want []int // nil if refused
	}{
		{"", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}, {"2", []int{1}}, {"3,1,3", []int{0, 2}}, {"0", nil}, {"11", nil}, {"1,", nil}, {"one", nil},
	} {
		got, err := choose(tc.only)
		if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) {
			t.Errorf("%q: %v, %v", tc.only, got, err)
		}
	}
}

func TestMetricsOfABenchmark(t *testing.T) {
	got, err := benchmarkMetrics("goos: linux\nBenchmarkAuthorization-2   \t 12\t 1069463623 ns/op\t 90.04 authorizer-allocs\t 145.1 authorizer-cpu-us\nPASS\n")
	if want := map[string]float64{"ns/op": 1069463623, "authorizer-allocs": 90.04, "authorizer-cpu-us": 145.1}; err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "PASS\n", "BenchmarkX-2 12 many ns/op\n"} {
		if got, err := benchmarkMetrics(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestPercentiles(t *testing.T) {
	few := []time.Duration{3, 1, 2}
	if got := median(few); got != 2 {
		t.Errorf("median %d", got)
	}
	if got := percentile(few, 0.99); got != 3 {
		t.Errorf("99th percentile %d", got)
	}
	if got := median(nil); got != 0 {
		t.Errorf("median of nothing %d", got)
	}
}

func TestProcessorTimeOfAProcess(t *testing.T) {
	u, err := parseStat([]byte("42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 250 50 9 9 20 0 1 0 99 1 1\n"))
	if want := (usage{parent: 7, time: 3 * time.Second}); err != nil || u != want {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"", "42 (a) S 7", "42 (a) S x 42 42 0 -1 4194304 1 2 3 4 250 50"} {
		if u, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, u)
		}
	}
	before := map[int]usage{1: {"a", 0, time.Second}, 2: {"b", 1, time.Second}}
	after := map[int]usage{1: {"a", 0, 3 * time.Second}, 3: {"b", 1, time.Second}, 4: {"b", 1, time.Second}}
	if got, want := since(before, after), map[string]time.Duration{"a": 2 * time.Second, "b": 2 * time.Second}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestTheGroupOfAController(t *testing.T) {
	const groups = "2:cpuset:/a\n1:cpu,cpuacct:/b/c\n0::/d\n"
	for controller, want := range map[string]string{"cpu": "/b/c", "cpuset": "/a", "": "/d", "memory": "/"} {
		if got := ownGroup(groups, controller); got != want {
			t.Errorf("%q: %s, want %s", controller, got, want)
		}
	}
}
