package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// naive is a list as anybody would keep it: newest last.
type naive []int64

func (n naive) page(offset, limit int) []int64 {
	ids := []int64{}
	for i := len(n) - 1 - offset; i >= 0 && len(ids) < limit; i-- {
		ids = append(ids, n[i])
	}
	return ids
}

func ids(things []store.Thing) []int64 {
	ids := []int64{}
	for _, t := range things {
		ids = append(ids, t.ID)
	}
	return ids
}

// samePage compares a page with the model's.
func samePage(t *testing.T, s *store.Store, want naive, offset, limit int) {
	t.Helper()
	got, total, err := s.Things(t.Context(), 1, offset, limit)
	if err != nil || total != len(want) || !slices.Equal(ids(got), want.page(offset, limit)) {
		t.Fatalf("offset %d, limit %d\n got %v of %d, %v\nwant %v of %d", offset, limit, ids(got), total, err, want.page(offset, limit), len(want))
	}
}

// sameList compares the list with the model by pages that together are all of it.
func sameList(t *testing.T, s *store.Store, want naive) {
	t.Helper()
	for offset := 0; offset <= len(want); offset += 97 {
		samePage(t, s, want, offset, 97)
	}
}

// filled is a store with things of user 1 at the places to last, those that random deletions leave.
func filled(t *testing.T, last int64, deleted float64, text string) (*store.Store, naive) {
	t.Helper()
	s := storetest.New(t).Store
	random := rand.New(rand.NewPCG(1, uint64(last)))
	var list naive
	err := s.FillThings(t.Context(), 1, last, func(place int64) *store.Thing {
		if random.Float64() < deleted {
			return nil
		}
		list = append(list, place)
		return &store.Thing{ID: place, Text: text}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, list
}

// Random creations, deletions and pages, at the border of two groups and of many blocks.
func TestAListIsItsModel(t *testing.T) {
	s, list := filled(t, store.GroupPlaces-40, 0.3, "")
	random := rand.New(rand.NewPCG(2, 3))
	byID := map[int64]store.Thing{}
	for id := int64(1_000_000); id < 1_000_200; id++ {
		switch {
		case random.Float64() < 0.6:
			thing, err := s.CreateThing(t.Context(), store.Thing{User: 1, ID: id})
			if err != nil {
				t.Fatal(err)
			}
			byID[id], list = thing, append(list, id)
		default:
			// Most deletions are among the newest, so that whole blocks become empty.
			i := max(0, len(list)-1-int(random.ExpFloat64()*20))
			gone, created := byID[list[i]]
			if !created {
				gone = store.Thing{User: 1, ID: list[i], List: fmt.Sprintf("THING#%016d", list[i])}
			}
			if err := s.DeleteThing(t.Context(), gone); err != nil {
				t.Fatal(err)
			}
			list = slices.Delete(list, i, i+1)
		}
		samePage(t, s, list, int(random.ExpFloat64()*60), 1+random.IntN(30))
		samePage(t, s, list, random.IntN(len(list)+30), 1+random.IntN(100))
	}
	sameList(t, s, list)
}

func TestPagesOfManyGroups(t *testing.T) {
	for _, deleted := range []float64{0, 0.1, 0.97} {
		s, list := filled(t, 2*store.GroupPlaces+77, deleted, "")
		random := rand.New(rand.NewPCG(4, 5))
		for range 80 {
			samePage(t, s, list, random.IntN(len(list)+5), []int{1, 20, 100, 200}[random.IntN(4)])
		}
		sameList(t, s, list)
	}
}

func TestTheBoundsOfAPage(t *testing.T) {
	s, list := filled(t, 100, 0.1, "")
	for _, offset := range []int{0, 1, len(list) - 1, len(list), len(list) + 1, 1 << 53} {
		for _, limit := range []int{0, 1, len(list), 1 << 53} {
			samePage(t, s, list, offset, limit)
		}
	}
	for _, c := range []struct{ offset, limit int }{{-1, 20}, {0, -1}} {
		if got, total, err := s.Things(t.Context(), 1, c.offset, c.limit); err != nil || len(got) != 0 || total != len(list) {
			t.Errorf("%+v: %d of %d, %v", c, len(got), total, err)
		}
	}
	if got, total, err := s.Things(t.Context(), 2, 0, 20); err != nil || got == nil || len(got) != 0 || total != 0 {
		t.Errorf("of a user who has nothing: %v of %d, %v", got, total, err)
	}
}

func TestCreatorsAndDeletersAtOnce(t *testing.T) {
	s := storetest.New(t).Store
	var next atomic.Int64
	var lock sync.Mutex
	left := map[int64]store.Thing{}
	var pages, writers sync.WaitGroup
	done := make(chan struct{})
	pages.Go(func() {
		for offset := 0; ; offset = (offset + 7) % 60 {
			select {
			case <-done:
				return
			default:
			}
			got, _, err := s.Things(t.Context(), 1, offset, 20)
			newestFirst := slices.IsSortedFunc(got, func(a, b store.Thing) int { return strings.Compare(b.List, a.List) })
			if err != nil || len(got) > 20 || !newestFirst {
				t.Errorf("meanwhile, at offset %d: %v, %v", offset, ids(got), err)
			}
		}
	})
	for range 6 {
		writers.Go(func() {
			for range 20 {
				thing, err := s.CreateThing(t.Context(), store.Thing{User: 1, ID: next.Add(1), Owner: 7})
				if err != nil {
					t.Error(err)
					return
				}
				lock.Lock()
				left[thing.ID] = thing
				var gone store.Thing
				for _, gone = range left { // any
					break
				}
				if len(left)%2 == 0 {
					delete(left, gone.ID)
				} else {
					gone = store.Thing{}
				}
				lock.Unlock()
				if gone.ID == 0 {
					continue
				}
				// Both of two deletions at once must not count.
				won, errs := race(2, func(int) error { return s.DeleteThing(t.Context(), gone) })
				if won != 1 || !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, store.ErrConflict) }) {
					t.Errorf("of two deletions %d won: %v", won, errors.Join(errs...))
				}
			}
		})
	}
	writers.Wait()
	close(done)
	pages.Wait()
	var byPlace []store.Thing
	for _, thing := range left {
		byPlace = append(byPlace, thing)
	}
	slices.SortFunc(byPlace, func(a, b store.Thing) int { return strings.Compare(a.List, b.List) })
	sameList(t, s, ids(byPlace))
}

