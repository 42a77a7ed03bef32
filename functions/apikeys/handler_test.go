package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/awsenv"
	"cjj365.cc/bb/shared/functiontest"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
)

// world is the function over tables of its own, with one user and a session of theirs.
type world struct {
	tables   storetest.Tables
	function *functiontest.Function
	now      time.Time
	session  access.Caller
	token    token.Token
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{tables: storetest.New(t), now: storetest.Now()}
	h := &handler{store: w.tables.Store, log: slog.New(slog.DiscardHandler), now: func() time.Time { return w.now }}
	w.function = functiontest.New(t, h.routes(), "https://console.example")
	u, err := w.tables.Store.CreateUser(t.Context(), user.User{Email: "ann@example.org", State: user.Active, CreatedAt: w.now})
	if err != nil {
		t.Fatal(err)
	}
	s, tok := session.New(u.ID, 5, u.Email, w.now)
	if err := w.tables.Store.CreateSession(t.Context(), u, s, nil); err != nil {
		t.Fatal(err)
	}
	w.token, w.function.Token = tok, tok
	w.session = access.Caller{Kind: access.Session, User: u.ID, ID: s.ID, Name: u.Email, Permissions: access.Everything, ExpiresAt: s.ExpiresAt}
	return w
}

type answer = functiontest.Answer

// send calls the function as caller; what it needs of a header goes in as "Name: value".
func (w *world) send(t *testing.T, caller access.Caller, method, path, body string, headers ...string) answer {
	t.Helper()
	return w.function.Call(t, caller, method, path, body, headers...)
}

type key struct {
	ID        int64
	Name      string
	Token     string
	Prefix    string
	ExpiresIn int64 `json:"expires_in_seconds"`
	CreatedAt int64 `json:"created_at"`
	ExpiresAt int64 `json:"expires_at"`
}

func (w *world) create(t *testing.T, caller access.Caller, body string, headers ...string) key {
	t.Helper()
	a := w.send(t, caller, "POST", "/apiv1/users/1/apikeys", body, headers...)
	if a.Status != http.StatusCreated {
		t.Fatalf("create: %d %s", a.Status, a.Body)
	}
	var k key
	if err := json.Unmarshal(a.Data, &k); err != nil {
		t.Fatal(err)
	}
	return k
}

// caller is the principal that a created key would be.
func (w *world) caller(k key, permissions access.Permissions) access.Caller {
	return access.Caller{Kind: access.APIKey, User: 1, ID: k.ID, Name: k.Name, Permissions: permissions, ExpiresAt: time.UnixMilli(k.ExpiresAt)}
}

func TestCreateListGetDelete(t *testing.T) {
	w := newWorld(t)
	// The body that automation in the field sends, as it is (contract §6.1).
	k := w.create(t, w.session, `{"name":"ci","permissions":[{"obtype":"ForDeviceAuthenticate","obid":"*","actions":["authenticate","validate","revoke"]}],"expires_in_seconds":2592000}`)
	parsed, err := token.Parse(k.Token)
	if err != nil || parsed.ID != k.ID || parsed.User != 1 || !strings.HasPrefix(k.Token, k.Prefix+"_") {
		t.Errorf("token of key %d: %v", k.ID, err)
	}
	if k.Name != "ci" || k.ExpiresIn != 2592000 || k.CreatedAt != w.now.UnixMilli() || k.ExpiresAt-k.CreatedAt != 2592000_000 {
		t.Errorf("created %+v", k)
	}
	for i := range 4 {
		w.create(t, w.session, fmt.Sprintf(`{"name":"key %d","permissions":["certs.read","devices.write:88",{"obtype":"cas","obid":"7","actions":["read"]},{"obtype":"cas","obid":8,"actions":["read"]}]}`, i))
	}
	list := w.send(t, w.session, "GET", "/apiv1/users/1/apikeys?offset=1&limit=2", "")
	var keys []struct {
		ID          int64
		Permissions json.RawMessage
	}
	if err := json.Unmarshal(list.Data, &keys); err != nil {
		t.Fatal(err)
	}
	if list.Meta.Total != 5 || list.Meta.Offset != 1 || list.Meta.Limit != 2 || len(keys) != 2 || keys[0].ID != k.ID+3 || keys[1].ID != k.ID+2 {
		t.Errorf("list: %s", list.Body)
	}
	want := `[{"obtype":"cas","obid":7,"actions":["read"]},{"obtype":"cas","obid":8,"actions":["read"]},{"obtype":"certs","obid":"*","actions":["read"]},{"obtype":"devices","obid":88,"actions":["write"]}]`
	if string(keys[0].Permissions) != want {
		t.Errorf("permissions %s", keys[0].Permissions)
	}
	if end := w.send(t, w.session, "GET", "/apiv1/users/1/apikeys?offset=5", ""); string(end.Data) != "[]" || end.Meta.Total != 5 || end.Meta.Limit != 20 {
		t.Errorf("past the end: %s", end.Body)
	}
	one := fmt.Sprintf("/apiv1/users/1/apikeys/%d", k.ID)
	got := w.send(t, w.session, "GET", one, "")
	if got.Status != http.StatusOK || strings.Contains(got.Body+list.Body, "token") || strings.Contains(got.Body+list.Body, "digest") {
		t.Errorf("get: %d %s", got.Status, got.Body)
	}
	if deleted := w.send(t, w.session, "DELETE", one, ""); deleted.Status != http.StatusNoContent || deleted.Body != "" {
		t.Errorf("delete: %d %s", deleted.Status, deleted.Body)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if gone := w.send(t, w.session, method, one, ""); gone.Status != http.StatusNotFound || gone.Error.Code != 4001 {
			t.Errorf("%s after delete: %d %s", method, gone.Status, gone.Body)
		}
	}
}

