package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
	"ingot/internal/yamlfile"
)

// DesiredRules returns the rules for new machines of the desired state.
func DesiredRules(st state.Store, log *slog.Logger) []fleet.Rule {
	c, err := desired.Unpack(st.Desired().Content)
	if err != nil {
		log.Error("reading the rules of the desired state; they do not apply", "err", err)
	}
	return c.Spec.Rules
}

// Desired implements api.Desired.
func (o *Operator) Desired(ctx context.Context) (s api.DesiredState, err error) {
	r := o.state.Desired()
	last, err := desired.Unpack(r.Content)
	if err != nil {
		return s, err
	}
	machines := o.state.Machines()
	names := last.Spec.Images()
	for _, m := range machines {
		if n := m.Assignment.Name; n != "" {
			names = append(names, n)
		}
	}
	for _, ref := range last.Images {
		names = append(names, ref.Name)
	}
	slices.Sort(names)
	f, err := o.desiredFacts(ctx, machines, slices.Compact(names), last.Images)
	if err != nil {
		return s, err
	}
	text, err := desired.Export(last, f).YAML()
	if err != nil {
		return s, err
	}
	s = api.DesiredState{YAML: string(text), Generation: r.Generation, At: r.At, Following: r.Following,
		Problems: r.Problems}
	if r.Generation > 0 {
		s.By = r.By.String()
	}
	return s, nil
}

// application is an application of files that was planned.
type application struct {
	record desired.Record // before
	last   desired.Content
	plan   desired.Plan
}

// ApplyDesired implements api.Desired. The files are checked whole. Then one record flips, and machines
// follow it in transactions of a few each. FollowDesired goes on after a crash.
func (o *Operator) ApplyDesired(ctx context.Context, q api.DesiredRequest) (p api.DesiredPlan, err error) {
	if !q.DryRun {
		o.rollouts.applying.Lock()
		defer o.rollouts.applying.Unlock()
		if _, err := o.followDesired(ctx); err != nil {
			return p, err
		}
	}
	parsed := desired.Parse(each(q.Files, func(f api.DesiredFile) desired.File {
		return desired.File{Name: f.Name, Content: []byte(f.Content)}
	}))
	var flipped bool
	err = repeat(func() error {
		a, err := o.planDesired(ctx, parsed, q)
		if err != nil {
			return err
		}
		p = convertPlan(a.plan)
		p.DryRun = q.DryRun
		if q.Basis != "" && q.Basis != p.Basis {
			return api.NewProblem(api.CodeChanged, "the fleet or an image has changed since the plan was made: it is "+p.Basis+
				" now, not "+q.Basis+"; look at the changes again with ingot diff")
		}
		if q.DryRun {
			return nil
		}
		flipped, err = o.flip(ctx, a)
		return err
	}, errStale)
	if err != nil || !flipped {
		return p, err
	}
	done, err := o.followDesired(ctx)
	p.Rollouts, p.Problems = done.rollouts, done.problems
	return p, err
}

// planDesired compares files with the fleet, and checks what the plan would do.
func (o *Operator) planDesired(ctx context.Context, parsed desired.Parsed, q api.DesiredRequest) (a application,
	err error) {
	a.record = o.state.Desired()
	if a.last, err = desired.Unpack(a.record.Content); err != nil {
		return a, err
	}
	f, err := o.desiredFacts(ctx, o.state.Machines(), parsed.Spec.Images(), a.last.Images)
	if err != nil {
		return a, err
	}
	f.By = actorOf(access.From(ctx))
	var faults yamlfile.Faults
	a.plan, faults = parsed.Plan(a.last, f, desired.Options{Prune: q.Prune, Forget: q.Forget, Force: q.Force,
		Retry: q.Retry})
	for _, r := range slices.Clone(a.plan.Rollouts) {
		if len(faults) > 0 {
			break
		}
		switch err := o.checkRollout(ctx, r, q.Force); {
		case nobodyToMove(err):
			a.plan.Leave(r, err.Error())
		case err != nil:
			faults.Add(r.At, "correct that first, or give the machines the image otherwise", "to %s: %v", r.Selector, err)
		}
	}
	for _, c := range a.plan.Changed {
		if c.Before == nil || len(faults) > 0 || c.Before.Assignment.Image == c.Decision.Machine.Assignment.Image {
			continue
		}
		var latest fleet.Boot
		o.state.View(func(r state.Reader) { latest = latestBoot(r, *c.Before) })
		if err := o.ownership(*c.Before, c.Decision.Machine.Assignment.Image, q.Force).check(*c.Before, latest); err != nil {
			return a, err
		}
	}
	return a, fleetProblem(faults)
}

