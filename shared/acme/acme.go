// Package acme speaks to an ACME CA (RFC 8555), one request at a time: what happens between two requests,
// and what is kept of them, is the caller's. So an order can be left at any point and taken up by another
// process with nothing but its URL and the account.
//
// The server is not trusted: its answers are bounded, and nothing of them is believed that can be checked.
package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cjj365.cc/bb/shared/egress"
)

// Limits of an answer and of the tries with new nonces.
const (
	maxAnswer = 512 << 10
	maxNonces = 30 // a test server may refuse most of them on purpose
	keptNonce = 16
)

// Client speaks to one CA. It may be used by several goroutines.
type Client struct {
	HTTP *http.Client // its transport decides which addresses may be reached
	URL  string       // of the directory

	mu        sync.Mutex
	directory *Directory
	fetched   time.Time
	nonces    []string
}

// userAgent is required of clients (RFC 8555 §6.1).
const userAgent = "bb/1"

// Clients is a client for each CA, made when it is first asked for.
type Clients struct {
	http *http.Client
	own  *http.Client // for the operator's directories
	urls []string     // of those
	all  sync.Map     // *Client by directory URL
}

// NewClients makes Clients that send by an HTTP client, whose transport decides which addresses may be reached.
func NewClients(client *http.Client) *Clients { return &Clients{http: client} }

// Configure makes the Clients of a deployment. The directories that its operator names, as name=URL, may be in the
// operator's own network, and their HTTPS is verified by roots (PEM) too; all others are for the guard.
func Configure(guard egress.Guard, directories []string, roots string, timeout time.Duration) (*Clients, error) {
	own, err := guard.Trusting(roots)
	if err != nil {
		return nil, fmt.Errorf("ACME directories: %w", err)
	}
	own.AllowPrivate = true
	c := &Clients{http: guard.Client(timeout), own: own.Client(timeout)}
	for _, entry := range directories {
		_, url, _ := strings.Cut(entry, "=")
		c.urls = append(c.urls, url)
	}
	return c, nil
}

// At is the client of the CA with a directory.
func (c *Clients) At(directory string) *Client {
	by := c.http
	if slices.Contains(c.urls, directory) {
		by = c.own
	}
	client, _ := c.all.LoadOrStore(directory, &Client{HTTP: by, URL: directory})
	return client.(*Client)
}

// Account is an account at the CA: its URL, empty before it is registered, and its key.
type Account struct {
	URL string
	Key crypto.Signer // ECDSA P-256
}

// NewKey makes the key of an account.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Directory is where the CA's resources are (RFC 8555 §7.1.1).
type Directory struct {
	NewNonce    string `json:"newNonce"`
	NewAccount  string `json:"newAccount"`
	NewOrder    string `json:"newOrder"`
	RevokeCert  string `json:"revokeCert"`
	RenewalInfo string `json:"renewalInfo"` // RFC 9773; empty if the CA has none
}

// directoryKept is how long a directory is believed.
const directoryKept = time.Hour

// Directory reads the directory, once in a while.
func (c *Client) Directory(ctx context.Context) (Directory, error) {
	c.mu.Lock()
	known, at := c.directory, c.fetched
	c.mu.Unlock()
	if known != nil && time.Since(at) < directoryKept {
		return *known, nil
	}
	var d Directory
	if _, err := c.get(ctx, c.URL, &d); err != nil {
		return d, fmt.Errorf("read the directory: %w", err)
	}
	if d.NewNonce == "" || d.NewAccount == "" || d.NewOrder == "" {
		return d, &Problem{Type: notACME, Detail: "the address answers, but not with an ACME directory", Status: http.StatusOK}
	}
	c.mu.Lock()
	c.directory, c.fetched = &d, time.Now()
	c.mu.Unlock()
	return d, nil
}

// ExternalAccount binds an ACME account to one that the CA knows otherwise (RFC 8555 §7.3.4).
type ExternalAccount struct {
	KeyID string
	MAC   []byte // the HMAC key
}

// Register makes the account, or finds the one that its key has already, and returns its URL.
func (c *Client) Register(ctx context.Context, key crypto.Signer, email string, external *ExternalAccount) (string, error) {
	d, err := c.Directory(ctx)
	if err != nil {
		return "", err
	}
	request := map[string]any{"termsOfServiceAgreed": true, "contact": contact(email)}
	if external != nil {
		bound, err := bind(key, *external, d.NewAccount)
		if err != nil {
			return "", err
		}
		request["externalAccountBinding"] = json.RawMessage(bound)
	}
	answer, err := c.post(ctx, Account{Key: key}, d.NewAccount, request, nil)
	if err != nil {
		return "", fmt.Errorf("register the account: %w", err)
	}
	if answer.location == "" {
		return "", errors.New("register the account: the CA gave it no URL")
	}
	return answer.location, nil
}

// SetContact tells the CA another contact of a registered account, or with an empty one to forget it
// (RFC 8555 §7.3.2). It may be repeated.
func (c *Client) SetContact(ctx context.Context, by Account, email string) error {
	if _, err := c.post(ctx, by, by.URL, map[string]any{"contact": contact(email)}, nil); err != nil {
		return fmt.Errorf("change the account's contact: %w", err)
	}
	return nil
}

func contact(email string) []string {
	if email == "" {
		return []string{}
	}
	return []string{"mailto:" + email}
}

