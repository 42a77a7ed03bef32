package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/webhook"
)

// endpointItem is a URL that notices are sent to.
type endpointItem struct {
	PK           string         `dynamodbav:"pk"`
	SK           string         `dynamodbav:"sk"`
	User         int64          `dynamodbav:"user_id"`
	ID           int64          `dynamodbav:"id"`
	Name         string         `dynamodbav:"name"`
	URL          string         `dynamodbav:"url"`
	Types        []webhook.Type `dynamodbav:"types,omitempty"`
	Secret       sealed.Secret  `dynamodbav:"secret"`
	Previous     sealed.Secret  `dynamodbav:"previous"`
	PreviousEnds int64          `dynamodbav:"previous_ends,omitempty"`
	Disabled     string         `dynamodbav:"disabled,omitempty"`
	CreatedAt    int64          `dynamodbav:"created_at"`
	UpdatedAt    int64          `dynamodbav:"updated_at"`
}

func newEndpointItem(e webhook.Endpoint) endpointItem {
	at := webhookKey(e.User, e.ID)
	return endpointItem{
		PK: at.pk, SK: at.sk, User: e.User, ID: e.ID, Name: e.Name, URL: e.URL, Types: e.Types, Secret: e.Secret, Previous: e.Previous,
		PreviousEnds: milliseconds(e.PreviousEnds), Disabled: e.Disabled, CreatedAt: milliseconds(e.CreatedAt), UpdatedAt: milliseconds(e.UpdatedAt),
	}
}

func (it endpointItem) endpoint() webhook.Endpoint {
	return webhook.Endpoint{
		User: it.User, ID: it.ID, Name: it.Name, URL: it.URL, Types: it.Types, Secret: it.Secret, Previous: it.Previous,
		PreviousEnds: instant(it.PreviousEnds), Disabled: it.Disabled, CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt),
	}
}

// NextWebhookID gives an id that no endpoint has had.
func (s *Store) NextWebhookID(ctx context.Context) (int64, error) { return s.next(ctx, "webhook") }

// CreateWebhook stores an endpoint, if its owner has room for it. ErrConflict if the idempotency record exists.
func (s *Store) CreateWebhook(ctx context.Context, e webhook.Endpoint, once *Idempotency) error {
	return s.createOwned(ctx, newEndpointItem(e), webhookCountKey(e.User), webhook.MaxPerUser, "webhooks", once)
}

// Webhook reads one endpoint; ErrNotFound if the user has none with the id.
func (s *Store) Webhook(ctx context.Context, user, id int64) (webhook.Endpoint, error) {
	var it endpointItem
	err := s.read(ctx, s.resources, webhookKey(user, id), &it)
	return it.endpoint(), err
}

// Webhooks lists a user's endpoints, newest first; there are at most webhook.MaxPerUser.
func (s *Store) Webhooks(ctx context.Context, user int64) ([]webhook.Endpoint, error) {
	return queryAs(ctx, s, s.resources, webhooksPartition(user), webhookPrefix, endpointItem.endpoint)
}

// ChangeWebhook stores an endpoint if it is as it was read, changed last at before: ErrConflict if not. With
// an idempotency record, also if that exists.
func (s *Store) ChangeWebhook(ctx context.Context, e webhook.Endpoint, before time.Time, once *Idempotency) error {
	item, err := put(s.resources, newEndpointItem(e), "updated_at = :before")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":before": number(milliseconds(before))}
	items := []types.TransactWriteItem{item}
	items, err = once.beside(items, s.resources)
	if err != nil {
		return err
	}
	return conflict(s.transact(ctx, "change webhook", items))
}

