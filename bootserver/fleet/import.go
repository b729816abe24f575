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

// ErrNoMachine means that an entry with nothing but a name names no machine.
var ErrNoMachine = errors.New("no machine has the name")

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
	b := NewRegister(machines)
	var faults []error
	for i, p := range list {
		d, m, wrong := b.Decide(p, images, by, now)
		for _, err := range wrong {
			faults = append(faults, fmt.Errorf("machine %d %.80q: %w", i+1, p.Name, err))
		}
		if d == nil {
			continue
		}
		a := d.Describe(p.Name, m)
		d.imported()
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

// Decide returns the decision about a machine that an entry of a list completes or adds, and the machine
// before; or all that is wrong with the entry, and no decision. Faults of one field are FieldErrors.
func (r *Register) Decide(p Planned, images map[string]Assignment, by Actor, now time.Time) (d *Decision,
	before Machine, faults []error) {
	if faults = p.Check(); !r.Unnamed && !p.Identified() && !slices.ContainsFunc(faults, ofUUID) {
		faults = append(faults, errors.New("it has no identifier; set mac or uuid"))
	}
	if len(faults) > 0 {
		return nil, before, faults
	}
	m, fresh, err := r.place(&p)
	if err != nil {
		return nil, before, []error{err}
	}
	d = NewDecision(m, Boot{}, BootPolicy{}, nil, by, now)
	d.created = fresh
	if err := d.complete(p, images); err != nil {
		return nil, before, []error{err}
	}
	r.enter(d.Machine)
	return d, m, nil
}

// FieldError is a fault in one field of a Planned.
type FieldError struct {
	Field string // as in JSON
	Err   error
}

func (e FieldError) Error() string { return e.Err.Error() }
func (e FieldError) Unwrap() error { return e.Err }

func ofUUID(err error) bool {
	f := FieldError{}
	return errors.As(err, &f) && f.Field == "uuid"
}

// imported puts the Change of an import first.
func (d *Decision) imported() {
	d.Changes = slices.Insert(d.Changes, 0, Change{At: d.now, Code: CodeMachineImported, Machine: d.Machine.ID,
		Name: d.Machine.Hostname(), Actor: d.by})
}

// Describe says what a decision about an entry of a list does with a machine, and adds the Change of one
// that is new. It is called once, at the end.
func (d *Decision) Describe(name string, before Machine) Action {
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
		field, what string
		has         *string
		list        string
	}{{"uuid", "UUID", &m.UUID, p.UUID}, {"serial", "serial number", &m.Serial, p.Serial}} {
		switch {
		case part.list == "" || part.list == *part.has:
		case *part.has == "":
			*part.has = part.list
		default:
			return FieldError{part.field, fmt.Errorf("%s has %s %s, not %s; correct the list, or run: ingot machine forget %s",
				m.ID, part.what, *part.has, part.list, m.ID)}
		}
	}
	if err := d.AddLabels(p.Labels); err != nil {
		return err
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
			return FieldError{"image", fmt.Errorf("no such image: %q", p.Image)}
		}
		if as.Image != m.Assignment.Image {
			d.Assign(as)
		}
	}
	return nil
}

// AddLabels sets labels of the machine; the others stay.
func (d *Decision) AddLabels(set map[string]string) error {
	m := &d.Machine
	if len(set) == 0 {
		return nil
	}
	labels := maps.Clone(m.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, set)
	if len(labels) > max(MaxLabels, len(m.Labels)) {
		return FieldError{"labels", fmt.Errorf("%s has %d labels, and would have %d; a machine has at most %d", m.ID,
			len(m.Labels), len(labels), MaxLabels)}
	}
	d.SetLabels(labels)
	return nil
}

// Register indexes machines by their identifiers.
type Register struct {
	// Unnamed allows entries without a name, which keep that of the machine, and entries with nothing but
	// the name of a known machine.
	Unnamed bool

	ids   map[ingot.MachineID]Machine
	macs  map[string]ingot.MachineID
	uuids map[string]ingot.MachineID
	names map[string]ingot.MachineID
	count map[string]int // machines by UUID
	list  map[ingot.MachineID]bool
}

// NewRegister returns a Register of machines.
func NewRegister(machines []Machine) *Register {
	r := &Register{ids: map[ingot.MachineID]Machine{}, macs: map[string]ingot.MachineID{},
		uuids: map[string]ingot.MachineID{}, names: map[string]ingot.MachineID{}, count: map[string]int{},
		list: map[ingot.MachineID]bool{}}
	for _, m := range machines {
		r.index(m)
	}
	return r
}

