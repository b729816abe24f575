package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/internal/yamlfile"
)

// Facts are what a plan is compared with. The caller gathers them.
type Facts struct {
	Machines []fleet.Machine
	Images   map[string]Image           // those that the Spec names, by the words for them
	Known    []string                   // names of images that there are, for remedies
	Moving   map[ingot.MachineID]Moving // machines of rollouts that have not ended
	Back     map[string]Moving          // rollouts that were aborted, and none after them, by selector
	By       fleet.Actor
	Now      time.Time
}

// Image is an image that was looked up.
type Image struct {
	fleet.ImageRef       // empty if it is not known
	Err            error // why it cannot be assigned
}

// Moving is a rollout that a machine belongs to.
type Moving struct {
	Rollout string
	Image   ingot.Digest
}

// Plan is what remains to be done until machines are as files say.
type Plan struct {
	Lines    []Line   // one for each change
	Notes    []string // what stays as it is although files say otherwise, or although they do not say it any more
	Changed  []Changed
	Forget   []fleet.Machine
	Rollouts []Rollouts
	Next     Content // what is stored
	Basis    string  // names what the plan follows from: the changes, and what they change
}

// Line is one change, for people.
type Line struct {
	Do   string // add, change, remove, rollout
	Kind string // machine, rule, assignment, policy
	Name string
	What []string
}

// Changed is a machine that changes.
type Changed struct {
	Before *fleet.Machine // nil for a new one
	*fleet.Decision
}

// Rollouts is an assignment that goes to machines by a rollout.
type Rollouts struct {
	Selector string
	Image    fleet.ImageRef
	How      *Rollout
	Machines []ingot.MachineID
	At       yamlfile.Place
}

// Leave takes a rollout out of the plan.
func (p *Plan) Leave(r Rollouts, why string) {
	p.Rollouts = slices.DeleteFunc(p.Rollouts, func(o Rollouts) bool { return o.Selector == r.Selector })
	p.Lines = slices.DeleteFunc(p.Lines, func(l Line) bool { return l.Do == rolloutLine && l.Name == r.Selector })
	p.Notes = append(p.Notes, r.Selector+": "+why)
}

const rolloutLine = "rollout"

// work is a machine that a plan looks at.
type work struct {
	before  fleet.Machine
	d       *fleet.Decision // nil: nothing was decided yet
	fresh   bool
	listed  bool
	gone    bool   // it is to be deleted
	image   string // its own, from the files
	at      yamlfile.Place
	matches []int // assignments
	owned   Owned
}

// machine returns the machine as it will be.
func (w *work) machine() *fleet.Machine {
	if w.d != nil {
		return &w.d.Machine
	}
	return &w.before
}

type planner struct {
	parsed   Parsed
	spec     *Spec
	last     Content
	facts    Facts
	opts     Options
	faults   yamlfile.Faults
	reported map[yamlfile.Fault]bool
	plan     Plan

	all    []*work
	byID   map[ingot.MachineID]*work
	byName map[string]*work
	keys   map[string]bool // labels that machines have
	stays  leftovers
}

// Plan compares files with a fleet. last is what was applied before. Faults are those of Parse, and those
// that only the server knows; with any the plan must not be carried out.
func (p Parsed) Plan(last Content, f Facts, o Options) (Plan, yamlfile.Faults) {
	if !p.Sections.Rollout {
		p.Spec.Rollout = last.Spec.Rollout
	}
	x := &planner{parsed: p, spec: &p.Spec, last: last, facts: f, opts: o, faults: slices.Clone(p.Faults)}
	x.place()
	x.own()
	x.pin()
	x.ownPins()
	x.assign()
	x.compare()
	x.collect()
	_ = x.faults.Err() // sorts them
	return x.plan, x.faults
}

// Rest returns what remains to be done of a content that was stored, and why some of it cannot be done.
func (c Content) Rest(f Facts) (Plan, []string) {
	p := Parsed{Spec: c.Spec, bad: map[int]bool{}}
	if c.Idle {
		p.Spec.Assignments = nil
	}
	p.rules = make([]yamlfile.Place, len(c.Spec.Rules))
	x := &planner{parsed: p, spec: &p.Spec, last: c, facts: f, opts: c.Options}
	x.place()
	for _, o := range c.Prune {
		x.pruneLabels(o)
	}
	x.pin()
	for _, o := range c.Prune {
		x.prunePin(o)
	}
	x.assign()
	x.collect()
	var problems []string
	for _, fault := range x.faults {
		problems = append(problems, fault.What)
	}
	return x.plan, problems
}

