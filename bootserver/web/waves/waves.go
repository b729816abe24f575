// Package waves says how far a rollout is, as the pages of the dashboard show it: its waves, what each
// machine is to it, and the budget of each failure domain.
package waves

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/web/format"
)

// Mark is the name of a mark and its colours. A machine that was not moved has none.
type Mark string

// The marks of rollouts, and of their machines.
const (
	Moving  Mark = "moving" // machines get the image, or bake
	Paused  Mark = "paused"
	Halted  Mark = "halted"
	Done    Mark = "done"
	Aborted Mark = "aborted"
	Healthy Mark = "healthy"
	Failed  Mark = "failed"
	Booting Mark = "booting"
)

// How much is shown of a wave.
const (
	mostChips = 48 // machines by name; above, a bar
	mostTicks = 40 // likewise in a strip
	mostLeft  = 4  // machines that are left out, by name
)

// Strip is a rollout in a line.
type Strip struct {
	api.Rollout
	Waves  []Wave
	Counts Outcomes
}

// Wave is one of a rollout.
type Wave struct {
	Short       string // "Wave 2"
	Name, State string
	Good, All   int // machines, without those that are left out
	Machines    []Member
	Counts      Outcomes
	Out         string // those that are left out, and why
}

// Member is a machine of a rollout.
type Member struct {
	api.RolloutMachine
	Mark  Mark
	Link  string // of its latest boot of the image, or of the machine
	Boots string // what they said of the image
	Note  string // what went wrong, or why it is what it is
}

// Outcomes counts machines by what they are.
type Outcomes struct{ Healthy, Failed, Moving, Waiting, Out int }

// StripOf is a rollout in a line.
func StripOf(r api.Rollout, machines []api.RolloutMachine) Strip {
	members := Members(machines)
	return Strip{r, Of(r, members), Count(members)}
}

// Members are the machines of a rollout.
func Members(list []api.RolloutMachine) []Member {
	out := make([]Member, len(list))
	for i, m := range list {
		out[i] = Member{RolloutMachine: m, Mark: markOf(m), Link: "/machines/" + string(m.Machine), Note: m.Why}
		if n := len(m.Results); n > 0 {
			last := m.Results[n-1]
			out[i].Link += "/boots/" + string(last.Boot)
			out[i].Boots = bootsOf(m.Results)
			if last.Class != string(rollout.Good) {
				out[i].Note = cmp.Or(last.Reason, m.Why)
			}
		}
	}
	return out
}

// What a machine is to a rollout, as the API says it.
const (
	good     = "good"
	bad      = "bad"
	moving   = "moving"
	waiting  = "waiting"
	unfit    = "unfit"
	hasIt    = "has it"
	back     = "back"
	outside  = "outside"
	notMoved = "not moved" // and the rollout has ended
)

// order is that of machines of which some are shown: what a person should look at comes first.
var order = []string{bad, moving, unfit, good, waiting, hasIt, back, notMoved, outside}

// Standings are what a machine can be, in the order of a table.
func Standings() []string { return slices.Clone(order) }

// Sort sorts machines by what they are, those that failed first.
func Sort(list []Member) {
	rank := func(m Member) int {
		if m.Mark == Failed {
			return -1
		}
		return slices.Index(order, m.Is)
	}
	slices.SortStableFunc(list, func(a, b Member) int { return cmp.Compare(rank(a), rank(b)) })
}

// markOf is the mark of a machine.
func markOf(m api.RolloutMachine) Mark {
	switch m.Is {
	case good:
		return Healthy
	case bad:
		return Failed
	case hasIt:
		return Done
	case back:
		return Aborted
	case moving:
		for _, r := range slices.Backward(m.Results) {
			if !r.Void && r.Class == bad {
				return Failed
			}
			if !r.Void {
				break
			}
		}
		return Booting
	}
	return ""
}

// out reports whether the machine neither moves nor is waited for.
func (m Member) out() bool { return m.Is == outside || m.Is == notMoved }

// Touched reports whether the rollout moved the machine, and did not take it back.
func (m Member) Touched() bool { return m.Mark == Healthy || m.Mark == Failed || m.Mark == Booting }

// outcomes are what a machine is, in words.
var outcomes = map[string]string{good: "healthy", bad: "given up", moving: "assigned, to boot it",
	waiting: "not moved yet", unfit: "not moved: not healthy", hasIt: "has it already", back: "taken back",
	outside: "left out", notMoved: "not moved"}

// Outcome is what the machine is, in words.
func (m Member) Outcome() string {
	if m.Is == moving && m.Mark == Failed {
		return "failed, tries again"
	}
	return cmp.Or(outcomes[m.Is], m.Is)
}

// bootsOf counts boots by what they said of the image.
func bootsOf(list []api.RolloutResult) string {
	count := map[string]int{}
	for _, r := range list {
		if !r.Void {
			count[r.Class]++
		}
	}
	var words []string
	for _, class := range []string{good, bad, string(rollout.Elsewhere)} {
		if n := count[class]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, class))
		}
	}
	return strings.Join(words, ", ")
}

