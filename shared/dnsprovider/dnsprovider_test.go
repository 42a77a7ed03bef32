package dnsprovider

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/egress"
	"cjj365.cc/bb/shared/problem"
)

var account = `{"type":"service_account","project_id":"proj-123","private_key_id":"key-id-SECRET","private_key":"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n","client_email":"a@proj-123.iam.gserviceaccount.com","token_uri":"https://oauth2.googleapis.com/token"}`

// good has every field of every kind.
var good = map[string]map[string]any{
	"route53":      {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "route53-SECRET", "role_arn": "arn:aws:iam::123456789012:role/dns", "external_id": "x-1", "hosted_zone_id": "Z0123456789", "ttl": 60, "propagation_timeout_seconds": 90},
	"cloudflare":   {"api_token": "cloudflare-SECRET", "zone_token": "cloudflare-zone-SECRET", "ttl": 120, "propagation_timeout_seconds": 90},
	"digitalocean": {"token": "digitalocean-SECRET", "ttl": 30, "propagation_timeout_seconds": 90},
	"hetzner":      {"api_token": "hetzner-SECRET", "ttl": 60, "propagation_timeout_seconds": 90},
	"ovh":          {"endpoint": "ovh-eu", "application_key": "abcdefgh12345678", "application_secret": "ovh-SECRET", "consumer_key": "ovh-consumer-SECRET", "ttl": 60, "propagation_timeout_seconds": 90},
	"gandi":        {"personal_access_token": "gandi-SECRET", "ttl": 300, "propagation_timeout_seconds": 600},
	"azure": {"tenant_id": "11111111-2222-3333-4444-555555555555", "client_id": "11111111-2222-3333-4444-555555555556", "client_secret": "azure-SECRET", "subscription_id": "11111111-2222-3333-4444-555555555557",
		"resource_group": "rg_1.x", "zone": "example.org", "environment": "public", "ttl": 60, "propagation_timeout_seconds": 90},
	"gcloud":   {"service_account_json": account, "project": "proj-456", "managed_zone": "zone-1", "ttl": 60, "propagation_timeout_seconds": 90},
	"porkbun":  {"api_key": "pk1_SECRET", "secret_api_key": "sk1_SECRET", "ttl": 600, "propagation_timeout_seconds": 90},
	"desec":    {"token": "desec-SECRET", "ttl": 3600, "propagation_timeout_seconds": 90},
	"acme-dns": {"api_url": "https://auth.example.org", "username": "u-1", "password": "acmedns-SECRET", "subdomain": "s-1", "fulldomain": "s-1.auth.example.org", "propagation_timeout_seconds": 90},
	"pdns":     {"api_url": "https://pdns.example.org:8081", "api_key": "pdns-SECRET", "server_name": "localhost", "ttl": 60, "propagation_timeout_seconds": 90},
	"rfc2136":  {"nameserver": "ns1.example.org:53", "tsig_key_name": "acme.", "tsig_algorithm": "hmac-sha512", "tsig_secret": "cmZjMjEzNi1TRUNSRVQ=", "zone": "example.org", "ttl": 60, "propagation_timeout_seconds": 90},
	"httpreq":  {"endpoint": "https://hook.example.org/dns", "mode": "RAW", "username": "ann", "password": "httpreq-SECRET", "propagation_timeout_seconds": 90},
}

// with is good's config of a kind, changed: a nil value takes the field out.
func with(kind string, changes map[string]any) json.RawMessage {
	values := maps.Clone(good[kind])
	for name, value := range changes {
		if values[name] = value; value == nil {
			delete(values, name)
		}
	}
	raw, err := json.Marshal(values)
	if err != nil {
		panic(err)
	}
	return raw
}

