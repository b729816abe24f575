package rollout

import (
	"time"

	"ingot"
)

// Fleet is what Next needs to know besides the rollout.
type Fleet struct {
	Machines map[ingot.MachineID]Machine
	// Listening is when the server began to hear machines, or to hear them again. A machine cannot have
	// been heard before.
	Listening time.Time
	Stepped   time.Time // when the server's clock was last changed; zero: never
	Closed    bool      // now is outside of Policy.Window
	// why something cannot be found out without which the rollout cannot go on
	Unreadable string
	Ledger     string                  // name of the ledger
	Refused    map[ingot.Digest]string // images that cannot be served, and why
}

// Machine is what is known of a machine now.
type Machine struct {
	Retired  bool      // it may not boot; or waits for approval
	Off      bool      // an operator marked it as off
	Shut     bool      // it shut down in order a while ago, and did not boot since
	Held     bool      // its image failed, and there is none to fall back to
	Pinned   bool      // an operator keeps it out of rollouts
	Busy     string    // why an operator must come first: a question is open, one boot is decided
	Other    string    // another rollout that it belongs to
	Assigned Image     // the image that it should run
	Since    time.Time // when that was assigned
	GaveUp   bool      // it does not boot the assigned image any more: that failed too often
	Boots    []Boot    // those since it was moved, and the latest one; oldest first
	NoOrder  string    // why its system takes no orders; empty: it does
	Hooks    []string  // drain hooks of the image that it runs
	// why the boots since it was moved cannot be read; Boots has the latest one only. Nothing is known of
	// the machine then, and it counts as not healthy
	Unreadable string
}

// Boot is what is known of one boot.
type Boot struct {
	ID        ingot.BootID
	Number    int          // always increasing
	Before    ingot.BootID // the machine's boot before
	Image     ingot.Digest
	Once      bool // it does something other than the assignment says
	Outcome   ingot.Outcome
	Stage     ingot.Stage // the furthest stage
	Code      ingot.FailureCode
	Delivered bool // the kernel, or the UKI, was fetched whole
	Reason    string
	Started   time.Time
	Ended     time.Time
	Crash     string    // the reason why its kernel crashed, which the next boot reports
	Heard     time.Time // its latest report
	Unwell    bool      // the latest report says that the system is not healthy
	Down      bool      // its latest message says that the system shuts down
	Order     *Order    // the latest order to its system; nil: there was none
}

// Order is what is known of an order to the system of a boot.
type Order struct {
	Rollout string // that gave it; empty: an operator
	Counter uint64
	Given   time.Time
	At      time.Time // of its state
	State   ingot.OrderState
	Open    bool   // the machine may still begin with it
	Pending bool   // another one would come too early
	Text    string // what became of it, to follow "it"
}

// Silence is how long a healthy machine may be silent. Agents report every ingot.Heartbeat.
const Silence = 4 * ingot.Heartbeat

// latest returns the latest boot of the machine, if any.
func (m *Machine) latest() (Boot, bool) {
	if len(m.Boots) == 0 {
		return Boot{}, false
	}
	return m.Boots[len(m.Boots)-1], true
}

// out returns why a machine neither moves nor is waited for; empty if it does.
func (m *Machine) out() string {
	switch {
	case m.Retired:
		return "not approved"
	case m.Off, m.Shut:
		return "off"
	case m.Held:
		return "held"
	case m.Pinned:
		return "pinned"
	case m.Busy != "":
		return m.Busy
	case m.Other != "":
		return "in rollout " + m.Other
	}
	return ""
}

// counts reports whether the machine belongs to the machines of which only so many may be unavailable.
// One that shut down after the rollout touched it, and never became healthy with the image, does: it
// may have been the reboot from which it does not come back.
func (m *Machine) counts(member *Member) bool {
	return !m.Retired && !m.Off && !(m.Shut && (!member.touched() || member.good()))
}

// silent reports whether a boot that was healthy is not heard from any more.
func (f *Fleet) silent(b Boot, now time.Time) bool {
	if b.Outcome != ingot.OutcomeHealthy || b.Down {
		return false
	}
	heard := b.Heard
	for _, t := range []time.Time{f.Listening, f.Stepped} {
		if t.After(heard) {
			heard = t
		}
	}
	return now.Sub(heard) > Silence
}

// heardNow reports whether a boot was heard within the time of Silence, and after the clock changed.
func (f *Fleet) heardNow(b Boot, now time.Time) bool {
	age := now.Sub(b.Heard)
	return age <= Silence && age >= -Silence && !b.Heard.Before(f.Stepped)
}

// healthy reports whether a machine is known to be available: its latest boot is healthy and goes on.
func (f *Fleet) healthy(m *Machine, now time.Time) bool {
	b, has := m.latest()
	return has && m.Unreadable == "" && b.Outcome == ingot.OutcomeHealthy && !b.Down && !b.Unwell && !f.silent(b, now)
}

// available reports whether a machine is healthy and not about to reboot.
func (f *Fleet) available(m *Machine, now time.Time) bool {
	b, has := m.latest()
	return f.healthy(m, now) && !(has && b.Order != nil && b.Order.Pending)
}

// elsewhere are the failures that another image would meet as well: the link, the server, and the
// machine's own disks and kernel arguments.
var elsewhere = map[ingot.FailureCode]bool{
	ingot.FailureServerAway:    true,
	ingot.FailureServerRefused: true,
	ingot.FailureTicketExpired: true,
	ingot.FailureVolume:        true,
	ingot.FailureArguments:     true,
}

// Classify says what a boot says of its image. What happened before the kernel was delivered whole,
// and failures with a code that names something else, say nothing. A kernel that was delivered and
// then silent counts against its image.
func Classify(b Boot) Class {
	switch b.Outcome {
	case ingot.OutcomeHealthy:
		if b.Crash != "" {
			return Bad
		}
		return Good
	case ingot.OutcomeFailed:
		loading := b.Code == ingot.FailureDeadline && b.Stage == ingot.StageTicket // the root came too slowly
		if elsewhere[b.Code] || loading || !b.Delivered {
			return Elsewhere
		}
		return Bad
	case ingot.OutcomeSilent:
		if !b.Delivered {
			return Elsewhere
		}
		return Bad
	}
	return Open
}
