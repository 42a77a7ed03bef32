package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"cjj365.cc/bb/shared/problem"
)

func TestNamesAreWrittenAsInDNS(t *testing.T) {
	for typed, want := range map[string]string{
		"example.org":           "example.org",
		"WWW.Example.ORG.":      "www.example.org",
		"*.Example.org":         "*.example.org",
		"Bücher.example":        "xn--bcher-kva.example",
		"*.bücher.example":      "*.xn--bcher-kva.example",
		"XN--BCHER-KVA.example": "xn--bcher-kva.example",
		"straße.example":        "xn--strae-oqa.example",
		"例え。テスト":                "xn--r8jz45g.xn--zckzah",
		"ｗｗｗ．ｅｘａｍｐｌｅ．ｏｒｇ":                 "www.example.org",
		"עברית.example":                   "xn--5dbqzzl.example",
		"a1-b2.3com.example":              "a1-b2.3com.example",
		"1.2.3.4.in-addr.arpa":            "1.2.3.4.in-addr.arpa",
		"a.example":                       "a.example",
		strings.Repeat("a", 63) + ".org":  strings.Repeat("a", 63) + ".org",
		strings.Repeat("a.", 125) + "org": strings.Repeat("a.", 125) + "org",
	} {
		if got, err := Public.Name(typed); got != want || err != nil {
			t.Errorf("%q: %q, %v", typed, got, err)
		}
	}
}

func TestNamesThatAreRefused(t *testing.T) {
	for typed, reason := range map[string]string{
		"":                                 "empty",
		".":                                "empty",
		"..":                               "empty",
		"example":                          "two labels",
		"example.":                         "two labels",
		"*":                                "'*'",
		"*.":                               "empty",
		"*.com":                            "two labels",
		"*.*.example.org":                  "'*'",
		"a.*.example.org":                  "'*'",
		"a*.example.org":                   "'*'",
		"＊.example.org":                    "IDNA",
		"a..example.org":                   "empty label",
		".example.org":                     "empty label",
		"example.org..":                    "empty label",
		"a_b.example.org":                  "'_'",
		"exa mple.org":                     "' '",
		" example.org":                     "' '",
		"example.org\n":                    `'\n'`,
		"example.org\r\nX-Evil: 1":         `'\r'`,
		"example.org\x00.evil.org":         `'\x00'`,
		"\x1b[31mexample.org":              `'\x1b'`,
		"example.org\x7f":                  `'\x7f'`,
		"https://example.org/":             "':'",
		"ann@example.org":                  "'@'",
		"example.org:443":                  "':'",
		"-a.example.org":                   "hyphens",
		"a-.example.org":                   "hyphens",
		"ab--cd.example.org":               "hyphens",
		"xn--.example.org":                 "empty label",
		"xn--a.example.org":                "IDNA",
		"xn--zzzzzz9999999.example":        "IDNA",
		"xn--example-.org":                 "IDNA",
		"\xff\xfe.example.org":             "IDNA",
		"a\u2028b.example.org":             "IDNA",
		"℀.example.org":                    "IDNA",
		"a\u200db.example.org":             "IDNA",
		"١a.example.org":                   "IDNA",
		"192.0.2.1":                        "IP address",
		"2001:db8::1":                      "IP address",
		"::ffff:192.0.2.1":                 "IP address",
		"fe80::1%eth0":                     "IP address",
		"192.0.2.1.":                       "number",
		"127.1":                            "number",
		"1.0x7f":                           "number",
		"*.192.0.2.1":                      "number",
		"[::1]":                            "'['",
		strings.Repeat("a", 64) + ".org":   "63 characters",
		strings.Repeat("ü", 60) + ".org":   "63 characters",
		strings.Repeat("a.", 125) + "orgs": "253 characters",
		"*." + strings.Repeat("a.", 124) + "orgs": "253 characters",
		strings.Repeat("a", 1<<20):                "too long",
	} {
		name, err := Public.Name(typed)
		if name != "" || !errors.Is(err, problem.InvalidArgument) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%.60q: %q, %.300v", typed, name, err)
			continue
		}
		var p *problem.Error
		errors.As(err, &p)
		told := fmt.Sprint(p.Params["name"])
		if typed != "" && told == "" || len(told) > 800 || len(err.Error()) > 800 || strings.ContainsFunc(err.Error()+told, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("%.60q: is not told safely: %q, %q", typed, told, err)
		}
	}
}

