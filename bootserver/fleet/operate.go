package fleet

import (
	"maps"
	"slices"
	"time"

	"ingot"
)

// Decisions of operators. Each method changes the machine and adds the resulting
// Changes. The caller adds the Change of the operator's action.

// Approve allows the machine to boot. It answers an open question with no: the machine
// is not the known one.
func (d *Decision) Approve() {
	before := d.Machine.Ask
	d.Machine = Answer(d.Machine, d.now)
	d.setState(Approved)
	d.question(before)
}

// Retire forbids the machine from booting.
func (d *Decision) Retire() {
	d.dropOnce("the machine was retired")
	d.setState(Retired)
}

// Rename sets the host name of the machine; an empty name removes it.
func (d *Decision) Rename(name string) { d.set(CodeMachineName, "name", &d.Machine.Name, name) }

// SetLabels replaces the labels of the machine.
func (d *Decision) SetLabels(labels map[string]string) {
	labelChanges(d.Machine.Labels, labels, d.add)
	d.Machine.Labels = labels
}

// Assign assigns an image to the machine, and clears its failures.
func (d *Decision) Assign(as Assignment) {
	d.dropOnce("an image was assigned")
	before := d.Machine
	if before.Assignment != as {
		d.assign(as)
	}
	d.Machine = Assign(d.Machine, as)
	if before.Setback != nil && before.Assignment.Image == as.Image {
		d.add(Change{Code: CodeImageResumed, Image: as.ImageRef})
	}
}

// Ran returns the images that may have written to the volumes of a machine. Those that were healthy on
// it come first, the last one first: what an operator made of the volumes fits them. The one that its
// latest boot got a ticket for follows.
func Ran(m Machine, latest Boot) []ImageRef {
	list := slices.Clone(m.Healthy)
	slices.Reverse(list)
	if latest.Image.Image != "" && !latest.Ticket.IsZero() {
		list = append(list, latest.Image)
	}
	return list
}

// Resume clears the failures of the machine, so that it retries its assigned image.
func (d *Decision) Resume() {
	d.dropOnce("the machine was resumed")
	gave := d.Machine.Setback != nil
	if d.Machine = Resume(d.Machine); gave {
		d.add(Change{Code: CodeImageResumed, Image: d.Machine.Assignment.ImageRef})
	}
}

// Pin keeps the machine out of rollouts; nil lets it take part again.
func (d *Decision) Pin(mark *Mark) {
	d.mark(&d.Machine.Pin, mark, CodeMachinePinned, CodeMachineUnpinned)
}

// SwitchOff notes that the machine is switched off; nil takes that back.
func (d *Decision) SwitchOff(mark *Mark) {
	d.mark(&d.Machine.Off, mark, CodeMachineOff, CodeMachineOn)
}

func (d *Decision) mark(is **Mark, mark *Mark, set, removed Code) {
	switch {
	case mark != nil:
		d.add(Change{Code: set, Detail: mark.Why})
	case *is != nil:
		d.add(Change{Code: removed})
	}
	*is = mark
}

// AddGrant adds a grant to the machine.
func (d *Decision) AddGrant(g Grant) {
	d.Machine = addGrant(d.Machine, g, d.now)
	v := grantValues(g.Grant)
	v["until"] = g.Expires.UTC().Format(time.RFC3339)
	d.add(Change{Code: CodeGrantGiven, To: v})
}

// WithdrawGrant removes the unused grant for a volume; had is false if there is none. A boot that has
// it in its ticket may still use it.
func (d *Decision) WithdrawGrant(volume string) (had bool) {
	i := slices.IndexFunc(d.Machine.Grants, func(g Grant) bool { return g.Volume == volume && g.Unused() })
	if i < 0 {
		return false
	}
	g := d.Machine.Grants[i]
	d.Machine.Grants = slices.Delete(slices.Clone(d.Machine.Grants), i, i+1)
	c := Change{Code: CodeGrantWithdrawn, From: grantValues(g.Grant)}
	if g.Lent != "" {
		c.From["lent"] = string(g.Lent)
	}
	d.add(c)
	return true
}

// Merge merges another machine into this one, see Merge. Both get a Change, because the
// record of from is removed.
func (d *Decision) Merge(from Machine) {
	into := d.Machine
	was := Values{"machine": string(from.ID), "macs": from.cards(), "uuid": from.UUID, "serial": from.Serial,
		"name": from.Name, "image": from.Assignment.Name}
	maps.DeleteFunc(was, func(_ string, v any) bool { return v == "" })
	d.add(Change{Code: CodeMachineAbsorbed, To: Values{"machine": string(into.ID), "name": into.Hostname()}})
	d.Changes[len(d.Changes)-1].Machine = from.ID
	d.add(Change{Code: CodeMachineMerged, From: was})
	d.replaceMachine(Merge(into, from, d.now))
}

