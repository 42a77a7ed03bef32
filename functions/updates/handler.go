package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/signal"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store  *store.Store
	budget *budget
	idle   time.Duration // between the polls of a device that nothing is expected for
	log    *slog.Logger
	now    func() time.Time
	rest   func(context.Context, time.Duration) bool // false when the caller is gone
}

func (h *handler) routes() *wire.API {
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: "/apiv1/devices/self/updates", ID: "poll-updates", Rule: wire.Rule{Device: true}, NoContent: true,
		Summary:     "What has changed for the device since a cursor",
		Description: "204 if nothing has. The cursor is the ETag, to be sent as If-None-Match or ?cursor=. With wait the answer comes when something changes, or after that many seconds (20 at most). X-Poll-Interval says when to ask again. An API key may ask if it is bound to one device: by the obid of a permission on devices, or because it registered exactly one.",
	}, h.poll)
	return a
}

// Limits of a request.
const (
	longest  = 20 * time.Second // below the 29 s of the gateway and the 30 s of agents
	look     = time.Second      // between two looks while a request is held
	maxLimit = 100
)

type pollRequest struct {
	IfNoneMatch string `header:"If-None-Match" maxLength:"128"`
	Cursor      string `query:"cursor" maxLength:"128"`
	Limit       string `query:"limit" maxLength:"32" doc:"1 to 100; 20 if absent."`
	Wait        string `query:"wait" maxLength:"32" doc:"Seconds; 0 if absent."`
}

type pollResponse struct {
	Status   int
	ETag     string `header:"ETag" doc:"The cursor."`
	Interval string `header:"X-Poll-Interval" doc:"Seconds until the device should ask again."`
	Body     *wire.Data[Updates]
}

// Updates is what has changed, oldest first.
type Updates struct {
	Cursor  string   `json:"cursor" doc:"Of the last signal that is in the answer."`
	Signals []Signal `json:"signals"`
}

// Signal is one change. Which fields ref has depends on its type.
type Signal struct {
	Type string     `json:"type" enum:"install.updated,cert.updated,cert.unassigned,ca.assigned,ca.unassigned"`
	At   int64      `json:"ts_ms" doc:"Rises strictly within a device."`
	Ref  signal.Ref `json:"ref"`
}

func (h *handler) poll(ctx context.Context, in *pollRequest) (*pollResponse, error) {
	cursor, given, err := in.cursor()
	if err != nil {
		return nil, err
	}
	limit, err := clamp("limit", in.Limit, 20, 1, maxLimit)
	if err != nil {
		return nil, err
	}
	wait, err := clamp("wait", in.Wait, 0, 0, 30)
	if err != nil {
		return nil, err
	}
	id, user, err := h.device(ctx)
	if err != nil {
		return nil, err
	}
	head, err := h.head(ctx, id, user)
	if err != nil {
		return nil, err
	}
	h.see(ctx, head)
	if !given && head.Last > 0 {
		// From the start of what is kept: which is the end, if nothing is.
		kept, err := h.store.Signals(ctx, id, 0, 1, h.now())
		if err != nil {
			return nil, err
		}
		if cursor = signal.Cursor(head.Last); len(kept) > 0 {
			cursor = signal.Cursor(kept[0].Last)
		}
	}
	if wait > 0 && head.Last == int64(cursor) {
		if head, err = h.hold(ctx, head, cursor, min(time.Duration(wait)*time.Second, longest)); err != nil {
			return nil, err
		}
	}
	return h.answer(ctx, head, cursor, limit)
}

// cursor is where the device has read to, if it has one. The header wins (contract §15.1).
func (in *pollRequest) cursor() (c signal.Cursor, given bool, err error) {
	text := in.IfNoneMatch
	if text == "" {
		text = in.Cursor
	}
	if c, err = signal.ParseCursor(text); err != nil {
		return 0, false, problem.InvalidArgument.New("cursor: send the ETag of the last answer, or none.").With("field", "cursor")
	}
	return c, text != "", nil
}

// clamp reads a number, and takes what is out of range for the nearest that is not.
func clamp(name, text string, absent, least, most int) (int, error) {
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, problem.InvalidArgument.New("%s: a whole number.", name).With("field", name)
	}
	return min(max(n, least), most), nil
}

// device is the device that is asked about: the caller, or the one that an API key is bound to (contract §15.11).
func (h *handler) device(ctx context.Context) (id, user int64, err error) {
	caller, _ := access.FromContext(ctx)
	if caller.Kind == access.Device {
		return caller.ID, caller.User, nil
	}
	reads := false
	for _, p := range caller.Permissions.List() {
		if p.Type != "devices" && !(p.Type == "ForDeviceAuthenticate" && slices.Contains(p.Actions, access.Authenticate)) {
			continue
		}
		reads = true
		if p.ID != access.Any && p.ID != id {
			if id != 0 {
				return 0, 0, errUnbound
			}
			id = p.ID
		}
	}
	if !reads {
		return 0, 0, problem.Lacking("devices.read")
	}
	if id != 0 {
		return id, caller.User, nil
	}
	id, err = h.store.RegisteredBy(ctx, caller.User, caller.ID)
	if errors.Is(err, store.ErrNotFound) {
		return 0, 0, errUnbound
	}
	return id, caller.User, err
}

