package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/bootserver/fleet"
)

// Book is where leases are kept.
type Book interface {
	// Leases returns all leases by MAC address.
	Leases() map[string]fleet.Lease
	// PutLease stores a lease; it is durable when PutLease returns.
	PutLease(fleet.Lease) error
	// DropLease forgets the lease of a card.
	DropLease(mac string) error
}

// Booter decides what a client boots.
type Booter interface {
	// Seen is told of every packet of firmware and loaders, and returns the URL
	// of the script for a loader, or nothing for firmware.
	Seen(c Client, ip netip.Addr) (script string, err error)
}

// Server answers one network. Its fields are set before Serve.
type Server struct {
	Network Told
	Range   Range
	Book    Book
	Booter  Booter
	Now     func() time.Time
	Log     *slog.Logger
	Link    int // index of the interface, for neighbours; 0: answer by broadcast

	mu     sync.Mutex
	offers map[string]offer         // by MAC
	bad    map[netip.Addr]time.Time // declined addresses, until when
}

type offer struct {
	ip    netip.Addr
	until time.Time
}

const (
	offerTime   = time.Minute
	declineTime = 10 * time.Minute
	maxOffers   = 65536 // bound of what strangers can make grow
)

// Listen opens the server's socket on one interface. It does not share the
// port: a second server must fail, not split the packets.
func Listen(ctx context.Context, iface string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			inner = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), iface))
		})
		return errors.Join(err, inner)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", ":67")
	if err != nil {
		return nil, fmt.Errorf("listening for DHCP on %s: %w", iface, err)
	}
	return c.(*net.UDPConn), nil
}

// Serve answers packets until ctx ends or the socket fails.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, 4096)
	for {
		n, _, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("receiving DHCP: %w", err)
		}
		p, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || p.OpCode != dhcpv4.OpcodeBootRequest || len(p.ClientHWAddr) != 6 {
			s.Log.Debug("broken DHCP packet", "err", err)
			continue
		}
		a, err := s.Handle(p)
		if err != nil {
			s.Log.Warn("answering DHCP", "mac", p.ClientHWAddr.String(), "type", p.MessageType().String(), "err", err)
		}
		if a != nil {
			s.send(conn, p, a)
		}
	}
}

func (s *Server) send(conn *net.UDPConn, p, a *dhcpv4.DHCPv4) {
	to, neighbour := Destination(p, a)
	if neighbour && !s.tellKernel(p.ClientHWAddr, to.Addr()) {
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort)
	}
	if _, err := conn.WriteToUDPAddrPort(a.ToBytes(), to); err != nil {
		s.Log.Warn("sending DHCP", "mac", p.ClientHWAddr.String(), "to", to, "err", err)
	}
}

// tellKernel enters the client into the neighbour table, so that the kernel
// can send to an address that answers no ARP yet.
func (s *Server) tellKernel(mac net.HardwareAddr, ip netip.Addr) bool {
	if s.Link == 0 {
		return false
	}
	err := netlink.NeighSet(&netlink.Neigh{LinkIndex: s.Link, IP: ip.AsSlice(), HardwareAddr: mac,
		State: netlink.NUD_REACHABLE, Family: unix.AF_INET})
	if err != nil {
		s.Log.Debug("entering a neighbour; answering by broadcast", "err", err)
	}
	return err == nil
}

// Handle makes the answer to a packet, nil for none. A lease that it
// acknowledges is durable.
func (s *Server) Handle(p *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	c := Parse(p)
	switch p.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.discover(p, c)
	case dhcpv4.MessageTypeRequest:
		return s.request(p, c)
	case dhcpv4.MessageTypeDecline:
		return nil, s.decline(p, c)
	case dhcpv4.MessageTypeInform:
		return Answer(p, dhcpv4.MessageTypeAck, c, s.Network, netip.Addr{}, "")
	case dhcpv4.MessageTypeRelease:
		// The address stays with the card: it will ask again. A lease that is
		// needed otherwise expires.
		return nil, nil
	}
	return nil, nil
}

func (s *Server) discover(p *dhcpv4.DHCPv4, c Client) (*dhcpv4.DHCPv4, error) {
	ip, err := s.choose(c.MAC, address(p.RequestedIPAddress()))
	if err != nil {
		return nil, err
	}
	script, err := s.seen(c, ip)
	if err != nil {
		return nil, err
	}
	return Answer(p, dhcpv4.MessageTypeOffer, c, s.Network, ip, script)
}

