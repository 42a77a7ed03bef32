package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/sealed"
)

// crlItem is what a CA's CRL stands at. It is due when a certificate was revoked, and once a day.
type crlItem struct {
	PK         string `dynamodbav:"pk"`
	SK         string `dynamodbav:"sk"`
	User       int64  `dynamodbav:"user_id"`
	ID         int64  `dynamodbav:"id"`
	Number     int64  `dynamodbav:"number"`
	Revoked    int64  `dynamodbav:"revoked"`   // how many revocations there have been
	Published  int64  `dynamodbav:"published"` // number of the one that is published
	ThisUpdate int64  `dynamodbav:"this_update"`
	NextUpdate int64  `dynamodbav:"next_update"`
	Failure    string `dynamodbav:"failure,omitempty"`
	Due        string `dynamodbav:"due"`
	DueAt      int64  `dynamodbav:"due_at"`
}

const crlDue = "CRL"

// CRL is what a CA's CRL stands at.
type CRL struct {
	User, CA   int64
	Number     int64 // the last that was given
	Revoked    int64 // how many revocations there have been
	Published  int64 // number of the one that is published; 0 for none
	ThisUpdate time.Time
	NextUpdate time.Time
	Failure    string // why the last could not be published; empty if it could
	Due        time.Time
}

func (it crlItem) crl() CRL {
	return CRL{it.User, it.ID, it.Number, it.Revoked, it.Published, instant(it.ThisUpdate), instant(it.NextUpdate), it.Failure, instant(it.DueAt)}
}

// entryItem is a signature in a ledger. It lapses more than a year after its certificate.
type entryItem struct {
	PK          string   `dynamodbav:"pk"`
	SK          string   `dynamodbav:"sk"`
	CA          int64    `dynamodbav:"ca"`
	Serial      string   `dynamodbav:"serial"`
	TBS         []byte   `dynamodbav:"tbs"`
	Tail        []byte   `dynamodbav:"tail,omitempty"`
	Names       []string `dynamodbav:"names,omitempty"`
	Profile     string   `dynamodbav:"profile"`
	By          string   `dynamodbav:"by"`
	Certificate int64    `dynamodbav:"certificate,omitempty"`
	At          int64    `dynamodbav:"at"`
	NotAfter    int64    `dynamodbav:"not_after"`
	RevokedAt   int64    `dynamodbav:"revoked_at,omitempty"`
	Reason      int      `dynamodbav:"reason,omitempty"`
	TTL         int64    `dynamodbav:"ttl"`
}

const ledgerKept = 400 * 24 * time.Hour

func newEntryItem(e ca.Entry) entryItem {
	at := entryKey(e.CA, e.Serial)
	return entryItem{
		PK: at.pk, SK: at.sk, CA: e.CA, Serial: e.Serial, TBS: e.TBS, Tail: e.Tail, Names: e.Names, Profile: e.Profile, By: e.By, Certificate: e.Certificate,
		At: milliseconds(e.At), NotAfter: milliseconds(e.NotAfter), RevokedAt: milliseconds(e.RevokedAt), Reason: e.Reason, TTL: e.NotAfter.Add(ledgerKept).Unix(),
	}
}

func (it entryItem) entry() ca.Entry {
	return ca.Entry{
		CA: it.CA, Serial: it.Serial, TBS: it.TBS, Tail: it.Tail, Names: it.Names, Profile: it.Profile, By: it.By, Certificate: it.Certificate,
		At: instant(it.At), NotAfter: instant(it.NotAfter), RevokedAt: instant(it.RevokedAt), Reason: it.Reason,
	}
}

// revokedItem is a line of the CRLs. It lapses when it is no longer in them.
type revokedItem struct {
	PK       string `dynamodbav:"pk"`
	SK       string `dynamodbav:"sk"`
	Serial   string `dynamodbav:"serial"`
	At       int64  `dynamodbav:"at"`
	Reason   int    `dynamodbav:"reason,omitempty"`
	NotAfter int64  `dynamodbav:"not_after"`
	TTL      int64  `dynamodbav:"ttl"`
}

func (it revokedItem) revoked() ca.Revocation {
	return ca.Revocation{Serial: it.Serial, At: instant(it.At), Reason: it.Reason, NotAfter: instant(it.NotAfter)}
}

