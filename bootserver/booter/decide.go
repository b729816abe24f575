package booter

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// images is what was looked up in the catalog for one decision. A decision cannot look anything up
// itself: it may be computed several times, and under the state's lock.
type images struct {
	facts   fleet.Images
	found   map[ingot.Digest]image.Image
	removed uint64                // state.Decisions.Removed, before the first was looked up
	pending map[ingot.Digest]bool // being removed, as far as is known
}

func (b *Booter) newImages(refs ...ingot.Digest) *images {
	im := &images{facts: fleet.Images{}, found: map[ingot.Digest]image.Image{}, removed: b.state.Removed()}
	for _, ref := range refs {
		if ref != "" {
			b.lookUp(im, string(ref))
		}
	}
	return im
}

// lookUpNext looks up the image that a machine boots next.
func (b *Booter) lookUpNext(im *images, m fleet.Machine) {
	if ref, err := fleet.Next(m); err == nil {
		b.lookUp(im, string(ref.Image))
	}
}

// lookUp looks up an image by its digest, or by a name of the policy.
func (b *Booter) lookUp(into *images, ref string) {
	var im image.Image
	digest, err := ingot.ParseDigest(ref)
	if err == nil {
		im, err = b.catalog.Image(digest)
	} else {
		im, err = b.catalog.Resolve(context.Background(), ref)
	}
	able := err == nil && im.Manifest.Has(ingot.FeatureAuthenticated)
	if err == nil {
		err = b.Required(im.Manifest)
	}
	b.logUnusable(ref, err)
	if err == nil && into.pending[im.Digest] {
		err = state.ErrBeingRemoved
	}
	facts := fleet.Image{Err: err, Able: able}
	if err == nil {
		facts.ImageRef = fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}
		facts.Root, facts.Deadline = im.Manifest.Root.Digest, im.Manifest.Deadline
		_, facts.UKI = b.catalog.UKI(im)
		into.found[im.Digest] = im
	}
	into.facts[ref] = facts
}

// logUnusable logs why an image of the policy, or one that a machine asks for by its digest, cannot be
// served: once for each reason, because machines that wait ask every few seconds. It also logs when the
// image can be served again.
func (b *Booter) logUnusable(ref string, err error) {
	shown, level, text := ref, slog.LevelError, "looking up the image of the boot policy"
	if d, notDigest := ingot.ParseDigest(ref); notDigest == nil {
		shown, level, text = d.Short(), slog.LevelWarn, "an image that a machine asks for cannot be served"
	}
	if err == nil {
		if _, was := b.unusable.LoadAndDelete(ref); was {
			b.log.Info("an image can be served again", "image", shown)
		}
		return
	}
	if before, again := b.unusable.Swap(ref, err.Error()); !again || before != err.Error() {
		b.log.Log(context.Background(), level, text, "image", shown, "err", err)
	}
}

// maxLookUps bounds how often a decision is made again because it needed an image that was not
// looked up. Two are enough unless operators assign images at the same time.
const maxLookUps = 8

// untilFresh calls f until it needs no image that was not looked up, and assigns none that is being
// removed or was removed meanwhile.
func (b *Booter) untilFresh(im *images, f func() error) (err error) {
	for range maxLookUps {
		err = f()
		var stale *fleet.StaleFacts
		switch {
		case errors.As(err, &stale):
			for _, ref := range stale.Missing {
				b.lookUp(im, ref)
			}
		case errors.Is(err, state.ErrRemoved), errors.Is(err, state.ErrBeingRemoved):
			b.forgetImages(im)
		default:
			return err
		}
	}
	return err
}

// forgetImages lets all images be looked up again.
func (b *Booter) forgetImages(im *images) {
	clear(im.facts) // decisions share it
	clear(im.found)
	im.removed, im.pending = b.state.Removed(), map[ingot.Digest]bool{}
	for _, r := range b.state.Removals() {
		im.pending[r.Image] = true
	}
}

// decide makes a decision in a transaction, stores what it changed, and then logs its Changes. f
// only computes: it may be called more than once. It returns nil when there is nothing to decide.
func (b *Booter) decide(im *images, f func(tx state.Tx) (*fleet.Decision, error)) (*fleet.Decision, error) {
	var d *fleet.Decision
	err := b.untilFresh(im, func() error { return b.begin(im, &d, f)() })
	if err == nil && d != nil {
		b.logChanges(d.Changes)
	}
	return d, err
}

// begin runs the transaction of a decision; the function that it returns waits until it is durable.
func (b *Booter) begin(im *images, into **fleet.Decision,
	f func(tx state.Tx) (*fleet.Decision, error)) (wait func() error) {
	removed := im.removed
	return b.state.Begin(func(tx state.Tx) error {
		*into = nil
		tx.LookedUp(removed)
		d, err := f(tx)
		if err != nil || d == nil {
			return err
		}
		if err := d.Err(); err != nil {
			return err
		}
		store(tx, d)
		*into = d
		return nil
	})
}

// store puts what a decision changed into a transaction.
func store(tx state.Tx, d *fleet.Decision) {
	for _, older := range d.Older {
		tx.StoreBoot(older)
	}
	if d.MachineChanged() {
		tx.StoreMachine(d.Machine)
	}
	if d.BootChanged() {
		tx.StoreBoot(d.Boot)
	}
	tx.Record(d.Changes...)
}

// logChanges writes the Changes of a decision to the log: those that an operator may look for.
func (b *Booter) logChanges(list []fleet.Change) {
	b.volumes.add(list)
	for _, c := range list {
		level := slog.LevelInfo
		switch c.Code {
		case fleet.CodeBootStage, fleet.CodeTicketGiven, fleet.CodeMachineSeen, fleet.CodeMachineCard,
			fleet.CodeMachineLabels:
			continue // many, and in the ledger
		case fleet.CodeMachineHeld:
			level = slog.LevelError
		default:
			if c.Bad() {
				level = slog.LevelWarn
			}
		}
		args := []any{"machine", c.Machine, "what", c.String()}
		if c.Boot != "" {
			args = append(args, "boot", c.Boot.Short())
		}
		if c.Image.Name != "" {
			args = append(args, "image", c.Image.Name)
		}
		if c.Stage != "" {
			args = append(args, "stage", string(c.Stage))
		}
		if c.Failure != "" {
			args = append(args, "failure", string(c.Failure))
		}
		b.log.Log(context.Background(), level, strings.ReplaceAll(string(c.Code), "-", " "), args...)
	}
}
