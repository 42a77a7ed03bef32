package store

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go/middleware"

	"cjj365.cc/bb/shared/certificate"
)

// Thing is what the tests list: it stands in its user's list and in the sublist of its owner.
type Thing struct {
	PK      string `dynamodbav:"pk"`
	SK      string `dynamodbav:"sk"`
	List    string `dynamodbav:"list"`
	Sublist string `dynamodbav:"sublist,omitempty"`
	User    int64  `dynamodbav:"user_id"`
	Owner   int64  `dynamodbav:"owner,omitempty"`
	ID      int64  `dynamodbav:"id"`
	Text    string `dynamodbav:"text,omitempty"`
}

// Place is the number of a thing's place in its user's list.
func (t Thing) Place() int64 {
	n, _ := strconv.ParseInt(t.List[len("THING#"):], 10, 64)
	return n
}

func thingKey(user, id int64) key { return key{userPartition(user), padded("THING#", id)} }
func things(user int64) list      { return list{userPartition(user), "THING", "list"} }
func thingsOf(user, owner int64) list {
	return list{userPartition(user), padded("THING#OWNER#", owner), "sublist"}
}

// The places to a block and to a group.
const BlockPlaces, GroupPlaces = blockPlaces, groupPlaces

// PrepareThing gives a thing its places: what a create does before its transaction.
func (s *Store) PrepareThing(ctx context.Context, t Thing) (Thing, error) {
	at := thingKey(t.User, t.ID)
	t.PK, t.SK = at.pk, at.sk
	var err error
	if t.List, err = s.place(ctx, things(t.User)); err == nil && t.Owner != 0 {
		t.Sublist, err = s.place(ctx, thingsOf(t.User, t.Owner))
	}
	return t, err
}

// CreateThing stores a thing; ErrConflict if it exists.
func (s *Store) CreateThing(ctx context.Context, t Thing) (Thing, error) {
	t, err := s.PrepareThing(ctx, t)
	if err != nil {
		return t, err
	}
	created, err := put(s.resources, t, absent)
	if err != nil {
		return t, err
	}
	counted, err := s.countThing(t, s.enter)
	if err != nil {
		return t, err
	}
	return t, conflict(s.transact(ctx, "create thing", append(counted, created)))
}

// DeleteThing removes a thing; ErrConflict if it is not there.
func (s *Store) DeleteThing(ctx context.Context, t Thing) error {
	deleted := remove(s.resources, thingKey(t.User, t.ID))
	deleted.Delete.ConditionExpression = aws.String(present)
	counted, err := s.countThing(t, s.leave)
	if err != nil {
		return err
	}
	return conflict(s.transact(ctx, "delete thing", append(counted, deleted)))
}

func (s *Store) countThing(t Thing, count func(list, string) ([]types.TransactWriteItem, error)) ([]types.TransactWriteItem, error) {
	items, err := count(things(t.User), t.List)
	if err != nil || t.Owner == 0 {
		return items, err
	}
	more, err := count(thingsOf(t.User, t.Owner), t.Sublist)
	return append(items, more...), err
}

// Things is a page of a user's things.
func (s *Store) Things(ctx context.Context, user int64, offset, limit int) ([]Thing, int, error) {
	return page[Thing](ctx, s, things(user), offset, limit)
}

// ThingsOf is a page of those that belong to an owner.
func (s *Store) ThingsOf(ctx context.Context, user, owner int64, offset, limit int) ([]Thing, int, error) {
	return page[Thing](ctx, s, thingsOf(user, owner), offset, limit)
}

// FillThings stores a user's things quickly at the places 1 to last for which make gives one, as if they
// had been created one by one.
func (s *Store) FillThings(ctx context.Context, user, last int64, make func(place int64) *Thing) error {
	return s.fill(ctx, last, []list{things(user)}, func(place int64, places []string) any {
		t := make(place)
		if t == nil {
			return nil
		}
		at := thingKey(user, t.ID)
		t.PK, t.SK, t.User, t.List = at.pk, at.sk, user, places[0]
		return t
	})
}

// FillCertificates does the same with a user's certificates of one account, in both of their lists.
func (s *Store) FillCertificates(ctx context.Context, user, account, last int64, make func(place int64) *certificate.Certificate) error {
	return s.fill(ctx, last, []list{certificateList(user), accountCertificateList(user, account)}, func(place int64, places []string) any {
		c := make(place)
		if c == nil {
			return nil
		}
		c.User, c.Account, c.Place, c.AccountPlace = user, account, places[0], places[1]
		return newCertificateItem(*c)
	})
}

// fill stores the items that make gives for the places 1 to last, the same in each of the lists; nil is none.
func (s *Store) fill(ctx context.Context, last int64, lists []list, make func(place int64, places []string) any) error {
	groups, blocks := map[int64]int64{}, map[int64]map[int64]int64{}
	batches, failed := s.batches(ctx)
	for place := int64(1); place <= last; place++ {
		var places []string
		for _, l := range lists {
			places = append(places, padded(l.name+"#", place))
		}
		item := make(place, places)
		if item == nil {
			continue
		}
		batches <- write{key{}, item, nil}
		group := place / groupPlaces
		if blocks[group] == nil {
			blocks[group] = map[int64]int64{}
		}
		groups[group]++
		blocks[group][place%groupPlaces/blockPlaces]++
	}
	var err error
	for _, l := range lists {
		for group, counts := range blocks {
			batches <- write{blocksKey(l, group), nil, counts}
		}
		batches <- write{groupsKey(l), nil, groups}
		_, added := s.add(ctx, sequenceKey(l), last, last+1, time.Time{})
		err = errors.Join(err, added)
	}
	close(batches)
	return errors.Join(err, failed())
}

