//go:build e2e

package testvm

import (
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
)

// TestSceneAgentKilled kills the agent of a healthy machine while a unit has failed. The machine
// stays up and reports it.
func TestSceneAgentKilled(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	s.serve("--approve-all", "--image", "lab:v1")
	vm := s.vm(BIOS, 1)
	s.healthy(vm, 1, "lab:v1")
	s.login(vm)
	s.at(vm, "systemd-run --quiet --unit=broken /bin/false; sleep 2; systemctl is-failed broken")
	s.at(vm, "systemctl kill --signal=KILL ingot-agent")
	b := s.boot(vm, 1, "a report of the failed unit", func(b api.Boot) bool {
		return b.Report != nil && !b.Report.Healthy && strings.Contains(strings.Join(b.Report.Failed, " "), "broken")
	})
	time.Sleep(90 * time.Second) // it used to be reset after 66
	boots, err := s.api.Boots(s.ctx, vm.id(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(boots) != 1 || boots[0].ID != b.ID || boots[0].Outcome != "healthy" {
		t.Errorf("the machine was reset:\n%s", s.timelines())
	}
	if got := words(s.at(vm, "uptime -p")); strings.Contains(got, "up 0 minutes") {
		t.Errorf("the machine restarted: %s", got)
	}
}

// TestSceneSwappedDisk moves the data disk of a machine to another one. Nothing on it is read or
// written there, and the other machine keeps an identity of its own, until an operator lets it
// take the disk over.
func TestSceneSwappedDisk(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	d := s.disk("data")
	s.serve()
	first := s.vm(UEFI, 1, d)
	s.meet(first)
	s.healthy(first, 1, "lab:v1")
	s.login(first)
	const who = "cat /etc/machine-id; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
	identity := s.at(first, who)
	s.at(first, "sync")
	first.Kill() // the journal stays to be replayed
	before := sum(t, d.Path)
	second := s.vm(UEFI, 2, d)
	s.machine(second, "the second machine to be seen", func(api.Machine) bool { return true })
	s.run("machine", "approve", second.id(), "--name", "other", "--image", "lab:v1")
	s.healthy(second, 1, "lab:v1")
	if got := sum(t, d.Path); got != before {
		t.Error("a stranger's disk was written to")
	}
	why := s.run("why", "other")
	for _, want := range []string{`holds volume "data" of machine ` + first.id(),
		"ingot grant other data --disk SER-data --adopt"} {
		if !strings.Contains(why, want) {
			t.Errorf("ingot why does not say %q:\n%s", want, why)
		}
	}
	s.login(second)
	if got := s.at(second, who); got == identity {
		t.Error("the other machine took the identity on the disk")
	}
	s.run("grant", "other", "data", "--disk", "SER-data", "--adopt")
	s.reboot(second)
	s.healthy(second, 2, "lab:v1")
	if out := s.run("boots", "other"); !strings.Contains(out, "data adopted on /dev/vda") {
		t.Errorf("the volume was not taken over:\n%s", out)
	}
}

// TestSceneFullKernel: the kernel of node has the parts of ext4 as modules, some of which nothing but an alias
// names. A volume is made, mounted, and found again.
func TestSceneFullKernel(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStageFor(t, 15*time.Minute)
	s.build("full", "v1", "name: full\nextends: lab\nram: {budget: 900MiB}\n"+
		"kernel: {package: linux-image-amd64, modules: [\"@boot\", \"@virtual\"]}\n")
	s.router()
	s.serve("--approve-all", "--image", "full:v1")
	vm := s.start(1, Config{Firmware: BIOS, RAM: 2048, Disks: []Disk{s.disk("data")}})
	s.machine(vm, "the machine to be seen", func(api.Machine) bool { return true })
	s.run("grant", vm.id(), "data", "--disk", "SER-data")
	for n, want := range []string{"data initialised on /dev/vda", "data on /dev/vda"} {
		s.healthy(vm, n+1, "full:v1")
		if out := s.run("boots", vm.id()); !strings.Contains(out, want) {
			t.Errorf("boots does not say %q:\n%s", want, out)
		}
		s.login(vm)
		if got := words(s.at(vm, "findmnt -n -o FSTYPE /data; uname -r")); !strings.HasPrefix(got, "ext4 ") ||
			strings.Contains(got, "cloud") {
			t.Errorf("the machine says %q; want ext4 and the full kernel", got)
		}
		if n == 0 {
			s.reboot(vm)
		}
	}
}
