package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"cjj365.cc/bb/local/template"
)

// seeded is what the first user finds on this machine: who they are, and the ids to order a certificate with.
type seeded struct {
	User        int64 `json:"user"`
	ACMEAccount int64 `json:"acmeAccount"`
	DNSProvider int64 `json:"dnsProvider"`
}

// seed gives the first user an ACME account at Pebble and a DNS provider, over the API as anybody would,
// unless they have them from an earlier start.
func (s *stack) seed(ctx context.Context) error {
	orders := slices.ContainsFunc(s.template.API.Routes, func(r template.Route) bool { return strings.HasSuffix(r.Path, "/acme-accounts") })
	if s.acme == nil || s.user.Email == "" || !orders {
		return nil
	}
	c := &apiClient{url: s.url}
	var login struct {
		User struct {
			ID int64 `json:"id"`
		} `json:"user"`
	}
	if err := c.call(ctx, "POST", "/auth/general", map[string]string{"action": "login", "email": s.user.Email, "password": s.user.Password}, &login); err != nil {
		return fmt.Errorf("log the first user in: %w", err)
	}
	own := fmt.Sprintf("/apiv1/users/%d/", login.User.ID)
	s.seeded.User = login.User.ID
	account := map[string]any{"name": "Pebble", "email": s.user.Email, "provider": "pebble", "directory_url": s.acme.pebble.Directory}
	provider := map[string]any{"name": "httpreq", "kind": "httpreq", "config": map[string]any{
		"endpoint": s.acme.dns.HTTPReq, "username": httpreqUser, "password": s.acme.kept.Password,
	}}
	if knot := s.acme.dns.Knot; knot != nil {
		provider = map[string]any{"name": "Knot", "kind": "rfc2136", "config": map[string]any{
			"nameserver": knot.Address, "tsig_key_name": strings.TrimSuffix(knot.Key.Name, "."),
			"tsig_algorithm": strings.TrimSuffix(knot.Key.Algorithm, "."), "tsig_secret": knot.Key.Secret,
		}}
	}
	var err error
	if s.seeded.ACMEAccount, err = c.findOrMake(ctx, own+"acme-accounts", account, func(have map[string]any) bool {
		return have["name"] == account["name"] && have["directory_url"] == account["directory_url"]
	}); err != nil {
		return err
	}
	s.seeded.DNSProvider, err = c.findOrMake(ctx, own+"dns-providers", provider, func(have map[string]any) bool {
		config, _ := have["config"].(map[string]any)
		wanted, _ := provider["config"].(map[string]any)
		return have["name"] == provider["name"] && have["kind"] == provider["kind"] && config["nameserver"] == wanted["nameserver"] && config["endpoint"] == wanted["endpoint"]
	})
	var refused *apiError
	if errors.As(err, &refused) && refused.status == http.StatusBadRequest { // AllowPrivateAddresses was set otherwise
		fmt.Fprintf(os.Stderr, "bb: the first user gets no DNS provider: %s\n", refused.what)
		return nil
	}
	return err
}

// apiError is an answer of the API that is no success.
type apiError struct {
	status int
	what   string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.what) }

// apiClient calls the API with the session of a login.
type apiClient struct{ url, cookie string }

func (c *apiClient) call(ctx context.Context, method, path string, body, data any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if c.cookie != "" {
		request.Header.Set("Cookie", c.cookie)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if cookie, _, _ := strings.Cut(response.Header.Get("Set-Cookie"), ";"); cookie != "" {
		c.cookie = cookie
	}
	var envelope struct {
		Data  json.RawMessage `json:"data"`
		Error struct {
			What string `json:"what"`
		} `json:"error"`
	}
	if err := json.NewDecoder(response.Body).Decode(&envelope); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %w", method, path, &apiError{response.StatusCode, envelope.Error.What})
	}
	return json.Unmarshal(envelope.Data, data)
}

// findOrMake gives the id of the oldest thing of a list that is the one wanted, or of a new one.
func (c *apiClient) findOrMake(ctx context.Context, list string, thing map[string]any, is func(map[string]any) bool) (int64, error) {
	var have []map[string]any
	if err := c.call(ctx, "GET", list+"?limit=100", nil, &have); err != nil {
		return 0, err
	}
	for _, h := range slices.Backward(have) {
		if id, ok := h["id"].(float64); ok && is(h) {
			return int64(id), nil
		}
	}
	var made struct {
		ID int64 `json:"id"`
	}
	err := c.call(ctx, "POST", list, thing, &made)
	return made.ID, err
}
