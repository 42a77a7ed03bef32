package main

import (
	"errors"
	"sync"
	"testing"

	"cjj365.cc/bb/local/pebble"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/store"
)

// A CA that refuses half of the good nonces, has half of the authorizations valid already, and sleeps: fifty
// orders of two accounts, eight at a time, are each issued by as many deliveries as the queue would make.
func TestFiftyOrdersAtAMoodyCA(t *testing.T) {
	t.Parallel()
	moody := must(startPebble(pebble.Options{Env: map[string]string{
		"PEBBLE_WFE_NONCEREJECT": "50", "PEBBLE_AUTHZREUSE": "50", "PEBBLE_VA_SLEEPTIME": "2",
	}}))
	const orders, atOnce, receives = 50, 8, 5
	r := newRig(t, options{ca: moody, parallel: atOnce, patient: true})
	accounts, provider := []int64{r.account("", nil), r.account("", nil)}, r.bridge()
	var all []certificate.Certificate
	parents := []string{domain(), domain(), domain()}
	for i := range orders {
		name := domain()
		names := []string{name}
		if i%5 == 0 {
			names = append(names, "*."+name, parents[i%3]) // a name that others have too, so that authorizations are reused
		}
		all = append(all, r.create(certificate.Certificate{Names: names, Account: accounts[i%2], DNSProvider: provider}))
	}
	work := make(chan certificate.Certificate)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for c := range work {
				for range receives {
					if err := r.deliver(c); err != nil {
						t.Logf("delivery of %d: %v", c.ID, err)
					}
					if _, err := r.tables.Store.Order(t.Context(), c.ID); errors.Is(err, store.ErrNotFound) {
						break
					}
					r.elapse(c)
				}
			}
		})
	}
	for _, c := range all {
		work <- c
	}
	close(work)
	workers.Wait()
	for _, c := range all {
		r.checkIssued(c, 1)
	}
	if got := r.answered(newOrder); got != orders {
		t.Errorf("the CA opened %d orders", got)
	}
}
