package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"cjj365.cc/bb/local/pebble"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/storetest"
)

// fresh makes tables of a test's own: a run of renewals looks at everything in them.
func fresh(t *testing.T) *storetest.Tables {
	tables := storetest.New(t)
	return &tables
}

// schedule is one run of renewals.
func (r *rig) schedule() {
	r.t.Helper()
	if _, err := r.host.Invoke(context.Background(), "Renewals", []byte("{}")); err != nil {
		r.t.Error(err)
	}
}

// due has the time come to look at a certificate.
func (r *rig) due(c certificate.Certificate) {
	r.change(fmt.Sprintf("CERTIFICATES#%d", c.User), fmt.Sprintf("CERTIFICATE#%016d", c.ID), "SET due_at = :n", time.Now().UnixMilli())
}

// window sets what the CA says of when to renew.
func (r *rig) window(c certificate.Certificate, start, end time.Time) {
	chain := must(r.inPlace(c))
	answer := fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	body := must(json.Marshal(map[string]string{"Certificate": string(chain.Leaf().PEM()), "ARIResponse": answer}))
	response, err := r.ca.Client().Post(r.ca.Management+"/set-renewal-info/", "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		r.t.Fatalf("set the window: %s", response.Status)
	}
}

// replaced is what the orders asked for so far said that they replace.
func (r *rig) replaced() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, body := range r.bodies[newOrder] {
		var signed struct{ Payload string }
		var asked struct{ Replaces string }
		if json.Unmarshal(body, &signed) == nil && json.Unmarshal(must(base64.RawURLEncoding.DecodeString(signed.Payload)), &asked) == nil {
			all = append(all, asked.Replaces)
		}
	}
	return all
}

func TestARenewal(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tables: fresh(t)})
	c := r.create(certificate.Certificate{Profile: pebble.Classic})
	r.finish(c)
	first := r.read(c)

	// Not due by the CA's window: looked at again within a day, and nothing is opened.
	r.window(c, time.Now().Add(30*24*time.Hour), time.Now().Add(31*24*time.Hour))
	r.due(c)
	r.schedule()
	now := r.read(c)
	if now.Issuing != 0 || !now.RenewAt.After(time.Now()) || now.RenewAt.After(time.Now().Add(certificate.LookEvery)) {
		t.Errorf("before the window: issuing %d, looked at again %v", now.Issuing, now.RenewAt)
	}

	// The window comes sooner, as when a CA has to revoke: renewed, long before two thirds of the lifetime.
	r.window(c, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	r.due(c)
	r.schedule()
	if got := r.read(c).Issuing; got != 2 {
		t.Fatalf("in the window: issuing %d", got)
	}
	// The message is in the queue, and tells which certificate.
	if got := r.messages(); !strings.Contains(got, fmt.Sprintf(`"certificate":%d`, c.ID)) {
		t.Errorf("messages %s", got)
	}
	r.schedule() // while it is open, another run opens no other
	r.finish(c)
	r.checkIssued(c, 2)
	got := r.replaced()
	if len(first.Current.Serial) < 16 && len(got) == 3 && got[2] == "" {
		got = got[:2] // Pebble does not find one serial number in 256, those of less than 8 bytes, and is asked without
	}
	if len(got) != 2 || got[0] != "" || got[1] != first.Current.ARI || first.Current.ARI == "" {
		t.Errorf("the orders replace %q, want the second to replace %q", got, first.Current.ARI)
	}
	second := r.read(c)
	if second.Current.Serial == first.Current.Serial {
		t.Error("the certificate is the same")
	}
	if _, err := r.tables.Store.Material(t.Context(), c.ID, first.Current.Issue); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the chain and key before: %v", err)
	}

	// A renewal that fails for good harms nothing, and is tried again while there is time.
	forbidden := true
	r.refuse = func(name string) *acme.Problem {
		r.mu.Lock()
		defer r.mu.Unlock()
		if forbidden && name == newOrder {
			return &acme.Problem{Type: "urn:ietf:params:acme:error:caa", Status: 403}
		}
		return nil
	}
	r.window(c, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	r.due(c)
	r.schedule()
	r.finish(c)
	third := r.read(c)
	if third.Status(time.Now()) != certificate.Valid || third.Current != second.Current || third.Failure.Kind != "caa" || third.Tries != 1 {
		t.Errorf("after a failure: %s, %+v, %+v", third.Status(time.Now()), third.Current, third.Failure)
	}
	if !third.RenewAt.After(time.Now()) || third.RenewAt.After(time.Now().Add(2*time.Hour)) {
		t.Errorf("tried again %v", third.RenewAt)
	}
	if _, err := r.inPlace(c); err != nil {
		t.Error(err)
	}
	r.checkNoRecords(c)
	r.set(func() { forbidden = false })
	r.due(c)
	r.schedule()
	r.finish(c)
	if last := r.read(c); last.Tries != 0 || !last.Failure.At.IsZero() || last.Current.Serial == second.Current.Serial {
		t.Errorf("after the next try: %+v, %+v", last.Current, last.Failure)
	}
}

