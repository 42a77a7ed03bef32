package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/webhook"
	"cjj365.cc/bb/shared/wire"
)

type deviceRequest struct {
	credentialed
	Body deviceBody
}

// deviceBody is the fields of every action; each action says which it needs.
type deviceBody struct {
	Action     string   `json:"action" enum:"device_start,device_verify,device_poll"`
	Scopes     []string `json:"scopes,omitempty" maxItems:"32" doc:"device_start: taken and ignored; a device may do what its owner assigns."`
	Interval   *int     `json:"interval,omitempty" minimum:"1" maximum:"3600" doc:"device_start: seconds between polls; 5 if absent."`
	ExpiresIn  *int     `json:"expires_in,omitempty" minimum:"30" maximum:"3600" doc:"device_start: seconds that the codes live; 900 if absent."`
	UserCode   string   `json:"user_code,omitempty" maxLength:"64" doc:"device_verify."`
	Approve    *bool    `json:"approve,omitempty" doc:"device_verify: true if absent."`
	DeviceCode string   `json:"device_code,omitempty" maxLength:"256" doc:"device_poll."`
	Device     *wire.ID `json:"device_id,omitempty" doc:"device_poll: a device that must be the approving user's."`
}

type deviceResponse struct{ Body wire.Data[deviceData] }

// deviceData is the answers of every action.
type deviceData struct {
	DeviceCode      string `json:"device_code,omitempty"`
	UserCode        string `json:"user_code,omitempty"`
	URL             string `json:"verification_uri,omitempty"`
	CompleteURL     string `json:"verification_uri_complete,omitempty"`
	Interval        int    `json:"interval,omitempty" doc:"Seconds."`
	ExpiresIn       int    `json:"expires_in,omitempty" doc:"Seconds."`
	Status          string `json:"status,omitempty" enum:"approved,denied,authorization_pending,slow_down,access_denied,expired,ready"`
	Registration    string `json:"registration_code,omitempty"`
	RegistrationTTL int    `json:"registration_code_ttl,omitempty" doc:"Seconds."`
	User            int64  `json:"user_id,omitempty"`
}

// Tries of a user code that a user may get wrong: with 34 bits of it and few that live, guessing is hopeless.
var wrongCodes = store.Limit{Most: 5, Window: 15 * time.Minute}

func (h *handler) device(ctx context.Context, in *deviceRequest) (*deviceResponse, error) {
	var data deviceData
	var err error
	switch in.Body.Action {
	case "device_start":
		data, err = h.deviceStart(ctx, in.Body)
	case "device_verify":
		data, err = h.deviceVerify(ctx, &in.credentialed, in.Body)
	case "device_poll":
		data, err = h.devicePoll(ctx, in.Body)
	}
	if err != nil {
		return nil, err
	}
	return &deviceResponse{wire.Data[deviceData]{Data: data}}, nil
}

func (h *handler) deviceStart(ctx context.Context, body deviceBody) (deviceData, error) {
	for _, s := range body.Scopes {
		if s == "" {
			return deviceData{}, problem.InvalidArgument.New("scopes: none may be empty.").With("field", "scopes")
		}
	}
	if err := h.countAddress(ctx); err != nil {
		return deviceData{}, err
	}
	interval, expires := 5, 900
	if body.Interval != nil {
		interval = *body.Interval
	}
	if body.ExpiresIn != nil {
		expires = *body.ExpiresIn
	}
	for range attempts {
		g, code := device.NewGrant(time.Duration(interval)*time.Second, time.Duration(expires)*time.Second, h.now())
		err := h.store.CreateGrant(ctx, g)
		if errors.Is(err, store.ErrConflict) { // the user code is another's
			continue
		}
		if err != nil {
			return deviceData{}, err
		}
		page := h.url
		if page == "" {
			page = gateway.From(ctx).URL
		}
		page += "/device"
		return deviceData{
			DeviceCode: code, UserCode: g.UserCode, URL: page, CompleteURL: page + "?user_code=" + g.UserCode, Interval: interval, ExpiresIn: expires,
		}, nil
	}
	return deviceData{}, errBusy
}

