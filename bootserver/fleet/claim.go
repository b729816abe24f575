package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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

// Quiet is how long nothing may be heard of the system of a healthy boot before operators are told that
// it is silent: Silence, and how outdated Machine.LastSeen may be, which is all that is known of images
// that do not authenticate their reports.
const Quiet = Silence + seenInterval

// LastHeard returns when the system of the machine's latest boot was last heard from.
func LastHeard(m Machine, b Boot) time.Time {
	at := b.Auth.Heard
	if m.Claim == nil && m.LastSeen.After(at) {
		at = m.LastSeen
	}
	if n := len(b.Events); n > 0 && b.Events[n-1].At.After(at) {
		at = b.Events[n-1].At
	}
	return at
}

// Silent reports whether the system of the machine's latest boot became healthy and sends nothing any
// more, although the server has served since a time.
func Silent(m Machine, b Boot, since, now time.Time) bool {
	heard := LastHeard(m, b)
	if since.After(heard) {
		heard = since
	}
	return b.Outcome == ingot.OutcomeHealthy && !b.Auth.Down && now.Sub(heard) >= Quiet
}

// Claim is a boot that began while an earlier one of the machine still sent authenticated messages.
// Machine.Boot is the new one. The claim ends in one of two ways: nothing more is heard of the earlier
// boot until Until, so that the new one has replaced it; or the earlier one sends a message, so that
// two hosts act as this machine, and the earlier boot stays. A machine that says that it shuts down
// leaves no claim.
//
// While a claim is open, the new boot gets no grant, and nothing that it says of the machine changes
// the machine: it is kept in New. If the earlier boot is healthy, what becomes of the new one does not
// count for or against an image either. An earlier boot that had not become
// healthy is ended as always, since that is what a reset looks like, but comes back with a message.
type Claim struct {
	Running ingot.BootID `json:"running"` // the earlier boot
	Healthy bool         `json:"healthy"` // it was healthy
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until"`
	New     Newcomer     `json:"-"`
	// the machine before the claim, for when the earlier boot stays
	Orders      int        `json:"-"`
	Once        *Once      `json:"-"`
	Trial       Trial      `json:"-"`
	Setback     *Setback   `json:"-"`
	LastHealthy ImageRef   `json:"-"`
	HealthyList []ImageRef `json:"-"` // Machine.Healthy
}

// Newcomer is what a boot says of its machine while it has only a claim. It counts when the claim ends
// for that boot, and is forgotten when the earlier boot stays. It is never modified, only replaced.
type Newcomer struct {
	UUID     string // of its packets
	MAC      string // of its latest packet
	Firmware ingot.Firmware
	Address  netip.Addr
	Port     SwitchPort
	Loaders  map[ingot.Firmware]string // as Machine.Loaders
	Facts    *ingot.Facts              // what it reported with its ticket request; nil: nothing yet
}

// newcomer changes what the claim knows of the new boot.
func (d *Decision) newcomer(change func(*Newcomer)) {
	c := *d.Machine.Claim
	change(&c.New)
	d.Machine.Claim = &c
}

// guarded reports whether an earlier boot of the machine may still run, so that a packet in the
// machine's name must change nothing of it.
func (d *Decision) guarded(latest *Boot) bool {
	return d.Machine.Claim != nil || latest != nil && latest.runs(d.now)
}

// newcomerSeen keeps what a packet of a new boot says of the machine.
func (d *Decision) newcomerSeen(r Request) {
	d.newcomer(func(n *Newcomer) {
		n.UUID, n.MAC = cmp.Or(n.UUID, r.UUID), r.MAC
		n.Firmware = cmp.Or(r.Firmware, n.Firmware)
		if r.Address.IsValid() {
			n.Address = r.Address
		}
		if r.Port.Relay.IsValid() {
			n.Port = r.Port
		}
	})
}

// Addresses returns the addresses that the machine was seen with: also that of a boot with a claim.
func (m *Machine) Addresses() []netip.Addr {
	list := []netip.Addr{m.Address}
	if m.Claim != nil && m.Claim.New.Address != m.Address {
		list = append(list, m.Claim.New.Address)
	}
	return list
}

// hasCard reports whether a card was seen in packets of the machine: also of a boot with a claim.
func (m *Machine) hasCard(mac string) bool {
	return slices.Contains(m.MACs, mac) || m.Claim != nil && m.Claim.New.MAC == mac
}

