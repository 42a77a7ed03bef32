package role

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"

	"cjj365.cc/bb/local/template"
)

// maxCallBytes is DynamoDB's bound of a request.
const maxCallBytes = 16 << 20

// DynamoDB passes calls on to an endpoint, those that the caller's role allows.
func (c *Checker) DynamoDB(endpoint string, tables []template.Table) (http.Handler, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("the endpoint of DynamoDB: %w", err)
	}
	byName := map[string]template.Table{}
	for _, t := range tables {
		byName[t.Name] = t
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallBytes))
		if err != nil {
			deny(w, err)
			return
		}
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		calls, err := dynamodbCalls(byName, operation, body)
		if err == nil {
			err = c.check(accessKeyID(r), calls)
		}
		if err != nil {
			deny(w, err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}), nil
}

// deny answers as DynamoDB does.
func deny(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazon.coral.service#AccessDeniedException", "Message": err.Error()})
}

var credential = regexp.MustCompile(`Credential=([^/]+)/`)

// accessKeyID is whose request it is, by its Signature Version 4.
func accessKeyID(r *http.Request) string {
	m := credential.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return ""
	}
	return m[1]
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
	if input.IndexName != "" {
		c.resource += "/index/" + input.IndexName
	}
	hash := table.Key[0].Attribute
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
	c.leadingKeys = []string{value.S + value.N}
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
