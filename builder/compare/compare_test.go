package compare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"ingot"
	"ingot/builder"
	"ingot/builder/buildertest"
	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/builder/uki"
	"ingot/image"
	"ingot/internal/wire"
	"ingot/profiles"
)

// fakeImage is what an image is made of, for tests that alter it.
type fakeImage struct {
	kernel   string
	early    map[string]string // files of the initramfs
	root     []squashfs.Entry
	manifest ingot.ImageManifest
	plan     *builder.Plan
	lacking  []string // fields that are left out of the plan's text
}

func text(path string, mode uint32, content string) squashfs.Entry {
	return squashfs.Entry{Path: path, Kind: squashfs.File, Mode: mode, ModTime: 1000, Size: int64(len(content)),
		Open: tree.Bytes([]byte(content))}
}

func newFake() *fakeImage {
	return &fakeImage{kernel: "kernel", early: map[string]string{"init": "init", "etc/ingot/release.pub": "key"},
		root: []squashfs.Entry{{Path: "etc", Kind: squashfs.Dir, Mode: 0o755, ModTime: 1000},
			text("etc/a", 0o644, "aaaa"), text("etc/b", 0o644, "bbbb"),
			{Path: "etc/link", Kind: squashfs.Symlink, Mode: 0o777, ModTime: 1000, Target: "a"}},
		manifest: ingot.ImageManifest{Schema: 1, Profile: "fake", Version: "v1", Arch: "amd64",
			Created: time.Unix(1000, 0).UTC(), Arguments: []string{"quiet"}, KernelRelease: "6.1"},
		plan: &builder.Plan{Format: builder.PlanFormat, Profile: &profiles.Profile{Name: "fake"},
			Kernel: buildertest.Package("linux-image-6.1", "6.1-1")}}
}

// put makes an image of it, in a store of its own.
func (f *fakeImage) put(t *testing.T) side {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var early bytes.Buffer
	z, err := zstd.NewWriter(&early)
	must(err)
	w := cpio.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(f.early)) {
		must(w.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o644, Size: int64(len(f.early[name]))}))
		_, err := w.Write([]byte(f.early[name]))
		must(err)
	}
	must(w.Close())
	must(z.Close())
	root, err := os.Create(filepath.Join(dir, "root"))
	must(err)
	defer root.Close()
	_, err = squashfs.Write(t.Context(), root, f.root,
		squashfs.Options{Level: 1, BlockSize: 128 << 10, Epoch: time.Unix(1000, 0)})
	must(err)
	plan, err := f.plan.Canonical()
	must(err)
	f.manifest.Plan = f.plan.Digest()
	if len(f.lacking) > 0 {
		fields := map[string]json.RawMessage{}
		must(json.Unmarshal(plan, &fields))
		maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return slices.Contains(f.lacking, name) })
		plan, err = json.MarshalIndent(fields, "", "  ")
		must(err)
		f.manifest.Plan = ingot.DigestOf(plan)
	}
	files := image.Files{Kernel: filepath.Join(dir, "kernel"), Initramfs: filepath.Join(dir, "initramfs"),
		Root: root.Name(), Plan: filepath.Join(dir, "plan")}
	for path, content := range map[string][]byte{files.Kernel: []byte(f.kernel),
		files.Initramfs: early.Bytes(), files.Plan: plan} {
		must(os.WriteFile(path, content, 0o644))
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(dir, "keys"))
	must(err)
	s, err := image.Open(t.Context(), dir)
	must(err)
	im, err := s.Put(t.Context(), &f.manifest, files, keys.Release.Secret)
	must(err)
	return side{s, im}
}

