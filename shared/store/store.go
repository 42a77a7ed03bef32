// Package store is the two DynamoDB tables. Each method is one thing that happens to what is kept, and
// says under which condition.
//
// The credential table holds what the authorizer reads; package authn reads the same items.
//
//	pk            sk                     what                              Go type
//	USER#<user>   OWNER                  state; revision of the key list   ownerItem
//	USER#<user>   KEY#<16 digits>        an API key                        keyItem
//	USER#<user>   SESSION#<16 digits>    a login                           sessionItem
//	USER#<user>   FAMILY#<16 digits>     a line of refresh tokens          familyItem
//	DEVICE#<id>   FAMILY                 a device's line of those          familyItem
//	TOKENKEY      <key id>               what devices' tokens are verified with
//
// The resource table holds the rest.
//
//	USER#<user>             PROFILE      an account                        userItem
//	EMAIL#<email>           EMAIL        who has the address               claimItem
//	NAME#<name, lower>      NAME         who has the name                  claimItem
//	CODE#<purpose>:<email>  CODE#<16 d.> a verification code               codeItem
//	RATE#<what>#<window>    RATE         a count of tries                  n, ttl
//	IDEMPOTENCY#<caller>#…  IDEMPOTENCY  the answer to a create            idempotencyItem
//	COUNTER#<kind>          COUNTER      the last id given                 n
//
//	CERTIFICATES#<user>     CERTIFICATE#<16 d.>          a certificate              certificateItem
//	CERTIFICATES#<user>     DOMAIN#<account>#<domain>    who has the name           claimItem
//	CERTIFICATES#<user>     SEQUENCE#, GROUPS#, BLOCKS#… its lists: see list.go     n, counts
//	CERTIFICATE#<id>        ISSUE#<16 digits>            an attempt, by number      issueItem
//	CERTIFICATE#<id>        MATERIAL#<16 digits>         its chain and sealed key   materialItem
//	CERTIFICATE#<id>        REQUEST                      a caller's own request     requestItem
//	CERTIFICATE#<id>        ORDER                        the open issue             orderItem
//	ACMEACCOUNTS#<user>     ACCOUNT#<16 digits>          an account at a CA         accountItem
//	DNSPROVIDERS#<user>     PROVIDER#<16 digits>         a DNS provider             dnsProviderItem
//	…#<user>                COUNT                        how many of them           n
//
//	CAS#<user>              CA#<16 digits>, COUNT        a private CA; how many     caItem, n
//	CA#<id>                 COUNT                        what it signed; revision   caCountItem
//	CA#<id>                 CRL                          what its CRL stands at     crlItem
//	CA#<id>                 OCSP                         what signs OCSP answers    ocspSignerItem
//	LEDGER#<ca>#<week>      SERIAL#<serial>              a signature                entryItem
//	REVOKED#<ca>            SERIAL#<serial>              a line of the CRL          revokedItem
//	ACMESERVER#<ca>, …      see acmeserver.go            its ACME server
//
//	DEVICES#<user>          DEVICE#<16 digits>           a device                   deviceItem
//	DEVICES#<user>          PUBLIC#<public id>           who has the public id      idItem
//	KEYDEVICES#<user>#<key> DEVICE#<16 digits>           what an API key registered idItem
//	DEVICE#<id>             HEAD                         what a poll reads          headItem
//	DEVICE#<id>             SIGNAL#<16 d., ms>           what changed for it        signalItem
//	DEVICE#<id>             CERTIFICATE#<16>, CA#<16>    what is on it              idItem
//	DEVICE#<id>             REWRAP                       it has another key         rewrapItem
//	DEVICE#<id>             CONFIG, REVISION#<16>        what it installs; versions installConfigItem
//	CERTIFICATE#<id>        DEVICE#<16 digits>           it on a device             assignmentItem
//	CERTIFICATE#<id>        OWNER                        whose it is                certificateOwnerItem
//	CA#<id>                 DEVICE#<16 digits>           it on a device             caAssignmentItem
//	CERTIFICATE#…, CA#<id>  ROLLOUT                      on its way to devices      rolloutItem
//	GRANT#<digest>          GRANT                        a device authorization     grantItem
//	USERCODE#<code>         USERCODE                     its grant                  userCodeItem
//
// Certificates stand in the indexes list and sublist, devices in list. What something will be due for (an open issue, a
// certificate to be renewed) has the attributes due and due_at, and so stands in the index due.
//
//	WEBHOOKS#<user>         WEBHOOK#<16> an endpoint of webhooks           endpointItem
//	WEBHOOKS#<user>         COUNT        how many                          n
//	WEBHOOK#<id>            DELIVERY#<e> an event on its way to it         deliveryItem
//	EVENT#<user>            EVENT#<e>    what happened (outbox)            eventItem
//	NOTICE#<user>           CERTIFICATE#<16>, APIKEY#<16>  its next notice of expiry  noticeItem
//
// Times are epoch milliseconds, except ttl, which DynamoDB reads in seconds. Ids in sort keys are
// zero-padded so that they sort as numbers. Reads are strongly consistent.
package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/awsenv"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/problem"
)