// loading is the machine with the first stages of its latest boot.
func (d *Decision) loading() Machine {
	m := d.Machine
	if m.Claim != nil && m.Claim.New.Loaders != nil {
		m.Loaders = m.Claim.New.Loaders
	}
	return m
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
			Until: latest.Auth.Heard.Add(Silence), Orders: m.Orders, Once: m.Once, Trial: m.Trial, Setback: m.Setback,
			LastHealthy: m.LastHealthy, HealthyList: m.Healthy}
		d.addBoot(latest, Change{Code: CodeBootClaimed, To: Values{"until": m.Claim.Until.Format(time.RFC3339)}})
	}
	d.EndOlder(latest, Superseded(latest))
}

// tentative reports whether outcomes of the machine's latest boot do not count yet.
func (d *Decision) tentative() bool { return d.Machine.Claim != nil && d.Machine.Claim.Healthy }

// Resolve ends the machine's claim if its time is over and the boot of the decision is the latest one.
// That boot then counts as other boots do, and so does what it said of the machine. others returns the
// machines that Learn needs.
func (d *Decision) Resolve(others func(Machine, ingot.Facts) []Machine) {
	c := d.Machine.Claim
	if c == nil || d.now.Before(c.Until) || d.Machine.Boot != d.Boot.ID {
		return
	}
	d.Machine.Claim = nil
	d.believe(c.New, others)
	if !c.Healthy || d.Boot.Open() {
		return
	}
	if d.Boot.Outcome == ingot.OutcomeHealthy {
		d.countHealthy()
	}
	d.applyOutcome(d.Boot)
}

