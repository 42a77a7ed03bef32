// Package kmskey keeps secrets under a key of AWS KMS that never leaves it.
//
// Each secret has a data key of its own: KMS makes it, encrypts it under the key and under a context that
// names whose secret it is, and forgets it. The secret is encrypted with it (AES-256-GCM) and lies in the
// table beside the encrypted data key. Neither opens without a call of KMS that names the same context,
// so an item copied to another user or certificate stays closed.
package kmskey

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cjj365.cc/bb/shared/awsenv"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
)

// Budget is the longest that one operation may wait for KMS.
const Budget = 2500 * time.Millisecond

// Key is a symmetric key in KMS.
type Key struct {
	client *kms.Client
	id     string
}

// Open makes a key of its id or ARN, with the region, credentials and endpoint of the environment.
func Open(id string) (*Key, error) {
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open KMS key: %w", err)
	}
	return &Key{kms.NewFromConfig(configuration, func(o *kms.Options) { o.BaseEndpoint = awsenv.Endpoint("KMS") }), id}, nil
}

// Context says whose a secret is: the user, and the thing that it belongs to by kind and id. It is the
// encryption context in KMS, where it is logged; it holds nothing secret. The roles of template.yaml name
// the kinds.
type Context struct {
	user, id int64
	kind     string
}

// Certificate is the context of a certificate's private key.
func Certificate(user, id int64) Context { return Context{user, id, "certificate"} }

// ACMEAccount is the context of the keys of an account at a CA.
func ACMEAccount(user, id int64) Context { return Context{user, id, "acme_account"} }

// DNSProvider is the context of a DNS provider's credentials.
func DNSProvider(user, id int64) Context { return Context{user, id, "dns_provider"} }

// Webhook is the context of the secrets that sign what is sent to a webhook.
func Webhook(user, id int64) Context { return Context{user, id, "webhook"} }

// CA is the context of a CA's private key.
func CA(user, id int64) Context { return Context{user, id, "ca"} }

// OCSPSigner is the context of the key that signs a CA's OCSP answers.
func OCSPSigner(user, id int64) Context { return Context{user, id, "ocsp_signer"} }

// ACMEServer is the context of what a CA's ACME server keeps to itself.
func ACMEServer(user, id int64) Context { return Context{user, id, "acme_server"} }

func (c Context) encryption() map[string]string {
	return map[string]string{"user": strconv.FormatInt(c.user, 10), c.kind: strconv.FormatInt(c.id, 10)}
}

// Seal encrypts a secret under a data key of its own.
func (k *Key) Seal(ctx context.Context, whose Context, secret []byte) (sealed.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	made, err := k.client.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &k.id, KeySpec: types.DataKeySpecAes256, EncryptionContext: whose.encryption(),
	})
	if err != nil {
		return sealed.Secret{}, failure("make a data key", err)
	}
	defer clear(made.Plaintext)
	nonce, text, err := sealed.Seal(made.Plaintext, secret)
	if err != nil {
		return sealed.Secret{}, fmt.Errorf("seal a secret: %w", err)
	}
	return sealed.Secret{DataKey: made.CiphertextBlob, Nonce: nonce, Text: text}, nil
}

// Open decrypts a secret; sealed.ErrUnopenable if it is not one sealed for whose.
func (k *Key) Open(ctx context.Context, whose Context, s sealed.Secret) ([]byte, error) {
	key, err := k.DataKey(ctx, whose, s)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return sealed.Open(key, s.Nonce, s.Text)
}

// DataKey opens the data key of a secret, to be sealed to somebody else; sealed.ErrUnopenable as Open.
func (k *Key) DataKey(ctx context.Context, whose Context, s sealed.Secret) ([]byte, error) {
	if len(s.DataKey) == 0 {
		return nil, fmt.Errorf("%w: its data key was forgotten", sealed.ErrUnopenable)
	}
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	opened, err := k.client.Decrypt(ctx, &kms.DecryptInput{KeyId: &k.id, CiphertextBlob: s.DataKey, EncryptionContext: whose.encryption()})
	var invalid *types.InvalidCiphertextException
	var incorrect *types.IncorrectKeyException
	if errors.As(err, &invalid) || errors.As(err, &incorrect) {
		return nil, fmt.Errorf("%w: %w", sealed.ErrUnopenable, err)
	}
	if err != nil {
		return nil, failure("open a data key", err)
	}
	return opened.Plaintext, nil
}

// failure says what was being done. What may pass in a moment becomes a problem that tells the caller to
// try again; anything else stays internal.
func failure(doing string, err error) error {
	if !awsenv.Passing(err, "ThrottlingException", "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException") {
		return fmt.Errorf("%s: %w", doing, err)
	}
	p := problem.Unavailable.New("The key service is busy; try again.")
	p.RetryAfter = time.Second
	p.Cause = fmt.Errorf("%s: %w", doing, err)
	return p
}
