package squashfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func needTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed; run scripts/setup test", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// memory is an Out in memory.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) {
	m.b = append(m.b, p...)
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) { return copy(m.b[at:], p), nil }

func mustWrite(t testing.TB, entries []Entry, o Options) ([]byte, Info) {
	t.Helper()
	var m memory
	info, err := Write(t.Context(), &m, entries, o)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(len(m.b)) {
		t.Fatalf("Info.Size = %d; want %d", info.Size, len(m.b))
	}
	return m.b, info
}

func writeFile(t testing.TB, entries []Entry, o Options) (string, Info) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := Write(t.Context(), f, entries, o)
	if err != nil {
		t.Fatal(err)
	}
	return path, info
}

// whole is what an image of entries must hold: sorted, the root among them,
// hard links as the reader reports them.
func whole(entries []Entry) []Entry {
	list := slices.Clone(entries)
	if !slices.ContainsFunc(list, func(e Entry) bool { return e.Path == "" }) {
		list = append(list, Entry{Kind: Dir, Mode: 0o755})
	}
	files := map[string]Entry{}
	for _, e := range list {
		if e.Hard == "" {
			files[e.Path] = e
		}
	}
	slices.SortFunc(list, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	first := map[string]string{}
	for i, e := range list {
		if e.Kind == Dir && e.Hard == "" {
			continue
		}
		key := cmp.Or(e.Hard, e.Path)
		if path, ok := first[key]; ok {
			list[i] = Entry{Path: e.Path, Hard: path}
			continue
		}
		first[key] = e.Path
		list[i] = files[key]
		list[i].Path = e.Path
	}
	return list
}

// describe is an entry without its content's function.
func describe(e Entry) Entry {
	e.Open = nil
	if len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
	return e
}

// sameContent compares two contents as streams.
func sameContent(a, b func() (io.ReadCloser, error), size int64) error {
	if size == 0 {
		return nil
	}
	ra, err := a()
	if err != nil {
		return err
	}
	defer ra.Close()
	rb, err := b()
	if err != nil {
		return err
	}
	defer rb.Close()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); at < size; {
		n := int(min(int64(len(x)), size-at))
		if _, err := io.ReadFull(ra, x[:n]); err != nil {
			return fmt.Errorf("at %d: %w", at, err)
		}
		if _, err := io.ReadFull(rb, y[:n]); err != nil {
			return fmt.Errorf("at %d: %w", at, err)
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return fmt.Errorf("differs between %d and %d", at, at+int64(n))
		}
		at += int64(n)
	}
	return errors.Join(atEnd(ra), atEnd(rb))
}

// readBack lets our own reader compare an image with what went in.
func readBack(t testing.TB, r io.ReaderAt, size int64, entries []Entry) {
	t.Helper()
	img, err := Open(r, size)
	if err != nil {
		t.Fatal(err)
	}
	got, err := img.Entries()
	if err != nil {
		t.Fatal(err)
	}
	want := whole(entries)
	if len(got) != len(want) {
		t.Fatalf("the image has %d entries; want %d", len(got), len(want))
	}
	for i := range got {
		if diff := gocmp.Diff(describe(want[i]), describe(got[i])); diff != "" {
			t.Fatalf("entry %q (-want +got):\n%s", want[i].Path, diff)
		}
		if err := sameContent(want[i].Open, got[i].Open, want[i].Size); err != nil {
			t.Fatalf("content of %q: %v", want[i].Path, err)
		}
	}
}

// unsquash lets unsquashfs compare: its listing with ours, and no warning.
func unsquash(t *testing.T, path string, entries []Entry) {
	t.Helper()
	needTool(t, "unsquashfs")
	cmd := exec.Command("unsquashfs", "-lln", "-d", "", path)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("unsquashfs: %v: %s", err, stderr.String())
	}
	var want []string
	files := map[string]Entry{}
	for _, e := range whole(entries) {
		if e.Hard == "" {
			files[e.Path] = e
		} else {
			path := e.Path
			e = files[e.Hard]
			e.Path = path
		}
		want = append(want, lsLine(e))
	}
	got := columns.ReplaceAllString(string(out), "$1 ")
	got = folderSize.ReplaceAllString(got, "$1 * $2")
	// A name may hold a line feed, and unsquashfs lists the tree depth first.
	gotLines, wantLines := sortedLines(got), sortedLines(strings.Join(want, "\n"))
	if !slices.Equal(gotLines, wantLines) {
		for i := range min(len(gotLines), len(wantLines)) {
			if gotLines[i] != wantLines[i] {
				t.Fatalf("unsquashfs lists %q; want %q", gotLines[i], wantLines[i])
			}
		}
		t.Fatalf("unsquashfs lists %d lines; want %d", len(gotLines), len(wantLines))
	}
}

