package token

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// pattern is the regular expression that the README gives to secret scanners.
var pattern = regexp.MustCompile(`\b(ak|st|rt)_[1-9A-Za-z][0-9A-Za-z]{0,8}_[1-9A-Za-z][0-9A-Za-z]{0,8}_[0-9A-Za-z]{39}\b`)

func TestMintedTokensParse(t *testing.T) {
	for _, id := range []int64{1, 61, 62, 3843, 3844, 1 << 40, MaxID} {
		minted := Mint(APIKey, id, MaxID-id+1)
		parsed, err := Parse(minted.Reveal())
		if err != nil || parsed != minted {
			t.Errorf("Parse(Mint(%d)) = %#v, %v", id, parsed, err)
		}
		if match := pattern.FindString("key=" + minted.Reveal() + "\n"); match != minted.Reveal() {
			t.Errorf("scanner pattern found %q in a token of %d characters", match, len(minted.Reveal()))
		}
		if !strings.HasPrefix(minted.Reveal(), Public(APIKey, id, MaxID-id+1)+"_") {
			t.Errorf("token does not begin with its public part")
		}
	}
}

func TestReadmeGivesTheScannerPattern(t *testing.T) {
	for _, file := range []string{"README.md", ".gitleaks.toml"} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), pattern.String()) {
			t.Errorf("%s does not contain %s", file, pattern)
		}
	}
}

func TestAnyChangeOfATokenIsRefused(t *testing.T) {
	good := Mint(Session, 42, 12).Reveal()
	for i := range len(good) {
		for _, c := range []byte("0Zz_-. \n\x00") {
			bad := good[:i] + string(rune(c)) + good[i+1:]
			if bad == good {
				continue
			}
			if _, err := Parse(bad); err == nil {
				t.Errorf("Parse accepts a token with character %d changed to %q", i, c)
			}
		}
		if _, err := Parse(good[:i]); err == nil {
			t.Errorf("Parse accepts the first %d characters of a token", i)
		}
	}
	for _, bad := range []string{"", "ak_", good + "0", " " + good, good + "\n", strings.Repeat("ak_1_1_", 2000), "ak_01_1_" + good[8:], "zz" + good[2:]} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("Parse accepts %.40q", bad)
		}
	}
}

func TestAMillionTokensAreDistinct(t *testing.T) {
	const n = 1_000_000
	seen := make(map[string]struct{}, n)
	for range n {
		seen[Mint(APIKey, 1, 1).Reveal()] = struct{}{}
	}
	if len(seen) != n {
		t.Errorf("%d tokens, %d distinct", n, len(seen))
	}
}

func TestATokenDoesNotPrint(t *testing.T) {
	token := Mint(Refresh, 7, 9)
	secret := token.Reveal()[7:]
	asJSON, _ := json.Marshal(map[string]any{"token": token})
	for _, printed := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token), string(asJSON), token.LogValue().String()} {
		if strings.Contains(printed, secret) {
			t.Errorf("token printed: %s", printed)
		}
	}
}

func TestMatches(t *testing.T) {
	token, other := Mint(APIKey, 7, 9), Mint(APIKey, 7, 9)
	digest := token.Digest()
	if !token.Matches(digest[:]) || other.Matches(digest[:]) || token.Matches(nil) || token.Matches(digest[:31]) {
		t.Error("Matches is not equality of digests")
	}
}

// FuzzParse guards: no panic, and what is accepted is exactly what Mint could have made.
func FuzzParse(f *testing.F) {
	f.Add(Mint(APIKey, 7, 9).Reveal())
	f.Add(Mint(Session, MaxID, 1).Reveal())
	f.Add("ak__1_0000")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := Parse(text)
		if err != nil {
			return
		}
		if token.Reveal() != text || !strings.HasPrefix(text, Public(token.Kind, token.User, token.ID)+"_") || !pattern.MatchString(text) {
			t.Errorf("accepted %q as %d/%d", text, token.User, token.ID)
		}
	})
}
