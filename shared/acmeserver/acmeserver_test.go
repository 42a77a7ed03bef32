package acmeserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2030, 5, 6, 7, 8, 9, 0, time.UTC)

func TestASecretIsNotShown(t *testing.T) {
	s := NewSecret()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s)
	encoded, err := json.Marshal(struct{ S Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%#v %x %d", struct{ S Secret }{s}, s, s), log.String(), string(encoded)} {
		if !strings.Contains(text, "[redacted]") || strings.Contains(text, fmt.Sprint(s.Bytes())) {
			t.Error(text)
		}
	}
	again, err := ParseSecret(s.Bytes())
	if err != nil || again.BindingText("AAAA") != s.BindingText("AAAA") || s.BindingText("AAAA") == s.BindingText("AAAB") || NewSecret().BindingText("AAAA") == s.BindingText("AAAA") {
		t.Error("keys of bindings")
	}
	if _, err := ParseSecret(s.Bytes()[1:]); err == nil {
		t.Error("a short secret")
	}
	for range 200 {
		if s.BindingText(s.NewBindingID())[0] == '-' {
			t.Error("a key that begins like an option")
		}
	}
}

func TestNonces(t *testing.T) {
	s := NewSecret()
	n := s.Nonce(now)
	good := func(s Secret, n string, at time.Time) bool { _, ok := s.CheckNonce(n, at); return ok }
	for name, test := range map[string]struct {
		got, want bool
	}{
		"at once":                 {good(s, n, now), true},
		"by a clock that is late": {good(s, n, now.Add(-30*time.Second)), true},
		"before it was made":      {good(s, n, now.Add(-2*time.Minute)), false},
		"just before its end":     {good(s, n, now.Add(time.Hour-time.Second)), true},
		"at its end":              {good(s, n, now.Add(time.Hour)), false},
		"another CA's":            {good(NewSecret(), n, now), false},
		"a character more":        {good(s, n+"A", now), false},
		"a character less":        {good(s, n[:len(n)-1], now), false},
		"padded":                  {good(s, n+"==", now), false},
		"with a line break":       {good(s, n[:10]+"\r\n"+n[10:], now), false},
		"empty":                   {good(s, "", now), false},
	} {
		if test.got != test.want {
			t.Errorf("%s: %t", name, test.got)
		}
	}
	if ends, _ := s.CheckNonce(n, now); !ends.Equal(now.Add(time.Hour)) {
		t.Errorf("ends %s", ends)
	}
	for i := range n { // no other spelling
		for _, c := range "A_z0" {
			if other := n[:i] + string(c) + n[i+1:]; other != n && good(s, other, now) {
				t.Errorf("%s is as good as %s", other, n)
			}
		}
	}
}

func TestWhatABindingCovers(t *testing.T) {
	for _, test := range []struct {
		names     []string
		name      string
		is, isNot []string
	}{
		{nil, "nothing", nil, []string{"a.test", "10.0.0.1"}},
		{[]string{"*"}, "anything", []string{"a.test", "*.a.test", "10.0.0.1", "fd00::1", "printer"}, nil},
		{[]string{"a.test"}, "a name and what is below", []string{"a.test", "b.a.test", "*.a.test", "*.b.a.test"}, []string{"xa.test", "test", "*.test", "a.test.evil", "10.0.0.1"}},
		{[]string{".a.test"}, "what is below a name", []string{"b.a.test", "*.a.test"}, []string{"a.test", "10.0.0.1"}},
		{[]string{"10.0.0.0/8", "192.0.2.1", "fd00::/8"}, "ranges", []string{"10.1.2.3", "192.0.2.1", "fd00::1"}, []string{"11.0.0.1", "192.0.2.2", "fe80::1", "a.test", "*.a.test"}},
	} {
		names, err := ParseNames(test.names)
		if err != nil {
			t.Fatal(err)
		}
		b := Binding{Names: names}
		for _, name := range test.is {
			if !b.Covers(name) {
				t.Errorf("%s does not cover %s", test.name, name)
			}
		}
		for _, name := range test.isNot {
			if b.Covers(name) {
				t.Errorf("%s covers %s", test.name, name)
			}
		}
	}
}

func TestNamesOfABinding(t *testing.T) {
	for typed, want := range map[string]string{
		"Example.Test.,10.1.2.3,.B.test,fd00::/8": "example.test,.b.test,10.1.2.3/32,fd00::/8",
		"a.test,*": "*",
		"*.a.test": "", "a_b.test": "", "10.0.0.1/8": "", "http://a.test": "", "": "",
	} {
		got, err := ParseNames(strings.Split(typed, ","))
		if want == "" != (err != nil) || strings.Join(got, ",") != want {
			t.Errorf("%q: %q %v, want %q", typed, got, err, want)
		}
	}
}

