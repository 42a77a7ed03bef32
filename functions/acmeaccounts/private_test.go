package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/catest"
	"cjj365.cc/bb/shared/functiontest"
)

// Accounts at a private CA (contract §8): whatever the provider is called, no directory is asked, and the CA counts them.
func TestAccountsAtAPrivateCA(t *testing.T) {
	w := newWorld(t)
	signer := catest.Signer(t, w.store, func() time.Time { return w.now })
	ours, theirs := catest.Root(t, signer, 1), catest.Root(t, signer, 2)
	for provider, shown := range map[string]string{"SELF_CA": "SELF_CA", "self_ca": "SELF_CA", "letsencrypt": "letsencrypt", "down": "down", "": "SELF_CA"} {
		a := w.create(t, fmt.Sprintf(`{"name":"self","email":"","provider":%q,"ca_id":%d,"leaf_key_algorithm":"ECDSA","leaf_ec_curve":"secp384r1","cert_valid_seconds":3600}`, provider, ours.ID))
		if a.CA != ours.ID || a.Provider != shown || a.Directory != "" || a.URL != nil || a.KeyType != "ecdsa-p384" || a.ValidSeconds != 3600 || a.Registration != "registered" {
			t.Errorf("%q: %+v", provider, a)
		}
	}
	for body, status := range map[string]int{
		fmt.Sprintf(`{"name":"x","provider":"SELF_CA","ca_id":%d}`, theirs.ID):                                                       404,
		`{"name":"x","provider":"SELF_CA","ca_id":"99"}`:                                                                             404,
		`{"name":"x","provider":"SELF_CA"}`:                                                                                          400,
		fmt.Sprintf(`{"name":"x","provider":"nobody","ca_id":%d}`, ours.ID):                                                          400,
		fmt.Sprintf(`{"name":"x","provider":"SELF_CA","ca_id":%d,"eab_kid":"k","eab_hmac_key":"aaaaaaaaaaaaaaaaaaaaaaaa"}`, ours.ID): 400,
	} {
		if a := w.Call(t, w.session, "POST", "/apiv1/users/1/acme-accounts", body); a.Status != status {
			t.Errorf("%s: %d %s, want %d", body, a.Status, a.Body, status)
		}
	}
	ctx := context.Background()
	uses := func() int64 {
		c, err := w.store.CA(ctx, 1, ours.ID)
		if err != nil {
			t.Fatal(err)
		}
		return c.Uses
	}
	// An account has the CA issue: it takes the permission for that.
	for permissions, status := range map[access.Permissions]int{
		"acme_accounts:*:write": 403, "acme_accounts:*:write;cas:*:read": 403, "acme_accounts:*:write;cas:99:write": 403,
		access.Permissions(fmt.Sprintf("acme_accounts:*:write;cas:%d:write", ours.ID)): 201,
	} {
		if a := w.Call(t, functiontest.Key(1, permissions, w.now), "POST", "/apiv1/users/1/acme-accounts", fmt.Sprintf(`{"name":"x","ca_id":%d}`, ours.ID)); a.Status != status {
			t.Errorf("%s: %d %s, want %d", permissions, a.Status, a.Body, status)
		}
	}
	if uses() != 6 {
		t.Errorf("%d accounts rest on the CA", uses())
	}
	one := "/apiv1/users/1/acme-accounts/1"
	var a Account
	w.Want(t, 200, w.session, "PUT", one, `{"provider":"SELF_CA","name":"new","cert_valid_seconds":7200}`).Into(t, &a)
	if a.Name != "new" || a.ValidSeconds != 7200 {
		t.Errorf("%+v", a)
	}
	w.Want(t, 200, w.session, "POST", one+"/register", "")
	w.Want(t, 204, w.session, "DELETE", one, "")
	if uses() != 5 {
		t.Errorf("%d accounts rest on the CA", uses())
	}
}
