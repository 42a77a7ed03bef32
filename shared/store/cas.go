package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/sealed"
)

// caItem is a CA. What may become empty again is written empty: a change sets attributes and removes none.
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
	Chain      []byte        `dynamodbav:"chain"` // one after the other: a list of bytes would become a set
	Cross      []byte        `dynamodbav:"cross"`
	Parent     int64         `dynamodbav:"parent"`
	Former     int64         `dynamodbav:"former"`
	Next       int64         `dynamodbav:"next"`
	Imported   bool          `dynamodbav:"imported,omitempty"`
	Profiles   []ca.Profile  `dynamodbav:"profiles"`
	Default    string        `dynamodbav:"default_profile"`
	Revocation string        `dynamodbav:"revocation_url"`
	Directory  string        `dynamodbav:"directory_url"`
	RevokedAt  int64         `dynamodbav:"revoked_at"`
	Revoked    string        `dynamodbav:"revoked_serial"`
	Uses       int64         `dynamodbav:"uses"` // accounts, certificates and CAs
	CreatedAt  int64         `dynamodbav:"created_at"`
	UpdatedAt  int64         `dynamodbav:"updated_at"`
	Revision   int64         `dynamodbav:"revision"`
}

func newCAItem(c ca.CA) caItem {
	at := caKey(c.User, c.ID)
	return caItem{
		PK: at.pk, SK: at.sk, User: c.User, ID: c.ID, Name: c.Name, KeyType: string(c.KeyType), Custody: string(c.Custody), Key: c.Key, KMSKey: c.KMSKey,
		Public: c.Public, Subject: subjectItem(c.Subject), CommonName: c.CommonName, PathLen: c.PathLen, Days: c.Days, Chain: bytes.Join(c.Chain, nil), Cross: bytes.Join(c.Cross, nil),
		Parent: c.Parent, Former: c.Former, Next: c.Next, Imported: c.Imported, Profiles: c.Profiles, Default: c.Default, Revocation: c.Revocation, Directory: c.Directory,
		RevokedAt: milliseconds(c.RevokedAt), Revoked: c.RevokedSerial, Uses: c.Uses, CreatedAt: milliseconds(c.CreatedAt), UpdatedAt: milliseconds(c.UpdatedAt), Revision: c.Revision,
	}
}

