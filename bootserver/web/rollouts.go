package web

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/web/curve"
	"ingot/bootserver/web/format"
	"ingot/bootserver/web/waves"
)

// How much of a rollout its page shows.
const (
	fewMembers  = 100 // machines in the table
	mostMembers = 5000
	mostBudgets = 40 // failure domains
)

// rolloutsData is what the page Rollouts shows.
type rolloutsData struct {
	*query
	Open  []waves.Strip
	Ended []api.Rollout // the latest first
	Image string        // that was stored last; empty: there is none
	Fleet int           // machines that may boot
	Other int           // of these, those that are assigned another image
}

func (s *Server) rollouts(q *query) (page, error) {
	images, err := s.imageNames(q)
	if err != nil {
		return page{}, err
	}
	machines := s.machines(q)
	d := rolloutsData{query: q, Fleet: countsOf(machines).Machines}
	if len(images) > 0 {
		d.Image = images[0]
	}
	for _, m := range machines {
		if m.State == api.Approved && m.Assignment.Name != d.Image {
			d.Other++
		}
	}
	if d.Open, err = s.strips(); err != nil {
		return page{}, err
	}
	for _, r := range slices.Backward(s.backend.Rollouts()) {
		if !r.Ended.IsZero() {
			d.Ended = append(d.Ended, r)
		}
	}
	p := page{title: "Rollouts", nav: "rollouts", body: "rollouts", data: d, command: format.Command("rollout", "ls")}
	if len(d.Open) == 0 && len(d.Ended) > 0 {
		p.command = format.Command("rollout", "history")
	}
	p.parts = []part{{"rollouts", "rollout-strips", d.Open}, {"ended", "rollouts-ended", d}}
	return p, nil
}

// strips are the rollouts that have not ended, the latest first.
func (s *Server) strips() (list []waves.Strip, err error) {
	for _, r := range slices.Backward(s.backend.OpenRollouts()) {
		machines, err := s.backend.RolloutMachines(r.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, waves.StripOf(r, machines))
	}
	return list, nil
}

// endedRow is a rollout in the table of those that ended.
type endedRow struct {
	api.Rollout
	Badge waves.Badge
	Took  string
}

// Rows are the rollouts that ended, for their table.
func (d rolloutsData) Rows() (list []endedRow) {
	for _, r := range d.Ended {
		list = append(list, endedRow{r, waves.BadgeOf(r), format.Brief(r.Ended.Sub(r.Created))})
	}
	return list
}

// Good counts the machines that ran the image in the end.
func (r endedRow) Good() int { return r.Count["good"] }

// Bad counts those on which it was given up.
func (r endedRow) Bad() int { return r.Count["bad"] }

// rolloutData is what the page of a rollout shows.
type rolloutData struct {
	*query
	api.RolloutDetail
	Badge    waves.Badge
	Lead     string
	Follows  string
	Waves    []waves.Wave
	Counts   waves.Outcomes
	Picture  curve.Picture
	Budgets  []waves.Budget
	Domains  int // failure domains beyond those
	Machines []waves.Member
	Is       string // only these machines
	Filters  []memberFilter
	All      string // address of the page with all machines
	Hidden   int    // machines beyond those
}

// memberFilter is a choice of machines.
type memberFilter struct {
	Is, Name, Link string
	N              int
}

