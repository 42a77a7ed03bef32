package egress

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// canary listens on loopback and counts who connects.
type canary struct {
	port     string
	connects atomic.Int64
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	c := &canary{}
	v4, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, c.port, _ = net.SplitHostPort(v4.Addr().String())
	listeners := []net.Listener{v4}
	if v6, err := net.Listen("tcp", "[::1]:"+c.port); err == nil {
		listeners = append(listeners, v6)
	}
	for _, l := range listeners {
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				c.connects.Add(1)
				_ = conn.Close()
			}
		}()
	}
	return c
}

// names is a resolver over a DNS server of the test. Each query for a name takes the next of its
// answers, and the last one again and again.
func names(t *testing.T, records map[string][][]string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mutex sync.Mutex
	asked := map[string]int{}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
		answers := records[name]
		if len(answers) == 0 {
			m.Rcode = dns.RcodeNameError
			_ = w.WriteMsg(m)
			return
		}
		mutex.Lock()
		defer mutex.Unlock()
		if q.Question[0].Qtype == dns.TypeA {
			asked[name]++
		}
		for _, text := range answers[min(max(asked[name], 1), len(answers))-1] {
			kind := "A"
			if strings.Contains(text, ":") {
				kind = "AAAA"
			}
			if dns.StringToType[kind] == q.Question[0].Qtype {
				rr, err := dns.NewRR(fmt.Sprintf("%s. 0 IN %s %s", name, kind, text))
				if err != nil {
					t.Error(err)
				}
				m.Answer = append(m.Answer, rr)
			}
		}
		_ = w.WriteMsg(m)
	})}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// The corpus: hosts of URLs that lead somewhere they should not. %s is the canary's port.
var corpus = []string{
	// Loopback and this host, as IPv4 literals of every make.
	"127.0.0.1:%s", "127.0.0.2:%s", "127.255.255.254:%s", "127.1:%s", "127.0.1:%s", "0:%s", "0.0.0.0:%s", "0.1.2.3:%s",
	"2130706433:%s", "0x7f000001:%s", "0x7f.0.0.1:%s", "0X7F.1:%s", "017700000001:%s", "0177.0.0.1:%s", "0177.0.0.01:%s", "127.0.0.0x1:%s",
	"127.0.0.1.:%s", "127.000.000.001:%s", "%%31%%32%%37.0.0.1:%s", "①②⑦.⓪.⓪.①:%s", "127。0。0。1:%s", "１２７.0.0.1:%s", "4294967297:%s",
	"localhost:%s", "LOCALHOST:%s", "localhost.:%s", "a.localhost:%s", "ⓛocalhost:%s", "localhost.localdomain:%s", "ip6-localhost:%s",
	// IPv6.
	"[::1]:%s", "[0:0:0:0:0:0:0:1]:%s", "[::]:%s", "[::ffff:127.0.0.1]:%s", "[::ffff:7f00:1]:%s", "[::127.0.0.1]:%s", "[64:ff9b::7f00:1]:%s",
	"[64:ff9b::169.254.169.254]:%s", "[64:ff9b:1::7f00:1]:%s", "[2002:7f00:1::]:%s", "[2001:0:7f00:1::]:%s", "[fe80::1]:%s", "[fe80::1%%25eth0]:%s", "[::1%%25lo]:%s",
	"[fc00::1]:%s", "[fd12:3456::1]:%s", "[fec0::1]:%s", "[ff02::1]:%s", "[100::1]:%s", "[2001:db8::1]:%s", "[3fff::1]:%s", "[5f00::1]:%s",
	// Metadata.
	"169.254.169.254", "169.254.170.2", "169.254.169.254.", "0xa9fea9fe", "2852039166", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "[fd00:ec2::23]",
	"168.63.129.16", "100.100.100.200", "metadata.google.internal", "instance-data.ec2.internal",
	// Private and reserved.
	"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "192.0.0.170", "192.0.2.1",
	"198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.9", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
	"printer.local", "router", "nas.home.arpa", "1.0.0.127.in-addr.arpa",
	// Names that resolve to such addresses: only the dialler can tell.
	"loopback.example:%s", "loopback6.example:%s", "mapped.example:%s", "metadata.example", "ten.example", "both.example:%s", "rebind.example:%s",
}