func sortedLines(s string) []string {
	return slices.Sorted(strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n"))
}

// folderSize is how much a folder's listing takes: the writer's own affair.
var folderSize = regexp.MustCompile(`(?m)^(d\S{9} \S+) \d+ (\d{4}-)`)

// columns is the blanks between owner and size.
var columns = regexp.MustCompile(`(?m)^([-dlcbps]\S{9} \d+/\d+) +`)

// lsLine is an entry as unsquashfs -lln prints it.
func lsLine(e Entry) string {
	mode := []byte(strings.Repeat("-", 10))
	mode[0] = "-dlcbps"[e.Kind]
	for i := range 9 {
		if e.Mode>>(8-i)&1 != 0 {
			mode[i+1] = "rwx"[i%3]
		}
	}
	for i, at := range []int{3, 6, 9} {
		if e.Mode>>(11-i)&1 == 0 {
			continue
		}
		x := mode[at] == 'x'
		mode[at] = map[bool]byte{true: "sst"[i], false: "SST"[i]}[x]
	}
	owner := fmt.Sprintf("%d/%d", e.UID, e.GID)
	size := fmt.Sprintf("%d", e.Size)
	switch e.Kind {
	case CharDevice, BlockDevice:
		// unsquashfs lists numbers as of before Linux 2.6; the kernel judges the real ones.
		n := deviceNumber(e.Major, e.Minor)
		size = fmt.Sprintf("%d,%3d", int32(n)>>8, n&0xff)
	case Symlink:
		size = fmt.Sprintf("%d", len(e.Target))
	}
	path := "/" + e.Path
	if e.Path == "" {
		path = ""
	}
	if e.Kind == Dir {
		return fmt.Sprintf("%s %s * %s %s", mode, owner, time.Unix(e.ModTime, 0).UTC().Format("2006-01-02 15:04"), path)
	}
	line := fmt.Sprintf("%s %s %s %s %s", mode, owner, size, time.Unix(e.ModTime, 0).UTC().Format("2006-01-02 15:04"),
		path)
	if e.Kind == Symlink {
		line += " -> " + e.Target
	}
	return line
}

// mounted lets the kernel compare: lstat, extended attributes, links and a full read.
func mounted(t *testing.T, path string, entries []Entry) {
	t.Helper()
	dir, unmount := mount(t, path)
	defer unmount()
	inodes := map[string]uint64{}
	seen := 0
	for _, e := range whole(entries) {
		at := filepath.Join(dir, e.Path)
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil {
			t.Fatalf("%q: %v", e.Path, err)
		}
		seen++
		if e.Hard != "" {
			if st.Ino != inodes[e.Hard] {
				t.Errorf("%q is not the same file as %q", e.Path, e.Hard)
			}
			continue
		}
		inodes[e.Path] = st.Ino
		compareStat(t, at, e, &st)
	}
	found := 0
	err := filepath.WalkDir(dir, func(string, os.DirEntry, error) error { found++; return nil })
	if err != nil || found != seen {
		t.Errorf("the mounted image lists %d names (%v); want %d", found, err, seen)
	}
}

var kinds = map[Kind]uint32{File: unix.S_IFREG, Dir: unix.S_IFDIR, Symlink: unix.S_IFLNK, CharDevice: unix.S_IFCHR,
	BlockDevice: unix.S_IFBLK, Fifo: unix.S_IFIFO, Socket: unix.S_IFSOCK}

func compareStat(t *testing.T, at string, e Entry, st *unix.Stat_t) {
	t.Helper()
	if st.Mode != e.Mode|kinds[e.Kind] || st.Uid != e.UID || st.Gid != e.GID || st.Mtim.Sec != e.ModTime {
		t.Errorf("%q: mode %#o, owner %d:%d, time %d; want %#o, %d:%d, %d", e.Path, st.Mode, st.Uid, st.Gid, st.Mtim.Sec,
			e.Mode|kinds[e.Kind], e.UID, e.GID, e.ModTime)
	}
	switch e.Kind {
	case File:
		if st.Size != e.Size {
			t.Errorf("%q: %d bytes; want %d", e.Path, st.Size, e.Size)
		}
		open := func() (io.ReadCloser, error) { return os.Open(at) }
		if err := sameContent(e.Open, open, e.Size); err != nil {
			t.Errorf("content of %q: %v", e.Path, err)
		}
	case Symlink:
		if target, err := os.Readlink(at); err != nil || target != e.Target {
			t.Errorf("%q: link to %q (%v); want %q", e.Path, target, err, e.Target)
		}
	case CharDevice, BlockDevice:
		if unix.Major(st.Rdev) != e.Major || unix.Minor(st.Rdev) != e.Minor {
			t.Errorf("%q: device %d:%d; want %d:%d", e.Path, unix.Major(st.Rdev), unix.Minor(st.Rdev), e.Major, e.Minor)
		}
	}
	for name, want := range e.Xattrs {
		b := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(at, name, b)
		if err != nil && e.Kind == Symlink && errors.Is(err, syscall.EPERM) {
			continue // user.* of links
		}
		if err != nil || string(b[:max(n, 0)]) != want {
			t.Errorf("%q: %s = %q (%v); want %q", e.Path, name, b[:max(n, 0)], err, want)
		}
	}
}

func testTree(t *testing.T, entries []Entry, o Options) {
	path, _ := writeFile(t, entries, o)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	readBack(t, f, st.Size(), entries)
	unsquash(t, path, entries)
	mounted(t, path, entries)
}

func TestCorpus(t *testing.T) {
	for name, entries := range corpus(t) {
		for _, o := range []Options{{Level: 3}, {Compression: Gzip, Level: 6}, {Compression: None},
			{Level: 1, BlockSize: 4096}, {Level: 1, BlockSize: 1 << 20}} {
			t.Run(fmt.Sprintf("%s/%d-%d", name, o.Compression, o.BlockSize), func(t *testing.T) { testTree(t, entries, o) })
		}
	}
}

func TestLargeTrees(t *testing.T) {
	if testing.Short() {
		t.Skip("takes longer")
	}
	for name, entries := range large() {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "GiB") && os.Getenv("INGOT_TEST_ALL") == "" {
				t.Skip("reads 5 GiB three times; INGOT_TEST_ALL=1 runs it")
			}
			testTree(t, entries, Options{Level: 1})
		})
	}
}

