package store

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/webhook"
)

// rolloutItem is a change on its way to the devices of a certificate or a CA.
type rolloutItem struct {
	PK          string `dynamodbav:"pk"`
	SK          string `dynamodbav:"sk"`
	User        int64  `dynamodbav:"user_id"`
	Certificate int64  `dynamodbav:"certificate,omitempty"`
	CA          int64  `dynamodbav:"id,omitempty"` // of a CA's; the index due has it
	Issue       int64  `dynamodbav:"issue"`
	Revision    int64  `dynamodbav:"revision"`
	Again       bool   `dynamodbav:"again"`
	Gone        bool   `dynamodbav:"gone"`
	Name        string `dynamodbav:"name,omitempty"`
	Serial      string `dynamodbav:"serial,omitempty"`
	Percent     int    `dynamodbav:"first_percent"`
	Wait        int64  `dynamodbav:"pause"` // seconds
	Failures    int    `dynamodbav:"failures"`
	StartedAt   int64  `dynamodbav:"started_at"`
	FirstAt     int64  `dynamodbav:"first_at"`
	AllAt       int64  `dynamodbav:"all_at"`
	StoppedAt   int64  `dynamodbav:"stopped_at"`
	Due         string `dynamodbav:"due,omitempty"`
	DueAt       int64  `dynamodbav:"due_at,omitempty"`
}

const rolloutDue = "ROLLOUT"

func newRolloutItem(r device.Rollout) rolloutItem {
	at := rolloutKeyOf(r)
	it := rolloutItem{
		PK: at.pk, SK: at.sk, User: r.User, Certificate: r.Certificate, CA: r.CA, Issue: r.Issue, Revision: r.Revision, Again: r.Again, Gone: r.Gone, Name: r.Name, Serial: r.Serial,
		Percent: r.Plan.Percent, Wait: int64(r.Plan.Wait / time.Second), Failures: r.Plan.Failures, StartedAt: milliseconds(r.StartedAt),
		FirstAt: milliseconds(r.FirstAt), AllAt: milliseconds(r.AllAt), StoppedAt: milliseconds(r.StoppedAt),
	}
	if !r.NextAt.IsZero() {
		it.Due, it.DueAt = rolloutDue, milliseconds(r.NextAt)
	}
	return it
}

func (it rolloutItem) rollout() device.Rollout {
	return device.Rollout{
		User: it.User, Certificate: it.Certificate, CA: it.CA, Issue: it.Issue, Revision: it.Revision, Again: it.Again, Gone: it.Gone, Name: it.Name, Serial: it.Serial,
		Plan:      device.Plan{Percent: it.Percent, Wait: time.Duration(it.Wait) * time.Second, Failures: it.Failures},
		StartedAt: instant(it.StartedAt), FirstAt: instant(it.FirstAt), AllAt: instant(it.AllAt), StoppedAt: instant(it.StoppedAt), NextAt: instant(it.DueAt),
	}
}

func rolloutKeyOf(r device.Rollout) key {
	if r.Certificate != 0 {
		return rolloutKey(certificatePartition(r.Certificate))
	}
	return rolloutKey(caPartition(r.CA))
}

// opened is what the transaction writes that begins a roll-out, in the place of the one before.
func (s *Store) opened(r device.Rollout) (types.TransactWriteItem, error) {
	r.NextAt = r.StartedAt // at once, by whoever writes it; by the schedule if it dies
	return put(s.resources, newRolloutItem(r), "")
}

// rolloutOf is the roll-out of a certificate's issue.
func rolloutOf(c certificate.Certificate, now time.Time) device.Rollout {
	return device.Rollout{User: c.User, Certificate: c.ID, Issue: c.Current.Issue, Revision: c.Revision, Plan: device.Plan(c.Rollout), StartedAt: now}
}

// Rollout reads what is on its way to the devices of a certificate; ErrNotFound if nothing is.
func (s *Store) Rollout(ctx context.Context, certificate int64) (device.Rollout, error) {
	var it rolloutItem
	err := s.read(ctx, s.resources, rolloutKey(certificatePartition(certificate)), &it)
	return it.rollout(), err
}

// RolloutOfCA is Rollout of a CA.
func (s *Store) RolloutOfCA(ctx context.Context, caID int64) (device.Rollout, error) {
	var it rolloutItem
	err := s.read(ctx, s.resources, rolloutKey(caPartition(caID)), &it)
	return it.rollout(), err
}

// SaveRollout stores how far a roll-out is; ErrConflict if another has begun, or it was changed, since it was read. With
// an event, its owner is told.
func (s *Store) SaveRollout(ctx context.Context, before, after device.Rollout, event *webhook.Event) error {
	item, err := put(s.resources, newRolloutItem(after), sameRollout)
	if err != nil {
		return err
	}
	item.Put.ExpressionAttributeValues = asBefore(before)
	return s.rolled(ctx, before, item, event)
}

// EndRollout forgets a roll-out that is done; ErrConflict as SaveRollout.
func (s *Store) EndRollout(ctx context.Context, before device.Rollout, event *webhook.Event) error {
	item := remove(s.resources, rolloutKeyOf(before))
	item.Delete.ConditionExpression = aws.String(sameRollout)
	item.Delete.ExpressionAttributeValues = asBefore(before)
	return s.rolled(ctx, before, item, event)
}

