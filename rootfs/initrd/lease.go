package initrd

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// requestedOptions are the options that ingot-init uses. The classless routes come before the
// router, which servers may then leave out (RFC 3442, page 4).
var requestedOptions = []dhcpv4.OptionCode{dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute,
	dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionInterfaceMTU}

// The system takes over what is set here. networkd with KeepConfiguration=dhcp keeps an address
// with a lifetime, and routes of the protocol dhcp, until it has a lease of its own; its routes
// then replace those with the same metric.
const (
	keptFor       = 1<<31 - 1 // lifetime of the address, in seconds
	bootCardRoute = 512       // metric of routes; networkd's default for other cards is 1024
)

// apply gives a link the MTU, the address and the routes of a lease.
func apply(l netlink.Link, ack *dhcpv4.DHCPv4) error {
	if mtu := mtuOf(ack); mtu != 0 && mtu != l.Attrs().MTU {
		// A card that cannot take it keeps its own.
		_ = netlink.LinkSetMTU(l, mtu)
	}
	own, err := addressOf(ack)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(own), ValidLft: keptFor, PreferedLft: keptFor}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("setting the address %s: %w", own, err)
	}
	for _, r := range routesOf(ack, own) {
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.to), Src: own.Addr().AsSlice(),
			Protocol: unix.RTPROT_DHCP, Priority: bootCardRoute}
		if r.via.IsValid() {
			route.Gw = r.via.AsSlice()
		} else {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("setting the route %s: %w", r, err)
		}
	}
	return nil
}

// addressOf returns the address of a lease with its prefix length.
func addressOf(ack *dhcpv4.DHCPv4) (netip.Prefix, error) {
	ip, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || ip.IsUnspecified() {
		return netip.Prefix{}, fmt.Errorf("the lease has no address: %s", ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	bits, size := mask.Size()
	if size != 32 {
		return netip.Prefix{}, fmt.Errorf("the lease has the subnet mask %s", net.IP(mask))
	}
	return netip.PrefixFrom(ip, bits), nil
}

// mtuOf returns the MTU of a lease (RFC 2132, section 5.1), and 0 for none or one that is less than
// every IPv4 host must take.
func mtuOf(ack *dhcpv4.DHCPv4) int {
	b := ack.Options.Get(dhcpv4.OptionInterfaceMTU)
	if len(b) != 2 || binary.BigEndian.Uint16(b) < 576 {
		return 0
	}
	return int(binary.BigEndian.Uint16(b))
}

// leaseRoute is a route of a lease. Without a gateway its destination is on the link.
type leaseRoute struct {
	to  netip.Prefix
	via netip.Addr
}

func (r leaseRoute) String() string {
	if !r.via.IsValid() {
		return fmt.Sprintf("to %s on the link", r.to)
	}
	return fmt.Sprintf("to %s via %s", r.to, r.via)
}

// routesOf returns the routes of a lease in the order in which the kernel takes them: first those
// on the link, among them one to each gateway that is outside the subnet, as gateways of /32 leases
// are. Classless routes replace the router option (RFC 3442, page 4).
func routesOf(ack *dhcpv4.DHCPv4, own netip.Prefix) []leaseRoute {
	var list []leaseRoute
	add := func(to netip.Prefix, via netip.Addr) {
		same := func(r leaseRoute) bool { return r.to == to }
		if to.Addr().IsLoopback() || to.Addr().IsMulticast() || slices.ContainsFunc(list, same) {
			return
		}
		if via.IsUnspecified() || via == own.Addr() {
			via = netip.Addr{}
		}
		list = append(list, leaseRoute{to, via})
	}
	if classless := ack.ClasslessStaticRoute(); len(classless) > 0 {
		for _, r := range classless {
			to, _ := netip.AddrFromSlice(r.Dest.IP.To4())
			bits, _ := r.Dest.Mask.Size()
			if via, ok := netip.AddrFromSlice(r.Router.To4()); ok {
				add(netip.PrefixFrom(to, bits).Masked(), via)
			}
		}
	} else if routers := ack.Router(); len(routers) > 0 {
		if via, ok := netip.AddrFromSlice(routers[0].To4()); ok {
			add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), via)
		}
	}
	onLink := func(ip netip.Addr) bool {
		return own.Masked().Contains(ip) ||
			slices.ContainsFunc(list, func(r leaseRoute) bool { return !r.via.IsValid() && r.to.Contains(ip) })
	}
	for _, r := range list {
		if r.via.IsValid() && !onLink(r.via) {
			list = append(list, leaseRoute{to: netip.PrefixFrom(r.via, 32)})
		}
	}
	slices.SortStableFunc(list, func(a, b leaseRoute) int {
		return cmp.Or(compareBool(a.via.IsValid(), b.via.IsValid()), cmp.Compare(b.to.Bits(), a.to.Bits()))
	})
	return list
}

// compareBool sorts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// The network files of systemd-networkd (systemd.network(5)): what the image says of every
// Ethernet card, and what ingot-init adds for the card that the machine booted from. The first
// file in the order of names that matches a card is used, so an image's own file for the card
// goes before ours.
const (
	ethernetFile = "etc/systemd/network/80-ingot-ethernet.network" // in the root
	bootCardFile = "run/systemd/network/79-ingot-boot.network"
)

// bootCardSettings follow the image's settings for all cards. The image and the server are
// behind this card: it keeps address and routes when no DHCP server renews them, and its default
// route and name servers go before those of other cards.
var bootCardSettings = strings.ReplaceAll(`
# By ingot-init: the card that this machine booted from.
[Network]
KeepConfiguration=dhcp
Domains=~.

[DHCPv4]
RouteMetric=METRIC

[IPv6AcceptRA]
RouteMetric=METRIC
`, "METRIC", strconv.Itoa(bootCardRoute))

// writeBootCard writes the network file of the boot card below run, if the root has the one for
// every card.
func writeBootCard(root, run, mac string) error {
	b, err := os.ReadFile(filepath.Join(root, ethernetFile))
	if os.IsNotExist(err) {
		return nil // the image configures its network by itself
	}
	if err != nil {
		return fmt.Errorf("configuring the boot card: %w", err)
	}
	text, ok := bootCardText(string(b), mac)
	if !ok {
		return nil
	}
	name := filepath.Join(run, bootCardFile)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("configuring the boot card: %w", err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		return fmt.Errorf("configuring the boot card: %w", err)
	}
	return nil
}

// bootCardText makes the network file of one card of the file for all cards. ok is false if
// that one names cards by address.
func bootCardText(all, mac string) (text string, ok bool) {
	before, after, found := strings.Cut(all, "[Match]\n")
	if !found || mac == "" || strings.Contains(all, "MACAddress=") {
		return "", false
	}
	return before + "[Match]\nMACAddress=" + mac + "\n" + after + bootCardSettings, true
}
