package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
	"cjj365.cc/bb/shared/wire"
)

// Delivery is a delivery as the API shows it.
type Delivery struct {
	ID          string        `json:"id" doc:"Of the event: the webhook-id that the receiver gets."`
	Type        webhook.Type  `json:"type"`
	State       webhook.State `json:"state" enum:"pending,delivered,failed"`
	Attempts    int64         `json:"attempts"`
	StatusCode  int           `json:"status_code" doc:"That the receiver answered last; 0 for none."`
	Error       string        `json:"error" doc:"Why it was not taken; empty if it was."`
	CreatedAt   int64         `json:"created_at" doc:"Epoch milliseconds."`
	LastAt      int64         `json:"last_attempt_at" doc:"Epoch milliseconds; 0 before the first."`
	NextAt      int64         `json:"next_attempt_at" doc:"Epoch milliseconds; 0 if there is to be none."`
	DeliveredAt int64         `json:"delivered_at" doc:"Epoch milliseconds; 0 if it is not."`
}

func showDelivery(d webhook.Delivery) Delivery {
	ms := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixMilli()
	}
	return Delivery{
		ID: d.Event, Type: d.Type, State: d.State(), Attempts: d.Attempts, StatusCode: d.StatusCode, Error: d.Error,
		CreatedAt: ms(d.CreatedAt), LastAt: ms(d.LastAt), NextAt: ms(d.NextAt), DeliveredAt: ms(d.DeliveredAt),
	}
}

// Log is a page of deliveries. A log that grows has no offsets and no total that hold from one page to the next.
type Log struct {
	Data []Delivery `json:"data"`
	Meta LogMeta    `json:"meta"`
}

// LogMeta says how to get on.
type LogMeta struct {
	Limit int    `json:"limit"`
	Next  string `json:"next" doc:"What before has to be for the next page; empty if this is the last."`
}

type logRequest struct {
	Path
	Before string `query:"before" maxLength:"64" pattern:"^(evt_[0-9a-f]{28})?$" doc:"Id of a delivery: those before it."`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many to return."`
}

type logResponse struct{ Body Log }

func (h *handler) deliveries(ctx context.Context, in *logRequest) (*logResponse, error) {
	if _, err := h.store.Webhook(ctx, in.User, in.ID); err != nil {
		return nil, missing(err, in.ID)
	}
	list, err := h.store.Deliveries(ctx, in.ID, in.Before, in.Limit)
	if err != nil {
		return nil, err
	}
	page := Log{Data: []Delivery{}, Meta: LogMeta{Limit: in.Limit}}
	for _, d := range list {
		page.Data = append(page.Data, showDelivery(d))
	}
	if len(list) == in.Limit {
		page.Meta.Next = list[len(list)-1].Event
	}
	return &logResponse{page}, nil
}

type deliveryResponse struct{ Body wire.Data[Delivery] }

// tries is how often a user may have something sent at once: whoever may write webhooks must not be able to
// shoot at somebody from our address.
var tries = store.Limit{Most: 30, Window: time.Minute}

// send makes an attempt now at a delivery that is due.
func (h *handler) send(ctx context.Context, in Path, event string) (*deliveryResponse, error) {
	route, err := h.courier.To(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	d, err := route.Deliver(ctx, event)
	if errors.Is(err, store.ErrConflict) { // the schedule was quicker
		d, err = h.store.Delivery(ctx, in.ID, event)
	}
	if err != nil {
		return nil, err
	}
	return &deliveryResponse{wire.Data[Delivery]{Data: showDelivery(d)}}, nil
}

// ready counts a try, and refuses a webhook that is disabled.
func (h *handler) ready(ctx context.Context, in Path) error {
	e, err := h.store.Webhook(ctx, in.User, in.ID)
	if err != nil {
		return missing(err, in.ID)
	}
	if e.Disabled != "" {
		return problem.Conflict.New("The webhook is disabled. Enable it first.")
	}
	return h.store.Count(ctx, fmt.Sprintf("webhook#%d", in.User), tries, h.now())
}

func (h *handler) test(ctx context.Context, in *Path) (*deliveryResponse, error) {
	if err := h.ready(ctx, *in); err != nil {
		return nil, err
	}
	now := h.now()
	e, err := webhook.NewEvent(in.User, webhook.Test, now, struct {
		Webhook int64 `json:"webhook_id"`
	}{in.ID})
	if err != nil {
		return nil, err
	}
	if _, err := h.store.DeliverTo(ctx, e, in.ID, now); err != nil {
		return nil, err
	}
	h.audit(ctx, "tested", in.User, in.ID)
	return h.send(ctx, *in, e.ID)
}

type replayRequest struct {
	Path
	Delivery string `path:"delivery_id" maxLength:"64"`
}

func (h *handler) replay(ctx context.Context, in *replayRequest) (*deliveryResponse, error) {
	if err := h.ready(ctx, in.Path); err != nil {
		return nil, err
	}
	err := h.store.ReplayDelivery(ctx, in.ID, in.Delivery, h.now())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, problem.NotFound.New("There is no such delivery, or no longer.")
	case errors.Is(err, store.ErrConflict):
		return nil, problem.Conflict.New("The delivery is being made just now.")
	case err != nil:
		return nil, err
	}
	h.audit(ctx, "delivery replayed", in.User, in.ID)
	return h.send(ctx, in.Path, in.Delivery)
}
