package booter

import (
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// How often the records of pending machines are looked at: every so often, and more often if there
// is no room for a new one.
const (
	forgetEvery   = time.Minute
	forgetCrowded = time.Second
)

// forgetPending removes the records of pending machines that have expired, see fleet.PendingExpired,
// and returns how many.
func (b *Booter) forgetPending(crowded bool) (n int) {
	if !b.forgetting.TryLock() {
		return 0
	}
	defer b.forgetting.Unlock()
	now := b.now()
	since := now.Sub(b.forgot)
	if since >= 0 && (since < forgetCrowded || since < forgetEvery && !crowded) {
		return 0
	}
	b.forgot = now
	expired := func(m fleet.Machine) bool {
		boot, _ := b.state.Boot(m.Boot)
		return fleet.PendingExpired(m, boot, crowded, now)
	}
	list := slices.DeleteFunc(b.state.Machines(), func(m fleet.Machine) bool { return !expired(m) })
	for part := range slices.Chunk(list, state.MaxRecords/4) {
		removed := 0
		err := b.state.Update(func(tx state.Tx) (err error) {
			removed, err = dropPending(tx, part, crowded, now)
			return err
		})
		if err != nil {
			b.log.Error("forgetting pending machines", "err", err)
			break
		}
		n += removed
	}
	if n > 0 {
		b.log.Info("forgot pending machines that were not heard from", "machines", n)
	}
	return n
}

// dropPending removes those of some machines whose record has still expired.
func dropPending(tx state.Tx, list []fleet.Machine, crowded bool, now time.Time) (n int, err error) {
	for _, m := range list {
		m, known := tx.Machine(m.ID)
		var boot fleet.Boot
		if m.Boot != ingot.BootID("") {
			boot, _ = tx.Boot(m.Boot)
		}
		if !known || !fleet.PendingExpired(m, boot, crowded, now) {
			continue
		}
		tx.Record(fleet.Forgotten(m, now))
		if err := tx.DropMachine(m.ID); err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}