// DisableWebhook stops what is sent to an endpoint, unless it has another URL by now or is gone.
func (s *Store) DisableWebhook(ctx context.Context, e webhook.Endpoint, why string, now time.Time) error {
	err := s.change(ctx, "disable webhook", webhookKey(e.User, e.ID), types.Update{
		UpdateExpression: aws.String("SET disabled = :why, updated_at = :now"), ConditionExpression: aws.String("#url = :url"),
		ExpressionAttributeNames: map[string]string{"#url": "url"},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":why": text(why), ":url": text(e.URL), ":now": number(max(milliseconds(now), milliseconds(e.UpdatedAt)+1)),
		},
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// DeleteWebhook removes an endpoint; ErrNotFound if there is none. What is on its way to it is not sent any
// more, and lapses.
func (s *Store) DeleteWebhook(ctx context.Context, user, id int64) error {
	return s.deleteOwned(ctx, webhookKey(user, id), webhookCountKey(user), "delete webhook")
}

// eventItem is something that happened. It is due until it has been handed to the endpoints that want it.
type eventItem struct {
	PK    string       `dynamodbav:"pk"`
	SK    string       `dynamodbav:"sk"`
	User  int64        `dynamodbav:"user_id"`
	Type  webhook.Type `dynamodbav:"type"`
	At    int64        `dynamodbav:"at"`
	Body  []byte       `dynamodbav:"body"`
	Due   string       `dynamodbav:"due,omitempty"`
	DueAt int64        `dynamodbav:"due_at,omitempty"`
	TTL   int64        `dynamodbav:"ttl"`
}

const eventDue, deliveryDue, noticeDue = "EVENT", "DELIVERY", "NOTICE"

// tell is what a transaction writes so that webhooks hear of what it does.
func (s *Store) tell(e webhook.Event) (types.TransactWriteItem, error) {
	return s.event(e, eventDue, milliseconds(e.At))
}

func (s *Store) event(e webhook.Event, due string, dueAt int64) (types.TransactWriteItem, error) {
	at := eventKey(e.User, e.ID)
	return put(s.resources, eventItem{
		PK: at.pk, SK: at.sk, User: e.User, Type: e.Type, At: milliseconds(e.At), Body: e.Body, Due: due, DueAt: dueAt, TTL: e.At.Add(webhook.EventsKept).Unix(),
	}, absent)
}

// Event reads an event; ErrNotFound if there is none, or no longer.
func (s *Store) Event(ctx context.Context, user int64, id string) (webhook.Event, error) {
	var it eventItem
	err := s.read(ctx, s.resources, eventKey(user, id), &it)
	return webhook.Event{User: it.User, ID: id, Type: it.Type, At: instant(it.At), Body: it.Body}, err
}

// tellClosed is what the end of an issue writes for webhooks: the event, and with a new certificate in place
// its notices of expiry instead of those of the one before. c is as it will be, its revision counted on.
func (s *Store) tellClosed(ctx context.Context, c certificate.Certificate, outcome certificate.Issue) ([]types.TransactWriteItem, error) {
	// Whether there was a certificate is read again. The transaction only succeeds if this is what it changes.
	was, err := s.Certificate(ctx, c.User, c.ID)
	if errors.Is(err, ErrNotFound) || err == nil && was.Revision != c.Revision-1 {
		return nil, ErrConflict
	}
	if err != nil {
		return nil, err
	}
	e, err := webhook.Closed(c, outcome, was.Current.Issue > 0)
	if err != nil {
		return nil, err
	}
	told, err := s.tell(e)
	if err != nil || outcome.State != certificate.Succeeded {
		return []types.TransactWriteItem{told}, err
	}
	notices, err := s.notices(webhook.Notice{Subject: webhook.OfCertificates, User: c.User, ID: c.ID, ExpiresAt: c.Current.NotAfter}, outcome.CompletedAt)
	return []types.TransactWriteItem{told, notices}, err
}

// noticeItem is the next notice that something expires. There is one for each thing while notices are to come.
type noticeItem struct {
	PK        string          `dynamodbav:"pk"`
	SK        string          `dynamodbav:"sk"`
	Subject   webhook.Subject `dynamodbav:"subject"`
	User      int64           `dynamodbav:"user_id"`
	ID        int64           `dynamodbav:"id"`
	Name      string          `dynamodbav:"name,omitempty"`
	ExpiresAt int64           `dynamodbav:"expires_at"`
	Due       string          `dynamodbav:"due"`
	DueAt     int64           `dynamodbav:"due_at"`
}

// notices is what a transaction writes that gives something its expiry: the first notice of it in place of
// those before, or their removal if none is to come.
func (s *Store) notices(n webhook.Notice, now time.Time) (types.TransactWriteItem, error) {
	at := noticeKey(n.Subject, n.User, n.ID)
	next := webhook.Next(n.ExpiresAt, now)
	if next.IsZero() {
		return remove(s.resources, at), nil
	}
	return put(s.resources, noticeItem{
		PK: at.pk, SK: at.sk, Subject: n.Subject, User: n.User, ID: n.ID, Name: n.Name, ExpiresAt: milliseconds(n.ExpiresAt), Due: noticeDue, DueAt: milliseconds(next),
	}, "")
}

// Notice reads the next notice about something; ErrNotFound if none is to come.
func (s *Store) Notice(ctx context.Context, of webhook.Subject, user, id int64) (webhook.Notice, error) {
	var it noticeItem
	err := s.read(ctx, s.resources, noticeKey(of, user, id), &it)
	return webhook.Notice{Subject: it.Subject, User: it.User, ID: it.ID, Name: it.Name, ExpiresAt: instant(it.ExpiresAt), At: instant(it.DueAt)}, err
}

// GiveNotice writes the event of a notice and moves on to the next one after now, or to none; without an event
// no further notice is to come. ErrConflict if the notice is no longer as n: another worker gave it, or there
// is another certificate.
func (s *Store) GiveNotice(ctx context.Context, n webhook.Notice, e *webhook.Event, now time.Time) error {
	moved := remove(s.resources, noticeKey(n.Subject, n.User, n.ID))
	var items []types.TransactWriteItem
	if e != nil {
		var err error
		if moved, err = s.notices(n, now); err != nil {
			return err
		}
		told, err := s.tell(*e)
		if err != nil {
			return err
		}
		items = append(items, told)
	}
	condition := aws.String("due_at = :was AND expires_at = :expires")
	values := map[string]types.AttributeValue{":was": number(milliseconds(n.At)), ":expires": number(milliseconds(n.ExpiresAt))}
	if moved.Put != nil {
		moved.Put.ConditionExpression, moved.Put.ExpressionAttributeValues = condition, values
	} else {
		moved.Delete.ConditionExpression, moved.Delete.ExpressionAttributeValues = condition, values
	}
	return conflict(s.transact(ctx, "give notice", append(items, moved)))
}

// deliveryItem is an event on its way to an endpoint. While one works on it, due_at is when another may.
type deliveryItem struct {
	PK          string       `dynamodbav:"pk"`
	SK          string       `dynamodbav:"sk"`
	User        int64        `dynamodbav:"user_id"`
	Endpoint    int64        `dynamodbav:"id"`
	Type        webhook.Type `dynamodbav:"type"`
	CreatedAt   int64        `dynamodbav:"created_at"`
	Since       int64        `dynamodbav:"since"`
	Attempts    int64        `dynamodbav:"attempts"`
	LastAt      int64        `dynamodbav:"last_at,omitempty"`
	Leased      bool         `dynamodbav:"leased,omitempty"`
	StatusCode  int          `dynamodbav:"status_code,omitempty"`
	Error       string       `dynamodbav:"error,omitempty"`
	DeliveredAt int64        `dynamodbav:"delivered_at,omitempty"`
	Due         string       `dynamodbav:"due,omitempty"`
	DueAt       int64        `dynamodbav:"due_at,omitempty"`
	TTL         int64        `dynamodbav:"ttl"`
}

func newDeliveryItem(d webhook.Delivery) deliveryItem {
	at := deliveryKey(d.Endpoint, d.Event)
	it := deliveryItem{
		PK: at.pk, SK: at.sk, User: d.User, Endpoint: d.Endpoint, Type: d.Type, CreatedAt: milliseconds(d.CreatedAt), Since: milliseconds(d.Since),
		Attempts: d.Attempts, LastAt: milliseconds(d.LastAt), StatusCode: d.StatusCode, Error: d.Error, DeliveredAt: milliseconds(d.DeliveredAt),
		DueAt: milliseconds(d.NextAt), TTL: d.CreatedAt.Add(webhook.EventsKept).Unix(),
	}
	if !d.NextAt.IsZero() {
		it.Due = deliveryDue
	}
	return it
}

func (it deliveryItem) delivery() webhook.Delivery {
	return webhook.Delivery{
		User: it.User, Endpoint: it.Endpoint, Event: strings.TrimPrefix(it.SK, deliveryPrefix), Type: it.Type, CreatedAt: instant(it.CreatedAt), Since: instant(it.Since),
		Attempts: it.Attempts, LastAt: instant(it.LastAt), StatusCode: it.StatusCode, Error: it.Error, DeliveredAt: instant(it.DeliveredAt), NextAt: instant(it.DueAt),
	}
}

func newDelivery(e webhook.Event, endpoint int64, now time.Time) webhook.Delivery {
	return webhook.Delivery{User: e.User, Endpoint: endpoint, Event: e.ID, Type: e.Type, CreatedAt: now, Since: now, NextAt: now}
}

// Deliver makes a delivery of an event for each endpoint, and the event is due no longer. It happens once:
// ErrConflict if it has. An event that nobody wants is forgotten.
func (s *Store) Deliver(ctx context.Context, e webhook.Event, endpoints []webhook.Endpoint, now time.Time) error {
	condition, values := aws.String("due = :due"), map[string]types.AttributeValue{":due": text(eventDue)}
	if len(endpoints) == 0 {
		gone := remove(s.resources, eventKey(e.User, e.ID))
		gone.Delete.ConditionExpression, gone.Delete.ExpressionAttributeValues = condition, values
		return conflict(s.transact(ctx, "forget event", []types.TransactWriteItem{gone}))
	}
	items := []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: eventKey(e.User, e.ID).attributes(), UpdateExpression: aws.String("REMOVE due, due_at"),
		ConditionExpression: condition, ExpressionAttributeValues: values,
	}}}
	for _, endpoint := range endpoints {
		item, err := put(s.resources, newDeliveryItem(newDelivery(e, endpoint.ID, now)), absent)
		if err != nil {
			return err
		}
		items = append(items, item)
	}
	return conflict(s.transact(ctx, "hand out event", items))
}

