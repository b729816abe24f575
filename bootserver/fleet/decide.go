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

// Begins reports whether a packet of the firmware, or of its loader, starts a
// new boot, given the machine's latest one: a machine asks several times for
// one boot, and asks from the start only after a reset.
func Begins(latest *Boot, loader bool) bool {
	if latest == nil || !latest.Open() {
		return true
	}
	stage := latest.Stage()
	if loader {
		// Our loader asks once more after the firmware did; when it asks again
		// although its script or kernel were served, it is a ROM that was reset.
		return stage.Rank() >= ingot.StageKernel.Rank()
	}
	return stage.Rank() >= ingot.StageLoader.Rank()
}

// Next says what a machine boots now: what it is assigned, unless that was
// given up.
func Next(m Machine) (ImageRef, error) {
	switch {
	case m.State != Approved:
		return ImageRef{}, ErrNotApproved
	case m.Assignment.Image == "":
		return ImageRef{}, ErrNoImage
	case m.Setback == nil:
		return m.Assignment.ImageRef, nil
	case m.Setback.To.Image == "":
		return ImageRef{}, ErrHeld
	}
	return m.Setback.To, nil
}

// Rollback is the assignment to the last image that was healthy on the machine
// and is not the one assigned now.
func Rollback(m Machine, now time.Time) (Assignment, error) {
	for i := len(m.Healthy) - 1; i >= 0; i-- {
		if m.Healthy[i].Image != m.Assignment.Image {
			return Assignment{ImageRef: m.Healthy[i], Why: "rollback from " + m.Assignment.Name, Since: now}, nil
		}
	}
	return Assignment{}, ErrNothingHealthy
}

// Lend marks the grants that boot may use as its own and returns them for its
// ticket. A grant goes to one boot only, and never after its time.
func Lend(m Machine, boot ingot.BootID, now time.Time) (Machine, []ingot.Grant) {
	var lent []ingot.Grant
	m.Grants = slices.Clone(m.Grants)
	for i := range m.Grants {
		g := &m.Grants[i]
		if g.Over || !now.Before(g.Expires) || (g.Boot != "" && g.Boot != boot) {
			continue
		}
		g.Boot = boot
		lent = append(lent, g.Grant)
	}
	return m, lent
}

func (g Grant) waits() bool { return g.Boot == "" && !g.Over }

// GrantWaits reports whether a grant of the machine waits for a boot, or for
// its time to pass.
func (m *Machine) GrantWaits() bool { return slices.ContainsFunc(m.Grants, Grant.waits) }

// GrantOver reports whether the time of a grant has passed that waits for a boot.
func (m *Machine) GrantOver(now time.Time) bool {
	return slices.ContainsFunc(m.Grants, func(g Grant) bool { return g.waits() && !now.Before(g.Expires) })
}

// Give adds a grant. An older one for the same volume is replaced.
func Give(m Machine, g Grant, now time.Time) Machine {
	m.Grants = slices.DeleteFunc(slices.Clone(m.Grants), func(h Grant) bool {
		return h.Volume == g.Volume || now.Sub(h.Expires) > 30*24*time.Hour
	})
	m.Grants = append(m.Grants, g)
	return m
}
