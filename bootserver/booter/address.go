package booter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
)

// Locator is what the DHCP servers know about addresses.
type Locator interface {
	// Place returns what is known about an address from which the key of a boot of a
	// machine is used.
	Place(from netip.Addr, b fleet.Boot, m fleet.Machine) fleet.Place
	// Refused records that a request with the key of a boot was refused.
	Refused(b fleet.Boot, from netip.Addr, why error)
}

// Admit implements httpboot.Booter. The first address that uses the key of a boot may be
// recorded: that is durable before Admit returns.
func (b *Booter) Admit(id ingot.BootID, from netip.Addr) error {
	if b.locator == nil {
		return nil
	}
	boot, known := b.state.Boot(id)
	if !known || !boot.Ticket.IsZero() {
		return nil // what is asked for is refused itself, or its ticket decides
	}
	m, known := b.state.Machine(boot.Machine)
	if !known {
		return nil
	}
	now, place := b.now(), b.locator.Place(from, boot, m)
	first, err := fleet.AdmitAddress(boot, m, from, place, now)
	if errors.Is(err, fleet.ErrOtherAddress) { // its request for this address may still be on its way to the record
		time.Sleep(tookDelay)
		boot, _ = b.state.Boot(id)
		first, err = fleet.AdmitAddress(boot, m, from, place, now)
	}
	if err == nil && first {
		_, err = b.decide(b.newImages(), func(tx state.Tx) (*fleet.Decision, error) {
			boot, m, err := lookupBoot(tx, id)
			if err != nil {
				return nil, err
			}
			if _, err := fleet.AdmitAddress(boot, m, from, place, now); err != nil {
				return nil, err // another address was quicker
			}
			d := fleet.NewDecision(m, boot, b.Policy(), nil, fleet.Actor{}, now)
			d.Took(from)
			return d, nil
		})
	}
	if err != nil {
		b.locator.Refused(boot, from, err)
		return fmt.Errorf("%w: the key of boot %s does not work from %s: %w", httpboot.ErrRefused, id.Short(), from, err)
	}
	return nil
}

// tookDelay is how long a request may be ahead of the record of the DHCPREQUEST before it:
// the other server's answer does not wait for the record.
const tookDelay = 200 * time.Millisecond

// Took implements client.Booter.
func (b *Booter) Took(c client.Sighting) error {
	sighting := fleet.Sighting{MAC: c.MAC, UUID: c.UUID}
	took := func(boot fleet.Boot) bool {
		return boot.ID != "" && boot.Open() && boot.Ticket.IsZero() && !slices.Contains(boot.Addresses, c.Address)
	}
	m, known := b.state.Find(sighting)
	if !known {
		return nil
	}
	if boot, _ := b.state.Boot(m.Boot); !took(boot) {
		return nil
	}
	_, err := b.decide(b.newImages(), func(tx state.Tx) (*fleet.Decision, error) {
		m, _, known := tx.Find(sighting)
		boot, _ := tx.Boot(m.Boot)
		if !known || !took(boot) {
			return nil, nil
		}
		d := fleet.NewDecision(m, boot, b.Policy(), nil, fleet.Actor{}, b.now())
		d.Took(c.Address)
		return d, nil
	})
	return err
}
