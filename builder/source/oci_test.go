package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"ingot"
	"ingot/builder/tree"
	"ingot/internal/beneath"
)

// needTool skips a test whose referee is not there, but never in CI.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v; run scripts/setup test", err)
		}
		t.Skip(err)
	}
}

// member is one entry of a layer.
type member struct {
	name string
	kind byte // as in archive/tar; 0: a file
	body string
	link string
	mode int64
	uid  int
	dev  [2]int64
	pax  map[string]string
}

var madeAt = time.Date(2025, 3, 4, 5, 6, 7, 0, time.UTC)

// tarOf makes a tar of members.
func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.link, Mode: m.mode, Uid: m.uid,
			Gid: m.uid, Size: int64(len(m.body)),
			ModTime: madeAt, Devmajor: m.dev[0], Devminor: m.dev[1], PAXRecords: m.pax}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = map[byte]int64{tar.TypeReg: 0o644, tar.TypeDir: 0o755, tar.TypeSymlink: 0o777}[h.Typeflag]
		}
		if m.pax != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dir(name string) member { return member{name: name, kind: tar.TypeDir} }

// nasty are layers that use every way of replacing and hiding.
func nasty() [][]member {
	return [][]member{{
		dir("./"), dir("a/"), {name: "a/x", body: "x"}, {name: "a/y", body: "y", mode: 0o4755, uid: 123456},
		dir("a/sub/"), {name: "a/sub/z", body: "z"},
		{name: "lnk", kind: tar.TypeSymlink, link: "a"},
		{name: "b", body: "first b"}, {name: "c", kind: tar.TypeLink, link: "b"}, {name: "e", kind: tar.TypeLink, link: "b"},
		{name: "d/", kind: tar.TypeDir, mode: 0o1777}, {name: "d/in", body: "in"}, {name: "f", body: "f"},
		{name: "s", kind: tar.TypeSymlink, link: "a"},
		dir("o/"), {name: "o/old", body: "old"}, dir("o/olddir/"), {name: "o/olddir/deep", body: "deep"},
		dir("p/"), {name: "p/old", body: "old"},
		{name: "null", kind: tar.TypeChar, dev: [2]int64{1, 3}, mode: 0o666}, {name: "blk", kind: tar.TypeBlock,
			dev: [2]int64{259, 70000}, mode: 0o600}, {name: "fifo", kind: tar.TypeFifo, mode: 0o600},
		{name: "cap", body: "cap", pax: map[string]string{"SCHILY.xattr.user.k": "v",
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20" + strings.Repeat("\x00", 14)}},
		{name: strings.Repeat("long", 60) + "/" + strings.Repeat("name", 20), body: "far"},
		{name: "not-utf8-\xff", body: "n"},
		dir("usr/"), dir("usr/lib/"), {name: "usr/lib/q", body: "q"}, {name: "lib", kind: tar.TypeSymlink, link: "usr/lib"},
	}, {
		{name: "a/.wh.x"}, {name: "h", kind: tar.TypeLink, link: "e"}, {name: "b", body: "second b"},
		{name: ".wh.lnk"}, {name: "d", body: "d is a file now"}, dir("f/"), {name: "f/g", body: "g"},
		dir("s/"), {name: "s/t", body: "t"},
		dir("o/"), {name: "o/.wh..wh..opq"}, {name: "o/new", body: "new"},
		dir("p/"), {name: "p/new", body: "new"}, {name: "p/.wh..wh..opq"}, // also what stands before it is of this layer
		{name: "a/y", body: "why", mode: 0o755},
		{name: "usr/lib/r", body: "r"},
	}, {
		{name: ".wh.d"}, {name: "a/.wh.sub"}, {name: "back", body: "back"}, {name: "a/x", body: "x again"},
	}}
}

// imageOf makes a container image of layers, gzipped.
func imageOf(t testing.TB, arch string, layers ...[]byte) v1.Image {
	t.Helper()
	im := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	im = mutate.ConfigMediaType(im, types.OCIConfigJSON)
	for _, content := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(content)),
				nil
		}, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if im, err = mutate.AppendLayers(im, l); err != nil {
			t.Fatal(err)
		}
	}
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: madeAt}
	if im, err = mutate.ConfigFile(im, c); err != nil {
		t.Fatal(err)
	}
	return im
}

