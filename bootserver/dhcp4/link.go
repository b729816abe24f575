package dhcp4

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// Link is an interface with its open sockets: besides the UDP sockets a packet
// socket that sends to clients which do not answer ARP yet, and overhears what
// other servers answer.
type Link struct {
	*network.Link
	raw *packet.Conn // nil on interfaces that are not Ethernet
}

// Listen opens the sockets of an interface. It does not share the ports: a second
// server must fail, not get half of the packets.
func Listen(ctx context.Context, i Interface) (*Link, error) {
	udp, err := network.OpenLink(ctx, network.IPv4, i.Name, PortDHCP, i.mode() == Proxy)
	if err != nil {
		return nil, fmt.Errorf("opening DHCP sockets: %w", err)
	}
	l := &Link{Link: udp}
	if len(udp.Interface.HardwareAddr) == 6 { // not on lo
		if l.raw, err = listenRaw(udp.Interface); err != nil {
			udp.Close()
			return nil, fmt.Errorf("opening a packet socket on %s: %w", i.Name, err)
		}
	}
	return l, nil
}

// Close closes the sockets.
func (l *Link) Close() {
	l.Link.Close()
	if l.raw != nil {
		l.raw.Close()
	}
}

// listenRaw opens a packet socket that receives the answers of other servers: IPv4,
// UDP, not a later fragment, to port 68.
func listenRaw(i *net.Interface) (*packet.Conn, error) {
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcpv4.ClientPort, SkipTrue: 1},
		bpf.RetConstant{Val: 4096},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	c, err := packet.Listen(i, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, err
	}
	sc, err := c.SyscallConn()
	if err == nil {
		err = sc.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) // else Overheard skips them
		})
	}
	return c, err
}

// broadcastMAC is the Ethernet address of all stations.
var broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (l *Link) send(r *Reply) error {
	b := r.Message.ToBytes()
	to := r.To
	if r.Hardware != nil {
		if l.raw != nil {
			return l.sendRaw(r.Hardware, r.From, to, b)
		}
		to = broadcastClient
	}
	return l.Socket(r.From.Port()).Send(b, r.From.Addr(), to)
}

func (l *Link) sendRaw(mac net.HardwareAddr, from, to netip.AddrPort, body []byte) error {
	_, err := l.raw.WriteTo(datagram(from, to, body), &packet.Addr{HardwareAddr: mac})
	return err
}

// datagram is an IPv4 packet with a UDP payload (RFC 791, RFC 768).
func datagram(from, to netip.AddrPort, body []byte) []byte {
	b := make([]byte, headers, headers+len(body))
	b = append(b, body...)
	src, dst := from.Addr().As4(), to.Addr().As4()
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b[:20]))
	binary.BigEndian.PutUint16(b[20:], from.Port())
	binary.BigEndian.PutUint16(b[22:], to.Port())
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
	pseudo := uint32(unix.IPPROTO_UDP) + uint32(len(b)-20)
	check := ^sum(uint32(sum(pseudo, b[12:20])), b[20:])
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[26:], check)
	return b
}

// sum is the ones' complement sum of 16-bit words (RFC 1071).
func sum(start uint32, b []byte) uint16 {
	s := start
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// overhear records what other servers answer.
func (s *Server) overhear(ctx context.Context, l *Link) error {
	b := make([]byte, 4096)
	for {
		n, from, err := l.raw.ReadFrom(b)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil //nolint:nilerr // the expected end
			}
			if errors.Is(err, unix.ENETDOWN) {
				time.Sleep(time.Second)
				continue
			}
			return fmt.Errorf("overhearing on %s: %w", l.Interface.Name, err)
		}
		var mac net.HardwareAddr
		if a, ok := from.(*packet.Addr); ok {
			mac = a.HardwareAddr
		}
		s.Overheard(l.Interface.Name, mac, b[:n])
	}
}

// Overheard handles an IPv4 packet that a card with a MAC address sent to a client.
func (s *Server) Overheard(iface string, mac net.HardwareAddr, b []byte) {
	site := s.Site()
	on := site.Interfaces[iface]
	if on == nil {
		return
	}
	from, p := readOverheard(b)
	if p == nil || on.Owns(from) {
		return
	}
	src := source{iface, mac, from, bytes.Equal(p.ClientHWAddr, on.MAC) || site.Owns(from)}
	if o := s.overheard(src, p, on.Config.mode(), s.Now()); o != nil && !o.Expected {
		s.Record(client.Packet{Packet: fleet.Packet{At: o.At, Other: o}, MAC: client.MACText(p.ClientHWAddr)})
	}
}

// Pauses between queries for other servers: short after the start, then long.
var firstPauses = []time.Duration{time.Second, 10 * time.Second, time.Minute}

const pause = 10 * time.Minute

// sendQueries asks the network for other servers until ctx ends, but not in observe
// mode, nor if the interface is configured to be quiet.
func (s *Server) sendQueries(ctx context.Context, l *Link) error {
	for n := 0; ; n++ {
		wait := pause
		if n < len(firstPauses) {
			wait = firstPauses[n]
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		on := s.Site().Interfaces[l.Interface.Name]
		if on == nil || on.Config.mode() == Observe || on.Config.Quiet {
			continue
		}
		q, err := newQuery(on.MAC, s.id+" "+serverAddress(on, netip.Addr{}).String())
		if err != nil {
			return err
		}
		if err := sendQuery(l.raw, q); err != nil {
			s.Log.Debug("sending a query for other DHCP servers", "interface", l.Interface.Name, "err", err)
		}
	}
}
