package main

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/devicetoken"
	"cjj365.cc/bb/shared/gateway"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/webhook"
	"cjj365.cc/bb/shared/wire"
)

// registrationBody is what a device says of itself, and its proof.
type registrationBody struct {
	PublicID  string `json:"device_public_id,omitempty" maxLength:"256" doc:"The device's own name for itself: 1 to 64 printable characters."`
	Key       string `json:"dev_pk,omitempty" maxLength:"256" doc:"X25519 public key: base64 of 32 bytes."`
	Platform  string `json:"platform,omitempty" maxLength:"128"`
	Model     string `json:"model,omitempty" maxLength:"256"`
	App       string `json:"app_version,omitempty" maxLength:"128"`
	Name      string `json:"name,omitempty" maxLength:"256"`
	IP        string `json:"ip,omitempty" maxLength:"128"`
	UserAgent string `json:"user_agent,omitempty" maxLength:"512"`
	PushToken string `json:"push_token,omitempty" maxLength:"1024"`
	Code      string `json:"registration_code,omitempty" maxLength:"256"`
	Refresh   string `json:"refresh_token,omitempty" maxLength:"256"`
}

// Registered is a device with its session.
type Registered struct {
	Device  Device        `json:"device"`
	Session *session.Pair `json:"session"`
}

type registeredResponse struct{ Body wire.Data[Registered] }

// How often a user's devices, and devices from an address, may register.
var (
	perUser    = store.Limit{Most: 1000, Window: time.Hour}
	perAddress = store.Limit{Most: 300, Window: 5 * time.Minute}
)

type byCodeRequest struct {
	cookieUser int64
	Body       struct {
		registrationBody
		User wire.ID `json:"user_id,omitempty" doc:"Who approved the device."`
	}
}

// Resolve looks whose session comes along, if one does.
func (r *byCodeRequest) Resolve(ctx huma.Context) []error {
	if c, err := authn.PresentedIn(ctx.EachHeader); err == nil && c.Token.Kind == token.Session {
		r.cookieUser = c.Token.User
	}
	return nil
}

func (h *handler) registerByCode(ctx context.Context, in *byCodeRequest) (*registeredResponse, error) {
	if err := h.store.Count(ctx, "registration#"+network(gateway.From(ctx).SourceIP), perAddress, h.now()); err != nil {
		return nil, err
	}
	user := int64(in.Body.User)
	switch {
	case user == 0:
		return nil, problem.MissingField.New("user_id: who approved the device? It is in the answer that brought the registration code.").With("field", "user_id")
	case in.cookieUser != 0 && in.cookieUser != user:
		return nil, problem.Forbidden.New("user_id: somebody else is logged in.")
	case in.Body.Code == "" && in.Body.Refresh == "":
		return nil, errNoProof
	}
	return h.register(ctx, user, in.Body.registrationBody)
}

// registerAs registers for a caller. Only here a user's registrations are counted: on the public route anybody could use
// them up.
func (h *handler) registerAs(ctx context.Context, user int64, body registrationBody) (*registeredResponse, error) {
	if err := h.store.Count(ctx, "registration#"+token.Public(token.Session, user, user), perUser, h.now()); err != nil {
		return nil, err
	}
	return h.register(ctx, user, body)
}

// network is what an address is counted as.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap(); a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(64) // of an address of IPv6
	return p.String()
}

type registerHereRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	Body registrationBody
}

func (h *handler) registerHere(ctx context.Context, in *registerHereRequest) (*registeredResponse, error) {
	return h.registerAs(ctx, in.User, in.Body)
}

type registerMineRequest struct{ Body registrationBody }

func (h *handler) registerMine(ctx context.Context, in *registerMineRequest) (*registeredResponse, error) {
	caller, _ := access.FromContext(ctx)
	return h.registerAs(ctx, caller.User, in.Body)
}

var (
	errNoProof = problem.MissingField.New("registration_code: have the device approved first (POST /auth/device), or register it with an API key.").With("field", "registration_code")
	errCode    = problem.InvalidArgument.New("registration_code: it is wrong, used or lapsed. Have the device approved again.").With("field", "registration_code")
	errRefresh = problem.WrongCredentials.New("The refresh token is not valid. Log in again.")
	errRotated = problem.TokenRotated.New("refresh token has been rotated")
)

// register is every way of registering: who asks is proven by the code, the refresh token, or the caller.
func (h *handler) register(ctx context.Context, user int64, body registrationBody) (*registeredResponse, error) {
	key, err := body.check()
	if err != nil {
		return nil, err
	}
	for range 10 {
		d, pair, before, err := h.tryRegister(ctx, user, key, body)
		if errors.Is(err, store.ErrConflict) { // it, its session or its code was changed at the same time: look again
			continue
		}
		if err != nil {
			return nil, err
		}
		h.audit(ctx, "registered", d, slog.Bool("new", before == nil))
		if before != nil && string(before.Key) != string(key) {
			h.delivery.BeginDevice(ctx, d.User, d.ID)
		}
		head, err := h.store.Head(ctx, d.ID)
		if err != nil {
			return nil, err
		}
		return &registeredResponse{wire.Data[Registered]{Data: Registered{show(d, head), pair}}}, nil
	}
	return nil, errBusy
}

