package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"cjj365.cc/bb/local/template"
)

// TestEventsAreAnswered invokes each function with its file of events/, as sam local invoke does.
func TestEventsAreAnswered(t *testing.T) {
	parsed, err := template.Read("../template.yaml", template.Options{Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range parsed.Functions {
		event, err := os.Open("../events/" + f.LogicalID + ".json")
		if err != nil {
			t.Errorf("%s has no event: %v", f.LogicalID, err)
			continue
		}
		response, err := http.Post(shared.Invoke+"/2015-03-31/functions/"+f.LogicalID+"/invocations", "application/json", event)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		failed := response.Header.Get("X-Amz-Function-Error") != ""
		var reply struct{ StatusCode int }
		_ = json.Unmarshal(answer, &reply) // null of those that answer nobody
		switch f.LogicalID {
		case "Authorizer": // the page's placeholder is no token
			if !failed {
				t.Errorf("Authorizer: %s", answer)
			}
		case "FirstUser": // nobody listens at its ResponseURL
			if !failed {
				t.Errorf("FirstUser: %s", answer)
			}
		case "DnsProbe": // there is no such DNS provider
			if failed || reply.StatusCode != 404 || !strings.Contains(string(answer), "NOT_FOUND") {
				t.Errorf("DnsProbe: %s", answer)
			}
		case "Acme", "Pki": // there is no such CA
			if failed || reply.StatusCode != 404 {
				t.Errorf("%s: %s", f.LogicalID, answer)
			}
		case "Self", "Updates": // there is no such device
			if failed || reply.StatusCode != 403 {
				t.Errorf("%s: %s", f.LogicalID, answer)
			}
		case "Issuer", "Renewals", "Notices", "Crls": // there is nothing to do, and nobody to tell
			if failed || string(answer) != "null" {
				t.Errorf("%s: %s", f.LogicalID, answer)
			}
		default:
			if failed || reply.StatusCode != 200 {
				t.Errorf("%s: %s", f.LogicalID, answer)
			}
		}
	}
}
