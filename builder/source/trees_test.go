package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"ingot/builder/tree"
	"ingot/internal/beneath"
)

// TestTarballs: every compression that GNU tar writes, and its sparse files.
func TestTarballs(t *testing.T) {
	dir := t.TempDir()
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = sparse.WriteAt([]byte("end"), 1<<20)
	if err := errors.Join(err, sparse.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o4711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "x"), 0o4711|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "x"), filepath.Join(dir, "y")); err != nil {
		t.Fatal(err)
	}
	var want string
	tmp := t.TempDir()
	for _, flag := range []string{"--format=gnu", "--gzip", "--xz", "--zstd", "--format=posix"} {
		file := filepath.Join(tmp, "a"+flag)
		run(t, "tar", "--create", "--sparse", "--mtime=@1700000000", "--owner=7", "--group=8", "--numeric-owner", flag,
			"--file", file, "--directory", dir, ".")
		got, pin := mustGet(t, local(KindTar, file))
		if want == "" {
			want = listing(t, got)
			if e := got.Get("sparse"); e == nil || e.Size != 1<<20+3 || e.UID != 7 {
				t.Errorf("sparse = %+v; want 1 MiB and 3 bytes of user 7", e)
			}
			if e := got.Get("y"); e == nil || e.Hard != "x" || got.Get("x").Mode != 0o4711 {
				t.Errorf("y = %+v; want a link to x, which is setuid", e)
			}
		}
		if listing(t, got) != want {
			t.Errorf("%s differs:\n%s", flag, cmp.Diff(want, listing(t, got)))
		}
		if _, err := tree.FromTar(t.Context(), file); strings.HasPrefix(flag, "--format") && !errors.Is(err, tree.ErrSparse) {
			t.Errorf("%s: indexing a sparse file where it is: %v; want ErrSparse", flag, err)
		}
		if pin.Created != 1700000000 {
			t.Errorf("%s: created %d; want the newest file's 1700000000", flag, pin.Created)
		}
	}
}

// TestBadTarballs: one error each, and no blob that could be taken for good.
func TestBadTarballs(t *testing.T) {
	good := tarOf(t, member{name: "x", body: strings.Repeat("x", 5000)}, member{name: "y", body: "y"})
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, err := w.Write(good)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(gz.Bytes())
	broken[len(broken)-6] ^= 1 // its checksum
	for name, content := range map[string][]byte{
		"truncated": good[:2000], "truncated gzip": gz.Bytes()[:gz.Len()-10],
		"no tarball": []byte(strings.Repeat("hello ", 200)), "broken gzip": broken,
		"below a file":      tarOf(t, member{name: "x", body: "x"}, member{name: "x/y"}),
		"a link to nothing": tarOf(t, member{name: "x", kind: tar.TypeLink, link: "gone"}),
	} {
		file := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		_, _, err := get(t.Context(), newTrees(t), local(KindTar, file), filepath.Join(t.TempDir(), "out"))
		if !errors.Is(err, ErrBadTar) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v; want ErrBadTar with the file's name", name, err)
		}
	}
}

// TestFolder: what a folder holds, whoever made it and whenever.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"bin/tool", "etc/conf"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("../etc/conf", filepath.Join(dir, "bin/link")),
		os.Link(filepath.Join(dir, "bin/tool"), filepath.Join(dir, "tool2")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Chmod(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	o := local(KindDir, dir)
	got, pin := mustGet(t, o)
	for p, want := range map[string]tree.Kind{"bin/tool": tree.File, "bin/link": tree.Symlink, "tool2": tree.File,
		"fifo": tree.Fifo, "etc": tree.Dir} {
		if e := got.Get(p); e == nil || e.Kind != want || e.UID != 0 {
			t.Errorf("%s = %+v; want kind %d of root", p, e, want)
		}
	}
	if e := got.Get("tool2"); e.Hard != "bin/tool" {
		t.Errorf("tool2 is linked to %q; want bin/tool", e.Hard)
	}
	if mode := got.Get("").Mode; mode != 0o755 {
		t.Errorf("the root has mode %o; want 755, whatever the folder's", mode)
	}
	old := time.Unix(1, 0)
	if err := os.Chtimes(filepath.Join(dir, "etc/conf"), old, old); err != nil {
		t.Fatal(err)
	}
	if _, again := mustGet(t, o); again != pin {
		t.Errorf("touched: %+v; want %+v", again, pin)
	}
	trees := newTrees(t)
	if err := os.WriteFile(filepath.Join(dir, "etc/conf"), []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := trees.Fetch(t.Context(), o, pin, nil); !errors.Is(err, ErrDigest) ||
		!strings.Contains(err.Error(), "run: ingot plan") {
		t.Errorf("fetching what has changed: %v; want ErrDigest", err)
	}
	o.Path = beneath.Path{}
	if err := trees.Fetch(t.Context(), o, pin, nil); !errors.Is(err, ErrNoTree) {
		t.Errorf("fetching from nowhere: %v; want ErrNoTree", err)
	}
}

// TestFolderKeepsOwners: and devices and attributes, judged by GNU tar.
func TestFolderKeepsOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes devices and files of others")
	}
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	if err := errors.Join(os.WriteFile(f, []byte("f"), 0o644), os.Chown(f, 12, 34),
		unix.Lsetxattr(f, "security.capability",
			[]byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 70000)))); err != nil {
		t.Fatal(err)
	}
	o := local(KindDir, dir)
	o.KeepOwners = true
	got, _ := mustGet(t, o)
	file := filepath.Join(t.TempDir(), "a.tar")
	run(t, "tar", "--create", "--format=posix", "--xattrs", "--xattrs-include=*", "--file",
		file, "--directory", dir, "f", "dev")
	want, _ := mustGet(t, local(KindTar, file))
	if d := cmp.Diff(listing(t, want), listing(t, got)); d != "" {
		t.Errorf("GNU tar (-) and we (+) differ:\n%s", d)
	}
}

