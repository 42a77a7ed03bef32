package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/sealed"
	"cjj365.cc/bb/shared/store"
)

// Assign puts a certificate of the device's user on the device, which is told when there is an issue. That it is on it
// already is no error. store.ErrNotFound if the user has no such certificate, or the device is revoked.
func (w *Worker) Assign(ctx context.Context, d device.Device, id int64) error {
	for try := 0; ; try++ {
		c, err := w.Store.Certificate(ctx, d.User, id)
		if err != nil {
			return err
		}
		err = w.assign(ctx, d, c)
		switch {
		case errors.Is(err, store.ErrAssigned):
			return nil
		case errors.Is(err, store.ErrFull):
			if _, err := w.Store.Assignment(ctx, id, d.ID); !errors.Is(err, store.ErrNotFound) {
				return err // it is on it already
			}
			return problem.Conflict.New("A device may have %d certificates. Take one off that it needs no more.", device.MaxAssigned)
		case !errors.Is(err, store.ErrConflict) || try == 10: // issued or changed at this moment
			return err
		}
	}
}

func (w *Worker) assign(ctx context.Context, d device.Device, c certificate.Certificate) error {
	a := device.Assignment{User: d.User, Certificate: c.ID, Device: d.ID, Issue: c.Current.Issue, Revision: c.Revision}
	forget := false
	if a.Issue > 0 {
		m, err := w.Store.Material(ctx, c.ID, a.Issue)
		if errors.Is(err, store.ErrNotFound) {
			return store.ErrConflict // renewed between the two reads
		}
		if err != nil {
			return err
		}
		key, err := w.dataKey(ctx, c, m.Key)
		if err != nil {
			return err
		}
		defer clear(key)
		w.wrap(ctx, &a, device.Assignment{}, key, d)
		forget = c.Policy == certificate.DeviceRequired && a.Ready()
	}
	if err := w.Store.Assign(ctx, c, a, w.Now()); err != nil {
		return err
	}
	if forget { // a crash before this leaves the copy until the next issue
		// A roll-out on its way seals it to others yet, and forgets it when it has.
		r, err := w.Store.Rollout(ctx, c.ID)
		if err == nil && r.AllAt.IsZero() {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return w.forget(ctx, c, a.Issue, []device.Assignment{a})
	}
	return nil
}

// Hurry has the devices of a certificate ask often, because an issue for them is under way: the first hundred, for
// it is a hint and no more.
func (w *Worker) Hurry(ctx context.Context, certificate int64) error {
	all, err := w.Store.Assignments(ctx, certificate)
	if err != nil {
		return err
	}
	return each(ctx, all[:min(len(all), 100)], func(ctx context.Context, a device.Assignment) error {
		return w.Store.HurryDevice(ctx, a.Device, w.Now())
	})
}

// RunDevice seals the keys of everything on a device to its new key, and tells it. What is sealed to it is left.
func (w *Worker) RunDevice(ctx context.Context, user, id int64) error {
	d, err := w.Store.Device(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := w.rewrap(ctx, d); err != nil {
		return fmt.Errorf("seal anew what is on device %d: %w", id, err)
	}
	return w.Store.Rewrapped(ctx, d)
}

func (w *Worker) rewrap(ctx context.Context, d device.Device) error {
	ids, err := w.Store.CertificatesOn(ctx, d.ID)
	if err != nil || d.Status() != device.Active {
		return err
	}
	return each(ctx, ids, func(ctx context.Context, id int64) error {
		a, err := w.Store.Assignment(ctx, id, d.ID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (a.Issue == 0 || !a.Ready() || string(a.WrapFor) == string(device.Fingerprint(d.Key))) {
			return nil
		}
		if err != nil {
			return err
		}
		c, err := w.Store.Certificate(ctx, d.User, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return w.tell(ctx, c, a.Issue, a.Revision, []device.Assignment{a})
	})
}

// Wrapped is an assignment with a wrap for the device's key, made now if it was missing and can be. It is not ready if
// it cannot: the server has no copy of the data key any more.
func (w *Worker) Wrapped(ctx context.Context, a device.Assignment, c certificate.Certificate, key sealed.Secret, d device.Device) (device.Assignment, error) {
	if a.Ready() && string(a.WrapFor) == string(device.Fingerprint(d.Key)) {
		return a, nil
	}
	after := a
	data, err := w.dataKey(ctx, c, key)
	if err != nil {
		return a, err
	}
	defer clear(data)
	if w.wrap(ctx, &after, a, data, d); after.Ready() {
		return after, settled(w.Store.SetWrap(ctx, a, after))
	}
	return after, nil
}

// Clear takes everything off a device that was revoked. What a crash leaves is taken off by the next that comes across
// it.
func (w *Worker) Clear(ctx context.Context, id int64) error {
	certificates, err := w.Store.CertificatesOn(ctx, id)
	if err != nil {
		return err
	}
	cas, err := w.Store.CAsOn(ctx, id)
	if err != nil {
		return err
	}
	return errors.Join(
		each(ctx, certificates, func(ctx context.Context, c int64) error { return w.Store.Drop(ctx, c, id) }),
		each(ctx, cas, func(ctx context.Context, c int64) error { return w.Store.DropCA(ctx, c, id) }),
	)
}

// inTime is a context for what is done beside an answer: what does not get done in it is done by the schedule.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
}

// Begin carries on with a certificate's roll-out beside an answer. What fails, or takes too long, is left to the schedule.
func (w *Worker) Begin(ctx context.Context, certificate int64) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	if err := w.Run(ctx, certificate); err != nil {
		w.Log.WarnContext(ctx, "a roll-out is left to the schedule", "certificate", certificate, "error", err.Error())
	}
}

// BeginDevice is Begin of a device that has another key.
func (w *Worker) BeginDevice(ctx context.Context, user, id int64) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	if err := w.RunDevice(ctx, user, id); err != nil {
		w.Log.WarnContext(ctx, "keys that are to be sealed anew are left to the schedule", "device", id, "error", err.Error())
	}
}

// BeginCA is Begin of a CA's.
func (w *Worker) BeginCA(ctx context.Context, id int64) {
	ctx, cancel := inTime(ctx)
	defer cancel()
	if err := w.RunCA(ctx, id); err != nil {
		w.Log.WarnContext(ctx, "a roll-out is left to the schedule", "ca", id, "error", err.Error())
	}
}
