package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"ingot/bootserver"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/builder"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/internal/yamlfile"
)

type serveFlags struct {
	config, mode          string
	ifaces, ifaces6       []string
	addresses, addresses6 string
	image, mirror         string
	router                string
	dns                   []string
	port                  uint16
	approveAll            bool
	lease, ticket         time.Duration
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve", Short: "boot the machines of one or more networks",
		Long: `Serve networks: DHCP with address pools, TFTP for boot loaders, HTTP for everything else, and
the socket of the other commands. New machines wait until an operator approves them.

In full mode it should be the only DHCP server of a network. If another one answers on an
interface whose mode neither the configuration nor --mode names, and no machine got an address
there before, the interface is not served, and the configuration to copy is printed.

DHCPv6 is served on the interfaces of --interface6. Router advertisements must come from
another program (a router, radvd, dnsmasq --enable-ra): see docs/NETWORKS.md.

Settings are read from ` + config.Default + ` and its drop-ins, if they exist; flags override
them. "ingot config reload", or SIGHUP without a terminal, reads them again; open sockets and
transfers continue. Interfaces and addresses that come, go or are made again are noticed without
that.

It needs root, or the capabilities CAP_NET_BIND_SERVICE, CAP_NET_RAW and CAP_NET_ADMIN. It
uses sockets that systemd passes (sd_listen_fds). The first start downloads the boot loaders
(iPXE of Debian 13).`,
		Example: `  ingot serve --interface eth1
  ingot serve --interface eth1 --mode proxy                   # beside another DHCP server
  ingot serve --interface eth1 --range 10.99.0.100-10.99.0.199 --router 10.99.0.1
  ingot serve --interface6 eth1 --range6 fd00:99::1000-fd00:99::1fff
  ingot serve --interface br0 --approve-all --image lab:v1    # a lab
  ingot serve --config ./ingot.yaml`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd, f) },
	}
	fl := c.Flags()
	a.configFlag(fl, &f.config)
	fl.StringSliceVar(&f.ifaces, "interface", nil, "network interfaces to serve")
	fl.StringVar(&f.mode, "mode", "", "mode of all interfaces: full, proxy (beside another DHCP server) or observe "+
		"(default: as configured, else full)")
	fl.StringVar(&f.addresses, "range", "",
		"address pool, FIRST-LAST (default: the upper half of the interface's network)")
	fl.StringSliceVar(&f.ifaces6, "interface6", nil, "network interfaces to serve over IPv6, with or without --interface")
	fl.StringVar(&f.addresses6, "range6", "",
		"IPv6 address pool, FIRST-LAST (default: 65536 addresses of the interface's network)")
	fl.StringVar(&f.router, "router", "", "default gateway of machines (default: none)")
	fl.StringSliceVar(&f.dns, "dns", nil, "DNS servers of machines, IPv4 and IPv6")
	fl.Uint16Var(&f.port, "http-port", 0, "TCP port for HTTP (default 80)")
	fl.DurationVar(&f.lease, "lease", 0, "lifetime of leases (default 12h)")
	fl.DurationVar(&f.ticket, "ticket-ttl", 0, "lifetime of tickets (default 2m)")
	fl.BoolVar(&f.approveAll, "approve-all", false, "approve every new machine: only for labs, on isolated networks")
	fl.StringVar(&f.image, "image", "", "with --approve-all: the image to assign to new machines")
	fl.StringVar(&f.mirror, "mirror", "",
		"Debian mirror URL for the loaders (default: $INGOT_MIRROR, else this host's apt sources)")
	return c
}

