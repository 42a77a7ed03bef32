package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/problem"
)

// Limit is how often something may be tried in a window of time.
type Limit struct {
	Most   int64
	Window time.Duration
}

// Count counts one try of what, which names the thing tried and who or what tries, and refuses with
// problem.RateLimited beyond the limit. It counts before the try, so parallel tries gain nothing; what
// it refuses does not count.
func (s *Store) Count(ctx context.Context, what string, limit Limit, now time.Time) error {
	end := now.Truncate(limit.Window).Add(limit.Window)
	_, err := s.add(ctx, rateKey(what, end), 1, limit.Most, end)
	if errors.Is(err, errFull) {
		return problem.Limited(end.Sub(now))
	}
	return err
}

// Uncount takes back the Count, at the same now, of a try that turned out well.
func (s *Store) Uncount(ctx context.Context, what string, limit Limit, now time.Time) error {
	end := now.Truncate(limit.Window).Add(limit.Window)
	_, err := s.add(ctx, rateKey(what, end), -1, 0, end)
	if errors.Is(err, errFull) { // it lapsed meanwhile
		return nil
	}
	return err
}

// IdempotencyLifetime is how long a create can be repeated under its Idempotency-Key.
const IdempotencyLifetime = 24 * time.Hour

// Idempotency is the record that a create was carried out, with its answer.
type Idempotency struct {
	Principal string // who created
	ClientKey string // the Idempotency-Key header
	Request   []byte // digest of the request: the same key with another request is an error
	Answer    []byte // sealed: it holds a token
	CreatedAt time.Time
	Claim     string // of who carries it out; empty if nobody claimed it before. Of a record that is read: it has no answer yet
}

// claimFor is how long a claim keeps others away: longer than a function runs.
const claimFor = time.Minute

type idempotencyItem struct {
	PK      string `dynamodbav:"pk"`
	SK      string `dynamodbav:"sk"`
	Request []byte `dynamodbav:"request"`
	Answer  []byte `dynamodbav:"answer"`
	Claim   string `dynamodbav:"claim,omitempty"`
	Until   int64  `dynamodbav:"claimed_until,omitempty"` // Unix seconds
	TTL     int64  `dynamodbav:"ttl"`
}

// beside adds the record, if there is one, to what is written in the same transaction.
func (i *Idempotency) beside(items []types.TransactWriteItem, table string) ([]types.TransactWriteItem, error) {
	if i == nil {
		return items, nil
	}
	record, err := i.put(table)
	return append(items, record), err
}

func (i *Idempotency) put(table string) (types.TransactWriteItem, error) {
	at := idempotencyKey(i.Principal, i.ClientKey)
	it := idempotencyItem{PK: at.pk, SK: at.sk, Request: i.Request, Answer: i.Answer, TTL: i.CreatedAt.Add(IdempotencyLifetime).Unix()}
	values := map[string]types.AttributeValue{":now": number(i.CreatedAt.Unix())}
	// DynamoDB removes lapsed items late; until it does they count for nothing.
	condition := absent + " OR #ttl <= :now OR claimed_until <= :now"
	if i.Claim != "" && i.Answer != nil {
		condition, values[":claim"] = condition+" OR claim = :claim", text(i.Claim)
	} else if i.Claim != "" {
		it.Claim, it.Until = i.Claim, i.CreatedAt.Add(claimFor).Unix()
	}
	item, err := put(table, it, condition)
	if err != nil {
		return item, err
	}
	item.Put.ExpressionAttributeNames, item.Put.ExpressionAttributeValues = map[string]string{"#ttl": "ttl"}, values
	return item, nil
}

// ClaimIdempotency stores a record without its answer, of a create of which no two may be begun; ErrConflict if there is
// one. The record with the answer takes its place.
func (s *Store) ClaimIdempotency(ctx context.Context, i Idempotency) error {
	claim, err := i.put(s.resources)
	if err != nil {
		return err
	}
	return conflict(s.transact(ctx, "claim an idempotency key", []types.TransactWriteItem{claim}))
}

// UnclaimIdempotency removes a record that was claimed, of a create that failed.
func (s *Store) UnclaimIdempotency(ctx context.Context, i Idempotency) error {
	gone := remove(s.resources, idempotencyKey(i.Principal, i.ClientKey))
	gone.Delete.ConditionExpression = aws.String("claim = :claim")
	gone.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":claim": text(i.Claim)}
	_, err := s.transact(ctx, "give an idempotency key back", []types.TransactWriteItem{gone})
	return err
}

// Idempotency reads the record of a create; ErrNotFound if there is none.
func (s *Store) Idempotency(ctx context.Context, principal, clientKey string, now time.Time) (Idempotency, error) {
	var it idempotencyItem
	found, err := s.get(ctx, s.resources, idempotencyKey(principal, clientKey), &it)
	if err != nil {
		return Idempotency{}, fmt.Errorf("idempotency record: %w", err)
	}
	if !found || it.TTL <= now.Unix() || it.Claim != "" && it.Until <= now.Unix() {
		return Idempotency{}, ErrNotFound
	}
	return Idempotency{Principal: principal, ClientKey: clientKey, Request: it.Request, Answer: it.Answer, Claim: it.Claim}, nil
}
