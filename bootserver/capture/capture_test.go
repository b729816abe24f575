package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var (
	mine   = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 1}
	other  = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 2}
	all    = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	me     = netip.MustParseAddr("10.99.0.100")
	them   = netip.MustParseAddr("10.99.0.101")
	server = netip.MustParseAddr("10.99.0.1")
	who    = Machines{MACs: []net.HardwareAddr{mine}, Addresses: []netip.Addr{me, me6}, UUIDs: []string{"d1b2c3a4-0001-4000-8000-525400120001"}}
)

// frame is an Ethernet frame with UDP or TCP in IPv4, with header options.
func frame(to, from net.HardwareAddr, src, dst netip.Addr, proto byte, ports [2]uint16, options int, body []byte) []byte {
	b := append(append(bytes.Clone(to), from...), 8, 0)
	ip := make([]byte, 20+options)
	ip[0] = 0x40 | byte(len(ip)/4)
	ip[8], ip[9] = 64, proto
	s, d := src.As4(), dst.As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	head := 8
	if proto == protoTCP {
		head = 20
	}
	l4 := make([]byte, head)
	binary.BigEndian.PutUint16(l4, ports[0])
	binary.BigEndian.PutUint16(l4[2:], ports[1])
	if proto == protoTCP {
		l4[12] = 0x50
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(body)))
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)+len(body)))
	return append(append(append(b, ip...), l4...), body...)
}

// dhcp4Message is a DHCP message of a card.
func dhcp4Message(mac net.HardwareAddr) []byte {
	b := make([]byte, 300)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[28:], mac)
	copy(b[236:], []byte{0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255})
	return b
}

var anywhere = netip.MustParseAddr("255.255.255.255")

