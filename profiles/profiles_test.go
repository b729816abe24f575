package profiles

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestShippedProfilesLoad(t *testing.T) {
	for _, name := range []string{"lab", "node"} {
		p, err := Load(name)
		if err != nil {
			t.Errorf("Load(%q): %v", name, err)
			continue
		}
		if p.Base.Suite != "trixie" || !slices.Contains(p.Packages, "openssh-server") {
			t.Errorf("Load(%q) does not inherit from debian: suite %q, packages %v", name, p.Base.Suite, p.Packages)
		}
	}
	if _, err := Load("debian"); err == nil || !strings.Contains(err.Error(), "no kernel package") {
		t.Errorf(`Load("debian") = %v; want a fault about the kernel it does not have`, err)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("profile.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("profile.schema.json is stale; run: bin/ingot profile schema > profiles/profile.schema.json\n%s", d)
	}
}

// write makes a folder of files and returns its path.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestEveryFaultAtOnce: one run names all that is wrong, where, and the fix.
func TestEveryFaultAtOnce(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: Web_1
extends: lab
pakages: [nginx]
packages: nginx
files:
  - path: etc/motd
    content: hello
    mode: "0999"
  - path: /etc/x
    source: ../x
    colour: red
volumes:
  - name: data
    mount: /srv
  - name: logs
    mount: /var/log
    optional: maybe
  - name: logs
    mount: /var/log2
ram: {budget: lots}
deadline: 5 apples
kernel:
  arguments: ["a b"]
units: {enable: [nginx]}
name: again
`})
	_, err := Load(filepath.Join(dir, "p.yaml"))
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("Load = %v; want Faults", err)
	}
	var got []string
	for _, f := range faults {
		f.Place.File = filepath.Base(f.Place.File)
		got = append(got, f.String())
	}
	want := []string{
		`p.yaml:1:7: "Web_1" cannot be a profile name; write lower-case letters, digits and dashes, at most 63`,
		`p.yaml:3:1: unknown key "pakages"; write "packages"`,
		`p.yaml:4:11: packages is a single value, not a list; write a list: [nginx]`,
		`p.yaml:6:5: "etc/motd" cannot be a path in the root; write an absolute path such as /etc/motd`,
		`p.yaml:8:11: mode: "0999" is not a file mode; write octal digits such as "0644" or "0755"`,
		`p.yaml:9:5: the source "../x" is outside the profile's folder; write a path below the profile's folder, without ..`,
		`p.yaml:11:5: unknown key "colour"; known keys: path, content, source, template, ` +
			`link, directory, mode, owner, group`,
		`p.yaml:13:5: the volume "data" is defined already at shipped/lab/profile.yaml:54:5; choose another name, or ` +
			`take that one back first with the entry -data`,
		`p.yaml:17:15: optional is "maybe"; write true or false`,
		`p.yaml:18:5: the volume "logs" is defined already at line 15; keep one of them`,
		`p.yaml:20:15: budget: "lots" is not a size; write a number of bytes, or 512MiB, 2GiB`,
		`p.yaml:21:11: deadline: "5 apples" is not a duration; write 90s, 5m or 1h`,
		`p.yaml:23:15: "a b" cannot be a kernel argument; write one argument per entry, none of ingot's own; ` +
			`spaces go between double quotes after =`,
		`p.yaml:24:18: "nginx" cannot be a systemd unit; write the whole name such as ssh.service`,
		`p.yaml:25:1: the key "name" is written twice; keep one of them`,
	}
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], dir+"/", "")
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("faults differ (-want +got):\n%s", d)
	}
}

func TestCircleOfExtends(t *testing.T) {
	dir := write(t, map[string]string{
		"a.yaml": "name: a\nextends: b.yaml\n",
		"b.yaml": "name: b\nextends: [a.yaml]\n",
	})
	_, err := Load(filepath.Join(dir, "a.yaml"))
	if err == nil || !strings.Contains(err.Error(), "b.yaml:2:11: the profiles extend each other") {
		t.Errorf("Load = %v; want a circle named at b.yaml:2:11", err)
	}
}

