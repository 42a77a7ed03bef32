package dnssolver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The removals for lego's providers that remember a record's id from Present, which another process does not
// have, or that remove a set whole. They look the record up by its value.

type cloudflareAPI struct {
	rest
	token, zoneToken string
}

func (c *cloudflareAPI) remove(ctx context.Context, zone, name, value string) error {
	const base = "https://api.cloudflare.com/client/v4/zones"
	type row struct {
		ID      string `json:"id"`
		Content string `json:"content"`
	}
	var zones, found struct {
		Result []row `json:"result"`
	}
	zoneToken := c.zoneToken
	if zoneToken == "" {
		zoneToken = c.token
	}
	if _, err := c.do(ctx, http.MethodGet, base+"?name="+url.QueryEscape(zone), nil, &zones, "Authorization", "Bearer "+zoneToken); err != nil {
		return err
	}
	if len(zones.Result) == 0 {
		return fmt.Errorf("%w: Cloudflare has no zone %s for this token", errNoZone, zone)
	}
	records := base + "/" + url.PathEscape(zones.Result[0].ID) + "/dns_records"
	query := url.Values{"type": {"TXT"}, "name": {name}, "per_page": {"100"}}
	if _, err := c.do(ctx, http.MethodGet, records+"?"+query.Encode(), nil, &found, "Authorization", "Bearer "+c.token); err != nil {
		return err
	}
	for _, r := range found.Result {
		if strings.Trim(r.Content, `"`) == value {
			if _, err := c.do(ctx, http.MethodDelete, records+"/"+url.PathEscape(r.ID), nil, nil, "Authorization", "Bearer "+c.token); err != nil && status(err) != http.StatusNotFound {
				return err
			}
		}
	}
	return nil
}

type digitaloceanAPI struct {
	rest
	token string
}

func (d *digitaloceanAPI) remove(ctx context.Context, zone, name, value string) error {
	records := "https://api.digitalocean.com/v2/domains/" + url.PathEscape(zone) + "/records"
	var found struct {
		Records []struct {
			ID   int64  `json:"id"`
			Data string `json:"data"`
		} `json:"domain_records"`
	}
	query := url.Values{"type": {"TXT"}, "name": {name}, "per_page": {"200"}}
	if _, err := d.do(ctx, http.MethodGet, records+"?"+query.Encode(), nil, &found, "Authorization", "Bearer "+d.token); err != nil {
		return err
	}
	for _, r := range found.Records {
		if r.Data == value {
			if _, err := d.do(ctx, http.MethodDelete, records+"/"+strconv.FormatInt(r.ID, 10), nil, nil, "Authorization", "Bearer "+d.token); err != nil && status(err) != http.StatusNotFound {
				return err
			}
		}
	}
	return nil
}

type gandiAPI struct {
	rest
	token string
}

func (g *gandiAPI) remove(ctx context.Context, zone, name, value string) error {
	sub, err := below(name, zone)
	if err != nil {
		return err
	}
	set := "https://api.gandi.net/v5/livedns/domains/" + url.PathEscape(zone) + "/records/" + url.PathEscape(sub) + "/TXT"
	var found struct {
		TTL    int      `json:"rrset_ttl"`
		Values []string `json:"rrset_values"`
	}
	_, err = g.do(ctx, http.MethodGet, set, nil, &found, "Authorization", "Bearer "+g.token)
	if status(err) == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	before := len(found.Values)
	found.Values = slices.DeleteFunc(found.Values, func(v string) bool { return strings.Trim(v, `"`) == value })
	switch len(found.Values) {
	case before:
		return nil
	case 0:
		_, err = g.do(ctx, http.MethodDelete, set, nil, nil, "Authorization", "Bearer "+g.token)
	default:
		_, err = g.do(ctx, http.MethodPut, set, found, nil, "Authorization", "Bearer "+g.token)
	}
	return err
}

type porkbunAPI struct {
	rest
	key, secret string
}

func (p *porkbunAPI) remove(ctx context.Context, zone, name, value string) error {
	sub, err := below(name, zone)
	if err != nil {
		return err
	}
	const base = "https://api.porkbun.com/api/json/v3/dns/"
	login := map[string]string{"apikey": p.key, "secretapikey": p.secret}
	var found struct {
		Records []struct {
			ID      string `json:"id"`
			Content string `json:"content"`
		} `json:"records"`
	}
	if _, err := p.do(ctx, http.MethodPost, base+"retrieveByNameType/"+url.PathEscape(zone)+"/TXT/"+url.PathEscape(sub), login, &found); err != nil {
		return err
	}
	for _, r := range found.Records {
		if r.Content == value {
			if _, err := p.do(ctx, http.MethodPost, base+"delete/"+url.PathEscape(zone)+"/"+url.PathEscape(r.ID), login, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
