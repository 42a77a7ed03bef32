package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/egress"
)

var now = time.Date(2026, 11, 24, 5, 0, 0, 0, time.UTC)

// The example of the Standard Webhooks specification.
func TestTheSignatureIsThatOfTheStandard(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := SecretOf(key).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestASecretIsShownOnlyWhenAsked(t *testing.T) {
	s := NewSecret()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.Reveal(), "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 || s.Reveal() == NewSecret().Reveal() {
		t.Errorf("a secret of %d bytes: %v", len(key), err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if printed := fmt.Sprintf(verb, s); printed != "[redacted]" {
			t.Errorf("%s prints %q", verb, printed)
		}
	}
}

func TestSend(t *testing.T) {
	e, err := NewEvent(7, CertificateIssued, now, map[string]int{"id": 1})
	if err != nil {
		t.Fatal(err)
	}
	current, previous := NewSecret(), NewSecret()
	var got *http.Request
	var body [1 << 10]byte
	n, calls := 0, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		got = r
		n, _ = r.Body.Read(body[:])
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusTemporaryRedirect)
		case "/slow":
			<-r.Context().Done()
		case "/talkative":
			w.WriteHeader(202)
			for range 2000 {
				_, _ = w.Write([]byte(strings.Repeat("x", 1000)))
			}
		case "/gone":
			http.Error(w, "a secret of the receiver's network", http.StatusGone)
		}
	}))
	defer server.Close()
	open := Client(egress.Guard{AllowPrivate: true, AllowLoopback: true})
	send := func(client *http.Client, url string) (int, string) {
		return Send(t.Context(), client, url, e, []Secret{current, previous}, now)
	}

	if status, why := send(open, server.URL+"/ok"); status != 200 || why != "" {
		t.Fatalf("%d %q", status, why)
	}
	if got.Method != "POST" || got.Header.Get("Content-Type") != "application/json" || string(body[:n]) != string(e.Body) || got.Header.Get("Webhook-Id") != e.ID {
		t.Errorf("%s %v %q", got.Method, got.Header, body[:n])
	}
	if got.Header.Get("Webhook-Timestamp") != fmt.Sprint(now.Unix()) {
		t.Errorf("timestamp %s", got.Header.Get("Webhook-Timestamp"))
	}
	signatures := strings.Split(got.Header.Get("Webhook-Signature"), " ")
	for i, s := range []Secret{current, previous} {
		mac := hmac.New(sha256.New, s.Key())
		mac.Write([]byte(e.ID + "." + fmt.Sprint(now.Unix()) + "." + string(e.Body)))
		if len(signatures) != 2 || signatures[i] != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
			t.Errorf("signatures %v", signatures)
		}
	}

	calls = 0
	for _, tc := range []struct {
		client *http.Client
		url    string
		status int
		why    string
	}{
		{open, server.URL + "/talkative", 202, ""},
		{open, server.URL + "/moved", 307, "The receiver answered 307."},
		{open, server.URL + "/gone", 410, "The receiver answered 410."},
		{open, "http://127.0.0.1:1/", 0, "The connection failed."},
		{open, "https" + strings.TrimPrefix(server.URL, "http"), 0, "The connection failed."},
		{open, "http://169.254.169.254/latest/meta-data", 0, "The URL leads to an address that is not public."},
		{Client(egress.Guard{}), server.URL + "/ok", 0, "The URL leads to an address that is not public."},
		{Client(egress.Guard{}), "https" + strings.TrimPrefix(server.URL, "http"), 0, "The URL leads to an address that is not public."},
		{Client(egress.Guard{}), "https://localhost/", 0, "The URL leads to an address that is not public."},
	} {
		if status, why := send(tc.client, tc.url); status != tc.status || why != tc.why {
			t.Errorf("%s: %d %q, want %d %q", tc.url, status, why, tc.status, tc.why)
		}
	}
	if calls != 3 {
		t.Errorf("the receiver was called %d times", calls)
	}
	hasty, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if status, why := Send(hasty, open, server.URL+"/slow", e, nil, now); status != 0 || why != "The receiver did not answer within 10 seconds." {
		t.Errorf("%d %q", status, why)
	}
}

