// Package acmeaccount is users' accounts at ACME CAs: which CA, under which key, bound to what.
package acmeaccount

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cjj365.cc/bb/shared/sealed"
)

// Account is an account at a CA.
type Account struct {
	User, ID  int64
	Name      string
	Email     string // the CA's contact; empty for none
	Provider  string // its name in the table of providers
	Directory string // URL; empty for a private CA
	CA        int64  // a private CA of the user; 0 for a public one

	URL     string // at the CA (its key id, RFC 8555 §6.2); empty until registered
	Key     sealed.Secret
	EABKey  string        // key id of the external account binding; empty for none
	EABMAC  sealed.Secret // its HMAC key
	Failure string        // why the last registration failed; empty if it did not

	KeyType  string        // of certificates that name none
	Validity time.Duration // of certificates of a private CA; 0 for its profile's

	Certificates int64 // that use the account
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// SelfCA is the provider of accounts at a private CA.
const SelfCA = "SELF_CA"

// Provider is a CA that accounts can be at.
type Provider struct {
	Name      string
	Directory string
	Title     string
	Binding   bool // needs an external account binding
}

// public are the CAs that everybody may use.
var public = []Provider{
	{"letsencrypt", "https://acme-v02.api.letsencrypt.org/directory", "Let's Encrypt", false},
	{"letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory", "Let's Encrypt (staging: certificates that nobody trusts)", false},
	{"zerossl", "https://acme.zerossl.com/v2/DV90", "ZeroSSL", true},
	{"google", "https://dv.acme-v02.api.pki.goog/directory", "Google Trust Services", true},
}

// Providers is the CAs of a deployment, by name in lower case.
type Providers map[string]Provider

// ParseProviders adds what an operator allows to the public ones, each as name=directory-URL. A name of the public
// ones takes its place.
func ParseProviders(operators []string) (Providers, error) {
	all := Providers{}
	for _, p := range public {
		all[p.Name] = p
	}
	for _, entry := range operators {
		name, url, ok := strings.Cut(entry, "=")
		name = strings.ToLower(name)
		if !ok || name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || !strings.HasPrefix(url, "https://") {
			return nil, fmt.Errorf("ACME directories: %q is not of the form name=https://…", entry)
		}
		all[name] = Provider{Name: name, Directory: url, Title: name}
	}
	return all, nil
}

// Find finds a provider by its name in any case, with _ for -.
func (p Providers) Find(name string) (Provider, bool) {
	name = strings.ToLower(name)
	if found, ok := p[name]; ok {
		return found, true
	}
	found, ok := p[strings.ReplaceAll(name, "_", "-")]
	return found, ok
}

// At finds a provider by the URL of its directory.
func (p Providers) At(directory string) (Provider, bool) {
	for _, name := range p.Names() {
		if p[name].Directory == directory {
			return p[name], true
		}
	}
	return Provider{}, false
}

// Names lists them.
func (p Providers) Names() []string { return slices.Sorted(maps.Keys(p)) }
