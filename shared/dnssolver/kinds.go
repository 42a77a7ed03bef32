package dnssolver

import (
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	awsroute53 "github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-acme/lego/v5/providers/dns/cloudflare"
	"github.com/go-acme/lego/v5/providers/dns/desec"
	"github.com/go-acme/lego/v5/providers/dns/digitalocean"
	"github.com/go-acme/lego/v5/providers/dns/gandiv5"
	"github.com/go-acme/lego/v5/providers/dns/hetzner"
	"github.com/go-acme/lego/v5/providers/dns/httpreq"
	"github.com/go-acme/lego/v5/providers/dns/pdns"
	"github.com/go-acme/lego/v5/providers/dns/porkbun"
	"github.com/go-acme/lego/v5/providers/dns/route53"

	"cjj365.cc/bb/shared/dnsprovider"
)

// kinds makes the provider of each kind. The client is the kind's own: some wrap its transport. Every field of
// a lego Config that is left out here was looked at: none is read from the environment later.
var kinds = map[string]func(s *Solver, c dnsprovider.Config, client *http.Client) error{
	"route53": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.provider, err = route53.NewDNSProviderConfig(&route53.Config{
			Client:       route53Client(c, client),
			HostedZoneID: c.Text("hosted_zone_id"),
			TTL:          c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll,
			// Propagated asks the nameservers themselves.
			WaitForRecordSetsChanged: false,
		})
		return err
	},
	"cloudflare": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.remove = (&cloudflareAPI{rest{client}, c.Text("api_token"), c.Text("zone_token")}).remove
		s.provider, err = cloudflare.NewDNSProviderConfig(&cloudflare.Config{
			AuthToken: c.Text("api_token"), ZoneToken: c.Text("zone_token"),
			TTL: c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"digitalocean": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.remove = (&digitaloceanAPI{rest{client}, c.Text("token")}).remove
		s.provider, err = digitalocean.NewDNSProviderConfig(&digitalocean.Config{
			AuthToken: c.Text("token"),
			TTL:       c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"hetzner": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.provider, err = hetzner.NewDNSProviderConfig(&hetzner.Config{
			APIToken: c.Text("api_token"),
			TTL:      c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"ovh": func(s *Solver, c dnsprovider.Config, client *http.Client) error {
		api, err := newOVH(c, client)
		s.provider = own{records: api}
		return err
	},
	"gandi": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.remove = (&gandiAPI{rest{client}, c.Text("personal_access_token")}).remove
		s.provider, err = gandiv5.NewDNSProviderConfig(&gandiv5.Config{
			PersonalAccessToken: c.Text("personal_access_token"),
			TTL:                 c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"azure": func(s *Solver, c dnsprovider.Config, client *http.Client) error {
		s.provider = own{records: newAzure(c, client), zone: c.Text("zone")}
		return nil
	},
	"gcloud": func(s *Solver, c dnsprovider.Config, client *http.Client) error {
		api, err := newGoogle(c, client)
		s.provider = own{records: api}
		return err
	},
	"porkbun": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.remove = (&porkbunAPI{rest{client}, c.Text("api_key"), c.Text("secret_api_key")}).remove
		s.provider, err = porkbun.NewDNSProviderConfig(&porkbun.Config{
			APIKey: c.Text("api_key"), SecretAPIKey: c.Text("secret_api_key"),
			TTL: c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"desec": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.provider, err = desec.NewDNSProviderConfig(&desec.Config{
			Token: c.Text("token"),
			TTL:   c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"acme-dns": func(s *Solver, c dnsprovider.Config, client *http.Client) (err error) {
		s.fixed = c.Text("fulldomain")
		s.provider, err = newAcmeDNS(c, client)
		return err
	},
	"pdns": func(s *Solver, c dnsprovider.Config, client *http.Client) error {
		host, err := url.Parse(c.Text("api_url"))
		if err != nil {
			return err
		}
		s.provider, err = pdns.NewDNSProviderConfig(&pdns.Config{
			Host: host, APIKey: c.Text("api_key"), ServerName: c.Text("server_name"),
			APIVersion: 1, // 0 would ask the server, without a bound on the wait
			TTL:        c.Number("ttl"), PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
	"rfc2136": func(s *Solver, c dnsprovider.Config, _ *http.Client) error {
		s.provider = newUpdate(c, s.guard)
		return nil
	},
	"httpreq": func(s *Solver, c dnsprovider.Config, client *http.Client) error {
		endpoint, err := url.Parse(c.Text("endpoint"))
		if err != nil {
			return err
		}
		mode := c.Text("mode")
		if mode != "RAW" {
			mode = ""
		}
		s.provider, err = httpreq.NewDNSProviderConfig(&httpreq.Config{
			Endpoint: endpoint, Mode: mode, Username: c.Text("username"), Password: c.Text("password"),
			PropagationTimeout: s.timeout, PollingInterval: maxPoll, HTTPClient: clone(client),
		})
		return err
	},
}

func clone(client *http.Client) *http.Client {
	c := *client
	return &c
}

// route53Client is made by hand: aws/config reads the environment, ~/.aws and the function's role. Route 53 is one
// service for all regions; requests are signed for us-east-1.
func route53Client(c dnsprovider.Config, client *http.Client) *awsroute53.Client {
	var provider aws.CredentialsProvider = credentials.NewStaticCredentialsProvider(c.Text("access_key_id"), c.Text("secret_access_key"), "")
	if role := c.Text("role_arn"); role != "" {
		provider = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(
			sts.New(sts.Options{Region: "us-east-1", Credentials: provider, HTTPClient: client}), role,
			func(o *stscreds.AssumeRoleOptions) {
				o.RoleSessionName = "bb-dns"
				if id := c.Text("external_id"); id != "" {
					o.ExternalID = &id
				}
			}))
	}
	return awsroute53.New(awsroute53.Options{Region: "us-east-1", Credentials: provider, HTTPClient: client, RetryMaxAttempts: 4})
}