// Store is the tables.
type Store struct {
	db          *dynamodb.Client
	quick       func() (*dynamo.Client, error) // for what happens with each signature
	credentials string
	resources   string
}

// Budget is the longest that one operation may wait for DynamoDB.
const Budget = 2500 * time.Millisecond

// Open makes a store of the named tables, with the region, credentials and endpoint of the
// environment.
func Open(credentialTable, resourceTable string) (*Store, error) {
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db := dynamodb.NewFromConfig(configuration, func(o *dynamodb.Options) { o.BaseEndpoint = awsenv.Endpoint("DYNAMODB") })
	return &Store{db: db, quick: sync.OnceValues(dynamo.FromEnvironment), credentials: credentialTable, resources: resourceTable}, nil
}

// Errors of conditions. Methods name those they return.
var (
	ErrNotFound = errors.New("no such item")
	ErrConflict = errors.New("the item was changed at the same time")
)

// failure says what was being done. What may pass in a moment becomes a problem that tells the caller
// to try again; anything else stays internal.
func failure(doing string, err error) error {
	if !awsenv.Passing(err, "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError",
		"TransactionConflictException", "TransactionInProgressException", "ServiceUnavailable") {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return unavailable(doing, err)
}

func unavailable(doing string, err error) error {
	p := problem.Unavailable.New("The table is busy; try again.")
	p.RetryAfter = time.Second
	p.Cause = fmt.Errorf("%s: %w", doing, err)
	return p
}

// quickly is an update by package dynamo: it costs a third of the SDK's. ErrConflict if the condition does not hold,
// which may be because an answer was lost and the update repeated.
func (s *Store) quickly(ctx context.Context, doing string, u dynamo.Update) error {
	client, err := s.quick()
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	err = client.Update(ctx, s.resources, u)
	var refused *dynamo.ServiceError
	switch {
	case errors.Is(err, dynamo.ErrCondition):
		return ErrConflict
	case errors.As(err, &refused) && refused.Passing():
		return unavailable(doing, err)
	case err != nil:
		return failure(doing, err)
	}
	return nil
}

// get reads one item into out and reports whether it exists.
func (s *Store) get(ctx context.Context, table string, key key, out any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	answer, err := s.db.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: key.attributes(), ConsistentRead: aws.Bool(true)})
	if err != nil {
		return false, failure("read "+key.sk, err)
	}
	if answer.Item == nil {
		return false, nil
	}
	if err := attributevalue.UnmarshalMap(answer.Item, out); err != nil {
		return false, fmt.Errorf("read %s: %w", key.sk, err)
	}
	return true, nil
}