func nastyImage(t testing.TB) v1.Image {
	var layers [][]byte
	for _, l := range nasty() {
		layers = append(layers, tarOf(t, l...))
	}
	return imageOf(t, "amd64", layers...)
}

// layoutOf writes images as an OCI layout; names become their annotations.
func layoutOf(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layout")
	l, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for name, im := range images {
		c, err := im.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.AppendImage(im, layout.WithAnnotations(map[string]string{annotationRef: name}),
			layout.WithPlatform(v1.Platform{OS: "linux", Architecture: c.Architecture})); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func newTrees(t testing.TB) *Trees {
	return &Trees{Blobs: Blobs{Dir: filepath.Join(t.TempDir(), "blobs")}}
}

func local(kind, path string) Origin {
	file, name, _ := strings.Cut(path, "#")
	return Origin{Kind: kind, Ref: path, Path: beneath.Path{Name: file}, Image: name, Local: true, Arch: "amd64"}
}

// get pins, fetches and unpacks.
func get(ctx context.Context, trees *Trees, o Origin, out string) (*tree.Tree, Pin, error) {
	pin, err := trees.Pin(ctx, o)
	if err != nil {
		return nil, pin, err
	}
	if err := trees.Fetch(ctx, o, pin, nil); err != nil {
		return nil, pin, err
	}
	if err := trees.Unpack(ctx, pin, out); err != nil {
		return nil, pin, err
	}
	tr, err := tree.FromTar(ctx, out)
	return tr, pin, err
}

func mustGet(t *testing.T, o Origin) (*tree.Tree, Pin) {
	t.Helper()
	tr, pin, err := get(t.Context(), newTrees(t), o, filepath.Join(t.TempDir(), "out.tar"))
	if err != nil {
		t.Fatal(err)
	}
	return tr, pin
}

func digest(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	d, err := tr.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", d)
}

// listing is a tree in lines, for the message of a difference.
func listing(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	for _, e := range tr.Entries() {
		if e.Hard != "" { // what a link's own header says of its mode means nothing
			same := *tr.Get(e.Hard)
			same.Path, same.Hard = e.Path, e.Hard
			e = &same
		}
		fmt.Fprintf(&b, "%q kind %d mode %o %d:%d → %q hard %q %d,%d %q", e.Path, e.Kind, e.Mode, e.UID, e.GID, e.Target,
			e.Hard, e.Major, e.Minor, e.Xattrs)
		if e.Kind == tree.File {
			content, err := tr.ReadFile(e.Path)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, " %q of %d", content[:min(len(content), 20)], len(content))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestLayersLikeUmoci: what layers add up to is what umoci unpacks.
func TestLayersLikeUmoci(t *testing.T) {
	needTool(t, "umoci")
	if os.Geteuid() != 0 {
		t.Skip("umoci makes devices and owners as root only")
	}
	path := layoutOf(t, map[string]v1.Image{"nasty": nastyImage(t)})
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", path+":nasty", bundle)
	want, err := FromDir(t.Context(), filepath.Join(bundle, "rootfs"), true)
	if err != nil {
		t.Fatal(err)
	}
	got, pin := mustGet(t, local(KindOCI, path))
	if listing(t, got) != listing(t, want) {
		t.Errorf("we unpack (+) and umoci unpacks (-):\n%s", cmp.Diff(listing(t, want), listing(t, got)))
	}
	if pin.Created != madeAt.Unix() {
		t.Errorf("created = %d; want what the config says: %d", pin.Created, madeAt.Unix())
	}
}

// TestEveryFormOfAnImage: the same image, in all the forms that tools write.
func TestEveryFormOfAnImage(t *testing.T) {
	needTool(t, "skopeo")
	im := nastyImage(t)
	dirForm := layoutOf(t, map[string]v1.Image{"one": im})
	want, _ := mustGet(t, local(KindOCI, dirForm))
	tmp := t.TempDir()
	forms := map[string]string{}
	at := func(name string) string { forms[name] = filepath.Join(tmp, name); return forms[name] }
	run(t, "tar", "--create", "--file", at("layout.tar"), "--directory", dirForm, ".")
	run(t, "tar", "--create", "--zstd", "--file", at("layout.tar.zst"), "--directory", dirForm, ".")
	run(t, "skopeo", "copy", "--quiet", "oci:"+dirForm+":one", "docker-archive:"+at("docker.tar")+":x/one:1")
	run(t, "skopeo", "copy", "--quiet", "--dest-compress-format", "zstd",
		"oci:"+dirForm+":one", "oci:"+at("zstd-layout")+":one")
	run(t, "skopeo", "copy", "--quiet", "oci:"+dirForm+":one", "oci-archive:"+at("oci-archive.tar")+":one")
	if err := tarball.WriteToFile(at("compressed-layers.tar"), name.MustParseReference("x/one:1"), im); err != nil {
		t.Fatal(err)
	}
	gz, err := os.Create(at("docker.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(forms["docker.tar"])
	if err != nil {
		t.Fatal(err)
	}
	w := gzip.NewWriter(gz)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	for name, path := range forms {
		got, _ := mustGet(t, local(KindOCI, path))
		if digest(t, got) != digest(t, want) {
			t.Errorf("%s differs:\n%s", name, cmp.Diff(listing(t, want), listing(t, got)))
		}
	}
	_, first := mustGet(t, local(KindOCI, forms["docker.tar"]))
	if _, again := mustGet(t, local(KindOCI, forms["docker.tar.gz"])); first.Digest != again.Digest {
		t.Errorf("the same archive is pinned as %s and %s", first.Digest, again.Digest)
	}
}

func hashOf(d ingot.Digest) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: d.Hex()} }

// TestDockerArchiveManifest: the manifest that a docker save archive gets is the same as always,
// since its digest is in plans and locks. go-containerregistry encoded it before.
func TestDockerArchiveManifest(t *testing.T) {
	layer := tarOf(t, member{name: "x", body: "x"})
	sum := sha256.Sum256(layer)
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`,
		sum)
	archive := filepath.Join(t.TempDir(), "docker.tar")
	content := tarOf(t, member{name: "c.json", body: string(config)}, member{name: "l/layer.tar", body: string(layer)},
		member{name: "manifest.json", body: `[{"Config":"c.json","RepoTags":["x/one:1"],"Layers":["l/layer.tar"]}]`})
	if err := os.WriteFile(archive, content, 0o644); err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Size: int64(len(config)),
			Digest: hashOf(ingot.DigestOf(config))},
		Layers: []v1.Descriptor{{MediaType: types.OCIUncompressedLayer, Size: int64(len(layer)),
			Digest: hashOf(ingot.DigestOf(layer))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, pin := mustGet(t, local(KindOCI, archive)); pin.Digest != ingot.DigestOf(want) {
		t.Errorf("pinned as %s; want %s, the digest of %s", pin.Digest, ingot.DigestOf(want), want)
	}
}

// TestImagesThatAreRefused: one clear error each, and nothing is left behind.
func TestImagesThatAreRefused(t *testing.T) {
	layer := tarOf(t, member{name: "x", body: "x"})
	amd, arm := imageOf(t, "amd64", layer), imageOf(t, "arm64", layer, tarOf(t, member{name: "y"}))
	armOnly := layoutOf(t, map[string]v1.Image{"arm": arm})
	armDocker := filepath.Join(t.TempDir(), "arm.tar")
	needTool(t, "skopeo")
	run(t, "skopeo", "copy", "--quiet", "oci:"+armOnly+":arm", "docker-archive:"+armDocker+":arm:1")
	notImage := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(notImage, layer, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		path string
		is   error
		says string
	}{
		{"another architecture, in an index", armOnly, ErrArch, "has linux/arm64; the profile wants linux/amd64"},
		{"another architecture, in a config", armDocker, ErrArch, "is for linux/arm64; the profile wants linux/amd64"},
		{"two images", layoutOf(t, map[string]v1.Image{"one": amd, "two": imageOf(t, "amd64", layer, layer)}),
			ErrManyImages, "choose one with"},
		{"one that is not there", layoutOf(t, map[string]v1.Image{"one": amd}) + "#three", ErrNoImage, "has one"},
		{"a missing layer", damage(t, amd, os.Remove), ErrBadImage, "layer 1 of 1"},
		{"a corrupt layer", damage(t, amd, flip), ErrBadImage, "layer 1 of 1"},
		{"a truncated layer", damage(t, amd, func(p string) error { return os.Truncate(p, 20) }), ErrBadImage,
			"layer 1 of 1"},
		{"content that is not the config's", lie(t, amd), ErrBadImage, "the config wants"},
		{"a tarball", notImage, ErrNoImage, "with the key tar or dir"},
		{"a folder", t.TempDir(), ErrNoImage, "neither an OCI layout nor a docker save archive"},
		{"nothing", filepath.Join(t.TempDir(), "nothing"), os.ErrNotExist, "nothing"},
	} {
		trees := newTrees(t)
		_, _, err := get(t.Context(), trees, local(KindOCI, c.path), filepath.Join(t.TempDir(), "out"))
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q and …%s…", c.name, err, c.is, c.says)
		}
		if left, _ := filepath.Glob(filepath.Join(trees.Blobs.Dir, incoming+"*")); len(left) > 0 {
			t.Errorf("%s leaves %v", c.name, left)
		}
	}
	named, _, err := get(t.Context(), newTrees(t),
		local(KindOCI, layoutOf(t, map[string]v1.Image{"one": amd, "arm": arm, "two": imageOf(t, "amd64", layer, layer)})+
			"#one"), filepath.Join(t.TempDir(), "out"))
	if err != nil || named.Get("x") == nil {
		t.Errorf("one of three, by name: %v", err)
	}
}

// damage writes an image as a layout and does something to its first layer.
func damage(t *testing.T, im v1.Image, do func(path string) error) string {
	t.Helper()
	path := layoutOf(t, map[string]v1.Image{"one": im})
	layers, err := im.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := do(filepath.Join(path, "blobs/sha256", d.Hex)); err != nil {
		t.Fatal(err)
	}
	return path
}

func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o644)
}

// lie writes an image whose config speaks of another layer.
func lie(t *testing.T, im v1.Image) string {
	t.Helper()
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.RootFS.DiffIDs[0].Hex = strings.Repeat("ab", 32)
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	m = m.DeepCopy()
	m.Config.Digest, m.Config.Size = hashOf(ingot.DigestOf(raw)), int64(len(raw))
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	path := layoutOf(t, map[string]v1.Image{"one": im})
	index := v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: types.OCIManifestSchema1,
		Digest: hashOf(ingot.DigestOf(manifest)), Size: int64(len(manifest))}}}
	text, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"blobs/sha256/" + ingot.DigestOf(raw).Hex(): raw,
		"blobs/sha256/" + ingot.DigestOf(manifest).Hex(): manifest, "index.json": text} {
		if err := os.WriteFile(filepath.Join(path, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestDamagedBlob: damage in the cache is found when a blob is used, and the blob is
// there again after it was fetched.
func TestDamagedBlob(t *testing.T) {
	trees := newTrees(t)
	var said bytes.Buffer
	trees.Log = slog.New(slog.NewTextHandler(&said, nil))
	im := imageOf(t, "amd64", tarOf(t, member{name: "x", body: "content"}))
	o := local(KindOCI, layoutOf(t, map[string]v1.Image{"one": im}))
	out := filepath.Join(t.TempDir(), "out")
	_, pin, err := get(t.Context(), trees, o, out)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := os.ReadDir(trees.Blobs.Dir)
	if err != nil || len(blobs) != 3 {
		t.Fatalf("%d blobs (%v); want manifest, config and layer", len(blobs), err)
	}
	for _, b := range blobs {
		if err := flip(filepath.Join(trees.Blobs.Dir, b.Name())); err != nil {
			t.Fatal(err)
		}
		if err := trees.Unpack(t.Context(), pin, out); !errors.Is(err, ErrDamaged) {
			t.Errorf("unpacking with a damaged %s: %v; want ErrDamaged", b.Name()[:12], err)
		}
		if !trees.Missing(pin) {
			t.Errorf("the damaged %s is still there", b.Name()[:12])
		}
		if err := trees.Fetch(t.Context(), o, pin, nil); err != nil {
			t.Fatal(err)
		}
		if err := trees.Unpack(t.Context(), pin, out); err != nil {
			t.Errorf("after the repair: %v", err)
		}
	}
}