func TestAPrivateCATakesMore(t *testing.T) {
	for typed, want := range map[string]string{
		"printer": "printer", "NAS.local": "nas.local", "*.nas.local": "*.nas.local", "3com": "3com",
		"192.0.2.1": "192.0.2.1", "2001:DB8::1": "2001:db8::1", "::ffff:192.0.2.1": "192.0.2.1",
		"*": "", "*.local": "", "127.1": "", "fe80::1%eth0": "", "a_b": "", "192.0.2.0/24": "", "": "",
	} {
		if got, err := Private.Name(typed); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", typed, got, err)
		}
	}
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("n%d.example.org", i)
	}
	return names
}

func TestNamesOfACertificate(t *testing.T) {
	for _, c := range []struct {
		domain string
		sans   []string
		want   []string
	}{
		{"b.example", nil, []string{"b.example"}},
		{"b.example", []string{"a.example", "B.example.", "*.b.example", "a.example"}, []string{"b.example", "a.example", "*.b.example"}},
		{"", []string{"z.example", "a.example"}, []string{"z.example", "a.example"}},
		{"n5.example.org", numbered(100), append([]string{"n5.example.org"}, slices.DeleteFunc(numbered(100), func(n string) bool { return n == "n5.example.org" })...)},
		{"", nil, nil},
		{"a.example", []string{""}, nil},
		{"a.example", numbered(100), nil},
		{"a.example", numbered(10_000), nil},
	} {
		got, err := Public.Names(c.domain, c.sans)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s and %d more: %q, %v", c.domain, len(c.sans), got, err)
		}
	}
	sans := []string{"b.example", "c.example"}
	if _, err := Public.Names("a.example", sans[:1]); err != nil || sans[1] != "c.example" {
		t.Errorf("the caller's list is written over: %q, %v", sans, err)
	}
	_, err := Public.Names("a.example", []string{"b.example", "b\nad.example"})
	if err == nil || !strings.Contains(err.Error(), `"b\nad.example"`) {
		t.Errorf("the failing name is not named: %v", err)
	}
}

// inTime fails if f takes 50 ms or a few MB: what is far too large is refused before it is read (check 18).
func inTime(t *testing.T, name string, f func()) {
	t.Helper()
	best := time.Hour
	var allocated uint64
	for range 3 { // the machine may be busy
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		f()
		best = min(best, time.Since(start))
		runtime.ReadMemStats(&after)
		allocated = after.TotalAlloc - before.TotalAlloc
	}
	if t.Logf("%s: %v, %d kB", name, best, allocated>>10); best > 50*time.Millisecond || allocated > 4<<20 {
		t.Errorf("%s takes %v and %d kB", name, best, allocated>>10)
	}
}

func TestHugeNamesAreRefusedAtOnce(t *testing.T) {
	long := strings.Repeat("üöä.", 20) + "example"
	for name, sans := range map[string][]string{
		"10,000 names":                     numbered(10_000),
		"a million names":                  make([]string, 1_000_000),
		"a name of 1 MB":                   {strings.Repeat("a.", 1<<19)},
		"a name of 1 MB of other letters":  {strings.Repeat("ü.", 1<<19)},
		"the longest, as often as is read": append(slices.Repeat([]string{long}, 2*MaxNames-1), "_"),
		"the most that are read":           append(numbered(MaxNames), numbered(MaxNames)...),
		"zeros of 1 MB":                    {string(make([]byte, 1<<20))},
	} {
		inTime(t, name, func() {
			if _, err := Public.Names("example.org", sans); err == nil {
				t.Errorf("%s: accepted", name)
			}
		})
	}
}

var hostShape = regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// FuzzName: a name that is accepted is accepted again as it is, has the shape of a host name, and is an
// address only where addresses are allowed; a refusal prints on one line.
func FuzzName(f *testing.F) {
	for _, seed := range []string{"example.org", "*.Bücher.example.", "xn--bcher-kva.example", "例え。テスト", "192.0.2.1", "::ffff:192.0.2.1", "printer", "a\u200db.example", "١a.example", "-a.b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		for _, rules := range []Rules{Public, Private} {
			name, err := rules.Name(typed)
			if err != nil {
				if strings.ContainsFunc(err.Error(), func(c rune) bool { return !unicode.IsPrint(c) }) || len(err.Error()) > 1000 {
					t.Fatalf("%q is not told safely: %q", typed, err)
				}
				continue
			}
			if again, err := rules.Name(name); again != name || err != nil {
				t.Fatalf("%q gives %q, which gives %q, %v", typed, name, again, err)
			}
			_, notAddress := netip.ParseAddr(name)
			switch {
			case len(name) > 253:
				t.Fatalf("%q gives a name of %d characters", typed, len(name))
			case notAddress == nil && !rules.Addresses:
				t.Fatalf("%q gives the address %q", typed, name)
			case notAddress != nil && !hostShape.MatchString(name) && !(rules.SingleLabels && hostShape.MatchString("x."+name)):
				t.Fatalf("%q gives %q", typed, name)
			}
		}
	})
}
