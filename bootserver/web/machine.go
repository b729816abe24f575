package web

import (
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

const machineBoots = 12 // of a machine's page

// machineData is what the page Machine shows.
type machineData struct {
	*query
	status
	Why     string
	Lead    string // the first sentence of it
	Steps   []string
	Boots   []bootRow
	Scale   time.Duration // of the bars of boots
	Images  []string      // that it can be assigned
	Volumes []volumeRow
	Changed []string // hardware, in its latest boot
	Lease   time.Time
	Answers []answer
	Ordered bool // an order to its system can be withdrawn
}

// Drains are what can be done with drain hooks before a reboot.
func (machineData) Drains() []drainChoice { return drains }

// Command is the command that does what a button does: "machine reboot", and its flags.
func (d machineData) Command(words string, flags ...string) string {
	return format.Command(slices.Concat(strings.Fields(words), []string{d.Hostname()}, flags)...)
}

// bootRow is a boot in a table.
type bootRow struct {
	api.Boot
	State   state
	Outcome string
	Link    string
	Took    time.Duration
	Reason  string
	Bars    []bar
}

// bar is a piece of a bar, in per cent of its whole.
type bar struct{ X, W, Fill string }

// volumeRow is a volume of the image that the machine runs.
type volumeRow struct {
	ingot.VolumeResult
	Grants []api.Grant
}

// answer is one of the answers to a question about a machine.
type answer struct {
	Text, Action, Command string
	Main                  bool
	Fields                map[string]string
}

func (s *Server) machine(q *query) (page, error) {
	m, err := s.backend.Machine(q.path("ref"))
	if err != nil {
		return page{}, err
	}
	why, err := s.backend.Why(string(m.ID))
	if err != nil {
		return page{}, err
	}
	boots, _, err := s.backend.Boots(api.BootsRequest{Machine: string(m.ID), Limit: machineBoots})
	if err != nil {
		return page{}, err
	}
	images, err := s.imageNames(q)
	if err != nil {
		return page{}, err
	}
	d := machineData{query: q, Why: why.Words, Images: images}
	d.Lead, d.Why = split(why.Words)
	for _, step := range why.Steps {
		if c := step.Command(); c != "" && !strings.HasPrefix(c, "ingot why") {
			d.Steps = append(d.Steps, c)
		}
	}
	slices.Reverse(boots)
	var latest *api.Boot
	if len(boots) > 0 {
		latest = &boots[0]
		d.Changed, d.Volumes = latest.Changes, volumesOf(m, boots)
		d.Ordered = withdrawable(latest.Ordered, q.now)
	}
	d.status = statusOf(&m, latest, q.now)
	d.Boots, d.Scale = bootRows(boots, q.now)
	for _, l := range s.backend.Network().Leases {
		if l.Address == m.Address && l.Expires.After(d.Lease) {
			d.Lease = l.Expires
		}
	}
	if m.Ask != nil {
		d.Answers = answersTo(m)
	}
	name := m.Hostname()
	p := page{title: name, nav: "fleet", crumbs: []crumb{{"Fleet", "/"}, {name, ""}}, command: format.Command("why", name),
		body: "machine", data: d, machine: m.ID}
	p.parts = []part{{"head", "machine-head", d}, {"why", "machine-why", d}, {"boots", "machine-boots", d},
		{"hardware", "machine-hardware", d}, {"volumes", "machine-volumes", d}, {"identity", "machine-identity", d},
		{"question", "machine-question", d}}
	return p, nil
}

// withdrawable reports whether an order can be withdrawn: the system may not have done it yet.
func withdrawable(o *api.Order, now time.Time) bool {
	if o == nil {
		return false
	}
	switch o.State {
	case ingot.OrderGiven:
		return now.Before(o.Expires)
	case ingot.OrderReceived, ingot.OrderDraining:
		return true
	}
	return false
}

// split takes the first sentence off a paragraph.
func split(words string) (first, rest string) {
	for i := range len(words) - 2 {
		if words[i] == '.' && words[i+1] == ' ' && words[i+2] >= 'A' && words[i+2] <= 'Z' {
			return words[:i+1], words[i+2:]
		}
	}
	return words, ""
}

// imageNames are the images that can be assigned, the newest first.
func (s *Server) imageNames(q *query) (names []string, err error) {
	list, err := s.backend.Images(q.ctx)
	slices.SortStableFunc(list, func(a, b api.Image) int { return b.Stored.Compare(a.Stored) })
	for _, im := range list {
		if im.State != "damaged" && im.State != "untrusted" {
			names = append(names, im.Name)
		}
	}
	return names, err
}

// bootRows are boots for a table, the newest first, with bars on one scale.
func bootRows(boots []api.Boot, now time.Time) (rows []bootRow, scale time.Duration) {
	const longest = 5 * time.Minute // a silent boot lasts until its deadline
	for _, b := range boots {
		scale = max(scale, min(took(b, now), longest))
	}
	for _, b := range boots {
		r := bootRow{Boot: b, State: stateOfBoot(b), Outcome: outcomeOf(b), Link: bootLink(b), Took: took(b, now),
			Reason: reasonOf(b)}
		r.Bars = barsOf(b, r.State, scale, now)
		rows = append(rows, r)
	}
	return rows, scale
}

// barsOf are the three parts of a boot: firmware and loader, ingot-init, the system.
func barsOf(b api.Boot, s state, scale time.Duration, now time.Time) (bars []bar) {
	fills := []string{"var(--accent-soft)", "var(--accent)", "var(--edge)"}
	from := b.Started
	for i, group := range groups {
		to := from
		for _, e := range b.Events {
			if slices.Contains(group.stages, e.Stage) && e.Error == "" && e.At.After(to) {
				to = e.At
			}
		}
		bars = append(bars, piece(from.Sub(b.Started), to.Sub(b.Started), scale, fills[i]))
		from = to
	}
	if end := b.Started.Add(took(b, now)); end.After(from) && s != healthy {
		fill := map[state]string{failed: "var(--bad)", silent: "var(--mute)", booting: "var(--accent-soft)"}[s]
		if fill == "" {
			fill = "var(--line)"
		}
		bars = append(bars, piece(from.Sub(b.Started), end.Sub(b.Started), scale, fill))
	}
	return bars
}

// piece is a bar from one time to another.
func piece(from, to, scale time.Duration, fill string) bar {
	from, to = min(from, scale), min(to, scale)
	return bar{format.Percent(float64(from), float64(scale)), format.Percent(float64(to-from), float64(scale)), fill}
}

// volumesOf are the volumes as the latest boot that mounted them reported, with their grants; and those
// that have a grant alone.
func volumesOf(m api.Machine, boots []api.Boot) (rows []volumeRow) {
	for _, b := range boots {
		for _, e := range slices.Backward(b.Events) {
			if len(e.Results) > 0 && rows == nil {
				for _, r := range e.Results {
					rows = append(rows, volumeRow{VolumeResult: r})
				}
			}
		}
	}
	for _, g := range m.Grants {
		i := slices.IndexFunc(rows, func(r volumeRow) bool { return r.Volume == g.Volume })
		if i < 0 {
			rows = append(rows, volumeRow{VolumeResult: ingot.VolumeResult{Volume: g.Volume}})
			i = len(rows) - 1
		}
		rows[i].Grants = append(rows[i].Grants, g)
	}
	return rows
}

// Grantable are the disks that may become a volume: those that hold nothing.
func (d machineData) Grantable() (list []ingot.Disk) {
	for _, k := range d.Facts.Disks {
		if k.Holds == "blank" {
			list = append(list, k)
		}
	}
	return list
}

// Labelled are the labels as they are typed.
func (d machineData) Labelled() string { return labelled(d.Machine) }

func labelled(m *api.Machine) string {
	var list []string
	for k, v := range m.Labels {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// Previous is the last other image that was healthy here, to go back to.
func (d machineData) Previous() string {
	for _, r := range slices.Backward(d.Healthy) {
		if r.Image != d.Assignment.Image {
			return r.Name
		}
	}
	return ""
}

// Attempts are the failures in a row of the image that the machine boots.
func (d machineData) Attempts() int { return len(d.Trial.Failures) }

// answersTo are the answers to the question about a machine, as its advice has them.
func answersTo(m api.Machine) []answer {
	same, other := m.Ask.Answers(m)
	a := answer{Text: "The same machine: merge", Action: "/machines/" + string(m.ID) + "/merge", Main: true,
		Command: same.Command(), Fields: map[string]string{"into": string(m.Ask.With)}}
	b := answer{Text: "Another machine: approve it", Action: "/machines/" + string(m.ID) + "/approve",
		Command: other.Command()}
	if m.Ask.With == m.ID { // a known card came with a different board
		a = answer{Text: "The same machine: approve it", Action: b.Action, Main: true, Command: same.Command()}
		b = answer{Text: "Another machine: forget this one", Action: "/machines/" + string(m.ID) + "/forget",
			Command: other.Command(), Fields: map[string]string{"force": "true"}}
	}
	return []answer{a, b}
}
