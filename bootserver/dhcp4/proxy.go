package dhcp4

import (
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
)

// proxy stands beside another DHCP server: it gives no addresses, and offers what to
// boot, beside that server's offers (port 67) and as boot server (port 4011).
func (r *request) proxy() (*dhcpv4.DHCPv4, error) {
	if r.Served.Config.Known && !r.Known() {
		return nil, nil
	}
	if r.Client.Kind == client.System {
		return nil, r.took()
	}
	if r.routed && r.Packet.Port != client.PortPXE { // firmware asks a boot server in another network there
		return nil, nil
	}
	own := address(r.Message.ClientIPAddr)
	if !own.IsValid() {
		own = r.requested()
	}
	seen := r.unlessLeased(own)
	kind, toUs := dhcpv4.MessageTypeAck, r.Packet.Port == client.PortPXE || r.Served.Owns(r.To)
	switch r.Message.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if r.Client.Kind == client.Init {
			return nil, nil // it needs an address first, and sends a DHCPINFORM then
		}
		kind, own, seen = dhcpv4.MessageTypeOffer, netip.Addr{}, netip.Addr{}
	case dhcpv4.MessageTypeRequest:
		if named, us := r.chosen(); !toUs && (!named || !us) {
			_, err := r.Boot(r.Booter, r.sighting(seen)) // it takes an address from the other server, which is known by now
			return nil, err
		}
	case dhcpv4.MessageTypeInform:
		if !toUs && r.Client.Kind != client.Init {
			return nil, nil
		}
	default:
		return nil, nil
	}
	boot, err := r.Boot(r.Booter, r.sighting(seen))
	if err != nil || boot == (client.Boot{}) {
		return nil, err
	}
	settings := r.settings(own, boot)
	settings.Address, settings.Proxy = netip.Addr{}, true
	a := Answer(r.Message, kind, r.Client, settings)
	if item := bootItem(r.Message); item != nil && r.Packet.Port == client.PortPXE {
		v := append(append([]byte{subBootItem, byte(len(item))}, item...), 255)
		a.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, v))
	}
	return a, nil
}

// subBootItem is PXE_BOOT_ITEM in option 43: the boot server type and layer that a
// client asks for, which the answer repeats (PXE 2.1 table 2-2).
const subBootItem = 71

// bootItem returns the boot item of a packet, nil for none.
func bootItem(p *dhcpv4.DHCPv4) []byte {
	b := p.Options.Get(dhcpv4.OptionVendorSpecificInformation)
	for len(b) >= 2 && b[0] != 255 {
		n := int(b[1])
		if len(b) < 2+n {
			return nil
		}
		if b[0] == subBootItem {
			return slices.Clone(b[2 : 2+n])
		}
		b = b[2+n:]
	}
	return nil
}
