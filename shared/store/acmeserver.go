package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
)

// The items of the ACME servers of CAs, in the resource table:
//
//	ACMESERVER#<ca>       SECRET                      what its server keeps to itself      acmeSecretItem
//	ACMESERVER#<ca>       BINDING#<kid>               lets one make accounts               bindingItem
//	ACMESERVER#<ca>       COUNT                       how many bindings                    n
//	ACMESERVER#<ca>       ACCOUNT#<id>                an account                           serverAccountItem
//	ACMESERVER#<ca>       THUMBPRINT#<thumbprint>     which account has the key            keyClaimItem
//	ACMESERVER#<ca>       ORDERS#<account>#<16 d.>#…  an order of an account, by time      placedItem
//	ACMESERVER#<ca>       REPLACED#<certificate>      a certificate that was replaced      markItem
//	ACMEORDER#<ca>#<id>   ORDER                       an order, with its authorizations    serverOrderItem
//	NONCE#<nonce>         NONCE                       a nonce that was used                markItem

// acmeSecretItem is what a CA's ACME server keeps to itself.
type acmeSecretItem struct {
	PK     string        `dynamodbav:"pk"`
	SK     string        `dynamodbav:"sk"`
	Secret sealed.Secret `dynamodbav:"secret"`
}

// bindingItem lets one make accounts.
type bindingItem struct {
	PK          string   `dynamodbav:"pk"`
	SK          string   `dynamodbav:"sk"`
	User        int64    `dynamodbav:"user_id"`
	CA          int64    `dynamodbav:"ca"`
	ID          string   `dynamodbav:"id"`
	Name        string   `dynamodbav:"name"`
	APIKey      int64    `dynamodbav:"api_key,omitempty"`
	Names       []string `dynamodbav:"names,omitempty"`
	Profile     string   `dynamodbav:"profile,omitempty"`
	MaxAccounts int64    `dynamodbav:"max_accounts,omitempty"`
	Accounts    int64    `dynamodbav:"accounts"`
	CreatedAt   int64    `dynamodbav:"created_at"`
	ExpiresAt   int64    `dynamodbav:"expires_at,omitempty"`
}

func (it bindingItem) binding() acmeserver.Binding {
	return acmeserver.Binding{
		User: it.User, CA: it.CA, ID: it.ID, Name: it.Name, APIKey: it.APIKey, Names: it.Names, Profile: it.Profile,
		MaxAccounts: it.MaxAccounts, Accounts: it.Accounts, CreatedAt: instant(it.CreatedAt), ExpiresAt: instant(it.ExpiresAt),
	}
}

// serverAccountItem is an account.
type serverAccountItem struct {
	PK            string   `dynamodbav:"pk"`
	SK            string   `dynamodbav:"sk"`
	User          int64    `dynamodbav:"user_id"`
	CA            int64    `dynamodbav:"ca"`
	ID            string   `dynamodbav:"id"`
	Key           []byte   `dynamodbav:"key"`
	Thumbprint    string   `dynamodbav:"thumbprint"`
	Contacts      []string `dynamodbav:"contacts,omitempty"`
	Binding       string   `dynamodbav:"binding"`
	CreatedAt     int64    `dynamodbav:"created_at"`
	DeactivatedAt int64    `dynamodbav:"deactivated_at,omitempty"`
	Revision      int64    `dynamodbav:"revision"`
}

func newServerAccountItem(a acmeserver.Account) serverAccountItem {
	at := serverAccountKey(a.CA, a.ID)
	return serverAccountItem{
		PK: at.pk, SK: at.sk, User: a.User, CA: a.CA, ID: a.ID, Key: a.Key, Thumbprint: a.Thumbprint, Contacts: a.Contacts, Binding: a.Binding,
		CreatedAt: milliseconds(a.CreatedAt), DeactivatedAt: milliseconds(a.DeactivatedAt), Revision: a.Revision,
	}
}

func (it serverAccountItem) account() acmeserver.Account {
	return acmeserver.Account{
		User: it.User, CA: it.CA, ID: it.ID, Key: it.Key, Thumbprint: it.Thumbprint, Contacts: it.Contacts, Binding: it.Binding,
		CreatedAt: instant(it.CreatedAt), DeactivatedAt: instant(it.DeactivatedAt), Revision: it.Revision,
	}
}

// keyClaimItem says which account has a key.
type keyClaimItem struct {
	PK      string `dynamodbav:"pk"`
	SK      string `dynamodbav:"sk"`
	Account string `dynamodbav:"account"`
}

