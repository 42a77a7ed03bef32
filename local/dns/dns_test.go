package dns

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"cjj365.cc/bb/local/child"
)

// servers starts all parts for one test.
func servers(t *testing.T, o Options) *Servers {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Log = t.Output()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// needKnot skips a test where there is no Knot.
func needKnot(t *testing.T) string {
	t.Helper()
	knot := FindKnot()
	if knot == "" {
		t.Skip("Knot is not installed (Debian: apt install knot)")
	}
	return knot
}

// lookUp asks the resolver and gives its rcode and the data of its answer.
func (s *Servers) lookUp(t *testing.T, network, name, qtype string) string {
	t.Helper()
	answer, err := ask(t.Context(), network, s.Resolver, name, dns.StringToType[qtype])
	if err != nil {
		t.Fatal(err)
	}
	said := []string{dns.RcodeToString[answer.Rcode]}
	for _, record := range answer.Answer {
		fields := strings.Fields(record.String())
		said = append(said, strings.Join(fields[3:], " "))
	}
	slices.Sort(said[1:])
	return strings.Join(said, ", ")
}

func (s *Servers) post(t *testing.T, path, body string) int {
	t.Helper()
	response, err := http.Post(s.HTTPReq+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// update sends a dynamic update to Knot, signed with a key.
func (a *Authority) update(key TSIG, zone, record string) (string, error) {
	rr, err := dns.NewRR(record)
	if err != nil {
		return "", err
	}
	m := new(dns.Msg).SetUpdate(zone)
	m.Insert([]dns.RR{rr})
	client := &dns.Client{Timeout: 5 * time.Second}
	if key.Name != "" {
		client.TsigSecret = map[string]string{key.Name: key.Secret}
		m.SetTsig(key.Name, key.Algorithm, 300, time.Now().Unix())
	}
	answer, _, err := client.Exchange(m, a.Address)
	if err != nil {
		return "", err
	}
	return dns.RcodeToString[answer.Rcode], nil
}

func TestEachNameIsAnsweredByWhoHasIt(t *testing.T) {
	s := servers(t, Options{Knot: needKnot(t)})
	for host, target := range map[string]string{
		"_acme-challenge.alias.lab.test.": "elsewhere.acme.bb.test.", // from challtestsrv to Knot
		"round.lab.test.":                 "round2.lab.test.",
		"round2.lab.test.":                "round.lab.test.",
	} {
		if err := s.names.post(t.Context(), "/set-cname", map[string]string{"host": host, "target": target}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.names.post(t.Context(), "/set-servfail", map[string]string{"host": "broken.lab.test."}); err != nil {
		t.Fatal(err)
	}
	for _, record := range []string{"_acme-challenge.www.example.com. 60 TXT knots", "elsewhere.acme.bb.test. 60 TXT aliased", "delegated.acme.bb.test. 60 TXT delegated"} {
		zone := "example.com."
		if strings.Contains(record, "bb.test") {
			zone = "bb.test."
		}
		if said, err := s.Knot.update(s.Knot.Key, zone, record); said != "NOERROR" {
			t.Fatalf("update: %s %v", said, err)
		}
	}
	long := strings.Repeat("x", 200)
	for i := range 8 {
		if code := s.post(t, "/present", fmt.Sprintf(`{"fqdn":"_acme-challenge.many.lab.test.","value":"%d%s"}`, i, long)); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	for _, test := range []struct{ name, qtype, want string }{
		{"_acme-challenge.www.example.com.", "TXT", `NOERROR, TXT "knots"`},
		{"_ACME-challenge.WWW.example.COM.", "TXT", `NOERROR, TXT "knots"`},
		{"nothing.example.com.", "TXT", "NXDOMAIN"},
		{"example.com.", "SOA", "NOERROR, SOA ns1.example.com. hostmaster.example.com."},
		{"example.com.", "NS", "NOERROR, NS ns1.example.com."},
		{"other.example.com.", "SOA", "NXDOMAIN"},
		{"notexample.com.", "A", "NOERROR, A 127.0.0.1"},

		{"www.lab.test.", "A", "NOERROR, A 127.0.0.1"},
		{"www.lab.test.", "TXT", "NOERROR"},
		{"www.lab.test.", "SOA", "NOERROR"},
		{"lab.test.", "SOA", "NOERROR, SOA ns1.lab.test. hostmaster.lab.test."},
		{"Lab.Test.", "NS", "NOERROR, NS ns1.lab.test."},
		{"test.", "SOA", "NOERROR"},
		{"www.lab.test.", "MX", "NOERROR"},
		{"broken.lab.test.", "TXT", "SERVFAIL"},

		{"_acme-challenge.alias.lab.test.", "CNAME", "NOERROR, CNAME elsewhere.acme.bb.test."},
		{"_acme-challenge.alias.lab.test.", "TXT", `NOERROR, CNAME elsewhere.acme.bb.test., TXT "aliased"`},
		{"_acme-challenge.delegated.example.org.", "TXT", `NOERROR, CNAME delegated.acme.bb.test., TXT "delegated"`},
		{"round.lab.test.", "TXT", "SERVFAIL"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			// Of a SOA the two names matter.
			if got := s.lookUp(t, network, test.name, test.qtype); got != test.want && (test.qtype != "SOA" || !strings.HasPrefix(got, test.want+" ")) {
				t.Errorf("%s %s over %s: got %s, want %s", test.name, test.qtype, network, got, test.want)
			}
		}
	}
	many := new(dns.Msg).SetQuestion("_acme-challenge.many.lab.test.", dns.TypeTXT)
	short, _, err := new(dns.Client).ExchangeContext(t.Context(), many, s.Resolver)
	if err != nil || !short.Truncated {
		t.Errorf("what does not fit a packet: %v %v", short, err)
	}
	if got := strings.Count(s.lookUp(t, "tcp", "_acme-challenge.many.lab.test.", "TXT"), "TXT"); got != 8 {
		t.Errorf("of 8 records came %d", got)
	}
}

func TestTheResolverRefusesWhatItDoesNotDo(t *testing.T) {
	s := servers(t, Options{})
	question := func() *dns.Msg { return new(dns.Msg).SetQuestion("www.lab.test.", dns.TypeA) }
	update := new(dns.Msg).SetUpdate("lab.test.")
	two := question()
	two.Question = append(two.Question, two.Question[0])
	chaos := question()
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for _, test := range []struct {
		name string
		sent *dns.Msg
		want int
	}{
		{"an update", update, dns.RcodeNotImplemented},
		{"two questions", two, dns.RcodeFormatError},
		{"another class", chaos, dns.RcodeRefused},
	} {
		answer, _, err := new(dns.Client).ExchangeContext(t.Context(), test.sent, s.Resolver)
		if err != nil || answer.Rcode != test.want {
			t.Errorf("%s: %v %v", test.name, answer, err)
		}
	}
}

func TestWithoutKnotItsNamesAreAnsweredByChalltestsrv(t *testing.T) {
	s := servers(t, Options{})
	if s.Knot != nil {
		t.Fatal("Knot runs")
	}
	if code := s.post(t, "/present", `{"fqdn":"_acme-challenge.example.com.","value":"v"}`); code != http.StatusOK {
		t.Errorf("status %d", code)
	}
	if got := s.lookUp(t, "udp", "_acme-challenge.example.com.", "TXT"); got != `NOERROR, TXT "v"` {
		t.Error(got)
	}
}

func TestOnlyTheKeyMayChangeAndOnlyTXT(t *testing.T) {
	knot, dir := needKnot(t), t.TempDir()
	s := servers(t, Options{Dir: dir, Knot: knot})
	right := s.Knot.Key
	wrong := right
	wrong.Secret = base64.StdEncoding.EncodeToString(make([]byte, 32))
	stranger := right
	stranger.Name = "stranger."
	for _, test := range []struct {
		name   string
		key    TSIG
		zone   string
		record string
		want   string
	}{
		{"TXT", right, "example.com.", "a.example.com. 60 TXT v", "NOERROR"},
		{"TXT in another zone", right, "bb.test.", "a.bb.test. 60 TXT v", "NOERROR"},
		{"an address", right, "example.com.", "a.example.com. 60 A 127.0.0.2", ""},
		{"a zone that is not there", right, "lab.test.", "a.lab.test. 60 TXT v", "NOTAUTH"},
		{"no key", TSIG{}, "example.com.", "b.example.com. 60 TXT v", "NOTAUTH"},
		{"a wrong secret", wrong, "example.com.", "b.example.com. 60 TXT v", ""},
		{"an unknown key", stranger, "example.com.", "b.example.com. 60 TXT v", ""},
	} {
		said, err := s.Knot.update(test.key, test.zone, test.record)
		if said != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %s %v, want %q", test.name, said, err, test.want)
		}
	}
	for name, qtype := range map[string]string{"a.example.com.": "A", "b.example.com.": "TXT"} {
		if got := s.lookUp(t, "udp", name, qtype); strings.Contains(got, ",") {
			t.Errorf("what was refused is there: %s", got)
		}
	}

	// The key and the records outlive the server.
	s.Stop()
	again := servers(t, Options{Dir: dir, Knot: knot})
	if again.Knot.Key != right {
		t.Error("the key has changed")
	}
	if got := again.lookUp(t, "udp", "a.example.com.", "TXT"); got != `NOERROR, TXT "v"` {
		t.Errorf("after a restart: %s", got)
	}
	for _, file := range []string{"tsig.json", "knot/knot.conf"} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s, which has the secret: %v %v", file, info, err)
		}
	}
}

func TestHTTPReqSetsAndRemovesOneValue(t *testing.T) {
	s := servers(t, Options{})
	const name = "_acme-challenge.lab.test."
	for _, test := range []struct{ path, value, want string }{
		{"/present", "one", `NOERROR, TXT "one"`},
		{"/present", "two", `NOERROR, TXT "one", TXT "two"`}, // lab.test and *.lab.test have one name
		{"/present", "two", `NOERROR, TXT "one", TXT "two"`},
		{"/cleanup", "one", `NOERROR, TXT "two"`},
		{"/cleanup", "one", `NOERROR, TXT "two"`},
		{"/cleanup", "two", `NOERROR`},
	} {
		if code := s.post(t, test.path, fmt.Sprintf(`{"fqdn":%q,"value":%q}`, strings.ToUpper(name), test.value)); code != http.StatusOK {
			t.Errorf("%s %s: status %d", test.path, test.value, code)
		}
		if got := s.lookUp(t, "udp", name, "TXT"); got != test.want {
			t.Errorf("after %s %s: got %s, want %s", test.path, test.value, got, test.want)
		}
	}
}

// A validation that comes while another name's value is cleaned up must find its own.
func TestAValueIsThereWhileAnotherIsRemoved(t *testing.T) {
	s := servers(t, Options{})
	kept, passing := record{"_acme-challenge.lab.test.", "kept"}, record{"_acme-challenge.lab.test.", "passing"}
	if err := s.names.set(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for range 50 {
			for _, change := range []func(context.Context, record) error{s.names.set, s.names.remove} {
				if err := change(context.Background(), passing); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for {
		if got := s.lookUp(t, "udp", kept.name, "TXT"); !strings.Contains(got, `"kept"`) {
			t.Fatalf("got %s", got)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

func TestHTTPReqRefuses(t *testing.T) {
	s := servers(t, Options{Knot: FindKnot(), User: "bb", Password: "secret"})
	const good = `{"fqdn":"_acme-challenge.lab.test.","value":"v"}`
	for _, test := range []struct {
		name, method, path, user, password, body string
		want                                     int
	}{
		{"nothing", "POST", "/present", "bb", "secret", good, http.StatusOK},
		{"no user", "POST", "/present", "", "", good, http.StatusUnauthorized},
		{"a wrong password", "POST", "/cleanup", "bb", "other", good, http.StatusUnauthorized},
		{"a wrong user", "POST", "/cleanup", "aa", "secret", good, http.StatusUnauthorized},
		{"no JSON", "POST", "/present", "bb", "secret", `fqdn=x`, http.StatusBadRequest},
		{"RAW mode", "POST", "/present", "bb", "secret", `{"domain":"lab.test","token":"t","keyAuth":"k"}`, http.StatusBadRequest},
		{"a relative name", "POST", "/present", "bb", "secret", `{"fqdn":"lab.test","value":"v"}`, http.StatusBadRequest},
		{"a long value", "POST", "/present", "bb", "secret", `{"fqdn":"lab.test.","value":"` + strings.Repeat("v", 256) + `"}`, http.StatusBadRequest},
		{"a long body", "POST", "/present", "bb", "secret", strings.Repeat(" ", maxRecordBytes) + good, http.StatusRequestEntityTooLarge},
		{"another method", "GET", "/present", "bb", "secret", "", http.StatusMethodNotAllowed},
		{"another path", "POST", "/absent", "bb", "secret", good, http.StatusNotFound},
	} {
		request, err := http.NewRequest(test.method, s.HTTPReq+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		if test.user != "" {
			request.SetBasicAuth(test.user, test.password)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.want {
			t.Errorf("%s: status %d, want %d", test.name, response.StatusCode, test.want)
		}
	}
}

func TestHTTPReqLeavesKnotsNamesToKnot(t *testing.T) {
	s := servers(t, Options{Knot: needKnot(t)})
	if code := s.post(t, "/present", `{"fqdn":"_acme-challenge.Example.com.","value":"v"}`); code != http.StatusUnprocessableEntity {
		t.Errorf("status %d", code)
	}
}

func TestAProgramThatEndsIsNoticed(t *testing.T) {
	s := servers(t, Options{})
	s.names.process.Stop()
	<-s.Done()
}

func TestAPortThatIsTakenIsAnError(t *testing.T) {
	first := servers(t, Options{})
	var port int
	if _, err := fmt.Sscanf(first.Resolver, "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	if child.Free(port) {
		t.Error("a port that is listened on counts as free")
	}
	if _, err := Start(t.Context(), Options{Dir: t.TempDir(), Ports: Ports{Resolver: port}}); err == nil {
		t.Error("two resolvers on one port")
	}
}

// FuzzReadRecord: what is taken is one absolute name in lower case and a value that one string of a TXT
// record holds, and reads the same again; everything else is an error.
func FuzzReadRecord(f *testing.F) {
	for _, seed := range []string{
		`{"fqdn":"_acme-challenge.lab.test.","value":"v"}`, `{"fqdn":"LAB.test.","value":"\u00e4"}`, `{"fqdn":".","value":"v"}`,
		`{"fqdn":"a..b.","value":"v"}`, `{"fqdn":"a\\.","value":"v"}`, `[]`, `{"fqdn":"x.","value":""}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := readRecord(body)
		if err != nil {
			return
		}
		if !dns.IsFqdn(r.name) || r.name != strings.ToLower(r.name) || r.value == "" || len(r.value) > 255 {
			t.Errorf("%q became %q %q", body, r.name, r.value)
		}
		if _, err := new(dns.Msg).SetQuestion(r.name, dns.TypeTXT).Pack(); err != nil {
			t.Errorf("%q cannot be asked for: %v", r.name, err)
		}
		text, err := json.Marshal(map[string]string{"fqdn": r.name, "value": r.value})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := readRecord(text); err != nil || again != r {
			t.Errorf("%q reads again as %q %v", r, again, err)
		}
	})
}

// FuzzApex: a name is in its zone, and the zone is its own.
func FuzzApex(f *testing.F) {
	for _, seed := range []string{"www.lab.test.", "lab.test", "test.", ".", `a\.b.c.d.`, "A.B.C"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		// As it comes off the wire, where every name is well-formed.
		packed, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
		if err != nil {
			return
		}
		var asked dns.Msg
		if err := asked.Unpack(packed); err != nil {
			return
		}
		name = asked.Question[0].Name
		zone := apex(name)
		if !dns.IsSubDomain(zone, canonical(name)) || apex(zone) != zone || dns.CountLabel(zone) > 2 {
			t.Errorf("%q is in %q", name, zone)
		}
	})
}
