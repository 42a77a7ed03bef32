package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/webhook"
)

// deviceItem is a device as lists show it.
type deviceItem struct {
	PK        string `dynamodbav:"pk"`
	SK        string `dynamodbav:"sk"`
	List      string `dynamodbav:"list"` // place among the user's devices of its status
	User      int64  `dynamodbav:"user_id"`
	ID        int64  `dynamodbav:"id"`
	PublicID  string `dynamodbav:"public_id"`
	Key       []byte `dynamodbav:"key"`
	Name      string `dynamodbav:"name,omitempty"`
	Platform  string `dynamodbav:"platform,omitempty"`
	Model     string `dynamodbav:"model,omitempty"`
	App       string `dynamodbav:"app,omitempty"`
	IP        string `dynamodbav:"ip,omitempty"`
	UserAgent string `dynamodbav:"user_agent,omitempty"`
	PushToken string `dynamodbav:"push_token,omitempty"`
	By        int64  `dynamodbav:"by,omitempty"`
	CreatedAt int64  `dynamodbav:"created_at"`
	UpdatedAt int64  `dynamodbav:"updated_at"`
	RevokedAt int64  `dynamodbav:"revoked_at,omitempty"`
	Revision  int64  `dynamodbav:"revision"`
}

func newDeviceItem(d device.Device) deviceItem {
	at := deviceKey(d.User, d.ID)
	return deviceItem{
		PK: at.pk, SK: at.sk, List: d.Place, User: d.User, ID: d.ID, PublicID: d.PublicID, Key: d.Key, Name: d.Name, Platform: d.Platform, Model: d.Model,
		App: d.App, IP: d.IP, UserAgent: d.UserAgent, PushToken: d.PushToken, By: d.By, CreatedAt: milliseconds(d.CreatedAt), UpdatedAt: milliseconds(d.UpdatedAt),
		RevokedAt: milliseconds(d.RevokedAt), Revision: d.Revision,
	}
}

func (it deviceItem) device() device.Device {
	return device.Device{
		User: it.User, ID: it.ID, Place: it.List, PublicID: it.PublicID, Key: it.Key, Name: it.Name, Platform: it.Platform, Model: it.Model,
		App: it.App, IP: it.IP, UserAgent: it.UserAgent, PushToken: it.PushToken, By: it.By, CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt),
		RevokedAt: instant(it.RevokedAt), Revision: it.Revision,
	}
}

// idItem leads to a device: from its public id, or from the API key that registered it.
type idItem struct {
	PK string `dynamodbav:"pk"`
	SK string `dynamodbav:"sk"`
	ID int64  `dynamodbav:"id"`
}

// NextDeviceID gives an id that no device has had.
func (s *Store) NextDeviceID(ctx context.Context) (int64, error) { return s.next(ctx, "device") }

// Device reads one device; ErrNotFound if the user has none with the id.
func (s *Store) Device(ctx context.Context, user, id int64) (device.Device, error) {
	var it deviceItem
	err := s.read(ctx, s.resources, deviceKey(user, id), &it)
	return it.device(), err
}

// DeviceByPublicID finds the user's active device of a public id; ErrNotFound if there is none.
func (s *Store) DeviceByPublicID(ctx context.Context, user int64, publicID string) (device.Device, error) {
	var it idItem
	if err := s.read(ctx, s.resources, publicIDKey(user, publicID), &it); err != nil {
		return device.Device{}, err
	}
	return s.Device(ctx, user, it.ID)
}

// Devices reads a page of the user's devices of a status, newest first, and how many there are.
func (s *Store) Devices(ctx context.Context, user int64, status device.Status, offset, limit int) ([]device.Device, int, error) {
	items, total, err := page[deviceItem](ctx, s, deviceList(user, status), offset, limit)
	all := make([]device.Device, len(items))
	for i, it := range items {
		all[i] = it.device()
	}
	return all, total, err
}

// DevicesByID reads devices of a user, by id; those that are not there are left out.
func (s *Store) DevicesByID(ctx context.Context, user int64, ids []int64) (map[int64]device.Device, error) {
	all := map[int64]device.Device{}
	for some := range slices.Chunk(ids, 100) {
		items, err := batch[deviceItem](ctx, s, some, func(id int64) key { return deviceKey(user, id) })
		if err != nil {
			return nil, err
		}
		for id, it := range items {
			all[id] = it.device()
		}
	}
	return all, nil
}

