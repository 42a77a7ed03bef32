package acme

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Identifier is a name in an order (RFC 8555 §9.7.7).
type Identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Status is that of an order, an authorization or a challenge (RFC 8555 §7.1.6).
type Status string

// The statuses there are.
const (
	Pending     Status = "pending"
	Ready       Status = "ready"
	Processing  Status = "processing"
	Valid       Status = "valid"
	Invalid     Status = "invalid"
	Deactivated Status = "deactivated"
	Expired     Status = "expired"
	Revoked     Status = "revoked"
)

// Order is an order as the CA has it.
type Order struct {
	URL            string        `json:"-"`
	RetryAfter     time.Duration `json:"-"` // 0 if the CA does not say when to look again
	Status         Status        `json:"status"`
	Identifiers    []Identifier  `json:"identifiers"`
	Authorizations []string      `json:"authorizations"`
	Finalize       string        `json:"finalize"`
	Certificate    string        `json:"certificate"`
	Problem        *Problem      `json:"error"`
}

// Authorization is one name's part of an order.
type Authorization struct {
	URL        string        `json:"-"`
	RetryAfter time.Duration `json:"-"`
	Identifier Identifier    `json:"identifier"`
	Status     Status        `json:"status"`
	Wildcard   bool          `json:"wildcard"`
	Challenges []Challenge   `json:"challenges"`
}

// Challenge is a way to prove control of a name.
type Challenge struct {
	Type    string   `json:"type"`
	URL     string   `json:"url"`
	Token   string   `json:"token"`
	Status  Status   `json:"status"`
	Problem *Problem `json:"error"`
}

// Name is the name as it stands in the order, with the asterisk of a wildcard.
func (a Authorization) Name() string {
	if a.Wildcard {
		return "*." + a.Identifier.Value
	}
	return a.Identifier.Value
}

// DNS01 is the authorization's dns-01 challenge. Its token is checked: it becomes part of what we sign.
func (a Authorization) DNS01() (Challenge, bool) {
	for _, c := range a.Challenges {
		if c.Type == "dns-01" && c.Token != "" && len(c.Token) < 256 && strings.Trim(c.Token, tokenAlphabet) == "" {
			return c, true
		}
	}
	return Challenge{}, false
}

const tokenAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Wish is what an order asks for.
type Wish struct {
	Names    []string
	Profile  string // of the CA's directory; empty for its default
	Replaces string // ARI certificate id of the certificate that this one takes the place of (RFC 9773 §5)
}

// NewOrder opens an order.
func (c *Client) NewOrder(ctx context.Context, by Account, w Wish) (Order, error) {
	d, err := c.Directory(ctx)
	if err != nil {
		return Order{}, err
	}
	request := map[string]any{"identifiers": identifiers(w.Names)}
	if w.Profile != "" {
		request["profile"] = w.Profile
	}
	if w.Replaces != "" && d.RenewalInfo != "" {
		request["replaces"] = w.Replaces
	}
	var o Order
	a, err := c.post(ctx, by, d.NewOrder, request, &o)
	// That this one replaces another is worth less than that there is one: a CA that may have refused the order
	// for it (another replaced it before, RFC 9773 §5, it is another account's, or the CA does not find it, which
	// Pebble has as serverInternal for one serial number in 256) is asked without.
	if w.Replaces != "" && mayBeForReplaces(err) {
		delete(request, "replaces")
		a, err = c.post(ctx, by, d.NewOrder, request, &o)
	}
	if err != nil {
		return Order{}, fmt.Errorf("open the order: %w", err)
	}
	o.URL, o.RetryAfter = a.location, a.retryAfter
	if o.URL == "" || !same(o.Identifiers, w.Names) {
		return Order{}, &Problem{Type: notACME, Detail: "the CA opened an order for other names", Status: http.StatusCreated}
	}
	return o, nil
}

// mayBeForReplaces tells a refusal that says what else it is for.
func mayBeForReplaces(err error) bool {
	var p *Problem
	if !errors.As(err, &p) || p.RetryAfter > 0 || p.Type == notACME || p.Status == http.StatusTooManyRequests || p.Status > http.StatusInternalServerError {
		return false
	}
	for _, other := range []string{
		"rateLimited", "badNonce", "accountDoesNotExist", "rejectedIdentifier", "unsupportedIdentifier", "caa", "invalidProfile", "userActionRequired",
	} {
		if Is(p, other) {
			return false
		}
	}
	return true
}

func identifiers(names []string) []Identifier {
	list := make([]Identifier, len(names))
	for i, name := range names {
		list[i] = Identifier{"dns", name}
	}
	return list
}

// same tells whether an order is for exactly the names.
func same(list []Identifier, names []string) bool {
	got := map[string]bool{}
	for _, id := range list {
		got[strings.ToLower(id.Value)] = true
	}
	return len(got) == len(names) && !slices.ContainsFunc(names, func(name string) bool { return !got[name] })
}

// Order reads an order.
func (c *Client) Order(ctx context.Context, by Account, at string) (Order, error) {
	var o Order
	a, err := c.post(ctx, by, at, nil, &o)
	if err != nil {
		return Order{}, fmt.Errorf("read the order: %w", err)
	}
	o.URL, o.RetryAfter = at, a.retryAfter
	return o, nil
}

// maxListed and maxPages bound the search in an account's orders.
const maxListed, maxPages = 2000, 700

