package builder

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot"
	"ingot/builder/sbom"
	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/profiles"
)

// TestMain packs a root when a benchmark asks for it in a process of its own,
// so that its memory can be measured like that of any other program.
func TestMain(m *testing.M) {
	if args := os.Getenv("INGOT_BENCH_PACK"); args != "" {
		if err := packChild(strings.Split(args, "|")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// packChild is: tar or "synthetic", image, level, block size, cache.
func packChild(args []string) error {
	entries := syntheticTree()
	if args[0] != "synthetic" {
		t, err := tree.FromTar(context.Background(), args[0])
		if err != nil {
			return err
		}
		entries = squashEntries(t, 0)
	}
	f, err := os.Create(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	var o squashfs.Options
	if o.Level, err = strconv.Atoi(args[2]); err != nil {
		return err
	}
	if o.BlockSize, err = strconv.Atoi(args[3]); err != nil {
		return err
	}
	if args[4] != "" {
		o.Cache = &squashfs.Cache{Dir: args[4]}
	}
	start := time.Now()
	_, err = squashfs.Write(context.Background(), f, entries, o)
	fmt.Println(time.Since(start).Nanoseconds())
	return err
}

// syntheticTree is 4 GiB: one file of half of it, the rest in small ones.
func syntheticTree() []squashfs.Entry {
	var entries []squashfs.Entry
	add := func(size int64) {
		seed := uint64(len(entries))
		entries = append(entries, squashfs.Entry{Path: fmt.Sprintf("f%06d", seed),
			Kind: squashfs.File, Mode: 0o644, Size: size,
			Open: func() (io.ReadCloser, error) {
				return io.NopCloser(io.LimitReader(&counting{next: seed << 32}, size)), nil
			}})
	}
	add(2 << 30)
	for i := range int64(40_000) {
		add(50_000 + i%7000)
	}
	return entries
}

// counting is numbers: no block is like another, and all get smaller.
type counting struct{ next uint64 }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		if p[i] = byte(c.next >> (i & 7 * 8)); i&7 == 7 {
			c.next += 0x9e3779b9
		}
	}
	return len(p), nil
}

// nodeBuild is the node profile, resolved and its packages fetched.
func nodeBuild(tb testing.TB) *build { return profileBuild(tb, "node") }

// profileBuild is a shipped profile, resolved and its packages fetched.
func profileBuild(tb testing.TB, name string) *build {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	cache = filepath.Join(cache, "ingot")
	init := filepath.Join(tb.TempDir(), "ingot-init")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-ldflags", "-s -w", "-o", init,
		"ingot/cmd/ingot-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	keys, err := image.LoadOrCreateKeys(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	p, err := profiles.Load(name)
	if err != nil {
		tb.Fatal(err)
	}
	env := &Env{CacheDir: cache}
	plan, _, err := Resolve(tb.Context(), env, p, PlanOptions{Init: init, Keys: keys})
	if err != nil {
		tb.Fatal(err)
	}
	b, done, err := newBuild(env, plan, BuildOptions{Keys: keys, Init: init})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(done)
	if err := b.fetch(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return b
}

// nodeRoot is the root of the node profile as a canonical tar.
func nodeRoot(tb testing.TB) (tar string, content int64) {
	tb.Helper()
	b := nodeBuild(tb)
	root, err := b.rootTree(tb.Context(), func() {})
	if err != nil {
		tb.Fatal(err)
	}
	kernel, err := b.kernelTree(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if _, _, err := splitKernel(kernel); err != nil {
		tb.Fatal(err)
	}
	if err := b.merge(tb.Context(), root, kernel); err != nil {
		tb.Fatal(err)
	}
	for _, e := range root.Entries() {
		content += e.Size
	}
	tar = b.at("root.tar")
	f, err := os.Create(tar)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := root.WriteTar(tb.Context(), f, b.epoch); err != nil {
		tb.Fatal(err)
	}
	return tar, content
}

// packer is one program in a race.
type packer struct {
	name string
	cmd  func() *exec.Cmd
}

// lap is what one run of a packer took. writer is the part of our own that is
// not reading the tar.
type lap struct{ wall, cpu, writer time.Duration }

// race runs all packers in turns, so that whatever else the machine does hits
// them alike, and reports the first one's medians as parts of the best other's.
func race(b *testing.B, rounds int, out string, packers ...packer) {
	laps, size, rss := make([][]lap, len(packers)), make([]float64, len(packers)), make([]float64, len(packers))
	for b.Loop() {
		for range rounds {
			for i, p := range packers {
				l, mem := oneLap(b, p.cmd())
				laps[i] = append(laps[i], l)
				rss[i] = max(rss[i], mem)
				st, err := os.Stat(out)
				if err != nil {
					b.Fatal(err)
				}
				size[i] = float64(st.Size()) / (1 << 20)
			}
		}
	}
	median := func(i int, of func(lap) time.Duration) float64 {
		list := make([]time.Duration, len(laps[i]))
		for j, l := range laps[i] {
			list[j] = of(l)
		}
		slices.Sort(list)
		return list[len(list)/2].Seconds()
	}
	wall, cpu, small := math.Inf(1), math.Inf(1), math.Inf(1)
	for i, p := range packers {
		w, c := median(i, func(l lap) time.Duration { return l.wall }), median(i, func(l lap) time.Duration { return l.cpu })
		b.ReportMetric(w, "s-"+p.name)
		b.ReportMetric(size[i], "MiB-"+p.name)
		if i > 0 {
			wall, cpu, small = min(wall, w), min(cpu, c), min(small, size[i])
		}
	}
	b.ReportMetric(median(0, func(l lap) time.Duration { return l.wall })/wall, "ratio-wall")
	b.ReportMetric(median(0, func(l lap) time.Duration { return l.cpu })/cpu, "ratio-cpu")
	if last := len(packers) - 1; median(last, func(l lap) time.Duration { return l.writer }) > 0 { // both are ours
		writer := func(l lap) time.Duration { return l.writer }
		b.ReportMetric(median(0, writer)/median(last, writer), "ratio-writer")
	}
	b.ReportMetric(size[0]/small, "ratio-size")
	b.ReportMetric(rss[0], "MiB-rss")
	b.ReportMetric(0, "ns/op") // of all of them: says nothing
}

// oneLap runs one packer; mem is the most memory it took, in MiB.
func oneLap(b *testing.B, cmd *exec.Cmd) (l lap, mem float64) {
	b.Helper()
	start := time.Now()
	said, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%q: %v: %s", cmd.Args, err, said)
	}
	l = lap{wall: time.Since(start)}
	s := cmd.ProcessState
	l.cpu = s.UserTime() + s.SystemTime()
	if n, err := strconv.ParseInt(strings.TrimSpace(string(said)), 10, 64); err == nil && cmd.Args[0] == os.Args[0] {
		l.writer = time.Duration(n)
	}
	return l, float64(s.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}

// ingotPacker is our writer in a process of its own.
func ingotPacker(name, tar, out string, level, block int, cache string) packer {
	return packer{name, func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("INGOT_BENCH_PACK=%s|%s|%d|%d|%s", tar, out, level, block, cache))
		return cmd
	}}
}

// BenchmarkRoot packs the root of the node profile beside the usual tools, each
// in a process: docs/BENCHMARKS.md.
func BenchmarkRoot(b *testing.B) {
	tar, _ := nodeRoot(b)
	dir := filepath.Dir(tar)
	folder, out := filepath.Join(dir, "tree"), filepath.Join(dir, "out")
	extract(b, tar, folder)
	mksquashfs := func(level string) packer {
		return packer{"mksquashfs", func() *exec.Cmd {
			return exec.Command("mksquashfs", folder, out, "-noappend", "-no-progress", "-comp", "zstd",
				"-Xcompression-level", level, "-all-time", "0")
		}}
	}
	tar2sqfs := packer{"tar2sqfs", func() *exec.Cmd {
		cmd := exec.Command("tar2sqfs", "-q", "-f", "-c", "zstd", "-X", "level=3", out)
		f, err := os.Open(tar)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		cmd.Stdin = f
		return cmd
	}}
	balanced, release := rootOptions[profiles.CompressBalanced], rootOptions[profiles.CompressSmall]
	b.Run("level=3", func(b *testing.B) {
		race(b, 5, out, ingotPacker("ingot", tar, out, balanced.Level, balanced.BlockSize, ""), tar2sqfs, mksquashfs("3"))
	})
	b.Run("warm", func(b *testing.B) { // the other is our own cold run
		cache, upgraded := filepath.Join(dir, "blocks"), filepath.Join(dir, "upgraded.tar")
		upgradedRoot(b, tar, upgraded)
		fill := ingotPacker("fill", tar, out, balanced.Level, balanced.BlockSize, cache)
		warm := ingotPacker("warm", upgraded, out, balanced.Level, balanced.BlockSize, cache)
		again := warm.cmd
		warm.cmd = func() *exec.Cmd { // with the blocks of the root before the upgrade, and no others
			if err := os.RemoveAll(cache); err != nil {
				b.Fatal(err)
			}
			oneLap(b, fill.cmd())
			return again()
		}
		race(b, 5, out, warm, ingotPacker("cold", upgraded, out, balanced.Level, balanced.BlockSize, ""))
	})
	b.Run("release", func(b *testing.B) {
		race(b, 1, out, ingotPacker("ingot", tar, out, release.Level, release.BlockSize, ""), mksquashfs("15"))
	})
}

// extract unpacks a tar with all that it says.
func extract(tb testing.TB, tar, into string) {
	tb.Helper()
	if err := os.Mkdir(into, 0o755); err != nil {
		tb.Fatal(err)
	}
	if out, err := exec.Command("tar", "--extract", "--same-permissions", "--same-owner", "--xattrs", "--xattrs-include=*",
		"--file", tar, "--directory", into).CombinedOutput(); err != nil {
		tb.Fatalf("tar: %v: %s", err, out)
	}
}

// BenchmarkMemory writes 4 GiB: MiB-rss is what must not grow with them.
func BenchmarkMemory(b *testing.B) {
	out := filepath.Join(b.TempDir(), "out")
	o := rootOptions[profiles.CompressBalanced]
	for b.Loop() {
		_, mem := oneLap(b, ingotPacker("ingot", "synthetic", out, o.Level, o.BlockSize, "").cmd())
		b.ReportMetric(mem, "MiB-rss")
	}
}

// upgradedRoot writes the root as it is after the upgrade of one small package:
// every file of it has other bytes, and dpkg's records say so.
func upgradedRoot(tb testing.TB, from, to string) {
	tb.Helper()
	t, err := tree.FromTar(tb.Context(), from)
	if err != nil {
		tb.Fatal(err)
	}
	const info, status = "var/lib/dpkg/info/", "var/lib/dpkg/status"
	pkg := ""
	for _, name := range []string{"less", "gzip", "sed", "tar"} {
		if t.Find(info+name+".list") != nil {
			pkg = name
			break
		}
	}
	if pkg == "" {
		tb.Fatal("the root has none of the small packages that could be upgraded")
	}
	list, err := t.ReadFile(info + pkg + ".list")
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range append(strings.Fields(string(list)), "/"+info+pkg+".md5sums") {
		e := t.Find(p)
		if e == nil || e.Kind != tree.File {
			continue
		}
		content, err := t.ReadFile(p)
		if err != nil {
			tb.Fatal(err)
		}
		for i := 60; i < len(content); i += 97 {
			content[i] ^= 0x15
		}
		upgraded := *e
		upgraded.Hard, upgraded.Open = "", tree.Bytes(append(content, "of another version\n"...))
		upgraded.Size = int64(len(content) + 19)
		if err := t.Put(upgraded); err != nil {
			tb.Fatal(err)
		}
	}
	records, err := t.ReadFile(status)
	if err != nil {
		tb.Fatal(err)
	}
	before, after, ok := strings.Cut(string(records), "\nPackage: "+pkg+"\n")
	if !ok {
		tb.Fatalf("dpkg knows nothing of %q", pkg)
	}
	after = strings.Replace(after, "\nVersion: ", "\nVersion: 1:", 1)
	if err := t.PutFile(status, 0o644, []byte(before+"\nPackage: "+pkg+"\n"+after)); err != nil {
		tb.Fatal(err)
	}
	f, err := os.Create(to)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := t.WriteTar(tb.Context(), f, time.Unix(0, 0)); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkDelta upgrades one small package of the node root and reports how
// much of the new image is in pieces that the old one does not have.
func BenchmarkDelta(b *testing.B) {
	tar, _ := nodeRoot(b)
	upgraded := filepath.Join(filepath.Dir(tar), "upgraded.tar")
	upgradedRoot(b, tar, upgraded)
	for name, o := range map[string]squashfs.Options{
		"fast": rootOptions[profiles.CompressFast], "balanced": rootOptions[profiles.CompressBalanced],
		// the same blocks in a tenth of the time
		"small-at-level-1": {Level: 1, BlockSize: rootOptions[profiles.CompressSmall].BlockSize},
	} {
		b.Run(name, func(b *testing.B) {
			var changed, total int64
			for b.Loop() {
				known := map[[sha256.Size]byte]bool{}
				for _, p := range pieces(b, tar, o) {
					known[p.sum] = true
				}
				changed, total = 0, 0
				for _, p := range pieces(b, upgraded, o) {
					total += p.size
					if !known[p.sum] {
						changed += p.size
					}
				}
			}
			b.ReportMetric(100*float64(changed)/float64(total), "percent-changed")
			b.ReportMetric(float64(changed)/(1<<20), "MiB-changed")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// piece is a chunk of an image.
type piece struct {
	sum  [sha256.Size]byte
	size int64
}

// pieces are the chunks of a root's image.
func pieces(b *testing.B, tar string, o squashfs.Options) []piece {
	b.Helper()
	t, err := tree.FromTar(b.Context(), tar)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "image"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := squashfs.Write(b.Context(), f, squashEntries(t, 0), o)
	if err != nil {
		b.Fatal(err)
	}
	var list []piece
	var at int64
	for _, n := range info.Cuts {
		content := make([]byte, n)
		if _, err := f.ReadAt(content, at); err != nil {
			b.Fatal(err)
		}
		at += n
		list = append(list, piece{sha256.Sum256(content), n})
	}
	return list
}

// BenchmarkSBOM describes the node root, as every build does.
func BenchmarkSBOM(b *testing.B) {
	n := nodeBuild(b)
	root, err := n.baseTree(b.Context(), func() {})
	if err != nil {
		b.Fatal(err)
	}
	m := &ingot.ImageManifest{Profile: "node", Version: "1"}
	for b.Loop() {
		bom, err := sbom.Describe(sbom.Contents{Root: root, Manifest: m, Packages: n.plan.Packages, Kernel: n.plan.Kernel,
			Stub: n.plan.Stub, Init: n.plan.Init})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := sbom.Attach(bom)(ingot.DigestOf(nil)); err != nil {
			b.Fatal(err)
		}
	}
}
