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
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
)

// caItem is a CA.
type caItem struct {
	PK         string        `dynamodbav:"pk"`
	SK         string        `dynamodbav:"sk"`
	User       int64         `dynamodbav:"user_id"`
	ID         int64         `dynamodbav:"id"`
	Name       string        `dynamodbav:"name"`
	KeyType    string        `dynamodbav:"key_type"`
	Custody    string        `dynamodbav:"custody"`
	Key        sealed.Secret `dynamodbav:"key"`
	KMSKey     string        `dynamodbav:"kms_key,omitempty"`
	Public     []byte        `dynamodbav:"public"`
	Subject    subjectItem   `dynamodbav:"subject,omitempty"`
	CommonName string        `dynamodbav:"common_name"`
	PathLen    int           `dynamodbav:"path_len"`
	Days       int           `dynamodbav:"days"`
	Chain      []byte        `dynamodbav:"chain,omitempty"` // one after the other: a list of bytes would become a set
	Link       []byte        `dynamodbav:"link,omitempty"`
	Parent     int64         `dynamodbav:"parent,omitempty"`
	Former     int64         `dynamodbav:"former,omitempty"`
	Next       int64         `dynamodbav:"next,omitempty"`
	Imported   bool          `dynamodbav:"imported,omitempty"`
	Profiles   []ca.Profile  `dynamodbav:"profiles"` // these two may become empty again
	Default    string        `dynamodbav:"default_profile"`
	Revocation string        `dynamodbav:"revocation_url"`
	Directory  string        `dynamodbav:"directory_url"`
	Uses       int64         `dynamodbav:"uses"` // accounts, certificates and CAs
	CreatedAt  int64         `dynamodbav:"created_at"`
	UpdatedAt  int64         `dynamodbav:"updated_at"`
	Revision   int64         `dynamodbav:"revision"`
}

func newCAItem(c ca.CA) caItem {
	at := caKey(c.User, c.ID)
	return caItem{
		PK: at.pk, SK: at.sk, User: c.User, ID: c.ID, Name: c.Name, KeyType: string(c.KeyType), Custody: string(c.Custody), Key: c.Key, KMSKey: c.KMSKey,
		Public: c.Public, Subject: subjectItem(c.Subject), CommonName: c.CommonName, PathLen: c.PathLen, Days: c.Days, Chain: bytes.Join(c.Chain, nil), Link: c.Link,
		Parent: c.Parent, Former: c.Former, Next: c.Next, Imported: c.Imported, Profiles: c.Profiles, Default: c.Default, Revocation: c.Revocation, Directory: c.Directory,
		Uses: c.Uses, CreatedAt: milliseconds(c.CreatedAt), UpdatedAt: milliseconds(c.UpdatedAt), Revision: c.Revision,
	}
}

func (it caItem) ca() ca.CA {
	return ca.CA{
		User: it.User, ID: it.ID, Name: it.Name, KeyType: pki.KeyType(it.KeyType), Custody: ca.Custody(it.Custody), Key: it.Key, KMSKey: it.KMSKey,
		Public: it.Public, Subject: pki.Subject(it.Subject), CommonName: it.CommonName, PathLen: it.PathLen, Days: it.Days, Chain: ca.Split(it.Chain), Link: it.Link,
		Parent: it.Parent, Former: it.Former, Next: it.Next, Imported: it.Imported, Profiles: it.Profiles, Default: it.Default, Revocation: it.Revocation, Directory: it.Directory,
		Uses: it.Uses, CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt), Revision: it.Revision,
	}
}

// caCountItem counts what a CA signs, and holds the CA's revision: one conditional write counts a signature and
// proves that the CA is still as it was read.
type caCountItem struct {
	PK       string  `dynamodbav:"pk"`
	SK       string  `dynamodbav:"sk"`
	User     int64   `dynamodbav:"user_id"`
	Revision int64   `dynamodbav:"revision"`
	Issued   int64   `dynamodbav:"n"`
	LastUsed int64   `dynamodbav:"last_used_at"`
	Weeks    []int64 `dynamodbav:"weeks,omitempty,numberset"` // of the ledger
}

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

