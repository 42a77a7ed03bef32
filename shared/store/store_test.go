package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
	"cjj365.cc/bb/shared/user"
)

// world is a store with one user and a session of theirs.
type world struct {
	*store.Store
	user  user.User
	maker access.Caller
	now   time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Store: storetest.New(t).Store, now: storetest.Now().UTC()}
	var err error
	w.user, err = w.CreateUser(t.Context(), user.User{
		Email: "ann@example.org", Name: "Ann", Country: "DE", Roles: []string{"user"}, State: user.Active, PasswordHash: "hash", CreatedAt: w.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	login, _ := session.New(w.user.ID, 5, w.user.Email, w.now)
	if err := w.CreateSession(t.Context(), w.user, login, nil); err != nil {
		t.Fatal(err)
	}
	w.maker = access.Caller{Kind: access.Session, User: w.user.ID, ID: 5}
	return w
}

func (w *world) key(t *testing.T) apikey.Key {
	t.Helper()
	id, err := w.NextAPIKeyID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, _ := apikey.New(w.user.ID, id, "ci", "certs:*:read", "test", w.now, time.Hour)
	k.CIDRs = []string{"192.0.2.0/24"}
	if err := w.CreateAPIKey(t.Context(), k, w.maker, nil, w.now); err != nil {
		t.Fatal(err)
	}
	return k
}

// race runs n calls at once and counts those that succeed.
func race(n int, do func(i int) error) (won int64, errs []error) {
	var wait sync.WaitGroup
	var count atomic.Int64
	errs = make([]error, n)
	for i := range n {
		wait.Go(func() {
			if errs[i] = do(i); errs[i] == nil {
				count.Add(1)
			}
		})
	}
	wait.Wait()
	return count.Load(), errs
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	w := newWorld(t)
	k := w.key(t)
	after := k
	after.Roll(time.Minute)
	if err := w.RollAPIKey(t.Context(), k, after, w.maker, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := w.APIKey(t.Context(), k.User, k.ID); err != nil || !reflect.DeepEqual(got, after) {
		t.Errorf("key\n got %+v, %v\nwant %+v", got, err, after)
	}
	u, err := w.UserByEmail(t.Context(), "ann@example.org")
	w.user.Revision = u.Revision // the login in newWorld
	if err != nil || !reflect.DeepEqual(u, w.user) {
		t.Errorf("user\n got %+v, %v\nwant %+v", u, err, w.user)
	}
	family, token := session.NewFamily(u.ID, 9, u.Email, w.now)
	family.Session = 9
	login, _ := session.New(u.ID, 9, u.Email, w.now)
	login.Family = 9
	if err := w.CreateSession(t.Context(), u, login, &family); err != nil {
		t.Fatal(err)
	}
	rotated := family
	if _, outcome := rotated.Rotate(token, w.now.Add(time.Minute)); outcome != session.Rotated {
		t.Fatal(outcome)
	}
	if err := w.RotateFamily(t.Context(), family, rotated, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Family(t.Context(), u.ID, 9); err != nil || !reflect.DeepEqual(got, rotated) {
		t.Errorf("family\n got %+v, %v\nwant %+v", got, err, rotated)
	}
}

func TestIDsAreGivenOnce(t *testing.T) {
	w := newWorld(t)
	var seen sync.Map
	won, errs := race(40, func(int) error {
		id, err := w.NextAPIKeyID(t.Context())
		if _, twice := seen.LoadOrStore(id, true); twice {
			return fmt.Errorf("%d was given twice", id)
		}
		return err
	})
	if won != 40 {
		t.Error(errors.Join(errs...))
	}
}

func TestOneOfTwoWritersWins(t *testing.T) {
	w := newWorld(t)
	k := w.key(t)
	for name, tc := range map[string]struct {
		do   func(i int) error
		lose error
	}{
		"the same address registered": {func(int) error {
			_, err := w.CreateUser(t.Context(), user.User{Email: "bob@example.org", State: user.Inactive})
			return err
		}, store.ErrEmailTaken},
		"the same name, in two cases": {func(i int) error {
			_, err := w.CreateUser(t.Context(), user.User{Email: fmt.Sprintf("c%d@example.org", i), Name: []string{"carol", "Carol"}[i%2], State: user.Inactive})
			return err
		}, store.ErrNameTaken},
		"a key rolled": {func(int) error {
			after := k
			after.Roll(0)
			return w.RollAPIKey(t.Context(), k, after, w.maker, nil)
		}, store.ErrConflict},
		"a key deleted": {func() func(int) error {
			doomed := w.key(t)
			return func(int) error { return w.DeleteAPIKey(t.Context(), doomed.User, doomed.ID) }
		}(), store.ErrNotFound},
	} {
		won, errs := race(8, tc.do)
		if won != 1 {
			t.Errorf("%s: %d won", name, won)
		}
		for _, err := range errs {
			if err != nil && !errors.Is(err, tc.lose) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestALimitIsExactUnderParallelTries(t *testing.T) {
	w := newWorld(t)
	limit := store.Limit{Most: 7, Window: time.Minute}
	won, errs := race(30, func(int) error { return w.Count(t.Context(), "x", limit, w.now) })
	if won != limit.Most {
		t.Errorf("%d tries were let through: %v", won, errors.Join(errs...))
	}
	var refused *problem.Error
	if err := w.Count(t.Context(), "x", limit, w.now); !errors.As(err, &refused) || refused.RetryAfter <= 0 || refused.RetryAfter > limit.Window {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := w.Uncount(t.Context(), "x", limit, w.now); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Count(t.Context(), "x", limit, w.now), w.Count(t.Context(), "x", limit, w.now.Add(limit.Window))); err != nil {
		t.Errorf("after one was taken back, and in the next window: %v", err)
	}
}

func TestACodeHasItsAttemptsAndIsUsedOnce(t *testing.T) {
	w := newWorld(t)
	code := store.Code{Purpose: user.ResetPassword, Email: "ann@example.org", ID: 1, Hash: "h", ExpiresAt: w.now.Add(user.CodeLifetime)}
	if err := w.PutCode(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	won, _ := race(3*user.CodeAttempts, func(int) error {
		codes, err := w.TryCodes(t.Context(), user.ResetPassword, "ann@example.org", w.now)
		if err == nil && len(codes) == 0 {
			err = store.ErrNotFound
		}
		return err
	})
	if won != user.CodeAttempts {
		t.Errorf("%d attempts at one code", won)
	}
	u, err := w.User(t.Context(), w.user.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ResetPassword(t.Context(), u, code); err != nil {
		t.Fatal(err)
	}
	u.Revision++
	if err := w.ResetPassword(t.Context(), u, code); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a code used twice: %v", err)
	}
}

func TestEndingASessionEndsWhatRenewsIt(t *testing.T) {
	w := newWorld(t)
	u, err := w.User(t.Context(), w.user.ID)
	if err != nil {
		t.Fatal(err)
	}
	family, _ := session.NewFamily(u.ID, 9, u.Email, w.now)
	login, _ := session.New(u.ID, 9, u.Email, w.now)
	login.Family, family.Session = 9, 9
	if err := w.CreateSession(t.Context(), u, login, &family); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.EndSession(t.Context(), u.ID, 9, 9), w.EndSession(t.Context(), u.ID, 9, 9)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Family(t.Context(), u.ID, 9); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the line of refresh tokens: %v", err)
	}
}
