package dhcp6

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

var (
	testMAC    = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 1}
	testServer = netip.MustParseAddr("fd00:99::1")
	testRange  = lease.Range{First: netip.MustParseAddr("fd00:99::100"), Last: netip.MustParseAddr("fd00:99::103")}
	serverDUID = append([]byte{0, duidUUID}, []byte("us-and\x40-\x80others!")...)
)

// smbiosUUID is d1b2c3a4-0000-4000-8000-525400120001 as SMBIOS has it.
const (
	smbiosUUID = "\xa4\xc3\xb2\xd1\x00\x00\x00\x40\x80\x00\x52\x54\x00\x12\x00\x01"
	houseUUID  = "d1b2c3a4-0000-4000-8000-525400120001"
)

func cardMAC(i byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, i} }

// linkLocal is the address that a card makes of its MAC.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe,
		13: mac[3], 14: mac[4], 15: mac[5]})
}

type option = dhcpv6.Option

func message(kind dhcpv6.MessageType, id dhcpv6.DUID, options ...option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	if id != nil {
		m.AddOption(dhcpv6.OptClientID(id))
	}
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

func llOf(mac net.HardwareAddr) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
}

// asks is a message of a card with its DUID.
func asks(kind dhcpv6.MessageType, i byte, options ...option) *dhcpv6.Message {
	return message(kind, llOf(cardMAC(i)), options...)
}

// na is an association with addresses.
func na(addresses ...string) option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 7}}
	for _, a := range addresses {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
	}
	return ia
}

func us() option { return raw(dhcpv6.OptionServerID, serverDUID) }

func wants(codes ...dhcpv6.OptionCode) option { return dhcpv6.OptRequestedOption(codes...) }

func arch(a iana.Arch, class string) []option {
	return []option{dhcpv6.OptClientArchType(a), vendorClass(class), &dhcpv6.OptNetworkInterfaceID{Typ: 1,
		Major: 3, Minor: 16},
		wants(dhcpv6.OptionBootfileURL, dhcpv6.OptionBootfileParam)}
}

// multicast is a message as it arrives from the attached link.
func multicast(m *dhcpv6.Message, mac net.HardwareAddr) Packet {
	return Packet{Interface: "eth0", Port: PortServer, Message: m,
		From: netip.AddrPortFrom(linkLocal(mac).WithZone("eth0"), PortClient), To: allServersAndRelays}
}

// scripted is a fleet of the machines in it, by MAC or UUID.
type scripted map[string]client.Identity

func (s scripted) Lookup(mac, uuid string) client.Identity {
	if w, ok := s[mac]; ok {
		return w
	}
	return s[uuid]
}

func (scripted) Observe(c client.Sighting) (client.Boot, error) {
	base := "http://[" + c.Server.String() + "]/b/0123456789abcdef0123456789abcdef/"
	switch {
	case c.Kind == client.Init:
		return client.Boot{URL: base}, nil
	case c.IPXE:
		return client.Boot{URL: base + "script"}, nil
	case len(c.Loaders) == 0:
		return client.Boot{}, nil
	case c.HTTP:
		return client.Boot{URL: base + strings.Repeat("9f", 32) + "/uki.efi"}, nil
	}
	return client.Boot{Loader: c.Loaders[0], Size: 284672}, nil
}

func (scripted) Took(client.Sighting) error { return nil }

func (s scripted) WouldAnswer(c client.Sighting) (client.Boot, error) { return s.Observe(c) }

