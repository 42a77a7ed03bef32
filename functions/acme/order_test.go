package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/pki"
)

func TestWhatAnOrderMayAskFor(t *testing.T) {
	w := newWorld(t)
	w.ca = w.newCA(nil, func(c *ca.CA) {
		c.Constraints = pki.Constraints{PermittedDNS: []string{"example.test"}, PermittedIP: []string{"10.0.0.0/8"}}
		c.Profiles = []ca.Profile{{Name: "short", Usages: []string{"serverAuth"}, DNS: []string{"*"}, Most: 3600}}
	})
	c := w.register(w.bind("*"))
	id := func(kind, value string) acmeserver.Identifier { return acmeserver.Identifier{Type: kind, Value: value} }
	many := func(n int) (ids []acmeserver.Identifier) {
		for i := range n {
			ids = append(ids, id("dns", fmt.Sprintf("n%d.example.test", i)))
		}
		return ids
	}
	at := func(d time.Duration) string { return w.now().Add(d).UTC().Format(time.RFC3339) }
	one := []acmeserver.Identifier{id("dns", "a.example.test")}
	for _, test := range []struct {
		name, want string
		order      map[string]any
	}{
		{"no identifiers", "400 malformed", map[string]any{}},
		{"101", "400 malformed", map[string]any{"identifiers": many(101)}},
		{"100", "201", map[string]any{"identifiers": many(100)}},
		{"an empty name", "400 rejectedIdentifier", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "")}}},
		{"an e-mail address", "400 unsupportedIdentifier", map[string]any{"identifiers": []acmeserver.Identifier{id("email", "ann@example.test")}}},
		{"an address as dns", "400 malformed", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "10.1.2.3")}}},
		{"a name as ip", "400 malformed", map[string]any{"identifiers": []acmeserver.Identifier{id("ip", "a.example.test")}}},
		{"an address", "201", map[string]any{"identifiers": []acmeserver.Identifier{id("ip", "10.1.2.3")}}},
		{"a wildcard", "201", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "*.example.test")}}},
		{"an asterisk elsewhere", "400 malformed", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "a.*.example.test")}}},
		{"two asterisks", "400 malformed", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "*.*.example.test")}}},
		{"part of a label", "400 malformed", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "a*.example.test")}}},
		{"not within the CA's constraints", "400 rejectedIdentifier", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "a.example.org")}}},
		{"an address without", "400 rejectedIdentifier", map[string]any{"identifiers": []acmeserver.Identifier{id("ip", "192.168.1.1")}}},
		{"an underscore", "400 rejectedIdentifier", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "_a.example.test")}}},
		{"a URL", "400 rejectedIdentifier", map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "https://a.example.test")}}},
		{"notBefore", "400 malformed", map[string]any{"identifiers": one, "notBefore": at(0)}},
		{"notAfter in an hour", "201", map[string]any{"identifiers": one, "notAfter": at(time.Hour)}},
		{"notAfter in a second", "400 malformed", map[string]any{"identifiers": one, "notAfter": at(time.Second)}},
		{"notAfter in the past", "400 malformed", map[string]any{"identifiers": one, "notAfter": at(-time.Hour)}},
		{"notAfter beyond the profile", "400 malformed", map[string]any{"identifiers": one, "notAfter": at(3 * 365 * 24 * time.Hour)}},
		{"notAfter that is no time", "400 malformed", map[string]any{"identifiers": one, "notAfter": "tomorrow"}},
		{"a profile", "201", map[string]any{"identifiers": one, "profile": "client"}},
		{"one of the user's", "201", map[string]any{"identifiers": one, "profile": "short"}},
		{"beyond the end of that", "400 malformed", map[string]any{"identifiers": one, "profile": "short", "notAfter": at(2 * time.Hour)}},
		{"a profile that there is not", "400 invalidProfile", map[string]any{"identifiers": one, "profile": "x"}},
		{"a profile without DNS names", "400 invalidProfile", map[string]any{"identifiers": one, "profile": "smime"}},
		{"replaces something", "400 malformed", map[string]any{"identifiers": one, "replaces": "AAAA.BBBB"}},
		{"replaces nothing that can be read", "400 malformed", map[string]any{"identifiers": one, "replaces": "?"}},
	} {
		if r := c.post(c.at("new-order"), test.order); r.problem() != test.want {
			t.Errorf("%s: %s, want %s", test.name, r, test.want)
		}
	}

	r := c.want("400 rejectedIdentifier", c.at("new-order"), map[string]any{"identifiers": identifiers("a.example.test", "a.example.org", "b.example.org")})
	if len(r.Subproblems) != 2 || r.Subproblems[0].Identifier != identifiers("a.example.org")[0] || r.Subproblems[1].Type != namespace+"rejectedIdentifier" {
		t.Errorf("%s", r)
	}
	r = c.want("201", c.at("new-order"), map[string]any{"identifiers": []acmeserver.Identifier{id("dns", "A.example.test"), id("dns", "a.example.test."), id("dns", "b.example.test")}})
	if !slices.Equal(r.Identifiers, identifiers("a.example.test", "b.example.test")) || len(r.Authorizations) != 2 {
		t.Errorf("%s", r)
	}
	pinned := w.register(w.bindAs(acmeserver.Binding{Names: []string{"*"}, Profile: "client"}))
	pinned.want("400 invalidProfile", c.at("new-order"), map[string]any{"identifiers": one, "profile": "server"})
	if r := pinned.want("201", c.at("new-order"), map[string]any{"identifiers": one}); !strings.Contains(r.text, `"profile":"client"`) {
		t.Errorf("%s", r)
	}
}

