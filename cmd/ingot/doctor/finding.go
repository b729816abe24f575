package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/client"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/state"
	"ingot/cmd/ingot/show"
	"ingot/internal/count"
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	State string `json:"state"` // one of the constants
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"`
}

// Results of a check.
const (
	OK      = "ok"
	Warning = "warning" // possibly intended
	Error   = "error"   // machines will not boot, or secrets are exposed
	Skipped = "skipped" // could not be checked; the text says why
)

func found(check, state, fix, text string, args ...any) Finding {
	return Finding{check, state, fmt.Sprintf(text, args...), fix}
}

// card is an interface of this host.
type card struct {
	name      string
	up        bool
	carrier   bool
	mtu       int
	addresses []netip.Prefix // IPv4
}

// examineCard checks whether an interface can be served.
func examineCard(c card, there bool, i dhcp4.Interface, networks []dhcp4.Network) []Finding {
	check := "interface " + i.Name
	switch {
	case !there:
		return []Finding{found(check, Error, "ip link; correct dhcp.interfaces or --interface", "there is no such interface")}
	case !c.up:
		return []Finding{found(check, Error, "ip link set "+i.Name+" up", "it is down")}
	case len(c.addresses) == 0 && i.Mode != dhcp4.Observe:
		return []Finding{found(check, Error, "ip address add 10.99.0.1/24 dev "+i.Name,
			"it has no IPv4 address to serve from")}
	}
	list := []Finding{found(check, OK, "", "up, %v", c.addresses)}
	if !c.carrier {
		list[0] = found(check, Warning, "check the cable and the switch port: ethtool "+i.Name, "it is up but has no carrier")
	}
	mtu := found("MTU "+i.Name, OK, "", "%d bytes", c.mtu)
	if c.mtu < 1500 {
		mtu = found("MTU "+i.Name, Warning, "ip link set "+i.Name+" mtu 1500",
			"%d bytes; firmware sends frames of up to 1500 bytes, which are lost", c.mtu)
	}
	for _, n := range networks {
		if n.Interface == i.Name && n.Options.MTU > c.mtu {
			mtu = found("MTU "+i.Name, Error, fmt.Sprintf("ip link set %s mtu %d, or lower mtu of network %s", i.Name,
				n.Options.MTU,
				n.Name),
				"network %s announces an MTU of %d, the interface has %d", n.Name, n.Options.MTU, c.mtu)
		}
	}
	return append(list, mtu)
}

// examineWebhooks reports webhooks whose receivers do not get their events.
func examineWebhooks(webhooks []api.Webhook) (list []Finding) {
	for _, w := range webhooks {
		check, fix := "webhook "+w.Name, "ingot webhook show "+w.Name
		switch {
		case w.Unusable != "":
			list = append(list, found(check, Warning, "restore keys/webhook.key of the store, or make the webhook again: "+
				"ingot webhook rm "+w.Name, "nothing is sent: %s", w.Unusable))
		case w.Paused != nil && w.Paused.By == "":
			list = append(list, found(check, Warning, "remove it: ingot webhook rm "+w.Name+"; or: ingot webhook resume "+w.Name,
				"paused by the server: %s", w.Paused.Why))
		case w.Paused != nil:
			list = append(list, found(check, OK, "", "paused by %s", w.Paused.By))
		case w.Failures > 1:
			list = append(list, found(check, Warning, fix, "it does not get its events, %d attempts failed: %s", w.Failures,
				w.Last.Why))
		case w.Dead > 0:
			list = append(list, found(check, Warning, "ingot webhook redeliver "+w.Name, "%s %s given up",
				count.Of(w.Dead, "event"), count.Verb(w.Dead, "was", "were")))
		default:
			list = append(list, found(check, OK, "", "%d events were sent", w.Sent))
		}
	}
	return list
}

// port is one that the server needs.
type port struct {
	proto  string
	number int
	what   string
	six    bool // over IPv6
}

// table is the file of /proc/net that lists its sockets.
func (p port) table() string {
	if p.six {
		return p.proto + "6"
	}
	return p.proto
}

func httpPort(c config.Config) int {
	if c.HTTP.Port == 0 {
		return 80
	}
	return int(c.HTTP.Port)
}

// portsOf are the ports of a configuration.
func portsOf(c config.Config) (list []port) {
	if len(c.DHCP.Interfaces) > 0 {
		list = append(list, port{"udp", dhcp4.PortDHCP, "DHCP", false}, port{"udp", 69, "TFTP", false},
			port{"tcp", httpPort(c), "HTTP", false})
	}
	if len(c.DHCP6.Interfaces) > 0 {
		list = append(list, port{"udp", dhcp6.PortServer, "DHCPv6", true}, port{"udp", 69, "TFTP", true},
			port{"tcp", httpPort(c), "HTTP", true})
	}
	if slices.ContainsFunc(c.DHCP6.Interfaces, func(i dhcp6.Interface) bool { return i.Mode == dhcp6.Boot }) {
		list = append(list, port{"udp", client.PortPXE, "boot beside DHCPv6", true})
	}
	if slices.ContainsFunc(c.DHCP.Interfaces, func(i dhcp4.Interface) bool { return i.Mode == dhcp4.Proxy }) {
		list = append(list, port{"udp", client.PortPXE, "proxy DHCP", false})
	}
	for _, at := range append(slices.Clone(c.API.Listen), c.API.Metrics) {
		if _, p, err := net.SplitHostPort(at); err == nil {
			if n, err := strconv.Atoi(p); err == nil {
				list = append(list, port{"tcp", n, "API", false})
			}
		}
	}
	return list
}