func (a *app) serve(cmd *cobra.Command, f serveFlags) error {
	settings, err := a.settings(cmd.Flags(), f)
	if err != nil {
		return err
	}
	four, six := len(settings.DHCP.Interfaces), len(settings.DHCP6.Interfaces)
	switch {
	case four+six == 0:
		return show.Usagef("--interface is needed, or --interface6, or dhcp.interfaces in %s", config.Default)
	case f.addresses != "" && four != 1:
		return show.Usagef("--range needs exactly one --interface; for several, configure networks in %s", config.Default)
	case f.addresses6 != "" && six != 1:
		return show.Usagef("--range6 needs exactly one --interface6; for several, configure networks in %s", config.Default)
	}
	if a.Store == "" && os.Getenv("INGOT_STORE") == "" {
		a.Store = settings.Store // as if it had been given
	}
	conf := bootserver.Config{Settings: settings, Range: f.addresses, Range6: f.addresses6, Version: version,
		Log: a.Logger(), Now: a.Now, Required: slices.Concat(f.ifaces, f.ifaces6)}
	ctx, root := cmd.Context(), a.StoreRoot()
	if conf.Store, err = image.Open(ctx, root); err != nil {
		return err
	}
	conf.Measure = func(ctx context.Context, im image.Image) (image.Contents, error) {
		return builder.Measure(ctx, conf.Store, im)
	}
	if err := a.chooseLoaders(ctx, &conf, settings.Mirror); err != nil {
		return err
	}
	if conf.Sockets, err = passedSockets(); err != nil {
		return err
	}
	if f.config != "" {
		conf.Reread = func() (config.Config, error) { return a.settings(cmd.Flags(), f) }
	}
	s := newManager(conf.Log)
	conf.Alive, conf.Reloads = s.alive, s.reloading
	conf.Ready = func(r bootserver.Ready) {
		for _, l := range r.Links {
			fmt.Fprintf(a.Stderr, "serving %s\n", linkLine(l))
		}
		for _, at := range r.Remote {
			fmt.Fprintf(a.Stderr, "API and dashboard for remote clients: https://%s\n", at)
		}
		fmt.Fprintf(a.Stderr, "  → ingot machine ls\n")
		s.ready()
	}
	defer context.AfterFunc(ctx, s.stopping)()
	server := bootserver.New(conf)
	if in, ok := a.Stdin.(*os.File); !ok || !term.IsTerminal(
		int(in.Fd())) { // there, SIGHUP means that the terminal is gone
		defer onHangup(ctx, func() { _, _ = server.Reload(ctx) })() // it logs the result
	}
	floor := make([]byte, heapFloor)
	err = server.Run(ctx)
	runtime.KeepAlive(floor)
	if other, is := errors.AsType[*bootserver.OtherServerError](err); is {
		return show.WithHint(err,
			"add --mode proxy (or full, or observe), or write into %s in place of its interfaces:\n\n%s",
			cmp.Or(f.config, config.Default), other.Config)
	}
	if errors.Is(err, image.ErrNoSecretKey) {
		return show.WithHint(err, "restore keys/server.key of the store from a backup; without one, remove "+
			"keys/server.pub too: then images must be built again")
	}
	return err
}

// chooseLoaders names the boot loaders of the store. Those that are damaged and cannot be fetched again
// are not served: other machines must boot all the same.
func (a *app) chooseLoaders(ctx context.Context, conf *bootserver.Config, mirror string) error {
	set, err := a.build.Loaders(ctx, mirror)
	if err != nil && !errors.Is(err, builder.ErrLoaders) {
		return err
	}
	if err != nil {
		conf.Log.Error("damaged boot loaders are not served; run: ingot loaders", "err", err)
	}
	conf.Loaders, conf.LoaderDigests = set.Folder, set.Files
	return nil
}

// heapFloor is added to what counts as live in the heap, in bytes. By default Go collects garbage when
// the heap has doubled: a server that knows few machines would do so several times a second in a
// storm, a tenth of its processor time. These bytes are never touched, so they take no memory
// themselves; up to as many of garbage do. GOGC works as ever.
const heapFloor = 32 << 20

// linkLine describes in one line what is served on an interface.
func linkLine(l bootserver.Link) string {
	protocol := "DHCP"
	if l.IPv6 {
		protocol = "DHCPv6"
	}
	if l.Absent != "" {
		return fmt.Sprintf("%s: not yet: %s; %s is served as soon as it can be", l.Name, l.Absent, protocol)
	}
	switch l.Mode {
	case string(dhcp4.Observe):
		return fmt.Sprintf("%s: observing %s, not answering", l.Name, protocol)
	case string(dhcp4.Proxy), string(dhcp6.Boot):
		return fmt.Sprintf("%s on %s: proxy %s beside another server, HTTP %s", l.Name, l.Address, protocol, l.URL)
	}
	var pools []string
	for _, p := range l.Pools {
		pools = append(pools, p.String())
	}
	if pools == nil {
		pools = []string{"without a pool"}
	}
	return fmt.Sprintf("%s on %s: %s %s, HTTP %s", l.Name, l.Address, protocol, strings.Join(pools, ", "), l.URL)
}

// onHangup calls f at each SIGHUP until stopped.
func onHangup(ctx context.Context, f func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	hangups := make(chan os.Signal, 1)
	signal.Reset(syscall.SIGHUP) // it ends other commands; see main
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				f()
			}
		}
	}()
	return func() { signal.Stop(hangups); cancel() }
}

