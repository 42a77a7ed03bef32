package dnssolver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
)

func parse(t *testing.T, kind string, values any) dnsprovider.Config {
	t.Helper()
	raw, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dnsprovider.Parse(kind, raw, local)
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	return c
}

func TestEveryKindOfTheCatalogueIsSolved(t *testing.T) {
	for _, k := range dnsprovider.Kinds {
		if kinds[k.Name] == nil {
			t.Errorf("there is no solver for %s", k.Name)
		}
	}
	if len(kinds) != len(dnsprovider.Kinds) {
		t.Errorf("%d solvers for %d kinds", len(kinds), len(dnsprovider.Kinds))
	}
}

// hostileEnvironment is what a function's environment may hold, and what lego's providers and the SDKs would take from it.
func hostileEnvironment(t *testing.T) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte(`{"type": "authorized_user", "client_id": "ENVIRONMENT", "client_secret": "ENVIRONMENT", "refresh_token": "ENVIRONMENT"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	canary := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the environment's server was asked for %s", r.URL)
	}))
	t.Cleanup(canary.Close)
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_HOSTED_ZONE_ID", "AWS_ASSUME_ROLE_ARN", "AWS_ROLE_ARN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXTERNAL_ID", "AWS_TTL",
		"CLOUDFLARE_EMAIL", "CLOUDFLARE_API_KEY", "CLOUDFLARE_DNS_API_TOKEN", "CLOUDFLARE_ZONE_API_TOKEN", "CF_API_EMAIL", "CF_API_KEY", "CF_DNS_API_TOKEN", "DO_AUTH_TOKEN", "HETZNER_API_KEY", "HETZNER_API_TOKEN",
		"OVH_APPLICATION_KEY", "OVH_APPLICATION_SECRET", "OVH_CONSUMER_KEY", "OVH_CLIENT_ID", "OVH_CLIENT_SECRET", "OVH_ACCESS_TOKEN", "GANDIV5_API_KEY", "GANDIV5_PERSONAL_ACCESS_TOKEN",
		"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_ENVIRONMENT", "AZURE_AUTH_METHOD", "AZURE_ZONE_NAME", "GCE_PROJECT", "GCE_SERVICE_ACCOUNT", "GCE_ZONE_ID", "GOOGLE_CLOUD_PROJECT",
		"PORKBUN_API_KEY", "PORKBUN_SECRET_API_KEY", "DESEC_TOKEN", "ACME_DNS_STORAGE_PATH", "PDNS_API_KEY", "PDNS_SERVER_NAME", "RFC2136_TSIG_KEY", "RFC2136_TSIG_SECRET", "DNSUPDATE_TSIG_KEY", "DNSUPDATE_TSIG_SECRET", "HTTPREQ_USERNAME", "HTTPREQ_PASSWORD", "HTTPREQ_MODE",
	} {
		t.Setenv(name, "ENVIRONMENT")
	}
	for _, name := range []string{
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ROUTE_53", "AWS_ENDPOINT_URL_STS", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "CLOUDFLARE_BASE_URL", "DO_API_URL", "OVH_ENDPOINT",
		"MSI_ENDPOINT", "IDENTITY_ENDPOINT", "AZURE_AUTHORITY_HOST", "ACME_DNS_API_BASE", "PDNS_API_URL", "HTTPREQ_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY",
	} {
		t.Setenv(name, canary.URL)
	}
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(canary.URL, "http://"))
	t.Setenv("DNSUPDATE_NAMESERVER", strings.TrimPrefix(canary.URL, "http://"))
	for _, name := range []string{"GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "GCE_SERVICE_ACCOUNT_FILE", "AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, file)
	}
}

// The laws of Present and CleanUp, for each kind that speaks HTTP, in an environment that would mislead it.
func TestLaws(t *testing.T) {
	hostileEnvironment(t)
	for kind, answer := range clouds {
		t.Run(kind, func(t *testing.T) {
			z := exampleTest(t)
			c := &cloud{zones: z, answer: answer}
			domain, at := "www.example.test", "_acme-challenge.www.example.test"
			if kind == "acme-dns" {
				domain, at = "delegated.example.test", "acme.other.test"
			}
			_, apex := Record(domain, "token-apex.print")
			_, wild := Record(domain, "token-wild.print")
			step := func(what string, err error, want ...string) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if got := slices.Sorted(slices.Values(z.texts(at))); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
					t.Fatalf("%s: the records are %q", what, got)
				}
			}

			// An order for example.org and *.example.org has two values at one name.
			s := solverOf(t, kind, c)
			step("present", s.Present(t.Context(), domain, "token-apex.print"), apex)
			step("present the wildcard's", s.Present(t.Context(), "*."+domain, "token-wild.print"), apex, wild)
			// The invocation is killed; the next one has another Solver and does not know what was done.
			s = solverOf(t, kind, c)
			if kind != "digitalocean" && kind != "porkbun" { // which take a second record with the same value
				step("present again", s.Present(t.Context(), domain, "token-apex.print"), apex, wild)
			}
			if kind != "acme-dns" { // which removes nothing
				s = solverOf(t, kind, c)
				step("clean up", s.CleanUp(t.Context(), domain, "token-apex.print"), wild)
				s = solverOf(t, kind, c)
				step("clean up the wildcard's", s.CleanUp(t.Context(), "*."+domain, "token-wild.print"))
			}

			for _, seen := range c.seen {
				if strings.Contains(seen, "ENVIRONMENT") {
					t.Errorf("the environment was used: %s", seen)
				}
				if host := requestHost(seen); !slices.Contains(hosts[kind], host) {
					t.Errorf("%s was asked: %s", host, seen)
				}
			}
		})
	}
}

func TestASecondRecordWithTheSameValueIsRemovedToo(t *testing.T) {
	for _, kind := range []string{"digitalocean", "porkbun"} {
		z := exampleTest(t)
		c := &cloud{zones: z, answer: clouds[kind]}
		for range 2 {
			if err := solverOf(t, kind, c).Present(t.Context(), "www.example.test", "token.print"); err != nil {
				t.Fatal(err)
			}
		}
		if err := solverOf(t, kind, c).CleanUp(t.Context(), "www.example.test", "token.print"); err != nil || len(z.texts("_acme-challenge.www.example.test")) != 0 {
			t.Errorf("%s: %v, %q", kind, err, z.texts("_acme-challenge.www.example.test"))
		}
	}
}

func TestRoute53AssumesTheRoleWithTheGivenKey(t *testing.T) {
	hostileEnvironment(t)
	c := &cloud{zones: exampleTest(t)}
	c.answer = func(c *cloud, r *http.Request, body []byte) (int, string) {
		if strings.HasPrefix(r.URL.Host, "sts.") {
			return 200, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAASSUMED</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>assumed-session</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`
		}
		return clouds["route53"](c, r, body)
	}
	values := configs()["route53"]
	values["role_arn"], values["external_id"] = "arn:aws:iam::123456789012:role/dns", "bb-7"
	s, err := newSolver(parse(t, "route53", values), local, &http.Client{Transport: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Present(t.Context(), "www.example.test", "token.print"); err != nil {
		t.Fatal(err)
	}
	for i, seen := range c.seen {
		first := i == 0
		if strings.Contains(seen, "ENVIRONMENT") || strings.HasPrefix(requestHost(seen), "sts.") != first ||
			strings.Contains(seen, "AKIAIOSFODNN7EXAMPLE") != first || strings.Contains(seen, "ExternalId=bb-7") != first || strings.Contains(seen, "assumed-session") == first {
			t.Errorf("request %d: %s", i, seen)
		}
	}
}

func TestRAWSendsTheChallengeItself(t *testing.T) {
	exampleTest(t)
	var sent struct{ Domain, Token, KeyAuth string }
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || r.URL.Path != "/dns/present" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
	}))
	defer server.Close()
	s, err := New(parse(t, "httpreq", object{"endpoint": server.URL + "/dns", "mode": "RAW"}), local)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Present(t.Context(), "*.example.test", "token.print"); err != nil || sent.Domain != "example.test" || sent.Token != "token" || sent.KeyAuth != "token.print" {
		t.Errorf("%+v, %v", sent, err)
	}
}

