// Package doctor examines this host for what would keep machines from booting:
// configuration, interfaces, ports, other DHCP servers, firewall, clock, store.
// It changes nothing.
package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"ingot/bootserver"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// Options are the parts of ingot that doctor examines or uses.
type Options struct {
	// Flags adds the flags that choose a configuration and interfaces.
	Flags func(*pflag.FlagSet)
	// Settings returns the configuration that the flags chose.
	Settings func(*pflag.FlagSet) (config.Config, error)
	// Holder names the process that has a port open; table is a file of /proc/net.
	Holder func(table string, port int) string
	// Trial boots a simulated machine from the loaders of the store at root. skipped
	// says why it could not be tried, failed why the machine would not have booted.
	Trial func(ctx context.Context, root string) (took time.Duration, skipped, failed error)
}

// examination is one run of doctor.
type examination struct {
	*command.App
	Options
}

// Command returns ingot doctor.
func Command(a *command.App, o Options) *cobra.Command {
	var noTrial bool
	d := examination{a, o}
	c := &cobra.Command{
		Use: "doctor", Short: "check this host for problems that keep machines from booting",
		Long: `Check what booting needs: the configuration, interfaces and their MTU, ports, other DHCP
servers, the firewall, the clock, the store, its images, keys and loaders, and the running server.
Then try both: a DHCP packet arrives at each interface of the running server as from a new machine,
and must be answered; and on an isolated network, a simulated machine boots from another server
with this host's loaders, by DHCP, TFTP and HTTP.

Nothing is changed and no machine is recorded; for the packet, a pair of virtual interfaces is
made and removed. The server's answer is sent to the network. Without a running server, a
DHCPDISCOVER is sent on each interface, and over IPv6 a DHCPv6 Solicit; a router solicitation in
any case. Run it as root, or some checks are skipped.

Each problem comes with a fix. Warnings do not make it fail. The network between this host and
the machines is not checked; to record its traffic: ingot capture MACHINE`,
		Example: `  ingot doctor
  ingot doctor --interface eth1
  ingot doctor -o json | jq '.[] | select(.state == "error")'`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := o.Settings(cmd.Flags())
			list := d.examine(cmd.Context(), settings, err, !noTrial)
			if err := d.Show(list, func(w io.Writer) { findingTable(w, list) }); err != nil {
				return err
			}
			n := 0
			for _, x := range list {
				if x.State == Error {
					n++
				}
			}
			if n > 0 {
				return show.WithHint(fmt.Errorf("%d of %d checks failed", n, len(list)),
					"apply the fixes in their order, and run it again")
			}
			return nil
		},
	}
	o.Flags(c.Flags())
	c.Flags().BoolVar(&noTrial, "no-trial", false, "skip what acts as a machine")
	return c
}

func findingTable(w io.Writer, list []Finding) {
	t := show.Table(w)
	for _, f := range list {
		show.Row(t, f.State, f.Check, f.Text)
		if f.Fix != "" {
			show.Row(t, "", "", "→ "+f.Fix)
		}
	}
	t.Flush()
}

// examine checks everything, in the order in which problems should be fixed.
func (d examination) examine(ctx context.Context, c config.Config, broken error, trial bool) []Finding {
	var list []Finding
	add := func(f ...Finding) { list = append(list, f...) }
	if broken != nil {
		add(found("configuration", Error, "ingot config check", "%v", broken))
	} else {
		add(found("configuration", OK, "", "%d interfaces of IPv4, %d of IPv6", len(c.DHCP.Interfaces),
			len(c.DHCP6.Interfaces)))
	}
	root := d.StoreRoot()
	pid, _ := d.Locate(root)
	apart := otherNetwork(pid)
	if len(c.DHCP.Interfaces)+len(c.DHCP6.Interfaces) == 0 && !apart {
		add(found("interface", Error, "ingot doctor --interface IF, or --interface6, or dhcp.interfaces in "+config.Default,
			"none is configured"))
	}
	running, network := d.examineServer(ctx, root, add)
	if !running {
		pid = ""
	}
	if apart {
		add(examineApart(pid, root, network))
	} else {
		add(d.examineNetwork(ctx, c, pid, running, network)...)
	}
	add(examineHere(root, running)...)
	add(examineCertificate(ctx, c.API, running && !apart, time.Now())...)
	add(examineProvider(ctx, c.API)...)
	add(d.examineImages(ctx, root, running)...)
	add(examineFirst(ctx, c.Boots, root)...)
	add(examineKeys(root, pid)...)
	if trial && running && !apart {
		add(asClient(ctx, network.Interfaces, httpPort(c))...)
	}
	if trial {
		add(d.try(ctx, root))
	}
	return list
}

