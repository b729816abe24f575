package network

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
)

// Server is the part that DHCP servers of both families have in common: their
// configuration, leases and observations.
type Server[I Interface, M Machine[O], O Options[O]] struct {
	Booter   client.Booter
	Log      *slog.Logger
	Now      func() time.Time
	Book     *lease.Book
	Observer *Observer
	site     atomic.Pointer[Site[I, M, O]]
	record   func(client.Packet)
}

// Parts are what a server is joined to.
type Parts struct {
	Store  lease.Store
	Booter client.Booter
	Log    *slog.Logger        // nil is quiet
	Now    func() time.Time    // nil means time.Now
	Record func(client.Packet) // called with packets that help to explain a boot; must not block; nil is fine
}

// NewServer makes a server of a configuration and this host's interfaces, by name.
func NewServer[I Interface, M Machine[O], O Options[O]](c Config[I, M, O], cards map[string]Card,
	p Parts) (*Server[I, M, O], error) {
	s := &Server[I, M, O]{Booter: p.Booter, Log: p.Log, Now: p.Now, record: p.Record}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	s.Observer = NewObserver(s.Log)
	site, err := NewSite(c, cards)
	if err != nil {
		return nil, err
	}
	if s.Book, err = lease.Open(p.Store, site.Networks.Layout()); err != nil {
		return nil, err
	}
	s.site.Store(site)
	return s, nil
}

// Site returns the configuration in force.
func (s *Server[I, M, O]) Site() *Site[I, M, O] { return s.site.Load() }

// Apply changes the configuration of a running server; leases stay. Interfaces
// that it did not serve before need a Serve of their own. When it fails nothing
// has changed.
func (s *Server[I, M, O]) Apply(c Config[I, M, O], cards map[string]Card) error {
	site, err := NewSite(c, cards)
	if err != nil {
		return err
	}
	s.site.Store(site)
	s.Book.SetLayout(site.Networks.Layout())
	return nil
}

// Leases returns current and past leases.
func (s *Server[I, M, O]) Leases() []fleet.Lease { return s.Book.List() }

// Observations returns what was observed on the networks.
func (s *Server[I, M, O]) Observations() Observations { return s.Observer.Observations() }

// Others returns what other servers and the clients with some MAC addresses sent
// to each other.
func (s *Server[I, M, O]) Others(macs []string) (list []fleet.Other) {
	for iface := range s.Site().Interfaces {
		for _, mac := range macs {
			list = append(list, s.Observer.Others(iface, mac)...)
		}
	}
	return list
}

// Pools returns the pools of an interface's network.
func (s *Server[I, M, O]) Pools(iface string) []lease.Range {
	served := s.Site().Interfaces[iface]
	if served == nil {
		return nil
	}
	return served.Network.Pools()
}

// Record passes a packet on that helps to explain a boot.
func (s *Server[I, M, O]) Record(p client.Packet) {
	if s.record != nil {
		s.record(p)
	}
}

// RecordSent records an answer, nil for none, and why it could not be sent.
func (s *Server[I, M, O]) RecordSent(p *client.Packet, err error) {
	if p == nil {
		return
	}
	if err != nil {
		p.Unsent = err.Error()
	}
	s.Record(*p)
}

// RecordUnanswered records a packet that an error kept from being answered. It
// warns once an hour for each reason, however many clients there are.
func (s *Server[I, M, O]) RecordUnanswered(iface, sender string, p client.Packet, err error) {
	s.Observer.Warn(iface, "err "+err.Error(), fmt.Sprintf("client %s could not be answered: %v", sender, err), s.Now())
	p.Refused = err.Error()
	s.Record(p)
}

// Release frees an address that the client gives back with a message of a kind. It stays
// the card's own until another needs it. The change is durable when wait returns nil;
// ok is false if the client does not have the address.
func (s *Server[I, M, O]) Release(x *Exchange[I, M, O], kind string, ip netip.Addr) (wait func() error, ok bool) {
	wait, ok = s.Book.Release(x.Card(), ip, x.Now)
	if ok {
		s.Record(x.PacketRecord(fleet.Packet{Kind: kind, Address: ip}))
	}
	return wait, ok
}

// Decline takes an address out of use that the client found in use, see Release.
func (s *Server[I, M, O]) Decline(x *Exchange[I, M, O], kind string, ip netip.Addr) (wait func() error, ok bool) {
	wait, ok = s.Book.Decline(x.Card(), ip, x.Now)
	if ok {
		s.Observer.WarnInUse(x.Served.Config.Settings().Name, ip, x.Key, x.Now)
		s.Record(x.PacketRecord(fleet.Packet{Kind: kind, Address: ip, Refused: "it is in use"}))
	}
	return wait, ok
}
