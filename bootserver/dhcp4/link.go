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
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// Link is an interface with its open sockets: one for each port, and a packet
// socket that sends to clients which do not answer ARP yet, and overhears what
// other servers answer.
type Link struct {
	name      string
	index     int
	mac       net.HardwareAddr
	dhcp, pxe *ipv4.PacketConn
	raw       *packet.Conn
}

// Listen opens the sockets of an interface. It does not share the ports: a
// second server must fail, not split the packets.
func Listen(ctx context.Context, i Interface) (_ *Link, err error) {
	n, err := net.InterfaceByName(i.Name)
	if err != nil {
		return nil, fmt.Errorf("listening for DHCP on %s: %w", i.Name, err)
	}
	l := &Link{name: i.Name, index: n.Index, mac: n.HardwareAddr}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.dhcp, err = listenUDP(ctx, i.Name, PortDHCP); err != nil {
		return nil, err
	}
	if i.Mode == Proxy {
		if l.pxe, err = listenUDP(ctx, i.Name, client.PortPXE); err != nil {
			return nil, err
		}
	}
	if len(n.HardwareAddr) == 6 { // not on lo
		if l.raw, err = listenRaw(n); err != nil {
			return nil, fmt.Errorf("opening a packet socket on %s: %w", i.Name, err)
		}
	}
	return l, nil
}

// Close closes the sockets.
func (l *Link) Close() {
	if l.dhcp != nil {
		l.dhcp.Close()
	}
	if l.pxe != nil {
		l.pxe.Close()
	}
	if l.raw != nil {
		l.raw.Close()
	}
}

func listenUDP(ctx context.Context, iface string, port int) (*ipv4.PacketConn, error) {
	c, err := network.Listen(ctx, network.IPv4, iface, port)
	if err != nil {
		return nil, fmt.Errorf("listening for DHCP on %s: %w", iface, err)
	}
	p := ipv4.NewPacketConn(c)
	if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for DHCP on %s: %w", iface, err), c.Close())
	}
	return p, nil
}

// listenRaw opens a packet socket that hears the answers of others: IPv4, UDP,
// not a later fragment, to port 68.
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
			_ = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) // else we filter them
		})
	}
	return c, err
}

// maxPacket is the largest packet that is read: larger ones are nobody's.
const maxPacket = 2048

// receive reads packets and lets each be worked on by itself: who waits for the
// disk, or for the test of an address, keeps nobody else waiting.
func (s *Server) receive(ctx context.Context, l *Link, c *ipv4.PacketConn, port uint16) error {
	room := network.Room(maxPacket, ipv4.NewControlMessage(ipv4.FlagDst))
	take := func(m ipv4.Message) { s.admit(ctx, l, m, port) }
	if err := network.Receive(ctx, c, room, take, func() { s.observer.WarnDown(l.name, s.now()) }); err != nil {
		return fmt.Errorf("receiving DHCP on %s: %w", l.name, err)
	}
	return nil
}

func (s *Server) admit(ctx context.Context, l *Link, m ipv4.Message, port uint16) {
	p := Packet{Interface: l.name, Port: port}
	if a, ok := m.Addr.(*net.UDPAddr); ok {
		p.From = a.AddrPort()
		p.From = netip.AddrPortFrom(p.From.Addr().Unmap(), p.From.Port())
	}
	var cm ipv4.ControlMessage
	if cm.Parse(m.OOB[:m.NN]) == nil {
		p.To = address(cm.Dst)
	}
	msg, err := dhcpv4.FromBytes(m.Buffers[0][:m.N])
	if err != nil || msg.OpCode != dhcpv4.OpcodeBootRequest || len(msg.ClientHWAddr) != 6 {
		s.log.Debug("broken DHCP packet", "from", p.From, "err", err)
		return
	}
	p.Message = msg
	k := packetKey{l.name, string(msg.ClientHWAddr), msg.TransactionID, msg.MessageType()}
	if !s.inside.Enter(k, network.Sender{Stranger: !s.familiar(msg), Begins: k.kind == dhcpv4.MessageTypeDiscover}) {
		return
	}
	j := job{l, p, k}
	select {
	case s.jobs <- j: // somebody idle takes it
	default:
		go s.work(ctx, j)
	}
}

// job is one packet to be worked on.
type job struct {
	link   *Link
	packet Packet
	key    packetKey
}

