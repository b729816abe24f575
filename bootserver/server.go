// Package bootserver runs a boot server: it opens the sockets of DHCP in both families, TFTP and HTTP
// on one or more interfaces and those of the API, joins them to what answers there, reloads the
// configuration, and closes everything in order. Machines are answered by package booter, operators
// by package operator.
//
// Each address of an interface has sockets of its own, so an answer leaves
// from the address that was asked, and what it says of the server is that
// address.
package bootserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/catalog"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/instance"
	"ingot/bootserver/ipxe"
	"ingot/bootserver/lease"
	"ingot/bootserver/notify"
	"ingot/bootserver/operator"
	"ingot/bootserver/operator/session"
	"ingot/bootserver/operator/webhooks"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/bootserver/tftp"
	"ingot/bootserver/web/login"
	"ingot/image"
)

// Config is one server. Zero values are the defaults.
type Config struct {
	Settings config.Config // what operators write
	// with one interface: "10.99.0.100-10.99.0.199"; empty: as Settings say, else the upper half of its network
	Range   string
	Range6  string // likewise with one interface of IPv6: "fd00:99::1000-fd00:99::1fff"
	Store   *image.Store
	Loaders string // folder of the loaders
	// LoaderDigests are those that loaders had when they were fetched, by file name: a file with other
	// content is not served. Other files are an operator's own.
	LoaderDigests map[string]ingot.Digest
	Version       string
	Sockets       Sockets
	Log           *slog.Logger                  // nil is quiet
	Now           func() time.Time              // nil means time.Now
	Elapsed       func() time.Duration          // a clock that nobody sets; nil: that of the operating system
	Ready         func(Ready)                   // called once, when every port is open
	Alive         func()                        // called every few seconds as long as the server answers; nil is fine
	Reread        func() (config.Config, error) // reads the settings again, for a reload; nil: there is nothing to read
	Reloads       func(begin bool)              // told before and after a reload; nil is fine
	// Required are interfaces that must be there at the start. Others of the settings are
	// served when they appear.
	Required []string
	// OpenState opens the state in a folder of the store; nil means OpenState of this package. Tests run a
	// server on another backend.
	OpenState func(ctx context.Context, dir string) (state.Store, error)
	// Measure reads from the root of an image what its packages take; nil: the SBOM alone says so.
	Measure operator.Measure
}

// Ready says where a server listens.
type Ready struct {
	Links  []Link
	Socket string
	Remote []string // where the API is served over TLS
}

// Link is one interface that is served.
type Link struct {
	Name    string
	IPv6    bool
	Mode    string     // of package dhcp, or for IPv6 of package dhcp6; empty: full
	Address netip.Addr // none in observe mode, and then no URL either
	Pools   []lease.Range
	URL     string
	Absent  string // why it is not served yet; then all but Name, IPv6 and Mode is empty
}

// Server is one running server.
type Server struct {
	conf         Config
	started      time.Time // by conf.Now
	log          *slog.Logger
	state        state.Store
	catalog      *catalog.Catalog
	booter       *booter.Booter
	http         *httpboot.Server
	tftp         *tftp.Server
	dhcp         atomic.Pointer[dhcpServers] // nil before Run
	prober       *dhcp4.Prober
	packets      *booter.Packets
	passed       Sockets
	everywhere   struct{ tftp, http wildcard } // the addresses at which passed sockets serve all links
	ca           *access.CA
	peers        access.Peers   // users of the socket
	remote       []string       // where the API is served over TLS
	certificate  certificate    // of the operator, for browsers
	browsers     *session.Store // see sessions
	browsersOnce sync.Once
	provider     login.Provider // by which operators may log in
	ready        atomic.Bool    // every port is open
	metrics      *metrics
	rollouts     *operator.Rollouts
	notifier     *notify.Notifier
	measurer     *operator.Measurer

	reloading sync.Mutex
	site      site // what is served; Run makes it, then reloads and follow change it
	others    others
	shown     atomic.Pointer[site] // the same, for those that do not hold the mutex; nil before Run
	ports     ports                // of the site
	serving   context.Context      // of Run, for links that a reload adds
	group     *errgroup.Group
}