// TestAlteredImages: whatever is not as the plan gives it is named.
func TestAlteredImages(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(*fakeImage)
		part  string
		why   string
	}{
		{"nothing", func(*fakeImage) {}, "", ""},
		{"content", func(f *fakeImage) { f.root[2] = text("etc/b", 0o644, "bbXb") }, "root",
			"/etc/b: content, from byte 2 on"},
		{"size", func(f *fakeImage) { f.root[1] = text("etc/a", 0o644, "aaaaa") }, "root", "/etc/a: size 5 → 4, from " +
			"byte 4 on"},
		{"mode", func(f *fakeImage) { f.root[1].Mode = 0o4755 }, "root", "/etc/a: mode 4755 → 0644"},
		{"owner", func(f *fakeImage) { f.root[1].UID = 7 }, "root", "/etc/a: owner 7:0 → 0:0"},
		{"time", func(f *fakeImage) { f.root[2].ModTime = 4600 }, "root", "/etc/b: time 1970-01-01T01:16:40Z → " +
			"1970-01-01T00:16:40Z"},
		{"target", func(f *fakeImage) { f.root[3].Target = "b" }, "root", "/etc/link: target b → a"},
		{"added", func(f *fakeImage) { f.root = append(f.root, text("etc/z", 0o644, "")) }, "root", "/etc/z: removed"},
		{"xattr", func(f *fakeImage) { f.root[1].Xattrs = map[string]string{"security.capability": "x"} },
			"root", "/etc/a: extended attributes"},
		{"kernel", func(f *fakeImage) { f.kernel = "kerneL" }, "kernel", "from byte 5 on"},
		{"initramfs", func(f *fakeImage) { f.early["init"] = "evil" }, "initramfs", "/init: content, from byte 0 on"},
		{"arguments", func(f *fakeImage) { f.manifest.Arguments = []string{"init=/bin/sh"} }, "manifest",
			`arguments ["init=/bin/sh"] → ["quiet"]`},
		{"volume", func(f *fakeImage) { f.manifest.Volumes = []ingot.Volume{{Name: "x", Mount: "/x"}} }, "manifest",
			`volumes [{"name":"x","mount":"/x"}] → none`},
	} {
		f := newFake()
		c.alter(f)
		parts, err := compareParts(t.Context(), f.put(t), newFake().put(t))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		said := map[string]string{}
		for _, p := range parts {
			if p.Why != "" {
				said[p.Name] = p.Why
			}
		}
		if said[c.part] != c.why {
			t.Errorf("%s: compareParts says %q; want %q of the %s", c.name, said, c.why, c.part)
		}
		delete(said, c.part)
		if delete(said, "manifest"); len(said) > 0 {
			t.Errorf("%s: compareParts says %q as well", c.name, said)
		}
	}
}

