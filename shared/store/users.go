package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/user"
)

// userItem is an account.
type userItem struct {
	PK           string     `dynamodbav:"pk"`
	SK           string     `dynamodbav:"sk"`
	ID           int64      `dynamodbav:"id"`
	Email        string     `dynamodbav:"email"`
	Name         string     `dynamodbav:"name"`
	Country      string     `dynamodbav:"country"`
	Roles        []string   `dynamodbav:"roles"`
	State        user.State `dynamodbav:"state"`
	PasswordHash string     `dynamodbav:"password_hash"`
	Revision     int64      `dynamodbav:"revision"`
	CreatedAt    int64      `dynamodbav:"created_at"`
}

func newUserItem(u user.User) userItem {
	at := profileKey(u.ID)
	return userItem{
		PK: at.pk, SK: at.sk, ID: u.ID, Email: u.Email, Name: u.Name, Country: u.Country, Roles: u.Roles, State: u.State,
		PasswordHash: u.PasswordHash, Revision: u.Revision, CreatedAt: milliseconds(u.CreatedAt),
	}
}

func (it userItem) user() user.User {
	return user.User{
		ID: it.ID, Email: it.Email, Name: it.Name, Country: it.Country, Roles: it.Roles, State: it.State,
		PasswordHash: it.PasswordHash, Revision: it.Revision, CreatedAt: instant(it.CreatedAt),
	}
}

// claimItem says who has an e-mail address or a name.
type claimItem struct {
	PK   string `dynamodbav:"pk"`
	SK   string `dynamodbav:"sk"`
	User int64  `dynamodbav:"user_id"`
}

func claim(at key, user int64) claimItem { return claimItem{at.pk, at.sk, user} }

// next gives the next id of a kind. An id whose use fails is lost; none is given twice.
func (s *Store) next(ctx context.Context, kind string) (int64, error) {
	return s.add(ctx, counterKey(kind), 1, time.Time{})
}

// add adds to the number n of an item, which begins at 0, and returns the sum. The item lapses at end
// unless that is zero.
func (s *Store) add(ctx context.Context, key key, n int64, end time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	input := &dynamodb.UpdateItemInput{
		TableName: &s.resources, Key: key.attributes(),
		UpdateExpression:          aws.String("ADD n :n"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":n": number(n)},
		ReturnValues:              types.ReturnValueUpdatedNew,
	}
	if !end.IsZero() {
		input.UpdateExpression = aws.String("ADD n :n SET #ttl = :ttl")
		input.ExpressionAttributeNames = map[string]string{"#ttl": "ttl"}
		input.ExpressionAttributeValues[":ttl"] = number(end.Unix())
	}
	answer, err := s.db.UpdateItem(ctx, input)
	if err != nil {
		return 0, failure("add to "+key.sk, err)
	}
	sum, ok := answer.Attributes["n"].(*types.AttributeValueMemberN)
	if !ok {
		return 0, fmt.Errorf("add to %s: no number", key.sk)
	}
	return strconv.ParseInt(sum.Value, 10, 64)
}

// User reads an account; ErrNotFound if there is none.
func (s *Store) User(ctx context.Context, id int64) (user.User, error) {
	var it userItem
	found, err := s.get(ctx, s.resources, profileKey(id), &it)
	if err == nil && !found {
		err = ErrNotFound
	}
	return it.user(), err
}

// UserByEmail reads the account of an address; ErrNotFound if there is none. It makes two reads
// either way, so that its time does not tell.
func (s *Store) UserByEmail(ctx context.Context, email string) (user.User, error) {
	var c claimItem
	if _, err := s.get(ctx, s.resources, emailKey(email), &c); err != nil {
		return user.User{}, err
	}
	return s.User(ctx, c.User) // there is no user 0
}

// NameTaken reports whether a user has the name.
func (s *Store) NameTaken(ctx context.Context, name string) (bool, error) {
	var c claimItem
	return s.get(ctx, s.resources, nameKey(name), &c)
}

// Errors of CreateUser.
var (
	ErrEmailTaken = errors.New("the e-mail address has an account")
	ErrNameTaken  = errors.New("the name is taken")
)

// CreateUser stores a new account with its claims on address and name, all or nothing, and gives it an
// id. A name left empty becomes user-<id>.
func (s *Store) CreateUser(ctx context.Context, u user.User) (user.User, error) {
	id, err := s.next(ctx, "user")
	if err != nil {
		return u, err
	}
	u.ID = id
	if u.Name == "" {
		u.Name = fmt.Sprintf("user-%d", id)
	}
	owner := ownerKey(id)
	var items []types.TransactWriteItem
	for _, write := range []struct {
		table string
		item  any
	}{
		{s.resources, claim(emailKey(u.Email), id)},
		{s.resources, claim(nameKey(u.Name), id)},
		{s.resources, newUserItem(u)},
		{s.credentials, ownerItem{PK: owner.pk, SK: owner.sk, State: u.State}},
	} {
		item, err := put(write.table, write.item, absent)
		if err != nil {
			return u, err
		}
		items = append(items, item)
	}
	failed, err := s.transact(ctx, "create user", items)
	switch {
	case err != nil:
		return u, err
	case len(failed) == 0:
		return u, nil
	case failed[0] == 0:
		return u, ErrEmailTaken
	}
	return u, ErrNameTaken
}

