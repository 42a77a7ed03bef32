package store

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
)

// certificateItem is a certificate without its chain and key, so that a page of a list is small.
type certificateItem struct {
	PK          string      `dynamodbav:"pk"`
	SK          string      `dynamodbav:"sk"`
	List        string      `dynamodbav:"list"`              // place among the user's certificates
	Sublist     string      `dynamodbav:"sublist,omitempty"` // place among the account's
	User        int64       `dynamodbav:"user_id"`
	ID          int64       `dynamodbav:"id"`
	Names       []string    `dynamodbav:"names"`
	Account     int64       `dynamodbav:"account"`
	CA          int64       `dynamodbav:"ca,omitempty"`
	Validity    int64       `dynamodbav:"validity,omitempty"` // seconds
	DNSProvider int64       `dynamodbav:"dns_provider,omitempty"`
	KeyType     string      `dynamodbav:"key_type,omitempty"`
	CallersKey  bool        `dynamodbav:"callers_key,omitempty"`
	Profile     string      `dynamodbav:"profile,omitempty"`
	Subject     subjectItem `dynamodbav:"subject,omitempty"`
	AutoRenew   bool        `dynamodbav:"auto_renew"`
	Policy      string      `dynamodbav:"policy"`
	Export      bool        `dynamodbav:"export"`
	Rollout     stagesItem  `dynamodbav:"rollout,omitempty"`
	CreatedAt   int64       `dynamodbav:"created_at"`
	UpdatedAt   int64       `dynamodbav:"updated_at"`
	Revision    int64       `dynamodbav:"revision"`
	Issues      int64       `dynamodbav:"issues"`
	Issuing     int64       `dynamodbav:"issuing"`
	Current     issuedItem  `dynamodbav:"current,omitempty"`
	Failure     failureItem `dynamodbav:"failure,omitempty"`
	Tries       int         `dynamodbav:"tries,omitempty"`
	Due         string      `dynamodbav:"due,omitempty"` // RENEWAL when it is to be looked at, at due_at
	DueAt       int64       `dynamodbav:"due_at,omitempty"`
	RevokedAt   int64       `dynamodbav:"revoked_at,omitempty"`
	Reason      int         `dynamodbav:"reason,omitempty"`
}

// stagesItem is how a renewed certificate goes to its devices.
type stagesItem struct {
	Percent  int   `dynamodbav:"percent,omitempty"`
	Wait     int64 `dynamodbav:"wait,omitempty"` // seconds
	Failures int   `dynamodbav:"failures,omitempty"`
}

type subjectItem struct {
	Organization string `dynamodbav:"o,omitempty"`
	Unit         string `dynamodbav:"ou,omitempty"`
	Country      string `dynamodbav:"c,omitempty"`
	State        string `dynamodbav:"st,omitempty"`
	Locality     string `dynamodbav:"l,omitempty"`
}

type issuedItem struct {
	Issue       int64  `dynamodbav:"issue,omitempty"`
	Serial      string `dynamodbav:"serial,omitempty"`
	NotBefore   int64  `dynamodbav:"not_before,omitempty"`
	NotAfter    int64  `dynamodbav:"not_after,omitempty"`
	Fingerprint string `dynamodbav:"fingerprint,omitempty"`
	ARI         string `dynamodbav:"ari,omitempty"`
}

type failureItem struct {
	At        int64  `dynamodbav:"at,omitempty"`
	Step      string `dynamodbav:"step,omitempty"`
	Kind      string `dynamodbav:"kind,omitempty"`
	What      string `dynamodbav:"what,omitempty"`
	Name      string `dynamodbav:"name,omitempty"`
	Record    string `dynamodbav:"record,omitempty"`
	Permanent bool   `dynamodbav:"permanent,omitempty"`
	RetryAt   int64  `dynamodbav:"retry_at,omitempty"`
}

