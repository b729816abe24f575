package secrets

import (
	"bytes"
	"regexp"
)

// Fate is what happens to a known secret.
type Fate string

// The fates of known secrets.
const (
	// Boot: a unit makes it at each boot, unless it is on a volume already.
	Boot Fate = "made at boot"
	// Kept: a unit makes it at the first boot and keeps it on the identity volume.
	Kept Fate = "made at the first boot, kept on the identity volume"
	// Operator: machines must share it, so the operator supplies it, by files or layers.
	Operator Fate = "to be supplied by the operator"
	// Dropped: nothing on a machine needs it, or its service makes it by itself.
	Dropped Fate = "left out"
	// Cleaned: only the random part of the file is left out.
	Cleaned Fate = "without its random part"
)

// Known is a secret, or something else of one machine, that the scripts of a package make.
type Known struct {
	Name  string   // of its unit: letters and dashes
	What  string   // for people
	Paths []string // patterns (path.Match) without a leading slash; folders match with all that is in them
	Fate  Fate
	// Empty: the matching folders stay, without what is in them.
	Empty bool
	// Units start after it was made, and not without; empty: everything but what mounts filesystems does.
	Units []string
	// Early are units that need it and do not wait for sysinit.target (DefaultDependencies=no).
	Early []string
	// Make is a shell script (dash) that makes it. Kept copies the files of Paths to the volume.
	Make string
	// Clean returns the content without its random part.
	Clean func([]byte) []byte
}

// table is everything that is known, of packages of Debian 12 and 13.
var table = []Known{
	{Name: "iscsi-initiator", What: "name of the iSCSI initiator (open-iscsi)", Fate: Kept,
		Paths: []string{"etc/iscsi/initiatorname.iscsi"}, Early: []string{"iscsid.service", "open-iscsi.service"},
		Make: `printf 'InitiatorName=%s\n' "$(iscsi-iname -p iqn.1993-08.org.debian:01)" >/etc/iscsi/initiatorname.iscsi
`},
	{Name: "munge", What: "key of a MUNGE realm", Fate: Operator, Paths: []string{"etc/munge/munge.key"}},
	{Name: "rndc", What: "key with which rndc controls named (bind9)", Fate: Boot, Paths: []string{"etc/bind/rndc.key"},
		Make: `rndc-confgen -a -A hmac-sha256 -b 256 -u bind
`},
	{Name: "dropbear", What: "host keys of dropbear", Fate: Kept,
		Paths: []string{"etc/dropbear/dropbear_*_host_key", "etc/dropbear/dropbear_*_host_key.pub",
			"etc/dropbear/initramfs/dropbear_*_host_key", "etc/dropbear/initramfs/dropbear_*_host_key.pub",
			"etc/dropbear-initramfs/dropbear_*_host_key"},
		Make: `dropbearkey -t ed25519 -f /etc/dropbear/dropbear_ed25519_host_key
`},
	{Name: "snakeoil", What: "self-signed certificate and its key (ssl-cert)", Fate: Boot,
		Paths: []string{"etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem"},
		Make: `make-ssl-cert generate-default-snakeoil --force-overwrite
`},
	{Name: "rabbitmq", What: "Erlang cookie of RabbitMQ; the server makes one, a cluster needs one for all", Fate: Dropped,
		Paths: []string{"var/lib/rabbitmq/.erlang.cookie", "root/.erlang.cookie"}},
	{Name: "postgresql", What: "PostgreSQL cluster", Fate: Boot, Empty: true,
		Paths: []string{"var/lib/postgresql/*/main"}, Units: []string{"postgresql@.service"}, Make: makePostgreSQL},
	{Name: "mariadb", What: "MariaDB's system tables", Fate: Boot, Empty: true,
		Paths: []string{"var/lib/mysql"}, Units: []string{"mariadb.service"}, Make: makeMariaDB},
	{Name: "slapd", What: "OpenLDAP's database and its administrator's password", Fate: Operator, Empty: true,
		Paths: []string{"var/lib/ldap", "etc/ldap/slapd.d"}},
	{Name: "dkms", What: "key that signs modules (DKMS)", Fate: Dropped,
		Paths: []string{"var/lib/dkms/mok.key", "var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.*"}},
	{Name: "unbound", What: "keys with which unbound-control controls unbound", Fate: Boot,
		Paths: []string{"etc/unbound/unbound_server.*", "etc/unbound/unbound_control.*"},
		Make: `unbound-control-setup
`},
	{Name: "nsd", What: "keys with which nsd-control controls nsd", Fate: Boot,
		Paths: []string{"etc/nsd/nsd_server.*", "etc/nsd/nsd_control.*"},
		Make: `nsd-control-setup
`},
	{Name: "xrdp", What: "RSA keys of xrdp", Fate: Boot, Paths: []string{"etc/xrdp/rsakeys.ini"},
		Make: `xrdp-keygen xrdp /etc/xrdp/rsakeys.ini
chown root:xrdp /etc/xrdp/rsakeys.ini
chmod 0640 /etc/xrdp/rsakeys.ini
`},
	{Name: "bacula", What: "passwords between Bacula's services", Fate: Operator,
		Paths: []string{"etc/bacula/common_default_passwords"}},
	{Name: "corosync", What: "key of a Corosync cluster", Fate: Operator, Paths: []string{"etc/corosync/authkey"}},
	{Name: "openvswitch", What: "Open vSwitch's database and system id; the service makes them", Fate: Dropped,
		Paths: []string{"etc/openvswitch/conf.db", "etc/openvswitch/.conf.db.*", "etc/openvswitch/system-id.conf"}},
	{Name: "libvirt", What: "UUID and MAC address of libvirt's default network", Fate: Cleaned,
		Paths: []string{"etc/libvirt/qemu/networks/default.xml"},
		Clean: func(b []byte) []byte { return networkID.ReplaceAll(b, nil) }},
	{Name: "tor", What: "keys of a Tor relay or service; the server makes them", Fate: Dropped,
		Paths: []string{"var/lib/tor/keys", "var/lib/tor/*/hs_ed25519_secret_key"}},
	{Name: "mysql-maintenance", What: "password of MySQL's maintenance account", Fate: Cleaned,
		Paths: []string{"etc/mysql/debian.cnf"},
		Clean: func(b []byte) []byte { return maintenance.ReplaceAll(b, []byte("password =\n")) }},
}

var (
	networkID   = regexp.MustCompile(`(?m)^\s*<(uuid>[^<]*</uuid|mac address='[^']*'/)>\n`)
	maintenance = regexp.MustCompile(`(?m)^password *= *\S+\n`)
)

// clean reports the cleaned content, and whether it differs.
func (k Known) clean(content []byte) ([]byte, bool) {
	cleaned := k.Clean(content)
	return cleaned, !bytes.Equal(cleaned, content)
}