// place decides which machines the entries of files are, and what labels machines get.
func (x *planner) place() {
	x.placeMachines()
	x.index()
	x.setLabels()
}

// fault adds a fault once: many machines may have the same one.
func (x *planner) fault(at yamlfile.Place, fix, what string, args ...any) {
	f := yamlfile.Fault{Place: at, What: fmt.Sprintf(what, args...), Fix: fix}
	if x.reported == nil {
		x.reported = map[yamlfile.Fault]bool{}
	}
	if !x.reported[f] {
		x.reported[f] = true
		x.faults = append(x.faults, f)
	}
}

func (x *planner) note(text string, args ...any) {
	x.plan.Notes = append(x.plan.Notes, fmt.Sprintf(text, args...))
}

// decide returns the decision about a machine.
func (x *planner) decide(w *work) *fleet.Decision {
	if w.d == nil {
		w.d = fleet.NewDecision(w.before, fleet.Boot{}, fleet.BootPolicy{}, nil, x.facts.By, x.facts.Now)
	}
	return w.d
}

// placeMachines decides about the machines that files list, and which ones they are.
func (x *planner) placeMachines() {
	x.byID = make(map[ingot.MachineID]*work, len(x.facts.Machines))
	for _, m := range x.facts.Machines {
		w := &work{before: m, owned: Owned{Machine: m.ID}}
		x.all = append(x.all, w)
		x.byID[m.ID] = w
	}
	r := fleet.NewRegister(x.facts.Machines)
	r.Unnamed = true
	for i, m := range x.spec.Machines {
		if x.parsed.bad[i] {
			continue
		}
		d, before, wrong := r.Decide(m.planned(), nil, x.facts.By, x.facts.Now)
		for _, err := range wrong {
			if errors.Is(err, fleet.ErrNoMachine) && len(x.parsed.Faults) > 0 {
				continue // its macs may be what is wrong
			}
			what, fix, has := strings.Cut(plainly(err).Error(), "; ")
			if !has {
				fix = remedy(err)
			}
			if errors.Is(err, fleet.ErrNoMachine) {
				if near := yamlfile.Nearest(m.Name, x.names()); near != "" {
					fix = fmt.Sprintf("to register it, write its macs or uuid; if you mean another machine, write %q", near)
				}
			}
			x.fault(x.parsed.placeOf(m, err), fix, "%s", what)
		}
		if d == nil {
			continue
		}
		w := x.byID[d.Machine.ID]
		if w == nil {
			w = &work{fresh: true, before: before, owned: Owned{Machine: d.Machine.ID}}
			x.all = append(x.all, w)
			x.byID[d.Machine.ID] = w
		}
		w.d, w.listed, w.image, w.at = d, true, m.Image, m.from.at("image", m.At)
		w.owned.Listed, w.owned.Labels = true, m.Labels
		x.setState(w, m.State)
	}
}

// setState retires a machine, or lets a retired one boot again.
func (x *planner) setState(w *work, s fleet.State) {
	switch is := w.d.Machine; {
	case s == fleet.Retired && is.State != fleet.Retired:
		w.d.Retire()
	case s == fleet.Approved && is.State == fleet.Retired && is.Ask == nil:
		w.d.Approve()
	case is.Ask != nil && s != fleet.Retired:
		x.note("machine %s waits for the answer to a question: ingot machine ls", is.Hostname())
	case s == fleet.Pending && is.State == fleet.Approved:
		x.note("machine %s is approved already, and stays so", is.Hostname())
	}
}

func (x *planner) names() (list []string) {
	for _, w := range x.all {
		if n := w.machine().Name; n != "" {
			list = append(list, n)
		}
	}
	return list
}

func (x *planner) index() {
	x.byName = make(map[string]*work, len(x.all))
	for _, w := range x.all {
		m := w.machine()
		x.byName[string(m.ID)] = w
	}
	for _, w := range x.all {
		if n := w.machine().Name; n != "" {
			x.byName[n] = w
		}
	}
}

