package dynamo

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync"
	"time"
)

// signer writes requests signed with AWS Signature Version 4. The signing key depends on the date
// only and is kept for the day. The test holds it against the SDK's signer.
type signer struct {
	id, secret, session string
	region, host        string

	mu  sync.Mutex
	day string
	key []byte
}

const (
	service     = "dynamodb"
	contentType = "application/x-amz-json-1.0"
	target      = "DynamoDB_20120810."
)

// appendRequest writes an HTTP/1.1 request for an operation to b.
func (s *signer) appendRequest(b []byte, operation string, body []byte, now time.Time) []byte {
	var stamp [16]byte
	date := string(now.UTC().AppendFormat(stamp[:0], "20060102T150405Z"))
	day := date[:8]

	signedHeaders := "content-type;host;x-amz-date;x-amz-target"
	if s.session != "" {
		signedHeaders = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
	}
	bodyHash := sha256.Sum256(body)
	canonical := make([]byte, 0, 1024)
	canonical = append(canonical, "POST\n/\n\ncontent-type:"+contentType+"\nhost:"...)
	canonical = append(canonical, s.host...)
	canonical = append(append(canonical, "\nx-amz-date:"...), date...)
	if s.session != "" {
		canonical = append(append(canonical, "\nx-amz-security-token:"...), s.session...)
	}
	canonical = append(append(canonical, "\nx-amz-target:"+target...), operation...)
	canonical = append(append(append(canonical, "\n\n"...), signedHeaders...), '\n')
	canonical = hex.AppendEncode(canonical, bodyHash[:])
	canonicalHash := sha256.Sum256(canonical)

	toSign := append(canonical[:0], "AWS4-HMAC-SHA256\n"...)
	toSign = append(append(toSign, date...), '\n')
	toSign = s.appendCredentialScope(toSign, day)
	toSign = hex.AppendEncode(append(toSign, '\n'), canonicalHash[:])
	signature := sum(s.signingKey(day), toSign)

	b = append(b, "POST / HTTP/1.1\r\nHost: "...)
	b = append(b, s.host...)
	b = append(append(b, "\r\nContent-Type: "+contentType+"\r\nX-Amz-Date: "...), date...)
	if s.session != "" {
		b = append(append(b, "\r\nX-Amz-Security-Token: "...), s.session...)
	}
	b = append(append(b, "\r\nX-Amz-Target: "+target...), operation...)
	b = append(append(append(b, "\r\nAuthorization: AWS4-HMAC-SHA256 Credential="...), s.id...), '/')
	b = s.appendCredentialScope(b, day)
	b = append(append(append(b, ", SignedHeaders="...), signedHeaders...), ", Signature="...)
	b = hex.AppendEncode(b, signature)
	b = strconv.AppendInt(append(b, "\r\nContent-Length: "...), int64(len(body)), 10)
	return append(append(b, "\r\n\r\n"...), body...)
}

func (s *signer) appendCredentialScope(b []byte, day string) []byte {
	b = append(append(b, day...), '/')
	return append(append(b, s.region...), "/"+service+"/aws4_request"...)
}

func (s *signer) signingKey(day string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.day != day {
		key := sum([]byte("AWS4"+s.secret), []byte(day))
		for _, part := range []string{s.region, service, "aws4_request"} {
			key = sum(key, []byte(part))
		}
		s.day, s.key = day, key
	}
	return s.key
}

func sum(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}
