// Package authn turns the credential of a request into its caller, with one consistent read.
//
// The authorizer uses it before every function, and the auth function where it must know who asks.
// It reads the items that package store writes to the credential table:
//
//	pk USER#<user>  sk KEY#<16 digits>      an API key
//	pk USER#<user>  sk SESSION#<16 digits>  a session
//	pk TOKENKEY     sk <key id>             the public key that devices' tokens are verified with
//
// A device's token needs no read but that of its key, once in the life of a process; whether the device is still
// active is looked at by the functions that devices call, with the one item that they read in any case.
//
// and writes, by condition on what it read, two kinds of mark: the last use, once a minute, and the
// first use of a rolled key's new token, which starts the old one's grace. A mark never brings a
// deleted item back.
package authn

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/token"
)

// Refusal is a credential that is not accepted. Its text is for the log: the caller learns only that
// the token is invalid.
type Refusal string

func (r Refusal) Error() string { return "credential refused: " + string(r) }

// The refusals.
const (
	Unknown Refusal = "no such credential, or another token"
	Expired Refusal = "expired"
)

// ErrAddress says that a valid API key came from an address outside its ranges.
var ErrAddress = errors.New("API key used from an address outside its ranges")

// Authenticator reads credentials.
type Authenticator struct {
	Client *dynamo.Client
	Table  string // the credential table
	Now    func() time.Time

	roots   sync.Map     // of devices' tokens: knownRoot by key id
	noMarks atomic.Int64 // epoch ms until which last uses are not marked, because writing failed
}

var errNoMarks = errors.New("the mark before failed; the next is tried in a few seconds")

// A last use is marked in markBudget or not at all; after a failure none is tried for a while, so that
// a table that cannot be written does not slow every request down.
const (
	markBudget = 100 * time.Millisecond
	markPause  = 5 * time.Second
)

// Result is who calls, and what the reading of it changed.
type Result struct {
	Caller access.Caller
	Family int64 // the line of refresh tokens that renews the session; 0 if none does
	// MarkFailed is why the mark of the last use could not be written; it does not matter to the
	// request.
	MarkFailed error
}

type (
	textValue   struct{ S string }
	numberValue struct {
		N int64 `json:",string"`
	}
	bytesValue struct{ B []byte }
	listValue  struct{ L []textValue }
)

// item is the union of what a key's and a session's item hold, in DynamoDB's JSON.
type item struct {
	Digest      bytesValue  `json:"digest"`
	Name        textValue   `json:"name"`
	Email       textValue   `json:"email"`
	Permissions textValue   `json:"permissions"`
	CIDRs       listValue   `json:"cidrs"`
	Previous    bytesValue  `json:"previous_digest"`
	Grace       numberValue `json:"grace_ms"`
	GraceEnds   numberValue `json:"grace_ends"`
	Family      numberValue `json:"family"`
	CreatedAt   numberValue `json:"created_at"`
	ExpiresAt   numberValue `json:"expires_at"`
	HardEnd     numberValue `json:"hard_end"`
	LastUsedAt  numberValue `json:"last_used_at"`
}

// KeyOf is where the record of a token lies.
func KeyOf(t token.Token) dynamo.Key {
	prefix := "KEY#"
	if t.Kind == token.Session {
		prefix = "SESSION#"
	}
	var digits [16]byte
	n := t.ID
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = byte('0' + n%10)
		n /= 10
	}
	return dynamo.Key{PK: "USER#" + strconv.FormatInt(t.User, 10), SK: prefix + string(digits[:])}
}

// Authenticate finds the caller that t stands for, calling from an address. The error is a Refusal,
// ErrAddress, or the failure of the table, upon which nobody may be let in.
func (a *Authenticator) Authenticate(ctx context.Context, t token.Token, from string) (Result, error) {
	if t.Kind != token.APIKey && t.Kind != token.Session {
		return Result{}, Unknown
	}
	ctx, cancel := context.WithTimeout(ctx, dynamo.Budget) // for reading and marking together
	defer cancel()
	key := KeyOf(t)
	var it item
	found, err := a.Client.Get(ctx, a.Table, key, &it)
	if err != nil {
		return Result{}, fmt.Errorf("read credential: %w", err)
	}
	if !found {
		return Result{}, Unknown
	}
	if t.Kind == token.Session {
		return a.session(ctx, t, key, &it)
	}
	return a.apiKey(ctx, t, key, &it, from)
}