// setLabels sets the labels of the section labels.
func (x *planner) setLabels() {
	for _, l := range x.spec.Labels {
		names, err := fleet.Hostlist(l.Machines)
		if err != nil {
			continue // Parse reported it
		}
		at := l.from.at("machines", l.At)
		var missing []string
		for _, n := range names {
			w := x.byName[n]
			if w == nil {
				missing = append(missing, n)
				continue
			}
			x.setLabel(w, l)
		}
		x.missing(at, "machines", missing, false)
	}
}

func (x *planner) setLabel(w *work, l Labels) {
	add := map[string]string{}
	for k, v := range l.Set {
		for _, set := range []map[string]string{w.owned.Labels, w.owned.Set} {
			if other, has := set[k]; has && other != v {
				x.fault(l.from.at("set."+k, l.At), "keep one of them",
					"%s gets the label %s=%s elsewhere in these files, and %s=%s here", w.machine().Hostname(), k, other, k, v)
				return
			}
		}
		add[k] = v
	}
	if err := x.decide(w).AddLabels(add); err != nil {
		if len(x.parsed.Faults) == 0 {
			x.fault(l.At, "remove some", "%v", err)
		}
		return
	}
	if w.owned.Set == nil {
		w.owned.Set = map[string]string{}
	}
	maps.Copy(w.owned.Set, add)
}

// missing reports names that no machine has. Something else may be the reason if there are faults already.
func (x *planner) missing(at yamlfile.Place, field string, names []string, noted bool) {
	if len(names) == 0 || len(x.parsed.Faults) > 0 {
		return
	}
	text := fmt.Sprintf("%s: no machine is named %s", field, some(names))
	if noted {
		x.note("%s", text)
		return
	}
	fix := "add it to machines, or correct the name: ingot machine ls"
	if near := yamlfile.Nearest(names[0], x.names()); near != "" {
		fix = fmt.Sprintf("write %q, or add it to machines", near)
	}
	x.fault(at, fix, "%s", text)
}

