package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/explain"
	"ingot/bootserver/state"
)

// Grant implements api.Backend.
func (o *Operator) Grant(ctx context.Context, ref string, r api.GrantRequest) (api.Machine, error) {
	switch {
	case r.Disk == "":
		return api.Machine{}, api.NewProblem(api.CodeGrantWithoutDisk, "a grant names one disk")
	case r.For <= 0 || r.For > 7*24*time.Hour:
		return api.Machine{}, api.NewProblem(api.CodeGrantDuration, fmt.Sprintf("a grant cannot last %s", r.For))
	}
	if !r.Force {
		m, err := o.findNamed(ref)
		if err != nil {
			return api.Machine{}, err
		}
		if err := o.declared(m, r.Volume); err != nil {
			return api.Machine{}, err
		}
	}
	now := o.now()
	g := fleet.Grant{Grant: ingot.Grant{Volume: r.Volume, Disk: r.Disk, Expires: now.Add(r.For), Adopt: r.Adopt},
		Given: now}
	return o.change(ctx, fleet.ActionGrant, ref, func(tx state.Tx, d *fleet.Decision) error {
		if !r.Force {
			if err := reported(d.Machine, latestBoot(tx, d.Machine), r.Disk); err != nil {
				return err
			}
		}
		d.AddGrant(g)
		return nil
	})
}

// WithdrawGrant implements api.Backend.
func (o *Operator) WithdrawGrant(ctx context.Context, ref, volume string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionWithdraw, ref, func(_ state.Tx, d *fleet.Decision) error {
		had := d.Machine
		if d.WithdrawGrant(volume) {
			return nil
		}
		var unused []string
		for _, g := range had.Grants {
			if g.Unused() {
				unused = append(unused, g.Volume)
			}
		}
		return api.NewProblem(api.CodeNoGrant, fmt.Sprintf("%s has no unused grant for volume %q; it has %s", had.Hostname(),
			volume, listed("grants for ", unused)), "machine", had.Hostname())
	})
}

// declared returns a problem if no image that a machine boots declares a volume. A machine without
// an image, or whose images are not in the store, may have any.
func (o *Operator) declared(m fleet.Machine, volume string) error {
	var latest fleet.Boot
	o.state.View(func(r state.Reader) { latest = latestBoot(r, m) })
	images := []fleet.ImageRef{m.Assignment.ImageRef, latest.Image}
	if m.Once != nil {
		images = append(images, m.Once.ImageRef)
	}
	if next, err := fleet.Next(m); err == nil {
		images = append(images, next)
	}
	var names []string
	var by string
	for _, ref := range images {
		if ref.Image == "" {
			continue
		}
		im, err := o.catalog.Stored(ref.Image)
		if err != nil {
			return nil
		}
		if by == "" {
			by = ref.Name
		}
		for _, v := range im.Manifest.Volumes {
			if v.Name == volume {
				return nil
			}
			if !slices.Contains(names, v.Name) {
				names = append(names, v.Name)
			}
		}
	}
	if by == "" {
		return nil
	}
	return api.NewProblem(api.CodeGrantVolume, fmt.Sprintf("%s declares no volume %q for %s; it declares %s", by, volume,
		m.Hostname(), listed("", names)), "image", by)
}

// reported returns a problem if a machine did not report a disk of that name: with its hardware, or, as
// one that appeared later, with a volume of its latest boot. A machine that reported no hardware yet
// may have any disk.
func reported(m fleet.Machine, latest fleet.Boot, disk string) error {
	ofVolume := func(r ingot.VolumeResult) bool { return r.Disk != "" && sameDiskName(r.Disk, disk) }
	if m.Facts.RAM == 0 && len(m.Facts.Disks) == 0 || slices.ContainsFunc(explain.VolumeResults(latest), ofVolume) {
		return nil
	}
	var names []string
	for _, d := range m.Facts.Disks {
		called := slices.DeleteFunc([]string{d.Serial, d.WWN, d.Path}, func(s string) bool { return s == "" })
		if slices.ContainsFunc(called, func(s string) bool { return sameDiskName(s, disk) }) {
			return nil
		}
		if len(called) > 0 {
			names = append(names, fmt.Sprintf("%s (%s)", called[0], d.Name))
		}
	}
	return api.NewProblem(api.CodeGrantDisk, fmt.Sprintf("%s did not report a disk %q; it reported %s", m.Hostname(), disk,
		listed("", names)), "machine", m.Hostname())
}

// sameDiskName compares names of disks as machines do: WWNs differ in case and prefix between tools.
func sameDiskName(a, b string) bool {
	bare := func(s string) string {
		s = strings.ToLower(s)
		for _, p := range []string{"naa.", "eui.", "nvme.", "t10.", "0x"} {
			s = strings.TrimPrefix(s, p)
		}
		return s
	}
	return a == b || bare(a) == bare(b)
}

// listed joins names, or says that there are none.
func listed(what string, names []string) string {
	const most = 12
	if len(names) == 0 {
		return "none"
	}
	more := ""
	if n := len(names) - most; n > 0 {
		names, more = names[:most], fmt.Sprintf(" and %d more", n)
	}
	return what + strings.Join(names, ", ") + more
}
