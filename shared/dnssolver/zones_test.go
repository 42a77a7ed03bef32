package dnssolver

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"cjj365.cc/bb/shared/egress"
)

// zones is an authoritative nameserver for what a test puts into it. Where knotd is installed the tests of rfc2136
// use that; the other kinds need only a zone to be found, and a place where their records appear.
type zones struct {
	address string

	mutex   sync.Mutex
	records map[string][]dns.RR // by name, lower case, with the last dot
	asked   []string
	rcode   int // answered to everything, unless 0
}

// newZones serves on an address such as 127.0.0.2:0.
func newZones(t *testing.T, address string, lines ...string) *zones {
	t.Helper()
	z := &zones{records: map[string][]dns.RR{}}
	for _, l := range lines {
		z.set(t, l)
	}
	streams, packets := listen(t, address)
	z.address = streams.Addr().String()
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: z}, {Listener: streams, Handler: z}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return z
}

// listen takes one port for both TCP and UDP. One that is free for the first may be taken for the second.
func listen(t *testing.T, address string) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 50 {
		streams, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		packets, err := net.ListenPacket("udp", streams.Addr().String())
		if err == nil {
			return streams, packets
		}
		_ = streams.Close()
	}
	t.Fatalf("no port of %s is free for TCP and UDP", address)
	return nil, nil
}

func (z *zones) set(t *testing.T, line string) {
	t.Helper()
	rr, err := dns.NewRR(line)
	if err != nil {
		t.Fatal(err)
	}
	z.mutex.Lock()
	defer z.mutex.Unlock()
	name := strings.ToLower(rr.Header().Name)
	z.records[name] = append(z.records[name], rr)
}

// texts are the TXT values at a name; setTexts replaces them.
func (z *zones) texts(name string) []string {
	z.mutex.Lock()
	defer z.mutex.Unlock()
	var list []string
	for _, rr := range z.records[strings.ToLower(dns.Fqdn(name))] {
		if txt, ok := rr.(*dns.TXT); ok {
			list = append(list, strings.Join(txt.Txt, ""))
		}
	}
	return list
}

func (z *zones) setTexts(name string, values ...string) {
	z.mutex.Lock()
	defer z.mutex.Unlock()
	name = strings.ToLower(dns.Fqdn(name))
	z.records[name] = slices.DeleteFunc(z.records[name], func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeTXT })
	for _, v := range values {
		z.records[name] = append(z.records[name], &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{v}})
	}
}

// questions are what was asked since the last call, as "TXT www.example.test.".
func (z *zones) questions() []string {
	z.mutex.Lock()
	defer z.mutex.Unlock()
	list := z.asked
	z.asked = nil
	return list
}

func (z *zones) answerAll(rcode int) {
	z.mutex.Lock()
	defer z.mutex.Unlock()
	z.rcode = rcode
}

func (z *zones) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mutex.Lock()
	defer z.mutex.Unlock()
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	name, kind := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	z.asked = append(z.asked, dns.TypeToString[kind]+" "+name)
	ours := slices.ContainsFunc(dns.Split(name), func(at int) bool {
		return slices.ContainsFunc(z.records[name[at:]], func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA })
	})
	switch {
	case z.rcode != 0:
		m.Rcode = z.rcode
	case !ours:
		m.Rcode = dns.RcodeNameError
	case len(z.records[name]) == 0:
		m.Rcode = dns.RcodeNameError
	}
	for _, rr := range z.records[name] {
		if t := rr.Header().Rrtype; z.rcode == 0 && (t == kind || t == dns.TypeCNAME) {
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m)
}

const soa = " 1 SOA ns1.example.test. hostmaster.example.test. 1 3600 600 86400 1"

// exampleTest is the zone that most tests use, as this process's resolver.
func exampleTest(t *testing.T, lines ...string) *zones {
	t.Helper()
	z := newZones(t, "127.0.0.1:0", append(lines, "example.test."+soa, "other.test."+soa, "_acme-challenge.delegated.example.test. 1 CNAME hop.example.test.", "hop.example.test. 1 CNAME acme.other.test.")...)
	resolve(t, z.address)
	return z
}

// resolve sets this process's resolvers for one test.
func resolve(t *testing.T, addresses ...string) {
	t.Helper()
	SetResolvers(addresses)
	t.Cleanup(func() { SetResolvers(nil) })
}

// local lets through what runs in a test.
var local = egress.Guard{AllowPrivate: true, AllowLoopback: true}
