//go:build e2e

package testvm

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
)

// drained is a profile with two drain hooks: one writes to the volume, the other hangs as long as a file is there.
const drained = `name: lab
extends: lab
files:
  - path: /usr/local/sbin/hang
    mode: "0755"
    content: |
      #!/bin/sh
      echo waiting for the batch queue
      while [ -e /data/hangs ]; do sleep 1; done
drain:
  - name: note
    command: [/bin/sh, -c, "cat /proc/sys/kernel/random/boot_id >>/data/drained && sync"]
  - name: queue
    command: [/usr/local/sbin/hang]
    within: 5s
`

// TestSceneOrders: a rollout orders a machine to drain and to reboot, and the machine runs the new image. The next
// rollout meets a drain hook that hangs: the machine stays up, and the rollout pauses and names it. When the hook
// ends, a resumed rollout goes on.
func TestSceneOrders(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStageFor(t, 25*time.Minute)
	profile := s.file("drained.yaml", drained)
	for _, v := range []string{"d1", "d2", "d3"} {
		s.run("build", profile, "--version", v)
	}
	s.router()
	s.serve("--approve-all", "--image", "lab:d1")
	vm := s.vm(BIOS, 80, s.disk("data"))
	s.machine(vm, "the machine to be seen", func(api.Machine) bool { return true })
	s.run("grant", vm.id(), "data", "--disk", "SER-data", "--force")
	s.healthy(vm, 1, "lab:d1")
	s.login(vm)

	s.t.Log(s.run("rollout", "start", "lab:d2", "--to", "all", "--drain", "--bake", "1s", "--max-unavailable", "1"))
	s.healthy(vm, 2, "lab:d2")
	s.t.Log(s.run("boots", vm.id()))
	s.login(vm)
	if got := strings.Count(s.at(vm, "cat /data/drained"), "-"); got != 4 { // of one boot id
		t.Errorf("the first hook ran %d times; want once", got/4)
	}
	s.rolloutIs("r1", "done")

	s.at(vm, "touch /data/hangs; cat /proc/sys/kernel/random/boot_id >/data/before; sync")
	s.run("rollout", "start", "lab:d3", "--to", "all", "--drain", "--bake", "1s", "--max-unavailable", "1")
	r := s.rolloutIs("r2", "paused")
	if !strings.Contains(r.Stop.Text, "drain hook queue took too long") || !strings.Contains(r.Stop.Text, "batch queue") {
		t.Errorf("it paused for %q", r.Stop.Text)
	}
	s.t.Log(s.run("rollout", "show", "r2"))
	s.t.Log(s.run("why", vm.id()))
	out := s.at(vm, "cmp /proc/sys/kernel/random/boot_id /data/before && pgrep -f /usr/local/sbin/hang; true")
	if strings.TrimSpace(out) != "" {
		t.Errorf("after a hook that hangs the machine says %q; want the same boot, and nothing of the hook", out)
	}
	s.at(vm, "rm /data/hangs")
	s.run("rollout", "resume", "r2")
	s.healthy(vm, 3, "lab:d3")
	s.rolloutIs("r2", "done")
	s.t.Logf("\n%s\n%s", s.run("rollout", "history", "r2"), s.run("events"))
}

// rolloutIs waits until a rollout is in a state.
func (s *stage) rolloutIs(id, state string) (r api.RolloutDetail) {
	s.t.Helper()
	s.until("rollout "+id+" to be "+state, func() bool {
		var err error
		r, err = s.api.Rollout(s.ctx, id)
		return err == nil && r.State == state
	})
	return r
}

// TestSceneRebootOrder: one machine is ordered to reboot, and its next boot replaces the one before at once.
func TestSceneRebootOrder(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	s.router()
	s.serve("--approve-all", "--image", "lab:v1")
	vm := s.vm(UEFI, 81)
	s.healthy(vm, 1, "lab:v1")
	s.t.Log(s.run("machine", "reboot", vm.id(), "--why", "a scene"))
	s.healthy(vm, 2, "lab:v1")
	var states []string
	for d := json.NewDecoder(strings.NewReader(s.run("events", vm.id(), "-o", "json"))); d.More(); {
		var e api.Entry
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Code == "order-state" {
			states = append(states, e.Text)
		}
		if e.Code == "boot-conflict" || e.Code == "boot-claimed" {
			t.Errorf("the reboot was taken for another host: %s", e.Text)
		}
	}
	if got := strings.Join(states, "; "); got != "has the order to reboot; reboots as it was ordered to" {
		t.Errorf("the machine said %q", got)
	}
}
