// Package ses stands in for the one call of SES v2 that the functions make, SendEmail with simple
// content: it writes the message to a folder instead of sending it.
//
// A message is one file in the format of RFC 5322, readable by its owner alone since it may hold a
// code. The name begins with the time, so that the last in the list is the newest.
package ses

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
)

// maxRequestBytes is far above a code by mail, and below what would fill a disk.
const maxRequestBytes = 1 << 20

// A Mailbox is the folder, and the HTTP handler that fills it.
type Mailbox struct {
	folder string
	log    io.Writer
	now    func() time.Time
}

// NewMailbox makes the folder. Each message's path is logged.
func NewMailbox(folder string, log io.Writer) (*Mailbox, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the mail folder: %w", err)
	}
	return &Mailbox{folder: folder, log: log, now: time.Now}, nil
}

// sendEmail is the body of the call, as far as it is understood.
type sendEmail struct {
	FromEmailAddress string
	ReplyToAddresses []string
	Destination      struct{ ToAddresses, CcAddresses, BccAddresses []string }
	Content          struct {
		Simple *struct {
			Subject text
			Body    struct{ Text, Html *text }
		}
	}
}

type text struct{ Data string }

// ServeHTTP answers POST /v2/email/outbound-emails.
func (m *Mailbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v2/email/outbound-emails" {
		fail(w, http.StatusNotFound, "NotFoundException", errors.New("only SendEmail is to be had here"))
		return
	}
	var call sendEmail
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes)).Decode(&call); err != nil {
		fail(w, http.StatusBadRequest, "BadRequestException", err)
		return
	}
	id := uuid.NewString()
	message, err := compose(call, id, m.now())
	if err != nil {
		fail(w, http.StatusBadRequest, "BadRequestException", err)
		return
	}
	path, err := m.keep(message, id)
	if err != nil {
		fail(w, http.StatusInternalServerError, "InternalServiceErrorException", err)
		return
	}
	fmt.Fprintf(m.log, "mail: %s\n", path)
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"MessageId":%q}`, id)
}

func fail(w http.ResponseWriter, status int, kind string, err error) {
	body, _ := json.Marshal(map[string]string{"message": err.Error()})
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-ErrorType", kind)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// compose writes the message. Addresses are parsed and written anew and the subject is encoded, so
// that no line break in them begins a header.
func compose(call sendEmail, id string, now time.Time) ([]byte, error) {
	simple := call.Content.Simple
	if simple == nil || simple.Body.Text == nil && simple.Body.Html == nil {
		return nil, errors.New("only simple content with a text or HTML body is understood here")
	}
	to := call.Destination
	if len(to.ToAddresses)+len(to.CcAddresses)+len(to.BccAddresses) == 0 {
		return nil, errors.New("the message has no recipient")
	}
	var b bytes.Buffer
	for _, header := range []struct {
		name      string
		addresses []string
	}{
		{"From", []string{call.FromEmailAddress}},
		{"To", to.ToAddresses},
		{"Cc", to.CcAddresses},
		{"Bcc", to.BccAddresses},
		{"Reply-To", call.ReplyToAddresses},
	} {
		if err := writeAddresses(&b, header.name, header.addresses); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(&b, "Subject: %s\r\n", mime.QEncoding.Encode("utf-8", simple.Subject.Data))
	fmt.Fprintf(&b, "Date: %s\r\n", now.Format(time.RFC1123Z))
	fmt.Fprintf(&b, "Message-ID: <%s@email.local>\r\n", id)
	b.WriteString("MIME-Version: 1.0\r\n")
	writeBody(&b, simple.Body.Text, simple.Body.Html, id)
	return b.Bytes(), nil
}

func writeAddresses(b *bytes.Buffer, name string, addresses []string) error {
	var written []string
	for _, address := range addresses {
		parsed, err := mail.ParseAddress(address)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		written = append(written, parsed.String())
	}
	if len(written) > 0 {
		fmt.Fprintf(b, "%s: %s\r\n", name, strings.Join(written, ", "))
	}
	return nil
}

// writeBody leaves the text unencoded, so that a code in it can be searched for.
func writeBody(b *bytes.Buffer, plain, html *text, boundary string) {
	part := func(kind string, t *text) {
		fmt.Fprintf(b, "Content-Type: text/%s; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", kind)
		lines := strings.ReplaceAll(strings.ReplaceAll(t.Data, "\r\n", "\n"), "\n", "\r\n")
		b.WriteString(lines + "\r\n")
	}
	switch {
	case html == nil:
		part("plain", plain)
	case plain == nil:
		part("html", html)
	default:
		fmt.Fprintf(b, "Content-Type: multipart/alternative; boundary=%q\r\n\r\n--%s\r\n", boundary, boundary)
		part("plain", plain)
		fmt.Fprintf(b, "--%s\r\n", boundary)
		part("html", html)
		fmt.Fprintf(b, "--%s--\r\n", boundary)
	}
}

// keep writes the file under another name first, so that whoever watches the folder never reads half.
func (m *Mailbox) keep(message []byte, id string) (string, error) {
	name := m.now().UTC().Format("20060102T150405.000000000Z") + "-" + id[:8]
	unfinished := filepath.Join(m.folder, "."+name)
	if err := os.WriteFile(unfinished, message, 0o600); err != nil {
		return "", fmt.Errorf("write mail: %w", err)
	}
	path := filepath.Join(m.folder, name+".eml")
	if err := os.Rename(unfinished, path); err != nil {
		return "", fmt.Errorf("write mail: %w", err)
	}
	return path, nil
}