// TestAllPathsAreNamed: of a root, every path that differs is named, not only the first.
func TestAllPathsAreNamed(t *testing.T) {
	f := newFake()
	f.root[1].Mode, f.root[2] = 0o600, text("etc/b", 0o644, "bbXb")
	parts, err := compareParts(t.Context(), f.put(t), newFake().put(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		want := []FileChange(nil)
		if p.Name == "root" {
			want = []FileChange{{Path: "etc/a", How: "mode 0600 → 0644", Before: 4, After: 4},
				{Path: "etc/b", How: "content, from byte 2 on", Before: 4, After: 4}}
		}
		if diff := cmp.Diff(want, p.Files); diff != "" {
			t.Errorf("files of the %s (-want +got):\n%s", p.Name, diff)
		}
	}
}

// TestRefused: random paths fail a verification unless the profile allows them.
func TestRefused(t *testing.T) {
	v := Verdict{Random: []builder.RandomPath{{Path: "/etc/key", Allowed: "a test"}, {Path: "/etc/seed"}}}
	if got := v.Refused(); len(got) != 1 || got[0].Path != "/etc/seed" {
		t.Errorf("Refused = %v; want the seed", got)
	}
}

// TestDamagedImage: damaged bytes in the store are reported as such, not as a difference of the
// build.
func TestDamagedImage(t *testing.T) {
	have, got := newFake().put(t), newFake().put(t)
	kernel := have.store.Blob(have.image.Manifest.Kernel.Digest)
	if err := os.WriteFile(kernel, []byte("kErnel"), 0o644); err != nil {
		t.Fatal(err)
	}
	parts, err := compareParts(t.Context(), have, got)
	if err != nil || parts[0].Why != "from byte 1 on; "+damaged {
		t.Errorf("compareParts = %+v, %v; want where the kernel differs and that it is damaged", parts, err)
	}
	if parts, err := damagedParts(have.store, have.image); err != nil || len(parts) != 1 || parts[0].Name != "kernel" {
		t.Errorf("damagedParts = %+v, %v; want the kernel", parts, err)
	}
}

// TestInputsOfAnImage: what the plan pins is taken from the image, and what
// is not as it pins it is named.
func TestInputsOfAnImage(t *testing.T) {
	keys, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	good := func() *fakeImage {
		f := newFake()
		f.early["etc/ingot/release.pub"] = string(keys.Release.Public.Text())
		f.plan.Init = ingot.DigestOf([]byte("init"))
		f.plan.Keys = map[string]ingot.Digest{"release": ingot.DigestOf(keys.Release.Public.Text())}
		f.plan.Profile.Files = []profiles.File{{Path: "/etc/a", Source: "a"}}
		f.plan.Sources = map[string]ingot.Digest{"/etc/a": ingot.DigestOf([]byte("aaaa"))}
		return f
	}
	for _, c := range []struct {
		name  string
		alter func(*fakeImage)
		want  []Part
	}{
		{"sound, init in the initramfs alone", func(*fakeImage) {}, nil},
		{"no init", func(f *fakeImage) { f.early["init"] = "evil" },
			[]Part{{Name: "root", Why: "/usr/lib/ingot/ingot-init: its digest is not the one in the plan"}}},
		{"another key", func(f *fakeImage) { f.early["etc/ingot/release.pub"] = "evil" },
			[]Part{{Name: "initramfs", Why: "/etc/ingot/release.pub: its digest is not the one in the plan"}}},
		{"another file", func(f *fakeImage) { f.root[1] = text("etc/a", 0o644, "evil") },
			[]Part{{Name: "root", Why: "/etc/a: its digest is not the one in the plan"}}},
	} {
		f := good()
		c.alter(f)
		s := f.put(t)
		v, err := Verify(t.Context(), &builder.Env{CacheDir: t.TempDir(), Offline: true}, s.store, s.image)
		if c.want == nil {
			in, err := openInputs(s.store, s.image, f.plan)
			if err != nil || len(in.altered) > 0 || string(in.init) != "init" ||
				!bytes.Equal(in.keys["release"].Text(), keys.Release.Public.Text()) {
				t.Errorf("%s: openInputs = %+v, %v", c.name, in, err)
			}
			continue
		}
		if err != nil || v.Same || !cmp.Equal(v.Parts, c.want) {
			t.Errorf("%s: Verify = %+v, %v; want %+v", c.name, v, err, c.want)
		}
	}
}

// TestImages: every kind of difference is reported.
func TestImages(t *testing.T) {
	f := newFake()
	f.plan.Packages = []source.Package{buildertest.Package("bash", "5.2"), buildertest.Package("curl", "8.2")}
	g := newFake()
	g.plan.Packages = []source.Package{buildertest.Package("bash", "5.3"),
		buildertest.Package("curl", "8.1"), buildertest.Package("vim", "9")}
	g.plan.Kernel = buildertest.Package("linux-image-6.1", "6.1-2") // the same release, a newer build
	g.manifest.Arguments = []string{"debug"}
	g.manifest.Overlay = 5
	g.root[1] = text("etc/a", 0o600, "aaaa")
	a, b := f.put(t), g.put(t)
	joined := b
	for _, d := range []ingot.Digest{b.image.Manifest.Root.Digest, planBlob(t, b)} { // into one store
		copyBlob(t, b.store.Blob(d), a.store.Blob(d))
	}
	d, err := Images(t.Context(), &builder.Env{CacheDir: t.TempDir()}, a.store, a.image, joined.image)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Packages) != 3 || d.Packages[0].Older || !d.Packages[1].Older || d.Packages[2].After != "9" {
		t.Errorf("packages: %+v; want bash upgraded, curl taken back, vim added", d.Packages)
	}
	if got := d.Packages[0].NoChangelog; got != "bash 5.3 is no longer in the package cache" {
		t.Errorf("of bash's changelog it says %q; want that the package is gone", got)
	}
	if d.Kernel == nil || d.Kernel.Before != "6.1 (6.1-1)" || d.Kernel.After != "6.1 (6.1-2)" {
		t.Errorf("kernel: %+v; want the package's versions, too", d.Kernel)
	}
	if len(d.Settings) != 1 || d.Settings[0].Name != "overlay" || string(d.Settings[0].After) != "5" {
		t.Errorf("settings: %+v; want the overlay", d.Settings)
	}
	if !slices.Equal(d.Artifacts, []string{"plan", "root"}) || !slices.Equal(d.Arguments.Added, []string{"debug"}) ||
		!slices.Equal(d.Arguments.Removed, []string{"quiet"}) {
		t.Errorf("artifacts %v, arguments %+v", d.Artifacts, d.Arguments)
	}
	if len(d.Files) != 1 || d.Files[0].Path != "etc/a" || d.Files[0].How != "mode 0644 → 0600" {
		t.Errorf("files: %+v; want the mode of etc/a", d.Files)
	}
}