// DeliverTo stores an event that only one endpoint is to hear of, and its delivery.
func (s *Store) DeliverTo(ctx context.Context, e webhook.Event, endpoint int64, now time.Time) (webhook.Delivery, error) {
	d := newDelivery(e, endpoint, now)
	event, err := s.event(e, "", 0)
	if err != nil {
		return d, err
	}
	delivery, err := put(s.resources, newDeliveryItem(d), absent)
	if err != nil {
		return d, err
	}
	return d, conflict(s.transact(ctx, "test webhook", []types.TransactWriteItem{event, delivery}))
}

// Delivery reads a delivery; ErrNotFound if there is none.
func (s *Store) Delivery(ctx context.Context, endpoint int64, event string) (webhook.Delivery, error) {
	var it deliveryItem
	err := s.read(ctx, s.resources, deliveryKey(endpoint, event), &it)
	return it.delivery(), err
}

// Deliveries lists up to most deliveries of an endpoint, the newest event first: those before an event, or all
// if that is empty.
func (s *Store) Deliveries(ctx context.Context, endpoint int64, before string, most int) ([]webhook.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	last := deliveryPrefix + before
	if before == "" {
		last = deliveryPrefix + "~" // beyond every id
	}
	answer, err := s.db.Query(ctx, &dynamodb.QueryInput{
		TableName: &s.resources, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(false), Limit: aws.Int32(int32(most + 1)),
		KeyConditionExpression: aws.String("pk = :pk AND sk BETWEEN :first AND :last"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": text(deliveriesPartition(endpoint)), ":first": text(deliveryPrefix), ":last": text(last),
		},
	})
	if err != nil {
		return nil, failure("list deliveries", err)
	}
	var items []deliveryItem
	if err := attributevalue.UnmarshalListOfMaps(answer.Items, &items); err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	list := make([]webhook.Delivery, 0, len(items))
	for _, it := range items {
		if d := it.delivery(); d.Event != before && len(list) < most {
			list = append(list, d)
		}
	}
	return list, nil
}

