package source

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// makeDeb lets dpkg-deb build a package and puts it into the cache. files are
// by path; those below DEBIAN/ are control files, executable unless they are
// lists.
func makeDeb(t *testing.T, c Cache, name, fields string, files map[string]string, options ...string) Package {
	t.Helper()
	dir := t.TempDir()
	all := maps.Clone(files)
	if all == nil {
		all = map[string]string{}
	}
	all["DEBIAN/control"] = "Package: " + name + "\nVersion: 1.0\nArchitecture: all\nMaintainer: n <n@example.org>\n" +
		"Description: x\n" + fields
	for p, text := range all {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(p, "DEBIAN/p") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "x.deb")
	cmd := exec.Command("dpkg-deb", append(append([]string{"--root-owner-group"}, options...), "--build", dir, out)...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1234567890")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, said)
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	p := Package{Name: name, Version: "1.0", Arch: "all", Size: int64(len(content))}
	sum := sha256.Sum256(content)
	p.SHA256 = hex.EncodeToString(sum[:])
	if err := os.WriteFile(c.Path(p), content, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func openDeb(t *testing.T, c Cache, p Package) *deb {
	t.Helper()
	d, err := readDeb(t.Context(), c, p, filepath.Join(t.TempDir(), "tar"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestReadDeb reads what dpkg-deb built, in every compression that it has.
func TestReadDeb(t *testing.T) {
	big := strings.Repeat("some text that is larger when it is not compressed\n", 2000) + string(noise(40<<10))
	for _, z := range []string{"xz", "gzip", "zstd", "none"} {
		c := Cache{t.TempDir()}
		d := openDeb(t, c, makeDeb(t, c, "x", "Depends: a (>= 1), b |\n c:any (<< 2)\n",
			map[string]string{"usr/bin/x": big, "DEBIAN/postinst": "#!/bin/sh\n"}, "-Z"+z))
		var names []string
		for _, f := range d.files {
			names = append(names, f.name)
		}
		if want := []string{"/.", "/usr", "/usr/bin", "/usr/bin/x"}; !slices.Equal(names, want) {
			t.Errorf("%s: files = %q; want %q", z, names, want)
		}
		spool, err := os.ReadFile(d.tar)
		if err != nil {
			t.Fatal(err)
		}
		if at := d.files[3].at; string(spool[at:at+int64(len(big))]) != big {
			t.Errorf("%s: the content of /usr/bin/x is another", z)
		}
		if string(d.script("postinst")) != "#!/bin/sh\n" || d.instance() != "x" {
			t.Errorf("%s: postinst %q, instance %q", z, d.script("postinst"), d.instance())
		}
		want := [][]relation{{{"a", ">=", "1"}}, {{name: "b"}, {"c", "<<", "2"}}}
		if diff := cmp.Diff(want, d.relations("Depends"), cmp.AllowUnexported(relation{})); diff != "" {
			t.Errorf("%s: dependencies (-want +got):\n%s", z, diff)
		}
	}
}

// noise is n bytes that do not compress.
func noise(n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// TestReadDebDamaged: a file that is not the planned one is reported by its digest, and
// does not stay in the cache.
func TestReadDebDamaged(t *testing.T) {
	c := Cache{t.TempDir()}
	p := makeDeb(t, c, "x", "", map[string]string{"usr/x": string(noise(100 << 10))}, "-Zxz")
	sound, err := os.ReadFile(c.Path(p))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sound)
	flipped[len(flipped)/2] ^= 1
	for name, content := range map[string][]byte{"truncated": sound[:len(sound)/2], "tampered": flipped,
		"longer": append(bytes.Clone(sound), 0), "empty": nil} {
		if err := os.WriteFile(c.Path(p), content, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := readDeb(t.Context(), c, p, filepath.Join(t.TempDir(), "tar"))
		if !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "reading x from the cache") {
			t.Errorf("a %s package: %v; want ErrDigest with its name", name, err)
		}
		if _, err := os.Stat(c.Path(p)); err == nil {
			t.Errorf("a %s package stays in the cache", name)
		}
	}
	// Planned, but no package at all.
	odd := []byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n")
	sum := sha256.Sum256(odd)
	q := Package{Name: "odd", Version: "1", SHA256: hex.EncodeToString(sum[:])}
	if err := os.WriteFile(c.Path(q), odd, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readDeb(t.Context(), c, q, filepath.Join(t.TempDir(), "tar")); err == nil || errors.Is(err, ErrDigest) ||
		!strings.Contains(err.Error(), "not a Debian package") {
		t.Errorf("an archive without members: %v", err)
	}
}

// TestConflicts: who brings a file when two packages do.
func TestConflicts(t *testing.T) {
	c := Cache{t.TempDir()}
	file := map[string]string{"usr/bin/tool": "x"}
	a := openDeb(t, c, makeDeb(t, c, "a", "", map[string]string{"usr/bin/tool": "x", "usr/bin/a": ""}))
	plainB := openDeb(t, c, makeDeb(t, c, "b", "", map[string]string{"bin/tool": "other"}))
	merged := openDeb(t, c, makeDeb(t, c, "base", "", nil))
	merged.files = append(merged.files, debFile{&tar.Header{Typeflag: tar.TypeSymlink, Linkname: "usr/bin"}, "/bin", 0})
	_, err := layOut([]*deb{merged, a, plainB}, nil)
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "/usr/bin/tool is in both a 1.0 and b 1.0") {
		t.Errorf("the same file by two names = %v; want ErrConflict that names both packages and the file", err)
	}
	for _, order := range []bool{true, false} {
		for fields, wins := range map[string]string{"Replaces: a\n": "b", "Replaces: a (<< 2)\n": "b"} {
			b := openDeb(t, c, makeDeb(t, c, "b", fields, file))
			debs := []*deb{a, b}
			if !order {
				slices.Reverse(debs)
			}
			u, err := layOut(debs, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := u.owner["usr/bin/tool"].by.Name; got != wins || !u.taken[a]["usr/bin/tool"] || u.taken[a]["usr/bin/a"] {
				t.Errorf("%q: the file is %s's, taken from a: %v; want %s", fields, got, u.taken[a], wins)
			}
		}
	}
	option := openDeb(t, c, makeDeb(t, c, "b", "Replaces: a (<< 2)\n", file))
	option.record = strings.Replace(option.record, "<< 2", "<< --force-all", 1) // which dpkg-deb refuses to write
	if _, err := layOut([]*deb{a, option}, nil); !errors.Is(err, ErrConflict) {
		t.Errorf("a version that is an option of dpkg = %v; want ErrConflict", err)
	}
	tooOld := openDeb(t, c, makeDeb(t, c, "b", "Replaces: a (<< 0.5)\n", file))
	if _, err := layOut([]*deb{a, tooOld}, nil); !errors.Is(err, ErrConflict) {
		t.Errorf("a package that replaces another version = %v; want ErrConflict", err)
	}
	diverter := openDeb(t, c, makeDeb(t, c, "b", "", map[string]string{"usr/bin/tool": "y",
		"DEBIAN/preinst": "#!/bin/sh\ndpkg-divert --add --rename /usr/bin/tool\n"}))
	u, err := layOut([]*deb{diverter, a}, nil)
	if err != nil || !u.late[diverter] || u.owner["usr/bin/tool"].by != a {
		t.Errorf("a package that diverts the other's file: %v, late %v; want it to be unpacked after it", err, u.late)
	}
}

func TestFilter(t *testing.T) {
	for _, f := range []struct {
		name string
		kind byte
		keep []string
		skip bool
	}{
		{"/usr/share/doc/x/changelog.gz", tar.TypeReg, nil, true},
		{"/usr/share/doc/x/changelog.gz", tar.TypeReg, []string{KeepDocs}, false},
		{"/usr/share/doc/x/copyright", tar.TypeReg, nil, false},
		{"/usr/share/doc/x", tar.TypeDir, nil, false},
		{"/usr/share/doc/y", tar.TypeSymlink, nil, false},
		{"/usr/share/man/man1/x.1.gz", tar.TypeReg, nil, true},
		{"/usr/share/man/man1/x.1.gz", tar.TypeReg, []string{KeepLocales, KeepMan}, false},
		{"/usr/share/man", tar.TypeDir, nil, false},
		{"/usr/share/locale/de", tar.TypeDir, nil, true},
		{"/usr/share/locale/locale.alias", tar.TypeReg, nil, false},
		{"/usr/share/documents/x", tar.TypeReg, nil, false},
	} {
		if got := newFilter(f.keep).skips(f.name, f.kind); got != f.skip {
			t.Errorf("skips(%s) with keep %v = %v; want %v", f.name, f.keep, got, f.skip)
		}
	}
}

// TestDatabase lets dpkg-query and dpkg read what we write, as the state after
// `dpkg --unpack`.
func TestDatabase(t *testing.T) {
	c := Cache{t.TempDir()}
	a := openDeb(t, c, makeDeb(t, c, "a", "Depends: b\n", map[string]string{"etc/a.conf": "hello\n",
		"usr/share/man/man1/a.1": "", "usr/a": "x",
		"DEBIAN/conffiles": "/etc/a.conf\nremove-on-upgrade /etc/old\n", "DEBIAN/postinst": "#!/bin/sh\n",
		"DEBIAN/triggers": "interest-noawait /usr/x\ninterest t\n"}))
	b := openDeb(t, c, makeDeb(t, c, "b", "", map[string]string{"usr/b": "x"}))
	u, err := layOut([]*deb{a, b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := u.writeTo(t.Context(), &out, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := u.writeDatabase(&out, time.Unix(1, 0), []controlFile{{".ingot/x", 0o755, []byte("y")}}); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	cmd := exec.Command("tar", "--extract", "--no-same-owner", "--directory", root)
	cmd.Stdin = &out
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, said)
	}
	dpkg := func(args ...string) string {
		t.Helper()
		said, err := exec.Command("dpkg", append([]string{"--admindir=" + filepath.Join(root, "var/lib/dpkg")},
			args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg %v: %v: %s", args, err, said)
		}
		return string(said)
	}
	if got, want := dpkg("--listfiles", "a"), "/.\n/etc\n/etc/a.conf\n/usr\n/usr/a\n/usr/share\n/usr/share/man\n"+
		"/usr/share/man/man1\n/usr/share/man/man1/a.1\n"; got != want {
		t.Errorf("dpkg lists\n%s\nwant\n%s", got, want)
	}
	status := dpkg("--status", "a")
	for _, want := range []string{"Status: install ok unpacked", " /etc/a.conf b1946ac92492d2347c6235b4d2611184\n",
		" /etc/old newconffile remove-on-upgrade"} {
		if !strings.Contains(status, want) {
			t.Errorf("dpkg says\n%s\nwant %q", status, want)
		}
	}
	dpkg("--audit")
	for p, want := range map[string]string{"var/lib/dpkg/triggers/File": "/usr/x a/noawait\n",
		"var/lib/dpkg/triggers/t": "a\n", ".ingot/x": "y", "etc/a.conf": "hello\n"} {
		if got, err := os.ReadFile(filepath.Join(root, p)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", p, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "usr/share/man/man1/a.1")); err == nil {
		t.Error("the manual page is there")
	}
}

func TestScriptOrder(t *testing.T) {
	c := Cache{t.TempDir()}
	var debs []*deb
	for name, fields := range map[string]string{"app": "Depends: lib, loop\n", "core": "Essential: yes\n" +
		"Pre-Depends: lib | other\n", "lib": "Depends: virtual\n",
		"loop": "Depends: app\n", "real": "Provides: virtual\n"} {
		debs = append(debs, openDeb(t, c, makeDeb(t, c, name, fields, nil)))
	}
	slices.SortFunc(debs, func(a, b *deb) int { return strings.Compare(a.Name, b.Name) })
	var got []string
	for _, d := range scriptOrder(debs) {
		got = append(got, d.Name)
	}
	if want := []string{"real", "lib", "core", "loop", "app"}; !slices.Equal(got, want) {
		t.Errorf("order = %v; want %v", got, want)
	}
}

// TestTranscript: what dpkg says becomes progress, and one clear error.
func TestTranscript(t *testing.T) {
	var got []string
	said := &transcript{total: 2, report: func(s string) { got = append(got, s) }}
	said.read(strings.NewReader(`Setting up a (1.0) ...
Setting up web (2.0) ...
web: cannot find its data
dpkg: error processing package web (--configure):
 installed web package post-installation script subprocess returned error exit status 1
dpkg: dependency problems prevent configuration of shop:
dpkg: error processing package shop (--configure):
`))
	err := said.failure(errors.New("exit status 1"), io.ErrClosedPipe)
	if !errors.Is(err, ErrScript) || !strings.Contains(err.Error(), "configured: web;") ||
		!strings.Contains(err.Error(), "web: cannot find its data") || strings.Contains(err.Error(), "shop") {
		t.Errorf("failure = %v; want the first package and what it said", err)
	}
	if want := []string{"1 of 2: a", "2 of 2: web"}; !slices.Equal(got, want) {
		t.Errorf("reported %q; want %q", got, want)
	}
}
