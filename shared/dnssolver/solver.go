// Package dnssolver sets and removes the TXT records of DNS-01 challenges (RFC 8555 §8.4) at the DNS providers
// of package dnsprovider, and looks whether they can be seen.
//
// Most kinds are lego's providers, made from their own Config given whole: lego's defaults, which read the
// process's environment, are never used, and nothing falls back on the function's role. Five are written here,
// each because lego's cannot keep a law of this package:
//
//   - azure: lego's takes no HTTP client, so the guard would not see its requests, and removes the whole set of records.
//   - gcloud: lego's takes no context and removes the whole set. (lego's two add 11 and 2 MB to a binary of 10.)
//   - acme-dns: lego's takes no HTTP client and keeps accounts in a file.
//   - ovh: its client completes what is given from the environment and from ./ovh.conf.
//   - rfc2136: lego's removes every other value when it sets one, which breaks an order for example.org and
//     *.example.org; it dials by itself, and brings Kerberos.
//
// Of four more (remove.go) only the removal is written here.
//
// The laws: Present may be repeated, by another process too. CleanUp removes that value and no other, as often as it
// stands there, without remembering anything. So an order that a killed invocation left goes on in the next.
// A CNAME at _acme-challenge is followed. Two Presents at the same name come one after the other: some
// APIs (Route 53, Gandi, PowerDNS, deSEC) only let a set be read and written whole.
//
// Every connection to an address that a user named is made by egress.Guard, nameservers of a user's zone included.
// Errors are *Error: their text holds no secret and says whether to try again.
package dnssolver

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-acme/lego/v5/challenge"
	"github.com/go-acme/lego/v5/challenge/dns01"
	legolog "github.com/go-acme/lego/v5/log"
	"github.com/miekg/dns"

	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
)

// requestTimeout bounds one request to a provider's API.
const requestTimeout = 30 * time.Second

// Solver is one configured provider.
type Solver struct {
	kind     string
	provider challenge.Provider
	remove   func(ctx context.Context, zone, name, value string) error // nil: the provider's own CleanUp
	fixed    string                                                    // the one name a provider writes to, whatever it is asked; for acme-dns
	guard    egress.Guard
	timeout  time.Duration
	secrets  *strings.Replacer
}

// New makes a Solver. It sends nothing yet.
func New(config dnsprovider.Config, guard egress.Guard) (*Solver, error) {
	return newSolver(config, guard, guard.Client(requestTimeout))
}

// lego logs to standard output by itself, and says nothing that the errors do not say.
var quiet = sync.OnceFunc(func() { legolog.SetDefault(slog.New(slog.DiscardHandler)) })

func newSolver(config dnsprovider.Config, guard egress.Guard, client *http.Client) (*Solver, error) {
	quiet()
	s := &Solver{
		kind:    config.Kind(),
		guard:   guard,
		timeout: time.Duration(config.Number("propagation_timeout_seconds")) * time.Second,
		secrets: scrubber(config),
	}
	watched := *client
	watched.Transport = watch{client.Transport}
	build, ok := kinds[config.Kind()]
	if !ok {
		return nil, &Error{Step: StepConfigure, Kind: s.kind, What: "there is no such kind", Permanent: true}
	}
	if err := build(s, config, &watched); err != nil {
		return nil, s.fail(context.Background(), StepConfigure, err)
	}
	return s, nil
}

// Timeout is how long a record may take to be seen.
func (s *Solver) Timeout() time.Duration { return s.timeout }

// AtOnce is how many records can be there at a time; 0 for any number. An acme-dns account keeps two.
func (s *Solver) AtOnce() int {
	if s.fixed != "" {
		return 2
	}
	return 0
}

// label is the first of a challenge's name.
const label = "_acme-challenge."

// Record is the TXT record that answers a challenge: its name, CNAMEs not followed, and its value.
func Record(domain, keyAuth string) (fqdn, value string) {
	digest := sha256.Sum256([]byte(keyAuth))
	return dns.Fqdn(label + strings.TrimPrefix(domain, "*.")), base64.RawURLEncoding.EncodeToString(digest[:])
}

// Present sets the record for domain. The token of the challenge is the part of keyAuth before the dot.
func (s *Solver) Present(ctx context.Context, domain, keyAuth string) error {
	ctx = newCall(ctx)
	domain, token := split(domain, keyAuth)
	err := s.provider.Present(ctx, domain, token, keyAuth)
	if err != nil && duplicate(ctx, err) && s.cleanUp(ctx, domain, token, keyAuth) == nil {
		// Several APIs refuse a record that is there already, left by an invocation that was killed.
		ctx = newCall(ctx)
		err = s.provider.Present(ctx, domain, token, keyAuth)
	}
	if err != nil {
		return s.fail(ctx, StepPresent, err)
	}
	return nil
}

// CleanUp removes what Present set.
func (s *Solver) CleanUp(ctx context.Context, domain, keyAuth string) error {
	ctx = newCall(ctx)
	domain, token := split(domain, keyAuth)
	if err := s.cleanUp(ctx, domain, token, keyAuth); err != nil {
		return s.fail(ctx, StepCleanUp, err)
	}
	return nil
}

func (s *Solver) cleanUp(ctx context.Context, domain, token, keyAuth string) error {
	if s.remove == nil {
		return s.provider.CleanUp(ctx, domain, token, keyAuth)
	}
	info := dns01.GetChallengeInfo(ctx, domain, keyAuth)
	zone, err := findZone(ctx, recursive, info.EffectiveFQDN)
	if err != nil {
		return err
	}
	return s.remove(ctx, dns01.UnFqdn(zone), dns01.UnFqdn(info.EffectiveFQDN), info.Value)
}

func split(domain, keyAuth string) (name, token string) {
	token, _, _ = strings.Cut(keyAuth, ".")
	return strings.TrimPrefix(domain, "*."), token
}

// records is a provider's API as the providers written here use it. Zone and name have no last dot. add leaves
// other values alone and may be repeated; remove removes one value, and is content when it is not there.
type records interface {
	add(ctx context.Context, zone, name, value string) error
	remove(ctx context.Context, zone, name, value string) error
}

// own makes lego's kind of provider from records.
type own struct {
	records
	zone string // where DNS would tell another
}

func (o own) Present(ctx context.Context, domain, _, keyAuth string) error {
	return o.apply(ctx, domain, keyAuth, o.add)
}

func (o own) CleanUp(ctx context.Context, domain, _, keyAuth string) error {
	return o.apply(ctx, domain, keyAuth, o.remove)
}

func (o own) apply(ctx context.Context, domain, keyAuth string, do func(ctx context.Context, zone, name, value string) error) error {
	info := dns01.GetChallengeInfo(ctx, domain, keyAuth)
	name, zone := dns01.UnFqdn(info.EffectiveFQDN), dns01.UnFqdn(o.zone)
	if zone == "" {
		found, err := findZone(ctx, recursive, info.EffectiveFQDN)
		if err != nil {
			return err
		}
		zone = dns01.UnFqdn(found)
	}
	if _, err := below(name, zone); err != nil {
		return err
	}
	return do(ctx, zone, name, info.Value)
}

// below is the part of name before its zone.
func below(name, zone string) (string, error) {
	sub, ok := strings.CutSuffix(strings.ToLower(name), "."+strings.ToLower(zone))
	if !ok {
		return "", fmt.Errorf("%w: %s is not in zone %s", errNoZone, name, zone)
	}
	return sub, nil
}
