package network

import (
	"fmt"
	"net/netip"
)

// Family is a version of the Internet Protocol.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// section is the name of the family's section in the configuration.
func (f Family) section() string {
	if f == IPv4 {
		return "dhcp"
	}
	return "dhcp6"
}

// Has reports whether an address belongs to the family and has a meaning for other hosts:
// addresses with a zone have none.
func (f Family) Has(a netip.Addr) bool {
	if f == IPv4 {
		return a.Is4()
	}
	return a.Is6() && !a.Is4In6() && a.Zone() == ""
}

// Unaddressed explains that an interface has no address of the family, and how to add
// one.
func (f Family) Unaddressed(iface string) string {
	if f == IPv4 {
		return "it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev " + iface
	}
	return "it has no IPv6 address that machines can reach; give it one: ip address add fd00:99::1/64 dev " + iface
}
