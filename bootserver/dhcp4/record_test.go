package dhcp4

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

// notes are the records of packets that a server makes.
type notes struct {
	*Server
	list []string // MAC and words
}

func notesOf(t *testing.T, c Config, known scripted, now *time.Time, cards map[string]network.Card) *notes {
	t.Helper()
	n := &notes{}
	var err error
	n.Server, err = New(c, cards, "us", network.Parts{Store: &leasetest.Store{}, Booter: known,
		Now: func() time.Time { return *now }, Record: func(x client.Packet) {
			text, bad := x.Words()
			n.list = append(n.list, x.MAC[len("52:54:00:12:00:"):]+map[bool]string{true: " ! ", false: " "}[bad]+text)
		}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// says works on a packet as the sockets do, and returns the notes of it.
func (n *notes) says(t *testing.T, p *dhcpv4.DHCPv4, unsent error) string {
	t.Helper()
	n.list = nil
	packet := broadcast(p)
	r, err := n.Handle(t.Context(), packet)
	if err != nil {
		n.unanswered(packet, err)
	} else if r != nil {
		n.RecordSent(r.record, unsent)
	}
	return strings.Join(n.list, "\n")
}

// overhears lets another server answer a card.
func (n *notes) overhears(t *testing.T, card, server byte, kind dhcpv4.MessageType, ip string,
	mods ...dhcpv4.Modifier) string {
	t.Helper()
	n.list = nil
	p, err := dhcpv4.New(append(mods, dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 99, 0, server))),
		dhcpv4.WithYourIP(net.ParseIP(ip).To4()))...)
	if err != nil {
		t.Fatal(err)
	}
	p.OpCode, p.ClientHWAddr = dhcpv4.OpcodeBootReply, cardMAC(card)
	from, to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 99, 0, server}), PortDHCP),
		netip.MustParseAddrPort("255.255.255.255:68")
	n.Overheard("eth0", net.HardwareAddr{2, 0, 0, 0, 0, server}, datagram(from, to, p.ToBytes()))
	return strings.Join(n.list, "\n")
}

