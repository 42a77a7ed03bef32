package dynamo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// The SDK's signer is the oracle: it signs the request that ours wrote, and must say the same.
func TestSignatureIsTheSDKs(t *testing.T) {
	now := time.Date(2026, 11, 23, 23, 59, 59, 0, time.UTC)
	for _, session := range []string{"", "a/session+token=="} {
		s := signer{id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", session: session, region: "eu-west-1", host: "dynamodb.eu-west-1.amazonaws.com"}
		for _, at := range []time.Time{now, now.Add(time.Second), now.Add(-24 * time.Hour)} { // across midnight and back
			body := []byte(`{"TableName":"t"}`)
			ours, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s.appendRequest(nil, "GetItem", body, at))))
			if err != nil {
				t.Fatal(err)
			}
			sent, err := io.ReadAll(ours.Body)
			if err != nil || !bytes.Equal(sent, body) {
				t.Fatalf("body %q, %v", sent, err)
			}
			theirs := ours.Clone(context.Background())
			theirs.URL.Scheme, theirs.URL.Host = "https", s.host
			theirs.Header.Del("Authorization")
			theirs.Header.Del("Content-Length")
			theirs.ContentLength = 0 // ours leaves the length unsigned
			theirs.Header.Del("X-Amz-Security-Token")
			hash := sha256.Sum256(body)
			err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: s.id, SecretAccessKey: s.secret, SessionToken: session},
				theirs, hex.EncodeToString(hash[:]), service, s.region, at)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want {
				t.Errorf("at %v, session %q:\n got %s\nwant %s", at, session, got, want)
			}
		}
	}
}
