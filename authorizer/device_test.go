package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/store"
)

// tokens signs devices' tokens of a root of its own, which is published in a store.
func tokens(t testing.TB, s *store.Store) *devicetoken.Signer {
	t.Helper()
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &devicetoken.Signer{Root: func(context.Context) (crypto.Signer, error) { return root, nil }, Publish: s.PublishTokenKey}
}

// deviceToken is a token of device 101.
func (w *world) deviceToken(t testing.TB) string {
	t.Helper()
	text, err := tokens(t, w.store).Sign(t.Context(), w.owner.ID, 101, w.now)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestADevice(t *testing.T) {
	w := newWorld(t)
	headers := header{"Authorization": {"Bearer " + w.deviceToken(t)}}
	got, caller := w.ask(t, "GET/apiv1/devices/self/updates", headers)
	if got != allowed || caller.Kind != access.Device || caller.User != w.owner.ID || caller.ID != 101 || caller.Permissions != "" {
		t.Errorf("%s %+v", got, caller)
	}
	w.expect(t, allowed, "GET/apiv1/devices/self/certificates/5/deploy-materials", headers)
	for _, path := range []string{"GET/apiv1/me", "GET/apiv1/users/1/devices", "GET/apiv1/users/1", "POST/apiv1/me/devices", "GET/apiv1/devices", "GET/git/x", "GET/apiv1/permissions/catalog"} {
		w.expect(t, denied, path, headers)
	}
	w.expect(t, unauthorized, "GET/apiv1/devices/self/updates", header{"Authorization": {"Basic " + w.deviceToken(t)}})
	w.expect(t, unauthorized, "GET/apiv1/devices/self/updates", header{"Cookie": {"cjj365=" + w.deviceToken(t)}})
	w.now = w.now.Add(devicetoken.Lifetime)
	w.expect(t, unauthorized, "GET/apiv1/devices/self/updates", headers)
}

// A device's token needs no network once its root is known, and nobody is let in while it is not.
func TestADeviceNeedsNoTable(t *testing.T) {
	w := newWorld(t)
	headers := header{"Authorization": {"Bearer " + w.deviceToken(t)}}
	known := w.authn
	w.authn = &authn.Authenticator{Client: known.Client, Table: known.Table, Now: known.Now}
	w.through(t, "http://127.0.0.1:9")
	begin := time.Now()
	w.expect(t, failed, "GET/apiv1/devices/self/updates", headers)
	if took := time.Since(begin); took > limit {
		t.Errorf("failed after %v", took)
	}
	w.authn = known
	w.expect(t, allowed, "GET/apiv1/devices/self/updates", headers)
	w.through(t, "http://127.0.0.1:9")
	w.expect(t, allowed, "GET/apiv1/devices/self/updates", headers)
}

// A token whose root is not ours is refused, whatever it says.
func TestARootOfAnother(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	text, err := tokens(t, other.store).Sign(t.Context(), w.owner.ID, 101, w.now)
	if err != nil {
		t.Fatal(err)
	}
	w.expect(t, unauthorized, "GET/apiv1/devices/self/updates", header{"Authorization": {"Bearer " + text}})
}