func TestPermissionsAreAskedFor(t *testing.T) {
	w := newWorld(t)
	k := w.create(t, w.session, `{"name":"a","permissions":[]}`)
	other := w.create(t, w.session, `{"name":"b","permissions":[]}`)
	own, sibling := fmt.Sprintf("/apiv1/users/1/apikeys/%d", k.ID), fmt.Sprintf("/apiv1/users/1/apikeys/%d", other.ID)
	const all = "/apiv1/users/1/apikeys"
	body := `{"name":"c","permissions":[]}`
	for _, tc := range []struct {
		held         access.Permissions
		method, path string
		want         int
		required     string
	}{
		{"certs:*:write", "GET", all, 403, "apikeys.read"},
		{"apikeys:*:read", "GET", all, 200, ""},
		{"apikeys:*:read", "POST", all, 403, "apikeys.write"},
		{"apikeys:*:read", "DELETE", sibling, 403, "apikeys.write"},
		{"apikeys:*:write", "GET", sibling, 200, ""},
		{"apikeys:*:write", "POST", all, 201, ""},
		{"apikeys:" + access.Permissions(fmt.Sprint(other.ID)) + ":write", "GET", sibling, 200, ""},
		{"apikeys:" + access.Permissions(fmt.Sprint(other.ID)) + ":write", "GET", all, 403, "apikeys.read"},
		{"apikeys:" + access.Permissions(fmt.Sprint(other.ID)) + ":write", "POST", all, 403, "apikeys.write"},
		{"apikeys:" + access.Permissions(fmt.Sprint(other.ID)) + ":write", "GET", own, 403, "apikeys.read"},
		{"", "POST", own + "/roll", 200, ""}, // a key may roll itself
		{"", "POST", sibling + "/roll", 403, "apikeys.write"},
		{"", "GET", "/apiv1/permissions/catalog", 200, ""},
		{"apikeys:*:write", "GET", "/apiv1/users/2/apikeys", 403, ""},
		{"apikeys:*:write", "GET", "/apiv1/users/01/apikeys", 403, ""},
	} {
		b := ""
		if tc.method == "POST" && tc.path == all {
			b = body
		}
		a := w.send(t, w.caller(k, tc.held), tc.method, tc.path, b)
		if a.Status != tc.want {
			t.Errorf("%q %s %s: %d %s", tc.held, tc.method, tc.path, a.Status, a.Body)
			continue
		}
		if a.Header.Get("X-Api-Key-Expires") != time.UnixMilli(k.ExpiresAt).UTC().Format(time.RFC3339) {
			t.Errorf("%s %s: X-Api-Key-Expires %q", tc.method, tc.path, a.Header.Get("X-Api-Key-Expires"))
		}
		if tc.want == 403 && (a.Error.Code != 4003 || a.Error.What != "API key lacks required permission") {
			t.Errorf("refusal: %s", a.Body)
		}
		if tc.required != "" && (a.Error.Params["required"] != tc.required || a.Header.Get("X-Accepted-Permissions") != tc.required) {
			t.Errorf("refusal names %v and %q, want %s", a.Error.Params, a.Header.Get("X-Accepted-Permissions"), tc.required)
		}
	}
	if a := w.send(t, w.session, "GET", "/apiv1/users/2/apikeys", ""); a.Status != 403 || a.Error.Code != 5022 {
		t.Errorf("a session on another user's path: %s", a.Body)
	}
}

