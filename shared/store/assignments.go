package store

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/signal"

	"time"
)

// assignmentItem is a certificate on a device, in the certificate's partition: a renewal tells all of them.
type assignmentItem struct {
	PK          string     `dynamodbav:"pk"`
	SK          string     `dynamodbav:"sk"`
	User        int64      `dynamodbav:"user_id"`
	Certificate int64      `dynamodbav:"certificate"`
	Device      int64      `dynamodbav:"id"`
	Issue       int64      `dynamodbav:"issue"`
	Revision    int64      `dynamodbav:"revision"`
	Wrap        []byte     `dynamodbav:"wrap,omitempty"`
	WrapFor     []byte     `dynamodbav:"wrap_for,omitempty"`
	AssignedAt  int64      `dynamodbav:"assigned_at"`
	ToldAt      int64      `dynamodbav:"told_at"`
	Fetched     int64      `dynamodbav:"fetched"`
	FetchedAt   int64      `dynamodbav:"fetched_at"`
	Report      reportItem `dynamodbav:"report"`
}

type reportItem struct {
	Issue       int64  `dynamodbav:"issue,omitempty"`
	Fingerprint string `dynamodbav:"fingerprint,omitempty"`
	Installed   bool   `dynamodbav:"installed,omitempty"`
	Error       string `dynamodbav:"error,omitempty"`
	At          int64  `dynamodbav:"at,omitempty"`
	Ever        bool   `dynamodbav:"ever,omitempty"`
}

func newReportItem(r device.Report) reportItem {
	return reportItem{r.Issue, r.Fingerprint, r.Installed, r.Error, milliseconds(r.At), r.Ever}
}

func newAssignmentItem(a device.Assignment) assignmentItem {
	at := assignmentKey(a.Certificate, a.Device)
	return assignmentItem{
		PK: at.pk, SK: at.sk, User: a.User, Certificate: a.Certificate, Device: a.Device, Issue: a.Issue, Revision: a.Revision, Wrap: a.Wrap, WrapFor: a.WrapFor,
		AssignedAt: milliseconds(a.AssignedAt), ToldAt: milliseconds(a.ToldAt), Fetched: a.Fetched, FetchedAt: milliseconds(a.FetchedAt), Report: newReportItem(a.Report),
	}
}

func (it assignmentItem) assignment() device.Assignment {
	return device.Assignment{
		User: it.User, Certificate: it.Certificate, Device: it.Device, Issue: it.Issue, Revision: it.Revision, Wrap: it.Wrap, WrapFor: it.WrapFor,
		AssignedAt: instant(it.AssignedAt), ToldAt: instant(it.ToldAt), Fetched: it.Fetched, FetchedAt: instant(it.FetchedAt),
		Report: device.Report{
			Issue: it.Report.Issue, Fingerprint: it.Report.Fingerprint, Installed: it.Report.Installed, Error: it.Report.Error, At: instant(it.Report.At), Ever: it.Report.Ever,
		},
	}
}

// caAssignmentItem is a CA on a device, in the CA's partition.
type caAssignmentItem struct {
	PK         string `dynamodbav:"pk"`
	SK         string `dynamodbav:"sk"`
	User       int64  `dynamodbav:"user_id"`
	CA         int64  `dynamodbav:"ca"`
	Device     int64  `dynamodbav:"id"`
	AssignedAt int64  `dynamodbav:"assigned_at"`
}

func (it caAssignmentItem) assigned() device.CA {
	return device.CA{User: it.User, CA: it.CA, Device: it.Device, AssignedAt: instant(it.AssignedAt)}
}

// ErrAssigned says that a thing is on the device already, and ErrFull that as many are as may be.
var (
	ErrAssigned = errors.New("it is assigned already")
	ErrFull     = errors.New("as much is assigned to the device as may be")
)

