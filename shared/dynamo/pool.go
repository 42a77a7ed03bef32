package dynamo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"
)

// amazonRoots are the five roots that Amazon Trust Services names for its endpoints. Parsing them
// takes a twentieth of what the system's hundred and forty take.
//
//go:embed amazon-roots.pem
var amazonRoots []byte

func rootCAs(bundle, scheme string) (*x509.CertPool, error) {
	if scheme != "https" {
		return nil, nil
	}
	pem := amazonRoots
	if bundle != "" {
		var err error
		if pem, err = os.ReadFile(bundle); err != nil {
			return nil, fmt.Errorf("read AWS_CA_BUNDLE: %w", err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the root bundle")
	}
	return roots, nil
}

// pool keeps connections. It speaks HTTP/1.1 by itself: one request, one answer, one deadline, and
// none of the goroutines and channels that net/http's client needs for everybody else's cases.
type pool struct {
	address string
	tls     *tls.Config // nil for http

	mu   sync.Mutex
	idle []*conn
}

type conn struct {
	net.Conn
	reader *bufio.Reader
	out    []byte // reused
}

func newPool(u *url.URL, roots *x509.CertPool) *pool {
	p := &pool{address: u.Host}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
		p.tls = &tls.Config{RootCAs: roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
	if u.Port() == "" {
		p.address = net.JoinHostPort(u.Hostname(), port)
	}
	return p
}

// answer is one response, its body in a buffer to be given back.
type answer struct {
	status int
	body   []byte
	buffer *bytes.Buffer
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (a *answer) release() {
	a.buffer.Reset()
	buffers.Put(a.buffer)
}

// maxAnswer bounds what is read: an item has at most 400 KB.
const maxAnswer = 1 << 20

// exchange sends a request on a kept connection or, if that has died meanwhile, on a new one. A kept
// connection gets half of the time: if its other side has silently gone, the rest is for a new one.
func (p *pool) exchange(ctx context.Context, deadline time.Time, request func([]byte) []byte) (*answer, error) {
	if c := p.take(); c != nil {
		if a, err := p.try(c, time.Now().Add(time.Until(deadline)/2), request); err == nil {
			return a, nil
		}
		p.drain()
	}
	c, err := p.dial(ctx, deadline)
	if err != nil {
		return nil, err
	}
	return p.try(c, deadline, request)
}

func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c
}

func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

// drain drops what is kept: when one connection has died, its siblings are as old.
func (p *pool) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.Close()
	}
	p.idle = p.idle[:0]
}

func (p *pool) dial(ctx context.Context, deadline time.Time) (*conn, error) {
	dialer := net.Dialer{Deadline: deadline}
	raw, err := dialer.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if p.tls != nil {
		secure := tls.Client(raw, p.tls)
		if err := raw.SetDeadline(deadline); err != nil {
			raw.Close()
			return nil, fmt.Errorf("connect: %w", err)
		}
		if err := secure.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		raw = secure
	}
	return &conn{Conn: raw, reader: bufio.NewReaderSize(raw, 4096)}, nil
}

// try sends one request and reads its answer. The connection is kept if both were whole.
func (p *pool) try(c *conn, deadline time.Time, request func([]byte) []byte) (*answer, error) {
	a, keep, err := c.roundTrip(deadline, request)
	if err != nil || !keep {
		c.Close()
	} else {
		p.put(c)
	}
	return a, err
}

func (c *conn) roundTrip(deadline time.Time, request func([]byte) []byte) (a *answer, keep bool, err error) {
	if err := c.SetDeadline(deadline); err != nil {
		return nil, false, fmt.Errorf("send request: %w", err)
	}
	c.out = request(c.out[:0])
	if _, err := c.Write(c.out); err != nil {
		return nil, false, fmt.Errorf("send request: %w", err)
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	buffer := buffers.Get().(*bytes.Buffer)
	_, err = buffer.ReadFrom(io.LimitReader(response.Body, maxAnswer))
	if err == nil {
		err = checkCRC(response.Header.Get("X-Amz-Crc32"), buffer.Bytes())
	}
	if err != nil {
		buffer.Reset()
		buffers.Put(buffer)
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	return &answer{status: response.StatusCode, body: buffer.Bytes(), buffer: buffer}, !response.Close, nil
}

// checkCRC holds the body against the checksum that DynamoDB sends with it: a torn answer must not be
// taken for an absent item.
func checkCRC(header string, body []byte) error {
	if header == "" {
		return nil
	}
	want, err := strconv.ParseUint(header, 10, 32)
	if err != nil || uint32(want) != crc32.ChecksumIEEE(body) {
		return errors.New("checksum does not match")
	}
	return nil
}
