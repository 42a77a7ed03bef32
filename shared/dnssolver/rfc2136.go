package dnssolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/miekg/dns"

	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
)

// update sends DNS updates (RFC 2136) signed by TSIG (RFC 8945) to a zone's primary nameserver.
type update struct {
	server    server
	zone      string
	key       string
	algorithm string
	secret    string
	ttl       int
}

func newUpdate(c dnsprovider.Config, guard egress.Guard) *update {
	address := c.Text("nameserver")
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "53")
	}
	return &update{
		server: server{name: c.Text("nameserver"), address: address, dial: guard.DialContext},
		zone:   c.Text("zone"),
		key:    dns.CanonicalName(c.Text("tsig_key_name")), algorithm: dns.Fqdn(c.Text("tsig_algorithm")), secret: c.Text("tsig_secret"),
		ttl: c.Number("ttl"),
	}
}

func (u *update) Present(ctx context.Context, domain, _, keyAuth string) error {
	return u.change(ctx, domain, keyAuth, (*dns.Msg).Insert)
}

func (u *update) CleanUp(ctx context.Context, domain, _, keyAuth string) error {
	return u.change(ctx, domain, keyAuth, (*dns.Msg).Remove)
}

// change inserts or removes one record. Both are without effect when it is as it should be (RFC 2136 §3.4.2).
func (u *update) change(ctx context.Context, domain, keyAuth string, change func(*dns.Msg, []dns.RR)) error {
	info := dns01.GetChallengeInfo(ctx, domain, keyAuth)
	zone := dns.Fqdn(u.zone)
	if u.zone == "" {
		var err error
		// The primary itself is asked: resolvers may see another side of a split zone.
		zone, err = findZone(ctx, u.server.ask, info.EffectiveFQDN)
		if err != nil {
			return err
		}
	}
	m := new(dns.Msg).SetUpdate(zone)
	change(m, []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: info.EffectiveFQDN, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(u.ttl)},
		Txt: []string{info.Value},
	}})
	m.SetTsig(u.key, u.algorithm, 300, time.Now().Unix())
	// By TCP: a lost answer over UDP would leave it open whether the change was made.
	answer, err := u.server.exchange(ctx, "tcp", m, map[string]string{u.key: u.secret})
	if errors.Is(err, dns.ErrAuth) || errors.Is(err, dns.ErrSig) {
		return fmt.Errorf("%s refused TSIG key %s: its name, secret or algorithm is another there, or it may not change TXT records of zone %s: %w", u.server.name, u.key, zone, err)
	}
	if err != nil {
		return fmt.Errorf("DNS update: %w", err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return &rcodeError{u.server.name, answer.Rcode, "an update of zone " + zone}
	}
	return nil
}

// rcodeError is a nameserver's refusal.
type rcodeError struct {
	server string
	rcode  int
	what   string
}

func (e *rcodeError) Error() string {
	return fmt.Sprintf("%s answered %s to %s", e.server, dns.RcodeToString[e.rcode], e.what)
}

// equalNames compares domain names with or without their last dots.
func equalNames(a, b string) bool {
	return strings.EqualFold(dns.Fqdn(a), dns.Fqdn(b))
}
