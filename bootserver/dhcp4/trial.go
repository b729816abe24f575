package dhcp4

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// trialID is sent in place of a server's identity with the DHCPDISCOVER of a trial.
const trialID = "trial"

// NewTrial returns the DHCPDISCOVER of firmware of a machine that does not exist. It is
// answered like that of a new machine, and nothing is recorded.
func NewTrial(mac net.HardwareAddr) (*dhcpv4.DHCPv4, error) { return newQuery(mac, trialID) }

// answerTrial answers NewTrial. A known machine's card is not answered: what a machine
// boots is told only when it is recorded.
func (s *Server) answerTrial(p Packet) *Reply {
	r := s.newRequest(p)
	if r == nil || p.Message.MessageType() != dhcpv4.MessageTypeDiscover || r.refused() || r.routed {
		return nil
	}
	r.identify()
	mode := r.Served.Config.mode()
	if mode == Observe || r.Known() || r.Identity.ID != "" || r.Client.Kind != client.Firmware || r.Client.HTTP {
		return nil
	}
	settings, why := r.trialSettings(mode)
	a := Answer(p.Message, dhcpv4.MessageTypeOffer, r.Client, settings)
	a.UpdateOption(ingotOption(s.id))
	if why != nil {
		text := why.Error()
		a.UpdateOption(dhcpv4.OptMessage(text[:min(len(text), network.MaxOption)]))
	}
	return r.reply(a)
}

// trialSettings returns what a new machine would get, and why it would get nothing.
func (r *request) trialSettings(mode Mode) (settings Settings, why error) {
	nothing := Settings{Server: r.serverID(), Proxy: true}
	if r.Served.Config.Known { // no answer at all
		return nothing, nil
	}
	var ip netip.Addr
	if mode == Full && r.Network != nil {
		if ip, why = r.Book.Peek(r.LeaseRequest(ip), r.Now); why != nil {
			return nothing, why
		}
	}
	boot, why := r.Booter.WouldAnswer(r.sighting(ip))
	if why != nil {
		return nothing, why
	}
	settings = r.settings(ip, boot)
	settings.Proxy = mode == Proxy
	return settings, nil
}

// frameHeader is the size of an Ethernet header in bytes.
const frameHeader = 14

// Frame returns a packet of a client without an address as it is on an Ethernet.
func Frame(p *dhcpv4.DHCPv4) []byte {
	b := make([]byte, 0, frameHeader+maxPacket)
	b = append(append(append(b, broadcastMAC...), p.ClientHWAddr...), 8, 0) // IPv4
	return append(b, datagram(netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpv4.ClientPort),
		netip.AddrPortFrom(broadcastClient.Addr(), PortDHCP), p.ToBytes())...)
}

// ReadFrame returns the answer of a server in an Ethernet frame, nil if there is none.
func ReadFrame(b []byte) *dhcpv4.DHCPv4 {
	if len(b) < frameHeader || b[12] != 8 || b[13] != 0 {
		return nil
	}
	_, p := readOverheard(b[frameHeader:])
	return p
}
