package machines

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/cmd/ingot/show"
	"ingot/internal/count"
)

func rolloutTable(w io.Writer, list []api.Rollout, now time.Time) {
	t := show.Table(w)
	show.Row(t, "ROLLOUT", "IMAGE", "TO", "STATE", "SINCE", "MACHINES", "WHY")
	for _, r := range list {
		why := ""
		if r.Stop != nil {
			why = r.Stop.Text
			if s := rollout.State(r.State); s == rollout.Aborting || s == rollout.Back {
				why = "it was " + why
			}
		}
		show.Row(t, r.ID, r.Image.Name, r.Selector, rolloutState(r), show.Ago(r.Since, now), countText(r), why)
	}
	t.Flush()
}

// countText says how many machines are what: "12 good, 3 moving, 185 waiting".
func countText(r api.Rollout) string {
	var words []string
	for _, is := range []string{"good", "bad", "moving", "unfit", "waiting", "has it", "back", "not moved", "outside"} {
		if n := r.Count[is]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, is))
		}
	}
	return show.Dash(strings.Join(words, ", "))
}

func historyTable(w io.Writer, log []api.RolloutEntry) {
	t := show.Table(w)
	show.Row(t, "TIME", "STATE", "WAVE", "BY", "WHY")
	for _, e := range log {
		show.Row(t, e.At.Local().Format(time.DateTime), e.State, rollout.WaveName(e.Wave), show.Dash(e.By), e.Why)
	}
	t.Flush()
}

func rolloutMachineTable(w io.Writer, list []api.RolloutMachine) {
	t := show.Table(w)
	show.Row(t, "MACHINE", "WAVE", "DOMAIN", "IS", "FROM", "BOOTS", "WHY")
	for _, m := range list {
		why := m.Why
		if n := len(m.Results); why == "" && n > 0 {
			why = m.Results[n-1].Reason
		}
		show.Row(t, m.Name, strconv.Itoa(m.Wave), show.Dash(m.Domain), m.Is, show.Dash(m.From.Name),
			resultsText(m.Results), why)
	}
	t.Flush()
}

// resultsText counts boots by what they said of the image.
func resultsText(list []api.RolloutResult) string {
	count := map[string]int{}
	for _, r := range list {
		if !r.Void {
			count[r.Class]++
		}
	}
	var words []string
	for _, class := range slices.Sorted(maps.Keys(count)) {
		words = append(words, fmt.Sprintf("%d %s", count[class], class))
	}
	return show.Dash(strings.Join(words, ", "))
}

func rolloutText(w io.Writer, r api.RolloutDetail, now time.Time) {
	p := r.Policy
	t := show.Table(w)
	show.Row(t, "rollout", fmt.Sprintf("%s of %s (%s) to %s", r.ID, r.Image.Name, r.Image.Image.Short(), r.Selector))
	show.Row(t, "state", rolloutState(r.Rollout)+", "+show.Ago(r.Since, now))
	if r.Stop != nil {
		show.Row(t, "why", r.Stop.Text)
	}
	show.Row(t, "started", fmt.Sprintf("%s by %s", show.Ago(r.Created, now), r.By))
	show.Row(t, "machines", fmt.Sprintf("%d: %s", r.Machines, countText(r.Rollout)))
	progressRows(t, p)
	for _, b := range r.Budget {
		name := "budget"
		if b.Domain != "" {
			name = "budget of " + b.Domain
		}
		show.Row(t, name, fmt.Sprintf("%d of %s %s unavailable, %d may be", b.Unavailable,
			count.Of(b.Machines, "machine"), count.Verb(b.Unavailable, "is", "are"), b.Most))
	}
	show.Row(t, "test", testText(r))
	t.Flush()
	evidenceText(w, r)
}

// progressRows say how a rollout proceeds.
func progressRows(t io.Writer, p api.RolloutPolicy) {
	show.Row(t, "waves", wavesText(p))
	show.Row(t, "bake", fmt.Sprintf("%s; pauses after %s without progress", p.Bake, p.Patience))
	if p.Window != "" {
		show.Row(t, "window", p.Window)
	}
	show.Row(t, "how", howText(p))
}

// policyRows are progressRows and, before a rollout has machines, its bounds.
func policyRows(t io.Writer, p api.RolloutPolicy) {
	progressRows(t, p)
	budget := "at most " + rollout.Amount(p.MaxUnavailable).String() + " unavailable"
	if p.Spread != "" {
		budget += " of each " + p.Spread
	}
	show.Row(t, "budget", budget)
	show.Row(t, "quorum", fmt.Sprintf("%d %% of a wave must become healthy", p.Quorum))
}

// howText says how machines come to boot the image.
func howText(p api.RolloutPolicy) string {
	if p.Drain == "" {
		return p.How
	}
	return p.How + ", after draining (" + string(p.Drain) + ")"
}

func wavesText(p api.RolloutPolicy) string {
	var words []string
	if p.Canary != nil && *p.Canary > 0 {
		words = append(words, fmt.Sprintf("canary of %d", *p.Canary))
	}
	for _, n := range p.Waves {
		words = append(words, fmt.Sprintf("%d %%", n))
	}
	return strings.Join(words, ", ")
}