// nobodyToMove reports whether a rollout would move no machine now.
func nobodyToMove(err error) bool {
	p := api.Problem{}
	return errors.As(err, &p) && p.Code == api.CodeNobodyToMove
}

// checkRollout says whether a rollout of a plan could start.
func (o *Operator) checkRollout(ctx context.Context, r desired.Rollouts, force bool) error {
	q, choose, err := o.rolloutOfPlan(r, force)
	if err != nil {
		return err
	}
	d, err := o.draft(ctx, q, choose)
	if err != nil {
		return err
	}
	return d.startable()
}

// rolloutOfPlan returns the request for a rollout of a plan.
func (o *Operator) rolloutOfPlan(r desired.Rollouts, force bool) (q api.RolloutRequest,
	choose func() ([]fleet.Machine, error), err error) {
	policy, err := r.How.Policy()
	if err != nil {
		return q, nil, err
	}
	q = api.RolloutRequest{Image: string(r.Image.Image), Selector: r.Selector, Policy: convertPolicy(policy), Force: force}
	wanted := make(map[ingot.MachineID]bool, len(r.Machines))
	for _, id := range r.Machines {
		wanted[id] = true
	}
	return q, func() ([]fleet.Machine, error) {
		return slices.DeleteFunc(o.state.Machines(), func(m fleet.Machine) bool { return !wanted[m.ID] }), nil
	}, nil
}

// desiredFacts gathers what files are compared with. had are images of earlier files, by their words.
func (o *Operator) desiredFacts(ctx context.Context, machines []fleet.Machine, names []string,
	had map[string]fleet.ImageRef) (f desired.Facts, err error) {
	f = desired.Facts{Machines: machines, Images: map[string]desired.Image{},
		Moving: map[ingot.MachineID]desired.Moving{}, Back: map[string]desired.Moving{}, Now: o.now()}
	assigned := map[string]fleet.ImageRef{}
	for _, m := range machines {
		assigned[m.Assignment.Name], assigned[string(m.Assignment.Image)] = m.Assignment.ImageRef, m.Assignment.ImageRef
	}
	unknown := false
	for _, name := range names {
		as, err := o.catalog.Assignment(ctx, name, "", f.Now)
		im := desired.Image{ImageRef: as.ImageRef, Err: err}
		if err != nil {
			unknown = true
			im.ImageRef = cmp.Or(had[name], assigned[name])
		}
		f.Images[name] = im
	}
	if unknown {
		list, err := o.Store.List(ctx)
		if err != nil {
			return f, err
		}
		for _, im := range list {
			f.Known = append(append(f.Known, im.Name.String()), im.Tags...)
		}
	}
	o.rolloutFacts(&f)
	return f, nil
}

// rolloutFacts adds what rollouts do to machines.
func (o *Operator) rolloutFacts(f *desired.Facts) {
	for _, r := range o.state.Rollouts() {
		m := desired.Moving{Rollout: r.ID, Image: r.Image.Image}
		delete(f.Back, r.Selector)
		if r.State == rollout.Back {
			f.Back[r.Selector] = m
		}
		if r.State.Ended() || r.State == rollout.Preparing {
			continue
		}
		if r.State == rollout.Aborting {
			m.Image = "" // machines go back
		}
		for _, member := range o.state.Members(r.ID) {
			if member.Left == "" {
				f.Moving[member.Machine] = m
			}
		}
	}
}

// applied is what the audit log has of files that were applied.
type applied struct {
	Generation uint64 `json:"generation"`
	Changes    int    `json:"changes"`
	Machines   int    `json:"machines"` // that change
	Prune      bool   `json:"prune,omitempty"`
	Forget     int    `json:"forget,omitempty"`
}

