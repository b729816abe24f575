//go:build e2e

package testvm

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sys/unix"
)

// keepQuestions writes what the machines of a scene asked by DHCP into the
// folder that INGOT_TEST_CAPTURE names: the first packet of each kind of client,
// by machine and in their order. Those in bootserver/dhcp4/testdata/captured are
// from there, with names by their rows in docs/HARDWARE.md; what asks by DHCPv6
// is written as well, and the rows over IPv6 are still made from the standards.
func (s *stage) keepQuestions(dir string) error {
	frames, err := os.ReadFile(filepath.Join(s.dir, "lan.pcap"))
	if err != nil {
		return err
	}
	seen := map[string][]string{}
	for d := range datagrams(frames) {
		mac, kind := d.from.String(), d.question()
		if kind == "" || !slices.ContainsFunc(s.lan.vms, func(vm *VM) bool {
			return vm.MAC == mac
		}) || slices.Contains(seen[mac], kind) {
			continue
		}
		seen[mac] = append(seen[mac], kind)
		name := fmt.Sprintf("%s-%s-%d.bin", s.t.Name(), strings.ReplaceAll(mac, ":", ""), len(seen[mac]))
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, "/", "-")), d.data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// datagram is one of UDP.
type datagram struct {
	from net.HardwareAddr
	port uint16 // where it goes
	data []byte
}

// question is what kind of client asks with which message, empty for anything
// that asks no DHCP server of either family.
func (d datagram) question() string {
	switch d.port {
	case dhcpv4.ServerPort:
		q, err := dhcpv4.FromBytes(d.data)
		if err == nil && q.OpCode == dhcpv4.OpcodeBootRequest && (q.MessageType() == dhcpv4.MessageTypeDiscover ||
			q.MessageType() == dhcpv4.MessageTypeInform) {
			return fmt.Sprintf("%s %s %q %x", q.MessageType(), q.ClassIdentifier(), q.UserClass(),
				q.Options.Get(dhcpv4.GenericOptionCode(175)))
		}
	case dhcpv6.DefaultServerPort:
		q, err := dhcpv6.MessageFromBytes(d.data)
		if err == nil && (q.MessageType == dhcpv6.MessageTypeSolicit ||
			q.MessageType == dhcpv6.MessageTypeInformationRequest) {
			return fmt.Sprintf("%s %q %q %v", q.MessageType, q.Options.VendorClasses(), q.Options.UserClasses(),
				q.Options.RequestedOptions())
		}
	}
	return ""
}

// datagrams are the UDP datagrams of a capture, see pcap-savefile(5): a header
// of 24 bytes, and one of 16 bytes before each frame.
func datagrams(capture []byte) func(yield func(datagram) bool) {
	return func(yield func(datagram) bool) {
		for at := 24; at+16 <= len(capture); {
			n := int(binary.LittleEndian.Uint32(capture[at+8:]))
			at += 16
			if at+n > len(capture) {
				return
			}
			frame := capture[at : at+n]
			at += n
			if d, ok := datagramIn(frame); ok && !yield(d) {
				return
			}
		}
	}
}

// datagramIn is what an Ethernet frame carries by UDP over IPv4 or, without
// extension headers, IPv6.
func datagramIn(frame []byte) (d datagram, ok bool) {
	const ethernet, udp = 14, 8
	if len(frame) < ethernet+20 {
		return d, false
	}
	ip, head, protocol := frame[ethernet:], 40, byte(0)
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		head, protocol = int(ip[0]&15)*4, ip[9]
	case unix.ETH_P_IPV6:
		protocol = ip[6]
	}
	if protocol != unix.IPPROTO_UDP || len(ip) < head+udp {
		return d, false
	}
	return datagram{frame[6:12], binary.BigEndian.Uint16(ip[head+2:]), ip[head+udp:]}, true
}