// TestNotes: each packet that matters is recorded with its reason, and what another
// server answered, with its address.
func TestNotes(t *testing.T) {
	now := time.Unix(1000, 0)
	known := client.Identity{ID: "m-1", Approved: true}
	c := testConfig()
	c.Machines = []Machine{{MAC: cardMAC(1).String(), Address: netip.MustParseAddr("10.99.0.11")}}
	n := notesOf(t, c, scripted{cardMAC(1).String(): known, cardMAC(2).String(): {ID: "m-2", Approved: true}},
		&now, testCards)
	is := dhcpv4.WithMessageType
	own := func(ip string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(ip).To4()) }
	for _, c := range []struct {
		what string
		got  string
		want string
	}{
		{"a question", n.says(t, requestFrom(t, 1, is(dhcpv4.MessageTypeDiscover), arch(iana.EFI_X86_64)), nil),
			"01 DHCPOFFER of 10.99.0.11"},
		{"one whose answer does not leave", n.says(t, requestFrom(t, 1, is(dhcpv4.MessageTypeDiscover)),
			errors.New("network is down")), "01 ! DHCPOFFER of 10.99.0.11 could not be sent: network is down"},
		{"another's reservation", n.says(t, requestFrom(t, 1, selects("10.99.0.1"), wants("10.99.0.100")), nil),
			"01 ! DHCPNAK for 10.99.0.100: 10.99.0.11 is reserved for it"},
		{"another network's", n.says(t, requestFrom(t, 2, selects("10.99.0.1"), wants("10.7.0.100")), nil),
			"02 ! DHCPNAK for 10.7.0.100: it is not an address in network lab"},
		{"our choice", n.says(t, requestFrom(t, 1, selects("10.99.0.1"), wants("10.99.0.11")), nil),
			"01 DHCPACK of 10.99.0.11"},
		{"what another has", n.says(t, requestFrom(t, 2, selects("10.99.0.1"), wants("10.99.0.11")), nil),
			"02 ! DHCPNAK for 10.99.0.11: it belongs to another client, or is in no pool"},
		{"another's choice", n.says(t, requestFrom(t, 1, selects("10.99.0.3"), wants("10.99.0.77")), nil),
			"01 ! DHCPREQUEST for 10.99.0.77 to another server, 10.99.0.3"},
		{"information", n.says(t, requestFrom(t, 1, is(dhcpv4.MessageTypeInform), own("10.99.0.11")), nil), ""},
		{"a decline of what it has not", n.says(t, requestFrom(t, 2, is(dhcpv4.MessageTypeDecline),
			wants("10.99.0.11")), nil), ""},
		{"a release", n.says(t, requestFrom(t, 1, is(dhcpv4.MessageTypeRelease), own("10.99.0.11")), nil),
			"01 DHCPRELEASE of 10.99.0.11"},
		{"a decline", n.says(t, requestFrom(t, 1, is(dhcpv4.MessageTypeDecline), wants("10.99.0.11")), nil),
			"01 ! DHCPDECLINE for 10.99.0.11: it is in use"},
		{"another's offer", n.overhears(t, 1, 3, dhcpv4.MessageTypeOffer, "10.99.0.77",
			dhcpv4.WithGeneric(dhcpv4.OptionBootfileName, []byte("pxe\x1b[2J"))),
			"01 ! DHCPOFFER of 10.99.0.77 by another server, 10.99.0.3 (MAC 02:00:00:00:00:03), booting 0x7078651b5b324a"},
		{"another's refusal", n.overhears(t, 2, 4, dhcpv4.MessageTypeNak, ""),
			"02 ! DHCPNAK by another server, 10.99.0.4 (MAC 02:00:00:00:00:04)"},
	} {
		if c.got != c.want {
			t.Errorf("%s is recorded as %q; want %q", c.what, c.got, c.want)
		}
	}
	names := func(card byte) (list []string) {
		for _, o := range n.Others([]string{cardMAC(card).String()}) {
			list = append(list, o.Kind+" "+o.Name())
		}
		return list
	}
	if got, want := names(1), []string{"DHCPREQUEST 10.99.0.3", "DHCPOFFER 10.99.0.3"}; !slices.Equal(got, want) {
		t.Errorf("the first card was answered by %q; want %q", got, want)
	}
	if got, want := names(2), []string{"DHCPNAK 10.99.0.4"}; !slices.Equal(got, want) {
		t.Errorf("the second card was answered by %q; want %q", got, want)
	}
	i := slices.IndexFunc(n.Observations().Clients,
		func(a network.ObservedClient) bool { return a.MAC == cardMAC(1).String() })
	if a := n.Observations().Clients[i]; len(a.Answers) != 1 || len(a.Others) != 2 ||
		a.Others[1].Given.String() != "10.99.0.77" || a.Others[1].Times != 1 {
		t.Errorf("of the first card %+v is shown; want one answer in words, and two others", a)
	}
}

// TestNotesOfAFullPool: a machine that gets no answer is recorded with the reason.
func TestNotesOfAFullPool(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Networks[0].Subnets[0].Pools = nil
	n := notesOf(t, c, scripted{}, &now, testCards)
	if got := n.says(t, discover(t), nil); !strings.HasPrefix(got, "01 ! no answer to its DHCPDISCOVER: ") {
		t.Errorf("recorded as %q; want why it is not answered", got)
	}
}

// TestNotesOfAnUnknownMachine: what others sent to an unknown machine while its address was
// probed is recorded when the machine is known.
func TestNotesOfAnUnknownMachine(t *testing.T) {
	now := time.Unix(1000, 0)
	n := notesOf(t, testConfig(), scripted{}, &now, testCards)
	n.overhears(t, 1, 4, dhcpv4.MessageTypeOffer, "10.99.0.78")
	now = now.Add(time.Minute) // of an earlier attempt
	n.overhears(t, 1, 3, dhcpv4.MessageTypeOffer, "10.99.0.77")
	now = now.Add(time.Second)
	if got, want := n.says(t, discover(t), nil),
		"01 ! DHCPOFFER of 10.99.0.77 by another server, 10.99.0.3 (MAC 02:00:00:00:00:03)\n01 DHCPOFFER of "+
			"10.99.0.100"; got != want {
		t.Errorf("recorded as %q; want %q", got, want)
	}
}

