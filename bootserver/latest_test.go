package bootserver

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/operator"
)

// latest is what an operator is told of the latest boot of the machine, alone and in the list, and why.
func latest(t *testing.T, o *operator.Operator) (api.Latest, string) {
	t.Helper()
	list := o.Machines()
	i := slices.IndexFunc(list, func(m api.Machine) bool { return m.ID == machineID })
	alone, err := o.Machine(machineID)
	why, failed := o.Why(machineID)
	if i < 0 || err != nil || failed != nil || list[i].Latest == nil || alone.Latest == nil {
		t.Fatalf("machine %d of the list %+v, and alone %+v: %v, %v", i, list, alone, err, failed)
	}
	if d := cmp.Diff(list[i].Latest, alone.Latest); d != "" {
		t.Errorf("in the list and alone the latest boot differs: %s", d)
	}
	return *alone.Latest, why.Words
}

// TestLatestBoot: what a machine runs is what its latest boot is of, also when that is not what it was
// last healthy with: another image once, or one that fails.
func TestLatestBoot(t *testing.T) {
	h := newLook(t)
	o := h.server.operator()
	if l, _ := latest(t, o); l.Name != "lab:v1" || l.Outcome != ingot.OutcomeHealthy || l.Once {
		t.Errorf("a machine that is healthy with lab:v1 runs %+v", l)
	}
	h.once(api.OnceRequest{Image: "lab:rescue"})
	if l, _ := latest(t, o); l.Name != "lab:v1" || l.Once {
		t.Errorf("before one boot of lab:rescue it runs %+v", l)
	}
	boot, _ := h.ask()
	if l, _ := latest(t, o); l.Name != "lab:rescue" || l.Outcome != ingot.OutcomeOpen || !l.Once {
		t.Errorf("while it boots lab:rescue once it runs %+v", l)
	}
	h.attempt("", "")
	if l, _ := latest(t, o); l.Name != "lab:rescue" || l.Outcome != ingot.OutcomeHealthy || !l.Once {
		t.Errorf("in boot %s of lab:rescue it runs %+v", boot.Short(), l)
	}
	h.attempt(ingot.StageRoot, "no")
	if l, _ := latest(t, o); l.Name != "lab:v1" || l.Outcome != ingot.OutcomeFailed || l.Once {
		t.Errorf("after a boot that failed it runs %+v", l)
	}
}

// longestBeat is the longest time between two reports of a system whose checks take 10 s.
const longestBeat = ingot.Heartbeat*5/4 + 10*time.Second

// TestSilentMachine: a machine that reports is never called silent, however its reports fall into the
// intervals of the server. One that has sent nothing for two minutes is, by why and by the list, and one
// whose system said that it shuts down is down. A server that was away does not blame the machines.
func TestSilentMachine(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) (*house, func(), func()){
		"authenticated": func(t *testing.T) (*house, func(), func()) {
			h, _ := newAbleHouse(t)
			s := h.healthy(firstMachine)
			return h, func() { s.reports(true) }, func() {
				h.deliver(s.prove("events", ingot.Event{Stage: ingot.StageAgent, Down: true}))
			}
		},
		"older image": func(t *testing.T) (*house, func(), func()) {
			h := newLook(t)
			_, b := h.machine1()
			return h, func() { h.post(b.ID, "report", ingot.Report{Boot: b.ID, Root: b.Root, Healthy: true}) }, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, beat, shutDown := begin(t)
			o := h.server.operator()
			for _, step := range []time.Duration{longestBeat, ingot.Heartbeat * 3 / 4, longestBeat, ingot.Heartbeat,
				longestBeat, time.Second} {
				h.clock = h.clock.Add(step)
				if l, why := latest(t, o); l.Silent || !strings.HasPrefix(why, "Healthy on lab:v1 since ") {
					t.Fatalf("%s after a report: %+v; %s", step, l, why)
				}
				beat()
			}
			heard := h.clock
			h.clock = h.clock.Add(2 * time.Minute)
			l, why := latest(t, o)
			if !l.Silent || heard.Sub(l.Heard) > ingot.Heartbeat || !strings.HasPrefix(why, "Silent since ") ||
				!strings.Contains(why, "It ran lab:v1, healthy since 12:00; its last report was good.") {
				t.Errorf("two minutes after a report: %+v; %s", l, why)
			}
			h.begin(h.port)
			h.server.started = h.clock
			o = h.server.operator()
			if l, why := latest(t, o); l.Silent || !strings.Contains(why, "before this server started at ") {
				t.Errorf("after a restart of the server: %+v; %s", l, why)
			}
			h.clock = h.clock.Add(2 * time.Minute)
			if l, why := latest(t, o); !l.Silent || !strings.HasPrefix(why, "Silent since ") {
				t.Errorf("two minutes after a restart of the server: %+v; %s", l, why)
			}
			beat()
			if l, why := latest(t, o); l.Silent || !strings.HasPrefix(why, "Healthy on lab:v1 since ") {
				t.Errorf("after another report: %+v; %s", l, why)
			}
			if shutDown == nil {
				return
			}
			shutDown()
			if l, why := latest(t, o); !l.Down || l.Silent || !strings.HasPrefix(why, "Down since ") {
				t.Errorf("after its system said that it shuts down: %+v; %s", l, why)
			}
		})
	}
}
