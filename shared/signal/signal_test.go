package signal

import (
	"testing"
	"time"
)

func TestCursors(t *testing.T) {
	for text, want := range map[string]Cursor{
		"": 0, "0-0": 0, "1790000123456-0": 1790000123456, `"1790000123456-0"`: 1790000123456, `W/"1790000123456-0"`: 1790000123456, ` "5-0" `: 5,
	} {
		if c, err := ParseCursor(text); err != nil || c != want {
			t.Errorf("%q: %v, %v", text, c, err)
		}
	}
	for _, text := range []string{"x", "1790000123456", "-0", "5-", "5-1", "05-0", "-5-0", "+5-0", "5 -0", `"5-0`, `5-0"`, "5-0-0", "12345678901234567-0", "٥-0", "W/", `W/""x`} {
		if c, err := ParseCursor(text); err == nil && text != "W/" {
			t.Errorf("%q is taken for %v", text, c)
		}
	}
}

func FuzzParseCursor(f *testing.F) {
	f.Add(`W/"1790000123456-0"`)
	f.Add("0-0")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCursor(text)
		if err != nil {
			return
		}
		if again, err := ParseCursor(c.String()); err != nil || again != c {
			t.Errorf("%q is %v, which is %v, %v", text, c, again, err)
		}
		for _, r := range c.String() {
			if (r < '0' || r > '9') && r != '-' {
				t.Errorf("%q gives a cursor that has to be escaped: %s", text, c)
			}
		}
	})
}

func TestTimesRise(t *testing.T) {
	now := time.UnixMilli(1000)
	if Next(0, now) != 1000 || Next(1000, now) != 1001 || Next(5000, now) != 5001 {
		t.Error("times do not rise")
	}
}

// A reader has missed something exactly when the signal after what it has read is not kept any more.
func TestForgotten(t *testing.T) {
	all := []Signal{{At: 10}, {At: 20, Last: 10}, {At: 30, Last: 20}, {At: 40, Last: 30}}
	for kept := range len(all) + 1 {
		left := all[len(all)-kept:]
		for _, c := range []Cursor{0, 10, 20, 25, 30, 40} {
			var found []Signal
			missed := 0
			for _, s := range all {
				if s.At > int64(c) {
					missed++
				}
			}
			for _, s := range left {
				if s.At > int64(c) {
					found = append(found, s)
					missed--
				}
			}
			if got := Forgotten(c, found, 40); got != (missed > 0) {
				t.Errorf("%d kept, cursor %v: %v, %d missed", kept, c, got, missed)
			}
		}
	}
}

func TestUnbroken(t *testing.T) {
	all := []Signal{{At: 10}, {At: 20, Last: 10}, {At: 40, Last: 30}, {At: 50, Last: 40}}
	if Unbroken(nil) != 0 || Unbroken(all[:2]) != 2 || Unbroken(all) != 2 || Unbroken(all[2:]) != 2 {
		t.Error("gaps are not seen")
	}
}
