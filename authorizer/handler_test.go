package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"cjj365.cc/bb/local/policy"
	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
)

// world is an authorizer over tables of its own, with a clock that the test moves.
type world struct {
	*handler
	store  *store.Store
	tables storetest.Tables
	now    time.Time
	owner  user.User
	maker  access.Caller
}

func newWorld(t testing.TB) *world {
	t.Helper()
	tables := storetest.New(t)
	client, err := dynamo.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{store: tables.Store, tables: tables, now: storetest.Now()}
	w.handler = &handler{
		authn: &authn.Authenticator{Client: client, Table: tables.Credentials, Now: func() time.Time { return w.now }},
		log:   slog.New(slog.DiscardHandler),
	}
	w.owner, err = w.store.CreateUser(t.Context(), user.User{Email: "ann@example.org", State: user.Active, CreatedAt: w.now})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := w.session(t)
	w.maker = access.Caller{Kind: access.Session, User: w.owner.ID, ID: s.ID, Permissions: access.Everything, ExpiresAt: s.HardEnd}
	return w
}

func (w *world) session(t testing.TB) (session.Session, token.Token) {
	t.Helper()
	u, err := w.store.User(t.Context(), w.owner.ID)
	if err != nil {
		t.Fatal(err)
	}
	s, tok := session.New(u.ID, int64(u.Revision)+1, u.Email, w.now)
	if err := w.store.CreateSession(t.Context(), u, s, nil); err != nil {
		t.Fatal(err)
	}
	return s, tok
}

func (w *world) key(t testing.TB, lifetime time.Duration, cidrs ...string) (apikey.Key, token.Token) {
	t.Helper()
	id, err := w.store.NextAPIKeyID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, tok := apikey.New(w.owner.ID, id, "ci", "certs:*:read", "test", w.now, lifetime)
	k.CIDRs = cidrs
	if err := w.store.CreateAPIKey(t.Context(), k, w.maker, nil, w.now); err != nil {
		t.Fatal(err)
	}
	return k, tok
}

// rolledKey makes a key and rolls it, with a minute of grace.
func (w *world) rolledKey(t testing.TB) (old, fresh token.Token) {
	t.Helper()
	before, old := w.key(t, time.Hour)
	after := before
	fresh = after.Roll(time.Minute)
	if err := w.store.RollAPIKey(t.Context(), before, after, w.maker, nil); err != nil {
		t.Fatal(err)
	}
	return old, fresh
}

type header = map[string][]string

func bearer(t token.Token) header { return header{"Authorization": {"Bearer " + t.Reveal()}} }

const arn = "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/"

func request(t testing.TB, methodAndPath string, headers header) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/event.json")
	if err != nil {
		t.Fatal(err)
	}
	var e map[string]any
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	e["methodArn"] = arn + methodAndPath
	multi, single := map[string][]string{"Accept": {"*/*"}}, map[string]string{"Accept": "*/*"}
	for name, values := range headers {
		multi[name], single[name] = values, values[len(values)-1]
	}
	e["multiValueHeaders"], e["headers"] = multi, single
	if text, err = json.Marshal(e); err != nil {
		t.Fatal(err)
	}
	return text
}

// outcome is what API Gateway would do with the authorizer's answer.
type outcome string

const (
	allowed      outcome = "allowed"
	denied       outcome = "denied"
	unauthorized outcome = "unauthorized"
	failed       outcome = "failed"
)

func (w *world) ask(t testing.TB, methodAndPath string, headers header) (outcome, access.Caller) {
	t.Helper()
	answer, err := w.Invoke(context.Background(), request(t, methodAndPath, headers))
	if err != nil {
		if err.Error() == "Unauthorized" {
			return unauthorized, access.Caller{}
		}
		return failed, access.Caller{}
	}
	var r struct {
		PrincipalID    string          `json:"principalId"`
		PolicyDocument json.RawMessage `json:"policyDocument"`
		Context        map[string]any  `json:"context"`
	}
	if err := json.Unmarshal(answer, &r); err != nil {
		t.Fatal(err)
	}
	caller, err := access.FromScope(r.Context)
	if err != nil || r.PrincipalID != caller.Principal() {
		t.Fatalf("scope %v: %v", r.Context, err)
	}
	document, err := policy.Parse(r.PolicyDocument)
	if err != nil {
		t.Fatal(err)
	}
	if document.Evaluate("execute-api:Invoke", arn+methodAndPath) == policy.Allowed {
		return allowed, caller
	}
	return denied, caller
}

func (w *world) expect(t *testing.T, want outcome, methodAndPath string, headers header) {
	t.Helper()
	if got, _ := w.ask(t, methodAndPath, headers); got != want {
		t.Errorf("%s with %d headers: %s, want %s", methodAndPath, len(headers), got, want)
	}
}

