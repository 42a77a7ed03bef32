package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/awsenv"
	"cjj365.cc/bb/shared/token"
)

// BenchmarkAuthorization compares three ways to the same server, DynamoDB Local, in turn:
//
//   - authorizer: an event in, a policy out, with its consistent read and its log line
//   - floor: the round trip alone, by net/http on a kept connection; the authorizer's read, signed once
//   - sdk: the authorizer with the AWS SDK in place of package dynamo
//   - device: the authorizer with a device's token, which needs no read
//
// An iteration is a block of calls of each. What is reported is the least processor time of this
// process and the fewest allocations that a call took in any block: `make bench` reads them.
func BenchmarkAuthorization(b *testing.B) {
	w := newWorld(b)
	_, key := w.key(b, time.Hour)
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	w.log = slog.New(slog.NewJSONHandler(null, nil))
	event := eventWith(b, key.Reveal())
	deviceEvent := eventWith(b, w.deviceToken(b))
	configuration, err := awsenv.Config()
	if err != nil {
		b.Fatal(err)
	}
	peer := sdkAuthorizer{
		handler: w.handler,
		db:      dynamodb.NewFromConfig(configuration, func(o *dynamodb.Options) { o.BaseEndpoint = awsenv.Endpoint("DYNAMODB") }),
	}
	invoke := func(invoke func(context.Context, []byte) ([]byte, error)) func() error {
		return func() error {
			policy, err := invoke(context.Background(), event)
			if err == nil && !bytes.Contains(policy, []byte(`"Allow"`)) {
				err = fmt.Errorf("not allowed: %s", policy)
			}
			return err
		}
	}
	ways := []struct {
		name string
		call func() error
		cost cost
	}{
		{name: "authorizer", call: invoke(w.Invoke)},
		{name: "floor", call: roundTrip(b, w, key)},
		{name: "sdk", call: invoke(peer.Invoke)},
		{name: "device", call: func() error {
			policy, err := w.Invoke(context.Background(), deviceEvent)
			if err == nil && !bytes.Contains(policy, []byte(`"Allow"`)) {
				err = fmt.Errorf("not allowed: %s", policy)
			}
			return err
		}},
	}
	for i := range ways {
		measure(b, ways[i].call) // connects, and writes the minute's mark
	}
	for b.Loop() {
		for i := range ways {
			ways[i].cost = ways[i].cost.least(measure(b, ways[i].call))
		}
	}
	for _, way := range ways {
		b.ReportMetric(float64(way.cost.cpu.Nanoseconds())/1e3, way.name+"-cpu-us")
		b.ReportMetric(way.cost.allocs, way.name+"-allocs")
	}
}

// eventWith is testdata/event.json, all that API Gateway sends of a request, with a token.
func eventWith(b *testing.B, token string) []byte {
	text, err := os.ReadFile("testdata/event.json")
	if err != nil {
		b.Fatal(err)
	}
	bearer := "Bearer " + token
	return []byte(strings.NewReplacer(
		`"Authorization": ""`, `"Authorization": "`+bearer+`"`, `"Authorization": [""]`, `"Authorization": ["`+bearer+`"]`,
	).Replace(string(text)))
}

// roundTrip is one bare request and its answer. DynamoDB Local does not check signatures, so that a
// well-formed one serves for all.
func roundTrip(b *testing.B, w *world, t token.Token) func() error {
	key := authn.KeyOf(t)
	body := fmt.Sprintf(`{"ConsistentRead":true,"TableName":%q,"Key":{"pk":{"S":%q},"sk":{"S":%q}}}`, w.tables.Credentials, key.PK, key.SK)
	signed := http.Header{
		"Content-Type": {"application/x-amz-json-1.0"}, "X-Amz-Target": {"DynamoDB_20120810.GetItem"}, "X-Amz-Date": {"20261123T140000Z"},
		"Authorization": {"AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/dynamodb/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=" + strings.Repeat("0", 64)},
	}
	transport := &http.Transport{}
	b.Cleanup(transport.CloseIdleConnections)
	return func() error {
		request, err := http.NewRequest("POST", w.tables.Endpoint, strings.NewReader(body))
		if err != nil {
			return err
		}
		request.Header = signed
		response, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err == nil && !bytes.HasPrefix(answer, []byte(`{"Item":`)) {
			err = fmt.Errorf("answer %s: %s", response.Status, answer)
		}
		return err
	}
}

// sdkAuthorizer is the handler with the SDK's client and decoder.
type sdkAuthorizer struct {
	*handler
	db *dynamodb.Client
}

func (h sdkAuthorizer) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	var e event
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	arn, err := parseMethodARN(e.MethodArn)
	if err != nil {
		return nil, err
	}
	authorization, cookie := e.headers()
	credential, err := authn.Presented(authorization, cookie, false)
	if err != nil {
		return nil, err
	}
	t := credential.Token
	key := authn.KeyOf(t)
	found, err := h.db.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &h.authn.Table, ConsistentRead: aws.Bool(true),
		Key: map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: key.PK}, "sk": &types.AttributeValueMemberS{Value: key.SK}},
	})
	if err != nil {
		return nil, err
	}
	var it struct {
		Digest      []byte   `dynamodbav:"digest"`
		Name        string   `dynamodbav:"name"`
		Permissions string   `dynamodbav:"permissions"`
		CIDRs       []string `dynamodbav:"cidrs"`
		CreatedAt   int64    `dynamodbav:"created_at"`
		ExpiresAt   int64    `dynamodbav:"expires_at"`
		LastUsedAt  int64    `dynamodbav:"last_used_at"`
	}
	if err := attributevalue.UnmarshalMap(found.Item, &it); err != nil {
		return nil, err
	}
	expiry := time.UnixMilli(it.ExpiresAt)
	if !t.Matches(it.Digest) || !h.authn.Now().Before(expiry) {
		return nil, errors.New("refused")
	}
	h.audit(ctx, slog.LevelInfo, &e, arn, t, "admitted", nil)
	return json.Marshal(allow(access.Caller{
		Kind: access.APIKey, User: t.User, ID: t.ID, Name: it.Name, Permissions: access.Permissions(it.Permissions),
		CreatedAt: time.UnixMilli(it.CreatedAt), ExpiresAt: expiry,
	}, arn))
}

// cost is what one call takes.
type cost struct {
	cpu    time.Duration // user and system
	allocs float64
}

func (c cost) least(d cost) cost {
	if c == (cost{}) {
		return d
	}
	return cost{min(c.cpu, d.cpu), min(c.allocs, d.allocs)}
}

// measure makes a block of calls, long enough for its own garbage to be collected within it.
func measure(b *testing.B, call func() error) cost {
	const calls = 500
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := processorTime(b)
	for range calls {
		if err := call(); err != nil {
			b.Fatal(err)
		}
	}
	took := processorTime(b) - begin
	runtime.ReadMemStats(&after)
	return cost{took / calls, float64(after.Mallocs-before.Mallocs) / calls}
}

// processorTime is what this process has used. DynamoDB Local is another process.
func processorTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
