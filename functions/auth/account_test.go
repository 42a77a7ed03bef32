package main

import (
	"fmt"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/user"
)

func TestRegisterActivateLogin(t *testing.T) {
	w := newWorld(t)
	fields := map[string]string{"action": "register", "email": "bob@example.org", "password": password, "name": "bob", "country_of_residence": "de"}
	if a := w.action(t, fields); a.Status != 200 || a.Data.Status != "waiting_for_verification" || a.Data.Email != "bob@example.org" {
		t.Fatalf("register: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "bob@example.org", password); a.Status != 403 || a.Error.Code != 5022 {
		t.Errorf("login before activation: %d %s", a.Status, a.Body)
	}
	if a := w.action(t, fields); a.Status != 200 {
		t.Errorf("register again: %d %s", a.Status, a.Body)
	}
	code := w.code(t)
	activate := map[string]string{"action": "activate-user", "email": "bob@example.org", "verify_code": code}
	if a := w.action(t, activate); a.Status != 200 || a.Data.Status != "activation_successful" {
		t.Fatalf("activate: %d %s", a.Status, a.Body)
	}
	if a := w.action(t, activate); a.Status != 400 {
		t.Errorf("a code used twice: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "bob@example.org", password); a.Status != 200 {
		t.Errorf("login: %d %s", a.Status, a.Body)
	}
	if a := w.send(t, "GET", "/auth/general?name=BOB", ""); a.Status != 200 || a.Data.Available {
		t.Errorf("name in other case: %s", a.Body)
	}
	if a := w.send(t, "GET", "/auth/general?name=carol", ""); a.Body != `{"data":{"available":true}}`+"\n" {
		t.Errorf("free name: %s", a.Body)
	}
	if a := w.action(t, map[string]string{"action": "register", "email": "eve@example.org", "password": password, "name": "Bob"}); a.Status != 409 || a.Error.Code != 40904 {
		t.Errorf("a taken name: %d %s", a.Status, a.Body)
	}
}

// Somebody else registers an address that waits for activation: the owner's code stands for the owner's
// password.
func TestACodeBelongsToItsRegistration(t *testing.T) {
	w := newWorld(t)
	const owners, strangers = "Owners-horse-1", "Strangers-horse-1"
	register := func(name, country, password string) string {
		a := w.action(t, map[string]string{"action": "register", "email": "vic@example.org", "name": name, "country_of_residence": country, "password": password})
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		return w.code(t)
	}
	register("stranger", "FR", strangers)
	code := register("vic", "DE", owners)
	later := register("stranger", "FR", strangers)
	if a := w.send(t, "GET", "/auth/general?name=vic", ""); !a.Data.Available {
		t.Error("the name of a waiting registration is taken: it tells that the address has no account")
	}
	if a := w.action(t, map[string]string{"action": "activate-user", "email": "vic@example.org", "verify_code": code}); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := w.action(t, map[string]string{"action": "activate-user", "email": "vic@example.org", "verify_code": later}); a.Status != 400 {
		t.Errorf("another code after the activation: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "vic@example.org", owners); a.Status != 200 || !strings.Contains(a.Body, `"name":"vic"`) || !strings.Contains(a.Body, `"country_of_residence":"DE"`) {
		t.Errorf("the owner: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "vic@example.org", strangers); a.Status != 401 {
		t.Errorf("the stranger: %d %s", a.Status, a.Body)
	}
}

func TestAGivenNameIsNobodysToTake(t *testing.T) {
	w := newWorld(t)
	if a := w.action(t, map[string]string{"action": "register", "email": "eve@example.org", "password": password, "name": "user-2"}); a.Status != 400 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	w.action(t, map[string]string{"action": "register", "email": "ann@example.org", "password": password})
	if a := w.action(t, map[string]string{"action": "register", "email": "bob@example.org", "password": password}); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// Two people want a name: who activates first has it, the other is active with a given one.
func TestANameGoesToWhoActivatesFirst(t *testing.T) {
	w := newWorld(t)
	codes := map[string]string{}
	for _, email := range []string{"a@example.org", "b@example.org"} {
		if a := w.action(t, map[string]string{"action": "register", "email": email, "name": "wanted", "password": password}); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		codes[email] = w.code(t)
	}
	for email, name := range map[string]string{"b@example.org": "wanted"} {
		if a := w.action(t, map[string]string{"action": "activate-user", "email": email, "verify_code": codes[email]}); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if a := w.login(t, email, password); !strings.Contains(a.Body, `"name":"`+name+`"`) {
			t.Errorf("%s", a.Body)
		}
	}
	if a := w.action(t, map[string]string{"action": "activate-user", "email": "a@example.org", "verify_code": codes["a@example.org"]}); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if a := w.login(t, "a@example.org", password); a.Status != 200 || !strings.Contains(a.Body, `"name":"user-1"`) {
		t.Errorf("%s", a.Body)
	}
}

// Whoever saw an earlier code must not undo a reset with it.
func TestAResetMakesEarlierCodesWorthless(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	request := map[string]string{"action": "request-reset-password", "email": "ann@example.org"}
	reset := func(code, password string) int {
		return w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": password}).Status
	}
	w.action(t, request)
	earlier := w.code(t)
	w.action(t, request)
	if status := reset(w.code(t), "Another-horse-2"); status != 200 {
		t.Fatal(status)
	}
	if status := reset(earlier, "Strangers-horse-1"); status != 400 {
		t.Errorf("the earlier code: %d", status)
	}
	if a := w.login(t, "ann@example.org", "Another-horse-2"); a.Status != 200 {
		t.Errorf("the owner: %d %s", a.Status, a.Body)
	}
}

func TestACodeDiesOfAgeAndOfGuesses(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	request := map[string]string{"action": "request-reset-password", "email": "ann@example.org"}
	reset := func(code string) answer {
		return w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": "Another-horse-2"})
	}
	w.action(t, request)
	w.pass(user.CodeLifetime)
	if a := reset(w.code(t)); a.Status != 400 {
		t.Errorf("an old code: %d %s", a.Status, a.Body)
	}
	w.action(t, request)
	code := w.code(t)
	for range user.CodeAttempts {
		if a := reset(wrong(code)); a.Status != 400 {
			t.Errorf("a wrong code: %d %s", a.Status, a.Body)
		}
	}
	if a := reset(code); a.Status != 400 {
		t.Errorf("the code after five guesses: %d %s", a.Status, a.Body)
	}
}

// What a stranger learns of an address is the same whether it has an account or not.
func TestNoAccountIsTold(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "known@example.org")
	w.action(t, map[string]string{"action": "register", "email": "waiting@example.org", "password": password})
	for _, fields := range []map[string]string{
		{"action": "login", "password": "Wrong-horse-1"},
		{"action": "login", "password": ""},
		{"action": "register", "password": password},
		{"action": "activate-user", "verify_code": "000000"},
		{"action": "request-reset-password"},
		{"action": "reset-password", "verify_code": "000000", "new_password": "Another-horse-2"},
	} {
		var told []string
		for _, email := range []string{"unknown@example.org", "known@example.org", "waiting@example.org"} {
			fields["email"] = email
			w.waited = nil
			a := w.action(t, fields)
			held := len(w.waited) == 1 && w.waited[0] == unhurried // the world's clock stands still
			if fields["action"] != "login" && !held {
				t.Errorf("%s was not answered at its fixed time: %v", fields["action"], w.waited)
			}
			told = append(told, fmt.Sprint(a.Status, strings.ReplaceAll(a.Body, email, "<email>"), a.Header["Retry-After"], cookieOf(a)))
		}
		if told[0] != told[1] || told[1] != told[2] {
			t.Errorf("%s:\n%s", fields["action"], strings.Join(told, "\n"))
		}
	}
	for _, m := range w.mails(t) {
		if strings.Contains(m, "To: <unknown@") && strings.Contains(m, "reset") {
			t.Error("a reset code went to an address without an account")
		}
	}
}

func TestLimitsOfTries(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	for range perAccount.Most {
		if a := w.login(t, "ann@example.org", "Wrong-horse-1"); a.Status != 401 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	w.address = "198.51.100.7" // from anywhere
	a := w.login(t, "ann@example.org", password)
	wait := a.Error.Params["retry_after"]
	if a.Status != 429 || a.Error.Code != 5013 || len(a.Header["Retry-After"]) != 1 || fmt.Sprint(wait) != a.Header["Retry-After"][0] {
		t.Errorf("%d %s %v", a.Status, a.Body, a.Header)
	}
	if other := w.login(t, "bob@example.org", password); other.Status != 401 {
		t.Errorf("another account: %d %s", other.Status, other.Body)
	}
	w.pass(perAccount.Window)
	for range 2 * perAccount.Most { // good logins are not tries
		if a := w.login(t, "ann@example.org", password); a.Status != 200 {
			t.Fatalf("a good login: %d %s", a.Status, a.Body)
		}
	}
	for i := range newPerAddress.Most + 1 {
		a = w.action(t, map[string]string{"action": "register", "email": fmt.Sprintf("u%d@example.org", i), "password": password})
	}
	if a.Status != 429 {
		t.Errorf("registrations from one address: %d %s", a.Status, a.Body)
	}
	if network("2001:db8::1") != network("2001:db8::ffff:1") || network("2001:db8::1") == network("2001:db8:0:1::1") || network("::ffff:192.0.2.9") != "192.0.2.9" {
		t.Error("addresses are counted wrongly")
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	for body, want := range map[string]int{
		``: 5007, `{`: 5021, `[]`: 5009, `{}`: 5008, `{"action":7}`: 5009, `{"action":"dance","email":"a@b.cd"}`: 5000,
		`{"action":"login"}`: 5008, `{"action":"login","email":"x"}`: 5000, `{"action":"login","email":"a@b.cd"}`: 5008, `{"action":"login","email":7}`: 5009,
		`{"action":"register","email":"a@b.cd","password":"weak"}`:                                              5000,
		`{"action":"register","email":"a@b.cd","password":"` + password + `","name":"no spaces"}`:               5000,
		`{"action":"register","email":"a@b.cd","password":"` + password + `","country_of_residence":"Germany"}`: 5000,
		`{"action":"activate-user","email":"a@b.cd"}`:                                                           5008,
		`{"action":"reset-password","email":"a@b.cd","verify_code":"000000"}`:                                   5008,
		`{"action":"login","email":"a@b.cd","password":"` + strings.Repeat("x", 2000) + `"}`:                    5000,
	} {
		if a := w.send(t, "POST", "/auth/general", body); a.Status != 400 || a.Error.Code != want || strings.Contains(a.Body, password) {
			t.Errorf("%.90s: %d %s", body, a.Status, a.Body)
		}
	}
	for path, want := range map[string]int{"/auth/general": 5005, "/auth/general?name=x": 5000, "/auth/general?name=a%20b": 5000} {
		if a := w.send(t, "GET", path, ""); a.Status != 400 || a.Error.Code != want {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	if mails := w.mails(t); len(mails) != 0 {
		t.Errorf("bad requests sent %d messages", len(mails))
	}
}

// A registration that died between the account and its code is taken up by the next.
func TestARegistrationThatDiedIsTakenUp(t *testing.T) {
	w := newWorld(t)
	hash, err := user.Hash(password)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.CreateUser(t.Context(), user.User{Email: "bob@example.org", State: user.Inactive, PasswordHash: hash, CreatedAt: w.clock()}); err != nil {
		t.Fatal(err)
	}
	if a := w.login(t, "bob@example.org", password); a.Status != 403 {
		t.Errorf("login: %d %s", a.Status, a.Body)
	}
	if a := w.action(t, map[string]string{"action": "register", "email": "bob@example.org", "password": password, "name": "bob"}); a.Status != 200 {
		t.Fatalf("register: %d %s", a.Status, a.Body)
	}
	w.action(t, map[string]string{"action": "activate-user", "email": "bob@example.org", "verify_code": w.code(t)})
	if a := w.login(t, "bob@example.org", password); a.Status != 200 {
		t.Errorf("login: %d %s", a.Status, a.Body)
	}
}