// placedItem is an order in its account's list.
type placedItem struct {
	PK    string `dynamodbav:"pk"`
	SK    string `dynamodbav:"sk"`
	Order string `dynamodbav:"order"`
	TTL   int64  `dynamodbav:"ttl"`
}

// markItem says by being there that something happened.
type markItem struct {
	PK  string `dynamodbav:"pk"`
	SK  string `dynamodbav:"sk"`
	TTL int64  `dynamodbav:"ttl"`
}

// serverOrderItem is an order, with its authorizations. It lapses by itself.
type serverOrderItem struct {
	PK             string              `dynamodbav:"pk"`
	SK             string              `dynamodbav:"sk"`
	User           int64               `dynamodbav:"user_id"`
	CA             int64               `dynamodbav:"ca"`
	ID             string              `dynamodbav:"id"`
	Account        string              `dynamodbav:"account"`
	Authorizations []authorizationItem `dynamodbav:"authorizations"`
	Profile        string              `dynamodbav:"profile,omitempty"`
	NotAfter       int64               `dynamodbav:"not_after,omitempty"`
	Replaces       string              `dynamodbav:"replaces,omitempty"`
	ReplacesUntil  int64               `dynamodbav:"replaces_until,omitempty"`
	CreatedAt      int64               `dynamodbav:"created_at"`
	ExpiresAt      int64               `dynamodbav:"expires_at"`
	CSR            []byte              `dynamodbav:"csr,omitempty"`
	StartedAt      int64               `dynamodbav:"started_at,omitempty"`
	LeaseEnds      int64               `dynamodbav:"lease_ends,omitempty"`
	Issuer         int64               `dynamodbav:"issuer,omitempty"`
	Serial         string              `dynamodbav:"serial,omitempty"`
	Drawn          string              `dynamodbav:"drawn,omitempty"`
	Error          *acmeserver.Problem `dynamodbav:"error,omitempty"`
	Revision       int64               `dynamodbav:"revision"`
	TTL            int64               `dynamodbav:"ttl"`
}

type authorizationItem struct {
	Name          string          `dynamodbav:"name"`
	Challenges    []challengeItem `dynamodbav:"challenges"`
	DeactivatedAt int64           `dynamodbav:"deactivated_at,omitempty"`
}

type challengeItem struct {
	Type        string              `dynamodbav:"type"`
	Token       string              `dynamodbav:"token"`
	ValidatedAt int64               `dynamodbav:"validated_at,omitempty"`
	Error       *acmeserver.Problem `dynamodbav:"error,omitempty"`
}

func newServerOrderItem(o acmeserver.Order) serverOrderItem {
	at := serverOrderKey(o.CA, o.ID)
	it := serverOrderItem{
		PK: at.pk, SK: at.sk, User: o.User, CA: o.CA, ID: o.ID, Account: o.Account, Profile: o.Profile, NotAfter: milliseconds(o.NotAfter), Replaces: o.Replaces,
		ReplacesUntil: milliseconds(o.ReplacesUntil), CreatedAt: milliseconds(o.CreatedAt), ExpiresAt: milliseconds(o.ExpiresAt), CSR: o.CSR,
		StartedAt: milliseconds(o.StartedAt), LeaseEnds: milliseconds(o.LeaseEnds), Issuer: o.Issuer, Serial: o.Serial, Drawn: o.Drawn, Error: o.Error,
		Revision: o.Revision, TTL: o.ExpiresAt.Unix(),
	}
	for _, a := range o.Authorizations {
		authorization := authorizationItem{Name: a.Name, DeactivatedAt: milliseconds(a.DeactivatedAt)}
		for _, c := range a.Challenges {
			authorization.Challenges = append(authorization.Challenges, challengeItem{c.Type, c.Token, milliseconds(c.ValidatedAt), c.Error})
		}
		it.Authorizations = append(it.Authorizations, authorization)
	}
	return it
}

