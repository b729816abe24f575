package operator

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
)

// Rollouts implements api.Rollouts.
func (o *Operator) Rollouts() (list []api.Rollout) {
	for _, r := range o.state.Rollouts() {
		if r.State != rollout.Preparing {
			list = append(list, o.rolloutOf(r))
		}
	}
	return list
}

// OpenRollouts implements api.Rollouts.
func (o *Operator) OpenRollouts() (list []api.Rollout) {
	for _, r := range o.state.Rollouts() {
		if r.State != rollout.Preparing && !r.State.Ended() {
			list = append(list, convertRollout(r, nil))
		}
	}
	return list
}

// findRollout returns a rollout by id.
func (o *Operator) findRollout(id string) (rollout.Rollout, error) {
	r, known := o.state.Rollout(id)
	if !known || r.State == rollout.Preparing {
		return r, api.NewProblem(api.CodeRolloutNotFound, fmt.Sprintf("there is no rollout %q", id))
	}
	return r, nil
}

// look returns what each machine is to a rollout, or was when that ended, and the budget of one that has not.
func (o *Operator) look(r rollout.Rollout) ([]rollout.Standing, []rollout.Domain) {
	members := o.state.Members(r.ID)
	if r.State.Ended() {
		return rollout.EndedStandings(r, members), nil
	}
	now, f := o.rollouts.facts(r, members)
	return rollout.Look(r, members, f, now)
}

// rolloutOf converts a rollout, with how many machines are what to it. One that ended says so itself: there
// may be many of them, of many machines.
func (o *Operator) rolloutOf(r rollout.Rollout) api.Rollout {
	if len(r.Count) > 0 {
		return convertRollout(r, r.Count)
	}
	list, _ := o.look(r)
	return convertRollout(r, rollout.Counts(list))
}

// Rollout implements api.Rollouts.
func (o *Operator) Rollout(id string) (d api.RolloutDetail, err error) {
	r, err := o.findRollout(id)
	if err != nil {
		return d, err
	}
	list, domains := o.look(r)
	d = api.RolloutDetail{Rollout: convertRollout(r, rollout.Counts(list)), Budget: []api.RolloutBudget{},
		Curve: []api.RolloutPoint{}}
	d.Stops, d.Good = r.Policy.Test.Bounds()
	for _, b := range domains {
		d.Budget = append(d.Budget, api.RolloutBudget{Domain: b.Name, Machines: b.Machines, Unavailable: b.Unavailable,
			Most: b.Most})
	}
	members := make([]rollout.Member, len(list))
	for i := range list {
		members[i] = list[i].Member
		if why := list[i].Unreadable; why != "" {
			d.Unreadable = append(d.Unreadable, api.RolloutEvidence{Machine: members[i].Machine, Name: members[i].Name,
				Reason: why})
		}
	}
	for _, p := range rollout.Curve(r, members) {
		d.Curve = append(d.Curve, api.RolloutPoint{Machine: p.Machine, Boot: p.Boot, At: p.At, Bad: p.Bad, Ratio: p.Ratio,
			Verdict: string(p.Verdict)})
	}
	for _, s := range o.common(members) {
		d.Common = append(d.Common, api.RolloutShared(s))
	}
	return d, nil
}

// RolloutMachines implements api.Rollouts.
func (o *Operator) RolloutMachines(id string) ([]api.RolloutMachine, error) {
	r, err := o.findRollout(id)
	if err != nil {
		return nil, err
	}
	list, _ := o.look(r)
	return each(list, rolloutMachineOf), nil
}

// PauseRollout implements api.Rollouts.
func (o *Operator) PauseRollout(ctx context.Context, id string, q api.WhyRequest) (api.Rollout, error) {
	return o.changeRollout(ctx, fleet.ActionRolloutPause, id, q.Why, rollout.Pause)
}

// ResumeRollout implements api.Rollouts.
func (o *Operator) ResumeRollout(ctx context.Context, id string, q api.WhyRequest) (api.Rollout, error) {
	return o.changeRollout(ctx, fleet.ActionRolloutResume, id, q.Why, rollout.Resume)
}