func (s *Server) rollout(q *query) (page, error) {
	id := q.path("id")
	detail, err := s.backend.Rollout(id)
	if err != nil {
		return page{}, err
	}
	machines, err := s.backend.RolloutMachines(id)
	if err != nil {
		return page{}, err
	}
	members := waves.Members(machines)
	d := rolloutData{query: q, RolloutDetail: detail, Badge: waves.BadgeOf(detail.Rollout), Is: q.Get("is"),
		Waves: waves.Of(detail.Rollout, members), Counts: waves.Count(members), Budgets: waves.Budgets(detail.Budget)}
	d.Lead, d.Follows = d.lead()
	d.Lead = strings.ReplaceAll(d.Lead, " %", format.NBSP+"%")
	names := map[ingot.MachineID]string{}
	for _, m := range members {
		names[m.Machine] = m.Name
	}
	d.Picture = curve.Of(detail, func(id ingot.MachineID) string { return names[id] })
	d.Domains = max(0, len(d.Budgets)-mostBudgets)
	d.Budgets = d.Budgets[:len(d.Budgets)-d.Domains]
	d.choose(members)
	p := page{title: detail.Image.Name + " to " + detail.Selector, nav: "rollouts", body: "rollout", data: d,
		crumbs:  []crumb{{"Rollouts", "/rollouts"}, {"Rollout " + detail.ID, ""}},
		command: format.Command("rollout", "show", detail.ID)}
	for _, name := range []string{"head", "why", "waves", "test", "common", "budget", "evidence", "members", "policy",
		"log"} {
		p.parts = append(p.parts, part{name, "rollout-" + name, d})
	}
	return p, nil
}

// lead is the rollout in a sentence, and what follows from it.
func (d *rolloutData) lead() (lead, follows string) {
	w := rollout.WaveName(d.Wave)
	if d.Wave > 0 {
		w += fmt.Sprintf(" of %d", d.Rollout.Waves-1)
	}
	left := number(d.Counts.Out, "machine was", "machines were") + " left out."
	switch at := rollout.State(d.State); at {
	case rollout.Halted, rollout.Paused:
		lead = format.Sentence(d.Stop.Text)
		follows = "Nothing moves until somebody resumes or aborts it. Boots that are under way still count."
	case rollout.Done:
		lead = fmt.Sprintf("Done: %s %s.", number(d.Counts.Healthy, "machine runs", "machines run"), d.Image.Name)
		follows = left
	case rollout.Back, rollout.Aborting:
		lead = "Aborted: every machine that was moved is assigned what it had before."
		if d.Stop != nil {
			follows = format.Sentence(d.Stop.Text)
		}
	case rollout.Baking:
		lead = fmt.Sprintf("%s bakes until %s.", format.Title(w), format.Day(d.Since.Add(d.Policy.Bake), d.now))
		follows = "Until then its machines must go on reporting, and none may crash."
	case rollout.Planned:
		lead, follows = "It begins within seconds.", left
	default:
		lead = fmt.Sprintf("Under way in %s: %s the image.", w, number(d.Counts.Moving, "machine is to boot",
			"machines are to boot"))
		if follows = left; rollout.How(d.Policy.How) == rollout.NextBoot {
			follows = "Machines boot it when somebody reboots them; the wave waits for that."
		}
	}
	if d.Policy.Window != "" && !rollout.State(d.State).Ended() {
		follows += " Machines are moved within " + d.Policy.Window + " only."
	}
	return lead, follows
}

// number is a number with what is said of one, or of several.
func number(n int, one, several string) string {
	if n == 1 {
		several = one
	}
	return strconv.Itoa(n) + format.NBSP + several
}

// choose fills in the table of machines, and the ways to filter it.
func (d *rolloutData) choose(all []waves.Member) {
	at := func(v url.Values) string {
		u := url.URL{Path: "/rollouts/" + d.ID, RawQuery: v.Encode(), Fragment: "members"}
		return u.String()
	}
	names := map[string]string{"bad": "given up", "moving": "moved", "unfit": "not healthy", "good": "healthy",
		"waiting": "not moved yet", "back": "taken back", "not moved": "not moved",
		"outside": "left out"}
	d.Filters = []memberFilter{{"", "all", at(nil), len(all)}}
	for _, is := range waves.Standings() {
		if n := d.Count[is]; n > 0 {
			d.Filters = append(d.Filters, memberFilter{is, cmp.Or(names[is], is), at(url.Values{"is": {is}}), n})
		}
	}
	list := slices.DeleteFunc(slices.Clone(all), func(m waves.Member) bool { return d.Is != "" && m.Is != d.Is })
	waves.Sort(list)
	most, more := fewMembers, url.Values{"n": {"all"}}
	if d.Get("n") != "" {
		most = mostMembers
	}
	if d.Is != "" {
		more.Set("is", d.Is)
	}
	d.All, d.Hidden = at(more), max(0, len(list)-most)
	d.Machines = list[:len(list)-d.Hidden]
}

