package booter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/explain"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
)

// Event implements httpboot.Booter.
func (b *Booter) Event(id ingot.BootID, e ingot.Event) error {
	now := b.now()
	e.Detail, e.Error = clip(e.Detail), clip(e.Error)
	e.Volumes = slices.Clone(e.Volumes[:min(len(e.Volumes), 64)])
	for i := range e.Volumes {
		clipName(&e.Volumes[i])
	}
	return b.state.Update(func(tx state.Tx) error {
		boot, m, err := currentBoot(tx, id)
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

// Record adds an event to a boot; what goes wrong is logged.
func (b *Booter) Record(id ingot.BootID, e ingot.Event) {
	if err := b.Event(id, e); err != nil {
		b.log.Warn("recording a boot", "boot", id.Short(), "stage", string(e.Stage), "err", err)
	}
}

// clip bounds a text from a machine, and takes the credential of its boot out.
func clip(s string) string { return ingot.HideBootKeys(strings.ToValidUTF8(s[:min(len(s), 1000)], "")) }

// clipName bounds texts that are names or numbers; the longest serial number
// of SMBIOS is not a quarter of what is left.
func clipName(texts ...*string) {
	for _, t := range texts {
		*t = clip((*t)[:min(len(*t), 256)])
	}
}

// Waits implements httpboot.Booter: what SMBIOS says of a machine that waits is
// for rules, and for the operator who is to approve it. Of a machine that has
// told its facts itself nothing is taken.
func (b *Booter) Waits(id ingot.BootID, f ingot.Facts) error {
	f = boundFacts(f)
	return b.state.Update(func(tx state.Tx) error {
		_, m, err := lookupBoot(tx, id)
		if err != nil || m.State != fleet.Pending || m.Facts.RAM != 0 || m.Boot != id {
			return err
		}
		after := m
		after.Facts.Vendor, after.Facts.Product, after.Facts.Serial = f.Vendor, f.Product, ingot.PlausibleSerial(f.Serial)
		after, ruled := b.unasked(tx, after)
		if after.Ask != m.Ask || after.State != m.State || after.Facts.Vendor != m.Facts.Vendor || after.Facts.Product != m.Facts.Product || after.Facts.Serial != m.Facts.Serial || ruled != "" {
			tx.PutMachine(after)
			b.noteRule(tx, after, ruled)
		}
		return nil
	})
}

// Console implements httpboot.Booter. A boot that ended may still speak: its
// last words come late.
func (b *Booter) Console(id ingot.BootID, text string) error {
	// The kernel repeats its command line, and with it the key of the boot.
	text = explain.Printable(ingot.HideBootKeys(text))
	return b.state.Update(func(tx state.Tx) error {
		if _, _, err := currentBoot(tx, id); err != nil || text == "" {
			return err
		}
		tx.AddConsole(id, text)
		return nil
	})
}

// Crash implements httpboot.Booter: what is left of a crash belongs to the boot
// before the one that tells it, which does so once: who has the key of a boot
// must not bury what the one before it said.
func (b *Booter) Crash(id ingot.BootID, text string) error {
	text = explain.Printable(ingot.HideBootKeys(text))
	return b.state.Update(func(tx state.Tx) error {
		boot, m, err := currentBoot(tx, id)
		if err != nil || strings.TrimSpace(text) == "" || boot.Pstore {
			return err
		}
		before, ok := crashedIn(tx, boot)
		if !ok {
			return nil // it crashed when it was not ours
		}
		boot.Pstore = true
		tx.PutBoot(boot)
		if before.Crash == "" { // the first word counts
			before.Crash = cmp.Or(clip(explain.CrashLine(text)), noCrashLine)
			tx.PutBoot(before)
		}
		tx.AddConsole(before.ID, "--- what the firmware kept of the crash (pstore) ---\n"+text)
		b.log.Warn("a machine crashed before this boot", "machine", m.ID, "boot", before.ID.Short(), "crash", before.Crash)
		return nil
	})
}

// noCrashLine is told of a crash without a line that says why.
const noCrashLine = "no line of its last words says why"

// crashedIn is the boot that a crash before another one belongs to: the latest
// in which a kernel can have run, for those since then only asked; or else the
// one directly before.
func crashedIn(tx state.Tx, b fleet.Boot) (fleet.Boot, bool) {
	const most = 8
	direct, ok := tx.Boot(b.Before)
	for before, known, n := direct, ok, 0; known && n < most; n++ {
		if before.First == fleet.FirstUKI && before.Image.Image != "" || before.Stage().Rank() >= ingot.StageKernel.Rank() {
			return before, true
		}
		before, known = tx.Boot(before.Before)
	}
	return direct, ok
}

// Report implements httpboot.Booter.
func (b *Booter) Report(id ingot.BootID, r ingot.Report) error {
	now := b.now()
	if len(r.Checks) > 100 {
		return fmt.Errorf("%w: a report of %d checks", httpboot.ErrRefused, len(r.Checks))
	}
	for i := range r.Checks {
		r.Checks[i].Name, r.Checks[i].Detail = clip(r.Checks[i].Name), clip(r.Checks[i].Detail)
	}
	clipName((*string)(&r.Image), (*string)(&r.Root), &r.Kernel, &r.Hostname)
	r.Failed = r.Failed[:min(len(r.Failed), 20)]
	for i := range r.Failed {
		r.Failed[i] = clip(r.Failed[i])
	}
	return b.state.Update(func(tx state.Tx) error {
		boot, m, err := currentBoot(tx, id)
		if err != nil {
			return err
		}
		if boot.Image.Image == "" { // it waits: nothing of ours runs that could be healthy
			return fmt.Errorf("%w: boot %s runs no image", httpboot.ErrRefused, id.Short())
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