// New prepares a server.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.OpenState == nil {
		c.OpenState = func(ctx context.Context, dir string) (state.Store, error) { return OpenState(ctx, filepath.Dir(dir)) }
	}
	if c.Settings.Socket == "" {
		c.Settings.Socket = filepath.Join(c.Store.Root(), "ingot.sock")
	}
	return &Server{conf: c, log: c.Log, passed: c.Sockets, started: c.Now(),
		measurer: operator.NewMeasurer(c.Measure),
		others:   others{cleared: map[string]bool{}, refused: map[string]refusal{}}}
}

func (s *Server) port() uint16 {
	if p := s.conf.Settings.HTTP.Port; p != 0 {
		return p
	}
	return 80
}

// Run serves until ctx ends. Everything is opened before anything is answered:
// a port that is taken is an error, not half a server.
func (s *Server) Run(ctx context.Context) error {
	now, err := look(s.conf.Settings, s.conf.Range, s.conf.Range6)
	if err != nil {
		return err
	}
	if err := now.require(s.conf.Required); err != nil {
		return err
	}
	st, err := s.conf.OpenState(ctx, filepath.Join(s.conf.Store.Root(), state.Folder))
	if err != nil {
		return err
	}
	defer func() {
		if err := st.Close(); err != nil {
			s.log.Error("closing the state", "err", err)
		}
	}()
	if c, is := st.(*bolt.Store); is && c.Converted() != nil {
		s.log.Warn(c.Converted().String())
	}
	s.prober = &dhcp4.Prober{Log: s.log}
	defer s.prober.Close()
	if err := s.prepare(ctx, st, now); err != nil {
		return err
	}
	listeners, err := s.openListeners(ctx)
	if err != nil {
		return err
	}
	defer listeners.close()
	forget, err := instance.Write(s.conf.Store.Root(), s.conf.Settings.Socket) // commands find us by it
	if err != nil {
		return err
	}
	defer func() { _ = forget() }() // what stays is not believed
	defer s.closeAll()
	shared := s.openEverywhere()
	if s.ports, err = s.open(ctx, now); err != nil {
		return err
	}
	if now, err = s.refuseFirst(ctx, now); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was ended before it began
		}
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	s.reloading.Lock()
	s.serving, s.group = ctx, g
	s.setSite(now)
	s.serve(append(shared, s.ports.all()...))
	s.reloading.Unlock()
	s.answer(ctx, g, listeners)
	g.Go(func() error {
		if err := st.Verify(); err != nil { // in the background: a long past must not delay a start
			s.log.Error("reading the whole state; restore a backup: ingot restore FILE", "err", err)
		}
		return nil
	})
	g.Go(func() error {
		s.catalog.Examine(ctx, booted(st.Machines()), s.log)
		return nil
	})
	g.Go(func() error { return every(ctx, time.Second, s.tick) })
	g.Go(func() error { return every(ctx, certificateEvery, s.followCertificate) })
	g.Go(func() error { return every(ctx, time.Minute, s.sessions().Tidy) })
	g.Go(func() error { return every(ctx, rolloutTick, func() { s.advance(ctx) }) })
	s.keepLedger(ctx, g)
	g.Go(func() error { return s.follow(ctx) })
	s.ready.Store(true)
	if s.conf.Ready != nil {
		s.conf.Ready(s.where(now))
	}
	return g.Wait()
}

// setSite remembers what is served. s.reloading is held.
func (s *Server) setSite(now site) {
	s.site = now
	s.shown.Store(&now)
}

// where says where the server listens.
func (s *Server) where(now site) Ready {
	r := Ready{Socket: s.conf.Settings.Socket, Remote: s.remoteAt()}
	for _, l := range now.links {
		at := Link{Name: l.name}
		if l.six != nil {
			at.IPv6, at.Mode, at.Pools = true, string(l.six.Mode), s.dhcp.Load().six.Pools(l.name)
		} else {
			at.Mode, at.Pools = string(l.four.Mode), s.dhcp.Load().four.Pools(l.name)
		}
		if len(l.addresses) > 0 {
			at.Address, at.URL = l.addresses[0], s.booter.ServerURL(l.addresses[0])
		}
		r.Links = append(r.Links, at)
	}
	for _, a := range now.absent {
		r.Links = append(r.Links, Link{Name: a.name, IPv6: a.six, Mode: a.mode, Absent: a.why})
	}
	return r
}

