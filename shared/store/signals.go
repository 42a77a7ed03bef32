package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/signal"
)

// headItem is what every poll of a device reads: less than 1 kB.
type headItem struct {
	PK           string `dynamodbav:"pk"`
	SK           string `dynamodbav:"sk"`
	User         int64  `dynamodbav:"user_id"`
	Device       int64  `dynamodbav:"id"`
	RevokedAt    int64  `dynamodbav:"revoked_at"` // 0 if it is active
	Last         int64  `dynamodbav:"last_signal"`
	Signals      int64  `dynamodbav:"signals"` // since they were trimmed, lapsed ones included
	Busy         int64  `dynamodbav:"busy_until"`
	Seen         int64  `dynamodbav:"seen_at"`
	Agent        string `dynamodbav:"agent_version"`
	Certificates int    `dynamodbav:"certificates"`
	CAs          int    `dynamodbav:"cas"`
}

func newHeadItem(d device.Device, busy time.Time) headItem {
	at := headKey(d.ID)
	return headItem{PK: at.pk, SK: at.sk, User: d.User, Device: d.ID, Busy: milliseconds(busy)}
}

func (it headItem) head() device.Head {
	return device.Head{
		User: it.User, Device: it.Device, Revoked: it.RevokedAt != 0, Last: it.Last, BusyUntil: instant(it.Busy), SeenAt: instant(it.Seen),
		Agent: it.Agent, Certificates: it.Certificates, CAs: it.CAs,
	}
}

// signalItem is one signal. It lapses after signal.Kept.
type signalItem struct {
	PK   string     `dynamodbav:"pk"`
	SK   string     `dynamodbav:"sk"`
	Type string     `dynamodbav:"type"`
	At   int64      `dynamodbav:"at"`
	Last int64      `dynamodbav:"last"` // the time of the one before it
	Ref  signal.Ref `dynamodbav:"ref"`
	TTL  int64      `dynamodbav:"ttl"`
}

func (it signalItem) signal() signal.Signal {
	return signal.Signal{Type: signal.Type(it.Type), At: it.At, Last: it.Last, Ref: it.Ref}
}

// Head reads what a poll needs to know of a device, in one read of one unit; ErrNotFound if there is no such device.
func (s *Store) Head(ctx context.Context, id int64) (device.Head, error) {
	client, err := s.quick()
	if err != nil {
		return device.Head{}, fmt.Errorf("read the head of device %d: %w", id, err)
	}
	type number struct {
		N int64 `json:",string"`
	}
	var it struct {
		User         number             `json:"user_id"`
		RevokedAt    number             `json:"revoked_at"`
		Last         number             `json:"last_signal"`
		Busy         number             `json:"busy_until"`
		Seen         number             `json:"seen_at"`
		Agent        struct{ S string } `json:"agent_version"`
		Certificates number             `json:"certificates"`
		CAs          number             `json:"cas"`
	}
	at := headKey(id)
	found, err := client.Get(ctx, s.resources, dynamo.Key{PK: at.pk, SK: at.sk}, &it)
	if err != nil {
		return device.Head{}, unavailable("read the head of a device", err)
	}
	if !found {
		return device.Head{}, ErrNotFound
	}
	return headItem{
		Device: id, User: it.User.N, RevokedAt: it.RevokedAt.N, Last: it.Last.N, Busy: it.Busy.N, Seen: it.Seen.N, Agent: it.Agent.S,
		Certificates: int(it.Certificates.N), CAs: int(it.CAs.N),
	}.head(), nil
}

// SeeDevice notes that a device asked at now, if nobody else has since it was read.
func (s *Store) SeeDevice(ctx context.Context, h device.Head, now time.Time) error {
	at := headKey(h.Device)
	err := s.quickly(ctx, "note that a device was seen", dynamo.Update{
		Key: dynamo.Key{PK: at.pk, SK: at.sk}, Expression: "SET seen_at = :now", Condition: "seen_at = :was",
		Values: dynamo.Values{":now": dynamo.Number(now.UnixMilli()), ":was": dynamo.Number(milliseconds(h.SeenAt))},
	})
	if err == ErrConflict {
		return nil
	}
	return err
}

// HurryDevice has a device ask often from now on, because something is about to change for it. That it is not there any
// more is no error.
func (s *Store) HurryDevice(ctx context.Context, id int64, now time.Time) error {
	at := headKey(id)
	err := s.quickly(ctx, "have a device ask often", dynamo.Update{
		Key: dynamo.Key{PK: at.pk, SK: at.sk}, Expression: "SET busy_until = :until", Condition: "busy_until < :until",
		Values: dynamo.Values{":until": dynamo.Number(now.Add(device.BusyFor).UnixMilli())},
	})
	if err == ErrConflict {
		return nil
	}
	return err
}

// NoteAgent stores the version of a device's agent, and that it was seen.
func (s *Store) NoteAgent(ctx context.Context, id int64, version string, now time.Time) error {
	at := headKey(id)
	return s.quickly(ctx, "note the version of an agent", dynamo.Update{
		Key: dynamo.Key{PK: at.pk, SK: at.sk}, Expression: "SET agent_version = :agent, seen_at = :now", Condition: present,
		Values: dynamo.Values{":agent": dynamo.Text(version), ":now": dynamo.Number(now.UnixMilli())},
	})
}

