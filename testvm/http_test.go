//go:build e2e

package testvm

import (
	"testing"

	"ingot"
	"ingot/bootserver/api"
)

// TestSceneHTTPBoot: UEFI loads the image's UKI by HTTP itself; no TFTP, no
// iPXE, no arguments of this boot. The system in it finds its server by DHCP.
func TestSceneHTTPBoot(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	s.serve("--approve-all", "--image", "lab:v1")
	vm, err := s.lan.StartVM(s.ctx, Config{Name: "http1", Firmware: UEFI, HTTPBoot: true, MAC: "52:54:00:12:00:01",
		Disks: []Disk{s.disk("data")}})
	if err != nil {
		t.Fatal(err)
	}
	s.machine(vm, "the machine to be seen", func(m api.Machine) bool { return m.Firmware == ingot.FirmwareUEFIx64HTTP })
	b := s.healthy(vm, 1, "lab:v1")
	if b.First != api.FirstUKI {
		t.Errorf("the first stage is %q; want the UKI", b.First)
	}
	for _, e := range b.Events {
		if e.Stage == ingot.StageScript || e.Stage == ingot.StageKernel {
			t.Errorf("the boot went through %s; want firmware, UKI, system", e.Stage)
		}
		if e.Error != "" {
			t.Errorf("stage %s: %s", e.Stage, e.Error)
		}
	}
	t.Logf("\n%s", s.timelines())
}