// LostOrder looks in the account's list of orders (RFC 8555 §7.1.2.1) for an unfinished one for the names,
// one whose URL was lost before it could be kept. CAs without such a list (Let's Encrypt) give the same
// order again when it is asked for again, so there false is no loss.
func (c *Client) LostOrder(ctx context.Context, by Account, names []string) (Order, bool, error) {
	var account struct {
		Orders string `json:"orders"`
	}
	if _, err := c.post(ctx, by, by.URL, nil, &account); err != nil {
		return Order{}, false, fmt.Errorf("read the account: %w", err)
	}
	if account.Orders == "" {
		return Order{}, false, nil
	}
	var urls []string
	for page, pages := account.Orders, 0; page != "" && len(urls) < maxListed && pages < maxPages; pages++ {
		var list struct {
			Orders []string `json:"orders"`
		}
		a, err := c.post(ctx, by, page, nil, &list)
		var p *Problem
		if errors.As(err, &p) { // advertised and not there
			return Order{}, false, nil
		}
		if err != nil {
			return Order{}, false, fmt.Errorf("list the account's orders: %w", err)
		}
		urls = append(urls, list.Orders...)
		page = resolve(page, a.next)
	}
	for i := len(urls) - 1; i >= 0 && i >= len(urls)-50; i-- { // the newest come last
		o, err := c.Order(ctx, by, urls[i])
		var p *Problem
		if errors.As(err, &p) {
			continue
		}
		if err != nil {
			return Order{}, false, err
		}
		if (o.Status == Pending || o.Status == Ready) && same(o.Identifiers, names) {
			return o, true, nil
		}
	}
	return Order{}, false, nil
}

func resolve(base, reference string) string {
	if reference == "" {
		return ""
	}
	b, err := url.Parse(base)
	if err != nil {
		return ""
	}
	u, err := b.Parse(reference)
	if err != nil {
		return ""
	}
	return u.String()
}

// next is the target of Link: <…>;rel="next".
func next(h http.Header) string {
	for _, link := range h.Values("Link") {
		for part := range strings.SplitSeq(link, ",") {
			target, parameters, ok := strings.Cut(part, ">")
			if ok && strings.Contains(strings.ReplaceAll(parameters, `"`, ""), "rel=next") {
				return strings.TrimPrefix(strings.TrimSpace(target), "<")
			}
		}
	}
	return ""
}

// Authorization reads one of an order's authorizations.
func (c *Client) Authorization(ctx context.Context, by Account, at string) (Authorization, error) {
	var z Authorization
	a, err := c.post(ctx, by, at, nil, &z)
	if err != nil {
		return Authorization{}, fmt.Errorf("read an authorization: %w", err)
	}
	z.URL, z.RetryAfter = at, a.retryAfter
	return z, nil
}

// Accept tells the CA that a challenge can be checked.
func (c *Client) Accept(ctx context.Context, by Account, challenge Challenge) error {
	if _, err := c.post(ctx, by, challenge.URL, struct{}{}, nil); err != nil {
		return fmt.Errorf("answer a challenge: %w", err)
	}
	return nil
}

// Finalize hands in the certification request (PKCS#10, DER) of an order that is ready.
func (c *Client) Finalize(ctx context.Context, by Account, o Order, csr []byte) (Order, error) {
	finalized := Order{}
	a, err := c.post(ctx, by, o.Finalize, map[string]string{"csr": base64.RawURLEncoding.EncodeToString(csr)}, &finalized)
	if err != nil {
		return Order{}, fmt.Errorf("finalize the order: %w", err)
	}
	finalized.URL, finalized.RetryAfter = o.URL, a.retryAfter
	return finalized, nil
}

// Certificate reads the chain of an order that is valid: PEM, the leaf first.
func (c *Client) Certificate(ctx context.Context, by Account, o Order) ([]byte, error) {
	a, err := c.post(ctx, by, o.Certificate, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("download the certificate: %w", err)
	}
	return a.body, nil
}

// Revoke revokes a certificate (DER) of the account, for a reason of RFC 5280 §5.3.1. One that is revoked
// already is no error.
func (c *Client) Revoke(ctx context.Context, by Account, der []byte, reason int) error {
	d, err := c.Directory(ctx)
	if err != nil {
		return err
	}
	request := map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(der), "reason": reason}
	if _, err := c.post(ctx, by, d.RevokeCert, request, nil); err != nil && !Is(err, "alreadyRevoked") {
		return fmt.Errorf("revoke the certificate: %w", err)
	}
	return nil
}

// Window is when the CA wants a certificate renewed (RFC 9773 §4.2).
type Window struct {
	Start, End time.Time
	RetryAfter time.Duration // when to ask again; 0 if the CA does not say
}

// ErrNoRenewalInfo is the error of a CA that never says when to renew.
var ErrNoRenewalInfo = errors.New("the CA has no renewal information")

// RenewalInfo asks when to renew the certificate of an ARI id; false if the CA does not say. ErrNoRenewalInfo if
// it never does.
func (c *Client) RenewalInfo(ctx context.Context, id string) (Window, bool, error) {
	d, err := c.Directory(ctx)
	if err != nil {
		return Window{}, false, err
	}
	if d.RenewalInfo == "" {
		return Window{}, false, ErrNoRenewalInfo
	}
	var info struct {
		Window struct {
			Start time.Time `json:"start"`
			End   time.Time `json:"end"`
		} `json:"suggestedWindow"`
	}
	a, err := c.get(ctx, strings.TrimSuffix(d.RenewalInfo, "/")+"/"+id, &info)
	if err != nil {
		return Window{}, false, fmt.Errorf("ask when to renew: %w", err)
	}
	w := Window{info.Window.Start, info.Window.End, a.retryAfter}
	if w.Start.IsZero() || !w.End.After(w.Start) { // RFC 9773 §4.2: as if there were none
		return Window{}, false, nil
	}
	return w, true, nil
}
