package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// buffer is the room for packets that wait in the kernel: a thousand machines
// that ask in the same moment.
const buffer = 4 << 20

// Listen opens a UDP socket for a port on one interface. It does not share the
// port: a second server must fail, not split the packets.
func Listen(ctx context.Context, family Family, iface string, port int) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			inner = unix.BindToDevice(int(fd), iface)
			if family == IPv4 {
				inner = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1), inner)
			}
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // what the kernel grants
			}
		})
		return errors.Join(err, inner)
	}}
	return lc.ListenPacket(ctx, fmt.Sprintf("udp%d", family), fmt.Sprintf(":%d", port))
}

// batch is how many packets one call to the kernel may bring.
const batch = 64

// Message is a packet with its control message; package ipv6 has the same type.
type Message = ipv4.Message

// Reader is a socket as packages ipv4 and ipv6 make one.
type Reader interface {
	ReadBatch(ms []Message, flags int) (int, error)
}

// Room is where packets of at most so many bytes are read to, with room for a
// control message of control's length each.
func Room(size int, control []byte) []Message {
	room := make([]Message, batch)
	for i := range room {
		room[i].Buffers, room[i].OOB = [][]byte{make([]byte, size)}, make([]byte, len(control))
	}
	return room
}

// Receive reads packets into room until ctx ends or the socket is closed, and
// has take look at each; what take keeps of it must be a copy. down is told when
// the interface is.
func Receive(ctx context.Context, c Reader, room []Message, take func(Message), down func()) error {
	for {
		n, err := c.ReadBatch(room, 0)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil //nolint:nilerr // the end that was asked for
			}
			if errors.Is(err, unix.ENETDOWN) { // the interface comes back, or the operator stops us
				down()
				time.Sleep(time.Second)
				continue
			}
			return err
		}
		for _, m := range room[:n] {
			take(m)
		}
	}
}
