package rollout

import (
	"fmt"
	"slices"
	"time"

	"ingot"
	"ingot/internal/count"
)

// Action is an order to the system of a machine, or that one is withdrawn.
type Action struct {
	Machine  ingot.MachineID
	Boot     ingot.BootID // that must be the machine's latest one
	Drain    ingot.Drain
	Withdraw uint64 // the number of the order that is withdrawn; 0: an order to reboot is given
}

// MaxActions limits the orders of a Step: each writes the record of a boot, which may be large.
const MaxActions = 3

// own returns the order that the rollout gave the latest boot of a machine, if it did.
func (d *decider) own(m *Member, now Machine) *Order {
	b, has := now.latest()
	if o := b.Order; has && o != nil && o.Rollout == d.r.ID && !m.Ordered.IsZero() && o.Given.Equal(m.Ordered) {
		return o
	}
	return nil
}

// runsOther reports whether the latest boot of a machine that was moved says nothing of the image: it is older, or
// of another image.
func (d *decider) runsOther(m *Member, b Boot) bool {
	return b.Number <= m.Number || b.Image != d.r.Image.Image || b.Once
}

// orderable reports whether a machine that was moved is to be ordered to reboot, as soon as the budget permits.
// It is ordered once in a boot, and again if a person resumed the rollout after that led to nothing.
func (d *decider) orderable(m *Member, now Machine) bool {
	b, has := now.latest()
	switch {
	case d.r.Policy.How == NextBoot, !has, now.NoOrder != "", !d.runsOther(m, b), now.out() != "":
		return false
	case b.Order != nil && b.Order.Pending, !d.f.healthy(&now, d.now):
		return false
	case now.Assigned.Image != d.r.Image.Image || !now.Since.Equal(m.Moved): // it is moved in this step
		return false
	case m.Stuck != "":
		return m.StuckAt <= d.r.Seen
	}
	return m.Ordered.IsZero()
}

// order orders machines that were moved to reboot: as many as may be unavailable, others that are so or may be at
// any moment counted.
func (d *decider) order() {
	if d.f.Closed || d.r.Policy.How == NextBoot {
		return
	}
	room := d.orderRooms()
	for i := range d.members {
		m := &d.members[i]
		now := d.f.Machines[m.Machine]
		if len(d.actions) == MaxActions || d.n >= MaxStep {
			return
		}
		if s, _ := d.standingOf(m); s != moving || !d.orderable(m, now) {
			continue
		}
		key := d.domain(*m)
		if room[key] <= 0 {
			continue
		}
		room[key]--
		b, _ := now.latest()
		c := d.change(i)
		c.Ordered, c.Stuck, c.StuckAt = d.now, "", 0
		d.actions = append(d.actions, Action{Machine: c.Machine, Boot: b.ID, Drain: d.r.Policy.Drain})
	}
}

// orderRooms returns how many machines of each failure domain may be ordered to reboot now.
func (d *decider) orderRooms() map[string]int {
	all, out, room := map[string]int{}, map[string]int{}, map[string]int{}
	for i := range d.members {
		m := &d.members[i]
		now, known := d.f.Machines[m.Machine]
		if !known || !now.counts(m) {
			continue
		}
		key := d.domain(*m)
		all[key]++
		s, _ := d.standingOf(m)
		if s == moving && !d.orderable(m, now) || !d.f.available(&now, d.now) {
			out[key]++
		}
	}
	for key, n := range all {
		room[key] = d.room(d.r.Policy.MaxUnavailable.Of(n), out[key])
	}
	return room
}

// canOrder reports whether a machine is about to be ordered to reboot, and whether one waits for that.
func (d *decider) canOrder() (now, waits bool) {
	room := d.orderRooms()
	for i := range d.members {
		m := &d.members[i]
		if s, _ := d.standingOf(m); s == moving && d.orderable(m, d.f.Machines[m.Machine]) {
			waits = true
			now = now || room[d.domain(*m)] > 0
		}
	}
	return now, waits
}

