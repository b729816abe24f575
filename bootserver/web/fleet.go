package web

import (
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/web/format"
	"ingot/bootserver/web/waves"
	"ingot/internal/natural"
)

// How many machines a page shows in which way.
const (
	manyMachines = 200  // from here on marks alone are the default
	mostCells    = 2000 // above, a row for each group
	latestEvents = 10
	mostNotes    = 12 // of what needs attention
)

// rack is one group of machines.
type rack struct {
	ID, Name string
	Link     string // the group by itself
	Up, All  int
	Machines []status
	Counts   []count
	Marks    bool
}

// fleetData is what the page Fleet shows.
type fleetData struct {
	*query
	Selector string
	Problem  string // of the selector
	State    state  // only these
	By       string // label that groups
	Labels   []string
	Marks    bool
	Grouped  bool
	Shown    int
	Counts   []count
	Racks    []rack
	Notes    []note
	More     int // notes beyond these
	Latest   []entry
	Rollouts []waves.Strip     // that have not ended
	Links    map[string]string // of the two densities
	Images   []api.Image       // of an empty fleet
	Network  api.Network       // likewise
}

// note is something that a person should look at.
type note struct {
	State      state
	Name, Link string
	Text       string
	Since      time.Time
	Why        string
	Act, ActTo string // a link to act
}

// fleet is the page of all machines.
func (s *Server) fleet(q *query) (page, error) {
	d := fleetData{query: q, Selector: strings.TrimSpace(q.Get("q")), State: state(q.Get("state"))}
	p := page{title: "Fleet", nav: "fleet", body: "fleet", command: format.Command("machine", "ls")}
	all := slices.DeleteFunc(s.statuses(q), func(m status) bool {
		return m.Machine.State == api.Retired && d.Selector == ""
	})
	if len(all) == 0 && d.Selector == "" {
		return s.emptyFleet(q, p, d)
	}
	strips, err := s.strips()
	if err != nil {
		return p, err
	}
	d.Rollouts = strips
	moved := movedBy(strips)
	for i := range all {
		all[i].Moved = moved[all[i].ID]
	}
	booted := slices.DeleteFunc(slices.Clone(all), func(m status) bool { return m.Machine.State == api.Pending })
	chosen := d.choose(booted)
	if d.Selector != "" {
		p.command = format.Command("machine", "ls", d.Selector)
	}
	d.Counts = countStates(chosen)
	if d.State != "" {
		chosen = slices.DeleteFunc(slices.Clone(chosen), func(m status) bool { return m.State != d.State })
	}
	d.Labels = labelsOf(all)
	d.By = q.Get("by")
	if d.By == "" && (slices.Contains(d.Labels, "rack") || len(d.Labels) == 0) {
		d.By = "rack"
	} else if d.By == "" {
		d.By = d.Labels[0]
	}
	if !slices.Contains(d.Labels, d.By) {
		d.Labels = append(d.Labels, d.By)
	}
	d.Shown, d.Grouped = len(chosen), len(chosen) > mostCells
	d.Marks = q.Get("d") == "marks" || q.Get("d") == "" && len(chosen) >= manyMachines
	d.Links = map[string]string{"cells": d.with("d", "cells"), "marks": d.with("d", "marks")}
	d.Racks = d.racks(chosen)
	d.Notes = append(stopped(strips), notesOf(all, q.now)...)
	d.More = max(0, len(d.Notes)-mostNotes)
	d.Notes = d.Notes[:len(d.Notes)-d.More]
	events, err := s.backend.Events(q.ctx, api.EventsRequest{Newest: true, Limit: latestEvents})
	if err != nil {
		return p, err
	}
	d.Latest = s.entries(q, events.Events)
	p.data = d
	p.parts = d.parts()
	return p, nil
}

// choose returns the machines that the filter selects: by labels, else by name.
func (d *fleetData) choose(all []status) (list []status) {
	if d.Selector == "" {
		return all
	}
	selector, err := fleet.ParseSelector(d.Selector)
	named := func(m status) bool {
		return strings.Contains(strings.ToLower(m.Hostname()+" "+string(m.ID)), strings.ToLower(d.Selector))
	}
	byLabel := err == nil && (strings.Contains(d.Selector, "=") || !slices.ContainsFunc(all, named))
	for _, m := range all {
		if byLabel && selector.Matches(m.Labels) || !byLabel && named(m) {
			list = append(list, m)
		}
	}
	if err != nil && len(list) == 0 {
		d.Problem = err.Error()
	}
	return list
}

