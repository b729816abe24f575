package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Datagram is a UDP packet as it arrived.
type Datagram struct {
	From    netip.AddrPort
	To      netip.Addr // as the sender addressed it
	Payload []byte     // valid until the function that gets it returns
}

// Socket is a UDP socket for one port on one interface.
type Socket struct {
	iface *net.Interface
	four  *ipv4.PacketConn // this
	six   *ipv6.PacketConn // or that
}

// buffer is the size of the kernel's receive buffer: room for the packets of a
// thousand machines that start at the same moment.
const buffer = 4 << 20

// Listen opens a socket. It does not share the port: a second server must fail, not
// get half of the packets.
func Listen(ctx context.Context, family Family, iface *net.Interface, port int) (_ *Socket, err error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			inner = unix.BindToDevice(int(fd), iface.Name)
			if family == IPv4 {
				inner = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1), inner)
			}
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // what the kernel grants
			}
		})
		return errors.Join(err, inner)
	}}
	c, err := lc.ListenPacket(ctx, fmt.Sprintf("udp%d", family), fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", iface.Name, err)
	}
	s := &Socket{iface: iface}
	if family == IPv4 {
		s.four = ipv4.NewPacketConn(c)
		err = s.four.SetControlMessage(ipv4.FlagDst, true)
	} else {
		s.six = ipv6.NewPacketConn(c)
		err = s.six.SetControlMessage(ipv6.FlagDst, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening on %s: %w", iface.Name, err), c.Close())
	}
	return s, nil
}

// Join makes an IPv6 socket receive the packets to a multicast group.
func (s *Socket) Join(group netip.Addr) error {
	if err := s.six.JoinGroup(s.iface, &net.UDPAddr{IP: group.AsSlice()}); err != nil {
		return fmt.Errorf("listening on %s: joining %s: %w", s.iface.Name, group, err)
	}
	return nil
}

// Close closes the socket. A nil socket is closed.
func (s *Socket) Close() {
	switch {
	case s == nil:
	case s.four != nil:
		_ = s.four.Close() // nothing more is read or written, whatever it returns
	default:
		_ = s.six.Close()
	}
}

// Send sends a packet. from may be invalid: then the kernel chooses the source
// address.
func (s *Socket) Send(payload []byte, from netip.Addr, to netip.AddrPort) (err error) {
	var src net.IP
	if from.IsValid() {
		src = from.AsSlice()
	}
	if s.four != nil {
		_, err = s.four.WriteTo(payload, &ipv4.ControlMessage{Src: src, IfIndex: s.iface.Index}, net.UDPAddrFromAddrPort(to))
	} else {
		_, err = s.six.WriteTo(payload, &ipv6.ControlMessage{Src: src, IfIndex: s.iface.Index}, net.UDPAddrFromAddrPort(to))
	}
	return err
}

// batch is how many packets one system call may read.
const batch = 64

// Receive calls handle with each packet until ctx ends or the socket is closed.
// Packets larger than size are cut. It calls down when the interface is down.
func (s *Socket) Receive(ctx context.Context, size int, handle func(Datagram), down func()) error {
	control := ipv6.NewControlMessage(ipv6.FlagDst)
	if s.four != nil {
		control = ipv4.NewControlMessage(ipv4.FlagDst)
	}
	messages := make([]ipv4.Message, batch) // package ipv6 has the same type
	for i := range messages {
		messages[i].Buffers, messages[i].OOB = [][]byte{make([]byte, size)}, make([]byte, len(control))
	}
	for {
		n, err := s.readBatch(messages)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil //nolint:nilerr // the expected end
			}
			if errors.Is(err, unix.ENETDOWN) { // the interface comes back, or the operator stops the server
				down()
				time.Sleep(time.Second)
				continue
			}
			return fmt.Errorf("receiving on %s: %w", s.iface.Name, err)
		}
		for _, m := range messages[:n] {
			handle(s.datagram(m))
		}
	}
}

func (s *Socket) readBatch(messages []ipv4.Message) (int, error) {
	if s.four != nil {
		return s.four.ReadBatch(messages, 0)
	}
	return s.six.ReadBatch(messages, 0)
}

// datagram reads the addresses of a packet.
func (s *Socket) datagram(m ipv4.Message) Datagram {
	d := Datagram{Payload: m.Buffers[0][:m.N]}
	if a, ok := m.Addr.(*net.UDPAddr); ok {
		from := a.AddrPort()
		d.From = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	}
	var to net.IP
	if s.four != nil {
		var cm ipv4.ControlMessage
		if cm.Parse(m.OOB[:m.NN]) == nil {
			to = cm.Dst
		}
	} else {
		var cm ipv6.ControlMessage
		if cm.Parse(m.OOB[:m.NN]) == nil {
			to = cm.Dst
		}
	}
	d.To, _ = netip.AddrFromSlice(to)
	d.To = d.To.Unmap()
	return d
}
