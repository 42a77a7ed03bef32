package dnssolver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/ovh/go-ovh/ovh"

	"cjj365.cc/bb/shared/dnsprovider"
)

type ovhAPI struct {
	client *ovh.Client
	ttl    int
}

// newOVH fills the client's fields itself: ovh.NewClient takes what is missing from OVH_* and ./ovh.conf.
func newOVH(c dnsprovider.Config, client *http.Client) (*ovhAPI, error) {
	o := &ovh.Client{
		AppKey: c.Text("application_key"), AppSecret: c.Text("application_secret"), ConsumerKey: c.Text("consumer_key"),
		Client: client, Timeout: requestTimeout,
	}
	endpoint, ok := ovh.Endpoints[c.Text("endpoint")]
	if !ok {
		return nil, fmt.Errorf("OVH has no endpoint %s", c.Text("endpoint"))
	}
	if err := o.SetEndpoint(endpoint); err != nil {
		return nil, err
	}
	return &ovhAPI{o, c.Number("ttl")}, nil
}

type ovhRecord struct {
	ID        int64  `json:"id,omitempty"`
	FieldType string `json:"fieldType"`
	SubDomain string `json:"subDomain"`
	Target    string `json:"target"`
	TTL       int    `json:"ttl,omitempty"`
}

// find gives the ids of the records with the value.
func (o *ovhAPI) find(ctx context.Context, path, sub, value string) ([]int64, error) {
	var ids, with []int64
	query := url.Values{"fieldType": {"TXT"}, "subDomain": {sub}}
	if err := o.client.GetWithContext(ctx, path+"/record?"+query.Encode(), &ids); err != nil {
		return nil, err
	}
	for _, id := range ids {
		var r ovhRecord
		if err := o.client.GetWithContext(ctx, fmt.Sprintf("%s/record/%d", path, id), &r); err != nil {
			return nil, err
		}
		if strings.Trim(r.Target, `"`) == value {
			with = append(with, id)
		}
	}
	return with, nil
}

func (o *ovhAPI) add(ctx context.Context, zone, name, value string) error {
	sub, err := below(name, zone)
	if err != nil {
		return err
	}
	path := "/domain/zone/" + url.PathEscape(zone)
	ids, err := o.find(ctx, path, sub, value)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		if err := o.client.PostWithContext(ctx, path+"/record", ovhRecord{FieldType: "TXT", SubDomain: sub, Target: value, TTL: o.ttl}, nil); err != nil {
			return err
		}
	}
	// A record of a killed invocation may wait for this too.
	return o.client.PostWithContext(ctx, path+"/refresh", nil, nil)
}

func (o *ovhAPI) remove(ctx context.Context, zone, name, value string) error {
	sub, err := below(name, zone)
	if err != nil {
		return err
	}
	path := "/domain/zone/" + url.PathEscape(zone)
	ids, err := o.find(ctx, path, sub, value)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := o.client.DeleteWithContext(ctx, fmt.Sprintf("%s/record/%d", path, id), nil); err != nil {
			return err
		}
	}
	return o.client.PostWithContext(ctx, path+"/refresh", nil, nil)
}
