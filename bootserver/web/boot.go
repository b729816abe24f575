package web

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/chart"
	"ingot/bootserver/web/format"
)

const usualBoots = 20 // healthy ones, of which the median is usual

// group is a part of a boot.
type group struct {
	name   string
	stages []ingot.Stage
}

var groups = []group{
	{"Firmware and loader", ingot.Stages[:5]}, {"ingot-init", ingot.Stages[5:10]}, {"System", ingot.Stages[10:]}}

// bootData is what the page Boot shows.
type bootData struct {
	*query
	*api.Boot
	Machine *api.Machine
	State   state
	Outcome string
	Lead    string
	Took    time.Duration
	Usual   time.Duration // until healthy; zero: not known
	Of      int           // healthy boots that are compared with
	Ticks   []tick
	Groups  []stageGroup
	Lines   []line
	Silent  bool   // the machine has said nothing
	Whole   bool   // times are since the first packet, and the console has what the server saw
	Earlier string // address of the boot before
	Later   string
}

// tick is a mark of the axis.
type tick struct{ X, Text string }

// stageGroup are stages of a timeline.
type stageGroup struct {
	Name        string
	Took, Usual string
	Stages      []stageRow
}

// stageRow is one stage: what it took, beside what it usually takes.
type stageRow struct {
	Stage, Name, Took, Usual string
	Slower                   bool
	Reached, Current, Failed bool
	Ghost, Bar               bar
	Label, LabelX            string
	Rest                     string // of the plot, from the bar on
	Marked                   bool   // the console says where it begins
}

// line is one line of the console.
type line struct {
	N          int
	Time, Text string
	Stage      string // the line says that this stage begins
	Bad        bool
	at         time.Duration // since the kernel started
	timed      bool
}

func (s *Server) boot(q *query) (page, error) {
	m, err := s.backend.Machine(q.path("ref"))
	if err != nil {
		return page{}, err
	}
	c, err := s.backend.Console(string(m.ID), q.path("boot"))
	if err != nil {
		return page{}, err
	}
	boots, _, err := s.backend.Boots(api.BootsRequest{Machine: string(m.ID), Limit: 200})
	if err != nil {
		return page{}, err
	}
	b := c.Boot
	d := bootData{query: q, Boot: &b, Machine: &m, State: stateOfBoot(b), Outcome: outcomeOf(b), Took: took(b, q.now),
		Silent: strings.TrimSpace(c.Text) == ""}
	d.Lines, d.Whole = withStages(b, linesOf(c.Text))
	if i := slices.IndexFunc(boots, func(o api.Boot) bool { return o.ID == b.ID }); i >= 0 {
		if i > 0 {
			d.Earlier = bootLink(boots[i-1])
		}
		if i+1 < len(boots) {
			d.Later = bootLink(boots[i+1])
		}
	}
	d.Lead = leadOf(b)
	usual, n := usualOf(boots, b.ID)
	d.Of = n
	d.timeline(usual, q.now)
	p := page{title: "Boot of " + m.Hostname(), nav: "fleet", body: "boot", data: d, machine: m.ID,
		crumbs:  []crumb{{"Fleet", "/"}, {m.Hostname(), "/machines/" + string(m.ID)}, {"Boot " + b.ID.Short(), ""}},
		command: format.Command("console", m.Hostname(), "--boot", b.ID.Short())}
	p.parts = []part{{"head", "boot-head", d}, {"why", "boot-why", d}, {"timeline", "boot-timeline", d},
		{"console", "boot-console", d}}
	return p, nil
}

// leadOf is a boot in a sentence.
func leadOf(b api.Boot) string {
	switch {
	case b.Crash != "":
		return "The kernel crashed: " + format.Sentence(b.Crash)
	case b.Outcome == ingot.OutcomeHealthy:
		return "Every check passed, and the root is the one that was assigned."
	case b.Open():
		fact, _ := progress(&b)
		return "Under way: waits for " + fact + "."
	}
	return format.Sentence(reasonOf(b))
}