func TestBlobs(t *testing.T) {
	b := Blobs{filepath.Join(t.TempDir(), "deep", "blobs")}
	d, n, err := b.Put(t.Context(), strings.NewReader("hello"), "")
	if err != nil || n != 5 || !b.Has(d, 5) || b.Has(d, 6) {
		t.Fatalf("Put = %s, %d, %v", d, n, err)
	}
	if _, _, err := b.Put(t.Context(), strings.NewReader("other"), d); !errors.Is(err, ErrDigest) {
		t.Errorf("Put of other bytes: %v; want ErrDigest", err)
	}
	if _, _, err := b.Put(t.Context(), io.MultiReader(strings.NewReader("hel"), failing{}), d); err == nil {
		t.Error("Put of half a stream succeeds")
	}
	long := time.Now().Add(-unusedBlobs - time.Hour)
	if err := os.Chtimes(b.Path(d), long, long); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Put(t.Context(), strings.NewReader("new"), ""); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(b.Dir); len(left) != 1 {
		t.Errorf("%d files are left; want the new one only", len(left))
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, exec.ErrWaitDelay }

// TestTreesStayInside: whatever links a folder, a tarball or a layout has, and whatever becomes a
// link while it is read, no file of the host outside of it is read.
func TestTreesStayInside(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.MkdirAll(filepath.Join(top, "away/sub"), 0o755), os.Symlink(top+"/away", filepath.Join(dir, "folder")),
		os.WriteFile(filepath.Join(top, "away/sub/file"), []byte("SECRET"), 0o600),
		os.Symlink("../away/sub/file", filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(dir, "sub/file"), []byte("mine"), 0o644),
		os.WriteFile(filepath.Join(dir, "other"), []byte("other"), 0o644)); err != nil {
		t.Fatal(err)
	}
	tr, err := FromDir(t.Context(), dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := listing(t, tr); strings.Contains(got, "SECRET") || tr.Get("folder").Kind != tree.Symlink ||
		tr.Get("link").Kind != tree.Symlink {
		t.Errorf("the folder gives\n%s\nwant links, as they are", got)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "sub")),
		os.Symlink("../away/sub", filepath.Join(dir, "sub"))); err != nil {
		t.Fatal(err)
	}
	if b, err := tr.ReadFile("sub/file"); err == nil {
		t.Errorf("a folder that became a link out: read %q", b)
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "sub")), os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.Symlink("../other", filepath.Join(dir, "sub/file"))); err != nil {
		t.Fatal(err)
	}
	if b, err := tr.ReadFile("sub/file"); err == nil {
		t.Errorf("a file that became a link within the folder: read %q", b)
	}
	for _, target := range []string{"../away/sub/file", top + "/away/sub/file", "x/sub/file"} {
		file := filepath.Join(t.TempDir(), "a.tar")
		content := tarOf(t, member{name: "x", kind: tar.TypeSymlink, link: top + "/away"},
			member{name: "stolen", kind: tar.TypeLink, link: target})
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if tr, _, err := get(t.Context(), newTrees(t), local(KindTar, file),
			filepath.Join(t.TempDir(), "out")); !errors.Is(err, ErrBadTar) {
			t.Errorf("a tarball with a hard link to %s: %v, %v; want ErrBadTar", target, tr, err)
		}
	}
	for _, part := range []string{"blobs/sha256/*", "index.json"} {
		layout := layoutOf(t, map[string]v1.Image{"nasty": nastyImage(t)})
		files, err := filepath.Glob(filepath.Join(layout, part))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", part, len(files), err)
		}
		for _, f := range files {
			out := filepath.Join(top, filepath.Base(f))
			if err := errors.Join(os.Rename(f, out), os.Symlink(out, f)); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := get(t.Context(), newTrees(t), local(KindOCI, layout),
			filepath.Join(t.TempDir(), "out")); err == nil {
			t.Errorf("a layout whose %s are links out of it is read", part)
		}
	}
}
