package bootserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/operator/session"
	"ingot/bootserver/web"
	"ingot/bootserver/web/login"
)

// listeners are where operators reach the server.
type listeners struct {
	socket  net.Listener   // of the local administrator
	remote  []net.Listener // of TLS
	metrics net.Listener   // plain HTTP for metrics and health alone; nil: none
}

func (d *listeners) close() {
	all := d.remote
	for _, l := range []net.Listener{d.socket, d.metrics} {
		if l != nil {
			all = append(all, l)
		}
	}
	for _, l := range all {
		_ = l.Close() // nothing more comes from it, whatever it says
	}
}

// Bounds of what strangers can hold open; those of connections are access.Places.
const (
	maxOwnHeaders = 16 << 10
	metricsIdle   = 15 * time.Second // at the metrics, where all are strangers
)

// openListeners opens all of them, or none.
func (s *Server) openListeners(ctx context.Context) (_ *listeners, err error) {
	d := &listeners{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if group := s.conf.Settings.SocketGroup; group != "" {
		if s.peers.GID, err = access.GroupID(group); err != nil {
			return nil, fmt.Errorf("opening the socket for the group %q (socketGroup): %w", group, err)
		}
	}
	if d.socket, err = s.listenSocket(ctx, s.conf.Settings.Socket); err != nil {
		return nil, err
	}
	for _, at := range s.conf.Settings.API.Listen {
		l, err := s.listenStream(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("opening the API at %s (api.listen): %w", at, err)
		}
		s.remote = append(s.remote, l.Addr().String())
		d.remote = append(d.remote, tls.NewListener((&access.Places{}).Listen(l), s.ca.TLS()))
	}
	if at := s.conf.Settings.API.Metrics; at != "" {
		l, err := s.listenStream(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("opening the metrics at %s (api.metrics): %w", at, err)
		}
		d.metrics = (&access.Places{}).Listen(l)
	}
	return d, nil
}

// listenStream opens a TCP address, or takes the socket that was passed for it.
func (s *Server) listenStream(ctx context.Context, at string) (net.Listener, error) {
	a, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		return nil, err
	}
	want := a.AddrPort()
	if !want.Addr().IsValid() {
		want = netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(a.Port))
	}
	if l := s.passed.stream(netip.AddrPortFrom(want.Addr().Unmap(), want.Port())); l != nil {
		return l, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at)
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%w: this host does not have that address; see: ip address", err)
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, fs.ErrPermission):
		return nil, portTaken(err, "tcp", a.Port)
	}
	return l, err
}

// answer serves operators until ctx ends.
func (s *Server) answer(ctx context.Context, g *errgroup.Group, d *listeners) {
	a := s.operator()
	keeper := &access.Keeper{Find: s.state.Credential, Now: s.conf.Now, Throttle: access.Throttle{Log: s.log}}
	handler := s.pagesBeside(api.Handler(a, keeper, s.metrics.seen), a, keeper, ctx.Done())
	server := func(h http.Handler) *http.Server {
		return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
			IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxOwnHeaders,
			ConnContext: access.ConnContext, ErrorLog: httpboot.ErrorLog(s.log)}
	}
	local := server(handler)
	local.ConnContext = s.peers.ConnContext
	g.Go(func() error { return httpboot.Serve(ctx, d.socket, local) })
	for _, l := range d.remote {
		g.Go(func() error { return httpboot.Serve(ctx, l, server(handler)) })
	}
	if d.metrics != nil {
		plain := server(api.Metrics(a))
		plain.IdleTimeout = metricsIdle
		g.Go(func() error { return httpboot.Serve(ctx, d.metrics, plain) })
	}
}

// pagesBeside serves the dashboard at all paths that are not the API's.
func (s *Server) pagesBeside(routes http.Handler, a api.Backend, keeper *access.Keeper,
	done <-chan struct{}) http.Handler {
	logins := &login.Logins{Store: s.sessions(), Keeper: keeper, Provider: &s.provider, Log: s.log}
	pages := web.New(web.Config{Backend: a, Logins: logins, Now: s.conf.Now, Log: s.log, Seen: s.metrics.seen, Done: done})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if web.Serves(r.URL.Path) {
			pages.ServeHTTP(w, r)
			return
		}
		routes.ServeHTTP(w, r)
	})
}

// sessions are the browsers that are logged in.
func (s *Server) sessions() *session.Store {
	s.browsersOnce.Do(func() { s.browsers = &session.Store{State: s.state, Now: s.conf.Now, Log: s.log} })
	return s.browsers
}

// remoteAt is where the API is served over TLS.
func (s *Server) remoteAt() []string { return append([]string{}, s.remote...) }

// setNames puts into the server's certificate how it may be called.
func (s *Server) setNames(c config.API) {
	names := slices.Clone(c.Names)
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	names = append(names, "localhost", "127.0.0.1", "::1")
	for _, l := range c.Listen {
		if a, err := netip.ParseAddrPort(l); err == nil && !a.Addr().IsUnspecified() {
			names = append(names, a.Addr().String())
		}
	}
	slices.Sort(names)
	s.ca.SetNames(slices.Compact(names))
}