// TestSameBytes: order, processors, cache, none of it is in the image.
func TestSameBytes(t *testing.T) {
	entries := append(system(1, 400), sparse("hole", 1<<20, map[int64]byte{77: 1}))
	cache := &Cache{Dir: t.TempDir()}
	want, info := mustWrite(t, entries, Options{Workers: 1})
	runs := []Options{{Workers: 2}, {Workers: 8}, {Cache: cache}, {Cache: cache}, {Cache: cache, Workers: 1}}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	defer syscall.Umask(syscall.Umask(0o077))
	for i, o := range runs {
		runtime.GOMAXPROCS([]int{1, 2, 8}[i%3])
		rand.New(rand.NewPCG(uint64(i), 9)).Shuffle(len(entries),
			func(a, b int) { entries[a], entries[b] = entries[b], entries[a] })
		got, again := mustWrite(t, entries, o)
		if !bytes.Equal(got, want) {
			t.Errorf("run %d gives another image", i)
		}
		if !slices.Equal(info.Cuts, again.Cuts) {
			t.Errorf("run %d is cut elsewhere", i)
		}
		if cached := i > 2; cached != (again.Cached == again.Blocks) {
			t.Errorf("run %d: %d of %d blocks from the cache", i, again.Cached, again.Blocks)
		}
	}
}

// packedTree is a tree of about 24 MiB that does not get smaller: quick to make.
func packedTree() []Entry {
	r := rand.New(rand.NewPCG(8, 8))
	var entries []Entry
	for d := range 40 {
		entries = append(entries, dir(fmt.Sprintf("d%03d", d)))
		for f := range 40 {
			entries = append(entries, file(fmt.Sprintf("d%03d/f%02d", d, f),
				packedBytes(byte(d), byte(f), int(r.ExpFloat64()*16_000))))
		}
	}
	return entries
}

func packedBytes(a, b byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{a, b}).Read(p) // never fails
	return p
}

