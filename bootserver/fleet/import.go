package fleet

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/internal/harmless"
)

// Planned is a machine of an imported list, usually one that has not booted yet.
type Planned struct {
	Name    string            `json:"name"`
	MACs    []string          `json:"macs,omitempty"`
	UUID    string            `json:"uuid,omitempty"`
	Serial  string            `json:"serial,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Image   string            `json:"image,omitempty"`
	Pending bool              `json:"pending,omitempty"` // do not approve it
}

// ErrImport means that a list of machines cannot be imported.
var ErrImport = errors.New("the list cannot be imported")

// MaxImport is the maximum number of machines of a list.
const MaxImport = 20_000

// ParsePlanned parses a list: a JSON array of Planned, or CSV (RFC 4180) whose first line
// names the columns: name,mac,uuid,serial,labels,image,state. Spaces separate several
// MAC addresses or labels in one field.
func ParsePlanned(text []byte) ([]Planned, error) {
	if t := bytes.TrimSpace(text); len(t) > 0 && t[0] == '[' {
		var list []Planned
		d := json.NewDecoder(bytes.NewReader(t))
		d.DisallowUnknownFields()
		if err := d.Decode(&list); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImport, err)
		}
		return list, nil
	}
	r := csv.NewReader(bytes.NewReader(text))
	r.Comment, r.TrimLeadingSpace = '#', true
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("%w: its first line must name the columns: name,mac,uuid,serial,labels,image,state: %w",
			ErrImport, err)
	}
	for i, h := range head {
		head[i] = strings.ToLower(strings.TrimSpace(h))
		if !slices.Contains([]string{"name", "mac", "uuid", "serial", "labels", "image", "state"}, head[i]) {
			return nil, fmt.Errorf("%w: line 1: unknown column %q; columns are name, mac, uuid, serial, labels, image, state",
				ErrImport, h)
		}
	}
	var list []Planned
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImport, err)
		}
		line, _ := r.FieldPos(0)
		p, err := plannedRow(head, row)
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrImport, line, err)
		}
		list = append(list, p)
	}
}

func plannedRow(head, row []string) (p Planned, err error) {
	for i, h := range head {
		v := strings.TrimSpace(row[i])
		switch h {
		case "name":
			p.Name = v
		case "mac":
			p.MACs = strings.Fields(v)
		case "uuid":
			p.UUID = v
		case "serial":
			p.Serial = v
		case "image":
			p.Image = v
		case "labels":
			for _, l := range strings.Fields(v) {
				key, value, _ := strings.Cut(l, "=")
				if p.Labels == nil {
					p.Labels = map[string]string{}
				}
				p.Labels[key] = value
			}
		case "state":
			if v != "" && v != string(Pending) && v != string(Approved) {
				return p, fmt.Errorf("state %q is neither approved nor pending", v)
			}
			p.Pending = v == string(Pending)
		}
	}
	return p, nil
}

// Action is what an import does with one machine.
type Action struct {
	Do      string          `json:"do"` // "add", "change", "same"; "asks": unchanged, and waiting for an answer
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	What    []string        `json:"what,omitempty"` // what changes
}

// Import plans the import of a list: either all of it, or an error that wraps ErrImport
// and names every fault. A known machine is completed: existing identifiers stay, a
// retired machine stays retired, and one with an open question stays pending. images has
// the assignments by image name. by is the operator.
func Import(machines []Machine, list []Planned, images map[string]Assignment, by Actor,
	now time.Time) (changed []*Decision, actions []Action, err error) {
	if len(list) > MaxImport {
		return nil, nil, fmt.Errorf("%w: it has %d machines; at most %d", ErrImport, len(list), MaxImport)
	}
	b := newRegister(machines)
	var faults []error
	for i, p := range list {
		fault := func(err error) { faults = append(faults, fmt.Errorf("machine %d %.80q: %w", i+1, p.Name, err)) }
		if wrong := p.check(); len(wrong) > 0 {
			for _, err := range wrong {
				fault(err)
			}
			continue
		}
		m, fresh, err := b.place(p)
		if err != nil {
			fault(err)
			continue
		}
		d := NewDecision(m, Boot{}, BootPolicy{}, nil, by, now)
		d.created = fresh
		if err := d.complete(p, images); err != nil {
			fault(err)
			continue
		}
		b.enter(d.Machine)
		a := d.action(p.Name, m)
		if a.Do == "add" || a.Do == "change" {
			changed = append(changed, d)
		}
		actions = append(actions, a)
	}
	if len(faults) > 0 {
		return nil, nil, fmt.Errorf("%w: %w", ErrImport, errors.Join(faults...))
	}
	return changed, actions, nil
}

// action describes what an import does with a machine, and puts the Change of the import
// first.
func (d *Decision) action(name string, before Machine) Action {
	a := Action{Do: "add", Machine: d.Machine.ID, Name: name}
	if !d.created {
		for _, c := range d.Changes {
			a.What = append(a.What, c.String())
		}
		a.What = append(a.What, supplied(before, d.Machine)...)
		if a.Do = "change"; same(&before, &d.Machine) {
			a.Do = "same"
		}
	}
	if m := d.Machine; m.Ask != nil {
		same, other := m.Ask.Answers(m)
		a.What = append(a.What, fmt.Sprintf("a question is still open: %s (if it is the same machine, run: %s; "+
			"if not, run: %s)",
			m.Ask.What, same.Command(), other.Command()))
		if a.Do == "same" {
			a.Do = "asks"
		}
	}
	if d.created {
		d.announce(true)
	}
	d.Changes = slices.Insert(d.Changes, 0, Change{At: d.now, Code: CodeMachineImported, Machine: d.Machine.ID,
		Name: d.Machine.Hostname(), Actor: d.by})
	return a
}

// supplied lists identifiers that the machine lacked; the ledger has no Change for them.
func supplied(before, m Machine) (what []string) {
	if before.UUID == "" && m.UUID != "" {
		what = append(what, "UUID "+m.UUID)
	}
	if before.Serial == "" && m.Serial != "" {
		what = append(what, "serial number "+m.Serial)
	}
	return what
}

// complete adds the fields of a list entry to the machine.
func (d *Decision) complete(p Planned, images map[string]Assignment) error {
	d.Rename(p.Name)
	m := &d.Machine
	if m.FirstSeen.IsZero() {
		m.FirstSeen = d.now
	}
	for _, mac := range p.MACs {
		if !slices.Contains(m.MACs, mac) {
			m.MACs = append(slices.Clone(m.MACs), mac)
			d.add(Change{Code: CodeMachineCard, To: Values{"mac": mac}})
		}
	}
	for _, part := range []struct {
		what string
		has  *string
		list string
	}{{"UUID", &m.UUID, p.UUID}, {"serial number", &m.Serial, p.Serial}} {
		switch {
		case part.list == "" || part.list == *part.has:
		case *part.has == "":
			*part.has = part.list
		default:
			return fmt.Errorf("%s has %s %s, not %s; correct the list, or run: ingot machine forget %s",
				m.ID, part.what, *part.has, part.list, m.ID)
		}
	}
	if len(p.Labels) > 0 {
		labels := maps.Clone(m.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, p.Labels)
		if len(labels) > max(MaxLabels, len(m.Labels)) {
			return fmt.Errorf("%s has %d labels, and would have %d; a machine has at most %d", m.ID, len(m.Labels), len(labels),
				MaxLabels)
		}
		d.SetLabels(labels)
	}
	switch {
	case m.State == Retired: // only `ingot machine approve` undoes that
	case m.Ask != nil: // a list that is imported every night does not answer questions
	case !p.Pending:
		d.setState(Approved)
	case m.State == "":
		d.setState(Pending)
	}
	if p.Image != "" {
		as, ok := images[p.Image]
		if !ok {
			return fmt.Errorf("no such image: %q", p.Image)
		}
		if as.Image != m.Assignment.Image {
			d.Assign(as)
		}
	}
	return nil
}

// register indexes machines by their identifiers.
type register struct {
	ids   map[ingot.MachineID]Machine
	macs  map[string]ingot.MachineID
	uuids map[string]ingot.MachineID
	names map[string]ingot.MachineID
	count map[string]int // machines by UUID
	list  map[ingot.MachineID]bool
}

func newRegister(machines []Machine) *register {
	r := &register{map[ingot.MachineID]Machine{}, map[string]ingot.MachineID{}, map[string]ingot.MachineID{},
		map[string]ingot.MachineID{}, map[string]int{}, map[ingot.MachineID]bool{}}
	for _, m := range machines {
		r.index(m)
	}
	return r
}

func (r *register) index(m Machine) {
	r.ids[m.ID] = m
	for _, mac := range m.MACs {
		r.macs[mac] = m.ID
	}
	for _, mac := range m.ReportedCards() { // a machine that was seen with the card takes precedence
		if _, taken := r.macs[mac]; !taken {
			r.macs[mac] = m.ID
		}
	}
	if m.UUID != "" {
		r.uuids[m.UUID] = m.ID
		r.count[m.UUID]++
	}
	if m.Name != "" {
		r.names[m.Name] = m.ID
	}
}

// enter adds a machine of the list. No other entry may name it again.
func (r *register) enter(m Machine) {
	r.index(m)
	r.list[m.ID] = true
}

// place returns the machine that an entry identifies, or a new one.
func (r *register) place(p Planned) (m Machine, fresh bool, err error) {
	found := map[ingot.MachineID]string{}
	for _, mac := range p.MACs {
		if id, ok := r.macs[mac]; ok {
			found[id] = "card " + mac
		}
	}
	if id, ok := r.uuids[p.UUID]; ok && p.UUID != "" && r.count[p.UUID] == 1 {
		found[id] = "UUID " + p.UUID
	}
	var ids []ingot.MachineID
	for id := range found {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	switch {
	case len(ids) > 1:
		return m, false, fmt.Errorf("its identifiers belong to different machines: %s to %s, %s to %s", found[ids[0]], ids[0],
			found[ids[1]], ids[1])
	case len(ids) == 1:
		m = r.ids[ids[0]]
	}
	holder, taken := r.names[p.Name]
	if other, is := r.ids[ingot.MachineID(p.Name)]; is && !taken {
		holder, taken = other.ID, true
	}
	if taken && holder != m.ID {
		return m, false, fmt.Errorf("the name belongs to machine %s", holder)
	}
	if p.Name == "" || p.Name != m.Name { // a list that is imported every night keeps a name of an older version
		if err := CheckName(p.Name); err != nil {
			return m, false, err
		}
	}
	if len(ids) == 1 {
		if r.list[m.ID] {
			return m, false, fmt.Errorf("machine %s is in the list twice, by its %s", m.ID, found[m.ID])
		}
		return m, false, nil
	}
	id := r.newID(p)
	return Machine{ID: id}, true, nil
}

// newID derives an ID from the first MAC address, else from the end of the UUID.
func (r *register) newID(p Planned) ingot.MachineID {
	digits := strings.ReplaceAll(p.UUID, "-", "")
	if len(p.MACs) > 0 {
		digits = strings.ReplaceAll(p.MACs[0], ":", "")
	}
	id := ingot.MachineID("m-" + digits[max(0, len(digits)-12):])
	for n := 2; r.ids[id].ID != ""; n++ {
		id = ingot.MachineID(fmt.Sprintf("m-%s-%d", digits[max(0, len(digits)-12):], n))
	}
	return id
}

// check validates an entry, makes its identifiers canonical, and returns all that is wrong with it. The
// name is checked when the machine is known.
func (p *Planned) check() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	p.MACs = slices.Clone(p.MACs)
	for i, text := range p.MACs {
		mac, err := ingot.ParseMAC(text)
		switch {
		case err != nil:
			fault("%w: %.40q", ingot.ErrBadMAC, text)
		case !ingot.IsCard(mac):
			fault("%s is zero or an address of a group, not of a card", mac)
		case slices.Contains(p.MACs[:i], mac):
			fault("the card %s is there twice", mac)
		}
		p.MACs[i] = mac
	}
	if len(p.MACs) > maxPlannedCards {
		fault("it has %d MAC addresses; at most %d", len(p.MACs), maxPlannedCards)
	}
	if p.UUID != "" {
		u := ingot.PlausibleUUID(p.UUID)
		if u == "" {
			fault("%.80q is not the UUID of a single machine", p.UUID)
		}
		p.UUID = u
	}
	if len(p.Serial) > maxPlannedSerial {
		fault("its serial number has %d bytes; at most %d", len(p.Serial), maxPlannedSerial)
	} else if strings.ContainsFunc(p.Serial, harmless.Harms) {
		fault("its serial number %q has characters that cannot be shown", p.Serial)
	}
	if p.Serial = ingot.PlausibleSerial(p.Serial); len(p.MACs) == 0 && p.UUID == "" && len(faults) == 0 {
		fault("it has no identifier; set mac or uuid")
	}
	if len(p.Labels) > MaxLabels {
		fault("it has %d labels; a machine has at most %d", len(p.Labels), MaxLabels)
		return faults
	}
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		if err := CheckLabel(k, p.Labels[k]); err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}

// Bounds of one entry of a list.
const (
	maxPlannedCards  = 64
	maxPlannedSerial = 256 // bytes
)
