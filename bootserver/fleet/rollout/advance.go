package rollout

import (
	"fmt"
	"slices"
	"time"

	"ingot/internal/count"
)

// advance goes to the next state if it is time, and reports whether it did.
func (d *decider) advance() bool {
	switch d.r.State {
	case Planned:
		d.set(d.r.enter(d.r.waveState(), "", "", d.now))
		return true
	case Canary, Wave:
		return d.endWave()
	case Baking:
		return d.endBake()
	}
	return false
}

// progress is how far the machines up to the present wave are.
type progress struct {
	good, bad int
	moving    []Evidence // machines that may still say something
	waiting   []Evidence // machines that were not moved yet, and can be
	missing   []Evidence // machines that are waited for and cannot be moved: they are not healthy
	moved     int        // machines of the present wave that were moved
	lastMove  time.Time
	lastSeen  time.Time // see decider.underway
}

// standing is what a member is to its wave.
type standing int

const (
	outside standing = iota // it neither moves nor is waited for
	waiting                 // to be moved
	unfit                   // to be moved, but it is not healthy
	moving                  // it was moved, and has not said anything conclusive
	good
	bad
)

// standingOf returns what a member is to its wave, and why.
func (d *decider) standingOf(m *Member) (standing, string) {
	now, known := d.f.Machines[m.Machine]
	switch {
	case !known || m.Left != "" || !m.Gone.IsZero():
		return outside, m.Left
	case m.touched() && m.GivenUp && m.GaveUp <= d.r.Seen:
		return outside, "given up before the rollout was resumed"
	case m.touched() && m.GivenUp:
		return bad, ""
	case m.touched() && m.good() && now.Unreadable == "":
		return good, ""
	case m.touched() && !now.counts(m):
		return outside, now.out()
	case m.touched():
		return moving, d.lateness(m, now)
	case now.out() != "":
		return outside, now.out()
	case now.Assigned.Image == d.r.Image.Image:
		return outside, "it has the image already"
	case m.From.Image != "" && now.Assigned.Image != m.From.Image: // as for what was moved, the later word wins
		return outside, fmt.Sprintf("an operator assigned it %s since the rollout was started", now.Assigned.Name)
	case !d.f.healthy(&now, d.now):
		return unfit, d.illness(now)
	}
	return waiting, ""
}

// lateness says what is missing of a machine that was moved.
func (d *decider) lateness(m *Member, now Machine) string {
	b, has := now.latest()
	switch o := d.own(m, now); {
	case now.Unreadable != "":
		return "what it did cannot be read: " + now.Unreadable
	case o != nil:
		return "it " + o.Text
	case d.r.Policy.How != NextBoot && now.NoOrder != "" && (!has || d.runsOther(m, b)):
		return "it has not booted the image since it was assigned it, and somebody has to reboot it: " + now.NoOrder
	case !has || b.Number <= m.Number:
		return "it has not booted since it was assigned the image"
	case b.Outcome == "":
		return fmt.Sprintf("its boot is in stage %s", b.Stage)
	}
	text := fmt.Sprintf("its latest boot was %s", b.Outcome)
	if b.Reason != "" {
		text += ": " + b.Reason
	}
	return text
}

// illness says why a machine is not healthy.
func (d *decider) illness(m Machine) string {
	b, has := m.latest()
	switch {
	case m.Unreadable != "":
		return "what it did cannot be read: " + m.Unreadable
	case !has:
		return "it never booted"
	case b.Down:
		return "it shuts down"
	case b.Unwell:
		return "it reports that it is not healthy"
	case d.f.silent(b, d.now):
		return "it is not heard from"
	case b.Outcome == "":
		return fmt.Sprintf("its boot is in stage %s", b.Stage)
	case b.Order != nil && b.Order.Pending:
		return "it " + b.Order.Text
	}
	text := fmt.Sprintf("its latest boot was %s", b.Outcome)
	if b.Reason != "" {
		text += ": " + b.Reason
	}
	return text
}

// progress looks at the machines up to the present wave.
func (d *decider) progress() (p progress) {
	for i := range d.members {
		m := &d.members[i]
		if m.Wave > d.r.Wave {
			continue
		}
		if m.Wave == d.r.Wave && !m.Moved.IsZero() {
			p.moved++
		}
		if m.Moved.After(p.lastMove) {
			p.lastMove = m.Moved
		}
		if t := d.underway(m, d.f.Machines[m.Machine]); m.touched() && t.After(p.lastSeen) {
			p.lastSeen = t
		}
		s, why := d.standingOf(m)
		e := Evidence{Machine: m.Machine, Name: m.Name, Reason: why}
		switch s {
		case good:
			p.good++
		case bad:
			p.bad++
		case moving:
			p.moving = append(p.moving, e)
		case waiting:
			p.waiting = append(p.waiting, e)
		case unfit:
			p.missing = append(p.missing, e)
		}
	}
	return p
}

