package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLossyNetwork: whatever is lost, doubled or reordered on the way, a
// client that keeps asking gets the file as it is, and each block is sent a
// bounded number of times.
func TestLossyNetwork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		content := make([]byte, rapid.IntRange(0, 5000).Draw(t, "size"))
		_, _ = rand.NewChaCha8([32]byte{9}).Read(content)
		r := request{name: "x", block: rapid.IntRange(minBlock, 600).Draw(t, "block"), window: rapid.IntRange(1, maxWindow).Draw(t, "window"), oack: []string{"blksize", "8"}}
		lost := rapid.IntRange(0, 60).Draw(t, "lost, of 100")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		now := time.Unix(0, 0)
		s := newTransfer(r, netip.AddrPort{}, content)
		var wire []int // blocks on their way to the client; 0 is the acknowledgement of options
		put := func(oack bool, from, to int) {
			if oack {
				from, to = 0, 0
			}
			for n := from; n <= to; n++ {
				for range []int{1, 1, 1, 2}[random.IntN(4)] {
					if random.IntN(100) >= lost {
						at := random.IntN(min(3, len(wire)+1)) // among the last
						wire = append(wire[:len(wire)-at], append([]int{n}, wire[len(wire)-at:]...)...)
					}
				}
			}
		}
		put(s.again(now))
		var got []byte
		have, sends := -1, 0
		for rounds := 0; ; rounds++ {
			if rounds > 100_000 {
				t.Fatal("it never ends")
			}
			if len(wire) == 0 { // silence: time passes
				now = s.due.Add(time.Millisecond)
				put(s.again(now))
				sends++
				continue
			}
			n := wire[0]
			wire = wire[1:]
			if n != have+1 { // RFC 7440: what is out of order is dropped, and what was had is named again
				n = have
			} else {
				have = n
				if n > 0 {
					got = append(got, s.data(n)...)
				}
			}
			if n < 0 || random.IntN(100) < lost {
				continue
			}
			from, to, done := s.ack(uint16(n), now)
			if done {
				break
			}
			put(false, from, to)
		}
		if !bytes.Equal(got, content) {
			t.Fatalf("%d bytes arrive; want the %d of the file", len(got), len(content))
		}
	})
}

func TestParseRequest(t *testing.T) {
	size := func(string) int { return 12345 }
	for _, c := range []struct{ packet, oack, err string }{
		{"f\x00octet\x00", "", ""},
		{"f\x00OCTET\x00BlkSize\x001468\x00", "blksize 1468", ""},
		{"f\x00octet\x00blksize\x0065464\x00tsize\x000\x00", "blksize 1468 tsize 12345", ""},
		{"f\x00octet\x00blksize\x007\x00", "", ""},
		{"f\x00octet\x00windowsize\x00500\x00timeout\x003\x00", "windowsize 16 timeout 3", ""},
		{"f\x00octet\x00timeout\x00256\x00windowsize\x000\x00", "", ""},
		{"f\x00octet\x00blksize\x0099999999999999999999\x00multicast\x00\x00", "", ""},
		{"f\x00octet\x00blksize\x00512\x00blksize\x001024\x00", "blksize 512", ""},
		{"f\x00netascii\x00", "", "octet"},
		{"f\x00mail\x00", "", "octet"},
		{"f\x00octet", "", "malformed"},
		{"f\x00", "", "malformed"},
		{"", "", "malformed"},
		{strings.Repeat("f", 520) + "\x00octet\x00", "", "malformed"},
	} {
		r, err := parseRequest([]byte(c.packet), size)
		if got := strings.Join(r.oack, " "); got != c.oack && c.err == "" {
			t.Errorf("%q: options %q; want %q", c.packet, got, c.oack)
		}
		if (err != nil) != (c.err != "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: %v; want an error with %q", c.packet, err, c.err)
		}
	}
}

// peer is a socket that speaks to a server.
type peer struct {
	t  *testing.T
	c  *net.UDPConn
	to *net.UDPAddr
}