// settings reads the configuration, when there is one, and lets flags override it.
func (a *app) settings(flags *pflag.FlagSet, f serveFlags) (config.Config, error) {
	var c config.Config
	if f.config != "" {
		read, err := config.Load(f.config)
		switch {
		case err == nil:
			c = *read
		case !errors.Is(err, config.ErrAbsent) || flags.Changed("config"):
			return c, err
		}
	}
	if err := f.override(flags, &c); err != nil {
		return c, err
	}
	if c.Boots.Image != "" && !c.Boots.ApproveAll {
		return c, show.Usagef("--image needs --approve-all")
	}
	return c, c.Check()
}

// override puts the flags that were given into a configuration.
func (f serveFlags) override(flags *pflag.FlagSet, c *config.Config) error {
	if len(f.ifaces) > 0 {
		said := c.DHCP.Interfaces
		c.DHCP.Interfaces = nil
		for _, name := range f.ifaces {
			i := slices.IndexFunc(said, func(i dhcp4.Interface) bool { return i.Name == name })
			if i >= 0 {
				c.DHCP.Interfaces = append(c.DHCP.Interfaces, said[i])
			} else {
				c.DHCP.Interfaces = append(c.DHCP.Interfaces, dhcp4.Interface{Name: name})
			}
		}
	}
	if len(f.ifaces6) > 0 {
		said := c.DHCP6.Interfaces
		c.DHCP6.Interfaces = nil
		for _, name := range f.ifaces6 {
			i := slices.IndexFunc(said, func(i dhcp6.Interface) bool { return i.Name == name })
			if i >= 0 {
				c.DHCP6.Interfaces = append(c.DHCP6.Interfaces, said[i])
			} else {
				c.DHCP6.Interfaces = append(c.DHCP6.Interfaces, dhcp6.Interface{Name: name})
			}
		}
	}
	if err := f.overrideMode(flags, c); err != nil {
		return err
	}
	return f.overrideOptions(flags, c)
}

// overrideMode puts the mode that was given into a configuration.
func (f serveFlags) overrideMode(flags *pflag.FlagSet, c *config.Config) error {
	if !flags.Changed("mode") {
		return nil
	}
	six := map[dhcp4.Mode]dhcp6.Mode{dhcp4.Full: dhcp6.Full, dhcp4.Proxy: dhcp6.Boot, dhcp4.Observe: dhcp6.Observe}
	mode := dhcp4.Mode(f.mode)
	if six[mode] == "" {
		return show.Usagef("--mode: %q is none of full, proxy and observe", f.mode)
	}
	c.DHCP.Interfaces, c.DHCP6.Interfaces = slices.Clone(c.DHCP.Interfaces), slices.Clone(c.DHCP6.Interfaces)
	for i := range c.DHCP.Interfaces {
		c.DHCP.Interfaces[i].Mode = mode
	}
	for i := range c.DHCP6.Interfaces {
		c.DHCP6.Interfaces[i].Mode = six[mode]
	}
	return nil
}

func (f serveFlags) overrideOptions(flags *pflag.FlagSet, c *config.Config) error {
	addresses := func(flag string, given []string, into *[]netip.Addr) error {
		if !flags.Changed(flag) {
			return nil
		}
		*into = nil
		for _, s := range given {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return show.Usagef("--%s: %q is not an address", flag, s)
			}
			*into = append(*into, ip)
		}
		return nil
	}
	if err := errors.Join(addresses("router", []string{f.router}, &c.DHCP.Options.Routers), addresses("dns", f.dns,
		&c.DHCP.Options.DNS)); err != nil {
		return err
	}
	if flags.Changed("dns") {
		all := c.DHCP.Options.DNS
		c.DHCP.Options.DNS, c.DHCP6.Options.DNS = nil, nil
		for _, ip := range all {
			if ip.Is4() {
				c.DHCP.Options.DNS = append(c.DHCP.Options.DNS, ip)
			} else {
				c.DHCP6.Options.DNS = append(c.DHCP6.Options.DNS, ip)
			}
		}
	}
	set(flags, "lease", &c.DHCP.Options.Lease, f.lease)
	set(flags, "lease", &c.DHCP6.Options.Lease, f.lease)
	set(flags, "http-port", &c.HTTP.Port, f.port)
	set(flags, "ticket-ttl", &c.Boots.Ticket, yamlfile.Duration(f.ticket))
	set(flags, "approve-all", &c.Boots.ApproveAll, f.approveAll)
	set(flags, "image", &c.Boots.Image, f.image)
	set(flags, "mirror", &c.Mirror, f.mirror)
	return nil
}

func set[T any](flags *pflag.FlagSet, name string, into *T, v T) {
	if flags.Changed(name) {
		*into = v
	}
}
