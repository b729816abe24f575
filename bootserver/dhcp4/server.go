package dhcp4

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sync/errgroup"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// Server answers DHCP on the interfaces of a Config.
type Server struct {
	*shared
	// Probe tests whether an address is in use; nil: addresses are not probed. It is
	// set before Serve.
	Probe func(context.Context, Probe) (user string, used bool)

	// Answers reports whether an interface answers; nil: all do. It is set before Serve.
	Answers func(iface string) bool

	id       string
	probes   probes
	inFlight network.InFlight[packetKey]
}

// New makes a server of a configuration and this host's interfaces, by name. id
// tells it from other ingots; empty: random.
func New(c Config, cards map[string]network.Card, id string, p network.Parts) (*Server, error) {
	if id == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		id = hex.EncodeToString(b[:])
	}
	common, err := network.NewServer(c, cards, p)
	if err != nil {
		return nil, err
	}
	return &Server{shared: common, id: id}, nil
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
		if l.raw != nil {
			g.Go(func() error { return s.overhear(ctx, l) })
			g.Go(func() error { return s.sendQueries(ctx, l) })
		}
	}
	return g.Wait()
}

// maxPacket is the largest packet that is read, in bytes; clients send none that
// are larger.
const maxPacket = 2048

// packetKey tells a retransmission from another packet.
type packetKey struct {
	iface, mac string
	id         dhcpv4.TransactionID
	kind       dhcpv4.MessageType
}

// receive parses a packet and handles it in a goroutine: a packet that waits for
// the disk, or for the probe of an address, does not delay others.
func (s *Server) receive(ctx context.Context, l *Link, d network.Datagram, pxe bool) {
	if s.Answers != nil && !s.Answers(l.Interface.Name) {
		return
	}
	m, err := dhcpv4.FromBytes(d.Payload)
	if err == nil && m.OpCode == dhcpv4.OpcodeBootRequest && m.HWType != iana.HWTypeEthernet && len(m.ClientHWAddr) != 6 {
		s.warnHardware(l.Interface.Name, m)
		return
	}
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) != 6 {
		s.Log.Debug("malformed DHCP packet", "from", d.From, "err", err)
		return
	}
	p := Packet{Interface: l.Interface.Name, From: d.From, To: d.To, Port: PortDHCP, Message: m}
	if pxe {
		p.Port = client.PortPXE
	}
	key := packetKey{p.Interface, string(m.ClientHWAddr), m.TransactionID, m.MessageType()}
	sender := network.Sender{Unknown: !s.knows(m), Begins: key.kind == dhcpv4.MessageTypeDiscover}
	s.inFlight.Run(ctx, key, sender, func() { s.respond(ctx, l, p) })
}

// knows reports whether the machine that sent a packet is configured or approved.
func (s *Server) knows(p *dhcpv4.DHCPv4) bool {
	mac := client.MACText(p.ClientHWAddr)
	return s.Site().Machine(mac) != nil || s.Booter.Lookup(mac, "").Approved
}

// respond handles one packet and sends the answer.
func (s *Server) respond(ctx context.Context, l *Link, p Packet) {
	r, err := s.Handle(ctx, p)
	if err != nil {
		s.unanswered(p, err)
		return
	}
	if r == nil {
		return
	}
	if err = l.send(r); ctx.Err() != nil {
		return
	}
	s.RecordSent(r.record, err)
	if err != nil {
		s.Log.Warn("sending DHCP", "mac", r.Message.ClientHWAddr.String(), "to", r.To, "err", err)
	}
}
