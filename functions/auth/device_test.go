package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/webhook"
)

// ask posts to /auth/device and reads the answer's data.
func (w *world) ask(t *testing.T, body string, headers ...string) (deviceData, answer) {
	t.Helper()
	a := w.send(t, "POST", "/auth/device", body, headers...)
	var d struct{ Data deviceData }
	if a.Status == http.StatusOK {
		if err := json.Unmarshal([]byte(a.Body), &d); err != nil {
			t.Fatalf("%s: %v", a.Body, err)
		}
	}
	return d.Data, a
}

// person is an active user, logged in, as a Cookie header.
func (w *world) person(t *testing.T, email string) (user.User, string) {
	t.Helper()
	hash, err := user.Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	u, err := w.store.CreateUser(t.Context(), user.User{Email: email, State: user.Active, PasswordHash: hash, CreatedAt: w.clock()})
	if err != nil {
		t.Fatal(err)
	}
	a := w.login(t, email, password)
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return u, "Cookie: " + a.Header["Set-Cookie"][0] // the whole line, as clients in the field send it
}

func (w *world) begin(t *testing.T) deviceData {
	t.Helper()
	d, a := w.ask(t, `{"action":"device_start"}`)
	if a.Status != 200 || d.Interval != 5 || d.ExpiresIn != 900 || d.URL != "https://bb.example/device" || d.CompleteURL != d.URL+"?user_code="+d.UserCode || d.DeviceCode == "" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return d
}

func (w *world) state(t *testing.T, d deviceData) string {
	t.Helper()
	got, a := w.ask(t, `{"action":"device_poll","device_code":"`+d.DeviceCode+`"}`)
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return got.Status
}

func verifying(code string, approve bool) string {
	return fmt.Sprintf(`{"action":"device_verify","user_code":%q,"approve":%v}`, code, approve)
}

func TestDeviceAuthorization(t *testing.T) {
	w := newWorld(t)
	ann, cookie := w.person(t, "ann@example.org")
	_, bob := w.person(t, "bob@example.org")
	d := w.begin(t)
	if got := w.state(t, d); got != "authorization_pending" {
		t.Errorf("at once: %s", got)
	}
	w.pass(time.Second)
	if got := w.state(t, d); got != "slow_down" {
		t.Errorf("after a second: %s", got)
	}
	w.pass(4 * time.Second)
	if got := w.state(t, d); got != "authorization_pending" {
		t.Errorf("the gap is longer after slow_down: %s", got)
	}
	if _, a := w.ask(t, verifying(d.UserCode, true)); a.Status != 401 || a.Error.Code != 5104 {
		t.Errorf("nobody approves: %d %s", a.Status, a.Body)
	}
	if _, a := w.ask(t, verifying(d.UserCode, true), "Authorization: Bearer "+token.Mint(token.APIKey, ann.ID, 1).Reveal()); a.Status != 401 {
		t.Errorf("an API key approves: %d %s", a.Status, a.Body)
	}
	if _, a := w.ask(t, verifying(d.UserCode, true), cookie, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"); a.Status != 403 {
		t.Errorf("another site's page approves: %d %s", a.Status, a.Body)
	}
	if got, a := w.ask(t, verifying(strings.ToLower(d.UserCode), true), cookie); a.Status != 200 || got.Status != "approved" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if got, a := w.ask(t, verifying(d.UserCode, true), cookie); a.Status != 200 || got.Status != "approved" {
		t.Errorf("again: %d %s", a.Status, a.Body)
	}
	if _, a := w.ask(t, verifying(d.UserCode, false), cookie); a.Status != 409 {
		t.Errorf("the other way: %d %s", a.Status, a.Body)
	}
	if _, a := w.ask(t, verifying(d.UserCode, true), bob); a.Status != 409 {
		t.Errorf("by another: %d %s", a.Status, a.Body)
	}
	got, _ := w.ask(t, `{"action":"device_poll","device_code":"`+d.DeviceCode+`"}`)
	if got.Status != "ready" || got.Registration == "" || got.RegistrationTTL != 600 || got.User != ann.ID {
		t.Errorf("%+v", got)
	}
	w.pass(time.Minute)
	again, _ := w.ask(t, `{"action":"device_poll","device_code":"`+d.DeviceCode+`"}`)
	if again.Registration != got.Registration || again.RegistrationTTL != 540 {
		t.Errorf("again: %+v", again)
	}
	w.pass(9 * time.Minute)
	if got := w.state(t, d); got != "expired" {
		t.Errorf("after the code lapsed: %s", got)
	}

	denied := w.begin(t)
	if got, _ := w.ask(t, verifying(denied.UserCode, false), cookie); got.Status != "denied" || w.state(t, denied) != "access_denied" {
		t.Errorf("%+v", got)
	}
	late := w.begin(t)
	w.pass(15 * time.Minute)
	if got := w.state(t, late); got != "expired" {
		t.Errorf("late: %s", got)
	}
	if _, a := w.ask(t, verifying(late.UserCode, true), cookie); a.Status != 404 {
		t.Errorf("approved late: %d %s", a.Status, a.Body)
	}
}

