package dnssolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cjj365.cc/bb/shared/egress"
)

const tsigSecret = "a25vdC1TRUNSRVQta25vdC1TRUNSRVQta25vdA=="

// knot runs Knot DNS with two zones and a TSIG key, and gives its address.
func knot(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("knotd")
	for _, p := range []string{"/usr/sbin/knotd", "/usr/local/sbin/knotd", "/opt/homebrew/sbin/knotd"} {
		if err != nil {
			path, err = exec.LookPath(p)
		}
	}
	if err != nil {
		t.Skip("Knot DNS is not installed (Debian: apt install knot): updates are not tested against a real nameserver")
	}
	streams, packets := listen(t, "127.0.0.1:0")
	address := streams.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	_, _ = streams.Close(), packets.Close()

	folder := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("example.test.zone", "$ORIGIN example.test.\n@ 1 SOA ns1 hostmaster 1 3600 600 86400 1\n@ 1 NS ns1\nns1 1 A 127.0.0.1\n_acme-challenge.delegated 1 CNAME acme.other.test.\n")
	write("other.test.zone", "$ORIGIN other.test.\n@ 1 SOA ns1 hostmaster 1 3600 600 86400 1\n@ 1 NS ns1\nns1 1 A 127.0.0.1\n")
	write("knot.conf", fmt.Sprintf(`
server:
    listen: 127.0.0.1@%s
    rundir: %[2]q
database:
    storage: %[2]q
log:
  - target: stderr
    any: info
key:
  - id: acme
    algorithm: hmac-sha256
    secret: %s
  - id: stranger
    algorithm: hmac-sha256
    secret: %[3]s
acl:
  - id: acme-txt
    key: acme
    action: update
    update-type: TXT
template:
  - id: default
    storage: %[2]q
    zonefile-sync: -1
    journal-content: none
    zonefile-load: whole
    acl: acme-txt
zone:
  - domain: example.test
  - domain: other.test
`, port, folder, tsigSecret))

	var log bytes.Buffer
	command := exec.Command(path, "-c", filepath.Join(folder, "knot.conf"))
	command.Stderr, command.Stdout = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = command.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = command.Process.Signal(os.Interrupt)
		<-exited
		if t.Failed() {
			t.Log(log.String())
		}
	})

	// It is up when it answers for its zones.
	up := server{name: "knot", address: address, dial: new(net.Dialer).DialContext}
	deadline := time.NewTimer(20 * time.Second)
	for {
		answer, err := up.ask(t.Context(), "other.test", dns.TypeSOA)
		if err == nil && answer.Rcode == dns.RcodeSuccess {
			return address
		}
		select {
		case <-deadline.C:
			t.Fatalf("knotd does not answer: %v\n%s", err, log.String())
		case <-exited:
			t.Fatalf("knotd ended\n%s", log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestUpdatesAtKnot(t *testing.T) {
	address := knot(t)
	resolve(t, address)
	hostileEnvironment(t)
	values := object{"nameserver": address, "tsig_key_name": "acme", "tsig_secret": tsigSecret, "ttl": 1, "propagation_timeout_seconds": 10}
	solver := func(changes object) *Solver {
		t.Helper()
		all := object{}
		for _, m := range []object{values, changes} {
			for k, v := range m {
				all[k] = v
			}
		}
		s, err := New(parse(t, "rfc2136", all), local)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	texts := func(name string) []string {
		t.Helper()
		answer, err := recursive(t.Context(), name, dns.TypeTXT)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, rr := range answer.Answer {
			if txt, ok := rr.(*dns.TXT); ok {
				list = append(list, strings.Join(txt.Txt, ""))
			}
		}
		slices.Sort(list)
		return list
	}
	at := "_acme-challenge.www.example.test"
	_, apex := Record("www.example.test", "token-apex.print")
	_, wild := Record("www.example.test", "token-wild.print")
	both := slices.Sorted(slices.Values([]string{apex, wild}))

	t.Run("laws", func(t *testing.T) {
		for range 2 { // the second time by another Solver, as after a killed invocation
			s := solver(nil)
			if err := errors.Join(s.Present(t.Context(), "www.example.test", "token-apex.print"), s.Present(t.Context(), "*.www.example.test", "token-wild.print")); err != nil {
				t.Fatal(err)
			}
			if got := texts(at); !slices.Equal(got, both) {
				t.Errorf("the records are %q", got)
			}
		}
		if seen, where, err := solver(nil).Propagated(t.Context(), at, apex); !seen || err != nil {
			t.Errorf("%s, %v", where, err)
		}
		for range 2 {
			if err := solver(nil).CleanUp(t.Context(), "www.example.test", "token-apex.print"); err != nil || !slices.Equal(texts(at), []string{wild}) {
				t.Errorf("%v, %q", err, texts(at))
			}
		}
		if seen, where, err := solver(nil).Propagated(t.Context(), at, apex); seen || err != nil || where != address+" does not have the TXT record at "+at+". yet" {
			t.Errorf("%v, %q, %v", seen, where, err)
		}
	})
	t.Run("delegation", func(t *testing.T) {
		s := solver(nil)
		if err := s.Present(t.Context(), "delegated.example.test", "token-apex.print"); err != nil || !slices.Equal(texts("acme.other.test"), []string{apex}) {
			t.Errorf("%v, %q", err, texts("acme.other.test"))
		}
		fqdn, value := Record("delegated.example.test", "token-apex.print")
		if seen, where, err := s.Propagated(t.Context(), fqdn, value); !seen || err != nil {
			t.Errorf("%s, %v", where, err)
		}
	})
	t.Run("probe", func(t *testing.T) {
		started := time.Now()
		for _, domain := range []string{"www.example.test", "*.example.test", "delegated.example.test"} {
			if err := solver(nil).Probe(t.Context(), domain); err != nil {
				t.Errorf("%s: %v", domain, err)
			}
		}
		t.Logf("three probes in %v", time.Since(started).Round(time.Millisecond))
	})
	t.Run("refusals", func(t *testing.T) {
		for _, test := range []struct {
			name      string
			changes   object
			domain    string
			permanent bool
			says      string
		}{
			{"wrong secret", object{"tsig_secret": "d3JvbmctU0VDUkVULXdyb25nLVNFQ1JFVC13cm8="}, "www.example.test", true, "refused TSIG key"},
			{"unknown key", object{"tsig_key_name": "nobody"}, "www.example.test", true, "refused TSIG key"},
			{"key without the right", object{"tsig_key_name": "stranger"}, "www.example.test", true, "may not change TXT records of zone example.test."},
			{"wrong algorithm", object{"tsig_algorithm": "hmac-sha512"}, "www.example.test", true, "refused TSIG key"},
			{"no such zone", nil, "www.example.org", true, "no nameserver tells of a zone"},
			{"zone of somebody else", object{"zone": "example.org"}, "www.example.org", true, "example.org"},
			{"nobody listens", object{"nameserver": "127.0.0.1:1"}, "www.example.test", false, "refused"},
		} {
			err := solver(test.changes).Present(t.Context(), test.domain, "token.print")
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Permanent != test.permanent || !strings.Contains(e.What, test.says) || strings.Contains(e.What, tsigSecret) || strings.Contains(e.What, "d3Jvbmct") {
				t.Errorf("%s: %v, %+v", test.name, err, e)
			}
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := solver(nil).Present(ended, "www.example.test", "token.print"); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		s, err := New(parse(t, "rfc2136", values), egress.Guard{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Present(t.Context(), "www.example.test", "token.print"); err == nil || !strings.Contains(err.Error(), "this server itself") {
			t.Errorf("a private nameserver: %v", err)
		}
	})
}
