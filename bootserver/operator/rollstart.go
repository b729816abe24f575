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
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/count"
)

// StartRollout implements api.Rollouts.
func (o *Operator) StartRollout(ctx context.Context, q api.RolloutRequest) (p api.RolloutPlan, err error) {
	return o.startRollout(ctx, q, func() ([]fleet.Machine, error) {
		return chooseMachines(o.state.Machines(), q.Selector)
	})
}

// startRollout starts a rollout to the machines that choose returns, or only plans it.
func (o *Operator) startRollout(ctx context.Context, q api.RolloutRequest, choose func() ([]fleet.Machine, error)) (
	p api.RolloutPlan, err error) {
	o.rollouts.sweep()
	o.rollouts.starting.Lock()
	defer o.rollouts.starting.Unlock()
	err = repeat(func() error {
		removed := o.state.Removed()
		d, err := o.draft(ctx, q, choose)
		if err != nil {
			return err
		}
		if p = d.plan(); q.DryRun {
			return nil
		}
		if err := d.startable(); err != nil {
			return err
		}
		d.rollout.By = access.From(ctx).String()
		started, err := o.rollouts.begin(ctx, d.rollout, d.members, removed)
		if err == nil {
			p.Rollout = o.rolloutOf(started)
		}
		return err
	}, errStale, state.ErrRemoved)
	return p, removalProblem(err)
}

// draft is a rollout that is not stored yet.
type draft struct {
	rollout  rollout.Rollout
	members  []rollout.Member
	image    image.Image
	stored   func(ingot.Digest) (image.Image, error) // looks an image of the store up, once
	boots    int                                     // of which the usual rate was computed
	planned  map[ingot.MachineID]api.PlannedMachine
	unable   []string                        // machines that would be moved and take no orders, with the reason
	packages func(image.Image) []api.Package // by name; nil if an image has no SBOM
	problems []error                         // of machines that must not get the image
	other    string                          // a rollout that has machines of this one
	notes    []string
}

// draft plans a rollout.
func (o *Operator) draft(ctx context.Context, q api.RolloutRequest, choose func() ([]fleet.Machine, error)) (*draft,
	error) {
	now := o.now()
	as, err := o.catalog.Assignment(ctx, q.Image, "", now)
	if err != nil {
		return nil, storeProblem(err)
	}
	im, err := o.catalog.Stored(as.Image)
	if err != nil {
		return nil, storeProblem(err)
	}
	machines, err := choose()
	if err != nil {
		return nil, err
	}
	d := &draft{image: im, planned: map[ingot.MachineID]api.PlannedMachine{}, stored: storedOnce(o.catalog.Stored),
		packages: func(im image.Image) []api.Package {
			c, _ := o.described(ctx, im) // one that cannot be read is like none: numbers are shown instead
			return c.Packages
		}}
	policy, err := o.policyFor(q, d)
	if err != nil {
		return nil, err
	}
	d.rollout = rollout.Rollout{ID: "new", Image: rollout.Image(as.ImageRef), Selector: q.Selector, Policy: policy,
		State: rollout.Planned, Created: now, Since: now, By: access.From(ctx).String()}
	label := policy.Spread
	if label != "" && !slices.ContainsFunc(machines, func(m fleet.Machine) bool { return m.Labels[label] != "" }) {
		return nil, api.NewProblem(api.CodeInvalidRollout, fmt.Sprintf("spread: no machine of the rollout has the "+
			"label %q, so that all would be one failure domain", label))
	}
	list, f := o.candidates(machines, label)
	if d.rollout, d.members, err = rollout.Plan(d.rollout, list); err != nil {
		return nil, api.NewProblem(api.CodeNobodyToMove, fmt.Sprintf("%s: none of %s would get %s: %s", err,
			count.Of(len(list), "machine"), as.Name, whyNobody(list, as.Image, f, now)))
	}
	return d, o.examine(d, machines, list, f, q.Force, now)
}

// whyNobody counts machines by why a rollout leaves them out.
func whyNobody(list []rollout.Candidate, image ingot.Digest, f rollout.Fleet, now time.Time) string {
	by := map[string]int{}
	for i := range list {
		by[list[i].Out(image, f, now)]++
	}
	var words []string
	for _, why := range slices.Sorted(maps.Keys(by)) {
		words = append(words, fmt.Sprintf("%s (%d)", why, by[why]))
	}
	return strings.Join(words, ", ")
}

