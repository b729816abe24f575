package booter

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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

// ErrTooManyPending is returned for a new machine while MaxPending machines wait for approval.
var ErrTooManyPending = fmt.Errorf("%d machines are pending, all heard from lately; approve them, or run: "+
	"ingot machine forget --pending",
	state.MaxPending)

// ErrTooManyPerCard is returned for a new machine while MaxPerCard machines have its MAC address:
// one machine makes them by reporting another UUID each time.
var ErrTooManyPerCard = fmt.Errorf("%d machines with this MAC address are recorded; forget some first",
	state.MaxPerCard)

// ErrNoCard is returned for a request from a MAC address that no network card has.
var ErrNoCard = errors.New("zero, broadcast or multicast is not the MAC address of a machine")

// Observe implements client.Booter: it records the machine and its boot.
func (b *Booter) Observe(c client.Sighting) (client.Boot, error) {
	p := b.prepare(c)
	var offer fleet.Offer
	decide := func() (*fleet.Decision, error) {
		return b.decide(p.images, func(tx state.Tx) (d *fleet.Decision, err error) {
			d, offer, err = p.decide(tx)
			return d, err
		})
	}
	d, err := decide()
	if errors.Is(err, ErrTooManyPending) && b.forgetPending(true) > 0 {
		d, err = decide()
	}
	if err != nil {
		return client.Boot{}, err
	}
	if d.Began() {
		b.log.Info("a machine boots", "machine", d.Machine.ID, "mac", c.MAC, "boot", d.Boot.ID.Short(),
			"firmware", string(c.Firmware))
	}
	if d.Began() && d.Boot.First == "" && c.Kind == client.Firmware {
		b.log.Warn("no loader for this firmware", "machine", d.Machine.ID, "mac", c.MAC, "firmware", string(c.Firmware),
			"class", c.Class, "wanted", c.Loaders)
	}
	return b.render(c, offer), nil
}

// WouldAnswer implements client.Booter. It reads what is recorded and records nothing.
func (b *Booter) WouldAnswer(c client.Sighting) (client.Boot, error) {
	p := b.prepare(c)
	var offer fleet.Offer
	err := b.untilFresh(p.images, func() (err error) {
		b.state.View(func(r state.Reader) { _, offer, err = p.decide(r) })
		return err
	})
	return b.render(c, offer), err
}

// prepared is a request with all that a decision about it may need, made before the transaction.
type prepared struct {
	request     fleet.Request
	images      *images
	policy      fleet.BootPolicy
	id, another ingot.MachineID // for a new machine; the second one when the first is taken
	err         error           // why there is no id
	newBoot     ingot.BootID
	key         func(ingot.MachineID) string // machine-id(5)
	now         time.Time
}

func (b *Booter) prepare(c client.Sighting) *prepared {
	p := &prepared{images: b.newImages(), policy: *b.policy.Load(), newBoot: newBootID(), key: b.machineKeys(),
		now: b.now()}
	p.request = fleet.Request{Address: c.Address, Foreign: c.Foreign, Origin: c.Origin, IPXE: c.IPXE, HTTP: c.HTTP,
		Proxy: c.Proxy, Begins: c.Begins,
		Sighting: fleet.Sighting{MAC: c.MAC, UUID: c.UUID, Firmware: c.Firmware, Port: c.Port, At: p.now}}
	switch c.Kind {
	case client.Loader:
		p.request.Sender = fleet.SenderLoader
	case client.Init:
		p.request.Sender = fleet.SenderInit
	}
	p.request.Loaders = slices.DeleteFunc(slices.Clone(c.Loaders), func(l string) bool {
		_, has := b.loaders[l]
		return !has && l != fleet.FirstUKI
	})
	if p.id, p.err = ingot.MachineIDFromMAC(c.MAC); p.err == nil {
		p.another = p.id + ingot.MachineID("-"+hex.EncodeToString(b.Derive("id", c.UUID+c.MAC)[:2]))
	}
	b.lookUpFirst(p)
	return p
}

// lookUpFirst looks up the image that a decision is most likely to need, so that it is made once.
func (b *Booter) lookUpFirst(p *prepared) {
	first := p.policy.ApproveAll && p.policy.Image != ""
	uki := p.request.HTTP && slices.Contains(p.request.Loaders, fleet.FirstUKI)
	if !first && !uki {
		return
	}
	switch m, known := b.state.Find(p.request.Sighting); {
	case !known && first:
		b.lookUp(p.images, p.policy.Image)
	case known && uki:
		b.lookUpNext(p.images, m)
	}
}

func newBootID() ingot.BootID {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	return ingot.NewBootID(random)
}

// decide gathers what is recorded of a request and decides about it.
func (p *prepared) decide(r state.Reader) (*fleet.Decision, fleet.Offer, error) {
	f := fleet.Facts{Request: p.request, Policy: p.policy, Images: p.images.facts, NewBoot: p.newBoot,
		Others: r.Others}
	m, question, known := r.Find(p.request.Sighting)
	switch {
	case p.err == nil && !ingot.IsCard(p.request.MAC):
		return nil, fleet.Offer{}, ErrNoCard
	case known:
		f.Machine, question = &m, m.Ask
		if m.MachineKey == "" { // it was imported before it was seen
			f.Key = p.key(m.ID)
		}
		if latest, has := r.Boot(m.Boot); has {
			f.Latest = &latest
		}
	case r.WithCard(p.request.MAC) >= state.MaxPerCard:
		return nil, fleet.Offer{}, ErrTooManyPerCard
	case p.err != nil:
		return nil, fleet.Offer{}, p.err
	default:
		f.Question, f.NewID = question, p.id
		if _, taken := r.Machine(p.id); taken { // its card was first seen in another machine
			f.NewID = p.another
		}
		f.Key = p.key(f.NewID)
	}
	if question != nil {
		if with, has := r.Machine(question.With); has {
			f.Other = &with
		}
	}
	d, offer, err := fleet.Decide(f, p.now)
	if err == nil && !known && d.Machine.State == fleet.Pending && r.Pending() >= state.MaxPending {
		return nil, fleet.Offer{}, ErrTooManyPending // no rule approves it
	}
	return d, offer, err
}

// render is an offer as the DHCP servers send it.
func (b *Booter) render(c client.Sighting, o fleet.Offer) client.Boot {
	base := b.ServerURL(c.Server)
	switch o.Kind {
	case fleet.OfferScript:
		return client.Boot{URL: b.BootURL(base, o.Boot, "script")}
	case fleet.OfferInit:
		return client.Boot{URL: b.BootURL(base, o.Boot, "")}
	case fleet.OfferUKI:
		return client.Boot{URL: b.BootURL(base, o.Boot, o.Image.Hex()+"/"+catalog.UKI)}
	case fleet.OfferLoader:
		if c.HTTP {
			return client.Boot{URL: b.BootURL(base, o.Boot, ingot.DigestOf(b.loaders[o.Loader]).Hex()+"/"+o.Loader)}
		}
		return client.Boot{Loader: o.Loader, Size: len(b.loaders[o.Loader])}
	}
	return client.Boot{}
}
