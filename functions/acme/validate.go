package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/egress"
)

// prober validates challenges: it asks servers that a stranger names. The guard decides which addresses are reached.
type prober struct {
	guard    egress.Guard
	resolver *net.Resolver
	httpPort string // 80, but in tests
}

// Bounds of an answer to http-01.
const maxKeyAuthorization, maxRedirects = 1 << 10, 10

// probe is nil if a challenge of a name is fulfilled.
func (p prober) probe(ctx context.Context, kind, name, token, keyAuthorization string) *acmeserver.Problem {
	switch kind {
	case acmeserver.HTTP01:
		return p.http01(ctx, name, token, keyAuthorization)
	case acmeserver.DNS01:
		return p.dns01(ctx, name, keyAuthorization)
	}
	return fault(incorrectResponse, "there is no challenge %s", kind)
}

func fault(kind, format string, args ...any) *acmeserver.Problem {
	return &acmeserver.Problem{Kind: kind, Detail: printable(fmt.Sprintf(format, args...))}
}

// unreached tells what kept a server from being asked.
func unreached(what string, err error) *acmeserver.Problem {
	if inner, ok := errors.AsType[*url.Error](err); ok { // it repeats the method and the URL
		err = inner.Err
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return fault(dns, "%s: %s", what, err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault(connection, "%s: no answer within %s", what, patience)
	}
	return fault(connection, "%s: %s", what, err)
}

// http01 asks the name's web server (RFC 8555 §8.3).
func (p prober) http01(ctx context.Context, name, token, keyAuthorization string) *acmeserver.Problem {
	host := name
	if strings.Contains(host, ":") { // IPv6 (RFC 8738 §4)
		host = "[" + host + "]"
	}
	if p.httpPort != "80" {
		host += ":" + p.httpPort
	}
	address := "http://" + host + "/.well-known/acme-challenge/" + token
	if err := p.guard.CheckHostPort(name); err != nil {
		return fault(connection, "%s", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return fault(connection, "%s cannot be asked for", address)
	}
	request.Header.Set("User-Agent", "bb-acme/1")
	transport := &http.Transport{
		DialContext: p.dial,
		// A name that moved to https has no certificate yet, or one that has run out. What is shown is the key
		// authorization, which nobody but the account knows in advance.
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec
		DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
	}
	client := &http.Client{Transport: transport, CheckRedirect: p.checkRedirect}
	response, err := client.Do(request)
	if err != nil {
		return unreached(address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fault(unauthorized, "%s answers %d", response.Request.URL, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeyAuthorization+1))
	if err != nil {
		return unreached(address, err)
	}
	if len(body) > maxKeyAuthorization || strings.TrimRight(string(body), " \t\r\n") != keyAuthorization {
		// Not what it shows: by way of a redirect that is any page that only we can reach.
		return fault(incorrectResponse, "%s does not show the key authorization, but %d other bytes", response.Request.URL, len(body))
	}
	return nil
}

// dial connects where the guard lets it. The name is looked up as it is: a search domain would make it another's.
func (p prober) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil && !strings.HasSuffix(host, ".") {
		address = net.JoinHostPort(host+".", port)
	}
	return p.guard.DialContext(ctx, network, address)
}

// checkRedirect follows to the standard ports of http and https only: anything else could make us speak to services that
// are no web servers.
func (p prober) checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) > maxRedirects {
		return errors.New("it redirects too often")
	}
	u := next.URL
	standard := map[string][]string{"http": {"", "80", p.httpPort}, "https": {"", "443"}}[u.Scheme]
	known := false
	for _, port := range standard {
		known = known || u.Port() == port
	}
	if !known || u.User != nil {
		return fmt.Errorf("it redirects to %.100q, which is not on the standard port of http or https", u.Redacted())
	}
	return p.guard.CheckHostPort(u.Hostname())
}

// dns01 looks the record up (RFC 8555 §8.4). The resolver follows CNAMEs.
func (p prober) dns01(ctx context.Context, name, keyAuthorization string) *acmeserver.Problem {
	digest := sha256.Sum256([]byte(keyAuthorization))
	want := base64.RawURLEncoding.EncodeToString(digest[:])
	record := "_acme-challenge." + name
	values, err := p.resolver.LookupTXT(ctx, record+".")
	if err != nil {
		return unreached("TXT "+record, err)
	}
	for _, value := range values {
		if value == want {
			return nil
		}
	}
	return fault(incorrectResponse, "TXT %s has %d values, and not the one that is wanted", record, len(values))
}