// withdraw takes open orders of the rollout back to machines that must not reboot because of it any more, and
// reports whether there were any: all others if the rollout goes on.
func (d *decider) withdraw() bool {
	goesOn := d.goesOn(d.r.State)
	for i := range d.members {
		m := &d.members[i]
		now := d.f.Machines[m.Machine]
		b, has := now.latest()
		o := b.Order
		if !has || o == nil || o.Rollout != d.r.ID || !o.Open || goesOn && m.touched() && now.out() == "" {
			continue
		}
		if len(d.actions) == MaxActions {
			break
		}
		if !m.Ordered.IsZero() {
			c := d.change(i)
			c.Ordered, c.Stuck, c.StuckAt = time.Time{}, "", 0
		}
		d.touched = true
		d.actions = append(d.actions, Action{Machine: m.Machine, Boot: b.ID, Withdraw: o.Counter})
	}
	return len(d.actions) > 0
}

// failedOrders are the states of orders that led to nothing. One that is withdrawn was so by an operator: the
// rollout forgets those that it withdraws.
var failedOrders = []ingot.OrderState{ingot.OrderDrainFailed, ingot.OrderDrainTimedOut, ingot.OrderRefused,
	ingot.OrderInterrupted, ingot.OrderExpired, ingot.OrderWithdrawn}

// observeOrder notes that an order to a machine led to nothing.
func (d *decider) observeOrder(i int, now Machine) {
	m := &d.members[i]
	b, has := now.latest()
	if m.Ordered.IsZero() || !has || !d.runsOther(m, b) {
		return
	}
	switch o := d.own(m, now); {
	case o == nil: // it booted something else, a restore lost it, or an operator gave another one since
		c := d.change(i)
		c.Ordered, c.Stuck, c.StuckAt = time.Time{}, "", 0
	case m.Stuck == "" && slices.Contains(failedOrders, o.State):
		c := d.change(i)
		d.r.Counted++
		d.touched = true
		c.Stuck, c.StuckAt = o.Text, d.r.Counted
		if len(c.Stuck) > maxReason {
			c.Stuck = c.Stuck[:maxReason]
		}
	}
}

// stuck finds machines that did not reboot although they were ordered to. That says nothing of the image: a
// person must look.
func (d *decider) stuck() (Stop, bool) {
	var list []Evidence
	for i := range d.members {
		m := &d.members[i]
		if m.Stuck == "" || m.StuckAt <= d.r.Seen {
			continue
		}
		if s, _ := d.standingOf(m); s == moving {
			list = append(list, Evidence{Machine: m.Machine, Name: m.Name, Reason: m.Stuck})
		}
	}
	if len(list) == 0 {
		return Stop{}, false
	}
	return Stop{Reason: Inconclusive, Evidence: list, Text: fmt.Sprintf("paused in %s: %s did not reboot as ordered; "+
		"missing: %s", WaveName(d.r.Wave), count.Of(len(list), "machine"), named(list))}, true
}

// underway is when something was last heard of the way of a machine that was moved: of its order, or of its boot.
func (d *decider) underway(m *Member, now Machine) (t time.Time) {
	if o := d.own(m, now); o != nil {
		return o.At
	}
	b, has := now.latest()
	if has && b.Number > m.Number && b.Number <= m.Number+maxResults {
		return b.Started
	}
	return t
}

// overdue reports whether a machine that was moved should have said something by now: it waits neither for a
// person who reboots it, nor for its drain hooks, each of which has its time, nor for the budget.
func (d *decider) overdue(m *Member, now Machine) bool {
	b, has := now.latest()
	if !has || !d.runsOther(m, b) || !d.f.healthy(&now, d.now) {
		return true
	}
	if o := d.own(m, now); o != nil {
		return o.State != ingot.OrderReceived && o.State != ingot.OrderDraining
	}
	how := d.r.Policy.How
	return !d.orderable(m, now) && how != NextBoot && !(how == Auto && now.NoOrder != "")
}
