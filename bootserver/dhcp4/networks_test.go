package dhcp4

import (
	"net"
	"net/netip"
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
)

// farConfig is an attached network of two subnets, a shared one behind relays, and one whose
// relay has an address of elsewhere.
func farConfig() Config {
	c := testConfig()
	subnet := func(prefix, pool string) Subnet {
		r, err := lease.ParseRange(pool)
		if err != nil {
			panic(err)
		}
		return Subnet{Prefix: netip.MustParsePrefix(prefix), Pools: []lease.Range{r}}
	}
	c.Networks[0].Subnets = append(c.Networks[0].Subnets, subnet("10.6.0.0/24", "10.6.0.10-10.6.0.20"))
	c.Networks = append(c.Networks,
		Network{Name: "far", Relays: relaysOf("10.7.0.1", "10.8.0.1", "10.99.0.254", "172.16.0.9"),
			Subnets: []Subnet{subnet("10.7.0.0/24", "10.7.0.10-10.7.0.10"),
				subnet("10.8.0.0/24", "10.8.0.10-10.8.0.20")}},
		Network{Name: "odd", Relays: relaysOf("172.16.0.10", "172.16.0.9/32", "10.99.0.0/26"),
			Subnets: []Subnet{subnet("10.9.0.0/24", "10.9.0.10-10.9.0.20")}})
	return c
}

// via is a packet as a relay sends it on, with sub-options of option 82.
func via(relay string, sub ...byte) dhcpv4.Modifier {
	return func(p *dhcpv4.DHCPv4) {
		p.GatewayIPAddr = net.ParseIP(relay).To4()
		if len(sub) > 0 {
			p.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, sub))
		}
	}
}

// selection is a client's own choice of its subnet.
func selection(subnet ...byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optSubnetSelection), subnet))
}

// TestWhereAClientIs: the relay's address chooses the network, unless the relay
// or the client says another one; a full subnet of a shared network is followed
// by the next. An attached client cannot choose another network.
func TestWhereAClientIs(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name  string
		mods  []dhcpv4.Modifier
		taken bool // the one address of 10.7.0.0/24 is in use
		want  string
		// without an answer: a part of the reason
		refused string
	}{
		{"attached", nil, false, "10.99.0.100", ""},
		{"behind a relay in the subnet", []dhcpv4.Modifier{via("10.7.0.1")}, false, "10.7.0.10", ""},
		{"the shared network's other subnet, when the first is full", []dhcpv4.Modifier{via("10.7.0.1")}, true, "10.8.0.10",
			""},
		{"behind the other subnet's relay", []dhcpv4.Modifier{via("10.8.0.1")}, false, "10.8.0.10", ""},
		{"a relay with an address of elsewhere", []dhcpv4.Modifier{via("172.16.0.10")}, false, "10.9.0.10", ""},
		{"link selection (RFC 3527)", []dhcpv4.Modifier{via("172.16.0.9", 1, 2, 'e', '7', 5, 4, 10, 8, 0, 0)},
			false, "10.8.0.10", ""},
		{"subnet selection (RFC 3011)", []dhcpv4.Modifier{via("172.16.0.9"), selection(10, 8, 0, 0)}, false, "10.8.0.10", ""},
		{"subnet selection, attached", []dhcpv4.Modifier{selection(10, 6, 0, 0)}, false, "10.6.0.10", ""},
		{"subnet selection of another network, attached", []dhcpv4.Modifier{selection(10, 8, 0, 0)}, false, "10.99.0.100",
			""},
		{"subnet selection of no network, attached", []dhcpv4.Modifier{selection(192, 0, 2, 0)}, false, "10.99.0.100", ""},
		{"link selection, attached", []dhcpv4.Modifier{via("0.0.0.0", 5, 4, 10, 8, 0, 0)}, false, "10.99.0.100", ""},
		{"an unknown relay", []dhcpv4.Modifier{via("192.0.2.1")}, false, "",
			"the relay's address is in no network of dhcp; if the relay is yours, add to dhcp a network with its real " +
				`prefix: {name: NAME, relays: [192.0.2.1], subnets: [{prefix: "192.0.2.0/24"}]}`},
		{"an address of the subnet that is no relay", []dhcpv4.Modifier{via("10.7.0.2")}, false, "",
			`add to network "far" of dhcp: relays: [10.7.0.1, 10.8.0.1, 10.99.0.254, 172.16.0.9, 10.7.0.2]`},
		{"a client that says it is a relay", []dhcpv4.Modifier{via("10.7.0.10")}, false, "",
			`the address is in a pool of network "far"`},
		{"a relay of two networks, which selects none", []dhcpv4.Modifier{via("172.16.0.9")}, false, "", "in no network"},
		{"a relay that selects a link of no network", []dhcpv4.Modifier{via("10.7.0.1", 5, 4, 10, 20, 0, 0)}, false, "",
			"the link 10.20.0.0 that it selects (RFC 3527) is in no network of dhcp"},
		{"a relay of another network", []dhcpv4.Modifier{via("172.16.0.10", 5, 4, 10, 8, 0, 0)}, false, "",
			`add to network "far" of dhcp`},
	} {
		store := &leasetest.Store{}
		if c.taken {
			store = leasetest.NewStore(fleet.Lease{MAC: "52:54:00:00:00:99", Address: netip.MustParseAddr("10.7.0.10"),
				Expires: now.Add(time.Hour)})
		}
		s := serverOf(t, farConfig(), store, scripted{}, &now)
		a := handle(t, s, discover(t, c.mods...))
		switch {
		case c.want == "" && a == nil:
			if w := s.Observations().Refusals; len(w) != 1 || !strings.Contains(w[0].String(), c.refused) {
				t.Errorf("%s: refused relays %+v; want one with %q", c.name, w, c.refused)
			}
		case a == nil || a.YourIPAddr.String() != c.want:
			t.Errorf("%s: %v; want %s", c.name, a, c.want)
		}
	}
}

