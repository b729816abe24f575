// Package capture records the traffic of some machines as a pcap file: frames from
// and to their network cards and addresses, and DHCP messages that name them,
// broadcast, multicast or relayed, over IPv4 and IPv6. It records frames that this
// host's interfaces receive and send, and no other traffic of the network.
//
// The file has the classic format with nanoseconds (draft-ietf-opsawg-pcap), which
// tcpdump and Wireshark can read while it grows. VLAN tags, IPv6 extension headers
// and fragments are left out.
package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Machines are the machines to record.
type Machines struct {
	MACs      []net.HardwareAddr // of Ethernet cards, at most 64
	Addresses []netip.Addr       // if known, at most 64
	UUIDs     []string           // of boards, if known: a DHCPv6 message may have no other identifier
}

// ErrMany: the kernel's filter cannot hold so many cards.
var ErrMany = errors.New("too many network cards for one capture")

// Bounds of a capture.
const (
	// maxFrame is in bytes: jumbo frames, and frames that offloading combined.
	maxFrame = 1 << 16
	// maxEach bounds cards and addresses. Each takes 10 or 6 instructions of the
	// filter, and optmem_max bounds its size (socket(7)).
	maxEach = 64
	// dataFrame is how many bytes of a TCP frame are kept: the headers and the
	// beginning of HTTP, not gigabytes of a root.
	dataFrame = 512
)

