package dhcp6

import (
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// The types of package network for this family.
type (
	site     = network.Site[Interface, Machine, Options]
	served   = network.Served[Interface, Options]
	shared   = network.Server[Interface, Machine, Options]
	exchange = network.Exchange[Interface, Machine, Options]
)

// relay is one relay's Relay-forward.
type relay = *dhcpv6.RelayMessage

// unwrap takes a message out of the Relay-forwards of relays, the outermost first.
// It returns no message if there is none of a client.
func unwrap(p dhcpv6.DHCPv6) (chain []relay, m *dhcpv6.Message) {
	for {
		switch x := p.(type) {
		case *dhcpv6.Message:
			return chain, x
		case *dhcpv6.RelayMessage:
			if x.MessageType != dhcpv6.MessageTypeRelayForward {
				return nil, nil
			}
			chain, p = append(chain, x), x.Options.RelayMessage()
		default:
			return nil, nil
		}
	}
}

// wrap puts an answer into Relay-replies for the relays, the innermost first (RFC
// 8415 section 19.3). The options by which they find their way back are returned
// unchanged.
func wrap(a dhcpv6.DHCPv6, chain []relay) dhcpv6.DHCPv6 {
	for _, r := range slices.Backward(chain) {
		w := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayReply, HopCount: r.HopCount, LinkAddr: r.LinkAddr,
			PeerAddr: r.PeerAddr}
		for _, code := range []dhcpv6.OptionCode{dhcpv6.OptionInterfaceID, dhcpv6.OptionRelayPort} {
			if o := r.GetOneOption(code); o != nil {
				w.AddOption(o)
			}
		}
		w.AddOption(dhcpv6.OptRelayMessage(a))
		a = w
	}
	return a
}

// peerOf returns the client's own address on its link: as the relay there says, or
// the packet's source.
func peerOf(chain []relay, from netip.Addr) netip.Addr {
	if n := len(chain); n > 0 {
		a, _ := netip.AddrFromSlice(chain[n-1].PeerAddr)
		return a
	}
	return from.WithZone("")
}

// linkOf returns the address that names the client's link, invalid if no relay knows
// one, as relays on switches do not (RFC 6221).
func linkOf(chain []relay) netip.Addr {
	for _, r := range slices.Backward(chain) {
		if a, ok := netip.AddrFromSlice(r.LinkAddr); ok && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}

// locate finds the client's network and the subnet to prefer there (RFC 8415 section
// 13.1): by the address by which the relay nearest to the client names its link, else
// it is the interface's own.
func locate(s *site, on *served, chain []relay) (*network.Network[Options], *network.Subnet[Options]) {
	if link := linkOf(chain); link.IsValid() {
		return s.Networks.At(link)
	}
	return on.Attached()
}

// place finds out where the client is. It returns why the packet is refused, nil if
// it is believed. The source of the packet and the link-address must belong to relays
// of the client's network. Without a link-address, the packet comes from the interface's
// own link.
func (r *request) place() *network.Refusal {
	r.Network, r.Subnet = locate(r.Site, r.Served, r.chain)
	from, link := r.From.Addr(), linkOf(r.chain)
	switch {
	case link.IsValid():
		believed, unknown := believedRelays(r.Network, r.chain)
		refused := r.Site.JudgeRelay(r.Network, link, netip.Addr{}, from, append(unknown, link)...)
		if refused == nil {
			r.exchange.Port = switchPort(r.chain[:believed], link)
		}
		return refused
	case r.Served.OnLink(from):
		r.exchange.Port = switchPort(r.chain, r.Served.Segment())
		return nil
	case r.Packet.Port == client.PortPXE && len(r.chain) == 0: // firmware asks a boot server in another network there
		r.Network, r.Subnet = r.Site.Networks.At(from)
		return r.Site.JudgeOffLink(from)
	}
	return &network.Refusal{Code: network.RefusedOffLink, From: from.WithZone(""), Section: "dhcp6"}
}

// believedRelays returns how many relays of a chain are believed, the outermost first, if
// the source of the packet is. A client can send a Relay-forward of its own to a relay, so
// the address at which a relay saw the next one must be of a relay, too: unknown is the
// first that is not. Switches near the client keep its source address (RFC 6221): they are
// believed where the operator says so, and skipped elsewhere.
func believedRelays(n *network.Network[Options], chain []relay) (believed int, unknown []netip.Addr) {
	for i := range chain {
		if i == 0 {
			continue
		}
		peer, _ := netip.AddrFromSlice(chain[i-1].PeerAddr)
		switch {
		case n == nil || n.IsRelay(peer):
		case linkOf(chain[i:]).IsValid():
			return i, []netip.Addr{peer}
		case !n.Snooping:
			return i, nil
		default:
			return len(chain), nil
		}
	}
	return len(chain), nil
}

// switchPort returns where the client is plugged in, as the relay nearest to it says:
// the interface's name (option 18) and the relay's own (37). seen stands for the relay.
func switchPort(chain []relay, seen netip.Addr) fleet.SwitchPort {
	if len(chain) == 0 || !seen.IsValid() {
		return fleet.SwitchPort{}
	}
	r := chain[len(chain)-1]
	p := fleet.SwitchPort{Circuit: client.Readable(r.Options.InterfaceID())}
	if id := r.Options.RemoteID(); id != nil {
		p.Remote = client.Readable(id.RemoteID)
	}
	if p.Circuit+p.Remote == "" {
		return fleet.SwitchPort{}
	}
	p.Relay = seen
	return p
}