// TestRelay: the answer goes to the relay's port 67, option 82 goes back byte
// for byte and last, and the switch port is kept with the lease.
func TestRelay(t *testing.T) {
	now := time.Unix(1000, 0)
	store := &leasetest.Store{}
	s := serverOf(t, farConfig(), store, scripted{}, &now)
	info := []byte{1, 4, 'e', 't', 'h', '7', 2, 6, 0, 0x1b, 0x21, 1, 2, 3, 151, 1, 9}
	relay := via("10.7.0.1", info...)
	p := discover(t, arch(iana.EFI_X86_64), relay)
	r, err := s.Handle(t.Context(), broadcast(p))
	if err != nil || r == nil {
		t.Fatal(r, err)
	}
	if r.To != netip.MustParseAddrPort("10.7.0.1:67") || r.Hardware != nil ||
		r.From != netip.MustParseAddrPort("10.99.0.1:67") {
		t.Errorf("the answer goes from %s to %s; want to the relay", r.From, r.To)
	}
	if got := r.Message.Options.Get(dhcpv4.OptionRelayAgentInformation); string(got) != string(info) {
		t.Errorf("option 82 = %x; want it back as %x", got, info)
	}
	if wire := r.Message.ToBytes(); !strings.Contains(string(wire), "\x52"+string(rune(len(info)))+string(info)+"\xff") {
		t.Error("option 82 is not the last one")
	}
	q, err := dhcpv4.NewRequestFromOffer(r.Message, relay)
	if err != nil {
		t.Fatal(err)
	}
	handle(t, s, q)
	want := fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "eth7", Remote: "0x001b21010203"}
	if l := store.Lease("10.7.0.10"); l.Port != want {
		t.Errorf("the lease's switch port is %+v; want %+v", l.Port, want)
	}
	nak := handle(t, s, requestFrom(t, 5, selects("10.99.0.1"), wants("10.99.0.100"), relay))
	if nak.MessageType() != dhcpv4.MessageTypeNak || !nak.IsBroadcast() ||
		!nak.Options.Has(dhcpv4.OptionRelayAgentInformation) {
		t.Errorf("an address of another network, through a relay: %s\nwant a NAK with the broadcast bit and option 82",
			nak.Summary())
	}
}

