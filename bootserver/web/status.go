package web

import (
	"fmt"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// state is how a machine is, in one word: the name of its mark and its colour.
type state string

// The states of a machine on a page.
const (
	healthy  state = "healthy"
	outdated state = "outdated" // healthy, on another image than the assigned one
	booting  state = "booting"
	failed   state = "failed"
	held     state = "held"
	silent   state = "silent"
	off      state = "off" // shut down in order, or never booted
	pending  state = "pending"
	question state = "ask"
)

// shown are the states of machines that may boot, in the order of pages.
var shown = []state{healthy, outdated, booting, failed, held, silent, off}

// words are what states are called.
var words = map[state]string{healthy: "Healthy", outdated: "Outdated", booting: "Booting", failed: "Failed",
	held: "Held, waits", silent: "Silent", off: "Off", pending: "Pending", question: "Question"}

// Word is what a state is called.
func (s state) Word() string { return words[s] }

// quiet is how long a healthy machine may send no heartbeat: ten intervals, as for ingot why.
const quiet = 10 * ingot.Heartbeat

// status is a machine as pages show it.
type status struct {
	*api.Machine
	State state
	Fact  string // beside the name: an image, a stage, a time
	Boot  *api.Boot
	Done  float64   // of a boot under way, from 0 to 1
	Since time.Time // of the state
	Moved string    // the rollout that moved it, as long as it is not healthy with the image
}

// statusOf says how a machine is; b is its latest boot, or nil.
func statusOf(m *api.Machine, b *api.Boot, now time.Time) status {
	s := status{Machine: m, Boot: b}
	switch {
	case m.Ask != nil:
		s.State, s.Fact, s.Since = question, "a question", m.LastSeen
	case m.State == api.Pending:
		s.State, s.Fact, s.Since = pending, "waits "+format.Ago(m.FirstSeen, now), m.FirstSeen
	case m.State == api.Retired:
		s.State, s.Fact, s.Since = off, "retired", m.LastSeen
	case m.Setback != nil && m.Setback.To.Image == "":
		s.State, s.Fact, s.Since = held, format.Ago(m.Setback.At, now), m.Setback.At
	case b == nil:
		s.State, s.Fact = off, "not booted yet"
	default:
		s.ofBoot(b, now)
	}
	return s
}

// ofBoot is the state of a machine that its latest boot decides.
func (s *status) ofBoot(b *api.Boot, now time.Time) {
	switch b.Outcome {
	case ingot.OutcomeOpen:
		s.State, s.Since = booting, b.Started
		s.Fact, s.Done = progress(b)
	case ingot.OutcomeFailed:
		s.State, s.Fact, s.Since = failed, "at "+stageName(failedStage(b)), b.Ended
	case ingot.OutcomeSilent:
		s.State, s.Fact, s.Since = silent, format.Ago(b.Ended, now), b.Ended
	case ingot.OutcomeWaiting:
		s.State, s.Fact, s.Since = off, "waited "+format.Ago(b.Ended, now), b.Ended
	default:
		s.ofHealthy(b, now)
	}
}

// ofHealthy is the state of a machine whose latest boot was healthy.
func (s *status) ofHealthy(b *api.Boot, now time.Time) {
	s.Fact, s.Since = b.Image.Name, b.Ended
	switch {
	case b.Auth.Down:
		s.State, s.Fact, s.Since = off, format.Ago(s.LastSeen, now), s.LastSeen
	case now.Sub(s.LastSeen) > quiet:
		s.State, s.Fact, s.Since = silent, format.Ago(s.LastSeen, now), s.LastSeen
	case s.Assignment.Image != "" && b.Image.Image != s.Assignment.Image && b.Once == nil:
		s.State = outdated
	default:
		s.State = healthy
	}
}

// Hostname is what the machine is called.
func (s status) Hostname() string { return s.Machine.Hostname() }

// Up reports whether the machine runs an image that was healthy.
func (s status) Up() bool { return s.State == healthy || s.State == outdated }

// Label is all of it in words, for those that see no colours.
func (s status) Label() string {
	text := s.Hostname() + ", " + s.State.Word() + ", " + s.Fact
	if s.Moved != "" {
		text += ", moved by rollout " + s.Moved
	}
	return text
}

// Fill is the width of the bar of a boot under way.
func (s status) Fill() string { return format.Percent(s.Done, 1) }

// progress is the stage that a boot is in, and how far it is in all.
func progress(b *api.Boot) (fact string, done float64) {
	at := b.Stage().Rank() + 1
	if at >= len(ingot.Stages) {
		at = len(ingot.Stages) - 1
	}
	return stageName(ingot.Stages[at]), float64(at) / float64(len(ingot.Stages))
}

// failedStage is the stage in which a boot failed.
func failedStage(b *api.Boot) ingot.Stage {
	for _, e := range slices.Backward(b.Events) {
		if e.Error != "" {
			return e.Stage
		}
	}
	return b.Stage()
}

// stageNames are those that differ from the stage.
var stageNames = map[ingot.Stage]string{ingot.StageDHCP: "DHCP", ingot.StageSwitch: "switch root", "": "the start"}

// stageName is what a stage is called in a sentence.
func stageName(s ingot.Stage) string {
	if name := stageNames[s]; name != "" {
		return name
	}
	return string(s)
}

// snapshot is what pages about all machines are made of.
type snapshot struct {
	generation uint64 // of the open pages
	at         time.Time
	machines   []api.Machine
	list       []status
}

// snapshotAge is how old a snapshot may be: heartbeats, which the ledger does not list, and times change it.
const snapshotAge = time.Second

// snapshotOf reads all machines and their latest boots, once for a request. Open pages share what was read as
// long as nothing happened since.
func (s *Server) snapshotOf(q *query) *snapshot {
	if q.seen != nil {
		return q.seen
	}
	generation, now := s.hub.Generation(), time.Now()
	if old := s.shared.Load(); q.open && old != nil && old.generation == generation && now.Sub(old.at) < snapshotAge {
		q.seen = old
		return old
	}
	q.seen = &snapshot{generation: generation, at: now, machines: s.backend.Machines()}
	latest := map[ingot.MachineID]*api.Boot{}
	boots := s.backend.LatestBoots()
	for i := range boots {
		if old := latest[boots[i].Machine]; old == nil || old.Number < boots[i].Number {
			latest[boots[i].Machine] = &boots[i]
		}
	}
	q.seen.list = make([]status, len(q.seen.machines))
	for i := range q.seen.machines {
		m := &q.seen.machines[i]
		q.seen.list[i] = statusOf(m, latest[m.ID], q.now)
	}
	if q.open {
		s.shared.Store(q.seen)
	}
	return q.seen
}

// statuses are all machines that a page may show, with their latest boots.
func (s *Server) statuses(q *query) []status { return slices.Clone(s.snapshotOf(q).list) }

// stateOfBoot is the mark of a boot.
func stateOfBoot(b api.Boot) state {
	switch b.Outcome {
	case ingot.OutcomeOpen:
		return booting
	case ingot.OutcomeFailed:
		return failed
	case ingot.OutcomeSilent:
		return silent
	case ingot.OutcomeWaiting:
		return off
	}
	return healthy
}

// outcomeOf says how a boot ended.
func outcomeOf(b api.Boot) string {
	switch b.Outcome {
	case ingot.OutcomeOpen:
		stage, _ := progress(&b)
		return "under way: " + stage
	case ingot.OutcomeFailed:
		return "failed at " + stageName(failedStage(&b))
	case ingot.OutcomeWaiting:
		return "waited for an operator"
	}
	return string(b.Outcome)
}

// took is how long a boot took, or has taken until now.
func took(b api.Boot, now time.Time) time.Duration {
	if b.Open() {
		return now.Sub(b.Started)
	}
	return b.Ended.Sub(b.Started)
}

// reasonOf is why a boot ended as it did, or else the last problem that the machine reported.
func reasonOf(b api.Boot) string {
	if b.Reason != "" {
		return b.Reason
	}
	for _, e := range slices.Backward(b.Events) {
		if e.Error != "" {
			return e.Error
		}
	}
	if len(b.Changes) > 0 {
		return b.Changes[0]
	}
	return ""
}

// count is a number of machines in a state.
type count struct {
	State state
	N     int
}

// countStates counts machines by their state.
func countStates(list []status) []count {
	n := map[state]int{}
	for _, s := range list {
		n[s.State]++
	}
	var out []count
	for _, s := range shown {
		out = append(out, count{s, n[s]})
	}
	return out
}

// String is "30 healthy", for sentences.
func (c count) String() string { return fmt.Sprintf("%d %s", c.N, c.State) }
