package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/certificate"
)

// selfCA makes a CA of the user's, and an account at it.
func (w *world) selfCA(t *testing.T) (ca, account int64) {
	t.Helper()
	root := catest.Root(t, w.signer, 1)
	id := must(w.store.NextACMEAccountID(context.Background()))
	a := acmeaccount.Account{User: 1, ID: id, Name: "self", Provider: acmeaccount.SelfCA, CA: root.ID, KeyType: "ecdsa-p384", Validity: 48 * time.Hour, CreatedAt: w.now, UpdatedAt: w.now}
	if err := w.store.CreateACMEAccount(context.Background(), a, nil); err != nil {
		t.Fatal(err)
	}
	return root.ID, id
}

// An account at a private CA: both dialects of a create, and the issue while the caller waits (contract §7.7, §8).
func TestAnAccountAtAPrivateCA(t *testing.T) {
	w := newWorld(t)
	ca, account := w.selfCA(t)
	var atOnce Certificate
	w.Want(t, 201, w.session, "POST", path, fmt.Sprintf(`{"domain":"printer.local","sans":["10.0.0.1","*.dev.local"],"acme_account_id":%d}`, account)).Into(t, &atOnce)
	if atOnce.Status != "ISSUED" || !atOnce.Verified || !atOnce.SelfSigned || atOnce.CA != ca || atOnce.KeyType != "ecdsa-p384" || atOnce.Serial == "" || !atOnce.Export ||
		atOnce.NotAfter-atOnce.NotBefore != 48*3600-1 || atOnce.Progress != nil {
		t.Errorf("%+v", atOnce)
	}
	var made Certificate
	w.Want(t, 201, w.session, "POST", path, fmt.Sprintf(`{"domain_name":"host.local","sans":[],"acct_id":%d,"action":"create","organization":"Example"}`, account)).Into(t, &made)
	if made.Status != "CREATED" || made.Serial != "" {
		t.Errorf("%+v", made)
	}
	one := fmt.Sprintf("%s/%d", path, made.ID)
	var issued Certificate
	w.Want(t, 200, w.session, "POST", one+"/issues", `{"validity_seconds":3600}`).Into(t, &issued)
	if issued.ID != made.ID || !issued.Verified || issued.Domain != "host.local" || issued.NotAfter-issued.NotBefore != 3600-1 || issued.Attempts != 1 {
		t.Errorf("%+v", issued)
	}
	w.now = w.now.Add(time.Minute)
	var renewed Certificate
	w.Want(t, 200, w.session, "POST", one+"/issues", ``).Into(t, &renewed)
	if renewed.Serial == issued.Serial || renewed.Attempts != 2 || renewed.Status != "ISSUED" {
		t.Errorf("%+v", renewed)
	}
	w.Want(t, 400, w.session, "POST", one+"/issues", `{"validity_seconds":10}`)
	var shown Certificate
	w.Want(t, 200, w.session, "GET", one+"?detail=most", "").Into(t, &shown)
	if strings.Count(shown.Cert, "BEGIN CERTIFICATE") != 2 || shown.Serial != renewed.Serial || shown.RenewAt <= w.now.Unix() || shown.RenewAt >= shown.NotAfter {
		t.Errorf("%+v", shown)
	}
	var history []Issue
	w.Want(t, 200, w.session, "GET", one+"/issues", "").Into(t, &history)
	if len(history) != 2 || history[0].Status != "SUCCESS" || history[0].Serial != renewed.Serial {
		t.Errorf("%+v", history)
	}
	w.Want(t, 204, w.session, "PUT", one, `{"action":"verify_domain"}`+"")
	w.Want(t, 200, w.session, "PUT", one, `{"server_decrypt_export":true}`)
	var parts struct{ Cert, PrivKey string }
	w.Want(t, 200, w.session, "GET", one+"/export", "").Into(t, &parts)
	if !strings.Contains(parts.Cert, "BEGIN CERTIFICATE") || parts.PrivKey == "" {
		t.Errorf("%+v", parts)
	}

	// Revoked in the CA's ledger, and in its CRL.
	w.now = w.now.Add(time.Minute)
	w.Want(t, 200, w.session, "POST", one+"/revoke", `{"reason":"superseded"}`).Into(t, &shown)
	e, err := w.store.Entry(context.Background(), ca, renewed.Serial)
	if shown.Status != "REVOKED" || err != nil || e.RevokedAt.IsZero() || e.Reason != 4 || e.Certificate != made.ID {
		t.Errorf("%+v, %+v, %v", shown, e, err)
	}
	object, err := w.signer.Bucket.Get(context.Background(), fmt.Sprintf("%d/ca.crl", ca))
	if err != nil {
		t.Fatal(err)
	}
	if crl := must(x509.ParseRevocationList(object.Body)); len(crl.RevokedCertificateEntries) != 1 {
		t.Errorf("%+v", crl.RevokedCertificateEntries)
	}
	w.Want(t, 204, w.session, "DELETE", one, "")
}

