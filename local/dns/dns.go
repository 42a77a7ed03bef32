// Package dns is the Domain Name System of one machine, for the challenges of ACME.
//
//	resolver      the one address that everybody asks: Pebble and the functions
//	Knot          a real authoritative server of the Zones; dynamic updates (RFC 2136) with a TSIG key set
//	              and remove their TXT records. Where it is not installed the rest runs without it
//	challtestsrv  Pebble's test server, for every other name. Its management interface sets records
//	httpreq       an HTTP endpoint in lego's httpreq protocol, which sets TXT records at challtestsrv
//
// Names outside Zones have a zone for each two last labels, so that whoever looks for the zone of
// _acme-challenge.www.lab.test finds lab.test. All listen on the loopback address only.
//
// The folder holds tsig.json (the key, made once) and knot (its configuration, zones and journal), which
// outlive the servers. challtestsrv keeps nothing.
package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"cjj365.cc/bb/local/child"
)

const startTimeout = 30 * time.Second

// Zones are Knot's, names without the dot at the end.
var Zones = []string{"example.com", "example.org", "example.net", "bb.test"}

// Ports are of the loopback address; any free one where 0.
type Ports struct {
	Resolver     int `json:"resolver"`
	Knot         int `json:"knot"`
	Challtestsrv int `json:"challtestsrv"`
	Management   int `json:"management"` // of challtestsrv
	HTTPReq      int `json:"httpreq"`
}

// All are the ports, to be set.
func (p *Ports) All() []*int {
	return []*int{&p.Resolver, &p.Knot, &p.Challtestsrv, &p.Management, &p.HTTPReq}
}

// Options say how the servers are run.
type Options struct {
	Dir   string
	Ports Ports
	Log   io.Writer // gets their output; none when nil

	Knot string // the program, as FindKnot finds it; without Knot when empty

	// User and Password are asked for by the httpreq endpoint, where set (HTTP basic authentication).
	User, Password string
}

// Servers are the parts, running.
type Servers struct {
	Resolver   string     // host:port, UDP and TCP
	HTTPReq    string     // URL
	Management string     // URL of challtestsrv's: /set-txt, /set-cname, /set-servfail, /dns-request-history …
	Knot       *Authority // nil without it

	names    *challtestsrv
	resolver *resolver
	httpreq  *httpreq
	gone     chan struct{}
}

// Start runs the servers and waits until they answer.
func Start(ctx context.Context, o Options) (*Servers, error) {
	if err := child.FreePorts(o.Ports.All()...); err != nil {
		return nil, fmt.Errorf("start DNS: %w", err)
	}
	s := &Servers{gone: make(chan struct{})}
	if err := s.start(ctx, o); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start DNS: %w", err)
	}
	go s.watch()
	return s, nil
}

func (s *Servers) start(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var parts sync.WaitGroup
	var namesErr, knotErr error
	parts.Go(func() { s.names, namesErr = startChalltestsrv(ctx, o) })
	parts.Go(func() { s.Knot, knotErr = startKnot(ctx, o) })
	parts.Wait()
	err := errors.Join(namesErr, knotErr)
	if err != nil {
		return err
	}
	s.Management = s.names.management
	if s.resolver, err = startResolver(address(o.Ports.Resolver), s.names, s.Knot); err != nil {
		return err
	}
	s.Resolver = s.resolver.address
	if s.httpreq, err = startHTTPReq(o, s.names, s.Knot); err != nil {
		return err
	}
	s.HTTPReq = s.httpreq.url
	return nil
}

// watch closes gone when a program ends.
func (s *Servers) watch() {
	defer close(s.gone)
	if s.Knot == nil {
		<-s.names.process.Done()
		return
	}
	select {
	case <-s.names.process.Done():
	case <-s.Knot.process.Done():
	}
}

// Done is closed when one of the programs has ended, by itself or by Stop.
func (s *Servers) Done() <-chan struct{} { return s.gone }

// Stop ends all and waits for them. Who answers others is stopped before who answers it.
func (s *Servers) Stop() {
	if s.httpreq != nil {
		s.httpreq.stop()
	}
	if s.resolver != nil {
		s.resolver.stop()
	}
	var parts sync.WaitGroup
	if s.Knot != nil {
		parts.Go(s.Knot.process.Stop)
	}
	if s.names != nil {
		parts.Go(s.names.process.Stop)
	}
	parts.Wait()
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// canonical is a name as the servers compare it: absolute, in lower case.
func canonical(name string) string { return strings.ToLower(dns.Fqdn(name)) }

// apex is the zone, outside Knot's, that a name is in: its last two labels, or what there is.
func apex(name string) string {
	name = canonical(name)
	labels := dns.Split(name)
	if len(labels) <= 2 {
		return name
	}
	return name[labels[len(labels)-2]:]
}

// ask waits for an answer of any kind to a question. It takes long packets: challtestsrv does not ask
// whether they fit.
func ask(ctx context.Context, network, server, name string, qtype uint16) (*dns.Msg, error) {
	question := new(dns.Msg).SetQuestion(name, qtype)
	question.SetEdns0(dns.MaxMsgSize-1, false)
	client := &dns.Client{Net: network, Timeout: 2 * time.Second}
	answer, _, err := client.ExchangeContext(ctx, question, server)
	if err == nil && answer.Truncated && network == "udp" {
		return ask(ctx, "tcp", server, name, qtype)
	}
	return answer, err
}
