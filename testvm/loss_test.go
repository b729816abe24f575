//go:build e2e

package testvm

import (
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// TestSceneLoss: a cable loses a fifth of all frames, in both directions, while
// real firmware asks for its address, loads the loader by TFTP, and the loader
// its script and a part of the kernel. Then the cable is changed, and the boot
// goes on to healthy.
func TestSceneLoss(t *testing.T) {
	requireAll(t)
	t.Parallel()
	for _, f := range []Firmware{BIOS, UEFI} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newStageFor(t, 15*time.Minute)
			s.serve("--approve-all", "--image", "lab:v1")
			vm := s.vm(f, 1)
			wire, err := s.lan.NewWire(s.ctx, vm.tap)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = wire.Close() }()
			wire.Set(Faults{Loss: 0.2, Duplicate: 0.05, Reorder: 0.05})
			began := time.Now()
			s.until("the machine to be told its script", func() bool {
				boots, err := s.api.Boots(s.ctx, vm.id(), 0)
				return err == nil && len(boots) > 0 && boots[len(boots)-1].Stage().Rank() >= ingot.StageScript.Rank()
			})
			t.Logf("the script came after %.1f s, %d frames were lost", time.Since(began).Seconds(), wire.Lost())
			select {
			case <-time.After(10 * time.Second):
			case <-s.ctx.Done():
			}
			if wire.Lost() == 0 {
				t.Error("no frame was lost")
			}
			t.Logf("%d frames were lost", wire.Lost())
			wire.Set(Faults{})
			s.until("a healthy boot", func() bool {
				boots, err := s.api.Boots(s.ctx, vm.id(), 0)
				return err == nil && len(boots) > 0 && boots[len(boots)-1].Outcome == ingot.OutcomeHealthy
			})
			m := s.machine(vm, "the machine", func(api.Machine) bool { return true })
			t.Logf("healthy %.1f s after power-on\n%s", time.Since(began).Seconds(), s.timelines())
			network, err := s.api.Network(s.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(network.Leases) != 1 || network.Leases[0].Address != m.Address {
				t.Errorf("leases: %+v; want one, %s", network.Leases, m.Address)
			}
		})
	}
}
