package profiles

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSettingsMerge: settings of a later profile replace inherited ones and the inherited files at their
// paths, and can be taken back by name.
func TestSettingsMerge(t *testing.T) {
	dir := write(t, map[string]string{
		"a/profile.yaml": `name: a
extends: lab
packages: [locales, nginx=1.26*]
locale: de_DE.UTF-8
sysctl: {vm.swappiness: 10, net.ipv4.ip_forward: 1}
debconf: ["postfix postfix/mailname string a", "postfix postfix/type select b", "tzdata tzdata/Areas select Etc"]
remove: [/usr/share/x, /usr/share/y]
kernel: {load: [br_netfilter], blacklist: [nouveau]}
files: [{path: /etc/timezone, content: x}]
units:
  presets: ["enable a.service", "disable *"]
  dropIns: {a.service: "[Service]\n", b.service: "[Service]\n"}
`, "b/profile.yaml": `name: b
extends: ../a
packages: [nginx/trixie-backports]
timezone: Europe/Berlin
sysctl: {vm.swappiness: null, net.ipv4.ip_forward: 0}
debconf: ["postfix postfix/mailname string c", "-postfix postfix/type"]
remove: [-/usr/share/x]
kernel: {load: [-br_netfilter], blacklist: [-nouveau]}
files: [{path: /etc/default/locale, content: mine}]
units:
  presets: ["enable b.service"]
  dropIns: {a.service: }
`})
	p, err := Load(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Sysctl) != 1 || *p.Sysctl["net.ipv4.ip_forward"] != "0" || len(p.Units.DropIns) != 1 ||
		len(p.Kernel.Load)+len(p.Kernel.Blacklist) != 0 {
		t.Errorf("sysctl %v, drop-ins %v, kernel %+v", p.Sysctl, p.Units.DropIns, p.Kernel)
	}
	for name, c := range map[string][2][]string{
		"debconf": {p.Debconf, {"tzdata tzdata/Areas select Etc", "postfix postfix/mailname string c"}},
		"remove":  {p.Remove, {"/usr/share/y"}},
		"presets": {p.Units.Presets, {"enable b.service", "enable a.service", "disable *"}},
		"preseed": {p.Preseed(), append([]string{"locales locales/locales_to_be_generated multiselect de_DE.UTF-8 UTF-8",
			"locales locales/default_environment_locale select de_DE.UTF-8"}, p.Debconf...)},
	} {
		if d := cmp.Diff(c[1], c[0]); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	has := func(path string) bool {
		return slices.ContainsFunc(p.Files, func(f File) bool { return f.Path == path })
	}
	if has("/etc/timezone") || !has("/etc/default/locale") {
		t.Errorf("files: timezone %t, locale %t; want the key timezone in place of the file, and the later file of the "+
			"locale", has("/etc/timezone"), has("/etc/default/locale"))
	}
	if slices.Contains(p.Packages, "nginx=1.26*") || !p.HasPackage("nginx") {
		t.Errorf("packages %v; want one version of nginx", p.Packages)
	}
}

// TestKernelSettings: parameters of modules merge by module, files of the initramfs by path, and an argument of the
// kernel may have spaces between quotes.
func TestKernelSettings(t *testing.T) {
	dir := write(t, map[string]string{"a/profile.yaml": `name: a
extends: lab
kernel:
  options: {e1000e: "IntMode=1,1 Debug=2", nvme-core: io_timeout=30, loop: max_loop=8}
  initramfs: [/etc/a, /etc/b]
`, "b/profile.yaml": `name: b
extends: ../a
kernel:
  options: {e1000e: Debug=1, loop: null}
  initramfs: [-/etc/a, /etc/c]
  arguments: ['dyndbg="file drivers/net/* +p"', 'x="y"']
`, "bad.yaml": `name: bad
extends: lab
kernel:
  options: {"a b": x=1, loop: "", nbd: "a=1 # b"}
  initramfs: [etc/a, /etc/*, /etc/, /etc/a/../b]
  arguments: ['"a b"', 'a="b', 'a="b  c"', 'a="b ${x}"', ' a']
`})
	p, err := Load(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Kernel.Options) != 2 || *p.Kernel.Options["e1000e"] != "Debug=1" ||
		*p.Kernel.Options["nvme-core"] != "io_timeout=30" {
		t.Errorf("options %v; want those of e1000e and nvme-core", p.Kernel.Options)
	}
	if d := cmp.Diff([]string{"/etc/b", "/etc/c"}, p.Kernel.Initramfs); d != "" {
		t.Errorf("initramfs (-want +got):\n%s", d)
	}
	if !slices.Contains(p.Kernel.Arguments, `dyndbg="file drivers/net/* +p"`) {
		t.Errorf("arguments %q", p.Kernel.Arguments)
	}
	const parameters, file = "; write: e1000e: IntMode=1,1 Debug=2", " cannot be a file of the initramfs; write "
	const example, argument = "an absolute path such as /etc/iscsi/initiatorname.iscsi", " cannot be a kernel argument; " +
		"write one argument per entry, none of ingot's own; spaces go between double quotes after ="
	want := []string{
		`bad.yaml:4:20: "a b" cannot be a kernel module` + parameters,
		`bad.yaml:4:31: "" cannot be parameters of loop` + parameters,
		`bad.yaml:4:40: "a=1 # b" cannot be parameters of nbd` + parameters,
		`bad.yaml:5:15: "etc/a"` + file + example,
		`bad.yaml:5:22: "/etc/*"` + file + example,
		`bad.yaml:5:30: "/etc/"` + file + example,
		`bad.yaml:5:37: "/etc/a/../b"` + file + `/etc/b`,
		`bad.yaml:6:15: "\"a b\""` + argument,
		`bad.yaml:6:24: "a=\"b"` + argument,
		`bad.yaml:6:32: "a=\"b  c\""` + argument,
		`bad.yaml:6:44: "a=\"b ${x}\""` + argument,
		`bad.yaml:6:58: " a"` + argument,
	}
	if d := cmp.Diff(want, faultsOf(t, dir, "bad.yaml")); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}

// TestFaultsOfSettings: each wrong use has one message with its place and what to write.
func TestFaultsOfSettings(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: p
extends: lab
locale: german
timezone: "Europe Berlin"
keyboard: {variant: x}
sysctl: {"a b": 1, vm.swappiness: null}
swap: {zram: half, algorithm: gzip}
debconf: [postfix, "a a/b strin x", "a a/b password x"]
remove: [usr/x, /usr, "/us*"]
kernel: {load: [drivers/net/], blacklist: ["@net"]}
units:
  presets: [enable]
  dropIns: {ssh: "[Service]", ssh.service: "MemoryMax=1"}
  enable: [x.swap, y.automount, z.path]
files:
  - {path: /srv/d, directory: true, content: x}
  - {path: /etc/timezone, content: x}
packages: ["nginx=", "nginx=1.26*", a/b/c]
`, "needs.yaml": "name: needs\nextends: lab\nlocale: de_DE.UTF-8\nkeyboard: {layout: de}\nswap: {zram: 50%}\n"})
	want := []string{
		`p.yaml:3:9: "german" cannot be a locale; write a UTF-8 locale such as de_DE.UTF-8, or C.UTF-8`,
		`p.yaml:4:11: "Europe Berlin" cannot be a time zone; write a name such as Europe/Berlin or Etc/UTC`,
		`p.yaml:5:11: the keyboard has no layout; write: keyboard: {layout: de}`,
		`p.yaml:6:17: "a b" cannot be a setting of the kernel; write: net.ipv4.ip_forward: 1`,
		`p.yaml:6:35: sysctl: no profile that this one extends has "vm.swappiness"; write its value, or leave it out`,
		`p.yaml:7:14: "half" cannot be the size of zram; write a part of the memory such as 50%, or a size such as 4GiB`,
		`p.yaml:7:31: unknown compression "gzip"; write zstd, lz4 or lzo-rle`,
		`p.yaml:8:11: "postfix" cannot be an answer to debconf; write PACKAGE QUESTION TYPE VALUE, as ` +
			`debconf-get-selections ` +
			`prints it`,
		`p.yaml:8:20: unknown type "strin" of a question; write one of string, boolean, select, multiselect, note`,
		`p.yaml:8:37: the answer to "a/b" is a password, and everybody who reaches the boot server can read it; set the ` +
			`password on the machine, or for a login with users: passwordHash`,
		`p.yaml:9:10: "usr/x" cannot be a path in the root; write an absolute path such as /usr/share/doc/x`,
		`p.yaml:9:17: "/usr" would remove a folder that every system needs; write the paths below it`,
		`p.yaml:9:23: "/us*" would remove a folder that every system needs; write the paths below it`,
		`p.yaml:10:17: "drivers/net/" cannot be a kernel module; write a module such as br_netfilter`,
		`p.yaml:10:44: "@net" cannot be a kernel module; write a module such as nouveau`,
		`p.yaml:12:13: "enable" cannot be a preset; write "enable PATTERN" or "disable PATTERN"`,
		`p.yaml:13:18: "ssh" cannot be a systemd unit; write the whole name such as ssh.service`,
		`p.yaml:13:44: the drop-in of "ssh.service" has no section; begin it with a section such as [Service]`,
		`p.yaml:16:5: the file "/srv/d" is given in 2 ways; keep one of content, source, link and directory`,
		`p.yaml:17:5: the key timezone makes the file /etc/timezone, too; keep one of them`,
		`p.yaml:18:12: "nginx=" cannot be a package name; write NAME, NAME=1.26*, NAME/trixie-backports or ./FILE.deb; ` +
			`exact ` +
			`versions are ` +
			`pinned by the plan`,
		`p.yaml:18:37: "a/b/c" cannot be a package name; write NAME, NAME=1.26*, NAME/trixie-backports or ./FILE.deb; ` +
			`exact ` +
			`versions are ` +
			`pinned by the plan`,
	}
	if d := cmp.Diff(want, faultsOf(t, dir, "p.yaml")); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
	want = []string{`needs.yaml:3:9: locale needs the package locales; add it to packages`,
		`needs.yaml:4:20: keyboard needs the package console-setup; add it to packages`,
		`needs.yaml:5:14: swap.zram needs the package systemd-zram-generator; add it to packages`}
	if d := cmp.Diff(want, faultsOf(t, dir, "needs.yaml")); d != "" {
		t.Errorf("faults of missing packages (-want +got):\n%s", d)
	}
}

// TestFaultsOfRepositories: a repository is signed, and its URL has no secrets.
func TestFaultsOfRepositories(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: p
extends: lab
repositories:
  - {name: a, uris: "https://a.example/debian", suites: trixie, components: main}
  - {name: b, uris: "https://u:p@a.example/", suites: ./, key: gone.asc}
  - {name: security, uris: a.example, suites: trixie, key: bad.asc}
  - {name: c, suites: trixie, components: main, key: good.asc, pin: 2000}
  - {name: c, uris: "https://c.example", suites: trixie, components: main, key: good.asc}
  - -d
`, "bad.asc": "x", "good.asc": armoured + "\n"})
	want := []string{
		`p.yaml:4:5: repository "a" has no key; write key: FILE, with the OpenPGP key that signs it; there is no way to ` +
			`trust ` +
			`a repository without one`,
		`p.yaml:5:5: repository "b": the URL has a user or a query, and would be in every image; use a ` +
			`mirror that asks for no credentials`,
		`p.yaml:5:5: the key "gone.asc" of repository "b" does not exist; put it beside the profile`,
		`p.yaml:6:5: "security" cannot be the name of a repository; write lower-case letters, digits and dashes, and ` +
			`neither ` +
			`debian nor security`,
		`p.yaml:6:5: repository "security": "a.example" is not a URL; write a URL such as https://packages.example/debian`,
		`p.yaml:6:5: repository "security": "trixie" cannot be a suite; write suites and components, such as trixie and ` +
			`main, or a path that ends with / and no components`,
		`p.yaml:6:5: the key "bad.asc" of repository "security" is not an OpenPGP public key; write a file that gpg ` +
			`--export ` +
			`makes, or gpg --export --armor`,
		`p.yaml:7:5: repository "c" has no URL; write uris`,
		`p.yaml:7:5: repository "c": 2000 cannot be a priority; write a number from 1 to 1000`,
		`p.yaml:8:5: the repository "c" is defined already at line 7; keep one of them`,
		`p.yaml:9:5: repositories: no profile that this one extends has "d"; leave -d out`,
	}
	got := faultsOf(t, dir, "p.yaml")
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}
