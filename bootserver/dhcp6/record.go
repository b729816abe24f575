package dhcp6

import (
	"encoding/hex"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// recordOf returns the record of an answer: the address that it gives or refuses, or
// beside another server what to boot. It is nil for other answers.
func (r *request) recordOf(a *dhcpv6.Message) *client.Packet {
	p := fleet.Packet{Kind: a.MessageType.String(), Address: r.given}
	switch {
	case r.Served.Config.mode() == Boot:
		p.Address, p.Loader = netip.Addr{}, "what to boot" // its URL contains the key of the machine's boot
	case !p.Address.IsValid():
		if p.Refused = refusal(a); p.Refused == "" {
			return nil
		}
		p.Address = firstAddress(r.m)
	}
	record := r.PacketRecord(p)
	return &record
}

// refusal returns why an answer gives no address, "" if it refuses none.
func refusal(a *dhcpv6.Message) string {
	st := a.Options.Status()
	if ia := a.Options.OneIANA(); ia != nil && ia.Options.Status() != nil {
		st = ia.Options.Status()
	}
	if st == nil || st.StatusCode == iana.StatusSuccess {
		return ""
	}
	return st.StatusCode.String() + ", " + st.StatusMessage
}

// unanswered records why a packet is not answered.
func (s *Server) unanswered(p Packet, err error) {
	chain, m := unwrap(p.Message)
	if m == nil {
		return
	}
	c := Parse(m, chain, peerOf(chain, p.From.Addr()))
	packet := fleet.Packet{At: s.Now(), Kind: m.MessageType.String()}
	s.RecordUnanswered(p.Interface, p.From.Addr().String(), client.Packet{Packet: packet, MAC: c.MAC, UUID: c.UUID}, err)
}

// recordChosen records another server when a client names it: servers answer clients
// directly, so nothing else reveals them. Whether it is another ingot is not known
// here; package dhcp4 finds those over IPv4.
func (r *request) recordChosen() {
	named, us := r.chosen()
	if !named || us || r.m.MessageType != dhcpv6.MessageTypeRequest && r.m.MessageType != dhcpv6.MessageTypeRenew {
		return
	}
	id := r.m.GetOneOption(dhcpv6.OptionServerID).ToBytes()
	duid := hex.EncodeToString(id[:min(len(id), 32)])
	r.Observer.AddServer(network.ObservedServer{Interface: r.Interface, DUID: duid}, r.Now)
	rival := r.Served.Config.mode() == Full && r.Network != nil
	o := fleet.Other{DUID: duid, Kind: r.m.MessageType.String(), At: r.Now, Given: firstAddress(r.m), Expected: !rival}
	r.Observer.AddOther(r.Interface, client.Clip(r.Key), o)
	if rival {
		r.Record(r.PacketRecord(fleet.Packet{Other: &o}))
		r.Observer.Warn(r.Interface, "foreign6 "+duid, "another DHCPv6 server (DUID "+duid+
			") assigns addresses on this network; stop it, or serve in mode boot beside it", r.Now)
	}
}

// took records the address that a client asks another server for: the key of its boot
// works from there.
func (r *request) took() error {
	named, us := r.chosen()
	if want := firstAddress(r.m); named && !us && want.IsValid() && r.m.MessageType == dhcpv6.MessageTypeRequest {
		return r.Booter.Took(r.sighting(want))
	}
	return nil
}

// firstAddress returns the first address that a message names, invalid for none.
func firstAddress(m *dhcpv6.Message) netip.Addr {
	if list := associations(m); len(list) > 0 && len(list[0].addresses) > 0 {
		return list[0].addresses[0]
	}
	return netip.Addr{}
}