// durations are how long each stage took that a boot passed: from the stage before.
func durations(b api.Boot) (took map[ingot.Stage]time.Duration, total time.Duration) {
	took = map[ingot.Stage]time.Duration{}
	last := b.Started
	for _, s := range ingot.Stages {
		at := passed(b, s)
		if at.IsZero() || at.Before(last) {
			continue
		}
		took[s] = at.Sub(last)
		last = at
	}
	return took, last.Sub(b.Started)
}

// passed is when a boot passed a stage first; zero if it did not.
func passed(b api.Boot, s ingot.Stage) time.Time {
	for _, e := range b.Events {
		if e.Stage == s && e.Error == "" {
			return e.At
		}
	}
	return time.Time{}
}

// usualOf are the medians of the stages of a machine's healthy boots, but for one boot.
func usualOf(boots []api.Boot, but ingot.BootID) (usual map[ingot.Stage]time.Duration, n int) {
	all := map[ingot.Stage][]time.Duration{}
	for _, b := range slices.Backward(boots) {
		if b.Outcome != ingot.OutcomeHealthy || b.ID == but || b.Once != nil || n >= usualBoots {
			continue
		}
		n++
		took, _ := durations(b)
		for s, d := range took {
			all[s] = append(all[s], d)
		}
	}
	usual = map[ingot.Stage]time.Duration{}
	for s, list := range all {
		if 2*len(list) >= n { // one that most boots pass
			usual[s] = chart.Quantile(list, .5)
		}
	}
	return usual, n
}

const columns = 6 // of the axis

// scaleOf is a round length of the axis, of columns that are equally long.
func scaleOf(longest time.Duration) time.Duration {
	for _, step := range []int{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600} {
		if whole := columns * time.Duration(step) * time.Second; whole >= longest {
			return whole
		}
	}
	return longest
}

// timeline draws the stages of the boot over those of the usual one.
func (d *bootData) timeline(usual map[ingot.Stage]time.Duration, now time.Time) {
	taken, passedBy := durations(*d.Boot)
	for _, u := range usual {
		d.Usual += u
	}
	whole := scaleOf(max(d.Took, d.Usual, passedBy, time.Second))
	for i := range columns {
		at := whole * time.Duration(i) / columns
		d.Ticks = append(d.Ticks, tick{format.Percent(float64(i), columns), strconv.Itoa(int(at.Seconds()))})
	}
	var at, usually time.Duration
	next := nextStage(*d.Boot)
	for _, g := range groups {
		row := stageGroup{Name: g.name}
		var sum, usualSum time.Duration
		for _, s := range g.stages {
			took, reached := taken[s]
			r := stageRow{Stage: string(s), Name: format.Title(stageName(s)), Reached: reached,
				Ghost: piece(usually, usually+usual[s], whole, ""), Usual: format.Figure(usual[s]), Took: format.Figure(took)}
			usually += usual[s]
			end := at + took
			if !reached && s == next {
				end = max(d.Took, at)
				r.Current, r.Failed = d.Open(), d.Boot.Outcome == ingot.OutcomeFailed
				r.Took = format.Figure(end - at)
			}
			if reached || r.Current || r.Failed {
				r.Bar = piece(at, end, whole, "")
				r.Rest = format.Percent(float64(whole-at), float64(whole))
				r.Label, r.LabelX = d.label(s, r.Failed), format.Percent(float64(end)+float64(whole)/80, float64(whole))
				sum, at = sum+end-at, end
			}
			r.Marked = slices.ContainsFunc(d.Lines, func(l line) bool { return l.Stage == string(s) })
			r.Slower = usual[s] > 0 && (reached || r.Failed) && took > 3*usual[s]/2 && took-usual[s] > time.Second
			usualSum += usual[s]
			row.Stages = append(row.Stages, r)
		}
		row.Took, row.Usual = format.Figure(sum), format.Figure(usualSum)
		d.Groups = append(d.Groups, row)
	}
}

// nextStage is the one that a boot is in, or ended in: after the last that it passed.
func nextStage(b api.Boot) ingot.Stage {
	if b.Outcome == ingot.OutcomeHealthy {
		return ""
	}
	if b.Outcome == ingot.OutcomeFailed {
		if s := failedStage(&b); passed(b, s).IsZero() {
			return s
		}
	}
	rank := b.Stage().Rank() + 1
	if rank >= len(ingot.Stages) {
		return ""
	}
	return ingot.Stages[rank]
}

