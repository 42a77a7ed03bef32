package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cjj365.cc/bb/local/dynamodb"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// BenchmarkDay is a day of some devices, by a clock of its own: each asks when the answer before told it to, as the
// agents in the field do, and one in sixty is told of something, such as a certificate that is renewed every two months.
// `make bench` reads what it reports, per device and day, and prices it.
func BenchmarkDay(b *testing.B) {
	tables := storetest.New(b)
	meter, err := dynamodb.NewMeter(tables.Endpoint)
	if err != nil {
		b.Fatal(err)
	}
	defer meter.Close()
	if err := os.Setenv("AWS_ENDPOINT_URL_DYNAMODB", meter.URL); err != nil {
		b.Fatal(err)
	}
	w := newWorld(b)
	if w.store, err = store.Open(tables.Credentials, tables.Resources); err != nil {
		b.Fatal(err)
	}
	w.handler.store = w.store
	const fleet, day = 120, 24 * time.Hour
	random := rand.New(rand.NewPCG(3, 4))
	var polls, changes int
	var reads, writes float64
	var used time.Duration
	for b.Loop() {
		polls, changes, reads, writes, used = 0, 0, 0, 0, 0
		for range fleet {
			registered := w.now
			d := w.device(1, 0)
			w.now = w.now.Add(device.BusyFor + time.Duration(random.Int64N(int64(time.Hour)))) // a day like any other
			first := w.poll(d, "")                                                             // it was seen
			if first.Status != http.StatusNoContent {
				b.Fatalf("%d %s", first.Status, first.Body)
			}
			begin, cursor, changeAt := w.now, "0-0", time.Duration(-1)
			if random.IntN(60) == 0 {
				changeAt = time.Duration(random.Int64N(int64(day)))
			}
			for next := begin; next.Before(begin.Add(day)); {
				if changeAt >= 0 && next.Sub(begin) >= changeAt {
					w.now, changeAt = begin.Add(changeAt), -1
					w.tell(d.ID)
					changes++
				}
				w.now = next
				meter.Take()
				before := processorTime(b)
				a := w.poll(d, "", `If-None-Match: "`+cursor+`"`)
				used += processorTime(b) - before
				if calls := meter.Calls(); a.Status == http.StatusNoContent && calls > 2 {
					b.Fatalf("an idle poll takes %d round trips", calls)
				}
				r, written := meter.Take()
				reads, writes, polls = reads+r, writes+written, polls+1
				cursor = strings.Trim(a.Header.Get("ETag"), `"`)
				seconds, err := strconv.Atoi(a.Header.Get("X-Poll-Interval"))
				if err != nil {
					b.Fatalf("%d %v", a.Status, a.Header)
				}
				next = next.Add(time.Duration(seconds) * time.Second)
			}
			w.now = registered
		}
	}
	b.ReportMetric(float64(polls)/fleet, "polls")
	b.ReportMetric(float64(changes)/fleet, "changes")
	b.ReportMetric(reads/fleet, "read-units")
	b.ReportMetric(writes/fleet, "write-units")
	b.ReportMetric(float64(used.Microseconds())/float64(polls), "handler-cpu-us")
}

func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// An idle poll is one read of one unit, in one round trip, and no write. A request that is held looks once a second.
func TestWhatAPollConsumes(t *testing.T) {
	tables := storetest.New(t)
	meter, err := dynamodb.NewMeter(tables.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer meter.Close()
	t.Setenv("AWS_ENDPOINT_URL_DYNAMODB", meter.URL)
	w := newWorld(t)
	if w.store, err = store.Open(tables.Credentials, tables.Resources); err != nil {
		t.Fatal(err)
	}
	w.handler.store, w.handler.budget = w.store, newBudget(w.store, 100)
	d := w.device(1, 0)
	for range 30 {
		w.tell(d.ID)
	}
	head, err := w.store.Head(context.Background(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	cursor := fmt.Sprintf("?cursor=%d-0", head.Last)
	w.poll(d, cursor) // it is seen
	meter.Take()
	w.poll(d, cursor)
	calls := meter.Calls()
	if reads, writes := meter.Take(); reads > 1 || writes != 0 || calls != 1 {
		t.Errorf("an idle poll: %.1f read units, %.1f write units, %d round trips", reads, writes, calls)
	}
	w.poll(d, cursor+"&wait=20")
	calls = meter.Calls()
	if reads, writes := meter.Take(); reads > 21 || writes > 2 || calls > 23 {
		t.Errorf("a held poll: %.1f read units, %.1f write units, %d round trips", reads, writes, calls)
	}
}
