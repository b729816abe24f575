package rollout

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ingot"
)

// orderLife is how long a machine of the model has to fetch an order.
const orderLife = 10 * time.Minute

// orderNow is an order as the server sees it now.
func (x *model) orderNow(o *Order) *Order {
	if o == nil {
		return nil
	}
	c := *o
	if c.State == ingot.OrderGiven && x.now.Sub(c.Given) >= orderLife {
		c.State = ingot.OrderExpired
	}
	c.Open = slices.Contains([]ingot.OrderState{ingot.OrderGiven, ingot.OrderReceived, ingot.OrderDraining}, c.State)
	c.Pending, c.Text = c.Open || c.State == ingot.OrderRebooting, "is "+string(c.State)
	return &c
}

// stale reports whether the machines or orders of actions are others than when the step was computed.
func (x *model) stale(list []Action) bool {
	for _, a := range list {
		m := x.machine(a.Machine)
		o := x.orderNow(m.latest().Order)
		switch {
		case m.latest().ID != a.Boot:
			return true
		case a.Withdraw != 0 && (o == nil || !o.Open || o.Counter != a.Withdraw):
			return true
		case a.Withdraw == 0 && (m.older || o != nil && o.Pending || m.pinned || m.retired || m.gone || m.busy ||
			m.other != ""):
			return true
		}
	}
	return false
}

// obey stores actions.
func (x *model) obey(list []Action, now time.Time) {
	for _, a := range list {
		m := x.machine(a.Machine)
		b := m.latest()
		if a.Withdraw != 0 {
			o := *b.Order
			o.State, m.asked = ingot.OrderWithdrawn, ""
			b.Order = &o
			continue
		}
		x.counter++
		b.Order = &Order{Rollout: x.r.ID, Counter: x.counter, Given: now, At: now, State: ingot.OrderGiven}
		m.asked, m.resumes = b.ID, x.resumes
	}
}

// checkOrders: no machine is ordered by a rollout that stopped, or that is kept out, or twice in a boot unless a person
// resumed the rollout in between; and never so many that more are away than may be.
func (x *model) checkOrders(s Step, f Fleet, now time.Time) error {
	orders := map[string]int{}
	last := func(m Machine) Boot { return m.Boots[len(m.Boots)-1] }
	for _, a := range s.Actions {
		if a.Withdraw != 0 {
			continue
		}
		m, sim := f.Machines[a.Machine], x.machine(a.Machine)
		switch {
		case x.r.State.Stopped(), s.Rollout.State.Stopped(), x.r.State == Aborting, f.Closed:
			return fmt.Errorf("%s is ordered to reboot although the rollout is %s", a.Machine, s.Rollout.State)
		case x.r.Policy.How == NextBoot || m.NoOrder != "":
			return fmt.Errorf("%s is ordered to reboot, which takes no orders", a.Machine)
		case m.Pinned || m.Retired || m.Off || m.Other != "":
			return fmt.Errorf("%s is ordered to reboot although it is kept out", a.Machine)
		case m.Assigned != newImage || !m.Since.Equal(sim.moved),
			last(m).Number > sim.number && last(m).Image == newImage.Image:
			return fmt.Errorf("%s is ordered to reboot, and would not boot the image for the first time: it is %+v, moved at "+
				"%s in boot %d", a.Machine, m, sim.moved, sim.number)
		case sim.asked == a.Boot && sim.resumes == x.resumes:
			return fmt.Errorf("%s is ordered to reboot twice in one boot", a.Machine)
		case ill(&f, m, now):
			return fmt.Errorf("%s is ordered to reboot although it is not healthy", a.Machine)
		}
		orders[sim.domain]++
	}
	return x.checkAway(orders, f, now)
}

// checkAway: of the machines of a domain, no more are away or about to be than allowed because of an order.
func (x *model) checkAway(orders map[string]int, f Fleet, now time.Time) error {
	for domain, n := range orders {
		out, all := 0, 0
		for _, sim := range x.machines {
			m, known := f.Machines[sim.id]
			if sim.domain != domain || !known || m.Retired || m.Off || m.Shut && (sim.moved.IsZero() || sim.said(m)) {
				continue
			}
			all++
			o := m.Boots[len(m.Boots)-1].Order
			if ill(&f, m, now) || o != nil && o.Pending {
				out++
			}
		}
		if most := x.r.Policy.MaxUnavailable.Of(all); out+n > most {
			return fmt.Errorf("%d of %d machines of domain %q are away, %d more are ordered to reboot, and %d may be",
				out, all, domain, n, most)
		}
	}
	return nil
}

// checkWithdrawn: a rollout that has stopped and does nothing more has no open order.
func (x *model) checkWithdrawn(s Step, f Fleet) error {
	if !x.r.State.Stopped() || !s.Empty() {
		return nil
	}
	for id, m := range f.Machines {
		if o := m.Boots[len(m.Boots)-1].Order; o != nil && o.Open && o.Rollout == x.r.ID {
			return errors.New("the rollout is " + string(x.r.State) + ", and its order to " + string(id) + " stands")
		}
	}
	return nil
}

// carryOut lets a machine go on with its order.
func (x *model) carryOut(m *simMachine) {
	b := m.latest()
	o := x.orderNow(b.Order)
	if o == nil || !o.Pending || !m.alive || b.Outcome != ingot.OutcomeHealthy {
		return
	}
	next := *b.Order
	next.At = x.now
	switch o.State {
	case ingot.OrderGiven:
		next.State = ingot.OrderReceived
	case ingot.OrderReceived:
		next.State = []ingot.OrderState{ingot.OrderDraining, ingot.OrderRebooting, ingot.OrderRefused}[x.below(3)]
	case ingot.OrderDraining:
		next.State = []ingot.OrderState{ingot.OrderRebooting, ingot.OrderRebooting, ingot.OrderDrainFailed,
			ingot.OrderDrainTimedOut, ingot.OrderInterrupted}[x.below(5)]
	case ingot.OrderRebooting:
		x.reboot(m)
		return
	}
	b.Order = &next
}

// orderByHand is an operator's own order, or that one withdraws any.
func (x *model) orderByHand(m *simMachine) {
	b := m.latest()
	o := x.orderNow(b.Order)
	switch {
	case m.older || b.Outcome != ingot.OutcomeHealthy:
	case o != nil && o.Open:
		c := *b.Order
		c.State = ingot.OrderWithdrawn
		b.Order = &c
	case o == nil || !o.Pending:
		x.counter++
		b.Order, m.asked = &Order{Counter: x.counter, Given: x.now, At: x.now, State: ingot.OrderGiven}, ""
	}
}