func TestAKeyMakesNothingStrongerOrLongerThanItself(t *testing.T) {
	w := newWorld(t)
	maker := w.create(t, w.session, `{"name":"maker","permissions":["apikeys.write","certs.read"],"expires_in_seconds":3600}`)
	caller := w.caller(maker, "apikeys:*:write;certs:*:read")
	w.now = w.now.Add(time.Minute)
	const path = "/apiv1/users/1/apikeys"
	if a := w.send(t, caller, "POST", path, `{"name":"x","permissions":["certs.write"]}`); a.Status != 403 || a.Error.Params["required"] != "certs.write" {
		t.Errorf("stronger: %d %s", a.Status, a.Body)
	}
	if a := w.send(t, caller, "POST", path, `{"name":"x","permissions":["certs.read"],"expires_in_seconds":3541}`); a.Status != 400 {
		t.Errorf("longer: %d %s", a.Status, a.Body)
	}
	for _, body := range []string{`{"name":"x","permissions":["certs.read"],"expires_in_seconds":3540}`, `{"name":"x","permissions":["certs.read:5"]}`} {
		if k := w.create(t, caller, body); k.ExpiresAt > maker.ExpiresAt {
			t.Errorf("%s lives %d ms longer than its maker", body, k.ExpiresAt-maker.ExpiresAt)
		}
	}
	w.send(t, w.session, "DELETE", fmt.Sprintf("%s/%d", path, maker.ID), "")
	if a := w.send(t, caller, "POST", path, `{"name":"x","permissions":["certs.read"]}`); a.Status != 401 {
		t.Errorf("made by a key that was deleted after the authorizer had seen it: %d %s", a.Status, a.Body)
	}
}

// Who rolls a key holds it afterwards, so rolling another key is bounded like making one.
func TestAKeyTakesNoStrongerKeyByRollingIt(t *testing.T) {
	w := newWorld(t)
	roller := w.create(t, w.session, `{"name":"roller","permissions":["apikeys.write","certs.read"],"expires_in_seconds":3600,"allowed_cidrs":["10.0.0.0/8"]}`)
	caller := w.caller(roller, "apikeys:*:write;certs:*:read")
	for body, want := range map[string]int{
		`{"name":"weaker","permissions":["certs.read"],"expires_in_seconds":60,"allowed_cidrs":["10.1.0.0/16"]}`:    200,
		`{"name":"stronger","permissions":["certs.write"],"expires_in_seconds":60,"allowed_cidrs":["10.1.0.0/16"]}`: 403,
		`{"name":"longer","permissions":["certs.read"],"expires_in_seconds":3601,"allowed_cidrs":["10.1.0.0/16"]}`:  403,
		`{"name":"wider","permissions":["certs.read"],"expires_in_seconds":60,"allowed_cidrs":["0.0.0.0/0"]}`:       403,
		`{"name":"anywhere","permissions":["certs.read"],"expires_in_seconds":60}`:                                  403,
	} {
		target := w.create(t, w.session, body)
		if a := w.send(t, caller, "POST", fmt.Sprintf("/apiv1/users/1/apikeys/%d/roll", target.ID), ""); a.Status != want {
			t.Errorf("%s: %d %s", target.Name, a.Status, a.Body)
		}
	}
	for body, want := range map[string]int{
		`{"name":"x","permissions":[],"allowed_cidrs":["10.9.0.0/16"]}`: 201, `{"name":"x","permissions":[],"allowed_cidrs":["192.0.2.0/24"]}`: 400,
	} {
		if a := w.send(t, caller, "POST", "/apiv1/users/1/apikeys", body); a.Status != want {
			t.Errorf("made by a key that is bound to addresses, %s: %d %s", body, a.Status, a.Body)
		}
	}
	inherits := w.create(t, caller, `{"name":"inherits","permissions":[]}`)
	if k, err := w.tables.Store.APIKey(t.Context(), 1, inherits.ID); err != nil || len(k.CIDRs) != 1 || k.CIDRs[0] != "10.0.0.0/8" {
		t.Errorf("a key made without ranges by a bound key: %v %v", k.CIDRs, err)
	}
}