func TestTheCatalogue(t *testing.T) {
	want := []string{"route53", "cloudflare", "digitalocean", "hetzner", "ovh", "gandi", "azure", "gcloud", "porkbun", "desec", "acme-dns", "pdns", "rfc2136", "httpreq"}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("kinds %v", got)
	}
	for _, k := range Kinds {
		secrets := 0
		for _, f := range k.Fields {
			if _, has := good[k.Name][f.Name]; !has {
				t.Errorf("good has no %s.%s", k.Name, f.Name)
			}
			if f.Description == "" || !strings.HasSuffix(f.Description, ".") {
				t.Errorf("%s.%s: description %q", k.Name, f.Name, f.Description)
			}
			if f.Secret {
				secrets++
			}
			// A secret that is sent to an address the caller names is tied to it.
			if (f.Format == URL || f.Format == HostPort) != f.Destination && f.Name != "environment" {
				t.Errorf("%s.%s: destination %v", k.Name, f.Name, f.Destination)
			}
		}
		if secrets == 0 {
			t.Errorf("%s has no secret: whose rights would it use?", k.Name)
		}
	}
}

func TestEveryFieldIsReadAndSecretsAreKeptApart(t *testing.T) {
	for kind := range good {
		c, err := Parse(kind, with(kind, nil), egress.Guard{})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		definition, _ := find(kind)
		for _, f := range definition.Fields {
			want := good[kind][f.Name]
			if n, ok := want.(int); ok && c.Number(f.Name) != n || !ok && c.Text(f.Name) != want {
				t.Errorf("%s.%s is not what was given", kind, f.Name)
			}
			if shown := c.Redacted()[f.Name]; f.Secret && shown != Hidden || !f.Secret && shown != want {
				t.Errorf("%s.%s is shown as %v", kind, f.Name, shown)
			}
		}

		public, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var log strings.Builder
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", c, "pointer", &c, "redacted", c.Redacted())
		for _, shown := range []string{string(public), log.String(), fmt.Sprintf("%v %+v %#v %s %d %q %x %v", c, c, c, c, c, c, c, &c), fmt.Sprint(c.Redacted(), struct{ C Config }{c}, []Config{c})} {
			if strings.Contains(shown, "SECRET") || strings.Contains(shown, "cmZjMjEzNi1TRUNSRVQ") || strings.Contains(shown, "534543524554") {
				t.Errorf("%s shows a secret: %s", kind, shown)
			}
		}

		var again Config
		if err := json.Unmarshal(public, &again); err != nil {
			t.Fatal(err)
		}
		again, err = again.WithSecrets(c.Secrets())
		if err != nil || string(again.Secrets()) != string(c.Secrets()) || fmt.Sprint(again.Redacted()) != fmt.Sprint(c.Redacted()) {
			t.Errorf("%s is stored as %v, %v", kind, again.Redacted(), err)
		}
		for _, f := range definition.Fields {
			if again.Text(f.Name) != c.Text(f.Name) || again.Number(f.Name) != c.Number(f.Name) {
				t.Errorf("%s.%s is lost in storage", kind, f.Name)
			}
		}
	}
}

func TestDefaultsAndAliases(t *testing.T) {
	c, err := Parse("webhook", json.RawMessage(`{"endpoint": "https://hook.example.org"}`), egress.Guard{})
	if err != nil || c.Kind() != "httpreq" || c.Text("mode") != "DEFAULT" || c.Number("propagation_timeout_seconds") != 120 || c.Text("username") != "" {
		t.Errorf("%v, %v", c.Redacted(), err)
	}
	c, err = Parse("rfc2136", with("rfc2136", map[string]any{"tsig_algorithm": nil, "ttl": nil, "zone": ""}), egress.Guard{})
	if err != nil || c.Text("tsig_algorithm") != "hmac-sha256" || c.Number("ttl") != 120 || c.Text("zone") != "" {
		t.Errorf("%v, %v", c.Redacted(), err)
	}
}