// Entries are what happened, the latest first.
func (d rolloutData) Entries() []api.RolloutEntry {
	list := slices.Clone(d.Log)
	slices.Reverse(list)
	return list
}

// Open reports whether the rollout has not ended.
func (d rolloutData) Open() bool { return d.Ended.IsZero() }

// Stopped reports whether a person must decide.
func (d rolloutData) Stopped() bool { return rollout.State(d.State).Stopped() }

// Aborting reports whether it is being taken back already.
func (d rolloutData) Aborting() bool { return rollout.State(d.State) == rollout.Aborting }

// touched are the machines that an abort takes back, by what they had.
func (d rolloutData) touched() (n int, from map[string]int) {
	from = map[string]int{}
	for _, w := range d.Waves {
		for _, m := range w.Machines {
			if m.Touched() {
				n++
				from[cmp.Or(m.From.Name, "no image")]++
			}
		}
	}
	return n, from
}

// Backs is what an abort does: how many machines go back to what.
func (d rolloutData) Backs() string {
	n, from := d.touched()
	if n == 0 {
		return ""
	}
	to := "what they had"
	if len(from) == 1 {
		for only := range from {
			to = only
		}
	}
	return fmt.Sprintf("%d back to %s", n, to)
}

// From are the images that machines go back to.
func (d rolloutData) From() map[string]int {
	_, from := d.touched()
	return from
}

// Shared is the heading of what machines that failed have in common.
func (d rolloutData) Shared() string {
	if len(d.Common) == 0 || d.Common[0].OfBad == 1 {
		return "What the one that failed has alone"
	}
	return fmt.Sprintf("What the %d that failed have in common", d.Common[0].OfBad)
}

// rate is a probability as a percentage.
func rate(r float64) string { return strconv.FormatFloat(100*r, 'g', 3, 64) + format.NBSP + "%" }

// Rates are those of the test.
func (d rolloutData) Rates() string {
	return rate(d.Policy.Test.Usual) + " is usual, " + rate(d.Policy.Test.Bad) + " is bad"
}

// Errors are the probabilities of wrong decisions of the test.
func (d rolloutData) Errors() string {
	return "halts a good image in " + rate(d.Policy.Test.Alpha) + ", misses a bad one in " + rate(d.Policy.Test.Beta)
}

// WaveName is what a wave is called in a table.
func (d rolloutData) WaveName(k int) string { return rollout.WaveName(k) }

// WaveList are the waves as they are typed.
func (d rolloutData) WaveList() string {
	var words []string
	for _, n := range d.Policy.Waves {
		words = append(words, fmt.Sprintf("%d"+format.NBSP+"%%", n))
	}
	return strings.Join(words, ", ")
}

// Unavailable is how many machines may be.
func (d rolloutData) Unavailable() string {
	if a := d.Policy.MaxUnavailable; a.Machines == 0 {
		return strconv.Itoa(a.Percent) + format.NBSP + "%"
	}
	return format.Plural(d.Policy.MaxUnavailable.Machines, "machine")
}

// Canaries is the number of the first wave.
func (d rolloutData) Canaries() int {
	if d.Policy.Canary == nil {
		return 0
	}
	return *d.Policy.Canary
}

// decision is what the page shows that asks before a rollout goes on or is taken back.
type decision struct {
	rolloutData
	Verb string
}

