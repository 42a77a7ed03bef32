package role

import (
	"io"
	"testing"

	"cjj365.cc/bb/local/template"
)

const table = "arn:aws:dynamodb:us-east-1:123456789012:table/things"

func tables() map[string]template.Table {
	return map[string]template.Table{"things": {Name: "things", ARN: table, Key: []template.KeyPart{{Attribute: "pk", Kind: "HASH"}}}}
}

func checker(t *testing.T, role ...template.Statement) *Checker {
	t.Helper()
	c, err := New([]template.Function{{LogicalID: "F", Role: role}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keys(patterns ...string) map[string]map[string][]string {
	return map[string]map[string][]string{"ForAllValues:StringLike": {leadingKeys: patterns}}
}

func TestWhatARoleAllows(t *testing.T) {
	role := []template.Statement{
		{Actions: []string{"dynamodb:GetItem", "dynamodb:Query"}, Resources: []string{table}},
		{Actions: []string{"dynamodb:PutItem", "dynamodb:UpdateItem"}, Resources: []string{table}, Conditions: keys("USER#*", "COUNTER#x")},
		{Deny: true, Actions: []string{"dynamodb:*"}, Resources: []string{table}, Conditions: keys("SECRET#*")},
	}
	for _, tc := range []struct {
		operation, body string
		want            bool
	}{
		{"GetItem", `{"TableName":"things","Key":{"pk":{"S":"ANY"}}}`, true},
		{"GetItem", `{"TableName":"things","Key":{"pk":{"S":"SECRET#1"}}}`, false},
		{"GetItem", `{"TableName":"other","Key":{"pk":{"S":"ANY"}}}`, false},
		{"GetItem", `{"TableName":"things","Key":{}}`, false},
		{"Query", `{"TableName":"things","KeyConditionExpression":"pk = :p AND begins_with(sk, :s)","ExpressionAttributeValues":{":p":{"S":"A"},":s":{"S":"B"}}}`, true},
		{"Query", `{"TableName":"things","KeyConditionExpression":"#k=:p","ExpressionAttributeNames":{"#k":"pk"},"ExpressionAttributeValues":{":p":{"S":"SECRET#"}}}`, false},
		{"Query", `{"TableName":"things","IndexName":"i","KeyConditionExpression":"pk = :p","ExpressionAttributeValues":{":p":{"S":"A"}}}`, false},
		{"PutItem", `{"TableName":"things","Item":{"pk":{"S":"USER#7"}}}`, true},
		{"PutItem", `{"TableName":"things","Item":{"pk":{"S":"ROLE#7"}}}`, false},
		{"UpdateItem", `{"TableName":"things","Key":{"pk":{"S":"COUNTER#x"}}}`, true},
		{"UpdateItem", `{"TableName":"things","Key":{"pk":{"S":"COUNTER#xy"}}}`, false},
		{"DeleteItem", `{"TableName":"things","Key":{"pk":{"S":"USER#7"}}}`, false},
		{"TransactWriteItems", `{"TransactItems":[{"Put":{"TableName":"things","Item":{"pk":{"S":"USER#7"}}}},{"Update":{"TableName":"things","Key":{"pk":{"S":"USER#8"}}}}]}`, true},
		{"TransactWriteItems", `{"TransactItems":[{"Put":{"TableName":"things","Item":{"pk":{"S":"USER#7"}}}},{"Delete":{"TableName":"things","Key":{"pk":{"S":"USER#8"}}}}]}`, false},
		{"Scan", `{"TableName":"things"}`, false},
		{"GetItem", `{`, false},
	} {
		calls, err := dynamodbCalls(tables(), tc.operation, []byte(tc.body))
		if err == nil {
			err = checker(t, role...).check("LOCALF", calls)
		}
		if (err == nil) != tc.want {
			t.Errorf("%s %s: %v, want allowed %v", tc.operation, tc.body, err, tc.want)
		}
	}
	if err := checker(t, role...).check("LOCALG", nil); err == nil {
		t.Error("an unknown function is let through")
	}
}

func TestUnused(t *testing.T) {
	c := checker(t, template.Statement{Actions: []string{"dynamodb:GetItem", "dynamodb:PutItem", "logs:PutLogEvents", "xray:PutTraceSegments"}, Resources: []string{table}, Conditions: keys("A#*", "B#*")})
	if err := c.check("LOCALF", []call{{action: "dynamodb:GetItem", resource: table, values: map[string][]string{leadingKeys: {"A#1"}}}}); err != nil {
		t.Fatal(err)
	}
	got := c.Unused()["F"]
	if len(got) != 2 || got[0] != "dynamodb:PutItem on "+table || got[1] != "dynamodb:LeadingKeys B#* of "+table {
		t.Errorf("%q", got)
	}
	if err := c.check("LOCALF", []call{{action: "dynamodb:PutItem", resource: table, values: map[string][]string{leadingKeys: {"B#1"}}}}); err != nil {
		t.Fatal(err)
	}
	if got := c.Unused(); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestAnUnknownConditionIsRefused(t *testing.T) {
	_, err := New([]template.Function{{LogicalID: "F", Role: []template.Statement{{Conditions: map[string]map[string][]string{"StringEquals": {"aws:SourceIp": {"y"}}}}}}}, io.Discard)
	if err == nil {
		t.Error("a condition that is not checked was accepted")
	}
}
