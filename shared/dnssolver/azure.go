package dnssolver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"cjj365.cc/bb/shared/dnsprovider"
)

// azureAPI is the record sets of Azure's resource manager, API version 2018-05-01.
type azureAPI struct {
	rest
	zones string // the URL of all zones of the resource group
	ttl   int
}

// Azure's clouds: where tokens are got, and where the resource manager is.
var azureClouds = map[string][2]string{
	"public":       {"https://login.microsoftonline.com", "https://management.azure.com"},
	"china":        {"https://login.chinacloudapi.cn", "https://management.chinacloudapi.cn"},
	"usgovernment": {"https://login.microsoftonline.us", "https://management.usgovcloudapi.net"},
}

func newAzure(c dnsprovider.Config, client *http.Client) *azureAPI {
	cloud := azureClouds[c.Text("environment")]
	login := clientcredentials.Config{
		ClientID: c.Text("client_id"), ClientSecret: c.Text("client_secret"),
		TokenURL:  cloud[0] + "/" + url.PathEscape(c.Text("tenant_id")) + "/oauth2/v2.0/token",
		Scopes:    []string{cloud[1] + "/.default"},
		AuthStyle: oauth2.AuthStyleInParams,
	}
	return &azureAPI{
		rest: rest{authorized(client, login.TokenSource)},
		zones: cloud[1] + "/subscriptions/" + url.PathEscape(c.Text("subscription_id")) + "/resourceGroups/" + url.PathEscape(c.Text("resource_group")) +
			"/providers/Microsoft.Network/dnsZones/",
		ttl: c.Number("ttl"),
	}
}

// authorized is client with a token in each request. The token is got by the same client, in the context of the request
// that needs it: a source of oauth2 keeps one context for ever, and an invocation's ends.
func authorized(client *http.Client, source func(context.Context) oauth2.TokenSource) *http.Client {
	c := *client
	c.Transport = &tokens{next: client.Transport, fetch: source, client: client}
	return &c
}

type azureSet struct {
	Etag       string `json:"etag,omitempty"`
	Properties struct {
		TTL     int        `json:"TTL"`
		Records []azureTXT `json:"TXTRecords"`
	} `json:"properties"`
}

type azureTXT struct {
	Value []string `json:"value"`
}

func (a *azureAPI) add(ctx context.Context, zone, name, value string) error {
	return a.change(ctx, zone, name, func(values []string) []string { return with(values, value) })
}

func (a *azureAPI) remove(ctx context.Context, zone, name, value string) error {
	return a.change(ctx, zone, name, func(values []string) []string { return without(values, value) })
}

// change reads the set of values and writes it anew on the condition that it is as it was read.
func (a *azureAPI) change(ctx context.Context, zone, name string, edit func([]string) []string) error {
	sub, err := below(name, zone)
	if err != nil {
		return err
	}
	set := a.zones + url.PathEscape(zone) + "/TXT/" + url.PathEscape(sub) + "?api-version=2018-05-01"
	return settle(func() error {
		var found azureSet
		_, err := a.do(ctx, http.MethodGet, set, nil, &found)
		there := err == nil
		if !there && status(err) != http.StatusNotFound {
			return err
		}
		if zoneMissing(err) {
			return fmt.Errorf("%w: %w", errNoZone, err)
		}
		var before []string
		for _, r := range found.Properties.Records {
			text := ""
			for _, part := range r.Value {
				text += part
			}
			before = append(before, text)
		}
		after := edit(before)
		condition := []string{"If-None-Match", "*"}
		if there {
			condition = []string{"If-Match", found.Etag}
		}
		switch {
		case len(after) == len(before):
			return nil
		case len(after) == 0:
			_, err = a.do(ctx, http.MethodDelete, set, nil, nil, condition...)
			return err
		}
		next := azureSet{}
		next.Properties.TTL = a.ttl
		for _, v := range after {
			next.Properties.Records = append(next.Properties.Records, azureTXT{[]string{v}})
		}
		_, err = a.do(ctx, http.MethodPut, set, next, nil, condition...)
		return err
	})
}