// NextCAID gives an id that no CA has had.
func (s *Store) NextCAID(ctx context.Context) (int64, error) { return s.next(ctx, "ca") }

// CreateCA stores a CA, if its owner has room for it. The entries signed, which its certificates have in the ledgers of
// who signed them, are completed in the same transaction. former is the CA whose place it takes; nil for none.
// ErrConflict if the idempotency record exists or the parent or the former CA was changed or deleted meanwhile.
func (s *Store) CreateCA(ctx context.Context, c ca.CA, signed []ca.Entry, former *ca.CA, once *Idempotency) (ca.CA, error) {
	c.Revision = 1
	if former != nil { // what rests on that one rests on this one
		c.Uses = 1
	}
	stored, err := put(s.resources, newCAItem(c), absent)
	if err != nil {
		return c, err
	}
	at := caCountKey(c.ID)
	count := caCountItem{PK: at.pk, SK: at.sk, User: c.User, Revision: 1}
	for _, e := range signed {
		if e.CA == c.ID { // its own signature was recorded before there was a count
			count.Issued, count.LastUsed, count.Weeks = count.Issued+1, milliseconds(e.At), append(count.Weeks, weekOf(e.Serial))
		}
	}
	counted, err := put(s.resources, count, absent)
	if err != nil {
		return c, err
	}
	items := []types.TransactWriteItem{stored, {Update: &types.Update{
		TableName: &s.resources, Key: caTotalKey(c.User).attributes(), UpdateExpression: aws.String("ADD n :one"),
		ConditionExpression:       aws.String("attribute_not_exists(n) OR n < :most"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":one": number(1), ":most": number(maxOwned)},
	}}, counted}
	const ofTotal = 1
	if len(c.Chain) > 0 {
		first, err := s.firstCRL(c)
		if err != nil {
			return c, err
		}
		items = append(items, first)
	}
	if c.Parent != 0 {
		items = append(items, s.use(caKey(c.User, c.Parent), 1))
	}
	for _, e := range signed {
		items = append(items, s.completed(e))
	}
	if former != nil {
		after := *former
		after.Next, after.UpdatedAt = c.ID, c.CreatedAt
		replaced, err := s.changedCA(&after, former.Revision, 0)
		if err != nil {
			return c, err
		}
		items = append(items, replaced...)
	}
	if once != nil {
		record, err := once.put(s.resources)
		if err != nil {
			return c, err
		}
		items = append(items, record)
	}
	failed, err := s.transact(ctx, "create CA", items)
	if err == nil && slices.Equal(failed, []int{ofTotal}) {
		return c, problem.Conflict.New("A user may have %d CAs. Delete one that is no longer used.", maxOwned)
	}
	return c, conflict(failed, err)
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

// CA reads one CA; ErrNotFound if the user has none with the id.
func (s *Store) CA(ctx context.Context, user, id int64) (ca.CA, error) {
	var it caItem
	err := s.read(ctx, s.resources, caKey(user, id), &it)
	return it.ca(), err
}

// OwnerOfCA tells whose a CA is; ErrNotFound if there is none with the id.
func (s *Store) OwnerOfCA(ctx context.Context, id int64) (int64, error) {
	var it caCountItem
	err := s.read(ctx, s.resources, caCountKey(id), &it)
	return it.User, err
}

// CountOfCA reads how much a CA has signed; nothing if there is no such CA.
func (s *Store) CountOfCA(ctx context.Context, id int64) (ca.Count, error) {
	var it caCountItem
	_, err := s.get(ctx, s.resources, caCountKey(id), &it)
	return ca.Count{Issued: it.Issued, LastUsed: instant(it.LastUsed)}, err
}

// CAs lists a user's CAs, newest first; there are at most maxOwned.
func (s *Store) CAs(ctx context.Context, user int64) ([]ca.CA, error) {
	items, err := query[caItem](ctx, s, s.resources, casPartition(user), caPrefix)
	all := make([]ca.CA, len(items))
	for i, it := range items {
		all[i] = it.ca()
	}
	return all, err
}

// UpdateCA stores a CA as it is after a change, if it is still as it was before: ErrConflict if it was changed since.
// Whoever has read it before cannot sign any more. With its first chain it gets its first CRL, and takes the place of
// former; nil for none.
func (s *Store) UpdateCA(ctx context.Context, before, after ca.CA, former *ca.CA) (ca.CA, error) {
	uses := int64(0)
	if former != nil {
		uses = 1
	}
	items, err := s.changedCA(&after, before.Revision, uses)
	if err != nil {
		return after, err
	}
	if former != nil {
		old := *former
		old.Next, old.UpdatedAt = after.ID, after.UpdatedAt
		replaced, err := s.changedCA(&old, former.Revision, 0)
		if err != nil {
			return after, err
		}
		items = append(items, replaced...)
	}
	if len(before.Chain) == 0 && len(after.Chain) > 0 {
		first, err := s.firstCRL(after)
		if err != nil {
			return after, err
		}
		items = append(items, first)
	}
	return after, conflict(s.transact(ctx, "change CA", items))
}

// changedCA writes a CA anew, if its revision is still before. Of its uses, which others count, it adds some.
func (s *Store) changedCA(c *ca.CA, before, uses int64) ([]types.TransactWriteItem, error) {
	c.Revision = before + 1
	attributes, err := attributevalue.MarshalMap(newCAItem(*c))
	if err != nil {
		return nil, fmt.Errorf("change CA: %w", err)
	}
	for _, name := range []string{"pk", "sk", "uses"} {
		delete(attributes, name)
	}
	names, values := map[string]string{}, map[string]types.AttributeValue{":before": number(before), ":uses": number(uses)}
	var set []string
	for i, name := range slices.Sorted(maps.Keys(attributes)) {
		n := strconv.Itoa(i)
		names["#"+n], values[":"+n] = name, attributes[name]
		set = append(set, "#"+n+" = :"+n)
	}
	return []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: caKey(c.User, c.ID).attributes(), UpdateExpression: aws.String("SET " + strings.Join(set, ", ") + " ADD uses :uses"),
		ConditionExpression: aws.String("revision = :before"), ExpressionAttributeNames: names, ExpressionAttributeValues: values,
	}}, {Update: &types.Update{
		TableName: &s.resources, Key: caCountKey(c.ID).attributes(), UpdateExpression: aws.String("SET revision = :after"),
		ConditionExpression: aws.String(present), ExpressionAttributeValues: map[string]types.AttributeValue{":after": number(c.Revision)},
	}}}, nil
}

