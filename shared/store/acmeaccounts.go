package store

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
)

// maxOwned is how many ACME accounts, and how many DNS providers, a user may have.
const maxOwned = 100

// accountItem is an account at an ACME CA.
type accountItem struct {
	PK        string        `dynamodbav:"pk"`
	SK        string        `dynamodbav:"sk"`
	User      int64         `dynamodbav:"user_id"`
	ID        int64         `dynamodbav:"id"`
	Name      string        `dynamodbav:"name"`
	Email     string        `dynamodbav:"email,omitempty"`
	Provider  string        `dynamodbav:"provider"`
	Directory string        `dynamodbav:"directory,omitempty"`
	CA        int64         `dynamodbav:"ca,omitempty"`
	URL       string        `dynamodbav:"url"` // "" until registered: the condition of a registration compares it
	Key       sealed.Secret `dynamodbav:"key"`
	EABKey    string        `dynamodbav:"eab_key,omitempty"`
	EABMAC    sealed.Secret `dynamodbav:"eab_mac"`
	Failure   string        `dynamodbav:"failure,omitempty"`
	KeyType   string        `dynamodbav:"key_type,omitempty"`
	Validity  int64         `dynamodbav:"validity,omitempty"` // seconds
	Uses      int64         `dynamodbav:"uses"`               // certificates
	CreatedAt int64         `dynamodbav:"created_at"`
	UpdatedAt int64         `dynamodbav:"updated_at"`
}

func newAccountItem(a acmeaccount.Account) accountItem {
	at := accountKey(a.User, a.ID)
	return accountItem{
		PK: at.pk, SK: at.sk, User: a.User, ID: a.ID, Name: a.Name, Email: a.Email, Provider: a.Provider, Directory: a.Directory, CA: a.CA,
		URL: a.URL, Key: a.Key, EABKey: a.EABKey, EABMAC: a.EABMAC, Failure: a.Failure, KeyType: a.KeyType, Validity: int64(a.Validity / time.Second), Uses: a.Certificates,
		CreatedAt: milliseconds(a.CreatedAt), UpdatedAt: milliseconds(a.UpdatedAt),
	}
}

func (it accountItem) account() acmeaccount.Account {
	return acmeaccount.Account{
		User: it.User, ID: it.ID, Name: it.Name, Email: it.Email, Provider: it.Provider, Directory: it.Directory, CA: it.CA,
		URL: it.URL, Key: it.Key, EABKey: it.EABKey, EABMAC: it.EABMAC, Failure: it.Failure, KeyType: it.KeyType, Validity: time.Duration(it.Validity) * time.Second, Certificates: it.Uses,
		CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt),
	}
}

// NextACMEAccountID gives an id that no ACME account has had.
func (s *Store) NextACMEAccountID(ctx context.Context) (int64, error) {
	return s.next(ctx, "acme_account")
}

// CreateACMEAccount stores an account, if its owner has room for it. ErrConflict if the idempotency record
// exists, problem.NotFound if its private CA does not.
func (s *Store) CreateACMEAccount(ctx context.Context, a acmeaccount.Account, once *Idempotency) error {
	var beside []types.TransactWriteItem
	if a.CA != 0 {
		if _, err := s.CA(ctx, a.User, a.CA); errors.Is(err, ErrNotFound) {
			return problem.NotFound.New("There is no CA %d.", a.CA)
		} else if err != nil {
			return err
		}
		beside = append(beside, s.use(caKey(a.User, a.CA), 1))
	}
	return s.createOwned(ctx, newAccountItem(a), accountCountKey(a.User), maxOwned, "ACME accounts", once, beside...)
}

// createOwned stores one of the things of which a user has few, and counts it.
func (s *Store) createOwned(ctx context.Context, item any, count key, most int64, what string, once *Idempotency, beside ...types.TransactWriteItem) error {
	created, err := put(s.resources, item, absent)
	if err != nil {
		return err
	}
	items := []types.TransactWriteItem{created, s.oneMore(count, most)}
	items = append(items, beside...)
	items, err = once.beside(items, s.resources)
	if err != nil {
		return err
	}
	const ofCount = 1
	failed, err := s.transact(ctx, "create one of the "+what, items)
	if err == nil && len(failed) == 1 && failed[0] == ofCount {
		return problem.Conflict.New("A user may have %d %s. Delete one that is no longer used.", most, what)
	}
	return conflict(failed, err)
}

