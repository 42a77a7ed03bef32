// Package record is the certificate record, as every function that answers with a certificate shows it (contract
// §7.1).
package record

import (
	"fmt"
	"time"

	"cjj365.cc/bb/shared/certificate"
)

// Certificate is a certificate as the API shows it (contract §7.1). Times are epoch seconds, 0 for none.
type Certificate struct {
	ID           int64    `json:"id"`
	User         int64    `json:"user_id"`
	PublicID     string   `json:"public_id"`
	Domain       string   `json:"domain_name"`
	Names        []string `json:"sans"`
	Account      int64    `json:"acct_id"`
	DNSProvider  int64    `json:"dns_provider_id" doc:"0 for none."`
	Status       string   `json:"status" enum:"CREATED,ISSUING,ISSUED,FAILED,EXPIRED,REVOKED"`
	Verified     bool     `json:"verified" doc:"A certificate has been issued."`
	SelfSigned   bool     `json:"self_signed" doc:"By a private CA."`
	CA           int64    `json:"ca_id" doc:"The private CA; 0 for a public one."`
	Validity     int64    `json:"validity_seconds" doc:"Asked of a private CA; 0 for its profile's."`
	Serial       string   `json:"serial_number" doc:"Hexadecimal; empty until issued."`
	Fingerprint  string   `json:"fingerprint_sha256"`
	NotBefore    int64    `json:"not_before"`
	NotAfter     int64    `json:"not_after"`
	AutoRenew    bool     `json:"auto_renew"`
	RenewAt      int64    `json:"renew_at" doc:"When it is next looked whether it is due; 0 for never."`
	KeyType      string   `json:"key_type" doc:"Empty if you keep the key."`
	Profile      string   `json:"profile" doc:"Of the CA; empty for its default."`
	Policy       string   `json:"key_dist_policy" enum:"HYBRID,MASTER_ONLY,DEVICE_REQUIRED"`
	Export       bool     `json:"server_decrypt_export"`
	Rollout      Rollout  `json:"rollout"`
	Organization string   `json:"organization"`
	Unit         string   `json:"organizational_unit"`
	Country      string   `json:"country"`
	State        string   `json:"state"`
	Locality     string   `json:"locality"`
	RevokedAt    int64    `json:"revoked_at"`
	CreatedAt    int64    `json:"created_at"`
	UpdatedAt    int64    `json:"updated_at"`
	Cert         string   `json:"cert" doc:"PEM, the leaf first; only with detail=most."`
	CSR          string   `json:"csr" doc:"PEM, if you keep the key; only with detail=most."`
	// Agents take der for the private key. It is never here.
	DER      string `json:"der" doc:"Always empty."`
	DHParam  string `json:"dhparam" doc:"Always empty."`
	Orders   string `json:"orders" doc:"Always empty."`
	Attempts int64  `json:"issue_attempts"`

	Progress *Progress     `json:"progress,omitempty" doc:"The open issue; absent if there is none."`
	Failure  *IssueFailure `json:"last_error,omitempty" doc:"Why the last issue failed; absent if it did not."`
}

// Rollout is how a renewed certificate goes to its devices.
type Rollout struct {
	Percent  int `json:"percent" minimum:"1" maximum:"100" doc:"Of the devices that have it first; 100 for all at once."`
	Seconds  int `json:"wait_seconds" minimum:"0" maximum:"2592000" doc:"Before the rest has it."`
	Failures int `json:"max_failures_percent" minimum:"0" maximum:"100" doc:"Of the first devices may report that they could not install it; beyond, the rest keep what they have."`
}

func rolloutOf(r certificate.Rollout) Rollout {
	if r.Percent == 0 {
		r.Percent = 100
	}
	return Rollout{r.Percent, int(r.Wait / time.Second), r.Failures}
}

// Progress is how far an open issue is.
type Progress struct {
	Attempt   int64         `json:"issue_attempt_number"`
	Step      string        `json:"step" enum:"account,order,present,propagate,validate,finalize,download"`
	StartedAt int64         `json:"started_at"`
	Tries     int           `json:"tries" doc:"Since it last got on."`
	NextTry   int64         `json:"next_try_at" doc:"When it is taken up again, at the latest: while a worker has it, when another may."`
	Failure   *IssueFailure `json:"waits_for,omitempty" doc:"What it waits for, such as what the last try failed for; absent if for nothing."`
}

// IssueFailure is why an issue failed or waits.
type IssueFailure struct {
	At        int64  `json:"at"`
	Step      string `json:"step"`
	Kind      string `json:"kind" doc:"The CA's word (RFC 8555 §6.7), such as caa or rateLimited, or dns-provider, propagation, internal."`
	What      string `json:"what"`
	Name      string `json:"name" doc:"The failing name; empty if it is about all."`
	Record    string `json:"record" doc:"The TXT record that it is about; empty for none."`
	Permanent bool   `json:"permanent" doc:"Trying again is of no use before something is changed, or before retry_at."`
	RetryAt   int64  `json:"retry_at" doc:"Before which the CA wants no other try; 0 if it does not say."`
}

// Of is the record of a certificate.
func Of(c certificate.Certificate, now time.Time) Certificate {
	return Certificate{
		ID: c.ID, User: c.User, PublicID: fmt.Sprintf("cert-%d", c.ID), Domain: c.Domain(), Names: c.Names, Account: c.Account, DNSProvider: c.DNSProvider,
		Status: string(c.Status(now)), Verified: c.Current.Issue > 0, SelfSigned: c.CA != 0, CA: c.CA, Validity: int64(c.Validity / time.Second),
		Serial: c.Current.Serial, Fingerprint: c.Current.Fingerprint, NotBefore: Seconds(c.Current.NotBefore), NotAfter: Seconds(c.Current.NotAfter),
		AutoRenew: c.AutoRenew, RenewAt: Seconds(c.RenewAt), KeyType: c.KeyType, Profile: c.Profile, Policy: string(c.Policy), Export: c.Export, Rollout: rolloutOf(c.Rollout),
		Organization: c.Subject.Organization, Unit: c.Subject.Unit, Country: c.Subject.Country, State: c.Subject.State, Locality: c.Subject.Locality,
		RevokedAt: Seconds(c.RevokedAt), CreatedAt: Seconds(c.CreatedAt), UpdatedAt: Seconds(c.UpdatedAt), Attempts: c.Issues, Failure: FailureOf(c.Failure),
	}
}

// ProgressOf is how far an order is.
func ProgressOf(o certificate.Order) *Progress {
	next := o.NextAt
	if o.LeaseEnds.After(next) {
		next = o.LeaseEnds
	}
	return &Progress{
		Attempt: o.Issue, Step: string(o.Step), StartedAt: Seconds(o.StartedAt), Tries: o.Tries, NextTry: Seconds(next), Failure: FailureOf(o.Last),
	}
}

// FailureOf is a failure as it is shown; nil for none.
func FailureOf(f certificate.Failure) *IssueFailure {
	if f.At.IsZero() {
		return nil
	}
	return &IssueFailure{f.At.Unix(), string(f.Step), f.Kind, f.What, f.Name, f.Record, f.Permanent, Seconds(f.RetryAt)}
}

// Seconds is a time in epoch seconds, 0 for none.
func Seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
