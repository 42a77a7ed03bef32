package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestScripts runs scripts/*.txtar. Beside testscript's own commands they have
//
//	login          logs the first user in; cookies.txt and $COOKIE hold the session
//	status CODE    the last curl, which wrote its status with -w, must have got CODE
//	set NAME EXPR FILE    sets a variable to what jq finds in a JSON file
//	is EXPR FILE          fails unless jq finds EXPR true of a JSON file
//	until EXPR FILE ARGS  runs curl with ARGS and the output FILE until jq finds EXPR true of it
//	mail ADDRESS          sets $CODE to the code in the newest message to an address
//
// and the variables URL, EMAIL, PASSWORD and JSON, a Content-Type header. A step that begins with the
// condition of samLacks is done by every gateway but that of sam local, one that begins with [knot] where
// Knot is installed.
func TestScripts(t *testing.T) {
	if shared.Gateway == "sam" {
		t.Cleanup(func() { reportSteps(t) })
	}
	testscript.Run(t, testscript.Params{
		Condition: func(name string) (bool, error) {
			if name == "knot" {
				return shared.DNS.Knot != nil, nil
			}
			if _, known := samLacks[name]; !known {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			return shared.Gateway != "sam", nil
		},
		Dir:                 "scripts",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("URL", shared.URL)
			env.Setenv("EMAIL", shared.Email)
			env.Setenv("PASSWORD", shared.Password)
			env.Setenv("JSON", "Content-Type: application/json")
			for name, value := range map[string]string{
				"INVOKE": shared.Invoke, "ACCOUNT": fmt.Sprint(shared.FirstUser.ACMEAccount), "PROVIDER": fmt.Sprint(shared.FirstUser.DNSProvider),
				"ROOT": shared.ACME.Root, "PEBBLE": shared.ACME.Management, "CHALLTESTSRV": shared.DNS.Challtestsrv,
				"HTTPREQ": shared.DNS.HTTPReq.URL, "HTTPREQ_USER": shared.DNS.HTTPReq.User, "HTTPREQ_PASSWORD": shared.DNS.HTTPReq.Password,
			} {
				env.Setenv(name, value)
			}
			// Each script registers people of its own.
			env.Setenv("UNIQUE", strings.ToLower(filepath.Base(env.WorkDir)))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				got := strings.TrimSpace(ts.ReadFile("stdout"))
				if (got == args[0]) == neg {
					ts.Fatalf("status %s, want %s", got, args[0])
				}
			},
			"set": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Exec("jq", "-r", args[1], args[2]))
				ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
			},
			"is": func(ts *testscript.TestScript, neg bool, args []string) {
				if err := ts.Exec("jq", "-e", args[0], args[1]); (err == nil) == neg {
					ts.Fatalf("%s: %s", args[0], ts.ReadFile(args[1]))
				}
			},
			"until": func(ts *testscript.TestScript, _ bool, args []string) {
				poll := time.NewTicker(200 * time.Millisecond)
				defer poll.Stop()
				for limit := time.Now().Add(60 * time.Second); ; <-poll.C {
					ts.Check(ts.Exec("curl", append([]string{"-s", "-o", args[1]}, args[2:]...)...))
					if ts.Exec("jq", "-e", args[0], args[1]) == nil {
						return
					}
					if time.Now().After(limit) {
						ts.Fatalf("%s: %s", args[0], ts.ReadFile(args[1]))
					}
				}
			},
			"mail": func(ts *testscript.TestScript, _ bool, args []string) {
				code, err := shared.newestCode(args[0])
				ts.Check(err)
				ts.Setenv("CODE", code)
			},
		},
	})
}

// samLacks are the conditions of steps that sam local cannot do, and why.
var samLacks = map[string]string{
	"gateway-responses": "sam local answers refusals in its own words: it ignores GatewayResponses",
	"authorizer-errors": "sam local answers 502 when the authorizer refuses a credential; API Gateway answers 401",
	"request-limits":    "sam local has no limit of 10 MB for a request; its emulator of Lambda fails with 500",
	"event-sources":     "sam local runs no function for a queue or a schedule, and make sam-test no KMS, queue and CA beside it",
}

// A script that is nothing without what sam local lacks begins with this.
var wholly = regexp.MustCompile(`^\[!([a-z-]+)\] skip`)

var conditional = regexp.MustCompile(`^\[([a-z-]+)\] (.*)`)

func firstStep(script []byte) string {
	for line := range strings.Lines(string(script)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

// reportSteps prints how many steps were run against sam local, and each that was not.
func reportSteps(t *testing.T) {
	if t.Failed() {
		return
	}
	files, err := filepath.Glob("scripts/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	run, skipped := 0, 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		number := 0
		if whole := wholly.FindStringSubmatch(firstStep(archive.Comment)); whole != nil {
			fmt.Printf("skipped: %s: all of it: %s\n", filepath.Base(file), samLacks[whole[1]])
			continue
		}
		for line := range strings.Lines(string(archive.Comment)) {
			number++
			line = strings.TrimSpace(line)
			step := conditional.FindStringSubmatch(line)
			switch {
			case step != nil:
				skipped++
				fmt.Printf("skipped: %s:%d: %s: %s\n", filepath.Base(file), number, step[2], samLacks[step[1]])
			case line != "" && !strings.HasPrefix(line, "#"):
				run++
			}
		}
	}
	fmt.Printf("sam local: %d steps of %d scripts passed, %d skipped\n", run, len(files), skipped)
}
