//go:build e2e

package testbuild

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/builder"
	"ingot/builder/compare"
	"ingot/builder/secrets"
	"ingot/image"
)

// awkward are packages whose scripts make keys, passwords, identities or databases, or do more than
// most. dropbear-bin, sssd and strongswan have no scripts; their dependencies do.
const awkward = "slurmd munge nfs-common autofs nslcd libvirt-daemon-system openvswitch-switch containerd open-iscsi " +
	"multipath-tools snmpd bind9 rabbitmq-server redis-server mariadb-server postgresql postfix dovecot-imapd nginx " +
	"cron krb5-user sssd tor openvpn docker.io fail2ban corosync haproxy keepalived zabbix-agent tftpd-hpa " +
	"dropbear-bin dropbear ssl-cert dkms unbound nsd slapd xrdp bacula-common samba cups-daemon strongswan"

// TestSceneAwkwardPackages: with all of them in one image, nothing random is in it, and another
// build of the plan gives the same digest. On a machine, what was left out is made again.
func TestSceneAwkwardPackages(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	names := strings.Fields(awkward)
	text := "name: lab\nextends: node\nbase: {suite: trixie, components: [main, contrib, non-free-firmware]}\n" +
		"ram: {budget: 16GiB}\npackages: [" + strings.Join(names, ", ") + "]\n"
	l.must(os.WriteFile(l.profile, []byte(text), 0o644))
	store := filepath.Join(l.dir, "keys-store")
	run := func(args ...string) (out, said string) {
		t.Helper()
		cmd := exec.CommandContext(l.ctx, filepath.Join(l.dir, "ingot"), append([]string{"--store", store}, args...)...)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("ingot %v: %v\n%s%s", args, err, stdout.String(), stderr.String())
		}
		return stdout.String(), stderr.String()
	}
	_, said := run("build", l.profile, "--version", "v1", "--check", "--update")
	for _, path := range []string{"/etc/munge/munge.key", "/etc/ldap/slapd.d", "/etc/bacula/common_default_passwords"} {
		if !slices.ContainsFunc(strings.Split(said, "\n"), func(line string) bool {
			return strings.Contains(line, "supply it with a volume") && strings.HasSuffix(line, "path="+path)
		}) {
			t.Errorf("the build says\n%s\nwant that %s must be supplied", said, path)
		}
	}
	s, err := image.Open(l.ctx, store)
	l.must(err)
	im, err := s.Get(l.ctx, "lab:v1")
	l.must(err)
	l.haveScripts(s, im, names, 40)

	out, _ := run("verify", "lab:v1", "--offline", "-o", "json")
	var v compare.Verdict
	l.must(json.Unmarshal([]byte(out), &v))
	if !v.Same || v.Rebuilt != im.Digest || len(v.Random) > 0 {
		t.Errorf("the second build has digest %s, random %v; want %s, nothing random", v.Rebuilt, v.Random, im.Digest)
	}
	l.makeSecrets(s.Blob(im.Manifest.Root.Digest))
}

// haveScripts checks that so many of the named packages are in the image and have scripts.
func (l *lab) haveScripts(s *image.Store, im image.Image, names []string, want int) {
	l.t.Helper()
	c, err := builder.OpenContents(s, im)
	l.must(err)
	defer c.Close()
	scripts := 0
	for _, name := range names {
		info := "var/lib/dpkg/info/" + name
		if c.Tree.Get(info+".list") == nil {
			l.t.Errorf("the image lacks %s", name)
		}
		if c.Tree.Get(info+".postinst") != nil || c.Tree.Get(info+".preinst") != nil {
			scripts++
		}
	}
	l.t.Logf("%d of %d packages have scripts", scripts, len(names))
	if scripts < want {
		l.t.Errorf("%d packages have scripts; want %d", scripts, want)
	}
}

// makeSecrets runs the scripts that make secrets on a machine, in a copy of the root: each makes what
// it is for.
func (l *lab) makeSecrets(squashfs string) {
	l.t.Helper()
	if os.Geteuid() != 0 {
		l.t.Log("the scripts are not run: that needs root; CI has it")
		return
	}
	root := filepath.Join(l.dir, "root")
	l.tool("unsquashfs", "-no-progress", "-quiet", "-d", root, squashfs)
	var made []string
	for _, k := range secrets.Made() {
		script := "/usr/lib/ingot/secrets/" + k.Name
		if _, err := os.Stat(filepath.Join(root, script)); err != nil {
			continue
		}
		if found := l.match(root, k); len(found) > 0 {
			l.t.Errorf("the image has %v", found)
		}
		cmd := exec.CommandContext(l.ctx, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-ec",
			`mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; exec chroot "$0" /bin/sh "$1"`, root, script)
		out, err := cmd.CombinedOutput()
		found := l.match(root, k)
		if err != nil || len(found) == 0 {
			l.t.Errorf("%s: %v; it made %v\n%s", script, err, found, out)
		}
		l.t.Logf("%s made %v", k.Name, found)
		made = append(made, k.Name)
	}
	for _, name := range strings.Fields("iscsi-initiator rndc dropbear snakeoil postgresql mariadb nsd xrdp") {
		if !slices.Contains(made, name) {
			l.t.Errorf("the image has no unit for %q; it has %v", name, made)
		}
	}
}

// match returns the files of a known secret in a root; of a folder, what is in it.
func (l *lab) match(root string, k secrets.Known) []string {
	l.t.Helper()
	found := map[string]bool{}
	for _, p := range k.Paths {
		if k.Empty {
			p += "/*"
		}
		paths, err := filepath.Glob(filepath.Join(root, p))
		l.must(err)
		for _, p := range paths {
			found[strings.TrimPrefix(p, root)] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
