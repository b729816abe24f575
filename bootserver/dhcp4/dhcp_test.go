package dhcp4

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

var (
	testMAC    = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 1}
	testServer = netip.MustParseAddr("10.99.0.1")
	testRange  = lease.Range{First: netip.MustParseAddr("10.99.0.100"), Last: netip.MustParseAddr("10.99.0.103")}
)

// uuidOption is option 97 as SMBIOS bytes of d1b2c3a4-0000-4000-8000-525400120001.
var uuidOption = dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier,
	[]byte{0, 0xa4, 0xc3, 0xb2, 0xd1, 0, 0, 0, 0x40, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1})

func discover(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.NewDiscovery(testMAC, mods...)
	if err != nil {
		t.Fatal(err)
	}
	p.TransactionID = dhcpv4.TransactionID{1, 2, 3, 4}
	return p
}

func arch(a iana.Arch) dhcpv4.Modifier {
	return func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptClientArch(a))
		p.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001"))
		p.UpdateOption(uuidOption)
	}
}

// says60 gives a packet the class of its sender.
func says60(class string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class))
}

// row is one kind of client: a row of docs/HARDWARE.md.
type row struct {
	name   string
	packet *dhcpv4.DHCPv4
	kind   client.Kind
	fw     ingot.Firmware
	quirk  string
}

// rows are the kinds of firmware, loaders and systems that we know.
func rows(t testing.TB) []row {
	pi := discover(t, arch(iana.INTEL_X86PC))
	pi.ClientHWAddr = net.HardwareAddr{0xdc, 0xa6, 0x32, 0x12, 0, 1}
	bare := discover(t, says60("PXEClient:Arch:00007:UNDI:003000"))
	httpArch := func(a iana.Arch, class string) dhcpv4.Modifier {
		return func(p *dhcpv4.DHCPv4) {
			arch(a)(p)
			says60(class)(p)
		}
	}
	return []row{
		{"bios", discover(t, arch(iana.INTEL_X86PC)), client.Firmware, ingot.FirmwareBIOS, ""},
		{"uefi-7", captured(t, "uefi-7"), client.Firmware, ingot.FirmwareUEFIx64, ""},
		{"uefi-9", discover(t, httpArch(iana.EFI_BC, "PXEClient:Arch:00009:UNDI:003000")), client.Firmware,
			ingot.FirmwareUEFIx64, ""},
		{"uefi-http", captured(t, "uefi-http"), client.Firmware, ingot.FirmwareUEFIx64HTTP, ""},
		{"uefi-http-as-pxe", discover(t, httpArch(iana.EFI_X86_64, "HTTPClient:Arch:00007:UNDI:003001")), client.Firmware,
			ingot.FirmwareUEFIx64HTTP, "http-as-pxe"},
		{"uefi-arm64", captured(t, "uefi-arm64"), client.Firmware, ingot.FirmwareUEFIarm64, ""},
		{"uefi-arm64-http", captured(t, "uefi-arm64-http"), client.Firmware, ingot.FirmwareUEFIarm64HTTP, ""},
		{"rom-ipxe", captured(t, "rom-ipxe"), client.Firmware, ingot.FirmwareBIOS, ""},
		{"loader-ipxe", captured(t, "loader-ipxe"), client.Loader, ingot.FirmwareBIOS, ""},
		{"loader-snponly", captured(t, "loader-snponly"), client.Loader, ingot.FirmwareUEFIx64, ""},
		{"loader-arm64", captured(t, "loader-arm64"), client.Loader, ingot.FirmwareUEFIarm64, ""},
		{"raspberry-pi", pi, client.Firmware, ingot.FirmwareUnknown, "raspberry-pi"},
		{"no-option-93", bare, client.Firmware, ingot.FirmwareUEFIx64, "arch-from-class"},
		{"ingot-init", captured(t, "ingot-init"), client.Init, ingot.FirmwareUnknown, ""},
		{"ingot-init-proxy", captured(t, "ingot-init-proxy"), client.Init, ingot.FirmwareUnknown, ""},
		{"system", captured(t, "system"), client.System, ingot.FirmwareUnknown, ""},
	}
}

// captured is what a machine of testvm asked: real firmware, or a real system.
// INGOT_TEST_CAPTURE, see there, keeps such packets.
func captured(t testing.TB, row string) *dhcpv4.DHCPv4 {
	t.Helper()
	b, err := os.ReadFile("testdata/captured/" + row + ".bin")
	if err != nil {
		t.Fatal(err)
	}
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatalf("%s: %v", row, err)
	}
	return p
}

func TestParse(t *testing.T) {
	for _, r := range rows(t) {
		got := Parse(r.packet)
		if got.Kind != r.kind || got.Firmware != r.fw || got.Quirk != r.quirk || got.MAC != r.packet.ClientHWAddr.String() {
			t.Errorf("%s: Parse = %+v; want kind %d, firmware %q, quirk %q", r.name, got, r.kind, r.fw, r.quirk)
		}
		if r.packet.Options.Has(dhcpv4.OptionClientMachineIdentifier) && got.UUID != "d1b2c3a4-0000-4000-8000-525400120001" {
			t.Errorf("%s: UUID = %q; want it as Linux shows it", r.name, got.UUID)
		}
	}
}

