// Package bootserver network-boots machines: DHCP, TFTP and HTTP on one
// interface, joined to what package fleet decides and package state remembers,
// and an API for operators on a Unix socket.
package bootserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/api"
	"ingot/bootserver/dhcp"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/ipxe"
	"ingot/bootserver/state"
	"ingot/bootserver/tftp"
	"ingot/image"
)

// Config is one server. Zero values are the defaults.
type Config struct {
	Interface  string
	Range      string // "10.99.0.100-10.99.0.199"; empty: the upper half of the interface's network
	HTTPPort   uint16 // 0 means 80
	Router     netip.Addr
	DNS        []netip.Addr
	LeaseTime  time.Duration // 0 means 12 h
	Store      *image.Store
	Keys       image.Keys
	Loaders    string // folder of the loaders
	Socket     string // empty: ingot.sock in the store
	ApproveAll bool
	Image      string        // with ApproveAll: the first image of new machines
	TicketTTL  time.Duration // 0 means 2 min
	Deadline   time.Duration // of images that name none; 0 means 10 min
	Version    string
	Log        *slog.Logger     // nil is quiet
	Now        func() time.Time // nil means time.Now
	Ready      func(Ready)      // called once, when every port is open
}

// Ready says where a server listens.
type Ready struct {
	Address netip.Addr
	Range   dhcp.Range
	URL     string
	Socket  string
}

// ErrInterface: the interface cannot be served on.
var ErrInterface = errors.New("cannot serve on the interface")

// link is an interface with its address.
type link struct {
	index  int
	prefix netip.Prefix
}

func (l link) addr() netip.Addr { return l.prefix.Addr() }

// findLink returns the interface and its first IPv4 address.
func findLink(name string) (link, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return link{}, fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, name, interfaceNames())
	}
	addrs, err := i.Addrs()
	if err != nil {
		return link{}, fmt.Errorf("%w %q: %w", ErrInterface, name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return link{i.Index, p}, nil
		}
	}
	return link{}, fmt.Errorf("%w %q: it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev %s", ErrInterface, name, name)
}

func interfaceNames() string {
	list, err := net.Interfaces()
	if err != nil {
		return "none that can be listed"
	}
	var names []string
	for _, i := range list {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return "none besides lo"
	}
	return strings.Join(names, ", ")
}

func (c *Config) complete() {
	if c.HTTPPort == 0 {
		c.HTTPPort = 80
	}
	if c.LeaseTime == 0 {
		c.LeaseTime = 12 * time.Hour
	}
	if c.TicketTTL == 0 {
		c.TicketTTL = 2 * time.Minute
	}
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Minute
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Socket == "" {
		c.Socket = filepath.Join(c.Store.Root(), "ingot.sock")
	}
}

// Run serves until ctx ends. Everything is opened before anything is answered:
// a port that is taken is an error, not half a server.
func Run(ctx context.Context, c Config) error {
	c.complete()
	l, err := findLink(c.Interface)
	if err != nil {
		return err
	}
	r, err := c.lendable(l)
	if err != nil {
		return err
	}
	st, err := state.Open(ctx, filepath.Join(c.Store.Root(), state.Folder))
	if err != nil {
		return err
	}
	defer func() {
		if err := st.Close(); err != nil {
			c.Log.Error("closing the state", "err", err)
		}
	}()
	b, err := c.booter(st, l)
	if err != nil {
		return err
	}
	if c.Image != "" { // say now what would be said at the first machine
		if _, err := b.assignment(ctx, c.Image, ""); err != nil {
			return err
		}
	}
	files, err := tftp.Load(c.Loaders)
	if err != nil {
		return err
	}
	files["autoexec.ipxe"] = []byte(ipxe.Autoexec())
	s, err := c.open(ctx, l)
	if err != nil {
		return err
	}
	defer s.close()
	g, ctx := errgroup.WithContext(ctx)
	d := &dhcp.Server{Range: r, Book: b, Booter: b, Now: c.Now, Log: c.Log, Link: l.index,
		Network: dhcp.Told{Server: l.addr(), Prefix: l.prefix, Router: c.Router, DNS: c.DNS, Lease: c.LeaseTime, Loaders: dhcp.Loaders}}
	t := &tftp.Server{Files: files, Served: b.loaderServed, Log: c.Log}
	g.Go(func() error { return d.Serve(ctx, s.dhcp) })
	g.Go(func() error { return t.Serve(ctx, s.tftp) })
	g.Go(func() error { return httpboot.New(b, c.Log).Serve(ctx, s.http) })
	g.Go(func() error {
		return httpboot.Serve(ctx, s.api, &http.Server{Handler: api.Handler(admin{b, c.Version}), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute})
	})
	g.Go(func() error { return every(ctx, time.Second, b.expire) })
	if c.Ready != nil {
		c.Ready(Ready{Address: l.addr(), Range: r, URL: b.base, Socket: c.Socket})
	}
	return g.Wait()
}

func (c *Config) lendable(l link) (dhcp.Range, error) {
	if c.Range == "" {
		return dhcp.DefaultRange(l.prefix, l.addr())
	}
	r, err := dhcp.ParseRange(c.Range)
	if err != nil {
		return r, err
	}
	return r, r.Within(l.prefix, l.addr())
}

func (c *Config) booter(st *state.State, l link) (*booter, error) {
	secret, err := st.Secret("identity", func(b []byte) { _, _ = rand.Read(b) }) // never fails, see crypto/rand
	if err != nil {
		return nil, err
	}
	base := "http://" + l.addr().String()
	if c.HTTPPort != 80 {
		base += ":" + strconv.Itoa(int(c.HTTPPort))
	}
	return &booter{state: st, images: c.Store, keys: c.Keys, base: base, approve: c.ApproveAll, first: c.Image,
		ticketTTL: c.TicketTTL, deadline: c.Deadline, secret: secret, now: c.Now, log: c.Log}, nil
}

// sockets are what a server listens on.
type sockets struct {
	dhcp, tftp *net.UDPConn
	http, api  net.Listener
}

func (s *sockets) close() {
	for _, c := range []*net.UDPConn{s.dhcp, s.tftp} {
		if c != nil {
			c.Close()
		}
	}
	for _, l := range []net.Listener{s.http, s.api} {
		if l != nil {
			l.Close()
		}
	}
}

// open opens every port of the server, or none.
func (c *Config) open(ctx context.Context, l link) (_ *sockets, err error) {
	s := &sockets{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dhcp, err = dhcp.Listen(ctx, c.Interface); err != nil {
		return nil, portTaken(err, "udp", 67)
	}
	if s.tftp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: l.addr().AsSlice(), Port: 69}); err != nil {
		return nil, portTaken(err, "udp", 69)
	}
	at := netip.AddrPortFrom(l.addr(), c.HTTPPort)
	if s.http, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", at.String()); err != nil {
		return nil, portTaken(err, "tcp", int(c.HTTPPort))
	}
	if s.api, err = listenSocket(ctx, c.Socket); err != nil {
		return nil, err
	}
	return s, nil
}

// listenSocket opens the administrator's socket. One that a dead server left
// is removed: the lock on the state says that no other is alive.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
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

func every(ctx context.Context, d time.Duration, f func()) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f()
		}
	}
}