// some lists words, the first of many.
func some(words []string) string {
	const most = 8
	text := strings.Join(words[:min(len(words), most)], ", ")
	if more := len(words) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// choose returns the machines that a selector names. noted: an earlier file said the same, so that a
// name or label that is gone is no fault.
func (x *planner) choose(selector, field string, at yamlfile.Place, noted bool) (list []*work) {
	if checkSelector(selector) != nil || selector == "" {
		return nil // Parse reported it
	}
	if selector == All {
		for _, w := range x.all {
			if w.machine().State == fleet.Approved && !w.gone {
				list = append(list, w)
			}
		}
		return list
	}
	words := []string{selector}
	if !strings.Contains(selector, "=") {
		words, _ = fleet.Hostlist(selector)
		var missing []string
		labels := 0
		for _, n := range words {
			if w := x.byName[n]; w != nil && !w.gone {
				list = append(list, w)
			} else {
				missing = append(missing, n)
			}
			if x.keys[n] {
				labels++
			}
		}
		if len(list) > 0 || labels < len(words) {
			x.missing(at, field, missing, noted)
			return list
		}
	}
	sel, err := fleet.ParseSelector(selector)
	if err != nil {
		return nil
	}
	for _, k := range sel.Keys() {
		if !x.keys[k] {
			x.unknownLabel(k, field, at, noted)
			return nil
		}
	}
	for _, w := range x.all {
		if sel.Matches(w.machine().Labels) && !w.gone {
			list = append(list, w)
		}
	}
	if len(list) == 0 {
		x.note("%s %s: no machine has these labels", field, selector)
	}
	return list
}

func (x *planner) unknownLabel(key, field string, at yamlfile.Place, noted bool) {
	switch {
	case len(x.parsed.Faults) > 0: // it may be the reason
	case noted:
		x.note("%s: no machine has a label %q", field, key)
	default:
		fix := "set it in machines or labels"
		if near := yamlfile.Nearest(key, slices.Sorted(maps.Keys(x.keys))); near != "" {
			fix = fmt.Sprintf("write %q, or set it in machines or labels", near)
		}
		x.fault(at, fix, "%s: no machine has a label %q", field, key)
	}
}

// pin keeps machines out of rollouts. All labels are as they will be.
func (x *planner) pin() {
	x.keys = map[string]bool{}
	for _, w := range x.all {
		for k := range w.machine().Labels {
			x.keys[k] = x.keys[k] || !w.gone
		}
	}
	for _, p := range x.spec.Pins {
		at := p.from.at("machines", p.At)
		for _, w := range x.choose(p.Machines, "pins", at, false) {
			if had := w.owned.Pin; had != nil && *had != p.Why {
				x.fault(at, "keep one of them", "%s is pinned elsewhere in these files, for another reason",
					w.machine().Hostname())
				continue
			}
			w.owned.Pin = &p.Why
			if is := w.machine().Pin; is == nil || is.Why != p.Why {
				x.decide(w).Pin(&fleet.Mark{Why: p.Why, By: x.facts.By.String(), Since: x.facts.Now})
			}
		}
	}
}

// collect gathers what changes.
func (x *planner) collect() {
	for _, w := range x.all {
		if w.d == nil {
			continue
		}
		a := w.d.Describe(w.d.Machine.Hostname(), w.before)
		if a.Do != "add" && a.Do != "change" {
			continue
		}
		c := Changed{Decision: w.d}
		if w.fresh {
			a.What = fresh(w.d.Machine)
		} else {
			c.Before = &w.before
			a.What = withImage(a.What, w.before.Assignment.Name)
		}
		x.plan.Changed = append(x.plan.Changed, c)
		x.plan.Lines = append(x.plan.Lines, Line{a.Do, "machine", w.d.Machine.Hostname(), a.What})
	}
	for _, m := range x.plan.Forget {
		x.plan.Lines = append(x.plan.Lines, Line{"remove", "machine", m.Hostname(), []string{"deleted, with its boots"}})
	}
	for _, r := range x.plan.Rollouts {
		x.plan.Lines = append(x.plan.Lines, Line{rolloutLine, "assignment", r.Selector, []string{x.rolloutText(r)}})
	}
	x.plan.Basis = x.basis()
}

// withImage adds the image that a machine had to what is said of the one that it gets.
func withImage(what []string, had string) []string {
	for i, text := range what {
		if strings.HasPrefix(text, "assigned ") && had != "" {
			what[i] = text + " (was " + had + ")"
		}
	}
	return what
}

// fresh says what a new machine is.
func fresh(m fleet.Machine) []string {
	list := []string{string(m.State)}
	if len(m.MACs) > 0 {
		list = append(list, "card "+strings.Join(m.MACs, " "))
	}
	if m.UUID != "" {
		list = append(list, "UUID "+m.UUID)
	}
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		list = append(list, "label "+k+"="+m.Labels[k])
	}
	if m.Assignment.Image != "" {
		list = append(list, "image "+m.Assignment.Name)
	}
	if m.Pin != nil {
		list = append(list, "kept out of rollouts")
	}
	return list
}

