// Package bootserver network-boots machines: DHCP, TFTP and HTTP on
// some interfaces, joined to what package fleet decides and package state remembers,
// and an API for operators on a Unix socket.
package bootserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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
	// DHCP says what is served on which interface. Without interfaces it is
	// made of Interface, Range, Router, DNS and LeaseTime: one in full mode.
	DHCP       dhcp.Config
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
	plan, cards, err := c.plan()
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
	own := addresses(plan, cards)
	b, err := c.booter(st, own)
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
	b.loaders = maps.Clone(files)
	files["autoexec.ipxe"] = []byte(ipxe.Autoexec())
	prober := &dhcp.Prober{Log: c.Log}
	defer prober.Close()
	d, err := dhcp.New(plan, cards, dhcp.Parts{Store: b, Booter: b, ID: hex.EncodeToString(b.derive("dhcp", "identity")[:8]), Log: c.Log, Now: c.Now})
	if err != nil {
		return err
	}
	d.Probe = prober.Probe
	s, err := c.open(ctx, plan, own)
	if err != nil {
		return err
	}
	defer s.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.Serve(ctx, s.dhcp...) })
	for _, conn := range s.tftp {
		t := &tftp.Server{Files: files, Served: b.loaderServed, Log: c.Log}
		g.Go(func() error { return t.Serve(ctx, conn) })
	}
	for _, l := range s.http {
		g.Go(func() error { return serveHTTP(ctx, l, httpboot.New(b, c.Log)) })
	}
	g.Go(func() error { return serveHTTP(ctx, s.api, api.Handler(admin{b, d, c.Version})) })
	g.Go(func() error { return every(ctx, time.Second, b.expire) })
	if c.Ready != nil {
		r := Ready{Address: own[0], URL: b.base, Socket: c.Socket}
		if pools := d.Pools(plan.Interfaces[0].Name); len(pools) > 0 {
			r.Range = pools[0]
		}
		c.Ready(r)
	}
	return g.Wait()
}

// plan is what DHCP is told, with the interfaces of this host.
func (c *Config) plan() (dhcp.Config, map[string]dhcp.Card, error) {
	p := c.DHCP
	if len(p.Interfaces) == 0 {
		p.Interfaces = []dhcp.Interface{{Name: c.Interface}}
	}
	cards, err := dhcp.Cards(p)
	if err != nil {
		return p, nil, err
	}
	for _, i := range p.Interfaces {
		card, ok := cards[i.Name]
		if !ok {
			return p, nil, fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, i.Name, interfaceNames())
		}
		if len(card.Prefixes) == 0 && i.Mode != dhcp.Observe {
			return p, nil, fmt.Errorf("%w %q: it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev %s", ErrInterface, i.Name, i.Name)
		}
	}
	if len(c.DHCP.Interfaces) > 0 {
		return p, cards, nil
	}
	p.DNS, p.Lease = c.DNS, c.LeaseTime
	if c.Router.IsValid() {
		p.Routers = []netip.Addr{c.Router}
	}
	if c.Range != "" {
		own := cards[c.Interface].Prefixes[0]
		r, err := dhcp.ParseRange(c.Range)
		if err == nil {
			err = r.Within(own, own.Addr())
		}
		if err != nil {
			return p, nil, err
		}
		p.Networks = []dhcp.Network{{Name: c.Interface, Interface: c.Interface, Subnets: []dhcp.Subnet{{Prefix: own.Masked(), Pools: []dhcp.Range{r}}}}}
	}
	return p, cards, nil
}

// addresses are those that machines are told: all of the interfaces that are
// answered on, and of a server that only observes the loopback's.
func addresses(p dhcp.Config, cards map[string]dhcp.Card) []netip.Addr {
	var list []netip.Addr
	for _, i := range p.Interfaces {
		if i.Mode == dhcp.Observe {
			continue
		}
		for _, own := range cards[i.Name].Prefixes {
			if !slices.Contains(list, own.Addr()) {
				list = append(list, own.Addr())
			}
		}
	}
	if len(list) == 0 {
		list = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	return list
}

func (c *Config) booter(st *state.State, own []netip.Addr) (*booter, error) {
	secret, err := st.Secret("identity", func(b []byte) { _, _ = rand.Read(b) }) // never fails, see crypto/rand
	if err != nil {
		return nil, err
	}
	b := &booter{state: st, images: c.Store, keys: c.Keys, port: c.HTTPPort, approve: c.ApproveAll, first: c.Image,
		ticketTTL: c.TicketTTL, deadline: c.Deadline, secret: secret, now: c.Now, log: c.Log}
	b.base = b.urlOf(own[0])
	return b, nil
}

// sockets are what a server listens on.
type sockets struct {
	dhcp []*dhcp.Link
	tftp []*net.UDPConn
	http []net.Listener
	api  net.Listener
}

func (s *sockets) close() {
	for _, l := range s.dhcp {
		l.Close()
	}
	for _, c := range s.tftp {
		c.Close()
	}
	for _, l := range s.http {
		l.Close()
	}
	if s.api != nil {
		s.api.Close()
	}
}

// open opens every port of the server, or none.
func (c *Config) open(ctx context.Context, plan dhcp.Config, own []netip.Addr) (_ *sockets, err error) {
	s := &sockets{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, i := range plan.Interfaces {
		l, err := dhcp.Listen(ctx, i)
		if err != nil {
			return nil, portTaken(err, "udp", 67)
		}
		s.dhcp = append(s.dhcp, l)
	}
	for _, ip := range own {
		t, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip.AsSlice(), Port: 69})
		if err != nil {
			return nil, portTaken(err, "udp", 69)
		}
		s.tftp = append(s.tftp, t)
		h, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", netip.AddrPortFrom(ip, c.HTTPPort).String())
		if err != nil {
			return nil, portTaken(err, "tcp", int(c.HTTPPort))
		}
		s.http = append(s.http, h)
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

// serveHTTP serves until ctx ends, and then lets running answers finish for a
// few seconds.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if s.Shutdown(grace) != nil {
			_ = s.Close() // the machines resume where they were
		}
	})
	err := s.Serve(l)
	if !stop() { // Serve returns as soon as the draining begins
		<-drained
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
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
