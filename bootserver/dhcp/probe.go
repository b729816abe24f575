package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// DefaultProbe is how long an address is tested.
const DefaultProbe = 200 * time.Millisecond

// Trial is one test of an address.
type Trial struct {
	Interface string
	Index     int
	MAC       net.HardwareAddr // of the interface
	Address   netip.Addr
	From      netip.Addr
	Far       bool // behind a router, where ARP does not reach
	For       time.Duration
}

// Prober tests whether somebody uses an address: by ARP on an attached network
// (RFC 5227), by ICMP echo behind a relay. Many tests share one socket.
type Prober struct {
	Log *slog.Logger

	mu      sync.Mutex
	waiting map[netip.Addr]chan string
	arp     map[string]*packet.Conn
	icmp    net.PacketConn
	closed  bool
}

// Probe implements Server.Probe. A test that cannot be made finds nobody.
func (p *Prober) Probe(ctx context.Context, t Trial) (holder string, used bool) {
	ask, answer, err := p.begin(t)
	if err != nil {
		p.Log.Debug("testing an address", "address", t.Address, "err", err)
		return "", false
	}
	defer p.end(t.Address, answer)
	ctx, cancel := context.WithTimeout(ctx, t.For)
	defer cancel()
	for range 2 { // one may get lost
		if err := ask(); err != nil {
			p.Log.Debug("testing an address", "address", t.Address, "err", err)
		}
		select {
		case holder := <-answer:
			return holder, true
		case <-ctx.Done():
			return "", false
		case <-time.After(t.For / 2):
		}
	}
	return "", false
}

var errBusy = errors.New("the address is being tested already")

// begin returns what asks once, and where the answer arrives.
func (p *Prober) begin(t Trial) (ask func() error, answer chan string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, net.ErrClosed
	}
	if _, busy := p.waiting[t.Address]; busy {
		return nil, nil, errBusy
	}
	if p.waiting == nil {
		p.waiting, p.arp = map[netip.Addr]chan string{}, map[string]*packet.Conn{}
	}
	if t.Far {
		if p.icmp == nil {
			if p.icmp, err = net.ListenPacket("ip4:icmp", "0.0.0.0"); err != nil {
				return nil, nil, err
			}
			go p.hearICMP(p.icmp)
		}
		c := p.icmp
		ask = func() error {
			_, err := c.WriteTo(echoRequest(), &net.IPAddr{IP: t.Address.AsSlice()})
			return err
		}
	} else {
		c := p.arp[t.Interface]
		if c == nil {
			i := &net.Interface{Index: t.Index, Name: t.Interface, HardwareAddr: t.MAC}
			if c, err = packet.Listen(i, packet.Datagram, unix.ETH_P_ARP, nil); err != nil {
				return nil, nil, err
			}
			p.arp[t.Interface] = c
			go p.hearARP(c)
		}
		ask = func() error {
			_, err := c.WriteTo(arpProbe(t.MAC, t.Address), &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
			return err
		}
	}
	answer = make(chan string, 1)
	p.waiting[t.Address] = answer
	return ask, answer, nil
}

func (p *Prober) end(ip netip.Addr, answer chan string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[ip] == answer {
		delete(p.waiting, ip)
	}
}

func (p *Prober) heard(ip netip.Addr, holder string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.waiting[ip]; c != nil {
		select {
		case c <- holder:
		default: // heard before
		}
	}
}

// Close ends all tests.
func (p *Prober) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.arp {
		c.Close()
	}
	if p.icmp != nil {
		p.icmp.Close()
	}
}

// arpProbe asks who has an address without claiming one (RFC 5227 section 2.1.1).
func arpProbe(mac net.HardwareAddr, ip netip.Addr) []byte {
	b := make([]byte, 28)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[8:], mac)
	copy(b[24:], ip.AsSlice())
	return b
}

func (p *Prober) hearARP(c *packet.Conn) {
	b := make([]byte, 128)
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			if !pause(err) {
				return
			}
			continue
		}
		// Whoever tells an address as its own uses it, in a reply or a request.
		if n >= 28 && b[2] == 8 && b[4] == 6 {
			if ip := netip.AddrFrom4([4]byte(b[14:18])); !ip.IsUnspecified() {
				p.heard(ip, "MAC "+net.HardwareAddr(b[8:14]).String())
			}
		}
	}
}

// echoRequest is an ICMP echo request (RFC 792).
func echoRequest() []byte {
	b := []byte{8, 0, 0, 0, 'i', 'n', 0, 1, 'g', 'o', 't', 0}
	binary.BigEndian.PutUint16(b[2:], ^sum(0, b))
	return b
}

func (p *Prober) hearICMP(c net.PacketConn) {
	b := make([]byte, 256)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			if !pause(err) {
				return
			}
			continue
		}
		if a, ok := from.(*net.IPAddr); ok && n >= 8 && b[0] == 0 { // echo reply
			p.heard(address(a.IP), fmt.Sprintf("the host %s", a.IP))
		}
	}
}

// pause waits after an error that passes, and reports whether it does.
func pause(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	time.Sleep(100 * time.Millisecond)
	return errors.Is(err, unix.ENETDOWN)
}