// The peers of everybody's server, behind a listener and the guard's client.
func TestProbe(t *testing.T) {
	for kind, address := range map[string]string{"httpreq": "endpoint", "pdns": "api_url", "acme-dns": "api_url"} {
		t.Run(kind, func(t *testing.T) {
			z := exampleTest(t)
			c := &cloud{zones: z, answer: clouds[kind]}
			server := httptest.NewServer(peer(c))
			defer server.Close()
			values := configs()[kind]
			values[address] = server.URL
			s, err := New(parse(t, kind, values), local)
			if err != nil {
				t.Fatal(err)
			}
			domains := []string{"www.example.test", "*.example.test"}
			if kind == "acme-dns" {
				domains = []string{"delegated.example.test"}
			}
			if kind == "httpreq" {
				domains = append(domains, "delegated.example.test")
			}
			for _, domain := range domains {
				if err := s.Probe(t.Context(), domain); err != nil {
					t.Errorf("%s: %v", domain, err)
				}
			}
			for name := range z.names() {
				if kind != "acme-dns" {
					t.Errorf("%s is left", name)
				}
			}
			asked := z.questions()
			probed := slices.ContainsFunc(asked, func(q string) bool {
				return strings.HasPrefix(q, "TXT _acme-challenge.bb-probe-") && strings.HasSuffix(q, ".example.test.")
			})
			if probed == (kind == "acme-dns") {
				t.Errorf("asked %q", asked)
			}
			if kind == "httpreq" && !slices.ContainsFunc(asked, func(q string) bool { return strings.HasSuffix(q, ".acme.other.test.") }) {
				t.Errorf("the delegation was not followed: %q", asked)
			}
		})
	}
}