// The answers to those names; rebind.example changes its own after the first query.
var hostile = map[string][][]string{
	"loopback.example": {{"127.0.0.1"}}, "loopback6.example": {{"::1"}}, "mapped.example": {{"::ffff:127.0.0.1"}}, "metadata.example": {{"169.254.169.254"}},
	"ten.example": {{"10.0.0.1", "fd00::1"}}, "both.example": {{"192.0.2.1", "127.0.0.1", "::1"}}, "rebind.example": {{"1.1.1.1"}, {"127.0.0.1"}},
	"localhost.localdomain": {{"127.0.0.1"}},
}

func TestNothingNonPublicIsConnectedTo(t *testing.T) {
	canary := newCanary(t)
	guard := Guard{Resolver: names(t, hostile)}
	// The name is checked while it is still innocent.
	if found, err := guard.Resolver.LookupHost(t.Context(), "rebind.example"); err != nil || found[0] != "1.1.1.1" {
		t.Fatalf("rebind.example: %v, %v", found, err)
	}
	client := guard.Client(5 * time.Second)
	tried := 0
	for _, host := range corpus {
		if strings.Contains(host, "%") {
			host = fmt.Sprintf(strings.Replace(host, ":%s", ":%[1]s", 1), canary.port)
		}
		for _, raw := range []string{"https://" + host + "/", "https://" + host + "/present?a=b"} {
			tried++
			response, err := client.Get(raw)
			if err == nil {
				_ = response.Body.Close()
				t.Errorf("%s: answered %s", raw, response.Status)
				continue
			}
			// net/url refuses some before the guard sees them.
			if _, parses := url.Parse(raw); parses == nil && !IsRefused(err) {
				t.Errorf("%s: %v", raw, err)
			}
		}
		// A nameserver is dialled without a URL.
		bare := strings.NewReplacer("%25", "%").Replace(host)
		if _, _, err := net.SplitHostPort(bare); err != nil {
			bare = net.JoinHostPort(strings.Trim(bare, "[]"), "53")
		}
		for _, network := range []string{"tcp", "udp"} {
			tried++
			early := guard.CheckHostPort(bare)
			if early != nil {
				continue
			}
			if conn, err := guard.DialContext(t.Context(), network, bare); err == nil {
				_ = conn.Close()
				t.Errorf("%s %s: connected", network, bare)
			} else if !IsRefused(err) {
				t.Errorf("%s %s: %v", network, bare, err)
			}
		}
	}
	if n := canary.connects.Load(); n != 0 {
		t.Errorf("the canary was reached %d times", n)
	}
	t.Logf("%d addresses, %d tries", len(corpus), tried)
	if len(corpus) < 60 {
		t.Errorf("the corpus has %d addresses", len(corpus))
	}
}

func TestDialRefusesWithoutTheEarlyChecks(t *testing.T) {
	canary := newCanary(t)
	guard := Guard{Resolver: names(t, hostile)}
	for _, address := range []string{"127.0.0.1:%s", "[::1]:%s", "[::ffff:127.0.0.1]:%s", "0.0.0.0:%s", "[::]:%s", "localhost:%s", "loopback.example:%s", "mapped.example:%s", ":%s"} {
		for _, network := range []string{"tcp", "udp"} {
			conn, err := guard.DialContext(t.Context(), network, fmt.Sprintf(address, canary.port))
			if err == nil {
				_ = conn.Close()
			}
			if !IsRefused(err) {
				t.Errorf("%s %s: %v", network, address, err)
			}
		}
	}
	if conn, err := guard.DialContext(t.Context(), "unix", "/run/x.sock"); !IsRefused(err) {
		t.Errorf("unix: %v, %v", conn, err)
	}
	if n := canary.connects.Load(); n != 0 {
		t.Errorf("the canary was reached %d times", n)
	}
}

