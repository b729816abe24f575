package builder

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/profiles"
)

func read(t *testing.T, tr *tree.Tree, p string) string {
	t.Helper()
	b, err := tr.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestUsers(t *testing.T) {
	tr := buildertest.UsersTree(t)
	_, err := addUsers(tr, []profiles.User{
		{Name: "root", AuthorizedKeys: []string{"ssh-ed25519 AAAA a"}},
		{Name: "ops", Groups: []string{"sudo"}, AuthorizedKeys: []string{"ssh-ed25519 BBBB b"}, PasswordHash: "$y$x"},
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"etc/passwd": "ops:x:1000:1000::/home/ops:/bin/bash", "etc/shadow": "ops:$y$x::0:99999:7:::",
		"etc/group": "sudo:x:27:ops", "etc/gshadow": "sudo:*::ops",
		"root/.ssh/authorized_keys": "ssh-ed25519 AAAA a", "home/ops/.ssh/authorized_keys": "ssh-ed25519 BBBB b",
	} {
		if got := read(t, tr, p); !strings.Contains(got, want+"\n") {
			t.Errorf("%s =\n%s\nwant the line %s", p, got, want)
		}
	}
	if e := tr.Get("home/ops/.ssh/authorized_keys"); e.UID != 1000 || e.Mode != 0o600 {
		t.Errorf("authorized_keys: uid %d, mode %o; want 1000, 600", e.UID, e.Mode)
	}
	if e := tr.Get("etc/shadow"); e.Mode != 0o640 {
		t.Errorf("mode of shadow = %o; want what it was", e.Mode)
	}
	if _, err := addUsers(tr, []profiles.User{{Name: "x", Groups: []string{"nogroup"}}}, nil, nil); err == nil ||
		!strings.Contains(err.Error(), `no group "nogroup"`) {
		t.Errorf("an unknown group = %v", err)
	}
	if _, err := addUsers(tr, []profiles.User{{Name: "y", UID: 33}}, nil, nil); err == nil ||
		!strings.Contains(err.Error(), "uid 33 is taken") {
		t.Errorf("a uid that is taken = %v", err)
	}
}

// nowhere is the place of what a test invents.
func nowhere(string) profiles.Place { return profiles.Place{} }

// TestUnmask: enabling a unit that a package or a layer masks in /etc unmasks it; one that is masked where
// packages keep their units is an error with the place in the profile.
func TestUnmask(t *testing.T) {
	tr := buildertest.UsersTree(t)
	if err := errors.Join(tr.PutLink("etc/systemd/system/ssh.service", "/dev/null"),
		tr.PutLink("usr/lib/systemd/system/x11.service", "/dev/null")); err != nil {
		t.Fatal(err)
	}
	if err := setUnits(tr, profiles.Units{Enable: []string{"ssh.service"}}, nowhere); err != nil {
		t.Fatal(err)
	}
	if e := tr.Get("etc/systemd/system/multi-user.target.wants/ssh.service"); e == nil ||
		tr.Get("etc/systemd/system/ssh.service") != nil {
		t.Errorf("ssh.service is wanted by %+v; the mask is %+v", e, tr.Get("etc/systemd/system/ssh.service"))
	}
	err := setUnits(tr, profiles.Units{Enable: []string{"x11.service"}}, func(key string) profiles.Place {
		return profiles.Place{File: key, Line: 3, Column: 4}
	})
	if err == nil || !strings.HasPrefix(err.Error(), "units.enable=x11.service:3:4: enabling x11.service: ") ||
		!strings.Contains(err.Error(), "masks it with the link /usr/lib/systemd/system/x11.service; add a unit of your own") {
		t.Errorf("enabling a unit that a package masks = %v", err)
	}
}

func TestUnits(t *testing.T) {
	tr := buildertest.UsersTree(t)
	err := setUnits(tr, profiles.Units{Enable: []string{"ssh.service", "getty@ttyS1.service"},
		Mask: []string{"apt.timer"}}, nowhere)
	if err != nil {
		t.Fatal(err)
	}
	const dir = "etc/systemd/system/"
	for link, target := range map[string]string{
		"multi-user.target.wants/ssh.service":    "/usr/lib/systemd/system/ssh.service",
		"sshd.service":                           "/usr/lib/systemd/system/ssh.service",
		"ssh.service.requires/ssh-keys.service":  "/usr/lib/systemd/system/ssh-keys.service",
		"getty.target.wants/getty@ttyS1.service": "/usr/lib/systemd/system/getty@.service", "apt.timer": "/dev/null",
	} {
		if e := tr.Get(dir + link); e == nil || e.Target != target {
			t.Errorf("%s = %+v; want a link to %s", link, e, target)
		}
	}
	if tr.Get(dir+"timers.target.wants/apt.timer") != nil {
		t.Error("a masked timer is still wanted")
	}
	if err := setUnits(tr, profiles.Units{Enable: []string{"nothing.service"}}, nowhere); err == nil ||
		!strings.Contains(err.Error(), "no such unit") {
		t.Errorf("enabling what is not there = %v", err)
	}
}

func TestFiles(t *testing.T) {
	tr := buildertest.UsersTree(t)
	if err := addFile(tr, profiles.File{Path: "/srv/x", Owner: "www-data", Group: "33", Mode: 0o4750},
		[]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if e := tr.Get("srv/x"); e.UID != 33 || e.GID != 33 || e.Mode != 0o4750 {
		t.Errorf("/srv/x = %+v; want 33:33 mode 4750", e)
	}
	if err := addFile(tr, profiles.File{Path: "/srv/y", Owner: "nobody-here"}, nil); err == nil ||
		!strings.Contains(err.Error(), "nobody-here") {
		t.Errorf("an unknown owner = %v", err)
	}
	if err := addFile(tr, profiles.File{Path: "/etc"}, nil); err == nil {
		t.Error("a file replaces /etc")
	}
}

func TestBudget(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(root, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(root, 300<<20); err != nil {
		t.Fatal(err)
	}
	f := image.Files{Root: root}
	if err := checkBudget(&ingot.ImageManifest{MinRAM: 1 << 30, Overlay: 256 << 20}, f); err != nil {
		t.Errorf("300 + 256 + 256 MiB in 1 GiB: %v", err)
	}
	err := checkBudget(&ingot.ImageManifest{MinRAM: 1 << 30, Overlay: 512 << 20}, f)
	if err == nil || !strings.Contains(err.Error(), "root 300 MiB + overlay 512 MiB + running system 256 MiB = 1068 "+
		"MiB, the budget is 1024 MiB") {
		t.Errorf("300 + 512 + 256 MiB in 1 GiB = %v; want the sum", err)
	}
}

func TestPlanDigest(t *testing.T) {
	p := &Plan{Format: 1, Profile: &profiles.Profile{Name: "x"}}
	q := &Plan{Format: 2, Profile: &profiles.Profile{Name: "x"}}
	first := p.Digest()
	if first == "" || p.Digest() != first || q.Digest() == first {
		t.Errorf("digests %s, %s, %s; want stable and different", first, p.Digest(), q.Digest())
	}
}

// TestPlanIsRead: what Verify reads of an image is what Resolve made.
func TestPlanIsRead(t *testing.T) {
	for _, name := range []string{"lab", "node"} {
		p, err := profiles.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		p.Files = append(p.Files, profiles.File{Path: "/etc/x", Mode: 0o4750, Content: "ü"})
		text, err := (&Plan{Format: PlanFormat, Profile: p}).Canonical()
		if err != nil {
			t.Fatal(err)
		}
		var plan Plan
		if err := json.Unmarshal(text, &plan); err != nil {
			t.Fatal(err)
		}
		if again, err := plan.Canonical(); err != nil || string(again) != string(text) {
			t.Errorf("the plan of %s changes when it is read (%v):\n%s\n%s", name, err, text, again)
		}
	}
}

// TestCheckInit: what is built is what the profile's machines can run.
func TestCheckInit(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		arch ingot.Arch
		want string // empty: it is taken
	}{
		{os.Args[0], ingot.Arch(runtime.GOARCH), ""},
		{os.Args[0], map[string]ingot.Arch{"amd64": ingot.ARM64, "arm64": ingot.AMD64}[runtime.GOARCH], "is for another " +
			"architecture"},
		{text, ingot.AMD64, "is not an ELF program"},
	} {
		err := checkInit(c.path, c.arch)
		if c.want == "" && err != nil || c.want != "" &&
			(!errors.Is(err, ErrNotBootable) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("checkInit(%s, %s) = %v; want …%s…", c.path, c.arch, err, c.want)
		}
	}
}

// TestScriptsLeaveSources: a script may not change what verification takes from the image.
func TestScriptsLeaveSources(t *testing.T) {
	tr := buildertest.UsersTree(t)
	if err := tr.PutFile("etc/app", 0o644, []byte("changed")); err != nil {
		t.Fatal(err)
	}
	f := profiles.File{Path: "/etc/app", Source: "app", At: profiles.Place{File: "p.yaml", Line: 3, Column: 5}}
	p := &profiles.Profile{Files: []profiles.File{f}}
	b := &build{p: p, plan: &Plan{Profile: p, Sources: map[string]ingot.Digest{"/etc/app": ingot.DigestOf([]byte("app"))}}}
	if err := b.checkSources(tr); err != nil {
		t.Errorf("a profile without scripts: %v", err)
	}
	p.Scripts.Finish = []profiles.Script{{Name: "x"}}
	err := b.checkSources(tr)
	if !errors.Is(err, source.ErrProfileScript) || !strings.HasPrefix(err.Error(), "p.yaml:3:5: a script of the profile "+
		"failed: it changed or removed /etc/app") {
		t.Errorf("a script that changed a source: %v", err)
	}
	if err := tr.PutFile("etc/app", 0o644, []byte("app")); err != nil {
		t.Fatal(err)
	}
	if err := b.checkSources(tr); err != nil {
		t.Errorf("a script that left it alone: %v", err)
	}
}
