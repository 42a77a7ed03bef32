package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/store"
)

// bindable is a world with a CA, without a certificate yet.
func bindable(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if _, err := w.CreateCA(t.Context(), ca.CA{User: w.user.ID, ID: 1, CreatedAt: w.now}, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestBindings(t *testing.T) {
	w := bindable(t)
	ctx := t.Context()
	b := acmeserver.Binding{
		User: w.user.ID, CA: 1, ID: "A", Name: "ci", APIKey: 3, Names: []string{"example.test"}, Profile: "server", MaxAccounts: 2,
		CreatedAt: w.now, ExpiresAt: w.now.Add(time.Hour),
	}
	if err := w.CreateBinding(ctx, b, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Binding(ctx, 1, "A"); err != nil || fmt.Sprint(got) != fmt.Sprint(b) {
		t.Errorf("%+v %v", got, err)
	}
	later := b
	later.ID, later.CreatedAt = "B", w.now.Add(time.Second)
	if err := w.CreateBinding(ctx, later, nil); err != nil {
		t.Fatal(err)
	}
	all, err := w.Bindings(ctx, 1)
	if err != nil || len(all) != 2 || all[0].ID != "B" {
		t.Errorf("%+v %v", all, err)
	}
	other := b
	other.CA = 2
	if err := w.CreateBinding(ctx, other, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of no CA: %v", err)
	}
	other = b
	other.User++
	other.ID = "C"
	if err := w.CreateBinding(ctx, other, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of another's CA: %v", err)
	}
	if err := w.DeleteBinding(ctx, 1, "A"); err != nil {
		t.Error(err)
	}
	if err := w.DeleteBinding(ctx, 1, "A"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.Binding(ctx, 1, "A"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestABindingMakesAsManyAccountsAsItMay(t *testing.T) {
	w := bindable(t)
	ctx := t.Context()
	if err := w.CreateBinding(ctx, acmeserver.Binding{User: w.user.ID, CA: 1, ID: "A", MaxAccounts: 3, CreatedAt: w.now}, nil); err != nil {
		t.Fatal(err)
	}
	won, errs := race(8, func(i int) error {
		_, err := w.CreateServerAccount(ctx, acmeserver.Account{User: w.user.ID, CA: 1, ID: fmt.Sprint("ID", i), Thumbprint: fmt.Sprint("T", i), Binding: "A", CreatedAt: w.now})
		if errors.Is(err, store.ErrBindingSpent) {
			return err
		}
		if err != nil {
			t.Error(err)
		}
		return nil
	})
	if won != 3 {
		t.Errorf("%d accounts: %v", won, errs)
	}
	if b, err := w.Binding(ctx, 1, "A"); err != nil || b.Accounts != 3 || b.Status(w.now) != acmeserver.BindingUsed {
		t.Errorf("%+v %v", b, err)
	}
}

func TestAServerAccountChangesOnce(t *testing.T) {
	w := bindable(t)
	ctx := t.Context()
	if err := w.CreateBinding(ctx, acmeserver.Binding{User: w.user.ID, CA: 1, ID: "A", CreatedAt: w.now}, nil); err != nil {
		t.Fatal(err)
	}
	create := func(id, print string) acmeserver.Account {
		t.Helper()
		a, err := w.CreateServerAccount(ctx, acmeserver.Account{User: w.user.ID, CA: 1, ID: id, Key: []byte("{}"), Thumbprint: print, Binding: "A", CreatedAt: w.now})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a, b := create("A", "TA"), create("B", "TB")
	if _, err := w.RollServerAccount(ctx, a, []byte("{}"), "TB"); !errors.Is(err, store.ErrKeyTaken) {
		t.Error(err)
	}
	rolled, err := w.RollServerAccount(ctx, a, []byte("{1}"), "TC")
	if err != nil || rolled.Thumbprint != "TC" {
		t.Errorf("%+v %v", rolled, err)
	}
	if _, err := w.RollServerAccount(ctx, a, []byte("{2}"), "TD"); !errors.Is(err, store.ErrConflict) {
		t.Error(err)
	}
	for print, want := range map[string]string{"TA": "", "TB": b.ID, "TC": a.ID, "TD": ""} {
		got, err := w.ServerAccountByKey(ctx, 1, print)
		if got.ID != want || (err != nil) != (want == "") {
			t.Errorf("%s: %+v %v", print, got, err)
		}
	}
}

func TestDeletingAnACMEServer(t *testing.T) {
	w := bindable(t)
	ctx := t.Context()
	for i := range 120 { // more than one transaction holds
		if err := w.CreateBinding(ctx, acmeserver.Binding{User: w.user.ID, CA: 1, ID: fmt.Sprint("A", i), CreatedAt: w.now}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.DeleteACMEServer(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if all, err := w.Bindings(ctx, 1); err != nil || len(all) != 0 {
		t.Errorf("%d %v", len(all), err)
	}
}
