package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// inbox is a receiver of webhooks. It keeps what has a signature by its secret.
type inbox struct {
	mu     sync.Mutex
	secret string
	status int
	events []told
	forged int
}

// told is an event as a receiver reads it.
type told struct {
	ID, Type string
	Data     struct {
		ID       int64
		Domain   string `json:"domain_name"`
		DaysLeft int    `json:"days_left"`
	}
}

func (i *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	i.mu.Lock()
	defer i.mu.Unlock()
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(i.secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	var e told
	if json.Unmarshal(body, &e) != nil || r.Header.Get("webhook-signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		i.forged++
		return
	}
	i.events = append(i.events, e)
	w.WriteHeader(i.status)
}

func (i *inbox) answer(status int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status = status
}

func (i *inbox) find(kind string, id int64) *told {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.events {
		if e.Type == kind && e.Data.ID == id {
			return &e
		}
	}
	return nil
}

// database is DynamoDB Local itself, past the check of roles: a test moves time there.
func (s *stack) database(t *testing.T) (db *dynamodb.Client, resources string) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(s.state, "dynamodb.log"))
	if err != nil {
		t.Fatal(err)
	}
	port := regexp.MustCompile(`(?m)^Port:\s*([0-9]+)`).FindSubmatch(log)
	if port == nil {
		t.Fatalf("DynamoDB Local does not say its port: %s", log)
	}
	db = dynamodb.New(dynamodb.Options{
		BaseEndpoint: aws.String("http://127.0.0.1:" + string(port[1])), Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	tables, err := db.ListTables(t.Context(), &dynamodb.ListTablesInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tables.TableNames {
		if strings.HasSuffix(name, "ResourceTable") {
			return db, name
		}
	}
	t.Fatalf("there is no resource table among %v", tables.TableNames)
	return nil, ""
}

// From the creation of a webhook to each kind of notice, by the built functions.
func TestNoticesReachAReceiver(t *testing.T) {
	if shared.process == nil || shared.FirstUser.ACMEAccount == 0 {
		t.Skip("the stack is another's, or has no CA")
	}
	owner := shared.login(t)
	_, token := shared.key(t, owner, `{"name":"webhooks","permissions":["webhooks.write","certs.write","apikeys.write"]}`)
	key := "Authorization: Bearer " + token
	call := func(method, path, body string, status int, out any, headers ...string) {
		t.Helper()
		r := shared.mustCall(t, method, "/apiv1/users/1/"+path, body, append(headers, key)...)
		if r.Status != status {
			t.Fatalf("%s %s: %d %s", method, path, r.Status, r.Body)
		}
		if out != nil {
			if err := json.Unmarshal(r.Data, out); err != nil {
				t.Fatal(err)
			}
		}
	}
	in := &inbox{status: 200}
	receiver := httptest.NewServer(in)
	defer receiver.Close()
	var hook, again struct {
		ID     int64
		Secret string
	}
	body := fmt.Sprintf(`{"name":"e2e","url":"%s/hook"}`, receiver.URL)
	call("POST", "webhooks", body, 201, &hook, "Idempotency-Key: e2e")
	if call("POST", "webhooks", body, 201, &again, "Idempotency-Key: e2e"); again != hook {
		t.Errorf("repeated: %+v", again)
	}
	in.secret = hook.Secret
	one := fmt.Sprintf("webhooks/%d", hook.ID)
	var delivery struct{ ID, State, Error string }
	call("POST", one+"/test", "", 200, &delivery)
	if delivery.State != "delivered" {
		t.Fatalf("test: %+v", delivery)
	}

	// until runs notices, as the schedule does each minute, until something is so.
	until := func(what string, so func() bool) {
		t.Helper()
		poll := time.NewTicker(200 * time.Millisecond)
		defer poll.Stop()
		limit := time.NewTimer(time.Minute)
		defer limit.Stop()
		for !so() {
			select {
			case <-limit.C:
				t.Fatalf("%s did not come: %+v, %d forged", what, in.events, in.forged)
			case <-poll.C:
			}
			response, err := http.Post(shared.Invoke+"/2015-03-31/functions/Notices/invocations", "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.Header.Get("X-Amz-Function-Error") != "" {
				t.Fatalf("notices: %s", answer)
			}
		}
	}
	told := func(kind string, id int64) *told {
		t.Helper()
		until(kind, func() bool { return in.find(kind, id) != nil })
		return in.find(kind, id)
	}

	var certificate struct {
		ID       int64
		NotAfter int64 `json:"not_after"`
	}
	call("POST", "certificates", fmt.Sprintf(`{"domain":"notices.example.com","acme_account_id":%d,"dns_provider_id":%d}`, shared.FirstUser.ACMEAccount, shared.FirstUser.DNSProvider), 201, &certificate)
	if e := told("certificate.issued", certificate.ID); e.Data.Domain != "notices.example.com" {
		t.Errorf("issued: %+v", e)
	}

	// The receiver is down for a moment; its owner replays what it missed.
	in.answer(503)
	call("POST", fmt.Sprintf("certificates/%d/issues", certificate.ID), "", 204, nil)
	missed := told("certificate.renewed", certificate.ID)
	in.answer(200)
	var log []struct{ ID, State, Type string }
	call("GET", one+"/deliveries?limit=1", "", 200, &log)
	if len(log) != 1 || log[0].ID != missed.ID || log[0].State != "pending" {
		t.Errorf("the log: %+v", log)
	}
	call("POST", one+"/deliveries/"+missed.ID+"/replay", "", 200, &delivery)
	if delivery.ID != missed.ID || delivery.State != "delivered" {
		t.Errorf("replayed: %+v", delivery)
	}

	// A key whose last day begins in two seconds.
	var lapsing struct{ ID int64 }
	call("POST", "apikeys", `{"name":"lapsing","permissions":[],"expires_in_seconds":86402}`, 201, &lapsing)
	if e := told("api_key.expiring", lapsing.ID); e.Data.DaysLeft != 1 {
		t.Errorf("key: %+v", e)
	}

	// The certificate's first notice is weeks or days away: it is made due.
	call("GET", fmt.Sprintf("certificates/%d", certificate.ID), "", 200, &certificate)
	db, table := shared.database(t)
	_, err := db.UpdateItem(context.Background(), &dynamodb.UpdateItemInput{
		TableName: &table, UpdateExpression: aws.String("SET due_at = :now"), ConditionExpression: aws.String("attribute_exists(pk)"),
		Key: map[string]types.AttributeValue{
			"pk": &types.AttributeValueMemberS{Value: "NOTICE#1"}, "sk": &types.AttributeValueMemberS{Value: fmt.Sprintf("CERTIFICATE#%016d", certificate.ID)},
		},
		ExpressionAttributeValues: map[string]types.AttributeValue{":now": &types.AttributeValueMemberN{Value: fmt.Sprint(time.Now().UnixMilli())}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e, days := told("certificate.expiring", certificate.ID), time.Until(time.Unix(certificate.NotAfter, 0)).Hours()/24; float64(e.Data.DaysLeft) < days-1 || float64(e.Data.DaysLeft) > days+1 {
		t.Errorf("expiring in %v days: %+v", days, e)
	}
	call("POST", one+"/roll-secret", "", 200, &hook)
	call("DELETE", one, "", 204, nil)
	call("DELETE", fmt.Sprintf("certificates/%d", certificate.ID), "", 204, nil)
	if in.forged != 0 {
		t.Errorf("%d requests without a signature", in.forged)
	}
}
