package bootserver

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
)

// asks is a packet of the machine as firmware of a kind.
func asks(f ingot.Firmware, discover bool) client.Sighting {
	s := firstMachine
	s.Firmware, s.HTTP, s.Begins = f, strings.HasSuffix(string(f), "http"), discover
	s.Loaders, s.Server = client.DefaultLoaders[f], netip.MustParseAddr("127.0.0.1")
	return s
}

func (h *house) seen(s client.Sighting) client.Boot {
	h.t.Helper()
	b, err := h.Observe(s)
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *house) machine1() (fleet.Machine, fleet.Boot) {
	h.t.Helper()
	m := h.known(machineID)
	b, _ := h.state.Boot(m.Boot)
	return m, b
}

// TestStalledLoader: a loader that is fetched and never heard of again, or never
// fetched, is recorded, and the machine is offered the next one.
func TestStalledLoader(t *testing.T) {
	h := newHouse(t)
	uefi := ingot.FirmwareUEFIx64
	if got := h.seen(asks(uefi, true)).Loader; got != "snponly.efi" {
		t.Fatalf("offered %q; want snponly.efi", got)
	}
	h.seen(asks(uefi, false))
	h.LoaderServed(firstMachine.Address, "snponly.efi", 300_000)
	h.clock = h.clock.Add(2 * time.Minute)
	if got := h.seen(asks(uefi, true)).Loader; got != "ipxe.efi" {
		t.Errorf("after snponly.efi stalled the machine is offered %q; want ipxe.efi", got)
	}
	boots, err := h.api.Boots(t.Context(), machineID, 0)
	if err != nil || len(boots) != 2 || boots[0].Outcome != ingot.OutcomeSilent ||
		!strings.Contains(boots[0].Reason, "loaded snponly.efi and was not heard from again") {
		t.Fatalf("boots %+v, %v; want the first silent, with the loader named", boots, err)
	}
	// The next one is told and never fetched.
	h.seen(asks(uefi, false))
	h.clock = h.clock.Add(time.Second)
	if got := h.seen(asks(uefi, true)).Loader; got != "ipxe.efi" {
		t.Errorf("a repetition is offered %q; want the same again", got)
	}
	h.clock = h.clock.Add(time.Minute)
	if got := h.seen(asks(uefi, true)).Loader; got != "snponly.efi" {
		t.Errorf("after ipxe.efi stalled the machine is offered %q; want the list from its start", got)
	}
	// What works stays.
	h.seen(asks(uefi, false))
	h.LoaderServed(firstMachine.Address, "snponly.efi", 300_000)
	loader := asks(uefi, true)
	loader.Kind, loader.IPXE = client.Loader, true
	h.get(h.seen(loader).URL)
	h.clock = h.clock.Add(time.Hour)
	if got := h.seen(asks(uefi, true)).Loader; got != "snponly.efi" {
		t.Errorf("after a boot that got to its script the machine is offered %q; want the same loader", got)
	}
	only := asks(uefi, true)
	only.Loaders = []string{"nowhere.efi"}
	if got := h.seen(only); got != (client.Boot{}) {
		t.Errorf("a loader that the server does not have is offered: %+v", got)
	}
}

// TestHTTPFirmware gets a loader while its machine has nothing to run, then the
// image's own UKI; a UKI that stalls is followed by a loader. The system in the
// UKI is told the URL of its boot.
func TestHTTPFirmware(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	f := ingot.FirmwareUEFIx64HTTP
	url := h.seen(asks(f, true)).URL
	if want := h.base + "/b/"; !strings.HasPrefix(url, want) ||
		!strings.HasSuffix(url, "/"+ingot.DigestOf([]byte("a loader")).Hex()+"/snponly.efi") {
		t.Fatalf("a pending machine is offered %q; want the loader by HTTP", url)
	}
	if status, body := h.get(url); status != 200 || body != "a loader" {
		t.Errorf("GET %s = %d %q; want the loader", url, status, body)
	}
	if status, body := h.get(strings.TrimSuffix(url, "snponly.efi") + "autoexec.ipxe"); status != 200 ||
		!strings.HasPrefix(body, "#!ipxe") {
		t.Errorf("a loader that came by HTTP gets %d %q for autoexec.ipxe", status, body)
	}
	if _, b := h.machine1(); b.Stage() != ingot.StageLoader {
		t.Errorf("the boot is at stage %s; want loader", b.Stage())
	}
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	init := asks(f, true)
	init.Kind, init.UUID, init.HTTP = client.Init, "", false
	if got := h.seen(init); got != (client.Boot{}) {
		t.Errorf("ingot-init of no boot of ours is told %+v", got)
	}
	h.clock = h.clock.Add(time.Minute)
	url = h.seen(asks(f, true)).URL // the loader stalled: round the list, of UKI and loaders
	for range 3 {
		if strings.HasSuffix(url, "/uki.efi") {
			break
		}
		h.seen(asks(f, false))
		h.clock = h.clock.Add(time.Minute)
		url = h.seen(asks(f, true)).URL
	}
	m, b := h.machine1()
	if want := h.base + ingot.BootPath(h.BootKey(m.Boot), im.Digest.Hex()+"/uki.efi"); url != want ||
		b.Image.Image != im.Digest || b.Deadline.IsZero() {
		t.Fatalf("an approved machine is offered %q of %+v; want %q", url, b, want)
	}
	if status, body := h.get(url); status != 200 || body != "uki of v1" {
		t.Errorf("GET %s = %d %q; want the UKI", url, status, body)
	}
	if got, want := h.seen(init).URL, h.base+ingot.BootPath(h.BootKey(m.Boot), ""); got != want {
		t.Errorf("ingot-init is told %q; want its boot %q", got, want)
	}
	h.post(m.Boot, "events", ingot.Event{Stage: ingot.StageInit})
	h.clock = h.clock.Add(time.Hour)
	if url = h.seen(asks(f, true)).URL; !strings.HasSuffix(url, "/uki.efi") {
		t.Errorf("a UKI that came up is followed by %q; want it again", url)
	}
	h.get(url)
	h.clock = h.clock.Add(time.Minute)
	if url = h.seen(asks(f, true)).URL; !strings.HasSuffix(url, "/snponly.efi") {
		t.Errorf("a UKI that stalled is followed by %q; want a loader", url)
	}
}

