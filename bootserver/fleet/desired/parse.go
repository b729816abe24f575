package desired

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/internal/yamlfile"
)

// File is one file, with its name for people.
type File struct {
	Name    string
	Content []byte
}

// Bounds of what is read.
const (
	MaxFiles = 1000
	MaxBytes = 12 << 20 // of all files
)

// Parsed is what files say, as far as that can be known without a server.
type Parsed struct {
	Spec     Spec
	Sections Sections
	Faults   yamlfile.Faults
	rules    []yamlfile.Place
	bad      map[int]bool // machines with a fault
}

// Sections are the keys that files have, be they empty. What an earlier file said in another section stays.
type Sections struct {
	Machines, Labels, Rules, Assignments, Pins, Rollout bool
}

// Parse reads files, and finds all faults that can be found without knowing the machines and images of
// a server.
func Parse(files []File) Parsed {
	p := Parsed{bad: map[int]bool{}}
	size := 0
	for _, f := range files {
		size += len(f.Content)
	}
	switch {
	case len(files) > MaxFiles:
		p.fault(yamlfile.Place{File: files[0].Name}, "join some", "%d files; at most %d", len(files), MaxFiles)
	case size > MaxBytes:
		p.fault(yamlfile.Place{File: files[0].Name}, "apply a part at a time", "the files have %d bytes; at most %d", size,
			MaxBytes)
	default:
		for _, f := range files {
			p.add(f)
		}
		if p.Sections == (Sections{}) && len(p.Faults) == 0 {
			at := yamlfile.Place{File: "no file"}
			if len(files) > 0 {
				at = yamlfile.Place{File: files[0].Name, Line: 1, Column: 1}
			}
			p.fault(at, "write at least: machines: [{name: node01, macs: '52:54:00:12:00:01'}]", "the files are empty")
		}
		p.check()
	}
	return p
}

func (p *Parsed) fault(at yamlfile.Place, fix, what string, args ...any) {
	p.Faults.Add(at, fix, what, args...)
}

// add adds the content of a file.
func (p *Parsed) add(f File) {
	var s Spec
	d := yamlfile.Decoder{File: f.Name, What: "the file", Plain: true}
	d.Decode(f.Content, &s)
	has := func(section string) bool { _, is := d.Places[section]; return is }
	if has("rollout") && p.Sections.Rollout {
		d.Faults.Add(d.Places["rollout"], "keep one of them", "another file says how images reach machines as well")
	}
	p.Faults = append(p.Faults, d.Faults...)
	p.Sections.Machines = p.Sections.Machines || has("machines")
	p.Sections.Labels = p.Sections.Labels || has("labels")
	p.Sections.Rules = p.Sections.Rules || has("rules")
	p.Sections.Assignments = p.Sections.Assignments || has("assignments")
	p.Sections.Pins = p.Sections.Pins || has("pins")
	p.Sections.Rollout = p.Sections.Rollout || has("rollout")
	from := func(section string, i int) source { return source{d.Places, fmt.Sprintf("%s[%d]", section, i)} }
	for i := range s.Machines {
		s.Machines[i].from = from("machines", i)
	}
	for i := range s.Labels {
		s.Labels[i].from = from("labels", i)
	}
	for i := range s.Assignments {
		s.Assignments[i].from = from("assignments", i)
		if r := s.Assignments[i].Rollout; r != nil {
			r.from = source{d.Places, fmt.Sprintf("assignments[%d].rollout", i)}
		}
	}
	for i := range s.Pins {
		s.Pins[i].from = from("pins", i)
	}
	for i := range s.Rules {
		p.rules = append(p.rules, d.Places[fmt.Sprintf("rules[%d]", i)])
	}
	into := &p.Spec
	into.Machines = append(into.Machines, s.Machines...)
	into.Labels = append(into.Labels, s.Labels...)
	into.Rules = append(into.Rules, s.Rules...)
	into.Assignments = append(into.Assignments, s.Assignments...)
	into.Pins = append(into.Pins, s.Pins...)
	if s.Rollout != nil {
		s.Rollout.from = source{d.Places, "rollout"}
		into.Rollout = s.Rollout
	}
}

