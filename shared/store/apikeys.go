package store

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/webhook"
)

// ownerItem lies beside a user's credentials. Revision counts the creations of keys, so that the
// number of keys is bounded however many are created at once.
type ownerItem struct {
	PK       string     `dynamodbav:"pk"`
	SK       string     `dynamodbav:"sk"`
	State    user.State `dynamodbav:"state"`
	Revision int64      `dynamodbav:"revision"`
}

// keyItem is everything there is of an API key: what the authorizer needs and what lists show. One
// item, so that deleting it is one write.
type keyItem struct {
	PK             string   `dynamodbav:"pk"`
	SK             string   `dynamodbav:"sk"`
	User           int64    `dynamodbav:"user_id"`
	ID             int64    `dynamodbav:"id"`
	Name           string   `dynamodbav:"name"`
	Permissions    string   `dynamodbav:"permissions"`
	CIDRs          []string `dynamodbav:"cidrs,omitempty"`
	Digest         []byte   `dynamodbav:"digest"`
	PreviousDigest []byte   `dynamodbav:"previous_digest,omitempty"`
	Grace          int64    `dynamodbav:"grace_ms,omitempty"`
	GraceEnds      int64    `dynamodbav:"grace_ends,omitempty"`
	Creator        string   `dynamodbav:"creator"`
	CreatedAt      int64    `dynamodbav:"created_at"`
	ExpiresAt      int64    `dynamodbav:"expires_at"`
	LastUsedAt     int64    `dynamodbav:"last_used_at"` // 0 if never: the condition of the next mark compares it
	LastUsedFrom   string   `dynamodbav:"last_used_from,omitempty"`
	TTL            int64    `dynamodbav:"ttl"`
}

func newKeyItem(k apikey.Key) keyItem {
	at := apiKeyKey(k.User, k.ID)
	return keyItem{
		PK: at.pk, SK: at.sk, User: k.User, ID: k.ID, Name: k.Name, Permissions: string(k.Permissions), CIDRs: k.CIDRs,
		Digest: k.Digest, PreviousDigest: k.Previous.Digest, Grace: k.Previous.Grace.Milliseconds(), GraceEnds: milliseconds(k.Previous.Ends),
		Creator: k.Creator, CreatedAt: milliseconds(k.CreatedAt), ExpiresAt: milliseconds(k.ExpiresAt),
		LastUsedAt: milliseconds(k.LastUsedAt), LastUsedFrom: k.LastUsedFrom,
		TTL: k.ExpiresAt.Add(apikey.KeptAfterExpiry).Unix(),
	}
}

func (it keyItem) key() apikey.Key {
	return apikey.Key{
		User: it.User, ID: it.ID, Name: it.Name, Permissions: access.Permissions(it.Permissions), CIDRs: it.CIDRs, Digest: it.Digest,
		Previous: apikey.Previous{Digest: it.PreviousDigest, Grace: time.Duration(it.Grace) * time.Millisecond, Ends: instant(it.GraceEnds)},
		Creator:  it.Creator, CreatedAt: instant(it.CreatedAt), ExpiresAt: instant(it.ExpiresAt),
		LastUsedAt: instant(it.LastUsedAt), LastUsedFrom: it.LastUsedFrom,
	}
}

// APIKeys lists a user's keys, newest first. A user has at most apikey.MaxPerUser, so the list is one
// page of the table.
func (s *Store) APIKeys(ctx context.Context, user int64) ([]apikey.Key, error) {
	return queryAs(ctx, s, s.credentials, userPartition(user), keyPrefix, keyItem.key)
}

// APIKey reads one key; ErrNotFound if there is none.
func (s *Store) APIKey(ctx context.Context, user, id int64) (apikey.Key, error) {
	var it keyItem
	err := s.read(ctx, s.credentials, apiKeyKey(user, id), &it)
	return it.key(), err
}

// NextAPIKeyID gives an id that no key has had.
func (s *Store) NextAPIKeyID(ctx context.Context) (int64, error) { return s.next(ctx, "apikey") }

