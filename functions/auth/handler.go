package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/mail"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store *store.Store
	mail  *mail.Sender
	authn *authn.Authenticator
	log   *slog.Logger
	now   func() time.Time
	wait  func(context.Context, time.Time)

	tokens *devicetoken.Signer
	url    string // where people reach the page of devices, without a path
}

func (h *handler) routes() *wire.API {
	public := wire.Rule{Public: true}
	a := wire.New()
	for _, at := range []struct{ path, id string }{{"/auth/general", "auth-action"}, {"/auth", "auth-action-short"}} {
		wire.Register(a, wire.Operation{
			Method: "POST", Path: at.path, ID: at.id, Rule: public,
			Summary:     "Log in, register, activate, or reset a password",
			Description: "The field action decides. login answers with the session cookie, or with token_type Bearer with a session token and a refresh token.",
		}, h.general)
	}
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/auth/general", ID: "name-available", Rule: public, Summary: "Whether a user name is free",
	}, h.available)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/auth/status", ID: "auth-status", Rule: public,
		Summary: "Who is logged in", Description: "Without a session the status is 200 as well, with an error of code 999999.",
	}, h.status)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/auth/logout", ID: "logout", Rule: public, Status: http.StatusNoContent, Summary: "End the session",
	}, h.logout)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/auth/profile", ID: "profile", Rule: public, Summary: "The logged-in user",
	}, h.profile)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/auth/third-party-bindings", ID: "third-party-bindings", Rule: public, Summary: "Accounts elsewhere that are bound to the user",
	}, h.bindings)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/auth/refresh", ID: "refresh", Rule: public,
		Summary: "Renew a session with a refresh token", Description: "Each refresh token is used once. A repeat within two minutes, before the new one is used, gets another pair.",
	}, h.refresh)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: "/auth/device", ID: "device-authorization", Rule: public,
		Summary:     "Authorize a device (RFC 8628)",
		Description: "The field action decides. device_start gives codes; device_verify approves or denies a user code and needs a session; device_poll answers with the state, 200 whatever it is, and with a registration code once the device is approved.",
	}, h.device)
	a.Handle("GET /device", page())
	return a
}

// person is a user as the routes show them.
type person struct {
	ID      int64    `json:"id"`
	Name    string   `json:"name"`
	Email   string   `json:"email"`
	Roles   []string `json:"roles"`
	Country string   `json:"country_of_residence"`
}

func show(u user.User) *person {
	roles := u.Roles
	if roles == nil {
		roles = []string{}
	}
	return &person{ID: u.ID, Name: u.Name, Email: u.Email, Roles: roles, Country: u.Country}
}

// credentialed is embedded by requests that need to know who asks.
type credentialed struct {
	presented authn.Credential
	err       error
}

// Resolve takes the credential from the request's headers.
func (c *credentialed) Resolve(ctx huma.Context) []error {
	c.presented, c.err = authn.PresentedIn(ctx.EachHeader)
	return nil
}

// cookie is the Set-Cookie line of a session token; an empty token ends the cookie.
func cookie(ctx context.Context, token string) string {
	c := http.Cookie{
		Name: authn.CookieName, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: gateway.From(ctx).Secure, MaxAge: int(session.Hard / time.Second),
	}
	if token == "" {
		c.MaxAge = -1
	}
	return c.String()
}

// limits of tries (contract §2.10), by address and by account.
var (
	perAddress      = store.Limit{Most: 300, Window: 5 * time.Minute}
	newPerAddress   = store.Limit{Most: 30, Window: time.Hour}
	perAccount      = store.Limit{Most: 10, Window: 15 * time.Minute}
	mailsPerAccount = store.Limit{Most: 5, Window: time.Hour}
)

// count counts a try of an action by the request's address and on the account, and refuses beyond
// either limit.
func (h *handler) count(ctx context.Context, action, email string, account store.Limit, now time.Time) error {
	if err := h.countAddress(ctx); err != nil {
		return err
	}
	if action == "register" {
		if err := h.store.Count(ctx, "register#"+network(gateway.From(ctx).SourceIP), newPerAddress, now); err != nil {
			return err
		}
	}
	return h.store.Count(ctx, action+"#"+email, account, now)
}

// countAddress counts a try of anything by the request's address, and refuses beyond the limit.
func (h *handler) countAddress(ctx context.Context) error {
	return h.store.Count(ctx, "address#"+network(gateway.From(ctx).SourceIP), perAddress, h.now())
}

// audit writes the line that each login and change of an account leaves.
func (h *handler) audit(ctx context.Context, what string, user int64) {
	h.log.LogAttrs(ctx, slog.LevelInfo, "account "+what, slog.Int64("user", user), slog.String("ip", gateway.From(ctx).SourceIP))
}

var errNotLogin = problem.NotLogin.New("Log in first.")