// check finds what is wrong with the values of fields, and values that are there twice.
func (p *Parsed) check() {
	p.checkMachines()
	p.checkLabels()
	for i, r := range p.Spec.Rules {
		if err := r.Check(); err != nil {
			p.wrong(p.rules[i], fmt.Errorf("rule: %w", strip(err, fleet.ErrRule)),
				"correct the rule; ingot fleet schema describes its keys")
		}
	}
	p.checkAssignments()
	for _, pin := range p.Spec.Pins {
		if pin.Machines == "" && !pin.from.given("machines") {
			p.fault(pin.At, "write machines: node[01-40], or labels such as rack=r1", "the pin names no machines")
		} else if err := checkSelector(pin.Machines); err != nil {
			p.wrong(pin.from.at("machines", pin.At), err, hostlistFix)
		}
		if len(pin.Why) > maxWhy {
			p.fault(pin.from.at("why", pin.At), "shorten it", "the reason has %d bytes; at most %d", len(pin.Why), maxWhy)
		}
	}
	p.checkRollout(p.Spec.Rollout)
}

// maxWhy is that of the command line, too.
const maxWhy = 400

// wrong adds an error as a fault. What follows a semicolon is the remedy; else it is fix.
func (p *Parsed) wrong(at yamlfile.Place, err error, fix string) {
	what, written, has := strings.Cut(err.Error(), "; ")
	if has {
		fix = written
	}
	p.fault(at, fix, "%s", what)
}

// remedy says what to do about an error of a machine that does not say it itself.
func remedy(err error) string {
	f := fleet.FieldError{}
	if !errors.As(err, &f) {
		return "correct the entry, or merge the two machines: ingot machine ls"
	}
	switch field, _, _ := strings.Cut(f.Field, "["); field {
	case "macs":
		return "write the address of one card, such as 52:54:00:12:00:01"
	case "uuid":
		return "leave it out, or write the UUID that the machine has: ingot machine show MACHINE"
	case "serial":
		return "leave it out, or write the one that the machine has: ingot machine show MACHINE"
	case "name":
		return "choose another name, or rename the other machine: ingot machine rename MACHINE NAME"
	}
	return "remove or correct it"
}

const hostlistFix = "write names, such as node[01-40],login"

// strip returns an error without the sentinel that it begins with.
func strip(err, sentinel error) error {
	if text, is := strings.CutPrefix(err.Error(), sentinel.Error()+": "); is {
		return errors.New(text)
	}
	return err
}

// planned is a machine as fleet.Register takes it.
func (m Machine) planned() fleet.Planned {
	return fleet.Planned{Name: m.Name, MACs: m.MACs, UUID: m.UUID, Serial: m.Serial, Labels: maps.Clone(m.Labels),
		Pending: m.State != "" && m.State != fleet.Approved}
}

func (p *Parsed) checkMachines() {
	names, macs, uuids := map[string]yamlfile.Place{}, map[string]yamlfile.Place{}, map[string]yamlfile.Place{}
	once := func(seen map[string]yamlfile.Place, what, value string, at yamlfile.Place) {
		if first, twice := seen[value]; twice {
			p.fault(at, "keep one of them", "%s %s is at %s as well", what, value, first)
			return
		}
		seen[value] = at
	}
	for i, m := range p.Spec.Machines {
		before := len(p.Faults)
		pl := m.planned()
		for _, err := range pl.Check() {
			p.wrong(p.placeOf(m, err), plainly(err), remedy(err))
		}
		if m.At.Line == 0 {
			p.bad[i] = true // it is no entry, which is a fault already
			continue
		}
		if m.Name == "" && !pl.Identified() && !m.from.given("macs") && !m.from.given("uuid") && !m.from.given("name") {
			p.fault(m.At, "write name, macs or uuid", "nothing identifies the machine")
		}
		if m.Name != "" {
			at := m.from.at("name", m.At)
			if !ingot.ValidProfileName(m.Name) {
				p.fault(at, "use lower-case letters, digits and dashes, at most 63", "%.80q cannot be a host name", m.Name)
			}
			once(names, "the name", m.Name, at)
		}
		for j, mac := range pl.MACs {
			if !slices.Contains(pl.MACs[:j], mac) { // that is a fault already
				once(macs, "the card", mac, m.from.at(fmt.Sprintf("macs[%d]", j), m.At))
			}
		}
		if pl.UUID != "" {
			once(uuids, "the UUID", pl.UUID, m.from.at("uuid", m.At))
		}
		if !slices.Contains([]fleet.State{"", fleet.Approved, fleet.Pending, fleet.Retired}, m.State) {
			p.fault(m.from.at("state", m.At), "write approved, pending or retired", "state: unknown value %q", m.State)
		}
		p.bad[i] = len(p.Faults) > before
	}
}

