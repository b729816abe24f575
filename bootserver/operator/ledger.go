package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/explain"
	"ingot/bootserver/network"
	"ingot/bootserver/state"
	"ingot/image"
)

// LatestBoots implements api.Ledger.
func (o *Operator) LatestBoots() []api.Boot { return each(o.state.Latest(), bootOf) }

// Events implements api.Ledger.
func (o *Operator) Events(ctx context.Context, q api.EventsRequest) (api.Events, error) {
	s := state.Query{After: q.After, Newest: q.Newest, Limit: q.Limit}
	named, err := o.named(append([]string{q.Machine}, q.Machines...))
	if err != nil {
		return api.Events{}, err
	}
	for _, m := range named {
		s.Machines = append(s.Machines, m.ID)
	}
	name, restored := o.state.LedgerName()
	if q.Wait > 0 && (q.Ledger == "" || q.Ledger == name) {
		ctx, cancel := context.WithTimeout(ctx, q.Wait)
		defer cancel()
		o.state.Await(ctx, q.After)
		name, restored = o.state.LedgerName()
	}
	if q.Ledger != "" && q.Ledger != name { // its numbers mean nothing here
		s.After = restored
	}
	list, last, err := o.state.Changes(s)
	if q.Ledger == "" && q.After > last && !q.Newest { // a client that does not know that there are several
		s.After = restored
		list, last, err = o.state.Changes(s)
	}
	if len(list) > 0 && !q.Newest {
		last = list[len(list)-1].Seq
	}
	return api.Events{Events: each(list, entryOf), Last: last, Ledger: name}, err
}

// bootOf returns a boot of a machine by its id or the beginning of it, or else
// the latest.
func (o *Operator) bootOf(ref, boot string) (b fleet.Boot, err error) {
	m, err := o.find(ref)
	if err != nil {
		return b, err
	}
	list, err := o.state.Boots(m.ID, 0)
	if err != nil {
		return b, err
	}
	i := slices.IndexFunc(list, func(b fleet.Boot) bool { return boot != "" && strings.HasPrefix(string(b.ID), boot) })
	if boot == "" {
		i = len(list) - 1
	}
	if i < 0 {
		return b, api.NewProblem(api.CodeBootNotFound, fmt.Sprintf("%s has no such boot", m.Hostname()), "machine",
			m.Hostname())
	}
	return list[i], nil
}

// Console implements api.Ledger.
func (o *Operator) Console(ref, boot string) (api.Console, error) {
	b, err := o.bootOf(ref, boot)
	if err != nil {
		return api.Console{}, err
	}
	text, err := o.state.Console(b.ID)
	return api.Console{Boot: bootOf(b), Text: text}, err
}

// Hardware implements api.Ledger.
func (o *Operator) Hardware(ref, boot string) (api.Hardware, error) {
	b, err := o.bootOf(ref, boot)
	if err != nil {
		return api.Hardware{}, err
	}
	f, reported, err := o.state.Facts(b)
	if err == nil && !reported {
		err = api.NewProblem(api.CodeNoHardware,
			fmt.Sprintf("boot %s reported no hardware: it requested no ticket", b.ID.Short()), "machine", ref)
	}
	return api.Hardware{Boot: b.ID, Same: b.Facts, Facts: f, Changes: b.Changes}, err
}

// Why implements api.Ledger.
func (o *Operator) Why(ref string) (api.Why, error) {
	m, err := o.find(ref)
	if err != nil {
		return api.Why{}, err
	}
	boots, err := o.state.Boots(m.ID, storyBoots)
	if err != nil {
		return api.Why{}, err
	}
	story := explain.Story{Machine: m, Boots: boots, Others: o.others(m, boots), Needed: o.sizes(boots),
		Policy: o.host.HealingPolicy(), Sending: o.host.Sending(m.Boot), Served: o.started, Now: o.now()}
	if story.Most, err = o.mostMemory(boots); err != nil {
		return api.Why{}, err
	}
	if err := o.servable(m, &story.First); err != nil {
		story.Unservable, story.Untrusted = err.Error(), errors.Is(err, image.ErrSignature)
		story.Absent = errors.Is(err, image.ErrNotFound)
	}
	if approved := m; m.State == fleet.Pending {
		approved.State = fleet.Approved // as a rule or an operator makes it
		if err := o.servable(approved, &story.First); err != nil && story.First != "" {
			story.Unservable = err.Error()
		}
	}
	words, next := explain.Why(story)
	var latest fleet.Boot
	if n := len(boots); n > 0 {
		latest = boots[n-1]
	}
	for _, said := range []string{marks(m, latest), o.inRollout(m, latest)} {
		words = strings.TrimSpace(words + " " + said)
	}
	return api.Why{Machine: m.ID, Name: m.Hostname(), Words: words, Steps: each(next, api.StepOf)}, nil
}

// servable reports why the image that a machine boots next cannot be served. first is set to the name of the
// image that the machine is given if it has none.
func (o *Operator) servable(m fleet.Machine, first *string) error {
	var im image.Image
	ref, err := fleet.Next(m)
	if err == nil {
		im, err = o.catalog.Image(ref.Image)
	} else if *first = o.host.FirstImage(m); *first != "" {
		im, err = o.catalog.Resolve(context.Background(), *first)
	} else {
		return nil
	}
	if err != nil {
		return err
	}
	return o.host.Required(im.Manifest)
}

