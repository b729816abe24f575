package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Label implements api.Machinery.
func (o *Operator) Label(ctx context.Context, ref string, q api.LabelRequest) (api.Machine, error) {
	for k, v := range q.Set {
		if err := fleet.CheckLabel(k, v); err != nil {
			return api.Machine{}, api.NewProblem(api.CodeInvalidLabel, err.Error())
		}
	}
	return o.change(ctx, fleet.ActionLabel, ref, func(_ state.Tx, d *fleet.Decision) error {
		labels := maps.Clone(d.Machine.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, q.Set)
		for _, k := range q.Remove {
			delete(labels, k)
		}
		if len(labels) > max(fleet.MaxLabels, len(d.Machine.Labels)) { // an older version imported more
			return api.NewProblem(api.CodeTooManyLabels, fmt.Sprintf("a machine has at most %d labels",
				fleet.MaxLabels), "machine", d.Machine.Hostname())
		}
		d.SetLabels(labels)
		return nil
	})
}

// Rename implements api.Machinery.
func (o *Operator) Rename(ctx context.Context, ref, name string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionRename, ref, func(tx state.Tx, d *fleet.Decision) error {
		if err := freeName(tx, d.Machine, name); err != nil {
			return err
		}
		d.Rename(name)
		return nil
	})
}

// freeName returns a problem if a machine cannot get a name: no machine can have it, or another one
// has it. The name that a machine has already is never wrong.
func freeName(tx state.Tx, m fleet.Machine, name string) error {
	if name == "" || name == m.Name {
		return nil
	}
	if err := fleet.CheckName(name); err != nil {
		return api.NewProblem(api.CodeInvalidName, err.Error())
	}
	others := tx.MachinesNamed(name)
	if other, known := tx.Machine(ingot.MachineID(name)); known { // an ID of an older form
		others = append(others, other)
	}
	others = slices.DeleteFunc(others, func(o fleet.Machine) bool { return o.ID == m.ID })
	if len(others) == 0 {
		return nil
	}
	other := others[0]
	return api.NewProblem(api.CodeNameTaken, fmt.Sprintf("the name %q belongs to machine %s", name, other.ID),
		"machine", string(other.ID))
}

// Retire implements api.Machinery.
func (o *Operator) Retire(ctx context.Context, ref string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionRetire, ref, func(_ state.Tx, d *fleet.Decision) error {
		d.Retire()
		return nil
	})
}

// Forget implements api.Machinery.
func (o *Operator) Forget(ctx context.Context, ref string, force bool) (api.Machine, error) {
	picked, err := o.findNamed(ref)
	if err != nil {
		return api.Machine{}, err
	}
	now := o.now()
	var gone fleet.Machine
	var changes []fleet.Change
	err = o.state.Update(func(tx state.Tx) error {
		m, known := tx.Machine(picked.ID)
		switch {
		case !known:
			_, err := pick(nil, ref)
			return err
		case m.State == fleet.Approved && !force:
			return api.NewProblem(api.CodeMachineApproved,
				fmt.Sprintf("%s is approved; what is known of its good images would be lost",
					m.Hostname()), "machine", m.Hostname())
		}
		gone = m
		changes = []fleet.Change{on(m, Action(ctx, now, fleet.ActionForget, m, nil)), fleet.Forgotten(m, now)}
		tx.Record(changes...)
		return tx.DropMachine(m.ID)
	})
	if err == nil {
		logActions(o.log, changes...)
	}
	return converted(gone, err)
}

// Merge implements api.Machinery: from becomes a part of into, and its boots go
// on as boots of into.
func (o *Operator) Merge(ctx context.Context, from, into string, force bool) (api.Machine, error) {
	one, err := o.findNamed(from)
	if err != nil {
		return api.Machine{}, err
	}
	other, err := o.findNamed(into)
	if err != nil {
		return api.Machine{}, err
	}
	if one.ID == other.ID {
		return api.Machine{}, api.NewProblem(api.CodeSameMachine,
			fmt.Sprintf("%s and %s are the same machine", from, into))
	}
	now := o.now()
	var merged fleet.Machine
	var changes []fleet.Change
	err = o.state.Update(func(tx state.Tx) error {
		f, known := tx.Machine(one.ID)
		i, knownToo := tx.Machine(other.ID)
		if !known || !knownToo {
			return api.NewProblem(api.CodeChanged, fmt.Sprintf("%s or %s was just forgotten", from, into))
		}
		if err := mergeable(f, i); err != nil {
			return err
		}
		if fleet.Backwards(f, i) && !force {
			return backwards(f, i)
		}
		d := newDecision(ctx, i, now)
		d.Merge(f)
		merged = d.Machine
		last, err := tx.MoveBoots(f.ID, i.ID)
		if err != nil {
			return err
		}
		supersedeOthers(tx, d, f.Boot, i.Boot)
		if b, ok := tx.Boot(merged.Boot); ok && b.Number < last {
			b.Newest = last // the next boot is numbered after it
			tx.StoreBoot(b)
		}
		if err := tx.DropMachine(f.ID); err != nil {
			return err
		}
		before := struct { // all that the line of the audit log can bring back
			fleet.Machine
			From fleet.Machine `json:"from"`
		}{i, f}
		changes = append(d.Changes, on(i, Action(ctx, now, fleet.ActionMerge, before, merged)))
		tx.StoreMachine(merged)
		tx.Record(changes...)
		return nil
	})
	if err == nil {
		logActions(o.log, changes...)
	}
	return converted(merged, err)
}

