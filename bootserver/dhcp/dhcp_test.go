package dhcp

import (
	"encoding/hex"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/fleet"
)

var update = flag.Bool("update", false, "write the golden packets anew")

var (
	testMAC    = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 1}
	testServer = netip.MustParseAddr("10.99.0.1")
	testNet    = Told{Server: testServer, Prefix: netip.MustParsePrefix("10.99.0.1/24"), Lease: time.Hour, Loaders: Loaders}
	testRange  = Range{netip.MustParseAddr("10.99.0.100"), netip.MustParseAddr("10.99.0.103")}
)

// uuidOption is option 97 as SMBIOS bytes of d1b2c3a4-0000-4000-8000-525400120001.
var uuidOption = dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier,
	[]byte{0, 0xa4, 0xc3, 0xb2, 0xd1, 0, 0, 0, 0x40, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1})

// The features of option 175 as captured from QEMU's ROM of 2019 and from
// Debian 13's undionly of 2025.
const (
	romFeatures    = "b105011af41000eb0301000017010122010113010111010127010119010129010110010221010115010118010112010" + "1"
	loaderFeatures = "b105011af41000eb030100002601011701012701012201011301011401011101011901012901011001022101011501011801011201" + "01"
)

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

func ipxe(t testing.TB, features string) dhcpv4.Modifier {
	t.Helper()
	b, err := hex.DecodeString(features)
	if err != nil {
		t.Fatal(err)
	}
	return func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")))
		p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optIPXE), b))
	}
}

// clients are the kinds of firmware and loaders that we know.
func clients(t testing.TB) map[string]struct {
	packet *dhcpv4.DHCPv4
	kind   Kind
	fw     ingot.Firmware
} {
	type c = struct {
		packet *dhcpv4.DHCPv4
		kind   Kind
		fw     ingot.Firmware
	}
	return map[string]c{
		"bios":        {discover(t, arch(iana.INTEL_X86PC)), Firmware, ingot.FirmwareBIOS},
		"uefi-7":      {discover(t, arch(iana.EFI_BC)), Firmware, ingot.FirmwareUEFIx64},
		"uefi-9":      {discover(t, arch(iana.EFI_X86_64)), Firmware, ingot.FirmwareUEFIx64},
		"uefi-arm64":  {discover(t, arch(iana.EFI_ARM64)), Firmware, ingot.FirmwareUEFIarm64},
		"rom-ipxe":    {discover(t, arch(iana.INTEL_X86PC), ipxe(t, romFeatures)), Firmware, ingot.FirmwareBIOS},
		"loader-ipxe": {discover(t, arch(iana.INTEL_X86PC), ipxe(t, loaderFeatures)), Loader, ingot.FirmwareBIOS},
		"system":      {discover(t), System, ingot.FirmwareUnknown},
	}
}

func TestParse(t *testing.T) {
	for name, c := range clients(t) {
		got := Parse(c.packet)
		if got.Kind != c.kind || got.Firmware != c.fw || got.MAC != testMAC.String() {
			t.Errorf("%s: Parse = %+v; want kind %d, firmware %q", name, got, c.kind, c.fw)
		}
		if c.kind != System && got.UUID != "d1b2c3a4-0000-4000-8000-525400120001" {
			t.Errorf("%s: UUID = %q; want it as Linux shows it", name, got.UUID)
		}
	}
}

// TestGoldenOffers keeps every byte that a kind of client gets.
func TestGoldenOffers(t *testing.T) {
	for name, c := range clients(t) {
		client := Parse(c.packet)
		script := ""
		if client.Kind == Loader {
			script = "http://10.99.0.1/b/0123456789abcdef0123456789abcdef/script"
		}
		a, err := Answer(c.packet, dhcpv4.MessageTypeOffer, client, testNet, netip.MustParseAddr("10.99.0.100"), script)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.TrimSpace(a.Summary()) + "\n" + hex.Dump(a.ToBytes())
		path := filepath.Join("testdata", "offer-"+name+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("offer to %s (-want +got):\n%s", name, d)
		}
	}
}

// book keeps leases in memory, as the state does on disk.
type book map[string]fleet.Lease

func (b book) Leases() map[string]fleet.Lease { return b }
func (b book) PutLease(l fleet.Lease) error   { b[l.MAC] = l; return nil }
func (b book) DropLease(mac string) error     { delete(b, mac); return nil }

// fullBook cannot write.
type fullBook struct{ book }

func (fullBook) PutLease(fleet.Lease) error { return errors.New("disk full") }

type scripted struct{}

func (scripted) Seen(c Client, _ netip.Addr) (string, error) {
	if c.Kind == Loader {
		return "http://x/script", nil
	}
	return "", nil
}

func newServer(b Book, now *time.Time) *Server {
	return &Server{Network: testNet, Range: testRange, Book: b, Booter: scripted{}, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return *now }}
}

