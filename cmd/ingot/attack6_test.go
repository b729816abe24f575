package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/api"
	"ingot/internal/wire"
)

// message6 is a DHCPv6 message of a client with a card and a user class.
func message6(t *testing.T, kind dhcpv6.MessageType, mac, class string) *dhcpv6.Message {
	t.Helper()
	card, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: card}))
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	m.AddOption(&dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte(class)}})
	m.AddOption(dhcpv6.OptClientArchType(iana.EFI_X86_64))
	m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionBootfileURL))
	if kind == dhcpv6.MessageTypeSolicit {
		m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}})
	}
	return m
}

// relayed6 is a message as a relay sends it on, with the switch port that it saw.
func relayed6(inner dhcpv6.DHCPv6, link, peer, port string) *dhcpv6.RelayMessage {
	r := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: net.ParseIP(link),
		PeerAddr: net.ParseIP(peer)}
	r.AddOption(dhcpv6.OptInterfaceID([]byte(port)))
	r.AddOption(dhcpv6.OptRelayMessage(inner))
	return r
}

// send6 sends a message from an address and returns the answer, nil for none.
func (h host) send6(p dhcpv6.DHCPv6) (answer []byte) {
	h.t.Helper()
	wire.Within(h.t, h.party, func() error {
		local, to := netip.MustParseAddrPort(fmt.Sprintf("[%s]:%d", h.ip, h.port)), netip.MustParseAddrPort(h.to)
		conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(local))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.WriteToUDPAddrPort(p.ToBytes(), to); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(h.wait))
		b := make([]byte, 4096)
		if n, err := conn.Read(b); err == nil {
			answer = b[:n]
		}
		return nil
	})
	return answer
}

// serve6 gives the site IPv6 and starts the program there, in a mode.
func (s *site) serve6(mode string) {
	s.t.Helper()
	for party, commands := range map[string][]string{
		"router": {"address add fd00:99::fe/64 dev eth0 nodad", "address add fd00:7::1/64 dev eth1 nodad"},
		"far":    {"address add fd00:7::66/64 dev eth0 nodad", "route add default via fd00:7::1"},
	} {
		for _, c := range commands {
			wire.In(s.t, party, append([]string{"ip", "-6"}, strings.Fields(c)...)...)
		}
	}
	wire.In(s.t, "router", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	wire.Run(s.t, "ip", "address", "add", "fd00:99::1/64", "dev", "eth1", "nodad")
	wire.Run(s.t, "ip", "route", "add", "fd00:7::/64", "via", "fd00:99::fe")
	config := `dhcp6:
  interfaces: [{name: eth1, mode: ` + mode + `}]
`
	if mode == "full" {
		config += `  networks:
    - {name: lab, interface: eth1, subnets: [{prefix: "fd00:99::/64", pools: ["fd00:99::1:0-fd00:99::1:ff"]}]}
    - name: far
      relays: ["fd00:7::1", "fd00:99::fe"]
      subnets: [{prefix: "fd00:7::/64", pools: ["fd00:7::1:0-fd00:7::1:ff"]}]
boots:
  rules: [{port: "Eth9/*", approve: true, image: "lab:v1"}]
`
	}
	s.serve(config)
}

// TestAttackOverIPv6: a host of another network gets nothing by a Relay-forward of its own, also
// through the relay of its network, and no port is believed; the relay itself is answered.
func TestAttackOverIPv6(t *testing.T) {
	if !wire.On(t) {
		return
	}
	s := newSite(t)
	s.serve6("full")
	far := host{t: t, party: "far", ip: "fd00:7::66", port: dhcpv6.DefaultServerPort, to: "[fd00:99::1]:547",
		wait: time.Second}
	solicit := message6(t, dhcpv6.MessageTypeSolicit, victimMAC, "iPXE")
	router := far
	router.party, router.ip, router.wait = "router", "fd00:99::fe", 15*time.Second
	const peer = "fe80::5054:ff:feaa:3"
	for what, p := range map[string]dhcpv6.DHCPv6{
		"its own address as link":          relayed6(solicit, "fd00:7::66", peer, "Eth9/1"),
		"the relay's address as link":      relayed6(solicit, "fd00:7::1", peer, "Eth9/1"),
		"the victim's network as link":     relayed6(solicit, "fd00:99::fe", peer, "Eth9/1"),
		"no link, as a switch":             relayed6(solicit, "::", peer, "Eth9/1"),
		"no relay, as a client would send": solicit,
	} {
		if a := far.send6(p); a != nil {
			t.Errorf("%s: the attacker gets %q", what, a)
		}
	}
	quiet := router
	quiet.wait = time.Second // what the attacker would make the relay of its network send on
	if a := quiet.send6(relayed6(relayed6(solicit, "fd00:99::fe", peer, "Eth9/1"), "fd00:7::1", "fd00:7::66",
		"eth1")); a != nil {
		t.Errorf("a relay in a relay: the attacker gets %q", a)
	}
	if m := s.machine(victimMAC); m != nil {
		t.Errorf("a forged Relay-forward makes %s %s, at port %s", victimMAC, m.State, m.Port)
	}
	if a := router.send6(relayed6(solicit, "fd00:7::1", peer, "Eth1/7")); a == nil {
		t.Error("the real relay is not answered")
	}
	m := s.machine(victimMAC)
	if m == nil || m.State != api.Pending || m.Port.String() != "Eth1/7 via fd00:7::1" {
		t.Errorf("through the real relay, the machine is %+v; want it pending at Eth1/7", m)
	}
	n, err := s.api().Network(t.Context())
	if text := fmt.Sprint(n.Refused); err != nil || !strings.Contains(text, "dhcp6: relays: [") {
		t.Errorf("refused relays: %s, %v; want the line to add", text, err)
	}
}

// TestAttackOverIPv6BesideAnotherServer: a host of another network does not get the URL of a boot from
// a server that only says what to boot.
func TestAttackOverIPv6BesideAnotherServer(t *testing.T) {
	if !wire.On(t) {
		return
	}
	s := newSite(t)
	s.serve6("boot")
	attack := func(port int) []byte {
		far := host{t: t, party: "far", ip: "fd00:7::66", port: dhcpv6.DefaultClientPort,
			to: fmt.Sprintf("[fd00:99::1]:%d", port), wait: time.Second}
		return far.send6(message6(t, dhcpv6.MessageTypeInformationRequest, victimMAC, "iPXE"))
	}
	// The first packets wait until the routers know their neighbours, longer than the attacker does.
	wire.Eventually(t, "the attacker is named", func() bool {
		attack(547)
		n, err := s.api().Network(t.Context())
		return err == nil && len(n.Refused) > 0
	})
	for _, port := range []int{547, 4011} {
		if a := attack(port); a != nil {
			t.Errorf("port %d gives the attacker %q", port, a)
		}
	}
	if m := s.machine(victimMAC); m != nil {
		t.Errorf("the attacker's request makes the machine %s", m.State)
	}
}
