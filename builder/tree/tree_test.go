package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var epoch = time.Unix(1_700_000_000, 0)

func mustPut(t interface{ Fatal(...any) }, tr *Tree, e Entry) {
	if err := tr.Put(e); err != nil {
		t.Fatal(err)
	}
}

func file(path, content string) Entry {
	return Entry{Path: path, Kind: File, Mode: 0o644, Size: int64(len(content)), Open: Bytes([]byte(content))}
}

// TestMergedUsr: what a layer ships in /lib lands behind the link.
func TestMergedUsr(t *testing.T) {
	tr := New()
	mustPut(t, tr, Entry{Path: "usr/lib", Kind: Dir, Mode: 0o755})
	if err := tr.PutLink("lib", "usr/lib"); err != nil {
		t.Fatal(err)
	}
	over := New()
	mustPut(t, over, Entry{Path: "lib", Kind: Dir, Mode: 0o755})
	mustPut(t, over, file("lib/modules/6/x.ko", "module"))
	if err := tr.Merge(over); err != nil {
		t.Fatal(err)
	}
	if e := tr.Get("lib"); e == nil || e.Kind != Symlink {
		t.Errorf("lib = %+v; want still a link", e)
	}
	if b, err := tr.ReadFile("usr/lib/modules/6/x.ko"); err != nil || string(b) != "module" {
		t.Errorf("usr/lib/modules/6/x.ko = %q, %v", b, err)
	}
	if b, err := tr.ReadFile("/lib/modules/6/x.ko"); err != nil || string(b) != "module" {
		t.Errorf("by the link: %q, %v", b, err)
	}
}

func TestLinksNeverLeaveTheTree(t *testing.T) {
	tr := New()
	if err := tr.PutLink("out", "../../../etc"); err != nil {
		t.Fatal(err)
	}
	mustPut(t, tr, file("out/passwd", "x"))
	if tr.Get("etc/passwd") == nil {
		t.Error("a link with .. does not stay below the root")
	}
	if err := tr.PutLink("a", "b"); err != nil {
		t.Fatal(err)
	}
	if err := tr.PutLink("b", "a"); err != nil {
		t.Fatal(err)
	}
	if err := tr.Put(file("a/x", "")); err == nil {
		t.Error("a circle of links is followed for ever")
	}
}

func TestReplaceAndRemove(t *testing.T) {
	tr := New()
	mustPut(t, tr, file("d/one", "1"))
	mustPut(t, tr, Entry{Path: "d/two", Kind: File, Mode: 0o644, Hard: "d/one"})
	mustPut(t, tr, file("d/one", "new")) // the link keeps the old content
	if b, err := tr.ReadFile("d/two"); err != nil || string(b) != "1" {
		t.Errorf("the other name of a replaced file = %q, %v; want the old content", b, err)
	}
	mustPut(t, tr, file("d", "now a file"))
	if tr.Get("d/one") != nil || tr.Get("d").Kind != File {
		t.Error("a file over a folder leaves its children")
	}
	if err := tr.Put(file("d/x", "")); err == nil {
		t.Error("a file can have children")
	}
	mustPut(t, tr, file("etc/ssh/ssh_host_rsa_key", ""))
	mustPut(t, tr, file("etc/ssh/sshd_config", ""))
	if err := tr.RemoveMatching("etc/ssh/ssh_host_*"); err != nil {
		t.Fatal(err)
	}
	if tr.Get("etc/ssh/ssh_host_rsa_key") != nil || tr.Get("etc/ssh/sshd_config") == nil {
		t.Error("RemoveMatching removes the wrong files")
	}
}

// TestHardLinkNeedsItsFile: a link never dangles, and a refused one changes nothing.
func TestHardLinkNeedsItsFile(t *testing.T) {
	tr := New()
	mustPut(t, tr, file("dir/f", "1"))
	mustPut(t, tr, Entry{Path: "alias", Kind: Symlink, Mode: 0o777, Target: "dir"})
	for _, e := range []Entry{
		{Path: "dir", Kind: File, Hard: "dir/f"}, // would remove its own file
		{Path: "x", Kind: File, Hard: "nowhere"},
		{Path: "x", Kind: File, Hard: "dir"},
	} {
		if err := tr.Put(e); !errors.Is(err, ErrNoFile) {
			t.Errorf("Put(%q as a link to %q) = %v; want %v", e.Path, e.Hard, err, ErrNoFile)
		}
	}
	mustPut(t, tr, Entry{Path: "alias/f", Kind: File, Hard: "dir/f"}) // itself
	mustPut(t, tr, Entry{Path: "y", Kind: File, Hard: "dir/f"})
	mustPut(t, tr, Entry{Path: "z", Kind: File, Hard: "y"}) // by way of another link
	if f := tr.Get("dir/f"); f == nil || f.Hard != "" {
		t.Errorf("dir/f = %+v; want the file", f)
	}
	if z := tr.Get("z"); z == nil || z.Hard != "dir/f" {
		t.Errorf("z = %+v; want a link to dir/f", z)
	}
	if got := tr.Len(); got != 6 {
		t.Errorf("%d entries; want 6: the root, alias, dir, dir/f, y, z", got)
	}
}

