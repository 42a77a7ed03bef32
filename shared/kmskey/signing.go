package kmskey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"cjj365.cc/bb/shared/awsenv"
)

// CreationBudget is the longest that the creation of a key may take: an RSA key is searched for.
const CreationBudget = 15 * time.Second

// Signing makes keys that sign and never leave KMS, and signs with them. The tag bb tells which stack a key
// belongs to: a role signs with no other's.
type Signing struct {
	client *kms.Client
	stack  string
}

// OpenSigning makes a Signing of the value of the tag bb, with the region, credentials and endpoint of the
// environment.
func OpenSigning(stackTag string) (*Signing, error) {
	if stackTag == "" {
		return nil, errors.New("open signing keys: the stack has no name")
	}
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open signing keys: %w", err)
	}
	return &Signing{kms.NewFromConfig(configuration, func(o *kms.Options) { o.BaseEndpoint = awsenv.Endpoint("KMS") }), stackTag}, nil
}

// A SigningSpec is a kind of signing key, in KMS's words. Ed25519 is not one: with it KMS signs messages and no
// digests, of 4096 bytes at most, and a CRL is larger.
type SigningSpec string

// The kinds of signing keys.
const (
	ECDSAP256 SigningSpec = "ECC_NIST_P256"
	ECDSAP384 SigningSpec = "ECC_NIST_P384"
	RSA2048   SigningSpec = "RSA_2048"
	RSA3072   SigningSpec = "RSA_3072"
	RSA4096   SigningSpec = "RSA_4096"
)

// pendingDays is how long a key can still be brought back by hand after Delete; KMS allows no longer.
const pendingDays = 30

// Create makes a key for a user's CA. One whose public key cannot be read is deleted again; when KMS's answer is
// lost, or this process ends in between, a key is left that only its tags tell of.
func (s *Signing) Create(ctx context.Context, t SigningSpec, user, ca int64) (id string, public crypto.PublicKey, err error) {
	ctx, cancel := context.WithTimeout(ctx, CreationBudget)
	defer cancel()
	tag := func(key, value string) types.Tag { return types.Tag{TagKey: &key, TagValue: &value} }
	made, err := s.client.CreateKey(ctx, &kms.CreateKeyInput{
		KeySpec: types.KeySpec(t), KeyUsage: types.KeyUsageTypeSignVerify,
		Description: aws.String(fmt.Sprintf("%s: CA %d of user %d.", s.stack, ca, user)),
		Tags:        []types.Tag{tag("bb", s.stack), tag("user", strconv.FormatInt(user, 10)), tag("ca", strconv.FormatInt(ca, 10))},
	}, once)
	if err != nil {
		return "", nil, failure("create a signing key", err)
	}
	id = aws.ToString(made.KeyMetadata.KeyId)
	if public, err = s.public(ctx, id); err != nil {
		if left := s.Delete(context.WithoutCancel(ctx), id); left != nil {
			err = errors.Join(err, left)
		}
		return "", nil, err
	}
	return id, public, nil
}

func (s *Signing) public(ctx context.Context, id string) (crypto.PublicKey, error) {
	// The tags of a new key may not count for its permissions yet.
	got, err := s.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id}, patient("NotFoundException", "AccessDeniedException"))
	if err != nil {
		return nil, failure("read the public key of "+id, err)
	}
	public, err := x509.ParsePKIXPublicKey(got.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("read the public key of %s: %w", id, err)
	}
	return public, nil
}

// once has a call that must not be made twice wait for its answer.
func once(o *kms.Options) {
	o.Retryer = aws.NopRetryer{}
	if client, ok := o.HTTPClient.(awsenv.Client); ok {
		o.HTTPClient = client.WithTimeout(CreationBudget)
	}
}

// patient has a call wait for what KMS has not told all of its servers yet: a key that was just created.
func patient(codes ...string) func(*kms.Options) {
	return func(o *kms.Options) {
		o.Retryer = retry.AddWithMaxBackoffDelay(retry.AddWithMaxAttempts(retry.AddWithErrorCodes(o.Retryer, codes...), 8), 400*time.Millisecond)
	}
}