// label is beside the bar of a stage: what it moved, or why it failed.
func (d *bootData) label(s ingot.Stage, failed bool) string {
	if failed {
		return reasonOf(*d.Boot)
	}
	for _, e := range slices.Backward(d.Events) {
		if e.Stage == s && e.Error == "" && e.Bytes > 0 {
			return format.Size(e.Bytes)
		}
	}
	return ""
}

const mostLines = 4000 // of a console on a page

// linesOf takes a console apart: the kernel's time, and what was said.
func linesOf(text string) []line {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	from := max(0, len(all)-mostLines)
	lines := make([]line, 0, len(all)-from)
	for i, l := range all[from:] {
		one := line{N: from + i + 1, Text: l}
		if rest, is := strings.CutPrefix(l, "["); is {
			if at, said, is := strings.Cut(rest, "]"); is {
				if t, err := strconv.ParseFloat(strings.TrimSpace(at), 64); err == nil && t >= 0 && t < 1e9 {
					one.Time, one.Text = fmt.Sprintf("%.2f", t), strings.TrimPrefix(said, " ")
					one.at, one.timed = time.Duration(t*float64(time.Second)), true
				}
			}
		}
		one.Bad = isBad(one.Text)
		lines = append(lines, one)
	}
	return lines
}

// kernelStart is how long after the first packet of a boot its kernel started, by the messages that say how long
// it had run; false: there is none.
func kernelStart(b api.Boot) (at time.Duration, known bool) {
	for _, e := range b.Events {
		if e.Uptime <= 0 {
			continue
		}
		if t := e.At.Sub(b.Started) - e.Uptime; !known || t < at { // the message that was on its way for the shortest time
			at, known = t, true
		}
	}
	return max(at, 0), known
}

// withStages puts into a console where each stage begins, and what the server saw before the machine could say
// anything. Then times are since the first packet. It reports false, and returns the console as it is, when
// it is not known how the clocks of both belong together.
func withStages(b api.Boot, console []line) (lines []line, whole bool) {
	start, known := kernelStart(b)
	if len(console) > 0 && !known {
		return console, false
	}
	seen := serverLines(b, start, known)
	at := start
	for _, l := range console {
		if l.timed {
			at = start + l.at
			l.Time = fmt.Sprintf("%.2f", at.Seconds())
		}
		for len(seen) > 0 && seen[0].at <= at {
			lines, seen = append(lines, seen[0]), seen[1:]
		}
		lines = append(lines, l)
	}
	return append(lines, seen...), true
}

// serverLines are the stages that a boot reached, and what the server did in those before the kernel ran. Their
// times are since the first packet.
func serverLines(b api.Boot, kernel time.Duration, known bool) (lines []line) {
	next, begins := nextStage(b), time.Duration(0)
	for _, s := range ingot.Stages {
		i := slices.IndexFunc(b.Events, func(e api.Event) bool { return e.Stage == s && e.Error == "" })
		if i < 0 && s != next {
			continue
		}
		if s == ingot.StageInit && known {
			begins = min(begins, kernel) // what the kernel says is said in this stage
		}
		lines = append(lines, line{Stage: string(s), Text: format.Title(stageName(s)), at: begins})
		if i < 0 {
			break
		}
		e := b.Events[i]
		begins = max(begins, e.At.Sub(b.Started))
		if s.Rank() <= ingot.StageInitramfs.Rank() {
			text := "server: " + stageName(s)
			if e.Detail != "" {
				text += ", " + e.Detail
			}
			if e.Bytes > 0 {
				text += ", " + format.Size(e.Bytes)
			}
			lines = append(lines, line{Time: fmt.Sprintf("%.2f", begins.Seconds()), Text: text, at: begins})
		}
	}
	return lines
}

// isBad reports whether a line of a console says that something failed.
func isBad(text string) bool {
	for _, sign := range []string{"Kernel panic", "BUG:", "Oops:", "Out of memory", " failed", "Failed to ", "error -",
		"not healthy"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}