func newFailureItem(f certificate.Failure) failureItem {
	return failureItem{milliseconds(f.At), string(f.Step), f.Kind, f.What, f.Name, f.Record, f.Permanent, milliseconds(f.RetryAt)}
}

func (it failureItem) failure() certificate.Failure {
	return certificate.Failure{
		At: instant(it.At), Step: certificate.Step(it.Step), Kind: it.Kind, What: it.What, Name: it.Name, Record: it.Record, Permanent: it.Permanent,
		RetryAt: instant(it.RetryAt),
	}
}

const renewalDue, orderDue = "RENEWAL", "ORDER"

func newCertificateItem(c certificate.Certificate) certificateItem {
	at := certificateKey(c.User, c.ID)
	it := certificateItem{
		PK: at.pk, SK: at.sk, List: c.Place, Sublist: c.AccountPlace,
		User: c.User, ID: c.ID, Names: c.Names, Account: c.Account, CA: c.CA, Validity: int64(c.Validity / time.Second), DNSProvider: c.DNSProvider, KeyType: c.KeyType, CallersKey: c.CallersKey, Profile: c.Profile,
		Subject:   subjectItem(c.Subject),
		AutoRenew: c.AutoRenew, Policy: string(c.Policy), Export: c.Export,
		Rollout:   stagesItem{c.Rollout.Percent, int64(c.Rollout.Wait / time.Second), c.Rollout.Failures},
		CreatedAt: milliseconds(c.CreatedAt), UpdatedAt: milliseconds(c.UpdatedAt), Revision: c.Revision,
		Issues: c.Issues, Issuing: c.Issuing,
		Current: issuedItem{
			c.Current.Issue, c.Current.Serial, milliseconds(c.Current.NotBefore), milliseconds(c.Current.NotAfter), c.Current.Fingerprint, c.Current.ARI,
		},
		Failure: newFailureItem(c.Failure), Tries: c.Tries, RevokedAt: milliseconds(c.RevokedAt), Reason: c.Reason,
	}
	if !c.RenewAt.IsZero() {
		it.Due, it.DueAt = renewalDue, milliseconds(c.RenewAt)
	}
	return it
}

func (it certificateItem) certificate() certificate.Certificate {
	return certificate.Certificate{
		User: it.User, ID: it.ID, Place: it.List, AccountPlace: it.Sublist,
		Names: it.Names, Account: it.Account, CA: it.CA, Validity: time.Duration(it.Validity) * time.Second, DNSProvider: it.DNSProvider, KeyType: it.KeyType, CallersKey: it.CallersKey, Profile: it.Profile,
		Subject:   certificate.Subject(it.Subject),
		AutoRenew: it.AutoRenew, Policy: certificate.Policy(it.Policy), Export: it.Export,
		Rollout:   certificate.Rollout{Percent: it.Rollout.Percent, Wait: time.Duration(it.Rollout.Wait) * time.Second, Failures: it.Rollout.Failures},
		CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt), Revision: it.Revision,
		Issues: it.Issues, Issuing: it.Issuing,
		Current: certificate.Issued{
			Issue: it.Current.Issue, Serial: it.Current.Serial, NotBefore: instant(it.Current.NotBefore), NotAfter: instant(it.Current.NotAfter),
			Fingerprint: it.Current.Fingerprint, ARI: it.Current.ARI,
		},
		Failure: it.Failure.failure(), Tries: it.Tries, RenewAt: instant(it.DueAt), RevokedAt: instant(it.RevokedAt), Reason: it.Reason,
	}
}

// issueItem is one attempt. It lapses after issueKept.
type issueItem struct {
	PK          string      `dynamodbav:"pk"`
	SK          string      `dynamodbav:"sk"`
	ID          int64       `dynamodbav:"id"`
	Certificate int64       `dynamodbav:"certificate"`
	Number      int64       `dynamodbav:"number"`
	State       string      `dynamodbav:"state"`
	Order       string      `dynamodbav:"order_url,omitempty"`
	Serial      string      `dynamodbav:"serial,omitempty"`
	NotAfter    int64       `dynamodbav:"not_after,omitempty"`
	StartedAt   int64       `dynamodbav:"started_at"`
	CompletedAt int64       `dynamodbav:"completed_at,omitempty"`
	Failure     failureItem `dynamodbav:"failure,omitempty"`
	TTL         int64       `dynamodbav:"ttl"`
}

