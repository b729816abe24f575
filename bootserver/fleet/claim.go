package fleet

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"ingot"
)

// Errors of messages of machines.
var (
	// ErrUnproven: a message must prove the boot's secret, and does not.
	ErrUnproven = errors.New("the message does not prove the secret of its boot")
	// ErrRepeated: the counter of a message is not larger than those before.
	ErrRepeated = errors.New("the counter of the message is not larger than that of an earlier one")
	// ErrConflict: another machine took the ticket of the boot first.
	ErrConflict = errors.New("another machine took the ticket of this boot first")
	// ErrUnauthenticated: an image cannot authenticate its reports, and the policy requires it.
	ErrUnauthenticated = errors.New("the image cannot authenticate its reports, which boots.authenticated requires; " +
		"build it again with this version of ingot")
)

// Authentication is what authenticates the messages of a boot, see ingot.BootSecret.
type Authentication struct {
	Able bool       `json:"able,omitempty"` // the signed manifest of the boot's image has ingot.FeatureAuthenticated
	Half ingot.Half `json:"half,omitempty"` // of the machine that took the first ticket
	// the newest counter by part of the boot; never modified, only replaced
	Counters map[string]uint64 `json:"-"`
	Heard    time.Time         `json:"heard,omitzero"` // the ticket, or the latest message that was proven
	Down     bool              `json:"down,omitempty"` // the latest message said that the system shuts down
}

// Conflict records that two hosts acted as one machine.
type Conflict struct {
	At time.Time `json:"at"`
	// the boot that the other host began; empty if it requested a ticket of this boot
	With ingot.BootID `json:"with,omitempty"`
}

// conflictInterval is the time in which conflicts of one boot are reported once.
const conflictInterval = 10 * time.Minute

// Proof is what a message proved. The zero Proof proves nothing.
type Proof struct {
	Half    ingot.Half // of the machine whose secret it is
	Part    string     // of the boot that the message is for: "report"
	Counter uint64
}

// Silence is how long an authenticated boot may be silent before another boot replaces it for good:
// two heartbeats at their longest, and the time that a round of checks may take.
const Silence = 2*ingot.Heartbeat*5/4 + 15*time.Second

// Claim is a boot that began while an earlier one of the machine still sent authenticated messages.
// Machine.Boot is the new one. The claim ends in one of two ways: nothing more is heard of the earlier
// boot until Until, so that the new one has replaced it; or the earlier one sends a message, so that
// two hosts act as this machine, and the earlier boot stays. A machine that says that it shuts down
// leaves no claim.
//
// While a claim is open, the new boot gets no grant. If the earlier boot is healthy, what becomes of
// the new one does not count for or against an image either. An earlier boot that had not become
// healthy is ended as always, since that is what a reset looks like, but comes back with a message.
type Claim struct {
	Running ingot.BootID `json:"running"` // the earlier boot
	Healthy bool         `json:"healthy"` // it was healthy
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until"`
	// the machine before the claim, for when the earlier boot stays
	Orders      int        `json:"-"`
	Trial       Trial      `json:"-"`
	Setback     *Setback   `json:"-"`
	LastHealthy ImageRef   `json:"-"`
	HealthyList []ImageRef `json:"-"` // Machine.Healthy
}

// Current reports whether a boot is the machine's latest one, or one that an open claim did not
// replace yet.
func (m *Machine) Current(b ingot.BootID) bool {
	return b != "" && (m.Boot == b || m.Claim != nil && m.Claim.Running == b)
}

// runs reports whether a boot still sends authenticated messages, as far as is known.
func (b *Boot) runs(now time.Time) bool {
	return len(b.Auth.Half) > 0 && !b.Auth.Down && now.Before(b.Auth.Heard.Add(Silence)) &&
		(b.Open() || b.Outcome == ingot.OutcomeHealthy)
}

// supersede ends the machine's latest boot because another one begins. If it still sends authenticated
// messages, the new boot only has a claim.
func (d *Decision) supersede(latest Boot) {
	m := &d.Machine
	if m.Claim == nil && latest.runs(d.now) {
		m.Claim = &Claim{Running: latest.ID, Healthy: latest.Outcome == ingot.OutcomeHealthy, Since: d.now,
			Until: latest.Auth.Heard.Add(Silence), Orders: m.Orders, Trial: m.Trial, Setback: m.Setback,
			LastHealthy: m.LastHealthy, HealthyList: m.Healthy}
		d.addBoot(latest, Change{Code: CodeBootClaimed, To: Values{"until": m.Claim.Until.Format(time.RFC3339)}})
	}
	d.EndOlder(latest, Superseded(latest))
}

// tentative reports whether outcomes of the machine's latest boot do not count yet.
func (d *Decision) tentative() bool { return d.Machine.Claim != nil && d.Machine.Claim.Healthy }

