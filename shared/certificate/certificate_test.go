package certificate

import (
	"testing"
	"time"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// issued is a certificate of a lifetime, of which a part is over.
func issued(lifetime time.Duration, part float64) Issued {
	begin := now.Add(-time.Duration(float64(lifetime) * part))
	return Issued{Issue: 1, NotBefore: begin, NotAfter: begin.Add(lifetime), ARI: "id"}
}

const day = 24 * time.Hour

// Two thirds of the lifetime, half of a short one, and up to a twentieth earlier.
func TestWhenACertificateIsDue(t *testing.T) {
	for lifetime, share := range map[time.Duration]float64{6 * time.Hour: 0.5, 6 * day: 0.5, 10 * day: 0.5, 10*day + time.Hour: 2.0 / 3, 45 * day: 2.0 / 3, 90 * day: 2.0 / 3} {
		for _, chance := range []float64{0, 0.5, 0.999} {
			i := issued(lifetime, 0)
			got := i.DueAt(chance).Sub(i.NotBefore)
			latest, earliest := time.Duration(float64(lifetime)*share)+time.Second, time.Duration(float64(lifetime)*(share-0.05))-time.Second
			if got > latest || got < earliest {
				t.Errorf("of %v, at chance %v: after %v", lifetime, chance, got)
			}
		}
	}
}

// A CA that has renewal information is asked within a day; what is due before that is not put off by it.
func TestTheFirstLook(t *testing.T) {
	for _, tc := range []struct {
		lifetime time.Duration
		ari      string
		least    time.Duration
		most     time.Duration
	}{{90 * day, "id", 18 * time.Hour, day}, {90 * day, "", 55 * day, 61 * day}, {6 * time.Hour, "id", 2 * time.Hour, 3 * time.Hour}} {
		i := issued(tc.lifetime, 0)
		i.ARI = tc.ari
		for _, chance := range []float64{0, 0.999} {
			if got := i.FirstLook(now, chance).Sub(now); got < tc.least || got > tc.most+time.Second {
				t.Errorf("%+v: after %v", tc, got)
			}
		}
	}
}

// RFC 9773 §4.2: a time in the window is drawn; if the CA would be asked again before, it is asked.
func TestTheCAsWindow(t *testing.T) {
	i := issued(90*day, 0.5) // 45 days left
	for _, tc := range []struct {
		name       string
		start, end time.Duration // from now
		askAfter   time.Duration
		chance     float64
		want       time.Duration // from now
	}{
		{"past: now", -2 * day, -day, 0, 0.5, 0},
		{"begun, and drawn from what is over: now", -day, day, 0, 0.2, 0},
		{"begun, and drawn from what comes", -time.Hour, 3 * time.Hour, 6 * time.Hour, 0.5, time.Hour},
		{"far: asked again within a day", 20 * day, 22 * day, 0, 0.5, day},
		{"far: asked again when the CA says", 20 * day, 22 * day, 6 * time.Hour, 0.5, 6 * time.Hour},
		{"far: not every minute", 20 * day, 22 * day, time.Minute, 0.5, time.Hour},
		{"far: not in a week", 20 * day, 22 * day, 7 * day, 0.5, day},
		{"soon: drawn, not asked", 2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 0.5, 3 * time.Hour},
	} {
		got := i.ByWindow(now.Add(tc.start), now.Add(tc.end), tc.askAfter, now, tc.chance).Sub(now)
		if got != tc.want {
			t.Errorf("%s: after %v, want %v", tc.name, got, tc.want)
		}
	}
	// Beyond its end, as a CA might put it by mistake: before the last tenth all the same.
	old := issued(90*day, 0.95)
	if got := old.ByWindow(now.Add(30*day), now.Add(40*day), 0, now, 0.5); got.After(now) {
		t.Errorf("in its last twentieth: %v", got.Sub(now))
	}
}

// An hour, then twice as long, up to a day; several tries always fit in, and the CA's wish is kept.
func TestRetries(t *testing.T) {
	month := Certificate{Current: issued(90*day, 2.0/3)}
	for tries, want := range map[int]time.Duration{1: time.Hour, 2: 2 * time.Hour, 4: 8 * time.Hour, 6: day, 60: day} {
		month.Tries = tries
		if got := month.RetryAt(now, 0).Sub(now); got != want {
			t.Errorf("after %d failures: %v, want %v", tries, got, want)
		}
		if got := month.RetryAt(now, 0.999).Sub(now); got > want+want/5 {
			t.Errorf("after %d failures, by chance: %v", tries, got)
		}
	}
	short := Certificate{Current: issued(6*time.Hour, 0.5), Tries: 6}
	if got := short.RetryAt(now, 0).Sub(now); got > 3*time.Hour/retriesInWindow {
		t.Errorf("with three hours left: %v", got)
	}
	ending := Certificate{Current: issued(90*day, 0.99999), Tries: 6}
	if got := ending.RetryAt(now, 0).Sub(now); got < time.Minute || got > 5*time.Minute {
		t.Errorf("at the end: %v", got)
	}
	month.Failure = Failure{RetryAt: now.Add(34 * time.Hour)}
	if got := month.RetryAt(now, 0); !got.Equal(month.Failure.RetryAt) {
		t.Errorf("the CA wants no other try for 34 hours: %v", got.Sub(now))
	}
}

// A first issue is tried again for some days if its failure may pass, and when the CA says.
func TestRetriesOfAFirstIssue(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    Certificate
		want time.Duration // from now; 0 for never
	}{
		{"may pass", Certificate{Tries: 1}, time.Hour},
		{"has not passed for days", Certificate{Tries: maxFirstTries + 1}, 0},
		{"does not pass", Certificate{Tries: 1, Failure: Failure{Permanent: true}}, 0},
		{"a limit of the CA's", Certificate{Tries: 1, Failure: Failure{Permanent: true, RetryAt: now.Add(3 * time.Hour)}}, 3 * time.Hour},
	} {
		got := tc.c.RetryAt(now, 0)
		if tc.want == 0 && !got.IsZero() || tc.want > 0 && got.Sub(now) != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestStatus(t *testing.T) {
	valid := Certificate{Current: issued(90*day, 0.5)}
	with := func(change func(*Certificate)) Certificate {
		c := valid
		change(&c)
		return c
	}
	for want, all := range map[Status][]Certificate{
		Created: {{}},
		Issuing: {{Issuing: 1}, {Issuing: 2, Failure: Failure{At: now}}},
		Failed:  {{Failure: Failure{At: now}}},
		Valid:   {valid, with(func(c *Certificate) { c.Issuing = 2 }), with(func(c *Certificate) { c.Failure.At = now })},
		Expired: {{Current: issued(day, 1)}, {Current: issued(day, 2), Issuing: 2}},
		Revoked: {with(func(c *Certificate) { c.RevokedAt = now }), with(func(c *Certificate) { c.RevokedAt, c.Issuing = now, 2 })},
	} {
		for _, c := range all {
			if got := c.Status(now); got != want {
				t.Errorf("%+v: %s, want %s", c, got, want)
			}
		}
	}
}

func TestPolicies(t *testing.T) {
	for text, want := range map[string]Policy{"hybrid": Hybrid, "Master_Only": MasterOnly, "DEVICE_REQUIRED": DeviceRequired, "": "", "ANY": ""} {
		if got, ok := ParsePolicy(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
}
