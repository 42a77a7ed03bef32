package delivery

import (
	"context"
	"errors"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// ErrRevoked is the answer when something is to be done for a device that is revoked.
var ErrRevoked = problem.Conflict.New("The device is revoked. It has to register again, as a new one.")

// Device finds a device of the user's, active or not.
func (w *Worker) Device(ctx context.Context, user, id int64) (device.Device, error) {
	d, err := w.Store.Device(ctx, user, id)
	if errors.Is(err, store.ErrNotFound) {
		return d, Foreign(ctx, problem.NotFound.New("There is no device %d.", id), func() (int64, error) { return w.Store.OwnerOfDevice(ctx, id) })
	}
	return d, err
}

// ActiveDevice finds a device that something can be done for.
func (w *Worker) ActiveDevice(ctx context.Context, user, id int64) (device.Device, error) {
	d, err := w.Device(ctx, user, id)
	if err == nil && d.Status() != device.Active {
		err = ErrRevoked
	}
	return d, err
}

// Foreign is the answer to a thing that the caller's user does not have: missing, or to an API key, if somebody else
// has it, that its permissions do not reach it (contract §6.6). owner looks whose it is: store.ErrNotFound if nobody's.
func Foreign(ctx context.Context, missing error, owner func() (int64, error)) error {
	caller, _ := access.FromContext(ctx)
	if caller.Kind != access.APIKey {
		return missing
	}
	_, err := owner()
	switch {
	case errors.Is(err, store.ErrNotFound):
		return missing
	case err != nil:
		return err
	}
	return problem.LacksPermission.New("API key lacks required permission")
}