func TestWhereAnOrderStands(t *testing.T) {
	pending := Challenge{Type: HTTP01}
	valid := Challenge{Type: HTTP01, ValidatedAt: now}
	failed := Challenge{Type: DNS01, Error: &Problem{Kind: "dns"}}
	authorization := func(c ...Challenge) Authorization { return Authorization{Name: "a.test", Challenges: c} }
	order := func(change func(*Order), a ...Authorization) Order {
		o := Order{Authorizations: a, ExpiresAt: now.Add(time.Hour)}
		change(&o)
		return o
	}
	same := func(*Order) {}
	for name, test := range map[string]struct {
		order Order
		want  Status
	}{
		"one pending":                           {order(same, authorization(valid), authorization(pending)), Pending},
		"all valid":                             {order(same, authorization(valid), authorization(valid)), Ready},
		"one of two challenges":                 {order(same, authorization(pending, valid)), Ready},
		"one failed":                            {order(same, authorization(pending), authorization(pending, failed)), Invalid},
		"one deactivated":                       {order(same, Authorization{Challenges: []Challenge{valid}, DeactivatedAt: now}), Invalid},
		"past its time":                         {order(func(o *Order) { o.ExpiresAt = now }, authorization(valid)), Invalid},
		"being issued":                          {order(func(o *Order) { o.LeaseEnds = now.Add(time.Second) }, authorization(valid)), Processing},
		"left by whoever issued it":             {order(func(o *Order) { o.LeaseEnds = now }, authorization(valid)), Ready},
		"issued":                                {order(func(o *Order) { o.Serial = "01" }, authorization(valid)), Valid},
		"issued, and past its time":             {order(func(o *Order) { o.Serial, o.ExpiresAt = "01", now }, authorization(valid)), Valid},
		"issued, and its authorization is gone": {order(func(o *Order) { o.Serial = "01" }, Authorization{DeactivatedAt: now}), Valid},
		"refused by the CA":                     {order(func(o *Order) { o.Error = &Problem{} }, authorization(valid)), Invalid},
	} {
		if got := test.order.Status(now); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
	if a := authorization(pending); a.Status(now, now) != Expired {
		t.Error("a pending authorization past its time")
	}
}

func TestWindows(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct{ lifetime, start, end time.Duration }{
		{90 * day, 60*day - 90*day/20, 60 * day},
		{10 * day, 5*day - day/2, 5 * day},
		{11 * day, 11*day*2/3 - 11*day/20, 11 * day * 2 / 3},
		{time.Hour, 27 * time.Minute, 30 * time.Minute},
	} {
		start, end := Window(now, now.Add(test.lifetime))
		if !start.Equal(now.Add(test.start).Truncate(time.Second)) || !end.Equal(now.Add(test.end).Truncate(time.Second)) {
			t.Errorf("%s: %s to %s", test.lifetime, start.Sub(now), end.Sub(now))
		}
	}
	if start, end := AtOnce(now); !end.Before(now) || !start.Before(end) {
		t.Errorf("%s to %s", start, end)
	}
}

// The example of RFC 9773 §4.1.
const example = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"

func TestCertificateIDs(t *testing.T) {
	authority, serial, ok := ParseCertificateID(example)
	if !ok || serial.Cmp(big.NewInt(0x87654321)) != 0 || len(authority) != 20 || CertificateID(authority, serial) != example {
		t.Errorf("%x %x %t", authority, serial, ok)
	}
	for _, wrong := range []string{
		"", ".", "AAAA", "AAAA.", ".AAAA", "aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ", "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AACHZUMh", "aYhba4dGQEHhs3uEe6CuLN4ByNR.AIdlQyE",
		example + "=", example + "\n", example + ".", " " + example, strings.Repeat("A", 400) + ".AIdlQyE",
	} {
		if _, _, ok := ParseCertificateID(wrong); ok {
			t.Errorf("%q is read", wrong)
		}
	}
}

func FuzzCertificateID(f *testing.F) {
	f.Add(example)
	f.Add("AA.AA")
	f.Fuzz(func(t *testing.T, id string) {
		authority, serial, ok := ParseCertificateID(id)
		if ok && (CertificateID(authority, serial) != id || serial.Sign() < 0) {
			t.Errorf("%q is another spelling of %q", id, CertificateID(authority, serial))
		}
	})
}

func FuzzNonce(f *testing.F) {
	s := NewSecret()
	f.Add(s.Nonce(now))
	f.Fuzz(func(t *testing.T, nonce string) {
		if ends, ok := s.CheckNonce(nonce, now); ok && !ends.After(now) {
			t.Errorf("%q", nonce)
		}
	})
}

func TestIDs(t *testing.T) {
	var seen []string
	for range 100 {
		id := NewID()
		if len(id) < 22 || slices.Contains(seen, id) || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
			t.Error(id)
		}
		seen = append(seen, id)
	}
}