// TestAnyChangeIsLocal: whatever one folder's files become, the pieces far from
// it stay as they are, and all keep to their bounds.
func TestAnyChangeIsLocal(t *testing.T) {
	o := Options{Level: 1, BlockSize: 64 << 10}
	entries := packedTree()
	img, info := mustWrite(t, entries, o)
	known := map[string]bool{}
	for at, i := int64(0), 0; i < len(info.Cuts); at, i = at+info.Cuts[i], i+1 {
		known[string(img[at:at+info.Cuts[i]])] = true
	}
	r := rand.New(rand.NewPCG(7, 7))
	for range 25 {
		changed := slices.Clone(entries)
		folder, percent := fmt.Sprintf("d%03d/", r.IntN(40)), 60+r.IntN(80)
		for i, e := range changed {
			if strings.HasPrefix(e.Path, folder) && r.IntN(3) == 0 {
				changed[i] = file(e.Path, packedBytes(byte(i), 99, int(e.Size)*percent/100))
			}
		}
		img, info := mustWrite(t, changed, o)
		fresh := int64(0)
		for at, i := int64(0), 0; i < len(info.Cuts); at, i = at+info.Cuts[i], i+1 {
			n := info.Cuts[i]
			if n > MaxCut || n < MinCut && i < len(info.Cuts)-2 {
				t.Errorf("a piece of %d bytes", n)
			}
			if !known[string(img[at:at+n])] {
				fresh += n
			}
		}
		if fresh > 6<<20 {
			t.Errorf("%s at %d %%: %d of %d bytes are in new pieces; want the neighbourhood and the tables", folder, percent,
				fresh, len(img))
		}
	}
}

func TestDuplicatesAreStoredOnce(t *testing.T) {
	one, _ := mustWrite(t, []Entry{file("a", noise(1, 400_000))}, Options{})
	two, info := mustWrite(t, []Entry{file("a", noise(1, 400_000)), file("b", noise(1, 400_000))}, Options{})
	if len(two) > len(one)+4096 || info.Duplicates != 1 {
		t.Errorf("twice the same file takes %d bytes, once %d; %d duplicates", len(two), len(one), info.Duplicates)
	}
}

