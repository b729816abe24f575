package dhcp4

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
// (RFC 5227), by ICMP echo behind a relay. Many tests share one socket. One that
// fails, as when its interface goes away, is forgotten; the next test opens
// another.
type Prober struct {
	Log *slog.Logger

	mu      sync.Mutex
	waiting map[netip.Addr]chan string
	sockets map[int]net.PacketConn // by the interface's index; of ICMP: 0
	failing map[int]bool           // it was said that tests cannot be made there
	closed  bool
}

// Probe implements Server.Probe. A test that cannot be made finds nobody.
func (p *Prober) Probe(ctx context.Context, t Trial) (holder string, used bool) {
	ask, answer, err := p.begin(t)
	if err != nil {
		p.complain(t, err)
		return "", false
	}
	defer p.end(t.Address, answer)
	ctx, cancel := context.WithTimeout(ctx, t.For)
	defer cancel()
	for range 2 { // one may get lost
		if err := ask(); err != nil {
			p.complain(t, err)
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
		p.waiting, p.sockets, p.failing = map[netip.Addr]chan string{}, map[int]net.PacketConn{}, map[int]bool{}
	}
	c := p.sockets[t.socket()]
	if c == nil {
		if c, err = t.listen(); err != nil {
			return nil, nil, err
		}
		p.sockets[t.socket()] = c
		go p.listen(t, c)
	}
	ask = func() error {
		_, err := c.WriteTo(arpProbe(t.MAC, t.Address), &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
		return err
	}
	if t.Far {
		ask = func() error {
			_, err := c.WriteTo(echoRequest(), &net.IPAddr{IP: t.Address.AsSlice()})
			return err
		}
	}
	answer = make(chan string, 1)
	p.waiting[t.Address] = answer
	return ask, answer, nil
}

// socket is the key of the socket that a test needs.
func (t Trial) socket() int {
	if t.Far {
		return 0
	}
	return t.Index
}

func (t Trial) listen() (net.PacketConn, error) {
	if t.Far {
		return net.ListenPacket("ip4:icmp", "0.0.0.0")
	}
	return packet.Listen(&net.Interface{Index: t.Index, Name: t.Interface, HardwareAddr: t.MAC}, packet.Datagram, unix.ETH_P_ARP, nil)
}

// complain says once that tests cannot be made, until somebody is heard.
func (p *Prober) complain(t Trial, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.failing[t.socket()] || errors.Is(err, errBusy) {
		return
	}
	p.failing[t.socket()] = true
	p.Log.Warn("addresses cannot be tested for who uses them, and are lent without that", "interface", t.Interface, "relayed", t.Far, "err", err)
}

func (p *Prober) end(ip netip.Addr, answer chan string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[ip] == answer {
		delete(p.waiting, ip)
	}
}

func (p *Prober) heard(t Trial, ip netip.Addr, holder string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.failing, t.socket())
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
	for _, c := range p.sockets {
		c.Close()
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

// listen hears answers until the socket fails. One of an interface that is taken
// down or away fails once and hears nothing from then on.
func (p *Prober) listen(t Trial, c net.PacketConn) {
	b := make([]byte, 256)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			p.forget(t, c)
			if !errors.Is(err, unix.ENETDOWN) { // if tests fail by that, they say so
				p.complain(t, err)
			}
			return
		}
		if ip, holder := whose(b[:n], from); ip.IsValid() {
			p.heard(t, ip, holder)
		}
	}
}

func (p *Prober) forget(t Trial, c net.PacketConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sockets, t.socket())
	c.Close()
}

// whose reads who uses an address: of ARP whoever tells one as its own, in a
// reply or a request; of ICMP who answers an echo request.
func whose(b []byte, from net.Addr) (ip netip.Addr, holder string) {
	switch a := from.(type) {
	case *packet.Addr:
		if len(b) >= 28 && b[2] == 8 && b[4] == 6 {
			return address(b[14:18]), "MAC " + net.HardwareAddr(b[8:14]).String()
		}
	case *net.IPAddr:
		if len(b) >= 8 && b[0] == 0 {
			return address(a.IP), fmt.Sprintf("the host %s", a.IP)
		}
	}
	return netip.Addr{}, ""
}

// echoRequest is an ICMP echo request (RFC 792).
func echoRequest() []byte {
	b := []byte{8, 0, 0, 0, 'i', 'n', 0, 1, 'g', 'o', 't', 0}
	binary.BigEndian.PutUint16(b[2:], ^sum(0, b))
	return b
}