const issueKept = 2 * 365 * 24 * time.Hour

func newIssueItem(i certificate.Issue) issueItem {
	at := issueKey(i.Certificate, i.Number)
	return issueItem{
		PK: at.pk, SK: at.sk, ID: i.ID, Certificate: i.Certificate, Number: i.Number, State: string(i.State), Order: i.Order, Serial: i.Serial,
		NotAfter: milliseconds(i.NotAfter), StartedAt: milliseconds(i.StartedAt), CompletedAt: milliseconds(i.CompletedAt),
		Failure: newFailureItem(i.Failure), TTL: i.StartedAt.Add(issueKept).Unix(),
	}
}

func (it issueItem) issue() certificate.Issue {
	return certificate.Issue{
		ID: it.ID, Certificate: it.Certificate, Number: it.Number, State: certificate.IssueState(it.State), Order: it.Order, Serial: it.Serial,
		NotAfter: instant(it.NotAfter), StartedAt: instant(it.StartedAt), CompletedAt: instant(it.CompletedAt), Failure: it.Failure.failure(),
	}
}

// requestItem is the certification request of a caller who keeps the key. It is large, and so no part of the
// certificate that lists show.
type requestItem struct {
	PK  string `dynamodbav:"pk"`
	SK  string `dynamodbav:"sk"`
	DER []byte `dynamodbav:"der"` // PKCS#10
}

// materialItem is the chain and the sealed key of an issue that succeeded.
type materialItem struct {
	PK    string        `dynamodbav:"pk"`
	SK    string        `dynamodbav:"sk"`
	Chain []byte        `dynamodbav:"chain"` // PEM, the leaf first
	Key   sealed.Secret `dynamodbav:"key"`
}

// Material is what an issue gave.
type Material struct {
	Chain []byte        // PEM, the leaf first
	Key   sealed.Secret // PKCS#8, DER; empty when the caller keeps the key
}

// orderItem is an open issue.
type orderItem struct {
	PK          string               `dynamodbav:"pk"`
	SK          string               `dynamodbav:"sk"`
	User        int64                `dynamodbav:"user_id"`
	Certificate int64                `dynamodbav:"certificate"`
	Issue       int64                `dynamodbav:"issue"`
	IssueID     int64                `dynamodbav:"issue_id"`
	StartedAt   int64                `dynamodbav:"started_at"`
	Step        string               `dynamodbav:"step"`
	Asked       bool                 `dynamodbav:"asked"`
	URL         string               `dynamodbav:"url,omitempty"`
	Replaces    string               `dynamodbav:"replaces,omitempty"`
	Key         sealed.Secret        `dynamodbav:"key"`
	Serial      string               `dynamodbav:"serial,omitempty"`
	Records     []certificate.Record `dynamodbav:"records,omitempty"`
	Orders      int                  `dynamodbav:"orders,omitempty"`
	Tries       int                  `dynamodbav:"tries"`
	NextAt      int64                `dynamodbav:"next_at"`
	Waits       int64                `dynamodbav:"waits,omitempty"`
	Last        failureItem          `dynamodbav:"last,omitempty"`
	Lease       string               `dynamodbav:"lease,omitempty"`
	LeaseEnds   int64                `dynamodbav:"lease_ends"` // 0 without one
	Due         string               `dynamodbav:"due"`
	DueAt       int64                `dynamodbav:"due_at"`
}

