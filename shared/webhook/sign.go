package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cjj365.cc/bb/shared/egress"
)

// Tolerance is how far a receiver lets the timestamp of a request be from its own clock.
const Tolerance = 5 * time.Minute

// secretPrefix is Standard Webhooks'; what follows is base64 of 24 to 64 bytes.
const secretPrefix = "whsec_"

// Secret signs deliveries. It prints as [redacted].
type Secret struct{ key []byte }

// NewSecret makes a secret.
func NewSecret() Secret {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return Secret{key}
}

// SecretOf is the secret of the bytes that Key gave.
func SecretOf(key []byte) Secret { return Secret{key} }

// Key is the bytes of the secret.
func (s Secret) Key() []byte { return s.key }

// Reveal is the secret as its owner is shown it, once.
func (s Secret) Reveal() string { return secretPrefix + base64.StdEncoding.EncodeToString(s.key) }

func (s Secret) String() string { return "[redacted]" }

// GoString does the same for %#v.
func (s Secret) GoString() string { return s.String() }

func (s Secret) sign(id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, s.key)
	_, _ = fmt.Fprintf(mac, "%s.%s.", id, timestamp) // a hash takes everything
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// header is the headers of a signed request.
func header(e Event, secrets []Secret, now time.Time) http.Header {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = s.sign(e.ID, timestamp, e.Body)
	}
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "BB-Webhooks/1")
	h.Set("Webhook-Id", e.ID)
	h.Set("Webhook-Timestamp", timestamp)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
	return h
}

// Bounds on what a receiver may make us do.
const (
	Timeout  = 10 * time.Second
	maxReply = 1 << 10 // bytes that are read, so that a connection can be used again
)

// Client is an HTTP client for receivers. It follows no redirect: what is signed for one URL is not handed
// to another.
func Client(guard egress.Guard) *http.Client {
	client := guard.Client(Timeout)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return client
}

// Send makes one attempt: the status that the receiver answered, or why there is none, a sentence for the
// endpoint's owner. What the receiver says in its body is nobody's business: it may be a server that the
// owner should not be able to read.
func Send(ctx context.Context, client *http.Client, url string, e Event, secrets []Secret, now time.Time) (status int, why string) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(e.Body))
	if err != nil {
		return 0, "The URL is not one that can be called."
	}
	request.Header = header(e, secrets, now)
	response, err := client.Do(request)
	if err != nil {
		return 0, reason(err)
	}
	_, _ = io.CopyN(io.Discard, response.Body, maxReply) // the answer is its status
	_ = response.Body.Close()
	if status := response.StatusCode; status < 200 || status > 299 {
		return status, fmt.Sprintf("The receiver answered %d.", status)
	}
	return response.StatusCode, ""
}

// reason tells why there was no answer, without what an error repeats of the URL or the network.
func reason(err error) string {
	var name *net.DNSError
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case egress.IsRefused(err):
		return "The URL leads to an address that is not public."
	case errors.Is(err, egress.ErrTooLarge):
		return "The receiver's answer is too large."
	case errors.As(err, &name) && !name.IsTimeout:
		return "The host's name is not found."
	case errors.As(err, &certificate):
		return "The receiver's certificate is not valid for its name, or not trusted."
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("The receiver did not answer within %d seconds.", int(Timeout/time.Second))
	}
	return "The connection failed."
}
