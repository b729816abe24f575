package desired

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/internal/harmless"
	"ingot/internal/yamlfile"
)

// Export returns files that say what a fleet is: applying them changes nothing. last is what was applied;
// of the facts, Images has the names of all assignments, of the files and of the machines.
func Export(last Content, f Facts) Spec {
	s := Spec{Rules: last.Spec.Rules, Rollout: last.Spec.Rollout}
	for _, a := range last.Spec.Assignments {
		ref := last.Images[a.Image]
		if f.Images[a.Image].Image != ref.Image { // a tag that was moved
			a.Image = cmp.Or(ref.Name, a.Image)
		}
		s.Assignments = append(s.Assignments, a)
	}
	var ids []ingot.MachineID
	shared := sharedIdentifiers(f.Machines)
	for _, m := range f.Machines {
		if e, is := entry(m, shared); is {
			s.Machines = append(s.Machines, e)
			ids = append(ids, m.ID)
		}
	}
	s.Pins = pins(f.Machines, shared)
	differ := differing(last, s, f)
	for i := range s.Machines {
		if image, is := differ[ids[i]]; is {
			s.Machines[i].Image = image
		}
	}
	order := func(a, b Machine) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), slices.Compare(a.MACs, b.MACs), strings.Compare(a.UUID, b.UUID))
	}
	slices.SortStableFunc(s.Machines, order)
	return s
}

// differing returns the images of machines that are not as the assignments of a Spec say.
func differing(last Content, s Spec, f Facts) map[ingot.MachineID]string {
	f.Back = nil
	p := Parsed{Spec: s, bad: map[int]bool{}, rules: make([]yamlfile.Place, len(s.Rules))}
	last.Spec.Assignments = s.Assignments // what they name and is gone is no fault
	x := &planner{parsed: p, spec: &p.Spec, last: last, facts: f}
	x.place()
	x.pin()
	x.assign()
	rolls, out := map[ingot.MachineID]bool{}, map[ingot.MachineID]string{}
	for _, r := range x.plan.Rollouts {
		for _, id := range r.Machines {
			rolls[id] = true
		}
	}
	for _, w := range x.all {
		is := w.before.Assignment
		switch {
		case w.fresh || len(w.matches) == 0 && is.Image == "":
		case len(w.matches) == 1 && w.machine().Assignment.Image == is.Image && !rolls[w.before.ID]:
			// the assignment says the same, or leaves the machine alone
		case is.Image == "":
			out[w.before.ID] = None
		case f.Images[is.Name].Image == is.Image:
			out[w.before.ID] = is.Name
		default:
			out[w.before.ID] = string(is.Image)
		}
	}
	return out
}

// sharedIdentifiers returns the cards and UUIDs that several machines have: they identify none.
func sharedIdentifiers(machines []fleet.Machine) map[string]bool {
	seen, shared := map[string]bool{}, map[string]bool{}
	for _, m := range machines {
		for _, id := range append([]string{m.UUID}, m.MACs...) {
			shared[id] = shared[id] || seen[id]
			seen[id] = true
		}
	}
	return shared
}

// entry returns the entry of a machine; is is false for one that was only heard of, and for one that
// nothing identifies.
func entry(m fleet.Machine, shared map[string]bool) (e Machine, is bool) {
	if m.State == fleet.Pending && m.Name == "" && m.Assignment.Image == "" {
		return e, false
	}
	e = Machine{Name: m.Name, Labels: m.Labels}
	if !ingot.ValidProfileName(m.Name) { // of an older version
		e.Name = ""
	}
	if m.State != fleet.Approved {
		e.State = m.State
	}
	for _, mac := range m.MACs {
		if clean, err := ingot.ParseMAC(mac); err == nil && clean == mac && ingot.IsCard(mac) && !shared[mac] &&
			len(e.MACs) < maxCards {
			e.MACs = append(e.MACs, mac)
		}
	}
	if ingot.PlausibleUUID(m.UUID) == m.UUID && !shared[m.UUID] {
		e.UUID = m.UUID
	}
	if ingot.PlausibleSerial(m.Serial) == m.Serial && !strings.ContainsFunc(m.Serial, harmless.Harms) &&
		len(m.Serial) <= maxSerial {
		e.Serial = m.Serial
	}
	if len(e.Labels) > fleet.MaxLabels { // of an older version
		e.Labels = nil
	}
	e.Labels = maps.Clone(e.Labels)
	maps.DeleteFunc(e.Labels, func(k, v string) bool { return fleet.CheckLabel(k, v) != nil })
	return e, e.Name != "" || len(e.MACs) > 0 || e.UUID != ""
}

// Bounds of fleet.Planned.
const (
	maxCards  = 64
	maxSerial = 256
)

// pins returns the pins of machines, one for each reason.
func pins(machines []fleet.Machine, shared map[string]bool) (list []Pin) {
	by := map[string][]string{}
	for _, m := range machines {
		if _, is := entry(m, shared); is && m.Pin != nil {
			by[m.Pin.Why] = append(by[m.Pin.Why], m.Hostname())
		}
	}
	for _, why := range slices.Sorted(maps.Keys(by)) {
		slices.Sort(by[why])
		list = append(list, Pin{Machines: strings.Join(by[why], ","), Why: why})
	}
	return list
}

// YAML returns a Spec as a file. That of a fleet without machines has a list of none, since a file without
// any section is refused.
func (s Spec) YAML() ([]byte, error) {
	text, err := yamlfile.Encode(s)
	if string(text) == "{}\n" {
		text = []byte("machines: []\n")
	}
	return text, err
}