// TestServerOverride: a relay that stands for us is the server that clients see
// (RFC 5107), and what they ask it for is asked of us.
func TestServerOverride(t *testing.T) {
	now := time.Unix(1000, 0)
	s := serverOf(t, farConfig(), &leasetest.Store{}, scripted{}, &now)
	relay := via("10.7.0.1", 11, 4, 10, 7, 0, 1)
	o := handle(t, s, discover(t, relay))
	if o.ServerIdentifier().String() != "10.7.0.1" {
		t.Errorf("the client gets the server identifier %s; want the relay 10.7.0.1", o.ServerIdentifier())
	}
	q, err := dhcpv4.NewRequestFromOffer(o, relay)
	if err != nil {
		t.Fatal(err)
	}
	if a := handle(t, s, q); a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("the request to the relay gets %v; want an ACK", a)
	}
	attached := via("0.0.0.0", 11, 4, 10, 7, 0, 1)
	if o := handle(t, s, discover(t, attached)); o.ServerIdentifier().String() != "10.99.0.1" {
		t.Errorf("a client without a relay gets the server identifier %s, as it wished", o.ServerIdentifier())
	}
	if a := handle(t, s, requestFrom(t, 9, attached, selects("10.7.0.1"), wants("10.99.0.101"))); a != nil {
		t.Errorf("a request to a server that the client made up is answered by %s", a.MessageType())
	}
}

// TestInform: a client that has its address from elsewhere gets the rest (RFC 2131
// section 4.3.5), at that address, and no lease.
func TestInform(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Options.Domain = "lab.example"
	store := &leasetest.Store{}
	s := serverOf(t, c, store, scripted{}, &now)
	inform := func(ip string) *dhcpv4.DHCPv4 {
		return discover(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(net.ParseIP(ip).To4()))
	}
	r, err := s.Handle(t.Context(), broadcast(inform("10.99.0.77")))
	if err != nil || r == nil {
		t.Fatal(r, err)
	}
	a := r.Message
	if a.MessageType() != dhcpv4.MessageTypeAck || address(a.YourIPAddr).IsValid() ||
		a.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || a.DomainName() != "lab.example" ||
		r.To.String() != "10.99.0.77:68" {
		t.Errorf("the answer to %s:\n%s\nwant the domain, at 10.99.0.77, without address and lease", r.To, a.Summary())
	}
	if a := handle(t, s, inform("192.168.1.5")); a != nil {
		t.Errorf("a client of another network gets\n%s", a.Summary())
	}
	if store.Len() != 0 {
		t.Errorf("%d leases are stored; want none", store.Len())
	}
}

// noting remembers the addresses that clients were seen with.
type noting struct {
	scripted
	seen map[string]netip.Addr // by MAC
}

func (n noting) Observe(c client.Sighting) (client.Boot, error) {
	n.seen[c.MAC] = c.Address
	return n.scripted.Observe(c)
}

// TestInformOfAnother: a client is not seen with an address that is leased to another one, whatever
// it says; with its own one, or a free one, it is. It is answered all the same.
func TestInformOfAnother(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, mode := range []Mode{Full, Proxy} {
		c := testConfig()
		seen := map[string]netip.Addr{}
		s := serverOf(t, c, &leasetest.Store{}, noting{scripted{}, seen}, &now)
		offer := handle(t, s, requestFrom(t, 1, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)))
		ack := handle(t, s, requestFrom(t, 1, wants(offer.YourIPAddr.String()), selects("10.99.0.1")))
		if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatal(ack)
		}
		victim := address(ack.YourIPAddr)
		for _, n := range s.Site().Interfaces {
			n.Config.Mode = mode
		}
		for _, x := range []struct {
			card byte
			ip   netip.Addr
			want netip.Addr
		}{{1, victim, victim}, {2, victim, netip.Addr{}}, {2, netip.MustParseAddr("10.99.0.77"),
			netip.MustParseAddr("10.99.0.77")}} {
			p := uefi(t, x.card, dhcpv4.WithMessageType(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(x.ip.AsSlice()))
			packet := broadcast(p)
			if mode == Proxy {
				packet.Port = client.PortPXE
			}
			r, err := s.Handle(t.Context(), packet)
			if err != nil || r == nil {
				t.Fatalf("%v: card %d: %v, %v", mode, x.card, r, err)
			}
			if got := seen[cardMAC(x.card).String()]; got != x.want {
				t.Errorf("%v: card %d says that it has %s and is seen with %s; want %s", mode, x.card, x.ip, got, x.want)
			}
		}
		now = now.Add(2 * time.Hour) // the lease is over
		p := uefi(t, 3, dhcpv4.WithMessageType(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(victim.AsSlice()))
		packet := broadcast(p)
		if mode == Proxy {
			packet.Port = client.PortPXE
		}
		if _, err := s.Handle(t.Context(), packet); err != nil || seen[cardMAC(3).String()] != victim {
			t.Errorf("%v: after the lease: seen with %s, %v; want %s", mode, seen[cardMAC(3).String()], err, victim)
		}
	}
}

