package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/webhook"
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

// The items beside a list: its last place, the counts of its groups, the counts of a group's blocks.
func sequenceKey(l list) key            { return key{l.pk, "SEQUENCE#" + l.name} }
func groupsKey(l list) key              { return key{l.pk, "GROUPS#" + l.name} }
func blocksKey(l list, group int64) key { return key{l.pk, padded("BLOCKS#"+l.name+"#", group)} }

// maxPlace is the last number that 16 digits hold.
const maxPlace = 9999_9999_9999_9999

// Certificates, ACME accounts and DNS providers of a user lie in partitions of their own, so that a function's
// role can name them. What belongs to one certificate lies in its partition.
const (
	accountPrefix     = "ACCOUNT#"
	dnsProviderPrefix = "PROVIDER#"
	issuePrefix       = "ISSUE#"
)

func certificatesPartition(user int64) string { return fmt.Sprintf("CERTIFICATES#%d", user) }
func certificatePartition(id int64) string    { return fmt.Sprintf("CERTIFICATE#%d", id) }
func accountPartition(user int64) string      { return fmt.Sprintf("ACMEACCOUNTS#%d", user) }
func dnsProviderPartition(user int64) string  { return fmt.Sprintf("DNSPROVIDERS#%d", user) }

func certificateKey(user, id int64) key {
	return key{certificatesPartition(user), padded(certificatePrefix, id)}
}

// nameClaimKey keeps an account from having two certificates for one domain.
func nameClaimKey(c certificate.Certificate) key {
	return key{certificatesPartition(c.User), padded("DOMAIN#", c.Account) + "#" + c.Domain()}
}

func orderKey(certificate int64) key   { return key{certificatePartition(certificate), "ORDER"} }
func requestKey(certificate int64) key { return key{certificatePartition(certificate), "REQUEST"} }
func issueKey(certificate, number int64) key {
	return key{certificatePartition(certificate), padded(issuePrefix, number)}
}
func materialKey(certificate, issue int64) key {
	return key{certificatePartition(certificate), padded(materialPrefix, issue)}
}

func accountKey(user, id int64) key { return key{accountPartition(user), padded(accountPrefix, id)} }
func dnsProviderKey(user, id int64) key {
	return key{dnsProviderPartition(user), padded(dnsProviderPrefix, id)}
}

// The counts of things of which a user may have few.
func accountCountKey(user int64) key     { return key{accountPartition(user), "COUNT"} }
func dnsProviderCountKey(user int64) key { return key{dnsProviderPartition(user), "COUNT"} }

func certificateList(user int64) list {
	return list{certificatesPartition(user), "CERTIFICATE", "list"}
}
func accountCertificateList(user, account int64) list {
	return list{certificatesPartition(user), padded("CERTIFICATE#ACCOUNT#", account), "sublist"}
}

// Webhooks of a user lie in a partition of their own, an endpoint's deliveries in its. A delivery goes by its
// event's id, so there is one of each event for an endpoint.
const (
	webhookPrefix  = "WEBHOOK#"
	deliveryPrefix = "DELIVERY#"
	eventPrefix    = "EVENT#"
)

func webhooksPartition(user int64) string      { return fmt.Sprintf("WEBHOOKS#%d", user) }
func deliveriesPartition(webhook int64) string { return fmt.Sprintf("WEBHOOK#%d", webhook) }

func webhookKey(user, id int64) key  { return key{webhooksPartition(user), padded(webhookPrefix, id)} }
func webhookCountKey(user int64) key { return key{webhooksPartition(user), "COUNT"} }
func deliveryKey(webhook int64, event string) key {
	return key{deliveriesPartition(webhook), deliveryPrefix + event}
}
func eventKey(user int64, id string) key {
	return key{fmt.Sprintf("EVENT#%d", user), eventPrefix + id}
}
func noticeKey(of webhook.Subject, user, id int64) key {
	return key{fmt.Sprintf("NOTICE#%d", user), padded(string(of)+"#", id)}
}

// Devices of a user lie in a partition of their own; what belongs to one device lies in its. A thing on a device lies
// in the thing's partition, and the device's has a pointer to it.
const (
	devicePrefix      = "DEVICE#"
	signalPrefix      = "SIGNAL#"
	certificatePrefix = "CERTIFICATE#"
	materialPrefix    = "MATERIAL#"
	revisionPrefix    = "REVISION#"
)

func devicesPartition(user int64) string { return fmt.Sprintf("DEVICES#%d", user) }
func devicePartition(id int64) string    { return fmt.Sprintf("DEVICE#%d", id) }

func deviceKey(user, id int64) key { return key{devicesPartition(user), padded(devicePrefix, id)} }
func publicIDKey(user int64, publicID string) key {
	return key{devicesPartition(user), "PUBLIC#" + publicID}
}
func headKey(id int64) key          { return key{devicePartition(id), "HEAD"} }
func signalKey(id, at int64) key    { return key{devicePartition(id), padded(signalPrefix, at)} }
func installConfigKey(id int64) key { return key{devicePartition(id), "CONFIG"} }
func revisionKey(id, version int64) key {
	return key{devicePartition(id), padded(revisionPrefix, version)}
}
func deviceCAKey(id, ca int64) key     { return key{devicePartition(id), padded(caPrefix, ca)} }
func caAssignmentKey(ca, id int64) key { return key{caPartition(ca), padded(devicePrefix, id)} }
func rewrapKey(id int64) key           { return key{devicePartition(id), "REWRAP"} }
func rolloutKey(partition string) key  { return key{partition, "ROLLOUT"} }
func certificateOwnerKey(id int64) key { return key{certificatePartition(id), "OWNER"} }
func deviceFamilyKey(id int64) key     { return key{devicePartition(id), "FAMILY"} } // of the credential table
func tokenKeyKey(kid string) key       { return key{"TOKENKEY", kid} }               // as authn.RootKey
func deviceCertificateKey(id, c int64) key {
	return key{devicePartition(id), padded(certificatePrefix, c)}
}
func assignmentKey(certificate, id int64) key {
	return key{certificatePartition(certificate), padded(devicePrefix, id)}
}

