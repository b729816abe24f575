//go:build e2e

package testvm

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// keepQuestions writes what the machines of a scene asked by DHCP into the
// folder that INGOT_TEST_CAPTURE names: the first packet of each kind of client,
// by machine and in their order. Those in bootserver/dhcp/testdata/captured are
// from there, with names by their rows in docs/HARDWARE.md.
func (s *stage) keepQuestions(dir string) error {
	frames, err := os.ReadFile(filepath.Join(s.dir, "lan.pcap"))
	if err != nil {
		return err
	}
	seen := map[string][]string{}
	for p := range datagrams(frames) {
		q, err := dhcpv4.FromBytes(p)
		if err != nil || q.OpCode != dhcpv4.OpcodeBootRequest || q.MessageType() != dhcpv4.MessageTypeDiscover && q.MessageType() != dhcpv4.MessageTypeInform {
			continue
		}
		mac := q.ClientHWAddr.String()
		kind := fmt.Sprintf("%s %s %q %x", q.MessageType(), q.ClassIdentifier(), q.UserClass(), q.Options.Get(dhcpv4.GenericOptionCode(175)))
		if !slices.ContainsFunc(s.lan.vms, func(vm *VM) bool { return vm.MAC == mac }) || slices.Contains(seen[mac], kind) {
			continue
		}
		seen[mac] = append(seen[mac], kind)
		name := fmt.Sprintf("%s-%s-%d.bin", s.t.Name(), strings.ReplaceAll(mac, ":", ""), len(seen[mac]))
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, "/", "-")), p, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// datagrams are what the UDP datagrams of a capture carry, see
// pcap-savefile(5): a header of 24 bytes, and one of 16 bytes before each frame.
func datagrams(capture []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for at := 24; at+16 <= len(capture); {
			n := int(binary.LittleEndian.Uint32(capture[at+8:]))
			at += 16
			if at+n > len(capture) {
				return
			}
			frame := capture[at : at+n]
			at += n
			const ethernet, udp = 14, 8
			if len(frame) < ethernet+20+udp {
				continue
			}
			ip := frame[ethernet:]
			if head := int(ip[0]&15) * 4; len(ip) >= head+udp && !yield(ip[head+udp:]) {
				return
			}
		}
	}
}
