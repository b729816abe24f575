package dhcp6

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sync/errgroup"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// Server answers DHCPv6 on the interfaces of a Config.
type Server struct {
	*shared
	// Answers reports whether an interface answers; nil: all do. It is set before Serve.
	Answers func(iface string) bool

	duid     []byte
	inFlight network.InFlight[packetKey]
}

// New makes a server of a configuration and this host's interfaces, by name. The
// server's DUID is made of id, which must stay the same as long as the leases do.
func New(c Config, cards map[string]network.Card, id [16]byte, p network.Parts) (*Server, error) {
	common, err := network.NewServer(c, cards, p)
	if err != nil {
		return nil, err
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a random UUID (RFC 9562 section 5.4)
	return &Server{shared: common, duid: append([]byte{0, duidUUID}, id[:]...)}, nil
}

// The multicast groups of servers and relays (RFC 8415 section 7.1): clients send to
// the first one, relays without an address of a server to the second.
var (
	allServersAndRelays = netip.MustParseAddr("ff02::1:2")
	allServers          = netip.MustParseAddr("ff05::1:3")
)

// Link is an interface with its open sockets.
type Link = network.Link

// Listen opens the sockets of an interface. It does not share the ports: a second
// server must fail, not get half of the packets.
func Listen(ctx context.Context, i Interface) (*Link, error) {
	l, err := network.OpenLink(ctx, network.IPv6, i.Name, PortServer, i.mode() == Boot)
	if err != nil {
		return nil, fmt.Errorf("opening DHCPv6 sockets: %w", err)
	}
	for _, group := range []netip.Addr{allServersAndRelays, allServers} {
		if err := l.DHCP.Join(group); err != nil {
			l.Close()
			return nil, fmt.Errorf("opening DHCPv6 sockets: %w", err)
		}
	}
	return l, nil
}

// Serve answers on the links until ctx ends or a link fails.
func (s *Server) Serve(ctx context.Context, links ...*Link) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range links {
		stop := context.AfterFunc(ctx, l.Close)
		defer stop()
		down := func() { s.Observer.WarnDown(l.Interface.Name, s.Now()) }
		g.Go(func() error {
			return l.Receive(ctx, maxPacket, func(d network.Datagram, pxe bool) { s.receive(ctx, l, d, pxe) }, down)
		})
	}
	return g.Wait()
}

// maxPacket is the largest packet that is read, in bytes; clients and relays send none
// that are larger.
const maxPacket = 4096

// packetKey tells a retransmission from another packet.
type packetKey struct {
	iface, client string
	id            dhcpv6.TransactionID
	kind          dhcpv6.MessageType
}

// receive parses a packet and handles it in a goroutine: a packet that waits for the
// disk does not delay others.
func (s *Server) receive(ctx context.Context, l *Link, d network.Datagram, pxe bool) {
	if s.Answers != nil && !s.Answers(l.Interface.Name) {
		return
	}
	p := Packet{Interface: l.Interface.Name, From: d.From, To: d.To, Port: PortServer}
	if pxe {
		p.Port = client.PortPXE
	}
	var err error
	if p.Message, err = dhcpv6.FromBytes(d.Payload); err != nil {
		s.Log.Debug("malformed DHCPv6 packet", "from", d.From, "err", err)
		return
	}
	chain, m := unwrap(p.Message)
	if m == nil {
		return
	}
	peer := peerOf(chain, p.From.Addr())
	c := Parse(m, chain, peer)
	key := packetKey{p.Interface, c.key() + peer.String(), m.TransactionID, m.MessageType}
	sender := network.Sender{Unknown: !s.knows(c), Begins: key.kind == dhcpv6.MessageTypeSolicit}
	s.inFlight.Run(ctx, key, sender, func() { s.respond(ctx, l, p) })
}

// knows reports whether the machine of a client is configured or approved.
func (s *Server) knows(c Client) bool {
	return s.Site().Machine(c.MAC, c.UUID, duidKey(c.DUID)) != nil || c.MAC+c.UUID != "" &&
		s.Booter.Lookup(c.MAC, c.UUID).Approved
}

// respond handles one packet and sends the answer.
func (s *Server) respond(ctx context.Context, l *Link, p Packet) {
	r, err := s.Handle(p)
	if err != nil {
		s.unanswered(p, err)
		return
	}
	if r == nil {
		return
	}
	if err = l.Socket(r.Port).Send(r.Message.ToBytes(), r.From, r.To); ctx.Err() != nil {
		return
	}
	s.RecordSent(r.record, err)
	if err != nil {
		s.Log.Warn("sending DHCPv6", "to", r.To, "err", err)
	}
}