// DeleteCA removes a CA, its place in what it counts for, and what signs for it. Its ledger and the list of what it
// revoked lapse by themselves. ErrConflict if something rests on it and force is false; ErrNotFound if there is none.
func (s *Store) DeleteCA(ctx context.Context, user, id int64, force bool) (ca.CA, error) {
	for try := 0; ; try++ {
		c, err := s.CA(ctx, user, id)
		if err != nil {
			return c, err
		}
		if c.Uses > 0 && !force {
			return c, ErrConflict
		}
		gone := remove(s.resources, caKey(user, id))
		gone.Delete.ConditionExpression = aws.String("revision = :revision AND uses = :uses")
		gone.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(c.Revision), ":uses": number(c.Uses)}
		items := []types.TransactWriteItem{
			gone, remove(s.resources, caCountKey(id)), remove(s.resources, crlKey(id)), remove(s.resources, ocspSignerKey(id)),
			{Update: &types.Update{
				TableName: &s.resources, Key: caTotalKey(user).attributes(), UpdateExpression: aws.String("ADD n :less"),
				ExpressionAttributeValues: map[string]types.AttributeValue{":less": number(-1)},
			}},
		}
		for _, other := range []int64{c.Parent, c.Next} {
			less, err := s.unuseCA(ctx, user, other)
			if err != nil {
				return c, err
			}
			items = append(items, less...)
		}
		failed, err := s.transact(ctx, "delete CA", items)
		if err != nil || len(failed) == 0 {
			return c, err
		}
		if try == 10 || !pause(ctx, 50*time.Millisecond) { // changed since it was read
			return c, busy("delete CA")
		}
	}
}

