package bootserver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// TestWhyMeasuresTheImageOfTheBoot: what was served in a boot is compared with
// the image of that boot, and not with the smaller one that runs now.
func TestWhyMeasuresTheImageOfTheBoot(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2-is-larger")
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID,
		api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	if _, err := h.api.Assign(t.Context(), "node01", "lab:v2-is-larger", ""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		boot, _ := h.ask()
		h.Served(boot, "kernel", 1, true)
		h.Served(boot, "initramfs", 1, true)
		h.Record(boot, ingot.Event{Stage: ingot.StageTicket})
		h.Served(boot, "root", int64(len("root of v1")+3), false)
	}
	h.attempt("", "")
	if got, want := h.why(), "The server sent 0.0 MiB of the 0.0 MiB root. "+
		"The machine fell back to lab:v1"; !strings.Contains(got, want) {
		t.Errorf("why = %q; want that it says %q", got, want)
	}
}

// TestWhyBeforeALoader: a machine that is offered nothing, or no address, is
// told apart from one that does not answer.
func TestWhyBeforeALoader(t *testing.T) {
	h := newHouseOf(t)
	h.attempt("", "")
	odd := asks(ingot.FirmwareUEFIarm64, true)
	odd.Loaders = []string{"nowhere.efi"}
	h.seen(odd)
	if got, want := h.why(), "This server has no loader for firmware "+
		"uefi-arm64. "; !strings.HasPrefix(got, want) {
		t.Errorf("without a loader, why = %q; want %q", got, want)
	}
	beside := asks(ingot.FirmwareUEFIx64, true)
	beside.Proxy, beside.Address = true, netip.Addr{}
	h.attempt("", "")
	h.seen(beside)
	h.clock = h.clock.Add(time.Minute)
	if got, want := h.why(), "The machine was offered a boot file, but did not get an address. "+
		"Another DHCP server assigns the addresses"; !strings.HasPrefix(got, want) {
		t.Errorf("beside another server, why = %q; want %q", got, want)
	}
}