// deviceVerify is a person's decision. It needs a session: whoever holds an API key registers devices with that.
func (h *handler) deviceVerify(ctx context.Context, c *credentialed, body deviceBody) (deviceData, error) {
	result, err := h.caller(ctx, c)
	if err != nil {
		return deviceData{}, err
	}
	by := result.Caller
	if body.UserCode == "" {
		return deviceData{}, needs("user_code")
	}
	code, ok := device.ParseUserCode(body.UserCode)
	if !ok {
		return deviceData{}, problem.InvalidArgument.New("user_code: it has the form XXXX-XXXX.").With("field", "user_code")
	}
	approve := body.Approve == nil || *body.Approve
	now := h.now()
	tries := "device_verify#" + token.Public(token.Session, by.User, by.User)
	if err := h.store.Count(ctx, tries, wrongCodes, now); err != nil {
		return deviceData{}, err
	}
	for range attempts {
		g, err := h.store.GrantOfUserCode(ctx, code)
		if errors.Is(err, store.ErrNotFound) || err == nil && !now.Before(g.ExpiresAt) {
			return deviceData{}, problem.NotFound.New("The code is not known, or has lapsed. Have the device show a new one.")
		}
		if err != nil {
			return deviceData{}, err
		}
		if g.DecidedAt.IsZero() {
			g.User, g.Approved, g.DecidedAt = by.User, approve, now
			err = h.store.UpdateGrant(ctx, g)
			if errors.Is(err, store.ErrConflict) {
				continue
			}
			if err != nil {
				return deviceData{}, err
			}
			h.log.LogAttrs(ctx, slog.LevelInfo, "device decided", slog.Int64("user", by.User), slog.Bool("approved", approve), slog.String("grant", g.ID[:16]))
		} else if g.User != by.User || g.Approved != approve {
			return deviceData{}, problem.Conflict.New("Somebody has decided on this code already.")
		}
		if err := h.store.Uncount(ctx, tries, wrongCodes, now); err != nil {
			h.log.WarnContext(ctx, "a good code stays counted as a try", "error", err)
		}
		if approve {
			return deviceData{Status: "approved"}, nil
		}
		return deviceData{Status: "denied"}, nil
	}
	return deviceData{}, errBusy
}

func (h *handler) devicePoll(ctx context.Context, body deviceBody) (deviceData, error) {
	if body.DeviceCode == "" {
		return deviceData{}, needs("device_code")
	}
	id, err := device.GrantOf(body.DeviceCode)
	if err != nil {
		return deviceData{}, errDeviceCode
	}
	g, err := h.store.Grant(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return deviceData{}, errDeviceCode
	}
	if err != nil {
		return deviceData{}, err
	}
	now := h.now()
	if body.Device != nil && g.User != 0 && *body.Device != 0 {
		if owner, err := h.store.OwnerOfDevice(ctx, int64(*body.Device)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return deviceData{}, err
		} else if owner != g.User {
			return deviceData{}, problem.Forbidden.New("device_id: that device is not the approving user's.")
		}
	}
	switch g.Status(now) {
	case device.GrantApproved:
		return deviceData{
			Status: "ready", Registration: device.RegistrationCode(body.DeviceCode), RegistrationTTL: problem.Seconds(g.Left(now)), User: g.User,
		}, nil
	case device.GrantDenied:
		return deviceData{Status: "access_denied"}, nil
	case device.GrantPending:
		status := "authorization_pending"
		if g.TooSoon(now) {
			status = "slow_down"
		}
		g.PolledAt = now
		if err := h.store.UpdateGrant(ctx, g); err != nil && !errors.Is(err, store.ErrConflict) { // decided, or polled, at this moment
			return deviceData{}, err
		}
		return deviceData{Status: status}, nil
	}
	return deviceData{Status: "expired"}, nil
}

var errDeviceCode = problem.InvalidArgument.New("device_code: it is not known. Start again.").With("field", "device_code")

// refreshDevice renews a device's session. The token is signed before the line is rotated: what fails then has changed
// nothing.
func (h *handler) refreshDevice(ctx context.Context, t token.Token) (*refreshResponse, error) {
	for range attempts {
		before, err := h.store.DeviceFamily(ctx, t.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && before.User != t.User {
			return nil, errRefresh
		}
		if err != nil {
			return nil, err
		}
		now, after := h.now(), before
		next, outcome := after.Rotate(t, now)
		if err := refusal(outcome, before); err != nil {
			return nil, err
		}
		var answer *session.Pair
		var event *webhook.Event
		switch outcome {
		case session.Rotated:
			owner, err := h.store.User(ctx, before.User)
			if err != nil {
				return nil, err
			}
			if owner.State != user.Active {
				return nil, errRefresh
			}
			access, err := h.tokens.Sign(ctx, before.User, before.ID, now)
			if err != nil {
				return nil, err
			}
			answer = session.NewPair(access, next.Reveal(), devicetoken.Lifetime)
		case session.Stolen:
			e, err := webhook.NewEvent(before.User, webhook.DeviceLocked, now, webhook.Device{User: before.User, ID: before.ID})
			if err != nil {
				return nil, err
			}
			event = &e
		}
		err = h.store.RotateDeviceFamily(ctx, before, after, event)
		if errors.Is(err, store.ErrConflict) { // rotated by another request: look again
			continue
		}
		if err != nil {
			return nil, err
		}
		if outcome == session.Stolen {
			h.log.LogAttrs(ctx, slog.LevelWarn, "a spent refresh token was shown: family revoked", slog.Int64("user", t.User), slog.Int64("device", before.ID))
			return nil, errRotated
		}
		return &refreshResponse{wire.Data[refreshed]{Data: refreshed{*answer, answer}}}, nil
	}
	return nil, errBusy
}