// AbortRollout implements api.Rollouts.
func (o *Operator) AbortRollout(ctx context.Context, id string, q api.WhyRequest) (api.Rollout, error) {
	return o.changeRollout(ctx, fleet.ActionRolloutAbort, id, q.Why, rollout.Abort)
}

// changeRollout carries out an operator's command about a rollout.
func (o *Operator) changeRollout(ctx context.Context, code fleet.Code, id, why string,
	do func(r rollout.Rollout, by, why string, now time.Time) (rollout.Rollout, error)) (api.Rollout, error) {
	if _, err := o.findRollout(id); err != nil {
		return api.Rollout{}, err
	}
	now, by := o.now(), access.From(ctx).String()
	var after rollout.Rollout
	var changes []fleet.Change
	err := o.state.Update(func(tx state.Tx) error {
		before, known := tx.Rollout(id)
		if !known {
			return api.NewProblem(api.CodeRolloutNotFound, fmt.Sprintf("there is no rollout %q", id))
		}
		var err error
		if after, err = do(before, by, why, now); err != nil {
			return rolloutProblem(id, err)
		}
		c := onRollout(after, Action(ctx, now, code, rolloutState(before), rolloutState(after)))
		c.Detail = why
		changes = append(stateChanges(before, after), c)
		tx.PutRollout(after)
		tx.Record(changes...)
		return nil
	})
	if err != nil {
		return api.Rollout{}, err
	}
	logActions(o.log, changes...)
	return o.rolloutOf(after), nil
}

// rolloutState is what the audit log has of a rollout.
func rolloutState(r rollout.Rollout) any {
	return struct {
		State string `json:"state"`
		Wave  int    `json:"wave"`
	}{string(r.State), r.Wave}
}

func rolloutProblem(id string, err error) error {
	code := api.CodeRolloutState
	if errors.Is(err, rollout.ErrEnded) {
		code = api.CodeRolloutEnded
	}
	return api.NewProblem(code, fmt.Sprintf("%s: %v", id, err), "rollout", id)
}

// marks says what operators noted of a machine that keeps rollouts from moving it. latest is its latest boot.
func marks(m fleet.Machine, latest fleet.Boot) string {
	noted := func(text string, mark fleet.Mark) string {
		text += fmt.Sprintf(", by %s at %s", mark.By, mark.Since.UTC().Format("2006-01-02 15:04"))
		if why := strings.TrimSuffix(mark.Why, "."); why != "" {
			text += ": " + why
		}
		return text + "."
	}
	var list []string
	if m.Pin != nil {
		list = append(list, noted("It is pinned, so that rollouts leave it out", *m.Pin))
	}
	if m.IsOff(latest) {
		list = append(list, noted("It is marked as switched off, so that rollouts leave it out", *m.Off))
		if latest.Auth.Heard.After(m.Off.Since) {
			list = append(list, "It has reported since, so it is switched on.")
		}
	}
	return strings.Join(list, " ")
}

// inRollout says to which rollout that has not ended a machine belongs, and why that stopped: with what
// machines on which the image failed have in common. It is empty if there is none.
func (o *Operator) inRollout(m fleet.Machine, latest fleet.Boot) string {
	for _, r := range o.state.Rollouts() {
		if r.State.Ended() || r.State == rollout.Preparing {
			continue
		}
		members := o.state.Members(r.ID)
		i := slices.IndexFunc(members, func(x rollout.Member) bool { return x.Machine == m.ID && x.Left == "" })
		if i < 0 {
			continue
		}
		own := members[i]
		if !own.Touched() && (m.Pin != nil || m.IsOff(latest) || own.From.Image != "" &&
			m.Assignment.Image != own.From.Image && m.Assignment.Image != r.Image.Image) {
			return fmt.Sprintf("Rollout %s of %s leaves it out.", r.ID, r.Image.Name)
		}
		text := fmt.Sprintf("It belongs to rollout %s of %s, in %s.", r.ID, r.Image.Name, rollout.WaveName(own.Wave))
		if r.Stop != nil {
			text += fmt.Sprintf(" The rollout is %s: %s.", r.State, strings.TrimSuffix(r.Stop.Text, "."))
		}
		for n, s := range o.common(members) {
			if n == 0 {
				text += " Machines that failed have in common:"
			}
			text += fmt.Sprintf(" %s %s (%d of %d that failed, %d of %d healthy ones);", s.Kind, s.Value, s.Failed, s.OfBad,
				s.Healthy, s.OfGood)
		}
		return strings.TrimSuffix(text, ";")
	}
	return ""
}