// quorum reports whether enough machines of so many are good.
func (p *progress) quorum(percent int) bool {
	all := p.good + p.bad + len(p.missing)
	return p.good*100 >= all*percent
}

// endWave ends the wave if every machine of it that can be moved has said what it thinks of the image.
func (d *decider) endWave() bool {
	if d.r.Wave == 0 && d.r.Policy.Canary > 0 && d.n < MaxStep {
		d.replaceCanary()
	}
	p := d.progress()
	percent := d.r.quorum()
	if len(p.moving)+len(p.waiting) == 0 && p.quorum(percent) {
		if p.moved == 0 && p.lastMove.Before(d.r.Since) && len(d.ailing()) == 0 { // there was nothing to do
			return d.nextWave()
		}
		d.set(d.r.enter(Baking, "", "", d.now))
		return true
	}
	return d.tired(p, percent)
}

// replaceCanary makes the next machine a canary if all of them left, are kept out now, or were given up
// before a person resumed the rollout.
func (d *decider) replaceCanary() {
	next := -1
	for i := range d.members {
		m := &d.members[i]
		s, _ := d.standingOf(m)
		switch {
		case m.Wave == 0 && s != outside:
			return
		case next < 0 && s == waiting:
			next = i
		}
	}
	if next >= 0 {
		d.change(next).Wave = 0
	}
}

// tired pauses the rollout if there was no progress for longer than its patience.
func (d *decider) tired(p progress, percent int) bool {
	since := d.r.Since
	for _, t := range []time.Time{p.lastMove, p.lastSeen, d.lastResult(), d.f.Stepped, d.f.Listening} {
		if t.After(since) {
			since = t
		}
	}
	if d.f.Closed || d.now.Sub(since) <= d.r.Policy.Patience || d.canMove() {
		return false
	}
	orders, held := d.canOrder()
	if orders {
		return false
	}
	late := d.late(p)
	if len(late) == 0 && len(p.moving) > 0 && !held {
		return false
	}
	for _, list := range [][]Evidence{late, p.missing} {
		if len(list) > 0 {
			return d.inconclusive(fmt.Sprintf("too little is known of %s after %s", WaveName(d.r.Wave), d.r.Policy.Patience),
				list)
		}
	}
	if len(p.waiting) > 0 || held {
		return d.inconclusive("no more machines may become unavailable", d.unavailable())
	}
	return d.inconclusive(fmt.Sprintf("less than %d %% of the machines are healthy with the image", percent), d.failed())
}

// late returns the machines that were moved and are overdue.
func (d *decider) late(p progress) (list []Evidence) {
	for _, e := range p.moving {
		i := slices.IndexFunc(d.members, func(m Member) bool { return m.Machine == e.Machine })
		if d.overdue(&d.members[i], d.f.Machines[e.Machine]) {
			list = append(list, e)
		}
	}
	return list
}

func (d *decider) inconclusive(what string, list []Evidence) bool {
	text := fmt.Sprintf("paused in %s: %s", WaveName(d.r.Wave), what)
	if len(list) > 0 {
		text += "; missing: " + named(list)
	}
	d.set(d.r.stop(Paused, Stop{Reason: Inconclusive, Evidence: list, Text: text}, d.now))
	return true
}

// failed lists the machines that were given up.
func (d *decider) failed() (list []Evidence) {
	for i := range d.members {
		if m := &d.members[i]; m.touched() && m.GivenUp {
			list = append(list, evidenceOf(m, Bad))
		}
	}
	return list
}

// unavailable lists the machines that use the budget.
func (d *decider) unavailable() (list []Evidence) {
	for i := range d.members {
		m := &d.members[i]
		if now, known := d.f.Machines[m.Machine]; known && now.counts(m) && !d.f.available(&now, d.now) {
			list = append(list, Evidence{Machine: m.Machine, Name: m.Name, Reason: d.illness(now)})
		}
	}
	return list
}

// lastResult is when the latest result was counted.
func (d *decider) lastResult() (t time.Time) {
	for i := range d.members {
		for _, r := range d.members[i].Results {
			if r.At.After(t) {
				t = r.At
			}
		}
	}
	return t
}

// endBake ends the bake if it lasted long enough and every machine that has the image is healthy and heard
// from.
func (d *decider) endBake() bool {
	since := d.r.Since
	if d.f.Stepped.After(since) {
		since = d.f.Stepped
	}
	if d.now.Sub(since) < d.r.Policy.Bake {
		return false
	}
	// machines that were kept out are back, or some that were good are not any more
	if p := d.progress(); len(p.moving)+len(p.waiting) > 0 || !p.quorum(d.r.quorum()) {
		d.set(d.r.enter(d.r.waveState(), "", "", d.now))
		return true
	}
	if list := d.ailing(); len(list) > 0 {
		return d.tiredOfBaking(since, list)
	}
	return d.nextWave()
}