// ocspSignerItem is the key that signs a CA's OCSP answers, and its certificate.
type ocspSignerItem struct {
	PK          string        `dynamodbav:"pk"`
	SK          string        `dynamodbav:"sk"`
	User        int64         `dynamodbav:"user_id"`
	ID          int64         `dynamodbav:"id"`
	Certificate []byte        `dynamodbav:"certificate"`
	Issuer      []byte        `dynamodbav:"issuer"`
	Key         sealed.Secret `dynamodbav:"key"`
	NotAfter    int64         `dynamodbav:"not_after"`
}

// OCSPSigner is the key that signs a CA's OCSP answers, with its certificate and the CA's (DER).
type OCSPSigner struct {
	User, CA            int64
	Certificate, Issuer []byte
	Key                 sealed.Secret
	NotAfter            time.Time
}

// Intend writes an entry into a CA's ledger before its key is used, and counts it. ErrConflict if the CA was changed
// or deleted since it was read, and then nothing may be signed: an entry that was written all the same is removed
// again, and one that a crash leaves says that something was intended.
func (s *Store) Intend(ctx context.Context, c ca.CA, e ca.Entry) error {
	// The two are apart, for the price of one and in the time of one: a transaction costs twice as much, and every
	// other that counts for the CA at the same time would be refused.
	var counted error
	var both sync.WaitGroup
	both.Go(func() {
		// Repeated, because an answer was lost, it counts one too many.
		counted = s.quickly(ctx, "count a signature", dynamo.Update{
			Key: quickKey(caCountKey(c.ID)), Expression: "ADD n :one, weeks :week SET last_used_at = :now", Condition: "revision = :revision",
			Values: dynamo.Values{
				":one": dynamo.Number(1), ":week": {"NS": []string{strconv.FormatInt(weekOf(e.Serial), 10)}}, ":now": dynamo.Number(milliseconds(e.At)), ":revision": dynamo.Number(c.Revision),
			},
		})
	})
	err := s.Record(ctx, e)
	both.Wait()
	if counted != nil && err == nil {
		s.unintend(ctx, e)
	}
	return cmp.Or(counted, err)
}

// unintend removes an entry of which nothing was signed. It may fail: then one is intended that never was signed.
func (s *Store) unintend(ctx context.Context, e ca.Entry) {
	gone := remove(s.resources, entryKey(e.CA, e.Serial))
	gone.Delete.ConditionExpression = aws.String("attribute_not_exists(tail) AND attribute_not_exists(revoked_at)")
	s.transact(context.WithoutCancel(ctx), "remove an entry", []types.TransactWriteItem{gone})
}

func quickKey(k key) dynamo.Key { return dynamo.Key{PK: k.pk, SK: k.sk} }

// Record writes an entry; ErrConflict if there is one of the serial number.
func (s *Store) Record(ctx context.Context, e ca.Entry) error {
	it := newEntryItem(e)
	names := make([]any, len(it.Names))
	for i, name := range it.Names {
		names[i] = dynamo.Text(name)
	}
	// The attributes of entryItem: TestAnEntryIsReadAsItWasWritten.
	return s.quickly(ctx, "record a signature", dynamo.Update{
		Key: dynamo.Key{PK: it.PK, SK: it.SK}, Condition: absent,
		Expression: "SET ca = :ca, serial = :serial, tbs = :tbs, #names = :names, profile = :profile, #by = :by, certificate = :certificate, #at = :at, not_after = :end, #ttl = :ttl",
		Names:      map[string]string{"#names": "names", "#by": "by", "#at": "at", "#ttl": "ttl"},
		Values: dynamo.Values{
			":ca": dynamo.Number(it.CA), ":serial": dynamo.Text(it.Serial), ":tbs": dynamo.Bytes(it.TBS), ":names": {"L": names}, ":profile": dynamo.Text(it.Profile), ":by": dynamo.Text(it.By),
			":certificate": dynamo.Number(it.Certificate), ":at": dynamo.Number(it.At), ":end": dynamo.Number(it.NotAfter), ":ttl": dynamo.Number(it.TTL),
		},
	})
}

