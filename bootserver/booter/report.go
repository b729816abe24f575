package booter

import (
	"cmp"
	"errors"
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

// decide decides about the boot of a message after it was verified. A message of a boot that another
// one has replaced is refused; if it proved its secret, two hosts act as the machine, which is recorded.
func (s *sender) decide(f func(tx state.Tx, d *fleet.Decision) error) error {
	now, policy, images := s.b.now(), *s.b.policy.Load(), s.b.newImages()
	returning, err := s.returning()
	if err != nil {
		return err
	}
	var refused error // although a conflict is recorded
	_, err = s.b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		refused = nil
		boot, m, err := lookupBoot(tx, s.boot)
		if err != nil && returning != nil {
			return s.comesBack(tx, *returning, policy, images, now, f)
		}
		if err != nil {
			return nil, err
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		if s.secret == nil && !m.Current(s.boot) {
			return nil, replaced(s.boot)
		}
		if boot.Image.Image == "" { // it waits: nothing of ours runs that could send this
			return nil, fmt.Errorf("%w: boot %s runs no image", httpboot.ErrRefused, s.boot.Short())
		}
		err = d.Authenticate(s.proof)
		s.newest = d.Boot.Auth.Counters[s.part]
		if err != nil {
			return nil, unproven(s.boot, s.crossed(boot, err, now))
		}
		if m.Boot == s.boot {
			d.Resolve(tx.Others)
			return d, f(tx, d)
		}
		latest, _ := tx.Boot(m.Boot)
		if d.Stays(latest); !m.Current(s.boot) {
			refused = replaced(s.boot)
			return d, nil
		}
		return d, f(tx, d)
	})
	return errors.Join(err, refused)
}

// crossing is how long after a ticket a message may arrive that was sent before it: ingot-init gives up
// a console message after 5 s.
const crossing = 10 * time.Second

// crossed adds to the error of a message that proves nothing that it is console output which was under way
// when the ticket was taken. Images built before ingot-init held it back then send some in each boot.
func (s *sender) crossed(b fleet.Boot, err error, now time.Time) error {
	if s.secret == nil && s.part == "console" && errors.Is(err, fleet.ErrUnproven) && now.Sub(b.Ticket) < crossing {
		return fmt.Errorf("%w: %w", err, httpboot.ErrCrossed)
	}
	return err
}

// replaced is the error of a message of a boot that is not the machine's any more.
func replaced(id ingot.BootID) error {
	return fmt.Errorf("%w: boot %s is over, the machine began another one", httpboot.ErrRefused, id.Short())
}

// unproven is the error of a message that fleet does not accept.
func unproven(id ingot.BootID, err error) error {
	kind := httpboot.ErrConflict
	if errors.Is(err, fleet.ErrUnproven) {
		kind = httpboot.ErrUnproven
	}
	return fmt.Errorf("%w: boot %s: %w", kind, id.Short(), err)
}

// Event implements httpboot.Sender.
func (s *sender) Event(e ingot.Event) error {
	e = clipEvent(e)
	if e.Order != nil {
		return s.orderStep(*e.Order)
	}
	return s.decide(func(_ state.Tx, d *fleet.Decision) error {
		if err := d.Provable(e); err != nil {
			return unproven(s.boot, err)
		}
		if d.Record(e); e.Down && s.secret != nil {
			d.ShutsDown()
		}
		return nil
	})
}

// orderStep records how far an order is. A machine that is refused here does not reboot.
func (s *sender) orderStep(step ingot.OrderStep) error {
	if s.secret == nil {
		return unproven(s.boot, fleet.ErrUnproven)
	}
	return s.decide(func(_ state.Tx, d *fleet.Decision) error {
		if err := d.OrderStep(step); err != nil {
			return fmt.Errorf("%w: boot %s: %w", httpboot.ErrRefused, s.boot.Short(), err)
		}
		return nil
	})
}

// clipEvent bounds the texts of an event.
func clipEvent(e ingot.Event) ingot.Event {
	e.Detail, e.Error = clip(e.Detail), clip(e.Error)
	if e.Check != nil {
		check := *e.Check
		clipName(&check.Volume, &check.Device)
		check.Percent = min(max(check.Percent, 0), 100)
		e.Check = &check
	}
	if e.Order != nil {
		step := *e.Order
		clipName((*string)(&step.State), &step.Hook)
		step.Error = clip(step.Error)
		e.Order = &step
	}
	e.Results = boundResults(e.Results)
	e.Volumes = slices.Clone(e.Volumes[:min(len(e.Volumes), maxVolumes)])
	for i := range e.Volumes {
		clipName(&e.Volumes[i])
	}
	return e
}