// idle is how long a goroutine waits for another packet. Its stack has grown to
// what packets need; a new one would have to do so again.
const idle = 5 * time.Second

func (s *Server) work(ctx context.Context, j job) {
	t := time.NewTimer(idle)
	defer t.Stop()
	for {
		s.handle(ctx, j.link, j.packet)
		s.inside.Leave(j.key)
		t.Reset(idle)
		select {
		case j = <-s.jobs:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// familiar reports whether a packet is of a machine that we know.
func (s *Server) familiar(p *dhcpv4.DHCPv4) bool {
	mac := client.MACText(p.ClientHWAddr)
	return s.site.Load().machines[mac] != nil || s.booter.Lookup(mac, "").Approved
}

func (l *Link) send(r *Reply) error {
	b := r.Message.ToBytes()
	if r.Hardware != nil && l.raw != nil {
		_, err := l.raw.WriteTo(datagram(r.From, r.To, b), &packet.Addr{HardwareAddr: r.Hardware})
		return err
	}
	c := l.dhcp
	if r.From.Port() == client.PortPXE && l.pxe != nil {
		c = l.pxe
	}
	to := r.To
	if r.Hardware != nil {
		to = broadcastClient
	}
	_, err := c.WriteTo(b, &ipv4.ControlMessage{Src: r.From.Addr().AsSlice(), IfIndex: l.index}, net.UDPAddrFromAddrPort(to))
	return err
}

// datagram is an IPv4 packet with UDP in it (RFC 791, RFC 768).
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

// overhear notes what other servers answer.
func (s *Server) overhear(ctx context.Context, l *Link) error {
	b := make([]byte, 4096)
	for {
		n, from, err := l.raw.ReadFrom(b)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil //nolint:nilerr // the end that was asked for
			}
			if errors.Is(err, unix.ENETDOWN) {
				time.Sleep(time.Second)
				continue
			}
			return fmt.Errorf("overhearing on %s: %w", l.name, err)
		}
		var mac net.HardwareAddr
		if a, ok := from.(*packet.Addr); ok {
			mac = a.HardwareAddr
		}
		s.Overheard(l.name, mac, b[:n])
	}
}

// Overheard takes an IPv4 packet that some card sent to a client.
func (s *Server) Overheard(iface string, mac net.HardwareAddr, b []byte) {
	site := s.site.Load()
	port := site.ports[iface]
	if port == nil || len(b) < headers || b[0]>>4 != 4 {
		return
	}
	header := int(b[0]&15) * 4
	if len(b) < header+8 {
		return
	}
	from, _ := netip.AddrFromSlice(b[12:16])
	p, err := dhcpv4.FromBytes(b[header+8:])
	if err != nil || p.OpCode != dhcpv4.OpcodeBootReply || port.Owns(from) {
		return
	}
	src := source{iface, mac, from, bytes.Equal(p.ClientHWAddr, port.MAC) || site.owns(from)}
	if o := s.overheard(src, p, port.Mode, s.now()); o != nil && !o.Expected {
		s.tell(client.Packet{Packet: fleet.Packet{At: o.At, Other: o}, MAC: client.MACText(p.ClientHWAddr)})
	}
}

// Pauses between questions to the network: soon after the start, then seldom.
var questionPauses = []time.Duration{time.Second, 10 * time.Second, time.Minute}

const questionPause = 10 * time.Minute

// question asks the network for other servers. Nothing is asked in observe
// mode, nor when the operator wants it quiet.
func (s *Server) question(ctx context.Context, l *Link) error {
	for n := 0; ; n++ {
		pause := questionPause
		if n < len(questionPauses) {
			pause = questionPauses[n]
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		port := s.site.Load().ports[l.name]
		if port == nil || port.Mode == Observe || port.Quiet {
			continue
		}
		q, err := newQuery(l.mac, s.id+" "+port.server(netip.Addr{}).String())
		if err != nil {
			return err
		}
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), dhcpv4.ClientPort)
		to := netip.AddrPortFrom(broadcastClient.Addr(), PortDHCP)
		all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		if _, err := l.raw.WriteTo(datagram(from, to, q.ToBytes()), &packet.Addr{HardwareAddr: all}); err != nil {
			s.log.Debug("asking for other DHCP servers", "interface", l.name, "err", err)
		}
	}
}
