package dhcp6

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

var update = flag.Bool("update", false, "write the golden packets anew")

// row is one kind of client: a row of docs/HARDWARE.md.
type row struct {
	name   string
	packet *dhcpv6.Message
	kind   client.Kind
	fw     ingot.Firmware
	ipxe   bool
}

// rows are the kinds of firmware, loaders and systems that we know.
func rows() []row {
	uuid := &dhcpv6.DUIDUUID{UUID: [16]byte([]byte(smbiosUUID))}
	network := &dhcpv6.DUIDUUID{UUID: [16]byte{0xd1, 0xb2, 0xc3, 0xa4, 0, 0, 0x40, 0, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1}}
	firmware := func(a iana.Arch, class string) *dhcpv6.Message {
		return message(dhcpv6.MessageTypeSolicit, uuid, append(arch(a, class), na())...)
	}
	ipxe := message(dhcpv6.MessageTypeSolicit, network, append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003010"),
		na(), &dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte("iPXE")}})...)
	init := message(dhcpv6.MessageTypeInformationRequest, llOf(testMAC),
		&dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte(client.InitClass)}}, wants(dhcpv6.OptionBootfileURL))
	return []row{
		{"v6-uefi", firmware(iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003016"), client.Firmware,
			ingot.FirmwareUEFIx64, false},
		{"v6-uefi-http", firmware(iana.EFI_X86_64_HTTP, "HTTPClient:Arch:00016:UNDI:003016"), client.Firmware,
			ingot.FirmwareUEFIx64HTTP, false},
		{"v6-uefi-arm64", firmware(iana.EFI_ARM64, "PXEClient:Arch:00011:UNDI:003016"), client.Firmware,
			ingot.FirmwareUEFIarm64, false},
		{"v6-ipxe", ipxe, client.Firmware, ingot.FirmwareUEFIx64, true},
		{"v6-ingot-init", init, client.Init, ingot.FirmwareUnknown, false},
		{"v6-system", message(dhcpv6.MessageTypeSolicit, llOf(testMAC), na(), wants(dhcpv6.OptionDNSRecursiveNameServer)),
			client.System, ingot.FirmwareUnknown, false},
	}
}

func TestParse(t *testing.T) {
	for _, r := range rows() {
		c := Parse(r.packet, nil, linkLocal(testMAC))
		if c.Kind != r.kind || c.Firmware != r.fw || c.IPXE != r.ipxe || c.MAC != testMAC.String() {
			t.Errorf("%s: Parse = %+v; want kind %d, firmware %q, iPXE %v", r.name, c, r.kind, r.fw, r.ipxe)
		}
		if r.kind == client.Firmware && c.UUID != houseUUID {
			t.Errorf("%s: UUID = %q; want it as Linux shows it", r.name, c.UUID)
		}
	}
	m := message(dhcpv6.MessageTypeSolicit, llOf(testMAC), arch(iana.EFI_X86_64, "HTTPClient:Arch:00007")...)
	if c := Parse(m, nil, linkLocal(testMAC)); c.Firmware != ingot.FirmwareUEFIx64HTTP || c.Quirk != "http-as-pxe" {
		t.Errorf("HTTP boot with PXE's architecture is %+v", c)
	}
}

func withMode(m Mode) Config {
	c := testConfig()
	c.Interfaces[0].Mode = m
	return c
}

// toBootServer makes of a client's message the one that it sends to port 4011:
// its Request without associations, from its own address.
func toBootServer(m *dhcpv6.Message) Packet {
	q := message(dhcpv6.MessageTypeRequest, nil, us())
	for _, o := range m.Options.Options {
		if o.Code() != dhcpv6.OptionIANA {
			q.AddOption(o)
		}
	}
	return Packet{Interface: "eth0", Port: client.PortPXE, Message: q,
		From: netip.MustParseAddrPort("[fd00:99::77]:4011"), To: testServer}
}

// takes makes of a client's Solicit the Request that takes an offer (RFC 8415
// section 18.2.2).
func takes(m, offer *dhcpv6.Message) *dhcpv6.Message {
	q := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeRequest, TransactionID: m.TransactionID}
	for _, o := range m.Options.Options {
		if o.Code() == dhcpv6.OptionIANA {
			o = offer.Options.OneIANA()
		}
		q.AddOption(o)
	}
	q.AddOption(us())
	return q
}