func (s *Server) seen(c Client, ip netip.Addr) (string, error) {
	if c.Kind == System {
		return "", nil
	}
	return s.Booter.Seen(c, ip)
}

// choose picks an address and holds it for the request that follows.
func (s *Server) choose(mac string, wish netip.Addr) (netip.Addr, error) {
	now := s.Now()
	leases := s.Book.Leases()
	s.mu.Lock()
	defer s.mu.Unlock()
	ip, err := Pick(s.Range, leases, mac, wish, s.taken(leases, now))
	if err != nil {
		return ip, err
	}
	if s.offers == nil {
		s.offers = map[string]offer{}
	}
	if len(s.offers) >= maxOffers {
		for m, o := range s.offers {
			if now.After(o.until) {
				delete(s.offers, m)
			}
		}
	}
	if len(s.offers) < maxOffers {
		s.offers[mac] = offer{ip, now.Add(offerTime)}
	}
	return ip, nil
}

// taken joins leases, offers and declined addresses; s.mu is held.
func (s *Server) taken(leases map[string]fleet.Lease, now time.Time) Taken {
	byLease := LeaseTaken(leases, now)
	offered := map[netip.Addr]string{}
	for mac, o := range s.offers {
		if now.Before(o.until) {
			offered[o.ip] = mac
		}
	}
	return func(ip netip.Addr, mac string) bool {
		if holder, ok := offered[ip]; ok && holder != mac {
			return true
		}
		return ip == s.Network.Server || now.Before(s.bad[ip]) || byLease(ip, mac)
	}
}

// request answers a DHCPREQUEST in each of the client's states (RFC 2131
// section 4.3.2): SELECTING, INIT-REBOOT, RENEWING, REBINDING.
func (s *Server) request(p *dhcpv4.DHCPv4, c Client) (*dhcpv4.DHCPv4, error) {
	chosen := address(p.ServerIdentifier())
	if chosen.IsValid() && chosen != s.Network.Server {
		return nil, nil // the client took another server's offer
	}
	want := address(p.RequestedIPAddress())
	if !want.IsValid() {
		want = address(p.ClientIPAddr)
	}
	now := s.Now()
	leases := s.Book.Leases()
	s.mu.Lock()
	free := s.Range.Contains(want) && !s.taken(leases, now)(want, c.MAC)
	_, offered := s.offers[c.MAC]
	s.mu.Unlock()
	if _, has := leases[c.MAC]; !has && !offered && !chosen.IsValid() && s.Network.Prefix.Contains(want) {
		return nil, nil // INIT-REBOOT of a stranger: not ours to refuse
	}
	if !free {
		return Answer(p, dhcpv4.MessageTypeNak, Client{}, s.Network, netip.Addr{}, "")
	}
	lease := fleet.Lease{MAC: c.MAC, Address: want, Expires: now.Add(s.Network.Lease), Hostname: clip(p.HostName())}
	if err := s.Book.PutLease(lease); err != nil {
		return nil, err // no ACK for what is not on disk
	}
	s.mu.Lock()
	delete(s.offers, c.MAC)
	s.mu.Unlock()
	script, err := s.seen(c, want)
	if err != nil {
		return nil, err
	}
	return Answer(p, dhcpv4.MessageTypeAck, c, s.Network, want, script)
}

// decline takes an address out of use that the client found taken.
func (s *Server) decline(p *dhcpv4.DHCPv4, c Client) error {
	ip := address(p.RequestedIPAddress())
	if l, ok := s.Book.Leases()[c.MAC]; !ok || l.Address != ip {
		return nil // only who holds an address can decline it
	}
	s.Log.Warn("an address that we lent is used by somebody else", "address", ip, "mac", c.MAC)
	s.mu.Lock()
	if s.bad == nil {
		s.bad = map[netip.Addr]time.Time{}
	}
	s.bad[ip] = s.Now().Add(declineTime)
	s.mu.Unlock()
	return s.Book.DropLease(c.MAC)
}

func address(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func clip(s string) string { return s[:min(len(s), 64)] }
