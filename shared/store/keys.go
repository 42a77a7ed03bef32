package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/user"
)

// key is the primary key of an item. Every key of both tables is made in this file.
type key struct{ pk, sk string }

func (k key) attributes() map[string]types.AttributeValue {
	return map[string]types.AttributeValue{"pk": text(k.pk), "sk": text(k.sk)}
}

const (
	keyPrefix     = "KEY#"
	sessionPrefix = "SESSION#"
	familyPrefix  = "FAMILY#"
	codePrefix    = "CODE#"
)

func userPartition(user int64) string { return fmt.Sprintf("USER#%d", user) }

func ownerKey(user int64) key       { return key{userPartition(user), "OWNER"} }
func apiKeyKey(user, id int64) key  { return key{userPartition(user), padded(keyPrefix, id)} }
func sessionKey(user, id int64) key { return key{userPartition(user), padded(sessionPrefix, id)} }
func familyKey(user, id int64) key  { return key{userPartition(user), padded(familyPrefix, id)} }

func profileKey(user int64) key       { return key{userPartition(user), "PROFILE"} }
func emailKey(email string) key       { return key{"EMAIL#" + email, "EMAIL"} }
func nameKey(name string) key         { return key{"NAME#" + strings.ToLower(name), "NAME"} }
func counterKey(kind string) key      { return key{"COUNTER#" + kind, "COUNTER"} }
func padded(p string, n int64) string { return fmt.Sprintf("%s%016d", p, n) }

func codeKey(purpose user.Purpose, email string, id int64) key {
	return key{"CODE#" + string(purpose) + ":" + email, padded(codePrefix, id)}
}

// rateKey names a fixed window of a count by its end.
func rateKey(what string, end time.Time) key {
	return key{fmt.Sprintf("RATE#%s#%d", what, end.Unix()), "RATE"}
}

// idempotencyKey hashes the client's key, which may hold anything.
func idempotencyKey(principal, clientKey string) key {
	digest := sha256.Sum256([]byte(clientKey))
	return key{"IDEMPOTENCY#" + principal + "#" + hex.EncodeToString(digest[:]), "IDEMPOTENCY"}
}
