// Package tlsserver is how the benchmark's own servers are reached: HTTPS with keep-alive on a listener that the
// benchmark has opened (file 3), and a bearer token that is checked by its digest.
package tlsserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// The environment of a server.
const (
	Certificate = "BENCH_CERTIFICATE" // file
	Key         = "BENCH_KEY"         // file
	Digest      = "BENCH_DIGEST"      // SHA-256 of the token, hex
)

// Serve serves until the process is killed.
func Serve(h http.Handler) error {
	digest, err := hex.DecodeString(os.Getenv(Digest))
	if err != nil || len(digest) != sha256.Size {
		return fmt.Errorf("%s is no digest", Digest)
	}
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	server := &http.Server{
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if given := sha256.Sum256([]byte(token)); subtle.ConstantTimeCompare(given[:], digest) != 1 {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		}),
	}
	return server.ServeTLS(listener, os.Getenv(Certificate), os.Getenv(Key))
}
