package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Label implements api.Machinery.
func (o *Operator) Label(ctx context.Context, ref string, q api.LabelRequest) (fleet.Machine, error) {
	for k, v := range q.Set {
		if err := fleet.CheckLabel(k, v); err != nil {
			return fleet.Machine{}, api.Problem{Status: 400, Detail: err.Error(), Next: "write KEY=VALUE"}
		}
	}
	return o.change(ctx, "machine.label", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		labels := maps.Clone(m.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, q.Set)
		for _, k := range q.Remove {
			delete(labels, k)
		}
		if len(labels) > fleet.MaxLabels {
			return m, api.Problem{Status: 400, Detail: fmt.Sprintf("a machine has at most %d labels", fleet.MaxLabels), Next: "remove some: ingot machine label " + m.Hostname() + " KEY-"}
		}
		m.Labels = labels
		o.log.Info("labelled", "by", access.From(ctx).String(), "machine", m.ID, "labels", labels)
		return m, nil
	})
}

// Rename implements api.Machinery.
func (o *Operator) Rename(ctx context.Context, ref, name string) (fleet.Machine, error) {
	if name != "" && !ingot.ValidProfileName(name) {
		return fleet.Machine{}, badName(name)
	}
	return o.change(ctx, "machine.rename", ref, func(m fleet.Machine, all []fleet.Machine) (fleet.Machine, error) {
		if err := freeName(all, m, name); err != nil {
			return m, err
		}
		o.log.Info("renamed", "by", access.From(ctx).String(), "machine", m.ID, "name", name, "before", m.Name)
		m.Name = name
		return m, nil
	})
}

func badName(name string) error {
	return api.Problem{Status: 400, Detail: fmt.Sprintf("%q cannot be a host name", name), Next: "use lower-case letters, digits and dashes"}
}

// freeName reports a name that another machine has.
func freeName(all []fleet.Machine, m fleet.Machine, name string) error {
	i := slices.IndexFunc(all, func(o fleet.Machine) bool { return name != "" && o.Name == name && o.ID != m.ID })
	if i < 0 {
		return nil
	}
	return api.Problem{Status: 409, Detail: fmt.Sprintf("the name %q belongs to machine %s", name, all[i].ID), Next: "choose another name, or: ingot machine rename " + string(all[i].ID) + " NEW-NAME"}
}

// Retire implements api.Machinery.
func (o *Operator) Retire(ctx context.Context, ref string) (fleet.Machine, error) {
	return o.change(ctx, "machine.retire", ref, func(m fleet.Machine, _ []fleet.Machine) (fleet.Machine, error) {
		o.log.Info("retired", "by", access.From(ctx).String(), "machine", m.ID, "name", m.Name)
		m.State = fleet.Retired
		return m, nil
	})
}

// Forget implements api.Machinery.
func (o *Operator) Forget(ctx context.Context, ref string, force bool) (gone fleet.Machine, err error) {
	err = o.state.Update(func(tx state.Tx) error {
		if gone, err = pick(tx.Machines(), ref); err != nil {
			return err
		}
		if gone.State == fleet.Approved && !force {
			return api.Problem{Status: 409, Detail: fmt.Sprintf("%s is approved; what is known of its good images would be lost", gone.Hostname()),
				Next: "ingot machine retire " + gone.Hostname() + ", or give --force"}
		}
		o.log.Info("forgotten", "by", access.From(ctx).String(), "machine", gone.ID, "name", gone.Name)
		tx.Audit(o.noted(ctx, "machine.forget", string(gone.ID), gone.Hostname(), gone, nil))
		tx.Note(fleet.Entry{At: o.now(), Kind: fleet.KindMachine, Machine: gone.ID, Text: "forgotten"})
		return tx.DropMachine(gone.ID)
	})
	return gone, err
}

