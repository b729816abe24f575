package tftp

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pin/tftp/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// forgeries are packets that a host sends in another's name. Acknowledgements are among them if the
// server's port cannot be guessed.
func forgeries(acknowledge bool) (list []string) {
	for _, name := range []string{"f", "small", "no such file"} {
		for _, options := range []string{"", "blksize\x001468\x00", "tsize\x000\x00",
			"blksize\x001468\x00tsize\x000\x00windowsize\x0016\x00", "multicast\x00\x00"} {
			list = append(list, "\x00\x01"+name+"\x00octet\x00"+options)
		}
	}
	list = append(list, "\x00\x01f\x00netascii\x00", "\x00\x02f\x00octet\x00", "\x00\x03\x00\x01data",
		"\x00\x02f\x00octet\x00blksize\x001468\x00")
	if acknowledge {
		list = append(list, "\x00\x04\x00\x00", "\x00\x04\x00\x01", "\x00\x05\x00\x00no more\x00")
	}
	return list
}

// fetchFrom fetches a file as firmware at an address does, in blocks of 512 bytes. It repeats its request
// each second, for a while. It returns the size.
func fetchFrom(ip netip.Addr, at *net.UDPAddr, name string) (size int, err error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip.AsSlice()})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	next, to, buf := uint16(1), at, make([]byte, 600)
	request := []byte("\x00\x01" + name + "\x00octet\x00")
	for attempt := 0; attempt < 60; {
		if _, err := c.WriteToUDP(request, to); err != nil {
			return 0, err
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, from, err := c.ReadFromUDP(buf)
		switch {
		case err != nil, n > 1 && buf[1] == 6: // which answers a request in this address' name, with options
			attempt++
		case n < 4 || buf[1] != 3:
			return 0, fmt.Errorf("%s is answered with %.20q", ip, buf[:n])
		case binary.BigEndian.Uint16(buf[2:]) == next:
			size += n - 4
			to, request = from, binary.BigEndian.AppendUint16([]byte{0, 4}, next)
			next++
			if n < 516 {
				_, err := c.WriteToUDP(request, to)
				return size, err
			}
		}
	}
	return size, os.ErrDeadlineExceeded
}

// victims are addresses that receive what was asked for in their name, and count it.
type victims struct {
	mu  sync.Mutex
	got map[netip.Addr][]arrival
}

type arrival struct {
	at    time.Time
	bytes int
}

// after calls f when a time has passed since the first arrival.
func (v *victims) after(d time.Duration, f func()) {
	for arrived := false; !arrived; time.Sleep(10 * time.Millisecond) {
		v.mu.Lock()
		arrived = len(v.got) > 0
		v.mu.Unlock()
	}
	time.Sleep(d)
	f()
}

// busiest returns the most bytes that arrived within a second, at one address and at all.
func (v *victims) busiest() (one, all int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	second := func(list []arrival) (most int) {
		slices.SortFunc(list, func(a, b arrival) int { return a.at.Compare(b.at) })
		sum, first := 0, 0
		for _, a := range list {
			for sum += a.bytes; a.at.Sub(list[first].at) >= time.Second; first++ {
				sum -= list[first].bytes
			}
			most = max(most, sum)
		}
		return most
	}
	var together []arrival
	for _, list := range v.got {
		one = max(one, second(list))
		together = append(together, list...)
	}
	return one, second(together)
}

