package initrd

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
)

// The little of DHCPv6 (RFC 8415) that a machine needs for itself. The library
// of the boot server knows a hundred options, which every initramfs would carry.

// message6 is a message between client and server (section 8).
type message6 struct {
	kind    byte
	id      [3]byte
	options []option6
}

// option6 is an option (section 21.1).
type option6 struct {
	code uint16
	data []byte
}

// Types of messages (section 7.3).
const (
	solicit6     = 1
	advertise6   = 2
	request6     = 3
	reply6       = 7
	decline6     = 9
	information6 = 11
)

// Codes of options (sections 21.2 to 21.16; the URL is of RFC 5970).
const (
	optClientID  = 1
	optServerID  = 2
	optIANA      = 3
	optIAAddr    = 5
	optWishes    = 6
	optElapsed   = 8
	optUserClass = 15
	optBootURL   = 59
)

func (m message6) bytes() []byte {
	b := append([]byte{m.kind}, m.id[:]...)
	for _, o := range m.options {
		b = binary.BigEndian.AppendUint16(b, o.code)
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.data)))
		b = append(b, o.data...)
	}
	return b
}

var errShort = errors.New("truncated DHCPv6 message")

func parse6(b []byte) (message6, error) {
	if len(b) < 4 {
		return message6{}, errShort
	}
	options, err := parseOptions6(b[4:])
	return message6{b[0], [3]byte(b[1:4]), options}, err
}

func parseOptions6(b []byte) (list []option6, err error) {
	for len(b) > 0 {
		if len(b) < 4 || len(b) < 4+int(binary.BigEndian.Uint16(b[2:])) {
			return nil, errShort
		}
		end := 4 + int(binary.BigEndian.Uint16(b[2:]))
		list = append(list, option6{binary.BigEndian.Uint16(b), b[4:end]})
		b = b[end:]
	}
	return list, nil
}

// get returns the first option of a code, nil for none.
func (m message6) get(code uint16) []byte {
	for _, o := range m.options {
		if o.code == code {
			return o.data
		}
	}
	return nil
}

// association is an IA_NA without addresses (section 21.4), named after the card.
func association(mac net.HardwareAddr) []byte {
	return append([]byte(mac[2:6:6]), make([]byte, 8)...)
}

// address is what the association of an answer gives, invalid for nothing.
func (m message6) address() (ip netip.Addr) {
	ia := m.get(optIANA)
	if len(ia) < 12 || m.get(optServerID) == nil {
		return ip
	}
	options, err := parseOptions6(ia[12:])
	if err != nil {
		return ip
	}
	for _, o := range options {
		if o.code == optIAAddr && len(o.data) >= 24 && binary.BigEndian.Uint32(o.data[20:]) > 0 { // its valid lifetime
			if ip := netip.AddrFrom16([16]byte(o.data)); ip.IsGlobalUnicast() && ip.Is6() && !ip.Is4In6() {
				return ip
			}
		}
	}
	return ip
}
