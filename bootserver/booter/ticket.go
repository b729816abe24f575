package booter

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
)

// Ticket implements httpboot.Booter.
func (b *Booter) Ticket(id ingot.BootID, q ingot.TicketRequest) (signed ingot.SignedTicket, err error) {
	now := b.now()
	var asked *fleet.Question
	defer func() {
		if err == nil && asked != nil {
			err = fmt.Errorf("%w: an operator must look at this machine: %s", httpboot.ErrRefused, asked.What)
		}
	}()
	err = b.state.Update(func(tx state.Tx) error {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return err
		}
		switch {
		case m.State != fleet.Approved:
			return fmt.Errorf("%w: %w", httpboot.ErrRefused, fleet.ErrNotApproved)
		case !boot.Open() || m.Boot != id || boot.Image.Image == "":
			return fmt.Errorf("%w: boot %s is over; this machine should start over", httpboot.ErrRefused, id.Short())
		}
		im, err := b.catalog.Image(boot.Image.Image)
		if err != nil {
			return fmt.Errorf("%w: %w", httpboot.ErrRefused, err)
		}
		if m, boot, err = b.learn(tx, m, boot, boundFacts(q.Facts), now); err != nil {
			return err
		}
		if boot.Deadline.Sub(now) < leastTime { // its loader was slow; what the machine is told is what we wait for
			boot.Deadline = now.Add(leastTime)
		}
		if m.Ask != nil {
			tx.PutBoot(boot)
			tx.PutMachine(m)
			asked = m.Ask // the record stays, the ticket does not
			return nil
		}
		had := m.Grants
		m, lent := fleet.Lend(m, id, now)
		if boot.Ticket.IsZero() || !slices.Equal(had, m.Grants) { // not of one that is asked for again
			if boot.Ticket.IsZero() {
				boot.Ticket = now
			}
			tx.Note(fleet.Entry{At: now, Kind: fleet.KindStep, Stage: ingot.StageTicket, Machine: m.ID, Boot: id, Text: fleet.TicketText(im.Name.String(), lent)})
		}
		text, err := json.Marshal(ingot.Ticket{Boot: id, Machine: m.ID, Hostname: m.Hostname(), MachineKey: m.MachineKey, Nonce: q.Nonce,
			Issued: now, Expires: now.Add(b.policy.Load().Ticket), Image: im.Digest, Name: im.Name.String(), Grants: lent,
			Deadline: boot.Deadline.Sub(now), Restart: fleet.Restarts(m, boot, b.HealingPolicy(), b.catalog.Servable, now)})
		if err != nil {
			return err
		}
		tx.PutBoot(boot)
		tx.PutMachine(m)
		signed = ingot.SignedTicket{Ticket: text, Signature: b.keys.Server.Secret.Sign(text, "ticket "+string(id))}
		return nil
	})
	return signed, err
}

// learn takes over what a machine tells of its hardware. It tells that once in a
// boot: a ticket that is asked for again says nothing new, and must not be
// compared with what the same boot said.
func (b *Booter) learn(tx state.Tx, m fleet.Machine, boot fleet.Boot, f ingot.Facts, now time.Time) (fleet.Machine, fleet.Boot, error) {
	if m.LastSeen = now; boot.Facts != "" {
		return m, boot, nil
	}
	others, before := tx.Others(m, f), m
	m, changes := fleet.Learn(m, f, others, now)
	b.noteClaims(tx, before, m, others)
	if len(changes) > 0 {
		boot.Changes = changes
		b.log.Warn("hardware changed", "machine", m.ID, "boot", boot.ID.Short(), "changes", changes)
	}
	boot, err := tx.KeepFacts(boot, f)
	return m, boot, err
}

// noteClaims writes down which cards a machine tells as its own that others
// were seen with, when it begins to.
func (b *Booter) noteClaims(tx state.Tx, before, m fleet.Machine, others []fleet.Machine) {
	was := fleet.Claimed(before, others)
	claimed := slices.DeleteFunc(fleet.Claimed(m, others), func(c string) bool { return slices.Contains(was, c) })
	if len(claimed) == 0 {
		return
	}
	words := clip("tells cards that others were seen with, and is not found by them: " + strings.Join(claimed, ", "))
	b.log.Warn("a machine has the card of another", "machine", m.ID, "boot", m.Boot.Short(), "cards", claimed)
	tx.Note(fleet.Entry{At: b.now(), Kind: fleet.KindMachine, Machine: m.ID, Boot: m.Boot, Text: words, Bad: true})
}

// leastTime is what a machine has from its ticket to its report, however late
// it asked for the ticket.
const leastTime = time.Minute

// boundFacts bounds what a machine can make the record of it grow by.
func boundFacts(f ingot.Facts) ingot.Facts {
	f.NICs, f.Disks = slices.Clone(f.NICs[:min(len(f.NICs), 64)]), slices.Clone(f.Disks[:min(len(f.Disks), 256)])
	texts := []*string{&f.UUID, &f.Serial, &f.Vendor, &f.Product, &f.BIOS, &f.BIOSDate, (*string)(&f.Firmware), (*string)(&f.Arch), &f.CPU, &f.Kernel}
	for i := range f.NICs {
		n := &f.NICs[i]
		texts = append(texts, &n.Name, &n.MAC, &n.Driver, &n.Firmware)
	}
	for i := range f.Disks {
		d := &f.Disks[i]
		texts = append(texts, &d.Name, &d.Serial, &d.WWN, &d.Model, &d.Holds)
	}
	clipName(texts...)
	return f
}