func (p peer) say(b string) {
	p.t.Helper()
	if _, err := p.c.WriteToUDP([]byte(b), p.to); err != nil {
		p.t.Fatal(err)
	}
}

// Waits for what must come, and for what must not.
const (
	long  = 10 * time.Second
	short = 100 * time.Millisecond
)

func wait(coming bool) time.Duration {
	if coming {
		return long
	}
	return short
}

// hear returns the next packet and who sent it, or nothing after a while.
func (p peer) hear(patience time.Duration) (string, netip.AddrPort) {
	buf := make([]byte, 2048)
	_ = p.c.SetReadDeadline(time.Now().Add(patience))
	n, from, err := p.c.ReadFromUDPAddrPort(buf)
	if err != nil {
		return "", netip.AddrPort{}
	}
	return string(buf[:n]), from
}

func serveAt(t *testing.T, s *Server, ip net.IP) *net.UDPAddr {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve = %v; want nil after its end", err)
		}
	})
	return conn.LocalAddr().(*net.UDPAddr)
}

func newPeer(t *testing.T, to *net.UDPAddr) peer {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return peer{t, c, to}
}

// TestAnswersLeaveFromWhereTheyWereAsked: at a socket for all addresses, each
// answer has the address of its question.
func TestAnswersLeaveFromWhereTheyWereAsked(t *testing.T) {
	s := &Server{Files: map[string][]byte{"f": []byte("content")}, Log: slog.New(slog.DiscardHandler)}
	at := serveAt(t, s, net.IPv4zero)
	for _, ip := range []string{"127.0.0.1", "127.0.0.7", "127.1.2.3"} {
		p := newPeer(t, &net.UDPAddr{IP: net.ParseIP(ip), Port: at.Port})
		p.say("\x00\x01f\x00octet\x00")
		got, from := p.hear(long)
		if got != "\x00\x03\x00\x01content" || from.Addr().String() != ip || int(from.Port()) != at.Port {
			t.Errorf("asked at %s: %q from %s; want the content from there", ip, got, from)
		}
		p.say("\x00\x04\x00\x01")
	}
}

// TestLimits: one address gets its share, all together theirs, and no error
// that would make firmware give up.
func TestLimits(t *testing.T) {
	s := &Server{Files: map[string][]byte{"f": make([]byte, 5000)}, Log: slog.New(slog.DiscardHandler)}
	s.SetLimits(Limits{PerClient: 2})
	at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
	var peers []peer
	for i := range 3 {
		p := newPeer(t, at)
		p.say("\x00\x01f\x00octet\x00")
		if got, _ := p.hear(wait(i < 2)); (got != "") != (i < 2) {
			t.Errorf("request %d is answered with %d bytes; want answers for two", i+1, len(got))
		}
		peers = append(peers, p)
	}
	peers[0].say("\x00\x05\x00\x00no more\x00") // breaks off: its place is free
	peers[2].say("\x00\x01f\x00octet\x00")
	if got, _ := peers[2].hear(long); got == "" {
		t.Error("no answer after a place got free")
	}
	s.SetLimits(Limits{Transfers: 1, PerClient: 100})
	p := newPeer(t, at)
	p.say("\x00\x01f\x00octet\x00")
	if got, _ := p.hear(short); got != "" {
		t.Error("an answer over the limit of all transfers")
	}
}