// Bounds of the machines whose consoles are compared.
const (
	comparedConsoles = 10
	comparedLines    = 40 // of one console
)

// common returns what machines on which the image failed have in common, and those on which it is healthy
// have not: hardware, how they failed, and lines of their consoles that report a problem.
func (o *Operator) common(members []rollout.Member) []rollout.Shared {
	var bad, good []rollout.Traits
	for i := range members {
		m := &members[i]
		if !m.Failed() && !m.Runs() {
			continue
		}
		machine, known := o.state.Machine(m.Machine)
		if !known {
			continue
		}
		t := rollout.TraitsOf(machine.Facts).With("came from", m.From.Name)
		if m.Failed() {
			bad = append(bad, o.withConsole(failureTraits(t, m), m, len(bad)))
			continue
		}
		good = append(good, o.withConsole(t, m, len(good)))
	}
	if len(bad) == 0 {
		return nil
	}
	return rollout.Common(bad, good)
}

// failureTraits adds how the image failed on a machine.
func failureTraits(t rollout.Traits, m *rollout.Member) rollout.Traits {
	for _, r := range m.Results {
		if r.Class == rollout.Bad && !r.Void {
			t = t.With("stage", string(r.Stage)).With("failure", string(r.Code))
		}
	}
	return t
}

var (
	complaint = regexp.MustCompile(`(?i)\b(error|failed|failure|panic|BUG|oops|unable|timed out|call trace|cannot)\b`)
	kernelAge = regexp.MustCompile(`^\[ *\d+\.\d+\] *`)
	varying   = regexp.MustCompile(`0x[0-9a-f]+|\b\d+\b`)
)

// withConsole adds the lines of the console of the latest boot that counts which report a problem, without
// numbers that differ from boot to boot. n is how many machines were looked at before.
func (o *Operator) withConsole(t rollout.Traits, m *rollout.Member, n int) rollout.Traits {
	if n >= comparedConsoles || len(m.Results) == 0 {
		return t
	}
	text, err := o.state.Console(m.Results[len(m.Results)-1].Boot)
	if err != nil {
		return t // it is evidence among others
	}
	lines := 0
	for line := range strings.Lines(text) {
		if line = kernelAge.ReplaceAllString(strings.TrimSpace(line), ""); !complaint.MatchString(line) {
			continue
		}
		t = t.With("console", fleet.Clip(strings.TrimSpace(varying.ReplaceAllString(line, "N")), 600))
		if lines++; lines == comparedLines {
			break
		}
	}
	return t
}

// Pin implements api.Machinery.
func (o *Operator) Pin(ctx context.Context, ref string, q api.WhyRequest) (api.Machine, error) {
	mark := o.mark(ctx, q.Why)
	return o.change(ctx, fleet.ActionPin, ref, func(_ state.Tx, d *fleet.Decision) error { d.Pin(mark); return nil })
}

// Unpin implements api.Machinery.
func (o *Operator) Unpin(ctx context.Context, ref string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionUnpin, ref, func(_ state.Tx, d *fleet.Decision) error { d.Pin(nil); return nil })
}

// SwitchOff implements api.Machinery.
func (o *Operator) SwitchOff(ctx context.Context, ref string, q api.WhyRequest) (api.Machine, error) {
	mark := o.mark(ctx, q.Why)
	return o.change(ctx, fleet.ActionOff, ref, func(_ state.Tx, d *fleet.Decision) error { d.SwitchOff(mark); return nil })
}

// SwitchOn implements api.Machinery.
func (o *Operator) SwitchOn(ctx context.Context, ref string) (api.Machine, error) {
	return o.change(ctx, fleet.ActionOn, ref, func(_ state.Tx, d *fleet.Decision) error { d.SwitchOff(nil); return nil })
}

func (o *Operator) mark(ctx context.Context, why string) *fleet.Mark {
	return &fleet.Mark{Why: why, By: access.From(ctx).String(), Since: o.now()}
}