// policyFor returns the policy of a request, with the fleet's own rate of failed boots.
func (o *Operator) policyFor(q api.RolloutRequest, d *draft) (p rollout.Policy, err error) {
	past, err := o.usualRate()
	if err != nil { // the strictest test is the safe one
		d.notes = append(d.notes, fmt.Sprintf("the least rate is taken for usual, as earlier boots cannot be read: %v", err))
	}
	rate, n := rollout.UsualRate(past, o.now())
	d.boots = n
	p = policyOf(q.Policy).WithDefaults(rate, o.host.HealingPolicy().Limit())
	if err := p.Check(); err != nil {
		return p, api.NewProblem(api.CodeInvalidRollout, err.Error())
	}
	if _, err := closed(p.Window, o.now()); err != nil {
		return p, api.NewProblem(api.CodeInvalidRollout, err.Error())
	}
	return p, nil
}

// ratedBoots bounds the boots of which the usual rate of failures is computed.
const ratedBoots = 5000

// usualRate returns the latest boots of the fleet, as rollout.UsualRate needs them.
func (o *Operator) usualRate() (list []rollout.Past, err error) {
	boots, err := o.state.Boots("", ratedBoots)
	if err != nil {
		return nil, err
	}
	booted := map[ingot.Digest]bool{}
	for _, b := range boots {
		booted[b.Image.Image] = true
	}
	own := map[ingot.BootID]bool{}
	for _, r := range o.state.Rollouts() {
		if !booted[r.Image.Image] || r.State.Ended() && r.Ended.Before(boots[0].Started) {
			continue // none of these boots is its own, and its machines may be many
		}
		for _, m := range o.state.Members(r.ID) {
			for _, res := range m.Results {
				own[res.Boot] = true
			}
		}
	}
	for _, b := range boots {
		if b.Once == nil && b.Image.Image != "" {
			list = append(list, rollout.Past{Image: b.Image.Image, Started: b.Started, Rollout: own[b.ID],
				Class: rollout.Classify(bootFacts(fleet.Machine{}, b))})
		}
	}
	return list, nil
}

// everybody is the selector of all machines.
const everybody = "all"

// chooseMachines returns the machines that a selector names, each once: all, names and hostlists, or labels.
// A word that is both the name of a machine and a label means the machine.
func chooseMachines(all []fleet.Machine, selector string) (list []fleet.Machine, err error) {
	if selector == everybody {
		list = slices.DeleteFunc(all, func(m fleet.Machine) bool { return m.State != fleet.Approved })
	} else {
		list, err = machinesOf(all, selector)
	}
	switch {
	case err != nil:
	case len(list) == 0:
		err = errors.New("it names no machine; the labels of machines are in: ingot machine ls")
	case len(list) > rollout.MaxMembers:
		err = fmt.Errorf("it names %d machines; a rollout has at most %d", len(list), rollout.MaxMembers)
	}
	if err != nil {
		return nil, api.NewProblem(api.CodeInvalidRollout, fmt.Sprintf("selector %q: %v", selector, err))
	}
	return list, nil
}

// machinesOf returns the machines of a hostlist, or of a selector of labels.
func machinesOf(all []fleet.Machine, selector string) (list []fleet.Machine, err error) {
	var unknown []string
	if !strings.Contains(selector, "=") {
		if list, unknown, err = machinesByName(all, selector); err != nil {
			return nil, err
		}
	}
	var labels fleet.Selector
	if len(list) == 0 {
		labels, err = fleet.ParseSelector(selector)
	}
	switch {
	case len(unknown) > 0 && (len(list) > 0 || err != nil):
		return nil, fmt.Errorf("no machine has the name %s", firstNames(unknown))
	case err != nil:
		return nil, err
	case len(list) > 0:
		return list, nil
	}
	for _, m := range all {
		if labels.Matches(m.Labels) {
			list = append(list, m)
		}
	}
	return list, nil
}

// machinesByName returns the machines of a hostlist, each once, and the names that no machine has.
func machinesByName(all []fleet.Machine, hosts string) (list []fleet.Machine, unknown []string, err error) {
	names, err := fleet.Hostlist(hosts)
	if err != nil {
		return nil, nil, err
	}
	has := map[ingot.MachineID]bool{}
	directory := fleet.NewDirectory(all)
	for _, name := range names {
		found := directory.Named(name)
		if len(found) > 1 {
			return nil, nil, fmt.Errorf("%q is the name of %d machines", name, len(found))
		}
		if len(found) == 0 {
			unknown = append(unknown, name)
			continue
		}
		if m := found[0]; !has[m.ID] {
			has[m.ID] = true
			list = append(list, m)
		}
	}
	return list, unknown, nil
}

