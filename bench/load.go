package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// A target is a URL that clients ask again and again, with what they have seen so far.
type target struct {
	url           string
	authorization string

	took   time.Duration
	times  []time.Duration
	errors int
}

// load asks who the caller is, through front, authorizer, table and function, and in turn a front with
// one empty function.
func load(ctx context.Context, b *bench) error {
	if _, err := buildProgram(ctx, b, "Empty"); err != nil {
		return err
	}
	whole, err := startStack(ctx, b, filepath.Join(b.root, "template.yaml"), filepath.Join(b.root, "build"))
	if err != nil {
		return err
	}
	defer whole.stop()
	floor, err := startStack(ctx, b, filepath.Join(b.root, "bench", "testdata", "empty.yaml"), filepath.Join(b.work, "build"))
	if err != nil {
		return err
	}
	defer floor.stop()
	key, err := whole.apiKey(ctx, "certs.read")
	if err != nil {
		return err
	}
	slice := time.Second
	if b.short {
		slice /= 4
	}
	const slices = 3
	var lines []line
	for _, clients := range []int{1, 8, 32} {
		me := &target{url: whole.URL + "/apiv1/me", authorization: "Bearer " + key}
		nothing := &target{url: floor.URL + "/empty"}
		for i := range slices + 1 {
			for _, t := range []*target{me, nothing} {
				if i == 1 {
					*t = target{url: t.url, authorization: t.authorization} // the first slice starts processes
				}
				if err := t.ask(ctx, clients, slice); err != nil {
					return err
				}
			}
		}
		lines = append(lines, line{
			fmt.Sprintf("GET /apiv1/me, clients: %d", clients), me.String(), nothing.String(),
			fmt.Sprintf("%s req/s, %s p50, %s p99", times(me.rate()/nothing.rate()), times(quotient(median(me.times), median(nothing.times))),
				times(quotient(percentile(me.times, 0.99), percentile(nothing.times, 0.99)))),
			"no errors", me.errors+nothing.errors == 0,
		})
	}
	b.table.add(lines...)
	b.table.note("%d slices of %v for each, in turn, closed loop; clients, front, functions and DynamoDB Local share the processors.", slices, slice)
	b.table.note("Against: a front with one empty function and no authorizer. Two invocations and a read stand against one invocation.")
	return nil
}

// ask lets clients, each with its own connection, ask for a while.
func (t *target) ask(ctx context.Context, clients int, during time.Duration) error {
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	seen := make([]target, clients)
	begin := time.Now()
	var group sync.WaitGroup
	for i := range seen {
		group.Go(func() {
			for time.Since(begin) < during && ctx.Err() == nil {
				asked := time.Now()
				if t.once(ctx, transport) {
					seen[i].times = append(seen[i].times, time.Since(asked))
				} else {
					seen[i].errors++
				}
			}
		})
	}
	group.Wait()
	t.took += time.Since(begin)
	for _, s := range seen {
		t.times = append(t.times, s.times...)
		t.errors += s.errors
	}
	return ctx.Err()
}

// once asks and reports whether the answer was good.
func (t *target) once(ctx context.Context, transport *http.Transport) bool {
	request, err := http.NewRequestWithContext(ctx, "GET", t.url, nil)
	if err != nil {
		return false
	}
	if t.authorization != "" {
		request.Header.Set("Authorization", t.authorization)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err == nil && response.StatusCode == http.StatusOK
}

func (t *target) rate() float64 { return float64(len(t.times)) / t.took.Seconds() }

func (t *target) String() string {
	return fmt.Sprintf("%.0f req/s, p50 %s, p99 %s, %d errors", t.rate(), milliseconds(median(t.times)), milliseconds(percentile(t.times, 0.99)), t.errors)
}
