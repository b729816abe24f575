package profiles

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// faultsOf loads a profile of a folder and returns its faults, with paths relative to the folder.
func faultsOf(t *testing.T, dir, name string) (list []string) {
	t.Helper()
	_, err := Load(filepath.Join(dir, name))
	var faults Faults
	if err != nil && !errors.As(err, &faults) {
		t.Fatalf("Load = %v; want Faults", err)
	}
	for _, f := range faults {
		list = append(list, strings.ReplaceAll(f.String(), dir+"/", ""))
	}
	return list
}

const parentProfile = `name: parent
extends: lab
packages: [nginx-light, curl]
keep: [man]
files: [{path: /etc/motd, content: a}, {path: /etc/issue, content: b}]
units: {enable: [a.service, b.service], disable: [c.service], mask: [d.service, -.mount]}
users: [{name: ann, uid: 2000}, {name: bob}]
groups: [{name: g1}, {name: g2}]
kernel: {modules: [mlx5_core, igb], arguments: [quiet, "a=1", --]}
scratch: [/var/lib/x]
volumes: [{name: logs, mount: /var/log}]
checks: [{name: web, http: "http://127.0.0.1/"}]
secrets: {allow: [{path: /etc/k, reason: a test}]}
`

// TestTakeBack: everything that is inherited by name can be taken back by its name, and the rest stays.
func TestTakeBack(t *testing.T) {
	dir := write(t, map[string]string{"parent/profile.yaml": parentProfile, "child/profile.yaml": `name: child
extends: ../parent
packages: [-curl]
keep: [-man]
files: [-/etc/motd]
units: {enable: [-a.service], disable: [-c.service], mask: [-d.service]}
users: [-ann]
groups: [-g1]
kernel: {modules: [-mlx5_core], arguments: [-quiet, -console, -a]}
scratch: [-/var/lib/x]
volumes:
  - -logs
  - -data
  - {name: data, mount: /srv}
checks: [-web]
secrets: {allow: [-/etc/k]}
`})
	p, err := Load(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	parent, err := Load(filepath.Join(dir, "parent"))
	if err != nil {
		t.Fatal(err)
	}
	var gone []string
	for _, d := range Diff(parent, p) {
		if d.After == "" {
			gone = append(gone, d.Key)
		}
	}
	want := []string{"checks{web}.http", "checks{web}.name", "files{/etc/motd}.content", "files{/etc/motd}.path",
		"groups{g1}.name", "keep=man", "kernel.arguments=a=1", "kernel.arguments=console=tty0",
		"kernel.arguments=console=ttyS0,115200", "kernel.arguments=quiet", "kernel.modules=mlx5_core", "packages=curl",
		"scratch=/var/lib/x", "secrets.allow{/etc/k}.path", "secrets.allow{/etc/k}.reason", "units.disable=c.service",
		"units.enable=a.service", "units.mask=d.service", "users{ann}.name", "users{ann}.uid", "volumes{data}.optional",
		"volumes{logs}.mount", "volumes{logs}.name"}
	if d := cmp.Diff(want, gone); d != "" {
		t.Errorf("what was taken back (-want +got):\n%s", d)
	}
	if i := slices.IndexFunc(p.Volumes, func(v Volume) bool { return v.Name == "data" }); p.Volumes[i].Mount != "/srv" {
		t.Errorf("volumes = %+v; want data as the child has it", p.Volumes)
	}
	if !slices.Contains(p.Units.Mask, "-.mount") || !slices.Contains(p.Kernel.Arguments, "--") {
		t.Errorf("mask %v, arguments %v; want the unit -.mount and the argument --", p.Units.Mask, p.Kernel.Arguments)
	}
}

// TestTakeBackNothing: what nobody has cannot be taken back; a fault names the place and the likely name. A
// profile that cannot be read may have it: then there is one fault, about that.
func TestTakeBackNothing(t *testing.T) {
	dir := write(t, map[string]string{"parent/profile.yaml": parentProfile, "child/profile.yaml": `name: child
extends: ../parent
packages: [-ngnix-light, wget, -wget]
checks:
  - -webb
kernel: {arguments: [-noise]}
volumes: [{name: data, mount: /srv}]
`, "lost/profile.yaml": "name: lost\nextends: [gone]\npackages: [-curl]\n",
		"tab/profile.yaml":   "name: tab\n\tpackages: []\n",
		"above/profile.yaml": "name: above\nextends: ../tab\nchecks: [-x]\n"})
	want := []string{
		`child/profile.yaml:3:12: packages: no profile that this one extends has "ngnix-light"; ` +
			`write -nginx-light, or leave it out`,
		`child/profile.yaml:3:32: packages: no profile that this one extends has "wget"; leave -wget out`,
		`child/profile.yaml:5:5: checks: no profile that this one extends has "webb"; write -web, or leave it out`,
		`child/profile.yaml:6:22: kernel.arguments: no profile that this one extends has "noise"; leave -noise out`,
		`child/profile.yaml:7:11: the volume "data" is defined already at shipped/lab/profile.yaml:54:5; ` +
			`choose another name, or take that one back first with the entry -data`,
	}
	got := faultsOf(t, dir, "child")
	for i := range got { // the nearest of the many inherited words is not the subject
		got[i] = strings.Replace(got[i], `write -wget, or leave it out`, "leave -wget out", 1)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
	if got := faultsOf(t, dir, "lost"); len(got) != 1 || !strings.Contains(got[0], `lost/profile.yaml:2:11: extends `+
		`"gone"`) {
		t.Errorf("faults of a profile whose parent is not there:\n%s\nwant one, about that", strings.Join(got, "\n"))
	}
	if got := faultsOf(t, dir, "above"); len(got) != 1 || !strings.Contains(got[0], "tab/profile.yaml") {
		t.Errorf("faults of a profile whose parent is not YAML:\n%s\nwant one, about that", strings.Join(got, "\n"))
	}
}

// TestDiamond: a profile that two others extend counts once and before both, so that it takes back nothing
// of what they say.
func TestDiamond(t *testing.T) {
	dir := write(t, map[string]string{
		"base/profile.yaml": "name: base\nextends: lab\npackages: [htop]\nfiles: [{path: /etc/a, content: base}]\n" +
			"checks: [{name: ssh, tcp: '127.0.0.1:1'}]\ndeadline: 1m\n",
		"left/profile.yaml": "name: left\nextends: ../base\npackages: [-htop]\nfiles: [{path: /etc/a, content: left}]\n" +
			"checks: [{name: ssh, tcp: '127.0.0.1:2'}]\ndeadline: 2m\nunits: {mask: [x.service]}\n",
		"right/profile.yaml": "name: right\nextends: [../left/../base/profile.yaml]\nunits: {enable: [x.service]}\n",
		"both/profile.yaml":  "name: both\nextends: [../left, ../right]\n",
		"again/profile.yaml": "name: again\nextends: [../left, ../base, lab]\n",
	})
	for _, name := range []string{"both", "again"} {
		p, err := Load(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(p.Files, func(f File) bool { return f.Path == "/etc/a" })
		j := slices.IndexFunc(p.Checks, func(c Check) bool { return c.Name == "ssh" })
		if slices.Contains(p.Packages, "htop") || p.Files[i].Content != "left" || p.Checks[j].TCP != "127.0.0.1:2" ||
			time.Duration(p.Deadline) != 2*time.Minute {
			t.Errorf("%s: htop is there: %t, /etc/a is %q, ssh is %s, deadline %v; want all as left says", name,
				slices.Contains(p.Packages, "htop"), p.Files[i].Content, p.Checks[j].TCP, time.Duration(p.Deadline))
		}
		var parents []string
		for _, q := range p.Parents {
			parents = append(parents, q.Name)
		}
		want := map[string][]string{"both": {"right", "left", "base", "lab", "debian"},
			"again": {"left", "base", "lab", "debian"}}[name]
		if d := cmp.Diff(want, parents); d != "" {
			t.Errorf("%s: parents, the nearest first (-want +got):\n%s", name, d)
		}
		if masked := slices.Contains(p.Units.Mask, "x.service"); masked != (name == "again") {
			t.Errorf("%s: x.service is masked: %t; a later profile that enables it unmasks it", name, masked)
		}
	}
}

// TestEnableAndMask: what a profile enables starts although an earlier one masks or disables it; both in
// one file contradict each other.
func TestEnableAndMask(t *testing.T) {
	dir := write(t, map[string]string{
		"on/profile.yaml": "name: on\nextends: lab\nunits: {enable: [systemd-networkd-wait-online.service]}\n",
		"off/profile.yaml": "name: off\nextends: ../on\nunits:\n  mask: [systemd-networkd-wait-online.service]\n" +
			"  disable: [ssh.service]\n",
		"both/profile.yaml": "name: both\nextends: lab\nunits: {enable: [a.timer, b.service], mask: [a.timer], " +
			"disable: [b.service]}\n",
	})
	const unit = "systemd-networkd-wait-online.service"
	for name, masked := range map[string]bool{"on": false, "off": true} {
		p, err := Load(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(p.Units.Mask, unit) != masked {
			t.Errorf("%s: masked units %v; want %s in it: %t", name, p.Units.Mask, unit, masked)
		}
	}
	want := []string{`both/profile.yaml:3:18: the unit "a.timer" is enabled and masked; keep one of them`,
		`both/profile.yaml:3:27: the unit "b.service" is enabled and disabled; keep one of them`}
	if d := cmp.Diff(want, faultsOf(t, dir, "both")); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}

// TestOrigins: every value of a merged profile says where it is written, and the text is read back as
// the same profile.
func TestOrigins(t *testing.T) {
	dir := write(t, map[string]string{"parent/profile.yaml": parentProfile,
		"child/profile.yaml": "name: child\nextends: ../parent\nusers: [{name: ann, shell: /bin/sh}]\n" +
			"files: [{path: /usr/x, content: \"1\\n2\\n\", mode: \"0755\"}]\nram: {budget: 1.5GiB}\n"})
	p, err := Load(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"name": "child/profile.yaml:1:7", "packages=nginx-light": "parent/profile.yaml:3:12",
		"users{ann}.uid": "parent/profile.yaml:7:26", "users{ann}.shell": "child/profile.yaml:3:28",
		"checks{web}.http": "parent/profile.yaml:12:28", "kernel.package": "shipped/lab/profile.yaml:8:15",
		"compression": "", "files{/usr/x}.mode": "child/profile.yaml:4:49",
	} {
		if got := strings.TrimPrefix(p.Origin(key).String(), dir+"/"); got != want {
			t.Errorf("Origin(%q) = %s; want %s", key, got, want)
		}
	}
	for _, v := range p.Values() {
		if p.Origin(v.Key).File == "" && v.Key != "compression" && v.Key != "hostname" && v.Key != "volumes{data}.identity" {
			t.Errorf("%s has no origin", v.Key)
		}
	}
	text, err := p.Text(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- nginx-light # ", "parent/profile.yaml:3:12\n", "compression: balanced # default\n",
		"budget: 1536MiB # ", "mode: '0755' # "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the text with origins does not have %q:\n%s", want, text)
		}
	}
	for _, origins := range []bool{true, false} {
		if text, err = p.Text(origins); err != nil {
			t.Fatal(err)
		}
		back := write(t, map[string]string{"p.yaml": string(text)})
		q, err := Load(filepath.Join(back, "p.yaml"))
		if err != nil {
			t.Fatalf("the text is not a profile: %v\n%s", err, text)
		}
		if d := Diff(p, q); len(d) > 0 {
			t.Errorf("the text reads back as another profile: %v", d)
		}
	}
}
