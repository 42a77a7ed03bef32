package ministack_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"cjj365.cc/bb/local/ministack"
	"cjj365.cc/bb/local/template"
)

var (
	secrets = template.Key{LogicalID: "Secrets", Spec: "SYMMETRIC_DEFAULT", Usage: "ENCRYPT_DECRYPT"}
	signer  = template.Key{LogicalID: "Signer", Spec: "ECC_NIST_P256", Usage: "SIGN_VERIFY"}
	things  = []template.Bucket{{LogicalID: "Things", Name: "s-things"}}
	dead    = queue("s-Dead", "", 0)
	work    = queue("s-Work", dead.ARN, 2)
)

func queue(name, deadLetters string, maxReceives int) template.Queue {
	return template.Queue{
		LogicalID: name, Name: name, ARN: "arn:aws:sqs:us-east-1:123456789012:" + name, URL: "https://sqs.us-east-1.amazonaws.com/123456789012/" + name,
		VisibilityTimeout: time.Minute, Retention: 96 * time.Hour, DeadLetters: deadLetters, MaxReceives: maxReceives,
	}
}

// The test binary runs MiniStack as the front does, tells what it made and waits to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("BB_TEST_PARENT"); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

// A report is what a parent says.
type report struct {
	Ciphertext, Data []byte
}

func parent(dir string) {
	ctx := context.Background()
	s, err := ministack.Start(ctx, ministack.Options{Dir: dir})
	if err != nil {
		panic(err)
	}
	ids, err := s.CreateKeys(ctx, []template.Key{secrets})
	if err != nil {
		panic(err)
	}
	made, err := kmsOf(s).GenerateDataKey(ctx, dataKey(ids["Secrets"]))
	if err != nil {
		panic(err)
	}
	if err := s.CreateBuckets(ctx, things); err != nil {
		panic(err)
	}
	if _, err := s3Of(s).PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("s-things"), Key: aws.String("7/a"), Body: strings.NewReader("kept")}); err != nil {
		panic(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report{made.CiphertextBlob, made.Plaintext}); err != nil {
		panic(err)
	}
	select {}
}

func dataKey(id string) *kms.GenerateDataKeyInput {
	return &kms.GenerateDataKeyInput{KeyId: &id, KeySpec: kmstypes.DataKeySpecAes256, EncryptionContext: map[string]string{"user": "7"}}
}

func start(t *testing.T, dir string) *ministack.Server {
	t.Helper()
	s, err := ministack.Start(t.Context(), ministack.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func keys(t *testing.T, s *ministack.Server, keys ...template.Key) map[string]string {
	t.Helper()
	ids, err := s.CreateKeys(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func kmsOf(s *ministack.Server) *kms.Client {
	return kms.New(kms.Options{BaseEndpoint: &s.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("LOCALF", "local", "")})
}

func sqsOf(s *ministack.Server) *sqs.Client {
	return sqs.New(sqs.Options{BaseEndpoint: &s.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("LOCALF", "local", "")})
}

func s3Of(s *ministack.Server) *s3.Client {
	return s3.New(s3.Options{BaseEndpoint: &s.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("LOCALF", "local", ""), UsePathStyle: true})
}

// Everything is killed with -9, the front and MiniStack, right after a secret was encrypted under a new
// key and an object was put: the next start reads both.
func TestAKeyOutlivesAKillOfEverything(t *testing.T) {
	dir := t.TempDir()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "BB_TEST_PARENT="+dir)
	var failure bytes.Buffer
	command.Stderr = &failure
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var made report
	if err := json.NewDecoder(output).Decode(&made); err != nil {
		t.Fatalf("%v: %s", err, &failure)
	}
	kill(t, dir)
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()

	s := start(t, dir)
	ids := keys(t, s, secrets)
	if ministack.KeyID(made.Ciphertext) != ids["Secrets"] {
		t.Errorf("the ciphertext is under %q, the key is %s", ministack.KeyID(made.Ciphertext), ids["Secrets"])
	}
	opened, err := kmsOf(s).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.Ciphertext, EncryptionContext: map[string]string{"user": "7"}})
	if err != nil || !bytes.Equal(opened.Plaintext, made.Data) {
		t.Errorf("after the kill: %v", err)
	}
	if err := s.CreateBuckets(t.Context(), things); err != nil {
		t.Fatal(err)
	}
	object, err := s3Of(s).GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("s-things"), Key: aws.String("7/a")})
	if err != nil {
		t.Fatalf("the object after the kill: %v", err)
	}
	defer object.Body.Close()
	if body, err := io.ReadAll(object.Body); err != nil || string(body) != "kept" {
		t.Errorf("the object after the kill: %q, %v", body, err)
	}
	var invalid *kmstypes.InvalidCiphertextException
	if _, err := kmsOf(s).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: made.Ciphertext, EncryptionContext: map[string]string{"user": "8"}}); !errors.As(err, &invalid) {
		t.Errorf("with another user's context: %v", err)
	}
}

