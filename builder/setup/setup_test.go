package setup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/setup"
	"ingot/builder/tree"
	"ingot/profiles"
)

const modules = "usr/lib/modules/6.12"

// root is a root with what the keys need.
func root(t *testing.T) *tree.Tree {
	t.Helper()
	tr := buildertest.SystemdTree(t)
	for p, text := range map[string]string{
		"usr/lib/locale/de_DE.utf8/LC_TIME": "x", "usr/share/zoneinfo/Europe/Berlin": "x", "usr/share/zoneinfo/Etc/UTC": "x",
		"usr/bin/setupcon": "x", "usr/lib/systemd/system-generators/zram-generator": "x",
		modules + "/modules.dep":            "kernel/net/bridge/br_netfilter.ko.xz:\nkernel/drivers/gpu/nouveau.ko.xz: x\n",
		modules + "/modules.builtin":        "kernel/drivers/block/zram.ko\n",
		"var/cache/debconf/templates.dat":   "Name: postfix/mailname\nType: string\n\nName: postfix/main_mailer_type\n",
		"usr/share/doc/x/README":            "x",
		"usr/share/doc/y/README":            "x",
		"usr/lib/systemd/system/ssh.socket": "[Install]\nWantedBy=sockets.target\n",
	} {
		if err := tr.PutFile(p, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// load loads a profile of these lines.
func load(t *testing.T, lines string) *profiles.Profile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte("name: p\nextends: lab\n"+lines), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func apply(tr *tree.Tree, p *profiles.Profile) error {
	if err := setup.Remove(tr, p); err != nil {
		return err
	}
	if err := setup.Apply(tr, p, modules); err != nil {
		return err
	}
	_, err := setup.DropIns(tr, p)
	return err
}

// TestSettings: each key becomes the file that its program reads.
func TestSettings(t *testing.T) {
	p := load(t, `packages: [locales, console-setup, systemd-zram-generator]
locale: de_DE.UTF-8
timezone: Europe/Berlin
keyboard: {layout: de, variant: nodeadkeys}
sysctl: {vm.swappiness: 10, net.ipv4.ip_forward: 1}
swap: {zram: 50%}
kernel: {load: [br-netfilter], blacklist: [nouveau]}
debconf: ["postfix postfix/mailname string x.example"]
remove: [/usr/share/doc/*, /sbin/sshd]
units:
  presets: ["enable ssh.socket", "disable *"]
  dropIns:
    ssh.service: |
      [Service]
      MemoryMax=512M
`)
	tr := root(t)
	if err := apply(tr, p); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"etc/default/locale", "etc/locale.conf", "etc/timezone", "etc/default/keyboard",
		"etc/sysctl.d/90-profile.conf", "etc/systemd/zram-generator.conf", "etc/modules-load.d/profile.conf",
		"etc/modprobe.d/profile.conf", "etc/systemd/system/ssh.service.d/50-profile.conf",
		"etc/systemd/system-preset/00-profile.preset"} {
		text, err := tr.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		got[name] = string(text)
	}
	want := map[string]string{
		"etc/default/locale": "LANG=de_DE.UTF-8\n", "etc/locale.conf": "LANG=de_DE.UTF-8\n",
		"etc/timezone": "Europe/Berlin\n",
		"etc/default/keyboard": "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"de\"\nXKBVARIANT=\"nodeadkeys\"\nXKBOPTIONS=\"\"\n" +
			"BACKSPACE=\"guess\"\n",
		"etc/sysctl.d/90-profile.conf":    "net.ipv4.ip_forward = 1\nvm.swappiness = 10\n",
		"etc/systemd/zram-generator.conf": "[zram0]\nzram-size = ram * 50 / 100\ncompression-algorithm = zstd\n",
		"etc/modules-load.d/profile.conf": "br-netfilter\n", "etc/modprobe.d/profile.conf": "blacklist nouveau\n",
		"etc/systemd/system/ssh.service.d/50-profile.conf": "[Service]\nMemoryMax=512M\n",
		"etc/systemd/system-preset/00-profile.preset":      "enable ssh.socket\ndisable *\n",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	if e := tr.Get("etc/localtime"); e == nil || e.Target != "/usr/share/zoneinfo/Europe/Berlin" {
		t.Errorf("etc/localtime = %+v", e)
	}
	for _, gone := range []string{"usr/share/doc/x", "usr/share/doc/y/README", "usr/sbin/sshd"} {
		if tr.Get(gone) != nil {
			t.Errorf("%s is there; want it removed", gone)
		}
	}
	if tr.Get("usr/share/doc") == nil {
		t.Error("the folder above a pattern is gone")
	}
}

// TestMissing: what a key needs and the root lacks is an error with the place of the key and the next step.
func TestMissing(t *testing.T) {
	for lines, want := range map[string]string{
		"timezone: Europe/Berlim\n": "p.yaml:3:11: the root lacks what the profile asks for: the time zone Europe/Berlim; " +
			"write a name such as Europe/Berlin",
		"packages: [locales-all]\nlocale: fr_FR.UTF-8\n": "p.yaml:4:9: ",
		"kernel: {load: [br_netfliter]}\n": "p.yaml:3:17: the root lacks what the profile " +
			"asks for: the kernel has no module br_netfliter; perhaps br_netfilter",
		"kernel: {blacklist: [radeon]}\n": "p.yaml:3:22: ",
		"debconf: [\"postfix postfix/mailnam string x\"]\n": "p.yaml:3:11: the root lacks what the profile " +
			"asks for: no package asks the question postfix/mailnam; perhaps postfix/mailname",
		"remove: [/usr/share/dok/*]\n": "p.yaml:3:10: the root lacks what the profile " +
			"asks for: there is no /usr/share/dok/* to remove",
		"packages: [systemd-zram-generator]\nswap: {zram: 256MiB}\n": "",
	} {
		err := apply(root(t), load(t, lines))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", lines, err)
		case want != "" && (!errors.Is(err, setup.ErrMissing) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s = %v; want %s", lines, err, want)
		}
	}
	bare := root(t)
	bare.Remove("usr/bin/setupcon")
	bare.Remove("var/cache/debconf/templates.dat")
	for lines, want := range map[string]string{
		"packages: [console-setup]\nkeyboard: {layout: us}\n": "p.yaml:4:20: the root lacks what the profile asks for: " +
			"what sets the keyboard",
		"debconf: [\"a a/b string x\"]\n": "no package asks questions with debconf",
	} {
		if err := apply(bare, load(t, lines)); !errors.Is(err, setup.ErrMissing) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s = %v; want %s", lines, err, want)
		}
	}
}

// TestUnknownDropIn: a drop-in of a unit that the root does not have is reported.
func TestUnknownDropIn(t *testing.T) {
	unknown, err := setup.DropIns(root(t), load(t, "units: {dropIns: {sssh.service: \"[Service]\\n\"}}\n"))
	if err != nil || len(unknown) != 1 || unknown[0] != "sssh.service" {
		t.Errorf("DropIns = %v, %v; want sssh.service", unknown, err)
	}
}
