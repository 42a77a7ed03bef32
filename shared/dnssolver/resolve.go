package dnssolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/miekg/dns"
)

const (
	queryTimeout = 5 * time.Second
	maxCNAMEs    = 10
)

// What trying again does not help: a zone that is not there or not the user's, a CNAME that is not there.
var (
	errNoZone       = errors.New("the zone cannot be found")
	errNotDelegated = errors.New("the domain does not lead to the account")
)

// given are the resolvers of SetResolvers.
var given atomic.Pointer[[]string]

// What tests set, since they may not use port 53: the system's resolvers, and the port of a zone's nameservers.
var (
	systemResolvers = func() ([]string, error) {
		system, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("find the system's resolvers: %w", err)
		}
		var addresses []string
		for _, s := range system.Servers {
			addresses = append(addresses, net.JoinHostPort(s, system.Port))
		}
		return addresses, nil
	}
	nameserverPort = "53"
)

// SetResolvers sets the recursive nameservers, host:port, of this process: lego knows them process-wide. None means the
// system's. They belong to the deployment and are not guarded. Where they are given, Propagated asks them and
// not the zone's own nameservers, which is meant for a network where those cannot be reached.
func SetResolvers(addresses []string) {
	given.Store(&addresses)
	dns01.SetDefaultClient(dns01.NewClient(&dns01.Options{RecursiveNameservers: addresses, Timeout: queryTimeout}))
}

// asker sends one question.
type asker func(ctx context.Context, name string, kind uint16) (*dns.Msg, error)

// server is one nameserver.
type server struct {
	name      string // as it is shown
	address   string
	recursive bool
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

func (s server) exchange(ctx context.Context, network string, m *dns.Msg, keys map[string]string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	conn, err := s.dial(ctx, network, s.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	client := &dns.Client{Net: network, Timeout: queryTimeout, TsigSecret: keys}
	answer, _, err := client.ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: conn})
	return answer, err
}

func (s server) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	m.RecursionDesired = s.recursive
	m.SetEdns0(1232, false)
	answer, err := s.exchange(ctx, "udp", m, nil)
	if err == nil && answer.Truncated {
		answer, err = s.exchange(ctx, "tcp", m, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", s.name, name, err)
	}
	return answer, nil
}

// resolvers are the recursive nameservers, given or the system's.
func resolvers() (list []server, explicit bool, err error) {
	var addresses []string
	if p := given.Load(); p != nil && len(*p) > 0 {
		addresses, explicit = *p, true
	} else {
		addresses, err = systemResolvers()
		if err != nil {
			return nil, false, err
		}
	}
	for _, a := range addresses {
		list = append(list, server{name: a, address: a, recursive: true, dial: new(net.Dialer).DialContext})
	}
	return list, explicit, nil
}

// recursive asks the resolvers, one after the other until one knows.
func recursive(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	list, _, err := resolvers()
	if err != nil {
		return nil, err
	}
	failed := errors.New("there is no resolver")
	for _, s := range list {
		answer, err := s.ask(ctx, name, kind)
		switch {
		case err != nil:
			failed = err
		case answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError:
			return answer, nil
		default:
			failed = &rcodeError{s.name, answer.Rcode, "a question for " + name}
		}
	}
	return nil, failed
}

// findZone is the apex of the zone that name lies in: the nearest ancestor with an SOA record.
func findZone(ctx context.Context, ask asker, name string) (string, error) {
	name = dns.Fqdn(name)
	for at, end := 0, false; !end; at, end = dns.NextLabel(name, at) {
		answer, err := ask(ctx, name[at:], dns.TypeSOA)
		if err != nil {
			return "", err
		}
		for _, rr := range answer.Answer {
			if soa, ok := rr.(*dns.SOA); ok && equalNames(soa.Hdr.Name, name[at:]) {
				return soa.Hdr.Name, nil
			}
		}
	}
	return "", fmt.Errorf("%w: no nameserver tells of a zone for %s", errNoZone, strings.TrimSuffix(name, "."))
}

// follow goes along the CNAMEs from name.
func follow(ctx context.Context, name string) (string, error) {
	name = dns.Fqdn(name)
	for range maxCNAMEs {
		answer, err := recursive(ctx, name, dns.TypeCNAME)
		if err != nil {
			return "", err
		}
		next := ""
		for _, rr := range answer.Answer {
			if c, ok := rr.(*dns.CNAME); ok && equalNames(c.Hdr.Name, name) {
				next = c.Target
			}
		}
		if next == "" {
			return name, nil
		}
		name = next
	}
	return "", fmt.Errorf("there are more than %d CNAME records one after the other, up to %s", maxCNAMEs, name)
}

// Propagated reports whether every nameserver of the zone has a TXT record with the value at fqdn, CNAMEs followed. If
// not, where names the one that lacks it. A nameserver that does not answer is passed over if another has
// the value: that it cannot be reached from here tells nothing.
func (s *Solver) Propagated(ctx context.Context, fqdn, value string) (seen bool, where string, err error) {
	name, err := follow(ctx, fqdn)
	if err != nil {
		return false, "", s.fail(ctx, StepPropagate, err)
	}
	servers, err := s.nameservers(ctx, name)
	if err != nil {
		return false, "", s.fail(ctx, StepPropagate, err)
	}
	silent := ""
	for _, server := range servers {
		answer, err := server.ask(ctx, name, dns.TypeTXT)
		switch {
		case err != nil:
			silent = fmt.Sprintf("%s does not answer: %s", server.name, s.clean(err))
		case answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
			return false, (&rcodeError{server.name, answer.Rcode, "a question for " + name}).Error(), nil
		case !holds(answer, value):
			return false, fmt.Sprintf("%s does not have the TXT record at %s yet", server.name, name), nil
		default:
			seen = true
		}
	}
	if !seen {
		return false, silent, nil
	}
	return true, "", nil
}

// holds looks for value among TXT records. Only the comparison tells: the values may be a stranger's.
func holds(answer *dns.Msg, value string) bool {
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok && strings.Join(txt.Txt, "") == value {
			return true
		}
	}
	return false
}

// nameservers are the ones to look at for name. Where a zone's nameservers are is its owner's choice, so they are dialled
// by the guard.
func (s *Solver) nameservers(ctx context.Context, name string) ([]server, error) {
	list, explicit, err := resolvers()
	if err != nil || explicit {
		return list, err
	}
	zone, err := findZone(ctx, recursive, name)
	if err != nil {
		return nil, err
	}
	answer, err := recursive(ctx, zone, dns.TypeNS)
	if err != nil {
		return nil, err
	}
	list = nil
	for _, rr := range answer.Answer {
		if ns, ok := rr.(*dns.NS); ok && equalNames(ns.Hdr.Name, zone) {
			host := strings.TrimSuffix(ns.Ns, ".")
			list = append(list, server{name: host, address: net.JoinHostPort(host, nameserverPort), dial: s.guard.DialContext})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: zone %s has no NS records", errNoZone, zone)
	}
	return list, nil
}
