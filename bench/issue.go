package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/go-acme/lego/v5/lego"
	legolog "github.com/go-acme/lego/v5/log"
	"github.com/go-acme/lego/v5/providers/dns/httpreq"
	"github.com/go-acme/lego/v5/registration"
)

// atOnce is how many orders are in work at a time, on both sides.
const atOnce = 8

// issue has certificates issued by the whole stack and, in turn, by lego in a loop, at the same Pebble with the same
// DNS: one name each, an ECDSA P-256 key, dns-01 by httpreq, the record looked for at the same resolver.
func issue(ctx context.Context, b *bench) error {
	template, err := narrowed(b)
	if err != nil {
		return err
	}
	s, err := startStack(ctx, b, template, filepath.Join(b.root, "build"))
	if err != nil {
		return err
	}
	defer s.stop()
	ours, err := newStackIssuer(ctx, s)
	if err != nil {
		return err
	}
	peer, err := newLegoIssuer(ctx, s)
	if err != nil {
		return err
	}
	some := b.rounds(80)
	const turns = 3
	var took [2]time.Duration
	begun := 0
	for turn := range turns + 1 {
		for i, issue := range []func(context.Context, []string) error{ours.issue, peer.issue} {
			n := some
			if turn == 0 {
				n = atOnce // starts processes and connections
			}
			names := make([]string, n)
			var begin time.Time
			for {
				begun++
				for j := range names {
					names[j] = fmt.Sprintf("n%d-%d.bench.test", begun, j)
				}
				begin = time.Now()
				err := issue(ctx, names)
				if err == nil {
					break
				}
				if begun > 4*turns || !strings.Contains(err.Error(), "Client.Timeout exceeded") {
					return err
				}
			}
			if turn > 0 {
				took[i] += time.Since(begin)
			}
		}
	}
	rate := func(took time.Duration) float64 { return float64(turns*some) / took.Minutes() }
	mine, theirs := rate(took[0]), rate(took[1])
	b.table.add(line{"certificates a minute", fmt.Sprintf("%.0f", mine), fmt.Sprintf("%.0f lego in a loop", theirs), times(mine / theirs), ">= 1.00x", mine >= theirs})
	b.table.note("%d turns of %d certificates, %d orders at a time. Pebble without sleeps and refused nonces. Ours: POST to the API, authorizer, queue,", turns, some, atOnce)
	b.table.note("issuer, keys sealed by KMS, each step stored in DynamoDB Local; until the API shows the last as issued. lego: one process that stores nothing.")
	if again := begun - 2*(turns+1); again > 0 {
		b.table.note("%d turns were begun again, because Pebble never answered for an order.", again)
	}
	return nil
}

// narrowed is template.yaml with as many orders at a time as the peer has.
func narrowed(b *bench) (string, error) {
	text, err := os.ReadFile(filepath.Join(b.root, "template.yaml"))
	if err != nil {
		return "", err
	}
	const wide = "MaximumConcurrency: 50"
	if !bytes.Contains(text, []byte(wide)) {
		return "", fmt.Errorf("template.yaml does not have %s", wide)
	}
	file := filepath.Join(b.work, "template.yaml")
	return file, os.WriteFile(file, bytes.ReplaceAll(text, []byte(wide), fmt.Appendf(nil, "MaximumConcurrency: %d", atOnce)), 0o600)
}

