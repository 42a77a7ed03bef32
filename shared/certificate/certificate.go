// Package certificate is the certificates that users have managed: what is asked for, what has been
// issued, and when it is due again.
//
// A certificate lives through many issues. One at a time may be open, as an Order, which the issuer works
// on; when it succeeds its chain and key become the current ones, and when it fails the current ones stay.
// A status is derived from these facts.
package certificate

import (
	"math"
	"strings"
	"time"
)

// Certificate is one managed certificate.
type Certificate struct {
	User, ID     int64
	Place        string // in the list of the user's certificates; given by the store
	AccountPlace string // in the list of the account's

	Names       []string      // DNS names; the first is the domain
	Account     int64         // at a CA; 0 for one that a private CA issued without
	CA          int64         // the private CA that issues; 0 for a public one
	DNSProvider int64         // that answers challenges; 0 for none
	KeyType     string        // of package pki; empty when the caller keeps the key
	CallersKey  bool          // the caller keeps the key, and gave a request by it
	Profile     string        // of the CA; empty for its default
	Validity    time.Duration // asked of a private CA; 0 for the profile's
	Subject     Subject

	AutoRenew bool
	Policy    Policy
	Export    bool // the server may decrypt the key for its owner
	Rollout   Rollout

	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64 // rises with each change

	Issues  int64  // how many have been tried
	Issuing int64  // number of the open one; 0 if there is none
	Current Issued // zero until one succeeds
	Failure Failure
	Tries   int       // renewals that failed one after the other
	RenewAt time.Time // when to look whether it is due; zero for never

	RevokedAt time.Time
	Reason    int // of the revocation, RFC 5280 §5.3.1
}

// Subject is what a request says of its owner besides names. Public CAs leave it out.
type Subject struct {
	Organization, Unit, Country, State, Locality string
}

// Rollout is how a renewed certificate goes to its devices: to all at once if it is zero. See device.Plan.
type Rollout struct {
	Percent  int           // of the devices that have it first
	Wait     time.Duration // before the rest has it
	Failures int           // percent of the first that may report a failure
}

// Issued is the certificate in place.
type Issued struct {
	Issue       int64 // its number; 0 for none
	Serial      string
	NotBefore   time.Time
	NotAfter    time.Time
	Fingerprint string // SHA-256 of the DER, hex
	ARI         string // its id for renewal information, RFC 9773 §4.1; empty if it has none
}

// Policy says who may have the private key.
type Policy string

// The policies of contract §7.13.
const (
	Hybrid         Policy = "HYBRID"
	MasterOnly     Policy = "MASTER_ONLY"
	DeviceRequired Policy = "DEVICE_REQUIRED"
)

// ParsePolicy reads a policy in any case; false if there is no such one.
func ParsePolicy(s string) (Policy, bool) {
	switch p := Policy(strings.ToUpper(s)); p {
	case Hybrid, MasterOnly, DeviceRequired:
		return p, true
	}
	return "", false
}

// Exportable tells whether the server may hand out the private key.
func (c Certificate) Exportable() bool { return c.Policy != DeviceRequired && c.Export }

// Domain is the name that the certificate goes by.
func (c Certificate) Domain() string { return c.Names[0] }

// Status is where a certificate stands.
type Status string

// The statuses of contract §7.11, and the ends.
const (
	Created Status = "CREATED" // nothing was ever asked of a CA
	Issuing Status = "ISSUING" // the first issue is open
	Valid   Status = "ISSUED"  // the chain in place is valid; a renewal may be open
	Failed  Status = "FAILED"  // the last issue failed and there is no chain
	Expired Status = "EXPIRED"
	Revoked Status = "REVOKED"
)

// Status derives it from what has happened.
func (c Certificate) Status(now time.Time) Status {
	switch {
	case c.Current.Issue > 0 && !c.RevokedAt.IsZero():
		return Revoked
	case c.Current.Issue > 0 && !now.Before(c.Current.NotAfter):
		return Expired
	case c.Current.Issue > 0:
		return Valid
	case c.Issuing > 0:
		return Issuing
	case !c.Failure.At.IsZero():
		return Failed
	}
	return Created
}

// Failure is why an issue failed, or waits.
type Failure struct {
	At        time.Time
	Step      Step
	Kind      string    // the CA's or our own word for it, such as caa or propagation
	What      string    // a sentence for people
	Name      string    // the failing name; empty if it is about all
	Record    string    // the TXT record that it is about; empty for none
	Permanent bool      // trying again is of no use before somebody changes something, or before RetryAt
	RetryAt   time.Time // before which the CA wants no other try; zero if it does not say
}

// Limited tells whether the CA wants no other try at now.
func (f Failure) Limited(now time.Time) bool { return now.Before(f.RetryAt) }

// Revoke notes that the certificate in place is revoked. Whoever revokes it says when there is to be another.
func (c *Certificate) Revoke(reason int, now time.Time) {
	c.RevokedAt, c.Reason, c.UpdatedAt, c.RenewAt = now, reason, now, time.Time{}
}