// TestKnownOnly: beside another full server, unknown machines are left to it.
func TestKnownOnly(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Interfaces[0].Known = true
	c.Machines = []Machine{{MAC: cardMAC(2).String()}}
	s := serverOf(t, c, &leasetest.Store{}, scripted{cardMAC(3).String(): {ID: "m-3", Approved: true}}, &now)
	for card, answered := range map[byte]bool{2: true, 3: true, 4: false} {
		p := discover(t)
		p.ClientHWAddr = cardMAC(card)
		if a := handle(t, s, p); (a != nil) != answered {
			t.Errorf("card %d is answered: %v; want %v", card, a != nil, answered)
		}
	}
	if a := handle(t, s, requestFrom(t, 4, wants("192.168.1.5"))); a != nil {
		t.Error("an unknown machine with an address of another network is refused; the other server must do that")
	}
}

// TestGroups: the nearest says what counts, the later group of two.
func TestGroups(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Options.Domain = "far.example"
	c.Groups = []Group{
		{Name: "all uefi", Match: client.Match{Firmware: []ingot.Firmware{ingot.FirmwareUEFIx64}},
			Options: Options{Loaders: []string{"ipxe.efi"}, Domain: "uefi.example"}},
		{Name: "maker", Match: client.Match{MACs: []string{"52:54:00:12"}, Classes: []string{"PXEClient"}},
			Options: Options{Loaders: []string{"snponly.efi"}}},
	}
	c.Machines = []Machine{{MAC: cardMAC(2).String(), Options: Options{Loaders: []string{"own.efi"}}}}
	s := serverOf(t, c, &leasetest.Store{}, scripted{}, &now)
	for _, w := range []struct {
		mac            net.HardwareAddr
		loader, domain string
	}{
		{net.HardwareAddr{0, 1, 2, 3, 4, 5}, "ipxe.efi", "uefi.example"},
		{cardMAC(1), "snponly.efi", "uefi.example"},
		{cardMAC(2), "own.efi", "uefi.example"},
	} {
		p := discover(t, arch(iana.EFI_X86_64))
		p.ClientHWAddr = w.mac
		if a := handle(t, s, p); a.BootFileName != w.loader || a.DomainName() != w.domain {
			t.Errorf("%s gets %q in %q; want %q in %q", w.mac, a.BootFileName, a.DomainName(), w.loader, w.domain)
		}
	}
}

// TestApply: leases stay when the configuration changes, and what
// moved elsewhere is refused at the next renewal.
func TestApply(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newServer(t, &leasetest.Store{}, &now)
	ip, err := leaseTo(t, s, cardMAC(1))
	if err != nil {
		t.Fatal(err)
	}
	renew := requestFrom(t, 1, dhcpv4.WithClientIP(ip.AsSlice()))
	wider := testConfig()
	wider.Networks[0].Subnets[0].Pools = []lease.Range{{First: netip.MustParseAddr("10.99.0.90"),
		Last: netip.MustParseAddr("10.99.0.110")}}
	if err := s.Apply(wider, testCards); err != nil {
		t.Fatal(err)
	}
	if a := handle(t, s, renew); a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("renewing in a wider pool: %v; want an ACK", a)
	}
	if other, err := leaseTo(t, s, cardMAC(2)); err != nil || other == ip {
		t.Errorf("another card gets %s, %v; want another address than %s", other, err, ip)
	}
	bad := testConfig()
	bad.Networks[0].Subnets[0].Pools = []lease.Range{{First: netip.MustParseAddr("10.99.0.1"),
		Last: netip.MustParseAddr("10.99.0.110")}}
	if err := s.Apply(bad, testCards); err == nil || !strings.Contains(err.Error(),
		"contains the server's own address 10.99.0.1") {
		t.Errorf("Apply(a pool with our own address) = %v", err)
	}
	moved := testConfig()
	moved.Networks[0].Subnets[0].Pools = []lease.Range{{First: netip.MustParseAddr("10.99.0.200"),
		Last: netip.MustParseAddr("10.99.0.210")}}
	if err := s.Apply(moved, testCards); err != nil {
		t.Fatal(err)
	}
	if a := handle(t, s, renew); a == nil || a.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("renewing an address that is in no pool any more: %v; want a NAK", a)
	}
}
