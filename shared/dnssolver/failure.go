package dnssolver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/aws/smithy-go"
	"github.com/miekg/dns"
	"github.com/ovh/go-ovh/ovh"
	"golang.org/x/oauth2"

	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/egress"
)

// Step is where a challenge failed.
type Step string

// The steps.
const (
	StepConfigure Step = "configure"
	StepPresent   Step = "present"
	StepPropagate Step = "propagate"
	StepCleanUp   Step = "cleanup"
)

// Error is a failure that may be shown to the provider's owner.
type Error struct {
	Step Step
	Kind string
	What string // holds no secret
	// Permanent says that trying again does not help before somebody changes something: the credentials
	// are refused, the zone is not there, the address is not allowed. What is not known to be so is passing.
	Permanent  bool
	RetryAfter time.Duration // what the provider asked for; 0 if it did not

	cause error // only a context's
}

func (e *Error) Error() string { return fmt.Sprintf("dns %s: %s: %s", e.Kind, e.Step, e.What) }

// Unwrap gives context.Canceled or context.DeadlineExceeded, if that was it. The provider's own error is not
// kept: somebody would log it.
func (e *Error) Unwrap() error { return e.cause }

const maxWhat = 600

func (s *Solver) fail(ctx context.Context, step Step, err error) *Error {
	e := &Error{Step: step, Kind: s.kind, What: s.clean(err)}
	for _, c := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, c) || ctx.Err() == c {
			e.cause = c
		}
	}
	c, _ := ctx.Value(callKey{}).(*call)
	e.Permanent = e.cause == nil && (step == StepConfigure || permanent(c, err))
	if c != nil && !e.Permanent {
		e.RetryAfter = time.Duration(c.retryAfter.Load())
	}
	return e
}

// permanent judges by what the error says for certain, and then by the last HTTP status that the call met.
func permanent(c *call, err error) bool {
	if errors.Is(err, errNoZone) || errors.Is(err, errNotDelegated) || egress.IsRefused(err) {
		return true
	}
	if e, ok := errors.AsType[*rcodeError](err); ok {
		return slices.Contains([]int{dns.RcodeNotAuth, dns.RcodeRefused, dns.RcodeNotZone, dns.RcodeNotImplemented}, e.rcode)
	}
	if errors.Is(err, dns.ErrAuth) || errors.Is(err, dns.ErrSig) || errors.Is(err, dns.ErrSecret) || errors.Is(err, dns.ErrKeyAlg) {
		return true
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		// Route 53 answers 400 to what will pass.
		if slices.Contains([]string{"Throttling", "ThrottlingException", "PriorRequestNotComplete", "RequestExpired"}, e.ErrorCode()) {
			return false
		}
	}
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		return e.Response.StatusCode < 500 && e.Response.StatusCode != http.StatusTooManyRequests
	}
	if e, ok := errors.AsType[*ovh.APIError](err); ok && c != nil {
		c.status.Store(int64(e.Code)) // its client asks for the time without the context
	}
	text := err.Error()
	for _, sign := range []string{"zone could not be found", "could not find the start of authority", "not found for domain"} { // lego's
		if strings.Contains(text, sign) && !strings.Contains(text, "DNS call error") {
			return true
		}
	}
	var timeout net.Error
	if c == nil || errors.As(err, &timeout) && timeout.Timeout() {
		return false
	}
	switch status := int(c.status.Load()); status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusPreconditionFailed, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	default:
		return status >= 400 && status < 500
	}
}

// duplicate says whether a refusal may mean that the record is there already.
func duplicate(ctx context.Context, err error) bool {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil || ctx.Err() != nil || errors.Is(err, errNoZone) {
		return false
	}
	return slices.Contains([]int64{http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity}, c.status.Load())
}

// call is what one Present or CleanUp met. lego's errors hold no status that could be asked for.
type call struct {
	status     atomic.Int64 // of the last request, if it is 400 or more
	retryAfter atomic.Int64
}

type callKey struct{}

func newCall(ctx context.Context) context.Context { return context.WithValue(ctx, callKey{}, &call{}) }

// watch notes statuses in the call that a request's context carries.
type watch struct{ next http.RoundTripper }

func (w watch) RoundTrip(r *http.Request) (*http.Response, error) {
	next := w.next
	if next == nil {
		return nil, errors.New("the HTTP client has no transport of its own")
	}
	response, err := next.RoundTrip(r)
	c, ok := r.Context().Value(callKey{}).(*call)
	if ok {
		c.status.Store(0) // of a request before, which what fails now is not about
	}
	if ok && err == nil && response.StatusCode >= 400 {
		c.status.Store(int64(response.StatusCode))
		if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
			c.retryAfter.Store(int64(min(time.Duration(seconds)*time.Second, 24*time.Hour)))
		}
	}
	return response, err
}

// scrubber takes a config's secrets out of a text, in each form in which a server may send them back.
func scrubber(c dnsprovider.Config) *strings.Replacer {
	var forms []string
	add := func(values ...string) {
		for _, v := range values {
			if len(v) >= 4 {
				forms = append(forms, v)
			}
		}
	}
	for _, secret := range c.SecretValues() {
		quoted, _ := json.Marshal(secret)
		inner := strings.Trim(string(quoted), `"`)
		add(secret, inner, strings.Trim(strconv.Quote(secret), `"`), url.QueryEscape(secret), url.PathEscape(secret),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawStdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(c.Text("username")+":"+secret)))
		for line := range strings.Lines(secret) { // a PEM block
			if line = strings.TrimSpace(line); len(line) >= 16 && !strings.HasPrefix(line, "-----") {
				add(line)
			}
		}
	}
	// The longest first, so that none leaves a piece of another that holds it.
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, f := range slices.Compact(forms) {
		pairs = append(pairs, f, dnsprovider.Hidden)
	}
	return strings.NewReplacer(pairs...)
}

// clean makes an error's text fit to be shown: no secret, one line, not long.
func (s *Solver) clean(err error) string {
	text := s.secrets.Replace(err.Error())
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	text = s.secrets.Replace(strings.Join(strings.Fields(text), " "))
	if runes := []rune(text); len(runes) > maxWhat {
		text = string(runes[:maxWhat]) + "…"
	}
	return text
}