// A token that was replaced because it leaked must not take the key back during its grace.
func TestASupersededTokenDecidesNothing(t *testing.T) {
	w := newWorld(t)
	k := w.create(t, w.session, `{"name":"x","permissions":["apikeys.write"]}`)
	thief := w.caller(k, "apikeys:*:write")
	thief.Superseded = true
	for path, body := range map[string]string{
		fmt.Sprintf("/apiv1/users/1/apikeys/%d/roll", k.ID): "", "/apiv1/users/1/apikeys": `{"name":"y","permissions":[]}`,
	} {
		if a := w.send(t, thief, "POST", path, body); a.Status != 403 || !strings.Contains(a.Error.What, "replaced") {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
}

func TestManyCreateAtOnce(t *testing.T) {
	w := newWorld(t)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if a := w.send(t, w.session, "POST", "/apiv1/users/1/apikeys", `{"name":"x","permissions":[]}`); a.Status != 201 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
	wait.Wait()
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	const keys = "/apiv1/users/1/apikeys"
	name := func(s string) string { return `{"name":` + s + `,"permissions":["certs.read"]}` }
	permissions := func(s string) string { return `{"name":"x","permissions":` + s + `}` }
	for _, tc := range []struct {
		method, path, body string
		status, code       int
		key                string
	}{
		{"POST", keys, ``, 400, 5007, "MISSING_BODY"},
		{"POST", keys, `{`, 400, 5021, "JSON_PARSE_ERROR"},
		{"POST", keys, `{} {}`, 400, 5021, "JSON_PARSE_ERROR"},
		{"POST", keys, `[]`, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, `null`, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, `{"permissions":[]}`, 400, 5008, "MISSING_FIELD"},
		{"POST", keys, `{"name":"x"}`, 400, 5008, "MISSING_FIELD"},
		{"POST", keys, name(`7`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, name(`null`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, name(`""`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, name(`"` + strings.Repeat("é", 129) + `"`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, name(`"a\nb"`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, name(`"` + strings.Repeat("x", 70000) + `"`), 413, 5000, "PAYLOAD_TOO_LARGE"},
		{"POST", keys, permissions(`"certs.read"`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, permissions(`["certs"]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`["certs.delete"]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`["users.write"]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`["certs.read:0"]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`[7]`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, permissions(`[null]`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":"*"}]`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":"x","actions":["read"]}]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":-1,"actions":["read"]}]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":1.5,"actions":["read"]}]`), 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":99999999999999999999,"actions":["read"]}]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":9007199254740992,"actions":["read"]}]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, name(`"   "`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, name(`"a\u2028b"`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, `{"name":"x","permissions":[],"allowed_cidrs":["fe80::1%eth0"]}`, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", "/apiv1/users/1//apikeys", ``, 404, 4001, "NOT_FOUND"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":"*","actions":[]}]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`[{"obtype":"certs","obid":"*","actions":[""]}]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(`[` + strings.Repeat(`"certs.read",`, 100) + `"certs.read"]`), 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, permissions(strings.Repeat("[", 20000)), 400, 5021, "JSON_PARSE_ERROR"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":0}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":-5}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":31536001}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":1e300}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":1.5}`, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":900.0}`, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, `{"name":"x","permissions":[],"expires_in_seconds":"5"}`, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"POST", keys, `{"name":"x","permissions":[],"allowed_cidrs":["x"]}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys, `{"name":"x","permissions":[],"allowed_cidrs":["::ffff:10.0.0.0/104"]}`, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "?limit=0", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "?limit=101", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "?limit=-1", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "?limit=x", ``, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"GET", keys + "?offset=9223372036854775808", ``, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"GET", keys + "?offset=9223372036854775807", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "?offset=1.5", ``, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"GET", keys + "/x", ``, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"GET", keys + "/0", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "/-1", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "/9007199254740992", ``, 400, 5000, "INVALID_ARGUMENT"},
		{"GET", keys + "/99", ``, 404, 4001, "NOT_FOUND"},
		{"DELETE", keys + "/99", ``, 404, 4001, "NOT_FOUND"},
		{"POST", keys + "/99/roll", ``, 404, 4001, "NOT_FOUND"},
		{"POST", keys + "/99/roll", `{"grace_seconds":-1}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys + "/99/roll", `{"grace_seconds":86401}`, 400, 5000, "INVALID_ARGUMENT"},
		{"POST", keys + "/99/roll", `{"grace_seconds":"1"}`, 400, 5009, "TYPE_CONVERT_FAILED"},
		{"PUT", keys, `{}`, 405, 5000, "METHOD_NOT_ALLOWED"},
		{"PATCH", keys + "/1", `{}`, 405, 5000, "METHOD_NOT_ALLOWED"},
		{"GET", keys + "/1/roll", ``, 405, 5000, "METHOD_NOT_ALLOWED"},
		{"GET", keys + "/1/nothing", ``, 404, 4001, "NOT_FOUND"},
	} {
		a := w.send(t, w.session, tc.method, tc.path, tc.body)
		if a.Status != tc.status || a.Error.Code != tc.code || a.Error.Key != tc.key || a.Error.What == "" || a.Error.Params == nil {
			t.Errorf("%s %s %.80s:\n got %d %.300s\nwant %d %d %s", tc.method, tc.path, tc.body, a.Status, a.Body, tc.status, tc.code, tc.key)
		}
		if a.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: Content-Type %q", tc.method, tc.path, a.Header.Get("Content-Type"))
		}
	}
	for _, contentType := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		if a := w.send(t, w.session, "POST", keys, name(`"x"`), "Content-Type: "+contentType); a.Status != 415 {
			t.Errorf("%s: %d %s", contentType, a.Status, a.Body)
		}
	}
	if a := w.send(t, w.session, "GET", keys, ""); a.Meta.Total != 0 {
		t.Errorf("bad requests left %d keys", a.Meta.Total)
	}
}

func TestNothingBesideTheFieldsIsStored(t *testing.T) {
	w := newWorld(t)
	k := w.create(t, w.session, `{"name":"x","permissions":["certs.read"],"id":999,"user_id":2,"token":"ak_1_1_x","digest":"AAAA","created_at":1,"expires_at":9999999999999,"status":"active","roles":["admin"]}`)
	if k.ID == 999 || k.CreatedAt == 1 || k.ExpiresAt == 9999999999999 || k.Token == "ak_1_1_x" {
		t.Errorf("%+v", k)
	}
}

func TestIdempotentCreate(t *testing.T) {
	w := newWorld(t)
	const path, body = "/apiv1/users/1/apikeys", `{"name":"once","permissions":["certs.read"]}`
	bodies := make([]string, 40)
	var wait sync.WaitGroup
	for i := range bodies {
		wait.Go(func() {
			a := w.send(t, w.session, "POST", path, body, "Idempotency-Key: a-1")
			if a.Status != http.StatusCreated {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			bodies[i] = a.Body
		})
	}
	wait.Wait()
	for _, b := range bodies {
		if b != bodies[0] {
			t.Fatalf("two answers:\n%s\n%s", bodies[0], b)
		}
	}
	if a := w.send(t, w.session, "GET", path, ""); a.Meta.Total != 1 {
		t.Errorf("%d keys", a.Meta.Total)
	}
	if a := w.send(t, w.session, "POST", path, body, "Idempotency-Key: a-1"); a.Header.Get("Idempotency-Replayed") != "true" {
		t.Error("a replay does not say so")
	}
	if a := w.send(t, w.session, "POST", path, `{"name":"other","permissions":["certs.read"]}`, "Idempotency-Key: a-1"); a.Status != 409 || a.Error.Key != "IDEMPOTENCY_KEY_REUSED" {
		t.Errorf("another request under the key: %d %s", a.Status, a.Body)
	}
	other := w.session
	other.ID++
	if a := w.send(t, other, "POST", path, body, "Idempotency-Key: a-1"); a.Status == http.StatusCreated && a.Body == bodies[0] {
		t.Error("another caller got the first caller's answer")
	}
	w.now = w.now.Add(store.IdempotencyLifetime)
	if again := w.create(t, w.session, body, "Idempotency-Key: a-1"); strings.Contains(bodies[0], again.Token) {
		t.Error("a day later the answer is still the first")
	}
}

func TestNoTokenIsKeptAnywhere(t *testing.T) {
	w := newWorld(t)
	k := w.create(t, w.session, `{"name":"x","permissions":[]}`, "Idempotency-Key: b")
	rolled := w.send(t, w.session, "POST", fmt.Sprintf("/apiv1/users/1/apikeys/%d/roll", k.ID), "", "Idempotency-Key: c")
	var second key
	if err := json.Unmarshal(rolled.Data, &second); err != nil {
		t.Fatal(err)
	}
	configuration, err := awsenv.Config()
	if err != nil {
		t.Fatal(err)
	}
	db := dynamodb.NewFromConfig(configuration, func(o *dynamodb.Options) { o.BaseEndpoint = awsenv.Endpoint("DYNAMODB") })
	seen := 0
	for _, table := range []string{w.tables.Credentials, w.tables.Resources} {
		all, err := db.Scan(t.Context(), &dynamodb.ScanInput{TableName: &table})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range all.Items {
			seen++
			text, err := json.Marshal(item)
			if err != nil {
				t.Fatal(err)
			}
			for _, tok := range []string{k.Token, second.Token, w.token.Reveal()} {
				secret := tok[len(tok)-39:]
				if bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte(secret[:33])) {
					t.Errorf("a token stands in %s: %.60s", table, text)
				}
			}
		}
	}
	if seen < 6 {
		t.Errorf("only %d items were looked at", seen)
	}
}

func TestRoll(t *testing.T) {
	w := newWorld(t)
	k := w.create(t, w.session, `{"name":"x","permissions":[],"expires_in_seconds":3600}`)
	path := fmt.Sprintf("/apiv1/users/1/apikeys/%d/roll", k.ID)
	first := w.send(t, w.session, "POST", path, `{"grace_seconds":60}`, "Idempotency-Key: r1")
	again := w.send(t, w.session, "POST", path, `{"grace_seconds":60}`, "Idempotency-Key: r1")
	if first.Status != 200 || first.Body != again.Body {
		t.Errorf("a repeated roll:\n%s\n%s", first.Body, again.Body)
	}
	stored, err := w.tables.Store.APIKey(t.Context(), 1, k.ID)
	if err != nil {
		t.Fatal(err)
	}
	old, err := token.Parse(k.Token)
	if err != nil {
		t.Fatal(err)
	}
	if stored.Previous.Grace != time.Minute || stored.Admit(old, w.now) != apikey.Admitted || stored.ExpiresAt.UnixMilli() != k.ExpiresAt {
		t.Errorf("after the roll: %+v", stored)
	}
	w.now = w.now.Add(time.Hour)
	if late := w.send(t, w.session, "POST", path, ""); late.Status != 409 {
		t.Errorf("roll of an expired key: %d %s", late.Status, late.Body)
	}
}

func TestTheNumberOfKeysIsBounded(t *testing.T) {
	w := newWorld(t)
	const path = "/apiv1/users/1/apikeys"
	w.create(t, w.session, `{"name":"lapses","permissions":[],"expires_in_seconds":1}`)
	for range apikey.MaxPerUser - 4 {
		w.create(t, w.session, `{"name":"x","permissions":[]}`)
	}
	var wait sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses { // three have room, whoever is first
		wait.Go(func() { statuses[i] = w.send(t, w.session, "POST", path, `{"name":"race","permissions":[]}`).Status })
	}
	wait.Wait()
	if a := w.send(t, w.session, "GET", path, ""); a.Meta.Total != apikey.MaxPerUser {
		t.Errorf("%d keys after the race: %v", a.Meta.Total, statuses)
	}
	if a := w.send(t, w.session, "POST", path, `{"name":"one more","permissions":[]}`); a.Status != 409 {
		t.Errorf("one more: %d %s", a.Status, a.Body)
	}
	w.now = w.now.Add(time.Second)
	w.create(t, w.session, `{"name":"in place of the lapsed","permissions":[]}`)
	if a := w.send(t, w.session, "GET", path, ""); a.Meta.Total != apikey.MaxPerUser {
		t.Errorf("%d keys", a.Meta.Total)
	}
}

func TestAnotherSitesPageChangesNothing(t *testing.T) {
	w := newWorld(t)
	cookie := []string{"Authorization: ", "Cookie: cjj365=" + w.token.Reveal()}
	for header, want := range map[string]int{
		"Origin: https://evil.example": 403, "Origin: null": 403, "Sec-Fetch-Site: cross-site": 403, "Sec-Fetch-Site: same-site": 403,
		"Sec-Fetch-Site: same-origin": 201, "Origin: http://example.com": 201, "Origin: https://console.example": 201, "Accept: */*": 201,
	} {
		a := w.send(t, w.session, "POST", "/apiv1/users/1/apikeys", `{"name":"x","permissions":[]}`, append(cookie, header)...)
		if a.Status != want {
			t.Errorf("%s: %d %s", header, a.Status, a.Body)
		}
		allowed := a.Header.Get("Access-Control-Allow-Origin")
		if (allowed != "") != (header == "Origin: https://console.example") {
			t.Errorf("%s: Access-Control-Allow-Origin %q", header, allowed)
		}
	}
}