// firstNames lists the first of some names, and how many more there are.
func firstNames(names []string) string {
	const most = 5
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// candidates gathers the facts of machines for a plan.
func (o *Operator) candidates(machines []fleet.Machine, spread string) (list []rollout.Candidate, f rollout.Fleet) {
	now, listening, stepped := o.rollouts.clock()
	f = rollout.Fleet{Listening: listening, Stepped: stepped}
	others, able := o.rollouts.others(""), statuses{}
	for _, m := range machines {
		facts, _ := o.rollouts.machine(&rollout.Member{Machine: m.ID}, able, now)
		facts.Other = others[m.ID]
		list = append(list, rollout.Candidate{ID: m.ID, Name: m.Hostname(), Domain: m.Labels[spread], Machine: facts})
	}
	slices.SortStableFunc(list, rollout.ByName)
	return list, f
}

// examine says of each machine whether it would be moved and whether the image fits it.
func (o *Operator) examine(d *draft, machines []fleet.Machine, list []rollout.Candidate, f rollout.Fleet, force bool,
	now time.Time) error {
	out, notes := map[ingot.MachineID]string{}, map[ingot.MachineID]string{}
	for i := range list {
		c := &list[i]
		if out[c.ID] = c.Out(d.rollout.Image.Image, f, now); out[c.ID] == "" {
			notes[c.ID] = d.orderNote(c)
		}
		if c.Other != "" {
			d.other = c.Other
		}
	}
	for _, m := range machines {
		p := api.PlannedMachine{Machine: m.ID, Name: m.Hostname(), From: imageRefOf(m.Assignment.ImageRef), Out: out[m.ID],
			Note: joinNotes(fits(d.image.Manifest, m), notes[m.ID])}
		var latest fleet.Boot
		o.state.View(func(r state.Reader) { latest = latestBoot(r, m) })
		if err := ownershipOf(m, latest, d.rollout.Image.Image, force, d.stored).check(m, latest); err != nil && p.Out == "" {
			d.problems = append(d.problems, err)
			p.Note = joinNotes(err.Error(), p.Note)
		}
		d.planned[m.ID] = p
	}
	return nil
}

// storedOnce returns a look-up of images that looks each of them up once: thousands of machines have the same
// ones, and one that is not in the store is looked for on the disk.
func storedOnce(look func(ingot.Digest) (image.Image, error)) func(ingot.Digest) (image.Image, error) {
	type answer struct {
		image image.Image
		err   error
	}
	known := map[ingot.Digest]answer{}
	return func(d ingot.Digest) (image.Image, error) {
		a, has := known[d]
		if !has {
			a.image, a.err = look(d)
			known[d] = a
		}
		return a.image, a.err
	}
}

// joinNotes joins those that are not empty.
func joinNotes(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
}

// orderNote says of a machine that would be moved that it cannot be ordered to reboot, or drains nothing.
func (d *draft) orderNote(c *rollout.Candidate) string {
	p := d.rollout.Policy
	switch {
	case p.How == rollout.NextBoot:
		return ""
	case c.NoOrder != "":
		d.unable = append(d.unable, fmt.Sprintf("%s: %s", c.Name, c.NoOrder))
		return c.NoOrder + "; somebody has to reboot it"
	case p.Drain != ingot.DrainNone && len(c.Hooks) == 0:
		return "its image declares no drain hooks: it reboots without"
	}
	return ""
}

// fits says what may keep an image from running on a machine: too little memory, and volumes that the
// machine has no disk for.
func fits(im ingot.ImageManifest, m fleet.Machine) string {
	var notes []string
	const enough = 7.0 / 8 // as ingot-init checks it: the kernel keeps a part of the memory for itself
	if m.Facts.RAM > 0 && float64(m.Facts.RAM) < enough*float64(im.MinRAM) {
		notes = append(notes, fmt.Sprintf("it has %d MiB of memory, and the image needs %d MiB", m.Facts.RAM>>20,
			im.MinRAM>>20))
	}
	if len(im.Volumes) > 0 && m.Facts.RAM > 0 && len(m.Facts.Disks) == 0 {
		notes = append(notes, "it reported no disk, and the image has volumes")
	}
	return strings.Join(notes, "; ")
}

// plan returns the draft for people.
func (d *draft) plan() api.RolloutPlan {
	p := api.RolloutPlan{DryRun: true, Boots: d.boots, Rollout: convertRollout(d.rollout, nil),
		Machines: []api.PlannedMachine{}}
	p.Rollout.ID, p.Rollout.State = "", string(rollout.Planned)
	having := map[fleet.ImageRef]int{}
	for _, m := range d.members {
		planned := d.planned[m.Machine]
		planned.Wave, planned.Domain = m.Wave, m.Domain
		p.Machines = append(p.Machines, planned)
		if planned.Out == "" {
			having[fleet.ImageRef(m.From)]++
		}
	}
	p.Changes = d.changes(having)
	p.Notes = append(d.notes, d.howNote(having))
	return p
}

// howNote says how the machines that would be moved come to boot the image.
func (d *draft) howNote(having map[fleet.ImageRef]int) string {
	all := 0
	for _, n := range having {
		all += n
	}
	p := d.rollout.Policy
	able := all - len(d.unable)
	switch {
	case p.How == rollout.NextBoot || able == 0:
		return "machines boot the image when somebody reboots them: a wave waits for that"
	case able == all && p.Drain == ingot.DrainNone:
		return fmt.Sprintf("%s %s ordered to reboot", count.Of(all, "machine"), count.Verb(all, "is", "are"))
	case able == all:
		return fmt.Sprintf("%s %s ordered to drain (%s) and reboot", count.Of(all, "machine"),
			count.Verb(all, "is", "are"), p.Drain)
	}
	return fmt.Sprintf("%s %s ordered to reboot; for %s a wave waits until somebody reboots them",
		count.Of(able, "machine"), count.Verb(able, "is", "are"), count.Of(all-able, "other"))
}

// changes says what changes for machines, by the image that they have now.
func (d *draft) changes(having map[fleet.ImageRef]int) []api.PlannedChange {
	list := []api.PlannedChange{}
	after := d.packages(d.image)
	for ref, n := range having {
		c := api.PlannedChange{From: imageRefOf(ref), Machines: n, Lines: []string{"it is not in the store any more"}}
		if had, err := d.stored(ref.Image); err == nil {
			if before := d.packages(had); len(before) > 0 && len(after) > 0 {
				c.Packages = packageChanges(before, after)
			}
			c.Lines = differences(had.Manifest, d.image.Manifest, c.Packages)
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b api.PlannedChange) int { return strings.Compare(a.From.Name, b.From.Name) })
	return list
}

// differences says what differs between two images.
func differences(a, b ingot.ImageManifest, packages []api.PackageChange) (lines []string) {
	add := func(what, before, after string) {
		if before != after {
			lines = append(lines, fmt.Sprintf("%s: %s → %s", what, before, after))
		}
	}
	add("kernel", a.KernelRelease, b.KernelRelease)
	if packages == nil {
		add("packages", fmt.Sprint(a.Packages), fmt.Sprint(b.Packages))
	}
	lines = append(lines, packageLines(packages)...)
	add("kernel arguments", strings.Join(a.Arguments, " "), strings.Join(b.Arguments, " "))
	add("least memory", fmt.Sprintf("%d MiB", a.MinRAM>>20), fmt.Sprintf("%d MiB", b.MinRAM>>20))
	add("volumes", volumeNames(a), volumeNames(b))
	const mega = 1e6
	download := b.Kernel.Size + b.Initramfs.Size + b.Root.Size
	lines = append(lines, fmt.Sprintf("download: %.1f MB for each machine", float64(download)/mega))
	return append(lines, fmt.Sprintf("files and changelogs: ingot image diff %s %s", a.Name(), b.Name()))
}

// packageChanges compares two lists of packages, which are sorted by name.
func packageChanges(before, after []api.Package) []api.PackageChange {
	list := []api.PackageChange{}
	for len(before)+len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Name < after[0].Name:
			list = append(list, api.PackageChange{Name: before[0].Name, Before: before[0].Version})
			before = before[1:]
		case len(before) == 0 || after[0].Name < before[0].Name:
			list = append(list, api.PackageChange{Name: after[0].Name, After: after[0].Version})
			after = after[1:]
		default:
			if before[0].Version != after[0].Version {
				list = append(list, api.PackageChange{Name: before[0].Name, Before: before[0].Version, After: after[0].Version})
			}
			before, after = before[1:], after[1:]
		}
	}
	return list
}