// mostMemory returns the hardware of the boot that reported the most memory.
func (o *Operator) mostMemory(boots []fleet.Boot) (most explain.Hardware, err error) {
	for _, b := range boots {
		f, reported, err := o.state.Facts(b)
		if err != nil {
			return most, err
		}
		if reported && max(f.RAM, f.RAMInstalled) > max(most.Facts.RAM, most.Facts.RAMInstalled) {
			most = explain.Hardware{At: b.Started, Facts: f}
		}
	}
	return most, nil
}

// storyBoots is how many boots an explanation looks at.
const storyBoots = 12

// sizes are those of the images of boots, whoever signed them.
func (o *Operator) sizes(boots []fleet.Boot) map[ingot.Digest]explain.Sizes {
	needed := map[ingot.Digest]explain.Sizes{}
	for _, b := range boots {
		if _, known := needed[b.Image.Image]; known || b.Image.Image == "" {
			continue
		}
		needed[b.Image.Image] = nil // a store that has it no more is asked once
		if im, err := o.catalog.Stored(b.Image.Image); err == nil {
			needed[b.Image.Image] = explain.Sizes{"kernel": im.Manifest.Kernel.Size,
				"initramfs": im.Manifest.Initramfs.Size, "root": im.Manifest.Root.Size}
			if uki, has := o.catalog.UKI(im); has {
				needed[b.Image.Image][catalog.UKI] = uki.Size
			}
		}
	}
	return needed
}

// Backup implements api.Ledger. It changes nothing, and is recorded all the same: a backup holds
// everything that the server knows.
func (o *Operator) Backup(ctx context.Context, w io.Writer) error {
	if err := o.state.Append(Action(ctx, o.now(), fleet.ActionServerBackup, nil, nil)); err != nil {
		return err
	}
	err := o.state.Backup(w)
	switch {
	case errors.Is(err, state.ErrBackups):
		return api.NewProblem(api.CodeTooManyBackups, err.Error())
	case errors.Is(err, syscall.ENOSPC):
		return api.NewProblem(api.CodeNoSpace, err.Error())
	}
	return err
}

// Restore implements api.Ledger. Leases that were given since the backup stay:
// machines use their addresses. A backup of another server makes this one that
// server, at once.
func (o *Operator) Restore(ctx context.Context, r io.Reader) (api.Restored, error) {
	was, machines := o.state.Identity(), o.state.Machines()
	kept, err := o.state.Restore(r, o.now())
	if errors.Is(err, state.ErrDamaged) || errors.Is(err, state.ErrSchema) {
		return api.Restored{}, api.NewProblem(api.CodeInvalidBackup, err.Error())
	} else if errors.Is(err, state.ErrRestoring) {
		return api.Restored{}, api.NewProblem(api.CodeRestoring, err.Error())
	} else if err != nil {
		return api.Restored{}, err
	}
	o.host.SetRules(DesiredRules(o.state, o.log))
	if err := o.host.KeepLeases(); err != nil {
		return api.Restored{}, err
	}
	if !bytes.Equal(was, o.state.Identity()) {
		if err := o.host.ChangeIdentity(); err != nil {
			return api.Restored{}, err
		}
	}
	done, err := RecordRestore(ctx, o.state, machines, kept, bytes.Equal(was, o.state.Identity()), o.now())
	if err != nil {
		return done, err
	}
	o.log.Warn("the state was restored from a backup", "by", access.From(ctx).String(), "machines", done.Machines,
		"missing", len(done.Missing), "before", kept)
	return done, nil
}

// RecordRestore records that a backup is now the state. machines are those of the state from before,
// kept is its file, and complete says that its audit log is the backup's, and went on.
func RecordRestore(ctx context.Context, st state.Store, machines []fleet.Machine, kept string, complete bool,
	now time.Time) (done api.Restored, err error) {
	_, last := st.LedgerName()
	list, _, err := st.Changes(state.Query{Newest: true, Limit: 1000}) // the server goes on meanwhile
	if err != nil {
		return done, err
	}
	var taken time.Time
	for _, c := range list {
		if c.Seq <= last {
			taken = c.At
		}
	}
	done = api.Restored{Machines: len(st.Machines()), Before: kept, Missing: []string{}}
	for _, m := range machines {
		if _, known := st.Machine(m.ID); !known && m.State == fleet.Approved {
			done.Missing = append(done.Missing, m.Hostname())
		}
	}
	action := Action(ctx, now, fleet.ActionServerRestore, nil, map[string]any{"machines": done.Machines, "before": kept,
		fleet.RestoreTaken: taken.Format(time.RFC3339Nano), fleet.RestoreComplete: complete})
	return done, st.Append(action, fleet.Restored(done.Machines, now))
}

// others returns what other DHCP servers answered a machine: in these boots, and what was heard of
// its own cards. The answer that it followed comes last.
func (o *Operator) others(m fleet.Machine, boots []fleet.Boot) (list []fleet.Other) {
	for _, b := range boots {
		for _, other := range b.Others {
			list = append(list, within(b, other))
		}
	}
	for _, other := range o.host.HeardOf(m.Cards()) {
		if n := len(boots); n > 0 && boots[n-1].Started.Sub(other.At) < network.SameAttempt {
			other = within(boots[n-1], other)
		}
		if !other.Expected {
			list = append(list, other)
		}
	}
	slices.SortFunc(list, fleet.ByWeight)
	return list
}

// within returns an answer that belongs to a boot with a time that does: others may answer before
// this server does, and a boot begins with our answer.
func within(b fleet.Boot, o fleet.Other) fleet.Other {
	if o.At.Before(b.Started) {
		o.At = b.Started
	}
	return o
}
