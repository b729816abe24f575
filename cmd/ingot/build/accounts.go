package build

import (
	"context"
	"fmt"
	"io"

	"ingot"
	"ingot/builder"
	"ingot/builder/lock"
	"ingot/image"
	"ingot/profiles"
)

// keepAccounts writes the numbers of an image's accounts into the lock of its profile, so that later
// images have them, too. The image is valid in any case.
func (a *Commands) keepAccounts(store *image.Store, im image.Image, p *profiles.Profile, f buildFlags) {
	path := lock.Path(a.lockDir(), p.Name, p.File)
	plan, err := builder.PlanOf(store, im)
	if err == nil && f.locked {
		if locked, err := lock.Read(path); err == nil && locked != nil && len(locked.Accounts) < len(plan.Accounts) {
			a.Logger().Warn("the lock lacks numbers of accounts, and --locked leaves it as it is; run ingot build without it "+
				"and commit the lock", "lock", path, "accounts", len(plan.Accounts)-len(locked.Accounts))
		}
		return
	}
	changed := false
	if err == nil {
		changed, err = lock.KeepAccounts(path, plan.Accounts)
	}
	switch {
	case err != nil:
		a.Logger().Warn("cannot write the numbers of accounts into the lock; another build may give others", "lock", path,
			"err", err)
	case changed:
		fmt.Fprintf(a.Stderr, "wrote %s (it keeps the numbers of %d accounts from now on)\n", path, len(plan.Accounts))
	}
}

// movedView is what a plan changes in the numbers of accounts.
type movedView struct {
	Image    string               `json:"image"` // the newest image of the profile
	Accounts []ingot.MovedAccount `json:"accounts"`
}

// moved compares the numbers that a plan gives to accounts with those of the newest image of its
// profile. It returns nil if none differ, or if there is no image.
func (a *Commands) moved(ctx context.Context, plan *builder.Plan) (*movedView, error) {
	store, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return nil, err
	}
	im, list, err := builder.Moved(ctx, store, plan)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &movedView{im.Name.String(), list}, nil
}

// movedText says what follows from other numbers of accounts.
func movedText(w io.Writer, v *movedView) {
	if v == nil {
		return
	}
	fmt.Fprintf(w, "\nother numbers than in %s; files on volumes keep the old ones:\n", v.Image)
	for _, m := range v.Accounts {
		fmt.Fprintf(w, "  %s\n", m)
	}
	fmt.Fprintln(w, "  machines with volumes get this image only by force: ingot assign MACHINE IMAGE --force")
}
