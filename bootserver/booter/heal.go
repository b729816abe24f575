package booter

import (
	"errors"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Expire ends the boots whose deadline has passed, and the grants whose time has. Each is a
// transaction of its own; they reach the disk together.
func (b *Booter) Expire() {
	now, policy := b.now(), *b.policy.Load()
	var boots []ingot.BootID
	overdue := func(boot fleet.Boot) bool {
		_, is := fleet.Overdue(boot, now)
		return is
	}
	for _, boot := range b.state.OpenBoots(overdue) {
		boots = append(boots, boot.ID)
	}
	each(b, boots, func(tx state.Tx, images *images, id ingot.BootID) *fleet.Decision {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return nil // it was removed meanwhile
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		if e, overdue := fleet.Overdue(boot, now); overdue {
			d.End(e)
		}
		return d
	})
	var machines []ingot.MachineID
	for _, m := range b.state.Granted() {
		if m.HasExpiredGrant(now) {
			machines = append(machines, m.ID)
		}
	}
	each(b, machines, func(tx state.Tx, images *images, id ingot.MachineID) *fleet.Decision {
		m, known := tx.Machine(id)
		if !known {
			return nil
		}
		d := fleet.NewDecision(m, fleet.Boot{}, policy, images.facts, fleet.Actor{}, now)
		d.ExpireGrants()
		return d
	})
}

// each makes a decision about each of several records; f returns nil when there is nothing to
// decide. What goes wrong is logged, and tried again at the next time.
func each[ID any](b *Booter, list []ID, f func(tx state.Tx, images *images, id ID) *fleet.Decision) {
	type begun struct {
		decision *fleet.Decision
		wait     func() error
	}
	all, images := make([]begun, len(list)), b.newImages()
	var stale []ID
	for i, id := range list {
		all[i].wait = b.begin(images, &all[i].decision,
			func(tx state.Tx) (*fleet.Decision, error) { return f(tx, images, id), nil })
	}
	for i, one := range all {
		err := one.wait()
		var missing *fleet.StaleFacts
		if errors.As(err, &missing) {
			stale = append(stale, list[i])
			continue
		}
		if err != nil {
			b.log.Error("ending silent boots and grants", "err", err)
		} else if one.decision != nil {
			b.logChanges(one.decision.Changes)
		}
	}
	for _, id := range stale { // few: an image is given up
		if _, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
			return f(tx, images, id), nil
		}); err != nil {
			b.log.Error("ending silent boots and grants", "err", err)
		}
	}
}

// Tidy forgets what is over the bounds.
func (b *Booter) Tidy() {
	b.state.Forget()
	b.forgetPending(false)
	b.expireOrders()
	if err := b.state.Trim(b.now(), state.MaxLedger, state.LedgerAge); err != nil {
		b.log.Error("forgetting old entries of the ledger", "err", err)
	}
}

// ordersEvery is how often it is looked for orders that were not fetched in time.
const ordersEvery = time.Minute

// expireOrders notes which orders machines did not fetch in time.
func (b *Booter) expireOrders() {
	now := b.now()
	if since := now.Sub(b.ordersSeen); since >= 0 && since < ordersEvery {
		return
	}
	b.ordersSeen = now
	var late []ingot.BootID
	for _, boot := range b.state.Latest() {
		if o := boot.Ordered; o != nil && o.State != o.StateAt(now) {
			late = append(late, boot.ID)
		}
	}
	each(b, late, func(tx state.Tx, images *images, id ingot.BootID) *fleet.Decision {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return nil // it was removed meanwhile
		}
		d := fleet.NewDecision(m, boot, fleet.BootPolicy{}, images.facts, fleet.Actor{}, now)
		d.ExpireOrder()
		return d
	})
}
