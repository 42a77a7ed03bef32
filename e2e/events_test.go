package e2e

import (
	"encoding/json"
	"io"
	"os"
	"testing"

	"cjj365.cc/bb/local/lambda"
	"cjj365.cc/bb/local/template"
)

// TestEventsAreAnswered invokes each function with its file of events/, as sam local invoke does. None
// of them needs a table.
func TestEventsAreAnswered(t *testing.T) {
	parsed, err := template.Read("../template.yaml", template.Options{Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	host, err := lambda.NewHost(parsed.Functions, lambda.Options{Build: "../build", Log: io.Discard, Env: map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9"}})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Stop()
	for _, f := range parsed.Functions {
		event, err := os.ReadFile("../events/" + f.LogicalID + ".json")
		if err != nil {
			t.Errorf("%s has no event: %v", f.LogicalID, err)
			continue
		}
		answer, err := host.Invoke(t.Context(), f.LogicalID, event)
		switch f.LogicalID {
		case "Authorizer": // the page's placeholder is no token
			if err == nil || err.Error() == "" {
				t.Errorf("Authorizer: %s", answer)
			}
		case "FirstUser": // nobody listens at its ResponseURL
			if err == nil {
				t.Errorf("FirstUser: %s", answer)
			}
		default:
			var response struct{ StatusCode int }
			if err := json.Unmarshal(answer, &response); err != nil || response.StatusCode != 200 {
				t.Errorf("%s: %s %v", f.LogicalID, answer, err)
			}
		}
	}
}