// drawTree makes any tree: every kind, hard links, odd names, attributes.
func drawTree(rt *rapid.T) *Tree {
	tr := New()
	name := rapid.OneOf(rapid.StringMatching(`[a-z]{1,3}`),
		rapid.SampledFrom([]string{"\xff\xfe", strings.Repeat("n", 200), "sp ace", "ünï"}))
	var files []string
	for range rapid.IntRange(0, 25).Draw(rt, "entries") {
		e := Entry{Path: name.Draw(rt, "a"), Mode: uint32(rapid.IntRange(0, 0o7777).Draw(rt, "mode")),
			UID: rapid.IntRange(0, 3_000_000).Draw(rt, "uid"), GID: rapid.IntRange(0, 70000).Draw(rt, "gid")}
		if rapid.Bool().Draw(rt, "deep") {
			e.Path += "/" + name.Draw(rt, "b")
		}
		switch e.Kind = Kind(rapid.IntRange(0, 5).Draw(rt, "kind")); e.Kind {
		case File:
			if len(files) > 0 && rapid.Bool().Draw(rt, "hard") {
				if target := tr.Get(files[0]); target != nil && target.Kind == File && target.Hard == "" && target.Path != e.Path {
					e.Hard = target.Path
					break
				}
			}
			content := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "content")
			e.Size, e.Open = int64(len(content)), Bytes(content)
			files = append([]string{e.Path}, files...)
		case Symlink:
			e.Mode, e.Target = 0o777, "/nowhere/"+name.Draw(rt, "target")
		case CharDevice, BlockDevice:
			e.Major, e.Minor = int64(rapid.IntRange(0, 4095).Draw(rt, "major")),
				int64(rapid.IntRange(0, 1<<20-1).Draw(rt, "minor"))
		}
		if e.Hard == "" && e.Kind != Symlink && rapid.Bool().Draw(rt, "xattr") {
			e.Xattrs = map[string]string{"security.capability": "\x01\x00\x00\x02",
				"user.x": rapid.StringMatching(`[a-z]{0,9}`).Draw(rt, "value")}
		}
		_ = tr.Put(e) // below a file it is refused, and that is fine
	}
	return tr
}

// TestTarRoundTrip: what is written is what is read, and the same tree gives
// the same bytes.
func TestTarRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		tr := drawTree(rt)
		var first, second bytes.Buffer
		if err := tr.WriteTar(t.Context(), &first, epoch); err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(dir, "t.tar")
		if err := os.WriteFile(path, first.Bytes(), 0o644); err != nil {
			rt.Fatal(err)
		}
		back, err := FromTar(t.Context(), path)
		if err != nil {
			rt.Fatal(err)
		}
		if err := back.WriteTar(t.Context(), &second, epoch); err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			rt.Fatalf("the tar of what was read differs: %s",
				cmp.Diff(tr.Entries(), back.Entries(), cmpopts.IgnoreFields(Entry{}, "Open"), cmpopts.EquateEmpty()))
		}
		a, errA := tr.Digest()
		b, errB := back.Digest()
		if errA != nil || errB != nil || a != b {
			rt.Fatalf("digests differ after a round trip: %v %v", errA, errB)
		}
	})
}

// TestMergeIsPutAll: laying a tree over another gives the upper one's entries.
func TestMergeIsPutAll(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		lower, upper := drawTree(rt), drawTree(rt)
		links := 0 // links of the lower tree on which the upper one lands: two of its paths may become one
		for _, e := range upper.Entries() {
			if old := lower.entries[e.Path]; old != nil && old.Kind == Symlink {
				links++
			}
		}
		if err := lower.Merge(upper); err != nil {
			return // a file of the lower tree where the upper has a folder below a link
		}
		for _, e := range upper.Entries() {
			got := lower.Get(e.Path)
			if got == nil {
				rt.Fatalf("%q of the upper tree is not there", e.Path)
			}
			if got.Kind != e.Kind && links == 0 {
				rt.Fatalf("%q has kind %d; want %d", e.Path, got.Kind, e.Kind)
			}
		}
		for _, e := range lower.Entries() {
			if e.Hard != "" {
				if f := lower.Get(e.Hard); f == nil || f.Kind != File || f.Hard != "" {
					rt.Fatalf("%q is a hard link to %q, which is no file", e.Path, e.Hard)
				}
			}
		}
	})
}

// TestTarIsCanonical looks at the tar with Go's own reader.
func TestTarIsCanonical(t *testing.T) {
	tr := New()
	mustPut(t, tr, file("b", "2"))
	mustPut(t, tr, Entry{Path: "z", Kind: File, Hard: "b"})
	mustPut(t, tr, file("a", "1"))
	var buf bytes.Buffer
	if err := tr.WriteTar(t.Context(), &buf, epoch); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(epoch) || h.Uname != "" {
			t.Errorf("%s: time %v, owner %q; want the epoch and numbers only", h.Name, h.ModTime, h.Uname)
		}
		names = append(names, h.Name)
	}
	if d := cmp.Diff([]string{"./", "./a", "./b", "./z"}, names); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}