// maxVolumes bounds the volumes in one message.
const maxVolumes = 64

// boundResults bounds what a machine says of its volumes.
func boundResults(list []ingot.VolumeResult) []ingot.VolumeResult {
	list = slices.Clone(list[:min(len(list), maxVolumes)])
	for i := range list {
		r := &list[i]
		clipName(&r.Volume, (*string)(&r.State), (*string)(&r.Problem), &r.Device, &r.Disk)
		r.Detail = clip(r.Detail)
	}
	return fleet.BoundResults(list)
}

// Record adds an event that the server observed to a boot; what goes wrong is logged.
func (b *Booter) Record(id ingot.BootID, e ingot.Event) {
	e = clipEvent(e)
	now, images, policy := b.now(), b.newImages(), *b.policy.Load()
	_, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := currentBoot(tx, id)
		if err != nil {
			return nil, err
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		d.Record(e)
		return d, nil
	})
	if err != nil {
		b.log.Warn("recording a boot", "boot", id.Short(), "stage", string(e.Stage), "err", err)
	}
}

// Bounds of texts of machines, in bytes of their JSON.
const (
	maxText = 1000
	maxName = 256 // the longest serial number of SMBIOS is not a quarter of it
)

// clip bounds a text from a machine, and takes the credential of its boot out.
func clip(s string) string { return clipTo(s, maxText) }

func clipTo(s string, n int) string {
	if s == "" { // as most are
		return ""
	}
	return fleet.Clip(ingot.HideBootKeys(strings.ToValidUTF8(s[:min(len(s), n)], "")), n)
}

// clipName bounds texts that are names or numbers.
func clipName(texts ...*string) {
	for _, t := range texts {
		*t = clipTo(*t, maxName)
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

// Console implements httpboot.Sender. A boot that ended may still speak: its
// last words come late.
func (s *sender) Console(text string) error {
	// The kernel repeats its command line, and with it the key of the boot.
	text = explain.Printable(ingot.HideBootKeys(text))
	return s.decide(func(tx state.Tx, _ *fleet.Decision) error {
		if text != "" {
			tx.AddConsole(s.boot, text)
		}
		return nil
	})
}

// Crash implements httpboot.Sender. The log of a crash belongs to the boot before the one that
// reports it. It is accepted once: a client with the key of a boot must not replace what the
// earlier boot left.
func (s *sender) Crash(text string) error {
	text = explain.Printable(ingot.HideBootKeys(text))
	empty := strings.TrimSpace(text) == ""
	line := cmp.Or(clip(explain.CrashLine(text)), noCrashLine)
	return s.decide(func(tx state.Tx, d *fleet.Decision) error {
		before, ok := crashedIn(tx, d.Boot)
		if empty || d.Boot.Pstore || !ok { // without a boot before, it crashed when it was not ours
			return nil
		}
		d.Crash(before, line)
		tx.AddConsole(before.ID, "--- what the firmware kept of the crash (pstore) ---\n"+text)
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
		if before.First == fleet.FirstUKI && before.Image.Image != "" ||
			before.Stage().Rank() >= ingot.StageKernel.Rank() {
			return before, true
		}
		before, known = tx.Boot(before.Before)
	}
	return direct, ok
}

// Report implements httpboot.Sender.
func (s *sender) Report(r ingot.Report) (order *ingot.Order, err error) {
	if len(r.Checks) > 100 {
		return nil, fmt.Errorf("%w: a report of %d checks", httpboot.ErrRefused, len(r.Checks))
	}
	for i := range r.Checks {
		r.Checks[i].Name, r.Checks[i].Detail = clip(r.Checks[i].Name), clip(r.Checks[i].Detail)
	}
	clipName((*string)(&r.Image), (*string)(&r.Root), &r.Kernel, &r.Hostname)
	r.Volumes = boundResults(r.Volumes)
	r.Failed = r.Failed[:min(len(r.Failed), 20)]
	for i := range r.Failed {
		clipName(&r.Failed[i])
	}
	err = s.decide(func(_ state.Tx, d *fleet.Decision) error {
		d.Report(r)
		if order = nil; s.secret != nil {
			order = d.Deliver()
		}
		return nil
	})
	return order, err
}