func TestAKeyReachesItsOwnersPathsOnly(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	_, login := w.session(t)
	own, other := "apiv1/users/1/", "apiv1/users/12/"
	for _, path := range []string{"GET/" + own + "apikeys", "POST/" + own + "apikeys/3/roll", "DELETE/" + own + "certificates/1", "GET/apiv1/me", "GET/apiv1/permissions/catalog"} {
		w.expect(t, allowed, path, bearer(key))
		w.expect(t, allowed, path, bearer(login))
	}
	for _, path := range []string{"GET/" + other + "apikeys", "GET/apiv1/users/2/apikeys", "GET/apiv1/users/*/apikeys", "GET/apiv1/users/?/apikeys", "GET/apiv1/users", "GET/apiv1/user/1/x", "GET/apiv1/menu", "GET/apiv1/users/2/x/apiv1/me", "GET/apiv1/users/2/x/git/y", "GET/apiv1/users/2/x/apiv1/users/1/y"} {
		w.expect(t, denied, path, bearer(key))
		w.expect(t, denied, path, bearer(login))
	}
	for _, path := range []string{"GET/apiv1/devices/self/updates", "POST/apiv1/me/devices", "GET/git/a/b.git/info/refs"} {
		w.expect(t, allowed, path, bearer(key))
		w.expect(t, denied, path, bearer(login))
	}
}

func TestTheScopeIsTheKeys(t *testing.T) {
	w := newWorld(t)
	k, key := w.key(t, time.Hour)
	got, caller := w.ask(t, "GET/apiv1/me", bearer(key))
	want := access.Caller{
		Kind: access.APIKey, User: w.owner.ID, ID: k.ID, Name: "ci", Permissions: "certs:*:read",
		CreatedAt: caller.CreatedAt, ExpiresAt: caller.ExpiresAt,
	}
	if got != allowed || caller != want || !caller.ExpiresAt.Equal(k.ExpiresAt) {
		t.Errorf("%s %+v", got, caller)
	}
}

func TestHowACredentialMayBeSent(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	_, login := w.session(t)
	k, s := key.Reveal(), login.Reveal()
	basic := func(userAndPassword string) string {
		return base64.StdEncoding.EncodeToString([]byte(userAndPassword))
	}
	const me, git = "GET/apiv1/me", "GET/git/a/b.git/info/refs"
	for _, tc := range []struct {
		name    string
		headers header
		path    string
		want    outcome
	}{
		{"nothing", nil, me, unauthorized},
		{"bearer", header{"Authorization": {"Bearer " + k}}, me, allowed},
		{"bearer in odd case", header{"Authorization": {"bEaReR " + k}}, me, allowed},
		{"bearer with spaces", header{"Authorization": {"Bearer   " + k + " "}}, me, allowed},
		{"lower-case header name", header{"authorization": {"Bearer " + k}}, me, allowed},
		{"session as bearer", header{"Authorization": {"Bearer " + s}}, me, allowed},
		{"no scheme", header{"Authorization": {k}}, me, unauthorized},
		{"unknown scheme", header{"Authorization": {"Token " + k}}, me, unauthorized},
		{"two headers", header{"Authorization": {"Bearer " + k, "Bearer " + k}}, me, unauthorized},
		{"two tokens", header{"Authorization": {"Bearer " + k + ", Bearer " + k}}, me, unauthorized},
		{"8 kB", header{"Authorization": {"Bearer " + strings.Repeat("a", 8192)}}, me, unauthorized},
		{"not UTF-8", header{"Authorization": {"Bearer \xff\xfe" + k}}, me, unauthorized},
		{"a JWT without signature", header{"Authorization": {"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."}}, me, unauthorized},
		{"refresh token", header{"Authorization": {"Bearer " + token.Mint(token.Refresh, 1, 1).Reveal()}}, me, unauthorized},
		{"cookie", header{"Cookie": {"cjj365=" + s}}, me, allowed},
		{"quoted cookie", header{"Cookie": {`a=b; cjj365="` + s + `"`}}, me, allowed},
		{"whole Set-Cookie line", header{"Cookie": {"cjj365=" + s + "; Path=/; HttpOnly; SameSite=Lax; Max-Age=604800; Expires=Thu, 01 Jan 2027 00:00:00 GMT"}}, me, allowed},
		{"two cookie headers", header{"Cookie": {"a=b", "cjj365=" + s}}, me, allowed},
		{"other cookies", header{"Cookie": {"xcjj365=" + s + "; cjj365x=" + s}}, me, unauthorized},
		{"key as cookie", header{"Cookie": {"cjj365=" + k}}, me, unauthorized},
		{"bad bearer beside good cookie", header{"Authorization": {"Bearer x"}, "Cookie": {"cjj365=" + s}}, me, unauthorized},
		{"basic outside git", header{"Authorization": {"Basic " + basic("bot:"+k)}}, me, unauthorized},
		{"basic for git", header{"Authorization": {"Basic " + basic("bot:"+k)}}, git, allowed},
		{"basic, empty user", header{"Authorization": {"basic " + basic(":"+k)}}, git, allowed},
		{"basic, colons in the user", header{"Authorization": {"Basic " + basic("x:y:"+k)}}, git, unauthorized},
		{"basic, session as password", header{"Authorization": {"Basic " + basic("bot:"+s)}}, git, unauthorized},
		{"basic, line break inside", header{"Authorization": {"Basic " + basic("bot:" + k)[:8] + "\n" + basic("bot:" + k)[8:]}}, git, unauthorized},
		{"basic, no colon", header{"Authorization": {"Basic " + basic(k)}}, git, unauthorized},
		{"another token of the same key", bearer(token.Mint(token.APIKey, key.User, key.ID)), me, unauthorized},
		{"a key that is not there", bearer(token.Mint(token.APIKey, key.User, key.ID+1)), me, unauthorized},
	} {
		t.Run(tc.name, func(t *testing.T) { w.expect(t, tc.want, tc.path, tc.headers) })
	}
}

