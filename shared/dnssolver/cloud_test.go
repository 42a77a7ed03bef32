package dnssolver

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// cloud stands where a provider's API is: it observes the requests of one kind and answers them as the provider's
// documentation says, over the records of zones. It proves what is sent and where, not what a provider
// does with it: that takes an account.
type cloud struct {
	zones  *zones
	answer func(*cloud, *http.Request, []byte) (int, string)

	mutex sync.Mutex
	seen  []string // "METHOD host/path?query" and what follows: headers and body
	ids   []string // name and value of record i
}

func (c *cloud) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		_ = r.Body.Close()
	}
	var headers bytes.Buffer
	_ = r.Header.Write(&headers)
	c.seen = append(c.seen, r.Method+" "+r.URL.Host+r.URL.RequestURI()+"\n"+headers.String()+string(body))
	status, text := c.answer(c, r, body)
	return &http.Response{StatusCode: status, Status: strconv.Itoa(status), Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r, ContentLength: int64(len(text)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
}

// add and del change single records; found lists them with their ids.
func (c *cloud) add(name, value string) int {
	c.zones.setTexts(name, append(c.zones.texts(name), value)...)
	c.ids = append(c.ids, name+" "+value)
	return len(c.ids)
}

func (c *cloud) del(id string) {
	n, _ := strconv.Atoi(id)
	name, value, _ := strings.Cut(c.ids[n-1], " ")
	c.zones.setTexts(name, without(c.zones.texts(name), value)...)
	c.ids[n-1] = ""
}

func (c *cloud) found(name string) map[int]string {
	list := map[int]string{}
	for i, text := range c.ids {
		if at, value, _ := strings.Cut(text, " "); strings.EqualFold(at, name) {
			list[i+1] = value
		}
	}
	return list
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func decode[T any](raw []byte) T {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		panic(fmt.Sprintf("%v in %s", err, raw))
	}
	return v
}

type object = map[string]any

const zoneName = "example.test"

// under gives the name at a provider that wants it without the zone.
func under(sub string) string { return sub + "." + zoneName }

func unquoteAll(values []string) (list []string) {
	for _, v := range values {
		list = append(list, strings.Trim(v, `"`))
	}
	return list
}

// clouds are the peers by kind. Each refuses what the real one is documented to refuse: a record that is there already.
var clouds = map[string]func(*cloud, *http.Request, []byte) (int, string){
	"cloudflare": func(c *cloud, r *http.Request, body []byte) (int, string) {
		ok := func(result any) (int, string) {
			return 200, encode(object{"success": true, "errors": []any{}, "result": result, "result_info": object{"page": 1, "total_pages": 1}})
		}
		path := strings.TrimPrefix(r.URL.Path, "/client/v4/zones")
		switch {
		case path == "":
			return ok([]object{{"id": "zone1", "name": zoneName}})
		case r.Method == http.MethodPost:
			record := decode[struct{ Name, Content string }](body)
			value := strings.Trim(record.Content, `"`)
			if slices.Contains(c.zones.texts(record.Name), value) {
				return 400, encode(object{"success": false, "errors": []object{{"code": 81058, "message": "An identical record already exists."}}})
			}
			return ok(object{"id": strconv.Itoa(c.add(record.Name, value))})
		case r.Method == http.MethodGet:
			list := []object{}
			for id, v := range c.found(r.URL.Query().Get("name")) {
				list = append(list, object{"id": strconv.Itoa(id), "content": `"` + v + `"`})
			}
			return ok(list)
		}
		c.del(path[strings.LastIndex(path, "/")+1:])
		return ok(object{})
	},
	"digitalocean": func(c *cloud, r *http.Request, body []byte) (int, string) {
		switch r.Method {
		case http.MethodPost:
			record := decode[struct{ Name, Data string }](body)
			return 201, encode(object{"domain_record": object{"id": c.add(strings.TrimSuffix(record.Name, "."), record.Data)}})
		case http.MethodGet:
			list := []object{}
			for id, v := range c.found(r.URL.Query().Get("name")) {
				list = append(list, object{"id": id, "data": v})
			}
			return 200, encode(object{"domain_records": list})
		}
		c.del(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		return 204, ""
	},
	"hetzner": func(c *cloud, r *http.Request, body []byte) (int, string) {
		done := encode(object{"action": object{"id": 1, "status": "success"}})
		parts := strings.Split(r.URL.Path, "/") // /v1/zones/ZONE/rrsets/NAME/TXT/actions/add_records
		if parts[2] == "actions" {
			return 200, done
		}
		name := under(parts[5])
		for _, record := range decode[struct{ Records []struct{ Value string } }](body).Records {
			value := strings.Trim(record.Value, `"`)
			there := slices.Contains(c.zones.texts(name), value)
			switch {
			case strings.HasSuffix(r.URL.Path, "add_records") && there:
				return 422, encode(object{"error": object{"code": "invalid_input", "message": "duplicate value"}})
			case strings.HasSuffix(r.URL.Path, "add_records"):
				c.zones.setTexts(name, append(c.zones.texts(name), value)...)
			default:
				c.zones.setTexts(name, without(c.zones.texts(name), value)...)
			}
		}
		return 201, done
	},
	"ovh": func(c *cloud, r *http.Request, body []byte) (int, string) {
		id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		switch {
		case strings.HasSuffix(r.URL.Path, "/auth/time"):
			return 200, "1700000000"
		case strings.HasSuffix(r.URL.Path, "/refresh"):
			return 200, "null"
		case r.Method == http.MethodPost:
			record := decode[ovhRecord](body)
			record.ID = int64(c.add(under(record.SubDomain), record.Target))
			return 200, encode(record)
		case r.Method == http.MethodDelete:
			c.del(id)
			return 200, "null"
		case id == "record":
			list := []int{}
			for id := range c.found(under(r.URL.Query().Get("subDomain"))) {
				list = append(list, id)
			}
			return 200, encode(list)
		}
		n, _ := strconv.Atoi(id)
		_, value, _ := strings.Cut(c.ids[n-1], " ")
		return 200, encode(object{"id": n, "target": `"` + value + `"`})
	},
	"gandi": func(c *cloud, r *http.Request, body []byte) (int, string) {
		parts := strings.Split(r.URL.Path, "/") // /v5/livedns/domains/ZONE/records/NAME/TXT
		name := under(parts[6])
		switch r.Method {
		case http.MethodPut:
			values := unquoteAll(decode[struct {
				Values []string `json:"rrset_values"`
			}](body).Values)
			if len(slices.Compact(slices.Sorted(slices.Values(values)))) != len(values) {
				return 400, encode(object{"message": "duplicate values"})
			}
			c.zones.setTexts(name, values...)
			return 201, encode(object{"message": "DNS Record Created"})
		case http.MethodDelete:
			c.zones.setTexts(name)
			return 204, ""
		}
		values := c.zones.texts(name)
		if len(values) == 0 {
			return 404, encode(object{"message": "Can't find the DNS record"})
		}
		return 200, encode(object{"rrset_ttl": 300, "rrset_values": values})
	},
	"azure": func(c *cloud, r *http.Request, body []byte) (int, string) {
		if r.URL.Host == "login.microsoftonline.com" {
			return 200, encode(object{"token_type": "Bearer", "expires_in": 3600, "access_token": "azure-access"})
		}
		name := under(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:])
		values := c.zones.texts(name)
		etag := fmt.Sprint("etag", values)
		if r.Method != http.MethodGet && len(values) > 0 && r.Header.Get("If-Match") != etag || len(values) == 0 && r.Header.Get("If-Match") != "" {
			return 412, encode(object{"code": "PreconditionFailed"})
		}
		switch r.Method {
		case http.MethodGet:
			if len(values) == 0 {
				return 404, encode(object{"code": "NotFound", "message": "The resource record does not exist in resource group."})
			}
			list := []object{}
			for _, v := range values {
				list = append(list, object{"value": []string{v}})
			}
			return 200, encode(object{"etag": etag, "properties": object{"TTL": 60, "TXTRecords": list}})
		case http.MethodDelete:
			c.zones.setTexts(name)
			return 200, ""
		}
		var next []string
		for _, record := range decode[azureSet](body).Properties.Records {
			next = append(next, strings.Join(record.Value, ""))
		}
		c.zones.setTexts(name, next...)
		return 201, encode(object{})
	},
	"gcloud": func(c *cloud, r *http.Request, body []byte) (int, string) {
		switch {
		case r.URL.Host == "oauth2.googleapis.com":
			return 200, encode(object{"token_type": "Bearer", "expires_in": 3600, "access_token": "google-access"})
		case strings.HasSuffix(r.URL.Path, "/managedZones"):
			return 200, encode(object{"managedZones": []object{{"name": "inside", "visibility": "private"}, {"name": "zone-1", "visibility": "public"}}})
		case strings.HasSuffix(r.URL.Path, "/managedZones/zone-1/rrsets"):
			name := r.URL.Query().Get("name")
			values := []string{}
			for _, v := range c.zones.texts(name) {
				values = append(values, strconv.Quote(v))
			}
			if len(values) == 0 {
				return 200, `{"rrsets": []}`
			}
			return 200, encode(object{"rrsets": []googleSet{{name, "TXT", 60, values}}})
		}
		change := decode[struct{ Additions, Deletions []googleSet }](body)
		for _, set := range change.Deletions {
			if !slices.Equal(unquoteAll(set.Rrdatas), c.zones.texts(set.Name)) {
				return 412, encode(object{"error": object{"code": 412, "message": "Precondition not met"}})
			}
			c.zones.setTexts(set.Name)
		}
		for _, set := range change.Additions {
			if len(c.zones.texts(set.Name)) > 0 {
				return 409, encode(object{"error": object{"code": 409, "message": "The resource already exists"}})
			}
			c.zones.setTexts(set.Name, unquoteAll(set.Rrdatas)...)
		}
		return 200, encode(object{"status": "pending", "id": "1"})
	},
	"porkbun": func(c *cloud, r *http.Request, body []byte) (int, string) {
		parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/json/v3/dns/"), "/")
		switch parts[0] {
		case "create":
			record := decode[struct{ Name, Content string }](body)
			return 200, encode(object{"status": "SUCCESS", "id": c.add(under(record.Name), record.Content)})
		case "retrieveByNameType":
			list := []object{}
			for id, v := range c.found(under(parts[3])) {
				list = append(list, object{"id": strconv.Itoa(id), "content": v})
			}
			return 200, encode(object{"status": "SUCCESS", "records": list})
		}
		c.del(parts[2])
		return 200, encode(object{"status": "SUCCESS"})
	},
	"desec": func(c *cloud, r *http.Request, body []byte) (int, string) {
		parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // api/v1/domains/ZONE/rrsets/NAME/TXT
		if len(parts) == 3 {
			return 200, encode([]object{{"name": zoneName}})
		}
		type set struct {
			SubName string   `json:"subname"`
			Records []string `json:"records"`
		}
		name := ""
		if len(parts) > 5 {
			name = under(parts[5])
		}
		if r.Method == http.MethodGet {
			var quoted []string
			for _, v := range c.zones.texts(name) {
				quoted = append(quoted, strconv.Quote(v))
			}
			if len(quoted) == 0 {
				return 404, encode(object{"detail": "Not found."})
			}
			return 200, encode(object{"subname": parts[5], "type": "TXT", "records": quoted, "ttl": 3600})
		}
		next := decode[set](body)
		if name == "" {
			name = under(next.SubName)
		}
		values := unquoteAll(next.Records)
		if len(slices.Compact(slices.Sorted(slices.Values(values)))) != len(values) {
			return 400, encode(object{"records": []string{"Duplicate records."}})
		}
		c.zones.setTexts(name, values...)
		if r.Method == http.MethodPost {
			return 201, encode(object{"records": next.Records})
		}
		return 200, encode(object{"records": next.Records})
	},
	"route53": func(c *cloud, r *http.Request, body []byte) (int, string) {
		const ns = ` xmlns="https://route53.amazonaws.com/doc/2013-04-01/"`
		switch {
		case strings.HasSuffix(r.URL.Path, "/hostedzonesbyname"):
			return 200, `<ListHostedZonesByNameResponse` + ns + `><HostedZones><HostedZone><Id>/hostedzone/Z1</Id><Name>` + zoneName + `.</Name><CallerReference>x</CallerReference><Config><PrivateZone>false</PrivateZone></Config></HostedZone></HostedZones><IsTruncated>false</IsTruncated><MaxItems>100</MaxItems></ListHostedZonesByNameResponse>`
		case r.Method == http.MethodGet:
			name, sets := r.URL.Query().Get("name"), ""
			for _, v := range c.zones.texts(name) {
				sets += `<ResourceRecord><Value>"` + v + `"</Value></ResourceRecord>`
			}
			if sets != "" {
				sets = `<ResourceRecordSet><Name>` + name + `</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords>` + sets + `</ResourceRecords></ResourceRecordSet>`
			}
			return 200, `<ListResourceRecordSetsResponse` + ns + `><ResourceRecordSets>` + sets + `</ResourceRecordSets><IsTruncated>false</IsTruncated><MaxItems>100</MaxItems></ListResourceRecordSetsResponse>`
		}
		var batch struct {
			Changes []struct {
				Action string
				Name   string   `xml:"ResourceRecordSet>Name"`
				Values []string `xml:"ResourceRecordSet>ResourceRecords>ResourceRecord>Value"`
			} `xml:"ChangeBatch>Changes>Change"`
		}
		if err := xml.Unmarshal(body, &batch); err != nil {
			panic(err)
		}
		for _, change := range batch.Changes {
			values := unquoteAll(change.Values)
			if change.Action == "DELETE" {
				values = nil
			}
			c.zones.setTexts(change.Name, values...)
		}
		return 200, `<ChangeResourceRecordSetsResponse` + ns + `><ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo></ChangeResourceRecordSetsResponse>`
	},

	// These three are peers with a protocol for everybody's server; the test listens for them too.
	"httpreq": func(c *cloud, r *http.Request, body []byte) (int, string) {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "httpreq-SECRET" {
			return 401, "who is " + user + " with " + password
		}
		m := decode[struct{ FQDN, Value string }](body)
		values := without(c.zones.texts(m.FQDN), m.Value)
		if strings.HasSuffix(r.URL.Path, "/present") {
			values = append(values, m.Value)
		}
		c.zones.setTexts(m.FQDN, values...)
		return 200, ""
	},
	"acme-dns": func(c *cloud, r *http.Request, body []byte) (int, string) {
		if r.Header.Get("X-Api-User") != "u-1" || r.Header.Get("X-Api-Key") != "acmedns-SECRET" {
			return 401, `{"error": "forbidden", "key": "` + r.Header.Get("X-Api-Key") + `"}`
		}
		m := decode[struct{ Subdomain, Txt string }](body)
		const at = "acme.other.test"
		values := append(without(c.zones.texts(at), m.Txt), m.Txt)
		c.zones.setTexts(at, values[max(0, len(values)-2):]...)
		return 200, encode(object{"txt": m.Txt})
	},
	"pdns": func(c *cloud, r *http.Request, body []byte) (int, string) {
		if r.Header.Get("X-Api-Key") != "pdns-SECRET" {
			return 401, "Unauthorized"
		}
		switch {
		case r.URL.Path == "/api/v1/servers/localhost/zones/"+zoneName+"." && r.Method == http.MethodGet:
			sets := []object{}
			for name := range c.zones.names() {
				records := []object{}
				for _, v := range c.zones.texts(name) {
					records = append(records, object{"content": strconv.Quote(v)})
				}
				sets = append(sets, object{"name": name, "type": "TXT", "ttl": 60, "records": records})
			}
			return 200, encode(object{"id": zoneName + ".", "name": zoneName + ".", "kind": "Native", "url": "/api/v1/servers/localhost/zones/" + zoneName + ".", "rrsets": sets})
		case r.Method == http.MethodPut:
			return 200, `{"result": "Notification queued"}`
		case r.Method != http.MethodPatch:
			return 404, "Not Found"
		}
		for _, set := range decode[struct {
			Rrsets []struct {
				Name, Changetype string
				Records          []struct{ Content string }
			}
		}](body).Rrsets {
			var values []string
			for _, record := range set.Records {
				value := strings.Trim(record.Content, `"`)
				if slices.Contains(values, value) {
					return 422, encode(object{"error": "Duplicate record in RRset " + set.Name})
				}
				values = append(values, value)
			}
			c.zones.setTexts(set.Name, values...)
		}
		return 204, ""
	},
}

// names are those with TXT records.
func (z *zones) names() map[string]bool {
	z.mutex.Lock()
	var list []string
	for name := range z.records {
		list = append(list, name)
	}
	z.mutex.Unlock()
	with := map[string]bool{}
	for _, name := range list {
		if len(z.texts(name)) > 0 {
			with[name] = true
		}
	}
	return with
}

// hosts are all that a kind may talk to.
var hosts = map[string][]string{
	"route53": {"route53.amazonaws.com"}, "cloudflare": {"api.cloudflare.com"}, "digitalocean": {"api.digitalocean.com"}, "hetzner": {"api.hetzner.cloud"}, "ovh": {"eu.api.ovh.com"},
	"gandi": {"api.gandi.net"}, "azure": {"login.microsoftonline.com", "management.azure.com"}, "gcloud": {"oauth2.googleapis.com", "dns.googleapis.com"}, "porkbun": {"api.porkbun.com"}, "desec": {"desec.io"},
	"acme-dns": {"auth.example.org"}, "pdns": {"pdns.example.org:8081"}, "httpreq": {"hook.example.org"},
}

// googleKey is a service account's key, made anew.
var googleKey = sync.OnceValue(func() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return encode(object{
		"type": "service_account", "project_id": "proj-123", "private_key_id": "google-key-id-SECRET", "client_email": "a@proj-123.iam.gserviceaccount.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
})

// configs are what a user gives, by kind.
func configs() map[string]object {
	return map[string]object{
		"route53": {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "route53-SECRET"}, "cloudflare": {"api_token": "cloudflare-SECRET", "zone_token": "cloudflare-zone-SECRET"},
		"digitalocean": {"token": "digitalocean-SECRET"}, "hetzner": {"api_token": "hetzner-SECRET"},
		"ovh":   {"endpoint": "ovh-eu", "application_key": "abcdefgh12345678", "application_secret": "ovh-SECRET", "consumer_key": "ovh-consumer-SECRET"},
		"gandi": {"personal_access_token": "gandi-SECRET"},
		"azure": {"tenant_id": "11111111-2222-3333-4444-555555555555", "client_id": "11111111-2222-3333-4444-555555555556", "client_secret": "azure-SECRET",
			"subscription_id": "11111111-2222-3333-4444-555555555557", "resource_group": "rg"},
		"gcloud": {"service_account_json": googleKey()}, "porkbun": {"api_key": "pk1_SECRET", "secret_api_key": "sk1_SECRET"}, "desec": {"token": "desec-SECRET"},
		"acme-dns": {"api_url": "https://auth.example.org", "username": "u-1", "password": "acmedns-SECRET", "subdomain": "acme", "fulldomain": "acme.other.test"},
		"pdns":     {"api_url": "https://pdns.example.org:8081", "api_key": "pdns-SECRET"},
		"httpreq":  {"endpoint": "https://hook.example.org/dns", "username": "ann", "password": "httpreq-SECRET"},
	}
}

// solverOf makes a Solver that talks to c.
func solverOf(t *testing.T, kind string, c *cloud) *Solver {
	t.Helper()
	s, err := newSolver(parse(t, kind, configs()[kind]), local, &http.Client{Transport: c})
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	return s
}

func requestHost(seen string) string {
	_, rest, _ := strings.Cut(seen, " ")
	u, err := url.Parse("https://" + strings.SplitN(rest, "\n", 2)[0])
	if err != nil {
		return err.Error()
	}
	return u.Host
}