// read reads one item that must exist into out: ErrNotFound if it does not.
func (s *Store) read(ctx context.Context, table string, key key, out any) error {
	found, err := s.get(ctx, table, key, out)
	if err == nil && !found {
		return ErrNotFound
	}
	return err
}

// query reads every item of a partition whose sort key begins with prefix, largest first.
func query[T any](ctx context.Context, s *Store, table, pk, prefix string) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	items := []T{}
	pages := dynamodb.NewQueryPaginator(s.db, &dynamodb.QueryInput{
		TableName: &table, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(false),
		KeyConditionExpression:    aws.String("pk = :pk AND begins_with(sk, :prefix)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(pk), ":prefix": text(prefix)},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failure("list "+prefix, err)
		}
		var some []T
		if err := attributevalue.UnmarshalListOfMaps(page.Items, &some); err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		items = append(items, some...)
	}
	return items, nil
}

// queryAs is query of items that stand for something.
func queryAs[I, T any](ctx context.Context, s *Store, table, pk, prefix string, of func(I) T) ([]T, error) {
	items, err := query[I](ctx, s, table, pk, prefix)
	all := make([]T, len(items))
	for i, it := range items {
		all[i] = of(it)
	}
	return all, err
}

// transact writes all or nothing. failed lists which items' conditions did not hold; a conflict with
// another transaction is tried again here.
func (s *Store) transact(ctx context.Context, doing string, items []types.TransactWriteItem) (failed []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait *= 2 {
		_, err := s.db.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: items})
		var canceled *types.TransactionCanceledException
		if !errors.As(err, &canceled) {
			if err != nil {
				err = failure(doing, err)
			}
			return nil, err
		}
		for i, reason := range canceled.CancellationReasons {
			if aws.ToString(reason.Code) == "ConditionalCheckFailed" {
				failed = append(failed, i)
			}
		}
		if len(failed) > 0 {
			return failed, nil
		}
		passing := slices.ContainsFunc(canceled.CancellationReasons, func(r types.CancellationReason) bool {
			switch aws.ToString(r.Code) {
			case "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
				return true
			}
			return false
		})
		if !passing {
			return nil, failure(doing, err)
		}
		if !pause(ctx, wait) {
			return nil, failure(doing, context.DeadlineExceeded)
		}
	}
}

// conflict is the error of a change some of whose conditions failed.
func conflict(failed []int, err error) error {
	if err == nil && len(failed) > 0 {
		return ErrConflict
	}
	return err
}

// pause waits a random while of up to most, so that writers in conflict part; false when the time is up.
func pause(ctx context.Context, most time.Duration) bool {
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// busy is the answer when other writers won every time.
func busy(doing string) error {
	p := problem.Unavailable.New("Too many changes at the same time; try again.")
	p.RetryAfter = time.Second
	p.Cause = errors.New(doing)
	return p
}

func put(table string, item any, condition string) (types.TransactWriteItem, error) {
	attributes, err := attributevalue.MarshalMap(item)
	if err != nil {
		return types.TransactWriteItem{}, fmt.Errorf("write %T: %w", item, err)
	}
	p := &types.Put{TableName: &table, Item: attributes}
	if condition != "" {
		p.ConditionExpression = &condition
	}
	return types.TransactWriteItem{Put: p}, nil
}

func remove(table string, key key) types.TransactWriteItem {
	return types.TransactWriteItem{Delete: &types.Delete{TableName: &table, Key: key.attributes()}}
}

func check(table string, key key, condition string) types.TransactWriteItem {
	return types.TransactWriteItem{ConditionCheck: &types.ConditionCheck{TableName: &table, Key: key.attributes(), ConditionExpression: &condition}}
}

const absent, present = "attribute_not_exists(pk)", "attribute_exists(pk)"

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
}

// binary is bytes, maybe none: nil would be no value.
func binary(b []byte) types.AttributeValue {
	return &types.AttributeValueMemberB{Value: append([]byte{}, b...)}
}

// instant is the time of milliseconds, the zero time for none; milliseconds is its inverse.
func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