// flip stores the desired state of a plan. It reports false if nothing is to be stored.
func (o *Operator) flip(ctx context.Context, a application) (bool, error) {
	next := a.plan.Next
	if len(a.plan.Lines) == 0 && next.Same(a.last) {
		return false, nil
	}
	content, err := next.Pack()
	if errors.Is(err, desired.ErrTooMuch) {
		return false, api.NewProblem(api.CodeInvalidFleet, err.Error())
	} else if err != nil {
		return false, err
	}
	now := o.now()
	r := desired.Record{Generation: a.record.Generation + 1, At: now, By: actorOf(access.From(ctx)), Content: content,
		Following: true}
	c := Action(ctx, now, fleet.ActionFleetApply, nil, applied{r.Generation, len(a.plan.Lines), len(a.plan.Changed),
		next.Prune != nil, len(a.plan.Forget)})
	c.Subject = fmt.Sprintf("generation %d", r.Generation)
	err = o.state.Update(func(tx state.Tx) error {
		if is := tx.Desired(); is.Generation != a.record.Generation || is.Following {
			return errStale
		}
		tx.PutDesired(r)
		tx.Record(c)
		return nil
	})
	if err != nil {
		return false, err
	}
	logActions(o.log, c)
	o.host.SetRules(next.Spec.Rules)
	return true, nil
}

// FollowDesired lets machines follow desired state, if a crash came between. The server calls it every few
// seconds.
func (o *Operator) FollowDesired(ctx context.Context) error {
	if !o.state.Desired().Following || !o.rollouts.applying.TryLock() {
		return nil
	}
	defer o.rollouts.applying.Unlock()
	_, err := o.followDesired(ctx)
	return err
}

// followed is what came of following.
type followed struct {
	rollouts []string
	problems []string
}

// followPasses bounds how often what remains is computed anew at a time: machines that boot meanwhile are
// not as they were.
const followPasses = 20

// followDesired lets machines follow the desired state that is stored. o.rollouts.applying is held.
func (o *Operator) followDesired(ctx context.Context) (done followed, err error) {
	r := o.state.Desired()
	if !r.Following {
		return done, nil
	}
	content, err := desired.Unpack(r.Content)
	if err != nil {
		return done, err
	}
	ctx = access.With(ctx, whoOf(r.By))
	for range followPasses {
		removed := o.state.Removed()
		f := o.followFacts(content, r)
		rest, problems := content.Rest(f)
		if len(rest.Changed)+len(rest.Forget) == 0 {
			done.problems = problems
			o.startDesired(ctx, rest, content.Force, &done)
			return done, o.endFollowing(r, content, done.problems)
		}
		if err := o.storeRest(ctx, rest, removed); err != nil && !errors.Is(err, state.ErrRemoved) {
			return done, removalProblem(err)
		}
		if err := ctx.Err(); err != nil {
			return done, err
		}
	}
	return done, api.NewProblem(api.CodeUnavailable, "the desired state is stored, but machines change faster than they "+
		"can follow; the server goes on by itself")
}

// followFacts gathers what stored desired state is compared with: its images are those of that time.
func (o *Operator) followFacts(c desired.Content, r desired.Record) desired.Facts {
	f := desired.Facts{Machines: o.state.Machines(), Images: map[string]desired.Image{},
		Moving: map[ingot.MachineID]desired.Moving{}, Back: map[string]desired.Moving{}, Now: o.now(), By: r.By}
	for name, ref := range c.Images {
		_, err := o.catalog.Image(ref.Image)
		f.Images[name] = desired.Image{ImageRef: ref, Err: err}
	}
	o.rolloutFacts(&f)
	return f
}

// followedAtOnce bounds the machines of one transaction; each is read, and its name looked up.
const followedAtOnce = 25

// storeRest stores what a plan changes, a few machines at a time. Machines that are not as they were when
// the plan was made are left out.
func (o *Operator) storeRest(ctx context.Context, p desired.Plan, removed uint64) error {
	now := o.now()
	for part := range slices.Chunk(p.Changed, followedAtOnce) {
		if err := o.storePart(ctx, part, removed, now); err != nil {
			return err
		}
	}
	return o.forgetRest(ctx, p.Forget, now)
}

