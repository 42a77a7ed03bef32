package device

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/nacl/box"
)

var now = time.UnixMilli(1_790_000_000_000)

func TestADataKeyIsSealedToTheDevice(t *testing.T) {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, KeySize)
	sealed, err := Seal(key, public[:])
	if err != nil || len(sealed) != 80 {
		t.Fatalf("%d bytes, %v", len(sealed), err)
	}
	if opened, ok := box.OpenAnonymous(nil, sealed, public, private); !ok || !bytes.Equal(opened, key) {
		t.Error("the device does not open it")
	}
	other, otherPrivate, _ := box.GenerateKey(rand.Reader)
	if _, ok := box.OpenAnonymous(nil, sealed, other, otherPrivate); ok {
		t.Error("another device opens it")
	}
	if _, err := Seal(key[:31], public[:]); err == nil {
		t.Error("a data key of 31 bytes is sealed")
	}
}

// To a point of low order everybody knows what is sealed.
func TestKeysOfLowOrder(t *testing.T) {
	for _, point := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"00",
	} {
		key, err := hex.DecodeString(point)
		if err != nil {
			t.Fatal(err)
		}
		if CheckKey(key) == nil {
			t.Errorf("%s is taken", point)
		}
		if sealed, err := Seal(bytes.Repeat([]byte{7}, KeySize), key); err == nil {
			t.Errorf("sealed to %s: %x", point, sealed)
		}
	}
	for range 100 { // automation sends random bytes
		key := make([]byte, KeySize)
		rand.Read(key)
		if CheckKey(key) != nil {
			t.Errorf("%x is refused", key)
		}
	}
}

func TestFingerprint(t *testing.T) { // of libsodium's generichash, over 32 zeros
	if got := hex.EncodeToString(Fingerprint(make([]byte, 32))); got != "89eb0d6a8a691dae2cd15ed0369931ce0a949ecafa5c3f93f8121833646e15c3" {
		t.Error(got)
	}
}

func TestAGrant(t *testing.T) {
	g, code := NewGrant(5*time.Second, 900*time.Second, now)
	if id, err := GrantOf(code); err != nil || id != g.ID {
		t.Fatalf("%s, %v", id, err)
	}
	if id, err := GrantID(RegistrationCode(code)); err != nil || id != g.ID {
		t.Fatalf("%s, %v", id, err)
	}
	if strings.Contains(RegistrationCode(code), code[3:20]) {
		t.Error("the registration code holds the device code")
	}
	status := func(g Grant, after time.Duration, want GrantStatus) {
		t.Helper()
		if got := g.Status(now.Add(after)); got != want {
			t.Errorf("after %v: %s, want %s", after, got, want)
		}
	}
	status(g, 0, GrantPending)
	status(g, 900*time.Second, GrantExpired)
	if g.Admits(7, "a", now) {
		t.Error("it admits before it is approved")
	}
	g.User, g.Approved, g.DecidedAt = 7, true, now.Add(time.Minute)
	status(g, time.Minute, GrantApproved)
	status(g, time.Minute+RegistrationLifetime, GrantExpired)
	if !g.Admits(7, "a", now.Add(time.Minute)) || g.Admits(8, "a", now.Add(time.Minute)) || g.Admits(7, "a", now.Add(time.Minute+RegistrationLifetime)) {
		t.Error("it admits wrongly")
	}
	g.PublicID = "a"
	status(g, time.Minute, GrantIssued)
	if !g.Admits(7, "a", now.Add(time.Minute)) || g.Admits(7, "b", now.Add(time.Minute)) {
		t.Error("used, it admits the device again and no other")
	}
	g.Approved, g.PublicID = false, ""
	status(g, time.Minute, GrantDenied)
	for _, text := range []string{"", "rc_x", code, "dc_" + strings.Repeat("x", 100)} {
		if _, err := GrantID(text); err == nil {
			t.Errorf("%q is a registration code", text)
		}
	}
}

// An agent polls at once, and then every interval exactly.
func TestPacing(t *testing.T) {
	g := Grant{Interval: 5 * time.Second}
	if g.TooSoon(now) {
		t.Error("the first poll is too soon")
	}
	g.PolledAt = now
	for after, want := range map[time.Duration]bool{0: true, 3999 * time.Millisecond: true, 4 * time.Second: false, 5 * time.Second: false} {
		if g.TooSoon(now.Add(after)) != want {
			t.Errorf("after %v: %v", after, !want)
		}
	}
}

