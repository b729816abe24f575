package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
)

// row is a server with twelve machines, of which one runs another image than it is assigned, that
// remembers what it was asked to start.
type row struct {
	api.Backend
	started api.RolloutRequest
	changed string
}

func (r *row) Version() string { return "test" }

func (r *row) Machines() (list []api.Machine) {
	for i := range 12 {
		list = append(list, api.Machine{ID: ingot.MachineID(fmt.Sprint("m-", i)), Name: fmt.Sprintf("node%02d", i),
			State: api.Approved, Labels: map[string]string{"rack": "r1"}, Boot: ingot.NewBootID([16]byte{byte(i + 1)}),
			Assignment: api.Assignment{ImageRef: api.ImageRef{Image: "sha256:8", Name: "node:8"}}})
	}
	return list
}

func (r *row) LatestBoots() (list []api.Boot) {
	for i, m := range r.Machines() {
		image := m.Assignment.ImageRef
		if i == 7 {
			image = api.ImageRef{Image: "sha256:7", Name: "node:7"}
		}
		list = append(list, api.Boot{ID: m.Boot, Machine: m.ID, Image: image, Outcome: ingot.OutcomeHealthy})
	}
	return list
}

func (r *row) Machine(ref string) (api.Machine, error) {
	for _, m := range r.Machines() {
		if m.Name == ref || string(m.ID) == ref {
			return m, nil
		}
	}
	return api.Machine{}, api.NewProblem(api.CodeMachineNotFound, "no machine matches "+ref)
}

func (r *row) Assign(_ context.Context, ref string, _ api.AssignRequest) (api.Machine, error) {
	return r.Machine(ref)
}

func (r *row) Pin(_ context.Context, ref string, q api.WhyRequest) (api.Machine, error) {
	m, err := r.Machine(ref)
	m.Pin = &api.Mark{Why: q.Why}
	return m, err
}

func (r *row) StartRollout(_ context.Context, q api.RolloutRequest) (api.RolloutPlan, error) {
	r.started = q
	return api.RolloutPlan{DryRun: q.DryRun, Rollout: api.Rollout{Image: api.ImageRef{Name: "node:8"}, Waves: 2},
		Machines: []api.PlannedMachine{{Name: "node01"}}}, nil
}

func (r *row) Reboot(_ context.Context, ref string, q api.RebootRequest) (api.Boot, error) {
	r.changed = "reboot " + ref + " " + string(q.Drain) + " " + q.Why
	o := &api.Order{Drain: q.Drain, State: ingot.OrderGiven}
	if q.Drain != "" {
		o.Hooks = []string{"batch", "db"}
	}
	return api.Boot{Ordered: o}, nil
}

func (r *row) CancelReboot(_ context.Context, ref string) (api.Boot, error) {
	r.changed = "cancel " + ref
	return api.Boot{Ordered: &api.Order{State: ingot.OrderWithdrawn}}, nil
}

func (r *row) Rollouts() []api.Rollout {
	return []api.Rollout{{ID: "r1", State: "done", Ended: time.Unix(1, 0)},
		{ID: "r2", State: "halted", Waves: 4, Stop: &api.RolloutStop{Text: "halted in the canary: node01 failed"}}}
}

func (r *row) PauseRollout(_ context.Context, id string, q api.WhyRequest) (api.Rollout, error) {
	r.changed = id + " " + q.Why
	return api.Rollout{ID: id, State: "paused"}, nil
}

// TestRolloutCommands: what the command line asks for, and what it says.
func TestRolloutCommands(t *testing.T) {
	r := &row{}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, r, &access.Keeper{Find: nobody, Now: time.Now})
	for _, c := range []struct {
		command string
		code    int
		out     string // on standard output
		err     string // on standard error
	}{
		{"rollout start node:8 --to rack=r1 --canary 2 --waves 50%,100% --max-unavailable 3 --spread rack --pause-after 0 " +
			"--bake 5m --how next-boot --dry-run", 0, "nothing was started: --dry-run", ""},
		{"rollout start node:8 --to all --drain=maybe", 2, "", "--drain=maybe: write --drain, or --drain=best-effort"},
		{"rollout start node:8", 2, "", "--to SELECTOR"},
		{"rollout start node:8 --to all --waves x", 2, "", "not a percentage"},
		{"rollout ls", 0, "halted in the canary: node01 failed", ""},
		{"rollout history", 0, "done", ""},
		{"rollout pause r2 --why look", 0, "r2: paused", ""},
		{"machine ls --outdated", 0, "node07", ""},
		{"machine pin node01 --why certified", 0, "node01 is kept out of rollouts: certified", ""},
		{"assign rack=r1 node:8", 0, "node11 boots node:8", "ingot rollout start node:8 --to rack=r1 --dry-run"},
		{"assign node01 node:8", 0, "node01 boots node:8", ""},
	} {
		code, stdout, stderr := invoke(t, append(strings.Fields(c.command), "--server", "unix://"+socket)...)
		if code != c.code || !strings.Contains(stdout, c.out) || !strings.Contains(stderr, c.err) ||
			c.err == "" && stderr != "" {
			t.Errorf("ingot %s = %d\n%s%s; want %d, %q, %q", c.command, code, stdout, stderr, c.code, c.out, c.err)
		}
		if c.command == "machine ls --outdated" && strings.Contains(stdout, "node06") {
			t.Errorf("a machine that runs what it is assigned is outdated:\n%s", stdout)
		}
	}
	two := 2
	want := api.RolloutRequest{Image: "node:8", Selector: "rack=r1", DryRun: true, Policy: api.RolloutPolicy{Canary: &two,
		Waves: []int{50, 100}, MaxUnavailable: api.Amount{Machines: 3}, Spread: "rack", PauseAfter: []int{0},
		Bake: 5 * time.Minute, Patience: 45 * time.Minute, How: "next-boot", Quorum: 90}}
	if one, other := mustText(t, r.started), mustText(t, want); one != other {
		t.Errorf("it asked for\n%s\nwant\n%s", one, other)
	}
	if r.changed != "r2 look" {
		t.Errorf("it paused %q", r.changed)
	}
	for _, c := range []struct {
		command, asked string
		code           int
		out, err       string
	}{
		{"machine reboot node01", "reboot node01  ", 0, "node01 reboots with its next report, within a minute", ""},
		{"machine reboot node01 --drain --why fix", "reboot node01 required fix", 0,
			"node01 drains (batch, db) and reboots", ""},
		{"machine reboot node01 --drain=best-effort", "reboot node01 best-effort ", 0, "node01 drains", ""},
		{"machine reboot node01 --drain=no", "", 2, "", "write --drain"},
		{"machine reboot node01 --cancel", "cancel node01", 0, "node01 does not reboot: the order is withdrawn", ""},
		{"machine reboot rack=r1", "", 2, "", "12 machines would reboot at once"},
		{"machine reboot rack=r1 --yes", "reboot m-11  ", 0, "m-11 reboots with its next report", ""},
		{"machine reboot node03 node04", "reboot node04  ", 0, "node03 reboots", ""},
	} {
		r.changed = ""
		code, stdout, stderr := invoke(t, append(strings.Fields(c.command), "--server", "unix://"+socket)...)
		if code != c.code || r.changed != c.asked || !strings.Contains(stdout, c.out) || !strings.Contains(stderr, c.err) {
			t.Errorf("ingot %s = %d, asked %q\n%s%s; want %d, %q, %q, %q", c.command, code, r.changed, stdout, stderr,
				c.code, c.asked, c.out, c.err)
		}
	}
}

func mustText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
