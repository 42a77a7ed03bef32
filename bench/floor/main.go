// Command floor is the least that issuing a certificate can take: in memory, by HTTPS, and with one item stored.
//
//	POST /issue           {"csr": PEM}: answers {"cert": PEM chain}, stored nowhere
//	POST /issue/sdk       the same, stored by PutItem of the AWS SDK
//	POST /issue/dynamo    the same, stored by UpdateItem of package dynamo, the authorizer's own client
//	POST /memory?n=200    {"csr": PEM}: issues so often in memory, answers the processor time of one in ns
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"cjj365.cc/bb/bench/tlsserver"
	"cjj365.cc/bb/shared/awsenv"
	"cjj365.cc/bb/shared/dynamo"
)

func main() {
	log.Fatal(run())
}

func run() error {
	c, err := newCA()
	if err != nil {
		return err
	}
	configuration, err := awsenv.Config()
	if err != nil {
		return err
	}
	client, err := dynamo.FromEnvironment()
	if err != nil {
		return err
	}
	s := &server{c, dynamodb.NewFromConfig(configuration, func(o *dynamodb.Options) { o.BaseEndpoint = awsenv.Endpoint("DYNAMODB") }), client, os.Getenv("RESOURCE_TABLE")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /issue", s.issue(func(context.Context, issued) error { return nil }))
	mux.HandleFunc("POST /issue/sdk", s.issue(s.put))
	mux.HandleFunc("POST /issue/dynamo", s.issue(s.update))
	mux.HandleFunc("POST /memory", s.memory)
	return tlsserver.Serve(mux)
}

// A ca signs with a P-256 key, below a root.
type ca struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	above       []byte // PEM: its certificate
}

func newCA() (*ca, error) {
	root, rootKey, err := certify("Floor Root", nil, nil)
	if err != nil {
		return nil, err
	}
	certificate, key, err := certify("Floor CA", root, rootKey)
	if err != nil {
		return nil, err
	}
	return &ca{key, certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})}, nil
}

// certify makes a CA; a root if there is none above.
func certify(name string, above *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if above == nil {
		above, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above, key.Public(), by)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return certificate, key, err
}

// issued is what is stored of a certificate.
type issued struct {
	PK       string   `dynamodbav:"pk"`
	SK       string   `dynamodbav:"sk"`
	Names    []string `dynamodbav:"names"`
	DER      []byte   `dynamodbav:"der"`
	At       int64    `dynamodbav:"at"`
	NotAfter int64    `dynamodbav:"not_after"`
}

// issue certifies the names of a request for a day.
func (c *ca) issue(csr string) (i issued, chain []byte, err error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil {
		return i, nil, errors.New("no PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return i, nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return i, nil, err
	}
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // it never fails
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: request.DNSNames[0]}, DNSNames: request.DNSNames,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		OCSPServer: []string{"http://pki.example.test/pki/1/ocsp"}, CRLDistributionPoints: []string{"http://pki.example.test/pki/1/ca.crl"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.certificate, request.PublicKey, c.key)
	if err != nil {
		return i, nil, err
	}
	chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), c.above...)
	return issued{"FLOOR#1", fmt.Sprintf("%032X", serial), request.DNSNames, der, now.UnixMilli(), template.NotAfter.UnixMilli()}, chain, nil
}

type server struct {
	ca     *ca
	sdk    *dynamodb.Client
	dynamo *dynamo.Client
	table  string
}

type request struct {
	CSR string `json:"csr"`
}

func (s *server) issue(store func(context.Context, issued) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := func() (any, error) {
			var asked request
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
				return nil, err
			}
			i, chain, err := s.ca.issue(asked.CSR)
			if err != nil {
				return nil, err
			}
			return map[string]string{"cert": string(chain)}, store(r.Context(), i)
		}()
		reply(w, answer, err)
	}
}

func (s *server) put(ctx context.Context, i issued) error {
	item, err := attributevalue.MarshalMap(i)
	if err != nil {
		return err
	}
	_, err = s.sdk.PutItem(ctx, &dynamodb.PutItemInput{TableName: &s.table, Item: item, ConditionExpression: aws.String("attribute_not_exists(pk)")})
	return err
}

// update has for a condition what is safe to repeat.
func (s *server) update(ctx context.Context, i issued) error {
	return s.dynamo.Update(ctx, s.table, dynamo.Update{
		Key: dynamo.Key{PK: i.PK, SK: i.SK}, Expression: "SET issued_names = :names, der = :der, issued_at = :at, not_after = :until",
		Condition: "attribute_not_exists(pk) OR der = :der",
		Values: dynamo.Values{
			":names": dynamo.Text(strings.Join(i.Names, " ")), ":der": dynamo.Bytes(i.DER), ":at": dynamo.Number(i.At), ":until": dynamo.Number(i.NotAfter),
		},
	})
}

func (s *server) memory(w http.ResponseWriter, r *http.Request) {
	answer, err := func() (any, error) {
		var asked request
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			return nil, err
		}
		before := used()
		for range n {
			if _, _, err := s.ca.issue(asked.CSR); err != nil {
				return nil, err
			}
		}
		return int64(used()-before) / int64(n), nil
	}()
	reply(w, answer, err)
}

func reply(w http.ResponseWriter, answer any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// used is the processor time of this process so far.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it fails only for a bad argument
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
