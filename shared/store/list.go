package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// list is items of one partition of the resource table, newest first. A page of it is two or three reads
// and no more than limit+blockPlaces items, at any offset, and its length comes with that.
//
// An item that stands in the list has a place, <name>#<16 digits>, whose number the list's own sequence
// gave it. The place is the sort key of a local index, which projects everything, because a projection can
// only be changed by making the table anew. Every write to such an item is paid for twice, and a partition
// of a table with local indexes holds 10 GB: what is large or changes often lies under another pk.
//
// How many places are taken is counted by groups of places and within a group by blocks, in the transaction
// that creates or deletes the item. The counts add up to the block where a page begins; only within that
// block are items passed over. One level of counts would be an item that grows with every block and is paid
// for in full by each write: 3 read units a page and 20 write units a create at 100,000 places in blocks of
// 64. Of two levels each item is below 1 kB there.
//
// Nothing but leave may take an item out of a list: one that lapses by ttl would still be counted.
type list struct {
	pk    string // partition of the items and of their counts
	name  string // no list's name in the same index is another's, continued by # and a digit
	index string // the local index, and the attribute that holds the place
}

// A page reads at most limit+15 items: of 450 bytes and at limit 20, 4 read units. 128 counts are 0.6 kB.
const (
	blockPlaces = 16
	groupPlaces = 128 * blockPlaces
)

// place gives the next place of a list. One that is not used stays empty; none is given twice. The sequence
// is an item of its own, because a transaction on the counts would refuse it.
func (s *Store) place(ctx context.Context, l list) (string, error) {
	n, err := s.add(ctx, sequenceKey(l), 1, math.MaxInt64, time.Time{})
	return padded(l.name+"#", n), err
}

// enter is what the transaction writes that creates an item with a place in the list. It should have the
// condition that the item is absent: repeated, it would count twice.
func (s *Store) enter(l list, place string) ([]types.TransactWriteItem, error) {
	return s.tally(l, place, 1)
}

// leave is what the transaction writes that takes an item out of the list. It must have the condition that
// the item is present, and with this place if that can change.
func (s *Store) leave(l list, place string) ([]types.TransactWriteItem, error) {
	return s.tally(l, place, -1)
}

func (s *Store) tally(l list, place string, n int64) ([]types.TransactWriteItem, error) {
	digits, ok := strings.CutPrefix(place, l.name+"#")
	at, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil {
		return nil, fmt.Errorf("%q is no place in the list %s", place, l.name)
	}
	group, block := at/groupPlaces, at%groupPlaces/blockPlaces
	var items []types.TransactWriteItem
	for _, count := range []struct {
		key    key
		number int64
	}{{groupsKey(l), group}, {blocksKey(l, group), block}} {
		items = append(items, types.TransactWriteItem{Update: &types.Update{
			TableName: &s.resources, Key: count.key.attributes(),
			UpdateExpression:          aws.String("ADD #count :n"),
			ExpressionAttributeNames:  map[string]string{"#count": strconv.FormatInt(count.number, 10)},
			ExpressionAttributeValues: map[string]types.AttributeValue{":n": number(n)},
		}})
	}
	return items, nil
}

// counts is an item of counts: an attribute for each group or block, named by its number. Those that fell
// to 0 stay.
type counts map[int64]int

// UnmarshalDynamoDBAttributeValue takes the attributes whose names are numbers.
func (c *counts) UnmarshalDynamoDBAttributeValue(v types.AttributeValue) error {
	item, ok := v.(*types.AttributeValueMemberM)
	if !ok {
		return fmt.Errorf("counts are no %T", v)
	}
	*c = counts{}
	for name, value := range item.Value {
		count, ok := value.(*types.AttributeValueMemberN)
		if !ok {
			continue
		}
		at, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			continue
		}
		if (*c)[at], err = strconv.Atoi(count.Value); err != nil {
			return err
		}
	}
	return nil
}

// span is adjacent places, how many of which are taken.
type span struct {
	low, high int64
	taken     int
}

