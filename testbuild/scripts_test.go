//go:build e2e

package testbuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ownMirror is a scene whose mirror has Debian's packages of the lab profile, and one's own.
func ownMirror(t *testing.T, debs ...Deb) *scene {
	t.Helper()
	l := newLab(t)
	s := newScene(t)
	files, _ := filepath.Glob(filepath.Join(l.dir, "debs/*.deb"))
	for _, d := range files {
		l.must(s.m.AddFile(d, filepath.Base(d)))
	}
	for _, d := range append(debs, Deb{Name: "linux-image-cloud-amd64", Version: "1",
		Fields: "Depends: " + l.kernel() + "\n"}) {
		l.must(s.m.Add(l.ctx, d))
	}
	s.publish(Release{})
	s.profile = filepath.Join(s.dir, "lab.yaml")
	return s
}

// lottery is a package whose script makes a private key, a file that differs each time, and one
// that is known.
var lottery = Deb{Name: "lottery", Version: "1", Files: map[string]string{"DEBIAN/postinst": `#!/bin/sh
set -e
mkdir -p /etc/lottery /etc/munge
head -c 100 /dev/urandom >/etc/lottery/seed
(echo "-----BEGIN PRIVATE KEY-----"
head -c 96 /dev/urandom | base64
echo "-----END PRIVATE KEY-----") >/etc/lottery/key
head -c 128 /dev/urandom >/etc/munge/munge.key
chmod 600 /etc/munge/munge.key
`}}

// TestSceneRandomScripts: what a package makes at random fails the build, with its path and the way
// to allow it; what is known is not in the image, which then is the same bits each time.
func TestSceneRandomScripts(t *testing.T) {
	requireAll(t)
	s := ownMirror(t, lottery)
	profile := "name: lab\nextends: lab\npackages: [lottery]\n"
	s.write(s.profile, profile)
	s.fails([]string{"build", s.profile, "--version", "v1"}, "/etc/lottery/key: a private key", "secrets: {allow: [{path:")
	profile += "secrets:\n  allow:\n    - {path: /etc/lottery/key, reason: a scene}\n"
	s.write(s.profile, profile)
	s.ok("build", s.profile, "--version", "v1") // everybody may read the seed: only a second run shows it
	random := "package scripts make these at random; they differ between two runs:\n" +
		"  /etc/lottery/key (allowed: a scene)\n"
	s.fails([]string{"verify", "lab:v1", "--offline"}, "2 paths of the root differ",
		"/etc/lottery/key: content, from byte",
		"/etc/lottery/seed: content, from byte 0 on", random+"  /etc/lottery/seed\n", "the rebuilt image differs",
		`secrets: {allow: [{path: "/etc/lottery/seed"`)
	s.fails([]string{"build", s.profile, "--version", "v2"}, "/etc/lottery/seed: differs") // remembered
	s.must(os.RemoveAll(filepath.Join(s.cache(), "ingot/runs")))
	s.fails([]string{"build", s.profile, "--check"}, "/etc/lottery/seed: differs between two runs of the package scripts")
	s.fails([]string{"build", s.profile, "--version", "v2"}, "/etc/lottery/seed: differs")
	s.write(s.profile, strings.Replace(profile, "/etc/lottery/key", "/etc/lottery/*", 1))
	_, said := s.ok("build", s.profile, "--version", "v3", "--check")
	if !strings.Contains(said, "/etc/munge/munge.key: key of a MUNGE realm: to be supplied by the operator") ||
		!strings.Contains(said, "the image lacks a secret that its machines must share; supply it with a volume") {
		t.Errorf("the build says\n%s\nwant that MUNGE's key must be supplied", said)
	}
	s.fails([]string{"verify", "lab:v3", "--offline"}, random+"  /etc/lottery/seed (allowed: a scene)\n",
		"3 paths differ, from the cache", "the rebuilt image differs", "only what package scripts make at random differs")
	out, _ := s.ok("image", "ls", "lab:v3", "/etc/munge")
	if strings.Contains(out, "munge.key") {
		t.Errorf("the image has MUNGE's key:\n%s", out)
	}
}

// hostilePackage is a package whose script looks for the host, by what a shell can do.
func hostilePackage(canary string) Deb {
	return Deb{Name: "hostile", Version: "1", Files: map[string]string{"DEBIAN/postinst": `#!/bin/sh
exec >/etc/hostile.log 2>&1
mkdir -p /mnt
for way in "" /proc/1/root /proc/self/root /proc/1/cwd/../../../.. /proc/2/root /..; do
	cat "$way` + canary + `" && echo "GOT canary by $way"
done
for pid in /proc/[0-9]*; do cat "$pid/root` + canary + `" && echo "GOT canary by $pid"; done
mknod /sda b 8 0 && echo "GOT a disk"
mount -t tmpfs x /mnt && echo "GOT a mount"
mount -t sysfs x /mnt && echo "GOT sysfs"
unshare --user --map-root-user true && echo "GOT a user namespace"
for file in /sys/power/state /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches; do
	[ -w "$file" ] && [ ! -c "$file" ] && echo "GOT $file"
done
ls /sys/kernel && echo "GOT /sys"
read -r in out n </proc/self/uid_map
[ "$out" = 0 ] && echo "GOT root outside"
ls -l /proc/self/fd
echo "all was tried"
`}}
}

// TestSceneHostilePackage: a package of a mirror that has been taken over reaches nothing of the
// host that builds.
func TestSceneHostilePackage(t *testing.T) {
	requireAll(t)
	canary := filepath.Join(os.TempDir(), "ingot-canary-"+filepath.Base(t.TempDir())+t.Name())
	if err := os.WriteFile(canary, []byte("SECRET\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(canary)
	s := ownMirror(t, hostilePackage(canary))
	s.write(s.profile, "name: lab\nextends: lab\npackages: [hostile]\n")
	s.ok("build", s.profile, "--version", "v1")
	out, _ := s.ok("image", "cat", "lab:v1", "/etc/hostile.log")
	if strings.Contains(out, "GOT ") || strings.Contains(out, "SECRET") || !strings.Contains(out, "all was tried") {
		t.Errorf("the script said\n%s\nwant nothing of the host", out)
	}
}
