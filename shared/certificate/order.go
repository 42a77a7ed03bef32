package certificate

import (
	"time"

	"cjj365.cc/bb/shared/sealed"
)

// Step is what an open issue is at.
type Step string

// The steps of an issue, in their order. Where the CA knows better than what was stored, the CA is
// believed: the step says what to tell people, the order's status at the CA says what to do.
const (
	AtAccount   Step = "account"   // the account is registered
	AtOrder     Step = "order"     // the key is made, and then the order opened
	AtPresent   Step = "present"   // TXT records are set
	AtPropagate Step = "propagate" // they are waited for at the zone's nameservers
	AtValidate  Step = "validate"  // the CA checks them
	AtFinalize  Step = "finalize"  // the request is handed in
	AtDownload  Step = "download"  // the chain is fetched, checked and stored
)

// Order is an issue in progress. It is stored before each step is taken, so that another process goes on
// where one was killed.
type Order struct {
	User, Certificate int64
	Issue             int64 // its number
	IssueID           int64
	StartedAt         time.Time

	Step Step
	// Asked is set before the CA is asked for an order, URL after. With the one and without the other, the
	// answer was lost: the order is looked for before another one is opened.
	Asked    bool
	URL      string
	Replaces string // ARI id of the certificate that this one takes the place of
	Key      sealed.Secret
	Serial   string // that a private CA is to sign under; empty before that is drawn
	// Records are the TXT records that have been set, or were about to be, and are not yet removed.
	Records []Record

	Orders int       // that were opened at the CA before this one and given up by it
	Tries  int       // since it last got on
	NextAt time.Time // not to be touched before
	Last   Failure   // why it waits; zero if it does not
	Waits  time.Time // since when it waits for records to be seen, or for the CA; zero if it does not

	Lease     string    // who works on it
	LeaseEnds time.Time // then somebody else may
}

// NewOrder is an issue as it is opened; the store says for which certificate. replaces is the ARI id of the
// certificate that it takes the place of, empty for none.
func NewOrder(issueID int64, replaces string, now time.Time) Order {
	return Order{IssueID: issueID, StartedAt: now, NextAt: now, Step: AtAccount, Replaces: replaces}
}

// Record is a dns-01 response at a DNS provider.
type Record struct {
	Name     string `dynamodbav:"name"`     // that is validated, without a wildcard's asterisk
	KeyAuth  string `dynamodbav:"key_auth"` // key authorization, whose digest is the record's value
	Provider int64  `dynamodbav:"provider"` // where it is: the certificate may have another by now
	Set      bool   `dynamodbav:"set"`      // known to be there; without that it may be
	Seen     bool   `dynamodbav:"seen"`     // at the zone's nameservers
}

// LeaseFor is how long a worker has an order for itself. It renews the lease with each thing it stores,
// and the function that it runs in is over before it ends.
const LeaseFor = 6 * time.Minute

// MaxOrders is how many orders an issue may open, one after the other. The CA gives an order up when it cannot
// see one record, and counts it: Let's Encrypt lets an account fail five times an hour for a name.
const MaxOrders = 3

// MaxAge is how long an issue may be open.
const MaxAge = 24 * time.Hour

// MaxTries is how often an order is tried without getting on before it fails for good.
const MaxTries = 12