// TestChosenFirstStages: a list that an operator wrote is followed as it is
// written. The UKI is an entry of it, and is for firmware that speaks HTTP.
func TestChosenFirstStages(t *testing.T) {
	tftp, http := ingot.FirmwareUEFIx64, ingot.FirmwareUEFIx64HTTP
	for _, c := range []struct {
		firmware ingot.Firmware
		loaders  []string
		want     []string // in the attempts of a machine on which all stall
	}{
		{http, client.DefaultLoaders[http], []string{"uki.efi", "snponly.efi", "ipxe.efi", "uki.efi"}},
		{http, []string{"snponly.efi", "ipxe.efi"}, []string{"snponly.efi", "ipxe.efi", "snponly.efi"}},
		{http, []string{"ipxe.efi", "uki"}, []string{"ipxe.efi", "uki.efi", "ipxe.efi"}},
		{http, []string{"uki"}, []string{"uki.efi", "uki.efi"}},
		{tftp, []string{"uki", "ipxe.efi"}, []string{"ipxe.efi", "ipxe.efi"}},
	} {
		h := newHouse(t)
		h.put("v1")
		h.seen(asks(c.firmware, true))
		if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
			t.Fatal(err)
		}
		h.clock = h.clock.Add(time.Hour)
		h.Expire() // the boot of a machine that was not approved
		for n, want := range c.want {
			s := asks(c.firmware, true)
			s.Loaders = c.loaders
			b := h.seen(s)
			if got := b.Loader + b.URL[strings.LastIndex(b.URL, "/")+1:]; got != want {
				t.Errorf("%s with the list %q is offered %q at attempt %d; want %q", c.firmware, c.loaders, got, n+1,
					want)
			}
			s.Begins = false
			h.seen(s)
			h.clock = h.clock.Add(time.Minute)
		}
	}
}

// TestWouldRecordsNothing: an observer says what it would do, and does not.
func TestWouldRecordsNothing(t *testing.T) {
	h := newHouse(t)
	b, err := h.WouldAnswer(asks(ingot.FirmwareUEFIx64, true))
	if err != nil || b.Loader != "snponly.efi" {
		t.Errorf("Would = %+v, %v; want snponly.efi", b, err)
	}
	if n := len(h.state.Machines()) + len(h.state.Latest()); n != 0 {
		t.Errorf("%d records of it; want none", n)
	}
	h.seen(asks(ingot.FirmwareUEFIx64, true))
	before, _ := json.Marshal(h.state.Machines())
	h.clock = h.clock.Add(time.Hour)
	if _, err := h.WouldAnswer(asks(ingot.FirmwareUEFIx64, true)); err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(h.state.Machines()); string(before) != string(after) {
		t.Errorf("asking what we would do changed\n%s\nto\n%s", before, after)
	}
}

// TestSwitchPort: where a machine is plugged in is kept with it.
func TestSwitchPort(t *testing.T) {
	h := newHouse(t)
	s := asks(ingot.FirmwareUEFIx64, true)
	s.Port = fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "Ethernet7", Remote: "leaf3"}
	h.seen(s)
	if m, _ := h.machine1(); m.Port != s.Port || m.Port.String() != "Ethernet7 leaf3 via 10.7.0.1" {
		t.Errorf("switch port %+v; want %+v", m.Port, s.Port)
	}
}