func handle(t *testing.T, s *Server, p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	a, err := s.Handle(p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t *testing.T, mac byte, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
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
	b := book{}
	s := newServer(b, &now)
	var address string
	for _, name := range []string{"rom-ipxe", "loader-ipxe", "system"} {
		p := clients(t)[name].packet
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
	if len(b) != 1 {
		t.Errorf("%d leases; want 1", len(b))
	}
}

func TestRequestStates(t *testing.T) {
	now := time.Unix(1000, 0)
	b := book{"52:54:00:12:00:01": {MAC: "52:54:00:12:00:01", Address: netip.MustParseAddr("10.99.0.100"), Expires: now.Add(time.Hour)}}
	renewing := func(ip string) dhcpv4.Modifier {
		return func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.ParseIP(ip).To4() }
	}
	for _, c := range []struct {
		name   string
		packet *dhcpv4.DHCPv4
		want   dhcpv4.MessageType // 0: silence
	}{
		{"takes another server's offer", request(t, 2, selects("10.99.0.9"), wants("10.99.0.101")), 0},
		{"selects us", request(t, 2, selects("10.99.0.1"), wants("10.99.0.101")), dhcpv4.MessageTypeAck},
		{"selects an address that is lent", request(t, 2, selects("10.99.0.1"), wants("10.99.0.100")), dhcpv4.MessageTypeNak},
		{"reboots with its lease", request(t, 1, wants("10.99.0.100")), dhcpv4.MessageTypeAck},
		{"reboots on the wrong network", request(t, 1, wants("192.168.1.5")), dhcpv4.MessageTypeNak},
		{"a stranger reboots with an address that we do not know", request(t, 3, wants("10.99.0.77")), 0},
		{"a stranger reboots on the wrong network", request(t, 3, wants("192.168.1.5")), dhcpv4.MessageTypeNak},
		{"renews", request(t, 1, renewing("10.99.0.100")), dhcpv4.MessageTypeAck},
	} {
		copied := book{}
		for k, v := range b {
			copied[k] = v
		}
		a := handle(t, newServer(copied, &now), c.packet)
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
	s := newServer(fullBook{book{}}, &now)
	if a, err := s.Handle(request(t, 1, selects("10.99.0.1"), wants("10.99.0.100"))); a != nil || err == nil {
		t.Errorf("Handle = %v, %v with a full disk; want an error and no ACK", a, err)
	}
}

func TestDecline(t *testing.T) {
	now := time.Unix(1000, 0)
	b := book{}
	s := newServer(b, &now)
	handle(t, s, request(t, 1, selects("10.99.0.1"), wants("10.99.0.100")))
	other := request(t, 9, wants("10.99.0.100"), dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline))
	handle(t, s, other)
	if len(b) != 1 {
		t.Error("somebody declined another's address")
	}
	handle(t, s, request(t, 1, wants("10.99.0.100"), dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline)))
	if offer := handle(t, s, discover(t, wants("10.99.0.100"))); offer.YourIPAddr.String() == "10.99.0.100" {
		t.Error("a declined address is offered again at once")
	}
	now = now.Add(declineTime + time.Second)
	if ip, err := s.choose("52:54:00:12:00:77", netip.MustParseAddr("10.99.0.100")); err != nil || ip.String() != "10.99.0.100" {
		t.Errorf("after a while a declined address = %s, %v; want it back", ip, err)
	}
}

func TestRelay(t *testing.T) {
	now := time.Unix(1000, 0)
	info := []byte{1, 4, 'e', 't', 'h', '7'}
	p := discover(t, arch(iana.EFI_BC), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, info)))
	p.GatewayIPAddr = net.ParseIP("10.7.0.1").To4()
	a := handle(t, newServer(book{}, &now), p)
	if got := a.Options.Get(dhcpv4.OptionRelayAgentInformation); string(got) != string(info) {
		t.Errorf("option 82 = %q; want it back unchanged", got)
	}
	if to, _ := Destination(p, a); to != netip.MustParseAddrPort("10.7.0.1:67") {
		t.Errorf("destination = %s; want the relay", to)
	}
}

// TestNoAddressTwice: whatever cards ask in whatever order, no two hold one
// address at the same time.
func TestNoAddressTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1000, 0)
		b := book{}
		s := newServer(b, &now)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			mac := byte(rapid.IntRange(1, 8).Draw(rt, "mac"))
			p, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, mac})
			if err != nil {
				rt.Fatal(err)
			}
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				_, _ = s.Handle(p) // a full pool is an error, and fine
			case 1:
				if offer, err := s.Handle(p); err == nil {
					r, err := dhcpv4.NewRequestFromOffer(offer)
					if err != nil {
						rt.Fatal(err)
					}
					_, _ = s.Handle(r)
				}
			case 2:
				p.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
				p.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 99, 0, byte(rapid.IntRange(98, 106).Draw(rt, "ip")))))
				_, _ = s.Handle(p)
			case 3:
				now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(rt, "seconds")) * time.Second)
			}
			holders := map[netip.Addr]string{}
			for mac, l := range b {
				if !testRange.Contains(l.Address) {
					rt.Fatalf("%s holds %s, which is not in the range", mac, l.Address)
				}
				if !now.Before(l.Expires) {
					continue
				}
				if other, ok := holders[l.Address]; ok {
					rt.Fatalf("%s and %s both hold %s", mac, other, l.Address)
				}
				holders[l.Address] = mac
			}
		}
	})
}

func TestRanges(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.9-10.0.0.1", "a-b", "::1-::2"} {
		if _, err := ParseRange(bad); err == nil {
			t.Errorf("ParseRange(%q) succeeds", bad)
		}
	}
	for prefix, want := range map[string]string{"10.99.0.1/24": "10.99.0.128-10.99.0.254", "10.99.0.200/24": "10.99.0.1-10.99.0.127", "192.168.4.1/29": "192.168.4.4-192.168.4.6"} {
		p := netip.MustParsePrefix(prefix)
		r, err := DefaultRange(p, p.Addr())
		if err != nil || r.String() != want || r.Within(p, p.Addr()) != nil {
			t.Errorf("DefaultRange(%s) = %s, %v; want %s", prefix, r, err, want)
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, c := range clients(f) {
		f.Add(c.packet.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcpv4.FromBytes(b)
		if err != nil || len(p.ClientHWAddr) != 6 {
			return
		}
		now := time.Unix(1000, 0)
		if a, err := newServer(book{}, &now).Handle(p); err == nil && a != nil {
			Destination(p, a)
			a.ToBytes()
		}
	})
}
