package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
)

// The fleet that a day is priced for, and the days of a month that AWS counts tiers of.
const (
	fleet = 1e6
	month = 30
)

// waiting is how many devices wait at a time, and changes how many changes are made meanwhile.
const waiting, changesMade = 200, 400

// devices measures how long after a change the device that waits for it is told, and prices a day of a fleet.
func devices(ctx context.Context, b *bench) error {
	if err := told(ctx, b); err != nil {
		return err
	}
	return day(ctx, b)
}

// waiter is a device that waits.
type waiter struct {
	id            int64
	access        string
	cursor        string
	times         []time.Duration
	held, refused int
}

// told has devices wait at the stack, and changes made one after the other.
func told(ctx context.Context, b *bench) error {
	s, err := startStack(ctx, b, b.root+"/template.yaml", b.root+"/build")
	if err != nil {
		return err
	}
	defer s.stop()
	cookie, err := s.login(ctx)
	if err != nil {
		return err
	}
	key, err := s.apiKey(ctx, "devices.write")
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: waiting}, Timeout: 40 * time.Second}
	waiters := make([]*waiter, waiting)
	for i := range waiters {
		var made struct {
			Data struct {
				Device  struct{ ID int64 }
				Session struct {
					Access string `json:"access_token"`
				}
			}
		}
		body := map[string]string{"device_public_id": fmt.Sprint("bench-", i), "dev_pk": base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%032d", i)))}
		status, answer, err := post(ctx, client, s.URL+"/apiv1/me/devices", key, body)
		if err != nil || status != http.StatusOK || json.Unmarshal(answer, &made) != nil {
			return fmt.Errorf("register a device: %d %s, %v", status, answer, err)
		}
		waiters[i] = &waiter{id: made.Data.Device.ID, access: made.Data.Session.Access, cursor: "0-0"}
	}
	waits, done := context.WithCancel(ctx)
	defer done()
	var group sync.WaitGroup
	failed := make([]error, waiting)
	for i, w := range waiters {
		group.Go(func() {
			if err := w.wait(waits, client, s.URL); waits.Err() == nil { // not because it ends
				failed[i] = err
			}
		})
	}
	// All of them wait before the first change is made.
	settle := time.NewTimer(12 * time.Second)
	defer settle.Stop()
	select {
	case <-settle.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	for i := range b.rounds(changesMade) {
		w := waiters[rand.IntN(waiting)]
		if err := put(ctx, client, fmt.Sprintf("%s/apiv1/users/1/devices/%d/install-config", s.URL, w.id), cookie, fmt.Sprintf(`{"installs":[],"after_update_script":"%d"}`, i)); err != nil {
			return err
		}
		pause := time.NewTimer(time.Duration(rand.IntN(100)) * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	last := time.NewTimer(2 * time.Second)
	defer last.Stop()
	<-last.C
	done()
	group.Wait()
	var times []time.Duration
	refused := 0
	for i, w := range waiters {
		if failed[i] != nil {
			return failed[i]
		}
		times, refused = append(times, w.times...), refused+w.refused
	}
	if made := b.rounds(changesMade); len(times) != made {
		return fmt.Errorf("%d changes were made, and devices told of %d", made, len(times))
	}
	p50, p99 := percentile(times, 0.5), percentile(times, 0.99)
	b.table.add(
		line{"told after a change, p50", milliseconds(p50), fmt.Sprintf("%d devices wait", waiting), "", "<= 700 ms", p50 <= 700*time.Millisecond},
		line{"the same, p99", milliseconds(p99), "", "", "<= 2 s", p99 <= 2*time.Second},
	)
	b.table.note("%d changes, each from the time that its signal bears, before the transaction, to the answer in the hands of a device", len(times))
	b.table.note("that waits, all on this machine: gateway, authorizer, functions, DynamoDB Local. %d polls were told to come later.", refused)
	return nil
}

// wait polls until ctx ends.
func (w *waiter) wait(ctx context.Context, client *http.Client, base string) error {
	for ctx.Err() == nil {
		request, err := http.NewRequestWithContext(ctx, "GET", base+"/apiv1/devices/self/updates?wait=20&cursor="+w.cursor, nil)
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+w.access)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		at := time.Now()
		if err != nil {
			return err
		}
		switch response.StatusCode {
		case http.StatusNoContent:
			w.held++
		case http.StatusOK:
			var answer struct {
				Data struct {
					Signals []struct {
						At int64 `json:"ts_ms"`
					}
				}
			}
			if err := json.Unmarshal(body, &answer); err != nil {
				return err
			}
			for _, s := range answer.Data.Signals {
				w.times = append(w.times, at.Sub(time.UnixMilli(s.At)))
			}
		case http.StatusTooManyRequests, http.StatusServiceUnavailable: // as agents do
			w.refused++
			after, err := strconv.Atoi(response.Header.Get("Retry-After"))
			if err != nil {
				return fmt.Errorf("poll: %d %s without Retry-After", response.StatusCode, body)
			}
			pause := time.NewTimer(time.Duration(after) * time.Second)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
		default:
			return fmt.Errorf("poll: %d %s", response.StatusCode, body)
		}
		if tag := strings.Trim(response.Header.Get("ETag"), `"`); tag != "" {
			w.cursor = tag
		}
	}
	return nil
}

// put changes something as a person.
func put(ctx context.Context, client *http.Client, url, cookie, body string) error {
	request, err := http.NewRequestWithContext(ctx, "PUT", url, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Cookie", cookie)
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("change: %d %s", response.StatusCode, answer)
	}
	return err
}

// gatewayDollars is what requests to a REST API cost in a month, by its tiers.
func gatewayDollars(requests float64) (total float64) {
	for _, tier := range []struct{ upTo, perMillion float64 }{{333e6, 3.50}, {1e9, 2.80}, {20e9, 2.38}, {math.Inf(1), 1.51}} {
		some := min(requests, tier.upTo)
		total += some / 1e6 * tier.perMillion
		requests -= some
		if requests <= 0 {
			return total
		}
	}
	return total
}

// day runs a day of some devices by a clock of its own through the real handler, and prices that of a million.
func day(ctx context.Context, b *bench) error {
	command := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkDay$", "-benchtime", "1x", "./functions/updates")
	command.Dir = b.root
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -bench: %w\n%s", err, output)
	}
	metrics, err := benchmarkMetrics(string(output))
	if err != nil {
		return err
	}
	db, err := startDatabase(ctx, b)
	if err != nil {
		return err
	}
	defer db.Stop()
	event, err := idleDevice(ctx, db)
	if err != nil {
		return err
	}
	front, err := startFront(b, db.URL)
	if err != nil {
		return err
	}
	defer front.stop()
	updates, err := bill(ctx, b, db, "Updates", event, tableLatency, map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": front.url, "AWS_CA_BUNDLE": front.roots, "RESOURCE_TABLE": "bench-ResourceTable", "HELD_POLLS": "200", "IDLE_POLL_SECONDS": "960",
	})
	if err != nil {
		return err
	}
	// The authorizer makes no call for a device's token; its processor time is that of its own benchmark.
	command = exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkAuthorization$", "-benchtime", "3x", "./authorizer")
	command.Dir = b.root
	if output, err = command.CombinedOutput(); err != nil {
		return fmt.Errorf("go test -bench: %w\n%s", err, output)
	}
	authorizer, err := benchmarkMetrics(string(output))
	if err != nil {
		return err
	}
	f, _ := db.template.Function("Authorizer")
	billed := math.Ceil(authorizer["device-cpu-us"] / 1e3 / (float64(f.Memory) / oneCPU))
	authorizes := perMillionFunctionRequests + billed*1e3*float64(f.Memory)/1024*perGBSecond

	polls, reads, writes := metrics["polls"], metrics["read-units"], metrics["write-units"]
	millions := polls * fleet / 1e6
	gateway := gatewayDollars(polls*fleet*month) / month
	table := reads*fleet/1e6*perMillionReadUnits + writes*fleet/1e6*perMillionWriteUnits
	function := millions * updates.dollars
	rest := gateway + millions*authorizes + function + table
	// Over a function URL the function checks the token itself: the authorizer's time in its own memory, and no request.
	u, _ := db.template.Function("Updates")
	own := math.Ceil(authorizer["device-cpu-us"] / 1e3 / (float64(u.Memory) / oneCPU))
	direct := function + millions*own*1e3*float64(u.Memory)/1024*perGBSecond + table
	perPoll := reads / polls
	b.table.add(
		line{"read units of an idle poll", fmt.Sprintf("%.2f", perPoll), "", "", "<= 1.0", perPoll < 1.005},
		line{"write units of a device's day", fmt.Sprintf("%.1f", writes), fmt.Sprintf("%.1f polls", polls), "", "<= 24", writes <= 24},
		line{"a day of 1,000,000 devices, REST API", fmt.Sprintf("$%.0f", rest), "", "", "<= $300", rest <= 300},
		line{"the same over a function URL", fmt.Sprintf("$%.0f", direct), "", "", "<= $40", direct <= 40},
	)
	b.table.note("A day of 120 devices by a clock of its own through the handler of functions/updates, units as DynamoDB Local counts them:")
	b.table.note("%.1f polls, %.1f read units, %.1f write units (when it was seen, every 6 h) a device; %.3f changes.", polls, reads, writes, metrics["changes"])
	b.table.note("  API Gateway     %.0f M x 30 at $3.50, $2.80, $2.38 a million by tier / 30 = $%.2f", millions, gateway)
	b.table.note("  Authorizer      %.0f M x ($%.2f/million + %.0f ms x %.3f GB x $%.10f) = $%.2f", millions, perMillionFunctionRequests, billed, float64(f.Memory)/1024, perGBSecond, millions*authorizes)
	b.table.note("  Updates         %.0f x: %s = $%.2f", millions, updates.arithmetic, function)
	b.table.note("  DynamoDB        %.0f M units x $%.3f + %.1f M units x $%.3f = $%.2f", reads*fleet/1e6, perMillionReadUnits, writes*fleet/1e6, perMillionWriteUnits, table)
	b.table.note("  function URL    Updates, with %.0f ms more for the token, and DynamoDB. It is a model: the template has no function URL.", own)
	b.table.note("Not in it: 24 refreshes of each device's session, cold starts, logs, traces, data out.")
	return nil
}

