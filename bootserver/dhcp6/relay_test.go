package dhcp6

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

// forwarded is a message in the Relay-forward of a relay.
func forwarded(inner dhcpv6.DHCPv6, link, peer string, options ...option) *dhcpv6.RelayMessage {
	r := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: net.ParseIP(link),
		PeerAddr: net.ParseIP(peer)}
	for _, o := range options {
		r.AddOption(o)
	}
	r.AddOption(dhcpv6.OptRelayMessage(inner))
	return r
}

// observed is a fleet that keeps what it is asked for.
type observed struct {
	scripted
	list *[]client.Sighting
}

func (o observed) Observe(s client.Sighting) (client.Boot, error) {
	*o.list = append(*o.list, s)
	return o.scripted.Observe(s)
}

// TestRelaysAreListed: a Relay-forward is believed if its source, its link-address and
// every relay between them are listed, and its switch port if a relay saw it.
func TestRelaysAreListed(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	far := Network{Name: "far", Relays: relaysOf("fd00:7::1", "fd00:99::fe", "fe80::7"),
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:7::/64"), Pools: testRangeOf("fd00:7::100", "fd00:7::1ff")}}}
	mid := Network{Name: "mid", Relays: relaysOf("fd00:8::1", "fd00:99::fe"),
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:8::/64"), Pools: testRangeOf("fd00:8::100", "fd00:8::1ff")}}}
	c.Networks = append(c.Networks, far, mid)
	request := asks(dhcpv6.MessageTypeRequest, 3, append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007"), us(), na())...)
	solicit := asks(dhcpv6.MessageTypeSolicit, 3, append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007"), na())...)
	port, leaf := dhcpv6.OptInterfaceID([]byte("swp7")), dhcpv6.OptInterfaceID([]byte("leaf"))
	peer := linkLocal(cardMAC(3)).String()
	for _, x := range []struct {
		what    string
		from    string
		message dhcpv6.DHCPv6
		port    string
		refused network.RefusalCode // "": it is answered
	}{
		{"a listed relay", "fd00:99::fe", forwarded(request, "fd00:7::1", peer, port), "swp7 via fd00:7::1", ""},
		{"another source", "fd00:99::fd", forwarded(request, "fd00:7::1", peer, port), "", network.RefusedUnlisted},
		{"another link-address", "fd00:99::fe", forwarded(request, "fd00:7::2", peer, port), "", network.RefusedUnlisted},
		{"a client of a pool as relay", "fd00:99::fe", forwarded(request, "fd00:7::101", peer, port), "",
			network.RefusedPool},
		{"a network that is not configured", "fd00:99::fe", forwarded(request, "fd00:9::1", peer, port), "",
			network.RefusedNoNetwork},
		{"a listed relay behind another", "fd00:99::fe", forwarded(forwarded(request, "fd00:7::1", peer, port), "::",
			"fe80::7"),
			"swp7 via fd00:7::1", ""},
		{"a client that plays a relay to a listed one", "fd00:99::fe",
			forwarded(forwarded(request, "fd00:7::1", peer, port), "fd00:8::1", "fd00:8::66"), "", network.RefusedUnlisted},
		{"a client that plays two relays to a listed one", "fd00:99::fe",
			forwarded(forwarded(forwarded(request, "fd00:7::1", peer, port), "::", "fe80::7"), "fd00:8::1", "fd00:8::66"), "",
			network.RefusedUnlisted},
		{"a client that plays a switch to a listed relay", "fd00:99::fe",
			forwarded(forwarded(request, "::", peer, port), "fd00:7::1", "fe80::66", leaf), "leaf via fd00:7::1", ""},
		{"a client that plays a switch here", peer, forwarded(solicit, "::", peer, port), "", ""},
		{"another network without a relay", "fd00:66::1", request, "", network.RefusedOffLink},
		{"another network as a switch", "fd00:66::1", forwarded(request, "::", peer, port), "", network.RefusedOffLink},
	} {
		var seen []client.Sighting
		s := serverOf(t, c, &leasetest.Store{}, observed{scripted{}, &seen}, &now)
		r, err := s.Handle(Packet{Interface: "eth0", Port: PortServer, Message: x.message, To: allServers,
			From: netip.AddrPortFrom(netip.MustParseAddr(x.from), PortServer)})
		refusals := s.Observations().Refusals
		switch {
		case err != nil:
			t.Error(err)
		case x.refused != "":
			if r != nil || len(seen) > 0 || len(refusals) != 1 || refusals[0].Code != x.refused {
				t.Errorf("%s: %v, seen %v, refused %+v; want %s", x.what, r, seen, refusals, x.refused)
			}
		case r == nil || len(seen) != 1 || seen[0].Port.String() != x.port || len(refusals) > 0:
			t.Errorf("%s: %v, seen %+v, refused %+v; want an answer and port %q", x.what, r, seen, refusals, x.port)
		}
	}
	c.Networks[0].Snooping, c.Networks[1].Snooping = true, true
	for want, x := range map[fleet.SwitchPort]Packet{
		{Relay: netip.MustParseAddr("fd00:99::"), Circuit: "swp7"}: {From: netip.AddrPortFrom(linkLocal(cardMAC(3)), 547),
			Message: forwarded(solicit, "::", peer, port)},
		{Relay: netip.MustParseAddr("fd00:7::1"), Circuit: "swp7"}: {From: netip.MustParseAddrPort("[fd00:99::fe]:547"),
			Message: forwarded(forwarded(request, "::", peer, port), "fd00:7::1", peer, leaf)},
	} {
		var seen []client.Sighting
		s := serverOf(t, c, &leasetest.Store{}, observed{scripted{}, &seen}, &now)
		x.Interface, x.Port, x.To = "eth0", PortServer, allServers
		if r, err := s.Handle(x); err != nil || r == nil || len(seen) != 1 || seen[0].Port != want {
			t.Errorf("with snooping: %v, %v, %+v; want port %s", r, err, seen, want)
		}
	}
}

// TestBootFromElsewhere: beside another server, a host of a network that is not configured gets
// nothing to boot, on either port.
func TestBootFromElsewhere(t *testing.T) {
	now := time.Unix(1000, 0)
	c := withMode(Boot)
	c.Networks = append(c.Networks, Network{Name: "far",
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:7::/64")}}})
	s := serverOf(t, c, &leasetest.Store{}, scripted{}, &now)
	ask := func(from string, port uint16) string {
		m := asks(dhcpv6.MessageTypeInformationRequest, 3,
			&dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte(client.InitClass)}}, wants(dhcpv6.OptionBootfileURL))
		r, err := s.Handle(Packet{Interface: "eth0", Port: port, Message: m, To: testServer,
			From: netip.AddrPortFrom(netip.MustParseAddr(from), PortClient)})
		if err != nil {
			t.Fatal(err)
		}
		if r == nil {
			return ""
		}
		return r.Message.(*dhcpv6.Message).Options.BootFileURL()
	}
	for from, want := range map[string][2]bool{"fd00:99::77": {true, true}, "fd00:7::77": {false, true},
		"fd00:66::1": {false, false}} {
		for i, port := range []uint16{PortServer, client.PortPXE} {
			if got := ask(from, port); (got != "") != want[i] {
				t.Errorf("port %d from %s: %q; want an answer: %v", port, from, got, want[i])
			}
		}
	}
	if text := fmt.Sprint(s.Observations().Refusals); !strings.Contains(text, "fd00:66::1") {
		t.Errorf("the refusals %s do not name fd00:66::1", text)
	}
}