// scripted is a fleet of the machines in it.
type scripted map[string]client.Identity

func (s scripted) Lookup(mac, _ string) client.Identity { return s[mac] }

func (scripted) Observe(c client.Sighting) (client.Boot, error) {
	switch {
	case c.Kind == client.Loader:
		return client.Boot{URL: "http://10.99.0.1/b/0123456789abcdef0123456789abcdef/script"}, nil
	case c.Kind == client.Init:
		return client.Boot{URL: "http://10.99.0.1/b/0123456789abcdef0123456789abcdef/"}, nil
	case len(c.Loaders) == 0:
		return client.Boot{}, nil
	case c.HTTP:
		return client.Boot{URL: "http://" + c.Server.String() + "/b/0123456789abcdef0123456789abcdef/" +
			strings.Repeat("9f", 32) + "/uki.efi"}, nil
	}
	return client.Boot{Loader: c.Loaders[0]}, nil
}

func (scripted) Took(client.Sighting) error { return nil }

func (s scripted) WouldAnswer(c client.Sighting) (client.Boot, error) { return s.Observe(c) }

// testCards are the interfaces of the host under test.
var testCards = map[string]network.Card{"eth0": {Index: 2, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
	Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}}}

func testConfig() Config {
	return Config{Interfaces: []Interface{{Name: "eth0"}}, Options: Options{Lease: time.Hour},
		Networks: []Network{{Name: "lab", Interface: "eth0",
			Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.99.0.0/24"), Pools: []lease.Range{testRange}}}}}}
}

func serverOf(t testing.TB, c Config, b lease.Store, fleet client.Booter, now *time.Time) *Server {
	t.Helper()
	s, err := New(c, testCards, "us", network.Parts{Store: b, Booter: fleet, Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newServer(t testing.TB, b lease.Store, now *time.Time) *Server {
	return serverOf(t, testConfig(), b, scripted{}, now)
}

// broadcast is a packet as it arrives from the attached network, or from its relay.
func broadcast(p *dhcpv4.DHCPv4) Packet {
	if relay := address(p.GatewayIPAddr); relay.IsValid() {
		return Packet{Interface: "eth0", Port: PortDHCP, Message: p, From: netip.AddrPortFrom(relay, PortDHCP),
			To: netip.MustParseAddr("10.99.0.1")}
	}
	return Packet{Interface: "eth0", Port: PortDHCP, Message: p, From: netip.MustParseAddrPort("0.0.0.0:68"),
		To: broadcastClient.Addr()}
}

func handle(t testing.TB, s *Server, p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	return answerOf(t, s, broadcast(p))
}

func answerOf(t testing.TB, s *Server, p Packet) *dhcpv4.DHCPv4 {
	t.Helper()
	r, err := s.Handle(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return nil
	}
	return r.Message
}

func requestFrom(t *testing.T, mac byte, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	p := discover(t, append([]dhcpv4.Modifier{dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}, mods...)...)
	p.ClientHWAddr = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, mac}
	return p
}

func wants(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

func selects(server string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(server)))
}

// TestOneLease: ROM, loader and system of one card keep one address.
func TestOneLease(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &leasetest.Store{}
	s := newServer(t, b, &now)
	var address string
	for _, name := range []string{"rom-ipxe", "loader-ipxe", "system"} {
		p := rows(t)[slices.IndexFunc(rows(t), func(r row) bool { return r.name == name })].packet
		offer := handle(t, s, p)
		r, err := dhcpv4.NewRequestFromOffer(offer)
		if err != nil {
			t.Fatal(err)
		}
		ack := handle(t, s, r)
		if ack.MessageType() != dhcpv4.MessageTypeAck || (address != "" && ack.YourIPAddr.String() != address) {
			t.Errorf("%s gets %s %s; want ACK of %s", name, ack.MessageType(), ack.YourIPAddr, address)
		}
		address = ack.YourIPAddr.String()
	}
	if b.Len() != 1 {
		t.Errorf("%d leases; want 1", b.Len())
	}
}

func TestRequestStates(t *testing.T) {
	now := time.Unix(1000, 0)
	held := fleet.Lease{MAC: "52:54:00:12:00:01", Address: netip.MustParseAddr("10.99.0.100"), Expires: now.Add(time.Hour)}
	renewing := func(ip string) dhcpv4.Modifier {
		return func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.ParseIP(ip).To4() }
	}
	for _, c := range []struct {
		name   string
		packet *dhcpv4.DHCPv4
		want   dhcpv4.MessageType // 0: silence
	}{
		{"takes another server's offer", requestFrom(t, 2, selects("10.99.0.9"), wants("10.99.0.101")), 0},
		{"selects us", requestFrom(t, 2, selects("10.99.0.1"), wants("10.99.0.101")), dhcpv4.MessageTypeAck},
		{"selects an address that is in use", requestFrom(t, 2, selects("10.99.0.1"), wants("10.99.0.100")),
			dhcpv4.MessageTypeNak},
		{"reboots with its lease", requestFrom(t, 1, wants("10.99.0.100")), dhcpv4.MessageTypeAck},
		{"reboots on the wrong network", requestFrom(t, 1, wants("192.168.1.5")), dhcpv4.MessageTypeNak},
		{"an unknown machine reboots with an address that we do not know", requestFrom(t, 3, wants("10.99.0.77")), 0},
		{"an unknown machine reboots on the wrong network", requestFrom(t, 3, wants("192.168.1.5")), dhcpv4.MessageTypeNak},
		{"renews", requestFrom(t, 1, renewing("10.99.0.100")), dhcpv4.MessageTypeAck},
	} {
		a := handle(t, newServer(t, leasetest.NewStore(held), &now), c.packet)
		switch {
		case a == nil && c.want != 0:
			t.Errorf("%s: silence; want %s", c.name, c.want)
		case a != nil && a.MessageType() != c.want:
			t.Errorf("%s: %s; want %s", c.name, a.MessageType(), c.want)
		}
	}
}

// TestNoAckWithoutDisk: what is not stored is not acknowledged.
func TestNoAckWithoutDisk(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newServer(t, &leasetest.Store{Full: true}, &now)
	if a, err := s.Handle(t.Context(),
		broadcast(requestFrom(t, 1, selects("10.99.0.1"), wants("10.99.0.100")))); a != nil || err == nil {
		t.Errorf("Handle = %v, %v with a full disk; want an error and no ACK", a, err)
	}
}

// oneWrite is a disk that a lease reaches together with the boot of its machine, and not before.
type oneWrite struct {
	leasetest.Store
	scripted
	observed bool
}

func (d *oneWrite) Observe(c client.Sighting) (client.Boot, error) {
	d.observed = true
	return d.scripted.Observe(c)
}

func (d *oneWrite) PutLease(l fleet.Lease) func() error {
	wait := d.Store.PutLease(l)
	return func() error {
		if !d.observed {
			return errors.New("the lease waits for the disk before the boot is recorded")
		}
		return wait()
	}
}

// TestLeaseAndBootShareAWrite: an acknowledgement waits for the disk once, for its lease and for what the
// client boots; without the lease there is none.
func TestLeaseAndBootShareAWrite(t *testing.T) {
	now := time.Unix(1000, 0)
	p := broadcast(requestFrom(t, 1, arch(iana.EFI_X86_64), selects("10.99.0.1"), wants("10.99.0.100")))
	d := &oneWrite{}
	a := answerOf(t, serverOf(t, testConfig(), d, d, &now), p)
	if a == nil || a.MessageType() != dhcpv4.MessageTypeAck || a.BootFileName == "" || d.Len() != 1 {
		t.Errorf("the answer is %v, and %d leases are stored; want an ACK with a boot file, and one", a, d.Len())
	}
	full := &oneWrite{Store: leasetest.Store{Full: true}}
	if r, err := serverOf(t, testConfig(), full, full, &now).Handle(t.Context(), p); r != nil || err == nil {
		t.Errorf("Handle = %v, %v although the lease cannot be stored; want an error and no ACK", r, err)
	}
}

func FuzzHandle(f *testing.F) {
	for _, r := range rows(f) {
		f.Add(r.packet.ToBytes())
	}
	f.Add(discover(f, arch(iana.EFI_X86_64), via("10.99.0.2", 1, 4, 'e', 't', 'h', '7', 5, 4, 10, 99, 0, 0)).ToBytes())
	now := time.Unix(1000, 0)
	modes := map[Mode]*Server{}
	for _, mode := range []Mode{Full, Proxy, Observe} {
		c := testConfig()
		c.Interfaces[0].Mode, c.Networks[0].Relays = mode, relaysOf("10.99.0.0/26")
		modes[mode] = serverOf(f, c, &leasetest.Store{}, scripted{}, &now)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcpv4.FromBytes(b)
		if err != nil || len(p.ClientHWAddr) != 6 {
			return
		}
		for mode, s := range modes {
			for _, port := range []uint16{PortDHCP, client.PortPXE} {
				in := broadcast(p)
				in.Port = port
				r, err := s.Handle(t.Context(), in)
				if err != nil || r == nil {
					continue
				}
				if mode == Observe {
					t.Fatal("an observer answers")
				}
				if size := len(r.Message.ToBytes()); size > 1472 {
					t.Fatalf("an answer of %d bytes does not fit a frame", size)
				}
				if mode == Proxy && address(r.Message.YourIPAddr).IsValid() {
					t.Fatal("a proxy gives an address")
				}
			}
		}
		s := modes[Full]
		s.Overheard("eth0", testMAC, datagram(netip.MustParseAddrPort("10.99.0.9:67"), broadcastClient, b))
	})
}