// updated tells a device of the issue that it is to have of a certificate; nil if it could not have the key, since a
// device that fails over one signal drops those that came with it (contract §15.9). It is told when it can.
func updated(c certificate.Certificate, a device.Assignment, serial string) *signal.Signal {
	switch {
	case c.CallersKey:
	case c.Policy == certificate.MasterOnly && !c.Export, c.Policy != certificate.MasterOnly && !a.Ready():
		return nil
	}
	ref := signal.Ref{Certificate: c.ID, Serial: serial}
	if a.Ready() {
		ref.Ready, ref.Algorithm, ref.KeyPrint = true, "x25519", base64Text(a.WrapFor)
	}
	return &signal.Signal{Type: signal.CertificateUpdated, Ref: ref}
}

// Assign puts a certificate on a device, and tells it if there is an issue. ErrAssigned if it is on it, ErrConflict if
// the certificate was changed since it was read, ErrFull, or ErrNotFound if the device is not there.
func (s *Store) Assign(ctx context.Context, c certificate.Certificate, a device.Assignment, now time.Time) error {
	const ofAssignment, ofCertificate = 0, 2
	failed, err := s.signal(ctx, "assign a certificate", a.Device, now, func(at int64, h device.Head) (news, error) {
		if h.Certificates >= device.MaxAssigned {
			return news{}, ErrFull
		}
		n := news{certificates: 1}
		if a.AssignedAt = now; a.Issue > 0 {
			a.ToldAt = time.UnixMilli(at)
			n.signal = updated(c, a, c.Current.Serial)
		}
		stored, err := put(s.resources, newAssignmentItem(a), absent)
		if err != nil {
			return n, err
		}
		pointer := deviceCertificateKey(a.Device, a.Certificate)
		listed, err := put(s.resources, idItem{pointer.pk, pointer.sk, a.Certificate}, "")
		if err != nil {
			return n, err
		}
		same := check(s.resources, certificateKey(c.User, c.ID), "revision = :revision")
		same.ConditionCheck.ExpressionAttributeValues = map[string]types.AttributeValue{":revision": number(c.Revision)}
		n.items = []types.TransactWriteItem{stored, listed, same}
		return n, nil
	})
	switch {
	case err != nil:
		return err
	case among(failed, ofAssignment):
		return ErrAssigned
	case among(failed, ofCertificate):
		return ErrConflict
	}
	return nil
}

// Unassign takes a certificate off a device and tells it; ErrNotFound if it is not on it.
func (s *Store) Unassign(ctx context.Context, certificate, id int64, now time.Time) error {
	failed, err := s.signal(ctx, "take a certificate off", id, now, func(int64, device.Head) (news, error) {
		return news{
			signal: &signal.Signal{Type: signal.CertificateUnassigned, Ref: signal.Ref{Certificate: certificate}}, certificates: -1,
			items: s.unassigned(assignmentKey(certificate, id), deviceCertificateKey(id, certificate)),
		}, nil
	})
	if err == nil && len(failed) > 0 {
		return ErrNotFound
	}
	return err
}

// unassigned removes what stands for a thing on a device.
func (s *Store) unassigned(assignment, pointer key) []types.TransactWriteItem {
	gone := remove(s.resources, assignment)
	gone.Delete.ConditionExpression = aws.String(present)
	return []types.TransactWriteItem{gone, remove(s.resources, pointer)}
}

// Drop takes a certificate off a device that is revoked: nobody is told. That it is off is no error.
func (s *Store) Drop(ctx context.Context, certificate, id int64) error {
	_, err := s.transact(ctx, "take a certificate off a revoked device", s.unassigned(assignmentKey(certificate, id), deviceCertificateKey(id, certificate)))
	return err
}

// Assignment reads a certificate on a device; ErrNotFound if it is not on it.
func (s *Store) Assignment(ctx context.Context, certificate, id int64) (device.Assignment, error) {
	var it assignmentItem
	err := s.read(ctx, s.resources, assignmentKey(certificate, id), &it)
	return it.assignment(), err
}

// Assignments lists the devices that a certificate is on.
func (s *Store) Assignments(ctx context.Context, certificate int64) ([]device.Assignment, error) {
	return queryAs(ctx, s, s.resources, certificatePartition(certificate), devicePrefix, assignmentItem.assignment)
}