// examinePort checks whether a port is ours or free; holder is the process that
// has it open, and pid the process of the running server; both may be empty.
func examinePort(p port, holder, pid string) Finding {
	check := fmt.Sprintf("port %d/%s", p.number, p.proto)
	if p.six {
		check += " over IPv6"
	}
	switch {
	case holder == "":
		if pid != "" {
			return found(check, OK, "", "%s: open; the process is not visible", p.what)
		}
		return found(check, OK, "", "%s: free", p.what)
	case pid != "" && (strings.HasSuffix(holder, "(process "+pid+")") || strings.HasPrefix(holder, "systemd ")):
		return found(check, OK, "", "%s: open, by %s", p.what, holder)
	}
	return found(check, Error,
		"stop that program, or restrict it to other interfaces: ss -"+p.proto[:1]+"lnp sport = "+strconv.Itoa(p.number),
		"%s: used by %s", p.what, holder)
}

// examineServed checks whether the running server serves an interface of its configuration.
func examineServed(i api.NetworkInterface) Finding {
	check := "serving " + i.Name
	if i.IPv6 {
		check += " over IPv6"
	}
	if !i.Served {
		return found(check, Error, "make the interface, or remove it from the configuration; the server notices by itself",
			"the server does not serve it: %s", i.Why)
	}
	return found(check, OK, "", "mode %s %v", i.Mode, i.Addresses)
}

// examineRefused reports a relay whose packets are refused. It may be a stranger's, so it is
// no error.
func examineRefused(r api.RefusedRelay) Finding {
	fix := ""
	if r.Add != "" {
		fix = "edit " + config.Default + " as said, then: ingot config check && ingot config reload"
	}
	return found("relay "+show.Dash(r.Interface), Warning, fix, "%s (%d times)", r.Text, r.Packets)
}

// examineTranslated reports the networks in which boot keys work from any address.
func examineTranslated(c config.Config) (list []Finding) {
	add := func(section, network string, nat bool) {
		if nat {
			list = append(list, found("boot keys", Warning, "without address translation: remove nat: true",
				"network %s of %s has nat: true: whoever knows the key of a boot can use it from any address before the ticket",
				network, section))
		}
	}
	for _, n := range c.DHCP.Networks {
		add("dhcp", n.Name, n.NAT)
	}
	for _, n := range c.DHCP6.Networks {
		add("dhcp6", n.Name, n.NAT)
	}
	return list
}

// manyNew is a number of new machines in an hour that looks like invented ones.
const manyNew = 500

// examinePending checks whether somebody makes the server record machines that do not exist.
func examinePending(list []api.Machine, now time.Time) []Finding {
	pending, lately := 0, 0
	for _, m := range list {
		if m.State != api.Pending {
			continue
		}
		pending++
		if now.Sub(m.FirstSeen) < time.Hour {
			lately++
		}
	}
	const check = "machines"
	const fix = "find their switch port with ingot machine ls, then run: ingot machine forget --pending"
	switch {
	case pending >= state.MaxPending:
		return []Finding{found(check, Error, fix, "%d machines are pending, and new ones are not recorded; "+
			"%d of them are new in the last hour", pending, lately)}
	case lately >= manyNew, pending >= state.MaxPending/2:
		return []Finding{found(check, Warning, fix, "%d machines are pending, of at most %d; %d are new in the last hour",
			pending, state.MaxPending, lately)}
	}
	return []Finding{found(check, OK, "", "%d are pending, %d in all", pending, len(list))}
}

// examineForeign checks the other DHCP servers that were seen.
func examineForeign(interfaces []dhcp4.Interface, servers []api.NetworkServer) (list []Finding) {
	for _, i := range interfaces {
		check, heard := "DHCP servers "+i.Name, []string{}
		for _, s := range servers {
			if s.Interface == i.Name && !s.Proxy && s.DUID == "" {
				heard = append(heard, fmt.Sprintf("%s (%s)", s.Address, s.MAC))
			}
		}
		slices.Sort(heard)
		heard = slices.Compact(heard)
		switch {
		case len(heard) > 0 && (i.Mode == dhcp4.Full || i.Mode == ""):
			list = append(list, found(check, Error, "disable it for this network, or run beside it with mode: proxy",
				"another server answers as well: %s; machines take the first answer", strings.Join(heard, ", ")))
		case len(heard) == 0 && i.Mode == dhcp4.Proxy:
			list = append(list, found(check, Warning, "start the network's DHCP server, or use mode: full",
				"none was seen; in mode proxy ingot gives no addresses"))
		case len(heard) > 0:
			list = append(list, found(check, OK, "", "%s", strings.Join(heard, ", ")))
		default:
			list = append(list, found(check, OK, "", "no other was seen"))
		}
	}
	return list
}