// storePart stores some machines in one transaction, or in several if their records are large.
func (o *Operator) storePart(ctx context.Context, part []desired.Changed, removed uint64, now time.Time) error {
	list := make([]fleet.Machine, len(part))
	audit := make([]fleet.Change, len(part))
	for i, c := range part {
		m := c.Decision.Machine
		if m.MachineKey == "" {
			m.MachineKey = o.host.MachineKey(m.ID)
		}
		var before any
		if c.Before != nil {
			before = *c.Before
		}
		list[i], audit[i] = m, on(m, Action(ctx, now, fleet.ActionApply, before, m))
	}
	err := o.state.Update(func(tx state.Tx) error {
		tx.LookedUp(removed)
		for i, c := range part {
			if asBefore(tx, c, list[i]) {
				tx.StoreMachine(list[i])
				tx.Record(append(slices.Clone(c.Changes), audit[i])...)
			}
		}
		return nil
	})
	if half := len(part) / 2; half > 0 && errors.Is(err, state.ErrTooLarge) {
		if err := o.storePart(ctx, part[:half], removed, now); err != nil {
			return err
		}
		return o.storePart(ctx, part[half:], removed, now)
	}
	return err
}

// forgetRest deletes machines with their boots.
func (o *Operator) forgetRest(ctx context.Context, machines []fleet.Machine, now time.Time) error {
	for part := range slices.Chunk(machines, followedAtOnce) {
		if err := o.state.Update(func(tx state.Tx) error {
			for _, m := range part {
				if _, known := tx.Machine(m.ID); !known {
					continue
				}
				tx.Record(on(m, Action(ctx, now, fleet.ActionForget, m, nil)), fleet.Forgotten(m, now))
				if err := tx.DropMachine(m.ID); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// asBefore reports whether a machine is as it was when a plan was made, and its name is free.
func asBefore(tx state.Tx, c desired.Changed, after fleet.Machine) bool {
	is, known := tx.Machine(after.ID)
	if known != (c.Before != nil) || known && !reflect.DeepEqual(is, *c.Before) {
		return false
	}
	if known && is.Name == after.Name || after.Name == "" {
		return true
	}
	return !slices.ContainsFunc(tx.MachinesNamed(after.Name), func(m fleet.Machine) bool { return m.ID != after.ID })
}

// startDesired starts the rollouts of a plan. What does not start is a problem.
func (o *Operator) startDesired(ctx context.Context, p desired.Plan, force bool, done *followed) {
	for _, r := range p.Rollouts {
		q, choose, err := o.rolloutOfPlan(r, force)
		var started api.RolloutPlan
		if err == nil {
			started, err = o.startRollout(ctx, q, choose)
		}
		if nobodyToMove(err) {
			continue // the plan said so
		}
		if err != nil {
			done.problems = append(done.problems, fmt.Sprintf("%s: no rollout of %s was started: %v", r.Selector, r.Image.Name,
				err))
			continue
		}
		done.rollouts = append(done.rollouts, started.Rollout.ID)
	}
}

// endFollowing notes that machines have followed.
func (o *Operator) endFollowing(r desired.Record, c desired.Content, problems []string) error {
	content, err := c.Done().Pack()
	if err != nil {
		return err
	}
	generation := r.Generation
	r.Content, r.Following, r.Problems = content, false, problems
	if more := len(problems) - desired.MaxProblems; more > 0 {
		r.Problems = append(slices.Clone(problems[:desired.MaxProblems-1]), fmt.Sprintf("and %d more", more+1))
	}
	return o.state.Update(func(tx state.Tx) error {
		if tx.Desired().Generation != generation {
			return errStale
		}
		tx.PutDesired(r)
		return nil
	})
}

// convertPlan converts a plan.
func convertPlan(p desired.Plan) api.DesiredPlan {
	out := api.DesiredPlan{Changes: []api.DesiredChange{}, Notes: p.Notes, Basis: p.Basis}
	for _, l := range p.Lines {
		out.Changes = append(out.Changes, api.DesiredChange(l))
	}
	return out
}

// Bounds of the faults that are answered.
const (
	maxFaults    = 100
	maxFaultText = 32 << 10
)

// fleetProblem is the problem of files with faults; nil if there are none.
func fleetProblem(faults yamlfile.Faults) error {
	if len(faults) == 0 {
		return nil
	}
	var lines []string
	size := 0
	for i, f := range faults {
		line := f.String()
		if size += len(line); i == maxFaults || size > maxFaultText {
			lines = append(lines, fmt.Sprintf("and %d more", len(faults)-i))
			break
		}
		lines = append(lines, line)
	}
	if len(faults) > 1 {
		lines = append([]string{fmt.Sprintf("%d faults:", len(faults))}, lines...)
	}
	return api.NewProblem(api.CodeInvalidFleet, strings.Join(lines, "\n  "))
}
