package webhook

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"cjj365.cc/bb/shared/certificate"
)

// Type is what an event is about and what happened.
type Type string

// The types of events.
const (
	CertificateIssued   Type = "certificate.issued"
	CertificateRenewed  Type = "certificate.renewed"
	CertificateFailed   Type = "certificate.failed"
	CertificateExpiring Type = "certificate.expiring"
	APIKeyExpiring      Type = "api_key.expiring"
	NotInstalled        Type = "certificate.not_installed"   // on devices that were told of it a day ago
	RolloutStopped      Type = "certificate.rollout_stopped" // too many of the first devices report a failure
	DeviceLocked        Type = "device.locked"               // a spent refresh token of it was shown
	Test                Type = "webhook.test"                // sent to one endpoint, when its owner asks for it
)

// Types are those that an endpoint can want.
var Types = []Type{
	CertificateIssued, CertificateRenewed, CertificateFailed, CertificateExpiring, APIKeyExpiring, NotInstalled, RolloutStopped, DeviceLocked,
}

// Known tells whether an endpoint can want t.
func Known(t Type) bool { return slices.Contains(Types, t) }

// Event is something that happened. Its id begins with its time, so that ids sort by it.
type Event struct {
	User int64
	ID   string
	Type Type
	At   time.Time
	Body []byte // JSON, sent as it is: what is signed must not be encoded twice
}

// NewEvent makes an event of a user's. data is what its type says; it holds nothing secret.
func NewEvent(user int64, t Type, at time.Time, data any) (Event, error) {
	var chance [8]byte
	rand.Read(chance[:]) // never fails
	e := Event{User: user, ID: fmt.Sprintf("evt_%012x%s", at.UnixMilli(), hex.EncodeToString(chance[:])), Type: t, At: at}
	var err error
	e.Body, err = json.Marshal(struct {
		ID   string    `json:"id"`
		Type Type      `json:"type"`
		At   time.Time `json:"timestamp"`
		Data any       `json:"data"`
	}{e.ID, t, at.UTC().Truncate(time.Millisecond), data})
	if err != nil {
		return e, fmt.Errorf("write event %s: %w", t, err)
	}
	return e, nil
}

// Certificate is what events say of a certificate, in the words and units of its API.
type Certificate struct {
	User        int64    `json:"user_id"`
	ID          int64    `json:"id"`
	Domain      string   `json:"domain_name"`
	Names       []string `json:"sans"`
	Account     int64    `json:"acct_id"`
	Issue       int64    `json:"issue_attempt_number,omitempty"`
	Serial      string   `json:"serial_number"` // of the one in place; empty if there is none
	Fingerprint string   `json:"fingerprint_sha256"`
	NotBefore   int64    `json:"not_before"` // epoch seconds, 0 for none
	NotAfter    int64    `json:"not_after"`
	AutoRenew   bool     `json:"auto_renew"`
	DaysLeft    *int     `json:"days_left,omitempty"`
	Error       *Failure `json:"error,omitempty"`
	Devices     []int64  `json:"device_ids,omitempty"`   // that it is about; the first hundred
	DeviceCount int      `json:"device_count,omitempty"` // how many those are in all
}

// Device is what events say of a device.
type Device struct {
	User int64 `json:"user_id"`
	ID   int64 `json:"id"`
}

// Failure is why an issue failed.
type Failure struct {
	Step      string `json:"step"`
	Kind      string `json:"kind"`
	What      string `json:"what"`
	Name      string `json:"name"`
	Record    string `json:"record"`
	Permanent bool   `json:"permanent"`
}

// OfCertificate describes a certificate as it stands.
func OfCertificate(c certificate.Certificate) Certificate {
	data := Certificate{
		User: c.User, ID: c.ID, Domain: c.Domain(), Names: c.Names, Account: c.Account, Serial: c.Current.Serial, Fingerprint: c.Current.Fingerprint,
		AutoRenew: c.AutoRenew,
	}
	if c.Current.Issue > 0 {
		data.NotBefore, data.NotAfter = c.Current.NotBefore.Unix(), c.Current.NotAfter.Unix()
	}
	return data
}

// Closed is the event of an issue that has ended: c is as it stands now, had whether a certificate was in
// place before.
func Closed(c certificate.Certificate, outcome certificate.Issue, had bool) (Event, error) {
	data := OfCertificate(c)
	data.Issue = outcome.Number
	t := CertificateIssued
	switch {
	case outcome.State != certificate.Succeeded:
		t = CertificateFailed
		f := outcome.Failure
		data.Error = &Failure{string(f.Step), f.Kind, f.What, f.Name, f.Record, f.Permanent}
	case had:
		t = CertificateRenewed
	}
	return NewEvent(c.User, t, outcome.CompletedAt, data)
}

// APIKey is what events say of an API key, in the words and units of its API.
type APIKey struct {
	User      int64  `json:"user_id"`
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	ExpiresAt int64  `json:"expires_at"` // epoch milliseconds
	DaysLeft  int    `json:"days_left"`
}

// Subject is what a notice of expiry is about.
type Subject string

// The subjects.
const (
	OfCertificates Subject = "CERTIFICATE"
	OfAPIKeys      Subject = "APIKEY"
)

// Notice is the next notice that something expires.
type Notice struct {
	Subject   Subject
	User, ID  int64
	Name      string // of an API key
	ExpiresAt time.Time
	At        time.Time // when it is due
}

const day = 24 * time.Hour

// before are how long before the end a notice is given.
var before = []time.Duration{30 * day, 14 * day, 7 * day, 1 * day}

// Next is when the next notice of an expiry is to be given, after now: the zero time if there is none. What
// lives for less than a threshold never comes to it.
func Next(expires, now time.Time) time.Time {
	for _, b := range before {
		if at := expires.Add(-b); at.After(now) {
			return at
		}
	}
	return time.Time{}
}

// DaysLeft rounds what is left to whole days: a notice comes up to a minute or two after its time.
func DaysLeft(expires, now time.Time) int {
	return int(math.Round(float64(expires.Sub(now)) / float64(day)))
}