// peer serves a cloud's protocol over a listener.
func peer(c *cloud) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Host = r.Host
		response, err := c.RoundTrip(r)
		if err != nil {
			w.WriteHeader(500)
			return
		}
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	})
}

func TestAProbeTellsTheStep(t *testing.T) {
	z := exampleTest(t)
	for _, test := range []struct {
		name      string
		values    object
		peer      http.HandlerFunc
		step      Step
		permanent bool
		says      string
	}{
		{"wrong password", object{"password": "wrong-SECRET"}, peer(&cloud{zones: z, answer: clouds["httpreq"]}).ServeHTTP, StepPresent, true, "status code: 401"},
		{"broken", nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, StepPresent, false, "502"},
		{"busy", nil, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "7"); w.WriteHeader(429) }, StepPresent, false, "429"},
		{"sets nothing", nil, func(http.ResponseWriter, *http.Request) {}, StepPropagate, false, "does not have the TXT record"},
		{"does not remove", nil, func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "cleanup") {
				w.WriteHeader(403)
				return
			}
			peer(&cloud{zones: z, answer: clouds["httpreq"]}).ServeHTTP(w, r)
		}, StepCleanUp, true, "403"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.peer)
			defer server.Close()
			values := configs()["httpreq"]
			values["endpoint"] = server.URL
			for k, v := range test.values {
				values[k] = v
			}
			s, err := New(parse(t, "httpreq", values), local)
			if err != nil {
				t.Fatal(err)
			}
			if test.step == StepPropagate {
				s.timeout = 300 * time.Millisecond
			}
			err = s.Probe(t.Context(), "www.example.test")
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Step != test.step || e.Permanent != test.permanent || !strings.Contains(e.What, test.says) || strings.Contains(e.Error(), "SECRET") {
				t.Errorf("%v, %+v", err, e)
			}
			if test.name == "busy" && e.RetryAfter != 7*time.Second {
				t.Errorf("retry after %v", e.RetryAfter)
			}
		})
	}
}

func TestAProbeEndsWithItsContext(t *testing.T) {
	exampleTest(t)
	var removed atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "cleanup") {
			removed.Store(true)
		}
	}))
	defer server.Close()
	s, err := New(parse(t, "httpreq", object{"endpoint": server.URL}), local)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	err = s.Probe(ctx, "www.example.test")
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Step != StepPropagate || e.Permanent || !errors.Is(err, context.DeadlineExceeded) || !removed.Load() {
		t.Errorf("%v; removed %v", err, removed.Load())
	}
}

