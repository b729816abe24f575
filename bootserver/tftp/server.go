// Package tftp serves the first stage (RFC 1350 with RFC 2347, 2348, 2349 and
// 7440): loaders of a few hundred KB, read-only, from memory. What is not one
// of its files does not exist, so there is no path to traverse.
//
// One loop per socket reads packets in batches and sends the answers in
// batches; a transfer is a small value and no goroutine. All transfers use the
// socket's own port, so that they pass through address translation, and leave
// from the address that was asked. Writing, netascii and multicast are left
// out.
package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Server hands out files by their base name.
type Server struct {
	Files map[string][]byte
	// Served is told of every whole transfer; nil is fine. It may take its time.
	Served func(client netip.Addr, file string, bytes int64)
	Log    *slog.Logger

	limits atomic.Pointer[Limits]
}

// Limits bound what strangers can ask for, at each socket. Zero values are the
// defaults.
type Limits struct {
	Transfers int // under way at once; 0 means 4096
	PerClient int // of one address at once; 0 means 16
}

// SetLimits changes the limits; transfers that are under way go on.
func (s *Server) SetLimits(l Limits) {
	if l.Transfers <= 0 {
		l.Transfers = 4096
	}
	if l.PerClient <= 0 {
		l.PerClient = 16
	}
	s.limits.Store(&l)
}

// Load reads the regular files of a folder, each at most 4 MiB.
func Load(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the loaders: %w", err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the loaders: %w", err)
		}
		if len(b) <= 4<<20 {
			files[e.Name()] = b
		}
	}
	return files, nil
}

// batch is how many packets are read, and written, with one system call.
const batch = 64

// tick is how often retransmissions are looked for.
const tick = 200 * time.Millisecond

// loop is one socket with its transfers.
type loop struct {
	*Server
	conn      *ipv4.PacketConn
	transfers map[netip.AddrPort]*transfer
	clients   map[netip.Addr]int
	out       []ipv4.Message
	headers   [batch][overheadLen]byte
	served    chan arrived
}

// arrived is a file that has arrived.
type arrived struct {
	client netip.Addr
	file   string
	size   int64
}

