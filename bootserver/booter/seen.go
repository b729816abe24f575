package booter

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"ingot"
	"ingot/bootserver/catalog"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Lookup implements client.Booter.
func (b *Booter) Lookup(mac, uuid string) client.Identity {
	m, ok := b.state.Find(fleet.Sighting{MAC: mac, UUID: uuid})
	if !ok {
		return client.Identity{}
	}
	return client.Identity{ID: m.ID, Name: m.Name, UUID: m.UUID, MACs: m.MACs, Approved: m.State == fleet.Approved}
}

// Observe implements client.Booter: it records the machine and its boot.
func (b *Booter) Observe(s client.Sighting) (what client.Boot, err error) {
	err = b.state.Update(func(tx state.Tx) error {
		what, err = b.see(tx, s)
		return err
	})
	return what, err
}

// errOnlyAsked makes the state forget a change.
var errOnlyAsked = errors.New("only asked")

// WouldAnswer implements client.Booter.
func (b *Booter) WouldAnswer(s client.Sighting) (what client.Boot, err error) {
	quiet := *b
	quiet.log = slog.New(slog.DiscardHandler)
	_ = b.state.Update(func(tx state.Tx) error {
		what, err = quiet.see(tx, s)
		return errOnlyAsked
	})
	return what, err
}

// see records one packet of firmware, a loader or ingot-init, and says what it
// boots.
func (b *Booter) see(tx state.Tx, c client.Sighting) (client.Boot, error) {
	now := b.now()
	s := fleet.Sighting{MAC: c.MAC, UUID: c.UUID, Firmware: c.Firmware, Port: c.Port, At: now}
	m, known, err := b.machine(tx, s, now)
	if err != nil {
		return client.Boot{}, err
	}
	before := m
	m = fleet.See(m, s, now)
	if c.Address.IsValid() {
		m.Address = c.Address
	}
	plugged := m.Port
	if c.Port.Relay.IsValid() {
		m.Port = c.Port // for rules; two relays may hear one packet, and the boot keeps what the first one told
	}
	if m.MachineKey == "" { // imported before it was seen
		m.MachineKey = b.MachineKey(m.ID)
	}
	m, ruled := b.unasked(tx, m)
	if plugged.Relay.IsValid() {
		m.Port = plugged
	}
	latest := boots(tx, m.Boot)
	if c.Kind == client.Init {
		return b.seeInit(tx, c, m, latest)
	}
	// An iPXE that asks right after it was given our loader is our loader,
	// whatever it was built with.
	loader := c.Kind == client.Loader || (c.IPXE && latest != nil && latest.Open() && latest.Stage() == ingot.StageLoader)
	list := b.firstStages(c, m)
	stalled := false
	if reason, is := fleet.Stalled(latest, c.Firmware, now); is && !loader && c.Begins {
		var over fleet.Boot
		over, m = fleet.Stall(*latest, m, reason, list, now)
		tx.PutBoot(over)
		m = b.heal(m, over)
		b.log.Warn("a first stage stalled", "machine", m.ID, "mac", c.MAC, "boot", over.ID.Short(), "loader", over.First, "reason", reason, "next", fleet.FirstStage(m, c.Firmware, list))
		stalled = true
	}
	var boot fleet.Boot
	if stalled || fleet.Begins(latest, loader) {
		if latest != nil && latest.Open() && !stalled {
			over := fleet.Supersede(*latest, now)
			tx.PutBoot(over)
			m = b.heal(m, over)
		}
		boot = newBoot(m, latest, c.Firmware, now)
		m.Boot = boot.ID
		if c.Port.Relay.IsValid() {
			m.Port = c.Port
		}
		b.log.Info("a machine boots", "machine", m.ID, "mac", c.MAC, "boot", boot.ID.Short(), "firmware", string(c.Firmware))
	} else {
		boot = *latest
	}
	what, recorded := b.offer(c, m, boot, list, loader, now)
	if recorded.Stage().Rank() <= ingot.StageDHCP.Rank() {
		recorded = fleet.Record(recorded, ingot.Event{Stage: ingot.StageDHCP, Detail: detail(c.Address)}, now)
	}
	if !known || m.Boot != before.Boot || m.Address != before.Address || m.Port != before.Port || m.UUID != before.UUID || m.State != before.State || m.Ask != before.Ask || m.MachineKey != before.MachineKey || ruled != "" || now.Sub(before.LastSeen) > 30*time.Second {
		tx.PutMachine(m)
		b.noteRule(tx, m, ruled)
	}
	if m.Boot != before.Boot || len(recorded.Events) != len(boot.Events) || recorded.First != boot.First || !recorded.Told.Equal(boot.Told) || recorded.Back != boot.Back || recorded.Proxy != boot.Proxy || recorded.Image != boot.Image || recorded.Order != boot.Order {
		tx.PutBoot(recorded)
	}
	return what, nil
}

