package fleet

import (
	"maps"
	"slices"
	"time"

	"ingot"
)

// What operators decide about machines. Each method changes the machine and adds
// the Changes of that; the operator's action itself is a Change of its own, which
// the caller adds.

// Approve lets the machine boot. It answers the machine's question: it is not
// another one.
func (d *Decision) Approve() {
	before := d.Machine.Ask
	d.Machine = Answer(d.Machine, d.now)
	d.setState(Approved)
	d.question(before)
}

// Retire forbids the machine to boot.
func (d *Decision) Retire() { d.setState(Retired) }

// Rename gives the machine a host name, or takes it away.
func (d *Decision) Rename(name string) { d.set(CodeMachineName, "name", &d.Machine.Name, name) }

// SetLabels replaces the labels of the machine.
func (d *Decision) SetLabels(labels map[string]string) {
	labelChanges(d.Machine.Labels, labels, d.add)
	d.Machine.Labels = labels
}

// Assign gives the machine an image. What failed before is forgotten.
func (d *Decision) Assign(as Assignment) {
	before := d.Machine
	if before.Assignment != as {
		d.assign(as)
	}
	d.Machine = Assign(d.Machine, as)
	if before.Setback != nil && before.Assignment.Image == as.Image {
		d.add(Change{Code: CodeImageResumed, Image: as.ImageRef})
	}
}

// Resume lets the assigned image be tried again.
func (d *Decision) Resume() {
	gave := d.Machine.Setback != nil
	if d.Machine = Resume(d.Machine); gave {
		d.add(Change{Code: CodeImageResumed, Image: d.Machine.Assignment.ImageRef})
	}
}

// Give gives the machine a grant.
func (d *Decision) Give(g Grant) {
	d.Machine = Give(d.Machine, g, d.now)
	v := grantValues(g.Grant)
	v["until"] = g.Expires.UTC().Format(time.RFC3339)
	d.add(Change{Code: CodeGrantGiven, To: v})
}

// Merge makes another machine a part of this one, see Merge. The Changes are on
// both sides: what from was is nowhere else any more.
func (d *Decision) Merge(from Machine) {
	into := d.Machine
	was := Values{"machine": string(from.ID), "macs": from.cards(), "uuid": from.UUID, "serial": from.Serial,
		"name": from.Name, "image": from.Assignment.Name}
	maps.DeleteFunc(was, func(_ string, v any) bool { return v == "" })
	d.add(Change{Code: CodeMachineAbsorbed, To: Values{"machine": string(into.ID), "name": into.Hostname()}})
	d.Changes[len(d.Changes)-1].Machine = from.ID
	d.add(Change{Code: CodeMachineMerged, From: was})
	d.become(Merge(into, from, d.now))
}

// become replaces the machine by one with other parts, and adds the Changes of
// what it is known by.
func (d *Decision) become(after Machine) {
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
	if moved(before, after) {
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

// question adds the Change of a question that is asked, or does not stand any more.
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

// Forgotten is the Change of a machine that was removed with its boots.
func Forgotten(m Machine, now time.Time) Change {
	return Change{At: now, Code: CodeMachineForgot, Machine: m.ID, Name: m.Name}
}

// Restored is the Change of a state that a backup of so many machines replaced.
func Restored(machines int, now time.Time) Change {
	return Change{At: now, Code: CodeServerRestored, To: Values{"machines": machines}}
}

// labelChanges are of the labels that were set and removed.
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

func grantValues(g ingot.Grant) Values { return Values{"disk": g.Disk, "volume": g.Volume} }

// imageValues are nil for no image.
func imageValues(r ImageRef) Values {
	if r.Image == "" {
		return nil
	}
	return Values{"image": r.Name, "digest": string(r.Image)}
}
