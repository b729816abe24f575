// Package capture records the traffic of boots of some machines as a pcap file:
// frames from and to their network cards and addresses, and DHCP that names
// them, be it broadcast, multicast or relayed, of IPv4 and IPv6. It hears what
// comes to and leaves from this host's interfaces, nothing else of the network.
//
// The file is the classic format with nanoseconds (draft-ietf-opsawg-pcap),
// which tcpdump and Wireshark read, also while it grows.
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

// Machines are those whose traffic is wanted.
type Machines struct {
	MACs      []net.HardwareAddr // of Ethernet cards, at most 64
	Addresses []netip.Addr       // as far as they are known, at most 64
	UUIDs     []string           // of boards, as far as they are known: DHCPv6 may tell nothing else
}

// ErrMany: the kernel's filter has no room for so many cards.
var ErrMany = errors.New("too many network cards for one capture")

// Bounds of a capture.
const (
	maxFrame = 1 << 16 // bytes; jumbo frames and what offloading glues together
	maxEach  = 64      // cards, and addresses: they take 10 and 6 instructions of the filter, whose size optmem_max bounds (socket(7))
	// dataFrame is how much is kept of a frame with TCP: the headers and the
	// beginning of HTTP, not gigabytes of a root.
	dataFrame = 512
)

// Run records on interfaces until ctx ends or most bytes are written. Nothing
// of the file is written before every interface is open.
func Run(ctx context.Context, w io.Writer, interfaces []string, m Machines, most int64) error {
	filter, err := m.filter()
	if err != nil {
		return err
	}
	var conns []*packet.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close() // nothing more is wanted of it
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

// record writes what comes in at one interface.
func (m Machines) record(ctx context.Context, c *packet.Conn, f *file) error {
	buf := make([]byte, maxFrame)
	for {
		n, _, err := c.ReadFrom(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
			return nil //nolint:nilerr // the end that was asked for
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

// Check returns why these cannot be captured together.
func (m Machines) Check() error {
	switch {
	case len(m.MACs) == 0:
		return errors.New("without a network card, nothing can be captured")
	case len(m.MACs) > maxEach || len(m.Addresses) > maxEach:
		return fmt.Errorf("%w: %d of at most %d", ErrMany, max(len(m.MACs), len(m.Addresses)), maxEach)
	}
	return nil
}

// filter is the part of the choice that the kernel makes (bpf(4)): the cards,
// the addresses, and all of DHCP, of both families. Each block returns, or falls to the next.
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
			p = append(p, bpf.LoadAbsolute{Off: at, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 3},
				bpf.LoadAbsolute{Off: at + 4, Size: 2}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1}, keep)
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
	p = append(p, bpf.LoadAbsolute{Off: atProtocol, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipTrue: 1}, bpf.RetConstant{}, bpf.LoadMemShift{Off: atIP})
	for _, at := range []uint32{atIP, atIP + 2} { // ports, behind the header's options
		p = append(p, bpf.LoadIndirect{Off: at, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: portServer, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient, SkipTrue: 1}, keep)
	}
	return append(p, bpf.RetConstant{})
}

// filterIPv6 looks at the last 32 bits of addresses: there is no room for more,
// and matches looks at all.
func (m Machines) filterIPv6() (p []bpf.Instruction) {
	for _, a := range m.Addresses {
		if !a.Is6() {
			continue
		}
		ip := a.As16()
		p = append(p, words([4]byte(ip[12:]), atIP6Source+12, atIP6Dest+12)...)
	}
	p = append(p, bpf.LoadAbsolute{Off: atNext, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipTrue: 1}, bpf.RetConstant{})
	for _, at := range []uint32{atPayload, atPayload + 2} {
		p = append(p, bpf.LoadAbsolute{Off: at, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: portServer6, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient6, SkipTrue: 1}, keep)
	}
	return append(p, bpf.RetConstant{})
}

// words keeps frames that have a word at one of two places.
func words(word [4]byte, places ...uint32) (p []bpf.Instruction) {
	for _, at := range places {
		p = append(p, bpf.LoadAbsolute{Off: at, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(word[:]), SkipTrue: 1}, keep)
	}
	return p
}

// matches makes the whole choice. A frame may be any bytes.
func (m Machines) matches(frame []byte) bool {
	return m.matchesAddresses(frame) || m.matchesDHCP(frame) || m.matchesDHCP6(frame)
}

// matchesAddresses reports whether a frame is from or to one of the cards, or
// the address.
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
	if len(udp) < 8+atChaddr+chaddrBytes || !isDHCP(binary.BigEndian.Uint16(udp)) && !isDHCP(binary.BigEndian.Uint16(udp[2:])) {
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

// file is a pcap file that grows.
type file struct {
	mu   sync.Mutex
	w    io.Writer
	left int64
}

// errFull: the file is as large as it may get.
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
	if len(frame) > dataFrame && (isIPv4(frame) && frame[atProtocol] == protoTCP || isIPv6(frame) && frame[atNext] == protoTCP) {
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
