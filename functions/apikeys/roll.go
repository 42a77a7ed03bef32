package main

import (
	"context"
	"errors"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

type rollRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"apikey_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body *rollBody
}

type rollBody struct {
	Grace *int64 `json:"grace_seconds,omitempty" minimum:"0" maximum:"86400" doc:"How long the token before works after the first use of the new one, in seconds; 300 if absent."`
}

func (h *handler) roll(ctx context.Context, in *rollRequest) (*idempotency.Answer[minted], error) {
	caller, _ := access.FromContext(ctx)
	if caller.Superseded {
		return nil, errSuperseded
	}
	grace := apikey.DefaultGrace
	if in.Body != nil && in.Body.Grace != nil {
		grace = time.Duration(*in.Body.Grace) * time.Second
	}
	now := h.now()
	request := struct{ ID, Grace int64 }{in.ID, int64(grace)}
	answer, err := idempotency.Do(ctx, h.store, &in.Header, "roll-api-key", request, now,
		func(seal func(minted) (*store.Idempotency, error)) (minted, error) {
			before, err := h.store.APIKey(ctx, in.User, in.ID)
			if err != nil {
				return minted{}, missing(err, in.ID)
			}
			if before.Status(now) == apikey.Expired {
				return minted{}, problem.Conflict.New("The API key has expired; create a new one.")
			}
			if err := h.mayTake(ctx, caller, before); err != nil {
				return minted{}, err
			}
			after := before
			token := after.Roll(grace)
			answer := minted{h.show(after), token.Reveal()}
			once, err := seal(answer)
			if err != nil {
				return minted{}, err
			}
			if err := h.store.RollAPIKey(ctx, before, after, caller, once); err != nil {
				return minted{}, err
			}
			h.audit(ctx, "rolled", in.User, in.ID)
			return answer, nil
		})
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("The API key was changed at the same time; try again.")
	}
	return answer, err
}

// mayTake refuses a key the token of another key that is stronger, lives longer or works from more
// addresses: who rolls a key can use it from then on.
func (h *handler) mayTake(ctx context.Context, caller access.Caller, target apikey.Key) error {
	if caller.Kind != access.APIKey || caller.ID == target.ID {
		return nil
	}
	if need, lacks := caller.Permissions.Lacks(target.Permissions); lacks {
		return problem.Lacking(need.String())
	}
	own, err := h.own(ctx, caller)
	if err != nil {
		return err
	}
	if target.ExpiresAt.After(own.ExpiresAt) || !apikey.Within(target.CIDRs, own.CIDRs) {
		return problem.LacksPermission.New("An API key may not roll a key that lives longer or may be used from more addresses.")
	}
	return nil
}
