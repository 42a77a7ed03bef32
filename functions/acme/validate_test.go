package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/egress"
)

// web serves on a port of its own; the prober takes that for port 80.
func (w *world) web(h http.Handler) {
	w.Helper()
	server := httptest.NewServer(h)
	w.Cleanup(server.Close)
	_, w.h.prober.httpPort, _ = net.SplitHostPort(server.Listener.Addr().String())
}

func TestHTTP01(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a.test", "www.a.test"} {
		w.names.add(t, name+". 60 IN A 127.0.0.1")
	}
	w.names.add(t, "private.test. 60 IN A 10.0.0.1")
	w.names.add(t, "metadata.test. 60 IN A 169.254.169.254")
	const token, authorization = "TOKEN", "TOKEN.thumbprint"
	var show http.HandlerFunc
	w.web(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { show(rw, r) }))
	port := w.h.prober.httpPort
	path := "/.well-known/acme-challenge/" + token
	says := func(body string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				fmt.Fprint(rw, body)
			} else {
				http.NotFound(rw, r)
			}
		}
	}
	to := func(url string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Host, "www.") {
				fmt.Fprint(rw, authorization)
			} else {
				http.Redirect(rw, r, url, http.StatusFound)
			}
		}
	}
	loop := func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, r.URL.Path, http.StatusFound) }
	open, closed := egress.Allowing("loopback"), egress.Guard{}
	for _, test := range []struct {
		name, host, want string
		guard            egress.Guard
		show             http.HandlerFunc
	}{
		{"as it should be", "a.test", "", open, says(authorization)},
		{"with a line break at the end", "a.test", "", open, says(authorization + "\r\n")},
		{"an address", "127.0.0.1", "", open, says(authorization)},
		{"a redirect to another host", "a.test", "", open, to("http://www.a.test:" + port + path)},
		{"the token alone", "a.test", incorrectResponse, open, says(token)},
		{"another account's", "a.test", incorrectResponse, open, says(token + ".other")},
		{"something before it", "a.test", incorrectResponse, open, says(" " + authorization)},
		{"too long", "a.test", incorrectResponse, open, says(authorization + strings.Repeat(" ", maxKeyAuthorization))},
		{"nothing there", "a.test", unauthorized, open, http.NotFound},
		{"redirects without end", "a.test", connection, open, loop},
		{"a redirect to another port", "a.test", connection, open, to("http://www.a.test:22/")},
		{"a redirect to another scheme", "a.test", connection, open, to("ftp://www.a.test/")},
		{"a redirect with a password", "a.test", connection, open, to("http://a:b@www.a.test:" + port + path)},
		{"a redirect to the metadata service", "a.test", connection, open, to("http://169.254.169.254/latest/meta-data")},
		{"a redirect to a name of it", "a.test", connection, open, to("http://metadata.test:" + port + "/")},
		{"a name that is not", "no.test", dns, open, says(authorization)},
		{"this server itself, where that is not allowed", "a.test", connection, closed, says(authorization)},
		{"its address", "127.0.0.1", connection, closed, says(authorization)},
		{"a private address, where that is not allowed", "private.test", connection, closed, says(authorization)},
		{"a private name, where that is not allowed", "printer", connection, closed, says(authorization)},
		{"the metadata service", "metadata.test", connection, open, says(authorization)},
	} {
		show = test.show
		p := w.h.prober
		p.guard = test.guard
		p.guard.Resolver = w.names.resolver()
		got := ""
		failed := p.probe(t.Context(), "http-01", test.host, token, authorization)
		if failed != nil {
			got = failed.Kind
		}
		if got != test.want {
			t.Errorf("%s: %+v, want %q", test.name, failed, test.want)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	show = func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }
	if failed := w.h.prober.probe(ctx, "http-01", "a.test", token, authorization); failed == nil || failed.Kind != connection {
		t.Errorf("a server that does not answer: %+v", failed)
	}
}

func TestDNS01(t *testing.T) {
	w := newWorld(t)
	const authorization = "TOKEN.thumbprint"
	digest := sha256.Sum256([]byte(authorization))
	value := base64.RawURLEncoding.EncodeToString(digest[:])
	w.names.add(t, `_acme-challenge.a.test. 60 IN TXT "other"`)
	w.names.add(t, `_acme-challenge.a.test. 60 IN TXT "`+value+`"`)
	w.names.add(t, `_acme-challenge.b.test. 60 IN CNAME b.delegated.test.`)
	w.names.add(t, `b.delegated.test. 60 IN TXT "`+value+`"`)
	w.names.add(t, `_acme-challenge.wrong.test. 60 IN TXT "`+authorization+`"`)
	w.names.add(t, `_acme-challenge.none.test. 60 IN A 127.0.0.1`)
	for name, want := range map[string]string{"a.test": "", "b.test": "", "wrong.test": incorrectResponse, "none.test": dns, "no.test": dns} {
		got := ""
		failed := w.h.prober.probe(t.Context(), "dns-01", name, "TOKEN", authorization)
		if failed != nil {
			got = failed.Kind
		}
		if got != want {
			t.Errorf("%s: %+v, want %q", name, failed, want)
		}
	}
}