// unuseCA is what takes back one use of a CA; nothing if there is none, such as one deleted by force.
func (s *Store) unuseCA(ctx context.Context, user, id int64) ([]types.TransactWriteItem, error) {
	if id == 0 {
		return nil, nil
	}
	_, err := s.CA(ctx, user, id)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return []types.TransactWriteItem{s.use(caKey(user, id), -1)}, err
}

// Intend writes an entry into a CA's ledger before its key is used, and counts it. ErrConflict if the CA was changed
// or deleted since it was read, and then nothing may be signed: an entry that was written all the same says that
// something was intended.
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
	if counted != nil {
		return counted
	}
	return err
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
		low, high := serialPrefix, serialPrefix+"G"
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
			ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(ledgerPartition(id, week)), ":low": text(low), ":high": text(high)},
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

// RevokeEntry revokes what an entry of a CA's ledger stands for, and makes the CRL due. ErrConflict if it is revoked
// already; ErrNotFound if the CA has no such entry, or is gone.
func (s *Store) RevokeEntry(ctx context.Context, user int64, e ca.Entry, reason int, now time.Time) error {
	at := revokedKey(e.CA, e.Serial)
	line := ca.Revoked{Serial: e.Serial, At: now, Reason: reason, NotAfter: e.NotAfter}
	listed, err := put(s.resources, revokedItem{
		PK: at.pk, SK: at.sk, Serial: e.Serial, At: milliseconds(now), Reason: reason, NotAfter: milliseconds(e.NotAfter), TTL: line.ListedUntil().Add(ca.CRLFor).Unix(),
	}, "")
	if err != nil {
		return err
	}
	// The entry is kept as long as the CRLs list it.
	ttl := max(e.NotAfter.Add(ledgerKept).Unix(), now.Add(ledgerKept).Unix())
	failed, err := s.transact(ctx, "revoke", []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: entryKey(e.CA, e.Serial).attributes(), UpdateExpression: aws.String("SET revoked_at = :now, reason = :reason, #ttl = :ttl"),
		ConditionExpression:       aws.String("attribute_exists(pk) AND attribute_not_exists(revoked_at)"),
		ExpressionAttributeNames:  map[string]string{"#ttl": "ttl"},
		ExpressionAttributeValues: map[string]types.AttributeValue{":now": number(milliseconds(now)), ":reason": number(int64(reason)), ":ttl": number(ttl)},
	}}, listed, {Update: &types.Update{
		TableName: &s.resources, Key: crlKey(e.CA).attributes(), UpdateExpression: aws.String("ADD revoked :one SET due_at = :now"),
		ConditionExpression:       aws.String("user_id = :user"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":one": number(1), ":now": number(milliseconds(now)), ":user": number(user)},
	}}})
	const ofEntry, ofCRL = 0, 2
	switch {
	case err != nil || len(failed) == 0:
		return err
	case slices.Contains(failed, ofCRL):
		return ErrNotFound
	case slices.Contains(failed, ofEntry):
		if _, err := s.Entry(ctx, e.CA, e.Serial); err != nil {
			return err
		}
	}
	return ErrConflict
}

// Revocations are what a CA's CRL lists, in the order of the serial numbers.
func (s *Store) Revocations(ctx context.Context, id int64) ([]ca.Revoked, error) {
	items, err := query[revokedItem](ctx, s, s.resources, revokedPartition(id), serialPrefix)
	list := make([]ca.Revoked, len(items))
	for i, it := range items {
		list[len(items)-1-i] = ca.Revoked{Serial: it.Serial, At: instant(it.At), Reason: it.Reason, NotAfter: instant(it.NotAfter)}
	}
	return list, err
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
