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
func configure6(ctx context.Context, l netlink.Link, failed func(error)) (netip.Addr, error) {
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
			return own, fmt.Errorf(
				"asking for an IPv6 address on %s for %s: %w; does the switch port forward, does a router announce a prefix, "+
					"does a DHCPv6 server answer?",
				l.Attrs().Name,
				linkPatience,
				err,
			)
		}
		failed(err)
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
		url = string(reply.get(optBootURL))
	} else if own = announced(l); !own.IsValid() {
		return own, "", err
	}
	if _, none := bootOf(url); !boot || none == nil {
		return own, url, nil
	}
	// Beside another server, or where no server assigns addresses.
	answer, err := c.exchange(ctx, c.message(information6), wait/2, func(m message6) bool {
		_, err := bootOf(string(m.get(optBootURL)))
		return m.kind == reply6 && err == nil
	})
	if err != nil {
		return own, "", fmt.Errorf("%w: %w", errNoBoot, err)
	}
	return own, string(answer.get(optBootURL)), nil
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
				conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: a.IP, Port: clientPort6, Zone: l.Attrs().Name})
				return &client6{l, conn}, err
			}
		}
		select {
		case <-ctx.Done():
			if !hasLink(l.Attrs().Name) {
				return nil, errNoLink
			}
			return nil, fmt.Errorf("%s has no link-local address", l.Attrs().Name)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// message begins a message: the client's identifier (a DUID-LL, RFC 8415 section 11.4), what
// we are, and what we want to know.
func (c *client6) message(kind byte, more ...option6) message6 {
	m := message6{kind: kind, options: append([]option6{
		{optClientID, append([]byte{0, 3, 0, 1}, c.link.Attrs().HardwareAddr...)},
		{optUserClass, append([]byte{0, byte(len(vendorClass))}, vendorClass...)},
		{optWishes, []byte{0, optBootURL}}, {optElapsed, []byte{0, 0}}}, more...)}
	_, _ = rand.Read(m.id[:]) // never fails, see crypto/rand
	return m
}

// lease asks for an address and takes the first one that is offered.
func (c *client6) lease(ctx context.Context, wait time.Duration) (message6, error) {
	with := func(kind byte) func(message6) bool {
		return func(m message6) bool { return m.kind == kind && m.address().IsValid() }
	}
	offer, err := c.exchange(
		ctx,
		c.message(solicit6, option6{optIANA, association(c.link.Attrs().HardwareAddr)}),
		wait,
		with(advertise6),
	)
	if err != nil {
		return offer, err
	}
	return c.exchange(ctx, c.message(request6, offer.chosen()...), wait, with(reply6))
}

// chosen is what names a server and what it gives.
func (m message6) chosen() []option6 {
	return []option6{{optServerID, m.get(optServerID)}, {optIANA, m.get(optIANA)}}
}

// The ports of clients and servers, and where clients ask (RFC 8415 sections
// 7.1 and 7.2).
const (
	clientPort6 = 546
	serverPort6 = 547
)

var servers6 = net.ParseIP("ff02::1:2")

func (c *client6) send(m message6) error {
	_, err := c.conn.WriteTo(m.bytes(), &net.UDPAddr{IP: servers6, Port: serverPort6, Zone: c.link.Attrs().Name})
	return err
}

// exchange sends a message and waits for the answer that is wanted. Half-way it
// asks again.
func (c *client6) exchange(
	ctx context.Context,
	m message6,
	wait time.Duration,
	wanted func(message6) bool,
) (message6, error) {
	buffer := make([]byte, 4096)
	for range 2 {
		if err := c.send(m); err != nil {
			return message6{}, fmt.Errorf("asking by DHCPv6: %w", err)
		}
		if err := c.conn.SetReadDeadline(time.Now().Add(wait / 2)); err != nil {
			return message6{}, err
		}
		for ctx.Err() == nil {
			n, err := c.conn.Read(buffer)
			if err != nil {
				break // it is time
			}
			a, err := parse6(bytes.Clone(buffer[:n]))
			if err == nil && a.id == m.id && wanted(a) {
				return a, nil
			}
		}
	}
	return message6{}, errors.New("no DHCPv6 server answers")
}

// use gives the card the address of a lease, and waits until the kernel knows
// that nobody else has it. What is on the link the routers say, not the lease.
func (c *client6) use(reply message6) (netip.Addr, error) {
	ip := reply.address()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(128, 128)}}
	if err := netlink.AddrReplace(c.link, addr); err != nil {
		return ip, fmt.Errorf("setting the address %s: %w", ip, err)
	}
	for range 100 {
		switch flags, err := flagsOf(c.link, ip); {
		case err != nil:
			return ip, err
		case flags&unix.IFA_F_DADFAILED != 0:
			_ = c.send(c.message(decline6, reply.chosen()...)) // the next try is offered another one
			_ = netlink.AddrDel(c.link, addr)
			return ip, fmt.Errorf("another machine uses the address %s that the DHCPv6 server assigned", ip)
		case flags&unix.IFA_F_TENTATIVE == 0:
			return ip, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return ip, fmt.Errorf("duplicate address detection of %s did not finish", ip)
}

var errGone = errors.New("the address was removed")

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
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsGlobalUnicast() &&
			a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) == 0 {
			return ip
		}
	}
	return netip.Addr{}
}
