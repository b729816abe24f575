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
	"syscall"

	"ingot/bootserver/dhcp"
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
		return ok && binds(a.AddrPort(), at)
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
		return ok && binds(a.AddrPort(), at)
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
func binds(have, want netip.AddrPort) bool {
	return have.Port() == want.Port() && (have.Addr().Unmap() == want.Addr() || have.Addr().IsUnspecified())
}

// ports are what is open for one link.
type ports struct {
	dhcp *dhcp.Link
	tftp []*net.UDPConn
	http []net.Listener
	stop context.CancelFunc // ends what answers at them; nil before
}

func (p *ports) close() {
	if p.stop != nil {
		p.stop()
		return // who answers closes them, HTTP after its answers are through
	}
	if p.dhcp != nil {
		p.dhcp.Close()
	}
	var all []io.Closer
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
	if p.dhcp, err = dhcp.Listen(ctx, l.Interface); err != nil {
		return nil, portTaken(err, "udp", dhcp.PortDHCP)
	}
	for _, a := range l.addresses {
		if err := s.openAddress(ctx, a, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (s *Server) openAddress(ctx context.Context, a netip.Addr, p *ports) error {
	at := netip.AddrPortFrom(a, 69)
	if c := s.passed.datagram(at); c != nil {
		p.tftp = append(p.tftp, c)
		s.everywhere.tftp = s.everywhere.tftp || c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().IsUnspecified()
	} else if !s.everywhere.tftp {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return portTaken(err, "udp", 69)
		}
		p.tftp = append(p.tftp, c)
	}
	at = netip.AddrPortFrom(a, s.port())
	if l := s.passed.stream(at); l != nil {
		p.http = append(p.http, l)
		s.everywhere.http = s.everywhere.http || l.Addr().(*net.TCPAddr).AddrPort().Addr().IsUnspecified()
	} else if !s.everywhere.http {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", at.String())
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
		return fmt.Errorf("port %d/%s is taken%s: %w; stop what uses it, or serve on another interface", port, proto, holder(proto, port), err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run as root, or grant the capabilities CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN", err)
	}
	return err
}