// LeaseDelivery takes a delivery that is due for one attempt, and counts it before it is made: a worker that is
// killed leaves a delivery that is due when the lease ends. ErrConflict if it is not due, or gone.
func (s *Store) LeaseDelivery(ctx context.Context, endpoint int64, event string, now time.Time) (webhook.Delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	answer, err := s.db.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &s.resources, Key: deliveryKey(endpoint, event).attributes(), ReturnValues: types.ReturnValueAllNew,
		UpdateExpression:    aws.String("SET due_at = :ends, last_at = :now, leased = :yes ADD attempts :one"),
		ConditionExpression: aws.String("due = :due AND due_at <= :now"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":ends": number(milliseconds(now.Add(webhook.LeaseFor))), ":now": number(milliseconds(now)), ":one": number(1), ":due": text(deliveryDue),
			":yes": &types.AttributeValueMemberBOOL{Value: true},
		},
	})
	var failed *types.ConditionalCheckFailedException
	if errors.As(err, &failed) {
		return webhook.Delivery{}, ErrConflict
	}
	if err != nil {
		return webhook.Delivery{}, failure("lease delivery", err)
	}
	var it deliveryItem
	if err := attributevalue.UnmarshalMap(answer.Attributes, &it); err != nil {
		return webhook.Delivery{}, fmt.Errorf("lease delivery: %w", err)
	}
	return it.delivery(), nil
}

