package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// browse opens an address in a browser, and gives the page as it is when its scripts have run.
func browse(t *testing.T, address string) string {
	t.Helper()
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium on this machine: no page was opened in a browser")
	}
	command := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--virtual-time-budget=20000", "--dump-dom", address)
	page, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestThePageShowsTheDescription opens /docs in a browser: it must find the description and draw it.
func TestThePageShowsTheDescription(t *testing.T) {
	page := browse(t, shared.URL+"/docs")
	for _, want := range []string{"Create an API key", "Give an API key a new token", "Who the credential is", "/auth/refresh"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Contains(page, "Failed to load") {
		t.Error("the page did not find the description")
	}
}

// TestThePageOfDevices opens /device as the device's link has it: nobody is logged in, so that it asks for that, and the
// code is filled in.
func TestThePageOfDevices(t *testing.T) {
	page := browse(t, shared.URL+"/device?user_code=K7QM-2XRD")
	if !strings.Contains(page, `<form id="login">`) || !strings.Contains(page, `<form id="decide" hidden="">`) {
		t.Errorf("it does not ask to log in: %s", page)
	}
	r := shared.mustCall(t, "GET", "/device", "")
	if policy := r.Header.Get("Content-Security-Policy"); r.Status != 200 || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
		t.Errorf("%d %v", r.Status, r.Header)
	}
	// By script alone, as a person would: the page runs in the browser, with its policy, and does what its buttons do.
	owner := shared.login(t)
	var started struct {
		UserCode   string `json:"user_code"`
		DeviceCode string `json:"device_code"`
	}
	if err := json.Unmarshal(wants(t, 200, shared.mustCall(t, "POST", "/auth/device", `{"action":"device_start"}`)).Data, &started); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(&person{cookie: strings.TrimPrefix(owner, "Cookie: "), to: shared.URL})
	defer front.Close()
	page = browse(t, front.URL+"/device?user_code="+started.UserCode)
	if !strings.Contains(page, "The device is approved.") || !strings.Contains(page, shared.Email) {
		t.Errorf("it does not approve: %s", page)
	}
	r = wants(t, 200, shared.mustCall(t, "POST", "/auth/device", `{"action":"device_poll","device_code":"`+started.DeviceCode+`"}`))
	if !strings.Contains(string(r.Body), `"ready"`) {
		t.Errorf("%s", r.Body)
	}
}

// person stands between a browser and the stack, is logged in, and presses the button once the page is ready: a script
// of its own beside the page's, whose policy it widens by that.
type person struct{ cookie, to string }

const press = `new MutationObserver(() => document.getElementById("decide").hidden || document.getElementById("approve").click()).observe(document.getElementById("decide"), {attributes: true});`

func (p *person) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, err := url.Parse(p.to)
	if err != nil {
		panic(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(q *httputil.ProxyRequest) {
			q.SetURL(to)
			q.Out.Header.Set("Cookie", p.cookie)
			q.Out.Header.Del("Accept-Encoding")
			if q.Out.Header.Get("Origin") != "" { // the page's own, as the stack knows it
				q.Out.Header.Set("Origin", p.to)
			}
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.Request.URL.Path != "/device" {
				return nil
			}
			text, err := io.ReadAll(answer.Body)
			if err != nil {
				return err
			}
			digest := sha256.Sum256([]byte(press))
			policy := answer.Header.Get("Content-Security-Policy")
			answer.Header.Set("Content-Security-Policy", strings.Replace(policy, "script-src ", "script-src 'sha256-"+base64.StdEncoding.EncodeToString(digest[:])+"' ", 1))
			text = []byte(strings.Replace(string(text), "</main>", "</main><script>"+press+"</script>", 1))
			answer.Body, answer.ContentLength = io.NopCloser(strings.NewReader(string(text))), int64(len(text))
			answer.Header.Set("Content-Length", strconv.Itoa(len(text)))
			return nil
		},
	}
	proxy.ServeHTTP(w, r)
}
