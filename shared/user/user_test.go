package user

import (
	"strings"
	"testing"
)

func TestPasswordRules(t *testing.T) {
	for password, good := range map[string]bool{
		"Correct-horse-1":                 true,
		"Ünïcode-pass-1":                  true,
		"Short-1a":                        false,
		"no-upper-case-1":                 false,
		"NO-LOWER-CASE-1":                 false,
		"No-digit-at-all":                 false,
		"NoOtherCharacter1":               false,
		"":                                false,
		"Aa1-" + strings.Repeat("x", 252): true,
		"Aa1-" + strings.Repeat("x", 253): false,
	} {
		if err := CheckPassword(password); (err == nil) != good {
			t.Errorf("%.20q: %v", password, err)
		}
	}
}

func TestEmails(t *testing.T) {
	for email, want := range map[string]string{
		" Ann@Example.ORG ": "ann@example.org", "a+b@x.example": "a+b@x.example",
		"": "", "ann": "", "@example.org": "", "ann@": "", "Ann <ann@example.org>": "", "ann@example.org\r\nBcc: x@y.z": "",
		"\"a b\"@example.org": "", "ann@localhost": "", "a@b.c,d@e.f": "", strings.Repeat("a", 250) + "@x.yz": "", "ann@exa mple.org": "",
	} {
		if got, err := NormalizeEmail(email); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", email, got, err)
		}
	}
}

func TestNamesAndCountries(t *testing.T) {
	for name, good := range map[string]bool{"ann": true, "a.b-c_9": true, "an": false, "": false, "ann b": false, "user-5": false, "USER-77": false, "user-5a": true, "ann\n": false, strings.Repeat("a", 65): false} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
	for country, want := range map[string]string{"": "US", "de": "DE", "DE": "DE", "D": "", "DEU": "", "1A": ""} {
		if got, err := NormalizeCountry(country); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", country, got, err)
		}
	}
}

func TestVerify(t *testing.T) {
	hash, err := Hash("Correct-horse-1")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Contains(hash, "horse") {
		t.Errorf("hash %s", hash)
	}
	if !Verify("Correct-horse-1", hash) || Verify("correct-horse-1", hash) || Verify("", "") || Verify("x", "not a hash") {
		t.Error("Verify does not tell passwords apart")
	}
	if Verify("", nobody) || Verify("A", nobody) {
		t.Error("nobody's hash has a password")
	}
}

func TestCodesAreSixDigits(t *testing.T) {
	for range 200 {
		code, err := NewCode()
		if err != nil || len(code) != 6 || strings.Trim(code, "0123456789") != "" {
			t.Fatalf("%q, %v", code, err)
		}
	}
}
