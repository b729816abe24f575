package dhcp4

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// kindName is a message type as RFC 2131 calls it.
func kindName(k dhcpv4.MessageType) string { return "DHCP" + strings.ToUpper(k.String()) }

// recordOf returns the record of an answer. It is nil for answers that decide
// nothing: those to clients that have their address already.
func (r *request) recordOf(a *dhcpv4.DHCPv4) *client.Packet {
	p := fleet.Packet{Kind: kindName(a.MessageType()), Address: address(a.YourIPAddr), Refused: r.refusal}
	switch {
	case p.Refused != "":
		p.Address = r.wanted()
	case p.Address.IsValid():
	case r.Served.Config.mode() != Proxy:
		return nil
	default:
		if p.Loader = a.BootFileName; p.Loader == "" || strings.Contains(p.Loader, "://") {
			p.Loader = "what to boot" // a URL contains the key of the machine's boot
		}
	}
	record := r.PacketRecord(p)
	return &record
}

// recordEarlier records once more what other servers sent to a client whose machine
// was not known then.
func (r *request) recordEarlier() {
	if r.Identity.ID != "" {
		return
	}
	for _, o := range r.Observer.Others(r.Interface, r.Client.MAC) {
		if !o.Expected && r.Now.Sub(o.At) < network.SameAttempt {
			record := r.PacketRecord(fleet.Packet{Other: &o})
			record.At = o.At
			r.Record(record)
		}
	}
}

// warnNoLoader records firmware that is offered nothing because of what it says about
// itself.
func (r *request) warnNoLoader() {
	c := r.Client
	if c.Kind != client.Firmware || c.Firmware != ingot.FirmwareUnknown || c.Quirk != "" ||
		r.Message.MessageType() != dhcpv4.MessageTypeDiscover || len(r.sighting(netip.Addr{}).Loaders) > 0 {
		return
	}
	var archs []uint16
	for _, a := range r.Message.ClientArch() {
		archs = append(archs, uint16(a))
	}
	if why := client.NothingFor(archs); why != "" {
		key := "no loader " + fmt.Sprint(archs[:min(1, len(archs))])
		if len(archs) > 0 && archs[0] > 255 { // a client can invent many
			key = "no loader"
		}
		r.Observer.Warn(r.Interface, key, fmt.Sprintf("the firmware of %s (option 60: %s) is offered nothing to boot: %s",
			c.MAC, client.Readable([]byte(c.Class)), why), r.Now)
	}
}

// warnHardware records a client whose card is not Ethernet.
func (s *Server) warnHardware(iface string, m *dhcpv4.DHCPv4) {
	kind := fmt.Sprintf("of type %d", m.HWType)
	if m.HWType == iana.HWTypeInfiniband { // RFC 4390
		kind = "of InfiniBand"
	}
	s.Observer.Warn(iface, "hardware", fmt.Sprintf("a client with a hardware address %s is not answered, because "+
		"cards are known by their Ethernet addresses; boot it from an Ethernet card, or switch the adapter to Ethernet",
		kind), s.Now())
}

// took records the address that a client asks another server for: the key of its boot
// works from there.
func (r *request) took() error {
	if want := r.wanted(); r.Message.MessageType() == dhcpv4.MessageTypeRequest && want.IsValid() && !r.routed {
		return r.Booter.Took(r.Sighting(want))
	}
	return nil
}

// recordChosen records the server that the client chose instead of this one. That
// shows more than the server's answers, which go to the client only, and are
// overheard on the client's link only.
func (r *request) recordChosen() {
	id := address(r.Message.ServerIdentifier())
	if r.Site.Owns(id) {
		return // it chose this server, by another interface
	}
	o := fleet.Other{Address: id, Kind: kindName(r.Message.MessageType()), Given: r.wanted(), At: r.Now}
	r.Observer.AddOther(r.Interface, r.Client.MAC, o)
	r.Record(r.PacketRecord(fleet.Packet{Other: &o}))
}

// unanswered records why a packet is not answered.
func (s *Server) unanswered(p Packet, err error) {
	c := Parse(p.Message)
	packet := fleet.Packet{At: s.Now(), Kind: kindName(p.Message.MessageType())}
	s.RecordUnanswered(p.Interface, c.MAC, client.Packet{Packet: packet, MAC: c.MAC, UUID: c.UUID}, err)
}
