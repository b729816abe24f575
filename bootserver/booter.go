package bootserver

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/yamlfile"
)

// booter answers the listeners: it reads what is recorded, lets package fleet
// decide, and records what happened.
type booter struct {
	state   state.Store
	images  *image.Store
	shelf   *shelf
	keys    image.Keys
	port    uint16            // of HTTP
	loaders map[string][]byte // first stages, by file name
	policy  *atomic.Pointer[config.Boots]
	now     func() time.Time
	log     *slog.Logger
}

// settle takes over how machines boot from now on.
func (b *booter) settle(c config.Boots) {
	if c.Ticket == 0 {
		c.Ticket = yamlfile.Duration(2 * time.Minute)
	}
	if c.Deadline == 0 {
		c.Deadline = yamlfile.Duration(10 * time.Minute)
	}
	if b.policy == nil {
		b.policy = &atomic.Pointer[config.Boots]{}
	}
	b.policy.Store(&c)
}

// policyNow is how machines heal.
func (b *booter) policyNow() fleet.Policy {
	c := b.policy.Load()
	return fleet.Policy{Attempts: c.Attempts, After: c.After}
}

// known returns a boot and its machine.
func known(tx state.Tx, id ingot.BootID) (fleet.Boot, fleet.Machine, error) {
	boot, ok := tx.Boot(id)
	if !ok {
		return boot, fleet.Machine{}, fmt.Errorf("%w boot %s; this machine should start over", httpboot.ErrUnknown, id.Short())
	}
	m, ok := tx.Machine(boot.Machine)
	if !ok {
		return boot, m, fmt.Errorf("%w machine %s", httpboot.ErrUnknown, boot.Machine)
	}
	return boot, m, nil
}

// latest returns a boot and its machine, unless the machine began another one
// since: then the key of the old one is good for nothing more.
func latest(tx state.Tx, id ingot.BootID) (fleet.Boot, fleet.Machine, error) {
	boot, m, err := known(tx, id)
	if err == nil && m.Boot != id {
		err = fmt.Errorf("%w: boot %s is over, the machine began another one", httpboot.ErrRefused, id.Short())
	}
	return boot, m, err
}
