package booter

import (
	"context"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Bounds of what packets can make grow. Only those of machines that are known
// are noted at all.
const (
	maxQueued  = 4096   // notes that wait for the ledger; what comes beyond is dropped and counted
	maxWritten = 32     // notes in one change of the state, which others wait for
	maxNoted   = 32     // packets of one boot; of a machine that is up, until it boots again
	maxRecent  = 32_768 // machines of which we remember what was noted
)

// gatherPackets is how long the first note waits for others, and for what its
// packet began: firmware's first packet makes a boot, which the answers of
// others may precede.
const gatherPackets = 100 * time.Millisecond

// Packets are notes of DHCP packets on their way to the ledger. Servers of both families only
// queue them: no answer waits for the disk because of them.
type Packets struct {
	state state.Store
	log   *slog.Logger
	seed  maphash.Seed
	wake  chan struct{}

	mu      sync.Mutex
	queue   []client.Packet
	recent  map[ingot.MachineID]noted
	dropped uint64
	failing bool // it was said that they cannot be stored
}

// noted is what is in the ledger of a machine's latest boot.
type noted struct {
	boot ingot.BootID
	what []uint64
}

// NewPackets returns an empty queue. Keep writes what is queued.
func NewPackets(st state.Store, log *slog.Logger) *Packets {
	return &Packets{state: st, log: log, seed: maphash.MakeSeed(), wake: make(chan struct{}, 1),
		recent: map[ingot.MachineID]noted{}}
}

// key identifies repetitions of a packet: a boot's four-packet exchanges,
// by firmware, loader and system, are one as long as they are about one address.
func (p *Packets) key(n client.Packet) uint64 {
	type key struct {
		kind, server  string
		address, from netip.Addr
	}
	if o := n.Other; o != nil {
		return maphash.Comparable(p.seed, key{o.Kind, "other " + o.DUID, netip.Addr{}, o.Address})
	}
	k := key{kind: n.Kind, address: n.Address}
	if n.Refused != "" || n.Unsent != "" { // whatever it asks for
		k = key{kind: n.Kind, server: "bad"}
	}
	return maphash.Comparable(p.seed, k)
}

// had reports whether a packet is in the ledger, or need not be; p.mu is held.
func (p *Packets) had(m mark) bool {
	r, known := p.recent[m.machine]
	return known && r.boot == m.boot && (len(r.what) >= maxNoted || slices.Contains(r.what, m.key))
}

// mark remembers that a packet is in the ledger; p.mu is held.
func (p *Packets) mark(m mark) {
	r, known := p.recent[m.machine]
	if !known && len(p.recent) >= maxRecent {
		for old := range p.recent { // any: its packets are noted once more
			delete(p.recent, old)
			break
		}
	}
	if r.boot != m.boot {
		r = noted{boot: m.boot}
	}
	r.what = append(r.what, m.key)
	p.recent[m.machine] = r
}

// Note queues a packet of a machine that is known. It is called for every
// packet that is answered, and returns in microseconds.
func (p *Packets) Note(n client.Packet) {
	m, known := p.state.Find(fleet.Sighting{MAC: n.MAC, UUID: n.UUID})
	if !known {
		return
	}
	key := p.key(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.had(mark{m.ID, m.Boot, key}):
		return
	case len(p.queue) >= maxQueued:
		p.dropped++
		return
	}
	p.queue = append(p.queue, n)
	select {
	case p.wake <- struct{}{}:
	default: // awake already
	}
}

// take returns some notes that wait, the oldest first.
func (p *Packets) take() []client.Packet {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), maxWritten)
	list := slices.Clone(p.queue[:n])
	if p.queue = slices.Delete(p.queue, 0, n); len(p.queue) == 0 {
		p.queue = nil // a flood's is large
	}
	return list
}

// Keep writes notes until ctx ends, and then those that wait.
func (p *Packets) Keep(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			p.flush()
			return nil
		case <-p.wake:
		}
		select {
		case <-ctx.Done():
		case <-time.After(gatherPackets):
		}
		p.flush()
	}
}

// flush writes the notes that wait.
func (p *Packets) flush() {
	for list := p.take(); len(list) > 0; list = p.take() {
		p.write(list)
	}
}

// write puts notes into the ledger, and other servers into boots.
func (p *Packets) write(list []client.Packet) {
	var marks []mark
	err := p.state.Update(func(tx state.Tx) error {
		marks = nil
		for _, n := range list {
			if m, is := p.put(tx, n, marks); is {
				marks = append(marks, m)
			}
		}
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.dropped += uint64(len(list))
		clear(p.recent) // what of it is stored is not known
		if !p.failing {
			p.log.Warn("packets cannot be noted in the ledger", "err", err)
		}
	}
	if p.failing = err != nil; !p.failing {
		for _, m := range marks {
			p.mark(m)
		}
	}
}

// mark is a packet of a machine's boot that is in the ledger, or need not be.
type mark struct {
	machine ingot.MachineID
	boot    ingot.BootID
	key     uint64
}

// put records one packet, unless it is a repetition: of one in the ledger, or of one among marks, which
// this transaction records. What our own answers are to a system that is up, as it renews its lease,
// is not worth an entry.
func (p *Packets) put(tx state.Tx, n client.Packet, marks []mark) (m mark, is bool) {
	machine, _, known := tx.Find(fleet.Sighting{MAC: n.MAC, UUID: n.UUID})
	if !known {
		return m, false
	}
	m = mark{machine.ID, machine.Boot, p.key(n)}
	p.mu.Lock()
	had := p.had(m)
	p.mu.Unlock()
	if had || slices.Contains(marks, m) {
		return m, false
	}
	boot, booted := tx.Boot(machine.Boot)
	open := booted && boot.Open()
	if !open && n.Answers() {
		return m, true
	}
	packet := n.Packet
	packet.Loader, packet.Refused, packet.Unsent = clip(packet.Loader), clip(packet.Refused), clip(packet.Unsent)
	if n.Other != nil {
		o := *n.Other
		o.File = clip(o.File)
		packet.Other = &o
	}
	if n.Other != nil && open {
		var isNew bool
		if boot.Others, isNew = fleet.Hear(boot.Others, *packet.Other); !isNew {
			return m, true // it was noted before we were restarted, or there are too many
		}
		tx.StoreBoot(boot)
	}
	if !open {
		boot.ID = ""
	}
	tx.Record(packet.Change(machine.ID, boot.ID))
	return m, true
}

// Dropped is how many notes were lost: the queue was full, or they could not be stored.
func (p *Packets) Dropped() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}