// TestDiffOfOlderPlans: images of an older ingot are compared as far as their plans go, and what the
// plans lack is said.
func TestDiffOfOlderPlans(t *testing.T) {
	const status = "Package: bash\nStatus: install ok installed\nVersion: "
	for _, c := range []struct {
		name    string
		lacking []string
		lacks   string
		kernel  string // before
	}{
		{"format 3", nil, "it records no numbers of accounts (those in the roots are compared)", "6.1 (6.1-1)"},
		{"no packages, profile and kernel", []string{"packages", "profile", "kernel"},
			"it records no packages (dpkg's lists in the roots are compared), no package of the kernel (its release is " +
				"compared), no numbers of accounts (those in the roots are compared), no profile", "6.1"},
	} {
		f, g := newFake(), newFake()
		f.plan.Format, f.lacking = 3, c.lacking
		f.plan.Packages = []source.Package{buildertest.Package("bash", "5.2")}
		g.plan.Packages = []source.Package{buildertest.Package("bash", "5.3")}
		g.plan.Kernel, g.manifest.KernelRelease = buildertest.Package("linux-image-6.2", "6.2-1"), "6.2"
		dirs := []squashfs.Entry{{Path: "var", Kind: squashfs.Dir, Mode: 0o755, ModTime: 1000},
			{Path: "var/lib", Kind: squashfs.Dir, Mode: 0o755, ModTime: 1000},
			{Path: "var/lib/dpkg", Kind: squashfs.Dir, Mode: 0o755, ModTime: 1000}}
		f.root = append(append(f.root, dirs...), text("var/lib/dpkg/status", 0o644, status+"5.2\n"))
		g.root = append(append(g.root, dirs...), text("var/lib/dpkg/status", 0o644, status+"5.3\n"))
		a, b := f.put(t), g.put(t)
		for _, d := range []ingot.Digest{b.image.Manifest.Root.Digest, planBlob(t, b)} { // into one store
			copyBlob(t, b.store.Blob(d), a.store.Blob(d))
		}
		for _, pair := range [][2]image.Image{{a.image, b.image}, {b.image, a.image}} {
			d, err := Images(t.Context(), &builder.Env{CacheDir: t.TempDir()}, a.store, pair[0], pair[1])
			if err != nil {
				t.Errorf("%s: Images = %v", c.name, err)
				continue
			}
			want := []string{fmt.Sprintf("the plan of fake:v1 has format 3, and this ingot writes format %d: %s",
				builder.PlanFormat, c.lacks)}
			if diff := cmp.Diff(want, d.Lacks); diff != "" {
				t.Errorf("%s: what the plan lacks (-want +got):\n%s", c.name, diff)
			}
			if len(d.Packages) != 1 || d.Packages[0].Package != "bash" || d.Packages[0].Before == "" ||
				d.Packages[0].After == "" {
				t.Errorf("%s: packages %+v; want bash with both versions", c.name, d.Packages)
			}
			if k := d.Kernel; k == nil || k.Before != c.kernel && k.After != c.kernel {
				t.Errorf("%s: kernel %+v; want %s among them", c.name, k, c.kernel)
			}
		}
	}
}

// TestVerifyOlderPlan: that an image of an older ingot cannot be built again is said in one sentence.
func TestVerifyOlderPlan(t *testing.T) {
	for _, lacking := range [][]string{nil, {"skeleton"}} {
		f := newFake()
		f.plan.Format, f.lacking = 3, lacking
		s := f.put(t)
		_, err := Verify(t.Context(), &builder.Env{CacheDir: t.TempDir(), Offline: true}, s.store, s.image)
		want := fmt.Sprintf("fake:v1 was built by an older ingot, whose builds this one cannot repeat (its plan has format "+
			"3, and this ingot builds format %d)", builder.PlanFormat)
		if !errors.Is(err, builder.ErrOlderIngot) || err.Error() != want {
			t.Errorf("Verify = %v; want %q", err, want)
		}
	}
}