// with is the address of the page with another value of a parameter.
func (d *fleetData) with(name, value string) string {
	v := url.Values{}
	for _, k := range []string{"q", "state", "by", "d"} {
		if d.Get(k) != "" {
			v.Set(k, d.Get(k))
		}
	}
	v.Set(name, value)
	if value == "" {
		v.Del(name)
	}
	if len(v) == 0 {
		return "/"
	}
	return "/?" + v.Encode()
}

// Toggle is the address of one state alone, or of all again.
func (d fleetData) Toggle(s state) string {
	if d.State == s {
		return d.with("state", "")
	}
	return d.with("state", string(s))
}

// labelsOf are the keys of labels, those that group most machines first.
func labelsOf(list []status) []string {
	n := map[string]int{}
	for _, m := range list {
		for k := range m.Labels {
			n[k]++
		}
	}
	keys := slices.Sorted(maps.Keys(n))
	slices.SortStableFunc(keys, func(a, b string) int { return n[b] - n[a] })
	return keys[:min(len(keys), 20)]
}

// racks groups machines by a label.
func (d *fleetData) racks(list []status) []rack {
	groups := map[string]*rack{}
	for _, m := range list {
		name := m.Labels[d.By]
		r := groups[name]
		if r == nil {
			r = &rack{Name: name, Marks: d.Marks}
			r.Link = d.with("q", d.By+"="+name)
			if name == "" {
				r.Link = ""
			}
			groups[name] = r
		}
		r.All++
		if m.Up() {
			r.Up++
		}
		r.Machines = append(r.Machines, m)
	}
	var out []rack
	for _, r := range groups {
		r.ID = "r-" + ingot.DigestOf([]byte(r.Name)).Short()
		slices.SortFunc(r.Machines, func(a, b status) int { return natural.Compare(a.Hostname(), b.Hostname()) })
		if d.Grouped {
			r.Counts, r.Machines = countStates(r.Machines), nil
		}
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b rack) int {
		if (a.Name == "") != (b.Name == "") { // those without the label come last
			return strings.Compare(b.Name, a.Name)
		}
		return natural.Compare(a.Name, b.Name)
	})
	return out
}

// rackKey is what the head of a group shows, or its row.
type rackKey struct {
	template, name, link string
	up, all              int
	counts               string
}

// key says what a template shows of the group, see live.Part.
func (r rack) key(template string) any {
	return rackKey{template, r.Name, r.Link, r.Up, r.All, fmt.Sprint(r.Counts)}
}

// cellKey is what the cell of a machine shows.
type cellKey struct {
	template, name, fact, moved string
	state                       state
	done                        float64
}

// key says what the template of a cell shows of the machine, see live.Part.
func (s status) key(template string) any {
	return cellKey{template, s.Hostname(), s.Fact, s.Moved, s.State, s.Done}
}

// cells make the parts of which a page has thousands, without a template: it takes twenty times as long.
var cells = map[string]func(status) template.HTML{"fleet-cell": cell, "fleet-mark": mark}

// linkOf begins the cell of a machine.
func linkOf(b *strings.Builder, m status) {
	id := template.HTMLEscapeString(string(m.ID))
	b.WriteString(`<a class="cell" id="c-` + id + `" data-s="` + string(m.State) + `" href="/machines/` +
		template.HTMLEscapeString(url.PathEscape(string(m.ID))) + `"`)
}

// mark is the cell of a machine without its name.
func mark(m status) template.HTML {
	var b strings.Builder
	linkOf(&b, m)
	b.WriteString(` title="` + template.HTMLEscapeString(m.Label()) + `"`)
	if m.Moved != "" {
		b.WriteString(` data-r`)
	}
	b.WriteString(`><svg class="mark"><use href="#s-` + string(m.State) + `"/></svg></a>`)
	return template.HTML(b.String()) //nolint:gosec // all that machines say is escaped
}

// cell is the cell of a machine with its name and one fact.
func cell(m status) template.HTML {
	var b strings.Builder
	linkOf(&b, m)
	b.WriteString(`><svg class="mark" aria-hidden="true"><use href="#s-` + string(m.State) + `"/></svg><b>` +
		template.HTMLEscapeString(m.Hostname()) + `</b><i><span class="vh">` + m.State.Word() + `, </span>` +
		template.HTMLEscapeString(m.Fact) + `</i>`)
	if m.Moved != "" {
		b.WriteString(`<svg class="ic moved" role="img" aria-label="moved by rollout ` +
			template.HTMLEscapeString(m.Moved) + `"><use href="#i-rollout"/></svg>`)
	}
	if m.State == booting {
		b.WriteString(`<svg class="fill" aria-hidden="true"><rect width="100%" height="3" fill="var(--accent-soft)"/>` +
			`<rect width="` + m.Fill() + `" height="3" fill="var(--accent)"/></svg>`)
	}
	b.WriteString("</a>")
	return template.HTML(b.String()) //nolint:gosec // likewise
}

