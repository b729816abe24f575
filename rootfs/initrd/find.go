package initrd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"ingot"
)

// A UKI that firmware loaded by itself has no arguments of this boot. Its
// ingot-init asks the network: by the vendor class that it sends with every
// DHCP message the server knows it, and answers with the URL of the boot as
// option 67. Beside another DHCP server, which gives the address, it asks once
// more with a DHCPINFORM (RFC 2131 section 4.4.3).

// vendorClass is what the boot server knows ingot-init by.
const vendorClass = "ingot-init"

// findServer asks on every network card until one of them reaches the server
// of this boot. It says which, and what the boot is.
func findServer(ctx context.Context, look func(), told func(string, error)) (netlink.Link, *dhcpv4.DHCPv4, Arguments, error) {
	var last error
	for deadline := time.Now().Add(linkPatience); ; {
		look()
		links, err := netlink.LinkList()
		if err != nil {
			return nil, nil, Arguments{}, fmt.Errorf("listing network interfaces: %w", err)
		}
		for _, l := range links {
			if l.Type() != "device" || len(l.Attrs().HardwareAddr) != 6 {
				continue
			}
			ack, args, err := findOn(ctx, l)
			if err == nil {
				return l, ack, args, nil
			}
			last = err
			told(l.Attrs().Name, err)
		}
		if ctx.Err() != nil {
			return nil, nil, Arguments{}, ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil, nil, Arguments{}, fmt.Errorf("finding the server of this boot on %s for %s: %w", interfaceNames(links), linkPatience, last)
		}
		time.Sleep(time.Second)
	}
}

// findOn asks on one card.
func findOn(ctx context.Context, l netlink.Link) (*dhcpv4.DHCPv4, Arguments, error) {
	if err := netlink.LinkSetUp(l); err != nil {
		return nil, Arguments{}, fmt.Errorf("bringing it up: %w", err)
	}
	ack, err := askOnce(ctx, l.Attrs().Name, 4*time.Second)
	if err != nil {
		return nil, Arguments{}, err
	}
	if args, err := bootOf(ack); err == nil {
		args.MAC = l.Attrs().HardwareAddr.String()
		return ack, args, apply(l, ack)
	}
	if err := apply(l, ack); err != nil {
		return nil, Arguments{}, err
	}
	told, err := inform(ctx, l.Attrs().Name, ack.YourIPAddr)
	if err != nil {
		return nil, Arguments{}, err
	}
	args, err := bootOf(told)
	args.MAC = l.Attrs().HardwareAddr.String()
	return ack, args, err
}

// inform asks beside the DHCP server that gave the address; that one answers as
// well, and without a boot.
func inform(ctx context.Context, name string, own net.IP) (*dhcpv4.DHCPv4, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p, err := dhcpv4.NewInform(c.InterfaceAddr(), own, dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendorClass)))
	if err != nil {
		return nil, err
	}
	return c.SendAndRead(ctx, nclient4.DefaultServers, p, func(a *dhcpv4.DHCPv4) bool {
		_, err := bootOf(a)
		return a.MessageType() == dhcpv4.MessageTypeAck && err == nil
	})
}

var errNoBoot = errors.New("the server that answers knows of no boot of this machine")

// bootOf reads the URL of the boot: http://SERVER/b/BOOT/
func bootOf(a *dhcpv4.DHCPv4) (Arguments, error) {
	url := strings.TrimRight(string(a.Options.Get(dhcpv4.OptionBootfileName)), "\x00")
	server, id, ok := strings.Cut(url, "/b/")
	boot, err := ingot.ParseBootKey(strings.TrimRight(id, "/"))
	if !ok || err != nil || !strings.HasPrefix(server, "http://") {
		return Arguments{}, errNoBoot
	}
	return Arguments{Server: server, Boot: boot}, nil
}
