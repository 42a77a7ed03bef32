package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/wire"
)

// caller finds the session that a request presents; problem.NotLogin if it presents none that lives.
func (h *handler) caller(ctx context.Context, c *credentialed) (authn.Result, error) {
	if c.err != nil || c.presented.Token.Kind != token.Session {
		return authn.Result{}, errNotLogin
	}
	result, err := h.authn.Authenticate(ctx, c.presented.Token, "")
	var refusal authn.Refusal
	if errors.As(err, &refusal) {
		return authn.Result{}, errNotLogin
	}
	if err != nil {
		p := problem.Unavailable.New("The session could not be checked; try again.")
		p.RetryAfter, p.Cause = time.Second, err
		return authn.Result{}, p
	}
	return result, nil
}

// loggedIn finds the session of a request and its user.
func (h *handler) loggedIn(ctx context.Context, c *credentialed) (access.Caller, user.User, error) {
	result, err := h.caller(ctx, c)
	if err != nil {
		return result.Caller, user.User{}, err
	}
	u, err := h.store.User(ctx, result.Caller.User)
	return result.Caller, u, err
}

type availableRequest struct {
	Name string `query:"name" required:"true" pattern:"^[A-Za-z0-9._-]{3,64}$"`
}

type availableResponse struct{ Body wire.Data[availability] }

type availability struct {
	Available bool `json:"available"`
}