// Merge implements api.Machinery: from becomes a part of into, and its boots go
// on as boots of into.
func (o *Operator) Merge(ctx context.Context, from, into string) (merged fleet.Machine, err error) {
	err = o.state.Update(func(tx state.Tx) error {
		all := tx.Machines()
		f, err := pick(all, from)
		if err != nil {
			return err
		}
		i, err := pick(all, into)
		if err != nil {
			return err
		}
		switch {
		case f.ID == i.ID:
			return api.Problem{Status: 400, Detail: fmt.Sprintf("%s and %s are the same machine", from, into), Next: "ingot machine ls"}
		case f.State == fleet.Approved && i.State == fleet.Approved:
			return api.Problem{Status: 409, Detail: fmt.Sprintf("%s and %s are both approved; one of two machines that work would be lost", f.Hostname(), i.Hostname()),
				Next: "if they are one, retire first: ingot machine retire " + f.Hostname()}
		case f.State == fleet.Approved: // its name, its image and what was healthy on it would be lost
			return api.Problem{Status: 409, Detail: fmt.Sprintf("%s is approved, and %s is not: the one that is known stays, with its name, image and past", f.Hostname(), i.Hostname()),
				Next: fmt.Sprintf("ingot machine merge %s %s", i.Hostname(), f.Hostname())}
		}
		merged = fleet.Merge(i, f, o.now())
		before := struct { // all that the line of the audit log can bring back
			fleet.Machine
			From fleet.Machine `json:"from"`
		}{i, f}
		if err := tx.MoveBoots(f.ID, i.ID); err != nil {
			return err
		}
		d := fleet.NewDecision(merged, fleet.Boot{}, fleet.BootPolicy{}, nil, fleet.Actor{}, o.now())
		for _, id := range []ingot.BootID{f.Boot, i.Boot} { // one computer has one boot that is not over
			if b, ok := tx.Boot(id); ok && id != merged.Boot {
				d.EndOlder(b, fleet.Superseded(b))
			}
		}
		for _, b := range d.Older {
			tx.StoreBoot(b)
		}
		tx.Record(d.Changes...)
		if err := tx.DropMachine(f.ID); err != nil {
			return err
		}
		tx.Note(fleet.MergeEntries(i, f, o.now())...)
		tx.PutMachine(merged)
		tx.Audit(o.noted(ctx, "machine.merge", string(i.ID), i.Hostname(), before, merged))
		o.log.Info("merged", "by", access.From(ctx).String(), "machine", i.ID, "from", f.ID, "macs", merged.MACs, "uuid", merged.UUID)
		return nil
	})
	return merged, err
}

// Import implements api.Machinery: all of a list, or nothing.
func (o *Operator) Import(ctx context.Context, q api.ImportRequest) (done api.Imported, err error) {
	images := map[string]fleet.Assignment{}
	for _, p := range q.Machines {
		if p.Image == "" || images[p.Image].Image != "" {
			continue
		}
		as, err := o.catalog.Assignment(ctx, p.Image, "imported with it", o.now())
		if err != nil {
			return done, storeProblem(err)
		}
		images[p.Image] = as
	}
	err = o.state.Update(func(tx state.Tx) error {
		for _, as := range images {
			if err := o.still(as); err != nil {
				return err
			}
		}
		changed, actions, err := fleet.Import(tx.Machines(), q.Machines, images, o.now())
		if err != nil {
			return importProblem(err)
		}
		done = api.Imported{Actions: actions, DryRun: q.DryRun}
		if q.DryRun {
			return nil
		}
		for _, m := range changed {
			if m.MachineKey == "" {
				m.MachineKey = o.host.MachineKey(m.ID)
			}
			var before any
			if old, known := tx.Machine(m.ID); known {
				before = old
			}
			tx.Note(fleet.Entry{At: o.now(), Kind: fleet.KindMachine, Machine: m.ID, Text: "is in a list that was imported, as " + m.Hostname()})
			tx.PutMachine(m)
			tx.Audit(o.noted(ctx, "machine.import", string(m.ID), m.Hostname(), before, m))
		}
		o.log.Info("imported", "by", access.From(ctx).String(), "machines", len(actions), "changed", len(changed))
		return nil
	})
	return done, err
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
	return api.Problem{Status: 400, Detail: strings.Join(lines, "\n"), Next: "nothing was changed; correct the list and give it again, with --dry-run to look first"}
}