// public makes a client whose requests to public.example reach handler; all else meets the guard. The server is
// on loopback, since there is no public one in a test.
func public(t *testing.T, guard Guard, handler http.HandlerFunc) (*http.Client, string) {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	client := guard.Client(5 * time.Second)
	transport := client.Transport.(*guarded).next
	transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	transport.TLSClientConfig.ServerName = "example.com" // the name in httptest's certificate
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.EqualFold(address, "public.example:443") {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}
		return guard.DialContext(ctx, network, address)
	}
	return client, "https://public.example/"
}

func TestRedirects(t *testing.T) {
	canary := newCanary(t)
	guard := Guard{Resolver: names(t, hostile)}
	client, base := public(t, guard, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}
	})
	trusting, _ := public(t, guard, nil)
	trusting.Transport = client.Transport
	trusting.CheckRedirect = nil // net/http's own rule: the guard has to hold without ours
	to := func(target string) string { return base + "?to=" + url.QueryEscape(target) }

	refused := []string{
		"https://127.0.0.1:" + canary.port, "https://loopback.example:" + canary.port, "http://169.254.169.254/latest/meta-data/", "https://rebind.example:" + canary.port,
		"//[::1]:" + canary.port, "http://public.example/", "https://ten.example/", "ftp://127.0.0.1/", "file:///etc/passwd", "https://2130706433:" + canary.port,
	}
	if _, err := guard.Resolver.LookupHost(t.Context(), "rebind.example"); err != nil {
		t.Fatal(err)
	}
	for _, target := range refused {
		for _, c := range []*http.Client{client, trusting} {
			response, err := c.Post(to(target), "application/json", strings.NewReader(`{"password": "x"}`))
			if err == nil {
				_ = response.Body.Close()
			}
			if !IsRefused(err) {
				t.Errorf("to %s: %v", target, err)
			}
		}
	}
	if n := canary.connects.Load(); n != 0 {
		t.Errorf("the canary was reached %d times", n)
	}

	for target, follow := range map[string]bool{
		"/there": true, "https://public.example/there": true, "https://PUBLIC.example/there": true,
		"https://other.example/": false, "https://public.example.org/": false,
		base + "?to=/":                       true,
		to(to(to(to("/there")))):             false, // the fifth
		"https://user:x@public.example/path": false,
	} {
		response, err := client.Get(to(target))
		if err == nil {
			_ = response.Body.Close()
		}
		if (err == nil) != follow || err != nil && !IsRefused(err) {
			t.Errorf("to %s: %v", target, err)
		}
	}
}