func detail(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

// seeInit gives ingot-init, which a UKI started without arguments of its boot,
// the URL of that boot.
func (b *Booter) seeInit(tx state.Tx, c client.Sighting, m fleet.Machine, latest *fleet.Boot) (client.Boot, error) {
	if latest == nil || !latest.Open() || latest.Image.Image == "" {
		return client.Boot{}, nil // it was not started by us; silence tells it so
	}
	tx.PutMachine(m)
	return client.Boot{URL: b.BootURL(b.ServerURL(c.Server), latest.ID, "")}, nil
}

// firstStages is what the machine may be offered first, the preferred one
// first: of its list, the loaders that there are, and for firmware that speaks
// HTTP the UKI of the image that it is to run.
func (b *Booter) firstStages(c client.Sighting, m fleet.Machine) []string {
	var list []string
	for _, l := range c.Loaders {
		_, there := b.loaders[l]
		if l == fleet.FirstUKI {
			there = c.HTTP && b.hasUKI(m)
		}
		if there {
			list = append(list, l)
		}
	}
	return list
}

// hasUKI reports whether the image that a machine is to run has a UKI.
func (b *Booter) hasUKI(m fleet.Machine) bool {
	ref, err := fleet.Next(m)
	if err != nil {
		return false
	}
	im, err := b.catalog.Image(ref.Image)
	if err != nil {
		return false
	}
	_, has := b.catalog.UKI(im)
	return has
}

// offer says what a client boots now, and notes it in the boot.
func (b *Booter) offer(c client.Sighting, m fleet.Machine, boot fleet.Boot, list []string, loader bool, now time.Time) (client.Boot, fleet.Boot) {
	base := b.ServerURL(c.Server)
	boot.Proxy = c.Proxy
	if loader {
		boot.Back = true
		return client.Boot{URL: b.BootURL(base, boot.ID, "script")}, boot
	}
	boot.First = fleet.FirstStage(m, c.Firmware, list)
	if !c.Begins {
		boot.Told = now
	}
	switch {
	case boot.First == "" && len(boot.Events) == 0:
		b.log.Warn("no loader for this firmware", "machine", m.ID, "mac", c.MAC, "firmware", string(c.Firmware), "class", c.Class, "wanted", c.Loaders)
		return client.Boot{}, boot
	case boot.First == "":
		return client.Boot{}, boot
	case boot.First == fleet.FirstUKI:
		ref, err := fleet.Next(m)
		if err != nil {
			return client.Boot{}, boot
		}
		im, err := b.catalog.Image(ref.Image)
		if err != nil {
			return client.Boot{}, boot
		}
		boot.Image, boot.Root, boot.Order, boot.Deadline = ref, im.Manifest.Root.Digest, m.Orders, now.Add(b.deadlineOf(im))
		return client.Boot{URL: b.BootURL(base, boot.ID, im.Digest.Hex()+"/"+catalog.UKI)}, boot
	case c.HTTP:
		digest := ingot.DigestOf(b.loaders[boot.First])
		return client.Boot{URL: b.BootURL(base, boot.ID, digest.Hex()+"/"+boot.First)}, boot
	}
	return client.Boot{Loader: boot.First, Size: len(b.loaders[boot.First])}, boot
}

func boots(tx state.Tx, id ingot.BootID) *fleet.Boot {
	if b, ok := tx.Boot(id); ok {
		return &b
	}
	return nil
}

func newBoot(m fleet.Machine, latest *fleet.Boot, f ingot.Firmware, now time.Time) fleet.Boot {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	b := fleet.Boot{ID: ingot.NewBootID(random), Machine: m.ID, Number: 1, Firmware: f, Started: now}
	if latest != nil {
		b.Number, b.Before = latest.Number+1, latest.ID
	}
	return b
}