// A CA that refuses a renewal for the certificate that it says it replaces gets an order that says nothing of it.
func TestACAThatDoesNotFindWhatIsReplaced(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"alreadyReplaced", "malformed", "unauthorized", "serverInternal"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			slot(t)
			r := newRig(t, options{})
			c := r.create(certificate.Certificate{})
			r.finish(c)
			r.refuse = func(name string) *acme.Problem {
				if asked := r.replaced(); name == newOrder && asked[len(asked)-1] != "" {
					return &acme.Problem{Type: "urn:ietf:params:acme:error:" + kind, Status: 409, Detail: "for a test"}
				}
				return nil
			}
			c = r.renew(c)
			if err := r.deliver(c); err != nil {
				t.Fatal(err)
			}
			r.checkIssued(c, 2)
		})
	}
}

// A CA that cannot be asked is no reason not to renew in time, nor to renew early.
func TestWithoutTheCAsWord(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tables: fresh(t)})
	young, old := r.create(certificate.Certificate{Profile: pebble.Classic}), r.create(certificate.Certificate{Profile: pebble.Classic})
	r.finish(young)
	r.finish(old)
	at := fmt.Sprintf("CERTIFICATE#%016d", old.ID)
	// Its two thirds are over: it was issued ten months ago.
	r.change(fmt.Sprintf("CERTIFICATES#%d", r.user), at, "SET #c.not_before = :n", time.Now().Add(-300*24*time.Hour).UnixMilli())
	r.fault = func(name string, _ *http.Request) int {
		if strings.Contains(name, "renewalInfo") {
			return http.StatusInternalServerError
		}
		return 0
	}
	r.due(young)
	r.due(old)
	r.schedule()
	if c := r.read(young); c.Issuing != 0 || !c.RenewAt.After(time.Now()) || c.RenewAt.After(time.Now().Add(25*time.Hour)) {
		t.Errorf("the young one: issuing %d, looked at again %v", c.Issuing, c.RenewAt)
	}
	if c := r.read(old); c.Issuing != 2 {
		t.Errorf("the old one is not renewed: %v", c.RenewAt)
	}
}

// The word that was lost: a run finds the order whose worker died, when its lease has ended, and not before.
func TestAnOrderThatNobodyWorksOnIsFound(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tables: fresh(t)})
	c := r.create(certificate.Certificate{})
	r.strike = func(c call) (moment, bool) { return after, c.name == newOrder }
	if err := r.deliver(c); err == nil {
		t.Fatal("it was not killed")
	}
	r.set(func() { r.strike, r.struck = nil, false })
	const send = "sqs SendMessage"
	r.schedule()
	if got := r.asked(send); got != 0 {
		t.Errorf("under the lease: %d messages", got)
	}
	r.elapse(c)
	r.schedule()
	if got := r.asked(send); got != 1 {
		t.Errorf("when the lease has ended: %d messages", got)
	}
	if err := r.deliver(c); err != nil {
		t.Fatal(err)
	}
	r.checkIssued(c, 1)
	r.schedule()
	if got := r.asked(send); got != 1 {
		t.Errorf("when it is done: %d messages", got-1)
	}
}