func TestAnAcmeDNSAccountNeedsItsCNAME(t *testing.T) {
	c := &cloud{zones: exampleTest(t), answer: clouds["acme-dns"]}
	err := solverOf(t, "acme-dns", c).Probe(t.Context(), "www.example.test")
	e, ok := errors.AsType[*Error](err)
	if !ok || !e.Permanent || e.Step != StepPropagate || !strings.Contains(e.What, "_acme-challenge.www.example.test. has to be a CNAME to acme.other.test.") || len(c.seen) != 0 {
		t.Errorf("%v", err)
	}
}

// Whatever a provider's server says, and in whatever form it sends a secret back, the error does not hold it.
func TestNoErrorHoldsASecret(t *testing.T) {
	z := exampleTest(t)
	for kind := range clouds {
		config := parse(t, kind, configs()[kind])
		for _, status := range []int{400, 401, 403, 404, 500} {
			c := &cloud{zones: z}
			c.answer = func(c *cloud, r *http.Request, body []byte) (int, string) {
				echo := strings.Join(config.SecretValues(), " ") + c.seen[len(c.seen)-1]
				return status, encode(object{"message": echo, "error": echo, "error_description": echo, "detail": echo, "errors": []object{{"code": 1000, "message": echo}}, "status": "ERROR"})
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s := solverOf(t, kind, c)
			for what, err := range map[string]error{"present": s.Present(ctx, "www.example.test", "token.print"), "cleanup": s.CleanUp(ctx, "www.example.test", "token.print")} {
				nothingToRemove := what == "cleanup" && (kind == "acme-dns" || kind == "gandi" && status == 404)
				if err == nil && !nothingToRemove {
					t.Errorf("%s %s with %d: no error", kind, what, status)
				}
				if err == nil {
					continue
				}
				e, ok := errors.AsType[*Error](err)
				if !ok || len(e.What) > 4*maxWhat || strings.ContainsAny(e.What, "\r\n") {
					t.Errorf("%s %s with %d: %v", kind, what, status, err)
				}
				for _, secret := range append(config.SecretValues(), "SECRET", "BEGIN PRIVATE KEY", base64.StdEncoding.EncodeToString([]byte("ann:httpreq-SECRET"))) {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%s %s with %d shows a secret: %v", kind, what, status, err)
					}
				}
				if want := status < 500; ok && e.Permanent != want && e.cause == nil {
					t.Errorf("%s %s with %d: permanent %v: %v", kind, what, status, e.Permanent, err)
				}
			}
			cancel()
		}
	}
}

func TestAProvidersAddressMeetsTheGuard(t *testing.T) {
	z := exampleTest(t)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	// What was stored while the deployment allowed private addresses, or resolves to another address now.
	for kind, field := range map[string]string{"httpreq": "endpoint", "pdns": "api_url", "acme-dns": "api_url", "rfc2136": "nameserver"} {
		values := configs()[kind]
		if kind == "rfc2136" {
			values = object{"nameserver": z.address, "tsig_key_name": "acme", "tsig_secret": "cmZjMjEzNi1TRUNSRVQ="}
		} else {
			values[field] = server.URL
		}
		s, err := New(parse(t, kind, values), egress.Guard{})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Present(t.Context(), "www.example.test", "token.print")
		e, ok := errors.AsType[*Error](err)
		if !ok || !e.Permanent || e.Step != StepPresent {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the private server was asked %d times", n)
	}
}

// An error's text is one line, not long, and without the secret, whatever stands around it.
func FuzzClean(f *testing.F) {
	f.Add("the password is ", " and so on", "hunter22")
	f.Add("Basic ", "\x1b[31m\r\n", "a b\tc d")
	f.Add("hun", "ter22", "hunter22")
	f.Fuzz(func(t *testing.T, before, after, secret string) {
		c, err := dnsprovider.Parse("httpreq", json.RawMessage(encode(object{"endpoint": "https://x.example", "username": "ann", "password": secret})), egress.Guard{})
		if err != nil {
			return
		}
		s := &Solver{secrets: scrubber(c)}
		text := s.clean(errors.New(before + c.Text("password") + after))
		if strings.Contains(text, c.Text("password")) && !strings.Contains("***", c.Text("password")) {
			t.Errorf("%q holds %q", text, secret)
		}
		if strings.ContainsAny(text, "\r\n\x1b") || len([]rune(text)) > maxWhat+1 {
			t.Errorf("%q", text)
		}
	})
}
