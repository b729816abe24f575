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
// more with a DHCPINFORM (RFC 2131 section 4.4.3). Over IPv6 it asks at the same
// time, there by its user class and with an Information-request, and the URL is
// option 59: a network may have either family or both.

// vendorClass is what the boot server knows ingot-init by.
const vendorClass = "ingot-init"

// findServer asks on every network card until one of them reaches the server
// of this boot. It says which, and what the boot is.
func findServer(
	ctx context.Context,
	look func(),
	failed func(string, error),
) (l netlink.Link, own string, args Arguments, err error) {
	var last error
	for deadline := time.Now().Add(linkPatience); ; {
		look()
		links, err := netlink.LinkList()
		if err != nil {
			return nil, "", args, fmt.Errorf("listing network interfaces: %w", err)
		}
		for _, l := range links {
			if l.Type() != "device" || len(l.Attrs().HardwareAddr) != 6 {
				continue
			}
			own, args, err := findOn(ctx, l)
			if err == nil {
				args.MAC = l.Attrs().HardwareAddr.String()
				return l, own, args, nil
			}
			last = err
			failed(l.Attrs().Name, err)
		}
		if ctx.Err() != nil {
			return nil, "", args, ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil, "", args, fmt.Errorf(
				"finding the server of this boot on %s for %s: %w",
				interfaceNames(links),
				linkPatience,
				last,
			)
		}
		time.Sleep(time.Second)
	}
}

// findOn asks on one card, over both families at once. The first one to answer
// with a boot is the server.
func findOn(ctx context.Context, l netlink.Link) (own string, args Arguments, err error) {
	if err := netlink.LinkSetUp(l); err != nil {
		return "", args, fmt.Errorf("bringing it up: %w", err)
	}
	defer func() {
		if err != nil && !hasLink(l.Attrs().Name) {
			err = errNoLink
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		own  string
		args Arguments
		err  error
	}
	answers := make(chan answer, 2)
	go func() {
		own, args, err := findOn4(ctx, l)
		answers <- answer{own.String(), args, err}
	}()
	go func() {
		own, args, err := findOn6(ctx, l)
		answers <- answer{own.String(), args, err}
	}()
	for range 2 {
		a := <-answers
		if a.err == nil {
			return a.own, a.args, nil
		}
		err = errors.Join(err, a.err)
	}
	return "", args, err
}

// findOn4 asks by DHCP.
func findOn4(ctx context.Context, l netlink.Link) (net.IP, Arguments, error) {
	ack, err := askOnce(ctx, l.Attrs().Name, 4*time.Second)
	if err != nil {
		return nil, Arguments{}, err
	}
	if err := apply(l, ack); err != nil {
		return nil, Arguments{}, err
	}
	if args, err := bootIn(ack); err == nil {
		return ack.YourIPAddr, args, nil
	}
	answer, err := inform(ctx, l.Attrs().Name, ack.YourIPAddr)
	if err != nil {
		return nil, Arguments{}, err
	}
	args, err := bootIn(answer)
	return ack.YourIPAddr, args, err
}

// inform asks beside the DHCP server that gave the address; that one answers as
// well, and without a boot.
func inform(ctx context.Context, name string, own net.IP) (*dhcpv4.DHCPv4, error) {
	c, err := nclient4.New(name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p, err := dhcpv4.NewInform(
		c.InterfaceAddr(),
		own,
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendorClass)),
	)
	if err != nil {
		return nil, err
	}
	return c.SendAndRead(ctx, nclient4.DefaultServers, p, func(a *dhcpv4.DHCPv4) bool {
		_, err := bootIn(a)
		return a.MessageType() == dhcpv4.MessageTypeAck && err == nil
	})
}

var errNoBoot = errors.New("the server that answered has no boot of this machine")

func bootIn(a *dhcpv4.DHCPv4) (Arguments, error) {
	return bootOf(string(a.Options.Get(dhcpv4.OptionBootfileName)))
}

// bootOf reads the URL of the boot: http://SERVER/b/BOOT/
func bootOf(url string) (Arguments, error) {
	server, id, ok := strings.Cut(strings.TrimRight(url, "\x00"), "/b/")
	boot, err := ingot.ParseBootKey(strings.TrimRight(id, "/"))
	if !ok || err != nil || !strings.HasPrefix(server, "http://") {
		return Arguments{}, errNoBoot
	}
	return Arguments{Server: server, Boot: boot}, nil
}