func TestNoRedirectLeavesHTTPSWhereHTTPIsAllowed(t *testing.T) {
	client, base := public(t, Guard{AllowPrivate: true, AllowLoopback: true}, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://public.example/", http.StatusFound)
	})
	if _, err := client.Get(base); !IsRefused(err) || !strings.Contains(err.Error(), "from https to http") {
		t.Errorf("%v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	client, base := public(t, Guard{}, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		_, _ = io.Copy(w, io.LimitReader(zeros{}, int64(n)))
	})
	for _, test := range []struct {
		query string
		whole bool
	}{
		{"n=0", true}, {fmt.Sprint("n=", MaxBody-1), true}, {fmt.Sprint("n=", MaxBody), true}, {fmt.Sprint("length&n=", MaxBody), true},
		{fmt.Sprint("n=", MaxBody+1), false}, {fmt.Sprint("n=", 100*MaxBody), false}, {fmt.Sprint("length&n=", 100*MaxBody), false},
	} {
		response, err := client.Get(base + "?" + test.query)
		var read int
		if err == nil {
			var body []byte
			body, err = io.ReadAll(response.Body)
			read = len(body)
			_ = response.Body.Close()
		}
		if test.whole && err != nil || !test.whole && !errors.Is(err, ErrTooLarge) || read > MaxBody {
			t.Errorf("%s: %d bytes, %v", test.query, read, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestNoProxyOfTheEnvironment(t *testing.T) {
	canary := newCanary(t)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:"+canary.port)
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:"+canary.port)
	client := Guard{Resolver: names(t, hostile)}.Client(time.Second)
	if _, err := client.Get("https://ten.example/"); !IsRefused(err) {
		t.Errorf("%v", err)
	}
	if n := canary.connects.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
}

func TestWhatADeploymentMayAllow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	guard := Guard{AllowPrivate: true, AllowLoopback: true}
	response, err := guard.Client(5 * time.Second).Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	for address, allowed := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.0.0.1": true, "fd12::1": true, "100.64.0.1": true, "::ffff:192.168.0.1": true,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "64:ff9b::a9fe:a9fe": false, "fd00:ec2::254": false, "fe80::1": false,
		"0.0.0.0": false, "::": false, "224.0.0.1": false, "255.255.255.255": false, "192.0.2.1": false, "::7f00:1": false, "2002:7f00:1::": false,
	} {
		if err := guard.CheckAddr(netip.MustParseAddr(address)); (err == nil) != allowed {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestPublicAddressesAreLetThrough(t *testing.T) {
	for _, address := range []string{"1.1.1.1", "9.9.9.9", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1", "192.0.1.1", "198.17.0.1", "198.20.0.1", "223.255.255.255",
		"2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1", "64:ff9b::101:101"} {
		if err := (Guard{}).CheckAddr(netip.MustParseAddr(address)); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for raw, good := range map[string]bool{
		"https://dns.example.org": true, "https://dns.example.org:8443/api?x=1": true, "https://xn--bcher-kva.example/": true, "https://1.1.1.1/": true, "https://[2606:4700::1111]/": true,
		"https://a_b.example.org/": true, "https://dns.example.org./": true, "HTTPS://dns.example.org": true, "https://1e100.example": true,
		"http://dns.example.org": false, "ftp://dns.example.org": false, "dns.example.org": false, "//dns.example.org/": false, "https:dns.example.org": false, "https:///x": false, "": false,
		"https://ann:pw@dns.example.org/": false, "https://ann@dns.example.org/": false, "https://@dns.example.org/": false,
		"https://dns.example.org/#x": false, "https://dns.example.org:/": false, "https://dns.example.org:0/": false, "https://dns.example.org:65536/": false, "https://dns.example.org:-1/": false,
		"https://dns.example.org\\@127.0.0.1/": false, "https://dns .example.org/": false, "https://dns.example.org/\r\nHost: x": false, "https://bücher.example/": false,
		"https://-a.example/": false, "https://a..example/": false, "https://" + strings.Repeat("a", 64) + ".example/": false, "https://" + strings.Repeat("a.", 127) + "example/": false,
		"https://dns.example.org/" + strings.Repeat("a", MaxURL): false,
	} {
		if err := (Guard{}).CheckURL(raw); (err == nil) != good || err != nil && !IsRefused(err) {
			t.Errorf("%.60q: %v", raw, err)
		}
	}
	for raw, good := range map[string]bool{"http://127.0.0.1:8080/x": true, "http://localhost:1": true, "http://pdns": true, "https://pdns": true, "ftp://pdns": false, "http://169.254.169.254": false, "http://2130706433": false} {
		if err := (Guard{AllowPrivate: true, AllowLoopback: true}).CheckURL(raw); (err == nil) != good {
			t.Errorf("private %q: %v", raw, err)
		}
	}
}

func TestARefusalShowsNoPassword(t *testing.T) {
	for _, raw := range []string{"https://ann:hunter22@127.0.0.1/", "https://ann:hunter22@dns.example.org/", "http://ann:hunter22@x.example", "https://ann:hunter22@[::1", "ann:hunter22@dns.example.org", "https://ann:hunter22@x.example:port/", "https:ann:hunter22@x.example",
		"https://ann:hunter22@x.example/" + strings.Repeat("a", MaxURL)} {
		if err := (Guard{}).CheckURL(raw); err == nil || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestCheckHostPort(t *testing.T) {
	for raw, good := range map[string]bool{
		"ns1.example.org": true, "ns1.example.org:53": true, "ns1.example.org.:5353": true, "1.1.1.1": true, "1.1.1.1:53": true, "[2606:4700::1111]:53": true, "2606:4700::1111": true,
		"": false, ":53": false, "ns1.example.org:": false, "ns1.example.org:0": false, "ns1.example.org:domain": false, "127.0.0.1:53": false, "::1": false, "[::1]:53": false,
		"ns1": false, "127.1": false, "0x7f000001:53": false, "169.254.169.253:53": false, "fe80::1%eth0": false, "a b": false, "ns1.example.org:53:53": false, "https://ns1.example.org": false,
	} {
		if err := (Guard{}).CheckHostPort(raw); (err == nil) != good || err != nil && !IsRefused(err) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

// inetAton reads a host as inet_aton(3) does. It is written apart from the guard's own rule.
func inetAton(host string) (netip.Addr, bool) {
	parts := strings.Split(strings.TrimSuffix(host, "."), ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		if lower := strings.ToLower(part); lower == "0x" {
			part = "0"
		} else if len(part) > 1 && part[0] == '0' && !strings.HasPrefix(lower, "0x") {
			part = "0o" + part[1:]
		}
		n, err := strconv.ParseUint(part, 0, 64)
		if err != nil || strings.Contains(part, "_") {
			return netip.Addr{}, false
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, false
			}
			value |= n << (8 * (3 - i))
		} else {
			value |= n & (1<<(8*(4-i)) - 1)
		}
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// Whatever CheckURL lets through is https without a password, to a host that no reading takes for an address
// that is not public; and net/http would send it there.
func FuzzCheckURL(f *testing.F) {
	for _, host := range corpus {
		f.Add("https://" + strings.ReplaceAll(host, "%s", "8443") + "/")
	}
	f.Add("https://dns.example.org/api?x=y")
	f.Add("https://1.1.1.1:8443/")
	f.Add("https://a:b@c.example")
	f.Fuzz(func(t *testing.T, raw string) {
		guard := Guard{}
		if guard.CheckURL(raw) != nil {
			return
		}
		r, err := http.NewRequest(http.MethodGet, raw, nil)
		if err != nil {
			t.Fatalf("%q is accepted and is no URL: %v", raw, err)
		}
		host := r.URL.Hostname()
		if r.URL.Scheme != "https" || r.URL.User != nil || host == "" || len(raw) > MaxURL || strings.ContainsAny(r.URL.Host, "\r\n\t @\\") {
			t.Errorf("%q is accepted", raw)
		}
		if a, ok := inetAton(host); ok && guard.CheckAddr(a) != nil {
			t.Errorf("%q is accepted and may be read as %s", raw, a)
		}
		if a, err := netip.ParseAddr(host); err == nil && guard.CheckAddr(a) != nil {
			t.Errorf("%q is accepted", raw)
		}
		if !strings.Contains(strings.TrimSuffix(host, "."), ".") && !strings.Contains(host, ":") {
			t.Errorf("%q is accepted and names a host of the local network", raw)
		}
	})
}

// The roots of a deployment are trusted beside the system's, and what is not PEM keeps a function from starting.
func TestTrusting(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for roots, trusted := range map[string]bool{"": false, " \n": false, root: true, root + "\n" + root: true} {
		guard, err := Guard{AllowPrivate: true, AllowLoopback: true}.Trusting(roots)
		if err != nil {
			t.Fatal(err)
		}
		response, err := guard.Client(5 * time.Second).Get(server.URL)
		if err == nil {
			response.Body.Close()
		}
		if (err == nil) != trusted {
			t.Errorf("%.30q: %v", roots, err)
		}
	}
	if guard, err := (Guard{}).Trusting("no PEM"); err == nil || guard.Roots != nil {
		t.Error("what is no PEM is taken")
	}
}