// ACMEAccount reads one account; ErrNotFound if the user has none with the id.
func (s *Store) ACMEAccount(ctx context.Context, user, id int64) (acmeaccount.Account, error) {
	var it accountItem
	err := s.read(ctx, s.resources, accountKey(user, id), &it)
	return it.account(), err
}

// ACMEAccounts lists a user's accounts, newest first; there are at most maxOwned.
func (s *Store) ACMEAccounts(ctx context.Context, user int64) ([]acmeaccount.Account, error) {
	return queryAs(ctx, s, s.resources, accountPartition(user), accountPrefix, accountItem.account)
}

// ChangeACMEAccount stores an account's name, contact and default key type; ErrNotFound if it is gone.
func (s *Store) ChangeACMEAccount(ctx context.Context, a acmeaccount.Account) error {
	return s.change(ctx, "change ACME account", accountKey(a.User, a.ID), types.Update{
		UpdateExpression:         aws.String("SET #name = :name, email = :email, key_type = :type, validity = :validity, updated_at = :now"),
		ConditionExpression:      aws.String(present),
		ExpressionAttributeNames: map[string]string{"#name": "name"},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":name": text(a.Name), ":email": text(a.Email), ":type": text(a.KeyType), ":validity": number(int64(a.Validity / time.Second)), ":now": number(milliseconds(a.UpdatedAt)),
		},
	})
}

// RegisterACMEAccount stores the outcome of a registration: the URL that the CA gave, or why it failed. It
// changes nothing if the URL is no longer before, empty for none. ErrNotFound if the account is gone.
func (s *Store) RegisterACMEAccount(ctx context.Context, user, id int64, before, url, why string, now time.Time) error {
	err := s.change(ctx, "register ACME account", accountKey(user, id), types.Update{
		UpdateExpression:         aws.String("SET #url = :url, failure = :why, updated_at = :now"),
		ConditionExpression:      aws.String("attribute_exists(pk) AND #url = :before"),
		ExpressionAttributeNames: map[string]string{"#url": "url"},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":url": text(url), ":why": text(why), ":before": text(before), ":now": number(milliseconds(now)),
		},
	})
	if errors.Is(err, ErrNotFound) { // or registered by another at the same time, to the same effect
		_, err = s.ACMEAccount(ctx, user, id)
	}
	return err
}

// change updates one item of the resource table; ErrNotFound if the condition does not hold.
func (s *Store) change(ctx context.Context, doing string, at key, u types.Update) error {
	u.TableName, u.Key = &s.resources, at.attributes()
	failed, err := s.transact(ctx, doing, []types.TransactWriteItem{{Update: &u}})
	if err == nil && len(failed) > 0 {
		err = ErrNotFound
	}
	return err
}

// DeleteACMEAccount removes an account that no certificate uses; ErrConflict if one does, ErrNotFound if
// there is none.
func (s *Store) DeleteACMEAccount(ctx context.Context, user, id int64) error {
	a, err := s.ACMEAccount(ctx, user, id)
	if err != nil {
		return err
	}
	less, err := s.unuseCA(ctx, user, a.CA)
	if err != nil {
		return err
	}
	return s.deleteOwned(ctx, accountKey(user, id), accountCountKey(user), "delete ACME account", less...)
}

// oneMore counts one of the things of which there are few, and oneLess takes it back.
func (s *Store) oneMore(count key, most int64) types.TransactWriteItem {
	return types.TransactWriteItem{Update: &types.Update{
		TableName: &s.resources, Key: count.attributes(), UpdateExpression: aws.String("ADD n :one"),
		ConditionExpression:       aws.String("attribute_not_exists(n) OR n < :most"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":one": number(1), ":most": number(most)},
	}}
}

func (s *Store) oneLess(count key) types.TransactWriteItem {
	return types.TransactWriteItem{Update: &types.Update{
		TableName: &s.resources, Key: count.attributes(), UpdateExpression: aws.String("ADD n :less"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":less": number(-1)},
	}}
}

func (s *Store) deleteOwned(ctx context.Context, at, count key, doing string, beside ...types.TransactWriteItem) error {
	gone := remove(s.resources, at)
	gone.Delete.ConditionExpression = aws.String("attribute_exists(pk) AND (attribute_not_exists(uses) OR uses <= :none)")
	gone.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":none": number(0)}
	failed, err := s.transact(ctx, doing, append([]types.TransactWriteItem{gone, s.oneLess(count)}, beside...))
	if err != nil || len(failed) == 0 {
		return err
	}
	var there struct{}
	if err := s.read(ctx, s.resources, at, &there); err != nil {
		return err
	}
	return ErrConflict
}
