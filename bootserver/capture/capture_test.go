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
	wanted = Machines{
		MACs: []net.HardwareAddr{mine}, Addresses: []netip.Addr{me, me6},
		UUIDs: []string{"d1b2c3a4-0001-4000-8000-525400120001"},
	}
)

// frame is an Ethernet frame with UDP or TCP in IPv4, with header options.
func frame(
	to, from net.HardwareAddr, src, dst netip.Addr, proto byte, ports [2]uint16, options int, body []byte,
) []byte {
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

// matchCase is a frame: whether the capture keeps it, and whether the kernel's
// filter passes it.
type matchCase struct {
	name         string
	frame        []byte
	want, passes bool
}

func matchCases() []matchCase { return slices.Concat(matchCases4(), matchCases6(), matchCasesDHCP6()) }

func matchCases4() []matchCase {
	to := func(port uint16) [2]uint16 { return [2]uint16{2, port} }
	from := func(port uint16) [2]uint16 { return [2]uint16{port, 2} }
	offer, request := [2]uint16{67, 68}, [2]uint16{67, 67}
	dhcp := func(ports [2]uint16, options int, mac net.HardwareAddr) []byte {
		if ports == offer {
			return frame(all, other, server, anywhere, protoUDP, ports, options, dhcp4Message(mac))
		}
		return frame(other, all, them, server, protoUDP, ports, options, dhcp4Message(mac))
	}
	return []matchCase{
		{"from its card", frame(all, mine, server, them, protoUDP, from(1), 0, nil), true, true},
		{"to its card", frame(mine, other, server, them, protoTCP, from(80), 0, nil), true, true},
		{"ARP of its card", append(append(bytes.Clone(all), mine...), 8, 6), true, true},
		{"of another card", frame(other, all, server, them, protoTCP, from(80), 0, nil), false, false},
		{"from its address through a router", frame(other, all, me, server, protoTCP, to(80), 0, nil), true, true},
		{"to its address through a router", frame(other, all, server, me, protoTCP, from(80), 0, nil), true, true},
		{"an offer by broadcast", dhcp(offer, 0, mine), true, true},
		{"another card's offer by broadcast", dhcp(offer, 0, other), false, true},
		{"a relayed request", dhcp(request, 0, mine), true, true},
		{"a relayed request with IP options", dhcp(request, 8, mine), true, true},
		{"another card's request with IP options", dhcp(request, 8, other), false, true},
		{"a short frame", make([]byte, 13), false, false},
		{"an empty frame", nil, false, false},
		{"half an IP header", frame(other, all, me, server, protoTCP, to(80), 0, nil)[:30], false, true},
	}
}

func matchCases6() []matchCase {
	http, tftp := [2]uint16{2, 80}, [2]uint16{69, 2}
	return []matchCase{
		{"from its IPv6 address through a router", frame6(other, all, me6, server6, protoTCP, http, nil), true, true},
		{"to its IPv6 address through a router", frame6(other, all, server6, me6, protoUDP, tftp, nil), true, true},
		{"an address with the same end", frame6(other, all, near6, server6, protoTCP, http, nil), false, true},
		{"another IPv6 address", frame6(other, all, them6, server6, protoTCP, http, nil), false, false},
		{"half an IPv6 header", frame6(other, all, me6, server6, protoTCP, http, nil)[:50], false, true},
	}
}

func matchCasesDHCP6() []matchCase {
	var (
		uuid       = []byte("\x00\x04\xd1\xb2\xc3\xa4\x00\x01\x40\x00\x80\x00\x52\x54\x00\x12\x00\x01")
		uuidSMBIOS = []byte("\x00\x04\xa4\xc3\xb2\xd1\x01\x00\x00\x40\x80\x00\x52\x54\x00\x12\x00\x01")
		linkLocal  = netip.MustParseAddr("fe80::5054:ff:fe12:1")
		otherLocal = netip.MustParseAddr("fe80::5054:ff:fe12:2")
	)
	linkLayer := func(mac net.HardwareAddr) []byte { return option6(optLinkLayer, []byte{0, 1}, mac) }
	relayed := func(message []byte) []byte { return option6(optRelay, message) }
	dhcp := func(name string, message []byte, want bool) matchCase {
		return matchCase{name, frame6(other, all, server6, server6, protoUDP, [2]uint16{547, 547}, message), want, true}
	}
	return []matchCase{
		dhcp("DHCPv6 with its DUID-LL", message6(duid(duidLL, mine)), true),
		dhcp("DHCPv6 with its DUID-LLT", message6(duid(duidLLT, mine)), true),
		dhcp("DHCPv6 of another card", message6(duid(duidLL, other)), false),
		dhcp("DHCPv6 with its UUID", message6(uuid), true),
		dhcp("DHCPv6 with its UUID in SMBIOS order", message6(uuidSMBIOS), true),
		dhcp("a relay that names its card", relay6(relayForward, them6, linkLayer(mine), relayed(message6(nil))), true),
		dhcp("two relays, one of which names its card",
			relay6(relayForward, them6, relayed(relay6(relayForward, them6, linkLayer(mine)))), true),
		dhcp("a relay with its link-local address", relay6(relayReply, linkLocal, relayed(message6(nil))), true),
		dhcp("a relay with its DUID", relay6(relayReply, them6, relayed(message6(duid(duidLL, mine)))), true),
		dhcp("a relay of another card",
			relay6(relayForward, otherLocal, linkLayer(other), relayed(message6(duid(duidLL, other)))), false),
	}
}

var anywhere = netip.MustParseAddr("255.255.255.255")

func TestMatches(t *testing.T) {
	filter, err := wanted.filter()
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
	for _, c := range matchCases() {
		if got := wanted.matches(c.frame); got != c.want {
			t.Errorf("%s: matches = %v; want %v", c.name, got, c.want)
		}
		if n, err := vm.Run(c.frame); err != nil || (n > 0) != c.passes {
			t.Errorf("%s: the kernel's filter returns %d, %v; want it to pass: %v", c.name, n, err, c.passes)
		}
	}
}

// TestKernelFilterKeepsMatches: for any frame, the kernel's filter passes what
// matches selects, and neither fails.
func TestKernelFilterKeepsMatches(t *testing.T) {
	filter, err := wanted.filter()
	if err != nil {
		t.Fatal(err)
	}
	ins, _ := bpf.Disassemble(filter)
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		macs := rapid.SampledFrom([]net.HardwareAddr{mine, other, all})
		ips := rapid.SampledFrom([]netip.Addr{me, them, server, anywhere})
		ports := rapid.SampledFrom([]uint16{67, 68, 69, 80})
		f := frame(macs.Draw(t, "to"), macs.Draw(t, "from"), ips.Draw(t, "src"), ips.Draw(t, "dst"),
			rapid.SampledFrom([]byte{6, 17, 1}).Draw(t, "proto"), [2]uint16{ports.Draw(t, "sport"), ports.Draw(t, "dport")},
			4*rapid.IntRange(0, 10).Draw(t, "options"), dhcp4Message(macs.Draw(t, "chaddr")))
		if rapid.Bool().Draw(t, "IPv6") {
			six := rapid.SampledFrom([]netip.Addr{me6, them6, near6, server6})
			ports := rapid.SampledFrom([]uint16{546, 547, 69, 80})
			kinds := rapid.SampledFrom([]byte{duidLL, duidLLT, duidUUID})
			message := message6(duid(kinds.Draw(t, "duid"), macs.Draw(t, "card")))
			for range rapid.IntRange(0, 3).Draw(t, "relays") {
				linkLayer := option6(optLinkLayer, []byte{0, 1}, macs.Draw(t, "link layer"))
				kind := rapid.SampledFrom([]byte{relayForward, relayReply}).Draw(t, "kind")
				message = relay6(kind, six.Draw(t, "peer"), linkLayer, option6(optRelay, message))
			}
			f = frame6(macs.Draw(t, "to"), macs.Draw(t, "from"), six.Draw(t, "src"), six.Draw(t, "dst"),
				rapid.SampledFrom([]byte{6, 17, 58}).Draw(t, "next"),
				[2]uint16{ports.Draw(t, "sport"), ports.Draw(t, "dport")}, message)
		}
		f = f[:rapid.IntRange(0, len(f)).Draw(t, "length")]
		if n := rapid.IntRange(0, 3).Draw(t, "spoilt"); n > 0 && len(f) > 0 {
			f[rapid.IntRange(0, len(f)-1).Draw(t, "at")] ^= byte(n)
		}
		n, err := vm.Run(f)
		if err != nil || wanted.matches(f) && n == 0 {
			t.Fatalf("the kernel drops a frame that is wanted (%v): %x", err, f)
		}
	})
}

// TestTcpdumpReadsIt: tcpdump reads the file, and only the beginning of long TCP
// frames is kept.
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
	for _, want := range []string{
		"2026-11-24 03:04:05.123456789", "BOOTP/DHCP, Request from 52:54:00:12:00:01",
		`TFTP, length 22, RRQ "undionly.kpxe" octet`,
		"10.99.0.1.80 > 10.99.0.100.3000", "fd00:99::1.80 > fd00:99::100.3000",
	} {
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

// TestSeveral: frames of each of several machines are kept. The kernel accepts the
// filter of the maximum number, and more are refused.
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
	http := [2]uint16{80, 80}
	for name, f := range map[string][]byte{
		"to the last card":      frame(many.MACs[last], other, server, them, protoTCP, http, 0, nil),
		"from the last address": frame(all, other, many.Addresses[last], server, protoTCP, http, 0, nil),
	} {
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