// stampOf returns when the kernel received a packet (SO_TIMESTAMPNS, socket(7)).
func stampOf(oob []byte) time.Time {
	list, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range list {
		if m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// attack sends forged requests to a server until ctx ends, in the name of so many addresses, from
// several ports of each.
func (v *victims) attack(ctx context.Context, t *testing.T, at *net.UDPAddr, addresses, ports, pause int,
	acknowledge bool) {
	t.Helper()
	var g errgroup.Group
	for i := range addresses * ports {
		ip := netip.AddrFrom4([4]byte{127, 77, byte(i / ports >> 8), byte(i / ports)})
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) })
		}}
		opened, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(ip, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		c := opened.(*net.UDPConn)
		g.Go(func() error { // the address is not the attacker's: what comes is only counted
			buf, oob := make([]byte, 2048), make([]byte, 128)
			for {
				n, control, _, _, err := c.ReadMsgUDP(buf, oob)
				if err != nil {
					return nil
				}
				v.mu.Lock()
				v.got[ip] = append(v.got[ip], arrival{stampOf(oob[:control]), n + 42}) // headers of Ethernet, IPv4 and UDP
				v.mu.Unlock()
			}
		})
		g.Go(func() error {
			defer c.Close()
			list := forgeries(acknowledge)
			for n := i; ctx.Err() == nil; n++ {
				if _, err := c.WriteToUDP([]byte(list[n%len(list)]), at); err != nil {
					return err
				}
				time.Sleep(time.Duration(pause) * time.Millisecond)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestStormBehindOneAddress: machines that start at once behind one address are served at once: the
// first that acknowledges proves the address for all.
func TestStormBehindOneAddress(t *testing.T) {
	s := &Server{Files: map[string][]byte{"f": make([]byte, 20_000)}, Log: quiet}
	s.SetLimits(Limits{PerClient: 1000})
	at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
	begun := time.Now()
	var g errgroup.Group
	for range 1000 {
		g.Go(func() error {
			b, err := fetch(at.String(), "f", func(c *tftp.Client) { c.SetTimeout(time.Minute) })
			if err == nil && len(b) != 20_000 {
				err = fmt.Errorf("%d bytes", len(b))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	// a client that was not answered repeats its request after a minute
	if took := time.Since(begun); took > 40*time.Second {
		t.Errorf("1,000 machines behind one address took %v", took)
	}
}

// TestStormOfAddresses: machines with addresses of their own that start at once are served at once,
// although only some of them may be sent something before they acknowledge.
func TestStormOfAddresses(t *testing.T) {
	s := &Server{Files: map[string][]byte{"f": make([]byte, 5_000)}, Log: quiet}
	at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
	begun := time.Now()
	var g errgroup.Group
	for i := range 800 {
		g.Go(func() error {
			n, err := fetchFrom(netip.AddrFrom4([4]byte{127, 78, byte(i >> 8), byte(i)}), at, "f")
			if err == nil && n != 5000 {
				err = fmt.Errorf("%d bytes", n)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 9*time.Second {
		t.Errorf("800 machines took %v; want less than places are reserved for", took)
	}
}

// TestForgedSource: whatever is sent in the name of an address that acknowledges nothing, it receives
// at most 2 KiB in a second, and all such addresses together 64 KiB. Sockets do not accumulate, and a
// client that acknowledges is served afterwards as before.
func TestForgedSource(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		for _, c := range []struct{ addresses, ports, pause int }{{1, 64, 2}, {300, 2, 50}} {
			s := &Server{Files: map[string][]byte{"f": make([]byte, 300_000), "small": make([]byte, 500)},
				SinglePort: single, Log: quiet}
			s.SetLimits(Limits{PerClient: 1000})
			at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
			v := &victims{got: map[netip.Addr][]arrival{}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			go v.after(4*time.Second, cancel)
			v.attack(ctx, t, at, c.addresses, c.ports, c.pause, !single)
			one, all := v.busiest()
			t.Logf("%d addresses: at most %d bytes/s to one, %d to all", c.addresses, one, all)
			if one > 2<<10 || all > 64<<10 || one == 0 {
				t.Errorf("%d addresses that acknowledge nothing receive %d bytes in a second, all of them %d; want at most 2 KiB "+
					"and 64 KiB, and something", c.addresses, one, all)
			}
			if n, err := fetchFrom(netip.MustParseAddr("127.79.0.1"), at, "f"); err != nil || n != 300_000 {
				t.Errorf("a client after the attack gets %d bytes, %v", n, err)
			}
			if fds, err := os.ReadDir("/proc/self/fd"); err != nil || len(fds) > 5000 {
				t.Errorf("%d files are open after an attack, %v", len(fds), err)
			}
		}
	})
}

// TestKnownFirst: requests in the name of many addresses keep no client waiting whose address DHCP
// knows, for as long as they go on; together they get no more places than before.
func TestKnownFirst(t *testing.T) {
	var g gate
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	flood.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			ip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			flood.Go(func() { g.enter(ip, false, 10*time.Second) })
			time.Sleep(2 * time.Millisecond)
		}
	})
	defer flood.Wait()
	defer cancel()
	for waiting := 0; waiting < 20; time.Sleep(10 * time.Millisecond) {
		g.mu.Lock()
		waiting = len(g.waiting)
		g.mu.Unlock()
	}
	const clients = 32
	for i := range clients {
		began := time.Now()
		p := g.enter(netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), true, 10*time.Second)
		if p == nil || time.Since(began) > time.Second {
			t.Fatalf("known client %d starts: %t, after %s; want it at once", i, p != nil, time.Since(began))
		}
	}
	if p := g.enter(netip.MustParseAddr("10.2.1.0"), true, 10*time.Second); p != nil {
		t.Error("more transfers to unproven clients than the bound")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.open) != unprovenTotal {
		t.Errorf("%d unproven transfers; want %d", len(g.open), unprovenTotal)
	}
}