// kill ends MiniStack itself with -9, found by its folder.
func kill(t *testing.T, dir string) {
	t.Helper()
	list, err := exec.Command("ps", "-axo", "pid=,args=").Output()
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for line := range strings.Lines(string(list)) {
		pid, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(args, "bb="+dir+" -m ministack") || strings.HasPrefix(strings.TrimSpace(args), "sh ") {
			continue
		}
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	if killed != 1 {
		t.Fatalf("%d processes were killed", killed)
	}
}

func TestKeysAreMadeOnceAndALostOneIsNoticed(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	first := keys(t, s, secrets)
	s.Stop()

	s = start(t, dir)
	second := keys(t, s, secrets, signer)
	if second["Secrets"] != first["Secrets"] || second["Signer"] == "" {
		t.Errorf("first %v, then %v", first, second)
	}
	other := secrets
	other.Spec, other.Usage = "RSA_2048", "SIGN_VERIFY"
	if _, err := s.CreateKeys(t.Context(), []template.Key{other}); err == nil || !strings.Contains(err.Error(), "make reset") {
		t.Errorf("a key of another kind: %v", err)
	}
	alias := []template.Alias{{Name: "alias/secrets", KeyID: first["Secrets"]}}
	for range 2 {
		if err := s.CreateAliases(t.Context(), alias); err != nil {
			t.Fatal(err)
		}
	}
	if made, err := kmsOf(s).GenerateDataKey(t.Context(), dataKey("alias/secrets")); err != nil || !strings.HasSuffix(aws.ToString(made.KeyId), first["Secrets"]) {
		t.Errorf("by its alias: %v", err)
	}
	s.Stop()

	if err := os.Remove(filepath.Join(dir, "kms.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, dir).CreateKeys(t.Context(), []template.Key{secrets}); err == nil || !strings.Contains(err.Error(), "is lost") {
		t.Errorf("a lost key: %v", err)
	}
}

func TestASignatureIsOneThatGoAccepts(t *testing.T) {
	s := start(t, "")
	id := keys(t, s, signer)["Signer"]
	public, err := kmsOf(s).GetPublicKey(t.Context(), &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("message"))
	signed, err := kmsOf(s).Sign(t.Context(), &kms.SignInput{
		KeyId: &id, Message: digest[:], MessageType: kmstypes.MessageTypeDigest, SigningAlgorithm: kmstypes.SigningAlgorithmSpecEcdsaSha256,
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(public.PublicKey)
	if err != nil || !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], signed.Signature) {
		t.Errorf("not a signature of the digest: %v", err)
	}
}

func TestMessagesOutliveAStop(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	for range 2 { // the second time, they are there
		if err := s.CreateQueues(t.Context(), []template.Queue{work, dead}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sqsOf(s).SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &work.URL, MessageBody: aws.String("kept")}); err != nil {
		t.Fatal(err)
	}
	s.Stop()

	s = start(t, dir)
	other := work
	other.VisibilityTimeout, other.DeadLetters, other.MaxReceives = 90*time.Second, "", 0
	if err := s.CreateQueues(t.Context(), []template.Queue{other, dead}); err != nil {
		t.Fatal(err)
	}
	attributes, err := sqsOf(s).GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &work.URL, AttributeNames: []sqstypes.QueueAttributeName{"All"}})
	if err != nil || attributes.Attributes["VisibilityTimeout"] != "90" || attributes.Attributes["RedrivePolicy"] != "" {
		t.Errorf("the queue's settings: %v, %v", attributes, err)
	}
	got, err := sqsOf(s).ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &work.URL})
	if err != nil || len(got.Messages) != 1 || aws.ToString(got.Messages[0].Body) != "kept" {
		t.Errorf("the message: %v, %v", got, err)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	checkout := t.TempDir()
	if err := os.WriteFile(filepath.Join(checkout, "go.mod"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(checkout)
	if _, err := ministack.Start(t.Context(), ministack.Options{}); err == nil || !strings.Contains(err.Error(), "python3") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}