// check reads the public key, and refuses what cannot be stored.
func (b registrationBody) check() ([]byte, error) {
	if b.PublicID == "" {
		return nil, problem.MissingField.New("device_public_id: how does the device call itself?").With("field", "device_public_id")
	}
	if utf8.RuneCountInString(b.PublicID) > 64 || strings.ContainsFunc(b.PublicID, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return nil, problem.InvalidArgument.New("device_public_id: 1 to 64 printable characters.").With("field", "device_public_id")
	}
	if b.Key == "" {
		return nil, problem.MissingField.New("dev_pk: the device's public key.").With("field", "dev_pk")
	}
	text := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(b.Key, "="))
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(key) != device.KeySize || strings.ContainsAny(b.Key, "\r\n") {
		return nil, problem.InvalidArgument.New("dev_pk: base64 of the 32 bytes of an X25519 public key.").With("field", "dev_pk")
	}
	if device.CheckKey(key) != nil {
		return nil, problem.InvalidArgument.New("dev_pk: nothing can be kept secret with this key. Make another.").With("field", "dev_pk")
	}
	for field, value := range map[string]string{"name": b.Name, "platform": b.Platform, "model": b.Model, "app_version": b.App, "ip": b.IP, "user_agent": b.UserAgent, "push_token": b.PushToken} {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, problem.InvalidArgument.New("%s: it must be printable.", field).With("field", field)
		}
	}
	return key, nil
}

// tryRegister registers once; store.ErrConflict if something was changed at the same time. before is the device as it
// was, nil if it is new.
func (h *handler) tryRegister(ctx context.Context, user int64, key []byte, body registrationBody) (d device.Device, pair *session.Pair, before *device.Device, err error) {
	now := h.now()
	d, err = h.store.DeviceByPublicID(ctx, user, body.PublicID)
	switch {
	case err == nil && d.Status() == device.Active:
		was := d
		before = &was
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return d, nil, nil, err
	}
	r := store.Registration{Before: before}
	var refresh token.Token
	var line session.Family
	if before != nil {
		if line, err = h.store.DeviceFamily(ctx, d.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return d, nil, before, err
		}
		r.Was = line.Revision
	}
	caller, known := access.FromContext(ctx)
	byKey, person := known && caller.Kind == access.APIKey, known && caller.Kind == access.Session
	if byKey && before != nil && before.By != caller.ID && !caller.Allow(access.Need{Type: "devices", Action: access.Write, ID: d.ID}) {
		return d, nil, before, problem.Lacking("devices.write") // it may register devices, and take over none
	}
	// An API key registers, and a session registers again what is there. What comes along as a proof is not needed then,
	// and may be stale.
	suffices := byKey || person && before != nil
	switch {
	case body.Code != "":
		if r.Grant, err = h.grant(ctx, user, body, now); err != nil && !(suffices && errors.Is(err, problem.InvalidArgument)) {
			return d, nil, before, err
		}
	case suffices:
	case body.Refresh != "":
		if refresh, err = h.rotate(ctx, body.Refresh, user, before, line, &r); err != nil {
			return d, nil, before, err
		}
	default:
		return d, nil, before, errNoProof
	}
	if before == nil {
		d = device.Device{User: user, PublicID: body.PublicID, CreatedAt: now}
		if d.ID, err = h.store.NextDeviceID(ctx); err != nil {
			return d, nil, nil, err
		}
	}
	if byKey {
		d.By = caller.ID
	}
	d.Key, d.Name, d.Platform, d.Model, d.App, d.UpdatedAt = key, body.Name, body.Platform, body.Model, body.App, now
	d.IP, d.UserAgent, d.PushToken = body.IP, body.UserAgent, body.PushToken
	if refresh.Kind == "" { // a new line, which ends the one before
		r.Family, refresh = session.NewFamily(user, d.ID, "", now)
		r.Family.Revision = r.Was + 1
	}
	if r.Grant != nil {
		r.Grant.PublicID, r.Grant.Device = d.PublicID, d.ID
	}
	access, err := h.tokens.Sign(ctx, user, d.ID, now)
	if err != nil {
		return d, nil, before, err
	}
	r.After = d
	d, err = h.store.RegisterDevice(ctx, r)
	return d, session.NewPair(access, refresh.Reveal(), devicetoken.Lifetime), before, err
}

// grant finds the authorization that a code is of.
func (h *handler) grant(ctx context.Context, user int64, body registrationBody, now time.Time) (*device.Grant, error) {
	id, err := device.GrantID(body.Code)
	if err != nil {
		return nil, errCode
	}
	g, err := h.store.Grant(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !g.Admits(user, body.PublicID, now) {
		return nil, errCode
	}
	if err != nil {
		return nil, err
	}
	return &g, nil
}

// rotate uses up a device's refresh token.
func (h *handler) rotate(ctx context.Context, text string, user int64, before *device.Device, line session.Family, r *store.Registration) (token.Token, error) {
	t, err := token.Parse(text)
	if err != nil || t.Kind != token.Refresh || before == nil || t.User != user || t.ID != before.ID {
		return token.Token{}, errRefresh
	}
	now := h.now()
	after := line
	next, outcome := after.Rotate(t, now)
	switch outcome {
	case session.Rotated:
		r.Family = after
		return next, nil
	case session.Replayed:
		return token.Token{}, errRotated
	case session.Stolen:
		e, err := webhook.NewEvent(user, webhook.DeviceLocked, now, webhook.Device{User: user, ID: before.ID})
		if err != nil {
			return token.Token{}, err
		}
		if err := h.store.RotateDeviceFamily(ctx, line, after, &e); err != nil {
			return token.Token{}, err
		}
		h.log.LogAttrs(ctx, slog.LevelWarn, "a spent refresh token was shown: family revoked", slog.Int64("user", user), slog.Int64("device", before.ID))
		return token.Token{}, errRotated
	}
	return token.Token{}, errRefresh
}
