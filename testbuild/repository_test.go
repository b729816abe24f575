//go:build e2e

package testbuild

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vendor starts a second archive with a key of its own.
func (s *scene) vendor() *Mirror {
	s.t.Helper()
	dir := filepath.Join(s.dir, "v")
	s.must(os.Mkdir(dir, 0o777))
	v, err := NewMirror(s.ctx, dir, "stable")
	s.must(err)
	s.t.Cleanup(func() {
		if err := v.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.must(v.Add(s.ctx, Deb{Name: "hello", Version: "3", Files: map[string]string{"usr/share/hello": "of the vendor\n"}}))
	s.must(v.Add(s.ctx, Deb{Name: "extra", Version: "1+b1", Fields: "Depends: hello\n"}))
	s.must(v.Publish(s.ctx, Release{}))
	return v
}

// asksVendor writes a profile with a repository; more are further keys of the repository.
func (s *scene) asksVendor(v *Mirror, key, more string) {
	s.t.Helper()
	s.write(s.profile, fmt.Sprintf("name: small\nbase: {suite: %s}\npackages: [hello, extra]\n"+
		"kernel: {package: linux-image-amd64, modules: [\"@boot\"]}\nrepositories:\n"+
		"  - {name: vendor, uris: %q, suites: stable, components: main, key: %s%s}\n", suite, v.URL, key, more))
}

// TestSceneRepositories: packages of another archive are resolved together with Debian's, and pinned with the
// name of the archive. An archive that its key does not sign is refused, with its name.
func TestSceneRepositories(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	v := s.vendor()
	s.write(filepath.Join(s.dir, "vendor.gpg"), s.read(v.Keyring))
	s.asksVendor(v, "vendor.gpg", "")
	if out, _ := s.ok("plan", s.profile, "--fetch"); !strings.Contains(out, "hello") {
		t.Errorf("ingot plan says\n%s", out)
	}
	lock := s.read(s.lock())
	for _, want := range []string{`"name":"hello","version":"3"`,
		`"archive":"vendor","path":"pool/main/extra_1+b1_amd64.deb"`,
		`"archive":"debian","path":"pool/main/base_1_amd64.deb"`,
		`{"repository":"vendor","suite":"stable","digest":"sha256:`} {
		if !strings.Contains(lock, want) {
			t.Errorf("the lock does not have %s:\n%s", want, lock)
		}
	}
	digest := s.digest("--locked")
	if again := s.digest("--locked", "--offline"); again != digest {
		t.Errorf("the digest of the plan is %s, then %s", digest, again)
	}

	// A low priority takes only what the suite does not have.
	s.must(v.Publish(s.ctx, Release{Origin: "Vendor"}))
	s.asksVendor(v, "vendor.gpg", ", pin: 100")
	s.fails([]string{"plan", s.profile, "--locked"}, "the lock does not match the profile: repositories vendor", "pin 100")
	s.ok("plan", s.profile)
	if lock := s.read(s.lock()); !strings.Contains(lock, `"name":"hello","version":"1"`) ||
		!strings.Contains(lock, `"archive":"vendor","path":"pool/main/extra`) {
		t.Errorf("with pin 100 the lock is\n%s\nwant Debian's hello and the vendor's extra", lock)
	}
	s.must(v.Publish(s.ctx, Release{}))
	s.fails([]string{"plan", s.profile, "--update"}, `repository "vendor" has neither Origin nor Label`, "leave pin out")

	s.asksVendor(v, "vendor.gpg", "")
	s.must(v.Publish(s.ctx, Release{Unsigned: true}))
	s.fails([]string{"plan", s.profile, "--update"}, `repository "vendor": the mirror's package lists cannot be trusted: `+
		"they are not signed")
	s.must(v.Publish(s.ctx, Release{}))
	s.write(filepath.Join(s.dir, "mirror.gpg"), s.read(s.m.Keyring))
	s.asksVendor(v, "mirror.gpg", "")
	s.fails([]string{"plan", s.profile, "--update"}, `repository "vendor": the mirror's package lists cannot be trusted: `+
		"they are signed by a key other than the profile's; write the key that its owner publishes")
	s.asksVendor(v, "vendor.gpg", "")
	s.write(s.profile, strings.Replace(s.read(s.profile), "suites: stable", "suites: stabel", 1))
	s.fails([]string{"plan", s.profile, "--update"}, `repository "vendor": `, "correct its uris and suites")
}

// TestSceneVersions: a profile may name a version, a suite on top of its own, and recommendations.
func TestSceneVersions(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	for _, d := range []Deb{{Name: "hello", Version: "2.1"}, {Name: "hello", Version: "9", Backport: true},
		{Name: "rec", Version: "1", Fields: "Recommends: more\n"},
		{Name: "linux-image-amd64", Version: "7.0-1", Backport: true, Fields: "Depends: linux-image-7.0-scene (= 7.0-1)\n"},
		{Name: "linux-image-7.0-scene", Version: "7.0-1", Backport: true}} {
		s.must(s.m.Add(s.ctx, d))
	}
	s.publish(Release{})
	profile := func(packages, more string) {
		s.t.Helper()
		s.asks(packages)
		s.write(s.profile, s.read(s.profile)+more)
	}
	for _, c := range []struct{ packages, more, want, not string }{
		{"hello", "", `"name":"hello","version":"2.1"`, `"version":"9"`},
		{"hello=1*", "", `"name":"hello","version":"1"`, `"version":"2.1"`},
		{"hello/trixie-backports", "", `"name":"hello","version":"9"`, `"kernel": {"name":"linux-image-7.0-scene"`},
		{"rec", "", `"name":"rec"`, `"name":"more"`},
		{"rec", "recommends: true\n", `"name":"more"`, `"name":"broken"`},
	} {
		profile(c.packages, c.more)
		s.ok("plan", s.profile)
		if lock := s.read(s.lock()); !strings.Contains(lock, c.want) || strings.Contains(lock, c.not) {
			t.Errorf("packages [%s] %s: the lock is\n%s\nwant %s in it, and not %s", c.packages, c.more, lock, c.want, c.not)
		}
	}
	profile("hello", "")
	s.write(s.profile, strings.Replace(s.read(s.profile), "kernel: {", "kernel: {suite: trixie-backports, ", 1))
	s.ok("plan", s.profile)
	if lock := s.read(s.lock()); !strings.Contains(lock, `"kernel": {"name":"linux-image-7.0-scene"`) ||
		!strings.Contains(lock, `"name":"hello","version":"2.1"`) {
		t.Errorf("with the kernel of backports the lock is\n%s", lock)
	}
	profile("hello=1.9*", "")
	s.fails([]string{"plan", s.profile}, "no such package in trixie: hello 1.9*; there is 2.1, 1")
	profile("hello/trixie-backport", "")
	s.fails([]string{"plan", s.profile}, `looking for suite "trixie-backport": no such suite`)
}

// TestSceneLocalPackage: a package of the profile's folder is resolved with those of the archive. Another file
// is another lock.
func TestSceneLocalPackage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	own := func(version, depends string) {
		t.Helper()
		d := Deb{Name: "own", Version: version, Fields: "Depends: " + depends + "\n"}
		s.must(s.m.Add(s.ctx, d))
		s.must(os.Rename(s.m.pool(d), filepath.Join(s.dir, "own.deb")))
	}
	own("1", "more")
	s.asks("./own.deb")
	s.ok("plan", s.profile, "--fetch")
	lock := s.read(s.lock())
	for _, want := range []string{`"name":"own","version":"1"`, `"archive":"local","path":"own.deb"`,
		`"name":"more","version":"1"`} {
		if !strings.Contains(lock, want) {
			t.Errorf("the lock does not have %s:\n%s", want, lock)
		}
	}
	digest := s.digest("--locked")
	own("1", "hello")
	s.fails([]string{"plan", s.profile, "--locked"}, "the lock does not match the profile: the file ./own.deb is "+
		"another one")
	s.ok("plan", s.profile)
	if lock := s.read(s.lock()); !strings.Contains(lock, `"name":"hello"`) || strings.Contains(lock, `"name":"more"`) {
		t.Errorf("with another file the lock is\n%s", lock)
	}
	if s.digest("--locked") == digest {
		t.Error("another file, and the digest of the plan is the same")
	}
	own("2", "nothing-of-this-name")
	s.fails([]string{"plan", s.profile}, "the packages cannot be installed together", "own : Depends: "+
		"nothing-of-this-name")
	s.write(filepath.Join(s.dir, "own.deb"), "no package")
	s.fails([]string{"plan", s.profile}, s.profile+":3:12: ", `reading "./own.deb": no such package: dpkg-deb cannot `+
		`read it`)
	s.must(os.Remove(filepath.Join(s.dir, "own.deb")))
	s.fails([]string{"plan", s.profile}, s.profile+`:3:12: the package "./own.deb" cannot be read; put it beside the `+
		`profile`)
}
