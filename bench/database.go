package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cjj365.cc/bb/local/dynamodb"
	"cjj365.cc/bb/local/template"
	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/dynamo"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
)

// A database is DynamoDB Local in memory with the template's tables and one API key.
type database struct {
	*dynamodb.Server
	template *template.Template
	table    string // of credentials
	token    token.Token
	key      dynamo.Key // of the token's item
}

// awsEnvironment is what Lambda tells a function about AWS.
var awsEnvironment = map[string]string{
	"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true",
}

func startDatabase(ctx context.Context, b *bench) (*database, error) {
	server, err := dynamodb.Start(ctx, dynamodb.Options{})
	if err != nil {
		return nil, err
	}
	d := &database{Server: server}
	if err := d.fill(ctx, filepath.Join(b.root, "template.yaml")); err != nil {
		server.Stop()
		return nil, err
	}
	return d, nil
}

func (d *database) fill(ctx context.Context, file string) (err error) {
	d.template, err = template.Read(file, template.Options{Stack: "bench", Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		return err
	}
	if err := d.CreateTables(ctx, d.template.Tables); err != nil {
		return err
	}
	// The store reads its configuration from the environment, as in a function.
	for name, value := range awsEnvironment {
		os.Setenv(name, value)
	}
	os.Setenv("AWS_ENDPOINT_URL_DYNAMODB", d.URL)
	d.table = "bench-CredentialTable"
	s, err := store.Open(d.table, "bench-ResourceTable")
	if err != nil {
		return err
	}
	now := time.Now()
	owner, err := s.CreateUser(ctx, user.User{Email: "ann@example.test", State: user.Active, CreatedAt: now})
	if err != nil {
		return err
	}
	login, _ := session.New(owner.ID, 1, owner.Email, now)
	if err := s.CreateSession(ctx, owner, login, nil); err != nil {
		return err
	}
	id, err := s.NextAPIKeyID(ctx)
	if err != nil {
		return err
	}
	key, t := apikey.New(owner.ID, id, "ci", "certs:*:read", "bench", now, time.Hour)
	maker := access.Caller{Kind: access.Session, User: owner.ID, ID: login.ID, Permissions: access.Everything, ExpiresAt: login.HardEnd}
	d.token, d.key = t, authn.KeyOf(t)
	return s.CreateAPIKey(ctx, key, maker, nil, now)
}

// event is the authorizer's test event, all that API Gateway sends of a request, with the token.
func (d *database) event(b *bench) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(b.root, "authorizer", "testdata", "event.json"))
	if err != nil {
		return nil, err
	}
	bearer := "Bearer " + d.token.Reveal()
	event := strings.NewReplacer(
		`"Authorization": ""`, `"Authorization": "`+bearer+`"`, `"Authorization": [""]`, `"Authorization": ["`+bearer+`"]`,
	).Replace(string(text))
	if strings.Count(event, bearer) != 2 {
		return nil, fmt.Errorf("event.json does not have the two headers to put the token in")
	}
	return []byte(event), nil
}
