package inspect_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/inspect"
	"ingot/builder/tree"
)

func TestOSRelease(t *testing.T) {
	const text = "NAME=\"Debian GNU/Linux\"\n# ID=comment\nID=debian\n  VERSION_ID='13'\n"
	for key, want := range map[string]string{
		"NAME": "Debian GNU/Linux", "ID": "debian", "VERSION_ID": "13", "VARIANT": "", "VERSION": "",
	} {
		if got := inspect.OSRelease(text, key); got != want {
			t.Errorf("OSRelease(%q) = %q; want %q", key, got, want)
		}
	}
}

func TestFindUnit(t *testing.T) {
	root := buildertest.UsersTree(t)
	if err := root.PutFile("etc/systemd/system/ssh.service", 0o644, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"ssh.service":        "etc/systemd/system/ssh.service", // /etc is searched before /usr/lib
		"apt.timer":          "usr/lib/systemd/system/apt.timer",
		"getty@tty1.service": "usr/lib/systemd/system/getty@.service",
		"getty@tty1.timer":   "", "gone.service": "",
	} {
		if got := inspect.FindUnit(root, name); got != want {
			t.Errorf("FindUnit(%q) = %q; want %q", name, got, want)
		}
	}
}

// TestPackages: only installed packages are listed, and their files are theirs under any name of
// their folder.
func TestPackages(t *testing.T) {
	root := buildertest.PackagedTree(t)
	list, err := inspect.Packages(root)
	if err != nil || len(list) != 1 {
		t.Fatalf("Packages = %+v, %v; want one", list, err)
	}
	const md5OfApp = "d2a57dc1d883fd21fb9951699df71cc7"
	want := inspect.Package{Name: "app", Version: "1.0", Arch: "amd64",
		Conffiles: map[string]string{"etc/app.conf": md5OfApp, "etc/same.conf": md5OfApp}}
	if d := cmp.Diff(want, list[0]); d != "" {
		t.Errorf("Packages (-want +got):\n%s", d)
	}
	owners, err := inspect.Owners(root, "linux-image-4.19")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"usr/bin/app": "app", "usr/lib/app": "app", "etc/mine.conf": "",
		"usr/lib/modules/4.19/old.ko": "linux-image-4.19"} {
		if got := owners[path]; got != want {
			t.Errorf("the owner of /%s is %q; want %q", path, got, want)
		}
	}
	if list, err := inspect.Packages(tree.New()); err != nil || list != nil {
		t.Errorf("Packages of an empty root = %v, %v; want none", list, err)
	}
}

func TestMissing(t *testing.T) {
	if m := inspect.Missing(buildertest.SystemdTree(t)); m.Init || len(m.Parts) > 0 || m.Fix != "" {
		t.Errorf("Missing(a whole system) = %+v; want nothing", m)
	}
	for release, want := range map[string]string{
		"ID=ubuntu\nID_LIKE=debian\n": "apt-get install systemd systemd-sysv udev dbus openssh-server",
		"ID=rhel\n":                   "dnf install systemd systemd-udev systemd-networkd dbus-broker openssh-server",
		"ID=nixos\n":                  "",
	} {
		root := tree.New()
		if err := root.PutFile("etc/os-release", 0o644, []byte(release)); err != nil {
			t.Fatal(err)
		}
		if m := inspect.Missing(root); !m.Init || m.Parts[0] != inspect.InitSystem || m.Fix != want {
			t.Errorf("Missing(%q) = %+v; want all parts and %q", release, m, want)
		}
	}
}

func TestIsPurged(t *testing.T) {
	for p, want := range map[string]bool{"/etc/machine-id": true, "var/log/apt/term.log": true, "/tmp/x/y": true,
		"/etc/ssh/ssh_host_rsa_key": true, "/etc/ssh": false, "/etc": false, "/": false, "/var/log/x/y.log": false} {
		if got := inspect.IsPurged(p); got != want {
			t.Errorf("IsPurged(%q) = %v; want %v", p, got, want)
		}
	}
}
