package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// TestTheSchedulesOfAPrivateCA moves times in the table into the past and runs the schedules: a CRL that is due is
// published, an OCSP signer that ends is renewed, a certificate that is due is renewed by the issuer.
func TestTheSchedulesOfAPrivateCA(t *testing.T) {
	for _, custody := range []string{"KMS", "WRAPPED"} {
		t.Run(custody, func(t *testing.T) { schedules(t, custody) })
	}
}

func schedules(t *testing.T, custody string) {
	if shared.Gateway == "sam" {
		t.Skip(samLacks["event-sources"])
	}
	owner := shared.login(t)
	post := func(path, body string, status int, made any) {
		t.Helper()
		r := shared.mustCall(t, "POST", "/apiv1/users/1/"+path, body, owner)
		if err := json.Unmarshal(r.Data, made); err != nil || r.Status != status {
			t.Fatalf("%s: %d %s", path, r.Status, r.Body)
		}
	}
	var c struct {
		ID  int64
		CRL string `json:"crl_url"`
	}
	post("cas", `{"name":"scheduled","key_custody":"`+custody+`"}`, 201, &c)
	var account struct{ ID int64 }
	post("acme-accounts", fmt.Sprintf(`{"name":"scheduled","provider":"SELF_CA","ca_id":%d}`, c.ID), 201, &account)
	var leaf struct {
		ID     int64
		Serial string `json:"serial_number"`
	}
	post("certificates", fmt.Sprintf(`{"domain":"scheduled.local","acme_account_id":%d,"auto_renew":true}`, account.ID), 201, &leaf)
	device := shared.devices(t, 1, owner)[0]
	wants(t, 204, shared.mustCall(t, "POST", fmt.Sprintf("/apiv1/users/1/devices/%d/certificates", device.id), fmt.Sprintf(`{"cert_id":%d}`, leaf.ID), owner))
	device.poll("")
	db, table := shared.database(t)
	change := func(pk, sk, set string, values map[string]types.AttributeValue) {
		t.Helper()
		var names map[string]string
		if strings.Contains(set, "#current") { // a reserved word
			names = map[string]string{"#current": "current"}
		}
		if _, err := db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			ExpressionAttributeNames: names,
			TableName:                &table, Key: map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: pk}, "sk": &types.AttributeValueMemberS{Value: sk}},
			UpdateExpression: aws.String(set), ExpressionAttributeValues: values, ConditionExpression: aws.String("attribute_exists(pk)"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	at := func(d time.Duration) types.AttributeValue {
		return &types.AttributeValueMemberN{Value: fmt.Sprint(time.Now().Add(d).UnixMilli())}
	}
	invoke := func(function string) {
		t.Helper()
		r, err := http.Post(shared.Invoke+"/2015-03-31/functions/"+function+"/invocations", "application/json", bytes.NewBufferString("{}"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if answer, _ := io.ReadAll(r.Body); string(answer) != "null" {
			t.Fatalf("%s: %s", function, answer)
		}
	}
	crl := func() *x509.RevocationList {
		t.Helper()
		r, err := http.Get(c.CRL)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		der, _ := io.ReadAll(r.Body)
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatalf("%d %v", r.StatusCode, err)
		}
		return list
	}
	number := func() int64 {
		r, err := http.Get(c.CRL)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		der, _ := io.ReadAll(r.Body)
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return 0
		}
		return list.Number.Int64()
	}
	first := number()
	ca := fmt.Sprintf("CA#%d", c.ID)
	change(ca, "CRL", "SET due_at = :past", map[string]types.AttributeValue{":past": at(-time.Minute)})
	change(ca, "OCSP", "SET not_after = :soon", map[string]types.AttributeValue{":soon": at(time.Hour)})
	signed := func() (n int) {
		r := shared.mustCall(t, "GET", fmt.Sprintf("/apiv1/users/1/cas/%d/certificates?limit=100", c.ID), "", owner)
		var entries []struct{ Profile string }
		_ = json.Unmarshal(r.Data, &entries)
		for _, e := range entries {
			if e.Profile == "ocsp" {
				n++
			}
		}
		return n
	}
	before := signed()
	if custody == "KMS" { // an object that is lost comes again
		r, err := http.NewRequest(http.MethodDelete, fmt.Sprintf("%s/bb-pkibucket/%d/ca.crl", shared.Services, c.ID), nil)
		if err != nil {
			t.Fatal(err)
		}
		if gone, err := http.DefaultClient.Do(r); err != nil || gone.StatusCode >= 300 {
			t.Fatalf("%v, %v", gone, err)
		}
	}
	// The index follows the table after a moment, on AWS too.
	eventually(t, func() bool { invoke("Crls"); return number() > first })
	if got := signed(); got != before+1 {
		t.Errorf("%d OCSP signers, after %d", got, before)
	}
	change("CERTIFICATES#1", fmt.Sprintf("CERTIFICATE#%016d", leaf.ID), "SET due_at = :past, #current.not_before = :began, #current.not_after = :soon",
		map[string]types.AttributeValue{":past": at(-time.Minute), ":began": at(-40 * 24 * time.Hour), ":soon": at(time.Hour)})
	eventually(t, func() bool {
		invoke("Renewals")
		r := shared.mustCall(t, "GET", fmt.Sprintf("/apiv1/users/1/certificates/%d?wait=5", leaf.ID), "", owner)
		var now struct {
			Status string
			Serial string `json:"serial_number"`
		}
		_ = json.Unmarshal(r.Data, &now)
		return now.Status == "ISSUED" && now.Serial != leaf.Serial
	})
	// The issuer tells the device that the certificate is on.
	eventually(t, func() bool { return len(device.poll("")) == 1 })
	// As a function leaves it that is killed when a device has registered with another key.
	rewrap := map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: fmt.Sprintf("DEVICE#%d", device.id)}, "sk": &types.AttributeValueMemberS{Value: "REWRAP"}, "due": &types.AttributeValueMemberS{Value: "REWRAP"}, "due_at": at(-time.Minute),
		"user_id": &types.AttributeValueMemberN{Value: "1"}, "id": &types.AttributeValueMemberN{Value: fmt.Sprint(device.id)}, "revision": &types.AttributeValueMemberN{Value: "1"},
	}
	if _, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: rewrap}); err != nil {
		t.Fatal(err)
	}
	change(fmt.Sprintf("CERTIFICATE#%d", leaf.ID), fmt.Sprintf("DEVICE#%016d", device.id), "SET wrap_for = :other", map[string]types.AttributeValue{":other": &types.AttributeValueMemberB{Value: []byte("another key")}})
	eventually(t, func() bool { invoke("Renewals"); return len(device.poll("")) == 1 })
	device.install(leaf.ID)
	// Revoked here, and by an ACME client: both functions sign the CRL by the key in KMS.
	r := shared.mustCall(t, "POST", fmt.Sprintf("/apiv1/users/1/certificates/%d/revoke", leaf.ID), `{"reason":"superseded"}`, owner)
	if r.Status != 200 || len(crl().RevokedCertificateEntries) != 1 {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

// eventually tries until something holds, for half a minute.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	for limit := time.Now().Add(30 * time.Second); !holds(); <-poll.C {
		if time.Now().After(limit) {
			t.Fatal("it has not come true in half a minute")
		}
	}
}