// CreateAPIKey stores a key, if the caller that makes it still exists, its owner is active and has
// room for it; a lapsed key makes room. With an idempotency record, that is stored in the same
// transaction: ErrConflict if the record exists already, and then nothing has changed.
func (s *Store) CreateAPIKey(ctx context.Context, k apikey.Key, maker access.Caller, once *Idempotency, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	for wait := 20 * time.Millisecond; wait < 2*time.Second; wait = wait * 3 / 2 {
		var owner ownerItem
		if _, err := s.get(ctx, s.credentials, ownerKey(k.User), &owner); err != nil {
			return err
		}
		keys, err := s.APIKeys(ctx, k.User)
		if err != nil {
			return err
		}
		items, err := s.creation(k, maker, owner, once)
		if err != nil {
			return err
		}
		if len(keys) >= apikey.MaxPerUser {
			lapsed := slices.IndexFunc(keys, func(k apikey.Key) bool { return k.Status(now) == apikey.Expired })
			if lapsed < 0 {
				return problem.Conflict.New("A user may have %d API keys. Delete one that is no longer used.", apikey.MaxPerUser)
			}
			items = append(items, remove(s.credentials, apiKeyKey(k.User, keys[lapsed].ID)))
		}
		failed, err := s.transact(ctx, "create API key", items)
		switch {
		case err != nil:
			return err
		case len(failed) == 0:
			return nil
		case slices.Contains(failed, creationMaker):
			return problem.Unauthorized.New("invalid token")
		case once != nil && slices.Contains(failed, creationOnce):
			return ErrConflict
		case owner.State != user.Active:
			return problem.Forbidden.New("The account is not active.")
		}
		if !pause(ctx, wait) {
			break
		}
	}
	return busy("create API key")
}

// The places of the items of a creation whose conditions are told apart.
const creationMaker, creationOnce = 2, 3

func (s *Store) creation(k apikey.Key, maker access.Caller, owner ownerItem, once *Idempotency) ([]types.TransactWriteItem, error) {
	created, err := put(s.credentials, newKeyItem(k), absent)
	if err != nil {
		return nil, err
	}
	items := []types.TransactWriteItem{
		created,
		{Update: &types.Update{
			TableName: &s.credentials, Key: ownerKey(k.User).attributes(),
			UpdateExpression:         aws.String("SET revision = :next"),
			ConditionExpression:      aws.String("revision = :revision AND #state = :active"),
			ExpressionAttributeNames: map[string]string{"#state": "state"},
			ExpressionAttributeValues: map[string]types.AttributeValue{
				":next": number(owner.Revision + 1), ":revision": number(owner.Revision), ":active": text(string(user.Active)),
			},
		}},
		check(s.credentials, callerKey(maker), present),
	}
	items, err = once.beside(items, s.resources)
	if err != nil {
		return nil, err
	}
	// Its notices of expiry, deleted with it: who gives them need not read credentials.
	notices, err := s.notices(webhook.Notice{Subject: webhook.OfAPIKeys, User: k.User, ID: k.ID, Name: k.Name, ExpiresAt: k.ExpiresAt}, k.CreatedAt)
	if err != nil {
		return nil, err
	}
	if notices.Put != nil {
		items = append(items, notices)
	}
	return items, nil
}

// callerKey is where the credential of a caller lies.
func callerKey(c access.Caller) key {
	if c.Kind == access.APIKey {
		return apiKeyKey(c.User, c.ID)
	}
	return sessionKey(c.User, c.ID)
}

// RollAPIKey stores what a roll changed, if the key is as it was read and the caller still exists:
// ErrConflict if it has been rolled, used for the first time or deleted since, or if the idempotency
// record exists.
func (s *Store) RollAPIKey(ctx context.Context, before, after apikey.Key, caller access.Caller, once *Idempotency) error {
	condition := "digest = :was AND attribute_not_exists(grace_ends)"
	values := map[string]types.AttributeValue{
		":was": binary(before.Digest), ":digest": binary(after.Digest),
		":previous": binary(after.Previous.Digest), ":grace": number(after.Previous.Grace.Milliseconds()),
	}
	if !before.Previous.Ends.IsZero() {
		condition = "digest = :was AND grace_ends = :ends"
		values[":ends"] = number(milliseconds(before.Previous.Ends))
	}
	items := []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.credentials, Key: apiKeyKey(before.User, before.ID).attributes(),
		UpdateExpression:          aws.String("SET digest = :digest, previous_digest = :previous, grace_ms = :grace REMOVE grace_ends"),
		ConditionExpression:       &condition,
		ExpressionAttributeValues: values,
	}}}
	// A key that rolls itself is held to exist by the condition above; an item stands in a transaction once.
	if caller.Kind != access.APIKey || caller.ID != before.ID {
		items = append(items, check(s.credentials, callerKey(caller), present))
	}
	items, err := once.beside(items, s.resources)
	if err != nil {
		return err
	}
	return conflict(s.transact(ctx, "roll API key", items))
}

// DeleteAPIKey removes a key; ErrNotFound if there is none. From the moment it returns, the
// authorizer's consistent read finds nothing. It is a transaction because those are repeated safely:
// a lost answer must not turn the deletion into ErrNotFound.
func (s *Store) DeleteAPIKey(ctx context.Context, user, id int64) error {
	item := remove(s.credentials, apiKeyKey(user, id))
	item.Delete.ConditionExpression = aws.String(present)
	notices := remove(s.resources, noticeKey(webhook.OfAPIKeys, user, id))
	failed, err := s.transact(ctx, "delete API key", []types.TransactWriteItem{item, notices})
	if err == nil && len(failed) > 0 {
		err = ErrNotFound
	}
	return err
}