// registeredKey is a device that an API key registered.
func registeredKey(user, apiKey, id int64) key {
	return key{fmt.Sprintf("KEYDEVICES#%d#%d", user, apiKey), padded(devicePrefix, id)}
}

func deviceList(user int64, status device.Status) list {
	return list{devicesPartition(user), string(status), "list"}
}

// A device authorization goes by the digest of its registration code.
func grantKey(id string) key      { return key{"GRANT#" + id, "GRANT"} }
func userCodeKey(code string) key { return key{"USERCODE#" + code, "USERCODE"} }

// rateKey names a fixed window of a count by its end.
func rateKey(what string, end time.Time) key {
	return key{fmt.Sprintf("RATE#%s#%d", what, end.Unix()), "RATE"}
}

// idempotencyKey hashes the client's key, which may hold anything.
func idempotencyKey(principal, clientKey string) key {
	digest := sha256.Sum256([]byte(clientKey))
	return key{"IDEMPOTENCY#" + principal + "#" + hex.EncodeToString(digest[:]), "IDEMPOTENCY"}
}

// CAs of a user lie in a partition of their own; what changes with each signature lies apart from the CA. The ledger
// of a CA is in partitions by week, which the serial numbers tell: one partition holds 10 GB.
const (
	caPrefix      = "CA#"
	serialPrefix  = "SERIAL#"
	foreignLedger = 0 // the week of certificates that a CA signed before it was imported
)

func casPartition(user int64) string { return fmt.Sprintf("CAS#%d", user) }
func caPartition(id int64) string    { return fmt.Sprintf("CA#%d", id) }

func caKey(user, id int64) key { return key{casPartition(user), padded(caPrefix, id)} }
func caImportKey(c ca.CA) key {
	return key{casPartition(c.User), fmt.Sprintf("KEY#%x", sha256.Sum256(c.Public))}
}
func caTotalKey(user int64) key        { return key{casPartition(user), "COUNT"} }
func caCountKey(id int64) key          { return key{caPartition(id), "COUNT"} }
func crlKey(id int64) key              { return key{caPartition(id), "CRL"} }
func ocspSignerKey(id int64) key       { return key{caPartition(id), "OCSP"} }
func revokedPartition(id int64) string { return fmt.Sprintf("REVOKED#%d", id) }
func revokedKey(id int64, serial string) key {
	return key{revokedPartition(id), serialPrefix + serial}
}

func ledgerPartition(id, week int64) string { return fmt.Sprintf("LEDGER#%d#%d", id, week) }

func weekOf(serial string) int64 {
	n, ok := ca.ParseSerial(serial)
	if !ok {
		return foreignLedger
	}
	at, ours := ca.SerialTime(n)
	if !ours {
		return foreignLedger
	}
	return at.UnixMilli() / (7 * 24 * time.Hour).Milliseconds()
}

func entryKey(id int64, serial string) key {
	return key{ledgerPartition(id, weekOf(serial)), serialPrefix + serial}
}

// The ACME server of a CA: accounts, the claims of their keys, bindings and the secret lie in one partition, with the
// ids of each account's orders by time. An order has a partition of its own, and so has a nonce that was used.
const (
	serverAccountPrefix = "ACCOUNT#"
	bindingPrefix       = "BINDING#"
)

func acmeServerPartition(ca int64) string { return fmt.Sprintf("ACMESERVER#%d", ca) }

func acmeSecretKey(ca int64) key         { return key{acmeServerPartition(ca), "SECRET"} }
func bindingCountKey(ca int64) key       { return key{acmeServerPartition(ca), "COUNT"} }
func bindingKey(ca int64, id string) key { return key{acmeServerPartition(ca), bindingPrefix + id} }
func serverAccountKey(ca int64, id string) key {
	return key{acmeServerPartition(ca), serverAccountPrefix + id}
}

// thumbprintKey keeps two accounts of a CA from having one key.
func thumbprintKey(ca int64, thumbprint string) key {
	return key{acmeServerPartition(ca), "THUMBPRINT#" + thumbprint}
}

func replacedKey(ca int64, certificate string) key {
	return key{acmeServerPartition(ca), "REPLACED#" + certificate}
}

func placedPrefix(account string) string { return "ORDERS#" + account + "#" }

func placedKey(ca int64, account, order string, at time.Time) key {
	return key{acmeServerPartition(ca), padded(placedPrefix(account), at.UnixMilli()) + "#" + order}
}

func serverOrderKey(ca int64, id string) key {
	return key{fmt.Sprintf("ACMEORDER#%d#%s", ca, id), "ORDER"}
}
func nonceKey(nonce string) key { return key{"NONCE#" + nonce, "NONCE"} }
