package dynamodb

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// A Meter stands before DynamoDB Local and adds up the units that calls consume.
type Meter struct {
	*httptest.Server
	mu            sync.Mutex
	reads, writes float64
	calls         int
}

// NewMeter starts a meter before an endpoint.
func NewMeter(endpoint string) (*Meter, error) {
	to, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	m := &Meter{}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ModifyResponse = m.count
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		// DynamoDB Local checks no signature, so the question may be put for the client.
		body = append([]byte(`{"ReturnConsumedCapacity":"TOTAL",`), bytes.TrimPrefix(body, []byte("{"))...)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		proxy.ServeHTTP(w, r)
	}))
	return m, nil
}

// capacity is what an answer says that it consumed: of one table, or of each.
type capacity []struct{ CapacityUnits float64 }

func (c *capacity) UnmarshalJSON(text []byte) error {
	if text[0] != '[' {
		text = append(append([]byte("["), text...), ']')
	}
	return json.Unmarshal(text, (*[]struct{ CapacityUnits float64 })(c))
}

// count reads how much an answer consumed.
func (m *Meter) count(r *http.Response) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var answer struct{ ConsumedCapacity capacity }
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	_, operation, _ := strings.Cut(r.Request.Header.Get("X-Amz-Target"), ".")
	for _, c := range answer.ConsumedCapacity {
		switch operation {
		case "GetItem", "BatchGetItem", "Query":
			m.reads += c.CapacityUnits
		default:
			m.writes += c.CapacityUnits
		}
	}
	return nil
}

// Take gives the units since the last time.
func (m *Meter) Take() (reads, writes float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	reads, writes = m.reads, m.writes
	m.reads, m.writes, m.calls = 0, 0, 0
	return reads, writes
}

// Calls tells how many calls there were since the last Take.
func (m *Meter) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}
