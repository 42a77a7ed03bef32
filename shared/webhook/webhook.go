// Package webhook is notices that are sent to URLs of users' choice: what happened, to whom it is sent,
// and how a delivery is signed and tried again.
//
// An Event is written in the transaction that makes it true. For each Endpoint that wants it there is one
// Delivery. Deliveries come at least once and in any order: a receiver knows an event by its id.
//
// A request is signed as Standard Webhooks 1.0 has it: the headers webhook-id, webhook-timestamp (seconds)
// and webhook-signature, which holds "v1," and the base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>",
// for each of the endpoint's secrets, separated by spaces. A receiver refuses a timestamp that is more than
// Tolerance away. No event holds a private key, a token or a secret.
package webhook

import (
	"slices"
	"time"

	"cjj365.cc/bb/shared/sealed"
)

// MaxPerUser is how many endpoints a user may have.
const MaxPerUser = 20

// Endpoint is a URL that a user wants notices sent to.
type Endpoint struct {
	User, ID int64
	Name     string
	URL      string
	Types    []Type // that it wants; empty for all
	Secret   sealed.Secret
	// Previous is the secret before a roll. Deliveries are signed by both until PreviousEnds, so that a
	// receiver changes over when it likes.
	Previous     sealed.Secret
	PreviousEnds time.Time
	Disabled     string // why nothing is sent; empty if it is
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// SecretOverlap is how long the secret before a roll goes on to sign.
const SecretOverlap = 24 * time.Hour

// The reasons for which an endpoint is disabled.
const (
	ByOwner = "owner"
	Gone    = "gone" // the receiver answered 410
)

// Wants tells whether events of a type are sent to the endpoint.
func (e Endpoint) Wants(t Type) bool {
	return e.Disabled == "" && (len(e.Types) == 0 || slices.Contains(e.Types, t))
}

// EventsKept is how long an event and its deliveries can be seen and replayed.
const EventsKept = 30 * 24 * time.Hour

// Delivery is an event on its way to an endpoint.
type Delivery struct {
	User, Endpoint int64
	Event          string // id
	Type           Type
	CreatedAt      time.Time
	Since          time.Time // when the tries began: at its creation or the last replay
	Attempts       int64
	LastAt         time.Time // of an attempt; zero before the first
	StatusCode     int       // of the last answer; 0 for none
	Error          string    // why the last attempt failed, a sentence; empty if it did not
	DeliveredAt    time.Time
	NextAt         time.Time // of the next attempt, or when another worker may take over; zero when it has ended
}

// State is where a delivery stands.
type State string

// The states.
const (
	Pending   State = "pending"
	Delivered State = "delivered"
	Failed    State = "failed"
)

// State derives it from what has happened.
func (d Delivery) State() State {
	switch {
	case !d.DeliveredAt.IsZero():
		return Delivered
	case !d.NextAt.IsZero():
		return Pending
	}
	return Failed
}

// GiveUpAfter is how long a delivery is tried.
const GiveUpAfter = 3 * 24 * time.Hour

// The waits between two tries.
const (
	firstWait   = 30 * time.Second
	longestWait = 8 * time.Hour
)

// Wait is how long to wait for the next try: as long as it has been tried already, from 30 seconds to 8
// hours, and up to a fifth more by chance (0 ≤ chance < 1). So tries come after 30 s, 1 min, 2 min and on,
// twice as late each time, whether or not one could be made in between.
func Wait(tried time.Duration, chance float64) time.Duration {
	wait := min(max(tried, firstWait), longestWait)
	return wait + time.Duration(float64(wait)*0.2*chance)
}

// Succeed ends a delivery with the status that it was answered.
func (d *Delivery) Succeed(status int, now time.Time) {
	d.StatusCode, d.Error, d.DeliveredAt, d.NextAt = status, "", now, time.Time{}
}

// End ends a delivery for good, without success.
func (d *Delivery) End(status int, why string) {
	d.StatusCode, d.Error, d.NextAt = status, why, time.Time{}
}

// Fail notes an attempt without success, or that none could be made, and when the next is to be. After
// GiveUpAfter there is none, and never one of a test: who asked for it sees why.
func (d *Delivery) Fail(status int, why string, now time.Time, chance float64) {
	d.End(status, why)
	next := now.Add(Wait(now.Sub(d.Since), chance))
	if d.Type != Test && next.Before(d.Since.Add(GiveUpAfter)) {
		d.NextAt = next
	}
}

// LeaseFor is how long a worker has a delivery for itself: longer than an attempt takes.
const LeaseFor = time.Minute
