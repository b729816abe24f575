package dhcp6

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// How other servers are looked for.
const (
	listenTime = 5 * time.Second        // altogether
	othersTime = 500 * time.Millisecond // after the first one was heard
	askPause   = 1500 * time.Millisecond
)

// FindServers looks for other DHCPv6 servers that assign addresses on an interface: it
// asks with Solicits, and listens for some seconds. Servers of the same installation are
// not among them.
func (s *Server) FindServers(ctx context.Context, i Interface, card network.Card) ([]network.ObservedServer, error) {
	on, err := net.InterfaceByName(i.Name)
	if err != nil {
		return nil, fmt.Errorf("looking for other DHCPv6 servers: %w", err)
	}
	c, err := packet.Listen(on, packet.Raw, unix.ETH_P_IPV6, nil)
	if err != nil {
		return nil, fmt.Errorf("looking for other DHCPv6 servers on %s: %w", i.Name, err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	query, err := dhcpv6.NewSolicit(card.MAC) // like that of a system: another ingot records no machine
	if err != nil {
		return nil, err
	}
	var found []network.ObservedServer
	for end := time.Now().Add(listenTime); time.Now().Before(end); {
		if from := linkLocalOf(on.Index); from.IsValid() { // the kernel may still look for twins of it
			frame := ClientFrame(card.MAC, from, query.ToBytes())
			if _, err := c.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
				return nil, fmt.Errorf("looking for other DHCPv6 servers on %s: %w", i.Name, err)
			}
		}
		wait := time.Now().Add(askPause)
		if wait.After(end) {
			wait = end
		}
		for {
			heard, err := s.hearServer(c, i.Name, wait)
			if err != nil {
				return nil, fmt.Errorf("looking for other DHCPv6 servers on %s: %w", i.Name, errors.Join(ctx.Err(), err))
			}
			if heard == nil {
				break
			}
			if !slices.ContainsFunc(found, func(o network.ObservedServer) bool { return o.DUID == heard.DUID }) {
				found = append(found, *heard)
				if end = time.Now().Add(othersTime); wait.After(end) {
					wait = end
				}
			}
		}
	}
	return found, nil
}

// hearServer returns the next other server that is heard before a time, nil for none.
func (s *Server) hearServer(c *packet.Conn, iface string, until time.Time) (*network.ObservedServer, error) {
	if err := c.SetReadDeadline(until); err != nil {
		return nil, err
	}
	b := make([]byte, maxPacket)
	for {
		n, _, err := c.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		text, mac, from := ReadFrame(b[:n])
		if text == nil {
			continue
		}
		m, err := dhcpv6.MessageFromBytes(text)
		if err != nil || m.MessageType != dhcpv6.MessageTypeAdvertise && m.MessageType != dhcpv6.MessageTypeReply ||
			!givesAddress(m) {
			continue
		}
		if id := m.GetOneOption(dhcpv6.OptionServerID); id != nil && !bytes.Equal(id.ToBytes(), s.duid) {
			return &network.ObservedServer{Interface: iface, From: from, MAC: client.MACText(mac),
				DUID: hex.EncodeToString(id.ToBytes())}, nil
		}
	}
}

// givesAddress reports whether an answer contains an address.
func givesAddress(m *dhcpv6.Message) bool {
	return slices.ContainsFunc(m.Options.IANA(), func(ia *dhcpv6.OptIANA) bool { return len(ia.Options.Addresses()) > 0 })
}

// linkLocalOf returns the link-local address of an interface, invalid while it has none
// that can be used.
func linkLocalOf(index int) netip.Addr {
	list, err := netlink.AddrList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ok && ip.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			return ip
		}
	}
	return netip.Addr{}
}