// mergeable returns a problem if one machine cannot become a part of another.
func mergeable(from, into fleet.Machine) error {
	switch {
	case from.State != fleet.Approved:
		return nil
	case into.State == fleet.Approved:
		return api.NewProblem(api.CodeBothApproved,
			fmt.Sprintf("%s and %s are both approved; one of two machines that work would be lost", from.Hostname(),
				into.Hostname()),
			"from", from.Hostname())
	}
	// Its name, its image and what was healthy on it would be lost.
	return api.NewProblem(api.CodeMergeDirection,
		fmt.Sprintf("%s is approved, and %s is not: the one that is known stays, with its name, image and past",
			from.Hostname(), into.Hostname()),
		"from", into.Hostname(), "into", from.Hostname())
}

// backwards is the problem of a merge in which the machine that ran last would vanish.
func backwards(from, into fleet.Machine) error {
	seen := "was never heard of"
	if !into.LastSeen.IsZero() {
		seen = "was last heard of at " + into.LastSeen.UTC().Format(time.RFC3339)
	}
	return api.NewProblem(api.CodeMergeBackwards,
		fmt.Sprintf("%s would vanish, and it is the one that ran: %s was healthy on it, and it was heard of at %s; %s %s",
			from.Hostname(), from.LastHealthy.Name, from.LastSeen.UTC().Format(time.RFC3339), into.Hostname(), seen),
		"from", into.Hostname(), "into", from.Hostname())
}

// supersedeOthers ends those of some boots that are not the machine's latest: one computer has one
// boot that is not over.
func supersedeOthers(tx state.Tx, d *fleet.Decision, boots ...ingot.BootID) {
	for _, id := range boots {
		if b, ok := tx.Boot(id); ok && id != d.Machine.Boot {
			d.EndOlder(b, fleet.Superseded(b))
		}
	}
	for _, b := range d.Older {
		tx.StoreBoot(b)
	}
}

// Import implements api.Machinery: all of a list, or nothing.
func (o *Operator) Import(ctx context.Context, q api.ImportRequest) (done api.Imported, err error) {
	planned := each(q.Machines, func(p api.Planned) fleet.Planned { return fleet.Planned(p) })
	var recorded int
	err = repeat(func() error {
		now := o.now()
		change := state.LargeChange{LookedUp: o.state.Removed()}
		images, err := o.importedImages(ctx, q.Machines, now)
		if err != nil {
			return err
		}
		machines := o.state.Machines()
		changed, actions, err := fleet.Import(machines, planned, images, actorOf(access.From(ctx)), now)
		if err != nil {
			return importProblem(err)
		}
		if err := o.checkImported(machines, changed, q.Force); err != nil {
			return err
		}
		done = api.Imported{Actions: each(actions, func(a fleet.Action) api.Action { return api.Action(a) }),
			DryRun: q.DryRun}
		if q.DryRun {
			return nil
		}
		change.Machines, change.Changes = o.imported(ctx, machines, changed, now)
		recorded = len(change.Changes)
		return o.state.ReplaceMachines(change)
	}, state.ErrChanged, state.ErrRemoved)
	if err != nil {
		return api.Imported{}, removalProblem(err)
	}
	if !q.DryRun {
		o.log.Info("machines were imported", "by", access.From(ctx).String(), "machines", len(done.Actions),
			"changes", recorded)
	}
	return done, nil
}

// importedImages looks up the images of a list, and returns assignments by their names.
func (o *Operator) importedImages(ctx context.Context, list []api.Planned,
	now time.Time) (images map[string]fleet.Assignment, err error) {
	images = map[string]fleet.Assignment{}
	for _, p := range list {
		if p.Image == "" || images[p.Image].Image != "" {
			continue
		}
		if images[p.Image], err = o.catalog.Assignment(ctx, p.Image, "imported with it", now); err != nil {
			return nil, storeProblem(err)
		}
	}
	return images, nil
}

// checkImported returns a problem if an import gives a machine an image with other numbers of accounts.
// The facts are of known, which ReplaceMachines compares with the state.
func (o *Operator) checkImported(known []fleet.Machine, changed []*fleet.Decision, force bool) error {
	before := map[ingot.MachineID]fleet.Machine{}
	for _, m := range known {
		before[m.ID] = m
	}
	for _, d := range changed {
		m := before[d.Machine.ID]
		if to := d.Machine.Assignment.Image; to != m.Assignment.Image {
			var latest fleet.Boot
			o.state.View(func(r state.Reader) { latest = latestBoot(r, m) })
			if err := o.ownership(m, to, force).check(m, latest); err != nil {
				return err
			}
		}
	}
	return nil
}

// imported returns what an import stores and records of machines that it changed.
func (o *Operator) imported(ctx context.Context, known []fleet.Machine, changed []*fleet.Decision,
	now time.Time) (list []state.Replacement, changes []fleet.Change) {
	before := make(map[ingot.MachineID]*fleet.Machine, len(known))
	for i := range known {
		before[known[i].ID] = &known[i]
	}
	for _, d := range changed {
		m := d.Machine
		if m.MachineKey == "" {
			m.MachineKey = o.host.MachineKey(m.ID)
		}
		old := before[m.ID]
		var was any
		if old != nil {
			was = *old
		}
		list = append(list, state.Replacement{Before: old, After: m})
		changes = append(changes, d.Changes...)
		changes = append(changes, on(m, Action(ctx, now, fleet.ActionImport, was, m)))
	}
	return list, changes
}

// importProblem keeps the first faults of a list: it may have thousands.
func importProblem(err error) error {
	const most = 20
	lines := strings.Split(err.Error(), "\n")
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	if !errors.Is(err, fleet.ErrImport) {
		return err
	}
	return api.NewProblem(api.CodeInvalidImport, strings.Join(lines, "\n"))
}
