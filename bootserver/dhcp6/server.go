package dhcp6

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sync/errgroup"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// Server answers DHCPv6 on the interfaces of a Config.
type Server struct {
	duid     []byte
	booter   client.Booter
	log      *slog.Logger
	now      func() time.Time
	note     func(client.Packet)
	site     atomic.Pointer[site]
	book     *lease.Book
	observer *network.Observer
	inside   network.InFlight[packetKey]
}

// Parts are what a Server is joined to.
type Parts struct {
	Store  lease.Store
	Booter client.Booter
	ID     [16]byte            // stays the same as long as the leases do; the server's DUID is made of it
	Log    *slog.Logger        // nil is quiet
	Now    func() time.Time    // nil means time.Now
	Note   func(client.Packet) // told of packets that matter, and must not wait for anything; nil is fine
}

// New makes a server of a configuration and this host's interfaces, by name.
func New(c Config, cards map[string]network.Card, p Parts) (*Server, error) {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	p.ID[6], p.ID[8] = p.ID[6]&0x0f|0x40, p.ID[8]&0x3f|0x80 // a random UUID (RFC 9562 section 5.4)
	s := &Server{duid: append([]byte{0, duidUUID}, p.ID[:]...), booter: p.Booter, log: p.Log, now: p.Now, note: p.Note}
	s.observer = network.NewObserver(p.Log)
	made, err := newSite(c, cards)
	if err != nil {
		return nil, err
	}
	if s.book, err = lease.Open(p.Store, made.networks.Layout()); err != nil {
		return nil, err
	}
	s.site.Store(made)
	return s, nil
}

// Apply changes the configuration of a running server; leases stay. Interfaces
// that it did not serve before need a Serve of their own. When it fails
// nothing has changed.
func (s *Server) Apply(c Config, cards map[string]network.Card) error {
	made, err := newSite(c, cards)
	if err != nil {
		return err
	}
	s.site.Store(made)
	s.book.Arrange(made.networks.Layout())
	return nil
}

// Leases returns what is or was lent.
func (s *Server) Leases() []fleet.Lease { return s.book.List() }

// Heard returns who was heard on the networks.
func (s *Server) Observations() network.Observations { return s.observer.Observations() }

// Pools returns the pools of an interface's network.
func (s *Server) Pools(iface string) []lease.Range {
	p := s.site.Load().ports[iface]
	if p == nil {
		return nil
	}
	return p.Network.Pools()
}

// packetKey tells a repetition from another packet.
type packetKey struct {
	iface, client string
	id            dhcpv6.TransactionID
	kind          dhcpv6.MessageType
}

// Serve answers on the links until ctx ends or a link fails.
func (s *Server) Serve(ctx context.Context, links ...*Link) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range links {
		stop := context.AfterFunc(ctx, l.Close)
		defer stop()
		g.Go(func() error { return s.receive(ctx, l, l.server, PortServer) })
		if l.pxe != nil {
			g.Go(func() error { return s.receive(ctx, l, l.pxe, PortPXE) })
		}
	}
	return g.Wait()
}

// handle works on one packet and sends the answer.
func (s *Server) handle(ctx context.Context, l *Link, p Packet) {
	a, err := s.Handle(p)
	if err != nil {
		// Each reason once an hour, however many ask.
		s.observer.Warn(p.Interface, "err "+err.Error(), fmt.Sprintf("a client (%s) could not be answered: %v", p.From.Addr(), err), s.now())
		s.unanswered(p, err)
		return
	}
	if a == nil {
		return
	}
	if err = l.send(a); ctx.Err() != nil {
		return
	}
	s.sent(a, err)
	if err != nil {
		s.log.Warn("sending DHCPv6", "to", a.To, "err", err)
	}
}