func (s *Server) closeAll() {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	s.group = nil
	for _, p := range s.ports.all() {
		p.close()
	}
	s.passed.close()
}

// prepare makes what all links share.
func (s *Server) prepare(ctx context.Context, st state.Store, now site) error {
	var err error
	if s.ca, err = access.OpenCA(filepath.Join(s.conf.Store.Root(), "keys"), s.conf.Now); err != nil {
		return err
	}
	s.setNames(s.conf.Settings.API)
	s.setCertificate(s.conf.Settings.API)
	s.setProvider(s.conf.Settings.API)
	s.state, s.catalog = st, catalog.New(s.conf.Store)
	if err := s.editor().FinishRemovals(ctx); err != nil {
		return err
	}
	if err := s.checkFirst(ctx, s.conf.Settings.Boots); err != nil {
		return err
	}
	files, err := tftp.Load(s.conf.Loaders, s.conf.LoaderDigests, s.log)
	if err != nil {
		return err
	}
	keys, err := image.OpenSigner(filepath.Join(s.conf.Store.Root(), "keys"))
	if err != nil {
		return fmt.Errorf("preparing the key that signs tickets: %w", err)
	}
	s.booter = booter.New(booter.Config{State: st, Catalog: s.catalog, Keys: keys, Port: s.port(),
		Loaders: maps.Clone(files),
		Policy:  policyOf(s.conf.Settings.Boots), Now: s.conf.Now, Log: s.log, Locator: locator{s}})
	host{s}.SetRules(operator.DesiredRules(st, s.log))
	files["autoexec.ipxe"] = []byte(ipxe.Autoexec())
	s.tftp = &tftp.Server{Files: files, Served: s.booter.LoaderServed, SinglePort: s.conf.Settings.TFTP.SinglePort,
		Log: s.log, Known: func(ip netip.Addr) bool { _, known := st.AtAddress(ip); return known }}
	s.http = httpboot.New(s.booter, s.log)
	s.limit(s.conf.Settings)
	s.packets = booter.NewPackets(st, s.log)
	if err := s.openDHCPServers(now); err != nil {
		return err
	}
	s.rollouts = operator.NewRollouts(operator.RolloutsConfig{State: st, Catalog: s.catalog,
		Healing: s.booter.HealingPolicy, Now: s.conf.Now, Elapsed: s.conf.Elapsed, Log: s.log})
	s.notifier = s.newNotifier(st)
	s.metrics = newMetrics(s.conf.Version, s.figures)
	return nil
}

// keepLedger brings packets into the ledger, and its events to webhooks.
func (s *Server) keepLedger(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return s.packets.Keep(ctx) })
	g.Go(func() error { return s.notifier.Run(ctx) })
}

// newNotifier returns what sends events to webhooks.
func (s *Server) newNotifier(st state.Store) *notify.Notifier {
	return notify.New(notify.Config{State: st, Keys: filepath.Join(s.conf.Store.Root(), "keys"), Data: operator.EventOf,
		Version: s.conf.Version, Now: s.conf.Now, Log: s.log})
}

// webhooks returns what carries out what operators ask about webhooks.
func (s *Server) webhooks() *webhooks.Webhooks {
	return webhooks.New(webhooks.Config{State: s.state, Notifier: s.notifier, Now: s.conf.Now, Log: s.log})
}

// booted returns the images that machines boot next, each once.
func booted(machines []fleet.Machine) (list []ingot.Digest) {
	for _, m := range machines {
		if ref, err := fleet.Next(m); err == nil && !slices.Contains(list, ref.Image) {
			list = append(list, ref.Image)
		}
	}
	return list
}

// policyOf returns the boot policy of a configuration.
func policyOf(c config.Boots) booter.Policy {
	return booter.Policy{Ticket: time.Duration(c.Ticket), Deadline: time.Duration(c.Deadline), Attempts: c.Attempts,
		After: c.After,
		Rules: c.Rules, ApproveAll: c.ApproveAll, Image: c.Image,
		Authenticated: c.Authenticated == config.AuthenticatedRequired}
}

