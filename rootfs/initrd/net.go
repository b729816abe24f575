package initrd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkPatience is how long the boot NIC may take to appear and to be answered:
// drivers load firmware, and switch ports learn STP or LACP for 30 s and more.
const linkPatience = 3 * time.Minute

// waitForNIC finds the interface with the MAC address that the firmware booted
// from. Names change between kernels; the address does not.
func waitForNIC(ctx context.Context, mac string, look func()) (netlink.Link, error) {
	want, err := net.ParseMAC(mac)
	if err != nil {
		return nil, fmt.Errorf("parsing the boot NIC's address %q: %w", mac, err)
	}
	deadline := time.Now().Add(linkPatience)
	for {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("listing network interfaces: %w", err)
		}
		for _, l := range links {
			if bytes.Equal(l.Attrs().HardwareAddr, want) && l.Type() == "device" {
				return l, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf(
				"no network interface has the address %s that this machine booted from; there are %s; is its driver in the "+
					"initramfs (kernel.modules of the profile)?",
				mac,
				interfaceNames(links),
			)
		}
		look()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func interfaceNames(links []netlink.Link) string {
	var names []string
	for _, l := range links {
		if a := l.Attrs(); len(a.HardwareAddr) > 0 && a.Name != "lo" {
			names = append(names, a.Name+" "+a.HardwareAddr.String())
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// configure brings the link up and gives it an address by DHCP.
func configure(ctx context.Context, l netlink.Link, failed func(error)) (*dhcpv4.DHCPv4, error) {
	if err := raise(l); err != nil {
		return nil, err
	}
	ack, err := askDHCP(ctx, l.Attrs().Name, failed)
	if err != nil {
		return nil, err
	}
	return ack, apply(l, ack)
}

func raise(l netlink.Link) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo) // nice to have; systemd does it again
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bringing %s up: %w", l.Attrs().Name, err)
	}
	return nil
}

// askDHCP asks for a lease (RFC 2131) with growing, jittered pauses.
func askDHCP(ctx context.Context, name string, failed func(error)) (*dhcpv4.DHCPv4, error) {
	deadline := time.Now().Add(linkPatience)
	for wait := 2 * time.Second; ; wait = min(wait*3/2, 10*time.Second) {
		ack, err := askOnce(ctx, name, wait+rand.N(wait/2))
		if err != nil && !hasLink(name) {
			err = errNoLink
		}
		if err == nil {
			return ack, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if time.Now().After(deadline) {
			if errors.Is(err, errNoLink) {
				return nil, fmt.Errorf("waiting for a link on %s for %s: %w", name, linkPatience, err)
			}
			return nil, fmt.Errorf(
				"asking for an address on %s for %s: %w; does the switch port forward, does a DHCP server answer?",
				name,
				linkPatience,
				err,
			)
		}
		failed(err)
	}
}

func askOnce(ctx context.Context, name string, wait time.Duration) (*dhcpv4.DHCPv4, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(wait), nclient4.WithRetry(1))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	lease, err := c.Request(ctx, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendorClass)),
		dhcpv4.WithOption(dhcpv4.OptParameterRequestList(requestedOptions...)))
	if err != nil {
		return nil, err
	}
	return lease.ACK, nil
}

// errNoLink: the cable, or the switch port, is the cause, and no server.
var errNoLink = errors.New("no link: is a cable plugged in, and the switch port enabled?")

// hasLink reports whether a card that is up sees a signal (netdevice(7), IFF_LOWER_UP).
func hasLink(name string) bool {
	l, err := netlink.LinkByName(name)
	return err != nil || l.Attrs().RawFlags&unix.IFF_UP == 0 || l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// driver names the kernel driver of an interface.
func driver(name string) string {
	target, err := os.Readlink(filepath.Join("/sys/class/net", name, "device/driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}
