package initrd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An IPv6 network announces its prefix and its routers (RFC 4861): the kernel
// listens to that, and makes an address of its own where the network wants that
// (RFC 4862). Where it wants DHCPv6 (RFC 8415) the address is asked for here.
// Renewing it is left to the system, which asks again within minutes.

// over6 reports whether a server is named by an IPv6 address.
func over6(url string) bool { return strings.HasPrefix(url, "http://[") }

// configure6 brings the link up and waits for an address that reaches further
// than the link.
func configure6(ctx context.Context, l netlink.Link, told func(error)) (netip.Addr, error) {
	if err := raise(l); err != nil {
		return netip.Addr{}, err
	}
	deadline := time.Now().Add(linkPatience)
	for wait := 2 * time.Second; ; wait = min(wait*3/2, 10*time.Second) {
		own, _, err := ask6(ctx, l, wait+mrand.N(wait/2), false)
		if err == nil {
			return own, nil
		}
		if ctx.Err() != nil {
			return own, ctx.Err()
		}
		if time.Now().After(deadline) {
			return own, fmt.Errorf("asking for an IPv6 address on %s for %s: %w; does the switch port forward, does a router announce a prefix, does a DHCPv6 server answer?", l.Attrs().Name, linkPatience, err)
		}
		told(err)
	}
}

// findOn6 asks on one card for an address and the URL of this boot.
func findOn6(ctx context.Context, l netlink.Link) (netip.Addr, Arguments, error) {
	own, url, err := ask6(ctx, l, 4*time.Second, true)
	if err != nil {
		return own, Arguments{}, err
	}
	args, err := bootOf(url)
	return own, args, err
}

// ask6 asks once: for an address by DHCPv6, else it takes the one that the
// kernel made of a prefix, and for the URL of the boot when that is wanted.
func ask6(ctx context.Context, l netlink.Link, wait time.Duration, boot bool) (own netip.Addr, url string, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	c, err := open6(ctx, l)
	if err != nil {
		return own, "", err
	}
	defer c.conn.Close()
	reply, err := c.lease(ctx, wait/2)
	if err == nil {
		if own, err = c.use(reply); err != nil {
			return own, "", err
		}
		url = reply.Options.BootFileURL()
	} else if own = announced(l); !own.IsValid() {
		return own, "", err
	}
	if _, none := bootOf(url); !boot || none == nil {
		return own, url, nil
	}
	// Beside another server, or where nobody lends addresses.
	told, err := c.exchange(ctx, c.message(dhcpv6.MessageTypeInformationRequest), wait/2, func(m *dhcpv6.Message) bool {
		_, err := bootOf(m.Options.BootFileURL())
		return m.MessageType == dhcpv6.MessageTypeReply && err == nil
	})
	if err != nil {
		return own, "", fmt.Errorf("%w: %w", errNoBoot, err)
	}
	return own, told.Options.BootFileURL(), nil
}

// client6 asks on one link.
type client6 struct {
	link netlink.Link
	conn *net.UDPConn
}

// open6 waits for the link-local address, which the kernel makes and tests, and
// opens the port of clients there.
func open6(ctx context.Context, l netlink.Link) (*client6, error) {
	for {
		list, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return nil, fmt.Errorf("reading the addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range list {
			if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: a.IP, Port: dhcpv6.DefaultClientPort, Zone: l.Attrs().Name})
				return &client6{l, conn}, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s has no link-local address: is a cable plugged in?", l.Attrs().Name)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// message begins a message: who we are (RFC 8415 section 11.4), what we are, and
// what we want to know.
func (c *client6) message(kind dhcpv6.MessageType, more ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind}
	_, _ = rand.Read(m.TransactionID[:]) // never fails, see crypto/rand
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.link.Attrs().HardwareAddr}))
	m.AddOption(&dhcpv6.OptUserClass{UserClasses: [][]byte{[]byte(vendorClass)}})
	m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionBootfileURL))
	m.AddOption(dhcpv6.OptElapsedTime(0))
	for _, o := range more {
		m.AddOption(o)
	}
	return m
}

