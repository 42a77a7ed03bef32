package store_test

import (
	"fmt"
	"testing"
	"time"

	"cjj365.cc/bb/shared/ca"
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
