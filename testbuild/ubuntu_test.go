//go:build e2e

package testbuild

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ubuntu starts an archive that is laid out as Ubuntu's: packages packed with zstd, three components, updates and
// security fixes in the same archive, and a key that is not Debian's. Other architectures have an archive of
// their own.
func (s *scene) ubuntu(arch, name string) *Mirror {
	s.t.Helper()
	dir := filepath.Join(s.dir, arch)
	s.must(os.Mkdir(dir, 0o777))
	u, err := NewMirrorAt(s.ctx, dir, "noble", name)
	s.must(err)
	s.t.Cleanup(func() {
		if err := u.Close(); err != nil {
			s.t.Error(err)
		}
	})
	u.Components, u.Arch, u.Pack = []string{"main", "restricted", "universe"}, arch, "zstd"
	for _, d := range []Deb{
		{Name: "base", Version: "1ubuntu1", Fields: "Essential: yes\n", Files: map[string]string{"etc/base": "ubuntu\n"}},
		{Name: "hello", Version: "3ubuntu1", Component: "universe", Fields: "Depends: firmware\n",
			Files: map[string]string{"usr/share/hello": strings.Repeat("hello ", 1000)}},
		{Name: "firmware", Version: "2", Component: "restricted"},
		{Name: "linux-image-" + arch, Version: "99", Fields: "Depends: linux-image-99-generic\n"},
		{Name: "linux-image-99-generic", Version: "99"},
		{Name: "hello", Version: "4ubuntu1", Backport: true},
	} {
		s.must(u.Add(s.ctx, d))
	}
	s.must(u.Publish(s.ctx, Release{Origin: "Ubuntu"}))
	return u
}

// TestSceneUbuntu: a suite of another distribution is resolved from its archive alone, with its key; kernel and
// stub are Debian's. Each architecture has its archive.
func TestSceneUbuntu(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	u, ports := s.ubuntu("amd64", "ubuntu"), s.ubuntu("arm64", "ubuntu-ports")
	s.write(filepath.Join(s.dir, "ubuntu.gpg"), s.read(u.Keyring))
	s.write(filepath.Join(s.dir, "ports.gpg"), s.read(ports.Keyring))
	profile := fmt.Sprintf(`name: small
base:
  suite: noble
  components: [main, restricted, universe]
  archive:
    - {updates: [noble-updates, noble-security], key: ubuntu.gpg}
    - {uris: %q, when: {arch: amd64}}
    - {uris: %q, key: ports.gpg, when: {arch: arm64}}
packages: [hello]
kernel: {package: linux-image-amd64, modules: ["@boot"]}
`, u.URL, ports.URL)
	s.write(s.profile, profile)
	s.ok("plan", s.profile, "--fetch")
	lock := s.read(s.lock())
	for _, want := range []string{`"name":"hello","version":"3ubuntu1"`, `"archive":"base","path":"pool/universe/hello_`,
		`"archive":"base","path":"pool/restricted/firmware_`, `"name":"base","version":"1ubuntu1"`,
		`"kernel": {"name":"linux-image-6.0.1-scene","version":"6.0.1-1","arch":"amd64"`,
		`"archive":"debian","path":"pool/main/systemd-boot-efi_1_amd64.deb"`,
		`{"repository":"base","suite":"noble","digest":"sha256:`} {
		if !strings.Contains(lock, want) {
			t.Errorf("the lock does not have %s:\n%s", want, lock)
		}
	}
	digest := s.digest("--locked")
	if again := s.digest("--locked", "--offline"); again != digest {
		t.Errorf("the digest of the plan is %s, then %s", digest, again)
	}
	hello := u.pool(Deb{Name: "hello", Version: "3ubuntu1", Component: "universe"})
	members, err := exec.Command("ar", "t", hello).Output()
	if err != nil || !strings.Contains(string(members), "control.tar.zst\ndata.tar.zst") {
		t.Errorf("the package has the members %q, %v; want control and data packed with zstd", members, err)
	}

	s.write(s.profile, strings.Replace(profile, "[hello]", "[hello/noble-backports]", 1))
	s.ok("plan", s.profile)
	if lock := s.read(s.lock()); !strings.Contains(lock, `"name":"hello","version":"4ubuntu1"`) {
		t.Errorf("with the backport the lock is\n%s", lock)
	}
	s.write(s.profile, strings.Replace(profile, "key: ubuntu.gpg", "key: ports.gpg", 1))
	s.fails([]string{"plan", s.profile, "--update"}, `repository "base": the mirror's package lists cannot be trusted: `+
		"they are signed by a key other than the profile's")
	s.write(s.profile, strings.Replace(profile, ", key: ubuntu.gpg", "", 1))
	s.fails([]string{"plan", s.profile}, "base.archive has no key; write key: FILE")
	s.write(s.profile, strings.Replace(profile, "noble\n", "noblle\n", 1))
	s.fails([]string{"plan", s.profile, "--update"}, `repository "base": `, "correct its uris and suites")
}

// TestSceneUbuntuPorts: a build for arm64 asks the archive of ports, with its key.
func TestSceneUbuntuPorts(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.m.Arch = "arm64"
	s.small()
	ports := s.ubuntu("arm64", "ubuntu-ports")
	s.must(s.m.Add(s.ctx, Deb{Name: "linux-image-arm64", Version: "6.0.1-1",
		Fields: "Depends: linux-image-6.0.1-scene (= 6.0.1-1)\n"}))
	s.publish(Release{})
	s.write(filepath.Join(s.dir, "ports.gpg"), s.read(ports.Keyring))
	s.write(s.profile, fmt.Sprintf(`name: small
arch: arm64
base:
  suite: noble
  components: [main, restricted, universe]
  archive:
    - {updates: [noble-updates], key: none.gpg}
    - {uris: "http://127.0.0.1:1/ubuntu", when: {arch: amd64}}
    - {uris: %q, key: ports.gpg, when: {arch: arm64}}
packages: [hello]
kernel: {package: linux-image-arm64, modules: ["@boot"]}
`, ports.URL))
	// The lock is complete before the program of the machine is looked at, which is this host's here.
	s.fails([]string{"plan", s.profile}, "the profile is for arm64")
	if lock := s.read(s.lock()); !strings.Contains(lock, `"path":"pool/universe/hello_3ubuntu1_arm64.deb"`) {
		t.Errorf("the lock is\n%s", lock)
	}
}