// parallel does a thing for each name, atOnce at a time.
func parallel(names []string, do func(string) error) error {
	work := make(chan string)
	failed := make([]error, atOnce)
	var group sync.WaitGroup
	for i := range failed {
		group.Go(func() {
			for name := range work {
				failed[i] = errors.Join(failed[i], do(name))
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	group.Wait()
	return errors.Join(failed...)
}

// A stackIssuer orders by the API.
type stackIssuer struct {
	stack             *stack
	cookie            string
	account, provider int64
}

func newStackIssuer(ctx context.Context, s *stack) (*stackIssuer, error) {
	i := &stackIssuer{stack: s, account: s.FirstUser.ACMEAccount}
	var err error
	if i.cookie, err = s.login(ctx); err != nil {
		return nil, err
	}
	i.provider, err = i.create(ctx, "dns-providers", map[string]any{"name": "bench", "kind": "httpreq", "config": map[string]any{
		"endpoint": s.DNS.HTTPReq.URL, "username": s.DNS.HTTPReq.User, "password": s.DNS.HTTPReq.Password,
	}})
	return i, err
}

func (i *stackIssuer) create(ctx context.Context, what string, body any) (int64, error) {
	status, _, answer, err := i.stack.post(ctx, "/apiv1/users/1/"+what, i.cookie, body)
	if err != nil {
		return 0, err
	}
	var created struct{ Data struct{ ID int64 } }
	if err := json.Unmarshal(answer, &created); err != nil || status != http.StatusCreated {
		return 0, fmt.Errorf("create one of %s: %d %s", what, status, answer)
	}
	return created.Data.ID, nil
}

// issue orders a certificate for each name, and waits until all are issued.
func (i *stackIssuer) issue(ctx context.Context, names []string) error {
	var mu sync.Mutex
	var ids []int64
	err := parallel(names, func(name string) error {
		id, err := i.create(ctx, "certificates", map[string]any{"domain": name, "acme_account_id": i.account, "dns_provider_id": i.provider, "key_type": "ecdsa"})
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return err
	}
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for _, id := range ids {
		for {
			var c struct{ Data struct{ Status string } }
			if err := i.get(ctx, fmt.Sprintf("/apiv1/users/1/certificates/%d", id), &c); err != nil {
				return err
			}
			if c.Data.Status == "ISSUED" {
				break
			}
			if c.Data.Status != "ISSUING" {
				return fmt.Errorf("certificate %d is %s", id, c.Data.Status)
			}
			<-poll.C
		}
	}
	return nil
}

func (i *stackIssuer) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, "GET", i.stack.URL+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Cookie", i.cookie)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(into)
}

// A legoIssuer is lego as its documentation shows it, without its pauses between requests.
type legoIssuer struct{ client *lego.Client }

// legoUser is an account as lego wants it.
type legoUser struct {
	key     *ecdsa.PrivateKey
	account *acme.ExtendedAccount
}

func (u *legoUser) GetEmail() string                       { return "" }
func (u *legoUser) GetRegistration() *acme.ExtendedAccount { return u.account }
func (u *legoUser) GetPrivateKey() crypto.Signer           { return u.key }

func newLegoIssuer(ctx context.Context, s *stack) (*legoIssuer, error) {
	legolog.SetDefault(slog.New(slog.DiscardHandler))
	roots, err := os.ReadFile(s.ACME.ServerRoot)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	user := &legoUser{}
	if user.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	config := lego.NewConfig(user)
	config.CADirURL = s.ACME.Directory
	// Now and then Pebble never answers for an order; such a turn is begun again.
	config.HTTPClient = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, MaxIdleConnsPerHost: atOnce}}
	config.Certificate.OverallRequestLimit = 1000
	client, err := lego.NewClient(config)
	if err != nil {
		return nil, err
	}
	if user.account, err = client.Registration.Register(ctx, registration.RegisterOptions{TermsOfServiceAgreed: true}); err != nil {
		return nil, err
	}
	endpoint, err := url.Parse(s.DNS.HTTPReq.URL)
	if err != nil {
		return nil, err
	}
	provider, err := httpreq.NewDNSProviderConfig(&httpreq.Config{
		Endpoint: endpoint, Username: s.DNS.HTTPReq.User, Password: s.DNS.HTTPReq.Password,
		PropagationTimeout: time.Minute, PollingInterval: 50 * time.Millisecond, HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}},
	})
	if err != nil {
		return nil, err
	}
	dns01.SetDefaultClient(dns01.NewClient(&dns01.Options{RecursiveNameservers: []string{s.DNS.Resolver}, Timeout: 5 * time.Second}))
	// Its own check asks port 53; like ours it asks the resolver.
	return &legoIssuer{client}, client.Challenge.SetDNS01Provider(provider, dns01.DisableAuthoritativeNssPropagationRequirement())
}

func (l *legoIssuer) issue(ctx context.Context, names []string) error {
	return parallel(names, func(name string) error {
		_, err := l.client.Certificate.Obtain(ctx, certificate.ObtainRequest{Domains: []string{name}, KeyType: certcrypto.EC256, Bundle: true})
		return err
	})
}