func planBlob(t *testing.T, s side) ingot.Digest {
	t.Helper()
	layers, err := builder.Artifacts(s.image)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if l.MediaType == ingot.MediaTypePlan {
			return ingot.Digest(l.Digest)
		}
	}
	t.Fatal("the image has no plan")
	return ""
}

func copyBlob(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedPlan: a damaged plan is not reported as a plan of another ingot.
func TestDamagedPlan(t *testing.T) {
	s := newFake().put(t)
	if err := os.WriteFile(s.store.Blob(planBlob(t, s)), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := builder.PlanOf(s.store, s.image); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("PlanOf a damaged plan = %v; want that it is", err)
	}
}

func TestSinceVersion(t *testing.T) {
	changes := "bash (5.3-1) trixie; urgency=low\n\n  * New.\n\n -- A <a@a>  Mon, 01 Jan 2026 00:00:00 +0000\n\n" +
		"bash (5.2-2) trixie; urgency=low\n\n  * Old.\n"
	if got := strings.Join(sinceVersion(changes, "5.2-2"), "|"); got != "bash (5.3-1) trixie|  * New." {
		t.Errorf("sinceVersion = %q", got)
	}
	if got := strings.Join(sinceVersion(changes, "5.2-2+b3"), "|"); got != "bash (5.3-1) trixie|  * New." {
		t.Errorf("sinceVersion of a rebuild = %q", got)
	}
}

// TestDiffOfBases: packages of two bases that are trees are compared by dpkg's status files.
func TestDiffOfBases(t *testing.T) {
	var c [2]*builder.Contents
	for i, status := range []string{"Package: a\nStatus: install ok installed\nVersion: 1.10\n\nPackage: b\n" +
		"Status: install ok installed\nVersion: 1\n",
		"Package: a\nStatus: install ok installed\nVersion: 1.9\n\nPackage: c\nStatus: install ok installed\nVersion: 1\n"} {
		c[i] = &builder.Contents{Tree: tree.New()}
		if err := c[i].PutFile("var/lib/dpkg/status", 0o644, []byte(status)); err != nil {
			t.Fatal(err)
		}
	}
	var d Diff
	if err := d.listed(t.Context(), c[0], c[1]); err != nil {
		t.Fatal(err)
	}
	const why = "the package is part of the base"
	want := []PackageChange{{Change: lock.Change{Package: "a", Before: "1.10", After: "1.9"}, Older: true,
		NoChangelog: why}, {Change: lock.Change{Package: "b", Before: "1"}}, {Change: lock.Change{Package: "c", After: "1"}}}
	if diff := cmp.Diff(want, d.Packages); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// TestWhyUKI: two UKIs differ in the section that was made of something else, and manifests in what
// is measured of them.
func TestWhyUKI(t *testing.T) {
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		wire.Cannot(t, "systemd-boot-efi is not installed; run scripts/setup test")
	}
	write := func(linux string) string {
		out, err := os.Create(filepath.Join(t.TempDir(), "uki.efi"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		var sections []uki.Section
		for _, s := range [][2]string{{".cmdline", "quiet"}, {".linux", linux}} {
			sections = append(sections, uki.Section{Name: s[0], Size: int64(len(s[1])), Content: strings.NewReader(s[1])})
		}
		if _, err := uki.Write(out, stub, sections); err != nil {
			t.Fatal(err)
		}
		return out.Name()
	}
	text, _, err := why(t.Context(), write("linux"), write("linuz"), whyUKI)
	if err != nil || text != "its section .linux" {
		t.Errorf("why(linux, linuz) = %q, %v; want the kernel", text, err)
	}
	with := image.Image{Manifest: ingot.ImageManifest{PCR11: map[string]string{"sha256": "ab"}}}
	for _, pair := range [][2]image.Image{{with, {}}, {{}, with}} {
		if text, err := whyManifest(pair[0], pair[1]); err != nil || !strings.HasSuffix(text, ": pcr11") {
			t.Errorf("whyManifest of one with PCR 11 and one without = %q, %v; want pcr11 named", text, err)
		}
	}
}