func newOrderItem(o certificate.Order) orderItem {
	at := orderKey(o.Certificate)
	it := orderItem{
		PK: at.pk, SK: at.sk, User: o.User, Certificate: o.Certificate, Issue: o.Issue, IssueID: o.IssueID, StartedAt: milliseconds(o.StartedAt),
		Step: string(o.Step), Asked: o.Asked, URL: o.URL, Replaces: o.Replaces, Key: o.Key, Serial: o.Serial, Records: o.Records,
		Orders: o.Orders, Tries: o.Tries, NextAt: milliseconds(o.NextAt), Waits: milliseconds(o.Waits), Last: newFailureItem(o.Last), Lease: o.Lease, LeaseEnds: milliseconds(o.LeaseEnds), Due: orderDue,
	}
	it.DueAt = max(it.NextAt, it.LeaseEnds)
	return it
}

func (it orderItem) order() certificate.Order {
	return certificate.Order{
		User: it.User, Certificate: it.Certificate, Issue: it.Issue, IssueID: it.IssueID, StartedAt: instant(it.StartedAt),
		Step: certificate.Step(it.Step), Asked: it.Asked, URL: it.URL, Replaces: it.Replaces, Key: it.Key, Serial: it.Serial, Records: it.Records,
		Orders: it.Orders, Tries: it.Tries, NextAt: instant(it.NextAt), Waits: instant(it.Waits), Last: it.Last.failure(), Lease: it.Lease, LeaseEnds: instant(it.LeaseEnds),
	}
}

// NextCertificateID gives an id that no certificate has had.
func (s *Store) NextCertificateID(ctx context.Context) (int64, error) {
	return s.next(ctx, "certificate")
}

// CreateCertificate stores a certificate and takes its place in the user's and the account's lists; csr is the
// request (PKCS#10, DER) of a caller who keeps the key. With open, its first issue is opened in the same
// transaction. problem.NotFound if the account, the CA or the DNS provider does not exist, ErrConflict if the idempotency record does, and ErrNameTaken if the account has a
// certificate for the domain. A crash before the transaction leaves an unused id and gaps in the lists.
func (s *Store) CreateCertificate(ctx context.Context, c certificate.Certificate, csr []byte, open *certificate.Order, once *Idempotency) (certificate.Certificate, error) {
	var err error
	if c.Place, err = s.place(ctx, certificateList(c.User)); err != nil {
		return c, err
	}
	if c.Account != 0 {
		if c.AccountPlace, err = s.place(ctx, accountCertificateList(c.User, c.Account)); err != nil {
			return c, err
		}
	}
	var opened []types.TransactWriteItem
	if open != nil {
		if opened, err = s.opening(&c, open); err != nil {
			return c, err
		}
	}
	stored, err := put(s.resources, newCertificateItem(c), absent)
	if err != nil {
		return c, err
	}
	// A private CA issues for a name as often as it is asked; an account has one certificate for each.
	items := []types.TransactWriteItem{stored, s.use(caKey(c.User, c.CA), 1)}
	ofCA, ofClaim, ofAccount, ofProvider := 1, -1, -1, 3
	if c.Account != 0 {
		claimed, err := put(s.resources, claim(nameClaimKey(c), c.User), absent)
		if err != nil {
			return c, err
		}
		items = []types.TransactWriteItem{stored, claimed, s.use(accountKey(c.User, c.Account), 1)}
		ofCA, ofClaim, ofAccount = -1, 1, 2
	}
	if c.DNSProvider != 0 {
		ofProvider = len(items)
		items = append(items, s.use(dnsProviderKey(c.User, c.DNSProvider), 1))
	}
	for l, place := range placesOf(c) {
		entered, err := s.enter(l, place)
		if err != nil {
			return c, err
		}
		items = append(items, entered...)
	}
	items = append(items, opened...)
	owner := certificateOwnerKey(c.ID)
	owned, err := put(s.resources, certificateOwnerItem{owner.pk, owner.sk, c.User}, absent)
	if err != nil {
		return c, err
	}
	items = append(items, owned)
	if c.CallersKey {
		at := requestKey(c.ID)
		request, err := put(s.resources, requestItem{PK: at.pk, SK: at.sk, DER: csr}, absent)
		if err != nil {
			return c, err
		}
		items = append(items, request)
	}
	items, err = once.beside(items, s.resources)
	if err != nil {
		return c, err
	}
	ofRecord := len(items) - 1
	failed, err := s.transact(ctx, "create certificate", items)
	switch {
	case err != nil || len(failed) == 0:
		return c, err
	case once != nil && slices.Contains(failed, ofRecord): // before the name, which the same request has taken
		return c, ErrConflict
	case slices.Contains(failed, ofCA):
		return c, problem.NotFound.New("There is no CA %d.", c.CA)
	case slices.Contains(failed, ofAccount):
		return c, problem.NotFound.New("There is no ACME account %d.", c.Account)
	case c.DNSProvider != 0 && slices.Contains(failed, ofProvider):
		return c, problem.NotFound.New("There is no DNS provider %d.", c.DNSProvider)
	case slices.Contains(failed, ofClaim):
		return c, ErrNameTaken
	}
	return c, ErrConflict
}

