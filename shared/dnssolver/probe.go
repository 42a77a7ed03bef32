package dnssolver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	firstPoll = 250 * time.Millisecond
	maxPoll   = 2 * time.Second
	// cleanUpTime is what a probe keeps for CleanUp when its own time is over.
	cleanUpTime = 8 * time.Second
)

// Probe sets a record, waits until it is seen and removes it again: what a challenge for domain needs. Its error is an
// *Error with the step that failed. It waits for the config's propagation timeout, or as long as ctx lets it, and ends
// at most 8 seconds after ctx.
//
// The record stands at _acme-challenge.bb-probe-<random>.<domain>, where no order looks. Where _acme-challenge.<domain>
// is a CNAME, it stands below the CNAME's target in the same way, since that zone is the one to write to; an acme-dns
// account has one name only, and the probe takes the place of the older of its two values.
func (s *Solver) Probe(ctx context.Context, domain string) error {
	random := strings.ToLower(rand.Text())
	keyAuth := "bb-probe-" + random + "." + rand.Text()
	name, err := s.probeName(ctx, strings.TrimPrefix(domain, "*."), "bb-probe-"+random[:12])
	if err != nil {
		return err
	}
	fqdn, value := Record(name, keyAuth)
	if s.fixed != "" {
		fqdn = s.fixed
	}

	err = s.Present(ctx, name, keyAuth)
	if err == nil {
		err = s.wait(ctx, fqdn, value)
	}
	// After a failed Present too: a request whose answer was lost may have been carried out.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	removed := s.CleanUp(ending, name, keyAuth)
	if err != nil {
		return err
	}
	return removed
}

// probeName is the domain that the probe sets a challenge for.
func (s *Solver) probeName(ctx context.Context, domain, below string) (string, error) {
	challenge := dns.Fqdn(label + domain)
	target, err := follow(ctx, challenge)
	if err != nil {
		return "", s.fail(ctx, StepPropagate, err)
	}
	switch {
	case s.fixed != "" && !equalNames(target, s.fixed):
		return "", s.fail(ctx, StepPropagate, fmt.Errorf("%w: %s has to be a CNAME to %s", errNotDelegated, challenge, dns.Fqdn(s.fixed)))
	case s.fixed != "":
		return domain, nil
	case equalNames(target, challenge):
		return below + "." + domain, nil
	}
	return below + "." + strings.TrimSuffix(target, "."), nil
}

// wait polls Propagated.
func (s *Solver) wait(ctx context.Context, fqdn, value string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	started, last := time.Now(), "nothing was answered"
	for pause := firstPoll; ; pause = min(2*pause, maxPoll) {
		seen, where, err := s.Propagated(ctx, fqdn, value)
		if seen {
			return nil
		}
		if e, ok := errors.AsType[*Error](err); ok && e.Permanent {
			return e
		}
		// A look that the end of the time cut short does not say more than the one before.
		if ctx.Err() == nil && where != "" {
			last = where
		} else if ctx.Err() == nil && err != nil {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return &Error{Step: StepPropagate, Kind: s.kind, What: fmt.Sprintf("the record is not seen after %s: %s", time.Since(started).Round(time.Second), last), cause: ctx.Err()}
		case <-time.After(pause):
		}
	}
}