// Reregister replaces the password and country of an account that is still inactive, as it was read;
// ErrConflict if it has changed since.
func (s *Store) Reregister(ctx context.Context, u user.User) error {
	return s.changeUser(ctx, "register again", u, nil)
}

// Activate makes an account active and uses up the code that proved its address; ErrConflict if
// either has changed since it was read.
func (s *Store) Activate(ctx context.Context, u user.User, code Code) error {
	u.State = user.Active
	return s.changeUser(ctx, "activate user", u, []types.TransactWriteItem{
		s.useUp(code),
		{Update: &types.Update{
			TableName: &s.credentials, Key: ownerKey(u.ID).attributes(),
			UpdateExpression: aws.String("SET #state = :state"), ConditionExpression: aws.String(present),
			ExpressionAttributeNames:  map[string]string{"#state": "state"},
			ExpressionAttributeValues: map[string]types.AttributeValue{":state": text(string(user.Active))},
		}},
	})
}

// ResetPassword stores a new password, uses up the code that allowed it and ends every session of the
// user, in one transaction: no session outlives the password, and none that begins meanwhile is
// missed, because a login changes the account's revision. ErrConflict if anything changed.
func (s *Store) ResetPassword(ctx context.Context, u user.User, code Code) error {
	items, err := s.endSessions(ctx, u.ID)
	if err != nil {
		return err
	}
	return s.changeUser(ctx, "reset password", u, append([]types.TransactWriteItem{s.useUp(code)}, items...))
}

// changeUser writes an account as changed, with others, if it is as it was read.
func (s *Store) changeUser(ctx context.Context, doing string, u user.User, others []types.TransactWriteItem) error {
	read := u.Revision
	u.Revision++
	item, err := put(s.resources, newUserItem(u), "revision = :revision")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(read)}
	failed, err := s.transact(ctx, doing, append([]types.TransactWriteItem{item}, others...))
	if err == nil && len(failed) > 0 {
		err = ErrConflict
	}
	return err
}

// Code is a verification code as it is kept.
type Code struct {
	Purpose   user.Purpose
	Email     string
	Hash      string
	ExpiresAt time.Time
}

type codeItem struct {
	PK        string `dynamodbav:"pk"`
	SK        string `dynamodbav:"sk"`
	Hash      string `dynamodbav:"hash"`
	Attempts  int64  `dynamodbav:"attempts"`
	ExpiresAt int64  `dynamodbav:"expires_at"`
	TTL       int64  `dynamodbav:"ttl"`
}

// PutCode stores a code in place of any before it.
func (s *Store) PutCode(ctx context.Context, c Code) error {
	at := codeKey(c.Purpose, c.Email)
	item, err := put(s.resources, codeItem{PK: at.pk, SK: at.sk, Hash: c.Hash, ExpiresAt: milliseconds(c.ExpiresAt), TTL: c.ExpiresAt.Unix()}, "")
	if err != nil {
		return err
	}
	_, err = s.transact(ctx, "store verification code", []types.TransactWriteItem{item})
	return err
}

// TryCode counts an attempt at a code and returns it; ErrNotFound if there is none that lives and has
// attempts left. The attempt is counted before the code is compared, so parallel guesses gain nothing.
func (s *Store) TryCode(ctx context.Context, purpose user.Purpose, email string, now time.Time) (Code, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	answer, err := s.db.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &s.resources, Key: codeKey(purpose, email).attributes(),
		UpdateExpression:    aws.String("ADD attempts :one"),
		ConditionExpression: aws.String("attempts < :most AND expires_at > :now"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":one": number(1), ":most": number(user.CodeAttempts), ":now": number(milliseconds(now)),
		},
		ReturnValues: types.ReturnValueAllNew,
	})
	var failed *types.ConditionalCheckFailedException
	if errors.As(err, &failed) {
		return Code{}, ErrNotFound
	}
	if err != nil {
		return Code{}, failure("try verification code", err)
	}
	hash, ok := answer.Attributes["hash"].(*types.AttributeValueMemberS)
	if !ok {
		return Code{}, errors.New("try verification code: the item has no hash")
	}
	return Code{Purpose: purpose, Email: email, Hash: hash.Value}, nil
}

// useUp removes a code, if it is still the one that was read.
func (s *Store) useUp(c Code) types.TransactWriteItem {
	item := remove(s.resources, codeKey(c.Purpose, c.Email))
	item.Delete.ConditionExpression = aws.String("#hash = :hash")
	item.Delete.ExpressionAttributeNames = map[string]string{"#hash": "hash"}
	item.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":hash": text(c.Hash)}
	return item
}
