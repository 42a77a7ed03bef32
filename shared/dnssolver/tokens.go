package dnssolver

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"

	"golang.org/x/oauth2"
)

// tokens is a transport that adds an OAuth 2 token.
type tokens struct {
	next   http.RoundTripper
	client *http.Client
	fetch  func(context.Context) oauth2.TokenSource

	mutex sync.Mutex
	token *oauth2.Token
}

func (t *tokens) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.get(r.Context())
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	r = r.Clone(r.Context())
	token.SetAuthHeader(r)
	return t.next.RoundTrip(r)
}

func (t *tokens) get(ctx context.Context) (*oauth2.Token, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.token.Valid() {
		return t.token, nil
	}
	token, err := t.fetch(context.WithValue(ctx, oauth2.HTTPClient, t.client)).Token()
	if err == nil {
		t.token = token
	}
	return token, err
}

// with and without edit a set of values.
func with(values []string, value string) []string {
	if slices.Contains(values, value) {
		return values
	}
	return append(slices.Clone(values), value)
}

func without(values []string, value string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == value })
}

// settle repeats a change that lost against another one of the same set: an order for many names makes them at once.
func settle(change func() error) error {
	var err error
	for range 5 {
		err = change()
		if s := status(err); s != http.StatusConflict && s != http.StatusPreconditionFailed {
			return err
		}
	}
	return err
}

// zoneMissing tells a set that is not there from a zone, group or subscription that is not.
func zoneMissing(err error) bool {
	e, ok := err.(*statusError)
	return ok && e.Status == http.StatusNotFound && (strings.Contains(e.Body, "ParentResourceNotFound") || strings.Contains(e.Body, "ResourceGroupNotFound") || strings.Contains(e.Body, "SubscriptionNotFound"))
}