const sameRollout = "first_percent = :percent AND pause = :pause AND started_at = :started AND issue = :issue AND revision = :revision AND gone = :gone AND first_at = :first AND all_at = :all AND stopped_at = :stopped"

func asBefore(r device.Rollout) map[string]types.AttributeValue {
	it := newRolloutItem(r)
	return map[string]types.AttributeValue{
		":percent": number(int64(it.Percent)), ":pause": number(it.Wait), ":started": number(it.StartedAt), ":issue": number(it.Issue), ":revision": number(it.Revision), ":gone": &types.AttributeValueMemberBOOL{Value: it.Gone},
		":first": number(it.FirstAt), ":all": number(it.AllAt), ":stopped": number(it.StoppedAt),
	}
}

func (s *Store) rolled(ctx context.Context, r device.Rollout, item types.TransactWriteItem, event *webhook.Event) error {
	items := []types.TransactWriteItem{item}
	if event != nil {
		told, err := s.tell(*event)
		if err != nil {
			return err
		}
		items = append(items, told)
	}
	return conflict(s.transact(ctx, "roll out", items))
}

// WakeRollout has a roll-out looked at again by the next run of the schedule, if it is still that of the issue.
func (s *Store) WakeRollout(ctx context.Context, certificate, issue int64, now time.Time) error {
	_, err := s.transact(ctx, "wake a roll-out", []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: rolloutKey(certificatePartition(certificate)).attributes(), UpdateExpression: aws.String("SET due_at = :now"),
		ConditionExpression:       aws.String("issue = :issue AND stopped_at = :never AND attribute_exists(due)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":now": number(milliseconds(now)), ":issue": number(issue), ":never": number(0)},
	}}})
	return err
}

// DueRollout is a roll-out that is to be looked at: a certificate's, or a CA's.
type DueRollout struct{ User, Certificate, CA int64 }

// DueRollouts lists up to most roll-outs whose time has come.
func (s *Store) DueRollouts(ctx context.Context, now time.Time, most int) ([]DueRollout, error) {
	return dueKeys(ctx, s, rolloutDue, now, most, func(k dueKey) DueRollout { return DueRollout{k.User, k.Certificate, k.ID} })
}

// DropMaterials forgets the chains and keys of a certificate's issues before one, which no device is to have any more.
func (s *Store) DropMaterials(ctx context.Context, certificate, before int64) error {
	keys, err := s.keysOf(ctx, certificatePartition(certificate))
	if err != nil {
		return err
	}
	first := materialKey(certificate, before)
	for _, k := range keys {
		if strings.HasPrefix(k.sk, materialPrefix) && k.sk < first.sk {
			if _, err := s.transact(ctx, "drop material", []types.TransactWriteItem{remove(s.resources, k)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// ForgetDataKey removes the server's own copy of an issue's data key: only the devices that it is sealed to can open the
// private key from then on.
func (s *Store) ForgetDataKey(ctx context.Context, certificate, issue int64) error {
	_, err := s.transact(ctx, "forget a data key", []types.TransactWriteItem{{Update: &types.Update{
		TableName: &s.resources, Key: materialKey(certificate, issue).attributes(), UpdateExpression: aws.String("SET #key.data_key = :none"),
		ConditionExpression: aws.String(present), ExpressionAttributeNames: map[string]string{"#key": "key"},
		ExpressionAttributeValues: map[string]types.AttributeValue{":none": &types.AttributeValueMemberNULL{Value: true}},
	}}})
	return err
}

// OwnerOfCertificate tells whose a certificate is; ErrNotFound if there is none with the id.
func (s *Store) OwnerOfCertificate(ctx context.Context, id int64) (int64, error) {
	var it certificateOwnerItem
	err := s.read(ctx, s.resources, certificateOwnerKey(id), &it)
	return it.User, err
}

// certificateOwnerItem tells whose a certificate is.
type certificateOwnerItem struct {
	PK   string `dynamodbav:"pk"`
	SK   string `dynamodbav:"sk"`
	User int64  `dynamodbav:"user_id"`
}

// again is the roll-out that a change of how a certificate's key is given out begins. One that is on its way goes on as
// it is, beside that.
func (s *Store) again(ctx context.Context, c certificate.Certificate, now time.Time) (types.TransactWriteItem, error) {
	r := rolloutOf(c, now)
	under, err := s.Rollout(ctx, c.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return types.TransactWriteItem{}, err
	}
	if err == nil && under.Issue == r.Issue {
		r.Plan, r.FirstAt, r.StoppedAt = under.Plan, under.FirstAt, under.StoppedAt
	}
	r.Again = true
	item, opening := s.opened(r)
	if opening != nil {
		return item, opening
	}
	item.Put.ConditionExpression = aws.String(absent)
	if err == nil { // as it was read: somebody may stop it meanwhile
		item.Put.ConditionExpression, item.Put.ExpressionAttributeValues = aws.String(sameRollout), asBefore(under)
	}
	return item, nil
}

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