// SaveDelivery stores the outcome of an attempt; ErrConflict if another one was begun since, or the delivery
// is gone.
func (s *Store) SaveDelivery(ctx context.Context, d webhook.Delivery) error {
	item, err := put(s.resources, newDeliveryItem(d), "attempts = :attempts AND leased = :yes")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":attempts": number(d.Attempts), ":yes": &types.AttributeValueMemberBOOL{Value: true}}
	return conflict(s.transact(ctx, "save delivery", []types.TransactWriteItem{item}))
}

// PutOffDelivery stores when a delivery that is due is to be tried instead, or that it has ended; ErrConflict
// if somebody works on it or has.
func (s *Store) PutOffDelivery(ctx context.Context, d webhook.Delivery, now time.Time) error {
	item, err := put(s.resources, newDeliveryItem(d), "attempts = :attempts AND due = :due AND due_at <= :now")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":attempts": number(d.Attempts), ":due": text(deliveryDue), ":now": number(milliseconds(now))}
	return conflict(s.transact(ctx, "put off delivery", []types.TransactWriteItem{item}))
}

// ReplayDelivery makes a delivery due again, as if it were new. ErrConflict if somebody is working on it,
// ErrNotFound if there is none.
func (s *Store) ReplayDelivery(ctx context.Context, endpoint int64, event string, now time.Time) error {
	failed, err := s.transact(ctx, "replay delivery", []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: deliveryKey(endpoint, event).attributes(),
		UpdateExpression:          aws.String("SET due = :due, due_at = :now, since = :now REMOVE delivered_at, leased, status_code, #error"),
		ConditionExpression:       aws.String("attribute_exists(pk) AND (attribute_not_exists(leased) OR due_at <= :now)"),
		ExpressionAttributeNames:  map[string]string{"#error": "error"},
		ExpressionAttributeValues: map[string]types.AttributeValue{":due": text(deliveryDue), ":now": number(milliseconds(now))},
	}}})
	if err != nil || len(failed) == 0 {
		return err
	}
	if _, err := s.Delivery(ctx, endpoint, event); err != nil {
		return err
	}
	return ErrConflict
}