// Resolve ends the machine's claim if its time is over. The boot of the decision, if it is the latest
// one, then counts as other boots do.
func (d *Decision) Resolve() {
	c := d.Machine.Claim
	if c == nil || d.now.Before(c.Until) {
		return
	}
	d.Machine.Claim = nil
	if !c.Healthy || d.Machine.Boot != d.Boot.ID || d.Boot.Open() {
		return
	}
	if d.Boot.Outcome == ingot.OutcomeHealthy {
		d.Machine = healthyOn(d.Machine, d.Boot.Image)
	}
	d.applyOutcome(d.Boot)
}

// Authenticate accepts a message about the boot by what it proved, and remembers its counter. The
// error is ErrUnproven, ErrRepeated or ErrConflict.
func (d *Decision) Authenticate(p Proof) error {
	a := d.Boot.Auth
	switch {
	case len(p.Half) == 0 && len(a.Half) == 0 && !(a.Able && p.Part == "report"):
		return nil // before the ticket, or the image is older
	case len(p.Half) == 0:
		return ErrUnproven
	case len(a.Half) > 0 && !a.Half.Same(p.Half):
		return ErrConflict
	case p.Counter <= a.Counters[p.Part]:
		return fmt.Errorf("%w: %d after %d", ErrRepeated, p.Counter, a.Counters[p.Part])
	}
	if len(a.Half) == 0 { // the record is older than the ticket, as after a restore
		a.Half = p.Half
	}
	counters := maps.Clone(a.Counters)
	if counters == nil {
		counters = map[string]uint64{}
	}
	counters[p.Part] = p.Counter
	a.Counters, a.Heard, a.Down = counters, d.now, false
	d.Boot.Auth = a
	return nil
}

// Provable returns ErrUnproven for an event that a machine sends only after its ticket, if the boot's
// image could prove it and no ticket was taken.
func (d *Decision) Provable(e ingot.Event) error {
	if a := d.Boot.Auth; a.Able && len(a.Half) == 0 && e.Stage.Rank() > ingot.StageTicket.Rank() {
		return ErrUnproven
	}
	return nil
}

// Agree remembers the public half of the machine that requests a ticket of the boot; an empty one if
// its image cannot authenticate messages. The first one counts: conflict reports that this is another
// machine, which gets no ticket.
func (d *Decision) Agree(half ingot.Half) (conflict bool) {
	a := &d.Boot.Auth
	if len(a.Half) > 0 && !a.Half.Same(half) {
		d.conflict("", CodeTicketConflict)
		return true
	}
	if len(half) > 0 && len(a.Half) == 0 {
		a.Half = half
	}
	if len(half) > 0 {
		a.Heard = d.now
	}
	d.Machine.Authenticated = len(half) > 0
	return false
}

// conflict records a conflict of the boot with another host, at most one in conflictInterval.
func (d *Decision) conflict(with ingot.BootID, code Code) {
	if c := d.Boot.Conflict; c != nil && d.now.Sub(c.At).Abs() < conflictInterval {
		return
	}
	d.Boot.Conflict = &Conflict{d.now, with}
	c := Change{Code: code}
	if with != "" {
		c.To = Values{"with": string(with)}
	}
	d.addBoot(d.Boot, c)
}

// Stays records that the boot of the decision, which another one has replaced or was about to replace,
// sent a message that proved its secret. If the claim of the other one is open, this boot stays the
// machine's boot, and latest, the other one, ends without consequences.
func (d *Decision) Stays(latest Boot) {
	d.conflict(latest.ID, CodeBootConflict)
	m, c := &d.Machine, d.Machine.Claim
	if c == nil || c.Running != d.Boot.ID {
		return
	}
	m.Claim, m.Boot, m.Authenticated = nil, d.Boot.ID, true
	if m.Orders == c.Orders {
		m.Trial, m.Setback, m.LastHealthy, m.Healthy = c.Trial, c.Setback, c.LastHealthy, c.HealthyList
	}
	d.Boot.Newest = max(d.Boot.Newest, latest.Number)
	if d.Boot.Outcome == ingot.OutcomeSilent && d.Boot.Cause == CauseSuperseded {
		d.Boot.Outcome, d.Boot.Cause, d.Boot.Reason, d.Boot.Ended = ingot.OutcomeOpen, "", "", time.Time{}
	}
	d.EndOlder(latest, Ending{ingot.OutcomeSilent, CauseConflict,
		fmt.Sprintf("boot %s of this machine still runs", d.Boot.ID.Short())})
}

// ShutsDown records that the system says that it shuts down. The next boot replaces this one at once.
func (d *Decision) ShutsDown() {
	d.Boot.Auth.Down = true
	d.addBoot(d.Boot, Change{Code: CodeBootDown})
}

// GrantsAfter returns when a grant of the machine can be used, if it has one that waits because of a
// claim.
func (d *Decision) GrantsAfter() (until time.Time, wait bool) {
	if d.Machine.Claim == nil {
		return until, false
	}
	_, lent := LendGrants(d.Machine, d.Boot.ID, d.now)
	return d.Machine.Claim.Until, len(lent) > 0
}