// lease asks for an address and takes the first one that is offered.
func (c *client6) lease(ctx context.Context, wait time.Duration) (*dhcpv6.Message, error) {
	ia := &dhcpv6.OptIANA{}
	copy(ia.IaId[:], c.link.Attrs().HardwareAddr[2:])
	with := func(kind dhcpv6.MessageType) func(*dhcpv6.Message) bool {
		return func(m *dhcpv6.Message) bool { return m.MessageType == kind && addressIn(m).IsValid() }
	}
	offer, err := c.exchange(ctx, c.message(dhcpv6.MessageTypeSolicit, ia), wait, with(dhcpv6.MessageTypeAdvertise))
	if err != nil {
		return nil, err
	}
	request := c.message(dhcpv6.MessageTypeRequest, offer.GetOneOption(dhcpv6.OptionServerID), offer.Options.OneIANA())
	return c.exchange(ctx, request, wait, with(dhcpv6.MessageTypeReply))
}

// addressIn is the address that a server gives.
func addressIn(m *dhcpv6.Message) netip.Addr {
	ia := m.Options.OneIANA()
	if ia == nil || m.GetOneOption(dhcpv6.OptionServerID) == nil {
		return netip.Addr{}
	}
	for _, a := range ia.Options.Addresses() {
		if ip, ok := netip.AddrFromSlice(a.IPv6Addr); ok && ip.IsGlobalUnicast() && a.ValidLifetime > 0 {
			return ip
		}
	}
	return netip.Addr{}
}

// servers is where clients ask (RFC 8415 section 7.1).
var servers = net.ParseIP("ff02::1:2")

// exchange sends a message and waits for the answer that is wanted. Half-way it
// asks again.
func (c *client6) exchange(ctx context.Context, m *dhcpv6.Message, wait time.Duration, wanted func(*dhcpv6.Message) bool) (*dhcpv6.Message, error) {
	buffer := make([]byte, 4096)
	for range 2 {
		to := &net.UDPAddr{IP: servers, Port: dhcpv6.DefaultServerPort, Zone: c.link.Attrs().Name}
		if _, err := c.conn.WriteTo(m.ToBytes(), to); err != nil {
			return nil, fmt.Errorf("asking by DHCPv6: %w", err)
		}
		if err := c.conn.SetReadDeadline(time.Now().Add(wait / 2)); err != nil {
			return nil, err
		}
		for ctx.Err() == nil {
			n, err := c.conn.Read(buffer)
			if err != nil {
				break // it is time
			}
			a, err := dhcpv6.MessageFromBytes(bytes.Clone(buffer[:n]))
			if err == nil && a.TransactionID == m.TransactionID && wanted(a) {
				return a, nil
			}
		}
	}
	return nil, fmt.Errorf("no answer to %s by DHCPv6", m.MessageType)
}

// use gives the card the address of a lease, and waits until the kernel knows
// that nobody else has it. What is on the link the routers say, not the lease.
func (c *client6) use(reply *dhcpv6.Message) (netip.Addr, error) {
	ip := addressIn(reply)
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(128, 128)}}
	if err := netlink.AddrReplace(c.link, addr); err != nil {
		return ip, fmt.Errorf("setting the address %s: %w", ip, err)
	}
	for range 100 {
		switch flags, err := flagsOf(c.link, ip); {
		case err != nil:
			return ip, err
		case flags&unix.IFA_F_DADFAILED != 0:
			_, _ = c.conn.WriteTo(c.message(dhcpv6.MessageTypeDecline, reply.GetOneOption(dhcpv6.OptionServerID), reply.Options.OneIANA()).ToBytes(),
				&net.UDPAddr{IP: servers, Port: dhcpv6.DefaultServerPort, Zone: c.link.Attrs().Name}) // the next try is offered another one
			_ = netlink.AddrDel(c.link, addr)
			return ip, fmt.Errorf("another machine uses the address %s that the DHCPv6 server lends", ip)
		case flags&unix.IFA_F_TENTATIVE == 0:
			return ip, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ip, fmt.Errorf("the address %s stays under test", ip)
}

var errGone = errors.New("the address is gone")

func flagsOf(l netlink.Link, ip netip.Addr) (int, error) {
	list, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return 0, fmt.Errorf("reading the addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range list {
		if have, _ := netip.AddrFromSlice(a.IP); have == ip {
			return a.Flags, nil
		}
	}
	return 0, errGone
}

// announced is the address that the kernel made of a prefix that a router
// announced.
func announced(l netlink.Link) netip.Addr {
	list, err := netlink.AddrList(l, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsGlobalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 {
			return ip
		}
	}
	return netip.Addr{}
}
