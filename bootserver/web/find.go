package web

import (
	"net/http"
	"slices"
	"strings"

	"ingot/bootserver/web/format"
	"ingot/bootserver/web/waves"
	"ingot/internal/natural"
)

// found is one thing that the palette offers.
type found struct {
	Group, Name, Note, Link string
	State                   state
	Icon                    string
}

// findData is the answer to what somebody looks for.
type findData struct {
	Asked  string
	Groups []foundGroup
}

// foundGroup are the things of one kind.
type foundGroup struct {
	ID, Name string
	List     []found
}

const mostFound = 8 // of one kind

// find answers the palette: machines, images, pages and what can be done, as a part of a page.
func (s *Server) find(w http.ResponseWriter, r *http.Request) {
	q := s.queryOf(r)
	d, err := s.found(q)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	s.write(w, r, http.StatusOK, "found", d)
}

func (s *Server) found(q *query) (findData, error) {
	d := findData{Asked: strings.TrimSpace(q.Get("q"))}
	words := strings.Fields(strings.ToLower(d.Asked))
	matches := func(texts ...string) bool {
		all := strings.ToLower(strings.Join(texts, " "))
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(all, w) })
	}
	add := func(id, name string, list []found) {
		if len(list) > 0 {
			d.Groups = append(d.Groups, foundGroup{id, name, list[:min(len(list), mostFound)]})
		}
	}
	machines, actions := s.foundMachines(q, matches)
	add("machines", "Machines", machines)
	images, err := s.backend.Images(q.ctx)
	if err != nil {
		return d, err
	}
	var names []found
	for _, im := range slices.Backward(images) {
		if matches(im.Name, "image", string(im.Digest)) {
			names = append(names, found{Name: im.Name, Note: im.Digest.Short(), Link: "/images?to=" + im.Name, Icon: "image"})
		}
	}
	add("images", "Images", names)
	rollouts, more := s.foundRollouts(q, matches)
	add("rollouts", "Rollouts", rollouts)
	add("actions", "Actions", append(more, actions...))
	var pages []found
	for _, p := range navigation {
		if matches(p.Name, "page") {
			pages = append(pages, found{Name: p.Name, Note: "page", Link: p.Link, Icon: p.Icon})
		}
	}
	add("pages", "Pages", pages)
	return d, nil
}

// foundMachines are machines, and what can be done with them: where they match the words together with
// the name of the action.
func (s *Server) foundMachines(q *query, matches func(...string) bool) (machines, actions []found) {
	all := slices.Clone(s.statuses(q))
	slices.SortStableFunc(all, func(a, b status) int { return natural.Compare(a.Hostname(), b.Hostname()) })
	for _, m := range all {
		about := []string{m.Hostname(), string(m.ID), m.Serial, strings.Join(m.MACs, " "), labelled(m.Machine)}
		link := "/machines/" + string(m.ID)
		if matches(append(about, string(m.State))...) {
			machines = append(machines, found{Name: m.Hostname(), Note: m.State.Word() + ", " + m.Fact, Link: link,
				State: m.State})
		}
		for _, a := range machineActions {
			if len(actions) < mostFound && q.Get("q") != "" && q.Can("POST /v1/machines/{ref}/"+a.verb) &&
				matches(append(about, a.verb)...) && (a.verb != "resume" || m.State == held) {
				actions = append(actions, found{Name: format.Title(a.verb) + " " + m.Hostname(), Link: link + a.at, Icon: a.icon,
					Note: format.Command(append(strings.Fields(a.words), m.Hostname())...)})
			}
		}
	}
	if q.Can("POST /v1/machines/{ref}/approve") && matches("approve machines pending") {
		actions = append(actions, found{Name: "Approve machines", Note: format.Command("machine", "approve"),
			Link: "/pending", Icon: "tick"})
	}
	return machines, actions
}

// foundRollouts are the rollouts that have not ended, and what can be done with rollouts.
func (s *Server) foundRollouts(q *query, matches func(...string) bool) (rollouts, actions []found) {
	if q.Can("POST /v1/rollouts") && matches("start a rollout") {
		actions = append(actions, found{Name: "Start a rollout", Note: format.Command("rollout", "start", "IMAGE", "--to",
			"SELECTOR"), Link: "/rollouts/new", Icon: "rollout"})
	}
	for _, r := range slices.Backward(s.backend.OpenRollouts()) {
		b := waves.BadgeOf(r)
		link := "/rollouts/" + r.ID
		about := []string{"rollout", r.ID, r.Image.Name, r.Selector}
		if matches(append(about, b.Word)...) {
			rollouts = append(rollouts, found{Name: "Rollout " + r.ID, Note: r.Image.Name + " to " + r.Selector + ", " +
				strings.ToLower(b.Word), Link: link, State: state(b.Mark)})
		}
		for _, a := range rolloutActions {
			if q.Get("q") != "" && q.Can("POST /v1/rollouts/{id}/"+a.verb) && matches(append(about, a.verb)...) &&
				(a.verb == "abort" || (a.verb == "resume") == (b.Mark == waves.Halted || b.Mark == waves.Paused)) {
				actions = append(actions, found{Name: format.Title(a.verb) + " rollout " + r.ID, Link: link + a.at,
					Icon: a.icon, Note: format.Command("rollout", a.verb, r.ID)})
			}
		}
	}
	return rollouts, actions
}

// rolloutActions are what the palette offers to do with a rollout.
var rolloutActions = []struct{ verb, icon, at string }{
	{"pause", "pause", "#main"}, {"resume", "play", "/resume"}, {"abort", "back", "/abort"}}

// machineActions are what the palette offers to do with a machine.
var machineActions = []struct{ verb, words, icon, at string }{
	{"assign", "assign", "image", "#assign"}, {"rollback", "rollback", "back", "#main"},
	{"resume", "resume", "play", "#main"}, {"reboot", "machine reboot", "play", "#reboot"},
	{"pin", "machine pin", "pause", "#pin"}, {"label", "machine label", "settings", "#labels"}}

// navEntry is an entry of the navigation.
type navEntry struct{ Nav, Name, Link, Icon string }

// navigation are the pages, in their order.
var navigation = []navEntry{{"fleet", "Fleet", "/", "fleet"},
	{"rollouts", "Rollouts", "/rollouts", "rollout"}, {"images", "Images", "/images", "image"},
	{"pending", "Pending", "/pending", "pending"}, {"network", "Network", "/network", "network"},
	{"events", "Events", "/events", "events"}, {"trends", "Trends", "/trends", "trends"},
	{"settings", "Settings", "/settings", "settings"}}

// Navigation are the pages, in groups.
func (frame) Navigation() [][]navEntry {
	return [][]navEntry{navigation[:4], navigation[4:7], navigation[7:]}
}
