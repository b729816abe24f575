package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// peer is a socket that speaks to a server.
type peer struct {
	t  testing.TB
	c  *net.UDPConn
	to *net.UDPAddr
}

func (p peer) send(b string) {
	p.t.Helper()
	if _, err := p.c.WriteToUDP([]byte(b), p.to); err != nil {
		p.t.Fatal(err)
	}
}

var quiet = slog.New(slog.DiscardHandler)

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

// receive returns the next packet and its sender, or nothing after a while.
func (p peer) receive(patience time.Duration) (string, netip.AddrPort) {
	buf := make([]byte, 2048)
	_ = p.c.SetReadDeadline(time.Now().Add(patience))
	n, from, err := p.c.ReadFromUDPAddrPort(buf)
	if err != nil {
		return "", netip.AddrPort{}
	}
	return string(buf[:n]), from
}

func serveAt(t testing.TB, s *Server, ip net.IP) *net.UDPAddr {
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

func newPeer(t testing.TB, to *net.UDPAddr) peer {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return peer{t, c, to}
}

// TestLossyNetwork: with packets lost, duplicated and reordered, a client that
// repeats its packets gets the whole file, and the server sends each block a bounded
// number of times.
func TestLossyNetwork(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		for seed := range uint64(12) {
			random := rand.New(rand.NewPCG(seed, 1))
			content := make([]byte, random.IntN(6000))
			_, _ = rand.NewChaCha8([32]byte{9}).Read(content)
			s := &Server{
				Files: map[string][]byte{"f": content}, SinglePort: single,
				Log: quiet, timeout: 10 * time.Millisecond,
			}
			at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
			got, most := fetchLossy(newPeer(t, at), random, 30)
			if !bytes.Equal(got, content) {
				t.Fatalf("seed %d: %d bytes arrive; want the %d of the file", seed, len(got), len(content))
			}
			if most > 1+retries {
				t.Errorf("seed %d: a block was sent %d times; want at most %d", seed, most, 1+retries)
			}
		}
	})
}

// fetchLossy fetches f through a network that loses and duplicates packets in both
// directions and reorders answers. It starts again, as firmware does, until a
// transfer is complete; nil when none is. most is how often a transfer sent one block.
func fetchLossy(p peer, random *rand.Rand, lost int) (got []byte, most int) {
	for range 50 {
		l := lossyFetch{peer: newPeer(p.t, p.to), random: random, lost: lost, sent: map[string]int{}}
		whole := l.run()
		for _, n := range l.sent {
			most = max(most, n)
		}
		if whole {
			return l.got, most
		}
	}
	return nil, most
}

// lossyFetch is one attempt of fetchLossy.
type lossyFetch struct {
	peer
	random *rand.Rand
	lost   int    // of 100
	late   string // a packet that others overtake
	sent   map[string]int
	got    []byte
}

func (l *lossyFetch) lose() bool { return l.random.IntN(100) < l.lost }

// receive returns what arrives next, which one time in ten is an earlier packet.
func (l *lossyFetch) receive(patience time.Duration) (string, netip.AddrPort) {
	b, from := l.peer.receive(patience)
	if b == "" {
		return "", from
	}
	l.sent[from.String()+b[:4]]++
	if l.random.IntN(10) == 0 {
		b, l.late = l.late, b
	}
	return b, from
}

// send sends a packet once, twice or not at all.
func (l *lossyFetch) send(b string) {
	for range []int{1, 1, 1, 2}[l.random.IntN(4)] {
		if !l.lose() {
			l.peer.send(b)
		}
	}
}

func (l *lossyFetch) run() (whole bool) {
	server, size := l.to, 600
	packet, next := "\x00\x01f\x00octet\x00blksize\x00600\x00", uint16(0)
	for silent := 0; silent < 30; silent++ {
		l.send(packet)
		b, from := l.receive(30 * time.Millisecond)
		switch {
		case b == "":
			continue
		case b[1] == opError:
			return false
		}
		first := l.to == server
		oack, number := b[1] == 6, binary.BigEndian.Uint16([]byte(b)[2:])
		if l.lose() || oack && next != 0 || !oack && number != next || !first && from.Port() != uint16(l.to.Port) {
			continue
		}
		l.to = net.UDPAddrFromAddrPort(from)
		packet = "\x00\x04" + string(binary.BigEndian.AppendUint16(nil, next))
		next, silent = next+1, 0
		if oack {
			// A request from before the server set up its socket gets 512.
			_, _ = fmt.Sscanf(options(b), "blksize %d", &size)
			continue
		}
		if l.got = append(l.got, b[4:]...); len(b)-4 < size {
			l.send(packet)
			return true
		}
	}
	return false
}

