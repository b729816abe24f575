//go:build e2e

package testbuild

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder"
	"ingot/builder/tree"
	"ingot/image"
)

// everyKey is a profile that uses the keys which configure packages and the system.
const everyKey = `name: lab
extends: lab
vars: {workers: 4, debug: false, zone: Europe/Berlin}
packages: [postfix, locales, tzdata, console-setup, systemd-zram-generator, -less, {name: strace, when: {debug: true}}]
debconf:
  - postfix postfix/main_mailer_type select Internet Site
  - postfix postfix/mailname string mail.scene.example
locale: de_DE.UTF-8
timezone: ${zone}
keyboard: {layout: de, variant: nodeadkeys}
sysctl: {vm.swappiness: 10}
swap: {zram: 50%}
kernel:
  - {load: [br_netfilter], blacklist: [virtio_rng], options: {virtio_net: napi_tx=1}, initramfs: [/etc/scene]}
  - {arguments: [-audit, "workers=${workers}", 'dyndbg="module virtio_net +p"']}
units:
  presets: ["disable postfix*"]
  enable: [systemd-networkd-wait-online.service, scene.path, scene.automount]
  dropIns: {ssh.service: "[Service]\nMemoryMax=512M\n"}
remove: [/usr/share/bash-completion, /usr/share/polkit-1/*]
scripts:
  configure: [{name: locales, run: "locale -a | grep de_DE >/usr/share/scene-locales"}]
  finish:
    - name: user
      run: "cat /etc/scene >/etc/scene-seen; id -u $NAME >/etc/scene-user; echo x >/tmp/x"
      env: {NAME: postfix}
files:
  - {path: /etc/scene, content: "{{.workers}} {{.arch}}\n", template: true}
  - {path: /etc/scene.txt, source: scene.txt, template: true}
  - {path: /srv/scene, directory: true, owner: postfix, mode: "0750"}
  - path: /etc/systemd/system/scene.path
    content: "[Path]\nPathExists=/x\nUnit=ssh.service\n[Install]\nWantedBy=paths.target\n"
  - path: /etc/systemd/system/scene.automount
    content: "[Automount]\nWhere=/scene\n[Install]\nWantedBy=local-fs.target\n"
  - {path: /etc/systemd/system/scene.mount, content: "[Mount]\nWhat=tmpfs\nWhere=/scene\nType=tmpfs\n"}
`

// TestSceneEveryKey: each key reaches the image, two builds in different surroundings give the same digest,
// and the image is verified from its plan.
func TestSceneEveryKey(t *testing.T) {
	requireAll(t)
	l := newLabOf(t, everyKey, "{{.workers}}\n")
	want := l.build(ordinary)
	other := surroundings{name: "elsewhere", procs: "1", umask: "077", zone: "Pacific/Auckland"}
	if got := l.build(other); got != want {
		t.Errorf("built elsewhere the digest is %s; want %s", got, want)
	}
	s, err := image.Open(l.ctx, filepath.Join(l.dir, ordinary.name, "store"))
	l.must(err)
	im, err := s.Get(l.ctx, "lab:v1")
	l.must(err)
	c, err := builder.OpenContents(s, im)
	l.must(err)
	defer c.Close()
	have := map[string]string{}
	for _, p := range []string{"etc/default/locale", "etc/timezone", "etc/sysctl.d/90-profile.conf", "etc/mailname",
		"etc/modules-load.d/profile.conf", "etc/modprobe.d/profile.conf", "etc/scene", "etc/scene.txt",
		"etc/systemd/system/ssh.service.d/50-profile.conf", "usr/share/scene-locales", "etc/scene-seen"} {
		text, err := c.ReadFile(p)
		if err != nil {
			t.Error(err)
		}
		have[p] = string(text)
	}
	if d := cmp.Diff(map[string]string{"etc/default/locale": "LANG=de_DE.UTF-8\n", "etc/timezone": "Europe/Berlin\n",
		"etc/sysctl.d/90-profile.conf": "vm.swappiness = 10\n", "etc/mailname": "mail.scene.example\n",
		"etc/modules-load.d/profile.conf": "br_netfilter\n",
		"etc/modprobe.d/profile.conf":     "blacklist virtio_rng\noptions virtio_net napi_tx=1\n",
		"etc/scene":                       "4 amd64\n", "etc/scene.txt": "4\n", "usr/share/scene-locales": "de_DE.utf8\n",
		"etc/scene-seen": "4 amd64\n",
		"etc/systemd/system/ssh.service.d/50-profile.conf": "[Service]\nMemoryMax=512M\n"}, have); d != "" {
		t.Errorf("files of the image (-want +got):\n%s", d)
	}
	l.inspectEveryKey(c)
	cmd := l.command(ordinary, filepath.Join(l.dir, ordinary.name), "verify", "lab:v1", "--offline")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "every bit the same") {
		t.Errorf("ingot verify: %v\n%s", err, out)
	}
}

// inspectEveryKey checks links, folders and what must not be there.
func (l *lab) inspectEveryKey(c *builder.Contents) {
	l.t.Helper()
	const units = "etc/systemd/system/"
	for p, target := range map[string]string{"etc/localtime": "/usr/share/zoneinfo/Europe/Berlin",
		units + "paths.target.wants/scene.path":         "/" + units + "scene.path",
		units + "local-fs.target.wants/scene.automount": "/" + units + "scene.automount"} {
		if e := c.Get(p); e == nil || e.Target != target {
			l.t.Errorf("%s = %+v; want a link to %s", p, e, target)
		}
	}
	for _, p := range []string{"usr/share/bash-completion", "usr/bin/less", "tmp/x",
		units + "multi-user.target.wants/postfix.service", units + "systemd-networkd-wait-online.service", "usr/bin/strace"} {
		if c.Get(p) != nil {
			l.t.Errorf("the image has /%s", p)
		}
	}
	owner := ""
	if text, err := c.ReadFile("etc/passwd"); err == nil {
		for line := range strings.Lines(string(text)) {
			if f := strings.Split(line, ":"); f[0] == "postfix" {
				owner = f[2]
			}
		}
	}
	if text, err := c.ReadFile("etc/scene-user"); err != nil || owner == "" || string(text) != owner+"\n" {
		l.t.Errorf("the script found the uid %q, %v; want %s", text, err, owner)
	}
	if e := c.Get("srv/scene"); e == nil || e.Kind != tree.Dir || e.Mode != 0o750 || owner == "" ||
		strconv.Itoa(e.UID) != owner {
		l.t.Errorf("/srv/scene = %+v; want a folder of postfix (%s) with mode 750", e, owner)
	}
	if arguments := strings.Join(c.Image.Manifest.Arguments, " "); !strings.Contains(arguments, "workers=4") ||
		strings.Contains(arguments, "audit") {
		l.t.Errorf("arguments %q; want workers=4 and no audit", arguments)
	}
}

// newLabOf is newLab with another profile, and a file beside it.
func newLabOf(t *testing.T, profile, file string) *lab {
	t.Helper()
	l := beginLab(t)
	l.must(os.WriteFile(l.profile, []byte(profile), 0o644))
	l.must(os.WriteFile(filepath.Join(l.dir, "scene.txt"), []byte(file), 0o644))
	l.fetch()
	return l
}
