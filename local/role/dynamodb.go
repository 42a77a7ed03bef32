package role

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"cjj365.cc/bb/local/template"
)

// DynamoDB passes calls on to an endpoint, those that the caller's role allows.
func (c *Checker) DynamoDB(endpoint string, tables []template.Table) (http.Handler, error) {
	proxy, err := forward(endpoint, &http.Transport{MaxIdleConnsPerHost: 256})
	if err != nil {
		return nil, err
	}
	byName := map[string]template.Table{}
	for _, t := range tables {
		byName[t.Name] = t
	}
	return c.guard(proxy, func(r *http.Request, body []byte) ([]call, error) {
		return dynamodbCalls(byName, operation(r), body)
	}, denyDynamoDB), nil
}

// denyDynamoDB answers as DynamoDB does.
func denyDynamoDB(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazon.coral.service#AccessDeniedException", "Message": err.Error()})
}

// operationInput is what one operation on items says of where it goes.
type operationInput struct {
	TableName                 string
	IndexName                 string
	Key                       map[string]attributeValue
	Item                      map[string]attributeValue
	KeyConditionExpression    string
	ExpressionAttributeNames  map[string]string
	ExpressionAttributeValues map[string]attributeValue

	TransactItems []map[string]operationInput
	RequestItems  map[string]struct {
		Keys []map[string]attributeValue
	}
}

type attributeValue struct{ S, N string }

// dynamodbCalls are the actions that an operation needs. A transaction needs that of each item.
func dynamodbCalls(tables map[string]template.Table, operation string, body []byte) ([]call, error) {
	var input operationInput
	if err := json.Unmarshal(body, &input); err != nil {
		return nil, fmt.Errorf("read %s: %w", operation, err)
	}
	actions := map[string]string{"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}
	switch operation {
	case "GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query":
		c, err := dynamodbCall(tables, operation, input)
		return []call{c}, err
	case "BatchGetItem":
		var calls []call
		for table, asked := range input.RequestItems {
			for _, key := range asked.Keys {
				c, err := dynamodbCall(tables, operation, operationInput{TableName: table, Key: key})
				if err != nil {
					return nil, err
				}
				calls = append(calls, c)
			}
		}
		return calls, nil
	case "TransactWriteItems":
		var calls []call
		for _, item := range input.TransactItems {
			for kind, input := range item {
				action, known := actions[kind]
				if !known {
					return nil, fmt.Errorf("a transaction with %s is not understood here", kind)
				}
				c, err := dynamodbCall(tables, action, input)
				if err != nil {
					return nil, err
				}
				calls = append(calls, c)
			}
		}
		return calls, nil
	}
	return nil, fmt.Errorf("the operation %q is not understood here", operation)
}

func dynamodbCall(tables map[string]template.Table, action string, input operationInput) (call, error) {
	table, known := tables[input.TableName]
	if !known {
		return call{}, fmt.Errorf("%s: the template has no table %q", action, input.TableName)
	}
	c := call{action: "dynamodb:" + action, resource: table.ARN}
	hash := table.Key[0].Attribute
	if input.IndexName != "" {
		c.resource += "/index/" + input.IndexName
		for _, index := range table.GlobalIndexes {
			if index.Name == input.IndexName { // its partition key is the leading key then
				hash = index.Key[0].Attribute
			}
		}
	}
	var value attributeValue
	var found bool
	switch action {
	case "PutItem":
		value, found = input.Item[hash]
	case "Query":
		value, found = queried(hash, input)
	default:
		value, found = input.Key[hash]
	}
	if !found {
		return c, fmt.Errorf("%s: the partition key was not found", action)
	}
	c.values = map[string][]string{leadingKeys: {value.S + value.N}}
	return c, nil
}

var equality = regexp.MustCompile(`([#\w]+)\s*=\s*(:\w+)`)

// queried finds the partition key in a key condition.
func queried(hash string, input operationInput) (attributeValue, bool) {
	for _, m := range equality.FindAllStringSubmatch(input.KeyConditionExpression, -1) {
		name := m[1]
		if strings.HasPrefix(name, "#") {
			name = input.ExpressionAttributeNames[name]
		}
		if name == hash {
			value, found := input.ExpressionAttributeValues[m[2]]
			return value, found
		}
	}
	return attributeValue{}, false
}
