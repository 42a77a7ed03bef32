package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxAliases bounds how many CNAMEs are followed.
const maxAliases = 8

// answerTimeout bounds an answer with all its aliases.
const answerTimeout = 4 * time.Second

// A resolver answers for Knot and for challtestsrv, and follows aliases from one to the other. It caches
// nothing.
type resolver struct {
	address string
	names   *challtestsrv
	knot    *Authority // nil for none
	servers []*dns.Server
}

func startResolver(address string, names *challtestsrv, knot *Authority) (*resolver, error) {
	r := &resolver{address: address, names: names, knot: knot}
	stream, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("listen for questions: %w", err)
	}
	for _, server := range []*dns.Server{{Listener: stream, Handler: r}, {PacketConn: packets, Handler: r}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		r.servers = append(r.servers, server)
		go server.ActivateAndServe()
		<-started // Shutdown of a server that has not started does nothing
	}
	return r, nil
}

func (r *resolver) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	for _, server := range r.servers {
		_ = server.ShutdownContext(ctx) // what is left ends with the process
	}
}

// ServeDNS answers one question.
func (r *resolver) ServeDNS(w dns.ResponseWriter, asked *dns.Msg) {
	network := "udp"
	if w.RemoteAddr().Network() == "tcp" {
		network = "tcp"
	}
	answer := r.answer(network, asked)
	size := dns.MinMsgSize
	if opt := asked.IsEdns0(); opt != nil {
		answer.SetEdns0(opt.UDPSize(), false)
		size = int(opt.UDPSize())
	}
	if network == "tcp" {
		size = dns.MaxMsgSize
	}
	answer.Truncate(size)
	_ = w.WriteMsg(answer) // who asked may have gone
}

func (r *resolver) answer(network string, asked *dns.Msg) *dns.Msg {
	answer := new(dns.Msg).SetReply(asked)
	answer.RecursionAvailable = true
	switch {
	case asked.Opcode != dns.OpcodeQuery:
		answer.Rcode = dns.RcodeNotImplemented // an update is for Knot
	case len(asked.Question) != 1:
		answer.Rcode = dns.RcodeFormatError
	case asked.Question[0].Qclass != dns.ClassINET:
		answer.Rcode = dns.RcodeRefused
	default:
		ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
		defer cancel()
		if err := r.resolve(ctx, network, asked.Question[0], answer); err != nil {
			answer.Rcode, answer.Answer, answer.Ns = dns.RcodeServerFailure, nil, nil
		}
	}
	return answer
}

// resolve follows aliases until something is found or nothing is.
func (r *resolver) resolve(ctx context.Context, network string, q dns.Question, answer *dns.Msg) error {
	name := q.Name
	for range maxAliases {
		found, err := r.ask(ctx, network, name, q.Qtype)
		if err != nil {
			return err
		}
		answer.Rcode, answer.Ns = found.Rcode, found.Ns
		answer.Answer = append(answer.Answer, found.Answer...)
		if name = alias(found.Answer, name, q.Qtype); name == "" {
			return nil
		}
	}
	return errors.New("aliases without an end")
}

// ask asks the server that has the name. What challtestsrv cannot answer is answered here.
func (r *resolver) ask(ctx context.Context, network, name string, qtype uint16) (*dns.Msg, error) {
	if r.knot.holds(name) {
		return ask(ctx, network, r.knot.Address, name, qtype)
	}
	found := new(dns.Msg)
	zone := apex(name)
	isApex := canonical(name) == zone && dns.CountLabel(zone) == 2
	switch qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeCAA, dns.TypeCNAME:
		answer, err := r.names.ask(ctx, network, name, qtype)
		if err != nil {
			return nil, err
		}
		found.Rcode, found.Answer = answer.Rcode, answer.Answer
	case dns.TypeSOA:
		if isApex {
			found.Answer = []dns.RR{soa(zone)}
		}
	case dns.TypeNS:
		if isApex {
			found.Answer = []dns.RR{&dns.NS{Hdr: header(zone, dns.TypeNS), Ns: "ns1." + zone}}
		}
	}
	if len(found.Answer) == 0 {
		found.Ns = []dns.RR{soa(zone)} // says that there is nothing (RFC 2308)
	}
	return found, nil
}

// alias is the name to go on with: that of the last CNAME, unless it leads to what was asked for.
func alias(records []dns.RR, name string, qtype uint16) string {
	if qtype == dns.TypeCNAME {
		return ""
	}
	at := name
	for range records {
		next := ""
		for _, record := range records {
			if !strings.EqualFold(record.Header().Name, at) {
				continue
			}
			if record.Header().Rrtype == qtype {
				return ""
			}
			if cname, ok := record.(*dns.CNAME); ok {
				next = cname.Target
			}
		}
		if next == "" {
			break
		}
		at = next
	}
	if strings.EqualFold(at, name) {
		return ""
	}
	return at
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET}
}

// soa is of a zone outside Knot's. Nobody is to remember that a record was missing.
func soa(zone string) *dns.SOA {
	return &dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "ns1." + zone, Mbox: "hostmaster." + zone, Serial: 1, Refresh: 60, Retry: 60, Expire: 3600}
}