func (h *handler) available(ctx context.Context, in *availableRequest) (*availableResponse, error) {
	if err := user.CheckName(in.Name); err != nil {
		return nil, err
	}
	if err := h.countAddress(ctx); err != nil {
		return nil, err
	}
	taken, err := h.store.NameTaken(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return &availableResponse{wire.Data[availability]{Data: availability{!taken}}}, nil
}

type statusResponse struct{ Body statusBody }

// statusBody is either envelope, both with status 200.
type statusBody struct {
	Data  *status             `json:"data,omitempty"`
	Error *wire.FailureDetail `json:"error,omitempty"`
}

type status struct {
	User     *person  `json:"user"`
	To       string   `json:"to"`
	Methods  []string `json:"amr" doc:"How the user authenticated (RFC 8176)."`
	Class    string   `json:"acr"`
	AuthTime int64    `json:"auth_time" doc:"Epoch seconds."`
	MFA      bool     `json:"mfa"`
}

func (h *handler) status(ctx context.Context, in *struct{ credentialed }) (*statusResponse, error) {
	caller, u, err := h.loggedIn(ctx, &in.credentialed)
	if errors.Is(err, problem.NotLogin) {
		return &statusResponse{statusBody{Error: &wire.FailureDetail{
			Code: problem.NotAnError, What: "Nobody is logged in.", Key: "NOT_AN_ERROR", Params: map[string]any{},
		}}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &statusResponse{statusBody{Data: &status{User: show(u), Methods: []string{"pwd"}, Class: "aal1", AuthTime: caller.CreatedAt.Unix()}}}, nil
}

type logoutResponse struct {
	SetCookie string `header:"Set-Cookie"`
}

func (h *handler) logout(ctx context.Context, in *struct{ credentialed }) (*logoutResponse, error) {
	result, err := h.caller(ctx, &in.credentialed)
	if err != nil {
		return nil, err
	}
	caller := result.Caller
	if err := h.store.EndSession(ctx, caller.User, caller.ID, result.Family); err != nil {
		return nil, err
	}
	h.audit(ctx, "logged out", caller.User)
	return &logoutResponse{cookie(ctx, "")}, nil
}

type profileResponse struct{ Body wire.Data[*person] }

func (h *handler) profile(ctx context.Context, in *struct{ credentialed }) (*profileResponse, error) {
	_, u, err := h.loggedIn(ctx, &in.credentialed)
	if err != nil {
		return nil, err
	}
	return &profileResponse{wire.Data[*person]{Data: show(u)}}, nil
}

type bindingsResponse struct{ Body wire.Data[[]string] }

// bindings is empty: nobody can log in by way of another service.
func (h *handler) bindings(ctx context.Context, in *struct{ credentialed }) (*bindingsResponse, error) {
	if _, err := h.caller(ctx, &in.credentialed); err != nil {
		return nil, err
	}
	return &bindingsResponse{wire.Data[[]string]{Data: []string{}}}, nil
}

func newPair(accessToken, refresh token.Token) *session.Pair {
	return session.NewPair(accessToken.Reveal(), refresh.Reveal(), session.AccessLifetime)
}

type refreshRequest struct {
	Body struct {
		RefreshToken string `json:"refresh_token" minLength:"1" maxLength:"1024"`
	}
}

type refreshResponse struct{ Body wire.Data[refreshed] }

// refreshed is the Pair twice: agents in the field read one or the other form (contract §4).
type refreshed struct {
	session.Pair
	Session *session.Pair `json:"session"`
}

// refresh renews a session of a person or a device. Only what is refused counts as a try: a fleet behind one address
// refreshes all day.
func (h *handler) refresh(ctx context.Context, in *refreshRequest) (*refreshResponse, error) {
	answer, err := h.tryRefresh(ctx, in)
	if errors.Is(err, problem.WrongCredentials) || errors.Is(err, problem.TokenRotated) {
		if limited := h.countAddress(ctx); limited != nil {
			return nil, limited
		}
	}
	return answer, err
}

func (h *handler) tryRefresh(ctx context.Context, in *refreshRequest) (*refreshResponse, error) {
	t, err := token.Parse(in.Body.RefreshToken)
	if err != nil || t.Kind != token.Refresh {
		return nil, errRefresh
	}
	for range attempts {
		before, err := h.store.Family(ctx, t.User, t.ID)
		if errors.Is(err, store.ErrNotFound) {
			return h.refreshDevice(ctx, t)
		}
		if err != nil {
			return nil, err
		}
		after := before
		next, outcome := after.Rotate(t, h.now())
		var login *session.Session
		var answer *session.Pair
		if err := refusal(outcome, before); err != nil {
			return nil, err
		}
		if outcome == session.Rotated {
			if login, answer, err = h.renew(&after, next); err != nil {
				return nil, err
			}
		}
		err = h.store.RotateFamily(ctx, before, after, login)
		if errors.Is(err, store.ErrConflict) { // rotated by another request: look again
			continue
		}
		if err != nil {
			return nil, err
		}
		if outcome == session.Stolen {
			h.log.LogAttrs(ctx, slog.LevelWarn, "a spent refresh token was shown: family revoked", slog.Int64("user", t.User), slog.Int64("family", t.ID))
			return nil, errRotated
		}
		return &refreshResponse{wire.Data[refreshed]{Data: refreshed{*answer, answer}}}, nil
	}
	return nil, errBusy
}

// refusal is the answer to a refresh token that nothing is to be written for; nil for the others.
func refusal(o session.Outcome, f session.Family) error {
	switch {
	case o == session.Dead && f.Revoked:
		return problem.WrongCredentials.New("The refresh token is not valid: family revoked. Log in again.")
	case o == session.Dead, o == session.Unknown:
		return errRefresh
	case o == session.Replayed:
		return errRotated
	}
	return nil
}

var errRefresh = problem.WrongCredentials.New("The refresh token is not valid. Log in again.")

var errRotated = problem.TokenRotated.New("refresh token has been rotated")

// renew makes the session of a rotated family.
func (h *handler) renew(f *session.Family, refresh token.Token) (*session.Session, *session.Pair, error) {
	id, err := randomID()
	if err != nil {
		return nil, nil, err
	}
	now := h.now()
	login, t := session.New(f.User, id, f.Email, now)
	login.CreatedAt, login.Family = f.AuthTime, f.ID
	login.ExpiresAt = now.Add(session.AccessLifetime)
	f.Session = id
	return &login, newPair(t, refresh), nil
}
