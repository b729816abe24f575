package doctor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/pin/tftp/v3"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp6"
)

// examine6 checks what is served over IPv6.
func examine6(ctx context.Context, c config.Config, running bool, n api.Network) (list []Finding) {
	for _, i := range c.DHCP6.Interfaces {
		card, there := lookAt6(i.Name)
		list = append(list, examineCard6(card, there, i))
		if !there || !card.up || card.off {
			continue
		}
		var own []netip.Addr
		for _, a := range card.addresses {
			if !a.Addr().IsLinkLocalUnicast() {
				own = append(own, a.Addr())
			}
		}
		routers, err := listenForRouters(ctx, i.Name)
		if err != nil {
			list = append(list, found("routers "+i.Name, Skipped, "run it as root", "looking for routers: %v", err))
		} else {
			list = append(list, examineRouters(i, own, routers))
		}
		if running {
			list = append(list, examineForeign6([]dhcp6.Interface{i}, n.Servers)...)
			if i.Mode != dhcp6.Observe {
				list = append(list, reach(ctx, own, httpPort(c), absentFile)...)
			}
			continue
		}
		servers, err := listenForOthers6(i.Name)
		if err != nil {
			list = append(list, found("DHCPv6 servers "+i.Name, Skipped, "run it as root", "looking for DHCPv6 servers: %v",
				err))
		} else {
			list = append(list, examineForeign6([]dhcp6.Interface{i}, servers)...)
		}
	}
	return list
}

func lookAt6(name string) (c card6, there bool) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return c, false
	}
	flags := l.Attrs().RawFlags
	c.up, c.carrier = flags&unix.IFF_UP != 0, flags&unix.IFF_RUNNING != 0
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
	c.off = err != nil || strings.TrimSpace(string(off)) == "1" // a kernel without IPv6 has no such file
	list, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return c, true
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ok {
			c.addresses = append(c.addresses, address6{Prefix: netip.PrefixFrom(ip, bits),
				tentative: a.Flags&unix.IFA_F_TENTATIVE != 0, twin: a.Flags&unix.IFA_F_DADFAILED != 0})
		}
	}
	return c, true
}

// routerTime is how long a router may take: up to half a second, and 3 s after
// its last announcement (RFC 4861 section 6.2.6).
const routerTime = 4 * time.Second

// listenForRouters asks a network's routers to announce themselves.
func listenForRouters(ctx context.Context, name string) (heard []router, err error) {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	c, err := (&net.ListenConfig{}).ListenPacket(ctx, "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p := ipv6.NewPacketConn(c)
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterAdvertisement)
	// Routers drop a solicitation that may have come through another one.
	err = errors.Join(p.SetICMPFilter(&only), p.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true),
		p.SetMulticastHopLimit(255), p.SetDeadline(time.Now().Add(routerTime)))
	if err != nil {
		return nil, err
	}
	everyRouter := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: name}
	if _, err := p.WriteTo(solicitation(), &ipv6.ControlMessage{IfIndex: card.Index}, everyRouter); err != nil {
		return nil, err
	}
	room := make([]byte, 4096)
	for {
		n, cm, from, err := p.ReadFrom(room)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return heard, nil
		}
		if err != nil {
			return nil, err
		}
		at, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		if !ok || cm == nil || cm.IfIndex != card.Index || cm.HopLimit != 255 {
			continue // from another network
		}
		r, ok := parseRouter(at, room[:n])
		if !ok || slices.ContainsFunc(heard, func(o router) bool { return o.address == at }) {
			continue
		}
		heard = append(heard, r)
		_ = p.SetDeadline(time.Now().Add(time.Second)) // others answer in the same time
	}
}

// listenForOthers6 looks for DHCPv6 servers on a network, and takes no lease.
func listenForOthers6(name string) (heard []api.NetworkServer, err error) {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	c, err := nclient6.NewIPv6UDPConn(name, dhcp6.PortClient)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ask, err := dhcpv6.NewSolicit(card.HardwareAddr, dhcpv6.WithArchType(iana.EFI_X86_64))
	if err != nil {
		return nil, err
	}
	servers := &net.UDPAddr{IP: dhcpv6.AllDHCPRelayAgentsAndServers, Port: dhcp6.PortServer, Zone: name}
	room := make([]byte, 4096)
	for range 2 {
		if _, err := c.WriteTo(ask.ToBytes(), servers); err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		for {
			n, from, err := c.ReadFrom(room)
			if err != nil {
				break // the time is over
			}
			m, err := dhcpv6.MessageFromBytes(room[:n])
			if err != nil || m.TransactionID != ask.TransactionID || m.Options.ServerID() == nil {
				continue
			}
			at := from.(*net.UDPAddr).AddrPort().Addr().WithZone("")
			heard = append(heard, api.NetworkServer{Interface: name, From: at,
				DUID: hex.EncodeToString(m.Options.ServerID().ToBytes())})
		}
	}
	return heard, nil
}

// absentFile is a name that no file has. Any answer to a request for it shows that the
// TFTP server is alive, also an error (RFC 1350 section 7).
const absentFile = "ingot-doctor"

// askTFTP requests a file and receives it.
func askTFTP(a netip.Addr, file string) error {
	c, err := tftp.NewClient(netip.AddrPortFrom(a, 69).String())
	if err != nil {
		return err
	}
	c.SetTimeout(time.Second)
	c.SetRetries(2)
	c.SetBackoff(func(int) time.Duration { return 0 })
	r, err := c.Receive(file, "octet")
	if err == nil {
		_, err = r.WriteTo(io.Discard)
	}
	if _, network := errors.AsType[net.Error](err); err != nil && (network || file != absentFile) {
		return fmt.Errorf("requesting %s: %w", file, err)
	}
	return nil
}