// SkippedPage is a page as it costs without counts: everything newer is read and passed over.
func (s *Store) SkippedPage(ctx context.Context, user int64, offset, limit int) (read int, err error) {
	rows, err := s.walk(ctx, certificateList(user), stretch{maxPlace, true, offset, limit})
	return len(rows), err
}

// write is an item to store, with its key, or counts.
type write struct {
	at     key
	item   any
	counts map[int64]int64
}

// batches stores what it is sent, several items a call; failed waits for the end.
func (s *Store) batches(ctx context.Context) (writes chan<- write, failed func() error) {
	in := make(chan write)
	var wait sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wait.Go(func() {
			var batch []types.WriteRequest
			flush := func() {
				for len(batch) > 0 && errs[i] == nil {
					var answer *dynamodb.BatchWriteItemOutput
					answer, errs[i] = s.db.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{s.resources: batch}})
					if errs[i] == nil {
						batch = answer.UnprocessedItems[s.resources]
					}
				}
				batch = nil
			}
			for w := range in {
				item := w.at.attributes()
				if w.item != nil {
					var err error
					if item, err = attributevalue.MarshalMap(w.item); err != nil {
						errs[i] = err
					}
				}
				for at, n := range w.counts {
					item[strconv.FormatInt(at, 10)] = number(n)
				}
				if batch = append(batch, types.WriteRequest{PutRequest: &types.PutRequest{Item: item}}); len(batch) == 25 {
					flush()
				}
			}
			flush()
		})
	}
	return in, func() error { wait.Wait(); return errors.Join(errs...) }
}

// Meter counts what calls cost.
type Meter struct {
	Calls  atomic.Int64
	Reads  atomic.Int64 // units, as DynamoDB Local says
	Rule   atomic.Int64 // units of strongly consistent reads by AWS's rule: 4 kB each, rounded up once a call
	Writes atomic.Int64 // units, as DynamoDB Local says; by AWS's rule a transaction of small items takes a few more
	Items  atomic.Int64 // that queries gave
}

// Metered is the store with a meter.
func (s *Store) Metered() (*Store, *Meter) {
	m := &Meter{}
	measure := middleware.InitializeMiddlewareFunc("Meter", func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
		switch input := in.Parameters.(type) {
		case *dynamodb.GetItemInput:
			input.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal
		case *dynamodb.QueryInput:
			input.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal
		case *dynamodb.UpdateItemInput:
			input.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal
		case *dynamodb.TransactWriteItemsInput:
			input.ReturnConsumedCapacity = types.ReturnConsumedCapacityTotal
		}
		out, metadata, err := next.HandleInitialize(ctx, in)
		m.Calls.Add(1)
		switch answer := out.Result.(type) {
		case *dynamodb.GetItemOutput:
			m.Reads.Add(units(answer.ConsumedCapacity))
			m.Rule.Add(max(1, (size(answer.Item)+4095)/4096))
		case *dynamodb.QueryOutput:
			m.Reads.Add(units(answer.ConsumedCapacity))
			var sum int64
			for _, item := range answer.Items {
				sum += size(item)
			}
			m.Rule.Add(max(1, (sum+4095)/4096))
			m.Items.Add(int64(len(answer.Items)))
		case *dynamodb.UpdateItemOutput:
			m.Writes.Add(units(answer.ConsumedCapacity))
		case *dynamodb.TransactWriteItemsOutput:
			for _, c := range answer.ConsumedCapacity {
				m.Writes.Add(units(&c))
			}
		}
		return out, metadata, err
	})
	options := s.db.Options()
	options.APIOptions = append(options.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(measure, middleware.After)
	})
	return &Store{db: dynamodb.New(options), credentials: s.credentials, resources: s.resources}, m
}

func units(c *types.ConsumedCapacity) int64 {
	if c == nil {
		return 0
	}
	return int64(aws.ToFloat64(c.CapacityUnits) + 0.999)
}

// size is an item's by AWS's rule, of the types that are kept.
func size(item map[string]types.AttributeValue) int64 {
	sum := int64(0)
	for name, value := range item {
		sum += int64(len(name)) + valueSize(value)
	}
	return sum
}

func valueSize(value types.AttributeValue) int64 {
	switch v := value.(type) {
	case *types.AttributeValueMemberS:
		return int64(len(v.Value))
	case *types.AttributeValueMemberB:
		return int64(len(v.Value))
	case *types.AttributeValueMemberN:
		return int64(len(v.Value)/2 + 2)
	case *types.AttributeValueMemberM:
		return 3 + size(v.Value) + int64(len(v.Value))
	case *types.AttributeValueMemberL:
		sum := int64(3 + len(v.Value))
		for _, one := range v.Value {
			sum += valueSize(one)
		}
		return sum
	}
	return 1
}