// Open reports whether there is something to decide.
func (d decision) Open() bool {
	return d.rolloutData.Open() && !d.Aborting() && (d.Verb == "abort" || d.Stopped())
}

// confirm asks before a rollout is aborted or resumed.
func confirm(verb string) func(*Server, *query) (page, error) {
	return func(s *Server, q *query) (page, error) {
		p, err := s.rollout(q)
		d, _ := p.data.(rolloutData)
		return page{title: format.Title(verb) + " rollout " + d.ID, nav: "rollouts", body: "rollout-confirm",
			crumbs: []crumb{{"Rollouts", "/rollouts"}, {"Rollout " + d.ID, "/rollouts/" + d.ID}, {format.Title(verb), ""}},
			data:   decision{d, verb}, command: format.Command("rollout", verb, cmp.Or(d.ID, "ID"))}, err
	}
}

// rolloutForms are the forms of a rollout, by the last word of their address.
var rolloutForms = map[string]func(*Server, *query, api.WhyRequest) (api.Rollout, error){
	"pause": func(s *Server, q *query, why api.WhyRequest) (api.Rollout, error) {
		return s.backend.PauseRollout(q.ctx, q.path("id"), why)
	},
	"resume": func(s *Server, q *query, why api.WhyRequest) (api.Rollout, error) {
		return s.backend.ResumeRollout(q.ctx, q.path("id"), why)
	},
	"abort": func(s *Server, q *query, why api.WhyRequest) (api.Rollout, error) {
		return s.backend.AbortRollout(q.ctx, q.path("id"), why)
	},
}

// rolloutRoutes are the pages and forms of rollouts.
func rolloutRoutes() []route {
	const one, change = "GET /v1/rollouts/{id}", "POST /v1/rollouts/{id}/"
	list := []route{
		{pattern: "GET /rollouts", takes: []string{"GET /v1/rollouts", one + "/machines"}, page: (*Server).rollouts},
		{pattern: "GET /rollouts/new", takes: []string{"POST /v1/rollouts"}, page: (*Server).newRollout},
		{pattern: "POST /rollouts", takes: []string{"POST /v1/rollouts"}, form: (*Server).startRollout},
		{pattern: "GET /rollouts/{id}", takes: []string{one, one + "/machines"}, page: (*Server).rollout},
	}
	for _, verb := range []string{"resume", "abort"} {
		list = append(list, route{pattern: "GET /rollouts/{id}/" + verb, takes: []string{change + verb}, page: confirm(verb)})
	}
	for verb, f := range rolloutForms {
		list = append(list, route{pattern: "POST /rollouts/{id}/" + verb, takes: []string{change + verb},
			form: func(s *Server, q *query) (done, error) {
				r, err := f(s, q, api.WhyRequest{Why: strings.TrimSpace(q.Get("why"))})
				return done{"/rollouts/" + r.ID, "rollout-" + verb}, err
			}})
	}
	return list
}

// movedBy are the machines that rollouts have moved and that have not said yet how they run the image, by the
// rollout.
func movedBy(list []waves.Strip) map[ingot.MachineID]string {
	by := map[ingot.MachineID]string{}
	for _, s := range list {
		for _, w := range s.Waves {
			for _, m := range w.Machines {
				if m.Mark == waves.Booting || m.Mark == waves.Failed {
					by[m.Machine] = s.ID
				}
			}
		}
	}
	return by
}

// stopped are the rollouts that a person should look at.
func stopped(list []waves.Strip) (notes []note) {
	for _, s := range list {
		if link := "/rollouts/" + s.ID; s.Stopped() {
			b := s.Badge()
			notes = append(notes, note{State: state(b.Mark), Name: "Rollout " + s.ID, Link: link, Since: s.Since,
				Text: "of " + s.Image.Name + " " + strings.ToLower(b.Word), Why: s.Line(), Act: "Open", ActTo: link})
		}
	}
	return notes
}
