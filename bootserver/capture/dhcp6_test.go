package capture

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

var (
	me6     = netip.MustParseAddr("fd00:99::100")
	them6   = netip.MustParseAddr("fd00:99::101")
	near6   = netip.MustParseAddr("fd00:98::100")
	server6 = netip.MustParseAddr("fd00:99::1")
)

// frame6 is an Ethernet frame with UDP or TCP in IPv6.
func frame6(to, from net.HardwareAddr, src, dst netip.Addr, next byte, ports [2]uint16, body []byte) []byte {
	four := frame(to, from, server, server, next, ports, 0, body)
	payload := four[atIP+20:]
	b := append(bytes.Clone(four[:atType]), 0x86, 0xdd, 0x60, 0, 0, 0)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(payload))), next, 64)
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), payload)
}

func option6(kind uint16, value ...[]byte) []byte {
	v := slices.Concat(value...)
	return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, kind), uint16(len(v))), v...)
}

// message6 is a Solicit with a DUID.
func message6(duid []byte) []byte {
	return slices.Concat([]byte{1, 7, 7, 7}, option6(8, []byte{0, 0}), option6(optClientID, duid))
}

func relay6(kind byte, peer netip.Addr, options ...[]byte) []byte {
	return slices.Concat([]byte{kind, 0}, server6.AsSlice(), peer.AsSlice(), slices.Concat(options...))
}

// duid makes a DUID from a card.
func duid(kind byte, mac net.HardwareAddr) []byte {
	b := []byte{0, kind, 0, hardwareType}
	if kind == duidLLT {
		b = append(b, 1, 2, 3, 4)
	}
	return append(b, mac...)
}