// Heads reads the heads of up to 100 devices, in their order; a zero one for a device that is not there.
func (s *Store) Heads(ctx context.Context, ids []int64) ([]device.Head, error) {
	heads := make([]device.Head, len(ids))
	items, err := batch[headItem](ctx, s, ids, headKey)
	for i, id := range ids {
		if it, ok := items[id]; ok {
			heads[i] = it.head()
		}
	}
	return heads, err
}

// batch reads the items of up to 100 ids, by id.
func batch[T any](ctx context.Context, s *Store, ids []int64, at func(int64) key) (map[int64]T, error) {
	found := map[int64]T{}
	if len(ids) == 0 {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	of, keys := map[key]int64{}, []map[string]types.AttributeValue{}
	for _, id := range ids {
		if _, twice := of[at(id)]; !twice {
			of[at(id)] = id
			keys = append(keys, at(id).attributes())
		}
	}
	for wait := 10 * time.Millisecond; len(keys) > 0; wait *= 2 {
		answer, err := s.db.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{
			s.resources: {Keys: keys, ConsistentRead: aws.Bool(true)},
		}})
		if err != nil {
			return nil, failure("read some items", err)
		}
		for _, attributes := range answer.Responses[s.resources] {
			var k struct {
				PK string `dynamodbav:"pk"`
				SK string `dynamodbav:"sk"`
			}
			var it T
			if err := errors.Join(attributevalue.UnmarshalMap(attributes, &k), attributevalue.UnmarshalMap(attributes, &it)); err != nil {
				return nil, fmt.Errorf("read some items: %w", err)
			}
			found[of[key{k.PK, k.SK}]] = it
		}
		keys = answer.UnprocessedKeys[s.resources].Keys
		if len(keys) > 0 && !pause(ctx, wait) {
			return nil, failure("read some items", context.DeadlineExceeded)
		}
	}
	return found, nil
}

// Registration is what registering a device writes.
type Registration struct {
	Before *device.Device // as it is; nil for one that is new
	After  device.Device
	Family session.Family // the line of its refresh tokens from now on, which ends the one before
	Was    int64          // revision of the line before; 0 for none
	Grant  *device.Grant  // that it registers with; nil for none
}

// RegisterDevice stores a device with its session, all of it or nothing. ErrConflict if it, its session or its grant
// was changed since they were read, or another device of the user has the public id.
func (s *Store) RegisterDevice(ctx context.Context, r Registration) (device.Device, error) {
	d := r.After
	var items []types.TransactWriteItem
	if r.Before == nil {
		list := deviceList(d.User, device.Active)
		place, err := s.place(ctx, list)
		if err != nil {
			return d, err
		}
		d.Place, d.Revision = place, 1
		claimed := publicIDKey(d.User, d.PublicID)
		for _, item := range []any{newDeviceItem(d), idItem{claimed.pk, claimed.sk, d.ID}, newHeadItem(d, d.CreatedAt.Add(device.BusyFor))} {
			created, err := put(s.resources, item, absent)
			if err != nil {
				return d, err
			}
			items = append(items, created)
		}
		entered, err := s.enter(list, place)
		if err != nil {
			return d, err
		}
		items = append(items, entered...)
	} else {
		changed, err := s.changedDevice(&d, r.Before.Revision)
		if err != nil {
			return d, err
		}
		items = append(items, changed, types.TransactWriteItem{Update: &types.Update{
			TableName: &s.resources, Key: headKey(d.ID).attributes(), UpdateExpression: aws.String("SET busy_until = :until"),
			ConditionExpression:       aws.String("revoked_at = :never"),
			ExpressionAttributeValues: map[string]types.AttributeValue{":until": number(milliseconds(d.UpdatedAt.Add(device.BusyFor))), ":never": number(0)},
		}})
	}
	family, err := s.deviceFamily(r.Family, r.Was)
	if err != nil {
		return d, err
	}
	items = append(items, family)
	if r.Grant != nil {
		used, err := s.changedGrant(*r.Grant)
		if err != nil {
			return d, err
		}
		items = append(items, used)
	}
	if d.By != 0 {
		at := registeredKey(d.User, d.By, d.ID)
		row, err := put(s.resources, idItem{at.pk, at.sk, d.ID}, "")
		if err != nil {
			return d, err
		}
		items = append(items, row)
	}
	if r.Before != nil && r.Before.By != 0 && r.Before.By != d.By {
		items = append(items, remove(s.resources, registeredKey(d.User, r.Before.By, d.ID)))
	}
	if r.Before != nil && string(r.Before.Key) != string(d.Key) {
		// Everything on it is to be sealed anew: at once, by whoever writes this; by the schedule if it dies.
		at := rewrapKey(d.ID)
		due, err := put(s.resources, rewrapItem{at.pk, at.sk, d.User, d.ID, d.Revision, rewrapDue, milliseconds(d.UpdatedAt)}, "")
		if err != nil {
			return d, err
		}
		items = append(items, due)
	}
	return d, conflict(s.transact(ctx, "register a device", items))
}