// options returns the options of an acknowledgement, sorted.
func options(oack string) string {
	words := strings.Split(strings.Trim(oack[2:], "\x00"), "\x00")
	var list []string
	for i := 0; i+1 < len(words); i += 2 {
		list = append(list, words[i]+" "+words[i+1])
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// TestOptions: what the server makes of requests: an acknowledgement of options,
// the first block, or no answer.
func TestOptions(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		s := &Server{Files: map[string][]byte{"f": make([]byte, 12345)}, SinglePort: single, Log: quiet}
		s.SetLimits(Limits{PerClient: 100})
		at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
		for _, c := range []struct{ packet, oack string }{
			{"f\x00octet\x00", ""},
			{"f\x00OCTET\x00blksize\x001468\x00", "blksize 1468"},
			{"f\x00octet\x00blksize\x0065464\x00tsize\x000\x00", "blksize 1468 tsize 12345"},
			{"f\x00octet\x00tsize\x0099\x00", "tsize 12345"},
			{"f\x00octet\x00blksize\x007\x00", ""},
			{"f\x00octet\x00windowsize\x00500\x00timeout\x003\x00", ""},
			{"f\x00octet\x00timeout\x00256\x00windowsize\x000\x00", ""},
			{"f\x00octet\x00blksize\x0099999999999999999999\x00multicast\x00\x00", ""},
		} {
			p := newPeer(t, at)
			p.send("\x00\x01" + c.packet)
			got, from := p.receive(long)
			switch {
			case c.oack == "" && !strings.HasPrefix(got, "\x00\x03\x00\x01"):
				t.Errorf("%q is answered with %.20q; want the first block", c.packet, got)
			case c.oack != "" && (!strings.HasPrefix(got, "\x00\x06") || options(got) != c.oack):
				t.Errorf("%q is answered with %.40q; want options %q", c.packet, got, c.oack)
			}
			p.to = net.UDPAddrFromAddrPort(from)
			p.send("\x00\x05\x00\x00no more\x00")
		}
	})
}

// TestAnswersKeepTheAddress: at a socket of all addresses, each answer comes from
// the address that the request was sent to.
func TestAnswersKeepTheAddress(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		s := &Server{Files: map[string][]byte{"f": []byte("content")}, SinglePort: single, Log: quiet}
		at := serveAt(t, s, net.IPv4zero)
		for _, ip := range []string{"127.0.0.1", "127.0.0.7", "127.1.2.3"} {
			p := newPeer(t, &net.UDPAddr{IP: net.ParseIP(ip), Port: at.Port})
			p.send("\x00\x01f\x00octet\x00")
			got, from := p.receive(long)
			if got != "\x00\x03\x00\x01content" || from.Addr().String() != ip {
				t.Errorf("asked at %s: %q from %s; want the content from there", ip, got, from)
			}
			if (int(from.Port()) == at.Port) != single {
				t.Errorf("asked at port %d: an answer from port %d, single port %v", at.Port, from.Port(), single)
			}
			p.to = net.UDPAddrFromAddrPort(from)
			p.send("\x00\x04\x00\x01")
		}
	})
}

// TestLimits: one address gets its share, all together theirs, also when the same
// port repeats its request; the others are refused at once.
func TestLimits(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		s := &Server{Files: map[string][]byte{"f": make([]byte, 5000)}, SinglePort: single, Log: quiet}
		s.SetLimits(Limits{PerClient: 2})
		at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
		const request, refusal, block = "\x00\x01f\x00octet\x00", "\x00\x05\x00\x01too many", "\x00\x03\x00\x01"
		p := newPeer(t, at)
		want := func(p peer, prefix, when string) netip.AddrPort {
			t.Helper()
			p.to = at
			p.send(request)
			for {
				got, from := p.receive(long)
				if strings.HasPrefix(got, block) && prefix == refusal && got != "" {
					continue // an earlier transfer retransmits
				}
				if !strings.HasPrefix(got, prefix) {
					t.Errorf("%s: %.20q; want %.20q", when, got, prefix)
				}
				return from
			}
		}
		first := want(p, block, "the first request")
		want(newPeer(t, at), block, "the second request")
		want(p, refusal, "the first request, repeated")
		want(newPeer(t, at), refusal, "the third request")
		if !single {
			p.to = net.UDPAddrFromAddrPort(first)
			p.send("\x00\x05\x00\x00no more\x00") // breaks off: its place is free
			waitForPlaces(t, s, 1)
			want(newPeer(t, at), block, "a request after a place became free")
		}
		s.SetLimits(Limits{Transfers: 1, PerClient: 100})
		want(newPeer(t, at), refusal, "a request over the limit of all transfers")
	})
}

// waitForPlaces waits until so many transfers are under way.
func waitForPlaces(t *testing.T, s *Server, want int) {
	t.Helper()
	for deadline := time.Now().Add(long); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		n := s.transfers
		s.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d transfers are under way; want %d", n, want)
		}
	}
}