// examineNetwork checks what is in this process' network namespace: interfaces, ports, other DHCP servers
// and the firewall.
func (d examination) examineNetwork(ctx context.Context, c config.Config, pid string, running bool,
	network api.Network) (list []Finding) {
	add := func(f ...Finding) { list = append(list, f...) }
	for _, i := range c.DHCP.Interfaces {
		card, there := lookAt(i.Name)
		add(examineCard(card, there, i, c.DHCP.Networks)...)
	}
	add(examineTranslated(c)...)
	for _, p := range portsOf(c) {
		add(examinePort(p, d.Holder(p.table(), p.number), pid))
	}
	if running {
		add(examineForeign(c.DHCP.Interfaces, network.Servers)...)
	} else {
		add(listenForOthers(ctx, c.DHCP.Interfaces)...)
	}
	add(examine6(ctx, c, running, network)...)
	ruleset, err := exec.CommandContext(ctx, "nft", "list", "ruleset").Output()
	if err != nil {
		return append(list, unseenFirewall(err, portsOf(c)))
	}
	return append(list, examineFirewall(string(ruleset), portsOf(c), namesOf(c)))
}

// otherNetwork reports whether a process is in another network namespace than this one: the server of a
// lab is.
func otherNetwork(pid string) bool { return otherNamespace(pid, "net") }

func otherNamespace(pid, kind string) bool {
	if pid == "" {
		return false
	}
	own, err := os.Readlink("/proc/self/ns/" + kind)
	its, failed := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
	return err == nil && failed == nil && own != its
}

// examineApart says where the network of a server can be checked that is in another network namespace.
func examineApart(pid, root string, network api.Network) Finding {
	enter := "nsenter --target " + pid + " --net"
	if otherNamespace(pid, "user") {
		enter += " --user --preserve-credentials"
	}
	enter += " ingot --store " + root + " doctor --config="
	for _, i := range network.Interfaces {
		switch {
		case i.Served && i.IPv6:
			enter += " --interface6 " + i.Name
		case i.Served:
			enter += " --interface " + i.Name
		}
	}
	return found("network", Skipped, enter, "the server (process %s) is in another network namespace, as that of a lab "+
		"is: its interfaces, ports and firewall cannot be checked from here", pid)
}

