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

func (h *handler) roll(ctx context.Context, in *rollRequest) (*mintedResponse, error) {
	caller, _ := access.FromContext(ctx)
	grace := apikey.DefaultGrace
	if in.Body != nil && in.Body.Grace != nil {
		grace = time.Duration(*in.Body.Grace) * time.Second
	}
	now := h.now()
	request := struct{ ID, Grace int64 }{in.ID, int64(grace)}
	answer, replayed, err := idempotency.Do(ctx, h.store, &in.Header, caller, "roll-api-key", request, now,
		func(seal func(minted) (*store.Idempotency, error)) (minted, error) {
			before, err := h.store.APIKey(ctx, in.User, in.ID)
			if err != nil {
				return minted{}, missing(err, in.ID)
			}
			if before.Status(now) == apikey.Expired {
				return minted{}, problem.Conflict.New("The API key has expired; create a new one.")
			}
			after := before
			token := after.Roll(grace)
			answer := minted{h.show(after), token.Reveal()}
			once, err := seal(answer)
			if err != nil {
				return minted{}, err
			}
			if err := h.store.RollAPIKey(ctx, before, after, once); err != nil {
				return minted{}, err
			}
			h.audit(ctx, "rolled", in.User, in.ID)
			return answer, nil
		})
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("The API key was changed at the same time; try again.")
	}
	if err != nil {
		return nil, err
	}
	return answerMinted(answer, replayed), nil
}