// placesOf is the lists that a certificate stands in, and its place in each.
func placesOf(c certificate.Certificate) iter.Seq2[list, string] {
	return func(yield func(list, string) bool) {
		_ = yield(certificateList(c.User), c.Place) && c.Account != 0 && yield(accountCertificateList(c.User, c.Account), c.AccountPlace)
	}
}

// use counts what uses a thing that must exist, so that a thing in use is not deleted.
func (s *Store) use(at key, change int64) types.TransactWriteItem {
	return types.TransactWriteItem{Update: &types.Update{
		TableName: &s.resources, Key: at.attributes(), UpdateExpression: aws.String("ADD uses :change"),
		ConditionExpression: aws.String(present), ExpressionAttributeValues: map[string]types.AttributeValue{":change": number(change)},
	}}
}

// opening is what opens an issue beside the certificate, whose facts it changes.
func (s *Store) opening(c *certificate.Certificate, o *certificate.Order) ([]types.TransactWriteItem, error) {
	c.Issues++
	c.Issuing, c.RenewAt = c.Issues, time.Time{}
	o.User, o.Certificate, o.Issue = c.User, c.ID, c.Issues
	order, err := put(s.resources, newOrderItem(*o), absent)
	if err != nil {
		return nil, err
	}
	issue, err := put(s.resources, newIssueItem(certificate.Issue{
		ID: o.IssueID, Certificate: c.ID, Number: c.Issues, State: certificate.InProgress, StartedAt: o.StartedAt,
	}), "")
	if err != nil {
		return nil, err
	}
	return []types.TransactWriteItem{order, issue}, nil
}

// NextIssueID gives an id that no issue has had.
func (s *Store) NextIssueID(ctx context.Context) (int64, error) { return s.next(ctx, "issue") }

// Certificate reads one certificate; ErrNotFound if the user has none with the id.
func (s *Store) Certificate(ctx context.Context, user, id int64) (certificate.Certificate, error) {
	var it certificateItem
	if err := s.read(ctx, s.resources, certificateKey(user, id), &it); err != nil {
		return certificate.Certificate{}, err
	}
	return it.certificate(), nil
}

// Certificates reads a page of the user's certificates, newest first, and how many there are.
func (s *Store) Certificates(ctx context.Context, user int64, offset, limit int) ([]certificate.Certificate, int, error) {
	return s.certificates(ctx, certificateList(user), offset, limit)
}

// AccountCertificates is Certificates of one ACME account.
func (s *Store) AccountCertificates(ctx context.Context, user, account int64, offset, limit int) ([]certificate.Certificate, int, error) {
	return s.certificates(ctx, accountCertificateList(user, account), offset, limit)
}