func TestAMalformedTokenIsRefusedWithoutTheTable(t *testing.T) {
	w := newWorld(t)
	_, key := w.key(t, time.Hour)
	t.Setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1") // nobody listens: a call would fail, not refuse
	client, err := dynamo.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	w.authn.Client = client
	w.expect(t, failed, "GET/apiv1/me", bearer(key))
	mistyped := []byte(key.Reveal())
	mistyped[len(mistyped)-9] ^= 1
	w.expect(t, unauthorized, "GET/apiv1/me", header{"Authorization": {"Bearer " + string(mistyped)}})
	w.expect(t, unauthorized, "GET/apiv1/me", header{"Authorization": {"Bearer ak_yourtoken"}})
}

func TestAddressRanges(t *testing.T) {
	w := newWorld(t)
	_, near := w.key(t, time.Hour, "192.0.2.0/24") // the event comes from 192.0.2.9
	_, far := w.key(t, time.Hour, "198.51.100.0/24", "2001:db8::/32")
	w.expect(t, allowed, "GET/apiv1/me", bearer(near))
	w.expect(t, denied, "GET/apiv1/me", bearer(far))
}

func TestLastUseIsWrittenOnceAMinute(t *testing.T) {
	w := newWorld(t)
	k, key := w.key(t, time.Hour)
	lastUsed := func() time.Time {
		k, err := w.store.APIKey(t.Context(), k.User, k.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !k.LastUsedAt.IsZero() && k.LastUsedFrom != "192.0.2.9" {
			t.Errorf("used from %q", k.LastUsedFrom)
		}
		return k.LastUsedAt
	}
	start := w.now
	for _, tc := range []struct{ after, want time.Duration }{{0, 0}, {time.Second, 0}, {59 * time.Second, 0}, {time.Minute, time.Minute}, {90 * time.Second, time.Minute}} {
		w.now = start.Add(tc.after)
		w.expect(t, allowed, "GET/apiv1/me", bearer(key))
		if got := lastUsed(); !got.Equal(start.Add(tc.want)) {
			t.Errorf("after %v: last use at %v", tc.after, got.Sub(start))
		}
	}
}

func TestAFirstUseCountsAsAUse(t *testing.T) {
	w := newWorld(t)
	old, fresh := w.rolledKey(t)
	w.expect(t, allowed, "GET/apiv1/me", bearer(fresh))
	k, err := w.store.APIKey(t.Context(), fresh.User, fresh.ID)
	if err != nil || !k.LastUsedAt.Equal(w.now) {
		t.Errorf("last used %v, %v", k.LastUsedAt, err)
	}
	if _, caller := w.ask(t, "GET/apiv1/me", bearer(old)); !caller.Superseded {
		t.Error("the token before is not told from the new one")
	}
	if _, caller := w.ask(t, "GET/apiv1/me", bearer(fresh)); caller.Superseded {
		t.Error("the new token is taken for the one before")
	}
}

func TestASessionSlides(t *testing.T) {
	w := newWorld(t)
	_, login := w.session(t)
	start := w.now
	for range 6 * 4 { // in use every six hours, for six days
		w.now = w.now.Add(6 * time.Hour)
		w.expect(t, allowed, "GET/apiv1/me", bearer(login))
	}
	w.now = start.Add(session.Hard)
	w.expect(t, unauthorized, "GET/apiv1/me", bearer(login))
	_, idle := w.session(t)
	w.now = w.now.Add(session.Sliding)
	w.expect(t, unauthorized, "GET/apiv1/me", bearer(idle))
}

func TestAMarkDoesNotBringADeletedKeyBack(t *testing.T) {
	w := newWorld(t)
	k, key := w.key(t, time.Hour)
	if err := w.store.DeleteAPIKey(t.Context(), k.User, k.ID); err != nil {
		t.Fatal(err)
	}
	// What the authorizer would do that read the key just before it was deleted.
	err := w.authn.Client.Update(t.Context(), w.tables.Credentials, dynamo.Update{
		Key: authn.KeyOf(key), Expression: "SET last_used_at = :now", Condition: "last_used_at <= :now", Values: dynamo.Values{":now": dynamo.Number(1)},
	})
	if !errors.Is(err, dynamo.ErrCondition) {
		t.Errorf("update of a deleted key: %v", err)
	}
	w.expect(t, unauthorized, "GET/apiv1/me", bearer(key))
}

func TestMethodARN(t *testing.T) {
	for s, want := range map[string]methodARN{
		"arn:aws:execute-api:eu-west-1:1:api/prod/GET/a/b":   {"arn:aws:execute-api:eu-west-1:1:api/prod/", "GET", "/a/b"},
		"arn:aws-cn:execute-api:cn-north-1:1:api/s/POST/a:b": {"arn:aws-cn:execute-api:cn-north-1:1:api/s/", "POST", "/a:b"},
		"arn:aws:execute-api:eu-west-1:1:api/prod/GET/":      {"arn:aws:execute-api:eu-west-1:1:api/prod/", "GET", "/"},
		"arn:aws:execute-api:eu-west-1:1:api/prod/GET":       {"arn:aws:execute-api:eu-west-1:1:api/prod/", "GET", "/"},
		"": {},
		"arn:aws:lambda:eu-west-1:1:api/prod/GET/": {},
		"arn:aws:execute-api:eu-west-1:1:api":      {},
		"arn:aws:execute-api:eu-west-1:1:*/*/GET/": {},
	} {
		if got, err := parseMethodARN(s); got != want || (err == nil) != (want != methodARN{}) {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

// FuzzHeaders guards: whatever the headers hold, there is no panic, and no credential is made up: the
// token found stands in the header or, decoded, in its Basic part.
func FuzzHeaders(f *testing.F) {
	k := token.Mint(token.APIKey, 1, 1).Reveal()
	f.Add("Bearer "+k, "cjj365="+k)
	f.Add("Basic "+base64.StdEncoding.EncodeToString([]byte("a:"+k)), `cjj365="x"; Path=/`)
	f.Fuzz(func(t *testing.T, authorization, cookie string) {
		c, err := authn.Presented([]string{authorization}, []string{cookie}, true)
		if err != nil {
			return
		}
		text := c.Token.Reveal()
		_, encoded, _ := strings.Cut(authorization, " ")
		plain, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
		if !strings.Contains(authorization, text) && !strings.Contains(cookie, text) && !strings.Contains(string(plain), text) {
			t.Errorf("token from nowhere: Authorization %q, Cookie %q", authorization, cookie)
		}
	})
}

// FuzzMethodARN guards: the policy for any method ARN names this API and stage only, and lets in
// nothing beyond the caller's paths.
func FuzzMethodARN(f *testing.F) {
	f.Add(arn + "GET/apiv1/users/7/apikeys")
	f.Add("arn:aws:execute-api:r:a:api/*/GET/x")
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := parseMethodARN(s)
		if err != nil {
			return
		}
		text, err := json.Marshal(allow(access.Caller{Kind: access.APIKey, User: 7, ID: 1}, parsed).PolicyDocument)
		if err != nil {
			t.Fatal(err)
		}
		document, err := policy.Parse(text)
		if err != nil {
			t.Fatalf("the policy for %q cannot be read: %v", s, err)
		}
		lets := func(resource string) bool {
			return document.Evaluate("execute-api:Invoke", resource) == policy.Allowed
		}
		if other := "arn:aws:execute-api:us-east-1:123456789012:other/prod/"; other != parsed.stage && lets(other+"GET/apiv1/users/7/x") {
			t.Errorf("the policy for %q lets another API in", s)
		}
		if lets(parsed.stage + "GET/apiv1/users/8/x") {
			t.Errorf("the policy for %q lets another user's path in", s)
		}
	})
}
