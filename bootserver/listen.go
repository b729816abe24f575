package bootserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
)

// Sockets are ports that somebody else opened for the server, as systemd does
// (sd_listen_fds(3)). What is not among them the server opens itself.
type Sockets struct {
	Streams   []net.Listener // HTTP, and the administrator's Unix socket
	Datagrams []*net.UDPConn // TFTP
}

// stream finds the listener that receives what is sent to an address.
func (s *Sockets) stream(at netip.AddrPort) net.Listener {
	return find(s.Streams, func(l net.Listener) bool {
		have, ok := boundTo(l.Addr())
		c, _ := l.(syscall.Conn)
		return ok && binds(have, at, c != nil && only6(c))
	})
}

// socket finds the listener that is bound to a path.
func (s *Sockets) socket(path string) net.Listener {
	return find(s.Streams, func(l net.Listener) bool {
		return l.Addr().Network() == "unix" &&
			l.Addr().String() == path
	})
}

// streamAt copies the listener that is bound to this address and no other; nil
// when there is none. The original stays open: its sender has it, too, so
// that a link which is left and comes back could not bind the address again.
func (s *Sockets) streamAt(at netip.AddrPort) (net.Listener, error) {
	l, ok := find(s.Streams, func(l net.Listener) bool { return boundAt(l.Addr(), at) }).(*net.TCPListener)
	if !ok {
		return nil, nil
	}
	f, err := l.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

// datagramAt does the same for a datagram socket.
func (s *Sockets) datagramAt(at netip.AddrPort) (*net.UDPConn, error) {
	c := find(s.Datagrams, func(c *net.UDPConn) bool { return boundAt(c.LocalAddr(), at) })
	if c == nil {
		return nil, nil
	}
	f, err := c.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	again, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return again.(*net.UDPConn), nil
}

func (s *Sockets) close() {
	for _, l := range s.Streams {
		_ = l.Close() // what answers there closed it already
	}
	for _, c := range s.Datagrams {
		_ = c.Close() // likewise
	}
}

// find returns the first that is, or nil.
func find[T any](list []T, is func(T) bool) (found T) {
	if i := slices.IndexFunc(list, is); i >= 0 {
		found = list[i]
	}
	return found
}

// boundTo is the address and port of a socket of UDP or TCP.
func boundTo(a net.Addr) (at netip.AddrPort, ok bool) {
	is, ok := a.(interface{ AddrPort() netip.AddrPort })
	if ok {
		at = is.AddrPort()
	}
	return at, ok
}

func boundAt(a net.Addr, at netip.AddrPort) bool {
	have, ok := boundTo(a)
	return ok && netip.AddrPortFrom(have.Addr().Unmap(), have.Port()) == at
}

// toAll reports whether a socket has a port at all addresses.
func toAll(a net.Addr, port uint16) bool {
	have, ok := boundTo(a)
	return ok && have.Addr().IsUnspecified() && have.Port() == port
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
	if raw.Control(func(fd uintptr) {
		only, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6,
			unix.IPV6_V6ONLY)
	}) != nil || err != nil {
		return false
	}
	return only == 1
}

// wildcard is which addresses the passed sockets that are bound to all of them
// serve.
type wildcard struct{ four, six bool }

func (w *wildcard) add(a net.Addr, c any) {
	at, ok := boundTo(a)
	if !ok || !at.Addr().IsUnspecified() {
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

// port is something that is open, with what answers there.
type port struct {
	open  io.Closer
	serve func(context.Context) error // closes it in the end, HTTP after its answers are through
	stop  context.CancelFunc          // ends serve; nil before it began
	ended chan struct{}               // closed when serve has ended
	card  int                         // the index of the interface that it is bound to; 0: to none
}

func (p *port) close() {
	if p.stop != nil {
		p.stop()
		return
	}
	_ = p.open.Close() // nothing more comes from it, whatever it says
}

// ports are what is open for the links.
type ports struct {
	dhcp map[string]*port // by link.key
	// TFTP and HTTP; none at an address that sockets of the server serve.
	addresses map[netip.Addr][]*port
}

func (p ports) all() []*port {
	return slices.Concat(slices.Collect(maps.Values(p.dhcp)),
		slices.Concat(slices.Collect(maps.Values(p.addresses))...))
}

// closeUnserved closes what was opened and is not answered at.
func (p ports) closeUnserved() {
	for _, o := range p.all() {
		if o.stop == nil {
			o.close()
		}
	}
}

// open opens every port of a site that is not open yet, or none of them. An
// address keeps its sockets also when it moves to another interface.
func (s *Server) open(ctx context.Context, now site) (p ports, err error) {
	p = ports{dhcp: map[string]*port{}, addresses: map[netip.Addr][]*port{}}
	defer func() {
		if err != nil {
			p.closeUnserved()
		}
	}()
	for _, l := range now.links {
		at := s.ports.dhcp[l.key()]
		if at == nil || at.card != now.card(l) {
			if at, err = s.openDHCP(ctx, l); err != nil {
				return p, &linkError{l.key(), err}
			}
		}
		p.dhcp[l.key()] = at
		for _, a := range l.addresses {
			list, there := s.ports.addresses[a]
			if !there {
				list, err = s.openAddress(ctx, a)
			}
			if p.addresses[a] = list; err != nil {
				return p, &linkError{l.key(), err}
			}
		}
	}
	return p, nil
}

// linkError is why the ports of a link could not be opened.
type linkError struct {
	key string
	err error
}

func (e *linkError) Error() string { return e.err.Error() }
func (e *linkError) Unwrap() error { return e.err }

func (s *Server) openDHCP(ctx context.Context, l link) (*port, error) {
	if l.six != nil {
		open, err := dhcp6.Listen(ctx, *l.six)
		if err != nil {
			return nil, portTaken(err, "udp6", dhcp6.PortServer)
		}
		serve := func(ctx context.Context) error { return s.dhcp.Load().six.Serve(ctx, open) }
		return &port{open: closer(open.Close), card: open.Interface.Index, serve: s.beside(l, serve)}, nil
	}
	open, err := dhcp4.Listen(ctx, *l.four)
	if err != nil {
		return nil, portTaken(err, "udp", dhcp4.PortDHCP)
	}
	serve := func(ctx context.Context) error { return s.dhcp.Load().four.Serve(ctx, open) }
	return &port{open: closer(open.Close), card: open.Interface.Index, serve: s.beside(l, serve)}, nil
}

// beside serves a link, and warns of other servers there meanwhile.
func (s *Server) beside(l link, serve func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return serve(ctx) })
		g.Go(func() error {
			s.warnOfOthers(ctx, l)
			return nil
		})
		return g.Wait()
	}
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