func (it serverOrderItem) order() acmeserver.Order {
	o := acmeserver.Order{
		User: it.User, CA: it.CA, ID: it.ID, Account: it.Account, Profile: it.Profile, NotAfter: instant(it.NotAfter), Replaces: it.Replaces,
		ReplacesUntil: instant(it.ReplacesUntil), CreatedAt: instant(it.CreatedAt), ExpiresAt: instant(it.ExpiresAt), CSR: it.CSR,
		StartedAt: instant(it.StartedAt), LeaseEnds: instant(it.LeaseEnds), Issuer: it.Issuer, Serial: it.Serial, Drawn: it.Drawn, Error: it.Error, Revision: it.Revision,
	}
	for _, a := range it.Authorizations {
		authorization := acmeserver.Authorization{Name: a.Name, DeactivatedAt: instant(a.DeactivatedAt)}
		for _, c := range a.Challenges {
			authorization.Challenges = append(authorization.Challenges, acmeserver.Challenge{Type: c.Type, Token: c.Token, ValidatedAt: instant(c.ValidatedAt), Error: c.Error})
		}
		o.Authorizations = append(o.Authorizations, authorization)
	}
	return o
}

// ACMESecret reads what a CA's ACME server keeps to itself; ErrNotFound if there is nothing yet.
func (s *Store) ACMESecret(ctx context.Context, ca int64) (sealed.Secret, error) {
	var it acmeSecretItem
	err := s.read(ctx, s.resources, acmeSecretKey(ca), &it)
	return it.Secret, err
}

// CreateACMESecret stores it once and for all: ErrConflict if there is one, ErrNotFound if the user has no such CA.
func (s *Store) CreateACMESecret(ctx context.Context, user, ca int64, secret sealed.Secret) error {
	at := acmeSecretKey(ca)
	stored, err := put(s.resources, acmeSecretItem{at.pk, at.sk, secret}, absent)
	if err != nil {
		return err
	}
	failed, err := s.transact(ctx, "create the secret of an ACME server", []types.TransactWriteItem{stored, check(s.resources, caKey(user, ca), present)})
	const ofCA = 1
	if err == nil && slices.Contains(failed, ofCA) {
		return ErrNotFound
	}
	return conflict(failed, err)
}

// CreateBinding stores a binding, if its CA is there and has room for it. ErrNotFound if the user has no such CA,
// ErrConflict if the idempotency record exists.
func (s *Store) CreateBinding(ctx context.Context, b acmeserver.Binding, once *Idempotency) error {
	at := bindingKey(b.CA, b.ID)
	created, err := put(s.resources, bindingItem{
		PK: at.pk, SK: at.sk, User: b.User, CA: b.CA, ID: b.ID, Name: b.Name, APIKey: b.APIKey, Names: b.Names, Profile: b.Profile,
		MaxAccounts: b.MaxAccounts, CreatedAt: milliseconds(b.CreatedAt), ExpiresAt: milliseconds(b.ExpiresAt),
	}, absent)
	if err != nil {
		return err
	}
	items := []types.TransactWriteItem{created, check(s.resources, caKey(b.User, b.CA), present), s.oneMore(bindingCountKey(b.CA), acmeserver.MaxBindings)}
	items, err = once.beside(items, s.resources)
	if err != nil {
		return err
	}
	const ofCA, ofCount = 1, 2
	failed, err := s.transact(ctx, "create a binding", items)
	switch {
	case err == nil && slices.Contains(failed, ofCA):
		return ErrNotFound
	case err == nil && slices.Equal(failed, []int{ofCount}):
		return problem.Conflict.New("A CA may have %d ACME bindings. Delete one that is no longer used.", acmeserver.MaxBindings)
	}
	return conflict(failed, err)
}

// Binding reads one binding; ErrNotFound if the CA has none with the id.
func (s *Store) Binding(ctx context.Context, ca int64, id string) (acmeserver.Binding, error) {
	var it bindingItem
	err := s.read(ctx, s.resources, bindingKey(ca, id), &it)
	return it.binding(), err
}