func (it caItem) ca() ca.CA {
	return ca.CA{
		User: it.User, ID: it.ID, Name: it.Name, KeyType: pki.KeyType(it.KeyType), Custody: ca.Custody(it.Custody), Key: it.Key, KMSKey: it.KMSKey,
		Public: it.Public, Subject: pki.Subject(it.Subject), CommonName: it.CommonName, PathLen: it.PathLen, Days: it.Days, Chain: ca.Split(it.Chain), Cross: ca.Split(it.Cross),
		Parent: it.Parent, Former: it.Former, Next: it.Next, Imported: it.Imported, Profiles: it.Profiles, Default: it.Default, Revocation: it.Revocation, Directory: it.Directory,
		RevokedAt: instant(it.RevokedAt), RevokedSerial: it.Revoked, Uses: it.Uses, CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt), Revision: it.Revision,
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

// importItem claims the key of an imported CA: of two CAs with one key each would revoke only what itself signed.
type importItem struct {
	PK string `dynamodbav:"pk"`
	SK string `dynamodbav:"sk"`
	ID int64  `dynamodbav:"id"`
}

// NextCAID gives an id that no CA has had.
func (s *Store) NextCAID(ctx context.Context) (int64, error) { return s.next(ctx, "ca") }

// CreateCA stores a CA, if its owner has room for it. The entries signed, which its certificates have in the ledgers of
// who signed them, are completed in the same transaction. former is the CA whose place it takes; nil for none.
// ErrConflict if the idempotency record exists, the parent was revoked or deleted meanwhile or the former CA changed, what
// was signed was revoked, or the key of an imported CA is another's.
func (s *Store) CreateCA(ctx context.Context, c ca.CA, signed []ca.Entry, former *ca.CA, once *Idempotency) (ca.CA, error) {
	c.Revision = 1
	if former != nil { // what rests on that one rests on this one
		c.Uses = 1
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
	beside := []types.TransactWriteItem{counted}
	if len(c.Chain) > 0 {
		first, err := s.firstCRL(c)
		if err != nil {
			return c, err
		}
		beside = append(beside, first)
	}
	if c.Parent != 0 {
		parent := s.use(caKey(c.User, c.Parent), 1)
		parent.Update.ConditionExpression = aws.String("attribute_exists(pk) AND revoked_at = :never")
		parent.Update.ExpressionAttributeValues[":never"] = number(0)
		beside = append(beside, parent)
	}
	for _, e := range signed { // before there was a CA to be marked, it may have been revoked
		done := s.completed(e)
		done.Update.ConditionExpression = aws.String("attribute_exists(pk) AND attribute_not_exists(revoked_at)")
		beside = append(beside, done)
	}
	if c.Imported {
		claim, err := put(s.resources, importItem{caImportKey(c).pk, caImportKey(c).sk, c.ID}, absent)
		if err != nil {
			return c, err
		}
		beside = append(beside, claim)
	}
	if former != nil {
		replaced, err := s.replaced(*former, c.ID, c.CreatedAt)
		if err != nil {
			return c, err
		}
		beside = append(beside, replaced...)
	}
	return c, s.createOwned(ctx, newCAItem(c), caTotalKey(c.User), maxOwned, "CAs", once, beside...)
}

// replaced writes that another CA has taken a CA's place.
func (s *Store) replaced(former ca.CA, by int64, now time.Time) ([]types.TransactWriteItem, error) {
	before := former.Revision
	former.Next, former.UpdatedAt = by, now
	return s.changedCA(&former, before, 0)
}

// CA reads one CA; ErrNotFound if the user has none with the id.
func (s *Store) CA(ctx context.Context, user, id int64) (ca.CA, error) {
	var it caItem
	err := s.read(ctx, s.resources, caKey(user, id), &it)
	return it.ca(), err
}

// maxLine is how many CAs may have taken each other's place: as many as a user may have.
const maxLine = 100

// LineOfCA are a CA of the user's and those that took its place, one after the other. It ends with the first error:
// ErrNotFound if the user has no CA with the id.
func (s *Store) LineOfCA(ctx context.Context, user, id int64) iter.Seq2[ca.CA, error] {
	return func(yield func(ca.CA, error) bool) {
		for range maxLine {
			c, err := s.CA(ctx, user, id)
			if !yield(c, err) || err != nil || c.Next == 0 {
				return
			}
			id = c.Next
		}
		yield(ca.CA{}, fmt.Errorf("CA %d: its successors go on without end", id))
	}
}

// LastOfLine is the CA that stands in a CA's place now: itself, if none has taken it; ErrNotFound if there is none.
func (s *Store) LastOfLine(ctx context.Context, user, id int64) (last ca.CA, err error) {
	for last, err = range s.LineOfCA(ctx, user, id) {
	}
	return last, err
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
	return queryAs(ctx, s, s.resources, casPartition(user), caPrefix, caItem.ca)
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
		replaced, err := s.replaced(*former, after.ID, after.UpdatedAt)
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
// revoked lapse by themselves. The CA whose place it took stands in that again, or is followed by the one that took
// this one's. ErrConflict if something rests on it and force is false; ErrNotFound if there is none.
func (s *Store) DeleteCA(ctx context.Context, user, id int64, force bool, now time.Time) (ca.CA, error) {
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
			s.oneLess(caTotalKey(user)),
		}
		if c.Imported {
			items = append(items, remove(s.resources, caImportKey(c)))
		}
		less, err := s.unuseCA(ctx, user, c.Parent)
		if err != nil {
			return c, err
		}
		closed, err := s.closeLine(ctx, c, now)
		if err != nil {
			return c, err
		}
		items = append(items, append(less, closed...)...)
		told, err := s.opened(device.Rollout{User: user, CA: id, Gone: true, Name: c.Name, Serial: c.Serial(), StartedAt: now})
		if err != nil {
			return c, err
		}
		items = append(items, told)
		failed, err := s.transact(ctx, "delete CA", items)
		if err != nil || len(failed) == 0 {
			return c, err
		}
		if try == 10 || !pause(ctx, 50*time.Millisecond) { // changed since it was read
			return c, busy("delete CA")
		}
	}
}

// closeLine is what leaves no gap where a CA stood in a line: the one whose place it took is in that again, or the one
// is that took its own.
func (s *Store) closeLine(ctx context.Context, c ca.CA, now time.Time) (items []types.TransactWriteItem, err error) {
	if c.Former == 0 && c.Next == 0 {
		return nil, nil
	}
	former, err := s.CA(ctx, c.User, c.Former)
	followed := err == nil && former.Next == c.ID
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	if followed {
		if items, err = s.replaced(former, c.Next, now); err != nil {
			return nil, err
		}
	}
	next, err := s.CA(ctx, c.User, c.Next)
	if errors.Is(err, ErrNotFound) {
		return items, nil
	}
	if err != nil {
		return nil, err
	}
	before, uses := next.Revision, int64(-1)
	if next.Former, next.UpdatedAt = 0, now; followed {
		next.Former, uses = former.ID, 0
	}
	changed, err := s.changedCA(&next, before, uses)
	return append(items, changed...), err
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
