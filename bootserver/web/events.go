package web

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
	"ingot/bootserver/web/waves"
)

// entry is an event in a table.
type entry struct {
	api.Entry
	Name, Link string
	State      state
	Day        string // above it: its day is another one than that of the event above; empty: it is not
}

// eventsData is what the page Events shows.
type eventsData struct {
	*query
	Machine string // filter
	Kind    string
	Bad     bool
	Events  []entry
	Limit   int
	More    string // address of a longer list
}

// kinds are those of events that the page can be filtered by.
var kinds = []string{"step", "end", "decision", "machine", "server", "packet"}

// Kinds are those of events that the page can be filtered by.
func (eventsData) Kinds() []string { return kinds }

const (
	fewEvents  = 100
	mostEvents = 2000
)

func (s *Server) events(q *query) (page, error) {
	d := eventsData{query: q, Machine: strings.TrimSpace(q.Get("machine")), Kind: q.Get("kind"), Bad: q.Get("bad") != "",
		Limit: fewEvents}
	if n, err := strconv.Atoi(q.Get("n")); err == nil {
		d.Limit = min(max(n, 1), mostEvents)
	}
	request := api.EventsRequest{Newest: true, Limit: d.Limit, Machine: d.Machine}
	if d.Kind != "" || d.Bad { // they are chosen here, among more
		request.Limit = mostEvents
	}
	got, err := s.backend.Events(q.ctx, request)
	if err != nil {
		return page{}, err
	}
	list := slices.DeleteFunc(got.Events, func(e api.Entry) bool {
		return d.Kind != "" && e.Kind != d.Kind || d.Bad && !e.Bad
	})
	d.Events = s.entries(q, list)
	d.Events = d.Events[:min(len(d.Events), d.Limit)]
	if len(d.Events) == d.Limit && d.Limit < mostEvents {
		v := q.Values
		v.Set("n", strconv.Itoa(min(4*d.Limit, mostEvents)))
		d.More = "/events?" + v.Encode()
	}
	p := page{title: "Events", nav: "events", body: "events", data: d, command: format.Command("events", "-f")}
	if d.Machine != "" {
		p.command = format.Command("events", d.Machine, "-f")
	}
	p.parts = []part{{"events", "events-table", d}}
	return p, nil
}

// entries are events for a table, the newest first.
func (s *Server) entries(q *query, list []api.Entry) []entry {
	names := s.names(q)
	above := q.now.Local().Format(time.DateOnly)
	out := make([]entry, 0, len(list))
	for _, e := range slices.Backward(list) {
		one := entry{Entry: e, Name: names[e.Machine], State: stateOfEntry(e)}
		if one.Name != "" {
			one.Link = "/machines/" + string(e.Machine)
		}
		if e.Machine == "" && e.Rollout != "" {
			one.Name, one.Link = "rollout "+e.Rollout, "/rollouts/"+e.Rollout
			one.Text = strings.TrimPrefix(one.Text, one.Name+" of ")
		}
		if e.Boot != "" && one.Link != "" {
			one.Link += "/boots/" + string(e.Boot)
		}
		if e.Kind == "step" && e.Text != "" {
			one.Text = stageName(e.Stage) + ": " + e.Text
		} else if e.Kind == "step" {
			one.Text = stageName(e.Stage)
		}
		if day := e.At.Local().Format(time.DateOnly); day != above {
			one.Day, above = day, day
		}
		out = append(out, one)
	}
	return out
}

// stateOfEntry is the mark of an event; empty: none.
func stateOfEntry(e api.Entry) state {
	switch {
	case e.Bad && e.Rollout != "" && e.Machine == "":
		return state(waves.Halted)
	case e.Bad:
		return failed
	case e.Kind == "step" && e.Stage == ingot.StageHealthy, e.Kind == "end":
		return healthy
	case e.Kind == "step":
		return booting
	case e.Code == "machine-seen":
		return pending
	}
	return ""
}
