package main

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type createRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body createBody
}

type createBody struct {
	Name         string            `json:"name" minLength:"1" maxLength:"128" doc:"Printable characters."`
	Permissions  []wire.Permission `json:"permissions" maxItems:"100" doc:"Objects and actions, or shorthands such as certs.read."`
	ExpiresIn    int64             `json:"expires_in_seconds,omitempty" minimum:"1" maximum:"31536000" doc:"Lifetime in seconds; 30 days if absent, a year at most."`
	AllowedCIDRs []string          `json:"allowed_cidrs,omitempty" maxItems:"32" doc:"Where the key may be used from, such as 192.0.2.0/24 or 2001:db8::1; anywhere if absent."`
}

// minted is the one answer that shows a token.
type minted struct {
	Metadata
	Token string `json:"token" doc:"The plaintext token. It is not shown again."`
}

func (h *handler) create(ctx context.Context, in *createRequest) (*idempotency.Answer[minted], error) {
	caller, _ := access.FromContext(ctx)
	now := h.now()
	if caller.Superseded {
		return nil, errSuperseded
	}
	if err := wire.CheckName(in.Body.Name); err != nil {
		return nil, err
	}
	permissions, err := granted(caller, in.Body.Permissions)
	if err != nil {
		return nil, err
	}
	lifetime, err := lifetime(caller, in.Body.ExpiresIn, now)
	if err != nil {
		return nil, err
	}
	ranges, err := h.ranges(ctx, caller, in.Body.AllowedCIDRs)
	if err != nil {
		return nil, err
	}
	return idempotency.Do(ctx, h.store, &in.Header, "create-api-key", in.Body, now,
		func(seal func(minted) (*store.Idempotency, error)) (minted, error) {
			id, err := h.store.NextAPIKeyID(ctx)
			if err != nil {
				return minted{}, err
			}
			key, token := apikey.New(in.User, id, in.Body.Name, permissions, caller.Principal(), now, lifetime)
			key.CIDRs = ranges
			answer := minted{h.show(key), token.Reveal()}
			once, err := seal(answer)
			if err != nil {
				return minted{}, err
			}
			if err := h.store.CreateAPIKey(ctx, key, caller, once, now); err != nil {
				return minted{}, err
			}
			h.audit(ctx, "created", in.User, id)
			return answer, nil
		})
}

// granted checks that the permissions exist and that the maker holds each.
func granted(maker access.Caller, list []wire.Permission) (access.Permissions, error) {
	plain := make([]access.Permission, len(list))
	for i, p := range list {
		plain[i] = access.Permission(p)
	}
	permissions, err := access.Encode(plain)
	if err != nil {
		return "", problem.InvalidArgument.New("permissions: %v. See /apiv1/permissions/catalog.", err)
	}
	if len(permissions) > apikey.MaxPermissions {
		return "", problem.InvalidArgument.New("permissions: too many single objects; use several keys, or \"*\".")
	}
	if need, lacks := maker.Permissions.Lacks(permissions); lacks {
		return "", problem.Lacking(need.String())
	}
	return permissions, nil
}

// lifetime is what was asked for, and no more than what is left of a maker that is a key.
func lifetime(maker access.Caller, seconds int64, now time.Time) (time.Duration, error) {
	asked := time.Duration(seconds) * time.Second
	if seconds == 0 {
		asked = apikey.DefaultLifetime
	}
	left := maker.ExpiresAt.Sub(now)
	if maker.Kind != access.APIKey || asked <= left {
		return asked, nil
	}
	if seconds == 0 {
		return left, nil
	}
	return 0, problem.InvalidArgument.New("expires_in_seconds: a key made by an API key may not outlive it; ask for %d at most.", int64(left/time.Second))
}

// ranges are the address ranges of a new key: those asked for, which must lie within those of a maker
// that is a key, or else the maker's.
func (h *handler) ranges(ctx context.Context, maker access.Caller, asked []string) ([]string, error) {
	ranges, err := normalizeCIDRs(asked)
	if err != nil || maker.Kind != access.APIKey {
		return ranges, err
	}
	key, err := h.own(ctx, maker)
	if err != nil {
		return nil, err
	}
	if len(ranges) == 0 {
		return key.CIDRs, nil
	}
	if !apikey.Within(ranges, key.CIDRs) {
		return nil, problem.InvalidArgument.New("allowed_cidrs: a key made by an API key may be used only where that key may: %v.", key.CIDRs)
	}
	return ranges, nil
}

// own reads the API key that calls.
func (h *handler) own(ctx context.Context, caller access.Caller) (apikey.Key, error) {
	key, err := h.store.APIKey(ctx, caller.User, caller.ID)
	if errors.Is(err, store.ErrNotFound) { // deleted since the authorizer saw it
		return key, problem.Unauthorized.New("invalid token")
	}
	return key, err
}

// errSuperseded keeps a token whose successor is in use from making and rolling keys: it may have leaked,
// which is why it was replaced.
var errSuperseded = problem.LacksPermission.New("This token has been replaced. Use the new one.")

// normalizeCIDRs reads ranges, and single addresses as ranges of one.
func normalizeCIDRs(list []string) ([]string, error) {
	var ranges []string
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
				p, err = a.Unmap().Prefix(a.Unmap().BitLen())
			}
		}
		if err != nil || !p.IsValid() {
			return nil, problem.InvalidArgument.New("allowed_cidrs: %q is no address range such as 192.0.2.0/24.", s)
		}
		if p.Addr().Is4In6() {
			return nil, problem.InvalidArgument.New("allowed_cidrs: write %q as an IPv4 range.", s)
		}
		ranges = append(ranges, p.Masked().String())
	}
	return ranges, nil
}