// TestHostilePackets: nothing but read requests of what is there gets data,
// and nothing gets more bytes than it sent without having answered first.
func TestHostilePackets(t *testing.T) {
	s := &Server{Files: map[string][]byte{"f": make([]byte, 100_000)}, Log: slog.New(slog.DiscardHandler)}
	at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
	for _, c := range []struct{ say, want string }{
		{"\x00\x02f\x00octet\x00", "\x00\x05\x00\x02"},
		{"\x00\x01../../etc/passwd\x00octet\x00", "\x00\x05\x00\x01"},
		{"\x00\x01/etc/shadow\x00octet\x00", "\x00\x05\x00\x01"},
		{"\x00\x01..\\..\\boot.ini\x00octet\x00", "\x00\x05\x00\x01"},
		{"\x00\x01..\x00octet\x00", "\x00\x05\x00\x01"},
		{"\x00\x01\x00octet\x00", "\x00\x05\x00\x01"},
		{"\x00\x01f\x00netascii\x00", "\x00\x05\x00\x04"},
		{"\x00\x01" + strings.Repeat("x", 1400) + "\x00octet\x00", "\x00\x05\x00\x04"},
		{"\x00\x03\x00\x01data", ""},
		{"\x00\x04\x00\x01", ""},
		{"\x00\x05\x00\x00gone\x00", ""},
		{"\x00\x06blksize\x008\x00", ""},
		{"\x00\x09", ""}, {"\x01\x01f\x00octet\x00", ""}, {"\x00", ""},
		{"\x00\x01f\x00octet\x00windowsize\x0065535\x00blksize\x0065464\x00", "\x00\x06windowsize\x0016\x00blksize\x001468\x00"},
	} {
		p := newPeer(t, at)
		p.say(c.say)
		got, _ := p.hear(wait(c.want != ""))
		if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%.40q is answered with %.40q; want %.40q", c.say, got, c.want)
		}
		if more, _ := p.hear(short); more != "" {
			t.Errorf("%.40q is answered with more than one packet", c.say)
		}
	}
	// Acknowledgements of what was not sent, and doubled ones, move nothing.
	p := newPeer(t, at)
	p.say("\x00\x01f\x00octet\x00")
	p.hear(long)
	for _, n := range []uint16{2, 100, 0xffff, 0} {
		b := make([]byte, 4)
		b[1] = opAck
		binary.BigEndian.PutUint16(b[2:], n)
		p.say(string(b))
		if got, _ := p.hear(short); got != "" {
			t.Errorf("an acknowledgement of block %d is answered with %d bytes", n, len(got))
		}
	}
}

// FuzzPacket: whatever packets come, the loop survives, its counts fit, and
// every answer has the form of one.
func FuzzPacket(f *testing.F) {
	for _, s := range []string{"\x00\x01f\x00octet\x00", "\x00\x01f\x00octet\x00blksize\x00100\x00windowsize\x004\x00tsize\x000\x00", "\x00\x04\x00\x00", "\x00\x04\x00\x01", "\x00\x05\x00\x00\x00", "\x00\x02x\x00octet\x00"} {
		f.Add([]byte(s), []byte("\x00\x04\x00\x00"), uint8(1))
	}
	f.Fuzz(func(t *testing.T, first, second []byte, clients uint8) {
		s := &Server{Files: map[string][]byte{"f": make([]byte, 3000)}, Log: slog.New(slog.DiscardHandler)}
		s.SetLimits(Limits{Transfers: 3, PerClient: 2})
		l := &loop{Server: s, transfers: map[netip.AddrPort]*transfer{}, clients: map[netip.Addr]int{}, served: make(chan arrived, 1024)}
		now := time.Unix(0, 0)
		for n := range int(clients%8) + 1 {
			client := &net.UDPAddr{IP: net.IPv4(10, 0, 0, byte(n%3)), Port: n}
			for _, b := range [][]byte{first, second, second, first} {
				l.receive(client, b[:min(len(b), maxRequest+3)], nil, now)
				for _, m := range l.out {
					if size := len(bytes.Join(m.Buffers, nil)); size < 4 || size > overheadLen+maxBlock {
						t.Errorf("an answer of %d bytes", size)
					}
				}
				l.out = l.out[:0]
				now = now.Add(700 * time.Millisecond)
			}
		}
		sum := 0
		for _, n := range l.clients {
			sum += n
		}
		if len(l.transfers) > 3 || sum != len(l.transfers) {
			t.Errorf("%d transfers, counted as %d; the limit is 3", len(l.transfers), sum)
		}
	})
}