func TestRefused(t *testing.T) {
	long := file("short", []byte("1234"))
	long.Size = 3
	short := file("long", []byte("1234"))
	short.Size = 500_000
	for name, c := range map[string]struct {
		entries []Entry
		o       Options
		want    error
	}{
		"no parent":    {entries: []Entry{file("a/b", nil)}, want: ErrEntry},
		"below a file": {entries: []Entry{file("a", nil), file("a/b", nil)}, want: ErrEntry},
		"twice":        {entries: []Entry{file("a", nil), file("a", nil)}, want: ErrEntry},
		"dots":         {entries: []Entry{file("..", nil)}, want: ErrEntry},
		"absolute":     {entries: []Entry{file("/a", nil)}, want: ErrEntry},
		"NUL":          {entries: []Entry{file("a\x00b", nil)}, want: ErrEntry},
		"long name":    {entries: []Entry{file(strings.Repeat("n", 256), nil)}, want: ErrEntry},
		"before 1970":  {entries: []Entry{{Path: "a", ModTime: -1}}, want: ErrEntry},
		"after 2106":   {entries: []Entry{{Path: "a", ModTime: 1 << 32}}, want: ErrEntry},
		"ACL": {entries: []Entry{{Path: "a", Xattrs: map[string]string{"system.posix_acl_access": "x"}}},
			want: ErrEntry},
		"link to nowhere":  {entries: []Entry{{Path: "a", Hard: "b"}}, want: ErrEntry},
		"link to a folder": {entries: []Entry{dir("b"), {Path: "a", Hard: "b"}}, want: ErrEntry},
		"link to a link": {entries: []Entry{file("c", nil), {Path: "b", Hard: "c"}, {Path: "a", Hard: "b"}},
			want: ErrEntry},
		"long symlink":   {entries: []Entry{{Path: "a", Kind: Symlink, Target: strings.Repeat("t", 4096)}}, want: ErrEntry},
		"empty symlink":  {entries: []Entry{{Path: "a", Kind: Symlink}}, want: ErrEntry},
		"device":         {entries: []Entry{{Path: "a", Kind: CharDevice, Major: 4096}}, want: ErrEntry},
		"more content":   {entries: []Entry{long}, want: ErrContent},
		"less content":   {entries: []Entry{short}, want: ErrContent},
		"root is a file": {entries: []Entry{file("", nil)}, want: ErrEntry},
		"block size":     {o: Options{BlockSize: 5000}, want: ErrOptions},
		"level":          {o: Options{Level: 23}, want: ErrOptions},
		"gzip level":     {o: Options{Compression: Gzip, Level: 10}, want: ErrOptions},
		"epoch":          {o: Options{Epoch: time.Unix(-5, 0)}, want: ErrOptions},
	} {
		if _, err := Write(t.Context(), &memory{}, c.entries, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
	}
}

// brokenDisk takes so many bytes.
type brokenDisk struct{ left int }

func (d *brokenDisk) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, syscall.ENOSPC
	}
	return len(p), nil
}
func (d *brokenDisk) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestErrorsEndTheWriter(t *testing.T) {
	entries := system(2, 600)
	if _, err := Write(t.Context(), &brokenDisk{2 << 20}, entries, Options{Level: 1}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Write(ctx, &memory{}, entries, Options{Level: 1, Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("when cancelled: %v", err)
	}
	broken := errors.New("unreadable")
	entries[100].Open = func() (io.ReadCloser, error) { return nil, broken }
	entries[100].Size++
	if _, err := Write(t.Context(), &memory{}, entries, Options{Level: 1}); !errors.Is(err, broken) {
		t.Errorf("with an unreadable file: %v", err)
	}
}

// drawEntries draws a tree.
func drawEntries(rt *rapid.T) []Entry {
	name := rapid.OneOf(rapid.StringMatching(`[a-d]{1,2}`),
		rapid.SampledFrom([]string{"\xff\xfe", strings.Repeat("n", 255), "sp ace", "ünï"}))
	entries := []Entry{{Kind: Dir, Mode: 0o755}}
	dirs, files, taken := []string{""}, []string(nil), map[string]bool{"": true}
	for range rapid.IntRange(0, 60).Draw(rt, "entries") {
		path := name.Draw(rt, "name")
		if d := rapid.SampledFrom(dirs).Draw(rt, "folder"); d != "" {
			path = d + "/" + path
		}
		if taken[path] {
			continue
		}
		taken[path] = true
		e := Entry{Path: path, Kind: Kind(rapid.IntRange(0, int(Socket)).Draw(rt, "kind")),
			Mode: uint32(rapid.IntRange(0, 0o7777).Draw(rt, "mode")),
			UID:  rapid.Uint32().Draw(rt, "uid"), GID: uint32(rapid.IntRange(0, 3).Draw(rt, "gid")),
			ModTime: int64(rapid.Uint32().Draw(rt, "time"))}
		if rapid.IntRange(0, 5).Draw(rt, "xattrs") == 0 {
			e.Xattrs = rapid.MapOfN(rapid.SampledFrom([]string{"user.a", "security.b", "trusted.long"}),
				rapid.StringN(0, 300, 9000), 1, 3).Draw(rt, "set")
		}
		switch e.Kind {
		case Dir:
			dirs = append(dirs, path)
		case Symlink:
			e.Target = rapid.StringMatching(`[a-z/.]{1,50}`).Draw(rt, "target")
		case CharDevice, BlockDevice:
			e.Major, e.Minor = rapid.Uint32Range(0, 4095).Draw(rt, "major"), rapid.Uint32Range(0, 1<<20-1).Draw(rt, "minor")
		case File:
			if len(files) > 0 && rapid.IntRange(0, 4).Draw(rt, "hard") == 0 {
				e = Entry{Path: path, Hard: rapid.SampledFrom(files).Draw(rt, "linked")}
				break
			}
			size := rapid.OneOf(rapid.IntRange(0, 100), rapid.SampledFrom([]int{4095, 4096, 4097, 8192, 20_000})).Draw(rt,
				"size")
			b := [][]byte{words(uint64(size%3), size), noise(1, size),
				make([]byte, size)}[rapid.IntRange(0, 2).Draw(rt, "content")]
			e.Size, e.Open = int64(size), inMemory(b)
			files = append(files, path)
		}
		entries = append(entries, e)
	}
	return entries
}

// TestAnyTree: what is read is what was written, and written again it is the same image.
func TestAnyTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		entries := drawEntries(rt)
		o := Options{Level: 1, BlockSize: 4096,
			Compression: rapid.SampledFrom([]Compression{Zstd, Gzip, None}).Draw(rt, "compression")}
		b, _ := mustWrite(t, entries, o)
		readBack(t, bytes.NewReader(b), int64(len(b)), entries)
		img, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			rt.Fatal(err)
		}
		read, err := img.Entries()
		if err != nil {
			rt.Fatal(err)
		}
		if again, _ := mustWrite(t, read, o); !bytes.Equal(again, b) {
			rt.Fatal("an image of what the image holds is another image")
		}
	})
}

