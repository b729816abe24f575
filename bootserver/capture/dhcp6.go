package capture

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"ingot/bootserver/client"
)

// Offsets in an Ethernet frame with IPv6 without extension headers (RFC 8200
// section 3), which DHCPv6, TFTP and HTTP do not use.
const (
	atNext      = atIP + 6
	atIP6Source = atIP + 8
	atIP6Dest   = atIP + 24
	atPayload   = atIP + 40
	typeIPv6    = 0x86dd
	portServer6 = 547
	portClient6 = 546
)

// Offsets and codes of a DHCPv6 message (RFC 8415).
const (
	relayForward   = 12
	relayReply     = 13
	relayHeader    = 34 // type, hops, link and peer address
	atPeer         = 18
	messageHeader  = 4 // type and transaction
	optClientID    = 1
	optRelay       = 9
	optLinkLayer   = 79 // RFC 6939
	hardwareType   = 1  // Ethernet
	duidLLT        = 1
	duidLL         = 3
	duidUUID       = 4 // RFC 6355
	maxHops        = 8
	uuidBytes      = 16
	optionHeader   = 4
	eui64Universal = 2
)

func isIPv6(frame []byte) bool {
	return len(frame) >= atPayload && binary.BigEndian.Uint16(frame[atType:]) == typeIPv6
}

func isDHCP6(port uint16) bool { return port == portServer6 || port == portClient6 }

// addresses returns a frame's source and destination addresses.
func addresses(frame []byte) []netip.Addr {
	switch {
	case isIPv4(frame):
		return []netip.Addr{netip.AddrFrom4([4]byte(frame[atIPSource:])), netip.AddrFrom4([4]byte(frame[atIPDest:]))}
	case isIPv6(frame):
		return []netip.Addr{netip.AddrFrom16([16]byte(frame[atIP6Source:])), netip.AddrFrom16([16]byte(frame[atIP6Dest:]))}
	}
	return nil
}

// matchesDHCP6 reports whether a frame is DHCPv6 that names one of the cards or
// boards.
func (m Machines) matchesDHCP6(frame []byte) bool {
	if !isIPv6(frame) || frame[atNext] != protoUDP {
		return false
	}
	udp := frame[atPayload:]
	if len(udp) < 8 || !isDHCP6(binary.BigEndian.Uint16(udp)) && !isDHCP6(binary.BigEndian.Uint16(udp[2:])) {
		return false
	}
	return m.namedIn(udp[8:], maxHops)
}

// namedIn reports whether a message, or one that relays wrapped, names one of the
// machines: by the client's link-local address, by the link-layer address that a
// relay added, or by the DUID.
func (m Machines) namedIn(message []byte, hops int) bool {
	options, relayed := message[min(len(message), messageHeader):], false
	if len(message) > relayHeader && (message[0] == relayForward || message[0] == relayReply) {
		if m.hasCard(eui64(message[atPeer:relayHeader])) {
			return true
		}
		options, relayed = message[relayHeader:], true
	}
	for len(options) >= optionHeader {
		kind, n := binary.BigEndian.Uint16(options), int(binary.BigEndian.Uint16(options[2:]))
		options = options[optionHeader:]
		value := options[:min(n, len(options))]
		options = options[len(value):]
		switch {
		case kind == optRelay && relayed && hops > 0:
			if m.namedIn(value, hops-1) {
				return true
			}
		case kind == optLinkLayer && relayed:
			if len(value) > 2 && binary.BigEndian.Uint16(value) == hardwareType && m.hasCard(value[2:]) {
				return true
			}
		case kind == optClientID && !relayed:
			return m.hasDUID(value)
		}
	}
	return false
}

// hasDUID reports whether a DUID was made from one of the cards or boards (RFC 8415
// section 11). UEFI writes the bytes of a UUID in SMBIOS order.
func (m Machines) hasDUID(d []byte) bool {
	if len(d) < 4 {
		return false
	}
	kind, hardware := binary.BigEndian.Uint16(d), binary.BigEndian.Uint16(d[2:])
	switch {
	case kind == duidLLT && hardware == hardwareType && len(d) >= 8:
		return m.hasCard(d[8:])
	case kind == duidLL && hardware == hardwareType:
		return m.hasCard(d[4:])
	case kind == duidUUID && len(d) == 2+uuidBytes:
		u := [uuidBytes]byte(d[2:])
		return slices.Contains(m.UUIDs, client.UUIDText(u, true)) || slices.Contains(m.UUIDs, client.UUIDText(u, false))
	}
	return false
}

func (m Machines) hasCard(mac []byte) bool {
	for _, c := range m.MACs {
		if bytes.Equal(c, mac) {
			return true
		}
	}
	return false
}

// eui64 returns the MAC address that the end of an IPv6 address was made from, or
// nil (RFC 4291 appendix A).
func eui64(a []byte) []byte {
	if a[11] != 0xff || a[12] != 0xfe {
		return nil
	}
	return []byte{a[8] ^ eui64Universal, a[9], a[10], a[13], a[14], a[15]}
}
