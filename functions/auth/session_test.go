package main

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/session"
)

func TestLogin(t *testing.T) {
	w := newWorld(t)
	u := w.newUser(t, "ann@example.org")
	a := w.login(t, " Ann@Example.org ", password)
	if a.Status != 200 || a.Body != fmt.Sprintf(`{"data":{"user":{"id":%d,"name":"user-1","email":"ann@example.org","roles":["user"],"country_of_residence":"DE"},"to":"/"}}`+"\n", u.ID) {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	c := cookieOf(a)
	if !regexp.MustCompile(`^cjj365=st_[0-9A-Za-z_]+; Path=/; Max-Age=604800; HttpOnly; Secure; SameSite=Lax$`).MatchString(c) {
		t.Errorf("Set-Cookie: %s", c)
	}
	for _, headers := range [][]string{{"Cookie: " + c}, {"Authorization: Bearer " + strings.TrimPrefix(strings.Split(c, ";")[0], "cjj365=")}} {
		status := w.send(t, "GET", "/auth/status", "", headers...)
		if status.Status != 200 || status.Data.User.ID != u.ID || status.Data.AuthTime != w.now.Unix() || !strings.Contains(status.Body, `"to":"","amr":["pwd"],"acr":"aal1"`) {
			t.Errorf("status: %d %s", status.Status, status.Body)
		}
		if p := w.send(t, "GET", "/auth/profile", "", headers...); p.Status != 200 || !strings.Contains(p.Body, `"email":"ann@example.org"`) {
			t.Errorf("profile: %s", p.Body)
		}
		if b := w.send(t, "GET", "/auth/third-party-bindings", "", headers...); b.Body != `{"data":[]}`+"\n" {
			t.Errorf("bindings: %s", b.Body)
		}
	}
	if short := w.send(t, "POST", "/auth", `{"action":"login","email":"ann@example.org","password":"`+password+`"}`); short.Status != 200 {
		t.Errorf("POST /auth: %d %s", short.Status, short.Body)
	}
	out := w.send(t, "POST", "/auth/logout", "", "Cookie: "+c)
	if out.Status != 204 || out.Body != "" || !strings.HasPrefix(cookieOf(out), "cjj365=; Path=/; Max-Age=0") {
		t.Errorf("logout: %d %s %s", out.Status, out.Body, cookieOf(out))
	}
	for _, tc := range []struct {
		method, path string
		status, code int
	}{{"GET", "/auth/status", 200, 999999}, {"GET", "/auth/profile", 401, 5104}, {"GET", "/auth/third-party-bindings", 401, 5104}, {"POST", "/auth/logout", 401, 5104}} {
		if a := w.send(t, tc.method, tc.path, "", "Cookie: "+c); a.Status != tc.status || a.Error.Code != tc.code {
			t.Errorf("after logout, %s: %d %s", tc.path, a.Status, a.Body)
		}
		if a := w.send(t, tc.method, tc.path, ""); a.Status != tc.status || a.Error.Code != tc.code {
			t.Errorf("without a session, %s: %d %s", tc.path, a.Status, a.Body)
		}
	}
}

// A client refreshes as fast as it can while its sessions are ended: none may be left.
func TestNoRefreshSlipsThroughAnEnd(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	current := password
	for round := range 6 {
		pair := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": current, "token_type": "Bearer"}).Data.Session
		if pair == nil {
			t.Fatalf("round %d: no login", round)
		}
		var ended atomic.Bool
		var wait sync.WaitGroup
		access, refresh := []string{pair.AccessToken}, pair.RefreshToken
		wait.Go(func() {
			for !ended.Load() {
				a := w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+refresh+`"}`)
				if a.Status != 200 {
					return
				}
				access, refresh = append(access, a.Data.AccessToken), a.Data.RefreshToken
			}
		})
		if round%2 == 0 {
			w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
			next := fmt.Sprintf("Another-horse-%d", round)
			a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": next})
			if a.Status == 200 {
				current = next
			} else if a.Status != 503 {
				t.Errorf("reset: %d %s", a.Status, a.Body)
			}
			ended.Store(true)
			wait.Wait()
			if a.Status == 503 {
				continue // overtaken every time: the client was told to try again
			}
		} else {
			// Until one of the sessions of the line is caught alive, which ends the line.
			out := w.send(t, "POST", "/auth/logout", "", "Authorization: Bearer "+pair.AccessToken)
			ended.Store(true)
			wait.Wait()
			if out.Status != 204 {
				w.send(t, "POST", "/auth/logout", "", "Authorization: Bearer "+access[len(access)-1])
			}
		}
		for i, token := range access {
			if s := w.send(t, "GET", "/auth/status", "", "Authorization: Bearer "+token); s.Error.Code != 999999 {
				t.Errorf("round %d: access token %d of %d lives", round, i+1, len(access))
			}
		}
		w.pass(time.Hour)
	}
}