// FuzzReader: no bytes make the reader panic, loop or read without end.
func FuzzReader(f *testing.F) {
	for _, o := range []Options{{BlockSize: 4096, Level: 1}, {BlockSize: 4096, Compression: Gzip, Level: 1},
		{BlockSize: 4096, Compression: None}} {
		for name, entries := range corpus(f) {
			if name == "sparse" || name == "duplicates" || name == "sizes" {
				continue // large
			}
			var m memory
			if _, err := Write(context.Background(), &m, entries, o); err != nil {
				f.Fatal(err)
			}
			if len(m.b) <= 16<<10 {
				f.Add(m.b)
			}
		}
	}
	f.Fuzz(survive)
}

// survive reads all that there is to read of an image, if it is one.
func survive(t *testing.T, b []byte) {
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return
	}
	entries, err := img.Entries()
	if err != nil {
		return
	}
	read := int64(0)
	for _, e := range entries {
		if e.Open == nil || e.Size > 4<<20-read {
			continue
		}
		read += e.Size
		r, err := e.Open()
		if err != nil {
			continue
		}
		n, err := io.Copy(io.Discard, r)
		if err == nil && n != e.Size {
			t.Errorf("%q has %d bytes; its inode says %d", e.Path, n, e.Size)
		}
	}
}

// TestDamagedImages: every byte of an image, its tables stored as they are, is
// replaced by others. Nothing must happen but errors, and soon.
func TestDamagedImages(t *testing.T) {
	withAttrs := file("d/attrs", words(1, 9000))
	withAttrs.Xattrs = map[string]string{"user.a": "value", "security.b": strings.Repeat("v", 90)}
	img, _ := mustWrite(t, []Entry{dir("d"), withAttrs, file("d/small", []byte("small")),
		sparse("hole", 20_000, nil), {Path: "hard", Hard: "d/small"},
		{Path: "link", Kind: Symlink, Target: "d"}, {Path: "dev", Kind: BlockDevice, Major: 8, Minor: 300}},
		Options{Compression: None, BlockSize: 4096})
	damaged := make([]byte, len(img))
	for at := range img {
		if at >= superblockSize && at < superblockSize+8192 {
			continue // content
		}
		for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff, ^img[at], img[at] + 1} {
			copy(damaged, img)
			damaged[at] = b
			survive(t, damaged)
		}
		for _, v := range []uint32{0, 0xffffffff, 0x7fffffff, 1 << 24} {
			copy(damaged, img)
			copy(damaged[at:], le.AppendUint32(nil, v))
			survive(t, damaged)
		}
	}
}

// TestBombs: a few bytes do not make the reader fill memory.
func TestBombs(t *testing.T) {
	entries := []Entry{sparse("f", 4096*100_000, nil)}
	for i := range 3000 {
		entries = append(entries, Entry{Path: fmt.Sprintf("hard-%04d", i), Hard: "f"})
	}
	img, _ := mustWrite(t, entries, Options{Level: 1, BlockSize: 4096})
	r, err := Open(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Entries(); !errors.Is(err, ErrFormat) {
		t.Errorf("a list of 100,000 blocks under 3000 names: %v; want %v", err, ErrFormat)
	}
}

// TestAnyNameOfAFile: the image does not show which of a file's names was
// called the file and which the link. (Found by TestAnyTree.)
func TestAnyNameOfAFile(t *testing.T) {
	long := strings.Repeat("n", 255)
	a := file("z/"+long, words(1, 3000))
	a.Xattrs = map[string]string{"user.a": ""}
	b := a
	b.Path = "a"
	one, _ := mustWrite(t, []Entry{dir("z"), dir("z/y"), a, {Path: "a", Hard: a.Path}, {Path: "z/y/b", Hard: a.Path}},
		Options{BlockSize: 4096})
	two, _ := mustWrite(t, []Entry{dir("z"), dir("z/y"), b, {Path: a.Path, Hard: "a"}, {Path: "z/y/b", Hard: "a"}},
		Options{BlockSize: 4096})
	if !bytes.Equal(one, two) {
		t.Error("the file by another of its names gives another image")
	}
}
