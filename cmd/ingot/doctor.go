package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ingot/bootserver"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/builder"
	"ingot/internal/scratch"
	"ingot/testvm"
	"ingot/testvm/storm"
)

func (a *app) doctorCommand() *cobra.Command {
	var f serveFlags
	var noTrial bool
	c := &cobra.Command{
		Use: "doctor", Short: "find out why machines would not boot from this server",
		Long: `Look at what booting needs: the configuration, interfaces and their MTU, ports, other
DHCP servers, the firewall, the clock, the store, its keys and loaders; whether a server
runs and answers. Then a trial: in a network of its own, a server with this host's loaders
is asked for DHCP, TFTP and HTTP by a simulated machine. Nothing is changed, and nothing
but one DHCPDISCOVER on each interface leaves this host; over IPv6 a DHCPv6 SOLICIT, and
the question which routers there are. Run it as root, or some of it is skipped.

Each finding has its fix. Warnings do not make it fail. What lies between this host and
the machines it cannot see: for that, ingot capture MACHINE.`,
		Example: "  ingot doctor\n  ingot doctor --interface eth1\n  ingot doctor -o json | jq '.[] | select(.state == \"error\")'",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := a.settings(cmd.Flags(), f)
			list := a.examine(cmd.Context(), settings, err, !noTrial)
			if err := a.show(list, func(w io.Writer) { findingTable(w, list) }); err != nil {
				return err
			}
			n := 0
			for _, x := range list {
				if x.State == findError {
					n++
				}
			}
			if n > 0 {
				return withHint(fmt.Errorf("%d of %d checks failed", n, len(list)), "do what the findings say, the first one first, and run it again")
			}
			return nil
		},
	}
	a.configFlag(c.Flags(), &f.config)
	c.Flags().StringSliceVar(&f.ifaces, "interface", nil, "network interfaces to look at (default: those of the configuration)")
	c.Flags().StringSliceVar(&f.ifaces6, "interface6", nil, "network interfaces to look at that are served over IPv6 (likewise)")
	c.Flags().BoolVar(&noTrial, "no-trial", false, "leave out the trial")
	return c
}

func findingTable(w io.Writer, list []finding) {
	t := tabs(w)
	for _, f := range list {
		row(t, f.State, f.Check, f.Text)
		if f.Fix != "" {
			row(t, "", "", "→ "+f.Fix)
		}
	}
	t.Flush()
}

// examine looks at everything, in the order in which it is put right.
func (a *app) examine(ctx context.Context, c config.Config, broken error, trial bool) []finding {
	var list []finding
	add := func(f ...finding) { list = append(list, f...) }
	if broken != nil {
		add(found("configuration", findError, "ingot config check", "%v", broken))
	} else {
		add(found("configuration", findOK, "", "%d interfaces of IPv4, %d of IPv6", len(c.DHCP.Interfaces), len(c.DHCP6.Interfaces)))
	}
	if len(c.DHCP.Interfaces)+len(c.DHCP6.Interfaces) == 0 {
		add(found("interface", findError, "ingot doctor --interface IF, or --interface6, or dhcp.interfaces in "+config.Default, "none is named: there is nothing to serve"))
	}
	root := a.storeRoot()
	running, network := a.examineServer(ctx, root, add)
	for _, i := range c.DHCP.Interfaces {
		card, there := lookAt(i.Name)
		add(examineCard(card, there, i, c.DHCP.Networks)...)
	}
	pid := ""
	if running {
		pid, _ = bolt.Holder(filepath.Join(root, state.Folder))
	}
	for _, p := range portsOf(c) {
		add(examinePort(p, bootserver.Holder(p.table(), p.number), pid))
	}
	if running {
		add(examineForeign(c.DHCP.Interfaces, network.Servers)...)
	} else {
		add(listenForOthers(ctx, c.DHCP.Interfaces)...)
	}
	add(examine6(ctx, c, running, network)...)
	ruleset, err := exec.CommandContext(ctx, "nft", "list", "ruleset").Output()
	if err != nil {
		add(unseenFirewall(err, portsOf(c)))
	} else {
		add(examineFirewall(string(ruleset), portsOf(c), namesOf(c)))
	}
	add(examineHere(root, running)...)
	if trial {
		add(a.trial(ctx, root))
	}
	return list
}

// examineServer asks the running server, when there is one.
func (a *app) examineServer(ctx context.Context, root string, add func(...finding)) (running bool, n api.Network) {
	client := api.Dial(socketOf(root))
	v, err := client.Version(ctx)
	switch {
	case errors.Is(err, api.ErrNoServer):
		add(found("server", findWarning, "ingot serve, or: systemctl start ingot", "none is running with the store %s", root))
		return false, n
	case err != nil:
		add(found("server", findError, nextStep(err), "%v", err))
		return false, n
	case v != version:
		add(found("server", findWarning, "restart the server", "it is ingot %s, this is %s", v, version))
	default:
		add(found("server", findOK, "", "ingot %s answers", v))
	}
	if n, err = client.Network(ctx); err != nil {
		add(found("server", findError, nextStep(err), "%v", err))
	}
	for _, x := range n.Warnings {
		add(found("network "+x.Interface, findWarning, "ingot network", "%s (%d times)", x.Text, x.Times))
	}
	return true, n
}

func lookAt(name string) (c card, there bool) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return card{}, false
	}
	c = card{name: name, up: i.Flags&net.FlagUp != 0, carrier: i.Flags&net.FlagRunning != 0, mtu: i.MTU}
	addresses, err := i.Addrs()
	if err != nil {
		return c, true
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			c.addresses = append(c.addresses, p)
		}
	}
	return c, true
}

