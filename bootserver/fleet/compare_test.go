package fleet

import (
	"maps"
	"slices"
	"time"

	"ingot"
)

// What is found by comparing records is the referee of what decisions add: see
// TestDecisionsAddAllChanges.

// MachineChanges are the Changes that lead from one record of a machine to the
// next; old is nil for a new machine.
func MachineChanges(old *Machine, m Machine, now time.Time) []Change {
	var list []Change
	add := func(c Change) {
		c.At, c.Machine = now, m.ID
		list = append(list, c)
	}
	if old == nil {
		c := Change{Code: CodeMachineNew, To: Values{"state": string(m.State)}}
		if m.LastSeen.IsZero() {
			c.To["imported"] = true
		}
		if len(m.MACs) > 0 {
			c.To["macs"] = m.MACs
		}
		add(c)
		old = &Machine{State: m.State, MACs: m.MACs, UUID: m.UUID, LastSeen: m.LastSeen}
	}
	if old.LastSeen.IsZero() && !m.LastSeen.IsZero() {
		add(Change{Code: CodeMachineSeen})
	}
	field := func(code Code, name, was, is string) {
		if was != is {
			add(Change{Code: code, From: Values{name: was}, To: Values{name: is}})
		}
	}
	field(CodeMachineState, "state", string(old.State), string(m.State))
	field(CodeMachineName, "name", old.Name, m.Name)
	if old.UUID != "" {
		field(CodeMachineUUID, "uuid", old.UUID, m.UUID)
	}
	if old.Serial != "" {
		field(CodeMachineSerial, "serial", old.Serial, m.Serial)
	}
	for _, mac := range m.MACs {
		if !slices.Contains(old.MACs, mac) {
			add(Change{Code: CodeMachineCard, To: Values{"mac": mac}})
		}
	}
	if portChanged(*old, m) {
		add(Change{Code: CodeMachinePort, From: Values{"port": old.Port.String()}, To: Values{"port": m.Port.String()}})
	}
	questionChanges(*old, m, add)
	labelChanges(old.Labels, m.Labels, add)
	grantChanges(old.Grants, m.Grants, add)
	imageChanges(*old, m, add)
	return list
}

// questionChanges are of a question that an operator is asked, or answered.
func questionChanges(old, m Machine, add func(Change)) {
	if old.Ask != nil && m.Ask == nil {
		add(Change{Code: CodeQuestionGone, From: Values{"with": string(old.Ask.With)}, To: Values{"state": string(m.State)}})
	}
	if m.Ask != nil && (old.Ask == nil || old.Ask.What != m.Ask.What) {
		add(Change{Code: CodeQuestionAsked, To: Values{"with": string(m.Ask.With)}, Detail: m.Ask.What})
	}
}

// grantChanges are of grants that were given, used, and that expired.
func grantChanges(old, now []Grant, add func(Change)) {
	for _, g := range now {
		i := slices.IndexFunc(old, func(o Grant) bool { return o.Volume == g.Volume && o.Given.Equal(g.Given) })
		if i < 0 {
			v := grantValues(g.Grant)
			v["until"] = g.Expires.UTC().Format(time.RFC3339)
			add(Change{Code: CodeGrantGiven, To: v})
		}
		if g.Boot != "" && (i < 0 || old[i].Boot == "") {
			add(Change{Code: CodeGrantUsed, From: grantValues(g.Grant)})
		}
		if g.Over && (i < 0 || !old[i].Over) {
			add(Change{Code: CodeGrantExpired, From: grantValues(g.Grant)})
		}
	}
}

// imageChanges are of what the machine boots from now on.
func imageChanges(old, m Machine, add func(Change)) {
	for _, f := range slices.Sorted(maps.Keys(m.Loaders)) {
		if l := m.Loaders[f]; l != old.Loaders[f] {
			add(Change{Code: CodeLoaderChanged, From: Values{"loader": old.Loaders[f]},
				To: Values{"loader": l, "firmware": string(f)}})
		}
	}
	if old.Assignment != m.Assignment && m.Assignment.Image != "" {
		add(Change{Code: CodeImageAssigned, Image: m.Assignment.ImageRef, Detail: m.Assignment.Why,
			From: imageValues(old.Assignment.ImageRef)})
	}
	switch s := m.Setback; {
	case s == old.Setback || (s != nil && old.Setback != nil && s.At.Equal(old.Setback.At)):
	case s == nil && old.Assignment.Image != m.Assignment.Image: // another image is assigned; none is retried
	case s == nil:
		add(Change{Code: CodeImageResumed, Image: m.Assignment.ImageRef})
	case s.To.Image == "":
		add(Change{Code: CodeMachineHeld, Image: s.Gave, Detail: s.Why})
	default:
		add(Change{Code: CodeImageFallback, Image: s.To, From: imageValues(s.Gave), Detail: s.Why})
	}
}

// BootChanges are the Changes that lead from one record of a boot to the next;
// old is nil for a new boot.
func BootChanges(old *Boot, b Boot, now time.Time) []Change {
	var list []Change
	add := func(c Change) {
		c.Machine, c.Boot = b.Machine, b.ID
		if c.At.IsZero() {
			c.At = now
		}
		list = append(list, c)
	}
	seen := 0
	if old != nil {
		seen = len(old.Events)
	}
	for _, e := range b.Events[min(seen, len(b.Events)):] {
		c := stageChange(e)
		c.At = e.At
		add(c)
	}
	var before *Recorded
	if old != nil && old.Report != nil {
		before = &Recorded{old.Report.Healthy, old.Report.Failed}
	}
	if b.Report != nil {
		if c, is := reportChange(before, *b.Report); is {
			add(c)
		}
	}
	if len(b.Changes) > 0 && (old == nil || !slices.Equal(old.Changes, b.Changes)) {
		add(Change{Code: CodeBootHardware, To: Values{"changes": b.Changes}})
	}
	if b.Crash != "" && (old == nil || old.Crash != b.Crash) {
		add(Change{Code: CodeBootCrash, Detail: b.Crash})
	}
	if b.Outcome != ingot.OutcomeOpen && (old == nil || old.Outcome != b.Outcome) {
		add(Change{Code: CodeBootEnded, Image: b.Image, To: Values{"outcome": string(b.Outcome)}, Detail: b.Reason})
	}
	return list
}

// Merged are the Changes of a merge, on both sides.
func Merged(into, from Machine, now time.Time) []Change {
	d := NewDecision(into, Boot{}, BootPolicy{}, nil, Actor{}, now)
	d.Merge(from)
	return d.Changes[:2]
}
