package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ingot"
)

// MachineEntries are the entries that lead from one record of a machine to the
// next; old is nil for a new machine.
func MachineEntries(old *Machine, m Machine, now time.Time) []Entry {
	e := Entry{At: now, Machine: m.ID, Kind: KindMachine}
	if old == nil {
		e.Text = "first seen, " + string(m.State)
		if m.LastSeen.IsZero() {
			e.Text = "known before it was seen, " + string(m.State)
		}
		if len(m.MACs) > 0 {
			e.Text += ", with " + strings.Join(m.MACs, " ")
		}
		old = &Machine{State: m.State, MACs: m.MACs, UUID: m.UUID, LastSeen: m.LastSeen}
		return append([]Entry{e}, MachineEntries(old, m, now)...)
	}
	var list []Entry
	note := func(k Kind, bad bool, format string, args ...any) {
		n := e
		n.Kind, n.Bad, n.Text = k, bad, fmt.Sprintf(format, args...)
		list = append(list, n)
	}
	if old.LastSeen.IsZero() && !m.LastSeen.IsZero() {
		note(KindMachine, false, "seen for the first time")
	}
	if old.State != m.State {
		note(KindMachine, false, "%s, before: %s", m.State, old.State)
	}
	if old.Name != m.Name {
		note(KindMachine, false, "named %q, before: %q", m.Name, old.Name)
	}
	if old.UUID != m.UUID && old.UUID != "" {
		note(KindMachine, true, "UUID %s, before: %s", m.UUID, old.UUID)
	}
	if old.Serial != m.Serial && old.Serial != "" {
		note(KindMachine, true, "serial number %s, before: %s", m.Serial, old.Serial)
	}
	for _, mac := range m.MACs {
		if !slices.Contains(old.MACs, mac) {
			note(KindMachine, false, "card %s is new", mac)
		}
	}
	if moved := portChange(*old, m); moved != "" {
		note(KindMachine, false, "%s", moved)
	}
	if old.Ask != nil && m.Ask == nil {
		note(KindMachine, false, "the question is answered: %s", answer(*old.Ask, m))
	}
	if m.Ask != nil && (old.Ask == nil || old.Ask.What != m.Ask.What) {
		note(KindMachine, true, "a person is asked whether it is the same machine: %s", m.Ask.What)
	}
	if labels := labelChanges(old.Labels, m.Labels); len(labels) > 0 {
		note(KindMachine, false, "%s", joined(labels, "; "))
	}
	grantEntries(old.Grants, m.Grants, note)
	for _, f := range slices.Sorted(maps.Keys(m.Loaders)) {
		if l := m.Loaders[f]; l != old.Loaders[f] {
			note(KindDecision, false, "is offered %s from now on, as firmware %s", l, dashed(string(f)))
		}
	}
	if old.Assignment != m.Assignment && m.Assignment.Image != "" {
		why := ""
		if m.Assignment.Why != "" {
			why = ": " + m.Assignment.Why
		}
		note(KindDecision, false, "assigned %s%s", m.Assignment.Name, why)
	}
	switch s := m.Setback; {
	case s == old.Setback || (s != nil && old.Setback != nil && s.At.Equal(old.Setback.At)):
	case s == nil:
		note(KindDecision, false, "%s is tried again", m.Assignment.Name)
	case s.To.Image == "":
		note(KindDecision, true, "held for a person: %s", s.Why)
	default:
		note(KindDecision, true, "falls back to %s: %s", s.To.Name, s.Why)
	}
	return list
}

// answer says how a person answered the question of a machine that may boot now.
func answer(q Question, m Machine) string {
	switch {
	case m.State != Approved:
		return "it is not asked any more"
	case q.With == m.ID:
		return "it is the same machine"
	}
	return fmt.Sprintf("it is not %s", q.With)
}

// labelChanges says which labels were set and which removed.
func labelChanges(old, now map[string]string) (list []string) {
	for _, k := range slices.Sorted(maps.Keys(now)) {
		switch was, had := old[k]; {
		case !had:
			list = append(list, fmt.Sprintf("label %s=%s set", k, now[k]))
		case was != now[k]:
			list = append(list, fmt.Sprintf("label %s=%s set, before: %s", k, now[k], was))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(old)) {
		if _, has := now[k]; !has {
			list = append(list, fmt.Sprintf("label %s=%s removed", k, old[k]))
		}
	}
	return list
}

// grantEntries tell of grants that were given and that expired. That a boot
// uses one is in the entry of its ticket.
func grantEntries(old, now []Grant, note func(k Kind, bad bool, format string, args ...any)) {
	for _, g := range now {
		i := slices.IndexFunc(old, func(o Grant) bool { return o.Volume == g.Volume && o.Given.Equal(g.Given) })
		if i < 0 {
			note(KindMachine, false, "granted: one boot may initialise %s, until %s", g.what(), g.Expires.UTC().Format(time.RFC3339))
		}
		if g.Over && (i < 0 || !old[i].Over) {
			note(KindMachine, false, "the grant to initialise %s expired, and no boot used it", g.what())
		}
	}
}

func (g Grant) what() string { return fmt.Sprintf("disk %s as volume %s", g.Disk, g.Volume) }

// TicketText is the entry of a ticket that was given: for which image, and what
// it lets the machine do.
func TicketText(image string, lent []ingot.Grant) string {
	text := "ticket given for " + image
	for _, g := range lent {
		text += "; it may initialise " + Grant{Grant: g}.what()
	}
	return text
}

// MergeEntries tell of a merge, on both sides. What from was is nowhere else any more.
func MergeEntries(into, from Machine, now time.Time) []Entry {
	return []Entry{
		{At: now, Kind: KindMachine, Machine: from.ID, Text: fmt.Sprintf("is the same machine as %s (%s), and a part of it from now on", into.Hostname(), into.ID)},
		{At: now, Kind: KindMachine, Machine: into.ID, Text: fmt.Sprintf("merged with %s, which had %s", from.ID, from.parts())},
	}
}

// parts are what a machine is known by, and what operators gave it.
func (m *Machine) parts() string {
	var list []string
	for _, p := range []struct{ what, is string }{{"cards", joined(m.cards(), " ")}, {"UUID", m.UUID}, {"serial number", m.Serial}, {"name", m.Name}, {"image", m.Assignment.Name}} {
		if p.is != "" {
			list = append(list, p.what+" "+p.is)
		}
	}
	return cmp.Or(strings.Join(list, ", "), "nothing that it is known by")
}
