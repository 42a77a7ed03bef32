package kmskey_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"cjj365.cc/bb/shared/awstest"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/problem"
)

func TestMain(m *testing.M) { awstest.Main(m) }

// client speaks to KMS past this package.
func client() *kms.Client {
	return kms.New(kms.Options{
		BaseEndpoint: aws.String(os.Getenv("AWS_ENDPOINT_URL_KMS")), Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
}

// Every kind of key signs certificates and CRLs that Go verifies, by every algorithm that it has.
func TestEveryKindOfKeySigns(t *testing.T) {
	s := awstest.Signing(t)
	for spec, algorithms := range map[kmskey.SigningSpec][]x509.SignatureAlgorithm{
		kmskey.ECDSAP256: {x509.UnknownSignatureAlgorithm, x509.ECDSAWithSHA256},
		kmskey.ECDSAP384: {x509.UnknownSignatureAlgorithm, x509.ECDSAWithSHA384},
		kmskey.RSA2048:   {x509.UnknownSignatureAlgorithm, x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA},
		kmskey.RSA3072:   {x509.SHA256WithRSA},
		kmskey.RSA4096:   {x509.SHA512WithRSA},
	} {
		id, public, err := s.Create(t.Context(), spec, 7, 12)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		key := s.Signer(t.Context(), id, public)
		for _, algorithm := range algorithms {
			ca := certify(t, key, algorithm)
			if ca == nil {
				continue
			}
			crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), NextUpdate: time.Now().Add(time.Hour), SignatureAlgorithm: algorithm}, ca, key)
			if err != nil {
				t.Errorf("%s, %v: %v", spec, algorithm, err)
				continue
			}
			list, err := x509.ParseRevocationList(crl)
			if err != nil || list.CheckSignatureFrom(ca) != nil {
				t.Errorf("%s, %v: %v", spec, algorithm, err)
			}
		}
	}
}

func certify(t *testing.T, key crypto.Signer, algorithm x509.SignatureAlgorithm) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template(algorithm), template(algorithm), key.Public(), key)
	if err != nil {
		t.Errorf("%T, %v: %v", key.Public(), algorithm, err)
		return nil
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil || certificate.CheckSignatureFrom(certificate) != nil {
		t.Errorf("%T, %v: %v", key.Public(), algorithm, err)
	}
	return certificate
}

func template(algorithm x509.SignatureAlgorithm) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: algorithm,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	}
}

// Whatever else it is asked to sign is refused, without asking KMS.
func TestWhatAKeyDoesNotSign(t *testing.T) {
	s := awstest.Signing(t)
	_, p256, err := s.Create(t.Context(), kmskey.ECDSAP256, 7, 12)
	if err != nil {
		t.Fatal(err)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		public crypto.PublicKey
		bytes  int
		opts   crypto.SignerOpts
	}{
		"PSS":                        {private.Public(), 32, &rsa.PSSOptions{Hash: crypto.SHA256}},
		"SHA-1":                      {private.Public(), 20, crypto.SHA1},
		"a longer digest on P-256":   {p256, 48, crypto.SHA384},
		"a digest of another length": {p256, 31, crypto.SHA256},
		"a message":                  {p256, 32, crypto.Hash(0)},
		"Ed25519":                    {edwards, 64, crypto.SHA512},
	} {
		if _, err := s.Signer(t.Context(), "no key", tc.public).Sign(rand.Reader, make([]byte, tc.bytes), tc.opts); err == nil || errors.Is(err, problem.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAKeySaysWhoseItIs(t *testing.T) {
	id, public, err := awstest.Signing(t).Create(t.Context(), kmskey.ECDSAP384, 7, 12)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := public.(*ecdsa.PublicKey); !ok {
		t.Errorf("the public key is a %T", public)
	}
	got, err := client().ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, tag := range got.Tags {
		tags[*tag.TagKey] = *tag.TagValue
	}
	if len(tags) != 3 || tags["bb"] != "test" || tags["user"] != "7" || tags["ca"] != "12" {
		t.Errorf("tags %v", tags)
	}
}

func TestADeletedKeySignsNothing(t *testing.T) {
	s := awstest.Signing(t)
	id, public, err := s.Create(t.Context(), kmskey.ECDSAP256, 7, 12)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	found, err := client().DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &id})
	if err != nil || time.Until(*found.KeyMetadata.DeletionDate) < 29*24*time.Hour {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := s.Signer(t.Context(), id, public).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("it signs")
	}
	if err := s.Delete(t.Context(), "4a493944-8959-4553-88a3-2beae96cd5ee"); err != nil {
		t.Errorf("no key: %v", err)
	}
}

// A request that has ended signs nothing.
func TestASignatureEndsWithItsRequest(t *testing.T) {
	s := awstest.Signing(t)
	id, public, err := s.Create(t.Context(), kmskey.ECDSAP256, 7, 12)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Signer(ctx, id, public).Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