var errUnbound = problem.InvalidArgument.New("device_id claim missing: an API key polls if a permission on devices names one by obid, or if it registered exactly one device.")

// head reads the device, if it is active and the user's.
func (h *handler) head(ctx context.Context, id, user int64) (device.Head, error) {
	head, err := h.store.Head(ctx, id)
	if caller, _ := access.FromContext(ctx); err == nil && head.User != user && caller.Kind == access.APIKey {
		return head, problem.LacksPermission.New("API key lacks required permission")
	}
	if errors.Is(err, store.ErrNotFound) || err == nil && (head.Revoked || head.User != user) {
		return head, problem.Forbidden.New("The device is not active. Log in again.")
	}
	return head, err
}

// see notes now and then that the device asked. It does not matter to the answer.
func (h *handler) see(ctx context.Context, head device.Head) {
	if now := h.now(); now.Sub(head.SeenAt) >= device.SeenEvery {
		if err := h.store.SeeDevice(ctx, head, now); err != nil {
			h.log.WarnContext(ctx, "that a device asked was not noted", "device", head.Device, "error", err.Error())
		}
	}
}

// hold waits for the device's head to change, if there is room for one more that waits. It never answers at once: the
// agents ask again at once, and would do nothing else.
func (h *handler) hold(ctx context.Context, head device.Head, c signal.Cursor, wait time.Duration) (device.Head, error) {
	now := h.now()
	if err := h.budget.take(ctx, head.Device, wait, now); err != nil {
		return head, err
	}
	for until := now.Add(wait); head.Last == int64(c); {
		left := until.Sub(h.now())
		if left <= 0 || !h.rest(ctx, min(look, left)) {
			break
		}
		fresh, err := h.head(ctx, head.Device, head.User)
		if errors.Is(err, problem.Unavailable) { // it looks again in a second in any case
			continue
		}
		if err != nil {
			return head, err
		}
		head = fresh
	}
	if head.Last != int64(c) { // the place is another's for the rest of its time
		h.budget.giveBack(ctx, head.Device, now)
	}
	return head, nil
}

// rest waits a while; false when the caller is gone.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// answer is what a device at a cursor is told.
func (h *handler) answer(ctx context.Context, head device.Head, c signal.Cursor, limit int) (*pollResponse, error) {
	interval := strconv.Itoa(int(h.interval(head) / time.Second))
	if head.Last == int64(c) {
		return &pollResponse{Status: http.StatusNoContent, ETag: quoted(c), Interval: interval}, nil
	}
	if head.Last < int64(c) {
		return nil, resync("cursor_unknown", nil) // of a table that was restored, or of another device
	}
	found, err := h.store.Signals(ctx, head.Device, c, limit, h.now())
	if err == nil && signal.Forgotten(c, found, head.Last) {
		// Head and signal are written together and read apart: the one may be seen a moment before the other.
		h.rest(ctx, 50*time.Millisecond)
		found, err = h.store.Signals(ctx, head.Device, c, limit, h.now())
	}
	if err != nil {
		return nil, err
	}
	if signal.Forgotten(c, found, head.Last) {
		return nil, resync("cursor_trimmed", found)
	}
	found = found[:signal.Unbroken(found)]
	last := signal.Cursor(found[len(found)-1].At)
	updates := Updates{Cursor: last.String(), Signals: make([]Signal, len(found))}
	for i, s := range found {
		updates.Signals[i] = Signal{string(s.Type), s.At, s.Ref}
	}
	return &pollResponse{Status: http.StatusOK, ETag: quoted(last), Interval: interval, Body: &wire.Data[Updates]{Data: updates}}, nil
}

func quoted(c signal.Cursor) string { return `"` + c.String() + `"` }

// resync has the device read everything anew (contract §15.6).
func resync(reason string, found []signal.Signal) error {
	earliest := "0-0"
	if len(found) > 0 {
		earliest = signal.Cursor(found[0].At).String()
	}
	return problem.CursorExpired.New("The cursor is too old: signals after it are not kept any more. Read everything again, and ask without a cursor.").
		With("action", "full_resync").With("reset_cursor", true).With("signal_type", "state.resync_required").With("reason", reason).With("earliest_retained_id", earliest)
}

// How often a device asks for which more is expected.
const soon = 10 * time.Second

// interval is when the device should ask again: soon while something is being done for it, and else after a while that
// differs, so that a fleet that was started at once parts.
func (h *handler) interval(head device.Head) time.Duration {
	if head.Busy(h.now()) {
		return soon + rand.N(soon/2)
	}
	return h.idle*7/8 + rand.N(h.idle/4+1)
}
