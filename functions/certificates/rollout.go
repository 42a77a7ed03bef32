package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// RolloutState is how far the devices of a certificate are with the issue that they are to have. Times are epoch seconds.
type RolloutState struct {
	Issue     int64          `json:"issue_attempt_number"`
	Stage     string         `json:"stage" enum:"TELLING,FIRST,ALL,STOPPED,DONE" doc:"FIRST: the first devices have it, and the rest wait. DONE: there is nothing left to do."`
	Devices   int            `json:"devices"`
	Told      int            `json:"told" doc:"That are to have it."`
	Fetched   int            `json:"fetched"`
	Installed int            `json:"installed"`
	Failed    int            `json:"failed"`
	Plan      record.Rollout `json:"plan"`
	StartedAt int64          `json:"started_at"`
	NextAt    int64          `json:"next_at" doc:"When it goes on; 0 for never."`
}

type rolloutResponse struct{ Body wire.Data[RolloutState] }

func (h *handler) rollout(ctx context.Context, in *Path) (*rolloutResponse, error) {
	c, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	shown := RolloutState{Issue: c.Current.Issue, Stage: "DONE", Plan: record.Of(c, h.now()).Rollout}
	r, err := h.store.Rollout(ctx, in.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		shown.Issue, shown.Stage, shown.StartedAt, shown.NextAt = r.Issue, string(r.Stage()), record.Seconds(r.StartedAt), record.Seconds(r.NextAt)
		shown.Plan = record.Rollout{Percent: max(r.Plan.Percent, 1), Seconds: int(r.Plan.Wait / time.Second), Failures: r.Plan.Failures}
		if r.Plan.Percent == 0 {
			shown.Plan.Percent = 100
		}
	}
	all, err := h.store.Assignments(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	shown.Devices = len(all)
	for _, a := range all {
		if a.Issue != shown.Issue || a.Issue == 0 {
			continue
		}
		shown.Told++
		switch a.State() {
		case device.Fetched:
			shown.Fetched++
		case device.Installed:
			shown.Installed++
		case device.Failed:
			shown.Failed++
		}
	}
	return &rolloutResponse{wire.Data[RolloutState]{Data: shown}}, nil
}

type controlRequest struct {
	Path
	Body struct {
		Action string `json:"action" enum:"continue,stop"`
	}
}

func (h *handler) controlRollout(ctx context.Context, in *controlRequest) (*rolloutResponse, error) {
	c, err := h.store.Certificate(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	before, err := h.store.Rollout(ctx, in.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && !before.AllAt.IsZero() {
		return nil, problem.Conflict.New("No roll-out of the certificate is under way.")
	}
	if err != nil {
		return nil, err
	}
	now, after := h.now(), before
	if in.Body.Action == "stop" {
		after.StoppedAt, after.NextAt = now, time.Time{}
	} else {
		after.StoppedAt, after.Plan, after.NextAt = time.Time{}, device.Plan{}, now
	}
	err = h.store.SaveRollout(ctx, before, after, nil)
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("The roll-out went on at the same time. Read it again.")
	}
	if err != nil {
		return nil, err
	}
	h.audit(ctx, "has its roll-out "+map[string]string{"stop": "stopped", "continue": "continued"}[in.Body.Action], c, slog.Int64("issue", before.Issue))
	if in.Body.Action == "continue" {
		h.delivery().Begin(ctx, in.ID)
	}
	return h.rollout(ctx, &in.Path)
}