// rewrapItem says that a device has another key than what is on it is sealed to.
type rewrapItem struct {
	PK       string `dynamodbav:"pk"`
	SK       string `dynamodbav:"sk"`
	User     int64  `dynamodbav:"user_id"`
	Device   int64  `dynamodbav:"id"`
	Revision int64  `dynamodbav:"revision"` // of the device
	Due      string `dynamodbav:"due"`
	DueAt    int64  `dynamodbav:"due_at"`
}

const rewrapDue = "REWRAP"

// DueRewraps lists up to most devices that what is on them is to be sealed to anew.
func (s *Store) DueRewraps(ctx context.Context, now time.Time, most int) ([]DueDevice, error) {
	return dueKeys(ctx, s, rewrapDue, now, most, func(k dueKey) DueDevice { return DueDevice{k.User, k.ID} })
}

// DueDevice is a device that something is due for.
type DueDevice struct{ User, Device int64 }

// Rewrapped says that everything on a device has been sealed to its key, if the device is as it was read.
func (s *Store) Rewrapped(ctx context.Context, d device.Device) error {
	gone := remove(s.resources, rewrapKey(d.ID))
	gone.Delete.ConditionExpression = aws.String("revision <= :revision")
	gone.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(d.Revision)}
	_, err := s.transact(ctx, "note that keys are sealed anew", []types.TransactWriteItem{gone})
	return err
}

func (s *Store) changedDevice(d *device.Device, before int64) (types.TransactWriteItem, error) {
	d.Revision = before + 1
	item, err := put(s.resources, newDeviceItem(*d), "revision = :before")
	if err == nil {
		item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":before": number(before)}
	}
	return item, err
}

// DeviceFamily reads the line of a device's refresh tokens; ErrNotFound if there is none.
func (s *Store) DeviceFamily(ctx context.Context, id int64) (session.Family, error) {
	var it familyItem
	err := s.read(ctx, s.credentials, deviceFamilyKey(id), &it)
	return it.family(), err
}

// RotateDeviceFamily stores a device's line of refresh tokens as it is after one was used; ErrConflict if another was
// used at the same time, or the device registered anew. With an event, its owner is told.
func (s *Store) RotateDeviceFamily(ctx context.Context, before, after session.Family, event *webhook.Event) error {
	item, err := s.deviceFamily(after, before.Revision)
	if err != nil {
		return err
	}
	const doing = "rotate a device's refresh token"
	if event != nil {
		told, err := s.tell(*event)
		if err != nil {
			return err
		}
		return conflict(s.transact(ctx, doing, []types.TransactWriteItem{item, told}))
	}
	// Every device does this every hour, and a transaction of one item costs twice. When the answer is lost and the
	// call repeated, the condition fails, and the device gets a pair by its replay.
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	_, err = s.db.PutItem(ctx, &dynamodb.PutItemInput{
		TableName: item.Put.TableName, Item: item.Put.Item, ConditionExpression: item.Put.ConditionExpression, ExpressionAttributeValues: item.Put.ExpressionAttributeValues,
	})
	var failed *types.ConditionalCheckFailedException
	if errors.As(err, &failed) {
		return ErrConflict
	}
	if err != nil {
		return failure(doing, err)
	}
	return nil
}