func TestMatches(t *testing.T) {
	filter, err := who.filter()
	if err != nil {
		t.Fatal(err)
	}
	ins, ok := bpf.Disassemble(filter)
	if !ok {
		t.Fatal("the filter cannot be read")
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	tell := func(b ...[]byte) []byte {
		return frame6(other, all, server6, server6, protoUDP, [2]uint16{547, 547}, slices.Concat(b...))
	}
	for _, c := range []struct {
		name         string
		frame        []byte
		want, passes bool
	}{
		{"its address of IPv6 through a router", frame6(other, all, me6, server6, protoTCP, [2]uint16{2, 80}, nil), true, true},
		{"to its address of IPv6 through a router", frame6(other, all, server6, me6, protoUDP, [2]uint16{69, 2}, nil), true, true},
		{"an address with the same end", frame6(other, all, near6, server6, protoTCP, [2]uint16{2, 80}, nil), false, true},
		{"another's address of IPv6", frame6(other, all, them6, server6, protoTCP, [2]uint16{2, 80}, nil), false, false},
		{"DHCPv6 of its DUID-LL", tell(message6(duid(duidLL, mine))), true, true},
		{"DHCPv6 of its DUID-LLT", tell(message6(duid(duidLLT, mine))), true, true},
		{"DHCPv6 of another", tell(message6(duid(duidLL, other))), false, true},
		{"DHCPv6 of its UUID", tell(message6([]byte("\x00\x04\xd1\xb2\xc3\xa4\x00\x01\x40\x00\x80\x00\x52\x54\x00\x12\x00\x01"))), true, true},
		{"DHCPv6 of its UUID, as UEFI has it", tell(message6([]byte("\x00\x04\xa4\xc3\xb2\xd1\x01\x00\x00\x40\x80\x00\x52\x54\x00\x12\x00\x01"))), true, true},
		{"a relay's, which tells its card", tell(relay6(relayForward, them6, option6(optLinkLayer, []byte{0, 1}, mine), option6(optRelay, message6(nil)))), true, true},
		{"two relays', of which one tells its card", tell(relay6(relayForward, them6, option6(optRelay, relay6(relayForward, them6, option6(optLinkLayer, []byte{0, 1}, mine))))), true, true},
		{"a relay's, of its own link's address", tell(relay6(relayReply, netip.MustParseAddr("fe80::5054:ff:fe12:1"), option6(optRelay, message6(nil)))), true, true},
		{"a relay's, of its DUID", tell(relay6(relayReply, them6, option6(optRelay, message6(duid(duidLL, mine))))), true, true},
		{"a relay's of another", tell(relay6(relayForward, netip.MustParseAddr("fe80::5054:ff:fe12:2"), option6(optLinkLayer, []byte{0, 1}, other), option6(optRelay, message6(duid(duidLL, other))))), false, true},
		{"half a header of IPv6", frame6(other, all, me6, server6, protoTCP, [2]uint16{2, 80}, nil)[:50], false, true},
		{"from its card", frame(all, mine, server, them, protoUDP, [2]uint16{1, 2}, 0, nil), true, true},
		{"to its card", frame(mine, other, server, them, protoTCP, [2]uint16{80, 2}, 0, nil), true, true},
		{"ARP of its card", append(append(bytes.Clone(all), mine...), 8, 6), true, true},
		{"another's", frame(other, all, server, them, protoTCP, [2]uint16{80, 2}, 0, nil), false, false},
		{"its address through a router", frame(other, all, me, server, protoTCP, [2]uint16{2, 80}, 0, nil), true, true},
		{"to its address through a router", frame(other, all, server, me, protoTCP, [2]uint16{80, 2}, 0, nil), true, true},
		{"an offer by broadcast", frame(all, other, server, anywhere, protoUDP, [2]uint16{67, 68}, 0, dhcp4Message(mine)), true, true},
		{"another's offer by broadcast", frame(all, other, server, anywhere, protoUDP, [2]uint16{67, 68}, 0, dhcp4Message(other)), false, true},
		{"a relay's request", frame(other, all, them, server, protoUDP, [2]uint16{67, 67}, 0, dhcp4Message(mine)), true, true},
		{"a relay's request with IP options", frame(other, all, them, server, protoUDP, [2]uint16{67, 67}, 8, dhcp4Message(mine)), true, true},
		{"another's request with IP options", frame(other, all, them, server, protoUDP, [2]uint16{67, 67}, 8, dhcp4Message(other)), false, true},
		{"a short one", make([]byte, 13), false, false},
		{"nothing", nil, false, false},
		{"half an IP header", frame(other, all, me, server, protoTCP, [2]uint16{2, 80}, 0, nil)[:30], false, true},
	} {
		if got := who.matches(c.frame); got != c.want {
			t.Errorf("%s: matches = %v; want %v", c.name, got, c.want)
		}
		if n, err := vm.Run(c.frame); err != nil || (n > 0) != c.passes {
			t.Errorf("%s: the kernel's filter returns %d, %v; want it to pass: %v", c.name, n, err, c.passes)
		}
	}
}

// TestTheKernelLosesNothing: whatever a frame is, the kernel's part of the
// choice lets through what the whole choice takes; neither fails.
func TestTheKernelLosesNothing(t *testing.T) {
	filter, err := who.filter()
	if err != nil {
		t.Fatal(err)
	}
	ins, _ := bpf.Disassemble(filter)
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		macs, ips := rapid.SampledFrom([]net.HardwareAddr{mine, other, all}), rapid.SampledFrom([]netip.Addr{me, them, server, anywhere})
		f := frame(macs.Draw(t, "to"), macs.Draw(t, "from"), ips.Draw(t, "src"), ips.Draw(t, "dst"), rapid.SampledFrom([]byte{6, 17, 1}).Draw(t, "proto"),
			[2]uint16{rapid.SampledFrom([]uint16{67, 68, 69, 80}).Draw(t, "sport"), rapid.SampledFrom([]uint16{67, 68, 69, 80}).Draw(t, "dport")},
			4*rapid.IntRange(0, 10).Draw(t, "options"), dhcp4Message(macs.Draw(t, "chaddr")))
		if rapid.Bool().Draw(t, "IPv6") {
			six, ports := rapid.SampledFrom([]netip.Addr{me6, them6, near6, server6}), rapid.SampledFrom([]uint16{546, 547, 69, 80})
			said := message6(duid(rapid.SampledFrom([]byte{duidLL, duidLLT, duidUUID}).Draw(t, "duid"), macs.Draw(t, "told")))
			for range rapid.IntRange(0, 3).Draw(t, "relays") {
				said = relay6(rapid.SampledFrom([]byte{relayForward, relayReply}).Draw(t, "way"), six.Draw(t, "peer"), option6(optLinkLayer, []byte{0, 1}, macs.Draw(t, "heard")), option6(optRelay, said))
			}
			f = frame6(macs.Draw(t, "to"), macs.Draw(t, "from"), six.Draw(t, "src"), six.Draw(t, "dst"), rapid.SampledFrom([]byte{6, 17, 58}).Draw(t, "next"),
				[2]uint16{ports.Draw(t, "sport"), ports.Draw(t, "dport")}, said)
		}
		f = f[:rapid.IntRange(0, len(f)).Draw(t, "length")]
		if n := rapid.IntRange(0, 3).Draw(t, "spoilt"); n > 0 && len(f) > 0 {
			f[rapid.IntRange(0, len(f)-1).Draw(t, "at")] ^= byte(n)
		}
		n, err := vm.Run(f)
		if err != nil || who.matches(f) && n == 0 {
			t.Fatalf("the kernel drops a frame that is wanted (%v): %x", err, f)
		}
	})
}

