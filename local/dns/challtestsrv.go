package dns

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"cjj365.cc/bb/local/child"
)

// A challtestsrv is Pebble's DNS server, running. It can remove all TXT records of a name only; to remove
// one, the others are set again, and nobody is answered in between.
type challtestsrv struct {
	address    string
	management string
	process    *child.Process
	client     *http.Client

	mu     sync.RWMutex        // held for reading by who is answered
	values map[string][]string // of TXT records, by canonical name
}

func startChalltestsrv(ctx context.Context, o Options) (*challtestsrv, error) {
	path, err := child.Tool("pebble", "pebble-challtestsrv")
	if err != nil {
		return nil, err
	}
	c := &challtestsrv{
		address:    address(o.Ports.Challtestsrv),
		management: "http://" + address(o.Ports.Management),
		client:     &http.Client{Timeout: 5 * time.Second},
		values:     map[string][]string{},
	}
	c.process, err = child.Start(child.Program{
		Path: path,
		Args: []string{"-dnsserver", c.address, "-management", address(o.Ports.Management), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""},
		Log:  o.Log,
	})
	if err != nil {
		return nil, err
	}
	err = c.process.Await(ctx, func(ctx context.Context) error {
		if _, err := ask(ctx, "tcp", c.address, "ready.invalid.", dns.TypeTXT); err != nil {
			return err
		}
		if _, err := ask(ctx, "udp", c.address, "ready.invalid.", dns.TypeTXT); err != nil {
			return err
		}
		return c.post(ctx, "/clear-request-history", map[string]string{"host": "ready.invalid.", "type": "dns"})
	})
	if err != nil {
		c.process.Stop()
		return nil, err
	}
	return c, nil
}

func (c *challtestsrv) ask(ctx context.Context, network, name string, qtype uint16) (*dns.Msg, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return ask(ctx, network, c.address, name, qtype)
}

// set adds a TXT record. One that is there already stays one.
func (c *challtestsrv) set(ctx context.Context, r record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.values[r.name], r.value) {
		return nil
	}
	if err := c.setTXT(ctx, r); err != nil {
		return err
	}
	c.values[r.name] = append(c.values[r.name], r.value)
	return nil
}

// remove removes a TXT record that set added. One that is not there is no error.
func (c *challtestsrv) remove(ctx context.Context, r record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.values[r.name], r.value) {
		return nil
	}
	if err := c.post(ctx, "/clear-txt", map[string]string{"host": r.name}); err != nil {
		return err
	}
	left := slices.DeleteFunc(c.values[r.name], func(v string) bool { return v == r.value })
	delete(c.values, r.name)
	for _, value := range left {
		if err := c.setTXT(ctx, record{r.name, value}); err != nil {
			return err
		}
		c.values[r.name] = append(c.values[r.name], value)
	}
	return nil
}

func (c *challtestsrv) setTXT(ctx context.Context, r record) error {
	return c.post(ctx, "/set-txt", map[string]string{"host": r.name, "value": r.value})
}

func (c *challtestsrv) post(ctx context.Context, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.management+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask challtestsrv: %w", err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection is used again
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask challtestsrv for %s: %s", path, response.Status)
	}
	return nil
}