// packageLines describes the first changes of packages.
func packageLines(list []api.PackageChange) (lines []string) {
	const most = 12
	for _, c := range list[:min(len(list), most)] {
		switch {
		case c.Before == "":
			lines = append(lines, fmt.Sprintf("package added: %s %s", c.Name, c.After))
		case c.After == "":
			lines = append(lines, fmt.Sprintf("package removed: %s %s", c.Name, c.Before))
		default:
			lines = append(lines, fmt.Sprintf("package: %s %s → %s", c.Name, c.Before, c.After))
		}
	}
	if more := len(list) - most; more > 0 {
		lines = append(lines, fmt.Sprintf("and %s; all of them: -o json", count.Of(more, "more package")))
	}
	return lines
}

func volumeNames(m ingot.ImageManifest) string {
	var names []string
	for _, v := range m.Volumes {
		names = append(names, v.Name)
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, " ")
}

// startable returns a problem if the rollout must not start.
func (d *draft) startable() error {
	if d.other != "" {
		return api.NewProblem(api.CodeRolloutMachines, "machines belong to rollout "+d.other+", which has not ended",
			"rollout", d.other)
	}
	if n := len(d.unable); n > 0 && d.rollout.Policy.How == rollout.Reboot {
		return api.NewProblem(api.CodeNotOrderable, fmt.Sprintf("%d of the machines cannot be ordered to reboot, the first: "+
			"%s; with how auto, a wave waits until somebody reboots these", n, d.unable[0]))
	}
	if n := len(d.problems); n > 0 {
		p := api.Problem{}
		if errors.As(d.problems[0], &p) && n > 1 {
			p.Detail += fmt.Sprintf("; and likewise %s", count.Of(n-1, "more machine"))
			return p
		}
		return d.problems[0]
	}
	return nil
}