// TestTcpdumpReadsIt: the file is what tcpdump takes for one, also when it was
// cut off while it grew; long frames of TCP are kept in part.
func TestTcpdumpReadsIt(t *testing.T) {
	var out bytes.Buffer
	f := &file{w: &out, left: 1 << 20}
	if err := f.begin(); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 3, 4, 5, 123456789, time.UTC)
	for _, b := range [][]byte{
		frame(all, mine, netip.MustParseAddr("0.0.0.0"), anywhere, protoUDP, [2]uint16{68, 67}, 0, dhcp4Message(mine)),
		frame(other, mine, me, server, protoUDP, [2]uint16{2000, 69}, 0, []byte("\x00\x01undionly.kpxe\x00octet\x00")),
		frame(mine, other, server, me, protoTCP, [2]uint16{80, 3000}, 0, bytes.Repeat([]byte("x"), 1400)),
		frame6(mine, other, server6, me6, protoTCP, [2]uint16{80, 3000}, bytes.Repeat([]byte("x"), 1400)),
	} {
		if err := f.frame(at, b); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("tcpdump", "-ttttnnr", "-", "--nano")
	cmd.Env = append(cmd.Environ(), "TZ=UTC")
	cmd.Stdin = bytes.NewReader(out.Bytes())
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("tcpdump: %v", err)
	}
	for _, want := range []string{"2026-11-24 03:04:05.123456789", "BOOTP/DHCP, Request from 52:54:00:12:00:01", `TFTP, length 22, RRQ "undionly.kpxe" octet`, "10.99.0.1.80 > 10.99.0.100.3000", "fd00:99::1.80 > fd00:99::100.3000"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("tcpdump reads\n%s\nwant %q in it", text, want)
		}
	}
	if n := out.Len(); n > 24+4*frameHeader+350+80+2*dataFrame {
		t.Errorf("the file has %d bytes; want the long frames cut", n)
	}
	f.left = 100
	if err := f.frame(at, make([]byte, 200)); !errors.Is(err, errFull) {
		t.Errorf("a frame too many: %v; want errFull", err)
	}
}

// TestSeveral: frames of any of several machines are kept; the kernel takes the
// filter of as many as there may be, and more are refused.
func TestSeveral(t *testing.T) {
	var many, six Machines
	for i := range maxEach { // both families take the same room
		many.MACs = append(many.MACs, net.HardwareAddr{0x52, 0x54, 0, 0x13, 0, byte(i)})
		many.Addresses = append(many.Addresses, netip.AddrFrom4([4]byte{10, 99, 1, byte(i)}))
		six.MACs, six.Addresses = many.MACs, append(six.Addresses, netip.AddrFrom16([16]byte{0xfd, 0, 15: byte(i)}))
	}
	filter, err := many.filter()
	if err != nil {
		t.Fatal(err)
	}
	last := maxEach - 1
	wide, err := six.filter()
	if err != nil || !six.matches(frame6(all, other, six.Addresses[last], server6, protoTCP, [2]uint16{80, 80}, nil)) {
		t.Errorf("a frame from the last address of IPv6 is not kept, %v", err)
	}
	for name, f := range map[string][]byte{"to the last card": frame(many.MACs[last], other, server, them, protoTCP, [2]uint16{80, 80}, 0, nil),
		"from the last address": frame(all, other, many.Addresses[last], server, protoTCP, [2]uint16{80, 80}, 0, nil)} {
		if !many.matches(f) {
			t.Errorf("a frame %s is not kept", name)
		}
	}
	if many.matches(frame(all, other, them, server, protoTCP, [2]uint16{80, 80}, 0, nil)) {
		t.Error("a frame of another machine is kept")
	}
	if lo, err := net.InterfaceByName("lo"); err == nil {
		for _, filter := range [][]bpf.RawInstruction{filter, wide} {
			c, err := packet.Listen(lo, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
			if err == nil {
				c.Close()
			} else if !errors.Is(err, os.ErrPermission) {
				t.Errorf("the kernel refuses a filter of %d instructions: %v", len(filter), err)
			}
		}
	}
	many.MACs = append(many.MACs, mine)
	if _, err := many.filter(); !errors.Is(err, ErrMany) {
		t.Errorf("with one card more: %v; want ErrMany", err)
	}
}