func (s *Store) deviceFamily(f session.Family, before int64) (types.TransactWriteItem, error) {
	it := newFamilyItem(f)
	at := deviceFamilyKey(f.ID)
	it.PK, it.SK = at.pk, at.sk
	condition := "revision = :before"
	if before == 0 {
		condition = absent
	}
	item, err := put(s.credentials, it, condition)
	if err == nil && before != 0 {
		item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":before": number(before)}
	}
	return item, err
}

// PublishTokenKey has the public key of device tokens (SPKI, DER) lie where the authorizer reads it.
func (s *Store) PublishTokenKey(ctx context.Context, kid string, public []byte) error {
	at := tokenKeyKey(kid)
	item, err := put(s.credentials, struct {
		PK     string `dynamodbav:"pk"`
		SK     string `dynamodbav:"sk"`
		Public []byte `dynamodbav:"public"`
	}{at.pk, at.sk, public}, absent) // what is there is the same: the id is its digest
	if err != nil {
		return err
	}
	_, err = s.transact(ctx, "publish the key of device tokens", []types.TransactWriteItem{item})
	return err
}

// RevokeDevice ends a device: nothing that it holds is good for anything from now on, and its public id is free.
// ErrConflict if it was changed since it was read. What is assigned to it is taken off after that, by whoever comes
// across it.
func (s *Store) RevokeDevice(ctx context.Context, before device.Device, now time.Time) (device.Device, error) {
	d := before
	list := deviceList(d.User, device.Revoked)
	place, err := s.place(ctx, list)
	if err != nil {
		return d, err
	}
	d.Place, d.RevokedAt, d.UpdatedAt, d.PushToken = place, now, now, ""
	changed, err := s.changedDevice(&d, before.Revision)
	if err != nil {
		return d, err
	}
	left, err := s.leave(deviceList(d.User, device.Active), before.Place)
	if err != nil {
		return d, err
	}
	entered, err := s.enter(list, place)
	if err != nil {
		return d, err
	}
	items := append([]types.TransactWriteItem{changed, {Update: &types.Update{
		TableName: &s.resources, Key: headKey(d.ID).attributes(), UpdateExpression: aws.String("SET revoked_at = :now"),
		ConditionExpression: aws.String(present), ExpressionAttributeValues: map[string]types.AttributeValue{":now": number(milliseconds(now))},
	}}, remove(s.resources, publicIDKey(d.User, d.PublicID)), remove(s.credentials, deviceFamilyKey(d.ID))}, append(left, entered...)...)
	if d.By != 0 {
		items = append(items, remove(s.resources, registeredKey(d.User, d.By, d.ID)))
	}
	return d, conflict(s.transact(ctx, "revoke a device", items))
}

// RegisteredBy is the one active device that an API key registered; ErrNotFound if it is none or more than one.
func (s *Store) RegisteredBy(ctx context.Context, user, apiKey int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	answer, err := s.db.Query(ctx, &dynamodb.QueryInput{
		TableName: &s.resources, ConsistentRead: aws.Bool(true), Limit: aws.Int32(2),
		KeyConditionExpression: aws.String("pk = :pk AND begins_with(sk, :prefix)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": text(registeredKey(user, apiKey, 0).pk), ":prefix": text(devicePrefix),
		},
	})
	if err != nil {
		return 0, failure("find an API key's device", err)
	}
	var items []idItem
	if err := attributevalue.UnmarshalListOfMaps(answer.Items, &items); err != nil {
		return 0, fmt.Errorf("find an API key's device: %w", err)
	}
	if len(items) != 1 {
		return 0, ErrNotFound
	}
	return items[0].ID, nil
}

// OwnerOfDevice tells whose a device is; ErrNotFound if there is none with the id.
func (s *Store) OwnerOfDevice(ctx context.Context, id int64) (int64, error) {
	var it headItem
	err := s.read(ctx, s.resources, headKey(id), &it)
	return it.User, err
}
