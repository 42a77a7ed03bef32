package role

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
)

// maxPlaintextBytes is what KMS encrypts or signs at once.
const maxPlaintextBytes = 4096

// kmsOperations are the operations understood here on a key that is there. Each takes permission of its own
// name.
var kmsOperations = []string{
	"Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
	"GenerateMac", "GetPublicKey", "ScheduleKeyDeletion", "Sign", "Verify", "VerifyMac",
}

// An amznError is what a service answers in place of a denial.
type amznError struct{ kind, message string }

func (e *amznError) Error() string { return e.kind + ": " + e.message }

// KMS passes calls on to MiniStack, those that the caller's role allows. MiniStack opens what is not
// under the key that is named, and encrypts without a limit; both are refused here, as KMS does.
func (c *Checker) KMS(endpoint string, t *template.Template) (http.Handler, error) {
	// MiniStack closes a connection after a thousand requests without saying so before.
	proxy, err := forward(endpoint, &http.Transport{DisableKeepAlives: true})
	if err != nil {
		return nil, err
	}
	owner := credentials.NewStaticCredentialsProvider("LOCAL", "local", "")
	made := &madeKeys{client: kms.New(kms.Options{BaseEndpoint: &endpoint, Region: t.Region, Credentials: owner}), tags: map[string]map[string]string{}}
	return c.guard(proxy, func(r *http.Request, body []byte) ([]call, error) {
		tags := func(id string) (map[string]string, bool, error) { return made.tagsOf(r.Context(), id) }
		return kmsCalls(t, tags, operation(r), body)
	}, denyKMS), nil
}

// madeKeys knows the tags of keys that functions made. No function changes one's tags: that operation is not
// let through.
type madeKeys struct {
	client *kms.Client

	mu   sync.Mutex
	tags map[string]map[string]string // by the key's id
}

// tagsOf asks MiniStack for the tags of a key; false if there is no such key.
func (m *madeKeys) tagsOf(ctx context.Context, id string) (map[string]string, bool, error) {
	m.mu.Lock()
	tags, known := m.tags[id]
	m.mu.Unlock()
	if known {
		return tags, true, nil
	}
	answer, err := m.client.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &id})
	var missing *types.NotFoundException
	if errors.As(err, &missing) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("ask for the tags of key %s: %w", id, err)
	}
	tags = map[string]string{}
	for _, t := range answer.Tags {
		tags[aws.ToString(t.TagKey)] = aws.ToString(t.TagValue)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tags[id] = tags
	return tags, true, nil
}

// denyKMS answers as KMS does.
func denyKMS(w http.ResponseWriter, err error) {
	e := &amznError{"AccessDeniedException", err.Error()}
	errors.As(err, &e)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.kind, "message": e.message})
}

// kmsInput is what one operation says of its key and what for.
type kmsInput struct {
	KeyID             string `json:"KeyId"`
	CiphertextBlob    []byte
	Plaintext         []byte
	Message           []byte
	EncryptionContext map[string]string
}

// tagsOf yields the tags of a key that functions made; false if there is none of that id.
type tagsOf func(id string) (map[string]string, bool, error)

func kmsCalls(t *template.Template, tagsOf tagsOf, operation string, body []byte) ([]call, error) {
	if operation == "CreateKey" {
		return createKeyCalls(t, body)
	}
	if !slices.Contains(kmsOperations, operation) {
		return nil, fmt.Errorf("the operation %q is not understood here", operation)
	}
	var input kmsInput
	if err := json.Unmarshal(body, &input); err != nil {
		return nil, &amznError{"SerializationException", err.Error()}
	}
	if len(input.Plaintext) > maxPlaintextBytes || len(input.Message) > maxPlaintextBytes {
		return nil, &amznError{"ValidationException", "plaintext and message must have length less than or equal to 4096"}
	}
	named := input.KeyID
	if operation == "Decrypt" && named == "" {
		// The key of a symmetric ciphertext need not be named.
		if named = ministack.KeyID(input.CiphertextBlob); findKey(t, named) == nil {
			return nil, &amznError{kind: "InvalidCiphertextException"}
		}
	}
	key := findKey(t, named)
	if key == nil {
		return madeKeyCalls(t, tagsOf, operation, named, input)
	}
	if operation == "Decrypt" && key.Spec == "SYMMETRIC_DEFAULT" && ministack.KeyID(input.CiphertextBlob) != key.ID {
		return nil, &amznError{"IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."}
	}
	return []call{{action: "kms:" + operation, resource: key.ARN, values: contextOf(input.EncryptionContext)}}, nil
}

// madeKeyCalls are the permissions that an operation needs on a key that a function made, which has no alias.
// Its ciphertexts are not looked into: such keys sign.
func madeKeyCalls(t *template.Template, tagsOf tagsOf, operation, named string, input kmsInput) ([]call, error) {
	missing := &amznError{"NotFoundException", fmt.Sprintf("Key %q does not exist", named)}
	id := strings.TrimPrefix(named, keyPrefix(t))
	if id == "" || strings.ContainsAny(id, ":/*?") {
		return nil, missing
	}
	tags, found, err := tagsOf(id)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, missing
	}
	values := contextOf(input.EncryptionContext)
	if values == nil {
		values = map[string][]string{}
	}
	for key, value := range tags {
		values[resourceTag+key] = []string{value}
	}
	return []call{{action: "kms:" + operation, resource: keyPrefix(t) + id, values: values}}, nil
}

func keyPrefix(t *template.Template) string {
	return "arn:aws:kms:" + t.Region + ":" + t.Account + ":key/"
}

// createKeyCalls are the permissions that a new key needs: to create it, which has no resource, and to tag it,
// when its id is not known yet. A key with a policy of its own, or of another kind of storage, is not
// understood.
func createKeyCalls(t *template.Template, body []byte) ([]call, error) {
	var input struct {
		KeySpec, KeyUsage, Description string
		Tags                           []struct{ TagKey, TagValue string }
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&input); err != nil {
		return nil, fmt.Errorf("the operation CreateKey is not understood here: %w", err)
	}
	values := map[string][]string{}
	for _, tag := range input.Tags {
		values[requestTag+tag.TagKey] = []string{tag.TagValue}
	}
	calls := []call{{action: "kms:CreateKey", resource: "*", values: values}}
	if len(input.Tags) > 0 {
		calls = append(calls, call{action: "kms:TagResource", resource: keyPrefix(t) + "*", values: values})
	}
	return calls, nil
}

// contextOf is an encryption context as conditions see it.
func contextOf(context map[string]string) map[string][]string {
	if len(context) == 0 {
		return nil
	}
	values := map[string][]string{contextKeys: slices.Sorted(maps.Keys(context))}
	for key, value := range context {
		values[contextValue+key] = []string{value}
	}
	return values
}

// findKey finds a key by its id or ARN, or by the name or ARN of an alias of it; nil for none.
func findKey(t *template.Template, named string) *template.Key {
	if prefix := "arn:aws:kms:" + t.Region + ":" + t.Account + ":"; strings.HasPrefix(named, prefix+"alias/") {
		named = named[len(prefix):]
	}
	for _, a := range t.Aliases {
		if a.Name == named {
			named = a.KeyID
		}
	}
	i := slices.IndexFunc(t.Keys, func(k template.Key) bool { return k.ID == named || k.ARN == named })
	if i < 0 {
		return nil
	}
	return &t.Keys[i]
}
