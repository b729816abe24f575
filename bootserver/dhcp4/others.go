package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"

	"ingot/bootserver/network"
)

// How other servers are looked for. dnsmasq, for one, pings an address for three seconds
// before it offers it.
const (
	listenTime = 5 * time.Second        // altogether
	othersTime = 500 * time.Millisecond // after the first one was heard
)

// FindServers looks for other DHCP servers that assign addresses on an interface: it
// listens for some seconds, and asks unless the interface is quiet. Servers of the same
// installation, and those that only say what to boot, are not among them.
func (s *Server) FindServers(ctx context.Context, i Interface, card network.Card) ([]network.ObservedServer, error) {
	on, err := net.InterfaceByName(i.Name)
	if err != nil {
		return nil, fmt.Errorf("looking for other DHCP servers: %w", err)
	}
	c, err := listenRaw(on)
	if err != nil {
		return nil, fmt.Errorf("looking for other DHCP servers on %s: %w", i.Name, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	at := netip.IPv4Unspecified()
	if len(card.Prefixes) > 0 {
		at = card.Prefixes[0].Addr()
	}
	query, err := newQuery(card.MAC, s.id+" "+at.String())
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	end := begin.Add(listenTime)
	asks := []time.Time{begin, begin.Add(time.Second), begin.Add(3 * time.Second)}
	if i.Quiet {
		asks = nil
	}
	var found []network.ObservedServer
	for time.Now().Before(end) {
		wait := end
		if len(asks) > 0 {
			if !time.Now().Before(asks[0]) {
				asks = asks[1:]
				if err := sendQuery(c, query); err != nil {
					return nil, fmt.Errorf("looking for other DHCP servers on %s: %w", i.Name, err)
				}
				continue
			}
			wait = asks[0]
		}
		heard, err := s.hearServer(c, i.Name, card, wait)
		if err != nil {
			return nil, fmt.Errorf("looking for other DHCP servers on %s: %w", i.Name, errors.Join(ctx.Err(), err))
		}
		if heard != nil && !slices.ContainsFunc(found, func(o network.ObservedServer) bool { return o.MAC == heard.MAC }) {
			found, end = append(found, *heard), time.Now().Add(othersTime)
		}
	}
	return found, nil
}

// sendQuery broadcasts a query.
func sendQuery(c *packet.Conn, query *dhcpv4.DHCPv4) error {
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpv4.ClientPort)
	to := netip.AddrPortFrom(broadcastClient.Addr(), PortDHCP)
	_, err := c.WriteTo(datagram(from, to, query.ToBytes()), &packet.Addr{HardwareAddr: broadcastMAC})
	return err
}

// hearServer returns the next other server that is heard before a time, nil for none.
func (s *Server) hearServer(c *packet.Conn, iface string, card network.Card,
	until time.Time) (*network.ObservedServer, error) {
	if err := c.SetReadDeadline(until); err != nil {
		return nil, err
	}
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		at, p := readOverheard(b[:n])
		if p == nil || card.Owns(at) || s.Site().Owns(at) {
			continue
		}
		src := source{iface: iface, address: at}
		if a, ok := from.(*packet.Addr); ok {
			src.mac = a.HardwareAddr
		}
		o := observedServer(src, p)
		if o.Ingot == s.id || o.Proxy && o.Ingot == "" && p.MessageType() != dhcpv4.MessageTypeNak {
			continue
		}
		return &o, nil
	}
}

// readOverheard reads an IPv4 packet with a server's answer, nil for others, and returns
// its source.
func readOverheard(b []byte) (from netip.Addr, p *dhcpv4.DHCPv4) {
	if len(b) < headers || b[0]>>4 != 4 {
		return from, nil
	}
	header := int(b[0]&15) * 4
	if len(b) < header+8 {
		return from, nil
	}
	from, _ = netip.AddrFromSlice(b[12:16])
	p, err := dhcpv4.FromBytes(b[header+8:])
	if err != nil || p.OpCode != dhcpv4.OpcodeBootReply {
		return from, nil
	}
	return from, p
}