func TestBadDeviceRequests(t *testing.T) {
	w := newWorld(t)
	for body, code := range map[string]int{
		`{}`: 5008, `{"action":"dance"}`: 5000, `{"action":"device_poll"}`: 5008, `{"action":"device_poll","device_code":"x"}`: 5000,
		`{"action":"device_poll","device_code":"dc_` + strings.Repeat("x", 43) + `"}`: 5000, `{"action":"device_start","interval":0}`: 5000,
		`{"action":"device_start","expires_in":29}`: 5000, `{"action":"device_start","expires_in":3601}`: 5000, `{"action":"device_start","interval":1.5}`: 5009,
		`{"action":"device_start","scopes":[""]}`: 5000,
	} {
		if _, a := w.ask(t, body); a.Status != 400 || a.Error.Code != code {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	_, cookie := w.person(t, "ann@example.org")
	for range wrongCodes.Most {
		if _, a := w.ask(t, verifying("BBBB-BBBB", true), cookie); a.Status != 404 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	if _, a := w.ask(t, verifying(w.begin(t).UserCode, true), cookie); a.Status != 429 || a.Header["Retry-After"] == nil {
		t.Errorf("after %d wrong codes: %d %s", wrongCodes.Most, a.Status, a.Body)
	}
}

// deviceOf registers a device of a user's, and gives its first refresh token.
func (w *world) deviceOf(t *testing.T, u user.User) (device.Device, token.Token) {
	t.Helper()
	id, err := w.store.NextDeviceID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	family, first := session.NewFamily(u.ID, id, "", w.clock())
	d, err := w.store.RegisterDevice(t.Context(), store.Registration{
		After: device.Device{User: u.ID, ID: id, PublicID: fmt.Sprint("d", id), Key: make([]byte, 32), CreatedAt: w.clock(), UpdatedAt: w.clock()}, Family: family,
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, first
}

func (w *world) refreshed(t *testing.T, refresh string) answer {
	t.Helper()
	return w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+refresh+`"}`)
}

func TestADevicesSession(t *testing.T) {
	w := newWorld(t)
	ann, _ := w.person(t, "ann@example.org")
	d, first := w.deviceOf(t, ann)
	a := w.refreshed(t, first.Reveal())
	if a.Status != 200 || a.Data.ExpiresIn != 3600 || a.Data.Session == nil || a.Data.Session.AccessToken != a.Data.AccessToken || a.Data.Session.RefreshToken != a.Data.RefreshToken {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	parsed, err := devicetoken.Parse(a.Data.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	caller, err := w.handler.authn.Device(t.Context(), parsed)
	if err != nil || caller.User != ann.ID || caller.ID != d.ID {
		t.Errorf("%+v, %v", caller, err)
	}
	w.pass(time.Hour)
	if _, err := w.handler.authn.Device(t.Context(), parsed); err != authn.Expired {
		t.Errorf("after an hour: %v", err)
	}
	// The answer was lost: the same token again, within two minutes of its use, while its successor is unused.
	second := a.Data.RefreshToken
	a = w.refreshed(t, second)
	w.pass(time.Minute)
	again := w.refreshed(t, second)
	if a.Status != 200 || again.Status != 200 || again.Data.RefreshToken == a.Data.RefreshToken {
		t.Fatalf("%d %s", again.Status, again.Body)
	}
	if a := w.refreshed(t, again.Data.RefreshToken); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := w.refreshed(t, second); a.Status != 401 || a.Error.Code != 10003 || a.Error.Key != "refresh_token_rotated" {
		t.Errorf("a spent one: %d %s", a.Status, a.Body)
	}
	w.pass(session.ReplayWindow)
	if a := w.refreshed(t, second); a.Status != 401 || a.Error.Code != 10003 {
		t.Errorf("a spent one, later: %d %s", a.Status, a.Body)
	}
	if a := w.refreshed(t, again.Data.RefreshToken); a.Status != 401 || !strings.Contains(a.Error.What, "family revoked") {
		t.Errorf("the line is locked: %d %s", a.Status, a.Body)
	}
	if n := len(w.events(t, ann.ID, webhook.DeviceLocked)); n != 1 {
		t.Errorf("%d events", n)
	}
}

// Of two that refresh at once neither locks the device out.
func TestTwoRefreshesAtOnce(t *testing.T) {
	w := newWorld(t)
	ann, _ := w.person(t, "ann@example.org")
	_, first := w.deviceOf(t, ann)
	answers := make([]answer, 8)
	var group sync.WaitGroup
	for i := range answers {
		group.Go(func() { answers[i] = w.refreshed(t, first.Reveal()) })
	}
	group.Wait()
	last := ""
	for _, a := range answers {
		if a.Status != 200 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		last = a.Data.RefreshToken
	}
	if a := w.refreshed(t, last); a.Status != 200 {
		t.Errorf("afterwards: %d %s", a.Status, a.Body)
	}
}

func TestRefreshesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	ann, _ := w.person(t, "ann@example.org")
	bob, _ := w.person(t, "bob@example.org")
	d, first := w.deviceOf(t, ann)
	for name, refresh := range map[string]string{
		"another's": token.Mint(token.Refresh, ann.ID, d.ID).Reveal(), "of another user": token.Mint(token.Refresh, bob.ID, d.ID).Reveal(),
		"of nothing": token.Mint(token.Refresh, ann.ID, 999).Reveal(), "an API key": token.Mint(token.APIKey, ann.ID, d.ID).Reveal(),
	} {
		if a := w.refreshed(t, refresh); a.Status != 401 || a.Error.Code != 5018 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if _, err := w.store.RevokeDevice(t.Context(), d, w.clock()); err != nil {
		t.Fatal(err)
	}
	if a := w.refreshed(t, first.Reveal()); a.Status != 401 {
		t.Errorf("of a revoked device: %d %s", a.Status, a.Body)
	}
}

// events are a user's events of a type.
func (w *world) events(t *testing.T, user int64, of webhook.Type) (found []webhook.Event) {
	t.Helper()
	due, err := w.store.DueEvents(context.Background(), w.clock().Add(time.Hour), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range due {
		if e, err := w.store.Event(context.Background(), d.User, d.ID); err == nil && e.Type == of && d.User == user {
			found = append(found, e)
		}
	}
	return found
}

// A fleet behind one address refreshes all day; who tries what is refused comes to an end.
func TestRefreshesOfAnAddress(t *testing.T) {
	w := newWorld(t)
	ann, _ := w.person(t, "ann@example.org")
	_, next := w.deviceOf(t, ann)
	refresh := next.Reveal()
	for range perAddress.Most + 10 {
		a := w.refreshed(t, refresh)
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		refresh = a.Data.RefreshToken
	}
	wrong := token.Mint(token.Refresh, ann.ID, 999).Reveal()
	for range perAddress.Most - 1 { // a login counted, too
		w.refreshed(t, wrong)
	}
	if a := w.refreshed(t, wrong); a.Status != 429 || a.Header["Retry-After"] == nil {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := w.refreshed(t, refresh); a.Status != 200 {
		t.Errorf("a good one after that: %d %s", a.Status, a.Body)
	}
}