// Backwards reports whether a merge is likely the wrong way round: the machine that vanishes ran an
// image well, and was heard of later than the one that stays. The answer to a question of the server is not.
func Backwards(from, into Machine) bool {
	asked := from.Ask != nil && from.Ask.With == into.ID
	return !asked && from.LastHealthy.Image != "" && from.LastSeen.After(into.LastSeen)
}

// replaceMachine replaces the record of the machine, and adds the Changes of its
// identifiers.
func (d *Decision) replaceMachine(after Machine) {
	before := d.Machine
	if before.UUID != "" {
		d.set(CodeMachineUUID, "uuid", &d.Machine.UUID, after.UUID)
	}
	if before.Serial != "" {
		d.set(CodeMachineSerial, "serial", &d.Machine.Serial, after.Serial)
	}
	for _, mac := range after.MACs {
		if !slices.Contains(before.MACs, mac) {
			d.add(Change{Code: CodeMachineCard, To: Values{"mac": mac}})
		}
	}
	if portChanged(before, after) {
		d.add(Change{Code: CodeMachinePort, From: Values{"port": before.Port.String()},
			To: Values{"port": after.Port.String()}})
	}
	if before.LastSeen.IsZero() && !after.LastSeen.IsZero() {
		d.add(Change{Code: CodeMachineSeen})
	}
	d.setState(after.State)
	d.Machine = after
	d.question(before.Ask)
}

// question adds the Change of a question that was raised or answered.
func (d *Decision) question(before *Question) {
	ask := d.Machine.Ask
	if before != nil && ask == nil {
		d.add(Change{Code: CodeQuestionGone, From: Values{"with": string(before.With)},
			To: Values{"state": string(d.Machine.State)}})
	}
	if ask != nil && (before == nil || before.What != ask.What) {
		d.add(Change{Code: CodeQuestionAsked, To: Values{"with": string(ask.With)}, Detail: ask.What})
	}
}

// Forgotten returns the Change of a machine that was removed with its boots.
func Forgotten(m Machine, now time.Time) Change {
	return Change{At: now, Code: CodeMachineForgot, Machine: m.ID, Name: m.Name}
}

// Times without a packet after which the record of a pending machine expires.
const (
	PendingAge  = 30 * 24 * time.Hour // if it asked for a file: it receives what is sent to it
	StrangerAge = time.Hour           // if it only sent DHCP packets, whose senders can be forged
	CrowdedAge  = 5 * time.Minute     // likewise, while there is no room for new machines
)

// PendingExpired reports whether the record of a machine can be removed: it is pending, no operator
// gave it a name or an image, and it was not heard from for a while. b is its latest boot, if any.
// A machine that boots later is recorded again.
func PendingExpired(m Machine, b Boot, crowded bool, now time.Time) bool {
	if m.State != Pending || m.Name != "" || m.Assignment.Image != "" || m.Once != nil || m.LastSeen.IsZero() {
		return false
	}
	age := PendingAge
	if b.Stage().Rank() <= ingot.StageDHCP.Rank() {
		age = StrangerAge
		if crowded {
			age = CrowdedAge
		}
	}
	return now.Sub(m.LastSeen) > age
}

// Fields of ActionServerRestore, see Restore.
const (
	RestoreTaken    = "taken"
	RestoreComplete = "complete"
)

// Restored returns the Change of a state that was replaced by a backup with this number of
// machines.
func Restored(machines int, now time.Time) Change {
	return Change{At: now, Code: CodeServerRestored, To: Values{"machines": machines}}
}

// labelChanges adds the Change of labels that were set or removed, if any.
func labelChanges(old, now map[string]string, add func(Change)) {
	c := Change{Code: CodeMachineLabels, From: Values{}, To: Values{}}
	for k, v := range now {
		was, had := old[k]
		if had && was != v {
			c.From[k] = was
		}
		if !had || was != v {
			c.To[k] = v
		}
	}
	for k, v := range old {
		if _, has := now[k]; !has {
			c.From[k] = v
		}
	}
	if len(c.From)+len(c.To) > 0 {
		add(c)
	}
}

func grantValues(g ingot.Grant) Values {
	v := Values{"disk": g.Disk, "volume": g.Volume}
	if g.Adopt {
		v["adopt"] = true
	}
	return v
}

// imageValues returns nil if there is no image.
func imageValues(r ImageRef) Values {
	if r.Image == "" {
		return nil
	}
	return Values{"image": r.Name, "digest": string(r.Image)}
}
