package dnssolver

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/oauth2/jwt"

	"cjj365.cc/bb/shared/dnsprovider"
)

// googleAPI is version 1 of Cloud DNS.
type googleAPI struct {
	rest
	project string // its URL
	zone    string
	ttl     int
}

// newGoogle signs in as the service account whose key is given (RFC 7523). There is no way from here to the metadata
// service or to GOOGLE_APPLICATION_CREDENTIALS, and the key's own token_uri is not used.
func newGoogle(c dnsprovider.Config, client *http.Client) (*googleAPI, error) {
	var account struct {
		ProjectID    string `json:"project_id"`
		ClientEmail  string `json:"client_email"`
		PrivateKey   string `json:"private_key"`
		PrivateKeyID string `json:"private_key_id"`
	}
	if json.Unmarshal([]byte(c.Text("service_account_json")), &account) != nil {
		return nil, errors.New("service_account_json is no JSON")
	}
	block, _ := pem.Decode([]byte(account.PrivateKey))
	if block == nil {
		return nil, errors.New("private_key of service_account_json is no PEM block")
	}
	if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		return nil, errors.New("private_key of service_account_json is no PKCS #8 key")
	}
	login := jwt.Config{
		Email: account.ClientEmail, PrivateKey: []byte(account.PrivateKey), PrivateKeyID: account.PrivateKeyID,
		Scopes: []string{"https://www.googleapis.com/auth/ndev.clouddns.readwrite"}, TokenURL: dnsprovider.GoogleTokenURL,
	}
	project := c.Text("project")
	if project == "" {
		project = account.ProjectID
	}
	return &googleAPI{
		rest:    rest{authorized(client, login.TokenSource)},
		project: "https://dns.googleapis.com/dns/v1/projects/" + url.PathEscape(project),
		zone:    c.Text("managed_zone"),
		ttl:     c.Number("ttl"),
	}, nil
}

type googleSet struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	TTL     int      `json:"ttl"`
	Rrdatas []string `json:"rrdatas"`
}

func (g *googleAPI) add(ctx context.Context, zone, name, value string) error {
	return g.change(ctx, zone, name, func(values []string) []string { return with(values, value) })
}

func (g *googleAPI) remove(ctx context.Context, zone, name, value string) error {
	return g.change(ctx, zone, name, func(values []string) []string { return without(values, value) })
}

// change replaces the set of values in one step. Google refuses it when the set is not as it was read.
func (g *googleAPI) change(ctx context.Context, zone, name string, edit func([]string) []string) error {
	managed, err := g.managedZone(ctx, zone)
	if err != nil {
		return err
	}
	base := g.project + "/managedZones/" + url.PathEscape(managed)
	query := url.Values{"name": {name + "."}, "type": {"TXT"}}
	return settle(func() error {
		var found struct {
			Rrsets []googleSet `json:"rrsets"`
		}
		if _, err := g.do(ctx, http.MethodGet, base+"/rrsets?"+query.Encode(), nil, &found); err != nil {
			return err
		}
		var before []string
		for _, set := range found.Rrsets {
			for _, data := range set.Rrdatas {
				if text, err := strconv.Unquote(data); err == nil {
					data = text
				}
				before = append(before, data)
			}
		}
		after := edit(before)
		if len(after) == len(before) {
			return nil
		}
		change := struct {
			Deletions []googleSet `json:"deletions,omitempty"`
			Additions []googleSet `json:"additions,omitempty"`
		}{Deletions: found.Rrsets}
		if len(after) > 0 {
			set := googleSet{Name: name + ".", Type: "TXT", TTL: g.ttl}
			for _, v := range after {
				set.Rrdatas = append(set.Rrdatas, strconv.Quote(v))
			}
			change.Additions = []googleSet{set}
		}
		_, err := g.do(ctx, http.MethodPost, base+"/changes", change, nil)
		return err
	})
}

func (g *googleAPI) managedZone(ctx context.Context, zone string) (string, error) {
	if g.zone != "" {
		return g.zone, nil
	}
	var found struct {
		ManagedZones []struct {
			Name       string `json:"name"`
			Visibility string `json:"visibility"`
		} `json:"managedZones"`
	}
	if _, err := g.do(ctx, http.MethodGet, g.project+"/managedZones?"+url.Values{"dnsName": {zone + "."}}.Encode(), nil, &found); err != nil {
		return "", err
	}
	for _, z := range found.ManagedZones {
		if z.Visibility != "private" {
			return z.Name, nil
		}
	}
	return "", fmt.Errorf("%w: the project has no public zone %s", errNoZone, zone)
}
