package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"cjj365.cc/bb/local/dns"
	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/dnssolver"
	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/storetest"
)

const user, password = "bb", "the password of httpreq"

// names are the DNS servers of all tests.
var names *dns.Servers

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bbd")
	if err != nil {
		log.Fatal(err)
	}
	if names, err = dns.Start(context.Background(), dns.Options{Dir: dir, User: user, Password: password}); err != nil {
		log.Fatal(err)
	}
	dnssolver.SetResolvers([]string{names.Resolver})
	code := func() int {
		defer os.RemoveAll(dir)
		defer names.Stop()
		return awstest.Run(m)
	}()
	os.Exit(code)
}

func TestAProbe(t *testing.T) {
	tables, keys, now := storetest.New(t), awstest.Key(t), storetest.Now()
	provider := func(owner int64, config string) int64 {
		t.Helper()
		parsed, err := dnsprovider.Parse("httpreq", json.RawMessage(config), egress.Guard{AllowPrivate: true, AllowLoopback: true})
		if err != nil {
			t.Fatal(err)
		}
		id, err := tables.Store.NextDNSProviderID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := dnsprovider.Provider{User: owner, ID: id, Name: "x", Config: parsed, CreatedAt: now, UpdatedAt: now}
		if p.Secrets, err = keys.Seal(t.Context(), kmskey.DNSProvider(owner, id), parsed.Secrets()); err != nil {
			t.Fatal(err)
		}
		if err := tables.Store.CreateDNSProvider(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
		return id
	}
	config := func(password string) string {
		return fmt.Sprintf(`{"endpoint":%q,"username":%q,"password":%q}`, names.HTTPReq, user, password)
	}
	good, wrong, foreign := provider(1, config(password)), provider(1, config("not the password")), provider(2, config(password))
	down := provider(1, `{"endpoint":"http://127.0.0.1:9"}`)
	open := functiontest.New(t, (&handler{store: tables.Store, keys: keys, guard: egress.Allowing("loopback"), now: storetest.Now}).routes(), "")
	closed := functiontest.New(t, (&handler{store: tables.Store, keys: keys, now: storetest.Now}).routes(), "")
	path := func(id int64) string { return fmt.Sprintf("/apiv1/users/1/dns-providers/%d/test", id) }
	session := functiontest.Session(1, now)

	for _, test := range []struct {
		name      string
		function  *functiontest.Function
		id        int64
		domain    string
		ok        bool
		step      string
		permanent bool
		says      string
	}{
		{"all is well", open, good, "probe.test", true, "", false, ""},
		{"a wildcard", open, good, "*.probe.test", true, "", false, ""},
		{"the wrong password", open, wrong, "probe.test", false, "present", true, "401"},
		{"nobody there", open, down, "probe.test", false, "present", false, "refused"},
		{"an address that the deployment does not allow", closed, good, "probe.test", false, "present", true, "https"},
	} {
		var r result
		a := test.function.Want(t, 200, session, "POST", path(test.id), fmt.Sprintf(`{"domain":%q}`, test.domain))
		a.Into(t, &r)
		if r.OK != test.ok || r.Step != test.step || r.Permanent != test.permanent || !strings.Contains(r.Error, test.says) || strings.Contains(a.Body, password) || strings.Contains(a.Body, "not the password") {
			t.Errorf("%s: %+v", test.name, r)
		}
	}
	open.Want(t, 404, session, "POST", path(foreign), `{"domain":"probe.test"}`)
	open.Want(t, 400, session, "POST", path(good), `{"domain":"not a name"}`)
	open.Want(t, 400, session, "POST", path(good), `{}`)
	for permissions, status := range map[access.Permissions]int{
		"dns_providers:*:read": 403, "certs:*:write": 403, access.Permissions(fmt.Sprintf("dns_providers:%d:write", good)): 200,
	} {
		open.Want(t, status, functiontest.Key(1, permissions, now), "POST", path(good), `{"domain":"probe.test"}`)
	}
}