func dump(what string, r *Reply) string {
	if r == nil {
		return what + ": silence\n"
	}
	return fmt.Sprintf("%s: to %s\n%s\n%s", what, r.To, strings.TrimSpace(r.Message.Summary()),
		hex.Dump(r.Message.ToBytes()))
}

// TestGoldenPackets keeps every byte of what each kind of client asks and gets:
// from a full server, the offer and what follows when it is taken, from one that
// only says what to boot, and from its port 4011. A file in testdata is the
// evidence of a row of docs/HARDWARE.md.
func TestGoldenPackets(t *testing.T) {
	now := time.Unix(1000, 0)
	server := func(mode Mode) *Server { return serverOf(t, withMode(mode), &leasetest.Store{}, scripted{}, &now) }
	answer := func(s *Server, p Packet) *Reply {
		r, err := s.Handle(p)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	show := func(m *dhcpv6.Message) string {
		return fmt.Sprintf("%s\n%s", strings.TrimSpace(m.Summary()), hex.Dump(m.ToBytes()))
	}
	for _, r := range rows() {
		full := server(Full)
		offer := answer(full, multicast(r.packet, testMAC))
		got := "asks\n" + show(r.packet) + dump("\nfull", offer)
		if r.packet.MessageType == dhcpv6.MessageTypeSolicit {
			q := takes(r.packet, offer.Message.(*dhcpv6.Message))
			reply := answer(full, multicast(q, testMAC))
			got += "\ntakes the full server's offer\n" + show(q) + dump("\nfull", reply)
			want, _ := given(offer.Message.(*dhcpv6.Message))
			m := reply.Message.(*dhcpv6.Message)
			if ip, _ := given(m); m.MessageType != dhcpv6.MessageTypeReply || ip != want ||
				m.Options.BootFileURL() != offer.Message.(*dhcpv6.Message).Options.BootFileURL() {
				t.Errorf("%s: the offer is followed by\n%s", r.name, m.Summary())
			}
		}
		got += dump("\nboot", answer(server(Boot), multicast(r.packet, testMAC))) + dump("\nboot, port 4011",
			answer(server(Boot), toBootServer(r.packet)))
		path := filepath.Join("testdata", r.name+".txt")
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
			t.Errorf("%s (-want +got):\n%s", r.name, d)
		}
	}
}

// TestMusts are what firmware drops an answer for, whatever else is in it.
func TestMusts(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, mode := range []Mode{Full, Boot} {
		s := serverOf(t, withMode(mode), &leasetest.Store{}, scripted{}, &now)
		for _, r := range rows() {
			m := answerOf(t, s, multicast(r.packet, testMAC))
			if m == nil {
				if mode == Full || r.kind == client.Firmware && !r.ipxe {
					t.Errorf("%s, %s: silence", mode, r.name)
				}
				continue
			}
			class, url := vendorClassOf(m), m.Options.BootFileURL()
			ip, _ := given(m)
			switch {
			case mode == Boot && ip.IsValid():
				t.Errorf("%s: an address is assigned beside another server", r.name)
			case r.kind == client.System && url != "":
				t.Errorf("%s, %s: a system gets %q to boot", mode, r.name, url)
			case strings.HasSuffix(r.name, "http") && (class != "HTTPClient" ||
				!strings.HasPrefix(url, "http://[fd00:99::1]/") || !strings.HasSuffix(url, "/uki.efi")):
				t.Errorf("%s, %s: class %q, URL %q; want HTTPClient and the UKI's", mode, r.name, class, url)
			case r.fw == ingot.FirmwareUEFIx64 && !r.ipxe && (url != "tftp://[fd00:99::1]/snponly.efi" ||
				m.Options.BootFileParam()[0] != "556" || (class == "PXEClient") != (mode == Boot)):
				t.Errorf("%s, %s: class %q, URL %q, params %q; want the loader, its size in blocks, and PXEClient where no "+
					"address is given", mode, r.name, class, url, m.Options.BootFileParam())
			}
			if url != "" {
				if last := m.Options.Options[len(m.Options.Options)-1]; last.Code() != dhcpv6.OptionBootfileURL {
					t.Errorf("%s, %s: the last option is %s; want the URL", mode, r.name, last.Code())
				}
			}
		}
	}
}

