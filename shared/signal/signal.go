// Package signal is what changed for a device. A device reads its signals in order, from a cursor that it keeps.
//
// A signal's time is its identity: times rise strictly within a device, because agents take two signals of one type and
// one time for the same (contract §15.9). A cursor is the time of the last signal that was read. Each signal knows the
// time of the one before it, so that who reads on from a cursor can tell whether something between has been forgotten:
// signals are kept for Kept or until there are more than Most.
package signal

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// What of a device's signals is kept (contract §15.6).
const (
	Kept = 30 * 24 * time.Hour
	Most = 1000
)

// Signal is one change.
type Signal struct {
	Type Type
	At   int64 // epoch milliseconds; given by the store
	Last int64 // the At of the signal before it; 0 for the first
	Ref  Ref
}

// Type is what changed.
type Type string

// The types that agents know (contract §15.10).
const (
	InstallUpdated        Type = "install.updated"
	CertificateUpdated    Type = "cert.updated"
	CertificateUnassigned Type = "cert.unassigned"
	CAAssigned            Type = "ca.assigned"
	CAUnassigned          Type = "ca.unassigned"
)

// Ref says which thing changed. Which fields there are depends on the type; their names are the wire's.
type Ref struct {
	Config  int64  `json:"config_id,omitempty" dynamodbav:"config,omitempty"`
	Version int64  `json:"version,omitempty" dynamodbav:"version,omitempty"`
	Hash    string `json:"installs_hash_b64,omitempty" dynamodbav:"hash,omitempty"`

	Certificate int64  `json:"cert_id,omitempty" dynamodbav:"certificate,omitempty"`
	Ready       bool   `json:"wrap_ready,omitempty" dynamodbav:"ready,omitempty"` // only if a wrap exists
	Algorithm   string `json:"wrap_alg,omitempty" dynamodbav:"algorithm,omitempty"`
	KeyPrint    string `json:"device_keyfp_b64,omitempty" dynamodbav:"key_print,omitempty"`

	CA     int64  `json:"ca_id,omitempty" dynamodbav:"ca,omitempty"`
	CAName string `json:"ca_name,omitempty" dynamodbav:"ca_name,omitempty"`
	Serial string `json:"serial,omitempty" dynamodbav:"serial,omitempty"`
}

// Cursor is a place in a device's signals: 0 is before the first.
type Cursor int64

// String is the cursor as devices keep it. Agents paste it into URLs without escaping.
func (c Cursor) String() string {
	if c == 0 {
		return "0-0"
	}
	return strconv.FormatInt(int64(c), 10) + "-0"
}

// ErrCursor says that a text is no cursor.
var ErrCursor = errors.New("not a cursor")

// ParseCursor reads what String wrote, bare, quoted or as a weak entity tag. Empty is 0, too: who has no cursor reads from
// the start of what is kept, and who was given 0 has missed what came since and is not kept.
func ParseCursor(text string) (Cursor, error) {
	text = strings.TrimPrefix(strings.TrimSpace(text), "W/")
	if quoted, ok := strings.CutPrefix(text, `"`); ok {
		if text, ok = strings.CutSuffix(quoted, `"`); !ok {
			return 0, ErrCursor
		}
	}
	if text == "" {
		return 0, nil
	}
	at, sequence, ok := strings.Cut(text, "-")
	if !ok || sequence != "0" || len(at) > 16 || at == "" {
		return 0, ErrCursor
	}
	for _, digit := range []byte(at) {
		if digit < '0' || digit > '9' {
			return 0, ErrCursor
		}
	}
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil || len(at) > 1 && at[0] == '0' {
		return 0, ErrCursor
	}
	return Cursor(n), nil
}

// Next is the time of a device's next signal: now, or later than the last.
func Next(last int64, now time.Time) int64 { return max(now.UnixMilli(), last+1) }

// Forgotten tells whether something that a reader at c has not seen is not kept any more. found are the signals after
// c, oldest first; newest is the time of the device's last signal.
func Forgotten(c Cursor, found []Signal, newest int64) bool {
	if len(found) > 0 {
		return found[0].Last > int64(c)
	}
	return newest > int64(c)
}

// Unbroken is how many of the signals follow each other without a gap.
func Unbroken(found []Signal) int {
	for i := 1; i < len(found); i++ {
		if found[i].Last != found[i-1].At {
			return i
		}
	}
	return len(found)
}