// TestHostilePackets: nothing but read requests of what is there gets data,
// and nothing gets more packets than it sent without having answered first.
func TestHostilePackets(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		s := &Server{Files: map[string][]byte{"f": make([]byte, 100_000)}, SinglePort: single, Log: quiet}
		at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
		for _, c := range []struct{ request, want string }{
			{"\x00\x02f\x00octet\x00", "\x00\x05\x00\x01"},
			{"\x00\x01../../etc/passwd\x00octet\x00", "\x00\x05\x00\x01"},
			{"\x00\x01/etc/shadow\x00octet\x00", "\x00\x05\x00\x01"},
			{"\x00\x01..\\..\\boot.ini\x00octet\x00", "\x00\x05\x00\x01"},
			{"\x00\x01..\x00octet\x00", "\x00\x05\x00\x01"},
			{"\x00\x01\x00octet\x00", "\x00\x05\x00\x01"},
			{"\x00\x01" + strings.Repeat("x", 1400) + "\x00octet\x00", ""},
			{"\x00\x01f", ""},
			{"\x00\x03\x00\x01data", ""},
			{"\x00\x04\x00\x01", ""},
			{"\x00\x05\x00\x00gone\x00", ""},
			{"\x00\x06blksize\x008\x00", ""},
			{"\x00\x09", ""}, {"\x01\x01f\x00octet\x00", ""}, {"\x00", ""},
			{"\x00\x01f\x00octet\x00windowsize\x0065535\x00blksize\x0065464\x00", "\x00\x06blksize\x001468\x00"},
		} {
			p := newPeer(t, at)
			p.send(c.request)
			got, _ := p.receive(wait(c.want != ""))
			if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("%.40q is answered with %.40q; want %.40q", c.request, got, c.want)
			}
			if more, _ := p.receive(short); more != "" {
				t.Errorf("%.40q is answered with more than one packet", c.request)
			}
		}
		// Acknowledgements of what was not sent, and doubled ones, move nothing.
		p := newPeer(t, at)
		p.send("\x00\x01f\x00octet\x00")
		_, from := p.receive(long)
		p.to = net.UDPAddrFromAddrPort(from)
		for _, n := range []uint16{2, 100, 0xffff, 0} {
			p.send("\x00\x04" + string(binary.BigEndian.AppendUint16(nil, n)))
			if got, _ := p.receive(short); got != "" {
				t.Errorf("an acknowledgement of block %d is answered with %d bytes", n, len(got))
			}
		}
	})
}

// TestRepeatedFinalAcks: acknowledgements of the last block that come again, late
// and many, harm nobody: the same client port is served again.
func TestRepeatedFinalAcks(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		s := &Server{Files: map[string][]byte{"f": []byte("content")}, SinglePort: single, Log: quiet}
		at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
		p := newPeer(t, at)
		for n := range 5 {
			p.to = at
			p.send("\x00\x01f\x00octet\x00")
			got, from := p.receive(long)
			if got != "\x00\x03\x00\x01content" {
				t.Fatalf("fetch %d of the same port: %.40q", n, got)
			}
			p.to = net.UDPAddrFromAddrPort(from)
			for range 20 {
				p.send("\x00\x04\x00\x01")
			}
		}
	})
}

// FuzzPacket: whatever packets come, the server survives, its counts fit, and
// every answer has the form of one.
func FuzzPacket(f *testing.F) {
	for _, s := range []string{
		"\x00\x01f\x00octet\x00", "\x00\x01f\x00octet\x00blksize\x00600\x00windowsize\x004\x00tsize\x000\x00",
		"\x00\x04\x00\x00", "\x00\x04\x00\x01", "\x00\x05\x00\x00\x00", "\x00\x02x\x00octet\x00",
	} {
		f.Add([]byte(s), []byte("\x00\x04\x00\x00"), uint8(1))
	}
	var servers []*Server
	var at []*net.UDPAddr
	for _, single := range []bool{false, true} {
		s := &Server{
			Files: map[string][]byte{"f": make([]byte, 3000)}, SinglePort: single,
			Log: quiet, timeout: 2 * time.Millisecond,
		}
		s.SetLimits(Limits{Transfers: 3, PerClient: 2})
		// Each error is counted on, so the clients must not be unknown.
		s.gate.proven = map[netip.Addr]time.Time{netip.MustParseAddr("127.0.0.1"): time.Now().Add(24 * time.Hour)}
		servers, at = append(servers, s), append(at, serveAt(f, s, net.IPv4(127, 0, 0, 1)))
	}
	f.Fuzz(func(t *testing.T, first, second []byte, clients uint8) {
		for i, s := range servers {
			for range int(clients%4) + 1 {
				p := newPeer(t, at[i])
				for _, b := range [][]byte{first, second, second, first} {
					p.send(string(b[:min(len(b), 1500)]))
				}
				p.send("\x00\x01no such file\x00octet\x00") // answered by a server that is alive
				for alive := false; !alive; {
					got, from := p.receive(long)
					if len(got) < 4 || len(got) > maxPacket || got[0] != 0 {
						t.Fatalf("an answer of %d bytes: %.20q", len(got), got)
					}
					alive = got[1] == opError
					_, _ = p.c.WriteToUDPAddrPort(second, from)
				}
			}
			s.mu.Lock()
			sum := 0
			for _, n := range s.clients {
				sum += n
			}
			if s.transfers > 3 || s.clients[netip.MustParseAddr("127.0.0.1")] > 2 || sum != s.transfers {
				t.Errorf("%d transfers, counted as %d; the limit is 3", s.transfers, sum)
			}
			s.mu.Unlock()
		}
	})
}