// Shares of a certificate's lifetime after which it is due, where the CA does not say when.
const (
	shortLived      = 10 * 24 * time.Hour
	dueAfter        = 2.0 / 3
	shortDueAfter   = 1.0 / 2
	spread          = 0.05 // of the lifetime: renewals of what was issued together part
	FirstRetry      = time.Hour
	longestRetry    = 24 * time.Hour
	retriesInWindow = 8
	maxFirstTries   = 8
)

// DueAt is when an issued certificate is to be renewed if the CA does not say: after two thirds of its
// lifetime, after half when that is 10 days or less, and earlier by up to a twentieth of it. chance is
// random, 0 ≤ chance < 1.
func (i Issued) DueAt(chance float64) time.Time {
	lifetime := i.NotAfter.Sub(i.NotBefore)
	share := dueAfter
	if lifetime <= shortLived {
		share = shortDueAfter
	}
	return i.NotBefore.Add(time.Duration(float64(lifetime) * (share - spread*chance)))
}

// RetryAt is when a renewal that failed is tried again: after an hour, then twice as long each time, up to
// a day, and always so that several tries fit into what is left; but not before the CA wants it. The zero time is
// never: of a first issue whose failure does not pass, or has not in several days.
func (c Certificate) RetryAt(now time.Time, chance float64) time.Time {
	if c.Current.Issue == 0 && (c.Failure.Permanent || c.Tries > maxFirstTries) {
		return c.Failure.RetryAt
	}
	wait := min(longestRetry, FirstRetry<<min(max(c.Tries-1, 0), 5))
	if left := c.Current.NotAfter.Sub(now); left > 0 {
		wait = min(wait, max(left/retriesInWindow, time.Minute))
	}
	at := now.Add(time.Duration(float64(wait) * (1 + 0.2*chance)))
	if at.Before(c.Failure.RetryAt) {
		return c.Failure.RetryAt
	}
	return at
}

// Backoff is the wait before an order's next try: 5 seconds, doubled with each that passed without
// progress, up to 15 minutes, and up to a half more by chance.
func Backoff(tries int, chance float64) time.Duration {
	wait := min(15*time.Minute, time.Duration(float64(5*time.Second)*math.Pow(2, float64(min(max(tries-1, 0), 10)))))
	return time.Duration(float64(wait) * (1 + chance/2))
}

// Issue is one attempt in a certificate's history.
type Issue struct {
	ID          int64
	Certificate int64
	Number      int64 // 1 is the first
	State       IssueState
	Order       string // URL at the CA
	Serial      string
	NotAfter    time.Time
	StartedAt   time.Time
	CompletedAt time.Time // zero while open
	Failure     Failure
}

// IssueState is the outcome of an issue, contract §7.8.
type IssueState string

// The outcomes.
const (
	InProgress IssueState = "PROCESSING"
	Succeeded  IssueState = "SUCCESS"
	Unissued   IssueState = "FAILED"
)

// LookEvery is how often a CA is asked when to renew, if it does not say how often it wants to be asked.
const LookEvery = 24 * time.Hour

// FirstLook is when an issued certificate is first looked at: the CA is asked within a day, and a short-lived
// certificate is due before that. However much of its lifetime is over when it is issued, a third of what is left
// passes first, and a minute: a certificate is not issued again and again. Zero if it has ended.
func (i Issued) FirstLook(now time.Time, chance float64) time.Time {
	if !i.NotAfter.After(now) { // there is nothing to be renewed in time
		return time.Time{}
	}
	due := i.DueAt(chance)
	if soonest := now.Add(max(i.NotAfter.Sub(now)/3, time.Minute)); due.Before(soonest) {
		due = soonest
	}
	if i.ARI == "" {
		return due
	}
	look := now.Add(time.Duration(float64(LookEvery) * (1 - chance/4)))
	if look.Before(due) {
		return look
	}
	return due
}

// ByWindow is what to do with the CA's window (RFC 9773 §4.2): a time in it is drawn; if that comes before
// the next time the CA would be asked, it is the time to renew, and otherwise the CA is asked again then. A
// time that is past means now. However the CA puts it, a certificate is renewed before its last tenth.
func (i Issued) ByWindow(start, end time.Time, askAfter time.Duration, now time.Time, chance float64) time.Time {
	drawn := start.Add(time.Duration(float64(end.Sub(start)) * chance))
	if last := i.NotAfter.Add(-i.NotAfter.Sub(i.NotBefore) / 10); drawn.After(last) {
		drawn = last
	}
	if !drawn.After(now) {
		return now
	}
	if askAfter == 0 {
		askAfter = LookEvery
	}
	ask := now.Add(min(max(askAfter, time.Hour), LookEvery))
	if ask.Before(drawn) {
		return ask
	}
	return drawn
}
