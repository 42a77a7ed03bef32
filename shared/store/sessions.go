package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/user"
)

// sessionItem is a login.
type sessionItem struct {
	PK         string `dynamodbav:"pk"`
	SK         string `dynamodbav:"sk"`
	User       int64  `dynamodbav:"user_id"`
	ID         int64  `dynamodbav:"id"`
	Email      string `dynamodbav:"email"`
	Digest     []byte `dynamodbav:"digest"`
	Family     int64  `dynamodbav:"family,omitempty"`
	CreatedAt  int64  `dynamodbav:"created_at"`
	ExpiresAt  int64  `dynamodbav:"expires_at"`
	HardEnd    int64  `dynamodbav:"hard_end"`
	LastUsedAt int64  `dynamodbav:"last_used_at"`
	TTL        int64  `dynamodbav:"ttl"`
}

func newSessionItem(s session.Session) sessionItem {
	at := sessionKey(s.User, s.ID)
	return sessionItem{
		PK: at.pk, SK: at.sk, User: s.User, ID: s.ID, Email: s.Email, Digest: s.Digest, Family: s.Family,
		CreatedAt: milliseconds(s.CreatedAt), ExpiresAt: milliseconds(s.ExpiresAt), HardEnd: milliseconds(s.HardEnd),
		LastUsedAt: milliseconds(s.LastUsedAt), TTL: s.ExpiresAt.Unix(),
	}
}

// familyItem is a line of refresh tokens.
type familyItem struct {
	PK        string      `dynamodbav:"pk"`
	SK        string      `dynamodbav:"sk"`
	User      int64       `dynamodbav:"user_id"`
	ID        int64       `dynamodbav:"id"`
	Email     string      `dynamodbav:"email"`
	Session   int64       `dynamodbav:"session"`
	Current   [][]byte    `dynamodbav:"current"`
	Spent     []spentItem `dynamodbav:"spent"`
	AuthTime  int64       `dynamodbav:"auth_time"`
	ExpiresAt int64       `dynamodbav:"expires_at"`
	Revoked   bool        `dynamodbav:"revoked"`
	Revision  int64       `dynamodbav:"revision"`
	TTL       int64       `dynamodbav:"ttl"`
}

type spentItem struct {
	Digest []byte `dynamodbav:"digest"`
	At     int64  `dynamodbav:"at"`
	Lost   bool   `dynamodbav:"lost"`
}

func newFamilyItem(f session.Family) familyItem {
	at := familyKey(f.User, f.ID)
	it := familyItem{
		PK: at.pk, SK: at.sk, User: f.User, ID: f.ID, Email: f.Email, Session: f.Session, Current: f.Current,
		AuthTime: milliseconds(f.AuthTime), ExpiresAt: milliseconds(f.ExpiresAt), Revoked: f.Revoked, Revision: f.Revision,
		TTL: f.ExpiresAt.Unix(),
	}
	for _, s := range f.Spent {
		it.Spent = append(it.Spent, spentItem{s.Digest, milliseconds(s.At), s.Lost})
	}
	return it
}

func (it familyItem) family() session.Family {
	f := session.Family{
		User: it.User, ID: it.ID, Email: it.Email, Session: it.Session, Current: it.Current,
		AuthTime: instant(it.AuthTime), ExpiresAt: instant(it.ExpiresAt), Revoked: it.Revoked, Revision: it.Revision,
	}
	for _, s := range it.Spent {
		f.Spent = append(f.Spent, session.Spent{Digest: s.Digest, At: instant(s.At), Lost: s.Lost})
	}
	return f
}

// login is what both kinds of login item tell of themselves, to find the oldest.
type login struct {
	SK        string `dynamodbav:"sk"`
	ID        int64  `dynamodbav:"id"`
	Family    int64  `dynamodbav:"family"`  // of a session
	Session   int64  `dynamodbav:"session"` // of a family
	Revision  int64  `dynamodbav:"revision"`
	CreatedAt int64  `dynamodbav:"created_at"`
	AuthTime  int64  `dynamodbav:"auth_time"`
}

// logins lists both kinds. The lines of refresh tokens are read first: a session that a refresh puts in the
// place of another afterwards has changed its line's revision, and endFamily notices.
func (s *Store) logins(ctx context.Context, user int64) (sessions, families []login, err error) {
	if families, err = query[login](ctx, s, s.credentials, userPartition(user), familyPrefix); err != nil {
		return nil, nil, err
	}
	sessions, err = query[login](ctx, s, s.credentials, userPartition(user), sessionPrefix)
	return sessions, families, err
}