// RecordForeign writes an entry that is complete; ErrConflict if there is one of the serial number.
func (s *Store) RecordForeign(ctx context.Context, e ca.Entry) error {
	item, err := put(s.resources, newEntryItem(e), absent)
	if err != nil {
		return err
	}
	return conflict(s.transact(ctx, "record a certificate", []types.TransactWriteItem{item, {Update: &types.Update{
		TableName: &s.resources, Key: caCountKey(e.CA).attributes(), UpdateExpression: aws.String("ADD weeks :week"), ConditionExpression: aws.String(present),
		ExpressionAttributeValues: map[string]types.AttributeValue{":week": &types.AttributeValueMemberNS{Value: []string{strconv.Itoa(foreignLedger)}}},
	}}}))
}

// Complete notes that an entry was signed; ErrConflict if the idempotency record exists.
func (s *Store) Complete(ctx context.Context, e ca.Entry, once *Idempotency) error {
	if once != nil {
		record, err := once.put(s.resources)
		if err != nil {
			return err
		}
		return conflict(s.transact(ctx, "complete a signature", []types.TransactWriteItem{s.completed(e), record}))
	}
	return s.quickly(ctx, "complete a signature", dynamo.Update{
		Key: quickKey(entryKey(e.CA, e.Serial)), Expression: "SET tail = :tail", Condition: present, Values: dynamo.Values{":tail": dynamo.Bytes(e.Tail)},
	})
}

// Entry reads one entry of a CA's ledger; ErrNotFound if it has none of the serial number.
func (s *Store) Entry(ctx context.Context, id int64, serial string) (ca.Entry, error) {
	var it entryItem
	err := s.read(ctx, s.resources, entryKey(id, serial), &it)
	return it.entry(), err
}

// Entries reads limit entries of a CA's ledger, newest first, older than the one of the serial number before; empty
// for the newest. It reads only weeks in which something was signed.
func (s *Store) Entries(ctx context.Context, id int64, before string, limit int) ([]ca.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	var count caCountItem
	if _, err := s.get(ctx, s.resources, caCountKey(id), &count); err != nil {
		return nil, err
	}
	weeks := slices.SortedFunc(slices.Values(count.Weeks), func(a, b int64) int { return cmp.Compare(b, a) })
	entries := []ca.Entry{}
	for _, week := range weeks {
		high := serialPrefix + "G"
		if before != "" {
			if from := weekOf(before); week > from {
				continue
			} else if week == from {
				high = serialPrefix + before
			}
		}
		query := &dynamodb.QueryInput{
			TableName: &s.resources, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(false),
			KeyConditionExpression:    aws.String("pk = :pk AND sk BETWEEN :low AND :high"),
			ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(ledgerPartition(id, week)), ":low": text(serialPrefix), ":high": text(high)},
		}
		for more := true; more && len(entries) < limit; more = query.ExclusiveStartKey != nil {
			query.Limit = aws.Int32(int32(limit - len(entries) + 1)) // BETWEEN includes the one before
			answer, err := s.db.Query(ctx, query)
			if err != nil {
				return nil, failure("list a ledger", err)
			}
			var items []entryItem
			if err := attributevalue.UnmarshalListOfMaps(answer.Items, &items); err != nil {
				return nil, fmt.Errorf("list a ledger: %w", err)
			}
			for _, it := range items {
				if it.Serial != before && len(entries) < limit {
					entries = append(entries, it.entry())
				}
			}
			query.ExclusiveStartKey = answer.LastEvaluatedKey
		}
		if len(entries) == limit {
			break
		}
	}
	return entries, nil
}

// mostBelow is how many CAs are marked in the transaction that revokes a certificate of their chains: it has room for
// 100 writes.
const mostBelow = 45

