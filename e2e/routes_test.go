package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cjj365.cc/bb/local/template"
)

// operation is what OpenAPI says of one method of one path.
type operation struct {
	ID          string                `json:"operationId"`
	Security    []map[string][]string `json:"security"`
	Permissions []string              `json:"x-required-permissions"`
	RequestBody json.RawMessage       `json:"requestBody"`
}

type route struct {
	method, path string
	operation
}

// described is every operation that /openapi.json has.
func described(t *testing.T) []route {
	t.Helper()
	r := shared.mustCall(t, "GET", "/openapi.json", "")
	var document struct {
		Paths map[string]map[string]operation `json:"paths"`
	}
	if err := json.Unmarshal(r.Body, &document); err != nil {
		t.Fatal(err)
	}
	var routes []route
	for path, methods := range document.Paths {
		for method, op := range methods {
			routes = append(routes, route{strings.ToUpper(method), path, op})
		}
	}
	slices.SortFunc(routes, func(a, b route) int { return strings.Compare(a.path+a.method, b.path+b.method) })
	if len(routes) < 15 {
		t.Fatalf("only %d operations are described", len(routes))
	}
	return routes
}

// objects are ids of the first user's things, by the path parameter that names them.
type objects map[string]int64

// at fills the path's parameters.
func (r route) at(user int64, have objects) string {
	path := strings.ReplaceAll(r.path, "{user_id}", fmt.Sprint(user))
	for name, id := range have {
		path = strings.ReplaceAll(path, "{"+name+"}", fmt.Sprint(id))
	}
	return path
}

// names tells whether the path names an object of a user.
func (r route) names() bool {
	return strings.Count(r.path, "{") > 1 || r.self() && strings.Contains(r.path, "{")
}

// things makes one of each kind for the first user.
func (s *stack) things(t *testing.T, owner string) objects {
	t.Helper()
	made := func(path, body string) int64 {
		r := s.mustCall(t, "POST", "/apiv1/users/1/"+path, body, owner)
		var thing struct{ ID int64 }
		if err := json.Unmarshal(r.Data, &thing); err != nil || r.Status != http.StatusCreated {
			t.Fatalf("%s: %d %s", path, r.Status, r.Body)
		}
		return thing.ID
	}
	have := objects{}
	have["apikey_id"] = made("apikeys", `{"name":"victim","permissions":[]}`)
	have["account_id"] = made("acme-accounts", `{"name":"victim","provider":"pebble"}`)
	have["provider_id"] = made("dns-providers", `{"name":"victim","kind":"desec","config":{"token":"0123456789abcdef"}}`)
	have["certificate_id"] = made("certificates", fmt.Sprintf(`{"domain":"victim.test","acct_id":%d}`, have["account_id"]))
	have["webhook_id"], have["delivery_id"] = made("webhooks", `{"name":"victim","url":"http://127.0.0.1:9/","enabled":false}`), 1
	have["webhook_id"] = made("webhooks", `{"name":"victim","url":"https://hooks.example.org/victim"}`)
	have["delivery_id"] = 1
	have["ca_id"], have["serial"] = made("cas", `{"name":"victim"}`), 12
	return have
}

// deviceOf registers a device with an API key that may do everything with devices, and gives both their credentials.
func (s *stack) deviceOf(t *testing.T, user int64, owner string) (a *agent, key string) {
	t.Helper()
	r := s.mustCall(t, "POST", fmt.Sprintf("/apiv1/users/%d/apikeys", user), `{"name":"devices","permissions":["devices.write","certs.write","cas.write","acme_accounts.write","dns_providers.write","webhooks.write","apikeys.write"]}`, owner)
	var made struct{ Token string }
	if err := json.Unmarshal(r.Data, &made); err != nil || r.Status != http.StatusCreated {
		t.Fatalf("create key: %d %s", r.Status, r.Body)
	}
	key = "Authorization: Bearer " + made.Token
	a = newAgent(t)
	a.registered(s.mustCall(t, "POST", "/apiv1/me/devices", a.self(nil), key))
	return a, key
}