// namesOf are the interfaces of a configuration.
func namesOf(c config.Config) (names []string) {
	for _, i := range c.DHCP.Interfaces {
		names = append(names, i.Name)
	}
	for _, i := range c.DHCP6.Interfaces {
		if !slices.Contains(names, i.Name) {
			names = append(names, i.Name)
		}
	}
	return names
}

// dropsRE finds base chains of input with policy drop in the output of
// "nft list ruleset" (nft(8)).
var dropsRE = regexp.MustCompile(`type filter hook input[^;]*; policy drop;`)

// examineFirewall checks a ruleset. It does not evaluate every rule: if packets
// are dropped by default, a rule must name the port or the interface.
func examineFirewall(ruleset string, ports []port, interfaces []string) Finding {
	if !dropsRE.MatchString(ruleset) {
		return found("firewall", OK, "", "no nftables input chain has policy drop")
	}
	for _, name := range interfaces {
		if regexp.MustCompile(`iifname "?` + regexp.QuoteMeta(name) + `"? accept`).MatchString(ruleset) {
			return found("firewall", OK, "", "the policy is drop, and traffic from %s is accepted", name)
		}
	}
	var missing, rules []string
	for _, p := range ports {
		if slices.Contains(missing, fmt.Sprintf("%d/%s", p.number, p.proto)) {
			continue // of the other family: the rule is the same
		}
		if !regexp.MustCompile(p.proto + ` dport [^\n]*\b` + strconv.Itoa(p.number) + `\b[^\n]*accept`).MatchString(ruleset) {
			missing = append(missing, fmt.Sprintf("%d/%s", p.number, p.proto))
			rules = append(rules, fmt.Sprintf("%s dport %d accept", p.proto, p.number))
		}
	}
	if len(missing) == 0 {
		return found("firewall", OK, "", "the policy is drop, and every port of the server is accepted")
	}
	return found("firewall", Warning, "nft add rule inet filter input "+strings.Join(rules, "; then the same with: "),
		"the policy of the input chain is drop, and no accept rule names %s", strings.Join(missing, ", "))
}

// unseenFirewall is the finding when nft fails with err.
func unseenFirewall(err error, ports []port) Finding {
	if !errors.Is(err, exec.ErrNotFound) {
		return found("firewall", Skipped, "run it as root", "nft list ruleset: %v", err)
	}
	var names []string
	for _, p := range ports {
		names = append(names, fmt.Sprintf("%d/%s", p.number, p.proto))
	}
	slices.Sort(names)
	return found("firewall", Skipped,
		"apt install nftables; without it, check by hand that the firewall accepts "+strings.Join(slices.Compact(names),
			", "),
		"cannot read the rules: nft is not installed")
}

// examineClock checks the time; synced is the result of adjtimex(2).
func examineClock(now time.Time, synced bool, ca *x509.Certificate) Finding {
	switch {
	case ca != nil && now.Before(ca.NotBefore):
		return found("clock", Error, "timedatectl set-ntp true",
			"it is %s, which is before the server's CA was created (%s)", now.Format(time.DateTime),
			ca.NotBefore.Format(time.DateTime))
	case now.Year() < 2026:
		return found("clock", Error, "timedatectl set-ntp true", "it is %s", now.Format(time.DateTime))
	case !synced:
		return found("clock", Warning, "timedatectl set-ntp true, or start chrony",
			"it is %s, and no program synchronises it", now.Format(time.DateTime))
	}
	return found("clock", OK, "", "%s, synchronised", now.Format(time.DateTime))
}

// examineSpace checks the free space of the store's file system, in bytes.
func examineSpace(root string, free, whole int64) Finding {
	switch {
	case free < 256<<20:
		return found("store", Error, "ingot image gc; or a larger disk", "%s has %s left; soon the state cannot be written",
			root, show.Size(free))
	case free < 4<<30 || free < whole/50:
		return found("store", Warning, "ingot image gc; or a larger disk", "%s has %s left of %s", root, show.Size(free),
			show.Size(whole))
	}
	return found("store", OK, "", "%s has %s left", root, show.Size(free))
}

// examineKey checks the mode of the file of a secret key.
func examineKey(name string, mode fs.FileMode) Finding {
	if mode.Perm()&0o077 != 0 {
		return found("keys", Error, "chmod 600 "+name+"; replace it if others may have read it",
			"%s can be read by others (mode %04o)", name, mode.Perm())
	}
	return found("keys", OK, "", "%s is readable only by its owner", name)
}

// examineRelease checks that the server's user cannot read the private half of the release key. It needs
// none: whoever takes over the server could then sign images for machines.
func examineRelease(file string, owner, server uint32) Finding {
	if server != 0 && server != owner {
		return found("release key", OK, "", "the server cannot read %s", file)
	}
	return found("release key", Warning, "build in another store or on another host, and bring images here by: "+
		"ingot image pull or import; then move the file away. See docs/TRUST.md",
		"the server can read %s and does not need it", file)
}
