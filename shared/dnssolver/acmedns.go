package dnssolver

import (
	"context"
	"net/http"

	"github.com/nrdcg/goacmedns"

	"cjj365.cc/bb/shared/dnsprovider"
)

// acmeDNS updates one account of an acme-dns server. The server keeps the last two values and has no way to
// remove one.
type acmeDNS struct {
	client  *goacmedns.Client
	account goacmedns.Account
}

func newAcmeDNS(c dnsprovider.Config, client *http.Client) (*acmeDNS, error) {
	api, err := goacmedns.NewClient(c.Text("api_url"), goacmedns.WithHTTPClient(client))
	if err != nil {
		return nil, err
	}
	return &acmeDNS{api, goacmedns.Account{
		Username: c.Text("username"), Password: c.Text("password"), SubDomain: c.Text("subdomain"), FullDomain: c.Text("fulldomain"),
	}}, nil
}

func (a *acmeDNS) Present(ctx context.Context, domain, _, keyAuth string) error {
	_, value := Record(domain, keyAuth)
	return a.client.UpdateTXTRecord(ctx, a.account, value)
}

func (a *acmeDNS) CleanUp(context.Context, string, string, string) error { return nil }