// A delivery is tried for three days, each time after as long as it has been tried, whatever chance adds.
func TestTheTriesOfADelivery(t *testing.T) {
	for _, chance := range []float64{0, 0.5, 0.999} {
		d := Delivery{Type: CertificateIssued, Since: now, NextAt: now}
		tries, last := 0, time.Duration(0)
		for at := now; !d.NextAt.IsZero(); at = d.NextAt {
			tries++
			d.Fail(500, "The receiver answered 500.", at, chance)
			if d.NextAt.IsZero() {
				break
			}
			wait, age := d.NextAt.Sub(at), at.Sub(now)
			if wait < 30*time.Second || wait > 8*time.Hour*6/5 || age >= 30*time.Second && age < 8*time.Hour && (wait < age || wait > age*6/5) {
				t.Errorf("chance %v: after %v a wait of %v", chance, age, wait)
			}
			last = d.NextAt.Sub(now)
		}
		if tries < 14 || tries > 20 || last > GiveUpAfter || last < GiveUpAfter-10*time.Hour || d.State() != Failed {
			t.Errorf("chance %v: %d tries, the last after %v, %s", chance, tries, last, d.State())
		}
	}
	test := Delivery{Type: Test, Since: now, NextAt: now}
	if test.Fail(500, "x", now, 0); test.State() != Failed {
		t.Errorf("a test is %s", test.State())
	}
}

func TestNoticesOfAnExpiry(t *testing.T) {
	for lifetime, want := range map[time.Duration][]int{
		90 * day: {30, 14, 7, 1}, 30 * day: {14, 7, 1}, 45 * day: {30, 14, 7, 1}, 7 * day: {1}, 6 * day: {1}, 160 * time.Hour: {1}, day: nil, time.Hour: nil,
	} {
		expires := now.Add(lifetime)
		var got []int
		for at := Next(expires, now); !at.IsZero(); at = Next(expires, at) {
			got = append(got, DaysLeft(expires, at.Add(90*time.Second)))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", lifetime, got, want)
		}
	}
}

func TestWhoWantsWhat(t *testing.T) {
	for _, tc := range []struct {
		e    Endpoint
		t    Type
		want bool
	}{
		{Endpoint{}, CertificateIssued, true},
		{Endpoint{Types: []Type{APIKeyExpiring}}, CertificateIssued, false},
		{Endpoint{Types: []Type{APIKeyExpiring}}, APIKeyExpiring, true},
		{Endpoint{Disabled: Gone}, CertificateIssued, false},
	} {
		if tc.e.Wants(tc.t) != tc.want {
			t.Errorf("%+v, %s", tc.e, tc.t)
		}
	}
}

func TestTheEventsOfAnIssue(t *testing.T) {
	c := certificate.Certificate{
		User: 7, ID: 1001, Names: []string{"a.example.org", "b.example.org"}, Account: 3, AutoRenew: true, CallersKey: true,
		Current: certificate.Issued{Issue: 2, Serial: "04a1", NotBefore: now, NotAfter: now.Add(90 * day), Fingerprint: "ff"},
	}
	done := certificate.Issue{Number: 2, State: certificate.Succeeded, CompletedAt: now}
	failed := certificate.Issue{Number: 2, State: certificate.Unissued, CompletedAt: now, Failure: certificate.Failure{Kind: "caa", What: "CAA forbids it.", Name: "a.example.org", Permanent: true}}
	for _, tc := range []struct {
		outcome certificate.Issue
		had     bool
		want    Type
	}{{done, false, CertificateIssued}, {done, true, CertificateRenewed}, {failed, false, CertificateFailed}, {failed, true, CertificateFailed}} {
		e, err := Closed(c, tc.outcome, tc.had)
		if err != nil || e.Type != tc.want || e.User != 7 {
			t.Fatalf("%+v %v, want %s", e, err, tc.want)
		}
		var body struct {
			ID, Type, Timestamp string
			Data                map[string]any
		}
		if err := json.Unmarshal(e.Body, &body); err != nil || body.ID != e.ID || body.Type != string(tc.want) || body.Timestamp != "2026-11-24T05:00:00Z" {
			t.Errorf("%s: %v", e.Body, err)
		}
		if body.Data["domain_name"] != "a.example.org" || body.Data["serial_number"] != "04a1" || body.Data["not_after"] != float64(now.Add(90*day).Unix()) || (body.Data["error"] != nil) != (tc.want == CertificateFailed) {
			t.Errorf("%s", e.Body)
		}
	}
	early, err := NewEvent(7, Test, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	late, err := NewEvent(7, Test, now.Add(time.Millisecond), nil)
	if err != nil || early.ID >= late.ID || len(early.ID) != len(late.ID) {
		t.Errorf("ids %s and %s, %v", early.ID, late.ID, err)
	}
}