func TestACrashBeforeTheTransactionLeavesAGap(t *testing.T) {
	s := storetest.New(t).Store
	var list naive
	for id := int64(1); id <= 60; id++ {
		if id%3 == 0 {
			if _, err := s.PrepareThing(t.Context(), store.Thing{User: 1, ID: id}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		thing, err := s.CreateThing(t.Context(), store.Thing{User: 1, ID: id})
		if err != nil {
			t.Fatal(err)
		}
		if list = append(list, id); thing.Place() != id {
			t.Errorf("thing %d has place %d", id, thing.Place())
		}
	}
	// What a condition refuses is not counted either.
	if _, err := s.CreateThing(t.Context(), store.Thing{User: 1, ID: 1}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	sameList(t, s, list)
	for offset := range len(list) {
		samePage(t, s, list, offset, 20)
	}
}

func TestASublistHoldsWhatBelongsToIt(t *testing.T) {
	s := storetest.New(t).Store
	want := map[int64]naive{}
	var all naive
	for id := int64(1); id <= 90; id++ {
		thing, err := s.CreateThing(t.Context(), store.Thing{User: 1, ID: id, Owner: id % 4}) // 0 is none
		if err == nil && id%7 == 0 {
			err = s.DeleteThing(t.Context(), thing)
		} else {
			want[id%4], all = append(want[id%4], id), append(all, id)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	sameList(t, s, all)
	for owner := int64(1); owner < 4; owner++ {
		for offset := range len(want[owner]) + 1 {
			got, total, err := s.ThingsOf(t.Context(), 1, owner, offset, 5)
			if err != nil || total != len(want[owner]) || !slices.Equal(ids(got), want[owner].page(offset, 5)) {
				t.Errorf("of %d at %d: %v of %d, %v", owner, offset, ids(got), total, err)
			}
		}
	}
}

func TestOnlyAPlaceOfTheListIsCounted(t *testing.T) {
	s := storetest.New(t).Store
	for _, place := range []string{"", "THING#", "THING#x", "0000000000000001", "THINGS#0000000000000001", "THING#OWNER#0000000000000007"} {
		if err := s.DeleteThing(t.Context(), store.Thing{User: 1, ID: 1, List: place}); err == nil || errors.Is(err, store.ErrConflict) {
			t.Errorf("%q: %v", place, err)
		}
	}
}

func TestAPageLargerThanAnAnswerOfDynamoDB(t *testing.T) {
	s, list := filled(t, 150, 0.1, strings.Repeat("x", 20_000))
	s, meter := s.Metered()
	samePage(t, s, list, 5, 110)
	if meter.Calls.Load() < 4 {
		t.Errorf("2.2 MB in %d calls", meter.Calls.Load())
	}
	samePage(t, s, list, len(list)-110, 110)
}

// hundredThousand is how many certificates the goal has; fewer with -short.
func hundredThousand() int64 {
	if testing.Short() {
		return 10_000
	}
	return 100_000
}

// full is a store with certificates of user 1, as many as the goal has, of which a tenth were deleted.
func full(t testing.TB) (*store.Store, naive) {
	t.Helper()
	s, now := storetest.New(t).Store, storetest.Now()
	if err := s.CreateACMEAccount(t.Context(), acmeaccount.Account{User: 1, ID: 1, CreatedAt: now, UpdatedAt: now}, nil); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(6, 7))
	var all naive
	err := s.FillCertificates(t.Context(), 1, 1, hundredThousand(), func(place int64) *certificate.Certificate {
		if random.Float64() < 0.1 {
			return nil
		}
		all = append(all, place)
		domain := fmt.Sprintf("service-%d.customer.example.com", place)
		return &certificate.Certificate{
			ID: place, Names: []string{domain, "www." + domain, "api." + domain}, KeyType: "ecdsa-p256", AutoRenew: true, Policy: certificate.Hybrid, Export: true,
			CreatedAt: now, UpdatedAt: now, Revision: 3, Issues: 1,
			Current: certificate.Issued{
				Issue: 1, Serial: "04A1B2C3D4E5F60718293A4B5C6D7E8F9012", NotBefore: now, NotAfter: now.Add(90 * 24 * time.Hour), Fingerprint: strings.Repeat("0123456789abcdef", 4),
				ARI: "aYhba4dGQEHhs3uEe6CuLN4ByNQ.BKGyw9Tl9gcYKTpLXG1-j5AS",
			},
			RenewAt: now.Add(60 * 24 * time.Hour),
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, all
}

func certificateIDs(page []certificate.Certificate) []int64 {
	ids := []int64{}
	for _, c := range page {
		ids = append(ids, c.ID)
	}
	return ids
}

// The price of a page is the same everywhere in the list, and its ids are those of a naive skip, while
// certificates come and go.
func TestAPageCostsTheSameAtAnyOffset(t *testing.T) {
	s, all := full(t)
	s, meter := s.Metered()
	random := rand.New(rand.NewPCG(8, 9))
	const limit = 20
	var most [3]int64
	look := func(offset int) {
		t.Helper()
		for _, list := range []func() ([]certificate.Certificate, int, error){
			func() ([]certificate.Certificate, int, error) { return s.Certificates(t.Context(), 1, offset, limit) },
			func() ([]certificate.Certificate, int, error) {
				return s.AccountCertificates(t.Context(), 1, 1, offset, limit)
			},
		} {
			calls, reads, rule := meter.Calls.Load(), meter.Reads.Load(), meter.Rule.Load()
			page, total, err := list()
			calls, reads, rule = meter.Calls.Load()-calls, meter.Reads.Load()-reads, meter.Rule.Load()-rule
			if err != nil || total != len(all) || !slices.Equal(certificateIDs(page), all.page(offset, limit)) {
				t.Fatalf("offset %d: %v of %d, %v; want %v of %d", offset, certificateIDs(page), total, err, all.page(offset, limit), len(all))
			}
			if calls > 3 || reads > 10 || rule > 10 {
				t.Errorf("offset %d: %d calls, %d units (%d by the rule)", offset, calls, reads, rule)
			}
			for i, n := range []int64{calls, reads, rule} {
				most[i] = max(most[i], n)
			}
		}
	}
	for _, offset := range []int{0, 15, 16, 17, len(all) / 2, len(all) - limit - 16, len(all) - limit, len(all) - 1, len(all), 1 << 53} {
		look(offset)
	}
	writes, now := int64(0), storetest.Now()
	for i := range 150 {
		at := random.IntN(len(all))
		if i%3 == 0 { // among the newest
			at = len(all) - 1 - random.IntN(40)
		}
		if _, err := s.DeleteCertificate(t.Context(), 1, all[at], now); err != nil {
			t.Fatal(err)
		}
		all = slices.Delete(all, at, at+1)
		if i%4 == 0 {
			c := certificate.Certificate{User: 1, ID: 1_000_000 + int64(i), Names: []string{fmt.Sprintf("new%d.example.com", i)}, Account: 1, Policy: certificate.Hybrid, CreatedAt: now, UpdatedAt: now, Revision: 1}
			before := meter.Writes.Load()
			if _, err := s.CreateCertificate(t.Context(), c, nil, nil, nil); err != nil {
				t.Fatal(err)
			}
			writes, all = max(writes, meter.Writes.Load()-before), append(all, c.ID)
		}
		look(random.IntN(len(all)))
		look(max(0, len(all)-1-random.IntN(60)))
	}
	t.Logf("of %d certificates a page took at most %d calls, %d units (%d by the rule); a creation %d write units", len(all), most[0], most[1], most[2], writes)
	// Two places; then the certificate in the table and two indexes, its name, its account, and two counts in
	// each of two lists, all but the indexes twice as parts of a transaction.
	if writes > 2+2*7+2 {
		t.Errorf("a creation takes %d write units", writes)
	}
}

// BenchmarkPage is pages of 20 at both ends and in the middle of the list, in turn, and the last as it would be
// without counts; bench/lists.go prints it.
func BenchmarkPage(b *testing.B) {
	plain, all := full(b)
	s, meter := plain.Metered()
	last := len(all) - 20
	at := func(offset int) func() (int, error) {
		return func() (int, error) {
			page, _, err := s.Certificates(b.Context(), 1, offset, 20)
			return len(page), err
		}
	}
	pages := []struct {
		name  string
		read  func() (int, error)
		times []time.Duration
		units int64
	}{
		{name: "first", read: at(0)}, {name: "last", read: at(last)}, {name: "middle", read: at(last / 2)},
		{name: "skipped", read: func() (int, error) { return s.SkippedPage(b.Context(), 1, last, 20) }},
	}
	measure := func(i int) {
		reads, begin := meter.Rule.Load(), time.Now()
		if n, err := pages[i].read(); err != nil || n != 20 {
			b.Fatal(pages[i].name, n, err)
		}
		pages[i].times = append(pages[i].times, time.Since(begin))
		pages[i].units = meter.Rule.Load() - reads
	}
	for b.Loop() {
		for range 50 {
			for i := range 3 {
				measure(i)
			}
		}
		measure(3)
	}
	for _, p := range pages {
		slices.Sort(p.times)
		b.ReportMetric(float64(p.times[len(p.times)/2].Microseconds()), p.name+"-us")
		b.ReportMetric(float64(p.units), p.name+"-units")
	}
	b.ReportMetric(float64(len(all)), "certificates")
}
