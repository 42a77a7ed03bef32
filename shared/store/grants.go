package store

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/device"
)

// grantItem is a device authorization. It lapses some time after its codes.
type grantItem struct {
	PK        string `dynamodbav:"pk"`
	SK        string `dynamodbav:"sk"`
	ID        string `dynamodbav:"grant"`
	UserCode  string `dynamodbav:"user_code"`
	Interval  int64  `dynamodbav:"interval"` // seconds
	CreatedAt int64  `dynamodbav:"created_at"`
	ExpiresAt int64  `dynamodbav:"expires_at"`
	PolledAt  int64  `dynamodbav:"polled_at"`
	User      int64  `dynamodbav:"user_id"`
	Approved  bool   `dynamodbav:"approved"`
	DecidedAt int64  `dynamodbav:"decided_at"`
	PublicID  string `dynamodbav:"public_id"`
	Device    int64  `dynamodbav:"device"`
	Revision  int64  `dynamodbav:"revision"`
	TTL       int64  `dynamodbav:"ttl"`
}

func newGrantItem(g device.Grant) grantItem {
	at := grantKey(g.ID)
	return grantItem{
		PK: at.pk, SK: at.sk, ID: g.ID, UserCode: g.UserCode, Interval: int64(g.Interval / time.Second), CreatedAt: milliseconds(g.CreatedAt),
		ExpiresAt: milliseconds(g.ExpiresAt), PolledAt: milliseconds(g.PolledAt), User: g.User, Approved: g.Approved, DecidedAt: milliseconds(g.DecidedAt),
		PublicID: g.PublicID, Device: g.Device, Revision: g.Revision, TTL: g.ExpiresAt.Add(device.RegistrationLifetime + device.GrantKept).Unix(),
	}
}

func (it grantItem) grant() device.Grant {
	return device.Grant{
		ID: it.ID, UserCode: it.UserCode, Interval: time.Duration(it.Interval) * time.Second, CreatedAt: instant(it.CreatedAt), ExpiresAt: instant(it.ExpiresAt),
		PolledAt: instant(it.PolledAt), User: it.User, Approved: it.Approved, DecidedAt: instant(it.DecidedAt), PublicID: it.PublicID, Device: it.Device, Revision: it.Revision,
	}
}

// userCodeItem leads from a user code to its grant.
type userCodeItem struct {
	PK    string `dynamodbav:"pk"`
	SK    string `dynamodbav:"sk"`
	Grant string `dynamodbav:"grant"`
	TTL   int64  `dynamodbav:"ttl"`
}

// CreateGrant stores a device authorization; ErrConflict if its user code is another's that lives.
func (s *Store) CreateGrant(ctx context.Context, g device.Grant) error {
	created, err := put(s.resources, newGrantItem(g), absent)
	if err != nil {
		return err
	}
	at := userCodeKey(g.UserCode)
	code, err := put(s.resources, userCodeItem{at.pk, at.sk, g.ID, g.ExpiresAt.Unix()}, absent+" OR #ttl < :now")
	if err != nil {
		return err
	}
	code.Put.ExpressionAttributeNames = map[string]string{"#ttl": "ttl"}
	code.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":now": number(g.CreatedAt.Unix())}
	return conflict(s.transact(ctx, "begin a device authorization", []types.TransactWriteItem{created, code}))
}

// Grant reads a device authorization; ErrNotFound if there is none.
func (s *Store) Grant(ctx context.Context, id string) (device.Grant, error) {
	var it grantItem
	err := s.read(ctx, s.resources, grantKey(id), &it)
	return it.grant(), err
}

// GrantOfUserCode finds the device authorization that a user code stands for; ErrNotFound if none does.
func (s *Store) GrantOfUserCode(ctx context.Context, code string) (device.Grant, error) {
	var it userCodeItem
	if err := s.read(ctx, s.resources, userCodeKey(code), &it); err != nil {
		return device.Grant{}, err
	}
	return s.Grant(ctx, it.Grant)
}

// UpdateGrant stores a device authorization, if nobody has changed it since it was read: ErrConflict.
func (s *Store) UpdateGrant(ctx context.Context, g device.Grant) error {
	item, err := s.changedGrant(g)
	if err != nil {
		return err
	}
	return conflict(s.transact(ctx, "change a device authorization", []types.TransactWriteItem{item}))
}

func (s *Store) changedGrant(g device.Grant) (types.TransactWriteItem, error) {
	before := g.Revision
	g.Revision++
	item, err := put(s.resources, newGrantItem(g), "revision = :before")
	if err == nil {
		item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":before": number(before)}
	}
	return item, err
}

// any reports whether one of a transaction's failures is among some of its items.
func among(failed []int, places ...int) bool {
	return slices.ContainsFunc(failed, func(i int) bool { return slices.Contains(places, i) })
}
