package dhcp4

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// Server answers DHCP on the interfaces of a Config.
type Server struct {
	// Probe tests whether somebody uses an address; nil: addresses are not
	// tested. It is set before Serve.
	Probe func(context.Context, Trial) (holder string, used bool)

	id       string
	store    lease.Store
	booter   client.Booter
	log      *slog.Logger
	now      func() time.Time
	note     func(client.Packet)
	site     atomic.Pointer[site]
	book     *lease.Book
	observer *network.Observer
	trials   trials
	inside   network.InFlight[packetKey]
	jobs     chan job
}

// Parts are what a Server is joined to.
type Parts struct {
	Store  lease.Store
	Booter client.Booter
	ID     string              // tells this server from others; empty: random
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
	if p.ID == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		p.ID = hex.EncodeToString(b[:])
	}
	s := &Server{id: p.ID, store: p.Store, booter: p.Booter, log: p.Log, now: p.Now, note: p.Note, observer: network.NewObserver(p.Log), jobs: make(chan job)}
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

// Cards asks the kernel for the interfaces of a configuration. One that is not
// there is left out, and New says so.
func Cards(c Config) (map[string]network.Card, error) {
	cards := map[string]network.Card{}
	for _, i := range c.Interfaces {
		n, err := net.InterfaceByName(i.Name)
		if err != nil {
			continue
		}
		addrs, err := n.Addrs()
		if err != nil {
			return nil, fmt.Errorf("reading the addresses of %q: %w", i.Name, err)
		}
		card := network.Card{Index: n.Index, MAC: n.HardwareAddr}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				card.Prefixes = append(card.Prefixes, p)
			}
		}
		cards[i.Name] = card
	}
	return cards, nil
}

// packetKey tells a repetition from another packet.
type packetKey struct {
	iface, mac string
	id         dhcpv4.TransactionID
	kind       dhcpv4.MessageType
}

// Serve answers on the links until ctx ends or a link fails.
func (s *Server) Serve(ctx context.Context, links ...*Link) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range links {
		stop := context.AfterFunc(ctx, l.Close)
		defer stop()
		g.Go(func() error { return s.receive(ctx, l, l.dhcp, PortDHCP) })
		if l.pxe != nil {
			g.Go(func() error { return s.receive(ctx, l, l.pxe, client.PortPXE) })
		}
		if l.raw != nil {
			g.Go(func() error { return s.overhear(ctx, l) })
			g.Go(func() error { return s.question(ctx, l) })
		}
	}
	return g.Wait()
}

// handle works on one packet and sends the answer.
func (s *Server) handle(ctx context.Context, l *Link, p Packet) {
	a, err := s.Handle(ctx, p)
	if err != nil {
		s.complain(p, err)
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
		s.log.Warn("sending DHCP", "mac", a.Message.ClientHWAddr.String(), "to", a.To, "err", err)
	}
}

// complain tells of a packet that could not be answered: each reason once an
// hour, however many ask.
func (s *Server) complain(p Packet, err error) {
	s.observer.Warn(p.Interface, "err "+err.Error(), fmt.Sprintf("a client (%s) could not be answered: %v", p.Message.ClientHWAddr, err), s.now())
}
