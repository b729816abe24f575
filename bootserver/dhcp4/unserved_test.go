package dhcp4

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

// TestFirmwareWithoutLoader: what cannot be booted is explained in one warning for each
// reason, whatever clients invent.
func TestFirmwareWithoutLoader(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		mods []dhcpv4.Modifier
		want string
	}{
		{[]dhcpv4.Modifier{arch(6), says60("PXEClient:Arch:00006:UNDI:003016")}, "6 (32-bit x86 UEFI)"},
		{[]dhcpv4.Modifier{arch(10), says60("PXEClient:Arch:00010")}, "10 (32-bit ARM UEFI)"},
		{[]dhcpv4.Modifier{arch(14), says60("PXEClient")}, "14 (POWER OPAL v3)"},
		{[]dhcpv4.Modifier{arch(27), says60("PXEClient:Arch:00027")}, "27 (64-bit RISC-V UEFI)"},
		{[]dhcpv4.Modifier{says60("PXEClient")}, "it names no processor architecture (option 93)"},
		{[]dhcpv4.Modifier{arch(iana.EFI_X86_64), says60("PXEClient:Arch:00007")}, ""},
		{nil, ""},
	} {
		s := newServer(t, &leasetest.Store{}, &now)
		handle(t, s, discover(t, c.mods...))
		w := s.Observations().Warnings
		if c.want == "" && len(w) == 0 || len(w) == 1 && c.want != "" && strings.Contains(w[0].Text, c.want) {
			continue
		}
		t.Errorf("warnings %+v; want %q", w, c.want)
	}
	s := newServer(t, &leasetest.Store{}, &now)
	for a := range 3000 {
		handle(t, s, discover(t, arch(iana.Arch(a+28)), says60("PXEClient:Arch:09999")))
	}
	if n := len(s.Observations().Warnings); n > network.MaxWarnings {
		t.Errorf("3000 architectures make %d warnings", n)
	}
}

// TestInfiniBand: a client without an Ethernet address is not answered, and named.
func TestInfiniBand(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newServer(t, &leasetest.Store{}, &now)
	p := discover(t)
	p.HWType, p.ClientHWAddr = iana.HWTypeInfiniband, make(net.HardwareAddr, 16)
	b := p.ToBytes()
	b[2] = 20 // hlen; chaddr has room for 16 of them
	s.receive(t.Context(), &Link{Link: &network.Link{Interface: &net.Interface{Name: "eth0"}}},
		network.Datagram{From: netip.MustParseAddrPort("0.0.0.0:68"), To: broadcastClient.Addr(), Payload: b}, false)
	if w := s.Observations().Warnings; len(w) != 1 || !strings.Contains(w[0].Text, "of InfiniBand is not answered") {
		t.Errorf("warnings %+v; want one that names InfiniBand", w)
	}
}

// TestProbeTime: an operator can switch the probe off, and reads what he wrote.
func TestProbeTime(t *testing.T) {
	for text, want := range map[string]ProbeTime{"off": NoProbe, "500ms": ProbeTime(500 * time.Millisecond)} {
		c := load(t, "interfaces: [{name: eth1, probe: "+text+"}]\n")
		if got := c.Interfaces[0].Probe; got != want || got.String() != text {
			t.Errorf("probe: %s is read as %s", text, got)
		}
	}
	for _, text := range []string{"-1s", "0s", "never", "1"} {
		var p ProbeTime
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("probe: %s is read as %s; want an error", text, p)
		}
	}
}