var testCards = map[string]network.Card{"eth0": {Index: 2, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
	Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:99::1/64")}}}

func testConfig() Config {
	return Config{Interfaces: []Interface{{Name: "eth0"}}, Options: Options{Lease: time.Hour},
		Networks: []Network{{Name: "lab", Interface: "eth0",
			Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:99::/64"), Pools: []lease.Range{testRange}}}}}}
}

func serverOf(t testing.TB, c Config, b lease.Store, fleet client.Booter, now *time.Time) *Server {
	t.Helper()
	s, err := New(c, testCards, [16]byte(serverDUID[2:]), network.Parts{Store: b, Booter: fleet,
		Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.duid, serverDUID) {
		t.Fatalf("the server's DUID is %x; want %x", s.duid, serverDUID)
	}
	return s
}

func newServer(t testing.TB, b lease.Store, now *time.Time) *Server {
	return serverOf(t, testConfig(), b, scripted{}, now)
}

// answerOf is what a packet is answered with, nil for silence.
func answerOf(t testing.TB, s *Server, p Packet) *dhcpv6.Message {
	t.Helper()
	r, err := s.Handle(p)
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return nil
	}
	b := r.Message.ToBytes() // as the client reads it
	read, err := dhcpv6.FromBytes(b)
	if err != nil {
		t.Fatalf("an answer that cannot be read: %v\n%s", err, hex.Dump(b))
	}
	m, err := read.GetInnerMessage()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// say sends a message of a card.
func say(t testing.TB, s *Server, i byte, m *dhcpv6.Message) *dhcpv6.Message {
	t.Helper()
	return answerOf(t, s, multicast(m, cardMAC(i)))
}

// given is the address in an answer with a lifetime, and over those without one.
func given(m *dhcpv6.Message) (ip netip.Addr, over []string) {
	if m == nil || m.Options.OneIANA() == nil {
		return ip, nil
	}
	for _, a := range m.Options.OneIANA().Options.Addresses() {
		if a.ValidLifetime == 0 {
			over = append(over, a.IPv6Addr.String())
		} else {
			ip, _ = netip.AddrFromSlice(a.IPv6Addr)
		}
	}
	return ip, over
}

// statusOf is the status of the first association, else of the message.
func statusOf(m *dhcpv6.Message) iana.StatusCode {
	if m == nil {
		return 0xffff
	}
	if ia := m.Options.OneIANA(); ia != nil && ia.Options.Status() != nil {
		return ia.Options.Status().StatusCode
	}
	if st := m.Options.Status(); st != nil {
		return st.StatusCode
	}
	return iana.StatusSuccess
}

// lendTo runs the four messages for a card.
func leaseTo(t testing.TB, s *Server, i byte) netip.Addr {
	t.Helper()
	a := say(t, s, i, asks(dhcpv6.MessageTypeSolicit, i, na()))
	if a == nil {
		return netip.Addr{}
	}
	ip, _ := given(a)
	if !ip.IsValid() {
		return ip
	}
	ip, _ = given(say(t, s, i, asks(dhcpv6.MessageTypeRequest, i, us(), na(ip.String()))))
	return ip
}

func TestFourMessages(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &leasetest.Store{}
	c := testConfig()
	c.Options.DNS, c.Options.NTP, c.Options.Search = []netip.Addr{netip.MustParseAddr("fd00:99::53")},
		[]netip.Addr{netip.MustParseAddr("fd00:99::123")}, []string{"lab.example"}
	c.Interfaces[0].Preference = 200
	s := serverOf(t, c, b, scripted{}, &now)
	offer := say(t, s, 1, asks(dhcpv6.MessageTypeSolicit, 1, na(), wants(dhcpv6.OptionDNSRecursiveNameServer,
		dhcpv6.OptionNTPServer, dhcpv6.OptionSNTPServerList)))
	if offer.MessageType != dhcpv6.MessageTypeAdvertise || offer.TransactionID != (dhcpv6.TransactionID{1, 2, 3}) ||
		offer.Options.Preference() != 200 ||
		!bytes.Equal(offer.GetOneOption(dhcpv6.OptionServerID).ToBytes(), serverDUID) ||
		!offer.Options.ClientID().Equal(llOf(cardMAC(1))) {
		t.Errorf("the offer is\n%s", offer.Summary())
	}
	if b.Len() != 0 {
		t.Error("an offer is stored as a lease")
	}
	ack := say(t, s, 1, asks(dhcpv6.MessageTypeRequest, 1, us(), offer.Options.OneIANA(),
		wants(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionNTPServer, dhcpv6.OptionSNTPServerList)))
	ia := ack.Options.OneIANA()
	if ia == nil || ia.IaId != [4]byte{0, 0, 0, 7} || ia.T1 != 1125*time.Second || ia.T2 != 1800*time.Second ||
		ia.Options.OneAddress() == nil {
		t.Fatalf("the reply is\n%s", ack.Summary())
	}
	if a := ia.Options.OneAddress(); a.IPv6Addr.String() != "fd00:99::100" || a.PreferredLifetime != 2250*time.Second ||
		a.ValidLifetime != time.Hour {
		t.Errorf("the address is %s", a)
	}
	if o := ack.Options; o.DNS()[0].String() != "fd00:99::53" || o.NTPServers()[0].String() != "fd00:99::123" ||
		o.SNTP()[0].String() != "fd00:99::123" || o.DomainSearchList() != nil {
		t.Errorf("the options are\n%s; want the ones that were asked for", ack.Summary())
	}
	if l := b.Lease(testRange.First.String()); l.MAC != cardMAC(1).String() || !l.Expires.Equal(now.Add(time.Hour)) {
		t.Errorf("the lease is %+v", l)
	}
	// One that asks for nothing in particular gets all.
	if all := say(t, s, 1, asks(dhcpv6.MessageTypeInformationRequest, 1)); all.Options.DomainSearchList() == nil ||
		all.Options.DNS() == nil || all.Options.OneIANA() != nil {
		t.Errorf("the information is\n%s", all.Summary())
	}
}

// TestOneAddress: ROM, loader and system of one card have one address, whatever
// they call themselves and their associations.
func TestOneAddress(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newServer(t, &leasetest.Store{}, &now)
	first := leaseTo(t, s, 1)
	ids := []dhcpv6.DUID{&dhcpv6.DUIDUUID{UUID: [16]byte([]byte(smbiosUUID))}, &dhcpv6.DUIDEN{EnterpriseNumber: 43793,
		EnterpriseIdentifier: []byte("networkd")},
		&dhcpv6.DUIDLLT{HWType: iana.HWTypeEthernet, Time: 9, LinkLayerAddr: cardMAC(77)}}
	for i, id := range ids {
		ia := &dhcpv6.OptIANA{IaId: [4]byte{byte(i)}}
		ip, _ := given(say(t, s, 1, message(dhcpv6.MessageTypeSolicit, id, ia)))
		if ip != first {
			t.Errorf("%s gets %s; want %s, as its card did", id, ip, first)
		}
	}
	two := &dhcpv6.OptIANA{IaId: [4]byte{9}}
	m := say(t, s, 1, asks(dhcpv6.MessageTypeRequest, 1, us(), na(first.String()), two, &dhcpv6.OptIATA{},
		&dhcpv6.OptIAPD{}))
	list := m.Options.IANA()
	if len(list) != 2 || list[1].Options.Status().StatusCode != iana.StatusNoAddrsAvail ||
		m.Options.OneIATA().Options.Status().StatusCode != iana.StatusNoAddrsAvail ||
		m.Options.OneIAPD().Options.Status().StatusCode != iana.StatusNoPrefixAvail {
		t.Errorf("two associations, a temporary one and a prefix are answered with\n%s", m.Summary())
	}
	if other := leaseTo(t, s, 2); other == first || !other.IsValid() {
		t.Errorf("another card gets %s", other)
	}
}

// TestWhoIsIt: the card of a client, by what there is to tell it.
func TestWhoIsIt(t *testing.T) {
	uuid := &dhcpv6.DUIDUUID{UUID: [16]byte([]byte(smbiosUUID))}
	seen := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward}
	seen.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, cardMAC(5)))
	pxe := arch(iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003016")
	for _, w := range []struct {
		what  string
		m     *dhcpv6.Message
		chain []relay
		from  string
		mac   string
		uuid  string
	}{
		{"its own address", message(dhcpv6.MessageTypeSolicit, llOf(cardMAC(9))), nil, "fe80::5054:ff:fe12:1",
			cardMAC(1).String(), ""},
		{"the relay saw it", message(dhcpv6.MessageTypeSolicit, llOf(cardMAC(9))), []relay{seen}, "fe80::5054:ff:fe12:1",
			cardMAC(5).String(), ""},
		{"the DUID", message(dhcpv6.MessageTypeSolicit, llOf(cardMAC(9))), nil, "fe80::1234:5678:9abc:def0",
			cardMAC(9).String(), ""},
		{"nothing but firmware's UUID", message(dhcpv6.MessageTypeSolicit, uuid, pxe...), nil, "fe80::1", "", houseUUID},
		{"a loader's UUID is in network order", message(dhcpv6.MessageTypeSolicit,
			&dhcpv6.DUIDUUID{UUID: [16]byte{0xd1, 0xb2, 0xc3, 0xa4, 0, 0, 0x40, 0, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1}},
			append(pxe, &dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte("iPXE")}})...), nil, "fe80::1", "", houseUUID},
		{"no Ethernet", message(dhcpv6.MessageTypeSolicit, &dhcpv6.DUIDLL{HWType: iana.HWTypeInfiniband,
			LinkLayerAddr: make([]byte, 20)}), nil, "::", "", ""},
	} {
		got := Parse(w.m, w.chain, netip.MustParseAddr(w.from))
		if got.MAC != w.mac || got.UUID != w.uuid {
			t.Errorf("%s: MAC %q, UUID %q; want %q, %q", w.what, got.MAC, got.UUID, w.mac, w.uuid)
		}
		if w.mac == "" && !strings.HasPrefix(got.key(), "duid:00") {
			t.Errorf("%s: its key is %q; want its DUID", w.what, got.key())
		}
	}
}

// cardOf is the card that a message says to be of; without an identifier, card 2.
func cardOf(m *dhcpv6.Message) net.HardwareAddr {
	if d, ok := m.Options.ClientID().(*dhcpv6.DUIDLL); ok {
		return d.LinkLayerAddr
	}
	return cardMAC(2)
}

// TestMessages is every type of message in every standing of its sender.
func TestMessages(t *testing.T) {
	type on = iana.StatusCode
	const silence = on(0xffff)
	other := raw(dhcpv6.OptionServerID, []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 9})
	uni := func(p Packet) Packet { p.To = testServer; return p }
	for _, w := range []struct {
		what   string
		m      *dhcpv6.Message
		change func(Packet) Packet
		status on
		ip     string
		over   string
	}{
		{"solicit with a wish", asks(dhcpv6.MessageTypeSolicit, 2, na("fd00:99::102")), nil, 0, "fd00:99::102", ""},
		{"solicit without an association", asks(dhcpv6.MessageTypeSolicit, 2), nil, 0, "", ""},
		{"solicit that names a server", asks(dhcpv6.MessageTypeSolicit, 2, us(), na()), nil, silence, "", ""},
		{"solicit by unicast", asks(dhcpv6.MessageTypeSolicit, 2, na()), uni, silence, "", ""},
		{"solicit without an identifier", message(dhcpv6.MessageTypeSolicit, nil, na()), nil, silence, "", ""},
		{"request of what another has", asks(dhcpv6.MessageTypeRequest, 2, us(), na("fd00:99::100")), nil, 0,
			"fd00:99::101", ""},
		{"request of another link's", asks(dhcpv6.MessageTypeRequest, 2, us(), na("fd00:98::100")), nil,
			iana.StatusNotOnLink, "", ""},
		{"request of what no pool has", asks(dhcpv6.MessageTypeRequest, 2, us(), na("fd00:99::9")), nil, 0,
			"fd00:99::101", ""},
		{"request of another server", asks(dhcpv6.MessageTypeRequest, 2, other, na("fd00:99::101")), nil, silence, "", ""},
		{"request of no server", asks(dhcpv6.MessageTypeRequest, 2, na("fd00:99::101")), nil, silence, "", ""},
		{"request by unicast", asks(dhcpv6.MessageTypeRequest, 2, us(), na("fd00:99::101")), uni,
			iana.StatusUseMulticast, "", ""},
		{"renew of its own", asks(dhcpv6.MessageTypeRenew, 1, us(), na("fd00:99::100")), nil, 0, "fd00:99::100", ""},
		{"renew of its own and one more", asks(dhcpv6.MessageTypeRenew, 1, us(), na("fd00:99::100", "fd00:99::77")), nil, 0,
			"fd00:99::100", "fd00:99::77"},
		{"renew of another link's", asks(dhcpv6.MessageTypeRenew, 1, us(), na("fd00:98::1")), nil, 0, "fd00:99::100",
			"fd00:98::1"},
		{"renew of an unknown client", asks(dhcpv6.MessageTypeRenew, 2, us(), na("fd00:99::101")), nil,
			iana.StatusNoBinding, "", ""},
		{"rebind of its own", asks(dhcpv6.MessageTypeRebind, 1, na("fd00:99::100")), nil, 0, "fd00:99::100", ""},
		{"rebind of an unknown client", asks(dhcpv6.MessageTypeRebind, 2, na("fd00:99::101")), nil, silence, "", ""},
		{"rebind of an unknown client, with another link's", asks(dhcpv6.MessageTypeRebind, 2, na("fd00:98::1")), nil, 0, "",
			"fd00:98::1"},
		{"confirm", asks(dhcpv6.MessageTypeConfirm, 2, na("fd00:99::55")), nil, 0, "", ""},
		{"confirm of another link's", asks(dhcpv6.MessageTypeConfirm, 1, na("fd00:99::100", "fd00:98::1")), nil,
			iana.StatusNotOnLink, "", ""},
		{"confirm of nothing", asks(dhcpv6.MessageTypeConfirm, 1, na()), nil, silence, "", ""},
		{"release of its own", asks(dhcpv6.MessageTypeRelease, 1, us(), na("fd00:99::100")), nil, 0, "", ""},
		{"release of another's", asks(dhcpv6.MessageTypeRelease, 2, us(), na("fd00:99::100")), nil,
			iana.StatusNoBinding, "", ""},
		{"decline of its own", asks(dhcpv6.MessageTypeDecline, 1, us(), na("fd00:99::100")), nil, 0, "", ""},
		{"decline of another's", asks(dhcpv6.MessageTypeDecline, 2, us(), na("fd00:99::100")), nil,
			iana.StatusNoBinding, "", ""},
		{"information", message(dhcpv6.MessageTypeInformationRequest, nil), nil, 0, "", ""},
		{"information with an association", asks(dhcpv6.MessageTypeInformationRequest, 1, na()), nil, silence, "", ""},
		{"information of another server", asks(dhcpv6.MessageTypeInformationRequest, 1, other), nil, silence, "", ""},
		{"a reply", asks(dhcpv6.MessageTypeReply, 1, us(), na("fd00:99::100")), nil, silence, "", ""},
		{"an advertise", asks(dhcpv6.MessageTypeAdvertise, 1, us(), na("fd00:99::100")), nil, silence, "", ""},
		{"reconfigure", asks(dhcpv6.MessageTypeReconfigure, 1, us()), nil, silence, "", ""},
		{"a type of the future", asks(99, 1, us()), nil, silence, "", ""},
	} {
		now := time.Unix(1000, 0)
		s := newServer(t, &leasetest.Store{}, &now)
		leaseTo(t, s, 1) // card 1 has fd00:99::100
		p := multicast(w.m, cardOf(w.m))
		if w.change != nil {
			p = w.change(p)
		}
		m := answerOf(t, s, p)
		ip, over := given(m)
		text := ""
		if ip.IsValid() {
			text = ip.String()
		}
		if statusOf(m) != w.status || text != w.ip || strings.Join(over, " ") != w.over {
			t.Errorf("%s: status %d, address %q, over %v; want %d, %q, %q", w.what, statusOf(m), text, over,
				w.status, w.ip, w.over)
		}
	}
}

func testRangeOf(first, last string) []lease.Range {
	return []lease.Range{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}
}

func relaysOf(list ...string) (relays []network.Relay) {
	for _, s := range list {
		r, err := network.ParseRelay(s)
		if err != nil {
			panic(err)
		}
		relays = append(relays, r)
	}
	return relays
}
