package dnsprovider

import (
	"encoding/base64"
	"regexp"
	"slices"
)

// Type is the JSON type of a field.
type Type string

// The types.
const (
	String  Type = "string"
	Integer Type = "integer"
)

// Format is what a string has to be beyond its length and pattern.
type Format string

// The formats. The first three hold an address: it is checked by the guard.
const (
	URL            Format = "uri"
	HostPort       Format = "host-port" // a nameserver
	ServiceAccount Format = "google-service-account"
	Base64         Format = "base64"
	Name           Format = "hostname"
)

// Field is one setting of a kind.
type Field struct {
	Name        string
	Description string
	Type        Type // empty is String
	Secret      bool
	Required    bool
	// Destination says that the secrets are sent where this field points. Who changes it gives them anew.
	Destination bool
	Format      Format
	Pattern     string
	Enum        []string
	MinLength   int
	MaxLength   int // 0 is 255
	Minimum     int
	Maximum     int
	Default     any    // for the reader; the solver reads it by Config.Text and Config.Number
	With        string // another field that has to be given with this one
}

// Kind is one way to set a TXT record.
type Kind struct {
	Name   string
	Title  string
	Alias  string // another name by which Parse knows it
	Fields []Field
}

// Field finds a field by name.
func (k Kind) Field(name string) (Field, bool) {
	i := slices.IndexFunc(k.Fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return k.Fields[i], true
}

// Kinds is the catalogue, in the order of the contract's list.
//
// Contract §9 names four kinds: route53 and cloudflare are here, webhook is httpreq by another name, and manual is
// not offered: a record set by hand is not there when a certificate is to be renewed at night. Who can set
// none by an API points _acme-challenge by CNAME to a zone where one can (acme-dns is made for it).
var Kinds = []Kind{
	{Name: "route53", Title: "Amazon Route 53", Fields: fields(0,
		Field{Name: "access_key_id", Description: "Access key of an IAM user with route53:ListHostedZonesByName, ListResourceRecordSets and ChangeResourceRecordSets.", Required: true, Pattern: `^[A-Z0-9]{16,128}$`, MaxLength: 128},
		secret("secret_access_key", "Secret of that key."),
		Field{Name: "role_arn", Description: "Role to assume with that key.", Pattern: `^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,200}$`, MaxLength: 256},
		Field{Name: "external_id", Description: "External id that the role asks for.", Pattern: `^[A-Za-z0-9+=,.@:/_-]{2,255}$`, With: "role_arn"},
		Field{Name: "hosted_zone_id", Description: "Hosted zone, where the key may not list zones.", Pattern: `^Z[A-Z0-9]{1,31}$`},
	)},
	{Name: "cloudflare", Title: "Cloudflare", Fields: fields(120,
		secret("api_token", "API token with Zone:Read and DNS:Edit."),
		optional(secret("zone_token", "API token with Zone:Read, where api_token has DNS:Edit only.")),
	)},
	{Name: "digitalocean", Title: "DigitalOcean", Fields: fields(30, secret("token", "Personal access token with domain scopes."))},
	{Name: "hetzner", Title: "Hetzner", Fields: fields(60, secret("api_token", "API token of the Cloud project that holds the zone, read and write."))},
	{Name: "ovh", Title: "OVHcloud", Fields: fields(60,
		Field{Name: "endpoint", Description: "Which of OVH's APIs.", Required: true, Enum: []string{"ovh-eu", "ovh-ca", "ovh-us", "kimsufi-eu", "kimsufi-ca", "soyoustart-eu", "soyoustart-ca"}},
		Field{Name: "application_key", Description: "Application key.", Required: true, Pattern: `^[A-Za-z0-9]{8,64}$`},
		secret("application_secret", "Application secret."),
		secret("consumer_key", "Consumer key with GET, POST and DELETE on /domain/zone/*."),
	)},
	{Name: "gandi", Title: "Gandi LiveDNS", Fields: fields(300, secret("personal_access_token", "Personal access token that may manage technical configurations of domains."))},
	{Name: "azure", Title: "Azure DNS", Fields: fields(1,
		Field{Name: "tenant_id", Description: "Directory (tenant) id of the application.", Required: true, Pattern: uuid},
		Field{Name: "client_id", Description: "Application (client) id with the role DNS Zone Contributor.", Required: true, Pattern: uuid},
		secret("client_secret", "Secret of the application."),
		Field{Name: "subscription_id", Description: "Subscription of the zone.", Required: true, Pattern: uuid},
		Field{Name: "resource_group", Description: "Resource group of the zone.", Required: true, Pattern: `^[A-Za-z0-9_.()-]{0,89}[A-Za-z0-9_()-]$`, MaxLength: 90},
		Field{Name: "zone", Description: "Zone, where its name is not the one that DNS tells.", Format: Name},
		Field{Name: "environment", Description: "Which of Azure's clouds.", Enum: []string{"public", "china", "usgovernment"}, Default: "public", Destination: true},
	)},
	{Name: "gcloud", Title: "Google Cloud DNS", Fields: fields(1,
		Field{Name: "service_account_json", Description: "Key of a service account with the role DNS Administrator: the JSON file, as a string.", Required: true, Secret: true, Format: ServiceAccount, MinLength: 100, MaxLength: 8 << 10},
		Field{Name: "project", Description: "Project of the zone, where it is not the service account's.", Pattern: `^([a-z0-9.-]{1,100}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`},
		Field{Name: "managed_zone", Description: "Name of the managed zone, where the account may not list zones.", Pattern: `^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`},
	)},
	{Name: "porkbun", Title: "Porkbun", Fields: fields(600,
		secret("api_key", "API key (pk1_…)."),
		secret("secret_api_key", "Secret API key (sk1_…)."),
	)},
	{Name: "desec", Title: "deSEC", Fields: fields(3600, secret("token", "Token."))},
	{Name: "acme-dns", Title: "acme-dns", Fields: fields(-1,
		Field{Name: "api_url", Description: "Address of the acme-dns server.", Required: true, Format: URL, MaxLength: 2048, Destination: true},
		Field{Name: "username", Description: "User that POST /register gave.", Required: true, Pattern: `^[A-Za-z0-9_-]{1,64}$`},
		secret("password", "Password that POST /register gave."),
		Field{Name: "subdomain", Description: "Subdomain that POST /register gave.", Required: true, Pattern: `^[A-Za-z0-9_-]{1,63}$`},
		Field{Name: "fulldomain", Description: "Name that POST /register gave. _acme-challenge of each domain is a CNAME to it.", Required: true, Format: Name},
	)},
	{Name: "pdns", Title: "PowerDNS", Fields: fields(1,
		Field{Name: "api_url", Description: "Address of the server's HTTP API, without /api/v1.", Required: true, Format: URL, MaxLength: 2048, Destination: true},
		Field{Name: "api_key", Description: "API key.", Required: true, Secret: true, MinLength: minSecret, MaxLength: 1024},
		Field{Name: "server_name", Description: "Name of the server in its API.", Pattern: `^[A-Za-z0-9._-]{1,64}$`, Default: "localhost"},
	)},
	{Name: "rfc2136", Title: "DNS update (RFC 2136)", Fields: fields(0,
		Field{Name: "nameserver", Description: "Primary nameserver of the zone, with its port unless that is 53.", Required: true, Format: HostPort, MaxLength: 262, Destination: true},
		Field{Name: "tsig_key_name", Description: "Name of the TSIG key.", Required: true, Format: Name},
		Field{Name: "tsig_algorithm", Description: "Algorithm of the TSIG key.", Enum: []string{"hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"}, Default: "hmac-sha256"},
		Field{Name: "tsig_secret", Description: "Secret of the TSIG key, base64.", Required: true, Secret: true, Format: Base64, MinLength: 8, MaxLength: 256},
		Field{Name: "zone", Description: "Zone, where the nameserver does not tell it by its SOA record.", Format: Name},
	)},
	{Name: "httpreq", Title: "HTTP request", Alias: "webhook", Fields: fields(-1,
		Field{Name: "endpoint", Description: "Address to which /present and /cleanup are added.", Required: true, Format: URL, MaxLength: 2048, Destination: true},
		Field{Name: "mode", Description: "What is posted: fqdn and value, or in RAW mode domain, token and keyAuth.", Enum: []string{"DEFAULT", "RAW"}, Default: "DEFAULT"},
		Field{Name: "username", Description: "User for HTTP Basic authentication.", Pattern: `^[^:]+$`, With: "password"},
		Field{Name: "password", Description: "Password for HTTP Basic authentication.", Secret: true, MinLength: minSecret, MaxLength: 1024, With: "username"},
	)},
}

const uuid = `^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`

// Shorter secrets guess themselves, and cannot be taken out of an error's text without harm to it.
const minSecret = 4

func secret(name, description string) Field {
	return Field{Name: name, Description: description, Required: true, Secret: true, MinLength: 8, MaxLength: 1024}
}

func optional(f Field) Field {
	f.Required = false
	return f
}

// fields adds what all kinds have. minTTL is the least that the provider takes; -1 where records have none of
// ours.
func fields(minTTL int, own ...Field) []Field {
	if minTTL >= 0 {
		own = append(own, Field{Name: "ttl", Type: Integer, Description: "Seconds a resolver may keep the record.", Minimum: max(1, minTTL), Maximum: 86400, Default: max(120, minTTL)})
	}
	return append(own, Field{Name: "propagation_timeout_seconds", Type: Integer, Description: "How long to wait for the record to be seen at the zone's nameservers.", Minimum: 5, Maximum: 600, Default: 120})
}

// Schema describes a kind's config as JSON Schema, draft 2020-12.
func (k Kind) Schema() map[string]any {
	properties, with := map[string]any{}, map[string]any{}
	required := []string{}
	for _, f := range k.Fields {
		p := map[string]any{"description": f.Description, "type": string(f.Type)}
		if f.Type == Integer {
			p["minimum"], p["maximum"] = f.Minimum, f.Maximum
		} else {
			p["type"], p["maxLength"] = string(String), f.maxLength()
			if f.MinLength > 0 || f.Required {
				p["minLength"] = max(1, f.MinLength)
			}
			if f.Pattern != "" {
				p["pattern"] = f.Pattern
			}
			switch f.Format {
			case URL, Name:
				p["format"] = string(f.Format)
			case Base64:
				p["contentEncoding"] = "base64"
			case ServiceAccount:
				p["contentMediaType"] = "application/json"
			}
			if len(f.Enum) > 0 {
				p["enum"] = f.Enum
			}
		}
		if f.Secret {
			p["writeOnly"] = true
		}
		if f.Default != nil {
			p["default"] = f.Default
		}
		if f.Required {
			required = append(required, f.Name)
		}
		if f.With != "" {
			with[f.Name] = []string{f.With}
		}
		properties[f.Name] = p
	}
	schema := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": k.Title, "type": "object",
		"properties": properties, "required": required, "additionalProperties": false,
	}
	if len(with) > 0 {
		schema["dependentRequired"] = with
	}
	return schema
}

func (f Field) maxLength() int {
	if f.MaxLength == 0 {
		return 255
	}
	return f.MaxLength
}

// patterns are compiled once; the catalogue's own are known to compile.
var patterns = func() map[string]*regexp.Regexp {
	compiled := map[string]*regexp.Regexp{}
	for _, k := range Kinds {
		for _, f := range k.Fields {
			if f.Pattern != "" {
				compiled[f.Pattern] = regexp.MustCompile(f.Pattern)
			}
		}
	}
	return compiled
}()

// nameShape is a domain name, with or without the last dot.
var nameShape = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?$`)

func isBase64(s string) bool {
	_, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil
}