// DropDelivery forgets a delivery whose endpoint is gone.
func (s *Store) DropDelivery(ctx context.Context, endpoint int64, event string) error {
	_, err := s.transact(ctx, "drop delivery", []types.TransactWriteItem{remove(s.resources, deliveryKey(endpoint, event))})
	return err
}

// DueEvent is an event that is to be handed out.
type DueEvent struct {
	User int64
	ID   string
}

// DueDelivery is a delivery that is to be tried.
type DueDelivery struct {
	User, Endpoint int64
	Event          string
}

// DueNotice is a notice that is to be given.
type DueNotice struct {
	Subject  webhook.Subject
	User, ID int64
}

// DueEvents lists up to most events that are to be handed out, the oldest first.
func (s *Store) DueEvents(ctx context.Context, now time.Time, most int) ([]DueEvent, error) {
	return dueKeys(ctx, s, eventDue, now, most, func(k dueKey) DueEvent {
		return DueEvent{k.User, strings.TrimPrefix(k.SK, eventPrefix)}
	})
}

// DueDeliveries lists up to most deliveries that are to be tried, the longest due first.
func (s *Store) DueDeliveries(ctx context.Context, now time.Time, most int) ([]DueDelivery, error) {
	return dueKeys(ctx, s, deliveryDue, now, most, func(k dueKey) DueDelivery {
		return DueDelivery{k.User, k.ID, strings.TrimPrefix(k.SK, deliveryPrefix)}
	})
}

// DueNotices lists up to most notices that are to be given, the longest due first.
func (s *Store) DueNotices(ctx context.Context, now time.Time, most int) ([]DueNotice, error) {
	return dueKeys(ctx, s, noticeDue, now, most, func(k dueKey) DueNotice {
		subject, _, _ := strings.Cut(k.SK, "#")
		return DueNotice{webhook.Subject(subject), k.User, k.ID}
	})
}

type dueKey struct {
	SK   string `dynamodbav:"sk"`
	User int64  `dynamodbav:"user_id"`
	ID   int64  `dynamodbav:"id"`

	Certificate int64 `dynamodbav:"certificate"` // of an order
}

// dueKeys reads the index of what is due, in as many calls as it takes. It follows writes after a moment: what it
// lists may be done already.
func dueKeys[T any](ctx context.Context, s *Store, what string, now time.Time, most int, of func(dueKey) T) ([]T, error) {
	var keys []dueKey
	query := &dynamodb.QueryInput{
		TableName: &s.resources, IndexName: aws.String("due"), KeyConditionExpression: aws.String("due = :what AND due_at <= :now"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":what": text(what), ":now": number(milliseconds(now))},
	}
	for {
		query.Limit = aws.Int32(int32(min(most-len(keys), 1000)))
		answer, err := func() (*dynamodb.QueryOutput, error) {
			ctx, cancel := context.WithTimeout(ctx, Budget)
			defer cancel()
			return s.db.Query(ctx, query)
		}()
		if err != nil {
			return nil, failure("list what is due", err)
		}
		var some []dueKey
		if err := attributevalue.UnmarshalListOfMaps(answer.Items, &some); err != nil {
			return nil, fmt.Errorf("list what is due: %w", err)
		}
		keys = append(keys, some...)
		if query.ExclusiveStartKey = answer.LastEvaluatedKey; query.ExclusiveStartKey == nil || len(keys) >= most {
			break
		}
	}
	list := make([]T, 0, len(keys))
	for _, k := range keys {
		list = append(list, of(k))
	}
	return list, nil
}
