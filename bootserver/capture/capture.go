// Package capture records the traffic of one machine's boot as a pcap file:
// frames from and to its network cards and its address, and DHCP that names
// it, be it broadcast or relayed. It hears what comes to and leaves from this
// host's interfaces, nothing else of the network.
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
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Machine is whose traffic is wanted.
type Machine struct {
	MACs    []net.HardwareAddr // of Ethernet cards, at most 16
	Address netip.Addr         // IPv4, where it is known
}

// Bounds of a capture.
const (
	maxFrame = 1 << 16 // bytes; jumbo frames and what offloading glues together
	maxMACs  = 16
	// dataFrame is how much is kept of a frame with TCP: the headers and the
	// beginning of HTTP, not gigabytes of a root.
	dataFrame = 512
)

// Run records on interfaces until ctx ends or most bytes are written. Nothing
// of the file is written before every interface is open.
func Run(ctx context.Context, w io.Writer, interfaces []string, m Machine, most int64) error {
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
func (m Machine) record(ctx context.Context, c *packet.Conn, f *file) error {
	buf := make([]byte, maxFrame)
	for {
		n, _, err := c.ReadFrom(buf)
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
			return nil
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

// filter is the part of the choice that the kernel makes (bpf(4)): the cards,
// the address, and all of DHCP. Each block returns, or falls to the next.
func (m Machine) filter() ([]bpf.RawInstruction, error) {
	if len(m.MACs) == 0 || len(m.MACs) > maxMACs {
		return nil, fmt.Errorf("a machine with %d network cards cannot be captured", len(m.MACs))
	}
	keep := bpf.RetConstant{Val: maxFrame}
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
	p = append(p, bpf.LoadAbsolute{Off: atType, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeIPv4, SkipTrue: 1}, bpf.RetConstant{})
	if m.Address.Is4() {
		ip := m.Address.As4()
		for _, at := range []uint32{atIPSource, atIPDest} {
			p = append(p, bpf.LoadAbsolute{Off: at, Size: 4}, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(ip[:]), SkipTrue: 1}, keep)
		}
	}
	p = append(p, bpf.LoadAbsolute{Off: atProtocol, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: protoUDP, SkipTrue: 1}, bpf.RetConstant{}, bpf.LoadMemShift{Off: atIP})
	for _, at := range []uint32{atIP, atIP + 2} { // ports, behind the header's options
		p = append(p, bpf.LoadIndirect{Off: at, Size: 2}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: portServer, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: portClient, SkipTrue: 1}, keep)
	}
	return bpf.Assemble(append(p, bpf.RetConstant{}))
}

// matches makes the whole choice. A frame may be any bytes.
func (m Machine) matches(frame []byte) bool {
	return m.matchesAddresses(frame) || m.matchesDHCP(frame)
}

// matchesAddresses reports whether a frame is from or to one of the cards, or
// the address.
func (m Machine) matchesAddresses(frame []byte) bool {
	if len(frame) < atIP {
		return false
	}
	for _, mac := range m.MACs {
		if bytes.Equal(frame[:6], mac) || bytes.Equal(frame[atSource:atType], mac) {
			return true
		}
	}
	if !isIPv4(frame) || !m.Address.Is4() {
		return false
	}
	ip := m.Address.As4()
	return bytes.Equal(frame[atIPSource:atIPDest], ip[:]) || bytes.Equal(frame[atIPDest:atIPDest+4], ip[:])
}

func isIPv4(frame []byte) bool {
	return len(frame) >= atIPDest+4 && binary.BigEndian.Uint16(frame[atType:]) == typeIPv4
}

// matchesDHCP reports whether a frame is DHCP that names one of the cards.
func (m Machine) matchesDHCP(frame []byte) bool {
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
	if len(frame) > dataFrame && isIPv4(frame) && frame[atProtocol] == protoTCP {
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
