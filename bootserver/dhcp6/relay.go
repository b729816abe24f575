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

// switchPort returns where the client is plugged in, as the relay nearest to it says:
// its link, the interface's name (option 18) and the relay's own (37).
func switchPort(chain []relay, from netip.Addr) fleet.SwitchPort {
	if len(chain) == 0 {
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
	if p.Relay = linkOf(chain); !p.Relay.IsValid() {
		p.Relay = from.WithZone("")
	}
	return p
}