// TestGroups: the nearest says what counts, the later group of two, and the
// machine before all of them; what none of them says is inherited.
func TestGroups(t *testing.T) {
	now := time.Unix(1000, 0)
	dns := func(a string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(a)} }
	c := testConfig()
	c.Options.DNS, c.Options.Search, c.Options.Extra = dns("fd00:99::53"), []string{"far.example"},
		[]Option{{Code: 223, Text: "all"}}
	c.Groups = []Group{
		{Name: "all uefi", Match: client.Match{Firmware: []ingot.Firmware{ingot.FirmwareUEFIx64}},
			Options: Options{Loaders: []string{"ipxe.efi"}, DNS: dns("fd00:99::54"), Lease: 2 * time.Hour}},
		{Name: "maker", Match: client.Match{MACs: []string{"52:54:00:12"}, Classes: []string{"PXEClient"}},
			Options: Options{Loaders: []string{"snponly.efi"}, Extra: []Option{{Code: 223, Text: "maker"}}}},
		{Name: "elsewhere", Match: client.Match{Networks: []string{"lab"}, Names: []string{"db1"}},
			Options: Options{Search: []string{"db.example"}}},
	}
	c.Machines = []Machine{{MAC: cardMAC(2).String(), Options: Options{Loaders: []string{"own.efi"},
		Params: []string{"quiet"}, DNS: []netip.Addr{}, Extra: []Option{{Code: 223, Text: "own"}}, Lease: 4 * time.Hour}}}
	s := serverOf(t, c, &leasetest.Store{}, scripted{cardMAC(3).String(): {ID: "m-3", Name: "db1", Approved: true}}, &now)
	for _, w := range []struct {
		mac                                  net.HardwareAddr
		loader, params, dns, search, special string
		lease                                time.Duration
	}{
		{net.HardwareAddr{0, 1, 2, 3, 4, 5}, "ipxe.efi", "[556]", "[fd00:99::54]", "[far.example]", "all", 2 * time.Hour},
		{cardMAC(1), "snponly.efi", "[556]", "[fd00:99::54]", "[far.example]", "maker", 2 * time.Hour},
		{cardMAC(2), "own.efi", "[quiet]", "[]", "[far.example]", "own", 4 * time.Hour},
		{cardMAC(3), "snponly.efi", "[556]", "[fd00:99::54]", "[db.example]", "maker", 2 * time.Hour},
	} {
		options := append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003016"), us(), na())
		options = append(options, wants(dhcpv6.OptionBootfileURL, dhcpv6.OptionBootfileParam,
			dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, 223))
		m := answerOf(t, s, multicast(message(dhcpv6.MessageTypeRequest, llOf(w.mac), options...), w.mac))
		o := m.Options
		special := ""
		if x := m.GetOneOption(223); x != nil {
			special = string(x.ToBytes())
		}
		search := "[]"
		if l := o.DomainSearchList(); l != nil {
			search = fmt.Sprint(l.Labels)
		}
		if o.BootFileURL() != "tftp://[fd00:99::1]/"+w.loader || fmt.Sprint(o.BootFileParam()) != w.params ||
			fmt.Sprint(o.DNS()) != w.dns || search != w.search || special != w.special ||
			o.OneIANA().Options.OneAddress().ValidLifetime != w.lease {
			t.Errorf("%s gets\n%s\nwant %+v", w.mac, m.Summary(), w)
		}
	}
}