// begin stores a rollout: its machines in parts, and then that it may move. A crash in between leaves a
// rollout that sweep drops, and so does an error on a disk that takes nothing more. x.starting is held.
func (x *Rollouts) begin(ctx context.Context, r rollout.Rollout, members []rollout.Member, removed uint64) (
	_ rollout.Rollout, err error) {
	defer func() {
		if err != nil && x.drop(r.ID) != nil {
			x.swept = false
		}
	}()
	final := r.State
	r.State, r.Generation = rollout.Preparing, 1
	r.Ledger, _ = x.State.LedgerName()
	err = x.State.Update(func(tx state.Tx) error {
		tx.LookedUp(removed)
		r.Number = tx.LastRollout() + 1
		r.ID = fmt.Sprint("r", r.Number)
		tx.PutRollout(r)
		return nil
	})
	if err != nil {
		return r, err
	}
	for part := range slices.Chunk(members, dropAtOnce) {
		err = x.State.Update(func(tx state.Tx) error {
			for _, m := range part {
				if other := tx.RolloutOf(m.Machine); other != "" && other != r.ID {
					return api.NewProblem(api.CodeRolloutMachines, fmt.Sprintf("%s belongs to rollout %s, which has not ended",
						m.Name, other), "rollout", other)
				}
				m.Rollout = r.ID
				tx.PutMember(m)
			}
			return nil
		})
		if err != nil {
			return r, err
		}
	}
	r.State, r.Generation = final, r.Generation+1
	r.Log = []rollout.Entry{{At: r.Created, State: final, By: r.By}}
	c := onRollout(r, Action(ctx, r.Created, fleet.ActionRolloutStart, nil, started{r.Image.Name, r.Selector, r.Machines}))
	changes := append(stateChanges(rollout.Rollout{}, r), c)
	err = x.State.Update(func(tx state.Tx) error {
		tx.PutRollout(r)
		tx.Record(changes...)
		return nil
	})
	if err == nil {
		logActions(x.Log, changes...)
	}
	return r, err
}

// started is what the audit log has of the start of a rollout.
type started struct {
	Image    string `json:"image"`
	Selector string `json:"selector"`
	Machines int    `json:"machines"`
}

// onRollout returns an action on a rollout.
func onRollout(r rollout.Rollout, c fleet.Change) fleet.Change {
	c.Rollout, c.Subject, c.Name, c.Image = r.ID, r.ID, r.ID, fleet.ImageRef(r.Image)
	return c
}
