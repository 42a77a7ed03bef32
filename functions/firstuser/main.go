// Command firstuser creates the first user of a deployment, as a CloudFormation custom resource. The
// e-mail and password come from the stack's parameters; there is no default. An account that exists
// is left as it is, whatever the parameters say later.
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/aws/aws-lambda-go/lambda"

	"cjj365.cc/bb/shared/environ"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/user"
)

func main() {
	env := environ.Variables("CREDENTIAL_TABLE", "RESOURCE_TABLE")
	s, err := store.Open(env[0], env[1])
	if err != nil {
		environ.Exit(err)
	}
	lambda.Start(cfn.LambdaWrap((&handler{store: s, now: time.Now}).handle))
}

type handler struct {
	store *store.Store
	now   func() time.Time
}

// handle answers CloudFormation. The physical id stays the same for the resource's whole life, so no
// update ever deletes it, and a deletion deletes no account.
func (h *handler) handle(ctx context.Context, event cfn.Event) (id string, data map[string]any, err error) {
	const physicalID = "first-user"
	if event.RequestType == cfn.RequestDelete {
		return physicalID, nil, nil
	}
	email, _ := event.ResourceProperties["Email"].(string)
	password, _ := event.ResourceProperties["Password"].(string)
	if err := h.create(ctx, email, password); err != nil {
		var p *problem.Error
		if errors.As(err, &p) { // CloudFormation shows the reason to the operator
			err = fmt.Errorf("first user: %s", p.What)
		}
		return physicalID, nil, err
	}
	return physicalID, nil, nil
}

func (h *handler) create(ctx context.Context, email, password string) error {
	email, err := user.NormalizeEmail(email)
	if err != nil {
		return err
	}
	switch u, err := h.store.UserByEmail(ctx, email); {
	case err == nil && u.State != user.Active:
		return problem.Conflict.New("%s has registered and not been activated; activate it, or choose another address.", email)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := user.CheckPassword(password); err != nil {
		return err
	}
	hash, err := user.Hash(password)
	if err != nil {
		return err
	}
	_, err = h.store.CreateUser(ctx, user.User{
		Email: email, Country: "US", Roles: []string{"user"}, State: user.Active, PasswordHash: hash, CreatedAt: h.now(),
	})
	if errors.Is(err, store.ErrEmailTaken) { // by an invocation of the same deployment
		return nil
	}
	return err
}
