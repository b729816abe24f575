// Package booter answers the machines that boot from a server: their packets, scripts, tickets,
// files, events and reports. It reads what is recorded, lets package fleet decide, and records
// what happened.
//
// It opens no socket and knows no configuration file: ports, loaders and policy are values. What
// operators do is package operator's.
package booter

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
	"ingot/image"
)

// Config is what a Booter works with. State, Catalog, Keys and Now are required.
type Config struct {
	State   state.Store
	Catalog *catalog.Catalog
	Keys    *image.Signer
	Port    uint16            // TCP port of HTTP, in the URLs that machines are given
	Loaders map[string][]byte // first stages, by file name
	Policy  Policy
	Now     func() time.Time
	Log     *slog.Logger // nil is quiet
	Locator Locator      // nil: no DHCP server is beside it, and addresses are not checked
}

// Policy says how machines boot.
type Policy = fleet.BootPolicy

// Booter answers machines. It implements client.Booter and httpboot.Booter.
type Booter struct {
	state      state.Store
	catalog    *catalog.Catalog
	keys       *image.Signer
	port       uint16
	loaders    map[string][]byte
	policy     *atomic.Pointer[Policy] // with the rules
	setting    sync.Mutex              // held while policy is replaced
	configured Policy                  // of the configuration
	rules      []fleet.Rule            // see SetRules
	now        func() time.Time
	log        *slog.Logger
	locator    Locator

	restores   restores
	volumes    volumeProblems
	unusable   sync.Map   // images that cannot be served: name or digest to the reason that was logged
	forgetting sync.Mutex // held while records of pending machines are removed
	forgot     time.Time  // when that was last done
	ordersSeen time.Time  // when it was last looked for orders that expired; of Tidy only
}

// New returns a Booter.
func New(c Config) *Booter {
	b := &Booter{state: c.State, catalog: c.Catalog, keys: c.Keys, port: c.Port, loaders: c.Loaders,
		policy: &atomic.Pointer[Policy]{}, now: c.Now, log: c.Log, locator: c.Locator}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.SetPolicy(c.Policy)
	return b
}

// SetPolicy applies the boot policy of a new or reloaded configuration.
func (b *Booter) SetPolicy(p Policy) {
	if p.Ticket == 0 {
		p.Ticket = 2 * time.Minute
	}
	if p.Deadline == 0 {
		p.Deadline = 10 * time.Minute
	}
	b.setting.Lock()
	defer b.setting.Unlock()
	b.configured = p
	b.setPolicy()
}

// SetRules sets the rules for new machines that apply after those of the configuration.
func (b *Booter) SetRules(rules []fleet.Rule) {
	b.setting.Lock()
	defer b.setting.Unlock()
	b.rules = rules
	b.setPolicy()
}

// setPolicy puts configuration and rules in force. b.setting is held.
func (b *Booter) setPolicy() {
	p := b.configured
	p.Rules = slices.Concat(p.Rules, b.rules)
	b.policy.Store(&p)
}

// Policy returns the boot policy in force.
func (b *Booter) Policy() Policy { return *b.policy.Load() }

// HealingPolicy returns how machines recover from images that fail.
func (b *Booter) HealingPolicy() fleet.Policy { return b.policy.Load().Healing() }

// Required returns why the policy does not let an image be served; nil if it does.
func (b *Booter) Required(m ingot.ImageManifest) error {
	if b.policy.Load().Authenticated && !m.Has(ingot.FeatureAuthenticated) {
		return fleet.ErrUnauthenticated
	}
	return nil
}

// lookupBoot returns a boot and its machine.
func lookupBoot(tx state.Reader, id ingot.BootID) (fleet.Boot, fleet.Machine, error) {
	boot, ok := tx.Boot(id)
	if !ok {
		return boot, fleet.Machine{}, fmt.Errorf("%w boot %s; this machine should start over", httpboot.ErrUnknown,
			id.Short())
	}
	m, ok := tx.Machine(boot.Machine)
	if !ok {
		return boot, m, fmt.Errorf("%w machine %s", httpboot.ErrUnknown, boot.Machine)
	}
	return boot, m, nil
}

// currentBoot is like lookupBoot but fails with httpboot.ErrRefused if the machine has since
// started another boot, whose key replaces this one.
func currentBoot(tx state.Reader, id ingot.BootID) (fleet.Boot, fleet.Machine, error) {
	boot, m, err := lookupBoot(tx, id)
	if err == nil && m.Boot != id {
		err = replaced(id)
	}
	return boot, m, err
}