// RevokeEntry revokes what an entry of a CA's ledger stands for, and makes the CRL due. At the same time the managed
// certificate that it belongs to is marked, if it is still the one in place, and every CA of the user that has it in
// its chain, so that none signs any more. ErrConflict if it is revoked already; ErrNotFound if the CA has no such
// entry, or is gone.
//
// Beyond mostBelow, CAs are marked after it, the lowest last: a crash before that leaves them, and revoking again
// marks them.
func (s *Store) RevokeEntry(ctx context.Context, user int64, e ca.Entry, reason int, now time.Time) error {
	at := revokedKey(e.CA, e.Serial)
	line := ca.Revocation{Serial: e.Serial, At: now, Reason: reason, NotAfter: e.NotAfter}
	listed, err := put(s.resources, revokedItem{
		PK: at.pk, SK: at.sk, Serial: e.Serial, At: milliseconds(now), Reason: reason, NotAfter: milliseconds(e.NotAfter), TTL: line.ListedUntil().Add(ca.CRLFor).Unix(),
	}, "")
	if err != nil {
		return err
	}
	// The entry is kept as long as the CRLs list it.
	ttl := max(e.NotAfter.Add(ledgerKept).Unix(), now.Add(ledgerKept).Unix())
	unrevoked := "attribute_exists(pk) AND attribute_not_exists(revoked_at)"
	if len(e.Tail) == 0 { // once it is signed there may be a CA to be marked
		unrevoked += " AND attribute_not_exists(tail)"
	}
	revoke := []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: entryKey(e.CA, e.Serial).attributes(), UpdateExpression: aws.String("SET revoked_at = :now, reason = :reason, #ttl = :ttl"),
		ConditionExpression:       &unrevoked,
		ExpressionAttributeNames:  map[string]string{"#ttl": "ttl"},
		ExpressionAttributeValues: map[string]types.AttributeValue{":now": number(milliseconds(now)), ":reason": number(int64(reason)), ":ttl": number(ttl)},
	}}, listed, {Update: &types.Update{
		TableName: &s.resources, Key: crlKey(e.CA).attributes(), UpdateExpression: aws.String("ADD revoked :one SET due_at = :now"),
		ConditionExpression:       aws.String("user_id = :user"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":one": number(1), ":now": number(milliseconds(now)), ":user": number(user)},
	}}}
	const ofEntry, ofCRL = 0, 2
	for try := 0; ; try++ {
		marked, err := s.markCertificate(ctx, user, e, reason, now)
		if err != nil {
			return err
		}
		below, err := s.below(ctx, user, e)
		if err != nil {
			return err
		}
		for _, c := range below[:min(len(below), mostBelow)] {
			items, err := s.markCA(c, e, now)
			if err != nil {
				return err
			}
			marked = append(marked, items...)
		}
		failed, err := s.transact(ctx, "revoke", slices.Concat(revoke, marked))
		switch {
		case err != nil:
			return err
		case len(failed) == 0:
			return s.markBelow(ctx, user, e, now)
		case slices.Contains(failed, ofCRL):
			return ErrNotFound
		case slices.Contains(failed, ofEntry):
			if e, err = s.Entry(ctx, e.CA, e.Serial); err != nil {
				return err
			}
			if e.RevokedAt.IsZero() { // it was signed meanwhile
				return s.RevokeEntry(ctx, user, e, reason, now)
			}
			return cmp.Or(s.markAgain(ctx, user, e, now), ErrConflict)
		}
		if try == 10 || !pause(ctx, 50*time.Millisecond) { // what is marked was changed since it was read
			return busy("revoke")
		}
	}
}

// markCertificate is what marks the managed certificate that an entry belongs to as revoked; nothing if another is in
// its place by now.
func (s *Store) markCertificate(ctx context.Context, user int64, e ca.Entry, reason int, now time.Time) ([]types.TransactWriteItem, error) {
	if e.Certificate == 0 {
		return nil, nil
	}
	c, err := s.Certificate(ctx, user, e.Certificate)
	if errors.Is(err, ErrNotFound) || err == nil && (c.Current.Serial != e.Serial || !c.RevokedAt.IsZero()) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	before := c.Revision
	c.Revoke(reason, now)
	item, err := s.changed(&c, before)
	return []types.TransactWriteItem{item}, err
}

// markAgain marks what was not when an entry was revoked: the managed certificate, whose place it took only then, and
// the CAs that a crash left.
func (s *Store) markAgain(ctx context.Context, user int64, e ca.Entry, now time.Time) error {
	items, err := s.markCertificate(ctx, user, e, e.Reason, now)
	if err == nil && len(items) > 0 {
		var failed []int
		if failed, err = s.transact(ctx, "mark certificate", items); err == nil && len(failed) > 0 {
			err = busy("mark certificate")
		}
	}
	return cmp.Or(err, s.markBelow(ctx, user, e, now))
}