// As many logins of both kinds as there can be, all refreshed: one transaction must still end them.
func TestAResetEndsAsManySessionsAsThereCanBe(t *testing.T) {
	w := newWorld(t)
	u := w.newUser(t, "ann@example.org")
	tokens := []string{}
	for i := range 2 * session.MaxPerUser {
		fields := map[string]string{"action": "login", "email": "ann@example.org", "password": password}
		if i < session.MaxPerUser {
			fields["token_type"] = "Bearer"
		}
		w.pass(time.Second)
		a := w.action(t, fields)
		if a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		if a.Data.Session != nil {
			tokens = append(tokens, a.Data.Session.RefreshToken)
		}
	}
	for _, token := range tokens { // of lines that have made room for others
		w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`)
	}
	w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
	a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": "Another-horse-2"})
	if a.Status != 200 {
		t.Errorf("reset with %d logins of user %d: %d %s", 2*session.MaxPerUser, u.ID, a.Status, a.Body)
	}
}

func TestGoodLoginsLockNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	var wait sync.WaitGroup
	for range 3 * perAccount.Most {
		wait.Go(func() { w.login(t, "ann@example.org", password) })
	}
	wait.Wait()
	if a := w.login(t, "ann@example.org", password); a.Status != 200 {
		t.Errorf("after a burst of good logins: %d %s", a.Status, a.Body)
	}
}

func TestAResetEndsEverySession(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	cookies := []string{cookieOf(w.login(t, "ann@example.org", password)), cookieOf(w.login(t, "ann@example.org", password))}
	tokens := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": password, "token_type": "Bearer"}).Data.Session
	w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
	if a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": "weak"}); a.Status != 400 {
		t.Errorf("a weak password: %d %s", a.Status, a.Body)
	}
	a := w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": w.code(t), "new_password": "Another-horse-2"})
	if a.Status != 200 || a.Data.Status != "password_reset_success" {
		t.Fatalf("reset: %d %s", a.Status, a.Body)
	}
	for _, c := range cookies {
		if s := w.send(t, "GET", "/auth/status", "", "Cookie: "+c); s.Error.Code != 999999 {
			t.Errorf("a session outlived the reset: %s", s.Body)
		}
	}
	if r := w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+tokens.RefreshToken+`"}`); r.Status != 401 {
		t.Errorf("a refresh token outlived the reset: %s", r.Body)
	}
	if a := w.login(t, "ann@example.org", password); a.Status != 401 {
		t.Errorf("the old password: %d %s", a.Status, a.Body)
	}
	if a := w.login(t, "ann@example.org", "Another-horse-2"); a.Status != 200 {
		t.Errorf("the new password: %d %s", a.Status, a.Body)
	}
}