func TestRefusals(t *testing.T) {
	refuse := func(kind string, changes map[string]any, want *problem.Kind, field string) {
		t.Helper()
		_, err := Parse(kind, with(kind, changes), egress.Guard{})
		p, ok := errors.AsType[*problem.Error](err)
		if !ok || p.Kind != want || p.Params["field"] != "config."+field || !strings.Contains(p.What, "config."+field) || strings.Contains(p.What, "SECRET") {
			t.Errorf("%s with %v: %v", kind, changes, err)
		}
	}
	// A kind without credentials of its own would use the function's.
	refuse("route53", map[string]any{"access_key_id": nil}, problem.MissingField, "access_key_id")
	refuse("route53", map[string]any{"secret_access_key": nil}, problem.MissingField, "secret_access_key")
	refuse("route53", map[string]any{"access_key_id": "", "secret_access_key": ""}, problem.InvalidArgument, "access_key_id")
	refuse("azure", map[string]any{"client_secret": nil}, problem.MissingField, "client_secret")
	refuse("gcloud", map[string]any{"service_account_json": nil}, problem.MissingField, "service_account_json")
	refuse("ovh", map[string]any{"consumer_key": nil}, problem.MissingField, "consumer_key")

	refuse("cloudflare", map[string]any{"apitoken": "x"}, problem.InvalidArgument, "apitoken")
	refuse("cloudflare", map[string]any{"api_token": 5}, problem.TypeConvert, "api_token")
	refuse("cloudflare", map[string]any{"api_token": []string{"SECRET"}}, problem.TypeConvert, "api_token")
	refuse("cloudflare", map[string]any{"api_token": "SECRET1\r\nX: y"}, problem.InvalidArgument, "api_token")
	refuse("cloudflare", map[string]any{"api_token": " SECRET123"}, problem.InvalidArgument, "api_token")
	refuse("cloudflare", map[string]any{"api_token": "***"}, problem.InvalidArgument, "api_token")
	refuse("cloudflare", map[string]any{"api_token": strings.Repeat("x", 1025)}, problem.InvalidArgument, "api_token")
	refuse("cloudflare", map[string]any{"ttl": 60}, problem.InvalidArgument, "ttl")
	refuse("cloudflare", map[string]any{"ttl": "120"}, problem.TypeConvert, "ttl")
	refuse("cloudflare", map[string]any{"ttl": 120.5}, problem.TypeConvert, "ttl")
	refuse("cloudflare", map[string]any{"propagation_timeout_seconds": 601}, problem.InvalidArgument, "propagation_timeout_seconds")
	refuse("httpreq", map[string]any{"ttl": 60}, problem.InvalidArgument, "ttl")
	refuse("httpreq", map[string]any{"mode": "raw"}, problem.InvalidArgument, "mode")
	refuse("httpreq", map[string]any{"username": nil}, problem.InvalidArgument, "username")
	refuse("httpreq", map[string]any{"password": nil}, problem.InvalidArgument, "password")
	refuse("route53", map[string]any{"role_arn": nil}, problem.InvalidArgument, "role_arn")
	refuse("azure", map[string]any{"tenant_id": "../../x"}, problem.InvalidArgument, "tenant_id")
	refuse("azure", map[string]any{"resource_group": "a/b"}, problem.InvalidArgument, "resource_group")
	refuse("gcloud", map[string]any{"project": "../x"}, problem.InvalidArgument, "project")
	refuse("rfc2136", map[string]any{"tsig_secret": "not base64!!"}, problem.InvalidArgument, "tsig_secret")
	refuse("rfc2136", map[string]any{"tsig_key_name": "a b"}, problem.InvalidArgument, "tsig_key_name")
	refuse("cloudflare", map[string]any{"%s%d\n": "x"}, problem.InvalidArgument, "?s?d?")

	// Addresses meet the guard.
	for _, address := range []string{"http://hook.example.org", "https://127.0.0.1/", "https://169.254.169.254/", "https://ann:SECRET@hook.example.org/", "https://localhost", "hook.example.org", "https://2130706433"} {
		refuse("httpreq", map[string]any{"endpoint": address}, problem.InvalidArgument, "endpoint")
		refuse("pdns", map[string]any{"api_url": address}, problem.InvalidArgument, "api_url")
		refuse("acme-dns", map[string]any{"api_url": address}, problem.InvalidArgument, "api_url")
	}
	for _, address := range []string{"127.0.0.1:53", "10.0.0.1", "ns1", "[::1]:53", "ns1.example.org:x"} {
		refuse("rfc2136", map[string]any{"nameserver": address}, problem.InvalidArgument, "nameserver")
	}

	// Of Google's credential files only a service account's key is taken: others name URLs to fetch.
	for _, change := range []string{`"type":"external_account"`, `"type":"authorized_user"`, `"type":"service_account","token_uri":"https://evil.example/SECRET"`} {
		refuse("gcloud", map[string]any{"service_account_json": strings.Replace(strings.Replace(account, `,"token_uri":"https://oauth2.googleapis.com/token"`, "", 1), `"type":"service_account"`, change, 1)}, problem.InvalidArgument, "service_account_json")
	}
	refuse("gcloud", map[string]any{"service_account_json": strings.Repeat("SECRET", 30)}, problem.InvalidArgument, "service_account_json")

	for kind, raw := range map[string]string{"": `{}`, "manual": `{}`, "exec": `{}`} {
		if _, err := Parse(kind, json.RawMessage(raw), egress.Guard{}); !errors.Is(err, problem.InvalidArgument) || !strings.Contains(err.Error(), "route53, cloudflare, digitalocean") {
			t.Errorf("kind %q: %v", kind, err)
		}
	}
	for _, raw := range []string{``, `null`, `[]`, `"x"`, `{`, `{"token": "x"`, `{"token":}`, `{"token": "desec-SECRET"} x`, `{"token": "desec-SECRET", "token": "desec-SECRE2"}`, `{"token": "` + strings.Repeat("x", maxConfig) + `"}`} {
		if _, err := Parse("desec", json.RawMessage(raw), egress.Guard{}); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%.30s: %v", raw, err)
		}
	}
}

