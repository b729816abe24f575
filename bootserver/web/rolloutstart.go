package web

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/web/format"
	"ingot/internal/natural"
)

// startField is one of the fields of the form that starts a rollout: its name there, the flag of ingot
// rollout start, and the default of both.
type startField struct{ name, flag, usual string }

// startFields are all but the image.
var startFields = []startField{{"to", "--to", ""}, {"canary", "--canary", "1"}, {"waves", "--waves", "10%,50%,100%"},
	{"unavailable", "--max-unavailable", "10%"}, {"spread", "--spread", ""}, {"bake", "--bake", "15m"},
	{"patience", "--patience", "45m"}, {"pause", "--pause-after", ""}, {"window", "--window", ""},
	{"how", "--how", "auto"}, {"drain", "--drain", ""}, {"quorum", "--quorum", "90"},
	{"usual", "--usual-rate", ""}, {"bad", "--bad-rate", ""}}

// startData is what the page shows that starts a rollout.
type startData struct {
	*query
	Images    []string
	Selectors []string // that are offered
	Labels    []string
	Plan      *planData
	Problem   string // with what was asked for
	Hint      string
	Command   string
}

// planData is what a rollout would do.
type planData struct {
	api.RolloutPlan
	Waves  []planWave
	Moved  int
	Out    []planOut
	Noted  []planOut  // machines that the image may not fit, or that nobody can order to reboot
	More   int        // of those
	Usual  string     // rate of boots that fail
	Seen   string     // names the plan, see planName
	Fields url.Values // what was asked for
}

// planWave is a wave of a plan.
type planWave struct {
	Name     string
	Machines []api.PlannedMachine
	More     int
}

// planOut are machines that would not be moved, by the reason.
type planOut struct{ Why, Names string }

// How much of a plan is shown by name.
const (
	plannedNames = 48 // machines of a wave
	leftNames    = 8  // machines that are left out for one reason
	notedKinds   = 20 // notes on machines
	selectors    = 60
)

// newRollout is the page with the form that starts a rollout, and with the plan of what it says.
func (s *Server) newRollout(q *query) (page, error) {
	images, err := s.imageNames(q)
	if err != nil {
		return page{}, err
	}
	d := startData{query: q, Images: images}
	d.offer(s.machines(q))
	d.Command = startCommand(q.Values)
	if q.Get("image") != "" && q.Get("to") != "" {
		plan, err := s.planned(q)
		var p api.Problem
		switch {
		case errors.As(err, &p):
			d.Problem, d.Hint = cmp.Or(p.Detail, p.Title), p.Hint()
		case err != nil:
			return page{}, err
		default:
			d.Plan = &plan
		}
	}
	return page{title: "Start a rollout", nav: "rollouts", body: "rollout-new", data: d, command: d.Command + " --dry-run",
		crumbs: []crumb{{"Rollouts", "/rollouts"}, {"Start", ""}}}, nil
}

// offer fills in the selectors and labels that the form offers.
func (d *startData) offer(machines []api.Machine) {
	d.Selectors = []string{"all"}
	var all []status
	seen := map[string]bool{}
	var labels []string
	for i := range machines {
		m := &machines[i]
		all = append(all, status{Machine: m})
		for k, v := range m.Labels {
			if l := k + "=" + v; !seen[l] {
				seen[l] = true
				labels = append(labels, l)
			}
		}
	}
	d.Labels = labelsOf(all)
	slices.SortFunc(labels, natural.Compare)
	d.Selectors = append(d.Selectors, labels[:min(len(labels), selectors)]...)
}

// Field is what a field of the form has, else its default.
func (d startData) Field(name string) string {
	if d.Has(name) {
		return d.Get(name)
	}
	for _, f := range startFields {
		if f.name == name {
			return f.usual
		}
	}
	return ""
}

// Ways are how machines come to boot the image.
func (startData) Ways() []rollout.How {
	return []rollout.How{rollout.Auto, rollout.Reboot, rollout.NextBoot}
}

// drainChoice is something to do with drain hooks.
type drainChoice struct {
	Value ingot.Drain
	Text  string
}

// drains are what a form offers to do with drain hooks.
var drains = []drainChoice{{ingot.DrainNone, "not run"}, {ingot.DrainRequired, "must succeed"},
	{ingot.DrainBestEffort, "run, then reboot in any case"}}

// Drains are what is done with drain hooks before a reboot.
func (startData) Drains() []drainChoice { return drains }

// Changed reports whether a field that is not always shown differs from its default.
func (d startData) Changed() bool {
	return slices.ContainsFunc(startFields[4:], func(f startField) bool { return d.Field(f.name) != f.usual }) ||
		d.Get("force") != ""
}

// startCommand is the command that starts the rollout that a form describes.
func startCommand(v url.Values) string {
	words := []string{"rollout", "start", cmp.Or(v.Get("image"), "IMAGE")}
	for _, f := range startFields {
		value := strings.TrimSpace(v.Get(f.name))
		if f.name == "to" {
			value = cmp.Or(value, "SELECTOR")
		}
		switch {
		case value == "" || value == f.usual:
		case f.name == "drain": // a flag whose value is optional
			words = append(words, f.flag+"="+value)
		default:
			words = append(words, f.flag, value)
		}
	}
	if v.Get("force") != "" {
		words = append(words, "--force")
	}
	return format.Command(words...)
}

