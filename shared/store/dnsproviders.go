package store

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/dynamodb/attributevalue"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"cjj365.cc/bb/shared/dnsprovider"
	"cjj365.cc/bb/shared/sealed"
)

// dnsProviderItem is a DNS provider's settings.
type dnsProviderItem struct {
	PK        string        `dynamodbav:"pk"`
	SK        string        `dynamodbav:"sk"`
	User      int64         `dynamodbav:"user_id"`
	ID        int64         `dynamodbav:"id"`
	Name      string        `dynamodbav:"name"`
	Public    []byte        `dynamodbav:"public"` // what of the config is no secret, as JSON
	Secrets   sealed.Secret `dynamodbav:"secrets"`
	Uses      int64         `dynamodbav:"uses"` // certificates
	CreatedAt int64         `dynamodbav:"created_at"`
	UpdatedAt int64         `dynamodbav:"updated_at"`
}

func newDNSProviderItem(p dnsprovider.Provider) (dnsProviderItem, error) {
	at := dnsProviderKey(p.User, p.ID)
	public, err := p.Config.MarshalJSON()
	return dnsProviderItem{
		PK: at.pk, SK: at.sk, User: p.User, ID: p.ID, Name: p.Name, Public: public, Secrets: p.Secrets, Uses: p.Certificates,
		CreatedAt: milliseconds(p.CreatedAt), UpdatedAt: milliseconds(p.UpdatedAt),
	}, err
}

func (it dnsProviderItem) provider() (dnsprovider.Provider, error) {
	p := dnsprovider.Provider{
		User: it.User, ID: it.ID, Name: it.Name, Secrets: it.Secrets, Certificates: it.Uses, CreatedAt: instant(it.CreatedAt), UpdatedAt: instant(it.UpdatedAt),
	}
	return p, p.Config.UnmarshalJSON(it.Public)
}

// NextDNSProviderID gives an id that no DNS provider has had.
func (s *Store) NextDNSProviderID(ctx context.Context) (int64, error) {
	return s.next(ctx, "dns_provider")
}

// CreateDNSProvider stores a provider, if its owner has room for it. ErrConflict if the idempotency record
// exists.
func (s *Store) CreateDNSProvider(ctx context.Context, p dnsprovider.Provider, once *Idempotency) error {
	item, err := newDNSProviderItem(p)
	if err != nil {
		return err
	}
	return s.createOwned(ctx, item, dnsProviderCountKey(p.User), maxOwned, "DNS providers", once)
}

// DNSProvider reads one provider, its secrets sealed; ErrNotFound if the user has none with the id.
func (s *Store) DNSProvider(ctx context.Context, user, id int64) (dnsprovider.Provider, error) {
	var it dnsProviderItem
	if err := s.read(ctx, s.resources, dnsProviderKey(user, id), &it); err != nil {
		return dnsprovider.Provider{}, err
	}
	return it.provider()
}

// DNSProviders lists a user's providers, newest first; there are at most maxOwned.
func (s *Store) DNSProviders(ctx context.Context, user int64) ([]dnsprovider.Provider, error) {
	items, err := query[dnsProviderItem](ctx, s, s.resources, dnsProviderPartition(user), dnsProviderPrefix)
	if err != nil {
		return nil, err
	}
	all := make([]dnsprovider.Provider, len(items))
	for i, it := range items {
		if all[i], err = it.provider(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// ChangeDNSProvider stores a provider's name and settings if they are as they were read, changed last at
// before: ErrConflict if not.
func (s *Store) ChangeDNSProvider(ctx context.Context, p dnsprovider.Provider, before time.Time) error {
	item, err := newDNSProviderItem(p)
	if err != nil {
		return err
	}
	secrets, err := attributevalue.Marshal(item.Secrets)
	if err != nil {
		return err
	}
	err = s.change(ctx, "change DNS provider", dnsProviderKey(p.User, p.ID), types.Update{
		UpdateExpression:         aws.String("SET #name = :name, #public = :public, secrets = :secrets, updated_at = :now"),
		ConditionExpression:      aws.String("updated_at = :before"),
		ExpressionAttributeNames: map[string]string{"#name": "name", "#public": "public"},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":name": text(p.Name), ":public": binary(item.Public), ":secrets": secrets, ":now": number(item.UpdatedAt), ":before": number(milliseconds(before)),
		},
	})
	if errors.Is(err, ErrNotFound) {
		err = ErrConflict
	}
	return err
}

// DeleteDNSProvider removes a provider that no certificate uses; ErrConflict if one does, ErrNotFound if
// there is none.
func (s *Store) DeleteDNSProvider(ctx context.Context, user, id int64) error {
	return s.deleteOwned(ctx, dnsProviderKey(user, id), dnsProviderCountKey(user), "delete DNS provider")
}
