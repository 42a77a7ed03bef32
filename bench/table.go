package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A line is one comparison. Against is the floor or peer of the same run.
type line struct {
	what, measured, against, ratio string
	goal                           string
	met                            bool
}

// A table is lines in parts, with what explains them.
type table struct{ text strings.Builder }

func (t *table) begin(part string) {
	fmt.Fprintf(&t.text, "\n%s\n", part)
}

// add lays out the lines of a part. A line without a goal informs only.
func (t *table) add(lines ...line) {
	w := tabwriter.NewWriter(&t.text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "  what\tmeasured\tagainst\tratio\tgoal\tmet")
	for _, l := range lines {
		met := "-"
		if l.goal != "" {
			met = map[bool]string{true: "yes", false: "NO"}[l.met]
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", l.what, l.measured, l.against, l.ratio, l.goal, met)
	}
	w.Flush()
}

// rows lays out figures; the first row says what they are.
func (t *table) rows(rows [][]string) {
	w := tabwriter.NewWriter(&t.text, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(w, "  %s\n", strings.Join(row, "\t"))
	}
	w.Flush()
}

// note adds a line of text.
func (t *table) note(format string, arguments ...any) {
	fmt.Fprintf(&t.text, "  "+format+"\n", arguments...)
}

func (t *table) String() string { return t.text.String() }

func times(ratio float64) string { return fmt.Sprintf("%.2fx", ratio) }

// percentile is the p-th part of durations, 0.5 for the median; durations are sorted by it.
func percentile(durations []time.Duration, p float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	slices.Sort(durations)
	return durations[min(len(durations)-1, int(p*float64(len(durations))))]
}

func median(durations []time.Duration) time.Duration { return percentile(durations, 0.5) }

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
}

func quotient(a, b time.Duration) float64 { return float64(a) / float64(b) }
