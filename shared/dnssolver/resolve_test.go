package dnssolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"cjj365.cc/bb/shared/egress"
)

func httpreqSolver(t *testing.T, guard egress.Guard) *Solver {
	t.Helper()
	s, err := newSolver(parse(t, "httpreq", configs()["httpreq"]), guard, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// authoritative is a zone with two nameservers of its own, found through the system's resolver, as in
// production. The resolver is the first of them, and all listen on one port of several loopback addresses.
func authoritative(t *testing.T) (ns1, ns2 *zones, guard egress.Guard) {
	t.Helper()
	zone := []string{
		"example.test." + soa, "example.test. 1 NS ns1.example.test.", "example.test. 1 NS ns2.example.test.", "ns1.example.test. 1 A 127.0.0.2", "ns2.example.test. 1 A 127.0.0.3",
		"_acme-challenge.delegated.example.test. 1 CNAME acme.example.test.", "loop.example.test. 1 CNAME loop2.example.test.", "loop2.example.test. 1 CNAME loop.example.test.",
	}
	ns1 = newZones(t, "127.0.0.2:0", zone...)
	_, port, _ := net.SplitHostPort(ns1.address)
	ns2 = newZones(t, "127.0.0.3:"+port, zone...)
	system, before := systemResolvers, nameserverPort
	systemResolvers, nameserverPort = func() ([]string, error) { return []string{ns1.address}, nil }, port
	t.Cleanup(func() { systemResolvers, nameserverPort = system, before })
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", ns1.address)
	}}
	return ns1, ns2, egress.Guard{AllowPrivate: true, AllowLoopback: true, Resolver: resolver}
}

func TestEveryNameserverHasToHaveTheRecord(t *testing.T) {
	ns1, ns2, guard := authoritative(t)
	s := httpreqSolver(t, guard)
	at := "_acme-challenge.example.test."
	look := func(fqdn string, seen bool, where string) {
		t.Helper()
		gotSeen, gotWhere, err := s.Propagated(t.Context(), fqdn, "value")
		if gotSeen != seen || !strings.Contains(gotWhere, where) || where == "" && gotWhere != "" || err != nil {
			t.Errorf("%v, %q, %v", gotSeen, gotWhere, err)
		}
	}
	look(at, false, "ns1.example.test does not have the TXT record at "+at+" yet")
	ns1.setTexts(at, "another", "value")
	look(at, false, "ns2.example.test does not have the TXT record at "+at+" yet")
	ns2.setTexts(at, "value")
	look(at, true, "")
	look("_acme-challenge.EXAMPLE.test", true, "")
	ns2.setTexts(at, "valu", "e")
	look(at, false, "ns2.example.test")

	look("_acme-challenge.delegated.example.test", false, "acme.example.test. yet")
	ns1.setTexts("acme.example.test", "value")
	ns2.setTexts("acme.example.test", "value")
	look("_acme-challenge.delegated.example.test", true, "")

	ns2.answerAll(dns.RcodeServerFailure)
	look("acme.example.test", false, "ns2.example.test answered SERVFAIL")
}

func TestANameserverThatCannotBeReachedTellsNothing(t *testing.T) {
	ns1, _, guard := authoritative(t)
	s := httpreqSolver(t, guard)
	ns1.set(t, "example.test. 1 NS gone.example.test.") // a name without an address
	ns1.setTexts("_acme-challenge.example.test", "value")
	// ns2 has not got it: that one is told of.
	if seen, where, err := s.Propagated(t.Context(), "_acme-challenge.example.test", "value"); seen || !strings.HasPrefix(where, "ns2.") || err != nil {
		t.Errorf("%v, %q, %v", seen, where, err)
	}
	ns1.mutex.Lock()
	ns1.records["example.test."] = slices.DeleteFunc(ns1.records["example.test."], func(rr dns.RR) bool {
		ns, ok := rr.(*dns.NS)
		return ok && ns.Ns == "ns2.example.test."
	})
	ns1.mutex.Unlock()
	if seen, where, err := s.Propagated(t.Context(), "_acme-challenge.example.test", "value"); !seen || err != nil {
		t.Errorf("%v, %q, %v", seen, where, err)
	}
}

// Whoever owns a zone says where its nameservers are.
func TestNameserversOfAZoneMeetTheGuard(t *testing.T) {
	ns1, ns2, guard := authoritative(t)
	guard.AllowPrivate, guard.AllowLoopback = false, false
	s := httpreqSolver(t, guard)
	seen, where, err := s.Propagated(t.Context(), "_acme-challenge.example.test", "value")
	if seen || err != nil || !strings.Contains(where, "is this server itself") {
		t.Errorf("%v, %q, %v", seen, where, err)
	}
	asked1, asked2 := ns1.questions(), ns2.questions()
	if len(asked2) != 0 || slices.ContainsFunc(asked1, func(q string) bool { return strings.HasPrefix(q, "TXT") }) {
		t.Errorf("they were asked: %q, %q", asked1, asked2)
	}
}

func TestWhatCannotBeFound(t *testing.T) {
	_, _, guard := authoritative(t)
	s := httpreqSolver(t, guard)
	for fqdn, permanent := range map[string]bool{"_acme-challenge.nowhere.invalid": true, "loop.example.test": false} {
		_, _, err := s.Propagated(t.Context(), fqdn, "value")
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Step != StepPropagate || e.Permanent != permanent {
			t.Errorf("%s: %v", fqdn, err)
		}
	}
	systemResolvers = func() ([]string, error) { return []string{"127.0.0.1:1"}, nil }
	_, _, err := s.Propagated(t.Context(), "_acme-challenge.example.test", "value")
	if e, ok := errors.AsType[*Error](err); !ok || e.Permanent {
		t.Errorf("no resolver: %v", err)
	}
}

func TestGivenResolversAreAskedInsteadOfTheZonesOwn(t *testing.T) {
	_, ns2, guard := authoritative(t)
	first, second := newZones(t, "127.0.0.1:0"), newZones(t, "127.0.0.1:0")
	resolve(t, first.address, second.address)
	s := httpreqSolver(t, guard)
	at := "_acme-challenge.example.test."
	for _, z := range []*zones{first, second} {
		seen, where, err := s.Propagated(t.Context(), at, "value")
		if seen || err != nil || where != fmt.Sprintf("%s does not have the TXT record at %s yet", z.address, at) {
			t.Errorf("%v, %q, %v", seen, where, err)
		}
		z.setTexts(at, "value")
	}
	if seen, where, err := s.Propagated(t.Context(), at, "value"); !seen || err != nil {
		t.Errorf("%v, %q, %v", seen, where, err)
	}
	if asked := ns2.questions(); len(asked) != 0 {
		t.Errorf("the zone's nameserver was asked: %q", asked)
	}
}

func TestRecord(t *testing.T) {
	// The value is that of RFC 8555 §8.4 for this key authorization, computed by sha256sum and base64.
	for _, domain := range []string{"example.org", "*.example.org"} {
		if fqdn, value := Record(domain, "token.print"); fqdn != "_acme-challenge.example.org." || value != "geGXac0jpnr_GBoGGXIb8nnygzls1TYLC3imeqgZSLw" {
			t.Errorf("%s %s", fqdn, value)
		}
	}
}
