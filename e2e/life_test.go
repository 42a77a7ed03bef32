package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStateSurvivesARestart(t *testing.T) {
	state := t.TempDir()
	first, err := start(state)
	if err != nil {
		t.Fatal(err)
	}
	_, token := first.key(t, first.login(t), `{"name":"kept","permissions":["certs.read"]}`)
	first.stop()
	second, err := start(state)
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()
	if first.Password != second.Password {
		t.Error("the first user's password changed")
	}
	second.login(t)
	if r := second.mustCall(t, "GET", "/apiv1/me", "", "Authorization: Bearer "+token); r.Status != http.StatusOK {
		t.Errorf("the key after a restart: %d %s", r.Status, r.Body)
	}
}

// TestRevocationIsImmediate is the authorizer's test of that name through the whole stack: 200 requests
// a second on one key, a DELETE in the middle, several times.
func TestRevocationIsImmediate(t *testing.T) {
	const rounds, rate, before, after = 5, 200, 60, 60
	owner := shared.login(t)
	for round := range rounds {
		id, token := shared.key(t, owner, `{"name":"to be deleted","permissions":[]}`)
		type use struct {
			began  time.Time
			status int
		}
		uses := make([]use, before+after)
		var deleted time.Time
		var wait sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		for i := range uses {
			if i == before {
				wait.Go(func() {
					r, err := shared.call("DELETE", fmt.Sprintf("/apiv1/users/1/apikeys/%d", id), "", owner)
					deleted = time.Now()
					if err != nil || r.Status != http.StatusNoContent {
						t.Errorf("delete: %d %v", r.Status, err)
					}
				})
			}
			<-tick.C
			wait.Go(func() {
				uses[i].began = time.Now()
				r, err := shared.call("GET", "/apiv1/me", "", "Authorization: Bearer "+token)
				if err != nil {
					t.Error(err)
				}
				uses[i].status = r.Status
			})
		}
		tick.Stop()
		wait.Wait()
		late, let := 0, 0
		for _, u := range uses {
			switch {
			case u.status == http.StatusOK:
				let++
				if u.began.After(deleted) {
					t.Errorf("round %d: let in %v after DELETE returned", round, u.began.Sub(deleted))
				}
			case u.status != http.StatusUnauthorized:
				t.Errorf("round %d: status %d", round, u.status)
			}
			if u.began.After(deleted) {
				late++
			}
		}
		if late == 0 || let == 0 {
			t.Errorf("round %d: %d requests let in, %d after the DELETE", round, let, late)
		}
	}
}

// secrets are what must stand in no log: tokens, cookies, passwords, private keys.
var secrets = regexp.MustCompile(`\b(ak|st|rt)_[1-9A-Za-z][0-9A-Za-z]{0,8}_[1-9A-Za-z][0-9A-Za-z]{0,8}_[0-9A-Za-z]{39}\b|Bearer [A-Za-z0-9]|Basic [A-Za-z0-9]|cjj365=|-horse-|BEGIN [A-Z ]*PRIVATE KEY|\$argon2id\$`)

func TestNoSecretIsLogged(t *testing.T) {
	owner := shared.login(t)
	_, token := shared.key(t, owner, `{"name":"line\u2028break \u202e","permissions":[]}`)
	shared.mustCall(t, "GET", "/apiv1/me?token="+"x", "", "Authorization: Bearer "+token, "User-Agent: evil\"}{")
	shared.mustCall(t, "GET", "/apiv1/me", "", "Authorization: Bearer "+token[:len(token)-2])
	shared.mustCall(t, "POST", "/auth/general", `{"action":"login","email":"x@example.org","password":"Some-horse-1"}`)
	logs := shared.logs.String()
	if !strings.Contains(logs, `"decision":"admitted"`) || !strings.Contains(logs, `"decision":"refused"`) {
		t.Fatal("the logs have no audit lines: this test looks at the wrong thing")
	}
	for line := range strings.Lines(logs) {
		// The banner shows the first user's password to whoever started the stack.
		if secrets.MatchString(line) && !strings.Contains(line, "curl -c") {
			t.Errorf("a secret is logged: %.200s", line)
		}
	}
	if !secrets.MatchString(token) {
		t.Error("the pattern does not know a token")
	}
}
