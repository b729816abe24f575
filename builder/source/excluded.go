package source

import (
	"context"
	"path"
	"slices"
	"strings"

	"ingot/builder/tree"
)

// Rule excludes files of a running host from a capture.
type Rule struct {
	Pattern string `json:"pattern"` // of path.Match, from the root; it covers everything below
	Why     string `json:"why"`
	// Folders: empty folders stay, because services expect them.
	Folders bool `json:"folders,omitempty"`
}

// The reasons of rules.
const (
	whyRuntime  = "made at every boot"
	whyKernel   = "the profile's kernel takes its place"
	whyIdentity = "identity of this machine"
	whyNetwork  = "addresses of this machine"
	whyDisks    = "disks of this machine"
	whySecret   = "secret"
	whyLease    = "lease or state of a network"
	whyLog      = "log"
	whyCache    = "cache"
	whySwap     = "swap file"
	whyData     = "data: belongs on a volume"
	whyHistory  = "history of a shell or editor"
)

var allReasons = []string{whyRuntime, whyKernel, whyIdentity, whyNetwork, whyDisks, whySecret, whyLease, whyLog,
	whyCache, whySwap, whyData, whyHistory}

// Excluded returns the default rules.
func Excluded() []Rule {
	var list []Rule
	for _, group := range []struct {
		why      string
		folders  bool
		patterns string
	}{
		{whyRuntime, false, "/proc/* /sys/* /dev/* /run/* /tmp/* /var/run/* /var/lock/* /lost+found " +
			"/var/lib/systemd/coredump/* /var/crash/*"},
		{whyKernel, false, "/boot/* /lib/modules/* /usr/lib/modules/* /vmlinuz* /initrd.img* /usr/src/linux-headers-*"},
		{whyIdentity, false, "/etc/machine-id /var/lib/dbus/machine-id /etc/hostname /etc/hostid /etc/ssh/ssh_host_* " +
			"/etc/mailname /etc/machine-info /var/lib/systemd/random-seed " +
			"/var/lib/urandom/* /etc/iscsi/initiatorname.iscsi /etc/nvme/hostid /etc/nvme/hostnqn /var/lib/cloud/* " +
			"/etc/udev/rules.d/70-persistent-* /etc/salt/minion_id /etc/salt/pki/* /etc/puppet/ssl /var/lib/puppet/ssl " +
			"/etc/puppetlabs/puppet/ssl /etc/chef/*.pem /var/lib/tailscale/* /var/lib/zerotier-one/identity.* " +
			"/etc/pki/consumer/* /etc/pki/entitlement/* /var/lib/rhsm/* /var/lib/ubuntu-advantage/* /var/lib/fwupd/*"},
		{whyNetwork, false, "/etc/resolv.conf /etc/resolvconf/resolv.conf.d/* " +
			"/etc/network/interfaces /etc/network/interfaces.d/* /etc/netplan/* /etc/systemd/network/* " +
			"/etc/sysconfig/network /etc/sysconfig/network-scripts/ifcfg-* /etc/sysconfig/network-scripts/route-* " +
			"/etc/NetworkManager/system-connections/* /etc/cloud/cloud.cfg.d/50-curtin-networking.cfg"},
		{whyDisks, false, "/etc/fstab /etc/crypttab /etc/mtab /etc/lvm/archive/* /etc/lvm/backup/* /etc/lvm/devices/* " +
			"/etc/mdadm/mdadm.conf /etc/initramfs-tools/conf.d/resume /etc/multipath/wwids /etc/multipath/bindings " +
			"/etc/iscsi/nodes/* /etc/iscsi/send_targets/* /var/lib/iscsi/* /etc/zfs/zpool.cache"},
		{whySecret, false, "/etc/shadow- /etc/gshadow- /etc/ssl/private/* /etc/letsencrypt/* /etc/krb5.keytab " +
			"/etc/wireguard/*.conf /etc/wireguard/*.key /etc/openvpn/*.key /etc/ipsec.secrets " +
			"/var/lib/systemd/credential.secret /etc/credstore/* /etc/credstore.encrypted/* /etc/ppp/*-secrets " +
			"/root/.ssh/id_* /root/.gnupg /root/.aws /root/.kube /root/.azure " +
			"/root/.config/gcloud /root/.docker/config.json /root/.netrc /root/.pgpass /root/.my.cnf /root/.git-credentials " +
			"/root/.config/gh /root/.vault-token /root/.ssh/known_hosts* /etc/munge/munge.key /etc/bind/*.key " +
			"/etc/dropbear/dropbear_*_host_key /var/lib/rabbitmq/.erlang.cookie /etc/corosync/authkey /etc/ceph/*.keyring " +
			"/etc/ipsec.d/private/* /etc/swanctl/private/* /etc/pki/tls/private/* /etc/tinc/*/*.priv " +
			"/etc/wpa_supplicant/*.conf /etc/apt/auth.conf /etc/apt/auth.conf.d/* /etc/chrony/chrony.keys /etc/ntp.keys " +
			"/etc/ntpsec/ntp.keys /var/lib/samba/private/* /etc/samba/*.tdb /etc/cups/ssl/* /etc/cockpit/ws-certs.d/* " +
			"/etc/postfix/sasl_passwd* /etc/exim4/passwd.client /etc/kubernetes/pki /etc/kubernetes/*.conf " +
			"/var/lib/dkms/mok.* /var/lib/shim-signed/mok/* /var/lib/tor/*"},
		{whyLease, false, "/var/lib/dhcp/* /var/lib/dhcpcd/* /var/lib/dhclient/* /var/lib/NetworkManager/* " +
			"/var/lib/systemd/network/* /var/lib/systemd/timesync/* /var/lib/systemd/timers/* /var/lib/chrony/*"},
		{whyLog, true, "/var/log/* /var/spool/mail/* /var/mail/*"},
		{whyCache, true, "/var/cache/* /var/tmp/*"},
		{whyCache, false, "/var/lib/apt/lists/* /root/.cache /var/lib/snapd/cache/* /var/backups/* " +
			"/var/lib/apt-xapian-index"},
		{whySwap, false, "/swapfile* /swap.img /swap"},
		{whyData, false, "/home/* /srv/* /mnt/* /media/* /var/lib/docker /var/lib/containerd /var/lib/containers " +
			"/var/lib/kubelet /var/lib/etcd /var/lib/mysql/* /var/lib/postgresql/*/* " +
			"/var/lib/mongodb/* /var/lib/redis/* /var/lib/elasticsearch/* /var/lib/libvirt/images/* /var/lib/lxc/* " +
			"/var/lib/lxd /var/lib/machines/* /var/lib/prometheus/* /var/lib/grafana/*"},
		{whyHistory, false, "/root/.*_history /root/.lesshst /root/.viminfo /root/.wget-hsts " +
			"/root/.local/share/recently-used.xbel"},
	} {
		for _, p := range strings.Fields(group.patterns) {
			list = append(list, Rule{p, group.why, group.folders})
		}
	}
	return list
}