// startRequest reads the form.
func startRequest(v url.Values) (r api.RolloutRequest, err error) {
	text := func(name string) string { return strings.TrimSpace(v.Get(name)) }
	r = api.RolloutRequest{Image: text("image"), Selector: text("to"), Force: v.Get("force") != ""}
	p := &r.Policy
	p.Spread, p.Window, p.How, p.Drain = text("spread"), text("window"), text("how"), ingot.Drain(text("drain"))
	read := func(name string, parse func(text string) error) {
		if t := text(name); t != "" && err == nil {
			if e := parse(t); e != nil {
				err = api.NewProblem(api.CodeInvalidRollout, name+": "+e.Error())
			}
		}
	}
	whole := func(to *int) func(string) error {
		return func(t string) (err error) { *to, err = strconv.Atoi(t); return err }
	}
	decimal := func(to *float64) func(string) error {
		return func(t string) (err error) { *to, err = strconv.ParseFloat(t, 64); return err }
	}
	span := func(to *time.Duration) func(string) error {
		return func(t string) (err error) { *to, err = time.ParseDuration(t); return err }
	}
	read("canary", func(t string) error { p.Canary = new(int); return whole(p.Canary)(t) })
	read("waves", func(t string) (err error) { p.Waves, err = rollout.ParseWaves(t); return err })
	read("unavailable", func(t string) error {
		a, err := rollout.ParseAmount(t)
		p.MaxUnavailable = api.Amount(a)
		return err
	})
	read("bake", span(&p.Bake))
	read("patience", span(&p.Patience))
	read("quorum", whole(&p.Quorum))
	read("usual", decimal(&p.Test.Usual))
	read("bad", decimal(&p.Test.Bad))
	read("pause", func(t string) error {
		for word := range strings.SplitSeq(t, ",") {
			n, err := strconv.Atoi(strings.TrimSpace(word))
			if err != nil {
				return err
			}
			p.PauseAfter = append(p.PauseAfter, n)
		}
		return nil
	})
	if text("bake") != "" && p.Bake == 0 {
		p.Bake = 1 // zero is the default there
	}
	return r, err
}

// planned is what the rollout of a form would do.
func (s *Server) planned(q *query) (d planData, err error) {
	r, err := startRequest(q.Values)
	if err != nil {
		return d, err
	}
	r.DryRun = true
	plan, err := s.backend.StartRollout(q.ctx, r)
	if err != nil {
		return d, err
	}
	d = planData{RolloutPlan: plan, Usual: rate(plan.Rollout.Policy.Test.Usual), Fields: url.Values{}}
	if d.Seen, err = planName(plan); err != nil {
		return d, err
	}
	for _, f := range append([]startField{{name: "image"}, {name: "force"}}, startFields...) {
		if v := q.Get(f.name); v != "" {
			d.Fields.Set(f.name, v)
		}
	}
	d.sort()
	return d, nil
}

// sort puts the machines of a plan into waves, and those that are left out by the reason.
func (d *planData) sort() {
	waves := make([]planWave, d.Rollout.Waves)
	out, noted := map[string][]string{}, map[string][]string{}
	for _, m := range d.Machines {
		if m.Note != "" {
			noted[m.Note] = append(noted[m.Note], m.Name)
		}
		if m.Out != "" {
			out[m.Out] = append(out[m.Out], m.Name)
			continue
		}
		d.Moved++
		if m.Wave < len(waves) {
			waves[m.Wave].Machines = append(waves[m.Wave].Machines, m)
		}
	}
	for k, w := range waves {
		if w.Name = "Canary"; k > 0 {
			w.Name = fmt.Sprintf("Wave %d", k)
		}
		w.More = max(0, len(w.Machines)-plannedNames)
		w.Machines = w.Machines[:len(w.Machines)-w.More]
		if len(w.Machines) > 0 {
			d.Waves = append(d.Waves, w)
		}
	}
	d.Out, d.Noted = byReason(out), byReason(noted)
	d.More = max(0, len(d.Noted)-notedKinds)
	d.Noted = d.Noted[:len(d.Noted)-d.More]
}

// byReason names the first machines of each reason.
func byReason(machines map[string][]string) (list []planOut) {
	for why, names := range machines {
		text := strings.Join(names[:min(len(names), leftNames)], ", ")
		if more := len(names) - leftNames; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		list = append(list, planOut{why, text})
	}
	slices.SortFunc(list, func(a, b planOut) int { return cmp.Compare(a.Why, b.Why) })
	return list
}

// Left is the number of machines that would not be moved.
func (d planData) Left() int { return len(d.Machines) - d.Moved }

// All are the machines of a wave.
func (w planWave) All() int { return len(w.Machines) + w.More }

// planName names what a plan does: the image, how it proceeds, and which machines get it in which wave.
func planName(p api.RolloutPlan) (string, error) {
	type planned struct {
		Machine ingot.MachineID
		Wave    int
		From    ingot.Digest
		Out     bool
	}
	machines := make([]planned, len(p.Machines))
	for i, m := range p.Machines {
		machines[i] = planned{m.Machine, m.Wave, m.From.Image, m.Out != ""}
	}
	policy := p.Rollout.Policy
	policy.Test = api.RolloutTest{} // it follows from the boots of the fleet, which go on
	text, err := json.Marshal([]any{p.Rollout.Image, policy, machines})
	return ingot.DigestOf(text).Short(), err
}

// startRollout starts a rollout whose plan was shown. If it would do something else by now, its plan is
// shown again.
func (s *Server) startRollout(q *query) (done, error) {
	plan, err := s.planned(q)
	if err != nil {
		return done{}, err
	}
	if q.Get("seen") != plan.Seen {
		return done{"/rollouts/new?" + plan.Fields.Encode(), "plan"}, nil
	}
	r, err := startRequest(q.Values)
	if err != nil {
		return done{}, err
	}
	started, err := s.backend.StartRollout(q.ctx, r)
	return done{"/rollouts/" + started.Rollout.ID, "rollout"}, err
}
