package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// What Record writes by hand is what Entry reads by its type.
func TestAnEntryIsReadAsItWasWritten(t *testing.T) {
	s := storetest.New(t).Store
	now := storetest.Now()
	for _, e := range []ca.Entry{
		{CA: 7, Serial: ca.SerialText(ca.NewSerial(now)), TBS: []byte{0x30, 0}, Names: []string{"a.example", `"quoted", ☃`}, Profile: "server", By: "user/1/apikey/2", Certificate: 9, At: now, NotAfter: now.Add(time.Hour)},
		{CA: 7, Serial: ca.SerialText(ca.NewSerial(now)), TBS: []byte{0x30, 0}, Names: []string{}, Profile: "code_signing", By: "x", At: now, NotAfter: now.Add(time.Hour)},
	} {
		if err := s.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if err := s.Record(t.Context(), e); err == nil {
			t.Error("recorded twice")
		}
		e.Tail = []byte{1, 2, 3}
		if err := s.Complete(t.Context(), e, nil); err != nil {
			t.Fatal(err)
		}
		got, err := s.Entry(t.Context(), e.CA, e.Serial)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", e) {
			t.Errorf("%+v\nwant %+v, %v", got, e, err)
		}
	}
	if err := s.Complete(t.Context(), ca.Entry{CA: 7, Serial: "01", Tail: []byte{1}}, nil); err == nil {
		t.Error("completed what was never recorded")
	}
}

// Of two requests with an idempotency key one has it, until it is answered, given back, or left for a minute.
func TestAnIdempotencyKeyIsClaimedOnce(t *testing.T) {
	s, now := storetest.New(t).Store, storetest.Now()
	e := ca.Entry{CA: 7, Serial: ca.SerialText(ca.NewSerial(now)), TBS: []byte{0x30, 0}, Tail: []byte{1}, Profile: "server", At: now, NotAfter: now.Add(time.Hour)}
	if err := s.Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	by := func(claim string, now time.Time) store.Idempotency {
		return store.Idempotency{Principal: "user/1", ClientKey: "k", Request: []byte{1}, Claim: claim, CreatedAt: now}
	}
	want := func(step string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", step, err, want)
		}
	}
	answered := func(claim string, now time.Time) error {
		once := by(claim, now)
		once.Answer = []byte(claim)
		return s.Complete(t.Context(), e, &once)
	}
	want("a claims", s.ClaimIdempotency(t.Context(), by("a", now)), nil)
	want("b claims", s.ClaimIdempotency(t.Context(), by("b", now)), store.ErrConflict)
	if got, err := s.Idempotency(t.Context(), "user/1", "k", now); err != nil || got.Claim != "a" || got.Answer != nil {
		t.Errorf("%+v, %v", got, err)
	}
	want("b gives back what it has not", s.UnclaimIdempotency(t.Context(), by("b", now)), nil)
	want("b answers", answered("b", now), store.ErrConflict)
	want("a gives back", s.UnclaimIdempotency(t.Context(), by("a", now)), nil)
	want("b claims what is free", s.ClaimIdempotency(t.Context(), by("b", now)), nil)
	later := now.Add(61 * time.Second)
	_, err := s.Idempotency(t.Context(), "user/1", "k", later)
	want("a claim that was left", err, store.ErrNotFound)
	want("a takes it over", s.ClaimIdempotency(t.Context(), by("a", later)), nil)
	want("b answers too late", answered("b", now), store.ErrConflict)
	want("a answers", answered("a", later), nil)
	if got, err := s.Idempotency(t.Context(), "user/1", "k", later.Add(time.Hour)); err != nil || got.Claim != "" || string(got.Answer) != "a" {
		t.Errorf("%+v, %v", got, err)
	}
	want("b claims what is answered", s.ClaimIdempotency(t.Context(), by("b", later.Add(time.Hour))), store.ErrConflict)
}
