package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"
)

var errExist = unix.EEXIST

// exchanger is the DHCP port of all machines. Answers are broadcast; the transaction id says for
// which machine they are.
type exchanger struct {
	conn  *net.UDPConn
	retry time.Duration
	mu    sync.Mutex
	wait  map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4
}

func newExchanger(ctx context.Context, card string, retry time.Duration) (*exchanger, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			inner = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20), unix.BindToDevice(int(fd), card))
		})
		return errors.Join(err, inner)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", ":68")
	if err != nil {
		return nil, fmt.Errorf("opening the DHCP port: %w", err)
	}
	x := &exchanger{conn: c.(*net.UDPConn), retry: retry, wait: map[dhcpv4.TransactionID]chan *dhcpv4.DHCPv4{}}
	go x.receive()
	return x, nil
}

func (x *exchanger) close() { x.conn.Close() }

func (x *exchanger) receive() {
	buf := make([]byte, 2048)
	for {
		n, err := x.conn.Read(buf)
		if err != nil {
			return // closed
		}
		p, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || p.OpCode != dhcpv4.OpcodeBootReply {
			continue
		}
		x.mu.Lock()
		ch := x.wait[p.TransactionID]
		x.mu.Unlock()
		select {
		case ch <- p:
		default: // nothing waits for it, or there was an answer before
		}
	}
}

// errNoAnswer: DHCP was not answered.
var errNoAnswer = errors.New("no answer to DHCP")

// ask sends a packet until an answer of the wanted type arrives, with the pauses of RFC 2131
// section 4.1, but a shorter first one.
func (x *exchanger) ask(ctx context.Context, p *dhcpv4.DHCPv4, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	ch := make(chan *dhcpv4.DHCPv4, 1)
	x.mu.Lock()
	x.wait[p.TransactionID] = ch
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		delete(x.wait, p.TransactionID)
		x.mu.Unlock()
	}()
	wait := x.retry
	for range 5 {
		if _, err := x.conn.WriteToUDP(p.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort}); err != nil {
			return nil, err
		}
		again := time.After(wait/2 + rand.N(wait))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-again:
				waiting = false
			case a := <-ch:
				switch a.MessageType() {
				case want:
					return a, nil
				case dhcpv4.MessageTypeNak:
					return nil, errors.New("the server refused the address")
				}
			}
		}
		wait *= 2
	}
	return nil, errNoAnswer
}

// lease exchanges the four packets of one client and returns the acknowledgement.
func (m *machine) lease(ctx context.Context, also ...dhcpv4.Modifier) (*dhcpv4.DHCPv4, error) {
	d, err := dhcpv4.NewDiscovery(m.mac, append(also, dhcpv4.WithBroadcast(true))...)
	if err != nil {
		return nil, err
	}
	o, err := m.dhcp.ask(ctx, d, dhcpv4.MessageTypeOffer)
	if err != nil {
		return nil, err
	}
	if err := m.step(); err != nil {
		return nil, err
	}
	r, err := dhcpv4.NewRequestFromOffer(o, append(also, dhcpv4.WithBroadcast(true))...)
	if err != nil {
		return nil, err
	}
	a, err := m.dhcp.ask(ctx, r, dhcpv4.MessageTypeAck)
	if err != nil {
		return nil, err
	}
	m.acknowledged(Acknowledged{MAC: m.mac.String(), Address: leased(a.YourIPAddr), For: a.IPAddressLeaseTime(0)})
	return a, m.step()
}

// leased returns an IPv4 address that was leased.
func leased(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

// firmware returns the options that UEFI sends (RFC 4578).
func firmware(uuid [16]byte) []dhcpv4.Modifier {
	return []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, uuid[:]...))),
	}
}

// loader returns the options that iPXE sends: its features are in option 175.
func loader(uuid [16]byte) []dhcpv4.Modifier {
	return append(firmware(uuid),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{0x13, 1, 1, 0x14, 1, 1})))
}
