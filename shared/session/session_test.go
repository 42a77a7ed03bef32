package session

import (
	"testing"
	"time"
)

var start = time.UnixMilli(1_790_000_000_000)

func TestASessionSlidesUpToItsHardEnd(t *testing.T) {
	s, tok := New(7, 1, "ann@example.org", start)
	if !s.Admits(tok, start.Add(Sliding-1)) || s.Admits(tok, start.Add(Sliding)) {
		t.Error("an unused session must end after Sliding")
	}
	for now := start; now.Before(start.Add(Hard)); now = now.Add(time.Hour) {
		if !s.Admits(tok, now) {
			t.Fatalf("a session in use ended after %v", now.Sub(start))
		}
		s.ExpiresAt = s.Slide(now)
	}
	if s.Admits(tok, start.Add(Hard)) {
		t.Error("a session outlived its hard end")
	}
	if _, other := New(7, 1, "ann@example.org", start); s.Admits(other, start) {
		t.Error("another session's token was admitted")
	}
}

func TestRefreshRotates(t *testing.T) {
	f, first := NewFamily(7, 1, "ann@example.org", start)
	second, outcome := f.Rotate(first, start)
	if outcome != Rotated {
		t.Fatal(outcome)
	}
	third, outcome := f.Rotate(second, start.Add(time.Hour))
	if outcome != Rotated {
		t.Fatal(outcome)
	}
	if _, outcome := f.Rotate(third, start.Add(time.Hour+RefreshLifetime)); outcome != Dead {
		t.Errorf("an expired token: %v", outcome)
	}
}

func TestALostAnswerLocksNobodyOut(t *testing.T) {
	f, first := NewFamily(7, 1, "ann@example.org", start)
	lost, _ := f.Rotate(first, start)
	again, outcome := f.Rotate(first, start.Add(5*time.Second))
	if outcome != Rotated {
		t.Fatalf("a repeat within the window: %v", outcome)
	}
	if _, outcome := f.Rotate(again, start.Add(time.Hour)); outcome != Rotated {
		t.Fatalf("the second answer's token: %v", outcome)
	}
	// The first answer did arrive, in another process: it is refused, and the family lives.
	if _, outcome := f.Rotate(lost, start.Add(2*time.Hour)); outcome != Replayed {
		t.Errorf("the sibling: %v", outcome)
	}
	if f.Revoked {
		t.Error("a sibling ended the family")
	}
}

func TestAReplayAfterTheSuccessorWasUsedIsRefused(t *testing.T) {
	f, first := NewFamily(7, 1, "ann@example.org", start)
	second, _ := f.Rotate(first, start)
	third, _ := f.Rotate(second, start.Add(10*time.Second))
	if _, outcome := f.Rotate(first, start.Add(20*time.Second)); outcome != Replayed {
		t.Errorf("within the window: %v", outcome)
	}
	if _, outcome := f.Rotate(first, start.Add(ReplayWindow)); outcome != Stolen || !f.Revoked {
		t.Errorf("after the window: %v", outcome)
	}
	if _, outcome := f.Rotate(third, start.Add(ReplayWindow)); outcome != Dead {
		t.Errorf("the newest token of an ended family: %v", outcome)
	}
}

func TestAStrangersTokenHarmsNoFamily(t *testing.T) {
	f, first := NewFamily(7, 1, "ann@example.org", start)
	_, stranger := NewFamily(7, 1, "ann@example.org", start)
	before := f.Revision
	if _, outcome := f.Rotate(stranger, start); outcome != Unknown || f.Revoked || f.Revision != before {
		t.Errorf("outcome %v, revoked %v", outcome, f.Revoked)
	}
	if _, outcome := f.Rotate(first, start); outcome != Rotated {
		t.Errorf("afterwards: %v", outcome)
	}
}

func TestAFamilyDoesNotGrow(t *testing.T) {
	f, tok := NewFamily(7, 1, "ann@example.org", start)
	for i := range 500 {
		next, outcome := f.Rotate(tok, start.Add(time.Duration(i)*time.Minute))
		if outcome != Rotated {
			t.Fatal(outcome)
		}
		for range 20 { // answers lost again and again
			if next, outcome = f.Rotate(tok, start.Add(time.Duration(i)*time.Minute)); outcome != Rotated {
				t.Fatal(outcome)
			}
		}
		tok = next
	}
	if len(f.Spent) > maxSpent || len(f.Current) > 8 {
		t.Errorf("%d spent, %d current", len(f.Spent), len(f.Current))
	}
}
