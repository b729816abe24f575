package booter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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
	if e.Check != nil {
		check := *e.Check
		clipName(&check.Volume, &check.Device)
		check.Percent = min(max(check.Percent, 0), 100)
		e.Check = &check
	}
	e.Results = boundResults(e.Results)
	e.Volumes = slices.Clone(e.Volumes[:min(len(e.Volumes), 64)])
	for i := range e.Volumes {
		clipName(&e.Volumes[i])
	}
	images, policy := b.newImages(), *b.policy.Load()
	_, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := currentBoot(tx, id)
		if err != nil {
			return nil, err
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		d.Record(e)
		return d, nil
	})
	return err
}

// boundResults bounds what a machine says of its volumes.
func boundResults(list []ingot.VolumeResult) []ingot.VolumeResult {
	list = slices.Clone(list[:min(len(list), 64)])
	for i := range list {
		r := &list[i]
		clipName(&r.Volume, (*string)(&r.State), (*string)(&r.Problem), &r.Device, &r.Disk)
		r.Detail = clip(r.Detail)
	}
	return list
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

// Waits implements httpboot.Booter. It stores what SMBIOS says of a machine that waits for
// approval, for rules and for the operator. Facts that a machine has reported itself are not
// replaced.
func (b *Booter) Waits(id ingot.BootID, f ingot.Facts) error {
	f = boundFacts(f)
	now, policy, images := b.now(), *b.policy.Load(), b.newImages()
	_, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return nil, err
		}
		facts := fleet.Facts{Policy: policy}
		if m.Ask != nil {
			if with, known := tx.Machine(m.Ask.With); known {
				facts.Other = &with
			}
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		d.LearnWaiting(f, facts)
		return d, nil
	})
	return err
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

// Crash implements httpboot.Booter. The log of a crash belongs to the boot before the one that
// reports it. It is accepted once: a client with the key of a boot must not replace what the
// earlier boot left.
func (b *Booter) Crash(id ingot.BootID, text string) error {
	text = explain.Printable(ingot.HideBootKeys(text))
	if strings.TrimSpace(text) == "" {
		return b.state.Update(func(tx state.Tx) error {
			_, _, err := currentBoot(tx, id)
			return err
		})
	}
	line := cmp.Or(clip(explain.CrashLine(text)), noCrashLine)
	now := b.now()
	_, err := b.decide(b.newImages(), func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := currentBoot(tx, id)
		if err != nil || boot.Pstore {
			return nil, err
		}
		before, ok := crashedIn(tx, boot)
		if !ok {
			return nil, nil // it crashed when it was not ours
		}
		d := fleet.NewDecision(m, boot, fleet.BootPolicy{}, nil, fleet.Actor{}, now)
		d.Crash(before, line)
		tx.AddConsole(before.ID, "--- what the firmware kept of the crash (pstore) ---\n"+text)
		return d, nil
	})
	return err
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
		if before.First == fleet.FirstUKI && before.Image.Image != "" ||
			before.Stage().Rank() >= ingot.StageKernel.Rank() {
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
	r.Volumes = boundResults(r.Volumes)
	r.Failed = r.Failed[:min(len(r.Failed), 20)]
	for i := range r.Failed {
		r.Failed[i] = clip(r.Failed[i])
	}
	images, policy := b.newImages(), *b.policy.Load()
	_, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := currentBoot(tx, id)
		if err != nil {
			return nil, err
		}
		if boot.Image.Image == "" { // it waits: nothing of ours runs that could be healthy
			return nil, fmt.Errorf("%w: boot %s runs no image", httpboot.ErrRefused, id.Short())
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		d.Report(r)
		return d, nil
	})
	return err
}