// ofAnyRoot are the reasons for which a file is left out of every root that is imported. The others
// are about running hosts: a root that somebody has prepared has no logs or data by accident.
var ofAnyRoot = []string{whyRuntime, whyIdentity, whyNetwork, whyDisks, whySecret, whyLease, whySwap, whyHistory}

// LeaveOut removes what belongs to one host from a root that was read from a tarball or folder, and
// password hashes. It returns the paths that it removed and the users that had a password. Paths in
// include stay.
func LeaveOut(ctx context.Context, t *tree.Tree, rules []Rule, include []string) (removed, users []string, err error) {
	rules = slices.DeleteFunc(notCovering(rules, include), func(r Rule) bool {
		return slices.Contains(allReasons, r.Why) && !slices.Contains(ofAnyRoot, r.Why)
	})
	var last string // removed; what is below it follows it, or comes soon
	for _, e := range t.Entries() {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		// A folder that is excluded comes before what is in it: only the path itself is compared.
		if e.Path == "" || last != "" && strings.HasPrefix(e.Path, last+"/") || !excludesItself(rules, e.Path) ||
			t.Get(e.Path) == nil {
			continue
		}
		removed, last = append(removed, "/"+e.Path), e.Path
		t.Remove(e.Path)
	}
	if err := dropOwnName(t); err != nil {
		return nil, nil, err
	}
	if !slices.Contains(include, "/etc/shadow") {
		users, err = dropPasswords(t)
	}
	return removed, users, err
}

// dropOwnName removes the line of /etc/hosts in which Debian's installer puts the host's own name,
// under 127.0.1.1 (Debian reference, 5.1.1).
func dropOwnName(t *tree.Tree) error {
	e := t.Find("etc/hosts")
	if e == nil || e.Kind != tree.File {
		return nil
	}
	content, err := t.ReadFile("etc/hosts")
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) == 0 || f[0] != "127.0.1.1" {
			kept.WriteString(line)
		}
	}
	same := *e
	same.Hard, same.Size, same.Open = "", int64(kept.Len()), tree.Bytes([]byte(kept.String()))
	return t.Put(same)
}

// Matches reports whether the rule excludes the path, or a folder above it.
func (r Rule) Matches(p string) bool {
	p = path.Clean("/" + p)
	if strings.Contains(r.Pattern, "[") {
		for q := p; q != "/"; q = path.Dir(q) {
			if ok, _ := path.Match(r.Pattern, q); ok {
				return true
			}
		}
		return false
	}
	depth := strings.Count(r.Pattern, "/")
	for end := 1; end <= len(p) && depth > 0; end++ { // the folder of p that is as deep as the pattern
		if end < len(p) && p[end] != '/' {
			continue
		}
		if depth--; depth == 0 {
			ok, _ := path.Match(r.Pattern, p[:end])
			return ok
		}
	}
	return false
}

// matchesItself reports whether the pattern is that of the path itself, which is clean and absolute. One
// of another depth cannot be, as no part of a pattern matches a slash: that spares deep trees the time.
func (r Rule) matchesItself(p string, depth int) bool {
	if strings.Count(r.Pattern, "/") != depth && !strings.Contains(r.Pattern, "[") {
		return false // a class such as [^a] matches a slash, too
	}
	ok, _ := path.Match(r.Pattern, p)
	return ok
}

// covers reports whether a rule contradicts an explicit request for p: it excludes p itself or all
// that is in it, not just a part of it.
func (r Rule) covers(p string) bool {
	return r.Matches(p) || r.Pattern == path.Join("/", p, "*")
}

// notCovering returns the rules that still apply to paths that were requested explicitly.
func notCovering(rules []Rule, asked []string) []Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool {
		return slices.ContainsFunc(asked, r.covers)
	})
}

func excludes(rules []Rule, p string) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Matches(p) })
}

func excludesItself(rules []Rule, p string) bool {
	depth := strings.Count(p, "/") + 1
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.matchesItself("/"+p, depth) })
}
