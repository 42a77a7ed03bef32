package access

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

func encode(t *testing.T, shorthands ...string) Permissions {
	t.Helper()
	var list []Permission
	for _, s := range shorthands {
		p, err := ParsePermission(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	permissions, err := Encode(list)
	if err != nil {
		t.Fatal(err)
	}
	return permissions
}

func TestAllow(t *testing.T) {
	need := func(s string) Need {
		p, err := ParsePermission(s)
		if err != nil {
			t.Fatal(err)
		}
		return Need{p.Type, p.Actions[0], p.ID}
	}
	for _, tc := range []struct {
		held []string
		need string
		want bool
	}{
		{[]string{"certs.read"}, "certs.read", true},
		{[]string{"certs.read"}, "certs.read:5", true},
		{[]string{"certs.read"}, "certs.write", false},
		{[]string{"certs.write"}, "certs.read", true},
		{[]string{"certs.write"}, "devices.read", false},
		{[]string{"certs.write:5"}, "certs.write:5", true},
		{[]string{"certs.write:5"}, "certs.read:5", true},
		{[]string{"certs.write:5"}, "certs.write:50", false},
		{[]string{"certs.write:5"}, "certs.write", false},
		{[]string{"certs.read", "certs.write:5"}, "certs.write:5", true},
		{[]string{"ForDeviceAuthenticate.authenticate"}, "ForDeviceAuthenticate.revoke", false},
		{[]string{"ForDeviceAuthenticate.revoke"}, "ForDeviceAuthenticate.revoke", true},
		{nil, "certs.read", false},
	} {
		held := encode(t, tc.held...)
		if got := held.Allow(need(tc.need)); got != tc.want {
			t.Errorf("%q allows %s: %v, want %v", held, tc.need, got, tc.want)
		}
		if !Everything.Allow(need(tc.need)) {
			t.Errorf("everything does not allow %s", tc.need)
		}
	}
	if Everything.Allow(Need{"unknown", Read, Any}) {
		t.Error("everything allows what the catalogue does not have")
	}
}

func TestNobodyGrantsMoreThanTheyHold(t *testing.T) {
	maker := encode(t, "certs.write", "devices.read:8", "apikeys.write")
	for _, granted := range [][]string{{"certs.read"}, {"certs.write:9"}, {"devices.read:8"}, {"apikeys.write", "certs.write"}} {
		if need, lacks := maker.Lacks(encode(t, granted...)); lacks {
			t.Errorf("granting %v lacks %s", granted, need)
		}
	}
	for _, granted := range [][]string{{"devices.read"}, {"devices.read:9"}, {"devices.write:8"}, {"cas.read"}, {"certs.read", "cas.write:1"}} {
		if _, lacks := maker.Lacks(encode(t, granted...)); !lacks {
			t.Errorf("granting %v was allowed", granted)
		}
	}
	if _, lacks := maker.Lacks(Everything); !lacks {
		t.Error("a key may grant everything")
	}
}

func TestEncodeRefusesWhatTheCatalogueLacks(t *testing.T) {
	for _, p := range []Permission{
		{"unknown", Any, []Action{Read}}, {"certs", Any, []Action{"delete"}}, {"certs", Any, nil}, {"certs", -1, []Action{Read}},
		{"certs:*:write;cas", Any, []Action{Read}}, {"certs", Any, []Action{"read;cas:*:write"}}, {"*", Any, []Action{Read}},
	} {
		if encoded, err := Encode([]Permission{p}); err == nil {
			t.Errorf("Encode(%v) = %q", p, encoded)
		}
	}
	for _, s := range []string{"certs", "", "certs.read:", "certs.read:0", "certs.read:-1", "certs.read:+1", "certs.read:01", "certs.read:x"} {
		if p, err := ParsePermission(s); err == nil {
			t.Errorf("ParsePermission(%q) = %v", s, p)
		}
	}
}

func TestEncodeJoinsAndSorts(t *testing.T) {
	if got := encode(t, "devices.write", "certs.read", "devices.read", "certs.read", "devices.read:8"); got != "certs:*:read;devices:*:read,write;devices:8:read" {
		t.Errorf("got %q", got)
	}
}

func TestScopeSurvivesTheGateway(t *testing.T) {
	c := Caller{
		Kind: APIKey, User: 7, ID: 12, Name: "ci \"quoted\"", Permissions: "certs:*:read",
		CreatedAt: time.UnixMilli(1_790_000_000_000), ExpiresAt: time.UnixMilli(1_790_000_001_000), Superseded: true,
	}
	text, err := json.Marshal(c.Scope())
	if err != nil {
		t.Fatal(err)
	}
	var context map[string]any
	if err := json.Unmarshal(text, &context); err != nil {
		t.Fatal(err)
	}
	for name, value := range context {
		if _, ok := value.(string); !ok {
			t.Errorf("scope value %s is no string: %v", name, value)
		}
	}
	if got, err := FromScope(context); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, missing := range []string{"kind", "user_id", "id", "expires_at"} {
		broken := map[string]any{}
		for k, v := range context {
			if k != missing {
				broken[k] = v
			}
		}
		if _, err := FromScope(broken); err == nil {
			t.Errorf("a scope without %s is accepted", missing)
		}
	}
}

// FuzzPermissions guards: whatever text is stored, nothing outside the catalogue is allowed, and
// what is listed and encoded again means the same.
func FuzzPermissions(f *testing.F) {
	f.Add("certs:*:read;devices:8:write")
	f.Add("*")
	f.Add(";:::;certs:0:read")
	f.Fuzz(func(t *testing.T, text string) {
		p := Permissions(text)
		again, err := Encode(p.List())
		if err != nil {
			return
		}
		for _, e := range Catalogue {
			for _, a := range e.Actions {
				if need := (Need{e.Type, a, 8}); p.Allow(need) != again.Allow(need) {
					t.Errorf("%q and %q differ on %s", p, again, need)
				}
			}
		}
	})
}
