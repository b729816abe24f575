package doctor

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ingot/bootserver/api"
	"ingot/bootserver/dhcp6"
)

// card6 is an interface of this host with its IPv6 addresses.
type card6 struct {
	up, carrier bool
	off         bool // by the sysctl disable_ipv6
	addresses   []address6
}

// address6 is one of its addresses.
type address6 struct {
	netip.Prefix
	tentative bool // duplicate address detection is running
	twin      bool // duplicate address detection found another host
}

// examineCard6 checks whether an interface can be served over IPv6.
func examineCard6(c card6, there bool, i dhcp6.Interface) Finding {
	check := "IPv6 " + i.Name
	switch {
	case !there:
		return found(check, Error, "ip link; correct dhcp6.interfaces or --interface6", "there is no such interface")
	case !c.up:
		return found(check, Error, "ip link set "+i.Name+" up", "it is down")
	case c.off:
		return found(check, Error, "sysctl net.ipv6.conf."+i.Name+".disable_ipv6=0", "IPv6 is disabled on it")
	case !c.carrier:
		return found(check, Warning, "check the cable and the switch port: ethtool "+i.Name, "it is up but has no carrier")
	}
	for _, a := range c.addresses {
		if a.twin {
			return found(check, Error, "change the address of one of the two: ip address del "+a.String()+" dev "+i.Name,
				"another host has the same address %s (duplicate address detection)", a.Addr())
		}
	}
	var local, global, waits []netip.Addr
	for _, a := range c.addresses {
		switch {
		case a.tentative:
			waits = append(waits, a.Addr())
		case a.Addr().IsLinkLocalUnicast():
			local = append(local, a.Addr())
		default:
			global = append(global, a.Addr())
		}
	}
	switch {
	case len(waits) > 0:
		return found(check, Warning,
			"wait a second, and run it again; if it stays so, check the cable: ip -6 address show dev "+i.Name,
			"duplicate address detection of %s is still running", waits[0])
	case len(local) == 0:
		return found(check, Error,
			"sysctl net.ipv6.conf."+i.Name+".addr_gen_mode=0; ip link set "+i.Name+" down; ip link set "+i.Name+" up",
			"it has no link-local address, from which DHCPv6 is answered")
	case len(global) == 0 && i.Mode != dhcp6.Observe:
		return found(check, Error, "ip address add fd00:99::1/64 dev "+i.Name,
			"it has no IPv6 address that machines can reach")
	}
	return found(check, OK, "", "up, %v", append(global, local...))
}

// router is a router that sent an advertisement (RFC 4861 section 4.2).
type router struct {
	address        netip.Addr
	managed, other bool           // its flags: addresses, or other settings, come from DHCPv6
	prefixes       []netip.Prefix // of its prefix options
}

// parseRouter reads a router advertisement; text is the ICMPv6 message.
func parseRouter(from netip.Addr, text []byte) (r router, ok bool) {
	const typeAdvertisement, optionPrefix = 134, 3
	if len(text) < 16 || text[0] != typeAdvertisement {
		return r, false
	}
	r = router{address: from, managed: text[5]&0x80 != 0, other: text[5]&0x40 != 0}
	for options := text[16:]; len(options) >= 2; {
		n := int(options[1]) * 8
		if n == 0 || n > len(options) {
			return r, false
		}
		if options[0] == optionPrefix && n == 32 && options[2] <= 128 {
			r.prefixes = append(r.prefixes, netip.PrefixFrom(netip.AddrFrom16([16]byte(options[16:32])),
				int(options[2])).Masked())
		}
		options = options[n:]
	}
	return r, true
}

// solicitation is a router solicitation (RFC 4861 section 4.1); the kernel fills
// in the checksum.
func solicitation() []byte { return binary.BigEndian.AppendUint64(nil, 133<<56) }

// examineRouters checks the router advertisements of a network.
func examineRouters(i dhcp6.Interface, own []netip.Addr, heard []router) Finding {
	check := "routers " + i.Name
	if len(heard) == 0 {
		return found(check, Warning,
			"configure router advertisements (docs/NETWORKS.md, IPv6); those of this host itself may not be received",
			"no router advertisement was received: firmware has no route to the server, and iPXE does not use DHCPv6")
	}
	var names []string
	var prefixes []netip.Prefix
	asks := false
	for _, r := range heard {
		flags := "addresses by SLAAC, no DHCPv6"
		switch {
		case r.managed:
			flags = "addresses from DHCPv6"
		case r.other:
			flags = "addresses by SLAAC, other settings from DHCPv6"
		}
		names = append(names, fmt.Sprintf("%s: %v, %s", r.address, r.prefixes, flags))
		prefixes = append(prefixes, r.prefixes...)
		asks = asks || r.managed || r.other
	}
	ours := slices.ContainsFunc(own, func(a netip.Addr) bool {
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	})
	said := strings.Join(names, "; ")
	switch {
	case !asks && i.Mode != dhcp6.Observe:
		return found(check, Error, "set AdvManagedFlag on the router, or AdvOtherConfigFlag if addresses come from SLAAC",
			"%s; so iPXE does not ask this server", said)
	case !ours && len(prefixes) > 0 && len(own) > 0:
		return found(check, Warning,
			"announce the prefix of the server's address, or give the server an address with an announced prefix",
			"%s; no prefix contains our address %s", said, own[0])
	}
	return found(check, OK, "", "%s", said)
}

// examineForeign6 checks the other DHCPv6 servers that were seen.
func examineForeign6(interfaces []dhcp6.Interface, servers []api.NetworkServer) (list []Finding) {
	for _, i := range interfaces {
		check, heard := "DHCPv6 servers "+i.Name, []string{}
		for _, s := range servers {
			if s.Interface != i.Name || s.DUID == "" {
				continue
			}
			name := "DUID " + s.DUID
			if s.From.IsValid() {
				name = s.From.String() + " (" + name + ")"
			}
			heard = append(heard, name)
		}
		slices.Sort(heard)
		all := strings.Join(slices.Compact(heard), ", ")
		switch {
		case all != "" && (i.Mode == dhcp6.Full || i.Mode == ""):
			list = append(list, found(check, Error, "disable it for this network, or run beside it with mode: boot",
				"another server answers as well: %s; machines choose by preference", all))
		case all == "" && i.Mode == dhcp6.Boot:
			list = append(list, found(check, Warning, "start the network's DHCPv6 server, or use mode: full",
				"none was seen; in mode boot ingot gives no addresses"))
		case all != "":
			list = append(list, found(check, OK, "", "%s", all))
		default:
			list = append(list, found(check, OK, "", "no other was seen"))
		}
	}
	return list
}