// placeOf returns the place of a fault of a machine.
func (p *Parsed) placeOf(m Machine, err error) yamlfile.Place {
	f := fleet.FieldError{}
	if errors.As(err, &f) {
		return m.from.at(f.Field, m.At)
	}
	return m.At
}

// plainly returns an error about a machine with what to write instead.
func plainly(err error) error {
	switch {
	case errors.Is(err, ingot.ErrBadMAC):
		return fmt.Errorf("%w; write it as 52:54:00:12:00:01", err)
	case errors.Is(err, fleet.ErrLabel):
		return fmt.Errorf("label %w", strip(err, fleet.ErrLabel))
	}
	return err
}

func (p *Parsed) checkLabels() {
	for _, l := range p.Spec.Labels {
		switch _, err := fleet.Hostlist(l.Machines); {
		case l.Machines == "" && !l.from.given("machines"):
			p.fault(l.At, "write machines: node[01-40]", "the labels are of no machine")
		case strings.Contains(l.Machines, "="):
			p.fault(l.from.at("machines", l.At), "write a hostlist such as node[01-40]",
				"machines: %q is a label selector; labels do not select who gets labels", l.Machines)
		case err != nil:
			p.wrong(l.from.at("machines", l.At), fmt.Errorf("machines: %w", strip(err, fleet.ErrHostlist)), hostlistFix)
		}
		if len(l.Set) == 0 && !l.from.given("set") {
			p.fault(l.At, "write set: {KEY: VALUE}", "it sets no label")
		}
		for _, k := range slices.Sorted(maps.Keys(l.Set)) {
			if err := fleet.CheckLabel(k, l.Set[k]); err != nil {
				p.wrong(l.from.at("set."+k, l.At), plainly(err), "remove or correct it")
			}
		}
	}
}

func (p *Parsed) checkAssignments() {
	seen := map[string]yamlfile.Place{}
	for _, a := range p.Spec.Assignments {
		at := a.from.at("to", a.At)
		switch {
		case a.To == "" && !a.from.given("to"):
			p.fault(a.At, "write to: rack=r1, a hostlist, or all", "the assignment is to no machine")
		default:
			if err := checkSelector(a.To); err != nil {
				p.wrong(at, err, hostlistFix)
			}
			if first, twice := seen[a.To]; twice && a.To != "" {
				p.fault(at, "keep one of them", "there is an assignment to %q at %s as well", a.To, first)
			} else {
				seen[a.To] = at
			}
		}
		if a.Image == "" && !a.from.given("image") {
			p.fault(a.At, "write image: PROFILE:VERSION", "the assignment names no image")
		} else if a.Image == "" || a.Image == None {
			p.fault(a.from.at("image", a.At), "write PROFILE:VERSION; to exempt a machine, write image: none at the machine",
				"image: %q is no image", a.Image)
		}
		p.checkRollout(a.Rollout)
	}
}

func (p *Parsed) checkRollout(r *Rollout) {
	if r == nil {
		return
	}
	for _, f := range r.faults() {
		p.wrong(r.from.at(f.key, r.At), errors.New("rollout: "+f.text), "see docs/ROLLOUTS.md")
	}
	if r.Spread != "" {
		if err := fleet.CheckLabel(r.Spread, ""); err != nil {
			p.wrong(r.from.at("spread", r.At), fmt.Errorf("rollout: spread: %w", strip(err, fleet.ErrLabel)),
				"write the key of a label")
		}
	}
	if r.Above != nil && *r.Above > rollout.MaxMembers {
		p.fault(r.from.at("above", r.At), fmt.Sprintf("write a number up to %d", rollout.MaxMembers), "rollout: above: %d",
			*r.Above)
	}
}

// checkSelector returns what is wrong with the form of a selector.
func checkSelector(s string) error {
	if s == All {
		return nil
	}
	if strings.Contains(s, "=") {
		_, err := fleet.ParseSelector(s)
		if err != nil {
			return fmt.Errorf("%.100q is not a label selector; write rack=r1,role!=db", s)
		}
		return nil
	}
	if _, err := fleet.Hostlist(s); err != nil {
		return strip(err, fleet.ErrHostlist)
	}
	return nil
}
