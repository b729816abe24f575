package bootserver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/network"
)

// sixHouse is a house that answers DHCPv6.
type sixHouse struct {
	*house
	six     *dhcp6.Server
	packets *booter.Packets
}

func newSixHouse(t *testing.T) *sixHouse {
	h := newHouse(t)
	h.begin(80)
	p := booter.NewPackets(h.state, h.log)
	s, err := dhcp6.New(dhcp6.Config{Interfaces: []dhcp6.Interface{{Name: "eth0"}}},
		map[string]network.Card{"eth0": {Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:99::1/64")}}},
		[16]byte{}, network.Parts{Store: booter.LeasesOf(h.state, netip.Addr.Is6), Booter: h.Booter,
			Now: func() time.Time { return h.clock }, Record: p.Note})
	if err != nil {
		t.Fatal(err)
	}
	return &sixHouse{h, s, p}
}

// say sends a message from the machine's card and returns the address and the
// URL that it is told.
func (h *sixHouse) say(kind dhcpv6.MessageType, duid [16]byte, options ...dhcpv6.Option) (*dhcpv6.Message, netip.Addr,
	string) {
	h.t.Helper()
	r, err := h.six.Handle(six(kind, duid, options...))
	if err != nil || r == nil {
		h.t.Fatalf("Handle = %v, %v", r, err)
	}
	a := r.Message.(*dhcpv6.Message)
	var ip netip.Addr
	if ia := a.Options.OneIANA(); ia != nil && ia.Options.OneAddress() != nil {
		ip, _ = netip.AddrFromSlice(ia.Options.OneAddress().IPv6Addr)
	}
	return a, ip, a.Options.BootFileURL()
}

// six is a message from the machine's card.
func six(kind dhcpv6.MessageType, duid [16]byte, options ...dhcpv6.Option) dhcp6.Packet {
	m := &dhcpv6.Message{MessageType: kind}
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDUUID{UUID: duid}))
	for _, o := range options {
		m.AddOption(o)
	}
	return dhcp6.Packet{Interface: "eth0", Port: dhcp6.PortServer,
		From: netip.MustParseAddrPort("[fe80::5054:ff:fe12:1%eth0]:546"), To: netip.MustParseAddr("ff02::1:2"), Message: m}
}

// TestAnotherServer6: a client names the DHCPv6 server that it chose, so an
// explanation does, and after a restart, when nobody has heard it, as well.
func TestAnotherServer6(t *testing.T) {
	h := newSixHouse(t)
	h.put("v1")
	class := &dhcpv6.OptVendorClass{EnterpriseNumber: 343, Data: [][]byte{[]byte("PXEClient:Arch:00007:UNDI:003016")}}
	_, ip, _ := h.say(dhcpv6.MessageTypeSolicit, [16]byte{1}, class, dhcpv6.OptClientArchType(iana.EFI_X86_64),
		&dhcpv6.OptIANA{IaId: [4]byte{1}})
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Second)
	theirs := &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: []byte{0, 1, 2, 3}}
	if r, err := h.six.Handle(six(dhcpv6.MessageTypeRequest, [16]byte{1}, class, theirs,
		&dhcpv6.OptIANA{IaId: [4]byte{1}})); r != nil || err != nil {
		t.Fatalf("a request to another server is answered: %v, %v", r, err)
	}
	flush(h.packets)
	h.clock = h.clock.Add(time.Minute)
	y, err := h.api.Why(t.Context(), machineID) // nothing that was heard is left in memory
	if want := "The machine sent no DHCPREQUEST after our offer. " +
		"Another DHCP server, DUID 00010203, answered."; err != nil ||
		!strings.HasPrefix(y.Words, want) {
		t.Errorf("why is %q, %v; want %q", y.Words, err, want)
	}
	list := packetsOf(h.house)
	if len(list) != 1 || list[0].String() != "REQUEST to another server, DUID 00010203" || !ip.IsValid() {
		t.Errorf("the ledger has %+v", list)
	}
}

// TestSameMachine: what boots over IPv6 is the machine that booted over IPv4,
// with one address from its firmware to its system.
func TestSameMachine(t *testing.T) {
	h := newSixHouse(t)
	h.seen(asks(ingot.FirmwareUEFIx64, true)) // over IPv4
	h.clock = h.clock.Add(time.Hour)
	smbios := [16]byte{0xa4, 0xc3, 0xb2, 0xd1, 0, 0, 0, 0x40, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1}
	network := [16]byte{0xd1, 0xb2, 0xc3, 0xa4, 0, 0, 0x40, 0, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1}
	class := &dhcpv6.OptVendorClass{EnterpriseNumber: 343, Data: [][]byte{[]byte("PXEClient:Arch:00007:UNDI:003016")}}
	arch := dhcpv6.OptClientArchType(iana.EFI_X86_64)
	offer, _, _ := h.say(dhcpv6.MessageTypeSolicit, smbios, class, arch, &dhcpv6.OptIANA{IaId: [4]byte{1}})
	server := offer.GetOneOption(dhcpv6.OptionServerID)
	_, own, url := h.say(dhcpv6.MessageTypeRequest, smbios, class, arch, server, offer.Options.OneIANA())
	if url != "tftp://[fd00:99::1]/snponly.efi" {
		t.Fatalf("firmware is told %q", url)
	}
	h.LoaderServed(own, "snponly.efi", 300_000)
	ipxe := &dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte("iPXE")}}
	_, again, url := h.say(dhcpv6.MessageTypeSolicit, network, class, arch, ipxe, &dhcpv6.OptIANA{IaId: [4]byte{2}})
	m, b := h.machine1()
	if want := "http://[fd00:99::1]" + ingot.BootPath(h.BootKey(m.Boot), "script"); url != want || again != own {
		t.Errorf("the loader is told %q with the address %s; want %q, %s", url, again, want, own)
	}
	if n := len(h.state.Machines()); n != 1 || m.Address != own || b.Stage() != ingot.StageLoader ||
		m.UUID != firstMachine.UUID {
		t.Errorf("%d machines, the first at %s and stage %s; want one, at %s, its loader loaded", n, m.Address,
			b.Stage(), own)
	}
	text, err := h.Script(m.Boot, "http://[fd00:99::1]")
	if err != nil || !strings.Contains(text, "waiting for approval") {
		t.Errorf("the script is %q, %v", text, err)
	}
	stored, err := booter.LeasesOf(h.state, netip.Addr.Is6).Leases()
	four, _ := booter.LeasesOf(h.state, netip.Addr.Is4).Leases()
	if err != nil || len(stored) != 1 || len(four) != 0 || stored[0].Address != own ||
		stored[0].MAC != firstMachine.MAC {
		t.Errorf("leases %+v of IPv6 and %+v of IPv4, %v; want one of the card", stored, four, err)
	}
}
