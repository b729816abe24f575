package booter

import (
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// heal draws the consequences of a boot that ended.
func (b *Booter) heal(m fleet.Machine, over fleet.Boot) fleet.Machine {
	after := fleet.Settle(m, over, b.HealingPolicy(), b.catalog.Servable, b.now())
	switch s := after.Setback; {
	case s == m.Setback:
	case s == nil:
		b.log.Info("an image that was given up is healthy after all", "machine", m.ID, "image", over.Image.Name)
	case s.To.Image == "":
		b.log.Error("a machine is held", "machine", m.ID, "image", s.Gave.Name, "why", s.Why)
	default:
		b.log.Warn("a machine falls back", "machine", m.ID, "image", s.To.Name, "before", s.Gave.Name, "why", s.Why)
	}
	return after
}

// Expire ends the boots whose deadline has passed, and the grants whose time has.
func (b *Booter) Expire() {
	now := b.now()
	err := b.state.Update(func(tx state.Tx) error {
		for _, boot := range tx.OpenBoots() {
			if after, ended := fleet.Expire(boot, now); ended {
				b.log.Warn("a boot went silent", "machine", boot.Machine, "boot", boot.ID.Short(), "image", boot.Image.Name, "reason", after.Reason)
				tx.PutBoot(after)
				if m, ok := tx.Machine(boot.Machine); ok {
					tx.PutMachine(b.heal(m, after))
				}
			}
		}
		for _, m := range tx.Granted() {
			if after, some := fleet.Expired(m, now); some {
				tx.PutMachine(after)
			}
		}
		return nil
	})
	if err != nil {
		b.log.Error("ending silent boots and grants", "err", err)
	}
}

// Tidy forgets what is over the bounds.
func (b *Booter) Tidy() {
	b.state.Forget()
	if err := b.state.Trim(b.now(), state.MaxLedger, state.LedgerAge); err != nil {
		b.log.Error("forgetting old entries of the ledger", "err", err)
	}
}