func bind(key crypto.Signer, external ExternalAccount, url string) ([]byte, error) {
	jwk, err := json.Marshal(jose.JSONWebKey{Key: key.Public()})
	if err != nil {
		return nil, fmt.Errorf("bind the account: %w", err)
	}
	// jose takes the key id of a JSONWebKey for public keys only.
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: external.MAC},
		(&jose.SignerOptions{}).WithHeader("kid", external.KeyID).WithHeader("url", url))
	if err != nil {
		return nil, fmt.Errorf("bind the account: %w", err)
	}
	signed, err := signer.Sign(jwk)
	if err != nil {
		return nil, fmt.Errorf("bind the account: %w", err)
	}
	return []byte(signed.FullSerialize()), nil
}

// KeyAuthorization is what a challenge of the account must show (RFC 8555 §8.1).
func (a Account) KeyAuthorization(token string) (string, error) {
	thumbprint, err := (&jose.JSONWebKey{Key: a.Key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("key authorization: %w", err)
	}
	return token + "." + base64.RawURLEncoding.EncodeToString(thumbprint), nil
}

// answer is what a response says beside its body.
type answer struct {
	location   string
	next       string // the next page of a list
	body       []byte
	retryAfter time.Duration // 0 if the CA names none
}

func (c *Client) get(ctx context.Context, url string, into any) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return answer{}, fmt.Errorf("read %s: %w", url, err)
	}
	return c.do(request, into)
}

// post sends a signed request; a nil body is a POST-as-GET (RFC 8555 §6.3). A refused nonce is replaced by
// the one that came with the refusal.
func (c *Client) post(ctx context.Context, by Account, url string, body, into any) (answer, error) {
	payload := []byte{}
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return answer{}, fmt.Errorf("send to %s: %w", url, err)
		}
	}
	for try := 1; ; try++ {
		signed, err := c.sign(ctx, by, url, payload)
		if err != nil {
			return answer{}, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(signed))
		if err != nil {
			return answer{}, fmt.Errorf("send to %s: %w", url, err)
		}
		request.Header.Set("Content-Type", "application/jose+json")
		a, err := c.do(request, into)
		var p *Problem
		if try < maxNonces && errors.As(err, &p) && p.Type == badNonce {
			continue
		}
		return a, err
	}
}

func (c *Client) sign(ctx context.Context, by Account, url string, payload []byte) ([]byte, error) {
	nonce, err := c.nonce(ctx)
	if err != nil {
		return nil, err
	}
	options := (&jose.SignerOptions{NonceSource: oneNonce(nonce), EmbedJWK: by.URL == ""}).WithHeader("url", url)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: by.Key, KeyID: by.URL}}, options)
	if err != nil {
		return nil, fmt.Errorf("sign for %s: %w", url, err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, fmt.Errorf("sign for %s: %w", url, err)
	}
	return []byte(signed.FullSerialize()), nil
}

// oneNonce is jose's source of a nonce that is there already: jose loses the type of an error that its source gives.
type oneNonce string

func (n oneNonce) Nonce() (string, error) { return string(n), nil }

// nonce takes one that came with an earlier answer, or asks for one.
func (c *Client) nonce(ctx context.Context) (string, error) {
	c.mu.Lock()
	if last := len(c.nonces) - 1; last >= 0 {
		nonce := c.nonces[last]
		c.nonces = c.nonces[:last]
		c.mu.Unlock()
		return nonce, nil
	}
	c.mu.Unlock()
	d, err := c.Directory(ctx)
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, d.NewNonce, http.NoBody)
	if err != nil {
		return "", fmt.Errorf("ask for a nonce: %w", err)
	}
	response, err := c.send(request)
	if err != nil {
		return "", fmt.Errorf("ask for a nonce: %w", err)
	}
	response.Body.Close()
	nonce := response.Header.Get("Replay-Nonce")
	if nonce == "" {
		p := problemOf(response.StatusCode, nil, retryAfter(response.Header.Get("Retry-After"), time.Now()))
		p.Detail = "the CA gives no nonce"
		return "", p
	}
	return nonce, nil
}

func (c *Client) send(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" { // RFC 8555 §6.1; every URL but the directory's comes from the CA
		return nil, &Problem{Type: notACME, Detail: "the CA names an address that is not https"}
	}
	request.Header.Set("User-Agent", userAgent)
	response, err := c.HTTP.Do(request)
	if err != nil {
		return nil, &Unreachable{request.URL.Host, err}
	}
	return response, nil
}

func (c *Client) do(request *http.Request, into any) (answer, error) {
	response, err := c.send(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	if nonce := response.Header.Get("Replay-Nonce"); nonce != "" && len(nonce) < 256 {
		c.mu.Lock()
		if len(c.nonces) < keptNonce {
			c.nonces = append(c.nonces, nonce)
		}
		c.mu.Unlock()
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return answer{}, &Unreachable{request.URL.Host, err}
	}
	if len(body) > maxAnswer {
		return answer{}, &Problem{Type: notACME, Detail: "the CA's answer is too long", Status: response.StatusCode}
	}
	a := answer{
		location: response.Header.Get("Location"), next: next(response.Header), body: body,
		retryAfter: retryAfter(response.Header.Get("Retry-After"), time.Now()),
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return a, problemOf(response.StatusCode, body, a.retryAfter)
	}
	if into == nil {
		return a, nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return a, &Problem{Type: notACME, Detail: "the CA's answer is not the JSON that it should be", Status: response.StatusCode}
	}
	return a, nil
}

// maxRetryAfter bounds what a CA can make us wait.
const maxRetryAfter = 7 * 24 * time.Hour

// retryAfter reads seconds or a date (RFC 9110 §10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if seconds, err := strconv.Atoi(value); err == nil {
		if seconds > int(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(max(0, seconds)) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(maxRetryAfter, max(0, at.Sub(now)))
}
