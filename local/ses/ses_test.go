package ses_test

import (
	"bytes"
	"io"
	"mime"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sesv2"
	"github.com/aws/aws-sdk-go-v2/service/sesv2/types"

	"cjj365.cc/bb/local/ses"
)

// The client is the one that the functions use.
func client(t *testing.T, folder string, log io.Writer) *sesv2.Client {
	t.Helper()
	mailbox, err := ses.NewMailbox(folder, log)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mailbox)
	t.Cleanup(server.Close)
	return sesv2.New(sesv2.Options{
		BaseEndpoint:     aws.String(server.URL),
		Region:           "us-east-1",
		Credentials:      credentials.NewStaticCredentialsProvider("LOCAL", "local", ""),
		RetryMaxAttempts: 1,
	})
}

func message(from, to, subject, body string) *sesv2.SendEmailInput {
	return &sesv2.SendEmailInput{
		FromEmailAddress: &from,
		Destination:      &types.Destination{ToAddresses: []string{to}},
		Content: &types.EmailContent{Simple: &types.Message{
			Subject: &types.Content{Data: &subject},
			Body:    &types.Body{Text: &types.Content{Data: &body}},
		}},
	}
}

func TestSendEmail(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "mail")
	var log bytes.Buffer
	c := client(t, folder, &log)
	for _, subject := range []string{"first", "Grüße\r\nBcc: victim@example.test"} {
		sent, err := c.SendEmail(t.Context(), message("BB <bb@example.test>", "ann@example.test", subject, "Your code:\n123456"))
		if err != nil || aws.ToString(sent.MessageId) == "" {
			t.Fatal(sent, err)
		}
	}
	paths, _ := filepath.Glob(filepath.Join(folder, "*.eml"))
	if len(paths) != 2 || !strings.Contains(log.String(), paths[1]) {
		t.Fatalf("files %v, log %s", paths, &log)
	}
	state, err := os.Stat(paths[1])
	if err != nil || state.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", state.Mode(), err)
	}
	file, err := os.Open(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got, err := mail.ReadMessage(file)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
	if err != nil || subject != "Grüße\r\nBcc: victim@example.test" || got.Header.Get("Bcc") != "" {
		t.Errorf("subject %q, %v, headers %v", subject, err, got.Header)
	}
	for name, want := range map[string]string{"From": `"BB" <bb@example.test>`, "To": "<ann@example.test>"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s is %s, want %s", name, got.Header.Get(name), want)
		}
	}
	body, _ := io.ReadAll(got.Body)
	if string(body) != "Your code:\r\n123456\r\n" {
		t.Errorf("body %q", body)
	}
}

func TestRefusedEmails(t *testing.T) {
	folder := t.TempDir()
	c := client(t, folder, io.Discard)
	raw := message("a@example.test", "b@example.test", "s", "b")
	raw.Content = &types.EmailContent{Raw: &types.RawMessage{Data: []byte("x")}}
	for name, input := range map[string]*sesv2.SendEmailInput{
		"a line break in the sender":    message("a@example.test\r\nBcc: c@example.test", "b@example.test", "s", "b"),
		"a line break in the recipient": message("a@example.test", "b@example.test\nX: y", "s", "b"),
		"no address":                    message("a@example.test", "", "s", "b"),
		"raw content":                   raw,
	} {
		if _, err := c.SendEmail(t.Context(), input); err == nil {
			t.Errorf("%s: it was sent", name)
		}
	}
	if left, _ := os.ReadDir(folder); len(left) != 0 {
		t.Errorf("left in the folder: %v", left)
	}
}