// idleDevice makes a device, and the event of its poll.
func idleDevice(ctx context.Context, db *database) ([]byte, error) {
	s, err := store.Open(db.table, "bench-ResourceTable")
	if err != nil {
		return nil, err
	}
	id, err := s.NextDeviceID(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	family, _ := session.NewFamily(1, id, "", now)
	d := device.Device{User: 1, ID: id, PublicID: "bench", Key: make([]byte, device.KeySize), CreatedAt: now, UpdatedAt: now}
	if _, err := s.RegisterDevice(ctx, store.Registration{After: d, Family: family}); err != nil {
		return nil, err
	}
	if err := s.SeeDevice(ctx, device.Head{Device: id}, now); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"resource": "/apiv1/devices/self/updates", "path": "/apiv1/devices/self/updates", "httpMethod": "GET",
		"headers": map[string]string{"If-None-Match": `"0-0"`, "User-Agent": "Boost.Beast/1"}, "multiValueHeaders": map[string][]string{"If-None-Match": {`"0-0"`}, "User-Agent": {"Boost.Beast/1"}},
		"requestContext": map[string]any{"requestId": "r", "identity": map[string]string{"sourceIp": "192.0.2.1"}, "authorizer": map[string]string{
			"principalId": fmt.Sprintf("user/1/device/%d", id), "kind": "device", "user_id": "1", "id": fmt.Sprint(id), "created_at": "0", "expires_at": "4102444800000",
		}},
	})
}
