package desired

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot/bootserver/fleet"
	"ingot/internal/count"
	"ingot/internal/yamlfile"
)

// said returns the assignment of the files before to the same machines.
func (x *planner) said(to string) (Assignment, bool) {
	i := slices.IndexFunc(x.last.Spec.Assignments, func(a Assignment) bool { return a.To == to })
	if i < 0 {
		return Assignment{}, false
	}
	return x.last.Spec.Assignments[i], true
}

// checkImages reports images that nobody knows.
func (x *planner) checkImages() {
	for _, m := range x.spec.Machines {
		if m.Image != "" && m.Image != None {
			x.checkImage(m.Image, m.from.at("image", m.At))
		}
	}
	for _, a := range x.spec.Assignments {
		if a.Image != "" && a.Image != None {
			x.checkImage(a.Image, a.from.at("image", a.At))
		}
	}
	for i, r := range x.spec.Rules {
		same := func(other fleet.Rule) bool { return equal(r, other) }
		if r.Image != "" && !slices.ContainsFunc(x.last.Spec.Rules, same) {
			x.checkImage(r.Image, x.parsed.rules[i])
		}
	}
}

func (x *planner) checkImage(name string, at yamlfile.Place) {
	if x.facts.Images[name].Image == "" {
		x.unknownImage(name, at)
	}
}

func (x *planner) unknownImage(name string, at yamlfile.Place) {
	fix := "build or pull it, or choose another: ingot image ls"
	if near := yamlfile.Nearest(name, x.facts.Known); near != "" {
		fix = fmt.Sprintf("write %q, or build or pull it: ingot image ls", near)
	}
	err := x.facts.Images[name].Err
	if err == nil {
		err = fmt.Errorf("no such image: %q", name)
	}
	x.fault(at, fix, "image: %v", err)
}

// assign gives machines their images.
func (x *planner) assign() {
	x.checkImages()
	for _, w := range x.all {
		if w.image != "" && w.image != None {
			x.give(w, w.image, "in the fleet file", w.at)
		}
	}
	matched := make([][]*work, len(x.spec.Assignments))
	for i, a := range x.spec.Assignments {
		_, noted := x.said(a.To)
		for _, w := range x.choose(a.To, "to", a.from.at("to", a.At), noted) {
			m := w.machine()
			if w.image == "" && (m.State == fleet.Approved || w.listed && m.State != fleet.Retired) {
				w.matches = append(w.matches, i)
				matched[i] = append(matched[i], w)
			}
		}
	}
	x.overlaps()
	for i, a := range x.spec.Assignments {
		x.assignOne(a, matched[i])
	}
}

// overlaps reports machines that two assignments match.
func (x *planner) overlaps() {
	type pair struct{ a, b int }
	both := map[pair][]string{}
	for _, w := range x.all {
		if len(w.matches) > 1 {
			p := pair{w.matches[0], w.matches[1]}
			both[p] = append(both[p], w.machine().Hostname())
		}
	}
	if len(x.faults) > 0 {
		return // a label may be what is wrong
	}
	for p, names := range both {
		a, b := x.spec.Assignments[p.a], x.spec.Assignments[p.b]
		x.fault(b.from.at("to", b.At), "narrow one of them, or write an image at the machine",
			"to: %q matches %s, and so does %q at %s", b.To, some(names), a.To, a.from.at("to", a.At))
	}
}