// Run records on interfaces until ctx ends or most bytes are written. It opens all
// interfaces before it writes.
func Run(ctx context.Context, w io.Writer, interfaces []string, m Machines, most int64) error {
	filter, err := m.filter()
	if err != nil {
		return err
	}
	var conns []*packet.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close() // it was only read
		}
	}()
	for _, name := range interfaces {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("capturing on %s: %w", name, err)
		}
		c, err := packet.Listen(i, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
		if err != nil {
			return fmt.Errorf("capturing on %s: %w", name, err)
		}
		conns = append(conns, c)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	f := &file{w: w, left: most}
	if err := f.begin(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range conns {
		defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
		g.Go(func() error { return m.record(ctx, c, f) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, errFull) {
		return err
	}
	return nil
}

// record writes the frames of one interface.
func (m Machines) record(ctx context.Context, c *packet.Conn, f *file) error {
	buf := make([]byte, maxFrame)
	for {
		n, _, err := c.ReadFrom(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
			return nil //nolint:nilerr // the caller ended the capture
		case err != nil:
			return fmt.Errorf("capturing: %w", err)
		}
		if !m.matches(buf[:n]) {
			continue
		}
		if err := f.frame(time.Now(), buf[:n]); err != nil {
			return err
		}
	}
}

// Offsets in an Ethernet frame with IPv4 (RFC 894, RFC 791).
const (
	atSource    = 6
	atType      = 12
	atIP        = 14
	atProtocol  = atIP + 9
	atIPSource  = atIP + 12
	atIPDest    = atIP + 16
	typeIPv4    = 0x0800
	protoTCP    = 6
	protoUDP    = 17
	portServer  = 67
	portClient  = 68
	atChaddr    = 28 // in a DHCP message (RFC 2131 section 2)
	chaddrBytes = 6
)

// Check returns an error when one capture cannot record all these machines.
func (m Machines) Check() error {
	switch {
	case len(m.MACs) == 0:
		return errors.New("no network card to capture")
	case len(m.MACs) > maxEach || len(m.Addresses) > maxEach:
		return fmt.Errorf("%w: %d of at most %d", ErrMany, max(len(m.MACs), len(m.Addresses)), maxEach)
	}
	return nil
}

// filter is the part of the selection that the kernel makes (bpf(4)): the cards,
// the addresses, and all DHCP of both families. Each block returns or falls
// through to the next.
func (m Machines) filter() ([]bpf.RawInstruction, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	var p []bpf.Instruction
	for _, mac := range m.MACs {
		if len(mac) != 6 {
			return nil, fmt.Errorf("%s is not the address of an Ethernet card", mac)
		}
		for _, at := range []uint32{0, atSource} {
			head, tail := binary.BigEndian.Uint32(mac), uint32(binary.BigEndian.Uint16(mac[4:]))
			p = append(p, bpf.LoadAbsolute{Off: at, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: head, SkipTrue: 3},
				bpf.LoadAbsolute{Off: at + 4, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tail, SkipTrue: 1}, keep)
		}
	}
	four, six := m.filterIPv4(), m.filterIPv6()
	p = append(p, bpf.LoadAbsolute{Off: atType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeIPv6, SkipTrue: 1}, bpf.Jump{Skip: uint32(2 + len(four))},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeIPv4, SkipTrue: 1}, bpf.RetConstant{})
	return bpf.Assemble(slices.Concat(p, four, six))
}

var keep = bpf.RetConstant{Val: maxFrame}

func (m Machines) filterIPv4() (p []bpf.Instruction) {
	for _, a := range m.Addresses {
		if !a.Is4() {
			continue
		}
		ip := a.As4()
		p = append(p, words(ip, atIPSource, atIPDest)...)
	}
	p = append(p, bpf.LoadAbsolute{Off: atProtocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipTrue: 1}, bpf.RetConstant{}, bpf.LoadMemShift{Off: atIP})
	for _, at := range []uint32{atIP, atIP + 2} { // ports, after the IP header's options
		p = append(p, bpf.LoadIndirect{Off: at, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: portServer, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient, SkipTrue: 1}, keep)
	}
	return append(p, bpf.RetConstant{})
}

// filterIPv6 compares the last 32 bits of addresses: the filter has no room for
// more, and matches compares all bits.
func (m Machines) filterIPv6() (p []bpf.Instruction) {
	for _, a := range m.Addresses {
		if !a.Is6() {
			continue
		}
		ip := a.As16()
		p = append(p, words([4]byte(ip[12:]), atIP6Source+12, atIP6Dest+12)...)
	}
	p = append(p, bpf.LoadAbsolute{Off: atNext, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipTrue: 1}, bpf.RetConstant{})
	for _, at := range []uint32{atPayload, atPayload + 2} {
		p = append(p, bpf.LoadAbsolute{Off: at, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: portServer6, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient6, SkipTrue: 1}, keep)
	}
	return append(p, bpf.RetConstant{})
}

// words keeps frames that have a word at one of several offsets.
func words(word [4]byte, offsets ...uint32) (p []bpf.Instruction) {
	value := binary.BigEndian.Uint32(word[:])
	for _, at := range offsets {
		p = append(p, bpf.LoadAbsolute{Off: at, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: 1}, keep)
	}
	return p
}

// matches makes the whole selection. A frame may be any bytes.
func (m Machines) matches(frame []byte) bool {
	return m.matchesAddresses(frame) || m.matchesDHCP(frame) || m.matchesDHCP6(frame)
}

// matchesAddresses reports whether a frame is from or to one of the cards or
// addresses.
func (m Machines) matchesAddresses(frame []byte) bool {
	if len(frame) < atIP {
		return false
	}
	for _, mac := range m.MACs {
		if bytes.Equal(frame[:6], mac) || bytes.Equal(frame[atSource:atType], mac) {
			return true
		}
	}
	return slices.ContainsFunc(addresses(frame), func(a netip.Addr) bool { return slices.Contains(m.Addresses, a) })
}

func isIPv4(frame []byte) bool {
	return len(frame) >= atIPDest+4 && binary.BigEndian.Uint16(frame[atType:]) == typeIPv4
}

// matchesDHCP reports whether a frame is DHCP that names one of the cards.
func (m Machines) matchesDHCP(frame []byte) bool {
	if !isIPv4(frame) || frame[atProtocol] != protoUDP {
		return false
	}
	udp := frame[min(len(frame), atIP+int(frame[atIP]&0xf)*4):]
	if len(udp) < 8+atChaddr+chaddrBytes {
		return false
	}
	if !isDHCP(binary.BigEndian.Uint16(udp)) && !isDHCP(binary.BigEndian.Uint16(udp[2:])) {
		return false
	}
	message := udp[8:]
	for _, mac := range m.MACs {
		if bytes.Equal(message[atChaddr:atChaddr+chaddrBytes], mac) {
			return true
		}
	}
	return false
}

func isDHCP(port uint16) bool { return port == portServer || port == portClient }

// file is a pcap file that is being written.
type file struct {
	mu   sync.Mutex
	w    io.Writer
	left int64
}

// errFull: the file has its maximum size.
var errFull = errors.New("the capture is full")

const (
	magicNanoseconds = 0xa1b23c4d
	linkEthernet     = 1
	frameHeader      = 16
)

func (f *file) begin() error {
	h := binary.LittleEndian.AppendUint32(nil, magicNanoseconds)
	h = binary.LittleEndian.AppendUint16(h, 2) // version 2.4
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...) // time zone and accuracy: unused
	h = binary.LittleEndian.AppendUint32(h, maxFrame)
	h = binary.LittleEndian.AppendUint32(h, linkEthernet)
	f.left -= int64(len(h))
	return f.write(h)
}

// frame appends one frame, in one write.
func (f *file) frame(at time.Time, frame []byte) error {
	kept := frame
	isTCP := isIPv4(frame) && frame[atProtocol] == protoTCP || isIPv6(frame) && frame[atNext] == protoTCP
	if len(frame) > dataFrame && isTCP {
		kept = frame[:dataFrame]
	}
	b := make([]byte, 0, frameHeader+len(kept))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(kept)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = append(b, kept...)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left -= int64(len(b)); f.left < 0 {
		return errFull
	}
	return f.write(b)
}

func (f *file) write(b []byte) error {
	if _, err := f.w.Write(b); err != nil {
		return fmt.Errorf("writing the capture: %w", err)
	}
	return nil
}
