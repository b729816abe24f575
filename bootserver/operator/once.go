package operator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// Once implements api.Backend.
func (o *Operator) Once(ctx context.Context, ref string, q api.OnceRequest) (m api.Machine, err error) {
	if err := checkOnce(q); err != nil {
		return m, err
	}
	err = repeat(func() error {
		removed := o.state.Removed()
		picked, err := o.findNamed(ref)
		if err != nil {
			return err
		}
		name := q.Image
		if name == "" {
			next, err := nextWithoutOnce(picked)
			if err != nil {
				return err
			}
			name = string(next.Image)
		}
		as, err := o.catalog.Assignment(ctx, name, q.Why, o.now())
		if err != nil {
			return storeProblem(err)
		}
		im, err := o.catalog.Stored(as.Image)
		if err != nil {
			return storeProblem(err)
		}
		if err := able(im, q); err != nil {
			return err
		}
		owned := o.ownership(picked, as.Image, q.Force)
		m, err = o.change(ctx, fleet.ActionOnce, ref, func(tx state.Tx, d *fleet.Decision) error {
			tx.LookedUp(removed)
			if err := onceFits(q, d.Machine, as.Image); err != nil {
				return err
			}
			if err := owned.check(d.Machine, latestBoot(tx, d.Machine)); err != nil {
				return err
			}
			d.SetOnce(fleet.Once{ImageRef: as.ImageRef, Arguments: slices.Clone(q.Arguments), Shell: q.Shell, Limit: q.Limit,
				Why: q.Why})
			return nil
		})
		return err
	}, errNotLookedUp, state.ErrRemoved)
	return m, err
}

// checkOnce returns a problem of a request that no machine can carry out.
func checkOnce(q api.OnceRequest) error {
	if q.Image == "" && len(q.Arguments) == 0 && !q.Shell {
		return api.NewProblem(api.CodeInvalidRequest, "one boot needs an image, kernel arguments or a shell")
	}
	if q.Limit != 0 && (q.Limit < time.Minute || q.Limit > fleet.MaxOnceLimit) {
		return api.NewProblem(api.CodeOnceLimit, fmt.Sprintf("one boot cannot take %s to become healthy", q.Limit))
	}
	if err := fleet.CheckArguments(q.Arguments); err != nil {
		return api.NewProblem(api.CodeInvalidArgument, err.Error())
	}
	return nil
}

// able returns a problem if an image cannot do what one boot is to do.
func able(im image.Image, q api.OnceRequest) error {
	unable := func(what string) error {
		return api.NewProblem(api.CodeImageUnable, fmt.Sprintf("%s %s", im.Name, what), "image", im.Name.String())
	}
	switch {
	case len(q.Arguments) > 0 && !im.Manifest.Has(ingot.FeatureArguments):
		return unable("does not verify kernel arguments, so it gets none besides its own")
	case q.Shell && !im.Manifest.Has(ingot.FeatureShell):
		return unable("has no shell in its initramfs, because its profile does not permit one")
	}
	return nil
}

// onceFits returns a problem if a machine cannot do what one boot of it is to do, or errNotLookedUp if
// that boot would be of another image than the one that was looked up.
func onceFits(q api.OnceRequest, m fleet.Machine, image ingot.Digest) error {
	if q.Image == "" {
		if next, err := nextWithoutOnce(m); err != nil || next.Image != image {
			return errNotLookedUp
		}
	}
	if len(q.Arguments) > 0 && m.Facts.SecureBoot {
		return api.NewProblem(api.CodeSecureBoot, fmt.Sprintf("%s starts with Secure Boot: its kernel arguments are "+
			"signed with its UKI, and its firmware does not start ingot's loader, which could pass others", m.Hostname()),
			"machine", m.Hostname())
	}
	return nil
}

// nextWithoutOnce returns the image that a machine boots when nothing is decided for one boot.
func nextWithoutOnce(m fleet.Machine) (fleet.ImageRef, error) {
	m.Once = nil
	next, err := fleet.Next(m)
	if err != nil {
		return next, api.NewProblem(api.CodeNoNextImage, fmt.Sprintf("%s: %v", m.Hostname(), err), "machine", m.Hostname())
	}
	return next, nil
}

// CancelOnce implements api.Backend.
func (o *Operator) CancelOnce(ctx context.Context, ref string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionCancelOnce, ref, func(_ state.Tx, d *fleet.Decision) error {
		if d.Machine.Once == nil {
			return api.NewProblem(api.CodeNoOnce, fmt.Sprintf("nothing is decided for one boot of %s", d.Machine.Hostname()),
				"machine", d.Machine.Hostname())
		}
		d.CancelOnce()
		return nil
	})
}