// Count counts machines by what they are.
func Count(list []Member) (o Outcomes) {
	for _, m := range list {
		switch {
		case m.Mark == Healthy:
			o.Healthy++
		case m.Mark == Failed:
			o.Failed++
		case m.Mark == Booting:
			o.Moving++
		case m.Is == waiting, m.Is == unfit:
			o.Waiting++
		default:
			o.Out++
		}
	}
	return o
}

// All are those that are not left out.
func (o Outcomes) All() int { return o.Healthy + o.Failed + o.Moving + o.Waiting }

// String is "12 healthy, 1 failed", for those that see no bar.
func (o Outcomes) String() string {
	var words []string
	for _, c := range o.pieces() {
		if c.N > 0 {
			words = append(words, fmt.Sprintf("%d %s", c.N, c.word))
		}
	}
	return strings.Join(words, ", ")
}

// Piece is a part of a bar.
type Piece struct {
	Mark Mark
	N    int
	X, W string
	word string
}

func (o Outcomes) pieces() []Piece {
	return []Piece{{Mark: Healthy, N: o.Healthy, word: "healthy"}, {Mark: Failed, N: o.Failed, word: "failed"},
		{Mark: Booting, N: o.Moving, word: "to boot it"}, {N: o.Waiting, word: "not moved yet"}}
}

// Pieces are a bar of the machines that are not left out.
func (o Outcomes) Pieces() (list []Piece) {
	at, all := 0, float64(o.All())
	for _, p := range o.pieces() {
		p.X, p.W = format.Percent(float64(at), all), format.Percent(float64(p.N), all)
		if p.N > 0 && p.Mark != "" {
			list = append(list, p)
		}
		at += p.N
	}
	return list
}

// Of are the waves of a rollout that have machines.
func Of(r api.Rollout, members []Member) []Wave {
	list := make([]Wave, r.Waves)
	for _, m := range members {
		if m.Wave < len(list) {
			list[m.Wave].Machines = append(list[m.Wave].Machines, m)
		}
	}
	for k := range list {
		w := &list[k]
		w.Name, w.State = nameOf(r.Policy, k), stateOf(r, k)
		w.Short, _, _ = strings.Cut(w.Name, " ·")
		w.Counts = Count(w.Machines)
		w.Good, w.All = w.Counts.Healthy, w.Counts.All()
		w.Out = leftOut(w.Machines)
	}
	return slices.DeleteFunc(list, func(w Wave) bool { return len(w.Machines) == 0 })
}

// nameOf is "Canary", "Wave 2 · 50 %".
func nameOf(p api.RolloutPolicy, k int) string {
	if k == 0 {
		return "Canary"
	}
	if k > len(p.Waves) {
		return fmt.Sprintf("Wave %d", k)
	}
	return fmt.Sprintf("Wave %d · %d"+format.NBSP+"%%", k, p.Waves[k-1])
}

const hour = "15:04"

// stateOf says how far a wave is.
func stateOf(r api.Rollout, k int) string {
	at := rollout.State(r.State)
	switch {
	case k < r.Wave || at == rollout.Done:
		for _, e := range r.Log {
			if e.Wave > k || rollout.State(e.State) == rollout.Done {
				return "done " + e.At.Local().Format(hour)
			}
		}
		return "done"
	case k > r.Wave:
		return "not started"
	case at == rollout.Baking:
		return "bakes until " + r.Since.Add(r.Policy.Bake).Local().Format(hour)
	case at.Stopped():
		return r.State + " " + r.Since.Local().Format(hour)
	case at == rollout.Aborting, at == rollout.Back:
		return "aborted"
	}
	return "under way"
}

// leftOut names the machines of a wave that are neither moved nor waited for, and those that are not
// healthy already.
func leftOut(list []Member) string {
	var names []string
	n, has := 0, 0
	for _, m := range list {
		if m.Is == hasIt {
			has++
		}
		if !m.out() && m.Is != unfit {
			continue
		}
		if n++; n <= mostLeft {
			names = append(names, m.Name+" ("+cmp.Or(m.Why, m.Is)+")")
		}
	}
	if n > mostLeft {
		names = append(names, fmt.Sprintf("and %d more", n-mostLeft))
	}
	if has > 0 {
		names = append(names, fmt.Sprintf("%d with the image already", has))
	}
	return strings.Join(names, ", ")
}

// Chips are the machines of a wave by name; none if there are too many.
func (w Wave) Chips() []Member {
	if len(w.Machines) > mostChips {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(w.Machines), func(m Member) bool { return m.out() || m.Is == hasIt })
}

// Tick is a machine in a strip.
type Tick struct {
	X    int
	Mark Mark
}

// Ticks are the machines of a wave in a strip; none if there are too many.
func (w Wave) Ticks() (list []Tick) {
	const step = 12
	if len(w.Machines) > mostTicks {
		return nil
	}
	for _, m := range w.Machines {
		if !m.out() && m.Is != hasIt {
			list = append(list, Tick{step * len(list), m.Mark})
		}
	}
	return list
}

// Width is that of the ticks.
func (w Wave) Width() int { return max(12*len(w.Ticks())-3, 9) }