// examineServer checks the running server, if there is one.
func (d examination) examineServer(ctx context.Context, root string, add func(...Finding)) (running bool,
	n api.Network) {
	server := api.Dial(d.Socket(root))
	v, err := server.Version(ctx)
	switch {
	case errors.Is(err, api.ErrNoServer):
		add(found("server", Warning, "ingot serve, or: systemctl start ingot", "no server is running for the store %s", root))
		return false, n
	case err != nil:
		add(found("server", Error, client.NextStep(err), "%v", err))
		return false, n
	case v != d.App.Version:
		add(found("server", Warning, "restart the server", "it runs ingot %s, this program is %s", v, d.App.Version))
	default:
		add(found("server", OK, "", "ingot %s answers", v))
	}
	if n, err = server.Network(ctx); err != nil {
		add(found("server", Error, client.NextStep(err), "%v", err))
	}
	for _, x := range n.Interfaces {
		add(examineServed(x))
	}
	for _, x := range n.Refused {
		add(examineRefused(x))
	}
	if list, err := server.MachinesBrief(ctx); err != nil {
		add(found("machines", Error, client.NextStep(err), "%v", err))
	} else {
		add(examinePending(list, time.Now())...)
	}
	if list, err := server.Webhooks(ctx); err != nil {
		add(found("webhooks", Error, client.NextStep(err), "%v", err))
	} else {
		add(examineWebhooks(list)...)
	}
	for _, x := range n.Warnings {
		add(found("network "+x.Interface, Warning, "ingot network", "%s (%d times)", x.Text, x.Times))
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

// listenForOthers looks for DHCP servers on each network, and takes no lease.
func listenForOthers(ctx context.Context, interfaces []dhcp4.Interface) (list []Finding) {
	for _, i := range interfaces {
		c, err := nclient4.New(i.Name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(2))
		if err != nil {
			list = append(list, found("DHCP servers "+i.Name, Skipped, "run it as root", "looking for DHCP servers: %v", err))
			continue
		}
		offer, err := c.DiscoverOffer(ctx, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")))
		c.Close()
		var servers []api.NetworkServer
		if err == nil {
			at, _ := netip.AddrFromSlice(offer.ServerIdentifier().To4())
			servers = append(servers, api.NetworkServer{Interface: i.Name, Address: at, MAC: "unknown"})
		}
		list = append(list, examineForeign([]dhcp4.Interface{i}, servers)...)
	}
	return list
}

// examineHere checks clock, store and loaders.
func examineHere(root string, running bool) (list []Finding) {
	keys := filepath.Join(root, "keys")
	var ca *x509.Certificate
	if text, err := os.ReadFile(filepath.Join(keys, "ca.crt")); err == nil {
		if ca, err = access.ParseCertificate(text); err != nil {
			list = append(list, found("keys", Error, "restore keys/ca.crt from a backup", "reading the CA: %v", err))
		}
	}
	var t unix.Timex
	clock, err := unix.Adjtimex(&t)
	list = append(list, examineClock(time.Now(), err == nil && clock != unix.TIME_ERROR, ca))
	var fs syscall.Statfs_t
	if err := syscall.Statfs(root, &fs); err != nil {
		list = append(list, found("store", Warning, "ingot build and ingot serve create it", "%s: %v", root, err))
	} else {
		list = append(list, examineSpace(root, int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize))
	}
	if !running {
		list = append(list, examineState(root)...)
	}
	return append(list, examineLoaders(root)...)
}

// examineFirst checks the images that the configuration gives to new machines.
func examineFirst(ctx context.Context, c config.Boots, root string) (list []Finding) {
	const check = "images of rules"
	names := bootserver.FirstImages(c)
	if _, err := os.Stat(filepath.Join(root, "images")); err != nil || len(names) == 0 {
		return nil // opening a store makes it
	}
	s, err := image.Open(ctx, root)
	if err != nil {
		return []Finding{found(check, Error, client.NextStep(err), "%v", err)}
	}
	have, err := s.List(ctx)
	if err != nil {
		return []Finding{found(check, Error, client.NextStep(err), "%v", err)}
	}
	for _, f := range bootserver.Missing(c, have) {
		list = append(list, found(check, Error, "build or pull it, or change the configuration: ingot image ls",
			"%s gives %s to new machines, and the store has "+
				"no such image", f.By, f.Image))
	}
	if len(list) == 0 {
		list = append(list, found(check, OK, "", "the store has those of new machines (%d)", len(names)))
	}
	return list
}

// examineKeys checks the secret keys. pid is the server's; empty when none runs.
func examineKeys(root, pid string) (list []Finding) {
	keys := filepath.Join(root, "keys")
	names, _ := filepath.Glob(filepath.Join(keys, "*.key")) // the pattern is good
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			list = append(list, examineKey(name, info.Mode()))
			if server, is := serverUser(root, pid); is && filepath.Base(name) == "release.key" {
				list = append(list, examineRelease(name, info.Sys().(*syscall.Stat_t).Uid, server))
			}
		}
	}
	if len(names) == 0 {
		list = append(list, found("keys", Warning, "restore them from a backup, if there was a server",
			"there are none in %s; the first start creates them", keys))
	}
	return list
}

// serverUser is the user of the running server, else the one that owns the state. is reports whether a
// server uses the store, or has.
func serverUser(root, pid string) (uid uint32, is bool) {
	of := filepath.Join("/proc", pid)
	if pid == "" {
		of = filepath.Join(root, state.Folder)
	}
	info, err := os.Stat(of)
	if err != nil {
		return 0, false
	}
	return info.Sys().(*syscall.Stat_t).Uid, true
}

// examineState checks the state of a store that no server uses.
func examineState(root string) []Finding {
	dir := filepath.Join(root, state.Folder)
	if how := bolt.Absent(dir); how != "" {
		if !access.HasCA(filepath.Join(root, "keys")) && !bolt.HasJournal(dir) {
			return nil // the first start makes it
		}
		return []Finding{found("state", Error, client.NextStep(state.ErrLost),
			"the state file in %s is %s, but a server has used this store", dir, how)}
	}
	file := filepath.Join(dir, "ingot.db")
	err := bolt.CheckFile(file)
	if err == nil {
		err = bolt.CheckJournal(dir)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return []Finding{found("state", Skipped, "run it as root", "%v", err)}
	case err != nil:
		return []Finding{found("state", Error, client.NextStep(err), "%s: %v", file, err)}
	}
	return []Finding{found("state", OK, "", "%s was checked", file)}
}

// try is the finding of a trial.
func (d examination) try(ctx context.Context, root string) Finding {
	const check = "trial"
	took, skipped, failed := d.Trial(ctx, root)
	switch {
	case skipped != nil:
		return found(check, Skipped, client.NextStep(skipped), "%v", skipped)
	case failed != nil:
		return found(check, Error, client.NextStep(failed), "%v", failed)
	}
	return found(check, OK, "", "DHCP, a loader by TFTP, and its script by HTTP, in %s", took.Round(time.Millisecond))
}
