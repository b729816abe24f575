package dhcp6

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// frameHeaders is the size of the headers of Ethernet, IPv6 and UDP.
const frameHeaders = 14 + 40 + 8

// MulticastFrame is an Ethernet frame with an IPv6 packet to a multicast group (RFC 2464
// section 7). The body's checksum is at an offset of it (RFC 8200 section 8.1).
func MulticastFrame(mac net.HardwareAddr, from, to netip.Addr, next, hops byte, body []byte, checksum int) []byte {
	src, dst := from.As16(), to.As16()
	b := append([]byte{0x33, 0x33}, dst[12:]...)
	b = append(append(b, mac...), 0x86, 0xdd, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(append(append(b, next, hops), src[:]...), dst[:]...)
	sum := uint32(next) + uint32(len(body))
	for _, part := range [][]byte{src[:], dst[:], body} {
		for i, x := range part {
			sum += uint32(x) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[len(b)-len(body)+checksum:], ^uint16(sum))
	return b
}

// ClientFrame is an Ethernet frame with a client's message to all servers.
func ClientFrame(mac net.HardwareAddr, from netip.Addr, message []byte) []byte {
	const udp = 17
	body := binary.BigEndian.AppendUint16(nil, PortClient)
	body = binary.BigEndian.AppendUint16(body, PortServer)
	body = binary.BigEndian.AppendUint16(body, uint16(8+len(message)))
	return MulticastFrame(mac, from, allServersAndRelays, udp, 1, append(append(body, 0, 0), message...), 6)
}

// ReadFrame returns the message in an Ethernet frame to a client's port, nil if there is
// none, and the card and address that sent it.
func ReadFrame(b []byte) (message []byte, mac net.HardwareAddr, from netip.Addr) {
	if len(b) < frameHeaders || b[12] != 0x86 || b[13] != 0xdd || b[20] != 17 ||
		binary.BigEndian.Uint16(b[56:]) != PortClient {
		return nil, nil, from
	}
	from, _ = netip.AddrFromSlice(b[22:38])
	return b[frameHeaders:], net.HardwareAddr(b[6:12]), from
}