// openAddress opens what is served at an address. What it returns beside an
// error is open as well.
func (s *Server) openAddress(ctx context.Context, a netip.Addr) (list []*port, err error) {
	digit, lc := family(a)
	at := netip.AddrPortFrom(a, portTFTP)
	c, err := s.passed.datagramAt(at)
	if err == nil && c == nil && !s.everywhere.tftp.has(a) {
		var opened net.PacketConn
		if opened, err = lc.ListenPacket(ctx, "udp"+digit, at.String()); err == nil {
			c = opened.(*net.UDPConn)
		}
	}
	if err != nil {
		return nil, portTaken(err, "udp", portTFTP)
	}
	if c != nil {
		list = append(list, s.tftpAt(c))
	}
	at = netip.AddrPortFrom(a, s.port())
	l, err := s.passed.streamAt(at)
	if err == nil && l == nil && !s.everywhere.http.has(a) {
		l, err = lc.Listen(ctx, "tcp"+digit, at.String())
	}
	if err != nil {
		return list, portTaken(err, "tcp", int(s.port()))
	}
	if l != nil {
		list = append(list, s.httpAt(l))
	}
	return list, nil
}

const portTFTP = 69

func (s *Server) tftpAt(c *net.UDPConn) *port {
	return &port{open: c, serve: func(ctx context.Context) error { return s.tftp.Serve(ctx, c) }}
}

func (s *Server) httpAt(l net.Listener) *port {
	return &port{open: l, serve: func(ctx context.Context) error { return s.http.Serve(ctx, l) }}
}

// openEverywhere finds the sockets that were passed for all addresses. They
// belong to the server: a link that is left must not close them for the others.
func (s *Server) openEverywhere() (all []*port) {
	for _, c := range s.passed.Datagrams {
		if toAll(c.LocalAddr(), portTFTP) {
			s.everywhere.tftp.add(c.LocalAddr(), c)
			all = append(all, s.tftpAt(c))
		}
	}
	for _, l := range s.passed.Streams {
		if toAll(l.Addr(), s.port()) {
			s.everywhere.http.add(l.Addr(), l)
			all = append(all, s.httpAt(l))
		}
	}
	return all
}

// listenSocket opens the administrator's socket. One that a dead server left
// is removed: the lock on the state says that no other is alive.
func (s *Server) listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if l := s.passed.socket(path); l != nil {
		return l, nil
	}
	if len(path) > 107 {
		return nil, fmt.Errorf("the socket's path %s is longer than the 107 bytes that Unix sockets may have; choose a "+
			"shorter --store", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replacing the socket: %w", err)
	}
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = unix.Fchmod(int(fd), 0o600) }) // bind(2) makes the file with it
		return errors.Join(err, inner)
	}}
	l, err := private.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the socket: %w", err)
	}
	if s.peers.GID != 0 {
		if err := errors.Join(os.Lchown(path, -1, s.peers.GID), os.Chmod(path, 0o660)); err != nil {
			l.Close()
			return nil, fmt.Errorf("opening the socket for a group: %w", err)
		}
	}
	return l, nil
}

// portTaken explains why a port could not be opened.
func portTaken(err error, proto string, port int) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d/%s is taken%s: %w; stop what uses it, or serve on another interface", port,
			strings.TrimSuffix(proto, "6"), holder(proto, port), err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as root, or grant the capabilities CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN",
			err)
	}
	return err
}