func (r route) self() bool { return strings.HasPrefix(r.path, "/apiv1/devices/self/") }

// nobodys tells of a path that is every caller's own, and no one's in particular.
func (r route) nobodys() bool {
	return !strings.Contains(r.path, "{user_id}") && !r.self() && !strings.HasPrefix(r.path, "/apiv1/me/")
}

func (r route) public() bool { return len(r.Security) == 0 }

func TestRoutesOfTemplateAndDescriptionAgree(t *testing.T) {
	parsed, err := template.Read("../template.yaml", template.Options{Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	undescribed := []string{"/openapi.json", "/docs", "/docs/{proxy+}", "/device", "/", "/{proxy+}"} // the description, its page, and what is not there
	served := map[string]bool{}
	for _, r := range parsed.API.Routes {
		served[r.Path] = false
	}
	for _, r := range described(t) {
		path := r.path
		if _, ok := served[path]; !ok && strings.HasPrefix(path, "/auth/") {
			path = "/auth/{proxy+}"
		}
		if _, ok := served[path]; !ok {
			t.Errorf("%s %s is described and not in template.yaml", r.method, r.path)
		}
		served[path] = true
		i := slices.IndexFunc(parsed.API.Routes, func(t template.Route) bool { return t.Path == path })
		if i >= 0 && r.public() != (parsed.API.Routes[i].Authorizer == nil) {
			t.Errorf("%s %s: public %v in the description only", r.method, r.path, r.public())
		}
	}
	for path, found := range served {
		if !found && !slices.Contains(undescribed, path) {
			t.Errorf("%s is in template.yaml and not described", path)
		}
	}
}

// TestWhoMayCallWhat calls every operation with every kind of credential. No operation is exempt: one
// that needs a credential refuses those without it, and nobody reaches another user's objects.
func TestWhoMayCallWhat(t *testing.T) {
	owner := shared.login(t)
	victims := shared.things(t, owner)
	_, none := shared.key(t, owner, `{"name":"no permissions","permissions":[]}`)
	revokedID, revoked := shared.key(t, owner, `{"name":"revoked","permissions":["apikeys.write"]}`)
	if r := shared.mustCall(t, "DELETE", fmt.Sprintf("/apiv1/users/1/apikeys/%d", revokedID), "", owner); r.Status != http.StatusNoContent {
		t.Fatalf("revoke: %d", r.Status)
	}
	stranger := shared.stranger(t)
	device, _ := shared.deviceOf(t, 1, owner)
	victims["device_id"] = device.id
	for what, id := range map[string]string{"certificates": `{"cert_id":%d}`, "cas": `{"ca_id":%d}`} {
		object := map[string]string{"certificates": "certificate_id", "cas": "ca_id"}[what]
		wants(t, 204, shared.mustCall(t, "POST", fmt.Sprintf("/apiv1/users/1/devices/%d/%s", device.id, what), fmt.Sprintf(id, victims[object]), owner))
	}
	strangersDevice, strangersKey := shared.deviceOf(t, 2, stranger)
	gone, _ := shared.deviceOf(t, 1, owner)
	wants(t, 204, shared.mustCall(t, "DELETE", fmt.Sprintf("/apiv1/users/1/devices/%d", gone.id), "", owner))
	parts := strings.Split(device.access, ".")
	claims, err := base64.RawURLEncoding.DecodeString(strings.Split(strangersDevice.access, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	forged := parts[0] + "." + base64.RawURLEncoding.EncodeToString(bytes.Replace(claims, []byte(`"sub":"2"`), []byte(`"sub":"1"`), 1)) + "." + parts[2]
	for _, r := range described(t) {
		if r.public() {
			continue
		}
		body := ""
		if r.RequestBody != nil {
			body = `{"name":"x","permissions":[],"domain":"stranger.test","provider":"pebble","url":"http://127.0.0.1:9/","enabled":false,
				"certificate_pem":"x","private_key_pem":"x","private_key_password":"x","installs":[],"version":1}`
			switch {
			case strings.HasSuffix(r.path, "/notify"):
				body = `{"events":[{}]}`
			case strings.HasSuffix(r.path, "/rollout"):
				body = `{"action":"stop"}`
			case strings.Contains(r.path, "{device_id}"):
				body = body[:len(body)-1] + `,"cert_id":1,"ca_id":1}`
			}
		}
		for _, tc := range []struct {
			who        string
			credential string
			user       int64
			want       []int
		}{
			{"nobody", "", 1, []int{401}},
			{"a deleted key", "Authorization: Bearer " + revoked, 1, []int{401}},
			{"a mistyped key", "Authorization: Bearer " + none[:len(none)-1], 1, []int{401}},
			{"a device's token of another kind", "Authorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.", 1, []int{401}},
			{"another user on the owner's path", stranger, 1, []int{403}},
			{"the owner on another user's path", owner, 2, []int{403}},
			{"another user, the owner's object under the own path", stranger, 2, []int{404}},
			{"a key without permissions", "Authorization: Bearer " + none, 1, []int{403}},
			{"another user's key, the owner's object under the own path", strangersKey, 2, []int{403, 404}},
			{"a device", "Authorization: Bearer " + device.access, 1, []int{403}},
			{"another user's device", "Authorization: Bearer " + strangersDevice.access, 1, []int{403}},
			{"a revoked device", "Authorization: Bearer " + gone.access, 1, []int{403}},
			{"a forged device's token", "Authorization: Bearer " + forged, 1, []int{401}},
		} {
			want := tc.want
			device := strings.HasSuffix(tc.who, "device")
			switch {
			case r.self() && tc.who == "another user's device" && r.names():
				want = []int{404}
			case r.self() && tc.who == "a device" && r.names():
				want = []int{200, 409} // the certificate has not been issued
			case r.self() && device && tc.who != "a revoked device":
				want = []int{200, 204, 400}
			case r.ID == "poll-updates" && tc.credential == strangersKey: // it registered one device
				want = []int{204}
			case r.self() && want[0] != 401:
				want = []int{403}
			case r.nobodys() && want[0] != 401 && !device:
				want = []int{200}
			case tc.who == "another user's key, the owner's object under the own path":
				switch {
				case strings.HasPrefix(r.path, "/apiv1/me/"), !r.names():
					want = []int{200, 201, 400, 404}
				case strings.Contains(r.path, "{device_id}"):
					want = []int{403}
				default:
					want = []int{404}
				}
			case strings.HasPrefix(r.path, "/apiv1/me/") && want[0] != 401:
				want = []int{403}
			case tc.user == 2 && want[0] == 404 && !r.names(): // what the stranger may make for themselves
				want = []int{200, 201, 400}
			}
			var headers []string
			if tc.credential != "" {
				headers = []string{tc.credential}
			}
			got := shared.mustCall(t, r.method, r.at(tc.user, victims), body, headers...)
			if !slices.Contains(want, got.Status) {
				t.Errorf("%s %s by %s: %d %.200s, want %v", r.method, r.path, tc.who, got.Status, got.Body, want)
			}
			if got.Status >= 400 && (got.Error.Code == 0 || got.Error.What == "" || got.Error.Params == nil) {
				t.Errorf("%s %s by %s: no envelope: %.200s", r.method, r.path, tc.who, got.Body)
			}
			if tc.who == "a key without permissions" && got.Status == 403 && len(r.Permissions) > 0 {
				if got.Error.Code != 4003 || got.Error.Params["required"] != r.Permissions[0] || got.Header.Get("X-Accepted-Permissions") != r.Permissions[0] {
					t.Errorf("%s %s names %v, needs %v", r.method, r.path, got.Error.Params, r.Permissions)
				}
			}
		}
	}
	for list, object := range map[string]string{"apikeys": "apikey_id", "acme-accounts": "account_id", "dns-providers": "provider_id", "certificates": "certificate_id", "webhooks": "webhook_id", "cas": "ca_id", "devices": "device_id"} {
		if r := shared.mustCall(t, "GET", fmt.Sprintf("/apiv1/users/1/%s/%d", list, victims[object]), "", owner); r.Status != http.StatusOK {
			t.Errorf("what strangers asked for of %s: %d", list, r.Status)
		}
	}
}

// stranger gives the Cookie header of a second user.
func (s *stack) stranger(t *testing.T) string {
	t.Helper()
	const email = "stranger@example.org"
	fields := func(action, more string) string {
		return fmt.Sprintf(`{"action":%q,"email":%q%s}`, action, email, more)
	}
	const password = `,"password":"Correct-horse-1"`
	if r := s.mustCall(t, "POST", "/auth/general", fields("register", password)); r.Status != 200 {
		t.Fatalf("register: %d %s", r.Status, r.Body)
	}
	code, err := s.newestCode(email)
	if err != nil {
		t.Fatal(err)
	}
	if r := s.mustCall(t, "POST", "/auth/general", fields("activate-user", `,"verify_code":"`+code+`"`)); r.Status != 200 {
		t.Fatalf("activate: %d %s", r.Status, r.Body)
	}
	r := s.mustCall(t, "POST", "/auth/general", fields("login", password))
	return "Cookie: " + r.Header.Get("Set-Cookie")
}

// TestHostileInputIsAnsweredInTheEnvelope sends what fuzzers send to every operation: the answer is a
// refusal in the envelope, never 5xx, and never repeats a stack trace.
func TestHostileInputIsAnsweredInTheEnvelope(t *testing.T) {
	owner := shared.login(t)
	nothing := objects{"apikey_id": 999999, "account_id": 999999, "provider_id": 999999, "certificate_id": 999999, "webhook_id": 999999, "delivery_id": 999999, "ca_id": 999999, "serial": 99}
	bodies := []string{
		``, `{`, `null`, `[]`, `7`, `"x"`, `{"name":null}`, `{"name":[],"permissions":{}}`, `{"action":{}}`, `{"refresh_token":null}`,
		strings.Repeat(`{"a":`, 5000), `{"name":"` + strings.Repeat("x", 70000) + `"}`, "\xff\xfe\x00", `{"name":"\ud800","permissions":[]}`,
		`{"name":"a","name":7,"permissions":[]}`, `{"permissions":[` + strings.Repeat(`{},`, 2000) + `{}]}`,
	}
	queries := []string{"", "?offset=9223372036854775808", "?limit=-1", "?limit=1000000000", "?offset=x&limit=%00", "?%ff=%fe", "?name=%0d%0aX-Evil:%201", "?" + strings.Repeat("a=b&", 500)}
	segments := []string{"0", "-1", "9223372036854775808", "x", "%00", "%2e%2e", "..%2f", "1%0d%0a", "*", strings.Repeat("9", 300)}
	check := func(method, path, body string) {
		r, err := shared.call(method, path, body, owner)
		if err != nil {
			t.Errorf("%s %.80s: %v", method, path, err)
			return
		}
		if r.Status >= 500 || r.Status >= 400 && (r.Error.Code == 0 || r.Error.What == "") || strings.Contains(string(r.Body), "goroutine") || r.Header.Get("X-Evil") != "" {
			t.Errorf("%s %.80s %.60q: %d %.300s", method, path, body, r.Status, r.Body)
		}
	}
	for _, r := range described(t) {
		if r.ID == "logout" {
			continue // it would end the session; its inputs are those of the others
		}
		if r.RequestBody != nil {
			for _, body := range bodies {
				check(r.method, r.at(1, nothing), body)
			}
		}
		for _, query := range queries {
			check(r.method, r.at(1, nothing)+query, "")
		}
		for _, segment := range segments {
			if strings.Contains(r.path, "{apikey_id}") {
				check(r.method, strings.NewReplacer("{user_id}", "1", "{apikey_id}", segment).Replace(r.path), "")
			}
			if strings.Contains(r.path, "{user_id}") {
				check(r.method, strings.NewReplacer("{user_id}", segment, "{apikey_id}", "1").Replace(r.path), "")
			}
		}
	}
}