// spans are the spans of size places that c counts, from place first on, newest first.
func (c counts) spans(first, size int64) []span {
	var spans []span
	for _, at := range slices.SortedFunc(maps.Keys(c), func(a, b int64) int { return cmp.Compare(b, a) }) {
		if c[at] > 0 {
			spans = append(spans, span{first + at*size, first + (at+1)*size - 1, c[at]})
		}
	}
	return spans
}

func total(spans []span) (sum int) {
	for _, s := range spans {
		sum += s.taken
	}
	return sum
}

// stretch is items next to each other: some to pass over, then those wanted.
type stretch struct {
	from       int64 // place
	down       bool  // from there to older places
	skip, take int
}

// find finds the stretch of a page that passes over the fewest items, from the newer or the older end, and
// which span the page begins in.
func find(spans []span, offset, limit int) (nearest stretch, begin int) {
	take := min(limit, total(spans)-offset)
	if offset < 0 || take <= 0 {
		return stretch{}, 0
	}
	var down, up stretch
	newer, last := 0, offset+take-1
	for i, s := range spans {
		if newer <= offset && offset < newer+s.taken {
			down, begin = stretch{s.high, true, offset - newer, take}, i
		}
		if newer <= last && last < newer+s.taken {
			up = stretch{s.low, false, newer + s.taken - 1 - last, take}
		}
		newer += s.taken
	}
	if up.skip < down.skip {
		return up, begin
	}
	return down, begin
}

// page reads limit items of a list from offset on, fewer where it ends, and says how many there are in all.
//
// Its reads are one after the other. Each item that is created or deleted in between shifts the page by one,
// as it does between two pages, or leaves it short by one.
func page[T any](ctx context.Context, s *Store, l list, offset, limit int) (items []T, all int, err error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	var groups, blocks counts
	if _, err := s.get(ctx, s.resources, groupsKey(l), &groups); err != nil {
		return nil, 0, err
	}
	spans := groups.spans(0, groupPlaces)
	all = total(spans)
	found, begin := find(spans, offset, limit)
	if found.skip >= blockPlaces {
		low := spans[begin].low
		if _, err := s.get(ctx, s.resources, blocksKey(l, low/groupPlaces), &blocks); err != nil {
			return nil, 0, err
		}
		found, _ = find(slices.Replace(spans, begin, begin+1, blocks.spans(low, blockPlaces)...), offset, limit)
	}
	items = []T{}
	if found.take == 0 {
		return items, all, nil
	}
	rows, err := s.walk(ctx, l, found)
	if err != nil {
		return nil, 0, err
	}
	if err := attributevalue.UnmarshalListOfMaps(rows, &items); err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", l.name, err)
	}
	return items, all, nil
}

// walk reads the items of a stretch, newest first.
func (s *Store) walk(ctx context.Context, l list, w stretch) ([]map[string]types.AttributeValue, error) {
	low, high := int64(0), w.from
	if !w.down {
		low, high = w.from, maxPlace
	}
	query := &dynamodb.QueryInput{
		TableName: &s.resources, IndexName: &l.index, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(!w.down),
		KeyConditionExpression:   aws.String("pk = :pk AND #place BETWEEN :low AND :high"),
		ExpressionAttributeNames: map[string]string{"#place": l.index},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": text(l.pk), ":low": text(padded(l.name+"#", low)), ":high": text(padded(l.name+"#", high)),
		},
	}
	var rows []map[string]types.AttributeValue
	for {
		query.Limit = aws.Int32(int32(min(w.skip+w.take-len(rows), 1000)))
		answer, err := s.db.Query(ctx, query)
		if err != nil {
			return nil, failure("list "+l.name, err)
		}
		rows = append(rows, answer.Items...)
		// DynamoDB ends an answer at 1 MB, whatever was asked for.
		if query.ExclusiveStartKey = answer.LastEvaluatedKey; query.ExclusiveStartKey == nil || len(rows) >= w.skip+w.take {
			break
		}
	}
	rows = rows[min(w.skip, len(rows)):]
	if !w.down {
		slices.Reverse(rows)
	}
	return rows, nil
}