func TestMerge(t *testing.T) {
	dir := write(t, map[string]string{
		"web/profile.yaml": `name: web
extends: [lab]
packages: [nginx-light, -less]
files:
  - {path: /etc/fstab, content: "mine"}
  - {path: /usr/share/x, source: data/x, mode: 755}
users:
  - {name: root, authorizedKeys: ["ssh-ed25519 AAAA me@home"]}
kernel: {arguments: [quiet]}
ram: {budget: 1.5GiB}
`, "web/data/x": "the source\n"})
	p, err := Load(filepath.Join(dir, "web"))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(p.Packages, "less") || !slices.Contains(p.Packages, "nginx-light") {
		t.Errorf("Packages = %v; want nginx-light and no less", p.Packages)
	}
	if p.RAM.Budget != 3<<29 || p.RAM.Overlay != 256<<20 || p.Name != "web" {
		t.Errorf("scalars not merged: %+v, name %q", p.RAM, p.Name)
	}
	if !slices.Contains(p.Kernel.Arguments, "quiet") || !slices.Contains(p.Kernel.Arguments, "console=tty0") {
		t.Errorf("Arguments = %v; want those of lab and quiet", p.Kernel.Arguments)
	}
	for _, f := range p.Files {
		if f.Path == "/etc/fstab" && f.Content != "mine" {
			t.Errorf("content of /etc/fstab = %q; want %q", f.Content, "mine")
		}
		if f.Path == "/usr/share/x" {
			r, err := p.Open(f)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if f.Mode != 0o755 {
				t.Errorf("mode = %o; want 755", f.Mode)
			}
		}
	}
	if len(p.Volumes) != 1 || !p.Volumes[0].Identity {
		t.Errorf("Volumes = %+v; want data with the identity", p.Volumes)
	}
}

// TestParents: a profile knows what it extends, the nearest first: its lock inherits numbers of accounts.
func TestParents(t *testing.T) {
	dir := write(t, map[string]string{
		"pg/profile.yaml":   "name: pg\nextends: node\nusers: [{name: postgres, uid: 5432}]\ngroups: [{name: g, gid: 7}]\n",
		"pg2/profile.yaml":  "name: pg2\nextends: [lab, ../pg]\nusers: [{name: postgres, gid: 5433}]\ngroups: [{name: g}]\n",
		"over/profile.yaml": "name: over\nextends: ../pg2\nusers: [{name: Debian-snmp, uid: 5434}]\n",
		"bad/profile.yaml": "name: bad\nextends: node\nusers: [{name: a, uid: 65535}]\n" +
			"groups: [{name: 'b c'}, {name: x, gid: 65535}]\n",
	})
	t.Chdir(dir) // where no folder has the name of a shipped profile
	p, err := Load(filepath.Join(dir, "over"))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(dir, name, "profile.yaml") }
	want := []Parent{{"pg2", file("pg2")}, {"pg", file("pg")}, {"node", ""}, {"lab", ""}, {"debian", ""}}
	if d := cmp.Diff(want, p.Parents); d != "" {
		t.Errorf("Parents (-want +got):\n%s", d)
	}
	i := slices.IndexFunc(p.Users, func(u User) bool { return u.Name == "postgres" })
	if u := p.Users[i]; u.UID != 5432 || u.GID != 5433 {
		t.Errorf("postgres = %+v; want the numbers of both profiles", u)
	}
	if len(p.Groups) != 1 || p.Groups[0].GID != 7 {
		t.Errorf("groups = %+v; want the number of the profile that is extended", p.Groups)
	}
	_, err = Load(filepath.Join(dir, "bad"))
	for _, want := range []string{"65535 cannot be a uid", `"b c" cannot be a group name`, "65535 cannot be a gid"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the faults do not have %q: %v", want, err)
		}
	}
}

// TestRescue: the profile has no volume, so that no disk is mounted, and permits a shell in the initramfs,
// which a profile that extends it can forbid. A profile that permits one names the package of it.
func TestRescue(t *testing.T) {
	p, err := Load("rescue")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Volumes) > 0 || !p.PermitsShell() || len(p.Users) > 0 {
		t.Errorf("rescue has volumes %v, a shell: %t, users %v", p.Volumes, p.PermitsShell(), p.Users)
	}
	dir := write(t, map[string]string{
		"own.yaml":  "name: own\nextends: rescue\nrescueShell: false\n",
		"none.yaml": "name: none\nextends: node\nrescueShell: true\n",
	})
	if p, err = Load(filepath.Join(dir, "own.yaml")); err != nil || p.PermitsShell() {
		t.Errorf("a profile that forbids the shell: %v, %v", p, err)
	}
	if _, err = Load(filepath.Join(dir, "none.yaml")); err == nil ||
		!strings.Contains(err.Error(), "rescueShell needs the package busybox-static; add it to packages") {
		t.Errorf("a profile without the shell's package: %v", err)
	}
}

func TestNoSuchProfile(t *testing.T) {
	_, err := Load("nothing-here")
	if !errors.Is(err, ErrNoProfile) || !strings.Contains(err.Error(), "debian, lab, node, rescue") {
		t.Errorf("Load = %v; want ErrNoProfile and the shipped names", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("name: a\nextends: lab\nfiles: [{path: /x, mode: 0644}]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("- 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "p.yaml")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		_, _ = Load(path) // must return, whatever it thinks of the content
	})
}
