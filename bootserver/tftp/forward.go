package tftp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// forwarder relays between clients at one public port and the library, which
// serves on the loopback interface with a port for each transfer. Answers leave
// from the address that the request was sent to.
type forwarder struct {
	public *net.UDPConn
	inner  netip.AddrPort // where the library reads requests

	mu     sync.Mutex
	relays map[netip.AddrPort]*relay // by client
	ports  map[int]netip.Addr        // clients by the port of their relay
}

// relay stands in for one port of one client.
type relay struct {
	client netip.AddrPort
	conn   *net.UDPConn  // on the loopback interface; the library takes it for the client
	source []byte        // control message with the source address of answers; nil where the public socket has it
	peer   atomic.Uint32 // the library's port: that of requests until the transfer has its own
}

// Bounds of the forwarder.
const (
	maxRelays = 8192
	relayIdle = 3 * time.Second // without a packet from the library, which retransmits after one second
	maxPacket = maxBlock + 4
)

// The operation codes that the forwarder must know (RFC 1350 section 5).
const (
	opRead  = 1
	opWrite = 2
	opError = 5
)

// forward runs the library behind a forwarder.
func (l *listener) forward(ctx context.Context, public *net.UDPConn) error {
	if a, ok := public.LocalAddr().(*net.UDPAddr); ok && a.IP.IsUnspecified() {
		err4 := ipv4.NewPacketConn(public).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
		err6 := ipv6.NewPacketConn(public).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
		if err4 != nil && err6 != nil { // an IPv6 socket may receive IPv4 as well
			return errors.Join(err4, err6)
		}
	}
	inner, err := listenLoopback()
	if err != nil {
		return err
	}
	at := inner.LocalAddr().(*net.UDPAddr).AddrPort()
	f := &forwarder{public: public, inner: at, relays: map[netip.AddrPort]*relay{}, ports: map[int]netip.Addr{}}
	l.forwarder = f
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { defer cancel(); return l.serve(ctx, inner) })
	g.Go(func() error { defer cancel(); return f.run(ctx) })
	return g.Wait()
}

func listenLoopback() (*net.UDPConn, error) {
	return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// client returns the client of a relay's port; the zero value when there is none.
func (f *forwarder) client(port int) netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ports[port]
}

// run passes on the packets of clients.
func (f *forwarder) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { f.public.Close() })()
	defer f.closeRelays()
	packet, oob := make([]byte, maxPacket), make([]byte, 128)
	for {
		n, control, _, client, err := f.public.ReadMsgUDPAddrPort(packet, oob)
		if err != nil {
			return err
		}
		if r := f.relayOf(client, packet[:n], oob[:control]); r != nil {
			to := netip.AddrPortFrom(f.inner.Addr(), uint16(r.peer.Load()))
			_, _ = r.conn.WriteToUDPAddrPort(packet[:n], to) // a lost packet is sent again
		}
	}
}

// relayOf returns the relay for a client's packet, or nil. A request gets a new
// one: the transfer of an earlier request has another port of the library.
func (f *forwarder) relayOf(client netip.AddrPort, packet, oob []byte) *relay {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.relays[client]
	if len(packet) < 2 || packet[0] != 0 || packet[1] != opRead && packet[1] != opWrite {
		return r
	}
	f.remove(r)
	if len(f.relays) >= maxRelays {
		return nil
	}
	conn, err := listenLoopback()
	if err != nil {
		return nil // out of sockets; the client repeats its request
	}
	r = &relay{client: client, conn: conn, source: sourceOf(oob)}
	r.peer.Store(uint32(f.inner.Port()))
	f.relays[client] = r
	f.ports[r.port()] = client.Addr().Unmap()
	go f.answer(r)
	return r
}

// answer passes on the packets of the library until there are no more.
func (f *forwarder) answer(r *relay) {
	packet := make([]byte, maxPacket)
	for {
		_ = r.conn.SetReadDeadline(time.Now().Add(relayIdle))
		n, from, err := r.conn.ReadFromUDPAddrPort(packet)
		if err != nil {
			break
		}
		r.peer.CompareAndSwap(uint32(f.inner.Port()), uint32(from.Port()))
		if from != netip.AddrPortFrom(f.inner.Addr(), uint16(r.peer.Load())) {
			continue
		}
		_, _, _ = f.public.WriteMsgUDPAddrPort(packet[:n], r.source, r.client) // a lost packet is sent again
		if n >= 2 && packet[1] == opError {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(r)
}

// remove closes a relay, if it is not nil. The caller holds the lock.
func (f *forwarder) remove(r *relay) {
	if r == nil {
		return
	}
	if f.relays[r.client] == r { // not removed yet; another relay may have the port since
		delete(f.relays, r.client)
		delete(f.ports, r.port())
	}
	r.conn.Close()
}

func (f *forwarder) closeRelays() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.relays {
		f.remove(r)
	}
}

func (r *relay) port() int { return r.conn.LocalAddr().(*net.UDPAddr).Port }

// sourceOf makes the control message that lets an answer leave from the address
// that a request was sent to (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO); nil when
// the socket is bound to that address. A socket of both families reports IPv4 in
// both ways.
func sourceOf(oob []byte) []byte {
	if len(oob) == 0 {
		return nil
	}
	var four ipv4.ControlMessage
	if four.Parse(oob) == nil && four.Dst != nil {
		return (&ipv4.ControlMessage{Src: four.Dst, IfIndex: four.IfIndex}).Marshal()
	}
	var six ipv6.ControlMessage
	if six.Parse(oob) == nil && six.Dst != nil {
		return (&ipv6.ControlMessage{Src: six.Dst, IfIndex: six.IfIndex}).Marshal()
	}
	return nil
}
