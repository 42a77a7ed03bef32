package apikey

import (
	"testing"
	"time"

	"cjj365.cc/bb/shared/token"
)

var start = time.UnixMilli(1_790_000_000_000)

func newKey(lifetime time.Duration) (Key, token.Token) {
	return New(7, 12, "ci", "certs:*:read", "user/7/session/1", start, lifetime)
}

func TestAKeyEndsAtItsExpiry(t *testing.T) {
	k, tok := newKey(time.Hour)
	for after, want := range map[time.Duration]Verdict{0: Admitted, time.Hour - 1: Admitted, time.Hour: Refused, 2 * time.Hour: Refused} {
		if got := k.Admit(tok, start.Add(after)); got != want {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
}

func TestAnotherTokenIsRefused(t *testing.T) {
	k, _ := newKey(time.Hour)
	_, other := newKey(time.Hour)
	if k.Admit(other, start) != Refused || k.Admit(token.Token{}, start) != Refused {
		t.Error("a token that is not the key's was admitted")
	}
}

func TestRoll(t *testing.T) {
	k, first := newKey(24 * time.Hour)
	second := k.Roll(5 * time.Minute)
	late := start.Add(10 * time.Hour)
	if k.Admit(first, late) != Admitted {
		t.Error("the old token died before the new one was used")
	}
	if k.Admit(second, late) != FirstUse {
		t.Error("the first use of the new token is not told from others")
	}
	k.MarkFirstUse(late)
	if k.Admit(second, late) != Admitted {
		t.Error("the second use counts as the first")
	}
	if k.Admit(first, late.Add(5*time.Minute-1)) != Superseded {
		t.Error("the old token died within its grace")
	}
	if k.Admit(first, late.Add(5*time.Minute)) != Refused {
		t.Error("the old token outlived its grace")
	}
	if k.Admit(second, start.Add(24*time.Hour)) != Refused {
		t.Error("a roll lengthened the key's life")
	}
}

func TestASecondRollReplacesTheLostToken(t *testing.T) {
	k, first := newKey(time.Hour)
	lost := k.Roll(time.Minute)
	third := k.Roll(0)
	if k.Admit(first, start) != Admitted || k.Admit(lost, start) != Refused || k.Admit(third, start) != FirstUse {
		t.Error("after a lost roll the token in use must work, and the lost one must not")
	}
	k.MarkFirstUse(start)
	if k.Admit(first, start) != Refused {
		t.Error("grace 0 must end the old token with the first use of the new one")
	}
}

func TestAddressRanges(t *testing.T) {
	ranges := []string{"192.0.2.0/24", "2001:db8::/32"}
	for address, want := range map[string]bool{
		"192.0.2.9": true, "192.0.3.9": false, "2001:db8::1": true, "2001:db9::1": false, "::ffff:192.0.2.9": true, "": false, "x": false, "192.0.2.9:80": false,
	} {
		if got := AdmitsFrom(ranges, address); got != want {
			t.Errorf("%q: %v, want %v", address, got, want)
		}
	}
	if !AdmitsFrom(nil, "anything") {
		t.Error("a key without ranges is refused")
	}
	if AdmitsFrom([]string{"nonsense"}, "192.0.2.9") {
		t.Error("an unreadable range admits")
	}
}

func TestWithin(t *testing.T) {
	for _, tc := range []struct {
		ranges, limits []string
		want           bool
	}{
		{nil, nil, true}, {[]string{"10.0.0.0/8"}, nil, true}, {nil, []string{"10.0.0.0/8"}, false},
		{[]string{"10.1.0.0/16"}, []string{"10.0.0.0/8"}, true}, {[]string{"10.0.0.0/8"}, []string{"10.1.0.0/16"}, false},
		{[]string{"10.1.0.0/16", "192.0.2.1/32"}, []string{"10.0.0.0/8"}, false}, {[]string{"10.1.0.0/16", "192.0.2.1/32"}, []string{"10.0.0.0/8", "192.0.2.0/24"}, true},
		{[]string{"::/0"}, []string{"0.0.0.0/0"}, false}, {[]string{"nonsense"}, []string{"0.0.0.0/0"}, false},
	} {
		if got := Within(tc.ranges, tc.limits); got != tc.want {
			t.Errorf("%v within %v: %v", tc.ranges, tc.limits, got)
		}
	}
}