func (s *Store) certificates(ctx context.Context, l list, offset, limit int) ([]certificate.Certificate, int, error) {
	items, total, err := page[certificateItem](ctx, s, l, offset, limit)
	all := make([]certificate.Certificate, len(items))
	for i, it := range items {
		all[i] = it.certificate()
	}
	return all, total, err
}

// UpdateCertificate stores a certificate as it is after a change, if it is still as it was before: ErrConflict
// if it was changed since, or the idempotency record exists. With open, an issue is opened with it; ErrConflict if
// one is.
func (s *Store) UpdateCertificate(ctx context.Context, before, after certificate.Certificate, open *certificate.Order, once *Idempotency) (certificate.Certificate, error) {
	var items []types.TransactWriteItem
	if open != nil {
		var err error
		if items, err = s.opening(&after, open); err != nil {
			return after, err
		}
	}
	change, err := s.changed(&after, before.Revision)
	if err != nil {
		return after, err
	}
	items = append(items, change)
	if after.DNSProvider != before.DNSProvider {
		if before.DNSProvider != 0 {
			items = append(items, s.use(dnsProviderKey(before.User, before.DNSProvider), -1))
		}
		if after.DNSProvider != 0 {
			items = append(items, s.use(dnsProviderKey(after.User, after.DNSProvider), 1))
		}
	}
	if after.Current.Issue > 0 && (after.Policy != before.Policy || after.Export != before.Export) {
		rollout, err := s.again(ctx, after, after.UpdatedAt)
		if err != nil {
			return after, err
		}
		items = append(items, rollout)
	}
	items, err = once.beside(items, s.resources)
	if err != nil {
		return after, err
	}
	return after, conflict(s.transact(ctx, "change certificate", items))
}

// changed writes a certificate anew, if its revision is still before.
func (s *Store) changed(c *certificate.Certificate, before int64) (types.TransactWriteItem, error) {
	c.Revision = before + 1
	item, err := put(s.resources, newCertificateItem(*c), "revision = :revision")
	if err == nil {
		item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(before)}
	}
	return item, err
}

// DeleteCertificate removes a certificate and everything of it; ErrNotFound if there is none. The history
// goes first, in portions: a crash among them leaves the certificate with less of it, and the deletion can
// be repeated. That it is on devices stays until each has been told, which a roll-out sees to.
func (s *Store) DeleteCertificate(ctx context.Context, user, id int64, now time.Time) (certificate.Certificate, error) {
	for try := 0; ; try++ {
		c, err := s.Certificate(ctx, user, id)
		if err != nil {
			return c, err
		}
		keys, err := s.keysOf(ctx, certificatePartition(id))
		if err != nil {
			return c, err
		}
		rollout := rolloutKey(certificatePartition(id))
		_, keys = split(keys, func(k key) bool { return strings.HasPrefix(k.sk, devicePrefix) || k == rollout })
		inPlace := materialKey(id, c.Current.Issue)
		history, rest := split(keys, func(k key) bool {
			return strings.HasPrefix(k.sk, issuePrefix) || strings.HasPrefix(k.sk, materialPrefix) && k != inPlace
		})
		for most := 80; len(history) > most; {
			some := make([]types.TransactWriteItem, most)
			for i, k := range history[:most] {
				some[i] = remove(s.resources, k)
			}
			if _, err := s.transact(ctx, "delete history", some); err != nil {
				return c, err
			}
			history = history[most:]
		}
		gone := remove(s.resources, certificateKey(user, id))
		gone.Delete.ConditionExpression = aws.String("revision = :revision")
		gone.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(c.Revision)}
		items := []types.TransactWriteItem{gone}
		if c.Account != 0 {
			items = append(items, remove(s.resources, nameClaimKey(c)), s.use(accountKey(user, c.Account), -1))
		} else {
			less, err := s.unuseCA(ctx, user, c.CA)
			if err != nil {
				return c, err
			}
			items = append(items, less...)
		}
		for l, place := range placesOf(c) {
			left, err := s.leave(l, place)
			if err != nil {
				return c, err
			}
			items = append(items, left...)
		}
		if c.DNSProvider != 0 {
			items = append(items, s.use(dnsProviderKey(user, c.DNSProvider), -1))
		}
		for _, k := range append(history, rest...) {
			items = append(items, remove(s.resources, k))
		}
		// Whatever is assigned until this is written is told, and nothing is assigned after it.
		told, err := s.opened(device.Rollout{User: user, Certificate: id, Gone: true, StartedAt: now})
		if err != nil {
			return c, err
		}
		items = append(items, told)
		failed, err := s.transact(ctx, "delete certificate", items)
		if err != nil || len(failed) == 0 {
			return c, err
		}
		if try == 10 || !pause(ctx, 50*time.Millisecond) { // changed since it was read
			return c, busy("delete certificate")
		}
	}
}

