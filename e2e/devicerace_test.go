package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// try asks until there is an answer that is none of a gateway whose function died or was busy. The error is of the
// context.
func (s *stack) try(ctx context.Context, method, path, body string, headers ...string) (reply, error) {
	for {
		r, err := s.call(method, path, body, headers...)
		if err == nil && r.Status < 500 && r.Status != http.StatusTooManyRequests {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("%s %s: %d %s, %v: %w", method, path, r.Status, r.Body, err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// seen is what a device has been told, in order.
type seen struct {
	*agent
	all []signal
}

// watch polls until ctx ends and then once more. It fails if a signal comes twice, or times do not rise.
func (d *seen) watch(ctx context.Context, s *stack) error {
	for last := false; !last; {
		last = ctx.Err() != nil
		query := "?limit=100&wait=8"
		if last {
			query = "?limit=100"
		}
		if d.cursor != "" {
			query += "&cursor=" + d.cursor
		}
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		r, err := s.try(patient, "GET", "/apiv1/devices/self/updates"+query, "", "Authorization: Bearer "+d.access)
		cancel()
		if err != nil {
			return err
		}
		var data struct{ Signals []signal }
		switch r.Status {
		case http.StatusNoContent:
		case http.StatusOK:
			if err := json.Unmarshal(r.Data, &data); err != nil {
				return err
			}
		default:
			return fmt.Errorf("device %d: %d %s", d.id, r.Status, r.Body)
		}
		for _, next := range data.Signals {
			if len(d.all) > 0 && next.TS <= d.all[len(d.all)-1].TS {
				return fmt.Errorf("device %d is told of %v after %v", d.id, next, d.all[len(d.all)-1])
			}
			d.all = append(d.all, next)
		}
		d.cursor = strings.Trim(r.Header.Get("ETag"), `"`)
		last = last && r.Status == http.StatusNoContent
	}
	return nil
}

// devices registers some with an API key.
func (s *stack) devices(t *testing.T, n int, owner string) []*seen {
	t.Helper()
	_, token := s.key(t, owner, `{"name":"fleet","permissions":[{"obtype":"ForDeviceAuthenticate","obid":"*","actions":["authenticate"]}]}`)
	all := make([]*seen, n)
	for i := range all {
		all[i] = &seen{agent: newAgent(t)}
		all[i].registered(s.mustCall(t, "POST", "/apiv1/me/devices", all[i].self(nil), "Authorization: Bearer "+token))
	}
	return all
}

// Two hundred devices wait while a thousand changes are made: each is told of every change of its own, in order and
// once, and of nobody else's.
func TestTwoHundredDevicesWait(t *testing.T) {
	if shared.Gateway == "sam" {
		t.Skip("sam local runs one process for each function")
	}
	n, changes := 200, 1000
	if testing.Short() {
		n, changes = 40, 200
	}
	owner := shared.login(t)
	errorsOf(t)
	devices := shared.devices(t, n, owner)
	ctx, done := context.WithCancel(t.Context())
	defer done()
	var waiting sync.WaitGroup
	failures := make([]error, n)
	for i, d := range devices {
		waiting.Go(func() { failures[i] = d.watch(ctx, shared) })
	}
	var group sync.WaitGroup
	made := make([]atomic.Int64, n)
	for worker := range 8 {
		group.Go(func() {
			for i := worker; i < changes; i += 8 {
				at := rand.IntN(n)
				body := fmt.Sprintf(`{"installs":[],"after_update_script":"%d of device %d"}`, i, devices[at].id)
				r, err := shared.try(ctx, "PUT", fmt.Sprintf("/apiv1/users/1/devices/%d/install-config", devices[at].id), body, owner)
				if err != nil || r.Status != http.StatusOK {
					t.Errorf("%v, %d %s", err, r.Status, r.Body)
				}
				made[at].Add(1)
			}
		})
	}
	group.Wait()
	done()
	waiting.Wait()
	for i, d := range devices {
		if failures[i] != nil {
			t.Error(failures[i])
		}
		if int64(len(d.all)) != made[i].Load() {
			t.Errorf("device %d is told of %d changes of %d", d.id, len(d.all), made[i].Load())
		}
		config := any(nil)
		for version, s := range d.all {
			if s.Ref["version"] != float64(version+1) || s.Type != "install.updated" || config != nil && s.Ref["config_id"] != config {
				t.Errorf("device %d: %v as number %d", d.id, s, version+1)
			}
			config = s.Ref["config_id"]
		}
	}
}

// killer ends a random process of some functions now and then, until ctx ends, and tells how many it was.
func (s *stack) killer(ctx context.Context, functions ...string) (killed int) {
	tick := time.NewTicker(60 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return killed
		case <-tick.C:
		}
		var pids []int
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return killed
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			stat, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
			_, rest, _ := strings.Cut(string(stat), ") ")
			fields := strings.Fields(rest)
			exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
			if len(fields) > 1 && fields[1] == strconv.Itoa(s.process.Process.Pid) && slices.Contains(functions, filepath.Base(filepath.Dir(exe))) {
				pids = append(pids, pid)
			}
		}
		if len(pids) > 0 && syscall.Kill(pids[rand.IntN(len(pids))], syscall.SIGKILL) == nil {
			killed++
		}
	}
}

// However the functions are killed, no device misses a signal or is told twice, and what it was told of last is what
// it has.
func TestNoSignalIsLostThoughFunctionsAreKilled(t *testing.T) {
	if shared.process == nil {
		t.Skip("the stack is not this test's own: its functions are not killed")
	}
	s, err := start(t.TempDir(), "BB_MEMORY=1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	owner := s.login(t)
	const u = "/apiv1/users/1/"
	post := func(path, body string) int64 {
		t.Helper()
		r := s.mustCall(t, "POST", u+path, body, owner)
		var data struct{ ID int64 }
		if err := json.Unmarshal(r.Data, &data); err != nil || data.ID == 0 {
			t.Fatalf("%s: %d %s", path, r.Status, r.Body)
		}
		return data.ID
	}
	ca := post("cas", `{"name":"fleet"}`)
	account := post("acme-accounts", fmt.Sprintf(`{"name":"fleet","provider":"SELF_CA","ca_id":%d}`, ca))
	certificates := make([]int64, 4)
	for i := range certificates {
		certificates[i] = post("certificates", fmt.Sprintf(`{"domain":"c%d.example","acme_account_id":%d}`, i, account))
	}
	devices := s.devices(t, 6, owner)

	limit := 12 * time.Second
	if testing.Short() {
		limit = 4 * time.Second
	}
	ctx, done := context.WithTimeout(t.Context(), limit)
	defer done()
	watched, end := context.WithCancel(t.Context())
	defer end()
	var group, watchers sync.WaitGroup
	failures := make([]error, len(devices))
	for i, d := range devices {
		watchers.Go(func() { failures[i] = d.watch(watched, s) })
	}
	killed := 0
	group.Go(func() { killed = s.killer(ctx, "Devices", "Updates", "Certificates", "Authorizer") })
	// A worker for each device, so that what it did last is known; each change is repeated until it has an answer.
	on := make([]map[int64]bool, len(devices))
	configs := make([]int, len(devices))
	patient, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	for i, d := range devices {
		on[i] = map[int64]bool{}
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				device, id := fmt.Sprintf("%sdevices/%d/", u, d.id), certificates[rand.IntN(len(certificates))]
				method, path, body, wants := "PUT", device+"install-config", fmt.Sprintf(`{"installs":[],"after_update_script":"%d"}`, n), []int{200}
				switch rand.IntN(3) {
				case 0:
					method, path, body, wants = "POST", device+"certificates", fmt.Sprintf(`{"cert_id":%d}`, id), []int{204}
					on[i][id] = true
				case 1:
					method, path, body, wants = "DELETE", fmt.Sprintf("%scertificates/%d", device, id), "", []int{204, 404}
					on[i][id] = false
				default:
					configs[i]++
				}
				r, err := s.try(patient, method, path, body, owner)
				if err != nil || !slices.Contains(wants, r.Status) {
					t.Errorf("%s %s: %d %s, %v", method, path, r.Status, r.Body, err)
					return
				}
			}
		})
	}
	for _, id := range certificates {
		group.Go(func() {
			for ctx.Err() == nil {
				r, err := s.try(patient, "POST", fmt.Sprintf("%scertificates/%d/issues", u, id), `{}`, owner)
				if err != nil || r.Status != 200 && r.Status != 409 { // 409: the issue of a killed process is open yet
					t.Errorf("renew: %d %s, %v", r.Status, r.Body, err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Duration(200+rand.IntN(400)) * time.Millisecond):
				}
			}
		})
	}
	group.Wait()

	// What a killed process began is carried on by the schedule: until every device is told of the issue in place.
	serials := map[int64]string{}
	for _, id := range certificates {
		for settled := false; !settled; {
			// An issue whose worker was killed stays open for the worker's lease; what is in place is in place.
			var c struct {
				Serial string `json:"serial_number"`
			}
			var rollout struct{ Devices, Told int }
			for path, into := range map[string]any{"": &c, "/rollout": &rollout} {
				r, err := s.try(patient, "GET", fmt.Sprintf("%scertificates/%d%s", u, id, path), "", owner)
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(r.Data, into); err != nil {
					t.Fatalf("%s: %v", r.Body, err)
				}
			}
			if settled = rollout.Told == rollout.Devices; settled {
				serials[id] = c.Serial
				break
			}
			// A minute of the schedule, now.
			if _, err := http.Post(s.Invoke+"/2015-03-31/functions/Renewals/invocations", "application/json", strings.NewReader("{}")); err != nil {
				t.Fatal(err)
			}
			select {
			case <-patient.Done():
				t.Fatalf("certificate %d: %+v %+v", id, c, rollout)
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	end()
	watchers.Wait()

	total := 0
	for i, d := range devices {
		if failures[i] != nil {
			t.Error(failures[i])
		}
		total += len(d.all)
		// Read again from the start: the same, nothing lost and nothing twice.
		again := &seen{agent: &agent{t: t, id: d.id, access: d.access}}
		if err := again.watch(watched, s); err != nil {
			t.Error(err)
		}
		if !slices.EqualFunc(again.all, d.all, func(a, b signal) bool { return a.TS == b.TS && a.Type == b.Type }) {
			t.Errorf("device %d was told of %d signals, and there are %d", d.id, len(d.all), len(again.all))
		}
		version, has, last := 0, map[int64]bool{}, map[int64]string{}
		for _, s := range d.all {
			switch s.Type {
			case "install.updated":
				if version++; s.Ref["version"] != float64(version) {
					t.Errorf("device %d: version %v after %d", d.id, s.Ref["version"], version-1)
				}
			case "cert.updated", "cert.unassigned":
				id := int64(s.Ref["cert_id"].(float64))
				if s.Type == "cert.unassigned" && !has[id] {
					t.Errorf("device %d: certificate %d is taken off twice", d.id, id)
				}
				if serial, _ := s.Ref["serial"].(string); s.Type == "cert.updated" && serial == last[id] && has[id] {
					t.Errorf("device %d is told twice of certificate %d, serial %s", d.id, id, serial)
				} else {
					last[id] = serial
				}
				has[id] = s.Type == "cert.updated"
			}
		}
		if version != configs[i] {
			t.Errorf("device %d was told of %d install configs of %d", d.id, version, configs[i])
		}
		for id, want := range on[i] {
			if has[id] != want {
				t.Errorf("device %d, certificate %d: told that it is on it: %v, and it is: %v", d.id, id, has[id], want)
			}
			if want && last[id] != serials[id] {
				t.Errorf("device %d was told of serial %s of certificate %d, which has %s", d.id, last[id], id, serials[id])
			}
		}
	}
	t.Logf("%d processes killed, %d signals", killed, total)
	if killed < 10 || total < 50 {
		t.Errorf("%d processes were killed, %d signals written: the test tests too little", killed, total)
	}
}
