// Package egress is the guard on connections to addresses that a caller names: the endpoint of a DNS
// provider, a nameserver, a webhook, an ACME directory.
//
// Such an address must not lead into the network that the function stands in, nor to the function itself.
// What counts is the address that is dialled: a name may resolve to one thing when it is checked and
// to another a second later, and a server may redirect. So the dialer decides, after resolution and for each
// address it tries. CheckURL and CheckHostPort only give the caller an early answer.
//
// Addresses come in four classes. Public ones are dialled. Private ones (RFC 1918, RFC 6598, RFC 4193) are dialled
// where the deployment allows it, for servers inside its own network. Loopback is allowed on its own, for the
// stack on one machine: in Lambda the function's own runtime answers there. The rest is never dialled:
// metadata services and other link-local addresses, multicast, and what is reserved.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bounds on what a caller's server may make us do.
const (
	MaxURL       = 2048    // characters of a URL
	MaxBody      = 1 << 20 // bytes of an answer, after decompression
	MaxRedirects = 3
)

// ErrTooLarge ends the reading of an answer beyond MaxBody.
var ErrTooLarge = fmt.Errorf("the answer is larger than %d bytes", MaxBody)

// Refused is an address that is not connected to. Its text is a sentence for the caller.
type Refused struct {
	Address string
	Reason  string
}

func (r *Refused) Error() string { return r.Address + " " + r.Reason }

func refuse(address, reason string) error {
	if len(address) > 100 {
		address = address[:100] + "…"
	}
	return &Refused{strconv.QuoteToASCII(address), reason}
}

// Guard decides what is dialled. The zero Guard lets public addresses through, and HTTPS only.
type Guard struct {
	// AllowPrivate lets private addresses through too, and http. A deployment sets it, never a caller: it
	// opens the whole private network to everybody who may name an address.
	AllowPrivate bool
	// AllowLoopback lets this machine's own addresses through. Nothing that is deployed sets it.
	AllowLoopback bool
	// Resolver answers for names; nil is the system's.
	Resolver *net.Resolver
	// Roots verify HTTPS; nil is the system's.
	Roots *x509.CertPool
}

// Allowing is the guard of a deployment's setting: true allows private addresses, loopback these and the
// machine's own, everything else public ones only.
func Allowing(setting string) Guard {
	return Guard{AllowPrivate: setting == "true" || setting == "loopback", AllowLoopback: setting == "loopback"}
}

// Trusting is a guard that verifies HTTPS by roots in PEM as well as by the system's, for servers that the
// deployment names and whose CA is its own. Empty adds none.
func (g Guard) Trusting(roots string) (Guard, error) {
	if strings.TrimSpace(roots) == "" {
		return g, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return g, fmt.Errorf("the system's root certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM([]byte(roots)) {
		return g, errors.New("the root certificates to trust are not PEM")
	}
	g.Roots = pool
	return g, nil
}

// never are the addresses of IPv4 that lead to no server of anybody's.
var never = prefixes(
	"0.0.0.0/8",          // this host (RFC 791)
	"169.254.0.0/16",     // link-local (RFC 3927), with the metadata services
	"192.0.0.0/24",       // protocol assignments (RFC 6890)
	"192.0.2.0/24",       // documentation (RFC 5737)
	"192.88.99.0/24",     // 6to4 relays (RFC 7526)
	"198.18.0.0/15",      // benchmarks (RFC 2544)
	"198.51.100.0/24",    // documentation
	"203.0.113.0/24",     // documentation
	"224.0.0.0/4",        // multicast (RFC 5771)
	"240.0.0.0/4",        // reserved, and broadcast (RFC 1112, RFC 919)
	"100.100.100.200/32", // Alibaba's metadata service, inside RFC 6598
	"fd00:ec2::/32",      // Amazon's metadata and name services over IPv6, inside RFC 4193
)

var private = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // RFC 1918
	"100.64.0.0/10",    // carrier-grade NAT (RFC 6598)
	"fc00::/7",         // unique local (RFC 4193)
	"168.63.129.16/32", // Azure's host, a public number reachable from inside only
)

var loopback = prefixes("127.0.0.0/8", "::1/128")

// Of IPv6 only global unicast is public, less these. Everything else is refused unnamed: link-local, multicast,
// IPv4-compatible, site-local, discard, segment routing and what is not assigned yet.
var (
	global    = netip.MustParsePrefix("2000::/3")
	notGlobal = prefixes(
		"2001::/23",     // protocol assignments, with Teredo and ORCHID (RFC 6890)
		"2001:db8::/32", // documentation (RFC 3849)
		"2002::/16",     // 6to4, which holds an IPv4 address (RFC 3056)
		"3fff::/20",     // documentation (RFC 9637)
	)
	nat64 = netip.MustParsePrefix("64:ff9b::/96") // holds an IPv4 address (RFC 6052)
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// CheckAddr decides about one address.
func (g Guard) CheckAddr(a netip.Addr) error {
	text := a.String()
	if a.Zone() != "" {
		return refuse(text, "is an address of one link only.")
	}
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case within(never, a):
		return refuse(text, "is an address that leads to no server: link-local, reserved or multicast.")
	case within(loopback, a):
		if !g.AllowLoopback {
			return refuse(text, "is this server itself. Give an address that can be reached from the internet.")
		}
	case within(private, a):
		if !g.AllowPrivate {
			return refuse(text, "is a private address. Give one that can be reached from the internet.")
		}
	case a.Is6() && (!global.Contains(a) || within(notGlobal, a)), !a.IsValid():
		return refuse(text, "is not a public address.")
	}
	return nil
}