// below are the user's CAs that have an entry's certificate in their chain and are not marked yet, those next to it
// first, and those that have it in the way to a root before.
func (s *Store) below(ctx context.Context, user int64, e ca.Entry) ([]ca.CA, error) {
	if !e.OfCA() {
		return nil, nil
	}
	all, err := s.CAs(ctx, user)
	if err != nil {
		return nil, err
	}
	der, deep := e.DER(), map[int64]int{}
	below := slices.DeleteFunc(all, func(c ca.CA) bool {
		deep[c.ID] = slices.IndexFunc(c.Chain, func(one []byte) bool { return bytes.Equal(one, der) })
		return (deep[c.ID] < 0 || !c.RevokedAt.IsZero()) && !has(c.Cross, der)
	})
	slices.SortStableFunc(below, func(a, b ca.CA) int { return cmp.Compare(deep[a.ID], deep[b.ID]) })
	return below, nil
}

func has(chain [][]byte, der []byte) bool {
	return slices.ContainsFunc(chain, func(one []byte) bool { return bytes.Equal(one, der) })
}

// markCA is what keeps a CA from signing, or from sending a way that is no more.
func (s *Store) markCA(c ca.CA, e ca.Entry, now time.Time) ([]types.TransactWriteItem, error) {
	before, der := c.Revision, e.DER()
	if has(c.Cross, der) {
		c.Cross = nil
	}
	if c.RevokedAt.IsZero() && has(c.Chain, der) {
		c.RevokedAt, c.RevokedSerial = now, e.Serial
	}
	c.UpdatedAt = now
	return s.changedCA(&c, before, 0)
}

// markBelow marks the CAs that the transaction had no room for, and repairs what a crash left.
func (s *Store) markBelow(ctx context.Context, user int64, e ca.Entry, now time.Time) error {
	for try := 0; ; try++ {
		below, err := s.below(ctx, user, e)
		if err != nil || len(below) == 0 {
			return err
		}
		changed := false
		for _, c := range below {
			items, err := s.markCA(c, e, now)
			if err != nil {
				return err
			}
			failed, err := s.transact(ctx, "mark CA", items)
			if err != nil {
				return err
			}
			changed = changed || len(failed) > 0
		}
		if !changed {
			return nil
		}
		if try == 10 || !pause(ctx, 50*time.Millisecond) {
			return busy("mark CA")
		}
	}
}

// Revocations are what a CA's CRL lists, in the order of the serial numbers.
func (s *Store) Revocations(ctx context.Context, id int64) ([]ca.Revocation, error) {
	all, err := queryAs(ctx, s, s.resources, revokedPartition(id), serialPrefix, revokedItem.revoked)
	slices.Reverse(all)
	return all, err
}

// CRLOf reads what a CA's CRL stands at; ErrNotFound if there is none.
func (s *Store) CRLOf(ctx context.Context, id int64) (CRL, error) {
	var it crlItem
	err := s.read(ctx, s.resources, crlKey(id), &it)
	return it.crl(), err
}

// NumberCRL gives a CA's next CRL its number, higher than any before. ErrNotFound if the CA is gone.
func (s *Store) NumberCRL(ctx context.Context, id int64) (CRL, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	answer, err := s.db.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &s.resources, Key: crlKey(id).attributes(), UpdateExpression: aws.String("ADD #number :one"), ConditionExpression: aws.String(present),
		ExpressionAttributeNames:  map[string]string{"#number": "number"},
		ExpressionAttributeValues: map[string]types.AttributeValue{":one": number(1)}, ReturnValues: types.ReturnValueAllNew,
	})
	var gone *types.ConditionalCheckFailedException
	if errors.As(err, &gone) {
		return CRL{}, ErrNotFound
	}
	if err != nil {
		return CRL{}, failure("number a CRL", err)
	}
	var it crlItem
	if err := attributevalue.UnmarshalMap(answer.Attributes, &it); err != nil {
		return CRL{}, fmt.Errorf("number a CRL: %w", err)
	}
	return it.crl(), nil
}

