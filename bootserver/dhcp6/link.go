package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/net/ipv6"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// Link is an interface with its open sockets.
type Link struct {
	name        string
	index       int
	server, pxe *ipv6.PacketConn
}

// The groups of servers and relays (RFC 8415 section 7.1): clients ask the
// first one, relays without an address of a server the second.
var (
	allServersAndRelays = netip.MustParseAddr("ff02::1:2")
	allServers          = netip.MustParseAddr("ff05::1:3")
)

// Listen opens the sockets of an interface. It does not share the ports: a
// second server must fail, not split the packets.
func Listen(ctx context.Context, i Interface) (_ *Link, err error) {
	n, err := net.InterfaceByName(i.Name)
	if err != nil {
		return nil, fmt.Errorf("listening for DHCPv6 on %s: %w", i.Name, err)
	}
	l := &Link{name: i.Name, index: n.Index}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.server, err = listenUDP(ctx, n, PortServer); err != nil {
		return nil, err
	}
	for _, group := range []netip.Addr{allServersAndRelays, allServers} {
		if err := l.server.JoinGroup(n, &net.UDPAddr{IP: group.AsSlice()}); err != nil {
			return nil, fmt.Errorf("listening for DHCPv6 on %s: joining %s: %w", i.Name, group, err)
		}
	}
	if i.Mode == Boot {
		if l.pxe, err = listenUDP(ctx, n, PortPXE); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Close closes the sockets.
func (l *Link) Close() {
	for _, c := range []*ipv6.PacketConn{l.server, l.pxe} {
		if c != nil {
			_ = c.Close() // nothing more comes from it, whatever it says
		}
	}
}

func listenUDP(ctx context.Context, n *net.Interface, port int) (*ipv6.PacketConn, error) {
	c, err := network.Listen(ctx, network.IPv6, n.Name, port)
	if err != nil {
		return nil, fmt.Errorf("listening for DHCPv6 on %s: %w", n.Name, err)
	}
	p := ipv6.NewPacketConn(c)
	if err := p.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for DHCPv6 on %s: %w", n.Name, err), c.Close())
	}
	return p, nil
}

// maxPacket is the largest packet that is read: larger ones are nobody's.
const maxPacket = 4096

// receive reads packets and lets each be worked on by itself: who waits for the
// disk keeps nobody else waiting.
func (s *Server) receive(ctx context.Context, l *Link, c *ipv6.PacketConn, port uint16) error {
	room := network.Room(maxPacket, ipv6.NewControlMessage(ipv6.FlagDst))
	take := func(m ipv6.Message) { s.admit(ctx, l, m, port) }
	if err := network.Receive(ctx, c, room, take, func() { s.observer.WarnDown(l.name, s.now()) }); err != nil {
		return fmt.Errorf("receiving DHCPv6 on %s: %w", l.name, err)
	}
	return nil
}

func (s *Server) admit(ctx context.Context, l *Link, m ipv6.Message, port uint16) {
	p := Packet{Interface: l.name, Port: port}
	if a, ok := m.Addr.(*net.UDPAddr); ok {
		p.From = a.AddrPort()
	}
	var cm ipv6.ControlMessage
	if cm.Parse(m.OOB[:m.NN]) == nil {
		p.To, _ = netip.AddrFromSlice(cm.Dst)
	}
	var err error
	if p.Message, err = dhcpv6.FromBytes(m.Buffers[0][:m.N]); err != nil {
		s.log.Debug("broken DHCPv6 packet", "from", p.From, "err", err)
		return
	}
	chain, msg := unwrap(p.Message)
	if msg == nil {
		return
	}
	peer := (&talk{Packet: p, chain: chain}).peer()
	c := Parse(msg, chain, peer)
	k := packetKey{l.name, c.key() + peer.String(), msg.TransactionID, msg.MessageType}
	if !s.inside.Enter(k, network.Sender{Stranger: !s.familiar(c), Begins: k.kind == dhcpv6.MessageTypeSolicit}) {
		return
	}
	go func() {
		defer s.inside.Leave(k)
		s.handle(ctx, l, p)
	}()
}

// familiar reports whether a packet is of a machine that we know.
func (s *Server) familiar(c Client) bool {
	return s.site.Load().machine(c, "") != nil || c.MAC+c.UUID != "" && s.booter.Lookup(c.MAC, c.UUID).Approved
}

func (l *Link) send(r *Reply) error {
	c := l.server
	if r.Port == client.PortPXE && l.pxe != nil {
		c = l.pxe
	}
	cm := &ipv6.ControlMessage{IfIndex: l.index}
	if r.From.IsValid() {
		cm.Src = r.From.AsSlice()
	}
	_, err := c.WriteTo(r.Message.ToBytes(), cm, net.UDPAddrFromAddrPort(r.To))
	return err
}