// CertificatesOn lists the ids of the certificates on a device, the newest first; there are at most device.MaxAssigned.
func (s *Store) CertificatesOn(ctx context.Context, id int64) ([]int64, error) {
	return queryAs(ctx, s, s.resources, devicePartition(id), certificatePrefix, func(it idItem) int64 { return it.ID })
}

// CertificatesByID reads up to 100 certificates of a user; those that are not there are left out.
func (s *Store) CertificatesByID(ctx context.Context, user int64, ids []int64) ([]certificate.Certificate, error) {
	items, err := batch[certificateItem](ctx, s, ids, func(id int64) key { return certificateKey(user, id) })
	var all []certificate.Certificate
	for _, id := range ids {
		if it, ok := items[id]; ok {
			all = append(all, it.certificate())
		}
	}
	return all, err
}

// AssignmentsOn reads what a device is to have of up to 100 certificates, by certificate.
func (s *Store) AssignmentsOn(ctx context.Context, id int64, certificates []int64) (map[int64]device.Assignment, error) {
	items, err := batch[assignmentItem](ctx, s, certificates, func(c int64) key { return assignmentKey(c, id) })
	all := map[int64]device.Assignment{}
	for c, it := range items {
		all[c] = it.assignment()
	}
	return all, err
}

// TellIssue has a device have another issue of a certificate, or the same with another wrap, and tells it. after is a
// with Issue, Wrap and WrapFor changed. ErrConflict if somebody else has told it since a was read, or it was taken off;
// ErrNotFound if the device is not there any more.
func (s *Store) TellIssue(ctx context.Context, c certificate.Certificate, a, after device.Assignment, serial string, now time.Time) error {
	failed, err := s.signal(ctx, "tell a device of an issue", a.Device, now, func(at int64, _ device.Head) (news, error) {
		told := s.wrapped(a, after)
		told.Update.UpdateExpression = aws.String("SET issue = :issue, wrap = :wrap, wrap_for = :for, told_at = :told, revision = :revision")
		told.Update.ExpressionAttributeValues[":told"], told.Update.ExpressionAttributeValues[":revision"] = number(at), number(after.Revision)
		return news{signal: updated(c, after, serial), items: []types.TransactWriteItem{told}}, nil
	})
	return conflict(failed, err)
}

// wrapped changes what a device is to have, if that is as it was read.
func (s *Store) wrapped(a, after device.Assignment) types.TransactWriteItem {
	return types.TransactWriteItem{Update: &types.Update{
		TableName: &s.resources, Key: assignmentKey(a.Certificate, a.Device).attributes(),
		UpdateExpression:    aws.String("SET issue = :issue, wrap = :wrap, wrap_for = :for"),
		ConditionExpression: aws.String("issue = :was AND told_at = :before"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":issue": number(after.Issue), ":wrap": binary(after.Wrap), ":for": binary(after.WrapFor), ":was": number(a.Issue), ":before": number(milliseconds(a.ToldAt)),
		},
	}}
}

// SetWrap stores a wrap that was missing: it tells nobody. ErrConflict if the device was told of another issue.
func (s *Store) SetWrap(ctx context.Context, a, after device.Assignment) error {
	return conflict(s.transact(ctx, "store a wrap", []types.TransactWriteItem{s.wrapped(a, after)}))
}

// NoteFetched stores that a device has fetched an issue.
func (s *Store) NoteFetched(ctx context.Context, a device.Assignment, now time.Time) error {
	return s.noted(ctx, a, "SET fetched = :issue, fetched_at = :now", map[string]types.AttributeValue{":issue": number(a.Issue), ":now": number(milliseconds(now))})
}

// NoteReport stores what a device says that it did.
func (s *Store) NoteReport(ctx context.Context, a device.Assignment, r device.Report) error {
	item, err := put("", struct {
		Report reportItem `dynamodbav:"report"`
	}{newReportItem(r)}, "")
	if err != nil {
		return err
	}
	return s.noted(ctx, a, "SET report = :report", map[string]types.AttributeValue{":report": item.Put.Item["report"]})
}

