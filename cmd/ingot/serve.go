package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver"
	"ingot/builder"
	"ingot/image"
)

type serveFlags struct {
	iface, addresses, image, mirror string
	router                          string
	dns                             []string
	port                            uint16
	approveAll                      bool
	lease, ticket                   time.Duration
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use: "serve", Short: "boot the machines of one network",
		Long: `Serve one network: DHCP with addresses to lend, TFTP for the first stage, HTTP for
the rest, and the socket that the other commands talk to. It must be the only DHCP
server of that network. New machines wait until an operator approves them.

It needs root, or the capabilities CAP_NET_BIND_SERVICE, CAP_NET_RAW and
CAP_NET_ADMIN. The first start fetches the boot loaders (iPXE of Debian 13).`,
		Example: `  ingot serve --interface eth1
  ingot serve --interface eth1 --range 10.99.0.100-10.99.0.199 --router 10.99.0.1
  ingot serve --interface br0 --approve-all --image lab:v1    # a lab`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd, f) },
	}
	fl := c.Flags()
	fl.StringVar(&f.iface, "interface", "", "network interface to serve (required)")
	fl.StringVar(&f.addresses, "range", "", "addresses to lend, FIRST-LAST (default: the upper half of the interface's network)")
	fl.StringVar(&f.router, "router", "", "default gateway that machines are told (default: none)")
	fl.StringSliceVar(&f.dns, "dns", nil, "DNS servers that machines are told")
	fl.Uint16Var(&f.port, "http-port", 80, "TCP port for HTTP")
	fl.DurationVar(&f.lease, "lease", 12*time.Hour, "how long an address is lent")
	fl.DurationVar(&f.ticket, "ticket-ttl", 2*time.Minute, "how long a ticket is valid")
	fl.BoolVar(&f.approveAll, "approve-all", false, "approve every new machine: for labs, on networks that no stranger can reach")
	fl.StringVar(&f.image, "image", "", "with --approve-all: the image that new machines are assigned")
	fl.StringVar(&f.mirror, "mirror", "", "Debian mirror URL for the loaders (default: $INGOT_MIRROR, else this host's own apt sources)")
	return c
}

func (a *app) serve(cmd *cobra.Command, f serveFlags) error {
	if f.iface == "" {
		return usagef("--interface is needed: the network to serve")
	}
	if f.image != "" && !f.approveAll {
		return usagef("--image goes with --approve-all")
	}
	conf, err := f.config()
	if err != nil {
		return err
	}
	ctx, root := cmd.Context(), a.storeRoot()
	if conf.Store, err = image.Open(ctx, root); err != nil {
		return err
	}
	if conf.Keys, err = image.LoadOrCreateKeys(filepath.Join(root, "keys")); err != nil {
		return fmt.Errorf("preparing the signing keys: %w", err)
	}
	opt, err := a.loaderOptions(f.mirror)
	if err != nil {
		return err
	}
	if conf.Loaders, _, err = builder.Loaders(ctx, root, opt); err != nil {
		return explain(ctx, err)
	}
	conf.Version, conf.Log = version, a.logger()
	conf.Ready = func(r bootserver.Ready) {
		fmt.Fprintf(a.stderr, "serving %s on %s: DHCP %s, HTTP %s\n  → ingot machine ls\n", f.iface, r.Address, r.Range, r.URL)
	}
	return bootserver.Run(ctx, conf)
}

func (f serveFlags) config() (bootserver.Config, error) {
	c := bootserver.Config{Interface: f.iface, Range: f.addresses, HTTPPort: f.port, LeaseTime: f.lease,
		TicketTTL: f.ticket, ApproveAll: f.approveAll, Image: f.image}
	var err error
	if f.router != "" {
		if c.Router, err = netip.ParseAddr(f.router); err != nil {
			return c, usagef("--router: %q is not an address", f.router)
		}
	}
	for _, d := range f.dns {
		ip, err := netip.ParseAddr(d)
		if err != nil {
			return c, usagef("--dns: %q is not an address", d)
		}
		c.DNS = append(c.DNS, ip)
	}
	return c, nil
}

func (a *app) loadersCommand() *cobra.Command {
	var mirror string
	c := &cobra.Command{
		Use: "loaders", Short: "fetch the boot loaders, or show which ones there are",
		Long: `The boot loaders are iPXE as Debian 13 builds it, pinned by digest at the first use.
"ingot serve" fetches them by itself; a server without a way to a mirror needs them
beforehand.`,
		Example: "  ingot loaders\n  ingot loaders --store /srv/ingot -o json", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt, err := a.loaderOptions(mirror)
			if err != nil {
				return err
			}
			dir, from, err := builder.Loaders(cmd.Context(), a.storeRoot(), opt)
			if err != nil {
				return explain(cmd.Context(), err)
			}
			return a.show(map[string]any{"folder": dir, "package": from}, func(w io.Writer) {
				fmt.Fprintf(w, "%s %s in %s\n", from.Name, from.Version, dir)
			})
		},
	}
	c.Flags().StringVar(&mirror, "mirror", "", "Debian mirror URL (default: $INGOT_MIRROR, else this host's own apt sources)")
	return c
}

// fetchLoaders makes sure that the loaders are there.
func (a *app) fetchLoaders(ctx context.Context, opt builder.PlanOptions) error {
	_, _, err := builder.Loaders(ctx, a.storeRoot(), opt)
	return explain(ctx, err)
}

func (a *app) loaderOptions(mirror string) (builder.PlanOptions, error) {
	cache, err := cacheDir()
	if err != nil {
		return builder.PlanOptions{}, err
	}
	keyring, err := keyringOf("")
	if err != nil {
		return builder.PlanOptions{}, err
	}
	return builder.PlanOptions{CacheDir: cache, Mirror: mirrorOf(mirror), Keyring: keyring, Log: a.logger()}, nil
}
