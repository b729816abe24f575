package fleet

import (
	"maps"
	"slices"
	"time"

	"ingot"
)

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
	if moved(*old, m) {
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

// grantChanges are of grants that were given and that expired. That a boot
// uses one is in the Change of its ticket.
func grantChanges(old, now []Grant, add func(Change)) {
	for _, g := range now {
		i := slices.IndexFunc(old, func(o Grant) bool { return o.Volume == g.Volume && o.Given.Equal(g.Given) })
		if i < 0 {
			v := grantValues(g.Grant)
			v["until"] = g.Expires.UTC().Format(time.RFC3339)
			add(Change{Code: CodeGrantGiven, To: v})
		}
		if g.Over && (i < 0 || !old[i].Over) {
			add(Change{Code: CodeGrantExpired, From: grantValues(g.Grant)})
		}
	}
}

func grantValues(g ingot.Grant) Values { return Values{"disk": g.Disk, "volume": g.Volume} }

// imageChanges are of what the machine boots from now on.
func imageChanges(old, m Machine, add func(Change)) {
	for _, f := range slices.Sorted(maps.Keys(m.Loaders)) {
		if l := m.Loaders[f]; l != old.Loaders[f] {
			add(Change{Code: CodeLoaderChanged, From: Values{"loader": old.Loaders[f]}, To: Values{"loader": l, "firmware": string(f)}})
		}
	}
	if old.Assignment != m.Assignment && m.Assignment.Image != "" {
		add(Change{Code: CodeImageAssigned, Image: m.Assignment.ImageRef, Detail: m.Assignment.Why, From: imageValues(old.Assignment.ImageRef)})
	}
	switch s := m.Setback; {
	case s == old.Setback || (s != nil && old.Setback != nil && s.At.Equal(old.Setback.At)):
	case s == nil:
		add(Change{Code: CodeImageResumed, Image: m.Assignment.ImageRef})
	case s.To.Image == "":
		add(Change{Code: CodeMachineHeld, Image: s.Gave, Detail: s.Why})
	default:
		add(Change{Code: CodeImageFallback, Image: s.To, From: imageValues(s.Gave), Detail: s.Why})
	}
}

// imageValues are nil for no image.
func imageValues(r ImageRef) Values {
	if r.Image == "" {
		return nil
	}
	return Values{"image": r.Name, "digest": string(r.Image)}
}

// TicketGiven is the Change of a ticket: for which image, and what it lets the
// machine do.
func TicketGiven(b Boot, image ImageRef, lent []ingot.Grant, now time.Time) Change {
	c := Change{At: now, Code: CodeTicketGiven, Machine: b.Machine, Boot: b.ID, Stage: ingot.StageTicket, Image: image}
	var grants []Values
	for _, g := range lent {
		grants = append(grants, grantValues(g))
	}
	if grants != nil {
		c.To = Values{"grants": grants}
	}
	return c
}

// Merged are the Changes of a merge, on both sides. What from was is nowhere
// else any more.
func Merged(into, from Machine, now time.Time) []Change {
	was := Values{"machine": string(from.ID), "macs": from.cards(), "uuid": from.UUID, "serial": from.Serial,
		"name": from.Name, "image": from.Assignment.Name}
	maps.DeleteFunc(was, func(_ string, v any) bool { return v == "" })
	return []Change{
		{At: now, Code: CodeMachineAbsorbed, Machine: from.ID, To: Values{"machine": string(into.ID), "name": into.Hostname()}},
		{At: now, Code: CodeMachineMerged, Machine: into.ID, From: was},
	}
}

// CardsClaimed is the Change of a machine that reports cards, in words of
// Claimed, that others were seen with.
func CardsClaimed(m Machine, cards []string, now time.Time) Change {
	return Change{At: now, Code: CodeCardsClaimed, Machine: m.ID, Boot: m.Boot, To: Values{"cards": cards}}
}

// Forgotten is the Change of a machine that was removed with its boots.
func Forgotten(m Machine, now time.Time) Change {
	return Change{At: now, Code: CodeMachineForgot, Machine: m.ID, Name: m.Name}
}

// Imported is the Change of a machine that a list names.
func Imported(m Machine, now time.Time) Change {
	return Change{At: now, Code: CodeMachineImported, Machine: m.ID, Name: m.Hostname()}
}

// Restored is the Change of a state that a backup of so many machines replaced.
func Restored(machines int, now time.Time) Change {
	return Change{At: now, Code: CodeServerRestored, To: Values{"machines": machines}}
}

// MachineEntries are MachineChanges as Entries.
func MachineEntries(old *Machine, m Machine, now time.Time) []Entry {
	return entries(MachineChanges(old, m, now))
}

// MergeEntries are Merged as Entries.
func MergeEntries(into, from Machine, now time.Time) []Entry { return entries(Merged(into, from, now)) }

// TicketText is TicketGiven in words.
func TicketText(image string, lent []ingot.Grant) string {
	return TicketGiven(Boot{}, ImageRef{Name: image}, lent, time.Time{}).String()
}