// keyAuthorization is what a challenge of the account's must show.
func (c *client) keyAuthorization(token string) string {
	c.Helper()
	print, err := thumbprint(c.key.Public())
	c.must(err)
	return token + "." + print
}

func TestAnOrderIsReadyWhenItsChallengesAreDone(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind("lab.test"))
	shown := map[string]string{} // by host and token
	w.web(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, shown[r.Host+r.URL.Path]) }))
	w.names.add(t, "web.test. 60 IN A 127.0.0.1")
	o := c.order("pending", "a.lab.test", "web.test", "*.wild.test")
	for i, kind := range []string{"", "http-01", "dns-01"} {
		a := c.want("200", o.Authorizations[i], nil)
		for _, challenge := range a.Challenges {
			if challenge.Type != kind {
				continue
			}
			authorization := c.keyAuthorization(challenge.Token)
			shown["web.test:"+w.h.prober.httpPort+"/.well-known/acme-challenge/"+challenge.Token] = authorization
			digest := sha256.Sum256([]byte(authorization))
			w.names.add(t, `_acme-challenge.wild.test. 60 IN TXT "`+base64.RawURLEncoding.EncodeToString(digest[:])+`"`)
			if r := c.want("200", challenge.URL, map[string]any{}); r.Status != "valid" || !strings.Contains(r.text, `"validated"`) {
				t.Errorf("%s", r)
			}
			if r := c.want("200", o.Authorizations[i], nil); r.Status != "valid" || len(r.Challenges) != 1 || r.Challenges[0].Type != kind {
				t.Errorf("%s", r)
			}
		}
	}
	if o := c.want("200", o.header.Get("Location"), nil); o.Status != "ready" {
		t.Errorf("%s", o)
	}
	csr, _ := makeCSR("a.lab.test", "web.test", "*.wild.test")
	c.download(c.want("200", o.Finalize, map[string]string{"csr": csr}))
}

func TestAnOrderEndsWithAFailedChallenge(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind())
	w.web(http.NotFoundHandler())
	w.names.add(t, "web.test. 60 IN A 127.0.0.1")
	o := c.order("pending", "web.test", "other.test")
	a := c.want("200", o.Authorizations[0], nil)
	r := c.want("200", a.Challenges[0].URL, map[string]any{})
	if r.Status != "invalid" || r.Error.Type != namespace+"unauthorized" || !strings.Contains(r.Error.Detail, "404") {
		t.Errorf("%s", r)
	}
	if again := c.want("200", a.Challenges[0].URL, map[string]any{}); again.text != r.text {
		t.Errorf("%s", again)
	}
	if r := c.want("200", a.Challenges[1].URL, map[string]any{}); r.Status != "pending" { // too late
		t.Errorf("%s", r)
	}
	if a := c.want("200", o.Authorizations[0], nil); a.Status != "invalid" || len(a.Challenges) != 1 {
		t.Errorf("%s", a)
	}
	if o := c.want("200", o.header.Get("Location"), nil); o.Status != "invalid" {
		t.Errorf("%s", o)
	}
	csr, _ := makeCSR("web.test", "other.test")
	c.want("403 orderNotReady", o.Finalize, map[string]string{"csr": csr})
}

func TestManyChallengesAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.register(w.bind())
	var hosts []string
	for i := range 8 {
		hosts = append(hosts, fmt.Sprintf("n%d.test", i))
		w.names.add(t, hosts[i]+". 60 IN A 127.0.0.1")
	}
	print, err := thumbprint(c.key.Public())
	w.must(err)
	w.web(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]+"."+print)
	}))
	o := c.order("pending", hosts...)
	answers := make(chan reply, len(hosts))
	for i := range hosts {
		a := c.want("200", o.Authorizations[i], nil)
		go func() { answers <- c.post(a.Challenges[0].URL, map[string]any{}) }()
	}
	for range hosts {
		if r := <-answers; r.Status != "valid" {
			t.Errorf("%s", r)
		}
	}
	if o := c.want("200", o.header.Get("Location"), nil); o.Status != "ready" {
		t.Errorf("%s", o)
	}
}
