package source

import (
	"path"
	"slices"
	"strings"
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
			"/var/lib/systemd/random-seed " +
			"/var/lib/urandom/* /etc/iscsi/initiatorname.iscsi /etc/nvme/hostid /etc/nvme/hostnqn /var/lib/cloud/* " +
			"/etc/udev/rules.d/70-persistent-*"},
		{whyNetwork, false, "/etc/network/interfaces /etc/network/interfaces.d/* /etc/netplan/* " +
			"/etc/NetworkManager/system-connections/* /etc/cloud/cloud.cfg.d/50-curtin-networking.cfg"},
		{whyDisks, false, "/etc/fstab /etc/crypttab /etc/mtab /etc/lvm/archive/* /etc/lvm/backup/* /etc/lvm/devices/* " +
			"/etc/mdadm/mdadm.conf /etc/initramfs-tools/conf.d/resume"},
		{whySecret, false, "/etc/shadow- /etc/gshadow- /etc/ssl/private/* /etc/letsencrypt/* /etc/krb5.keytab " +
			"/etc/wireguard/*.conf /etc/wireguard/*.key /etc/openvpn/*.key /etc/ipsec.secrets " +
			"/var/lib/systemd/credential.secret /etc/credstore/* /etc/credstore.encrypted/* /etc/ppp/*-secrets " +
			"/root/.ssh/id_* /root/.gnupg /root/.aws /root/.kube /root/.azure " +
			"/root/.config/gcloud /root/.docker/config.json /root/.netrc /root/.pgpass /root/.my.cnf /root/.git-credentials " +
			"/root/.config/gh /root/.vault-token /root/.ssh/known_hosts*"},
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

// Matches reports whether the rule excludes the path, or a folder above it.
func (r Rule) Matches(p string) bool {
	p = path.Clean("/" + p)
	for q := p; q != "/"; q = path.Dir(q) {
		if ok, _ := path.Match(r.Pattern, q); ok {
			return true
		}
	}
	return false
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