// split divides a list.
func split[T any](all []T, is func(T) bool) (those, others []T) {
	for _, one := range all {
		if is(one) {
			those = append(those, one)
		} else {
			others = append(others, one)
		}
	}
	return those, others
}

// keysOf lists the keys of a partition.
func (s *Store) keysOf(ctx context.Context, pk string) ([]key, error) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	var keys []key
	pages := dynamodb.NewQueryPaginator(s.db, &dynamodb.QueryInput{
		TableName: &s.resources, ConsistentRead: aws.Bool(true), ProjectionExpression: aws.String("pk, sk"),
		KeyConditionExpression: aws.String("pk = :pk"), ExpressionAttributeValues: map[string]types.AttributeValue{":pk": text(pk)},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failure("list "+pk, err)
		}
		var some []struct {
			PK string `dynamodbav:"pk"`
			SK string `dynamodbav:"sk"`
		}
		if err := attributevalue.UnmarshalListOfMaps(page.Items, &some); err != nil {
			return nil, fmt.Errorf("list %s: %w", pk, err)
		}
		for _, k := range some {
			keys = append(keys, key{k.PK, k.SK})
		}
	}
	return keys, nil
}

// Issues lists a certificate's history, newest first.
func (s *Store) Issues(ctx context.Context, id int64) ([]certificate.Issue, error) {
	return queryAs(ctx, s, s.resources, certificatePartition(id), issuePrefix, issueItem.issue)
}

// Request reads the certification request (PKCS#10, DER) of a caller who keeps the key; ErrNotFound if there is
// none.
func (s *Store) Request(ctx context.Context, id int64) ([]byte, error) {
	var it requestItem
	err := s.read(ctx, s.resources, requestKey(id), &it)
	return it.DER, err
}

// Material reads the chain and sealed key of an issue; ErrNotFound if there is none.
func (s *Store) Material(ctx context.Context, id, issue int64) (Material, error) {
	var it materialItem
	err := s.read(ctx, s.resources, materialKey(id, issue), &it)
	return Material{it.Chain, it.Key}, err
}

// Order reads a certificate's open issue; ErrNotFound if there is none.
func (s *Store) Order(ctx context.Context, id int64) (certificate.Order, error) {
	var it orderItem
	err := s.read(ctx, s.resources, orderKey(id), &it)
	return it.order(), err
}

// LeaseOrder takes an open issue for one worker. ErrNotFound if there is none, and ErrConflict if another
// worker has it or it is not to be touched yet. The try is counted before anything is done, so that an
// order that kills its worker comes to an end.
func (s *Store) LeaseOrder(ctx context.Context, id int64, worker string, now time.Time) (certificate.Order, error) {
	o, err := s.Order(ctx, id)
	if err != nil {
		return o, err
	}
	if now.Before(o.LeaseEnds) || now.Before(o.NextAt) {
		return o, ErrConflict
	}
	// All that a worker changes who had it and put it down meanwhile: the item is written whole.
	values := map[string]types.AttributeValue{
		":ends": number(milliseconds(o.LeaseEnds)), ":next": number(milliseconds(o.NextAt)), ":tries": number(int64(o.Tries)), ":issue": number(o.Issue),
	}
	o.Lease, o.LeaseEnds, o.Tries = worker, now.Add(certificate.LeaseFor), o.Tries+1
	item, err := put(s.resources, newOrderItem(o), "lease_ends = :ends AND next_at = :next AND tries = :tries AND issue = :issue")
	if err != nil {
		return o, err
	}
	item.Put.ExpressionAttributeValues = values
	return o, conflict(s.transact(ctx, "lease order", []types.TransactWriteItem{item}))
}