func (a *Authenticator) apiKey(ctx context.Context, t token.Token, key dynamo.Key, it *item, from string) (Result, error) {
	now := a.Now()
	k := apikey.Key{
		Digest: it.Digest.B, ExpiresAt: time.UnixMilli(it.ExpiresAt.N),
		Previous: apikey.Previous{Digest: it.Previous.B, Grace: time.Duration(it.Grace.N) * time.Millisecond, Ends: instant(it.GraceEnds.N)},
	}
	verdict := k.Admit(t, now)
	if verdict == apikey.Refused {
		if k.Status(now) == apikey.Expired {
			return Result{}, Expired
		}
		return Result{}, Unknown
	}
	r := Result{Caller: access.Caller{
		Kind: access.APIKey, User: t.User, ID: t.ID, Name: it.Name.S, Permissions: access.Permissions(it.Permissions.S),
		CreatedAt: time.UnixMilli(it.CreatedAt.N), ExpiresAt: k.ExpiresAt, Superseded: verdict == apikey.Superseded,
	}}
	if len(it.CIDRs.L) > 0 {
		ranges := make([]string, len(it.CIDRs.L))
		for i, c := range it.CIDRs.L {
			ranges[i] = c.S
		}
		if !apikey.AdmitsFrom(ranges, from) {
			return r, ErrAddress
		}
	}
	if verdict == apikey.FirstUse {
		return r, a.markFirstUse(ctx, key, k, from, now)
	}
	if apikey.NeedsMark(time.UnixMilli(it.LastUsedAt.N), now) {
		r.MarkFailed = a.markUse(ctx, key, now, dynamo.Update{
			Expression: "SET last_used_at = :now, last_used_from = :from",
			Values:     dynamo.Values{":from": dynamo.Text(from)},
		})
	}
	return r, nil
}

// markFirstUse starts the grace of the token before. Were it let through without the mark, the old
// token would outlive its grace, so a failure fails the request.
func (a *Authenticator) markFirstUse(ctx context.Context, key dynamo.Key, k apikey.Key, from string, now time.Time) error {
	k.MarkFirstUse(now)
	err := a.Client.Update(ctx, a.Table, dynamo.Update{
		Key:        key,
		Expression: "SET grace_ends = :ends, last_used_at = :now, last_used_from = :from",
		Condition:  "digest = :digest AND attribute_not_exists(grace_ends)",
		Values: dynamo.Values{
			":ends": dynamo.Number(k.Previous.Ends.UnixMilli()), ":digest": dynamo.Bytes(k.Digest),
			":now": dynamo.Number(now.UnixMilli()), ":from": dynamo.Text(from),
		},
	})
	if err != nil && !errors.Is(err, dynamo.ErrCondition) { // another request was first, or the key has changed since
		return fmt.Errorf("mark first use: %w", err)
	}
	return nil
}

func (a *Authenticator) session(ctx context.Context, t token.Token, key dynamo.Key, it *item) (Result, error) {
	now := a.Now()
	s := session.Session{
		Digest: it.Digest.B, Family: it.Family.N,
		ExpiresAt: time.UnixMilli(it.ExpiresAt.N), HardEnd: time.UnixMilli(it.HardEnd.N),
	}
	if !s.Admits(t, now) {
		if t.Matches(s.Digest) {
			return Result{}, Expired
		}
		return Result{}, Unknown
	}
	r := Result{Family: s.Family, Caller: access.Caller{
		Kind: access.Session, User: t.User, ID: t.ID, Name: it.Email.S, Permissions: access.Everything,
		CreatedAt: time.UnixMilli(it.CreatedAt.N), ExpiresAt: s.ExpiresAt,
	}}
	if apikey.NeedsMark(time.UnixMilli(it.LastUsedAt.N), now) {
		end := s.Slide(now)
		r.MarkFailed = a.markUse(ctx, key, now, dynamo.Update{
			Expression: "SET last_used_at = :now, expires_at = :end, #ttl = :ttl",
			Values:     dynamo.Values{":end": dynamo.Number(end.UnixMilli()), ":ttl": dynamo.Number(end.Unix())},
			Names:      map[string]string{"#ttl": "ttl"},
		})
		if r.MarkFailed == nil {
			r.Caller.ExpiresAt = end
		}
	}
	return r, nil
}

// markUse writes that the credential was used at now, if nobody has within the minute. The condition
// also keeps a deleted item deleted: an absent attribute is smaller than nothing.
func (a *Authenticator) markUse(ctx context.Context, key dynamo.Key, now time.Time, u dynamo.Update) error {
	if now.UnixMilli() < a.noMarks.Load() {
		return errNoMarks
	}
	ctx, cancel := context.WithTimeout(ctx, markBudget)
	defer cancel()
	u.Key = key
	u.Condition = "last_used_at <= :before"
	u.Values[":now"] = dynamo.Number(now.UnixMilli())
	u.Values[":before"] = dynamo.Number(now.Add(-time.Minute).UnixMilli())
	err := a.Client.Update(ctx, a.Table, u)
	if errors.Is(err, dynamo.ErrCondition) {
		return nil
	}
	if err != nil {
		a.noMarks.Store(now.Add(markPause).UnixMilli())
	}
	return err
}

// instant is the time of milliseconds, the zero time for none.
func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
