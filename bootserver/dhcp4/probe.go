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

// DefaultProbe is how long an address is probed.
const DefaultProbe = 200 * time.Millisecond

// Probe is a test whether an address is in use.
type Probe struct {
	Interface string
	Index     int
	MAC       net.HardwareAddr // of the interface
	Address   netip.Addr
	From      netip.Addr
	Routed    bool // the address is behind a router, where ARP does not reach
	For       time.Duration
}

// Prober tests whether addresses are in use: by ARP on an attached network (RFC
// 5227), by ICMP echo behind a relay. Many probes share one socket. A socket that
// fails, as when its interface goes away, is closed; the next probe opens another.
type Prober struct {
	Log *slog.Logger

	mu      sync.Mutex
	waiting map[netip.Addr]chan string
	sockets map[int]net.PacketConn // by the interface's index; of ICMP: 0
	failing map[int]bool           // sockets whose failure has been logged
	closed  bool
}

// Probe implements Server.Probe: user describes the host that uses the address. If
// the address cannot be probed, it is reported as unused.
func (p *Prober) Probe(ctx context.Context, t Probe) (user string, used bool) {
	send, answer, err := p.begin(t)
	if err != nil {
		p.logFailure(t, err)
		return "", false
	}
	defer p.end(t.Address, answer)
	pause := time.NewTimer(t.For / 2)
	defer pause.Stop()
	for range 2 { // one may get lost
		if err := send(); err != nil {
			p.logFailure(t, err)
		}
		select {
		case user := <-answer:
			return user, true
		case <-ctx.Done():
			return "", false
		case <-pause.C:
			pause.Reset(t.For / 2)
		}
	}
	return "", false
}

var errBusy = errors.New("the address is already being probed")

// begin returns a function that sends a probe, and where the answer arrives.
func (p *Prober) begin(t Probe) (send func() error, answer chan string, err error) {
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
		go p.receive(t, c)
	}
	send = func() error {
		_, err := c.WriteTo(arpProbe(t.MAC, t.Address), &packet.Addr{HardwareAddr: broadcastMAC})
		return err
	}
	if t.Routed {
		send = func() error {
			_, err := c.WriteTo(echoRequest(), &net.IPAddr{IP: t.Address.AsSlice()})
			return err
		}
	}
	answer = make(chan string, 1)
	p.waiting[t.Address] = answer
	return send, answer, nil
}

// socket is the key of the socket that a probe needs.
func (t Probe) socket() int {
	if t.Routed {
		return 0
	}
	return t.Index
}

func (t Probe) listen() (net.PacketConn, error) {
	if t.Routed {
		return net.ListenPacket("ip4:icmp", "0.0.0.0")
	}
	return packet.Listen(&net.Interface{Index: t.Index, Name: t.Interface, HardwareAddr: t.MAC}, packet.Datagram,
		unix.ETH_P_ARP, nil)
}

// logFailure logs that addresses cannot be probed, once until a host answers again.
func (p *Prober) logFailure(t Probe, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.failing[t.socket()] || errors.Is(err, errBusy) {
		return
	}
	p.failing[t.socket()] = true
	p.Log.Warn("probing addresses: assigning them without a probe", "interface", t.Interface, "relayed",
		t.Routed, "err", err)
}

func (p *Prober) end(ip netip.Addr, answer chan string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[ip] == answer {
		delete(p.waiting, ip)
	}
}

func (p *Prober) answer(t Probe, ip netip.Addr, user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.failing, t.socket())
	if c := p.waiting[ip]; c != nil {
		select {
		case c <- user:
		default: // answered before
		}
	}
}

// Close ends all probes.
func (p *Prober) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.sockets {
		c.Close()
	}
}

// arpProbe asks for the user of an address without claiming it (RFC 5227 section 2.1.1).
func arpProbe(mac net.HardwareAddr, ip netip.Addr) []byte {
	b := make([]byte, 28)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[8:], mac)
	copy(b[24:], ip.AsSlice())
	return b
}

// receive reads answers until the socket fails. The socket of an interface that goes
// down or away fails once and receives nothing from then on.
func (p *Prober) receive(t Probe, c net.PacketConn) {
	b := make([]byte, 256)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			p.closeSocket(t, c)
			if !errors.Is(err, unix.ENETDOWN) { // probes that fail by that are logged themselves
				p.logFailure(t, err)
			}
			return
		}
		if ip, user := readAnswer(b[:n], from); ip.IsValid() {
			p.answer(t, ip, user)
		}
	}
}

func (p *Prober) closeSocket(t Probe, c net.PacketConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sockets, t.socket())
	c.Close()
}

// readAnswer returns an address and its user: the sender of an ARP reply or request,
// or of an ICMP echo reply.
func readAnswer(b []byte, from net.Addr) (ip netip.Addr, user string) {
	switch a := from.(type) {
	case *packet.Addr:
		if len(b) >= 28 && b[2] == 8 && b[4] == 6 {
			return address(b[14:18]), "MAC " + net.HardwareAddr(b[8:14]).String()
		}
	case *net.IPAddr:
		if len(b) >= 8 && b[0] == 0 {
			return address(a.IP), fmt.Sprintf("host %s", a.IP)
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
