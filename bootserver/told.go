package bootserver

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
)

// What machines tell, and the ticket that they get for it.

// Ticket implements httpboot.Booter.
func (b *booter) Ticket(id ingot.BootID, q ingot.TicketRequest) (signed ingot.SignedTicket, err error) {
	now := b.now()
	var asked *fleet.Question
	defer func() {
		if err == nil && asked != nil {
			err = fmt.Errorf("%w: an operator must look at this machine: %s", httpboot.ErrRefused, asked.What)
		}
	}()
	err = b.state.Update(func(tx *state.Tx) error {
		boot, m, err := known(tx, id)
		if err != nil {
			return err
		}
		switch {
		case m.State != fleet.Approved:
			return fmt.Errorf("%w: %w", httpboot.ErrRefused, fleet.ErrNotApproved)
		case !boot.Open() || m.Boot != id || boot.Image.Image == "":
			return fmt.Errorf("%w: boot %s is over; this machine should start over", httpboot.ErrRefused, id.Short())
		}
		im, err := b.image(boot.Image.Image)
		if err != nil {
			return fmt.Errorf("%w: %w", httpboot.ErrRefused, err)
		}
		m, boot.Changes = fleet.Learn(m, boundFacts(q.Facts), now)
		late := boot.Deadline.Sub(now) < leastTime
		if late { // its loader was slow; what the machine is told is what we wait for
			boot.Deadline = now.Add(leastTime)
		}
		if len(boot.Changes) > 0 {
			b.log.Warn("hardware changed", "machine", m.ID, "boot", id.Short(), "changes", boot.Changes)
		}
		if late || len(boot.Changes) > 0 {
			tx.PutBoot(boot)
		}
		if m.Ask != nil {
			tx.PutMachine(m)
			asked = m.Ask // the record stays, the ticket does not
			return nil
		}
		m, lent := fleet.Lend(m, id, now)
		text, err := json.Marshal(ingot.Ticket{Boot: id, Machine: m.ID, Hostname: m.Hostname(), MachineKey: m.MachineKey, Nonce: q.Nonce,
			Issued: now, Expires: now.Add(time.Duration(b.policy.Load().Ticket)), Image: im.Digest, Name: im.Name.String(), Grants: lent,
			Deadline: boot.Deadline.Sub(now), Restart: fleet.Restarts(m, boot, b.policyNow(), b.have, now)})
		if err != nil {
			return err
		}
		tx.PutMachine(m)
		signed = ingot.SignedTicket{Ticket: text, Signature: b.keys.Server.Secret.Sign(text, "ticket "+string(id))}
		return nil
	})
	return signed, err
}

// leastTime is what a machine has from its ticket to its report, however late
// it asked for the ticket.
const leastTime = time.Minute

// boundFacts bounds what a machine can make the record of it grow by.
func boundFacts(f ingot.Facts) ingot.Facts {
	f.NICs, f.Disks = f.NICs[:min(len(f.NICs), 64)], f.Disks[:min(len(f.Disks), 256)]
	for _, s := range []*string{&f.UUID, &f.Serial, &f.Vendor, &f.Product, &f.BIOS, &f.CPU, &f.Kernel} {
		*s = clip(*s)
	}
	return f
}

// Event implements httpboot.Booter.
func (b *booter) Event(id ingot.BootID, e ingot.Event) error {
	now := b.now()
	e.Detail, e.Error = clip(e.Detail), clip(e.Error)
	return b.state.Update(func(tx *state.Tx) error {
		boot, m, err := known(tx, id)
		if err != nil {
			return err
		}
		after := fleet.Record(boot, e, now)
		if len(after.Events) != len(boot.Events) {
			tx.PutBoot(after)
		}
		if !after.Open() && boot.Open() {
			tx.PutMachine(b.heal(m, after))
		}
		if e.Error != "" {
			b.log.Warn("a boot failed", "machine", m.ID, "boot", id.Short(), "stage", string(e.Stage), "err", e.Error, "retry", e.Retry)
		}
		return nil
	})
}

// clip bounds a text from a machine.
func clip(s string) string { return s[:min(len(s), 1000)] }

// Waits implements httpboot.Booter: what SMBIOS says of a machine that waits is
// for rules, and for the operator who is to approve it. Of a machine that has
// told its facts itself nothing is taken.
func (b *booter) Waits(id ingot.BootID, f ingot.Facts) error {
	f = boundFacts(f)
	return b.state.Update(func(tx *state.Tx) error {
		_, m, err := known(tx, id)
		if err != nil || m.State != fleet.Pending || m.Facts.RAM != 0 || m.Boot != id {
			return err
		}
		after := m
		after.Facts.Vendor, after.Facts.Product, after.Facts.Serial = f.Vendor, f.Product, ingot.PlausibleSerial(f.Serial)
		after = b.rule(after)
		if after.Facts.Vendor != m.Facts.Vendor || after.Facts.Product != m.Facts.Product || after.Facts.Serial != m.Facts.Serial || after.State != m.State {
			tx.PutMachine(after)
		}
		return nil
	})
}

// Console implements httpboot.Booter. A boot that ended may still speak: its
// last words come late.
func (b *booter) Console(id ingot.BootID, text string) error {
	// The kernel repeats its command line, and with it the boot's credential.
	text = fleet.Printable(strings.ReplaceAll(text, string(id), id.Short()+"…"))
	return b.state.Update(func(tx *state.Tx) error {
		if _, _, err := known(tx, id); err != nil || text == "" {
			return err
		}
		tx.AddConsole(id, text)
		return nil
	})
}

// Crash implements httpboot.Booter: what is left of a crash belongs to the boot
// before the one that tells it.
func (b *booter) Crash(id ingot.BootID, text string) error {
	text = fleet.Printable(text)
	return b.state.Update(func(tx *state.Tx) error {
		boot, m, err := known(tx, id)
		if err != nil || text == "" {
			return err
		}
		before, ok := tx.Boot(boot.Before)
		if !ok {
			return nil // it crashed when it was not ours
		}
		before.Crash = clip(fleet.CrashLine(text))
		tx.PutBoot(before)
		tx.AddConsole(before.ID, "--- what the firmware kept of the crash (pstore) ---\n"+text)
		b.log.Warn("a machine crashed before this boot", "machine", m.ID, "boot", before.ID.Short(), "crash", before.Crash)
		return nil
	})
}

// Report implements httpboot.Booter.
func (b *booter) Report(id ingot.BootID, r ingot.Report) error {
	now := b.now()
	if len(r.Checks) > 100 {
		return fmt.Errorf("%w: a report of %d checks", httpboot.ErrRefused, len(r.Checks))
	}
	for i := range r.Checks {
		r.Checks[i].Name, r.Checks[i].Detail = clip(r.Checks[i].Name), clip(r.Checks[i].Detail)
	}
	r.Failed = r.Failed[:min(len(r.Failed), 20)]
	for i := range r.Failed {
		r.Failed[i] = clip(r.Failed[i])
	}
	return b.state.Update(func(tx *state.Tx) error {
		boot, m, err := known(tx, id)
		if err != nil {
			return err
		}
		after, machine := fleet.Judge(boot, m, r, now)
		if after.Outcome != boot.Outcome {
			b.log.Info("a boot is decided", "machine", m.ID, "boot", id.Short(), "image", boot.Image.Name,
				"outcome", string(after.Outcome), "reason", after.Reason, "took", now.Sub(boot.Started).Round(100*time.Millisecond))
			machine = b.heal(machine, after)
		}
		tx.PutBoot(after)
		tx.PutMachine(machine)
		return nil
	})
}
