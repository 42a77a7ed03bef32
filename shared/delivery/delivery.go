// Package delivery brings certificates and CAs to the devices that they are on.
//
// A change of a certificate writes a roll-out beside it (store); a Worker carries that out: at once, in the function
// that made the change, and by the issuer when that was cut short, or when a stage of it is due. Two workers at a time
// tell no device twice: each step is conditional on what the device was told before.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/webhook"
)

// Worker carries out roll-outs.
type Worker struct {
	Store *store.Store
	Keys  *kmskey.Key
	Log   *slog.Logger
	Now   func() time.Time
}

// atOnce is how many devices are told at a time.
const atOnce = 8

// Run goes on with what is on its way to the devices of a certificate, as far as it is due.
func (w *Worker) Run(ctx context.Context, id int64) error {
	r, err := w.Store.Rollout(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := w.Store.Assignments(ctx, id)
	if err != nil {
		return err
	}
	if r.Gone {
		err := each(ctx, all, func(ctx context.Context, a device.Assignment) error {
			return w.unassign(ctx, a)
		})
		if err != nil {
			return fmt.Errorf("take certificate %d off its devices: %w", id, err)
		}
		return settled(w.Store.EndRollout(ctx, r, nil))
	}
	if len(all) == 0 { // as almost always: a few reads less
		if r.Issue > 1 {
			if err := w.Store.DropMaterials(ctx, id, r.Issue); err != nil {
				return err
			}
		}
		return settled(w.Store.EndRollout(ctx, r, nil))
	}
	c, err := w.Store.Certificate(ctx, r.User, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil // deleted since
	}
	if err != nil {
		return err
	}
	// In portions, so that a wave stops when somebody stops it, or too many fail.
	for told := 0; ; {
		if r.StoppedAt.IsZero() && len(r.Behind(all)) > 0 && r.Failing(all) { // before the rest is told
			return w.stop(ctx, c, r, all)
		}
		next := r.Next(all, w.Now())
		if len(next) == 0 || told > len(all) { // each is told once; what meets others is left to the next run
			return w.advance(ctx, c, r, all)
		}
		next = next[:min(len(next), portion)]
		if err := w.tell(ctx, c, r.Issue, r.Revision, next); err != nil {
			return fmt.Errorf("tell the devices of certificate %d: %w", id, err)
		}
		told += len(next)
		if all, err = w.Store.Assignments(ctx, id); err != nil {
			return err
		}
		if len(r.Next(all, w.Now())) == 0 {
			return w.advance(ctx, c, r, all)
		}
		now, err := w.Store.Rollout(ctx, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && now != r {
			return nil // whoever changed it goes on with it
		}
		if err != nil {
			return err
		}
	}
}

// portion is how many devices are told before it is looked again whether to go on.
const portion = 200

// settled is no error for a roll-out that somebody else has carried on, or another has taken the place of.
func settled(err error) error {
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// advance stores where a roll-out stands once those have been told who were to be.
func (w *Worker) advance(ctx context.Context, c certificate.Certificate, r device.Rollout, all []device.Assignment) error {
	now, behind, after := w.Now(), r.Behind(all), r
	switch {
	case len(behind) > 0 && !r.StoppedAt.IsZero():
		after.NextAt = time.Time{}
	case len(behind) > 0 && !r.Plan.Staged(): // assigned or failed meanwhile
		after.NextAt = now
	case len(behind) > 0:
		if after.FirstAt.IsZero() {
			after.FirstAt = now
		}
		after.NextAt = after.FirstAt.Add(r.Plan.Wait)
	default:
		return w.finish(ctx, c, r, all)
	}
	return settled(w.Store.SaveRollout(ctx, r, after, nil))
}

// stop ends a roll-out before its time, and tells the owner.
func (w *Worker) stop(ctx context.Context, c certificate.Certificate, r device.Rollout, all []device.Assignment) error {
	after := r
	after.StoppedAt, after.NextAt = w.Now(), time.Time{}
	event, err := about(webhook.RolloutStopped, c, all, w.Now(), func(a device.Assignment) bool { return a.Issue == r.Issue && a.State() == device.Failed })
	if err != nil {
		return err
	}
	w.Log.LogAttrs(ctx, slog.LevelWarn, "roll-out stopped", slog.Int64("user", c.User), slog.Int64("certificate", c.ID), slog.Int64("issue", r.Issue))
	return settled(w.Store.SaveRollout(ctx, r, after, event))
}

// finish is what there is to do when everybody has been told: nobody is to have the chains and keys before any more.
// Then the devices have their time.
func (w *Worker) finish(ctx context.Context, c certificate.Certificate, r device.Rollout, all []device.Assignment) error {
	now, after := w.Now(), r
	if r.AllAt.IsZero() {
		if err := w.Store.DropMaterials(ctx, c.ID, r.Issue); err != nil {
			return err
		}
		if c.Policy == certificate.DeviceRequired {
			if err := w.forget(ctx, c, r.Issue, all); err != nil {
				return err
			}
		}
		after.AllAt = now
	}
	if device.Settled(all) {
		return settled(w.Store.EndRollout(ctx, r, nil))
	}
	after.NextAt = after.AllAt.Add(device.Overdue)
	if now.Before(after.NextAt) {
		return settled(w.Store.SaveRollout(ctx, r, after, nil))
	}
	// Who was told lately, since it was assigned lately or has another key, has its time, within three days.
	late := func(a device.Assignment) bool { return !a.Done() && !a.ToldAt.After(now.Add(-device.Overdue)) }
	for _, a := range all {
		if !a.Done() && !late(a) && now.Before(r.AllAt.Add(3*device.Overdue)) {
			after.NextAt = a.ToldAt.Add(device.Overdue)
			return settled(w.Store.SaveRollout(ctx, r, after, nil))
		}
	}
	if !slices.ContainsFunc(all, late) {
		return settled(w.Store.EndRollout(ctx, r, nil))
	}
	event, err := about(webhook.NotInstalled, c, all, now, late)
	if err != nil {
		return err
	}
	return settled(w.Store.EndRollout(ctx, r, event))
}

// about is an event about some of a certificate's devices.
func about(t webhook.Type, c certificate.Certificate, all []device.Assignment, now time.Time, which func(device.Assignment) bool) (*webhook.Event, error) {
	data := webhook.OfCertificate(c)
	for _, a := range all {
		if which(a) {
			if data.DeviceCount++; data.DeviceCount <= 100 {
				data.Devices = append(data.Devices, a.Device)
			}
		}
	}
	e, err := webhook.NewEvent(c.User, t, now, data)
	return &e, err
}

// forget removes the server's own copy of a data key once devices have theirs.
func (w *Worker) forget(ctx context.Context, c certificate.Certificate, issue int64, all []device.Assignment) error {
	for _, a := range all {
		if a.Issue == issue && a.Ready() {
			err := w.Store.ForgetDataKey(ctx, c.ID, issue)
			w.Log.LogAttrs(ctx, slog.LevelInfo, "certificate key forgotten", slog.Int64("user", c.User), slog.Int64("certificate", c.ID), slog.Int64("issue", issue))
			return err
		}
	}
	return nil
}

// tell has devices have an issue.
func (w *Worker) tell(ctx context.Context, c certificate.Certificate, issue, revision int64, behind []device.Assignment) error {
	m, err := w.Store.Material(ctx, c.ID, issue)
	if errors.Is(err, store.ErrNotFound) {
		return nil // there is a newer one, with a roll-out of its own
	}
	if err != nil {
		return err
	}
	serial := c.Current.Serial
	if issue != c.Current.Issue {
		chain, err := pki.ParseChain(m.Chain)
		if err != nil {
			return err
		}
		serial = chain.Facts().Serial
	}
	ids := make([]int64, len(behind))
	for i, a := range behind {
		ids[i] = a.Device
	}
	devices, err := w.Store.DevicesByID(ctx, c.User, ids)
	if err != nil {
		return err
	}
	key, err := w.dataKey(ctx, c, m.Key)
	if err != nil {
		return err
	}
	defer clear(key)
	return each(ctx, behind, func(ctx context.Context, a device.Assignment) error {
		d, ok := devices[a.Device]
		if !ok || d.Status() != device.Active {
			return w.Store.Drop(ctx, a.Certificate, a.Device)
		}
		after := a
		after.Issue, after.Revision = issue, max(revision, a.Revision)
		w.wrap(ctx, &after, a, key, d)
		err := w.Store.TellIssue(ctx, c, a, after, serial, w.Now())
		if errors.Is(err, store.ErrNotFound) { // revoked at this moment
			return w.Store.Drop(ctx, a.Certificate, a.Device)
		}
		return settled(err)
	})
}

// dataKey opens the data key of a private key, if devices are to have it and there is one: nil if not.
func (w *Worker) dataKey(ctx context.Context, c certificate.Certificate, s sealed.Secret) ([]byte, error) {
	if s.Empty() || len(s.DataKey) == 0 || c.Policy == certificate.MasterOnly {
		return nil, nil
	}
	return w.Keys.DataKey(ctx, kmskey.Certificate(c.User, c.ID), s)
}

// wrap seals the data key to a device. Without the data key the wrap stays that it had of the same issue for the same
// key. One that nothing can be sealed to has none.
func (w *Worker) wrap(ctx context.Context, after *device.Assignment, before device.Assignment, key []byte, d device.Device) {
	print := device.Fingerprint(d.Key)
	if key == nil {
		if before.Issue != after.Issue || string(before.WrapFor) != string(print) {
			after.Wrap, after.WrapFor = nil, nil
		}
		return
	}
	wrap, err := device.Seal(key, d.Key)
	if err != nil {
		w.Log.LogAttrs(ctx, slog.LevelError, "certificate key not sealed", slog.Int64("device", d.ID), slog.Int64("certificate", after.Certificate), slog.String("error", err.Error()))
		after.Wrap, after.WrapFor = nil, nil
		return
	}
	after.Wrap, after.WrapFor = wrap, print
	w.Log.LogAttrs(ctx, slog.LevelInfo, "certificate key sealed", slog.Int64("user", d.User), slog.Int64("device", d.ID), slog.Int64("certificate", after.Certificate), slog.Int64("issue", after.Issue))
}

// unassign takes a certificate that is gone off a device.
func (w *Worker) unassign(ctx context.Context, a device.Assignment) error {
	err := w.Store.Unassign(ctx, a.Certificate, a.Device, w.Now())
	if errors.Is(err, store.ErrNotFound) { // the device is revoked, or it was taken off meanwhile
		return w.Store.Drop(ctx, a.Certificate, a.Device)
	}
	return err
}

// RunCA takes a CA that is gone off its devices.
func (w *Worker) RunCA(ctx context.Context, id int64) error {
	r, err := w.Store.RolloutOfCA(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := w.Store.DevicesOfCA(ctx, id)
	if err != nil {
		return err
	}
	err = each(ctx, all, func(ctx context.Context, on device.CA) error {
		err := w.Store.UnassignCA(ctx, id, r.Name, r.Serial, on.Device, w.Now())
		if errors.Is(err, store.ErrNotFound) {
			return w.Store.DropCA(ctx, id, on.Device)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("take CA %d off its devices: %w", id, err)
	}
	return settled(w.Store.EndRollout(ctx, r, nil))
}

// each does something for each of many, some at a time, and goes on after a failure.
func each[T any](ctx context.Context, all []T, do func(context.Context, T) error) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	slots := make(chan struct{}, atOnce)
	for _, one := range all {
		if err := ctx.Err(); err != nil {
			failed = errors.Join(failed, err)
			break
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := do(ctx, one); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
			}
		})
	}
	group.Wait()
	return failed
}