// Signals reads up to limit signals after a cursor, oldest first, of those that are kept.
func (s *Store) Signals(ctx context.Context, id int64, after signal.Cursor, limit int, now time.Time) ([]signal.Signal, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	first := max(int64(after)+1, now.Add(-signal.Kept).UnixMilli())
	answer, err := s.db.Query(ctx, &dynamodb.QueryInput{
		TableName: &s.resources, ConsistentRead: aws.Bool(true), Limit: aws.Int32(int32(limit)),
		KeyConditionExpression: aws.String("pk = :pk AND sk BETWEEN :first AND :last"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": text(devicePartition(id)), ":first": text(signalKey(id, min(first, maxPlace)).sk), ":last": text(signalKey(id, maxPlace).sk),
		},
	})
	if err != nil {
		return nil, failure("list signals", err)
	}
	var items []signalItem
	if err := attributevalue.UnmarshalListOfMaps(answer.Items, &items); err != nil {
		return nil, fmt.Errorf("list signals: %w", err)
	}
	signals := make([]signal.Signal, len(items))
	for i, it := range items {
		signals[i] = it.signal()
	}
	return signals, nil
}

// news is a change for a device, and what tells it.
type news struct {
	signal            *signal.Signal // nil for a change that the device need not be told of
	certificates, cas int            // how many more are assigned to it
	items             []types.TransactWriteItem
}

// How often signal tries: each failure is another change of the same device that came first.
const signalTries = 25

// signal writes a change for a device together with its signal: both or neither. failed lists which of the change's own
// conditions did not hold. ErrNotFound if the device is not there or was revoked.
//
// The time of a signal is later than that of the one before: the head's last is the condition, and who loses reads it
// again.
func (s *Store) signal(ctx context.Context, doing string, id int64, now time.Time, build func(at int64, h device.Head) (news, error)) (failed []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*Budget)
	defer cancel()
	for try := 0; ; try++ {
		var h headItem
		if err := s.read(ctx, s.resources, headKey(id), &h); err != nil {
			return nil, err
		}
		if h.RevokedAt != 0 {
			return nil, ErrNotFound
		}
		at := signal.Next(h.Last, now)
		n, err := build(at, h.head())
		if err != nil {
			return nil, err
		}
		update := &types.Update{
			TableName: &s.resources, Key: headKey(id).attributes(),
			UpdateExpression:    aws.String("SET busy_until = :busy ADD certificates :certificates, cas :cas"),
			ConditionExpression: aws.String("revoked_at = :never AND certificates <= :room"),
			ExpressionAttributeValues: map[string]types.AttributeValue{
				":room": number(int64(device.MaxAssigned - max(n.certificates, 0))),
				":busy": number(max(h.Busy, now.Add(device.BusyFor).UnixMilli())), ":never": number(0),
				":certificates": number(int64(n.certificates)), ":cas": number(int64(n.cas)),
			},
		}
		items := append(n.items, types.TransactWriteItem{Update: update})
		if n.signal != nil {
			update.UpdateExpression = aws.String("SET last_signal = :at, busy_until = :busy ADD certificates :certificates, cas :cas, signals :one")
			update.ConditionExpression = aws.String("revoked_at = :never AND certificates <= :room AND last_signal = :was")
			update.ExpressionAttributeValues[":at"], update.ExpressionAttributeValues[":was"], update.ExpressionAttributeValues[":one"] = number(at), number(h.Last), number(1)
			key := signalKey(id, at)
			written, err := put(s.resources, signalItem{
				PK: key.pk, SK: key.sk, Type: string(n.signal.Type), At: at, Last: h.Last, Ref: n.signal.Ref,
				TTL: time.UnixMilli(at).Add(signal.Kept).Unix(),
			}, absent)
			if err != nil {
				return nil, err
			}
			items = append(items, written)
		}
		failed, err := s.transact(ctx, doing, items)
		if err != nil || len(failed) == 0 {
			if err == nil && h.Signals+1 >= signal.Most+trimEvery {
				// What is not trimmed now is with the next signal.
				_ = s.trim(ctx, id)
			}
			return nil, err
		}
		own, _ := split(failed, func(i int) bool { return i < len(n.items) })
		if len(own) > 0 {
			return own, nil
		}
		if try == signalTries || !pause(ctx, 20*time.Millisecond*time.Duration(try+1)) {
			return nil, busy(doing)
		}
	}
}

// trimEvery is how many signals more than signal.Most there may be before the oldest are removed.
const trimEvery = 100

// trim removes signals beyond signal.Most. A crash on the way leaves some more, and the count as it was.
func (s *Store) trim(ctx context.Context, id int64) error {
	items, err := query[struct {
		At int64 `dynamodbav:"at"`
	}](ctx, s, s.resources, devicePartition(id), signalPrefix)
	if err != nil {
		return err
	}
	kept := min(len(items), signal.Most)
	old := items[kept:]
	slices.Reverse(old) // the oldest first: what a crash leaves has no hole
	for len(old) > 0 {
		some := old[:min(len(old), 50)]
		gone := make([]types.TransactWriteItem, len(some))
		for i, it := range some {
			gone[i] = remove(s.resources, signalKey(id, it.At))
		}
		if _, err := s.transact(ctx, "trim signals", gone); err != nil {
			return err
		}
		old = old[len(some):]
	}
	at := headKey(id)
	return s.quickly(ctx, "trim signals", dynamo.Update{
		Key: dynamo.Key{PK: at.pk, SK: at.sk}, Expression: "SET signals = :kept", Condition: present,
		Values: dynamo.Values{":kept": {"N": strconv.Itoa(kept)}},
	})
}
