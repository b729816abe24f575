package fleet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Origin is where a machine requested a boot: an interface of the server, and a network
// of its configuration.
type Origin struct {
	Interface string `json:"interface,omitempty"`
	Network   string `json:"network,omitempty"` // empty: the interface's own, which is not configured
	IPv6      bool   `json:"ipv6,omitempty"`
}

// Bounds on what a boot remembers of where it was requested and used.
const (
	maxOrigins   = 4
	maxAddresses = 8
)

// recordOrigin records where a request came from, and the address that another server
// gave to the machine.
func (d *Decision) recordOrigin(r Request) {
	if r.Origin != (Origin{}) && !slices.Contains(d.Boot.Origins, r.Origin) {
		d.Boot.Origins = bounded(d.Boot.Origins, r.Origin, maxOrigins)
	}
	if r.Foreign {
		d.Took(r.Address)
	}
}

// Took records an address that the machine took from another server. Until the ticket,
// the key of its boot may be used from there.
func (d *Decision) Took(ip netip.Addr) {
	if d.Boot.ID != "" && d.Boot.Open() && d.Boot.Ticket.IsZero() && ip.IsValid() &&
		!slices.Contains(d.Boot.Addresses, ip) {
		d.Boot.Addresses = bounded(d.Boot.Addresses, ip, maxAddresses)
	}
}

// bounded returns a copy of a list with one more element, without the oldest ones.
func bounded[T any](list []T, v T, most int) []T {
	return append(slices.Clone(list[max(0, len(list)+1-most):]), v)
}

// Place is what the DHCP servers know about an address from which the key of a boot is
// used, and about the networks in which the boot was requested.
type Place struct {
	Lease  *Lease // the latest of the address; nil: this server never assigned it
	Inside bool   // the address belongs to one of the networks
	NAT    bool   // an operator gave the check up for one of them
	// This server assigns the machine's addresses there, so that it uses no other one.
	Assigned bool
}

// Errors of AdmitAddress.
var (
	ErrLeasedToAnother = errors.New("the address is leased to another machine")
	ErrOutside         = errors.New("the address is not in the network that the machine boots from")
	ErrNotLeased       = errors.New("the address is not leased to the machine")
	ErrOtherAddress    = errors.New("the machine uses another address")
)

// AdmitAddress decides whether the key of a boot may be used from an address. Whoever asks
// DHCP in a machine's name gets its key, so until the ticket the key works only from
// the addresses that belong to the machine: those leased to its cards, and where this
// server leases none, those that it took from another server, or else the first one that
// used it. first reports that this is the first one, which must be recorded.
func AdmitAddress(b Boot, m Machine, from netip.Addr, p Place, now time.Time) (first bool, err error) {
	switch {
	case !b.Ticket.IsZero() || p.NAT || slices.Contains(b.Addresses, from):
		return false, nil
	case p.Lease != nil && !p.Lease.Declined && m.holds(*p.Lease):
		return false, nil // also when it expired: loaders do not renew it, and nobody else has it
	case p.Lease != nil && now.Before(p.Lease.Expires):
		return false, ErrLeasedToAnother
	case len(b.Origins) == 0: // an older version made the boot
	case !p.Inside:
		return false, ErrOutside
	case m.ownsIPv6(from):
		return false, nil
	case p.Assigned:
		return false, ErrNotLeased
	}
	if slices.ContainsFunc(b.Addresses, func(ip netip.Addr) bool { return ip.Is4() == from.Is4() }) {
		return false, fmt.Errorf("%w: %s", ErrOtherAddress, addressesText(b.Addresses))
	}
	return true, nil
}

func addressesText(list []netip.Addr) string {
	var texts []string
	for _, ip := range list {
		texts = append(texts, ip.String())
	}
	return strings.Join(texts, ", ")
}

// holds reports whether a lease belongs to one of the machine's cards.
func (m Machine) holds(l Lease) bool {
	return l.MAC != "" && m.hasCard(l.MAC) || l.Machine != "" && l.Machine == m.ID
}

// ownsIPv6 reports whether an IPv6 address was made of the MAC address of one of the
// machine's cards, as firmware, loaders and the kernel do (RFC 4291 appendix A).
func (m Machine) ownsIPv6(ip netip.Addr) bool {
	b := ip.As16()
	if !ip.Is6() || b[11] != 0xff || b[12] != 0xfe {
		return false
	}
	mac := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[8]^2, b[9], b[10], b[13], b[14], b[15])
	return m.hasCard(mac)
}