func (r *Register) index(m Machine) {
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
func (r *Register) enter(m Machine) {
	r.index(m)
	r.list[m.ID] = true
}

// Named returns the machine that has a name.
func (r *Register) Named(name string) (Machine, bool) {
	m, known := r.ids[r.names[name]]
	return m, known && name != ""
}

// owns reports whether a machine is the only one that the identifiers of an entry are known of.
func (r *Register) owns(m Machine, p *Planned) bool {
	if !p.Identified() {
		return r.Unnamed
	}
	own := false
	for _, mac := range p.MACs {
		if slices.Contains(m.MACs, mac) {
			own = true
		} else if _, known := r.macs[mac]; known {
			return false
		}
	}
	if _, known := r.uuids[p.UUID]; known && p.UUID != m.UUID {
		return false
	}
	return own || p.UUID != "" && p.UUID == m.UUID
}

// place returns the machine that an entry identifies, or a new one. It fills in the name that an entry
// leaves out.
func (r *Register) place(p *Planned) (m Machine, fresh bool, err error) {
	found := map[ingot.MachineID]string{}
	if m, known := r.Named(p.Name); known && r.owns(m, p) {
		if r.list[m.ID] {
			return m, false, FieldError{"name", fmt.Errorf("machine %s is in the list twice", m.ID)}
		}
		return m, false, nil
	}
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
	if r.Unnamed && p.Name == "" {
		p.Name = m.Name
	}
	holder, taken := r.names[p.Name]
	if other, is := r.ids[ingot.MachineID(p.Name)]; is && !taken {
		holder, taken = other.ID, true
	}
	if taken && holder != m.ID {
		return m, false, FieldError{"name", fmt.Errorf("the name belongs to machine %s", holder)}
	}
	// A list that is imported every night keeps a name of an older version.
	if p.Name == "" && !r.Unnamed || p.Name != m.Name {
		if err := CheckName(p.Name); err != nil {
			return m, false, FieldError{"name", err}
		}
	}
	if len(ids) == 1 {
		if r.list[m.ID] {
			return m, false, fmt.Errorf("machine %s is in the list twice, by its %s", m.ID, found[m.ID])
		}
		return m, false, nil
	}
	if !p.Identified() {
		return m, false, FieldError{"name", fmt.Errorf("%w %q; to register one, set macs or uuid", ErrNoMachine,
			p.Name)}
	}
	id := r.newID(*p)
	return Machine{ID: id}, true, nil
}

// newID derives an ID from the first MAC address, else from the end of the UUID.
func (r *Register) newID(p Planned) ingot.MachineID {
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

// Check validates an entry, makes its identifiers canonical, and returns all that is wrong with it. The
// name is checked when the machine is known.
func (p *Planned) Check() (faults []error) {
	fault := func(field, format string, args ...any) {
		faults = append(faults, FieldError{field, fmt.Errorf(format, args...)})
	}
	p.MACs = slices.Clone(p.MACs)
	for i, text := range p.MACs {
		mac, err := ingot.ParseMAC(text)
		switch {
		case err != nil:
			fault(card(i), "%w: %.40q", ingot.ErrBadMAC, text)
		case !ingot.IsCard(mac):
			fault(card(i), "%s is zero or an address of a group, not of a card", mac)
		case slices.Contains(p.MACs[:i], mac):
			fault(card(i), "the card %s is there twice", mac)
		}
		p.MACs[i] = mac
	}
	if len(p.MACs) > maxPlannedCards {
		fault("macs", "it has %d MAC addresses; at most %d", len(p.MACs), maxPlannedCards)
	}
	if p.UUID != "" {
		u := ingot.PlausibleUUID(p.UUID)
		if u == "" {
			fault("uuid", "%.80q is not the UUID of a single machine", p.UUID)
		}
		p.UUID = u
	}
	if len(p.Serial) > maxPlannedSerial {
		fault("serial", "its serial number has %d bytes; at most %d", len(p.Serial), maxPlannedSerial)
	} else if strings.ContainsFunc(p.Serial, harmless.Harms) {
		fault("serial", "its serial number %q has characters that cannot be shown", p.Serial)
	}
	p.Serial = ingot.PlausibleSerial(p.Serial)
	if len(p.Labels) > MaxLabels {
		fault("labels", "it has %d labels; a machine has at most %d", len(p.Labels), MaxLabels)
		return faults
	}
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		if err := CheckLabel(k, p.Labels[k]); err != nil {
			faults = append(faults, FieldError{"labels." + k, err})
		}
	}
	return faults
}

func card(i int) string { return fmt.Sprintf("macs[%d]", i) }

// Identified reports whether an entry that was checked has an identifier.
func (p *Planned) Identified() bool { return len(p.MACs) > 0 || p.UUID != "" }

// Bounds of one entry of a list.
const (
	maxPlannedCards  = 64
	maxPlannedSerial = 256 // bytes
)