// Delete has KMS delete a key in 30 days; it signs nothing from now on. A key that is being deleted already, or
// that is gone, is no error.
func (s *Signing) Delete(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	_, err := s.client.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id, PendingWindowInDays: aws.Int32(pendingDays)})
	var gone *types.NotFoundException
	var pending *types.KMSInvalidStateException
	if err == nil || errors.As(err, &gone) || errors.As(err, &pending) {
		return nil
	}
	return failure("delete signing key "+id, err)
}

// Signer is a key in the hands of one request. Each signature has Budget, of what ctx leaves. It signs what
// certificates are signed with: ECDSA by the hash of its curve, and RSA by PKCS #1 v1.5.
func (s *Signing) Signer(ctx context.Context, id string, public crypto.PublicKey) crypto.Signer {
	return &signer{s.client, ctx, id, public}
}

type signer struct {
	client *kms.Client
	ctx    context.Context // crypto.Signer has no place for it
	id     string
	public crypto.PublicKey
}

func (k *signer) Public() crypto.PublicKey { return k.public }

func (k *signer) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	algorithm, err := algorithm(k.public, digest, o)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", k.id, err)
	}
	ctx, cancel := context.WithTimeout(k.ctx, Budget)
	defer cancel()
	signed, err := k.client.Sign(ctx, &kms.SignInput{
		KeyId: &k.id, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: algorithm,
	}, patient("NotFoundException"))
	if err != nil {
		return nil, failure("sign with "+k.id, err)
	}
	return signed.Signature, nil
}

// algorithm is KMS's name of a way to sign a digest.
func algorithm(public crypto.PublicKey, digest []byte, o crypto.SignerOpts) (types.SigningAlgorithmSpec, error) {
	hash := o.HashFunc()
	if hash == 0 || len(digest) != hash.Size() {
		return "", fmt.Errorf("%d bytes are not a digest of %v", len(digest), hash)
	}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		switch {
		case public.Curve == elliptic.P256() && hash == crypto.SHA256:
			return types.SigningAlgorithmSpecEcdsaSha256, nil
		case public.Curve == elliptic.P384() && hash == crypto.SHA384:
			return types.SigningAlgorithmSpecEcdsaSha384, nil
		}
		return "", fmt.Errorf("a key on %s does not sign %v here", public.Params().Name, hash)
	case *rsa.PublicKey:
		if _, pss := o.(*rsa.PSSOptions); pss {
			return "", errors.New("RSA-PSS is not offered")
		}
		switch hash {
		case crypto.SHA256:
			return types.SigningAlgorithmSpecRsassaPkcs1V15Sha256, nil
		case crypto.SHA384:
			return types.SigningAlgorithmSpecRsassaPkcs1V15Sha384, nil
		case crypto.SHA512:
			return types.SigningAlgorithmSpecRsassaPkcs1V15Sha512, nil
		}
		return "", fmt.Errorf("an RSA key does not sign %v here", hash)
	}
	return "", fmt.Errorf("a %T does not sign here", public)
}

// OpenSigner makes a Signer of one key of its id or ARN, with the region, credentials and endpoint of the environment.
// What it returns reads the public key the first time it is called.
func OpenSigner(id string) (func(context.Context) (crypto.Signer, error), error) {
	configuration, err := awsenv.Config()
	if err != nil {
		return nil, fmt.Errorf("open a signing key: %w", err)
	}
	s := &Signing{client: kms.NewFromConfig(configuration, func(o *kms.Options) { o.BaseEndpoint = awsenv.Endpoint("KMS") })}
	var mu sync.Mutex
	var public crypto.PublicKey
	return func(ctx context.Context) (crypto.Signer, error) {
		mu.Lock()
		defer mu.Unlock()
		if public == nil {
			ctx, cancel := context.WithTimeout(ctx, Budget)
			defer cancel()
			read, err := s.public(ctx, id)
			if err != nil {
				return nil, err
			}
			public = read
		}
		return s.Signer(ctx, id, public), nil
	}, nil
}