// ailing lists the machines that have the image and are not healthy, or not heard from.
func (d *decider) ailing() (list []Evidence) {
	for i := range d.members {
		m := &d.members[i]
		now, known := d.f.Machines[m.Machine]
		if !known || !m.touched() || !m.good() || !now.counts(m) {
			continue
		}
		b, _ := now.latest()
		switch {
		case !d.f.healthy(&now, d.now):
			list = append(list, Evidence{Machine: m.Machine, Name: m.Name, Reason: d.illness(now)})
		case !d.f.heardNow(b, d.now):
			list = append(list, Evidence{Machine: m.Machine, Name: m.Name, Reason: "it is not heard from"})
		}
	}
	return list
}

// tiredOfBaking pauses the rollout if machines are not heard from long after the bake should have ended.
func (d *decider) tiredOfBaking(since time.Time, list []Evidence) bool {
	if d.f.Listening.After(since) {
		since = d.f.Listening
	}
	if d.now.Sub(since) <= d.r.Policy.Bake+d.r.Policy.Patience {
		return false
	}
	return d.inconclusive("machines that have the image are not healthy any more", list)
}

// nextWave goes to the next wave, or ends the rollout.
func (d *decider) nextWave() bool {
	ended := d.r.Wave
	if ended >= d.r.Waves-1 {
		d.set(d.r.enter(Done, "", d.summary(), d.now))
		return true
	}
	d.r.Wave++
	if d.r.Policy.pausesAfter(ended) {
		next := d.r.waveState()
		why := Stop{Reason: ByPlan, Text: fmt.Sprintf("paused as planned: %s is over", WaveName(ended))}
		r := d.r.stop(Paused, why, d.now)
		r.Before = next
		d.set(r)
		return true
	}
	d.set(d.r.enter(d.r.waveState(), "", "", d.now))
	return true
}

// summary says how many machines have the image at the end.
func (d *decider) summary() string {
	n, rest := 0, 0
	for i := range d.members {
		m := &d.members[i]
		now, known := d.f.Machines[m.Machine]
		switch {
		case m.touched() && m.good(), known && !m.touched() && now.Assigned.Image == d.r.Image.Image:
			n++
		default:
			rest++
		}
	}
	text := fmt.Sprintf("%s %s %s", count.Of(n, "machine"), count.Verb(n, "has", "have"), d.r.Image.Name)
	if rest > 0 {
		text += fmt.Sprintf("; %d %s not", rest, count.Verb(rest, "does", "do"))
	}
	return text
}

// canMove reports whether a machine of the present wave is about to be moved.
func (d *decider) canMove() bool {
	room := d.rooms()
	for i := range d.members {
		m := &d.members[i]
		if m.Wave > d.r.Wave || room[d.domain(*m)] <= 0 {
			continue
		}
		if s, _ := d.standingOf(m); s == waiting {
			return true
		}
	}
	return false
}

// move assigns the image to as many machines as may become unavailable.
func (d *decider) move() {
	if d.f.Closed {
		return
	}
	room := d.rooms()
	for i := range d.members {
		m := &d.members[i]
		if d.n >= MaxStep {
			return
		}
		if m.Wave > d.r.Wave {
			continue
		}
		if s, _ := d.standingOf(m); s != waiting {
			continue
		}
		key := d.domain(*m)
		if room[key] <= 0 {
			continue
		}
		room[key]--
		now := d.f.Machines[m.Machine]
		b, _ := now.latest()
		c := d.change(i)
		c.From, c.Moved, c.Number = now.Assigned, d.now, b.Number
		if b.Image == d.r.Image.Image && !b.Once { // it runs the image already: nobody will reboot it for that
			c.Number--
		}
		d.moves = append(d.moves, Move{Machine: c.Machine, To: d.r.Image, Assigned: now.Assigned, Since: now.Since})
	}
}

// rooms returns how many more machines of each failure domain may become unavailable.
func (d *decider) rooms() map[string]int {
	all, unavailable := d.domains()
	room := map[string]int{}
	for key, n := range all {
		room[key] = d.room(d.r.Policy.MaxUnavailable.Of(n), unavailable[key])
	}
	return room
}

// domains counts the machines of each failure domain, and those that are not available or may not be
// at any moment.
func (d *decider) domains() (all, unavailable map[string]int) {
	all, unavailable = map[string]int{}, map[string]int{}
	for i := range d.members {
		m := &d.members[i]
		now, known := d.f.Machines[m.Machine]
		if !known || !now.counts(m) {
			continue
		}
		key := d.domain(*m)
		all[key]++
		if s, _ := d.standingOf(m); s == moving || !d.f.available(&now, d.now) {
			unavailable[key]++
		}
	}
	return all, unavailable
}