func TestUserCodes(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		code := newUserCode()
		if parsed, ok := ParseUserCode(strings.ToLower(code)); !ok || parsed != code || strings.ContainsAny(code, "AEIOUY01") || seen[code] {
			t.Fatalf("%s, %s", code, parsed)
		}
		seen[code] = true
	}
	for text, want := range map[string]string{"k7qm2xrd": "K7QM-2XRD", " K7QM 2XRD ": "K7QM-2XRD", "k7qm-2xrd": "K7QM-2XRD"} {
		if got, ok := ParseUserCode(text); !ok || got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	for _, text := range []string{"", "K7QM", "K7QM-2XR", "K7QM_2XRD", "K7QM-2XRDX", "K7QM-2XRÄ", "----------"} {
		if got, ok := ParseUserCode(text); ok {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func devices(n int, issue int64) []Assignment {
	all := make([]Assignment, n)
	for i := range all {
		all[i] = Assignment{Device: int64(i + 1), Issue: issue}
	}
	return all
}

func TestAStagedRollout(t *testing.T) {
	r := Rollout{Issue: 2, Plan: Plan{Percent: 10, Wait: time.Hour, Failures: 20}}
	all := devices(50, 1)
	first := r.Next(all, now)
	if len(first) != 5 {
		t.Fatalf("%d are the first", len(first))
	}
	if again := r.Next(devices(50, 1), now); again[0].Device != first[0].Device || again[4].Device != first[4].Device {
		t.Error("the first are others each time")
	}
	tell := func(some []Assignment) {
		for _, a := range some {
			all[a.Device-1].Issue = 2
		}
	}
	tell(first[:3]) // killed on the way
	if rest := r.Next(all, now); len(rest) != 2 {
		t.Errorf("after a crash: %d more", len(rest))
	}
	tell(first)
	r.FirstAt = now
	if len(r.Next(all, now.Add(time.Hour-1))) != 0 || len(r.Next(all, now.Add(time.Hour))) != 45 {
		t.Error("the rest is not told when it is time")
	}
	report := func(device int64, ok bool) {
		all[device-1].Report = Report{Issue: 2, Installed: ok, At: now, Ever: true}
	}
	report(first[0].Device, false)
	if r.Failing(all) {
		t.Error("one of five is 20 percent, which is allowed")
	}
	report(first[1].Device, false)
	if !r.Failing(all) {
		t.Error("two of five are too many")
	}
	r.StoppedAt = now
	if len(r.Next(all, now.Add(24*time.Hour))) != 0 || r.Stage() != Stopped {
		t.Error("a stopped roll-out goes on")
	}
}

func TestWhatADeviceHasNothingOfItHasAtOnce(t *testing.T) {
	r := Rollout{Issue: 2, Plan: Plan{Percent: 50, Wait: time.Hour}, FirstAt: now}
	all := devices(4, 1)
	all[3].Issue = 0
	if next := r.Next(all, now); len(next) != 1 || next[0].Device != 4 {
		t.Errorf("%+v", next)
	}
}

// A change of how a key is given out is told to those that have the issue; the stages go on beside it.
func TestToldAgain(t *testing.T) {
	r := Rollout{Issue: 2, Again: true, Revision: 9, Plan: Plan{Percent: 50, Wait: time.Hour}, FirstAt: now.Add(-time.Minute)}
	all := devices(4, 1)
	all[0].Issue, all[1].Issue, all[1].Revision = 2, 2, 9
	if next := r.Next(all, now); len(next) != 1 || next[0].Device != 1 {
		t.Errorf("%+v", next)
	}
}

func TestStates(t *testing.T) {
	for _, tc := range []struct {
		a     Assignment
		state State
		done  bool
	}{
		{Assignment{}, Waiting, false},
		{Assignment{Issue: 2, Fetched: 1}, Told, false},
		{Assignment{Issue: 2, Fetched: 2}, Fetched, true},
		{Assignment{Issue: 2, Fetched: 2, Report: Report{Issue: 1, Installed: true, Ever: true}}, Fetched, false},
		{Assignment{Issue: 2, Fetched: 2, Report: Report{Issue: 2, Installed: true, Ever: true}}, Installed, true},
		{Assignment{Issue: 2, Fetched: 2, Report: Report{Issue: 2, Ever: true}}, Failed, false},
	} {
		if tc.a.State() != tc.state || tc.a.Done() != tc.done {
			t.Errorf("%+v: %s, %v", tc.a, tc.a.State(), tc.a.Done())
		}
	}
}