// endFamily deletes a line of refresh tokens as it was read. A refresh that comes between has put another
// session in the place of the one that was read; the condition lets the deletion fail, to be tried again
// with what there is now.
func (s *Store) endFamily(user int64, f login) types.TransactWriteItem {
	item := remove(s.credentials, familyKey(user, f.ID))
	item.Delete.ConditionExpression = aws.String(absent + " OR revision = :revision")
	item.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(f.Revision)}
	return item
}

// endSessions are the deletions of every session and refresh token of a user.
func (s *Store) endSessions(ctx context.Context, user int64) ([]types.TransactWriteItem, error) {
	sessions, families, err := s.logins(ctx, user)
	if err != nil {
		return nil, err
	}
	var items []types.TransactWriteItem
	for _, l := range sessions {
		items = append(items, remove(s.credentials, sessionKey(user, l.ID)))
	}
	for _, l := range families {
		items = append(items, s.endFamily(user, l))
	}
	return items, nil
}

// CreateSession stores a login, with its line of refresh tokens if family is not nil, provided the
// account is as it was when the password was checked: ErrConflict if not. A user with too many logins
// loses the oldest.
func (s *Store) CreateSession(ctx context.Context, u user.User, login session.Session, family *session.Family) error {
	items, err := s.makeRoom(ctx, u.ID)
	if err != nil {
		return err
	}
	created, err := put(s.credentials, newSessionItem(login), absent)
	if err != nil {
		return err
	}
	items = append(items, created)
	if family != nil {
		created, err := put(s.credentials, newFamilyItem(*family), absent)
		if err != nil {
			return err
		}
		items = append(items, created)
	}
	return conflict(s.changeUser(ctx, "create session", u, items))
}

// makeRoom are the deletions of the oldest logins beyond what a user may have. A line of refresh tokens
// and its session are one login and end together: a line left alone would renew itself beyond the
// number that endSessions can end in one transaction.
func (s *Store) makeRoom(ctx context.Context, user int64) ([]types.TransactWriteItem, error) {
	sessions, families, err := s.logins(ctx, user)
	if err != nil {
		return nil, err
	}
	logins := families
	for _, l := range sessions {
		if !slices.ContainsFunc(families, func(f login) bool { return f.Session == l.ID }) {
			logins = append(logins, l)
		}
	}
	slices.SortFunc(logins, func(a, b login) int { return cmp.Compare(a.CreatedAt+a.AuthTime, b.CreatedAt+b.AuthTime) })
	var items []types.TransactWriteItem
	for _, l := range logins[:max(0, len(logins)+1-session.MaxPerUser)] {
		if l.Session == 0 {
			items = append(items, remove(s.credentials, sessionKey(user, l.ID)))
			continue
		}
		items = append(items, s.endFamily(user, l), remove(s.credentials, sessionKey(user, l.Session)))
	}
	return items, nil
}

// EndSession removes a session, and the line of refresh tokens that renews it, if any, with whatever
// session that has by now. Ending what has ended is no error.
func (s *Store) EndSession(ctx context.Context, user, id, renewedBy int64) error {
	for wait := 10 * time.Millisecond; wait < time.Second; wait *= 2 {
		items := []types.TransactWriteItem{remove(s.credentials, sessionKey(user, id))}
		if renewedBy != 0 {
			var family login
			found, err := s.get(ctx, s.credentials, familyKey(user, renewedBy), &family)
			if err != nil {
				return err
			}
			if found {
				items = append(items, s.endFamily(user, family))
				if family.Session != id {
					items = append(items, remove(s.credentials, sessionKey(user, family.Session)))
				}
			}
		}
		failed, err := s.transact(ctx, "end session", items)
		if err != nil || len(failed) == 0 {
			return err
		}
		if !pause(ctx, wait) { // a refresh came between
			break
		}
	}
	return busy("end session")
}

// Family reads a line of refresh tokens; ErrNotFound if there is none.
func (s *Store) Family(ctx context.Context, user, id int64) (session.Family, error) {
	var it familyItem
	err := s.read(ctx, s.credentials, familyKey(user, id), &it)
	return it.family(), err
}

// RotateFamily stores a rotated line with the session of its newest pair, which takes the place of the
// session before; renewed is nil if the line was revoked. ErrConflict if the line was rotated at the
// same time. A crash leaves either all of it or nothing.
func (s *Store) RotateFamily(ctx context.Context, before, after session.Family, renewed *session.Session) error {
	item, err := put(s.credentials, newFamilyItem(after), "revision = :revision")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(before.Revision)}
	items := []types.TransactWriteItem{item, remove(s.credentials, sessionKey(before.User, before.Session))}
	if renewed != nil {
		created, err := put(s.credentials, newSessionItem(*renewed), absent)
		if err != nil {
			return err
		}
		items = append(items, created)
	}
	failed, err := s.transact(ctx, "rotate refresh token", items)
	if err == nil && slices.Contains(failed, 0) {
		return ErrConflict
	}
	return err
}
