package fleet

import (
	"errors"
	"slices"
	"time"

	"ingot"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrNotApproved: the machine is waiting for an operator.
	ErrNotApproved = errors.New("the machine is not approved")
	// ErrNoImage: the machine has no image assigned.
	ErrNoImage = errors.New("the machine has no image assigned")
	// ErrHeld: the machine's image failed, and there is none to fall back to.
	ErrHeld = errors.New("the machine is held for an operator")
	// ErrNothingHealthy: no other image was ever healthy on the machine.
	ErrNothingHealthy = errors.New("no other image was ever healthy on this machine")
)

// Begins reports whether a packet of the firmware, or of its loader, starts a new boot.
// latest is the machine's latest boot. A machine sends several requests in one boot, and
// starts over only after a reset.
func Begins(latest *Boot, loader bool) bool {
	if latest == nil || !latest.Open() {
		return true
	}
	stage := latest.Stage()
	if loader {
		// The loader repeats DHCP after the firmware. If it does so although its kernel
		// was served, it is an iPXE in the ROM after a reset.
		return stage.Rank() >= ingot.StageKernel.Rank()
	}
	return stage.Rank() >= ingot.StageLoader.Rank()
}

// Next returns the image that a machine boots next: the one for one boot, the assigned one, or
// the one that it fell back to. The error is ErrNotApproved, ErrNoImage or ErrHeld.
func Next(m Machine) (ImageRef, error) {
	switch {
	case m.State != Approved:
		return ImageRef{}, ErrNotApproved
	case m.Once != nil:
		return m.Once.ImageRef, nil
	case m.Assignment.Image == "":
		return ImageRef{}, ErrNoImage
	case m.Setback == nil:
		return m.Assignment.ImageRef, nil
	case m.Setback.To.Image == "":
		return ImageRef{}, ErrHeld
	}
	return m.Setback.To, nil
}

// Rollback returns an assignment of the last image that was healthy on the machine and is
// not assigned now, or ErrNothingHealthy.
func Rollback(m Machine, now time.Time) (Assignment, error) {
	for i := len(m.Healthy) - 1; i >= 0; i-- {
		if m.Healthy[i].Image != m.Assignment.Image {
			return Assignment{ImageRef: m.Healthy[i], Why: "rollback from " + m.Assignment.Name, Since: now}, nil
		}
	}
	return Assignment{}, ErrNothingHealthy
}

// LendGrants returns the usable grants of a machine for the ticket of a boot, and notes that
// the boot has them. A grant is used up when the machine reports that it wrote, see
// SpendGrants: a boot that fails before does not take it away.
func LendGrants(m Machine, boot ingot.BootID, now time.Time) (Machine, []ingot.Grant) {
	var lent []ingot.Grant
	m.Grants = slices.Clone(m.Grants)
	for i := range m.Grants {
		g := &m.Grants[i]
		if !g.Unused() || !now.Before(g.Expires) {
			continue
		}
		g.Lent = boot
		lent = append(lent, g.Grant)
	}
	return m, lent
}

// SpendGrants marks the grants for volumes that a boot initialised or took over as used.
func SpendGrants(m Machine, boot ingot.BootID, volumes []string) (after Machine, spent []ingot.Grant) {
	m.Grants = slices.Clone(m.Grants)
	for i := range m.Grants {
		g := &m.Grants[i]
		if g.Unused() && g.Lent == boot && slices.Contains(volumes, g.Volume) {
			g.Boot = boot
			spent = append(spent, g.Grant)
		}
	}
	return m, spent
}

// Unused reports whether the grant was neither used by a boot nor marked as expired.
func (g Grant) Unused() bool { return g.Boot == "" && !g.Over }

// HasUnusedGrant reports whether a grant of the machine was neither used by a boot nor
// marked as expired.
func (m *Machine) HasUnusedGrant() bool { return slices.ContainsFunc(m.Grants, Grant.Unused) }

// HasExpiredGrant reports whether an unused grant of the machine has expired.
func (m *Machine) HasExpiredGrant(now time.Time) bool {
	return slices.ContainsFunc(m.Grants, func(g Grant) bool { return g.Unused() && !now.Before(g.Expires) })
}

// addGrant adds a grant. An older one for the same volume is replaced.
func addGrant(m Machine, g Grant, now time.Time) Machine {
	m.Grants = slices.DeleteFunc(slices.Clone(m.Grants), func(h Grant) bool {
		return h.Volume == g.Volume || now.Sub(h.Expires) > 30*24*time.Hour
	})
	m.Grants = append(m.Grants, g)
	return m
}

// Use is why a machine needs an image.
type Use string

// The uses of images.
const (
	UseAssigned Use = "assigned"
	UseOnce     Use = "once"
	UseLatest   Use = "latest"
	UseFellBack Use = "fell-back"
	UseHealthy  Use = "healthy"
	UseRollback Use = "rollback"
)

var useWords = map[Use]string{UseAssigned: "is assigned it", UseOnce: "is to boot it once", UseLatest: "booted it last",
	UseFellBack: "fell back to it", UseHealthy: "was last healthy with it", UseRollback: "may fall back to it"}

// String says why, after the name of a machine: "is assigned it".
func (u Use) String() string { return useWords[u] }

// Uses calls f for every image that a machine needs, with the reason: it is assigned, is to be
// booted once, was booted last, was healthy last and may still run, or would be chosen by a rollback. Such
// an image must stay in the store. latest is the image of the machine's latest boot. f may
// be called more than once for one image.
func Uses(m *Machine, latest ingot.Digest, f func(image ingot.Digest, why Use)) {
	use := func(image ingot.Digest, why Use) {
		if image != "" {
			f(image, why)
		}
	}
	use(m.Assignment.Image, UseAssigned)
	if m.Once != nil {
		use(m.Once.Image, UseOnce)
	}
	use(latest, UseLatest)
	if m.Setback != nil {
		use(m.Setback.To.Image, UseFellBack)
	}
	use(m.LastHealthy.Image, UseHealthy)
	for i := len(m.Healthy) - 1; i >= 0; i-- { // as Rollback chooses
		if image := m.Healthy[i].Image; image != m.Assignment.Image {
			use(image, UseRollback)
			break
		}
	}
}

// InUse returns the reason for every image that a machine needs, such as "node01 is
// assigned it". boots are the boots of the machines; older ones are ignored.
func InUse(machines []Machine, boots []Boot) map[ingot.Digest]string {
	latest := map[ingot.BootID]ingot.Digest{}
	for _, b := range boots {
		latest[b.ID] = b.Image.Image
	}
	used := map[ingot.Digest]string{}
	for i := range machines {
		m := &machines[i]
		Uses(m, latest[m.Boot], func(image ingot.Digest, why Use) {
			if used[image] == "" {
				used[image] = m.Hostname() + " " + why.String()
			}
		})
	}
	return used
}
