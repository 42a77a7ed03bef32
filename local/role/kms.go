package role

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
)

// maxPlaintextBytes is what KMS encrypts at once.
const maxPlaintextBytes = 4096

// kmsOperations are the operations understood here. Each takes one key, and permission of its own name.
var kmsOperations = []string{
	"Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
	"GenerateMac", "GetPublicKey", "Sign", "Verify", "VerifyMac",
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
	return c.guard(proxy, func(r *http.Request, body []byte) ([]call, error) {
		return kmsCalls(t, operation(r), body)
	}, denyKMS), nil
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
	EncryptionContext map[string]string
}

func kmsCalls(t *template.Template, operation string, body []byte) ([]call, error) {
	if !slices.Contains(kmsOperations, operation) {
		return nil, fmt.Errorf("the operation %q is not understood here", operation)
	}
	var input kmsInput
	if err := json.Unmarshal(body, &input); err != nil {
		return nil, &amznError{"SerializationException", err.Error()}
	}
	if len(input.Plaintext) > maxPlaintextBytes {
		return nil, &amznError{"ValidationException", "plaintext must have length less than or equal to 4096"}
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
		return nil, &amznError{"NotFoundException", fmt.Sprintf("Key %q does not exist", named)}
	}
	if operation == "Decrypt" && key.Spec == "SYMMETRIC_DEFAULT" && ministack.KeyID(input.CiphertextBlob) != key.ID {
		return nil, &amznError{"IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."}
	}
	return []call{{action: "kms:" + operation, resource: key.ARN, values: contextOf(input.EncryptionContext)}}, nil
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
