package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"cjj365.cc/bb/shared/dynamo"
)

// limit is what the issue of a request may take when the table does not answer.
const limit = time.Second

// faulty puts toxiproxy between the authorizer and DynamoDB Local.
func faulty(t *testing.T, w *world) *toxiproxy.Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, "dynamodb", "127.0.0.1:0", strings.TrimPrefix(w.tables.Endpoint, "http://"))
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	w.through(t, "http://"+proxy.Listen)
	return proxy
}

// through points the authorizer at another endpoint.
func (w *world) through(t *testing.T, endpoint string) {
	t.Helper()
	t.Setenv("AWS_ENDPOINT_URL_DYNAMODB", endpoint)
	client, err := dynamo.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	w.authn.Client = client
}

// mustFail asks with a good and a bad token: both must fail, in time, and neither be refused or let in.
func (w *world) mustFail(t *testing.T, headers header) {
	t.Helper()
	begin := time.Now()
	got, _ := w.ask(t, "GET/apiv1/me", headers)
	if took := time.Since(begin); got != failed || took > limit {
		t.Errorf("%s after %v, want failed within %v", got, took, limit)
	}
}

func TestItFailsClosedAndFast(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	for _, tc := range []struct {
		name       string
		toxic      string // of toxiproxy, in its JSON
		attributes string
	}{
		{"hangs", "timeout", `{"timeout":0}`},
		{"resets", "reset_peer", `{"timeout":0}`},
		{"answers too late", "latency", `{"latency":2000}`},
		{"answers torn", "limit_data", `{"bytes":150}`},
		{"trickles", "bandwidth", `{"rate":0}`},
	} {
		for _, warm := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, warm %v", tc.name, warm), func(t *testing.T) {
				proxy := faulty(t, w)
				if warm {
					w.expect(t, allowed, "GET/apiv1/me", bearer(key))
				}
				if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":%q,"stream":"downstream","attributes":%s}`, tc.toxic, tc.attributes))); err != nil {
					t.Fatal(err)
				}
				w.mustFail(t, bearer(key))
				proxy.Toxics.ResetToxics(context.Background())
				w.expect(t, allowed, "GET/apiv1/me", bearer(key)) // and it recovers at once
			})
		}
	}
}

func TestItWaitsForASlowTable(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	proxy := faulty(t, w)
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"type":"latency","stream":"downstream","attributes":{"latency":300}}`)); err != nil {
		t.Fatal(err)
	}
	w.expect(t, allowed, "GET/apiv1/me", bearer(key))
}

func TestItFailsWhenTheTableRefuses(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"throttles":      {400, `{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}`},
		"fails":          {500, `{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError"}`},
		"is unavailable": {503, `<html>`},
		"denies access":  {400, `{"__type":"com.amazon.coral.service#AccessDeniedException"}`},
		"has no table":   {400, `{"__type":"com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"}`},
		"says nonsense":  {200, `{"Item":[`},
		"says nothing":   {200, ``},
	} {
		t.Run(name, func(t *testing.T) {
			table := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				rw.WriteHeader(answer.status)
				fmt.Fprint(rw, answer.body)
			}))
			defer table.Close()
			w.through(t, table.URL)
			w.mustFail(t, bearer(key))
		})
	}
	t.Run("does not listen", func(t *testing.T) {
		closed, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		closed.Close()
		w.through(t, "http://"+closed.Addr().String())
		w.mustFail(t, bearer(key))
	})
}

// Reading and marking share one budget, and a mark that does not matter gets little of it.
func TestASlowReadAndAHangingWrite(t *testing.T) {
	w := newWorld(t)
	old, fresh := w.rolledKey(t)
	end := make(chan struct{})
	table := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".UpdateItem") {
			<-end
			return
		}
		timer := time.NewTimer(500 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		forward(rw, r, w.tables.Endpoint)
	}))
	defer table.Close()
	defer close(end)
	w.through(t, table.URL)
	w.mustFail(t, bearer(fresh))
	for range 2 {
		begin := time.Now()
		w.expect(t, allowed, "GET/apiv1/me", bearer(old))
		if took := time.Since(begin); took > limit {
			t.Errorf("allowed after %v", took)
		}
	}
}

func TestAFirstUseThatCannotBeMarkedFails(t *testing.T) {
	w := newWorld(t)
	old, fresh := w.rolledKey(t)
	var writable bool
	table := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !writable && strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".UpdateItem") {
			rw.WriteHeader(http.StatusInternalServerError)
			return
		}
		forward(rw, r, w.tables.Endpoint)
	}))
	defer table.Close()
	w.through(t, table.URL)
	w.mustFail(t, bearer(fresh))
	w.expect(t, allowed, "GET/apiv1/me", bearer(old)) // its own last-used mark fails too, which does not matter
	writable = true
	w.expect(t, allowed, "GET/apiv1/me", bearer(fresh))
	w.now = w.now.Add(time.Minute)
	w.expect(t, unauthorized, "GET/apiv1/me", bearer(old))
}

// TestOneConsistentRead counts what an authorization asks of the table.
func TestOneConsistentRead(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	var calls []string
	table := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		if operation == "GetItem" && !bytes.Contains(body, []byte(`"ConsistentRead":true`)) {
			t.Errorf("a read that may be stale: %s", body)
		}
		calls = append(calls, operation)
		forward(rw, r, w.tables.Endpoint)
	}))
	defer table.Close()
	w.through(t, table.URL)
	for _, tc := range []struct {
		after time.Duration
		want  string
	}{{0, "GetItem UpdateItem"}, {time.Second, "GetItem"}, {time.Second, "GetItem"}, {time.Minute, "GetItem UpdateItem"}} {
		w.now = w.now.Add(tc.after)
		calls = nil
		w.expect(t, allowed, "GET/apiv1/me", bearer(key))
		if got := strings.Join(calls, " "); got != tc.want {
			t.Errorf("%v later: %s, want %s", tc.after, got, tc.want)
		}
	}
}