// listenForOthers asks each network who answers DHCP there, and takes nothing.
func listenForOthers(ctx context.Context, interfaces []dhcp4.Interface) (list []finding) {
	for _, i := range interfaces {
		c, err := nclient4.New(i.Name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
		if err != nil {
			list = append(list, found("DHCP servers "+i.Name, findSkipped, "run it as root", "asking who answers: %v", err))
			continue
		}
		offer, err := c.DiscoverOffer(ctx, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")))
		c.Close()
		var servers []dhcp4.Foreign
		if err == nil {
			at, _ := netip.AddrFromSlice(offer.ServerIdentifier().To4())
			servers = append(servers, dhcp4.Foreign{Interface: i.Name, Address: at, MAC: "not seen"})
		}
		list = append(list, examineForeign([]dhcp4.Interface{i}, servers)...)
	}
	return list
}

// examineHere looks at clock, store, keys and loaders.
func examineHere(root string, running bool) (list []finding) {
	keys := filepath.Join(root, "keys")
	var ca *x509.Certificate
	if text, err := os.ReadFile(filepath.Join(keys, "ca.crt")); err == nil {
		if ca, err = access.ParseCertificate(text); err != nil {
			list = append(list, found("keys", findError, "restore keys/ca.crt from a backup", "reading the CA: %v", err))
		}
	}
	var t unix.Timex
	clock, err := unix.Adjtimex(&t)
	list = append(list, examineClock(time.Now(), err == nil && clock != unix.TIME_ERROR, ca))
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err != nil {
		list = append(list, found("store", findWarning, "it is made by: ingot build, or ingot serve", "%s: %v", root, err))
	} else {
		list = append(list, examineSpace(root, int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize))
	}
	file := filepath.Join(root, state.Folder, "ingot.db")
	if _, err := os.Stat(file); err == nil && !running {
		if err := bolt.CheckFile(file); err != nil {
			list = append(list, found("state", findError, "ingot restore, from the latest backup", "%v", err))
		} else {
			list = append(list, found("state", findOK, "", "%s is whole", file))
		}
	}
	names, _ := filepath.Glob(filepath.Join(keys, "*.key")) // the pattern is good
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			list = append(list, examineKey(name, info.Mode()))
		}
	}
	if len(names) == 0 {
		list = append(list, found("keys", findWarning, "restore them from a backup if there were some", "there are none in %s; the first start makes them", keys))
	}
	have := map[string]int64{}
	for name := range builder.LoaderFiles {
		if info, err := os.Stat(filepath.Join(root, "loaders", name)); err == nil {
			have[name] = info.Size()
		}
	}
	return append(list, examineLoaders(have, slices.Collect(maps.Keys(builder.LoaderFiles))))
}

// trial boots a simulated machine as far as its script, from a server of its
// own with the store's loaders, on a network of its own.
func (a *app) trial(ctx context.Context, root string) finding {
	const check = "trial"
	loaders := filepath.Join(root, "loaders")
	if _, err := os.Stat(filepath.Join(loaders, "lock.json")); err != nil {
		return found(check, findSkipped, "ingot loaders", "there are no loaders to try")
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	dir, err := scratch.New("ingot-doctor-")
	if err != nil {
		return found(check, findSkipped, "make room in the folder for temporary files, or name another one: TMPDIR", "%v", err)
	}
	defer dir.Remove()
	lan, err := testvm.NewLAN(ctx, testvm.Options{Dir: dir.Path})
	if err != nil {
		return found(check, findSkipped, "run it as root", "%v", err)
	}
	defer lan.Close()
	took, log, err := a.tryOn(ctx, lan, dir.Path, loaders)
	if err != nil {
		return found(check, findError, "the trial's server said: "+lastLine(log), "%v", err)
	}
	return found(check, findOK, "", "DHCP, a loader by TFTP, and its script by HTTP, in %s", took.Round(time.Millisecond))
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1]
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tryOn runs server and machine on a LAN.
func (a *app) tryOn(ctx context.Context, lan *testvm.LAN, dir, loaders string) (took time.Duration, log string, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	store := filepath.Join(dir, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return 0, "", err
	}
	if err := os.Symlink(loaders, filepath.Join(store, "loaders")); err != nil {
		return 0, "", err
	}
	host, err := lan.NewHost(ctx, "patient0", netip.PrefixFrom(lan.Prefix.Addr().Next(), lan.Prefix.Bits()))
	if err != nil {
		return 0, "", err
	}
	said := &lines{}
	server := lan.Command(ctx, self, "--store", store, "serve", "--config=", "--interface", testvm.Bridge)
	server.Stderr = said
	if err := lan.Start(server); err != nil {
		return 0, "", err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Wait() // lan.Close ends it
	}()
	client := api.Dial(filepath.Join(store, "ingot.sock"))
	for {
		if _, err := client.Version(ctx); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return 0, said.String(), errors.New("the trial's server does not get ready")
		case <-ended:
			return 0, said.String(), errors.New("the trial's server ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
	conf, err := json.Marshal(storm.Config{Machines: 1, First: 1, Card: host.Card, Script: true, Timeout: 45 * time.Second})
	if err != nil {
		return 0, "", err
	}
	machine := host.Command(ctx, self, "lab", "storm-machines", string(conf))
	var out bytes.Buffer
	machine.Stdout = &out
	if err := machine.Run(); err != nil {
		return 0, said.String(), fmt.Errorf("running the simulated machine: %w", err)
	}
	var r storm.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return 0, said.String(), err
	}
	for why := range r.Failed {
		return 0, said.String(), errors.New(why)
	}
	if r.Healthy != 1 {
		return 0, said.String(), errors.New("the simulated machine did not come as far as its script")
	}
	return r.Last, said.String(), nil
}