// messages takes what lies in the queue.
func (r *rig) messages() string {
	client := sqs.New(sqs.Options{BaseEndpoint: &r.aws.url, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	var all strings.Builder
	for {
		got := must(client.ReceiveMessage(context.Background(), &sqs.ReceiveMessageInput{QueueUrl: &r.aws.queue, MaxNumberOfMessages: 10}))
		if len(got.Messages) == 0 {
			return all.String()
		}
		for _, m := range got.Messages {
			fmt.Fprintln(&all, *m.Body)
		}
	}
}

// Of 100,000 certificates (10,000 with -short) a hundred are due. A run reads those and no others: what it is
// given is counted at the table's door.
func TestARunReadsWhatIsDue(t *testing.T) {
	t.Parallel()
	total, due := 100_000, 100
	if testing.Short() {
		total /= 10
	}
	r := newRig(t, options{tables: fresh(t)})
	began := time.Now()
	r.fill(total, due)
	t.Logf("%d certificates stored in %v", total, time.Since(began).Round(time.Millisecond))
	var mu sync.Mutex
	items := 0
	r.returned = func(name string, response *http.Response) {
		if !strings.HasPrefix(name, "dynamodb") {
			return
		}
		body := readBody(response)
		mu.Lock()
		defer mu.Unlock()
		items += strings.Count(body, `"pk":{"S"`)
	}
	began = time.Now()
	r.schedule()
	if got := r.asked("sqs SendMessage"); got != due {
		t.Errorf("%d messages, want %d", got, due)
	}
	calls := 0
	for name, n := range r.counts {
		if strings.HasPrefix(name, "dynamodb") {
			t.Logf("%4d × %s", n, name)
			calls += n
		}
	}
	t.Logf("a run over %d certificates, %d of them due: %d items read in %d calls, %v", total, due, items, calls, time.Since(began).Round(time.Millisecond))
	// Each once in the index and once by itself.
	if items > 2*due+10 || calls > 4*due {
		t.Errorf("%d items read in %d calls for %d that are due", items, calls, due)
	}
	r.messages()
}

// fill stores certificates that are due in a month, but for some. They have no account at a CA that answers.
func (r *rig) fill(total, due int) {
	now := time.Now()
	work := make(chan []types.WriteRequest)
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for some := range work {
				for pending := map[string][]types.WriteRequest{r.tables.Resources: some}; len(pending) > 0; {
					pending = must(r.db.BatchWriteItem(context.Background(), &dynamodb.BatchWriteItemInput{RequestItems: pending})).UnprocessedItems
				}
			}
		})
	}
	text := func(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
	number := func(n int64) types.AttributeValue {
		return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
	}
	var some []types.WriteRequest
	for i := range total {
		at := now.Add(30*24*time.Hour + time.Duration(i)*time.Second)
		if i%(total/due) == 0 && i/(total/due) < due {
			at = now.Add(-time.Hour)
		}
		id := int64(i + 1)
		some = append(some, types.WriteRequest{PutRequest: &types.PutRequest{Item: map[string]types.AttributeValue{
			"pk": text(fmt.Sprintf("CERTIFICATES#%d", 1000+i%50)), "sk": text(fmt.Sprintf("CERTIFICATE#%016d", id)),
			"list": text(fmt.Sprintf("CERTIFICATE#%016d", id)), "sublist": text(fmt.Sprintf("CERTIFICATE#ACCOUNT#%016d", id)),
			"user_id": number(int64(1000 + i%50)), "id": number(id), "names": &types.AttributeValueMemberL{Value: []types.AttributeValue{text(fmt.Sprintf("n%d.example", i))}},
			"account": number(1), "auto_renew": &types.AttributeValueMemberBOOL{Value: true}, "policy": text("HYBRID"), "revision": number(3), "issues": number(1), "issuing": number(0),
			"current": &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{
				"issue": number(1), "serial": text("01"), "not_before": number(now.Add(-80 * 24 * time.Hour).UnixMilli()), "not_after": number(now.Add(10 * 24 * time.Hour).UnixMilli()),
			}},
			"due": text("RENEWAL"), "due_at": number(at.UnixMilli()),
		}}})
		if len(some) == 25 || i == total-1 {
			work <- some
			some = nil
		}
	}
	close(work)
	writers.Wait()
}
