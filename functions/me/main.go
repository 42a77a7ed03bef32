// Command me answers who the credential of a request is. It reads nothing but the authorizer's scope.
package main

import (
	"context"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/wire"
)

func main() {
	gateway.Serve(routes())
}

func routes() *wire.API {
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/apiv1/me", ID: "get-me",
		Summary: "Who the credential is", Description: "Its user, permissions and expiry.",
	}, me)
	return a
}

type response struct{ Body wire.Data[identity] }

type identity struct {
	Kind        access.Kind       `json:"kind" enum:"session,apikey"`
	User        int64             `json:"user_id"`
	ID          int64             `json:"id" doc:"Of the API key or session."`
	Name        string            `json:"name" doc:"The API key's name, or the user's e-mail."`
	Permissions []wire.Permission `json:"permissions" doc:"A session holds everything."`
	ExpiresAt   int64             `json:"expires_at" doc:"Epoch milliseconds."`
}

func me(ctx context.Context, _ *struct{}) (*response, error) {
	c, _ := access.FromContext(ctx) // the operation's rule has seen that there is one
	i := identity{Kind: c.Kind, User: c.User, ID: c.ID, Name: c.Name, Permissions: []wire.Permission{}, ExpiresAt: c.ExpiresAt.UnixMilli()}
	for _, p := range c.Permissions.List() {
		i.Permissions = append(i.Permissions, wire.Permission(p))
	}
	return &response{wire.Data[identity]{Data: i}}, nil
}