// basis is a name for what would be done, and to what.
func (x *planner) basis() string {
	type machine struct {
		ID     ingot.MachineID
		Name   string
		State  fleet.State
		Labels map[string]string
		Image  ingot.Digest
	}
	h := sha256.New()
	e := json.NewEncoder(h)
	add := func(v any) { _ = e.Encode(v) } // neither a hash nor these values fail
	add(x.plan.Lines)
	for _, c := range x.plan.Changed {
		add(c.Decision.Machine.Assignment.Image)
		if m := c.Before; m != nil {
			add(machine{m.ID, m.Name, m.State, m.Labels, m.Assignment.Image})
		}
	}
	for _, r := range x.plan.Rollouts {
		add(r.Image)
		add(r.Machines)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// own computes what the files own of the labels of machines, with what earlier files gave.
func (x *planner) own() {
	has := x.parsed.Sections
	for _, o := range x.last.Owned {
		w := x.byID[o.Machine]
		if w == nil {
			continue // it was forgotten or merged
		}
		left := Owned{Machine: o.Machine}
		if has.Machines {
			left.Listed, left.Labels = o.Listed && !w.listed, without(o.Labels, w.owned.Labels, w.owned.Set)
		} else {
			w.owned.Listed, w.owned.Labels = o.Listed, without(o.Labels, w.owned.Set)
		}
		if has.Labels {
			left.Set = without(o.Set, w.owned.Labels, w.owned.Set)
		} else {
			w.owned.Set = joined(w.owned.Set, without(o.Set, w.owned.Labels))
		}
		switch {
		case left.empty():
		case x.opts.Prune:
			x.plan.Next.Prune = append(x.plan.Next.Prune, left)
			x.pruneLabels(left)
		default:
			x.stays.leave(w, left)
		}
	}
}

// ownPins computes what the files own of the pins of machines, and then all that they own.
func (x *planner) ownPins() {
	for _, o := range x.last.Owned {
		w := x.byID[o.Machine]
		switch {
		case w == nil || w.gone || o.Pin == nil || w.owned.Pin != nil:
		case !x.parsed.Sections.Pins:
			w.owned.Pin = o.Pin
		case x.opts.Prune:
			left := Owned{Machine: o.Machine, Pin: o.Pin}
			x.plan.Next.Prune = append(x.plan.Next.Prune, left)
			x.prunePin(left)
		default:
			x.stays.pinned = append(x.stays.pinned, w.machine().Hostname())
			w.owned.Pin = o.Pin
		}
	}
	x.stays.note(x)
	for _, w := range x.all {
		if !w.owned.empty() && !w.gone {
			x.plan.Next.Owned = append(x.plan.Next.Owned, w.owned)
		}
	}
	slices.SortFunc(x.plan.Next.Owned, func(a, b Owned) int { return cmp.Compare(a.Machine, b.Machine) })
}

// leftovers are what earlier files gave, and what stays although files do not say it any more.
type leftovers struct {
	listed, pinned []string            // names of machines
	labels         map[string][]string // names of machines, by labels
}

// leave keeps what earlier files gave to a machine.
func (l *leftovers) leave(w *work, left Owned) {
	name := w.machine().Hostname()
	if left.Listed {
		l.listed = append(l.listed, name)
		w.owned.Listed = true
	}
	if labels := slices.Sorted(maps.Keys(joined(left.Labels, left.Set))); len(labels) > 0 {
		if l.labels == nil {
			l.labels = map[string][]string{}
		}
		words := strings.Join(labels, ", ")
		l.labels[words] = append(l.labels[words], name)
	}
	w.owned.Labels, w.owned.Set = joined(w.owned.Labels, left.Labels), joined(w.owned.Set, left.Set)
}

// note says what stays.
func (l *leftovers) note(x *planner) {
	if len(l.listed) > 0 {
		x.note("not in these files any more, and left as they are: machines %s", some(l.listed))
	}
	for _, words := range slices.Sorted(maps.Keys(l.labels)) {
		x.note("not in these files any more, and left (--prune removes them): labels %s of %s", words, some(l.labels[words]))
	}
	if len(l.pinned) > 0 {
		x.note("not in these files any more, and left (--prune removes them): pins of %s", some(l.pinned))
	}
}

// pruneLabels takes from a machine the labels that earlier files gave it, unless an operator changed them
// since; or it deletes the machine.
func (x *planner) pruneLabels(o Owned) {
	w := x.byID[o.Machine]
	if w == nil {
		return
	}
	if o.Listed && x.opts.Forget && !w.listed {
		x.plan.Forget = append(x.plan.Forget, w.before)
		w.d, w.gone = nil, true
		return
	}
	labels := maps.Clone(w.machine().Labels)
	for k, v := range joined(o.Labels, o.Set) {
		if is, has := labels[k]; has && is == v {
			delete(labels, k)
		}
	}
	if len(labels) != len(w.machine().Labels) {
		x.decide(w).SetLabels(labels)
	}
}

// prunePin takes back a pin that earlier files gave to a machine, unless an operator changed it since.
func (x *planner) prunePin(o Owned) {
	w := x.byID[o.Machine]
	if w == nil || w.gone || o.Pin == nil {
		return
	}
	if pin := w.machine().Pin; pin != nil && pin.Why == *o.Pin {
		x.decide(w).Pin(nil)
	}
}

// without returns the entries of a map whose keys others lack.
func without(m map[string]string, others ...map[string]string) map[string]string {
	var left map[string]string
	for k, v := range m {
		if slices.ContainsFunc(others, func(o map[string]string) bool { _, has := o[k]; return has }) {
			continue
		}
		if left == nil {
			left = map[string]string{}
		}
		left[k] = v
	}
	return left
}

func joined(a, b map[string]string) map[string]string {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(b)
	maps.Copy(out, a)
	return out
}