// TestRelays: an answer finds its way back through every relay, with what each
// of them wants back; the client's network is that of the relay nearest to it.
func TestRelays(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Networks = append(c.Networks, Network{Name: "far", Snooping: true, Relays: relaysOf("fd00:7::1", "fd00:99::fe"),
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:7::/64"), Pools: testRangeOf("fd00:7::100", "fd00:7::1ff")}}})
	b := &leasetest.Store{}
	s := serverOf(t, c, b, scripted{}, &now)
	forward := func(inner dhcpv6.DHCPv6, link, peer string, hops uint8, options ...option) *dhcpv6.RelayMessage {
		r := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, HopCount: hops, LinkAddr: net.ParseIP(link),
			PeerAddr: net.ParseIP(peer)}
		for _, o := range options {
			r.AddOption(o)
		}
		r.AddOption(dhcpv6.OptRelayMessage(inner))
		return r
	}
	// A switch that knows no address of the link, behind a router, behind another.
	request := asks(dhcpv6.MessageTypeRequest, 3, append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007"), us(), na())...)
	ldra := forward(request, "::", linkLocal(cardMAC(3)).String(), 0, dhcpv6.OptInterfaceID([]byte("swp7")),
		&dhcpv6.OptRemoteID{EnterpriseNumber: 9, RemoteID: []byte("leaf1")})
	router := forward(ldra, "fd00:7::1", "fe80::7", 1, dhcpv6.OptInterfaceID([]byte{0, 5}))
	core := forward(router, "::", "fd00:7::1", 2, dhcpv6.OptRelayPort(10547))
	r, err := s.Handle(Packet{Interface: "eth0", Port: PortServer, From: netip.MustParseAddrPort("[fd00:99::fe]:10547"),
		To: testServer, Message: core})
	if err != nil || r == nil {
		t.Fatalf("Handle = %v, %v", r, err)
	}
	if r.To.String() != "[fd00:99::fe]:10547" || r.From != testServer {
		t.Errorf("the answer goes from %s to %s; want from where it was asked, to the relay's port", r.From, r.To)
	}
	chain := []relay{core, router, ldra}
	p := r.Message
	for i, want := range chain {
		got, ok := p.(*dhcpv6.RelayMessage)
		if !ok || got.MessageType != dhcpv6.MessageTypeRelayReply || got.HopCount != want.HopCount ||
			!got.LinkAddr.Equal(want.LinkAddr) || !got.PeerAddr.Equal(want.PeerAddr) ||
			!bytes.Equal(got.Options.InterfaceID(), want.Options.InterfaceID()) {
			t.Fatalf("relay %d gets\n%s\nfor\n%s", i, p.Summary(), want.Summary())
		}
		p = got.Options.RelayMessage()
	}
	m := p.(*dhcpv6.Message)
	if ip, _ := given(m); ip.String() != "fd00:7::100" || m.Options.BootFileURL() != "tftp://[fd00:99::1]/snponly.efi" {
		t.Errorf("the client gets\n%s", m.Summary())
	}
	l := b.Lease("fd00:7::100")
	if l.MAC != cardMAC(3).String() || l.Port.String() != "swp7 leaf1 via fd00:7::1" {
		t.Errorf("the lease is of %q at %q", l.MAC, l.Port)
	}
	unknown := forward(request, "fd00:8::1", "fe80::8", 0)
	if r, err := s.Handle(Packet{Interface: "eth0", Port: PortServer, From: netip.MustParseAddrPort("[fd00:99::fe]:547"),
		To: testServer, Message: unknown}); r != nil || err != nil {
		t.Errorf("a relay of no network is answered: %v, %v", r, err)
	}
	if w := s.Observations().Refusals; len(w) != 1 || w[0].Code != network.RefusedNoNetwork ||
		!strings.Contains(w[0].String(), "fd00:8::1") {
		t.Errorf("refused relays %+v; want one that names the relay", w)
	}
}

// TestOtherServers: one that clients take instead of us is named, and what we
// offered is free again.
func TestOtherServers(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newServer(t, &leasetest.Store{}, &now)
	say(t, s, 1, asks(dhcpv6.MessageTypeSolicit, 1, na()))
	say(t, s, 1, asks(dhcpv6.MessageTypeRequest, 1, raw(dhcpv6.OptionServerID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 9}),
		na("fd00:99::9")))
	h := s.Observations()
	if len(h.Servers) != 1 || h.Servers[0].DUID != "00030001020000000009" || len(h.Warnings) != 1 {
		t.Errorf("heard %+v; want the other server and a warning", h)
	}
}

// TestObserve: nothing is answered, and what would be is noted.
func TestObserve(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &leasetest.Store{}
	s := serverOf(t, withMode(Observe), b, scripted{}, &now)
	for _, r := range rows() {
		if m := answerOf(t, s, multicast(r.packet, testMAC)); m != nil {
			t.Errorf("%s is answered", r.name)
		}
	}
	leaseTo(t, s, 9)
	a := s.Observations().Clients
	if len(a) != 2 || b.Len() != 0 || !strings.Contains(a[0].WouldAnswer, "fd00:99::100") {
		t.Errorf("observed %+v, and stored %d leases; want two clients, and what they would get", a, b.Len())
	}
}

// TestKnown: unknown machines hear nothing where only known machines are served.
func TestKnown(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, mode := range []Mode{Full, Boot} {
		c := withMode(mode)
		c.Interfaces[0].Known = true
		s := serverOf(t, c, &leasetest.Store{}, scripted{cardMAC(2).String(): {ID: "m-2", Approved: true}}, &now)
		for i, want := range map[byte]bool{1: false, 2: true} {
			m := message(dhcpv6.MessageTypeSolicit, llOf(cardMAC(i)),
				append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007"), na())...)
			if got := answerOf(t, s, multicast(m, cardMAC(i))) != nil; got != want {
				t.Errorf("%s: card %d is answered: %v; want %v", mode, i, got, want)
			}
		}
	}
}

// TestHardwareTable: docs/HARDWARE.md has a row for each kind of client, and
// none of IPv6 without packets.
func TestHardwareTable(t *testing.T) {
	b, err := os.ReadFile("../../docs/HARDWARE.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range rows() {
		known[r.name] = true
		if !strings.Contains(string(b), "\n| `"+r.name+"` | ") {
			t.Errorf("docs/HARDWARE.md has no row %q", r.name)
		}
	}
	for _, line := range strings.Split(string(b), "\n") {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | ")
		if ok && strings.HasPrefix(line, "| `v6-") && !known[name] {
			t.Errorf("the row %q of docs/HARDWARE.md has no packets", name)
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, r := range rows() {
		f.Add(r.packet.ToBytes())
		wrapped := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward,
			LinkAddr: net.ParseIP("fd00:99::1"), PeerAddr: net.ParseIP("fe80::1")}
		wrapped.AddOption(dhcpv6.OptInterfaceID([]byte("swp1")))
		wrapped.AddOption(dhcpv6.OptRelayMessage(r.packet))
		f.Add(wrapped.ToBytes())
	}
	for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew,
		dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline} {
		f.Add(asks(kind, 1, us(), na("fd00:99::100")).ToBytes())
	}
	f.Add(asks(dhcpv6.MessageTypeRebind, 1, na("fd00:98::100")).ToBytes())
	f.Add(asks(dhcpv6.MessageTypeConfirm, 1, na("fd00:98::100")).ToBytes())
	now := time.Unix(1000, 0)
	modes := map[Mode]*Server{}
	for _, mode := range []Mode{Full, Boot, Observe} {
		c := withMode(mode)
		c.Networks[0].Relays, c.Networks[0].Snooping = relaysOf("fd00:99::1", linkLocal(testMAC).String()), true
		modes[mode] = serverOf(f, c, &leasetest.Store{}, scripted{}, &now)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxPacket {
			return
		}
		for mode, s := range modes {
			for _, port := range []uint16{PortServer, client.PortPXE} {
				p, err := dhcpv6.FromBytes(b)
				if err != nil {
					return
				}
				r, err := s.Handle(Packet{Interface: "eth0", Port: port, Message: p,
					From: netip.AddrPortFrom(linkLocal(testMAC), PortClient), To: allServersAndRelays})
				if err != nil || r == nil {
					continue
				}
				out := r.Message.ToBytes()
				if _, err := dhcpv6.FromBytes(out); err != nil {
					t.Errorf("%s: an answer that cannot be read: %v\n%s", mode, err, hex.Dump(out))
				}
				m, err := r.Message.GetInnerMessage()
				if err != nil {
					t.Fatal(err)
				}
				ip, _ := given(m)
				switch {
				case mode == Observe:
					t.Errorf("an observer answers\n%s", m.Summary())
				case mode == Boot && ip.IsValid():
					t.Errorf("an address is assigned beside another server\n%s", m.Summary())
				case m.MessageType != dhcpv6.MessageTypeAdvertise && m.MessageType != dhcpv6.MessageTypeReply:
					t.Errorf("the answer is a %s", m.MessageType)
				case ip.IsValid() && !testRange.Contains(ip):
					t.Errorf("%s is assigned", ip)
				case len(m.ToBytes()) > maxMessage+len(b):
					t.Errorf("%d bytes are answered with %d", len(b), len(m.ToBytes()))
				}
			}
		}
	})
}