// PublishedCRL notes that a CRL, numbered before what it lists was read, is published, and when the next is due: at
// once if something was revoked since. One with a higher number makes this a nothing.
func (s *Store) PublishedCRL(ctx context.Context, c CRL, due time.Time) error {
	note := func(condition, set string, values map[string]types.AttributeValue) (bool, error) {
		err := s.change(ctx, "note a CRL", crlKey(c.CA), types.Update{
			UpdateExpression: aws.String(set), ConditionExpression: aws.String(condition), ExpressionAttributeValues: values,
		})
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	values := map[string]types.AttributeValue{
		":number": number(c.Number), ":this": number(milliseconds(c.ThisUpdate)), ":next": number(milliseconds(c.NextUpdate)), ":none": text(""),
	}
	const set = "SET published = :number, this_update = :this, next_update = :next, failure = :none"
	whole := maps.Clone(values)
	whole[":due"], whole[":revoked"] = number(milliseconds(due)), number(c.Revoked)
	if done, err := note("published < :number AND revoked = :revoked", set+", due_at = :due", whole); done || err != nil {
		return err
	}
	_, err := note("published < :number", set, values)
	return err
}

// FailedCRL notes why a CRL could not be published, and when it is tried again.
func (s *Store) FailedCRL(ctx context.Context, id int64, why string, again time.Time) error {
	err := s.change(ctx, "note a CRL", crlKey(id), types.Update{
		UpdateExpression: aws.String("SET failure = :why, due_at = :again"), ConditionExpression: aws.String(present),
		ExpressionAttributeValues: map[string]types.AttributeValue{":why": text(why), ":again": number(milliseconds(again))},
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// DueCA is a CA whose CRL is due.
type DueCA struct{ User, CA int64 }

// DueCRLs lists up to most CAs whose CRL is due, the longest due first.
func (s *Store) DueCRLs(ctx context.Context, now time.Time, most int) ([]DueCA, error) {
	return dueKeys(ctx, s, crlDue, now, most, func(k dueKey) DueCA { return DueCA{k.User, k.ID} })
}

// OCSPSigner reads what signs a CA's OCSP answers; ErrNotFound if there is nothing.
func (s *Store) OCSPSigner(ctx context.Context, id int64) (OCSPSigner, error) {
	var it ocspSignerItem
	err := s.read(ctx, s.resources, ocspSignerKey(id), &it)
	return OCSPSigner{it.User, it.ID, it.Certificate, it.Issuer, it.Key, instant(it.NotAfter)}, err
}

// KeepOCSPSigner stores what signs a CA's OCSP answers from now on; ErrConflict if the CA was changed since it was
// read.
func (s *Store) KeepOCSPSigner(ctx context.Context, c ca.CA, o OCSPSigner) error {
	at := ocspSignerKey(o.CA)
	item, err := put(s.resources, ocspSignerItem{
		PK: at.pk, SK: at.sk, User: o.User, ID: o.CA, Certificate: o.Certificate, Issuer: o.Issuer, Key: o.Key, NotAfter: milliseconds(o.NotAfter),
	}, "")
	if err != nil {
		return err
	}
	same := check(s.resources, caCountKey(o.CA), "revision = :revision")
	same.ConditionCheck.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(c.Revision)}
	return conflict(s.transact(ctx, "keep an OCSP signer", []types.TransactWriteItem{item, same}))
}

func (s *Store) firstCRL(c ca.CA) (types.TransactWriteItem, error) {
	at := crlKey(c.ID)
	return put(s.resources, crlItem{PK: at.pk, SK: at.sk, User: c.User, ID: c.ID, Number: c.LastCRL, Published: c.LastCRL, Due: crlDue, DueAt: milliseconds(c.UpdatedAt)}, absent)
}

// completed is what notes that an entry was signed.
func (s *Store) completed(e ca.Entry) types.TransactWriteItem {
	return types.TransactWriteItem{Update: &types.Update{
		TableName: &s.resources, Key: entryKey(e.CA, e.Serial).attributes(), UpdateExpression: aws.String("SET tail = :tail"),
		ConditionExpression: aws.String(present), ExpressionAttributeValues: map[string]types.AttributeValue{":tail": binary(e.Tail)},
	}}
}
