package bootserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ingot/bootserver/dhcp"
	"ingot/bootserver/dhcp6"
)

// Sockets are ports that somebody else opened for the server, as systemd does
// (sd_listen_fds(3)). What is not among them the server opens itself.
type Sockets struct {
	Streams   []net.Listener // HTTP, and the administrator's Unix socket
	Datagrams []*net.UDPConn // TFTP
}

// stream takes the listener that is bound to an address, or to all of them.
func (s *Sockets) stream(at netip.AddrPort) net.Listener {
	return take(&s.Streams, func(l net.Listener) bool {
		a, ok := l.Addr().(*net.TCPAddr)
		c, _ := l.(syscall.Conn)
		return ok && binds(a.AddrPort(), at, c != nil && only6(c))
	})
}

// socket takes the listener that is bound to a path.
func (s *Sockets) socket(path string) net.Listener {
	return take(&s.Streams, func(l net.Listener) bool { return l.Addr().Network() == "unix" && l.Addr().String() == path })
}

// datagram takes the socket that is bound to an address.
func (s *Sockets) datagram(at netip.AddrPort) *net.UDPConn {
	return take(&s.Datagrams, func(c *net.UDPConn) bool {
		a, ok := c.LocalAddr().(*net.UDPAddr)
		return ok && binds(a.AddrPort(), at, only6(c))
	})
}

func take[T comparable](list *[]T, is func(T) bool) (found T) {
	if i := slices.IndexFunc(*list, is); i >= 0 {
		found = (*list)[i]
		*list = slices.Delete(slices.Clone(*list), i, i+1)
	}
	return found
}

// binds reports whether a socket bound to have receives what is sent to want.
// One that is bound to all IPv6 addresses has those of IPv4 as well, unless
// somebody forbade that (IPV6_V6ONLY, ipv6(7)).
func binds(have, want netip.AddrPort, only6 bool) bool {
	switch {
	case have.Port() != want.Port():
		return false
	case have.Addr().IsUnspecified() && have.Addr().Is4():
		return want.Addr().Is4()
	case have.Addr().IsUnspecified():
		return want.Addr().Is6() || !only6
	}
	return have.Addr().Unmap() == want.Addr()
}

// only6 reports whether a socket is for IPv6 alone.
func only6(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	only := 0
	if raw.Control(func(fd uintptr) { only, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) }) != nil || err != nil {
		return false
	}
	return only == 1
}

// wildcard is which addresses a passed socket serves besides the one that it
// was taken for.
type wildcard struct{ four, six bool }

func (w *wildcard) add(a net.Addr, c any) {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return
	}
	conn, ok := c.(syscall.Conn)
	w.six = w.six || at.Addr().Is6()
	w.four = w.four || at.Addr().Is4() || ok && !only6(conn)
}

func (w wildcard) has(a netip.Addr) bool {
	if a.Is4() {
		return w.four
	}
	return w.six
}

// answerer serves the DHCP of a link until ctx ends.
type answerer func(ctx context.Context) error

// ports are what is open for one link.
type ports struct {
	dhcp      answerer           // what answers DHCP or DHCPv6
	stopDHCP  context.CancelFunc // ends that alone
	endedDHCP chan struct{}      // closed when it has ended
	link      io.Closer
	tftp      []*net.UDPConn
	http      []net.Listener
	stop      context.CancelFunc // ends what answers at them; nil before
}

func (p *ports) close() {
	if p.stop != nil {
		p.stop()
		return // who answers closes them, HTTP after its answers are through
	}
	var all []io.Closer
	if p.link != nil {
		all = append(all, p.link)
	}
	for _, c := range p.tftp {
		all = append(all, c)
	}
	for _, l := range p.http {
		all = append(all, l)
	}
	for _, c := range all {
		_ = c.Close() // nothing more comes from it, whatever it says
	}
}

// open opens every port of a link, or none. One of a socket that is bound to
// all addresses serves them all: it is opened with the first link.
func (s *Server) open(ctx context.Context, l link) (_ *ports, err error) {
	p := &ports{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err = s.openDHCP(ctx, l, p); err != nil {
		return nil, err
	}
	for _, a := range l.addresses {
		if err := s.openAddress(ctx, a, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (s *Server) openDHCP(ctx context.Context, l link, p *ports) error {
	if l.six != nil {
		open, err := dhcp6.Listen(ctx, *l.six)
		if err != nil {
			return portTaken(err, "udp6", dhcp6.PortServer)
		}
		p.link, p.dhcp = closer(open.Close), func(ctx context.Context) error { return s.lend.Load().six.Serve(ctx, open) }
		return nil
	}
	open, err := dhcp.Listen(ctx, *l.four)
	if err != nil {
		return portTaken(err, "udp", dhcp.PortDHCP)
	}
	p.link, p.dhcp = closer(open.Close), func(ctx context.Context) error { return s.lend.Load().four.Serve(ctx, open) }
	return nil
}

// closer is a Close that cannot fail.
type closer func()

func (c closer) Close() error {
	c()
	return nil
}

// early lets a socket be bound to an IPv6 address that the kernel still looks
// for twins of, as it does for a second after a card came up (RFC 4862 section
// 5.4; ipv6(7)).
func early(_, _ string, c syscall.RawConn) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1) })
	return errors.Join(err, inner)
}

// family says how to listen at an address: "udp" and "tcp" get its digit.
func family(a netip.Addr) (digit string, lc net.ListenConfig) {
	if a.Is4() {
		return "4", net.ListenConfig{}
	}
	return "6", net.ListenConfig{Control: early}
}

func (s *Server) openAddress(ctx context.Context, a netip.Addr, p *ports) error {
	digit, lc := family(a)
	at := netip.AddrPortFrom(a, 69)
	if c := s.passed.datagram(at); c != nil {
		p.tftp = append(p.tftp, c)
		s.everywhere.tftp.add(c.LocalAddr(), c)
	} else if !s.everywhere.tftp.has(a) {
		c, err := lc.ListenPacket(ctx, "udp"+digit, at.String())
		if err != nil {
			return portTaken(err, "udp", 69)
		}
		p.tftp = append(p.tftp, c.(*net.UDPConn))
	}
	at = netip.AddrPortFrom(a, s.port())
	if l := s.passed.stream(at); l != nil {
		p.http = append(p.http, l)
		s.everywhere.http.add(l.Addr(), l)
	} else if !s.everywhere.http.has(a) {
		l, err := lc.Listen(ctx, "tcp"+digit, at.String())
		if err != nil {
			return portTaken(err, "tcp", int(s.port()))
		}
		p.http = append(p.http, l)
	}
	return nil
}

// listenSocket opens the administrator's socket. One that a dead server left
// is removed: the lock on the state says that no other is alive.
func (s *Server) listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if l := s.passed.socket(path); l != nil {
		return l, nil
	}
	if len(path) > 107 {
		return nil, fmt.Errorf("the socket's path %s is longer than the 107 bytes that Unix sockets may have; choose a shorter --store", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replacing the socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("opening the socket: %w", err)
	}
	return l, nil
}

// portTaken explains why a port could not be opened.
func portTaken(err error, proto string, port int) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d/%s is taken%s: %w; stop what uses it, or serve on another interface", port, strings.TrimSuffix(proto, "6"), holder(proto, port), err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as root, or grant the capabilities CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN", err)
	}
	return err
}