// noted changes what is known of an assignment; that it is gone is no error.
func (s *Store) noted(ctx context.Context, a device.Assignment, expression string, values map[string]types.AttributeValue) error {
	_, err := s.transact(ctx, "note what a device did", []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: assignmentKey(a.Certificate, a.Device).attributes(), UpdateExpression: &expression,
		ConditionExpression: aws.String(present), ExpressionAttributeValues: values,
	}}})
	return err
}

// AssignCA puts a CA on a device and tells it. ErrAssigned if it is on it, ErrFull, or ErrNotFound if one of them is
// not there.
func (s *Store) AssignCA(ctx context.Context, c ca.CA, id int64, now time.Time) error {
	const ofAssignment = 0
	failed, err := s.signal(ctx, "assign a CA", id, now, func(_ int64, h device.Head) (news, error) {
		n := news{signal: &signal.Signal{Type: signal.CAAssigned, Ref: signal.Ref{CA: c.ID, CAName: c.Name, Serial: c.Serial()}}, cas: 1}
		if h.CAs >= device.MaxAssigned {
			return n, ErrFull
		}
		at, pointer := caAssignmentKey(c.ID, id), deviceCAKey(id, c.ID)
		stored, err := put(s.resources, caAssignmentItem{at.pk, at.sk, c.User, c.ID, id, milliseconds(now)}, absent)
		if err != nil {
			return n, err
		}
		listed, err := put(s.resources, idItem{pointer.pk, pointer.sk, c.ID}, "")
		if err != nil {
			return n, err
		}
		n.items = []types.TransactWriteItem{stored, listed, check(s.resources, caKey(c.User, c.ID), present)}
		return n, nil
	})
	switch {
	case err != nil:
		return err
	case among(failed, ofAssignment):
		return ErrAssigned
	case len(failed) > 0:
		return ErrNotFound
	}
	return nil
}

// UnassignCA takes a CA off a device and tells it; ErrNotFound if it is not on it. The CA need not be there any more.
func (s *Store) UnassignCA(ctx context.Context, caID int64, name, serial string, id int64, now time.Time) error {
	failed, err := s.signal(ctx, "take a CA off", id, now, func(int64, device.Head) (news, error) {
		return news{
			signal: &signal.Signal{Type: signal.CAUnassigned, Ref: signal.Ref{CA: caID, CAName: name, Serial: serial}}, cas: -1,
			items: s.unassigned(caAssignmentKey(caID, id), deviceCAKey(id, caID)),
		}, nil
	})
	if err == nil && len(failed) > 0 {
		return ErrNotFound
	}
	return err
}

// DropCA takes a CA off a device that is revoked: nobody is told. That it is off is no error.
func (s *Store) DropCA(ctx context.Context, caID, id int64) error {
	_, err := s.transact(ctx, "take a CA off a revoked device", s.unassigned(caAssignmentKey(caID, id), deviceCAKey(id, caID)))
	return err
}

// CAOn reads a CA on a device; ErrNotFound if it is not on it.
func (s *Store) CAOn(ctx context.Context, caID, id int64) (device.CA, error) {
	var it caAssignmentItem
	err := s.read(ctx, s.resources, caAssignmentKey(caID, id), &it)
	return it.assigned(), err
}

// DevicesOfCA lists the devices that a CA is on.
func (s *Store) DevicesOfCA(ctx context.Context, caID int64) ([]device.CA, error) {
	return queryAs(ctx, s, s.resources, caPartition(caID), devicePrefix, caAssignmentItem.assigned)
}

// CAsOn lists the ids of the CAs on a device; there are at most device.MaxAssigned.
func (s *Store) CAsOn(ctx context.Context, id int64) ([]int64, error) {
	return queryAs(ctx, s, s.resources, devicePartition(id), caPrefix, func(it idItem) int64 { return it.ID })
}