// Bindings lists a CA's bindings, newest first; there are at most acmeserver.MaxBindings.
func (s *Store) Bindings(ctx context.Context, ca int64) ([]acmeserver.Binding, error) {
	all, err := queryAs(ctx, s, s.resources, acmeServerPartition(ca), bindingPrefix, bindingItem.binding)
	slices.SortFunc(all, func(a, b acmeserver.Binding) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, err
}

// DeleteBinding removes a binding, and with it the use of the accounts it made; ErrNotFound if there is none.
func (s *Store) DeleteBinding(ctx context.Context, ca int64, id string) error {
	gone := remove(s.resources, bindingKey(ca, id))
	gone.Delete.ConditionExpression = aws.String(present)
	failed, err := s.transact(ctx, "delete a binding", []types.TransactWriteItem{gone, s.oneLess(bindingCountKey(ca))})
	if err == nil && len(failed) > 0 {
		return ErrNotFound
	}
	return err
}

// ErrBindingSpent says that a binding makes no more accounts, or is gone.
var ErrBindingSpent = errors.New("the binding makes no more accounts")

// CreateServerAccount stores an account and counts it for its binding. ErrConflict if the CA has an account with the
// key, ErrBindingSpent if the binding makes no more.
func (s *Store) CreateServerAccount(ctx context.Context, a acmeserver.Account) (acmeserver.Account, error) {
	a.Revision = 1
	created, err := put(s.resources, newServerAccountItem(a), absent)
	if err != nil {
		return a, err
	}
	claimed, err := s.claimKey(a)
	if err != nil {
		return a, err
	}
	const ofKey, ofBinding = 1, 2
	failed, err := s.transact(ctx, "create an account of an ACME server", []types.TransactWriteItem{created, claimed, {Update: &types.Update{
		TableName: &s.resources, Key: bindingKey(a.CA, a.Binding).attributes(), UpdateExpression: aws.String("SET accounts = accounts + :one"),
		ConditionExpression:       aws.String("attribute_exists(pk) AND (attribute_not_exists(max_accounts) OR accounts < max_accounts)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":one": number(1)},
	}}})
	switch {
	case err != nil || len(failed) == 0:
		return a, err
	case slices.Contains(failed, ofKey): // before the binding, which the same account may have used up
		return a, ErrConflict
	case slices.Contains(failed, ofBinding):
		return a, ErrBindingSpent
	}
	return a, ErrConflict
}

func (s *Store) claimKey(a acmeserver.Account) (types.TransactWriteItem, error) {
	at := thumbprintKey(a.CA, a.Thumbprint)
	return put(s.resources, keyClaimItem{at.pk, at.sk, a.ID}, absent)
}

// ServerAccount reads an account; ErrNotFound if the CA has none with the id.
func (s *Store) ServerAccount(ctx context.Context, ca int64, id string) (acmeserver.Account, error) {
	var it serverAccountItem
	err := s.read(ctx, s.resources, serverAccountKey(ca, id), &it)
	return it.account(), err
}

// ServerAccountByKey reads the account that has a key; ErrNotFound if none has.
func (s *Store) ServerAccountByKey(ctx context.Context, ca int64, thumbprint string) (acmeserver.Account, error) {
	var it keyClaimItem
	if err := s.read(ctx, s.resources, thumbprintKey(ca, thumbprint), &it); err != nil {
		return acmeserver.Account{}, err
	}
	return s.ServerAccount(ctx, ca, it.Account)
}

// ChangeServerAccount stores an account as it is after a change; ErrConflict if it was changed since it was read.
func (s *Store) ChangeServerAccount(ctx context.Context, a acmeserver.Account) (acmeserver.Account, error) {
	changed, err := s.changedServerAccount(&a)
	if err != nil {
		return a, err
	}
	return a, conflict(s.transact(ctx, "change an account of an ACME server", []types.TransactWriteItem{changed}))
}

func (s *Store) changedServerAccount(a *acmeserver.Account) (types.TransactWriteItem, error) {
	before := a.Revision
	a.Revision++
	item, err := put(s.resources, newServerAccountItem(*a), "revision = :before")
	if err == nil {
		item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":before": number(before)}
	}
	return item, err
}

// ErrKeyTaken says that an account of the CA has the key.
var ErrKeyTaken = errors.New("an account has the key")

// RollServerAccount gives an account another key: ErrKeyTaken if an account has that, ErrConflict if the account was
// changed since it was read.
func (s *Store) RollServerAccount(ctx context.Context, a acmeserver.Account, jwk []byte, thumbprint string) (acmeserver.Account, error) {
	former := remove(s.resources, thumbprintKey(a.CA, a.Thumbprint))
	a.Key, a.Thumbprint = jwk, thumbprint
	changed, err := s.changedServerAccount(&a)
	if err != nil {
		return a, err
	}
	claimed, err := s.claimKey(a)
	if err != nil {
		return a, err
	}
	const ofKey = 1
	failed, err := s.transact(ctx, "change the key of an account", []types.TransactWriteItem{changed, claimed, former})
	if err == nil && slices.Contains(failed, ofKey) {
		return a, ErrKeyTaken
	}
	return a, conflict(failed, err)
}

// CreateServerOrder stores an order and lists it as its account's.
func (s *Store) CreateServerOrder(ctx context.Context, o acmeserver.Order) (acmeserver.Order, error) {
	o.Revision = 1
	created, err := put(s.resources, newServerOrderItem(o), absent)
	if err != nil {
		return o, err
	}
	at := placedKey(o.CA, o.Account, o.ID, o.CreatedAt)
	placed, err := put(s.resources, placedItem{at.pk, at.sk, o.ID, o.ExpiresAt.Unix()}, "")
	if err != nil {
		return o, err
	}
	return o, conflict(s.transact(ctx, "create an order of an ACME server", []types.TransactWriteItem{created, placed}))
}

// ServerOrder reads an order; ErrNotFound if the CA has none with the id, or it has lapsed.
func (s *Store) ServerOrder(ctx context.Context, ca int64, id string, now time.Time) (acmeserver.Order, error) {
	var it serverOrderItem
	err := s.read(ctx, s.resources, serverOrderKey(ca, id), &it)
	// DynamoDB removes lapsed items late.
	if err == nil && it.TTL <= now.Unix() {
		err = ErrNotFound
	}
	return it.order(), err
}

// ServerOrders lists the ids of an account's last orders, at most most, newest first.
func (s *Store) ServerOrders(ctx context.Context, ca int64, account string, most int, now time.Time) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	answer, err := s.db.Query(ctx, &dynamodb.QueryInput{
		TableName: &s.resources, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(false), Limit: aws.Int32(int32(most)),
		KeyConditionExpression:    aws.String("pk = :pk AND begins_with(sk, :prefix)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(acmeServerPartition(ca)), ":prefix": text(placedPrefix(account))},
	})
	if err != nil {
		return nil, failure("list orders", err)
	}
	var items []placedItem
	if err := attributevalue.UnmarshalListOfMaps(answer.Items, &items); err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	ids := []string{}
	for _, it := range items {
		if it.TTL > now.Unix() {
			ids = append(ids, it.Order)
		}
	}
	return ids, nil
}

// ChangeServerOrder stores an order as it is after a change; ErrConflict if it was changed since it was read. With its
// certificate, what it replaces is marked as replaced.
func (s *Store) ChangeServerOrder(ctx context.Context, o acmeserver.Order) (acmeserver.Order, error) {
	before := o.Revision
	o.Revision++
	item, err := put(s.resources, newServerOrderItem(o), "revision = :before")
	if err != nil {
		return o, err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":before": number(before)}
	items := []types.TransactWriteItem{item}
	if o.Serial != "" && o.Replaces != "" {
		at := replacedKey(o.CA, o.Replaces)
		mark, err := put(s.resources, markItem{at.pk, at.sk, max(o.ReplacesUntil.Unix(), o.ExpiresAt.Unix())}, "")
		if err != nil {
			return o, err
		}
		items = append(items, mark)
	}
	return o, conflict(s.transact(ctx, "change an order of an ACME server", items))
}

// Replaced tells whether an order that was issued replaced a certificate.
func (s *Store) Replaced(ctx context.Context, ca int64, certificate string) (bool, error) {
	var there struct{}
	return s.get(ctx, s.resources, replacedKey(ca, certificate), &there)
}

// SpendNonce notes that a nonce was used, which is good until ends; ErrConflict if it was used before.
func (s *Store) SpendNonce(ctx context.Context, nonce string, ends time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	at := nonceKey(nonce)
	attributes, err := attributevalue.MarshalMap(markItem{at.pk, at.sk, ends.Add(time.Hour).Unix()})
	if err != nil {
		return fmt.Errorf("spend a nonce: %w", err)
	}
	// Not a transaction, at half its price: a nonce that is lost with an answer makes the client take another.
	_, err = s.db.PutItem(ctx, &dynamodb.PutItemInput{TableName: &s.resources, Item: attributes, ConditionExpression: aws.String(absent)})
	var there *types.ConditionalCheckFailedException
	if errors.As(err, &there) {
		return ErrConflict
	}
	if err != nil {
		return failure("spend a nonce", err)
	}
	return nil
}

// DeleteACMEServer removes what a CA's ACME server has, after the CA. Its orders lapse by themselves. A crash leaves
// a part that nobody reads; it may be repeated.
func (s *Store) DeleteACMEServer(ctx context.Context, ca int64) error {
	keys, err := s.keysOf(ctx, acmeServerPartition(ca))
	if err != nil {
		return err
	}
	for some := range slices.Chunk(keys, 100) {
		items := make([]types.TransactWriteItem, len(some))
		for i, k := range some {
			items[i] = remove(s.resources, k)
		}
		if _, err := s.transact(ctx, "delete an ACME server", items); err != nil {
			return err
		}
	}
	return nil
}