func TestAnUpdateKeepsSecrets(t *testing.T) {
	old, err := Parse("cloudflare", with("cloudflare", nil), egress.Guard{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ raw, api, zone string }{
		{`{}`, "cloudflare-SECRET", "cloudflare-zone-SECRET"},
		{`{"api_token": "***", "zone_token": "***"}`, "cloudflare-SECRET", "cloudflare-zone-SECRET"},
		{`{"api_token": "another-SECRET"}`, "another-SECRET", "cloudflare-zone-SECRET"},
		{`{"zone_token": ""}`, "cloudflare-SECRET", ""},
	} {
		c, err := old.Merge("cloudflare", json.RawMessage(test.raw), egress.Guard{})
		if err != nil || c.Text("api_token") != test.api || c.Text("zone_token") != test.zone || c.Number("propagation_timeout_seconds") != 120 {
			t.Errorf("%s: %v, %v", test.raw, c.Redacted(), err)
		}
	}
	for kind, raw := range map[string]string{"cloudflare": `{"api_token": ""}`, "hetzner": `{"api_token": "***"}`, "desec": `{}`, "digitalocean": `{}`} {
		if c, err := old.Merge(kind, json.RawMessage(raw), egress.Guard{}); err == nil {
			t.Errorf("%s %s: %v", kind, raw, c.Redacted())
		}
	}
}

func TestAKeptSecretIsNotSentElsewhere(t *testing.T) {
	for _, test := range []struct{ kind, field, elsewhere, secret string }{
		{"httpreq", "endpoint", "https://evil.example/dns", "password"}, {"pdns", "api_url", "https://evil.example", "api_key"}, {"acme-dns", "api_url", "https://evil.example", "password"},
		{"rfc2136", "nameserver", "ns1.evil.example", "tsig_secret"}, {"azure", "environment", "china", "client_secret"},
	} {
		old, err := Parse(test.kind, with(test.kind, nil), egress.Guard{})
		if err != nil {
			t.Fatal(err)
		}
		for _, kept := range []any{Hidden, nil} {
			_, err = old.Merge(test.kind, with(test.kind, map[string]any{test.field: test.elsewhere, test.secret: kept}), egress.Guard{})
			if !errors.Is(err, problem.InvalidArgument) || !strings.Contains(err.Error(), "config."+test.secret+" has to be given anew") {
				t.Errorf("%s: %v", test.kind, err)
			}
		}
		if _, err = old.Merge(test.kind, with(test.kind, map[string]any{test.secret: Hidden}), egress.Guard{}); err != nil {
			t.Errorf("%s to the same place: %v", test.kind, err)
		}
		if _, err = old.Merge(test.kind, with(test.kind, map[string]any{test.field: test.elsewhere}), egress.Guard{}); err != nil {
			t.Errorf("%s with the secret: %v", test.kind, err)
		}
	}
}

// What the schema forbids, Parse refuses; and what it shows is what Parse reads.
func TestSchemaAndParseAgree(t *testing.T) {
	for _, k := range Kinds {
		raw, err := json.Marshal(k.Schema())
		if err != nil {
			t.Fatal(err)
		}
		var schema struct {
			Schema               string                    `json:"$schema"`
			Properties           map[string]map[string]any `json:"properties"`
			Required             []string                  `json:"required"`
			AdditionalProperties *bool                     `json:"additionalProperties"`
		}
		if err := json.Unmarshal(raw, &schema); err != nil || schema.AdditionalProperties == nil || *schema.AdditionalProperties || schema.Schema != "https://json-schema.org/draft/2020-12/schema" {
			t.Errorf("%s: %s, %v", k.Name, raw, err)
		}
		refuse := func(name string, value any) {
			t.Helper()
			if _, err := Parse(k.Name, with(k.Name, map[string]any{name: value}), egress.Guard{}); err == nil {
				t.Errorf("%s.%s may be %.40v", k.Name, name, value)
			}
		}
		for _, name := range schema.Required {
			refuse(name, nil)
		}
		if len(schema.Properties) != len(good[k.Name]) {
			t.Errorf("%s describes %d fields", k.Name, len(schema.Properties))
		}
		for name, p := range schema.Properties {
			f, _ := k.Field(name)
			if p["writeOnly"] == true != f.Secret {
				t.Errorf("%s.%s: writeOnly %v", k.Name, name, p["writeOnly"])
			}
			if p["type"] == "integer" {
				refuse(name, p["minimum"].(float64)-1)
				refuse(name, p["maximum"].(float64)+1)
				refuse(name, "1")
				continue
			}
			refuse(name, 1)
			refuse(name, strings.Repeat("a", int(p["maxLength"].(float64))+1))
			if shortest, ok := p["minLength"].(float64); ok && shortest > 1 {
				refuse(name, strings.Repeat("a", int(shortest)-1))
			}
			if p["enum"] != nil {
				refuse(name, "something else")
			}
			if pattern, ok := p["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString("~ ~") {
				refuse(name, "~ ~")
			}
		}
	}
}

// Whatever is sent, an error is a problem without the secret; and what is accepted comes back from
// storage as it was, shows no secret and is accepted again.
func FuzzParse(f *testing.F) {
	for kind := range good {
		f.Add(kind, string(with(kind, nil)))
	}
	f.Add("httpreq", `{"endpoint":"https://x.example","endpoint":"https://y.example"}`)
	f.Add("webhook", `{"endpoint":"https://x.example","mode":null}`)
	f.Fuzz(func(t *testing.T, kind, raw string) {
		c, err := Parse(kind, json.RawMessage(raw), egress.Guard{})
		if err != nil {
			if _, ok := errors.AsType[*problem.Error](err); !ok {
				t.Fatalf("%v is no problem", err)
			}
			return
		}
		public, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again Config
		if err := json.Unmarshal(public, &again); err != nil {
			t.Fatal(err)
		}
		if again, err = again.WithSecrets(c.Secrets()); err != nil {
			t.Fatal(err)
		}
		shown, err := json.Marshal(again.Redacted())
		if err != nil {
			t.Fatal(err)
		}
		for name := range c.secrets {
			if again.Redacted()[name] != Hidden || again.Text(name) != c.Text(name) {
				t.Errorf("secret %s is shown or lost", name)
			}
		}
		if _, err = again.Merge(kind, shown, egress.Guard{}); err != nil {
			t.Errorf("%s is not accepted again: %v", shown, err)
		}
	})
}