// assignOne gives the machines of an assignment its image, at once or by a rollout.
func (x *planner) assignOne(a Assignment, matched []*work) {
	image := x.facts.Images[a.Image]
	if image.Image == "" {
		return
	}
	var first, differ []*work
	moving, pinned, once := map[string][]string{}, []string{}, []string{}
	for _, w := range matched {
		m := w.machine()
		if len(w.matches) > 1 {
			continue // a fault
		}
		in, is := x.facts.Moving[m.ID]
		switch {
		case is && in.Image == image.Image && m.Assignment.Image != image.Image:
			moving[in.Rollout] = append(moving[in.Rollout], m.Hostname())
		case m.Assignment.Image == image.Image:
		case m.Assignment.Image == "":
			first = append(first, w)
		case m.Pin != nil:
			pinned = append(pinned, m.Hostname())
		case m.Once != nil:
			once = append(once, m.Hostname())
		case is:
			x.fault(a.from.at("image", a.At), "wait for it, or end it: ingot rollout abort "+in.Rollout,
				"%s belongs to rollout %s, which has not ended", m.Hostname(), in.Rollout)
		default:
			differ = append(differ, w)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(moving)) {
		x.note("rollout %s brings %s to %s of %s: ingot rollout show %s", id, image.Name,
			count.Of(len(moving[id]), "machine"), a.To, id)
	}
	if len(pinned) > 0 {
		x.note("pinned machines of %s keep their images: %s", a.To, some(pinned))
	}
	if len(once) > 0 {
		x.note("machines of %s whose next boot is decided keep their images until then: %s", a.To, some(once))
	}
	at := a.from.at("image", a.At)
	for _, w := range first {
		x.give(w, a.Image, "fleet file, "+a.To, at)
	}
	x.move(a, image, differ, at)
}

// move gives machines another image.
func (x *planner) move(a Assignment, image Image, differ []*work, at yamlfile.Place) {
	how := x.spec.policyOf(a)
	if len(differ) <= how.above() {
		for _, w := range differ {
			x.give(w, a.Image, "fleet file, "+a.To, at)
		}
		return
	}
	if back, is := x.facts.Back[a.To]; is && back.Image == image.Image && !x.opts.Retry {
		x.note("rollout %s of %s to %s was aborted: its machines keep their images until the files name another one, or "+
			"with --retry", back.Rollout, image.Name, a.To)
		return
	}
	if image.Err != nil {
		x.unknownImage(a.Image, at)
		return
	}
	r := Rollouts{Selector: a.To, Image: image.ImageRef, How: how, At: at}
	for _, w := range differ {
		r.Machines = append(r.Machines, w.machine().ID)
	}
	x.plan.Rollouts = append(x.plan.Rollouts, r)
}

// give assigns an image to a machine.
func (x *planner) give(w *work, name, why string, at yamlfile.Place) {
	image := x.facts.Images[name]
	m := w.machine()
	switch {
	case image.Image == "", m.Assignment.Image == image.Image:
	case image.Err != nil:
		x.unknownImage(name, at)
	default:
		x.decide(w).Assign(fleet.Assignment{ImageRef: image.ImageRef, Why: why, Since: x.facts.Now})
	}
}

// rolloutText says how a rollout brings its image to machines.
func (x *planner) rolloutText(r Rollouts) string {
	p, _ := r.How.Policy() // Parse has checked it
	p = p.WithDefaults(0, 1)
	var waves []string
	for _, w := range p.Waves {
		waves = append(waves, fmt.Sprintf("%d%%", w))
	}
	text := fmt.Sprintf("%s %s %s by a rollout: %d canary, waves %s, at most %s unavailable",
		count.Of(len(r.Machines), "machine"), count.Verb(len(r.Machines), "gets", "get"),
		r.Image.Name, p.Canary, strings.Join(waves, ","), p.MaxUnavailable)
	if p.Spread != "" {
		text += " of each " + p.Spread
	}
	return text
}

// compare finds what changes in what the record says beside machines.
func (x *planner) compare() {
	next := &x.plan.Next
	next.Options = x.opts
	next.Spec = *x.spec
	next.Spec.Schema = ""
	has := x.parsed.Sections
	if !has.Rules {
		next.Spec.Rules = x.last.Spec.Rules
	} else {
		x.compareRules(next)
	}
	next.Images = map[string]fleet.ImageRef{}
	if !has.Assignments {
		next.Spec.Assignments, next.Idle = x.last.Spec.Assignments, true
		for _, a := range x.last.Spec.Assignments {
			next.Images[a.Image] = x.last.Images[a.Image]
		}
	}
	for _, name := range x.spec.Images() {
		if im := x.facts.Images[name]; im.Image != "" {
			next.Images[name] = im.ImageRef
		}
	}
	if has.Assignments {
		x.compareAssignments()
	}
	if has.Rollout && !equal(x.last.Spec.Rollout, x.spec.Rollout) {
		x.line("change", "policy", "rollout", "how images reach many machines")
	}
}

func (x *planner) line(do, kind, name string, what ...string) {
	x.plan.Lines = append(x.plan.Lines, Line{do, kind, name, what})
}

// compareRules finds rules that are new, and those that files lack.
func (x *planner) compareRules(next *Content) {
	in := func(list []fleet.Rule, r fleet.Rule) bool {
		return slices.ContainsFunc(list, func(o fleet.Rule) bool { return equal(r, o) })
	}
	before, rules := x.last.Spec.Rules, slices.Clone(x.spec.Rules)
	for _, r := range rules {
		if !in(before, r) {
			x.line("add", "rule", r.String(), ruleText(r))
		}
	}
	for _, r := range before {
		switch {
		case in(x.spec.Rules, r):
		case x.opts.Prune:
			x.line("remove", "rule", r.String(), ruleText(r))
		default:
			x.note("not in these files any more, and left, after theirs (--prune removes it): %s", r)
			rules = append(rules, r)
		}
	}
	if len(rules) == len(before) && !equal(rules, before) && !slices.ContainsFunc(rules,
		func(r fleet.Rule) bool { return !in(before, r) }) {
		x.line("change", "rule", "rules", "their order")
	}
	next.Spec.Rules = rules
}

func ruleText(r fleet.Rule) string {
	var list []string
	if r.Approve {
		list = append(list, "approves")
	}
	if len(r.Labels) > 0 {
		list = append(list, "labels")
	}
	if r.Image != "" {
		list = append(list, "assigns "+r.Image)
	}
	return strings.Join(list, ", ")
}

// compareAssignments finds assignments that are new, that changed, and that files lack.
func (x *planner) compareAssignments() {
	for _, a := range x.spec.Assignments {
		old, had := x.said(a.To)
		ref, was := x.facts.Images[a.Image].ImageRef, x.last.Images[old.Image]
		switch {
		case !had:
			x.line("add", "assignment", a.To, "image "+a.Image)
		case ref.Image != was.Image:
			x.line("change", "assignment", a.To, fmt.Sprintf("image %s (was %s)", a.Image, old.Image))
		case !equal(a.Rollout, old.Rollout):
			x.line("change", "assignment", a.To, "how it reaches many machines")
		}
	}
	for _, old := range x.last.Spec.Assignments {
		if !slices.ContainsFunc(x.spec.Assignments, func(a Assignment) bool { return a.To == old.To }) {
			x.line("remove", "assignment", old.To, "its machines keep "+old.Image)
		}
	}
}

// equal compares values as they are stored.
func equal(a, b any) bool {
	one, err := json.Marshal(a)
	other, err2 := json.Marshal(b)
	return err == nil && err2 == nil && string(one) == string(other)
}
