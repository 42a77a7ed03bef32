package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"cjj365.cc/bb/local/dns"
)

func TestAStackThatOrdersCertificatesHasACAAndDNS(t *testing.T) {
	f := newFront(t)
	f.template = "testdata/certificates.yaml"
	p := f.start("PEBBLE_WFE_NONCEREJECT=0")
	if p.ACME == nil || p.DNS == nil {
		t.Fatalf("stack.json says %s", f.read(stackName))
	}
	environment := p.get(t, "/environment")
	for _, want := range []string{
		"ACME_DIRECTORIES=pebble=" + p.ACME.Directory,
		"DNS_RESOLVERS=" + p.DNS.Resolver,
		"ALLOW_PRIVATE_ADDRESSES=loopback",
		"ACME_ROOTS=-----BEGIN CERTIFICATE-----",
	} {
		if !strings.Contains(environment, want) {
			t.Errorf("%s is not in the function's environment: %s", want, environment)
		}
	}
	said := []string{p.ACME.Directory, p.ACME.Root, p.DNS.Resolver, p.DNS.HTTPReq.URL}
	if dns.FindKnot() == "" {
		said = append(said, "Knot is not installed")
	} else {
		said = append(said, p.DNS.Knot.Address)
	}
	for _, want := range said {
		if !strings.Contains(p.output.String(), want) {
			t.Errorf("%q is not in %s", want, p.output)
		}
	}

	roots := x509.NewCertPool()
	pem, err := os.ReadFile(p.ACME.ServerRoot)
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	response, err := client.Get(p.ACME.Directory)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()

	set := func(user, password string) int {
		request, err := http.NewRequest("POST", p.DNS.HTTPReq.URL+"/present", bytes.NewReader([]byte(`{"fqdn":"_acme-challenge.lab.test.","value":"v"}`)))
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			request.SetBasicAuth(user, password)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if code := set("", ""); code != http.StatusUnauthorized {
		t.Errorf("httpreq without a password: %d", code)
	}
	if code := set(p.DNS.HTTPReq.User, p.DNS.HTTPReq.Password); code != http.StatusOK {
		t.Errorf("httpreq: %d", code)
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, p.DNS.Resolver)
	}}
	if got, err := resolver.LookupTXT(t.Context(), "_acme-challenge.lab.test"); err != nil || len(got) != 1 || got[0] != "v" {
		t.Errorf("the resolver: %v %v", got, err)
	}

	// Users' accounts and DNS providers have the addresses and secrets in the tables.
	p.terminate(t, syscall.SIGTERM)
	if left := f.descendants(); left != "" {
		t.Errorf("left running: %s", left)
	}
	again := f.start()
	if *again.ACME != *p.ACME || again.DNS.HTTPReq != p.DNS.HTTPReq {
		t.Errorf("after a restart: %+v %+v", again.ACME, again.DNS)
	}
	if knot := again.DNS.Knot; knot != nil && (knot.Address != p.DNS.Knot.Address || knot.TSIG != p.DNS.Knot.TSIG) {
		t.Errorf("after a restart: %+v", knot)
	}

	// Killed, the front takes its parts with it, and the next start finds the ports.
	if err := again.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = again.Wait()
	last := f.start()
	if *last.ACME != *p.ACME || last.DNS.Resolver != p.DNS.Resolver {
		t.Errorf("after kill -9: %+v %+v", last.ACME, last.DNS)
	}
	if err := last.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = last.Wait()
	addresses := []string{
		last.DNS.Resolver,
		strings.TrimSuffix(strings.TrimPrefix(last.ACME.Directory, "https://"), "/dir"),
		strings.TrimPrefix(last.DNS.Challtestsrv, "http://"),
	}
	if last.DNS.Knot != nil {
		addresses = append(addresses, last.DNS.Knot.Address)
	}
	for _, address := range addresses {
		awaitRefusal(t, address)
	}
	if said, err := f.command([]string{"reset"}).CombinedOutput(); err != nil {
		t.Errorf("reset: %v, %s", err, said)
	}
}

func TestAPortThatIsTakenIsGivenUp(t *testing.T) {
	s, err := openState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.release()
	var said strings.Builder
	first, err := s.newACME(&said, 0)
	if err != nil || said.Len() > 0 {
		t.Fatal(err, said.String())
	}
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first.kept.Directory))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	second, err := s.newACME(&said, 0)
	if err != nil {
		t.Fatal(err)
	}
	if second.kept.Directory == first.kept.Directory || !strings.Contains(said.String(), "is in use") {
		t.Errorf("%+v: %s", second.kept, said.String())
	}
	if second.kept.DNS != first.kept.DNS || second.kept.Password != first.kept.Password {
		t.Errorf("what was free is not kept: %+v, %+v", first.kept, second.kept)
	}
}

func TestExternalAccounts(t *testing.T) {
	for _, test := range []struct {
		text string
		want int // -1 for an error
	}{{"", 0}, {"kid-1=abc", 1}, {"kid-1=abc kid-2=def=", 2}, {"kid-1", -1}, {"=abc", -1}, {"kid-1=", -1}} {
		got, err := externalAccounts(test.text)
		if (err != nil) != (test.want < 0) || err == nil && len(got) != test.want {
			t.Errorf("%q: %v %v", test.text, got, err)
		}
	}
}

func TestMoodsArePebblesVariables(t *testing.T) {
	got := moods([]string{"PATH=/bin", "PEBBLE_AUTHZREUSE=50", "MY_PEBBLE_X=1"})
	if len(got) != 1 || got["PEBBLE_AUTHZREUSE"] != "50" {
		t.Error(got)
	}
}
