// Package dynamo is a way of our own to DynamoDB: two calls over a kept connection, signed by hand, with one
// deadline for everything.
//
// Everything else uses the AWS SDK, through package store. The authorizer runs before every request,
// and the SDK costs it more processor time than the call itself, 3 to 10 seconds to fail, and most
// of its cold start (bench/README.md has the figures). The three writes by which a private CA signs go this way too:
// by the SDK they cost more than the signature. A Client answers or fails within Budget,
// whatever the table does.
package dynamo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"
)

// Budget is the longest that one call takes, retries and connecting included.
const Budget = 800 * time.Millisecond

// ErrCondition says that an update's condition did not hold.
var ErrCondition = errors.New("condition failed")

// Client calls one DynamoDB endpoint. It may be used by several goroutines.
type Client struct {
	signer signer
	pool   *pool
	now    func() time.Time
}

// FromEnvironment makes a client from the variables that Lambda sets, and from
// AWS_ENDPOINT_URL_DYNAMODB and AWS_CA_BUNDLE as the SDK reads them. It does not connect.
func FromEnvironment() (*Client, error) {
	region := os.Getenv("AWS_REGION")
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	if region == "" || id == "" || secret == "" {
		return nil, errors.New("AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set")
	}
	endpoint := os.Getenv("AWS_ENDPOINT_URL_DYNAMODB")
	if endpoint == "" {
		suffix := "amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			suffix += ".cn"
		}
		endpoint = "https://dynamodb." + region + "." + suffix
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("AWS_ENDPOINT_URL_DYNAMODB: %q is not an http or https URL", endpoint)
	}
	roots, err := rootCAs(os.Getenv("AWS_CA_BUNDLE"), u.Scheme)
	if err != nil {
		return nil, err
	}
	return &Client{
		signer: signer{id: id, secret: secret, session: os.Getenv("AWS_SESSION_TOKEN"), region: region, host: u.Host},
		pool:   newPool(u, roots),
		now:    time.Now,
	}, nil
}

// Key is the primary key of an item.
type Key struct{ PK, SK string }

// Values are the attribute values of an expression, as DynamoDB's JSON: {":now":{"N":"1"}}.
type Values map[string]map[string]any

// Number is one value of type N.
func Number(n int64) map[string]any { return map[string]any{"N": fmt.Sprint(n)} }

// Text is one value of type S.
func Text(s string) map[string]any { return map[string]any{"S": s} }

// Bytes is one value of type B.
func Bytes(b []byte) map[string]any { return map[string]any{"B": b} }

// Get reads an item, strongly consistent, into what item points to: a struct whose fields are
// structs of one field S, N or B. It reports whether the item exists.
func (c *Client) Get(ctx context.Context, table string, key Key, item any) (bool, error) {
	b := make([]byte, 0, 256)
	b = append(b, `{"ConsistentRead":true,"TableName":`...)
	b = appendString(b, table)
	b = append(b, `,"Key":`...)
	b = appendKey(b, key)
	b = append(b, '}')
	answer, err := c.call(ctx, "GetItem", b)
	if err != nil {
		return false, fmt.Errorf("get item: %w", err)
	}
	defer answer.release()
	if bytes.Equal(answer.body, []byte("{}")) {
		return false, nil
	}
	if err := json.Unmarshal(answer.body, &struct{ Item any }{item}); err != nil {
		return false, fmt.Errorf("read item: %w", err)
	}
	return true, nil
}

// Update is one conditional UpdateItem. It must be safe to repeat: an answer may be lost.
type Update struct {
	Key        Key
	Expression string
	Condition  string
	Values     Values
	Names      map[string]string // of attributes that are reserved words; may be nil
}

// Update changes an item. The error is ErrCondition if the condition did not hold.
func (c *Client) Update(ctx context.Context, table string, u Update) error {
	input := map[string]any{
		"TableName": table, "Key": map[string]any{"pk": Text(u.Key.PK), "sk": Text(u.Key.SK)},
		"UpdateExpression": u.Expression, "ConditionExpression": u.Condition, "ExpressionAttributeValues": u.Values,
	}
	if u.Names != nil {
		input["ExpressionAttributeNames"] = u.Names
	}
	body, err := json.Marshal(input)
	if err != nil {
		return fmt.Errorf("update item: %w", err)
	}
	answer, err := c.call(ctx, "UpdateItem", body)
	if err != nil {
		return fmt.Errorf("update item: %w", err)
	}
	answer.release()
	return nil
}

// Warm makes a first call, so that connecting, the TLS handshake and the parsing of root
// certificates happen while Lambda gives a starting function its full processor.
func (c *Client) Warm(ctx context.Context, table string) error {
	_, err := c.Get(ctx, table, Key{"WARM", "WARM"}, &struct{}{})
	return err
}

// ServiceError is a refusal by DynamoDB.
type ServiceError struct {
	Status int    // HTTP status
	Type   string // such as ResourceNotFoundException
}

func (e *ServiceError) Error() string {
	return fmt.Sprintf("DynamoDB answered %d %s", e.Status, e.Type)
}

// Passing reports whether the same call may succeed a moment later.
func (e *ServiceError) Passing() bool {
	switch e.Type {
	case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "TransactionInProgressException":
		return true
	}
	return e.Status >= 500
}

// call makes one call, tries again what may pass, and gives up at the end of Budget.
func (c *Client) call(ctx context.Context, operation string, body []byte) (*answer, error) {
	deadline := time.Now().Add(Budget)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	pause := 20 * time.Millisecond
	for {
		a, err := c.pool.exchange(ctx, deadline, func(b []byte) []byte {
			return c.signer.appendRequest(b, operation, body, c.now())
		})
		if err == nil && a.status != 200 {
			refused := serviceError(a)
			a.release()
			if refused.Type == "ConditionalCheckFailedException" {
				return nil, ErrCondition
			}
			if err = refused; !refused.Passing() {
				return nil, err
			}
		}
		if err == nil {
			return a, nil
		}
		if !wait(ctx, pause, deadline) {
			return nil, err
		}
		pause *= 2
	}
}

// wait pauses, unless the deadline would pass or ctx ends.
func wait(ctx context.Context, pause time.Duration, deadline time.Time) bool {
	if time.Until(deadline) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func serviceError(a *answer) *ServiceError {
	var body struct {
		Type string `json:"__type"`
	}
	_ = json.Unmarshal(a.body, &body) // an unreadable body leaves the type empty
	_, name, found := strings.Cut(body.Type, "#")
	if !found {
		name = body.Type
	}
	return &ServiceError{Status: a.status, Type: name}
}

func appendKey(b []byte, key Key) []byte {
	b = append(b, `{"pk":{"S":`...)
	b = appendString(b, key.PK)
	b = append(b, `},"sk":{"S":`...)
	b = appendString(b, key.SK)
	return append(b, `}}`...)
}

// appendString writes a JSON string. Table names and keys are plain ASCII; anything else takes the
// slow way.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
