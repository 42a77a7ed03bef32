// Package device is the devices of users: how they are registered, what is assigned to them, and what they say that
// they have installed.
//
// What is read with each poll of a device lies apart, as its Head: one small item.
package device

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"time"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/nacl/box"
)

// Device is one device of a user's.
type Device struct {
	User, ID  int64
	Place     string // in the list of its status; given by the store
	PublicID  string // the device's own name for itself, unique among its user's active devices
	Key       []byte // X25519 public key, 32 bytes
	Name      string
	Platform  string
	Model     string
	App       string // version
	IP        string // what the device says
	UserAgent string
	PushToken string
	By        int64 // the API key that registered it; 0 for none
	CreatedAt time.Time
	UpdatedAt time.Time
	RevokedAt time.Time
	Revision  int64
}

// Status is whether a device may ask for anything.
type Status string

// The statuses (contract §11.6).
const (
	Active  Status = "ACTIVE"
	Revoked Status = "REVOKED"
)

// Status derives it.
func (d Device) Status() Status {
	if !d.RevokedAt.IsZero() {
		return Revoked
	}
	return Active
}

// MaxAssigned bounds the certificates, and the CAs, of one device.
const MaxAssigned = 200

// KeySize is the length of a device's public key, and of a data key.
const KeySize = 32

// ErrKey says that nothing can be sealed to a public key: its shared secrets are known to everybody (RFC 7748 §6.1).
var ErrKey = errors.New("the device's public key is of low order")

// CheckKey refuses keys that nothing can be sealed to.
func CheckKey(public []byte) error {
	key, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return ErrKey
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if _, err := own.ECDH(key); err != nil {
		return ErrKey
	}
	return nil
}

// Fingerprint of a public key: BLAKE2b-256, as libsodium's generichash has it (contract §22.2).
func Fingerprint(public []byte) []byte {
	digest := blake2b.Sum256(public)
	return digest[:]
}

// Seal encrypts a data key to a device, in a sealed box of libsodium's: 80 bytes (contract §22.5).
func Seal(dataKey, public []byte) ([]byte, error) {
	if len(dataKey) != KeySize || len(public) != KeySize {
		return nil, errors.New("seal a data key: keys have 32 bytes")
	}
	if err := CheckKey(public); err != nil {
		return nil, err
	}
	return box.SealAnonymous(nil, dataKey, (*[KeySize]byte)(public), rand.Reader)
}

// Head is what every poll reads of a device.
type Head struct {
	User, Device int64
	Revoked      bool
	Last         int64     // the time of its newest signal, 0 for none
	BusyUntil    time.Time // more is likely to change for it before then
	SeenAt       time.Time // sampled
	Agent        string    // version
	Certificates int       // assigned
	CAs          int
}

// How a device is told to poll.
const (
	SeenEvery = 6 * time.Hour    // its polls are noted so often at most
	BusyFor   = 15 * time.Minute // after something was done for it
)

// Busy tells whether the device should ask often.
func (h Head) Busy(now time.Time) bool { return now.Before(h.BusyUntil) }

// Assignment is a certificate on a device: what the device is to have, and what it says it has.
type Assignment struct {
	User, Certificate, Device int64
	Issue                     int64  // what it is to have: the number of an issue; 0 before there is one
	Revision                  int64  // of the certificate, when it was told
	Wrap                      []byte // the issue's data key, sealed to the device; nil if it is not ready
	WrapFor                   []byte // fingerprint of the key that it is sealed to
	AssignedAt                time.Time
	ToldAt                    time.Time // when it was told of the issue
	Fetched                   int64     // the issue that it has fetched
	FetchedAt                 time.Time
	Report                    Report
}

// Report is what a device says that it did with a certificate.
type Report struct {
	Issue       int64  // 0 for none
	Fingerprint string // SHA-256 of the certificate that it has, hex
	Installed   bool
	Error       string
	At          time.Time
	Ever        bool // it has reported before, so that it will again
}

// State is how a device stands to what it is to have.
type State string

// The states.
const (
	Waiting   State = "WAITING" // there is nothing to have yet
	Told      State = "TOLD"
	Fetched   State = "FETCHED"
	Installed State = "INSTALLED"
	Failed    State = "FAILED"
)

// State derives it.
func (a Assignment) State() State {
	switch {
	case a.Issue == 0:
		return Waiting
	case a.Report.Issue == a.Issue && a.Report.Installed:
		return Installed
	case a.Report.Issue == a.Issue:
		return Failed
	case a.Fetched == a.Issue:
		return Fetched
	}
	return Told
}

// Done tells whether the device has what it is to have. One that has never reported an installation is taken at having
// fetched it: the agents in the field report nothing.
func (a Assignment) Done() bool {
	state := a.State()
	return state == Installed || state == Fetched && !a.Report.Ever
}

// Ready tells whether the device can open the certificate's key.
func (a Assignment) Ready() bool { return len(a.Wrap) > 0 }

// CA is a CA on a device.
type CA struct {
	User, CA, Device int64
	AssignedAt       time.Time
}