// Serve answers at a socket until ctx ends or it is closed.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	if s.limits.Load() == nil {
		s.SetLimits(Limits{})
	}
	_ = conn.SetReadBuffer(4 << 20) // requests of a rack come at once; less is no fault
	l := &loop{Server: s, conn: ipv4.NewPacketConn(conn), transfers: map[netip.AddrPort]*transfer{}, clients: map[netip.Addr]int{}, served: make(chan arrived, 1024)}
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok && a.IP.IsUnspecified() {
		err4 := l.conn.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
		err6 := ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
		if err4 != nil && err6 != nil { // a socket of IPv6 may be one of IPv4 as well
			return fmt.Errorf("serving TFTP: %w", errors.Join(err4, err6))
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var telling sync.WaitGroup
	defer func() { close(l.served); telling.Wait() }()
	for range 16 { // as many at once, so that one disk write does for several
		telling.Go(l.tell)
	}
	err := l.run()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serving TFTP: %w", err)
}

// tell passes on what has arrived.
func (l *loop) tell() {
	for a := range l.served {
		if l.Served != nil {
			l.Served(a.client, a.file, a.size)
		}
	}
}

func (l *loop) run() error {
	in := make([]ipv4.Message, batch)
	for i := range in {
		in[i] = ipv4.Message{Buffers: [][]byte{make([]byte, maxRequest+3)}, OOB: make([]byte, 128)} // one byte more than a request may have
	}
	var next time.Time
	for {
		if now := time.Now(); now.After(next) {
			l.retransmit(now)
			l.flush()
			next = now.Add(tick)
			if err := l.conn.SetReadDeadline(next); err != nil {
				return err
			}
		}
		n, err := l.conn.ReadBatch(in, 0)
		var passing net.Error
		if err != nil && !(errors.As(err, &passing) && passing.Timeout()) {
			return err
		}
		now := time.Now()
		for _, m := range in[:max(n, 0)] {
			if a, ok := m.Addr.(*net.UDPAddr); ok {
				l.receive(a, m.Buffers[0][:m.N], m.OOB[:m.NN], now)
			}
		}
		l.flush()
	}
}

// receive handles one packet.
func (l *loop) receive(from *net.UDPAddr, b, oob []byte, now time.Time) {
	if len(b) < 2 || b[0] != 0 {
		return
	}
	client := netip.AddrPortFrom(from.AddrPort().Addr().Unmap(), uint16(from.Port))
	t := l.transfers[client]
	switch op := b[1]; {
	case op == opRead:
		l.begin(from, client, b[2:], local(oob), now)
	case op == opWrite:
		l.send(from, local(oob), putError(codeAccess, "this server only reads"))
	case op == opAck && t != nil && len(b) >= overheadLen:
		from, to, done := t.ack(binary.BigEndian.Uint16(b[2:]), now)
		if done {
			l.end(t)
			l.noteArrival(t)
			return
		}
		l.sendBlocks(t, from, to)
	case op == opError && t != nil:
		// Firmware asks for the size first and then breaks off: no fault.
		l.Log.Debug("TFTP transfer ended by the client", "file", t.name, "client", client, "block", t.acked)
		l.end(t)
	}
}

// begin starts a transfer. A request that comes again, because our answer got
// lost, starts it over.
func (l *loop) begin(from *net.UDPAddr, client netip.AddrPort, b, local []byte, now time.Time) {
	r, err := parseRequest(b, func(name string) int { return len(l.Files[baseName(name)]) })
	r.name = baseName(r.name)
	content, ok := l.Files[r.name]
	switch {
	case err != nil:
		l.send(from, local, putError(codeIllegal, err.Error()))
		return
	case !ok:
		l.Log.Debug("TFTP file not there", "file", r.name, "client", client)
		l.send(from, local, putError(codeNotFound, "there is no such file"))
		return
	}
	if t := l.transfers[client]; t != nil {
		l.end(t)
	}
	if limits := l.limits.Load(); len(l.transfers) >= limits.Transfers || l.clients[client.Addr()] >= limits.PerClient {
		// Silence makes the client ask again later; an error would make it give up.
		l.Log.Debug("TFTP request over the limits", "file", r.name, "client", client)
		return
	}
	t := newTransfer(r, client, content)
	t.local, t.to = local, from
	l.transfers[client] = t
	l.clients[client.Addr()]++
	l.sendAgain(t, now)
}

// baseName is the file that a name of a client means: its last part, whatever
// folders and drives firmware puts before it.
func baseName(name string) string {
	return path.Base(path.Clean("/" + strings.ReplaceAll(name, "\\", "/")))
}

func (l *loop) end(t *transfer) {
	delete(l.transfers, t.client)
	if l.clients[t.client.Addr()]--; l.clients[t.client.Addr()] <= 0 {
		delete(l.clients, t.client.Addr())
	}
}

func (l *loop) noteArrival(t *transfer) {
	select {
	case l.served <- arrived{t.client.Addr(), t.name, int64(len(t.content))}:
	default:
		l.Log.Warn("more loaders arrive than can be recorded", "file", t.name, "client", t.client)
	}
}

// retransmit sends again what was not acknowledged, and ends what never is.
func (l *loop) retransmit(now time.Time) {
	for _, t := range l.transfers {
		if now.Before(t.due) {
			continue
		}
		if t.tries++; t.tries > maxTries {
			l.Log.Debug("TFTP client is silent", "file", t.name, "client", t.client, "block", t.acked)
			l.end(t)
			continue
		}
		l.sendAgain(t, now)
	}
}

func (l *loop) sendAgain(t *transfer, now time.Time) {
	oack, from, to := t.again(now)
	if oack {
		l.send(t.to, t.local, t.oack)
		return
	}
	l.sendBlocks(t, from, to)
}

// sendBlocks queues blocks: their headers and, not copied, the file's bytes.
func (l *loop) sendBlocks(t *transfer, from, to int) {
	for n := from; n <= to; n++ {
		if len(l.out) == batch {
			l.flush()
		}
		h := l.headers[len(l.out)][:]
		putHeader(h, n)
		l.queue(t.to, t.local, h, t.data(n))
	}
}

func (l *loop) send(to *net.UDPAddr, local, b []byte) {
	if len(l.out) == batch {
		l.flush()
	}
	l.queue(to, local, b)
}

func (l *loop) queue(to *net.UDPAddr, local []byte, parts ...[]byte) {
	l.out = append(l.out, ipv4.Message{Buffers: parts, OOB: local, Addr: to})
}

// flush sends what is queued. A packet that cannot be sent is lost, as others
// are on their way: it is sent again when it is missed.
func (l *loop) flush() {
	for left := l.out; len(left) > 0; {
		n, err := l.conn.WriteBatch(left, 0)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				break
			}
			n = max(n, 0) + 1
			l.Log.Debug("sending TFTP", "to", left[min(n, len(left))-1].Addr, "err", err)
		}
		left = left[min(n, len(left)):]
	}
	clear(l.out)
	l.out = l.out[:0]
}

// local makes the control message that lets an answer leave from where the
// question arrived (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO); nil when the
// socket's own address is it. A socket of both families tells of IPv4 in both
// ways.
func local(oob []byte) []byte {
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