// believe changes the machine by what its boot said of it while it had a claim.
func (d *Decision) believe(n Newcomer, others func(Machine, ingot.Facts) []Machine) {
	if n.MAC != "" {
		d.observe(Request{Sighting: Sighting{MAC: n.MAC, UUID: n.UUID, Firmware: n.Firmware, Port: n.Port},
			Address: n.Address}, "")
	}
	if n.Loaders != nil {
		d.Machine.Loaders = n.Loaders
	}
	d.atPort(n.Port)
	if !d.Boot.Ticket.IsZero() {
		d.Machine.Authenticated, d.Machine.Returned = len(d.Boot.Auth.Half) > 0, time.Time{}
	}
	if n.Facts != nil {
		d.Learn(*n.Facts, others(d.Machine, *n.Facts))
	}
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
	if d.Machine.Claim == nil {
		d.Machine.Authenticated = len(half) > 0
	}
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
		m.Once, m.Trial, m.Setback, m.LastHealthy, m.Healthy = c.Once, c.Trial, c.Setback, c.LastHealthy, c.HealthyList
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
	d.note(Change{Code: CodeBootDown})
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

// ErrNotLost: no restore lost the boot of a message, or an operator has removed its machine since.
var ErrNotLost = errors.New("no restore lost this boot, or its machine was removed since")

// Passport is what the server knows of a machine when it issues the ticket of a boot. The machine
// returns it with every message, sealed by the server, so that a restore of an older state does not
// lose the machines that run.
type Passport struct {
	Machine    ingot.MachineID `json:"machine"`
	Name       string          `json:"name,omitempty"`
	UUID       string          `json:"uuid,omitempty"`
	Serial     string          `json:"serial,omitempty"`
	MACs       []string        `json:"macs,omitempty"`
	MachineKey string          `json:"machineKey,omitempty"`
	Firmware   ingot.Firmware  `json:"firmware,omitempty"`
	Number     int             `json:"number"` // of the boot
	Image      ImageRef        `json:"image"`
	Root       ingot.Digest    `json:"root"`
	Ticket     time.Time       `json:"ticket"` // when the first ticket of the boot was issued
}

// maxPassportMACs bounds a passport: it is in a header of every message.
const maxPassportMACs = 16

// Passport returns the passport of the boot, after its ticket was decided.
func (d *Decision) Passport() Passport {
	m, b := &d.Machine, &d.Boot
	return Passport{Machine: m.ID, Name: m.Name, UUID: m.UUID, Serial: m.Serial,
		MACs: m.MACs[:min(len(m.MACs), maxPassportMACs)], MachineKey: m.MachineKey, Firmware: b.Firmware, Number: b.Number,
		Image: b.Image, Root: b.Root, Ticket: b.Ticket}
}

// Restore is one restore of a backup.
type Restore struct {
	Taken time.Time // the latest Change in the backup; nothing that is older was lost
	At    time.Time
	// Complete: the audit log went on, so that machines which were removed since the backup are known.
	Complete bool
}

// Returning are the facts about a message that proved the secret of a boot which the state does not
// know.
type Returning struct {
	Boot      ingot.BootID
	Passport  Passport
	Machine   *Machine // by its id; nil: unknown
	Latest    Boot     // of the machine
	Other     bool     // another machine is known by a card or the UUID of the passport
	NameTaken bool     // by another machine
	Restores  []Restore
	Removed   time.Time // when an operator last removed the machine; zero: never
}

// lost reports whether a restore lost what happened at a time, and whether everything is known that
// operators removed since.
func (r Returning) lost(at time.Time) (lost, complete bool) {
	complete = true
	for _, x := range r.Restores {
		if at.After(x.Taken) && !at.After(x.At) {
			lost, complete = true, complete && x.Complete
		}
	}
	return lost, complete
}

// Decide brings the boot back, and its machine: the server had approved both when it issued the
// ticket. A machine that the state does not know is approved again if it is certain that no operator
// removed it since, and pending otherwise. The error is ErrNotLost.
func (r Returning) Decide(policy BootPolicy, images Images, now time.Time) (*Decision, error) {
	p := r.Passport
	lost, complete := r.lost(p.Ticket)
	if !lost || !r.Removed.Before(p.Ticket) || r.Other {
		return nil, ErrNotLost
	}
	m := Machine{ID: p.Machine, State: Pending, MachineKey: p.MachineKey, FirstSeen: p.Ticket}
	if r.Machine != nil {
		m = *r.Machine
	}
	if m.State == Retired || !r.Latest.Ticket.Before(p.Ticket) {
		return nil, ErrNotLost
	}
	d := NewDecision(m, Boot{}, policy, images, Actor{}, now)
	d.created = r.Machine == nil
	r.admit(d, complete)
	d.Boot = Boot{ID: r.Boot, Machine: m.ID, Number: max(p.Number, r.Latest.Number+1), Before: r.Latest.ID,
		Firmware: p.Firmware, Image: p.Image, Root: p.Root, Order: d.Machine.Orders, Started: p.Ticket, Ticket: p.Ticket,
		Deadline: now.Add(policy.Deadline), Auth: Authentication{Able: true}}
	d.addBoot(d.Boot, Change{Code: CodeMachineReturned, Image: p.Image,
		To: Values{"state": string(d.Machine.State), "known": r.Machine != nil}})
	if older := r.Latest; older.Open() && older.ID != "" { // without consequences for images: it ended long ago
		older.Outcome, older.Cause, older.Ended = ingot.OutcomeSilent, CauseSuperseded, now
		older.Reason = "a later boot of this machine runs"
		d.addBoot(older, Change{Code: CodeBootEnded, Image: older.Image, To: Values{"outcome": string(older.Outcome)},
			Detail: older.Reason})
		d.Older = append(d.Older, older)
	}
	return d, nil
}

// admit restores the machine's record as far as the passport has it.
func (r Returning) admit(d *Decision, complete bool) {
	m, p := &d.Machine, r.Passport
	m.Boot, m.Claim, m.Authenticated, m.Returned, m.LastSeen = r.Boot, nil, true, d.now, d.now
	m.Firmware = cmp.Or(m.Firmware, p.Firmware)
	m.UUID, m.Serial, m.MachineKey = cmp.Or(m.UUID, p.UUID), cmp.Or(m.Serial, p.Serial), cmp.Or(m.MachineKey, p.MachineKey)
	for _, mac := range p.MACs {
		if !slices.Contains(m.MACs, mac) {
			m.MACs = append(slices.Clone(m.MACs), mac)
		}
	}
	if m.State == Approved {
		return
	}
	if m.Name == "" && !r.NameTaken {
		m.Name = p.Name
	}
	if complete && m.Ask == nil {
		m.State = Approved
	}
	if m.Assignment.Image == "" {
		m.Assignment = Assignment{ImageRef: p.Image, Why: "it ran when it came back after a restore", Since: d.now}
	}
}