// Share is the width of a count in the bar of a group.
func (r rack) Share(n int) string { return format.Percent(float64(n), float64(r.All)) }

// Offset is where a count begins in the bar of a group.
func (r rack) Offset(s state) string {
	n := 0
	for _, c := range r.Counts {
		if c.State == s {
			break
		}
		n += c.N
	}
	return format.Percent(float64(n), float64(r.All))
}

// parts are what changes on the page: the counts, the heads of the groups, each machine, what needs
// attention and the events.
func (d *fleetData) parts() []part {
	list := []part{{"sum", "fleet-sum", *d}, {"rollouts", "rollout-strips", d.Rollouts}, {"notes", "fleet-notes", *d},
		{"latest", "fleet-latest", *d}}
	for _, r := range d.Racks {
		list = append(list, part{r.ID, "fleet-rack-head", r})
		if d.Grouped {
			list[len(list)-1].template = "fleet-group"
		}
		name := "fleet-cell"
		if d.Marks {
			name = "fleet-mark"
		}
		for _, m := range r.Machines {
			list = append(list, part{"c-" + string(m.ID), name, m})
		}
	}
	return list
}

// severity orders what needs attention: the worst first.
var severity = []state{failed, held, silent, question, pending}

// notesOf are what a person should look at.
func notesOf(all []status, now time.Time) (notes []note) {
	var waiting []status
	for _, m := range all {
		n := note{State: m.State, Name: m.Hostname(), Link: "/machines/" + string(m.ID), Since: m.Since}
		switch m.State {
		case failed:
			n.Text, n.Why = "failed on "+format.Dash(m.Boot.Image.Name), format.Sentence(reasonOf(*m.Boot))
			n.Act, n.ActTo = "Boot", bootLink(*m.Boot)
			if m.Setback != nil {
				n.Why += " It fell back to " + m.Setback.To.Name + "."
			}
		case held:
			n.Text, n.Why = "is held", format.Sentence(m.Setback.Why)
			n.Act, n.ActTo = "Open", n.Link
		case silent:
			n.Text = "went silent"
			n.Why = fmt.Sprintf("Not heard from for %s; it booted %s.", format.Ago(m.LastSeen, now),
				format.Dash(m.Boot.Image.Name))
			if m.Boot.Outcome == ingot.OutcomeSilent {
				n.Why = format.Sentence(reasonOf(*m.Boot))
			}
			n.Act, n.ActTo = "Boot", bootLink(*m.Boot)
		case question:
			n.Text, n.Why = "has a question", format.Sentence(m.Ask.What)
			n.Act, n.ActTo = "Answer", "/pending"
		case pending:
			waiting = append(waiting, m)
			continue
		default:
			continue
		}
		notes = append(notes, n)
	}
	if len(waiting) > 0 {
		first := slices.MinFunc(waiting, func(a, b status) int { return a.Since.Compare(b.Since) })
		notes = append(notes, note{State: pending, Name: format.Plural(len(waiting), "new machine"), Link: "/pending",
			Text: "waiting", Since: first.Since, Why: "Not one of them boots before it is approved.", Act: "Approve",
			ActTo: "/pending"})
	}
	slices.SortStableFunc(notes, func(a, b note) int {
		if c := slices.Index(severity, a.State) - slices.Index(severity, b.State); c != 0 {
			return c
		}
		return b.Since.Compare(a.Since)
	})
	return notes
}

// bootLink is the address of a boot's page.
func bootLink(b api.Boot) string { return "/machines/" + string(b.Machine) + "/boots/" + string(b.ID) }

// emptyFleet is the page before any machine was seen: what works, and what comes next.
func (s *Server) emptyFleet(q *query, p page, d fleetData) (page, error) {
	images, err := s.backend.Images(q.ctx)
	if err != nil {
		return p, err
	}
	d.Images, d.Network = images, s.backend.Network()
	p.body, p.data = "fleet-empty", d
	p.parts = []part{{"steps", "fleet-steps", d}}
	return p, nil
}

// Served are the interfaces that are served.
func (d fleetData) Served() (names []string) {
	for _, i := range d.Network.Interfaces {
		if i.Served && !slices.Contains(names, i.Name) {
			names = append(names, i.Name)
		}
	}
	return names
}

// Newest is the image that was stored last.
func (d fleetData) Newest() api.Image {
	if len(d.Images) == 0 {
		return api.Image{}
	}
	return slices.MaxFunc(d.Images, func(a, b api.Image) int { return a.Stored.Compare(b.Stored) })
}