// FirstImages returns the images that a configuration gives to new machines.
func FirstImages(c config.Boots) []string { return policyOf(c).FirstImages() }

// Missing returns those images that a configuration gives to new machines and that a store with these
// images lacks.
func Missing(c config.Boots, have []image.Image) []fleet.First {
	return slices.DeleteFunc(policyOf(c).Firsts(), func(f fleet.First) bool {
		_, err := image.Find(have, f.Image)
		return err == nil
	})
}

// checkFirst returns an error if the image that new machines get cannot be assigned.
func (s *Server) checkFirst(ctx context.Context, c config.Boots) error {
	if c.Image == "" {
		return nil
	}
	_, err := s.catalog.Resolve(ctx, c.Image)
	if errors.Is(err, image.ErrDamaged) { // other machines must boot all the same
		s.log.Error("the image for new machines is damaged; they wait until it is mended", "image", c.Image, "err", err)
		return nil
	}
	return err
}

func (s *Server) limit(c config.Config) {
	s.http.SetLimits(c.HTTP.Limits())
	s.tftp.SetLimits(c.TFTP.Limits())
}

// serve starts to answer at ports where nobody does yet.
func (s *Server) serve(list []*port) {
	for _, p := range list {
		if p.stop != nil {
			continue
		}
		ctx, stop := context.WithCancel(s.serving)
		p.stop, p.ended = stop, make(chan struct{})
		s.group.Go(func() error {
			defer close(p.ended)
			err := p.serve(ctx)
			if err != nil && p.card != 0 && !exists(p.card) { // follow opens another when the interface is back
				s.log.Warn("the sockets of an interface ended with it", "err", err)
				return nil
			}
			return err
		})
	}
}

// rolloutTick is how often rollouts move on.
const rolloutTick = 2 * time.Second

// advance lets machines follow desired state whose application was interrupted, and moves rollouts on.
func (s *Server) advance(ctx context.Context) {
	if err := s.operator().FollowDesired(ctx); err != nil {
		s.log.Error("making machines follow the desired state", "err", err)
	}
	s.rollouts.Tick(ctx)
}

// tick does what has its time. That it comes through says that the server is
// alive: it gets the state's lock.
func (s *Server) tick() {
	s.booter.Expire()
	s.booter.Tidy()
	if s.conf.Alive != nil {
		s.conf.Alive()
	}
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

// Reload reads the settings again, looks at the interfaces again, and takes over
// what can be changed while machines boot: what is served on keeps its sockets
// and its transfers. It
// returns what takes a restart. Settings with a fault change nothing.
func (s *Server) Reload(ctx context.Context) (api.Reloaded, error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	switch {
	case s.group == nil:
		return api.Reloaded{}, errors.New("the server is starting or ending")
	case s.conf.Reread == nil:
		return api.Reloaded{}, operator.ErrNoReload
	}
	if s.conf.Reloads != nil {
		s.conf.Reloads(true)
		defer s.conf.Reloads(false)
	}
	c, err := s.settings(ctx)
	if err != nil {
		s.log.Error("reading the configuration again; the server goes on with the old one", "err", err)
		return api.Reloaded{}, fmt.Errorf("reading the configuration again: %w", err)
	}
	r := changed(s.conf.Settings, c, s.conf.Store.Root())
	if err := s.rearrange(ctx, &c, &r); err != nil {
		return api.Reloaded{}, fmt.Errorf("reading the configuration again: %w", err)
	}
	s.limit(c)
	s.booter.SetPolicy(policyOf(c.Boots))
	s.setNames(c.API)
	s.setCertificate(c.API)
	// What takes a restart stays as it is running, and is named at each reload.
	old := s.conf.Settings
	c.SocketGroup = old.SocketGroup
	c.HTTP.Port, c.Socket, c.Store, c.API.Listen, c.API.Metrics = old.HTTP.Port, old.Socket, old.Store, old.API.Listen,
		old.API.Metrics
	s.setProvider(c.API)
	if err := s.state.Append(operator.Action(ctx, s.conf.Now(), fleet.ActionServerReload, old, c)); err != nil {
		return r, err
	}
	s.conf.Settings = c
	s.log.Info("the configuration was read again", "changed", r.Changed, "restart", r.Restart)
	return r, nil
}