func TestWhichNamesNeedAChallenge(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("lab.test", ".below.test", "10.0.0.0/8"))
	for _, test := range []struct {
		name, status string
		challenges   []string
	}{
		{"lab.test", "valid", []string{"http-01", "dns-01"}},
		{"a.b.lab.test", "valid", []string{"http-01", "dns-01"}},
		{"*.lab.test", "valid", []string{"dns-01"}},
		{"a.below.test", "valid", []string{"http-01", "dns-01"}},
		{"10.1.2.3", "valid", []string{"http-01"}},
		{"below.test", "pending", []string{"http-01", "dns-01"}},
		{"xlab.test", "pending", []string{"http-01", "dns-01"}},
		{"*.example.test", "pending", []string{"dns-01"}},
		{"192.168.1.1", "pending", []string{"http-01"}},
		{"fd00::1", "pending", []string{"http-01"}},
	} {
		order := "pending"
		if test.status == "valid" {
			order = "ready"
		}
		o := c.order(order, test.name)
		a := c.want("200", o.Authorizations[0], nil)
		var types []string
		for _, ch := range a.Challenges {
			types = append(types, ch.Type)
			if token, ok := decodeBase64(ch.Token); string(ch.Status) != test.status || !ok || len(token) < 16 {
				t.Errorf("%s: %+v", test.name, ch)
			}
			if r := c.want("200", ch.URL, nil); r.Token != ch.Token || !slices.Contains(r.header.Values("Link"), "<"+o.Authorizations[0]+`>;rel="up"`) {
				t.Errorf("%s: %s %v", test.name, r, r.header)
			}
		}
		wildcard := strings.HasPrefix(test.name, "*.")
		if a.Status != test.status || a.Wildcard != wildcard || a.Identifier.Value != strings.TrimPrefix(test.name, "*.") || !slices.Equal(types, test.challenges) {
			t.Errorf("%s: %s", test.name, a)
		}
	}
	none := w.register(w.bind())
	none.order("pending", "lab.test")
	none.order("pending", "10.1.2.3")
	onlyNames := w.register(w.bind("lab.test")) // a list without ranges covers no address
	onlyNames.order("pending", "10.1.2.3")
	if o := c.order("pending", "lab.test", "other.test"); c.want("200", o.Authorizations[0], nil).Status != "valid" || c.want("200", o.Authorizations[1], nil).Status != "pending" {
		t.Errorf("%s", o)
	}
}

func TestAnAuthorizationIsDeactivated(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("lab.test"))
	o := c.order("ready", "lab.test")
	c.want("400 malformed", o.Authorizations[0], map[string]string{"status": "valid"})
	if a := c.want("200", o.Authorizations[0], map[string]string{"status": "deactivated"}); a.Status != "deactivated" {
		t.Errorf("%s", a)
	}
	if o := c.want("200", o.header.Get("Location"), nil); o.Status != "invalid" {
		t.Errorf("%s", o)
	}
}