// TestOurOtherInterface: on a network that two of our interfaces are on, we are
// no other server to ourselves.
func TestOurOtherInterface(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Interfaces = append(c.Interfaces, Interface{Name: "eth1", Mode: Proxy})
	cards := maps.Clone(testCards)
	cards["eth1"] = network.Card{Index: 3, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.2/24")}}
	n := notesOf(t, c, scripted{}, &now, cards)
	if got := n.says(t, requestFrom(t, 1, selects("10.99.0.2"), wants("10.99.0.77")), nil); got != "" {
		t.Errorf("that a client chose us is recorded as %q", got)
	}
	if got := n.overhears(t, 1, 2, dhcpv4.MessageTypeOffer, "10.99.0.77"); got != "" {
		t.Errorf("our own offer is recorded as %q", got)
	}
	if o := n.Others([]string{cardMAC(1).String()}); len(o) != 0 {
		t.Errorf("we are another server to ourselves: %+v", o)
	}
}

// TestNotesBeside: beside the network's own server its answers are as they
// should be; one that names something to boot is not.
func TestNotesBeside(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Interfaces[0].Mode, c.Networks = Proxy, nil
	n := notesOf(t, c, scripted{}, &now, testCards)
	for _, c := range []struct{ what, got, want string }{
		{"our offer", n.says(t, discover(t, arch(iana.EFI_X86_64)), nil), "01 DHCPOFFER of snponly.efi, without an address"},
		{"our URL", n.says(t, discover(t, arch(iana.EFI_X86_64_HTTP), says60("HTTPClient:Arch:00016:UNDI:003001")), nil),
			"01 DHCPOFFER of what to boot, without an address"},
		{"its choice", n.says(t, requestFrom(t, 1, arch(iana.EFI_X86_64), selects("10.99.0.3"), wants("10.99.0.77")), nil),
			""},
		{"the server's offer", n.overhears(t, 1, 3, dhcpv4.MessageTypeOffer, "10.99.0.77"), ""},
		{"one with a boot file", n.overhears(t, 1, 4, dhcpv4.MessageTypeOffer, "10.99.0.77",
			dhcpv4.WithGeneric(dhcpv4.OptionBootfileName, []byte("x"))),
			"01 ! DHCPOFFER of 10.99.0.77 by another server, 10.99.0.4 (MAC 02:00:00:00:00:04), booting x"},
	} {
		if c.got != c.want {
			t.Errorf("%s is recorded as %q; want %q", c.what, c.got, c.want)
		}
	}
}

// TestOthersAreBounded: more servers than can be counted are not remembered.
func TestOthersAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	n := notesOf(t, testConfig(), scripted{}, &now, testCards)
	for i := range 2 * network.MaxClients {
		p, _ := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 98, byte(i>>8), byte(i)))))
		p.ClientHWAddr = cardMAC(1)
		if i >= 100 {
			p.ClientHWAddr = unknownCard(i)
		}
		n.overheard(source{iface: "eth0", mac: cardMAC(9), address: netip.MustParseAddr("10.99.0.9")}, p, Full, now)
		n.Observer.AddOther("eth0", p.ClientHWAddr.String(),
			fleet.Other{Address: netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}), Kind: "DHCPREQUEST", At: now})
	}
	h := n.Observations()
	if len(h.Clients) > network.MaxClients {
		t.Errorf("%d askers are remembered", len(h.Clients))
	}
	for _, a := range h.Clients {
		if len(a.Others) > fleet.MaxOthers {
			t.Errorf("%d other servers are remembered of one card", len(a.Others))
		}
	}
}
