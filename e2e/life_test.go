package e2e

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
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
		var deleted atomic.Bool
		var let, late atomic.Int64
		var wait sync.WaitGroup
		tick := time.NewTicker(time.Second / rate)
		for sent := 0; late.Load() < after; sent++ {
			if sent == before {
				wait.Go(func() {
					r, err := shared.call("DELETE", fmt.Sprintf("/apiv1/users/1/apikeys/%d", id), "", owner)
					deleted.Store(true)
					if err != nil || r.Status != http.StatusNoContent {
						t.Errorf("delete: %d %v", r.Status, err)
					}
				})
			}
			<-tick.C
			wait.Go(func() {
				afterDelete := deleted.Load()
				r, err := shared.call("GET", "/apiv1/me", "", "Authorization: Bearer "+token)
				switch {
				case err != nil:
					t.Error(err)
				case r.Status == http.StatusOK && afterDelete:
					t.Errorf("round %d: a request that began after DELETE returned was let in", round)
				case r.Status == http.StatusOK:
					let.Add(1)
				case r.Status != http.StatusUnauthorized:
					t.Errorf("round %d: status %d", round, r.Status)
				}
				if afterDelete {
					late.Add(1)
				}
			})
		}
		tick.Stop()
		wait.Wait()
		if let.Load() == 0 {
			t.Errorf("round %d: no request was let in before the DELETE", round)
		}
	}
}

// secrets are what must stand in no log: tokens, cookies, passwords, private keys.
var secrets = regexp.MustCompile(`\b(ak|st|rt)_[1-9A-Za-z][0-9A-Za-z]{0,8}_[1-9A-Za-z][0-9A-Za-z]{0,8}_[0-9A-Za-z]{39}\b|Bearer [A-Za-z0-9]|Basic [A-Za-z0-9]|cjj365=|-horse-|BEGIN [A-Z ]*PRIVATE KEY|\$argon2id\$`)

// TestLogsAreWrittenByHostileRequests makes the lines that secretsLogged, at the end of the run, looks at.
func TestLogsAreWrittenByHostileRequests(t *testing.T) {
	owner := shared.login(t)
	_, token := shared.key(t, owner, `{"name":"\"}{ \\n","permissions":[]}`)
	shared.mustCall(t, "GET", "/apiv1/me?token=x", "", "Authorization: Bearer "+token, `User-Agent: evil"}{`)
	shared.mustCall(t, "GET", "/apiv1/me", "", "Authorization: Bearer "+token[:len(token)-2])
	shared.mustCall(t, "POST", "/auth/general", `{"action":"login","email":"x@example.org","password":"Some-horse-1"}`)
	if !secrets.MatchString(token) {
		t.Error("the pattern does not know a token")
	}
}

// secretsLogged fails a run in whose logs, those of the whole shared stack, a secret stands.
func secretsLogged() int {
	logs := shared.logs.String()
	if !strings.Contains(logs, `"decision":"admitted"`) || !strings.Contains(logs, `"decision":"refused"`) {
		fmt.Fprintln(os.Stderr, "e2e: the logs have no audit lines: the search for secrets looks at the wrong thing")
		return 1
	}
	for line := range strings.Lines(logs) {
		// The banner shows the first user's password to whoever started the stack.
		if secrets.MatchString(line) && !strings.Contains(line, "curl -c") {
			fmt.Fprintf(os.Stderr, "e2e: a secret is logged: %.200s\n", line)
			return 1
		}
	}
	return 0
}