// testText says how close the test is to its two bounds.
func testText(r api.RolloutDetail) string {
	const percent = 100
	bad := 0
	ratio := 0.0
	for _, p := range r.Curve {
		if p.Bad {
			bad++
		}
		if ratio = p.Ratio; rollout.Class(p.Verdict) == rollout.Good {
			ratio = 0
		}
	}
	return fmt.Sprintf("%d of %d boots failed (usual %.3g %%, bad %.3g %%); "+
		"it is at %.2f: stops at %.2f, starts anew at %.2f",
		bad, len(r.Curve), percent*r.Policy.Test.Usual, percent*r.Policy.Test.Bad, ratio, r.Stops, r.Good)
}

// evidenceText lists the machines that stopped the rollout, and what they have in common.
func evidenceText(w io.Writer, r api.RolloutDetail) {
	if r.Stop != nil && len(r.Stop.Evidence) > 0 {
		fmt.Fprintln(w)
		t := show.Table(w)
		show.Row(t, "MACHINE", "BOOT", "STAGE", "CODE", "REASON")
		for _, e := range r.Stop.Evidence {
			show.Row(t, e.Name, show.Dash(bootText(e.Boot)), show.Dash(string(e.Stage)), show.Dash(string(e.Code)),
				e.Reason)
		}
		t.Flush()
		if r.Stop.More > 0 {
			fmt.Fprintf(w, "and %d more\n", r.Stop.More)
		}
	}
	unreadableText(w, r.Unreadable)
	for i, s := range r.Common {
		if i == 0 {
			fmt.Fprintln(w, "\nmachines that failed have in common:")
		}
		fmt.Fprintf(w, "  %s %s: %d of %d that failed, %d of %d healthy ones\n", show.Plain(s.Kind), show.Plain(s.Value),
			s.Failed, s.OfBad, s.Healthy, s.OfGood)
	}
	if r.Stop != nil && r.Ended.IsZero() {
		fmt.Fprintf(w, "\n  → ingot rollout resume %s\n  → ingot rollout abort %s\n", show.Plain(r.ID), show.Plain(r.ID))
	}
}

// unreadableText names machines of which nothing is known, as far as they fit on a screen.
func unreadableText(w io.Writer, list []api.RolloutEvidence) {
	const most = 10
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w, "\nmachines whose boots cannot be read; they count as not healthy:")
	for _, e := range list[:min(len(list), most)] {
		fmt.Fprintf(w, "  %s: %s\n", show.Plain(e.Name), show.Plain(e.Reason))
	}
	if more := len(list) - most; more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

func bootText(id ingot.BootID) string {
	if id == "" {
		return ""
	}
	return id.Short()
}

// planText prints the plan of a rollout.
func planText(w io.Writer, p api.RolloutPlan) {
	r := p.Rollout
	t := show.Table(w)
	show.Row(t, "WAVE", "MACHINES", "NAMES")
	out := []api.PlannedMachine{}
	for wave := range r.Waves {
		var names []string
		for _, m := range p.Machines {
			if m.Wave == wave && m.Out == "" {
				names = append(names, m.Name)
			}
		}
		if len(names) > 0 {
			show.Row(t, rollout.WaveName(wave), strconv.Itoa(len(names)), show.Some(names, 8))
		}
	}
	t.Flush()
	for _, m := range p.Machines {
		if m.Out != "" {
			out = append(out, m)
		}
	}
	notMoved(w, out)
	noted := map[string][]string{}
	for _, m := range p.Machines {
		if m.Note != "" {
			noted[m.Note] = append(noted[m.Note], m.Name)
		}
	}
	for _, note := range slices.Sorted(maps.Keys(noted)) {
		fmt.Fprintf(w, "! %s: %s\n", show.Plain(show.Some(noted[note], 8)), show.Plain(note))
	}
	for _, c := range p.Changes {
		fmt.Fprintf(w, "\n%s from %s to %s:\n", count.Of(c.Machines, "machine"), show.Plain(show.Dash(c.From.Name)),
			show.Plain(r.Image.Name))
		for _, l := range c.Lines {
			fmt.Fprintf(w, "  %s\n", show.Plain(l))
		}
	}
	fmt.Fprintln(w)
	t = show.Table(w)
	policyRows(t, r.Policy)
	t.Flush()
	const percent = 100
	fmt.Fprintf(w, "it stops when boots fail far more often than %.3g %% (of %s in 30 days; at least 1 %%)\n",
		percent*r.Policy.Test.Usual, count.Of(p.Boots, "boot"))
	for _, n := range p.Notes {
		fmt.Fprintln(w, show.Plain(n))
	}
	if p.Rollout.ID == "" {
		fmt.Fprintln(w, "nothing was started: --dry-run\n  → the same command without it starts the rollout")
		return
	}
	fmt.Fprintf(w, "started: %s\n  → ingot rollout show %s\n", show.Plain(r.ID), show.Plain(r.ID))
}

// notMoved lists the machines of a plan that would not be moved now, by the reason.
func notMoved(w io.Writer, list []api.PlannedMachine) {
	by := map[string][]string{}
	for _, m := range list {
		by[m.Out] = append(by[m.Out], m.Name)
	}
	for _, why := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(w, "not moved now, %s: %s\n", show.Plain(why), show.Plain(show.Some(by[why], 8)))
	}
}
