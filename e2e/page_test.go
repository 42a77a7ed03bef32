package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// TestThePageShowsTheDescription opens /docs in a browser: it must find the description and draw it.
func TestThePageShowsTheDescription(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium on this machine: /docs was not opened in a browser")
	}
	command := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--virtual-time-budget=20000", "--dump-dom", shared.URL+"/docs")
	page, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Create an API key", "Give an API key a new token", "Who the credential is", "/auth/refresh"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if strings.Contains(string(page), "Failed to load") {
		t.Error("the page did not find the description")
	}
}
