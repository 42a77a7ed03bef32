package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
)

// A revoked certificate is in the CRL and the ledger; it may have expired, and a reason is kept.
func TestRevocation(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	first := w.issue(root.ID, `{"domain_name":"a.example","validity_seconds":86400}`)
	before := w.crl(root.ID).Number
	w.pass(time.Minute)
	revoke := func(serial, body string, status int) Entry {
		t.Helper()
		var e Entry
		a := w.Want(t, status, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, serial), body)
		if status == 200 {
			a.Into(t, &e)
		}
		return e
	}
	revoke(first.Serial, `{"reason":"because"}`, 400)
	revoke("00FF", ``, 404)
	revoke("zz", ``, 400)
	if e := revoke(first.Serial, `{"reason":"keyCompromise"}`, 200); e.Status != "REVOKED" || e.Reason != 1 || e.RevokedAt != w.now.Unix() {
		t.Errorf("%+v", e)
	}
	if c := must(w.store.Certificate(context.Background(), 1, first.ID)); c.Status(w.now) != certificate.Revoked || c.Reason != 1 {
		t.Errorf("the managed certificate is %s", c.Status(w.now))
	}
	crl := w.crl(root.ID)
	if crl.Number.Cmp(before) <= 0 || len(crl.RevokedCertificateEntries) != 1 || crl.RevokedCertificateEntries[0].ReasonCode != 1 ||
		ca.SerialText(crl.RevokedCertificateEntries[0].SerialNumber) != first.Serial {
		t.Errorf("%+v", crl)
	}
	w.pass(time.Minute)
	if e := revoke(first.Serial, `{"reason":"superseded"}`, 200); e.Reason != 1 {
		t.Errorf("revoked again: %+v", e)
	}
	second := w.issue(root.ID, `{"domain_name":"b.example","validity_seconds":300}`)
	w.pass(time.Hour)
	if e := revoke(second.Serial, ``, 200); e.Status != "REVOKED" {
		t.Errorf("expired and revoked: %+v", e)
	}
	if got := len(w.crl(root.ID).RevokedCertificateEntries); got != 2 {
		t.Errorf("%d in the CRL", got)
	}
	// Once its certificate is long over it leaves the CRL.
	w.pass(33 * 24 * time.Hour)
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/crl", base, root.ID), "")
	if got := len(w.crl(root.ID).RevokedCertificateEntries); got != 0 {
		t.Errorf("%d in the CRL after a month", got)
	}
}

// The ledger is paged from the newest on, whatever the weeks.
func TestTheLedger(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	w.pass(time.Second) // serial numbers are in the order of time
	var want []string
	for i := range 7 {
		want = append(want, w.issue(root.ID, fmt.Sprintf(`{"domain_name":"h%d.example","validity_seconds":3600}`, i)).Serial)
		w.pass(5 * 24 * time.Hour)
	}
	slices.Reverse(want)
	var got []string
	for before, pages := "", 0; pages < 9; pages++ {
		a := w.Want(t, 200, w.session, "GET", fmt.Sprintf("%s/%d/certificates?limit=2&before=%s", base, root.ID, before), "")
		var page ledgerResponse
		if err := json.Unmarshal([]byte(a.Body), &page.Body); err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Body.Data {
			got = append(got, e.Serial)
		}
		if before = page.Body.Meta.Next; before == "" {
			break
		}
	}
	if len(got) != 9 || !slices.Equal(got[:7], want) {
		t.Errorf("%v\nwant %v and the CA's own two", got, want)
	}
}

// A signature is recorded before it is made, whatever comes after.
func TestIntentComesFirst(t *testing.T) {
	w := newWorld(t)
	root := w.create(`{"name":"root"}`)
	c := must(w.store.CA(context.Background(), 1, root.ID))
	key := newKey()
	w.pass(time.Second) // serial numbers are in the order of time
	plan := must(c.Plan(ca.Request{Names: []string{"a.example"}, Public: key.Public()}, w.now))
	dead := errors.New("the process is killed")
	_, err := w.signer.Sign(context.Background(), c, killed{must(w.signer.Key(context.Background(), c)), dead}, plan, key.Public(), "test", 0)
	if !errors.Is(err, dead) {
		t.Fatalf("%v", err)
	}
	entries := must(w.store.Entries(context.Background(), root.ID, "", 1))
	if len(entries) != 1 || entries[0].Status(w.now) != "INTENDED" || entries[0].DER() != nil || !slices.Equal(entries[0].Names, []string{"a.example"}) {
		t.Fatalf("%+v", entries)
	}
	w.pass(time.Minute)
	var e Entry
	w.Want(t, 200, w.session, "POST", fmt.Sprintf("%s/%d/certificates/%s/revoke", base, root.ID, entries[0].Serial), "").Into(t, &e)
	if e.Status != "REVOKED" || len(w.crl(root.ID).RevokedCertificateEntries) != 1 {
		t.Errorf("%+v", e)
	}
}

// killed is a key whose process dies when it is used.
type killed struct {
	crypto.Signer
	err error
}

func (k killed) SignMessage(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
	return nil, k.err
}
