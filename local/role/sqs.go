package role

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"cjj365.cc/bb/local/template"
)

// sqsActions are the operations understood here and the permission that each takes: one of a batch takes
// that of the single one.
var sqsActions = map[string]string{
	"ChangeMessageVisibility":      "ChangeMessageVisibility",
	"ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
	"DeleteMessage":                "DeleteMessage",
	"DeleteMessageBatch":           "DeleteMessage",
	"GetQueueAttributes":           "GetQueueAttributes",
	"GetQueueUrl":                  "GetQueueUrl",
	"PurgeQueue":                   "PurgeQueue",
	"ReceiveMessage":               "ReceiveMessage",
	"SendMessage":                  "SendMessage",
	"SendMessageBatch":             "SendMessage",
}

// SQS passes calls on to MiniStack, those that the caller's role allows.
func (c *Checker) SQS(endpoint string, t *template.Template) (http.Handler, error) {
	proxy, err := forward(endpoint, &http.Transport{DisableKeepAlives: true}) // as for KMS
	if err != nil {
		return nil, err
	}
	return c.guard(proxy, func(r *http.Request, body []byte) ([]call, error) {
		return sqsCalls(t, operation(r), body)
	}, denySQS), nil
}

// denySQS answers as SQS does: the header has the name that its older protocol gave the error, which is
// the one that SDKs tell.
func denySQS(w http.ResponseWriter, err error) {
	kind, name, status := "com.amazon.coral.service#AccessDeniedException", "AccessDenied", http.StatusForbidden
	var e *amznError
	if errors.As(err, &e) {
		kind, name, status = "com.amazonaws.sqs#"+e.kind, "AWS.SimpleQueueService.NonExistentQueue", http.StatusBadRequest
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.Header().Set("X-Amzn-Query-Error", name+";Sender")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": kind, "message": err.Error()})
}

// sqsCalls are the permissions that an operation needs. A queue under a key of the template needs that
// key's too, as the sender's and the receiver's.
func sqsCalls(t *template.Template, operation string, body []byte) ([]call, error) {
	action, known := sqsActions[operation]
	if !known {
		return nil, fmt.Errorf("the operation %q is not understood here", operation)
	}
	var input struct {
		QueueURL  string `json:"QueueUrl"`
		QueueName string
	}
	if err := json.Unmarshal(body, &input); err != nil {
		return nil, fmt.Errorf("read %s: %w", operation, err)
	}
	name := input.QueueURL[strings.LastIndex(input.QueueURL, "/")+1:]
	if operation == "GetQueueUrl" {
		name = input.QueueName
	}
	i := slices.IndexFunc(t.Queues, func(q template.Queue) bool { return q.Name == name })
	if i < 0 {
		return nil, &amznError{"QueueDoesNotExist", "The specified queue does not exist."}
	}
	queue := t.Queues[i]
	calls := []call{{action: "sqs:" + action, resource: queue.ARN}}
	key := findKey(t, queue.Key)
	if key == nil {
		return calls, nil
	}
	var needed []string
	switch action {
	case "SendMessage":
		needed = []string{"kms:GenerateDataKey", "kms:Decrypt"}
	case "ReceiveMessage":
		needed = []string{"kms:Decrypt"}
	}
	for _, action := range needed {
		calls = append(calls, call{action: action, resource: key.ARN, values: contextOf(map[string]string{"aws:sqs:arn": queue.ARN})})
	}
	return calls, nil
}