// Logins race with a reset: none of those that began with the old password may be left.
func TestNoSessionSlipsThroughAReset(t *testing.T) {
	w := newWorld(t)
	u := w.newUser(t, "ann@example.org")
	for round := range 5 {
		w.action(t, map[string]string{"action": "request-reset-password", "email": "ann@example.org"})
		code, before, after := w.code(t), password, fmt.Sprintf("Another-horse-%d", round)
		if round > 0 {
			before = fmt.Sprintf("Another-horse-%d", round-1)
		}
		var wait sync.WaitGroup
		cookies := make([]string, 6)
		for i := range cookies {
			wait.Go(func() { cookies[i] = cookieOf(w.login(t, "ann@example.org", before)) })
		}
		var reset answer
		wait.Go(func() {
			reset = w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": after})
		})
		wait.Wait()
		if reset.Status == 503 { // every attempt was overtaken: the client is told to try again
			reset = w.action(t, map[string]string{"action": "reset-password", "email": "ann@example.org", "verify_code": code, "new_password": after})
		}
		if reset.Status != 200 {
			t.Fatalf("reset: %d %s", reset.Status, reset.Body)
		}
		for _, c := range cookies {
			if s := w.send(t, "GET", "/auth/status", "", "Cookie: "+c); s.Error.Code != 999999 {
				t.Errorf("round %d: a session with the old password lives", round)
			}
		}
		w.pass(time.Hour) // so that the limits of tries do not decide
	}
	if got, err := w.store.User(t.Context(), u.ID); err != nil || got.Revision < 5 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestRefresh(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	begin := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": password, "token_type": "Bearer"})
	if begin.Status != 200 || begin.Data.Session == nil || cookieOf(begin) != "" || begin.Data.Session.ExpiresIn != 3600 || begin.Data.Session.TokenType != "Bearer" {
		t.Fatalf("login: %d %s", begin.Status, begin.Body)
	}
	refresh := func(token string) answer {
		return w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`)
	}
	status := func(token string) int {
		return w.send(t, "GET", "/auth/status", "", "Authorization: Bearer "+token).Error.Code
	}
	w.pass(session.AccessLifetime)
	if status(begin.Data.Session.AccessToken) != 999999 {
		t.Error("an access token outlived its time")
	}
	second := refresh(begin.Data.Session.RefreshToken)
	if second.Status != 200 || second.Data.Session == nil || *second.Data.Session != second.Data.Pair {
		t.Fatalf("refresh must answer in both forms: %d %s", second.Status, second.Body)
	}
	if status(second.Data.AccessToken) != 0 {
		t.Error("the new access token does not work")
	}
	w.pass(10 * time.Second)
	again := refresh(begin.Data.Session.RefreshToken) // the answer was lost
	if again.Status != 200 || status(again.Data.AccessToken) != 0 {
		t.Fatalf("a repeat after a lost answer: %d %s", again.Status, again.Body)
	}
	w.pass(time.Hour)
	third := refresh(again.Data.RefreshToken)
	if third.Status != 200 {
		t.Fatalf("third: %d %s", third.Status, third.Body)
	}
	w.pass(time.Hour)
	stolen := refresh(begin.Data.Session.RefreshToken)
	if stolen.Status != 401 || stolen.Error.Code != 10003 || stolen.Error.Key != "refresh_token_rotated" {
		t.Errorf("a spent token: %d %s", stolen.Status, stolen.Body)
	}
	dead := refresh(third.Data.RefreshToken)
	if dead.Status != 401 || dead.Error.Code == 10003 || !strings.Contains(dead.Error.What, "family revoked") || status(third.Data.AccessToken) != 999999 {
		t.Errorf("the family after a theft: %d %s", dead.Status, dead.Body)
	}
	for body, want := range map[string]int{
		`{"refresh_token":"rt_x"}`: 5018, `{"refresh_token":""}`: 5000, `{}`: 5008, ``: 5007, `{"refresh_token":7}`: 5009,
		`{"refresh_token":"` + again.Data.AccessToken + `"}`: 5018,
	} {
		if a := w.send(t, "POST", "/auth/refresh", body); a.Error.Code != want {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
}

// Two processes of one device refresh at once: neither may be locked out.
func TestParallelRefreshesLockNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	token := w.action(t, map[string]string{"action": "login", "email": "ann@example.org", "password": password, "token_type": "Bearer"}).Data.Session.RefreshToken
	answers := make([]answer, 6)
	var wait sync.WaitGroup
	for i := range answers {
		wait.Go(func() { answers[i] = w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`) })
	}
	wait.Wait()
	for _, a := range answers {
		if a.Status != 200 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	if next := w.send(t, "POST", "/auth/refresh", `{"refresh_token":"`+answers[0].Data.RefreshToken+`"}`); next.Status != 200 {
		t.Errorf("afterwards: %d %s", next.Status, next.Body)
	}
}

func TestAUserKeepsTheNewestLogins(t *testing.T) {
	w := newWorld(t)
	w.newUser(t, "ann@example.org")
	first := cookieOf(w.login(t, "ann@example.org", password))
	for range session.MaxPerUser {
		w.pass(time.Second)
		if a := w.login(t, "ann@example.org", password); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	if s := w.send(t, "GET", "/auth/status", "", "Cookie: "+first); s.Error.Code != 999999 {
		t.Error("the oldest of too many logins still works")
	}
}