// What the CA refuses is refused before anything is stored.
func TestWhatAPrivateCARefuses(t *testing.T) {
	w := newWorld(t)
	_, account := w.selfCA(t)
	for body, status := range map[string]int{
		`{"domain":"a..local","acme_account_id":%d}`:                      400,
		`{"domain":"a.local","profile":"smime","acme_account_id":%d}`:     400,
		`{"domain":"a.local","profile":"none","acme_account_id":%d}`:      400,
		`{"domain":"ann@example.org","acme_account_id":%d}`:               400,
		`{"domain":"a.local","key_type":"rsa-1024","acme_account_id":%d}`: 400,
		`{"domain":"a.local","acme_account_id":%d,"acct_id":77}`:          400,
	} {
		if a := w.Call(t, w.session, "POST", path, fmt.Sprintf(body, account)); a.Status != status {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	if _, total, err := w.store.Certificates(context.Background(), 1, 0, 20); err != nil || total != 0 {
		t.Errorf("%d stored, %v", total, err)
	}
	w.Want(t, 201, w.session, "POST", path, fmt.Sprintf(`{"domain":"a.local","acme_account_id":%d}`, account))
	w.Want(t, 409, w.session, "POST", path, fmt.Sprintf(`{"domain":"a.local","acme_account_id":%d}`, account))
}

// A process that is killed before the CA signs, or after, leaves an open issue that another finishes.
func TestAKilledIssueFromAPrivateCA(t *testing.T) {
	w := newWorld(t)
	_, account := w.selfCA(t)
	var made Certificate
	w.Want(t, 201, w.session, "POST", path, fmt.Sprintf(`{"domain_name":"host.local","acct_id":%d}`, account)).Into(t, &made)
	ctx := context.Background()
	c := must(w.store.Certificate(ctx, 1, made.ID))
	open := certificate.NewOrder(must(w.store.NextIssueID(ctx)), "", w.now)
	c = must(w.store.UpdateCertificate(ctx, c, c, &open, nil))
	dead := must(w.store.LeaseOrder(ctx, c.ID, "killed", w.now)) // and never heard of again
	one := fmt.Sprintf("%s/%d", path, made.ID)
	w.Want(t, 409, w.session, "POST", one+"/issues", "")
	w.now = w.now.Add(certificate.LeaseFor + time.Second)
	w.signer.Forget(c.CA)
	worker := w.handler.cas
	if _, _, err := worker.Issue(ctx, c.ID, "issuer"); err != nil {
		t.Fatal(err)
	}
	c = must(w.store.Certificate(ctx, 1, made.ID))
	if c.Status(w.now) != certificate.Valid || c.Issuing != 0 {
		t.Errorf("%+v", c)
	}
	if _, _, err := worker.Run(ctx, dead, "killed"); err == nil {
		t.Error("the killed one comes back and closes what another has finished")
	}
}

// A CA that was deleted by force issues no more, and says so; what it issued stays.
func TestADeletedCA(t *testing.T) {
	w := newWorld(t)
	ca, account := w.selfCA(t)
	var made Certificate
	w.Want(t, 201, w.session, "POST", path, fmt.Sprintf(`{"domain":"host.local","acme_account_id":%d}`, account)).Into(t, &made)
	if _, err := w.store.DeleteCA(context.Background(), 1, ca, true, w.now); err != nil {
		t.Fatal(err)
	}
	one := fmt.Sprintf("%s/%d", path, made.ID)
	w.Want(t, 404, w.session, "POST", one+"/issues", "")
	w.Want(t, 409, w.session, "POST", one+"/revoke", "")
	w.Want(t, 200, w.session, "GET", one+"/export", "")
	w.Want(t, 404, w.session, "POST", path, fmt.Sprintf(`{"domain":"other.local","acme_account_id":%d}`, account))
	w.Want(t, 204, w.session, "DELETE", one, "")
	if err := w.store.DeleteACMEAccount(context.Background(), 1, account); err != nil {
		t.Error(err)
	}
}