// DialContext is net.Dialer's, with each address checked after the name was resolved and before the
// first packet is sent.
func (g Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout:  10 * time.Second,
		Resolver: g.Resolver,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") && !strings.HasPrefix(network, "udp") {
				return refuse(network, "is no network of the internet.")
			}
			target, err := netip.ParseAddrPort(address)
			if err != nil {
				return refuse(address, "is not an address and a port.")
			}
			return g.CheckAddr(target.Addr())
		},
	}
	return dialer.DialContext(ctx, network, address)
}

// Client is an HTTP client for callers' servers. It uses no proxy of the environment, reads no more
// than MaxBody, and follows redirects only on the same host and never from https to http: a redirect repeats
// headers and body, and both may hold the caller's secret.
func (g Guard) Client(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &guarded{guard: g, next: &http.Transport{
			DialContext:            g.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: g.Roots},
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        30 * time.Second,
		}},
		CheckRedirect: func(next *http.Request, before []*http.Request) error {
			last := before[len(before)-1]
			switch {
			case len(before) > MaxRedirects:
				return refuse(next.URL.Host, "redirected too often.")
			case last.URL.Scheme == "https" && next.URL.Scheme != "https":
				return refuse(next.URL.Host, "is a redirect from https to http.")
			case !strings.EqualFold(next.URL.Hostname(), last.URL.Hostname()):
				return refuse(next.URL.Host, "is a redirect to another host. Give that address itself.")
			}
			return nil
		},
	}
}

// guarded is the http.RoundTripper of a Client. It also holds each request to CheckURL, the first as well as
// those after a redirect.
type guarded struct {
	guard Guard
	next  *http.Transport
}

func (t *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	err := t.guard.CheckURL(r.URL.String())
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	response, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if response.ContentLength > MaxBody {
		_ = response.Body.Close()
		return nil, ErrTooLarge
	}
	response.Body = &bounded{body: response.Body, left: MaxBody}
	return response, nil
}

// CloseIdleConnections lets http.Client's method of that name reach the transport.
func (t *guarded) CloseIdleConnections() { t.next.CloseIdleConnections() }

// bounded is a body that ends with ErrTooLarge after left bytes. io.LimitReader would end it as if it were whole.
type bounded struct {
	body io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	// One byte more than is left tells a body of just the size from a larger one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n - 1, ErrTooLarge
	}
	return n, err
}

func (b *bounded) Close() error { return b.body.Close() }

// CheckURL tells whether a Client would send a request to raw, as far as that can be told without
// resolving its name.
func (g Guard) CheckURL(raw string) error {
	if len(raw) > MaxURL {
		return refuse("the URL", fmt.Sprintf("is longer than %d characters.", MaxURL))
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || !printable(raw):
		// Neither the URL nor url.Error, which repeats it, is shown: there may be a password in it.
		return refuse("the URL", "is not a URL such as https://dns.example.org/api.")
	case u.User != nil:
		return refuse("the URL", "holds a user or password. Give them as fields of their own.")
	case u.Scheme != "https" && (!g.AllowPrivate || u.Scheme != "http"):
		return refuse(u.Scheme+"://"+u.Host, "is not an https URL.")
	case u.Opaque != "" || u.Host == "":
		return refuse("the URL", "names no host.")
	case u.Fragment != "":
		return refuse(u.Host, "is followed by a fragment (#…), which no server sees. Leave it out.")
	}
	if strings.HasSuffix(u.Host, ":") || !validPort(u.Port()) {
		return refuse(u.Host, "has no port from 1 to 65535 after its colon.")
	}
	return g.checkHost(u.Hostname())
}

// CheckHostPort does the same for host, host:port, address, address:port or [address]:port.
func (g Guard) CheckHostPort(raw string) error {
	if !printable(raw) {
		return refuse(raw, "is not a host name or an address.")
	}
	if a, err := netip.ParseAddr(raw); err == nil {
		return g.CheckAddr(a)
	}
	if strings.Contains(raw, ":") {
		host, port, err := net.SplitHostPort(raw)
		if err != nil || port == "" || !validPort(port) {
			return refuse(raw, "is not a host and a port such as ns1.example.org:53.")
		}
		raw = host
	}
	return g.checkHost(raw)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && port[0] != '0'
}

var (
	hostShape = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
	// The last label of a name is no number in any base; if it is, inet_aton(3) and browsers read the
	// whole as an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1.
	numeric = regexp.MustCompile(`(?i)(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

func (g Guard) checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return g.CheckAddr(a)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	switch {
	case len(name) > 253 || !hostShape.MatchString(name):
		return refuse(host, "is not a host name. Write one with other letters as xn--….")
	case numeric.MatchString(name):
		return refuse(host, "is not a host name, nor an IP address in its usual form.")
	case g.AllowPrivate:
		return nil
	case !strings.Contains(name, "."), hasSuffix(name, "localhost", "local", "internal", "home.arpa", "in-addr.arpa", "ip6.arpa"):
		return refuse(host, "is a name of a private network. Give one that can be reached from the internet.")
	}
	return nil
}

func hasSuffix(name string, domains ...string) bool {
	for _, d := range domains {
		if name == d || strings.HasSuffix(name, "."+d) {
			return true
		}
	}
	return false
}

// IsRefused tells a refusal from other failures of a request or dial.
func IsRefused(err error) bool {
	_, ok := errors.AsType[*Refused](err)
	return ok
}

// Resolver asks the first of the operator's DNS servers (host:port), or the system's if there are none.
func Resolver(servers []string) *net.Resolver {
	if len(servers) == 0 {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, servers[0])
	}}
}
