package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// A front is TLS before DynamoDB Local, with a chain like that of AWS: a root, one CA between, RSA.
type front struct {
	url       string
	roots     string       // file: Amazon's roots and the front's own, what the authorizer carries
	allRoots  string       // file: this system's roots and the front's own
	rootCount int          // in allRoots
	connected atomic.Int64 // when the last connection came, in nanoseconds
	server    *http.Server
}

func startFront(b *bench, target string) (*front, error) {
	certificate, root, err := chain()
	if err != nil {
		return nil, err
	}
	amazon, err := os.ReadFile(filepath.Join(b.root, "shared", "dynamo", "amazon-roots.pem"))
	if err != nil {
		return nil, err
	}
	system, err := systemRoots()
	if err != nil {
		return nil, err
	}
	f := &front{roots: filepath.Join(b.work, "roots.pem"), allRoots: filepath.Join(b.work, "all-roots.pem")}
	if err := os.WriteFile(f.roots, append(amazon, root...), 0o600); err != nil {
		return nil, err
	}
	all := append(system, root...)
	f.rootCount = bytes.Count(all, []byte("BEGIN CERTIFICATE"))
	if err := os.WriteFile(f.allRoots, all, 0o600); err != nil {
		return nil, err
	}
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.url = "https://" + listener.Addr().String()
	f.server = &http.Server{
		Handler:   httputil.NewSingleHostReverseProxy(to),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		// DynamoDB speaks HTTP/1.1 only.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ErrorLog:     log.New(io.Discard, "", 0), // killed children break connections
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				f.connected.Store(time.Now().UnixNano())
			}
		},
	}
	go f.server.ServeTLS(listener, "", "")
	return f, nil
}

func (f *front) stop() { f.server.Close() }

// systemRoots reads the file of root certificates where crypto/x509 looks for it.
func systemRoots() ([]byte, error) {
	for _, file := range []string{os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"} {
		if text, err := os.ReadFile(file); err == nil {
			return text, nil
		}
	}
	return nil, errors.New("this system has no file of root certificates; SSL_CERT_FILE may name one")
}

// chain makes a server's certificate with its chain, and the root it hangs on in PEM.
func chain() (server tls.Certificate, root []byte, err error) {
	var keys [3]*rsa.PrivateKey
	for i := range keys {
		if keys[i], err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			return server, nil, err
		}
	}
	top := authority("Bench Root", 1)
	topDER, err := x509.CreateCertificate(rand.Reader, top, top, keys[0].Public(), keys[0])
	if err != nil {
		return server, nil, err
	}
	middleDER, err := x509.CreateCertificate(rand.Reader, authority("Bench CA", 2), top, keys[1].Public(), keys[0])
	if err != nil {
		return server, nil, err
	}
	middle, err := x509.ParseCertificate(middleDER)
	if err != nil {
		return server, nil, err
	}
	leaf := authority("127.0.0.1", 3)
	leaf.IsCA, leaf.KeyUsage, leaf.IPAddresses = false, x509.KeyUsageDigitalSignature, []net.IP{net.IPv4(127, 0, 0, 1)}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, middle, keys[2].Public(), keys[1])
	if err != nil {
		return server, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{leafDER, middleDER}, PrivateKey: keys[2]}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: topDER}), nil
}

func authority(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"Bench"}, CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}
