package fleet

import (
	"errors"
	"fmt"
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
	ErrHeld = errors.New("the machine is held for a person")
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

// Supersede ends the boot that a newer one replaces.
func Supersede(b Boot, now time.Time) Boot {
	if !b.Open() {
		return b
	}
	if b.Image.Image == "" {
		return end(b, ingot.OutcomeWaiting, "the machine was waiting for an operator", now)
	}
	return end(b, ingot.OutcomeSilent, fmt.Sprintf("the machine started over after stage %s without a word", b.Stage()), now)
}

// Expire ends a boot that passed its deadline without a report.
func Expire(b Boot, now time.Time) (Boot, bool) {
	if !b.Open() || b.Deadline.IsZero() || now.Before(b.Deadline) {
		return b, false
	}
	return end(b, ingot.OutcomeSilent, fmt.Sprintf("no report within %s; last stage %s", b.Deadline.Sub(b.Started).Round(time.Second), b.Stage()), now), true
}

func end(b Boot, o ingot.Outcome, reason string, now time.Time) Boot {
	b.Outcome, b.Reason, b.Ended = o, reason, now
	return b
}

// MaxEvents bounds the record of one boot; a machine in a loop of failures
// must not fill the disk.
const MaxEvents = 200

// Record adds an event to a boot that is open, or that was taken for silent: a
// server whose clock was set gives up machines that are on their way. A failure
// that the machine will not try again ends an open boot.
func Record(b Boot, e ingot.Event, now time.Time) Boot {
	last := e.Error != "" && !e.Retry && b.Open() // there is always room for how it ended
	if !b.Open() && b.Outcome != ingot.OutcomeSilent || len(b.Events) >= MaxEvents && !last {
		return b
	}
	// The last event again is a retransmission, or one more waiting screen.
	if n := len(b.Events); n > 0 && e.Error == "" && b.Events[n-1].Stage == e.Stage && b.Events[n-1].Detail == e.Detail && b.Events[n-1].Bytes == e.Bytes {
		return b
	}
	if e.Error == "" || !e.Code.Plausible() {
		e.Code = ""
	}
	b.Events = append(slices.Clone(b.Events), Event{e, now})
	if last {
		return end(b, ingot.OutcomeFailed, fmt.Sprintf("stage %s: %s", e.Stage, e.Error), now)
	}
	return b
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

// Judge takes a report into boot and machine. The boot is healthy when all
// checks passed and the measured root is the assigned one; then the image is
// good on this machine. Only the machine's latest boot is judged; the report
// of an older one changes nothing.
func Judge(b Boot, m Machine, r ingot.Report, now time.Time) (Boot, Machine) {
	if m.Boot != b.ID {
		return b, m
	}
	m.LastSeen = now
	decided := b.Outcome == ingot.OutcomeHealthy || b.Outcome == ingot.OutcomeFailed
	b.Report = &r
	if decided {
		return b, m
	}
	if r.Root != b.Root {
		return failReport(b, ingot.FailureRootMeasurement, fmt.Sprintf("the machine measured root %s, assigned is %s", r.Root.Short(), b.Root.Short()), now), m
	}
	for _, c := range r.Checks {
		if !c.OK {
			return failReport(b, ingot.FailureCheck, fmt.Sprintf("check %s failed: %s", c.Name, c.Detail), now), m
		}
	}
	if !r.Healthy {
		return failReport(b, ingot.FailureUnhealthy, "the machine says that it is not healthy", now), m
	}
	b.Outcome = ingot.OutcomeOpen // a late report of the latest boot still counts
	b = Record(b, ingot.Event{Stage: ingot.StageHealthy, Uptime: r.Uptime, Detail: "root " + r.Root.Short()}, now)
	b = end(b, ingot.OutcomeHealthy, "", now)
	m.LastHealthy = b.Image
	m.Healthy = slices.DeleteFunc(slices.Clone(m.Healthy), func(i ImageRef) bool { return i.Image == b.Image.Image })
	m.Healthy = append(m.Healthy, b.Image)
	if more := len(m.Healthy) - maxHealthy; more > 0 {
		m.Healthy = m.Healthy[more:]
	}
	return b, m
}

// maxHealthy bounds what is remembered of a machine's good past.
const maxHealthy = 20

func failReport(b Boot, code ingot.FailureCode, reason string, now time.Time) Boot {
	b.Outcome = ingot.OutcomeOpen
	return Record(b, ingot.Event{Stage: ingot.StageHealthy, Error: reason, Code: code}, now)
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

// Expired marks the grants whose time passed before any boot used them.
func Expired(m Machine, now time.Time) (after Machine, some bool) {
	m.Grants = slices.Clone(m.Grants)
	for i := range m.Grants {
		if g := &m.Grants[i]; g.waits() && !now.Before(g.Expires) {
			g.Over, some = true, true
		}
	}
	return m, some
}

func (g Grant) waits() bool { return g.Boot == "" && !g.Over }

// GrantWaits reports whether a grant of the machine waits for a boot, or for
// its time to pass.
func (m *Machine) GrantWaits() bool { return slices.ContainsFunc(m.Grants, Grant.waits) }

// Give adds a grant. An older one for the same volume is replaced.
func Give(m Machine, g Grant, now time.Time) Machine {
	m.Grants = slices.DeleteFunc(slices.Clone(m.Grants), func(h Grant) bool {
		return h.Volume == g.Volume || now.Sub(h.Expires) > 30*24*time.Hour
	})
	m.Grants = append(m.Grants, g)
	return m
}
