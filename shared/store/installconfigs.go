package store

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/installconfig"
	"cjj365.cc/bb/shared/signal"
)

// installConfigItem is a version of what a device is to install: the current one, and each in the history.
type installConfigItem struct {
	PK        string `dynamodbav:"pk"`
	SK        string `dynamodbav:"sk"`
	ID        int64  `dynamodbav:"id"`
	Device    int64  `dynamodbav:"device"`
	Version   int64  `dynamodbav:"version"`
	Items     []byte `dynamodbav:"items"` // JSON
	Script    string `dynamodbav:"script,omitempty"`
	Note      string `dynamodbav:"note,omitempty"`
	UpdatedBy string `dynamodbav:"updated_by"`
	CreatedAt int64  `dynamodbav:"created_at"`
	UpdatedAt int64  `dynamodbav:"updated_at"`
}

func newInstallConfigItem(at key, c installconfig.Config) installConfigItem {
	return installConfigItem{
		PK: at.pk, SK: at.sk, ID: c.ID, Device: c.Device, Version: c.Version, Items: installconfig.JSON(c.Items), Script: c.Script, Note: c.Note,
		UpdatedBy: c.UpdatedBy, CreatedAt: milliseconds(c.CreatedAt), UpdatedAt: milliseconds(c.UpdatedAt),
	}
}

func (it installConfigItem) config() (installconfig.Config, error) {
	c := installconfig.Config{
		ID: it.ID, Device: it.Device, Version: it.Version, Script: it.Script, Note: it.Note, UpdatedBy: it.UpdatedBy,
		CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt),
	}
	if it.Version == 0 {
		return c, nil
	}
	var err error
	if c.Items, err = installconfig.Decode(it.Items); err != nil {
		return c, fmt.Errorf("read install config %d: %w", it.ID, err)
	}
	return c, nil
}

// NextInstallConfigID gives an id that no install config has had.
func (s *Store) NextInstallConfigID(ctx context.Context) (int64, error) {
	return s.next(ctx, "install_config")
}

// InstallConfig reads what a device is to install now: version 0 if nothing was ever said.
func (s *Store) InstallConfig(ctx context.Context, id int64) (installconfig.Config, error) {
	it := installConfigItem{Device: id}
	if _, err := s.get(ctx, s.resources, installConfigKey(id), &it); err != nil {
		return installconfig.Config{}, err
	}
	return it.config()
}

// InstallConfigVersion reads one version; ErrNotFound if there is none.
func (s *Store) InstallConfigVersion(ctx context.Context, id, version int64) (installconfig.Config, error) {
	var it installConfigItem
	if err := s.read(ctx, s.resources, revisionKey(id, version), &it); err != nil {
		return installconfig.Config{}, err
	}
	return it.config()
}

// InstallConfigs reads a page of the versions before and with the newest, newest first. Versions have no gaps, so that
// a page is what it costs.
func (s *Store) InstallConfigs(ctx context.Context, id, newest int64, offset, limit int) ([]installconfig.Config, error) {
	last := newest - int64(offset)
	if last <= 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	pages := dynamodb.NewQueryPaginator(s.db, &dynamodb.QueryInput{
		TableName: &s.resources, ConsistentRead: aws.Bool(true), ScanIndexForward: aws.Bool(false),
		KeyConditionExpression: aws.String("pk = :pk AND sk BETWEEN :first AND :last"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":pk": text(devicePartition(id)), ":first": text(revisionKey(id, max(1, last-int64(limit)+1)).sk), ":last": text(revisionKey(id, last).sk),
		},
	})
	var all []installconfig.Config
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, failure("list install configs", err)
		}
		var items []installConfigItem
		if err := attributevalue.UnmarshalListOfMaps(page.Items, &items); err != nil {
			return nil, fmt.Errorf("list install configs: %w", err)
		}
		for _, it := range items {
			c, err := it.config()
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// PutInstallConfig stores the next version of what a device is to install, and tells the device. ErrConflict if another
// version was stored since before was read; ErrNotFound if the device is not there.
func (s *Store) PutInstallConfig(ctx context.Context, before, after installconfig.Config, now time.Time) error {
	condition := absent
	var values map[string]types.AttributeValue
	if before.Version > 0 {
		condition, values = "version = :before", map[string]types.AttributeValue{":before": number(before.Version)}
	}
	failed, err := s.signal(ctx, "store an install config", after.Device, now, func(int64, device.Head) (news, error) {
		current, err := put(s.resources, newInstallConfigItem(installConfigKey(after.Device), after), condition)
		if err != nil {
			return news{}, err
		}
		current.Put.ExpressionAttributeValues = values
		version, err := put(s.resources, newInstallConfigItem(revisionKey(after.Device, after.Version), after), "")
		if err != nil {
			return news{}, err
		}
		ref := signal.Ref{Config: after.ID, Version: after.Version, Hash: installconfig.Hash(after.Items)}
		return news{signal: &signal.Signal{Type: signal.InstallUpdated, Ref: ref}, items: []types.TransactWriteItem{current, version}}, nil
	})
	return conflict(failed, err)
}
