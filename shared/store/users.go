package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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
	return s.add(ctx, counterKey(kind), 1, math.MaxInt64, time.Time{})
}

// errFull says that a counter has reached its bound.
var errFull = errors.New("the counter is full")

// add adds to the number n of an item, which begins at 0, and returns the sum; errFull if it was not
// below bound, or for a negative n above it, and then nothing has changed. The item lapses at end unless
// that is zero.
func (s *Store) add(ctx context.Context, key key, n, bound int64, end time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	condition := "attribute_not_exists(n) OR n < :bound"
	if n < 0 {
		condition = "n > :bound"
	}
	input := &dynamodb.UpdateItemInput{
		TableName: &s.resources, Key: key.attributes(),
		UpdateExpression:          aws.String("ADD n :n"),
		ConditionExpression:       &condition,
		ExpressionAttributeValues: map[string]types.AttributeValue{":n": number(n), ":bound": number(bound)},
		ReturnValues:              types.ReturnValueUpdatedNew,
	}
	if !end.IsZero() {
		input.UpdateExpression = aws.String("ADD n :n SET #ttl = :ttl")
		input.ExpressionAttributeNames = map[string]string{"#ttl": "ttl"}
		input.ExpressionAttributeValues[":ttl"] = number(end.Unix())
	}
	answer, err := s.db.UpdateItem(ctx, input)
	var full *types.ConditionalCheckFailedException
	if errors.As(err, &full) {
		return 0, errFull
	}
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
	err := s.read(ctx, s.resources, profileKey(id), &it)
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
// id. A name left empty becomes user-<id>, which nobody can choose.
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

// Activate makes an account active, with the password, country and name of the registration whose code
// proved the address, and uses up the code: ErrNotFound if that has been used, ErrConflict if the account
// has changed since it was read. A name that somebody else has by now is left out.
func (s *Store) Activate(ctx context.Context, u user.User, code Code) error {
	given := u.Name
	u.State, u.PasswordHash, u.Country = user.Active, code.PasswordHash, code.Country
	items := []types.TransactWriteItem{
		s.useUp(code),
		{Update: &types.Update{
			TableName: &s.credentials, Key: ownerKey(u.ID).attributes(),
			UpdateExpression: aws.String("SET #state = :state"), ConditionExpression: aws.String(present),
			ExpressionAttributeNames:  map[string]string{"#state": "state"},
			ExpressionAttributeValues: map[string]types.AttributeValue{":state": text(string(user.Active))},
		}},
	}
	if code.Name == "" {
		return used(s.changeUser(ctx, "activate user", u, items))
	}
	u.Name = code.Name
	name, err := put(s.resources, claim(nameKey(u.Name), u.ID), absent)
	if err != nil {
		return err
	}
	failed, err := s.changeUser(ctx, "activate user", u, append(slices.Clone(items), name, remove(s.resources, nameKey(given))))
	if slices.Equal(failed, []int{len(items) + 1}) { // only the name
		u.Name = given
		failed, err = s.changeUser(ctx, "activate user", u, items)
	}
	return used(failed, err)
}

// ResetPassword stores a new password, uses up the code that allowed it and ends every session of the
// user, in one transaction: no session outlives the password, and none that begins or is refreshed
// meanwhile is missed, because a login changes the account's revision and a refresh that of its line.
// ErrNotFound if the code has been used, ErrConflict if anything else changed.
func (s *Store) ResetPassword(ctx context.Context, u user.User, code Code) error {
	items, err := s.endSessions(ctx, u.ID)
	if err != nil {
		return err
	}
	return used(s.changeUser(ctx, "reset password", u, append([]types.TransactWriteItem{s.useUp(code)}, items...)))
}

// changeUser writes an account as changed, with others, if it is as it was read. failed lists the
// conditions that did not hold: 0 is the account's, 1 that of the first of others.
func (s *Store) changeUser(ctx context.Context, doing string, u user.User, others []types.TransactWriteItem) (failed []int, err error) {
	read := u.Revision
	u.Revision++
	item, err := put(s.resources, newUserItem(u), "revision = :revision")
	if err != nil {
		return nil, err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(read)}
	return s.transact(ctx, doing, append([]types.TransactWriteItem{item}, others...))
}

// used is the error of a change that uses up a code, the first of its other items.
func used(failed []int, err error) error {
	if err == nil && slices.Contains(failed, 1) {
		return ErrNotFound
	}
	return conflict(failed, err)
}

// Code is a verification code as it is kept. An address may have several at once, one for each time one
// was asked for: registering an address again must not put another password behind the code that its
// owner holds.
type Code struct {
	Purpose user.Purpose
	Email   string
	ID      int64 // random
	Hash    string
	// The password that the registration chose, or, to reset one, that the account had: after a reset the
	// codes of before are worth nothing.
	PasswordHash string
	Name         string // that the registration chose; may be empty
	Country      string // that the registration chose
	ExpiresAt    time.Time
}

type codeItem struct {
	PK           string `dynamodbav:"pk"`
	SK           string `dynamodbav:"sk"`
	ID           int64  `dynamodbav:"id"`
	Hash         string `dynamodbav:"hash"`
	PasswordHash string `dynamodbav:"password_hash"`
	Name         string `dynamodbav:"name,omitempty"`
	Country      string `dynamodbav:"country,omitempty"`
	Attempts     int64  `dynamodbav:"attempts"`
	ExpiresAt    int64  `dynamodbav:"expires_at"`
	TTL          int64  `dynamodbav:"ttl"`
}

// PutCode stores a code beside those of before.
func (s *Store) PutCode(ctx context.Context, c Code) error {
	at := codeKey(c.Purpose, c.Email, c.ID)
	item, err := put(s.resources, codeItem{
		PK: at.pk, SK: at.sk, ID: c.ID, Hash: c.Hash, PasswordHash: c.PasswordHash, Name: c.Name, Country: c.Country,
		ExpiresAt: milliseconds(c.ExpiresAt), TTL: c.ExpiresAt.Unix(),
	}, absent)
	if err != nil {
		return err
	}
	_, err = s.transact(ctx, "store verification code", []types.TransactWriteItem{item})
	return err
}

// maxCodes bounds how many codes of an address are compared.
const maxCodes = 5

// TryCodes counts an attempt at each code of an address and returns those that live and had attempts
// left. Attempts are counted before a code is compared, so parallel guesses gain nothing.
func (s *Store) TryCodes(ctx context.Context, purpose user.Purpose, email string, now time.Time) ([]Code, error) {
	items, err := query[codeItem](ctx, s, s.resources, codeKey(purpose, email, 0).pk, codePrefix)
	if err != nil {
		return nil, err
	}
	// The table keeps what has lapsed for a while; going through that would take time, and tell.
	items = slices.DeleteFunc(items, func(it codeItem) bool {
		return it.ExpiresAt <= milliseconds(now) || it.Attempts >= user.CodeAttempts
	})
	slices.SortFunc(items, func(a, b codeItem) int { return cmp.Compare(b.ExpiresAt, a.ExpiresAt) })
	var codes []Code
	for _, it := range items[:min(len(items), maxCodes)] {
		tried, err := s.tryCode(ctx, codeKey(purpose, email, it.ID), now)
		if err != nil {
			return nil, err
		}
		if tried {
			codes = append(codes, Code{
				Purpose: purpose, Email: email, ID: it.ID, Hash: it.Hash, PasswordHash: it.PasswordHash, Name: it.Name, Country: it.Country,
				ExpiresAt: instant(it.ExpiresAt),
			})
		}
	}
	return codes, nil
}

// tryCode counts an attempt, if the code lives and has attempts left.
func (s *Store) tryCode(ctx context.Context, key key, now time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	_, err := s.db.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &s.resources, Key: key.attributes(),
		UpdateExpression:    aws.String("ADD attempts :one"),
		ConditionExpression: aws.String("attempts < :most AND expires_at > :now"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":one": number(1), ":most": number(user.CodeAttempts), ":now": number(milliseconds(now)),
		},
	})
	var failed *types.ConditionalCheckFailedException
	if errors.As(err, &failed) {
		return false, nil
	}
	if err != nil {
		return false, failure("try verification code", err)
	}
	return true, nil
}

// useUp removes a code, if it is still there.
func (s *Store) useUp(c Code) types.TransactWriteItem {
	item := remove(s.resources, codeKey(c.Purpose, c.Email, c.ID))
	item.Delete.ConditionExpression = aws.String(present)
	return item
}