// SaveOrder stores how far a worker got; ErrConflict if the lease is no longer its own, or the certificate
// was deleted: it must stop.
func (s *Store) SaveOrder(ctx context.Context, o certificate.Order) error {
	item, err := put(s.resources, newOrderItem(o), "lease = :lease")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":lease": text(o.Lease)}
	return conflict(s.transact(ctx, "save order", []types.TransactWriteItem{item}))
}

// ReleaseOrder stores an order that nobody works on until o.NextAt.
func (s *Store) ReleaseOrder(ctx context.Context, o certificate.Order) error {
	lease := o.Lease
	o.Lease, o.LeaseEnds = "", time.Time{}
	item, err := put(s.resources, newOrderItem(o), "lease = :lease")
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = map[string]types.AttributeValue{":lease": text(lease)}
	return conflict(s.transact(ctx, "release order", []types.TransactWriteItem{item}))
}

// CloseOrder ends an open issue: with material the certificate's chain and key are its own from now on, and
// without it the ones in place stay. c is as the certificate will be. ErrConflict if the lease is no longer
// the worker's or the certificate was changed since c was read. The event for webhooks, and with material the
// notices of the expiry and the roll-out to its devices, are written with it.
func (s *Store) CloseOrder(ctx context.Context, o certificate.Order, c certificate.Certificate, outcome certificate.Issue, m *Material) (certificate.Certificate, error) {
	done := remove(s.resources, orderKey(o.Certificate))
	done.Delete.ConditionExpression = aws.String("lease = :lease")
	done.Delete.ExpressionAttributeValues = map[string]types.AttributeValue{":lease": text(o.Lease)}
	c.Issuing = 0
	change, err := s.changed(&c, c.Revision)
	if err != nil {
		return c, err
	}
	history, err := put(s.resources, newIssueItem(outcome), "")
	if err != nil {
		return c, err
	}
	items := []types.TransactWriteItem{done, change, history}
	told, err := s.tellClosed(ctx, c, outcome)
	if err != nil {
		return c, err
	}
	items = append(items, told...)
	if m != nil {
		at := materialKey(o.Certificate, o.Issue)
		material, err := put(s.resources, materialItem{PK: at.pk, SK: at.sk, Chain: m.Chain, Key: m.Key}, "")
		if err != nil {
			return c, err
		}
		rollout, err := s.opened(rolloutOf(c, outcome.CompletedAt))
		if err != nil {
			return c, err
		}
		items = append(items, material, rollout)
	}
	return c, conflict(s.transact(ctx, "close order", items))
}

// Due is a certificate that something is due for.
type Due struct{ User, Certificate int64 }

// DueRenewals lists up to most certificates whose renewal is to be looked at, the longest due first.
func (s *Store) DueRenewals(ctx context.Context, now time.Time, most int) ([]Due, error) {
	return dueKeys(ctx, s, renewalDue, now, most, func(k dueKey) Due { return Due{k.User, k.ID} })
}

// DueOrders lists up to most open issues that nobody works on and whose time has come.
func (s *Store) DueOrders(ctx context.Context, now time.Time, most int) ([]Due, error) {
	return dueKeys(ctx, s, orderDue, now, most, func(k dueKey) Due { return Due{k.User, k.Certificate} })
}
