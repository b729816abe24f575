package rollout

import (
	"fmt"
	"slices"

	"ingot"
)

// observe counts what boots of the image said since the last time, and notes which machines an
// operator took out of the rollout.
func (d *decider) observe() {
	for i := range d.members {
		if d.n >= MaxStep {
			return
		}
		m := &d.members[i]
		if !m.touched() {
			continue
		}
		now, known := d.f.Machines[m.Machine]
		if why := d.leaves(m, now, known); why != "" {
			d.change(i).Left = why
			continue
		}
		if now.Unreadable == "" { // else half of what it did would be taken for all of it
			d.observeBoots(i, now)
			d.observeSilence(i, now)
		}
		d.observeGivenUp(i, now)
		d.observeOrder(i, now)
	}
}

// leaves returns why a machine that was moved belongs to the rollout no more; empty if it does. An
// operator's later word wins.
func (d *decider) leaves(m *Member, now Machine, known bool) string {
	switch {
	case !known:
		return "it was forgotten"
	case now.Assigned.Image != d.r.Image.Image:
		return fmt.Sprintf("an operator assigned it %s", now.Assigned.Name)
	case !now.Since.Equal(m.Moved):
		return fmt.Sprintf("an operator assigned it %s again", now.Assigned.Name)
	}
	return ""
}

// observeBoots counts boots of the image since the machine was moved. A boot that was counted may have
// turned out otherwise: a machine that was only slow reports after its deadline.
func (d *decider) observeBoots(i int, now Machine) {
	for _, b := range now.Boots {
		m := &d.members[i]
		if b.Number <= m.Number || b.Image != d.r.Image.Image || b.Once {
			continue
		}
		at := slices.IndexFunc(m.Results, func(r Result) bool { return r.Boot == b.ID && !r.Late && !r.Void })
		class := d.class(b)
		switch {
		case class == Open || at < 0 && len(m.Results) >= maxResults:
		case at < 0:
			d.count(i, resultOf(b, class))
		case m.Results[at].Class == Good && class == Bad: // it crashed later
			if !slices.ContainsFunc(m.Results, func(r Result) bool { return r.Boot == b.ID && r.Late }) {
				late := resultOf(b, class)
				late.Late = true
				d.count(i, late)
			}
		case m.Results[at].Class != class && class == Good:
			c := d.change(i)
			c.Results = slices.Clone(c.Results)
			c.Results[at].Void = true
			d.count(i, resultOf(b, class))
		}
	}
}

// count adds a result.
func (d *decider) count(i int, r Result) {
	m := d.change(i)
	d.r.Counted++
	d.touched = true
	r.Seq, r.At = d.r.Counted, d.now
	if before, has := m.last(); has && before.Class == Bad && r.Class == Bad && before.Seq > d.r.Seen {
		r.Again = true
	}
	m.Results = append(slices.Clone(m.Results), r)
}

// maxReason limits the stored reason of a result, in bytes.
const maxReason = 400

func resultOf(b Boot, c Class) Result {
	r := Result{Boot: b.ID, Class: c, Stage: b.Stage, Code: b.Code, Reason: b.Reason}
	switch {
	case c == Good:
		r.Reason, r.Stage = "", ""
	case b.Crash != "":
		r.Reason = "the kernel crashed: " + b.Crash
	}
	if len(r.Reason) > maxReason {
		r.Reason = r.Reason[:maxReason]
	}
	return r
}

// observeSilence counts a healthy machine that is not heard from any more as a failure, until it is
// heard again. One that shut down in order is off.
func (d *decider) observeSilence(i int, now Machine) {
	m := &d.members[i]
	b, has := now.latest()
	if !has || b.Image != d.r.Image.Image || b.Number <= m.Number || b.Once || !now.counts(m) {
		return
	}
	at := slices.IndexFunc(m.Results, func(r Result) bool { return r.Boot == b.ID && r.Late && !r.Void })
	switch silent := d.f.silent(b, d.now); {
	case silent && at < 0 && len(m.Results) < maxResults:
		d.count(i, Result{Boot: b.ID, Class: Bad, Late: true, Stage: ingot.StageHealthy,
			Reason: "it was healthy, and is not heard from any more"})
	case !silent && at >= 0 && b.Crash == "" && d.f.heardNow(b, d.now):
		c := d.change(i)
		c.Results = slices.Clone(c.Results)
		c.Results[at].Void = true
		d.touched = true
	}
}

// observeGivenUp notes that a machine failed too often with the image. Once a boot of it is healthy
// again, it is given up no more.
func (d *decider) observeGivenUp(i int, now Machine) {
	m := &d.members[i]
	failures, last := 0, 0
	for _, r := range slices.Backward(m.Results) {
		if r.Void || r.Class == Elsewhere {
			continue
		}
		if r.Class != Bad {
			break
		}
		failures++
		last = max(last, r.Seq)
	}
	up := now.GaveUp || failures >= d.r.Policy.Attempts
	if up == m.GivenUp {
		return
	}
	c := d.change(i)
	c.GivenUp, c.GaveUp = up, 0
	if up {
		if last == 0 { // its boots were not seen: the machine's own record says so
			d.r.Counted++
			last = d.r.Counted
		}
		c.GaveUp, d.touched = last, true
	}
}
